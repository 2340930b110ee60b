//! What a store core says and how it stands, as text that is the same if and only if it is the same.
//!
//! Clients' bytes are told as their number and CRC-32, a version as its numbers and a digest of the events that it has more than the
//! one before; every [`WHOLE_EVERY`]th, and those that go to a peer, with the hash of all tables.

use std::fmt::{self, Write as _};

use consensus::Index;
use consensus::trace::describe::{lines, told};
use crossbeam::epoch;
use engine::tree::Damage;
use engine::{Alarm, Applied, Event, Revision, Store, View};

use super::super::{Done, Output, StoreCore};
use crate::Answer;
use crate::api::Error;
use crate::cores::{PinnedSnapshot, QueryAnswer, QueryId, ToClient, ToRaft};
use crate::propose::Write;
use crate::store_core::Observer;
use crate::trace::bytes::{told_flags, told_to_client};

/// Versions from one that is hashed as a whole to the next.
const WHOLE_EVERY: u64 = 256;

/// Tells calls of one core in their order.
pub(super) struct Describer {
    /// Events up to here are in the digests.
    told: i64,
    /// Versions told.
    versions: u64,
}

impl Describer {
    /// Of a core that begins with this store.
    pub fn new(store: &Store) -> Describer {
        Describer { told: store.revision(), versions: 0 }
    }

    /// What the last step brought about: outputs from number `before` on, whether it failed, and the state.
    pub fn call<O: Observer>(&mut self, core: &StoreCore<O>, before: usize, done: &Done) -> String {
        let mut text = lines(&core.out[before..], |output, out| self.line(output, out));
        if let Err(fatal) = done {
            writeln!(text, "fatal: {fatal}").expect("a string takes all");
        }
        state(core, &mut text).expect("a string takes all");
        text
    }

    fn line(&mut self, output: &Output, out: &mut String) -> fmt::Result {
        match output {
            Output::Raft(message) => self.for_raft(message, out),
            Output::Client(core, message) => {
                write!(out, "client {core}: ")?;
                self.for_client(*core, message, out)
            }
            Output::BeginCheckpoint(checkpoint, Index(covers)) => {
                let (slot, meta) = checkpoint.meta();
                let (frames, pages) = (checkpoint.frames(), checkpoint.file_pages());
                let meta = crc32fast::hash(&meta[..]);
                write!(out, "checkpoint of {covers}: {frames} frames, {pages} pages, {slot:?} crc {meta:08x}")
            }
            Output::Cut(bytes) => write!(out, "cut to {bytes} bytes"),
            Output::Installed => write!(out, "installed"),
            Output::Learner(is_learner) => write!(out, "learner {is_learner}"),
            Output::ClusterVersion(version) => write!(out, "cluster version {version:?}"),
            Output::Ready => write!(out, "ready"),
            Output::Removed => write!(out, "removed"),
        }
    }

    fn for_raft(&mut self, message: &ToRaft, out: &mut String) -> fmt::Result {
        match message {
            ToRaft::Propose(id, Write { entry, id: header, .. }) => {
                write!(out, "propose {:x}, header {header:x}, {}", id.0, told(entry))
            }
            ToRaft::Read(id) => write!(out, "read {:x}", id.0),
            ToRaft::Checkpointed(index) => write!(out, "checkpointed {index:?}"),
            ToRaft::ConfChange(index, change) => write!(out, "changed at {index:?}: {change:?}"),
            ToRaft::ProposeConfChange(id, change) => write!(out, "propose {:x}: {change:?}", id.0),
            ToRaft::TransferLeader(id, to) => write!(out, "transfer {:x} to {to:?}", id.0),
            ToRaft::HandOver => write!(out, "hand over"),
            ToRaft::Members(members, removed) => write!(out, "{members:?}, removed {removed:?}"),
            ToRaft::ClusterVersion(version) => write!(out, "cluster version {version:?} to raft"),
            ToRaft::PeerRequest(to, id, body) => write!(out, "ask {to:?}, {:x}, {}", id.0, told(body)),
            ToRaft::PeerResponse(to, number, body) => {
                write!(out, "answer {to:?}, {number:x}, {}", told(body))
            }
            ToRaft::SnapshotPinned(pinned) => {
                let PinnedSnapshot { peer, position, conf, view } = &**pinned;
                write!(out, "snapshot for {peer:?} at {position:?}, {conf:?}, ")?;
                self.view(view, true, out)
            }
            ToRaft::SnapshotInstalled(ready) => write!(out, "snapshot of {ready} installed"),
        }
    }

    fn for_client(&mut self, core: usize, message: &ToClient, out: &mut String) -> fmt::Result {
        match message {
            // All cores are given the same one.
            ToClient::Published(view) if core > 0 => write!(out, "revision {}", view.revision()),
            ToClient::Published(view) => {
                self.versions += 1;
                self.view(view, self.versions % WHOLE_EVERY == 1, out)
            }
            ToClient::Compacting(id) => write!(out, "{:x} compacts", id.0),
            ToClient::Outcomes(outcomes) => {
                write!(out, "outcomes")?;
                for (id, result) in outcomes {
                    write!(out, " {:x} ", id.0)?;
                    answer(result.as_ref(), out)?;
                }
                Ok(())
            }
            ToClient::Answers(answers) => {
                write!(out, "answers")?;
                answers.iter().try_for_each(|(id, result)| query_answer(*id, result, out))
            }
            other => told_to_client(other, out),
        }
    }

    fn view(&mut self, view: &View, whole: bool, out: &mut String) -> fmt::Result {
        let Applied { index, term } = view.applied();
        write!(out, "{index}@{term} at {}, compacted {}", view.revision(), view.compact_revision())?;
        write!(out, "/{}/{}", view.finished_compact_revision(), view.history_intact_from())?;
        if let [Alarm { .. }, ..] = view.alarms() {
            write!(out, ", {:?}", view.alarms())?;
        }
        match events_after(view, self.told) {
            Ok((0, _)) => {}
            Ok((events, crc)) => write!(out, ", {events} events, crc {crc:08x}")?,
            Err(damage) => write!(out, ", {damage}")?,
        }
        self.told = view.revision();
        if whole {
            match view.hash(&epoch::pin()) {
                Ok(hash) => write!(out, ", hash {hash:08x}")?,
                Err(damage) => write!(out, ", {damage}")?,
            }
        }
        Ok(())
    }
}

/// Events after the revision `after`: how many, and the CRC-32 of all.
fn events_after(view: &View, after: i64) -> Result<(u64, u32), Damage> {
    let (mut count, mut crc, mut kv) = (0, crc32fast::Hasher::new(), Vec::new());
    if view.revision() > after {
        let guard = epoch::pin();
        let mut events = view.events(&guard, Revision::start_of(after + 1));
        while let Some(event) = events.next()? {
            let Event { revision: Revision { main, sub }, kind, key, .. } = event;
            kv.clear();
            event.encode_kv(&mut kv);
            [main.to_le_bytes(), sub.to_le_bytes()].into_iter().for_each(|number| crc.update(&number));
            crc.update(&[kind as u8]);
            crc.update(key);
            crc.update(&kv);
            count += 1;
        }
    }
    Ok((count, crc.finalize()))
}

fn answer(result: Result<&Answer, &Error>, out: &mut String) -> fmt::Result {
    match result {
        Ok(Answer { header, revision, body }) => write!(out, "{header:?} {revision}, {};", told(body)),
        Err(error) => write!(out, "{error:?};"),
    }
}

fn query_answer(id: QueryId, result: &Result<QueryAnswer, Error>, out: &mut String) -> fmt::Result {
    write!(out, " {:x} ", id.number)?;
    match result {
        Ok(QueryAnswer::Answer(told)) => answer(Ok(told), out),
        Ok(QueryAnswer::TimeToLive(fields)) => write!(out, "time to live, {};", told(fields)),
        Ok(QueryAnswer::KeepAlive(ttl)) => write!(out, "kept alive {ttl};"),
        Err(error) => answer(Err(error), out),
    }
}

/// How the core stands: all of it that can be had cheaply and that its owner goes by.
fn state<O: Observer>(core: &StoreCore<O>, out: &mut String) -> fmt::Result {
    let (store, tree) = (core.store(), core.store().tree());
    let Applied { index, term } = store.applied();
    write!(out, "at {index}@{term}, revision {}, compacted {}", store.revision(), store.compact_revision())?;
    write!(out, ", published {}, version {}", core.published(), tree.published().version())?;
    let (taken, used, frames) = (tree.allocated_bytes(), tree.in_use_bytes(), tree.heap_bytes());
    write!(out, ", {taken} bytes, {used} in use, {frames} in frames, {} pages", tree.file_pages())?;
    write!(out, ", {} of log, {} open", core.log_bytes(), core.books_open())?;
    let flags = [core.takes_entries(), core.has_slices(), core.is_full(), core.times_leases()];
    write!(out, ", {}", told_flags(flags))?;
    writeln!(out, ", compacts {:?}", core.auto_compaction_due())
}
