//! A record of all that went into a store core and what came out of it, and the proof that it comes out again.
//!
//! As [`consensus::trace`], for the machine that owns the store: [`Recorded`] writes down what a real process tells its store core,
//! [`Replay`] tells it to another one and compares. A store core is a function of
//!
//! - the store that it begins with, which is its file's bytes and where new pages are looked for first,
//! - its settings, its ids, the present at each step, and what it is told,
//! - *who still reads older versions*: their pages can't be reused, so quota, checkpoints and the length of a cut file depend on it.
//!   After each call the trace names the versions that still had a reader; the replay holds on to just those.
//!
//! What is left out: the decoded command beside a committed entry ([`Committed::command`](crate::cores::Committed)) is a shortcut for
//! whoever proposed it. The replay decodes each entry's bytes, so where its outputs are the same the shortcut has said the same.
//! A checkpoint that was written is, in the replay, the replayed core's own; that both cores' are alike show the meta pages, which
//! name the roots of all tables. What the [`Observer`](super::Observer) hears is not compared.
//!
//! A trace is of one life of a process: 8 bytes of magic and version, then frames as between peers
//! ([`consensus::peer`]: length, checksums, kind, payload). All numbers are little-endian, times are in nanoseconds since the process
//! began, an *option* is a byte 0, or 1 and the number, a *text* is its length (4) and its bytes.
//!
//! | bytes | trace |
//! |---|---|
//! | 6 | magic `RINGDS` |
//! | 2 | format version, 1 |
//! | … | the start, the store it begins with, then calls |
//!
//! | bytes | start (kind 16) |
//! |---|---|
//! | … | [`Settings`]: member (8), name (text), client URLs (4 + texts), server version (text), client cores (8), election and request timeout (8, 8), quota (option), heap limit (8), log bytes (8), checkpoint interval (8), entries per publish (8), rows of compaction (8), lease checkpoints (option), auto compaction (1: 0 none, 1 period, 2 revisions; then 8), nonce (8) |
//! | 8 × 3 | the ids' prefix, suffix and stride |
//! | 9 | the present, as in a call |
//!
//! | bytes | store (kind 18) |
//! |---|---|
//! | 8 × 4 | configuration: cluster, member, nonce, shortest TTL of a lease |
//! | 8 | page at which pages in a row are looked for first |
//! | 1 | 1 if it was published once since its file was opened, else 0 |
//!
//! Pages (kind 17): number of the first (8), and the bytes of some in a row. They follow their store, as far as its file went; a store
//! without pages is a new one.
//!
//! | bytes | call (kind 32 and above) |
//! |---|---|
//! | text | what came of it, a line for each output and one for the state: see `describe` |
//! | 8 | the newest version that was published |
//! | 4 + 8 each | older versions that still had readers |
//! | 8 | the present: time |
//! | 1 | 1 if it leads alone, plus 2 if the log is cramped |
//! | … | what went in, by kind |
//!
//! | kind | input | bytes |
//! |---|---|---|
//! | 32 | start | |
//! | 33 | commit | 4, then each entry: index (8), term (8), kind (1: 1 normal, 2 configuration change), who proposed it (option), data (text) |
//! | 34 | leadership | 0 or 1, term (8), leader (option) |
//! | 35 | versions | 4, then each: 0, or 1 and a text |
//! | 36 | dropped | id (8) |
//! | 37 | query | core (8), number (8), what (1: 1 keep-alive, 2 time to live, 3 with keys, 4 leases, 5 defragment), lease (8) |
//! | 38 | peer request | from (8), number (8), the body |
//! | 39 | peer response | id (8), the body |
//! | 40 | read index | id (8), index (option) |
//! | 41 | pin a snapshot | peer (8) |
//! | 42 | no space | |
//! | 43 | the checkpoint is done | 1 if it is durable, 0 if there was no room |
//! | 44 | install the store of the frames before | number (8) |
//! | 45 | end of the turn | |
//! | 46 | begin a checkpoint | |
//! | 47 | tick | |
//! | 48 | compact, if it is time to | |
//!
//! The end of a trace says nothing: the process was killed, or the file has got as long as it may.

use std::ops::Deref;

use consensus::peer::encode_frame;
use consensus::trace::codec::{number, put_all, put_block, put_option, put_u64};
use consensus::trace::frames;
use engine::Store;
use engine::tree::PageId;

use self::describe::Describer;
use super::{Done, Input, Observer, Output, Present, Settings, StoreCore, Written};
use crate::auto_compact::Retention;
use crate::cores::{Committed, Query, ToStore};
use crate::propose::IdGenerator;
use crate::trace::bytes::{put_entry, put_time};

mod describe;
mod file;
mod replay;

#[cfg(test)]
pub(super) use replay::take_message;
pub use replay::{OtherCore, Replay, Replayed};

/// What a trace begins with.
pub static MAGIC: [u8; 8] = *b"RINGDS\x01\x00";

pub(super) const KIND_START: u8 = 16;
pub(super) const KIND_PAGES: u8 = 17;
pub(super) const KIND_STORE: u8 = 18;
pub(super) const KIND_CALL_FIRST: u8 = 32;

/// Pages in one frame.
const PAGES_PER_FRAME: u32 = 256;

/// A store core whose inputs and outputs are written down, if anybody wants them. It is driven like a [`StoreCore`].
pub struct Recorded<O = ()> {
    core: StoreCore<O>,
    tape: Option<Tape>,
}

struct Tape {
    describer: Describer,
    trace: Vec<u8>,
}

impl<O: Observer> Recorded<O> {
    /// See [`StoreCore::new`]. The store was opened, and published once since or not at all. Without `wanted` nothing is written
    /// down.
    pub fn new(
        store: Store,
        ids: IdGenerator,
        settings: Settings,
        present: Present,
        observer: O,
        wanted: bool,
    ) -> Recorded<O> {
        let tape = wanted.then(|| {
            let mut trace = MAGIC.to_vec();
            encode_start(&settings, &ids, present, &mut trace);
            encode_store(&store, &mut trace);
            Tape { describer: Describer::new(&store), trace }
        });
        Recorded { core: StoreCore::new(store, ids, settings, present, observer), tape }
    }

    /// See [`StoreCore::step`].
    ///
    /// # Errors
    /// See there. The trace has it, too.
    pub fn step(&mut self, present: Present, input: Input) -> Done {
        let Some(Tape { describer, trace }) = &mut self.tape else { return self.core.step(present, input) };
        if let Input::Install(_, store) = &input {
            encode_store(store, trace);
        }
        let mut payload = Vec::new();
        let kind = encode_input(&input, &mut payload);
        let before = self.core.out.len();
        let done = self.core.step(present, input);
        let text = describer.call(&self.core, before, &done);
        frames::encode_call(kind, &text, trace, |out| {
            let tree = self.core.store.tree();
            put_u64(out, tree.published().version());
            let pinned: Vec<u64> = tree.pinned().collect();
            put_all(out, &pinned, |out, version| put_u64(out, *version));
            encode_present(present, out);
            out.extend_from_slice(&payload);
        });
        done
    }

    /// See [`StoreCore::outputs`].
    pub fn outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.core.outputs()
    }

    /// See [`StoreCore::observer`], on which nothing depends.
    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.core.observer
    }

    /// What was written down since it was last taken; whole frames.
    pub fn take(&mut self) -> Vec<u8> {
        self.tape.as_mut().map(|tape| std::mem::take(&mut tape.trace)).unwrap_or_default()
    }
}

/// The core can be looked at.
impl<O> Deref for Recorded<O> {
    type Target = StoreCore<O>;

    fn deref(&self) -> &StoreCore<O> {
        &self.core
    }
}

fn encode_start(settings: &Settings, ids: &IdGenerator, present: Present, trace: &mut Vec<u8>) {
    // In the order of its fields; one more field does not compile without a place here and in the replay.
    let Settings {
        member,
        name,
        client_urls,
        server_version,
        client_cores,
        election_timeout,
        request_timeout,
        quota,
        heap_limit_bytes,
        log_bytes_max,
        checkpoint_interval,
        entries_per_publish,
        compaction_rows,
        lease_checkpoint,
        auto_compaction,
        nonce,
    } = settings;
    encode_frame(KIND_START, trace, |out| {
        put_u64(out, *member);
        put_block(out, name.as_bytes());
        put_all(out, client_urls, |out, url| put_block(out, url.as_bytes()));
        put_block(out, server_version.as_bytes());
        put_u64(out, *client_cores as u64);
        [*election_timeout, *request_timeout].into_iter().for_each(|time| put_time(out, time));
        put_option(out, *quota, put_u64);
        [*heap_limit_bytes, *log_bytes_max].into_iter().for_each(|number| put_u64(out, number));
        put_time(out, *checkpoint_interval);
        [*entries_per_publish, *compaction_rows].into_iter().for_each(|number| put_u64(out, number as u64));
        put_option(out, *lease_checkpoint, put_time);
        let (kind, kept) = match auto_compaction {
            None => (0, 0),
            Some(Retention::Period(period)) => (1, period.as_nanos() as u64),
            Some(Retention::Revisions(revisions)) => (2, *revisions as u64),
        };
        out.push(kind);
        put_u64(out, kept);
        put_u64(out, *nonce);
        ids.parts().into_iter().for_each(|number| put_u64(out, number));
        encode_present(present, out);
    });
}

fn encode_present(present: Present, out: &mut Vec<u8>) {
    let Present { now, alone, cramped } = present;
    put_time(out, now);
    out.push(u8::from(alone) | u8::from(cramped) << 1);
}

/// A store that nothing was changed in since it was opened, but for one publication.
fn encode_store(store: &Store, trace: &mut Vec<u8>) {
    let (engine::Config { tree: config, lease_ttl_s_min }, tree) = (store.config(), store.tree());
    encode_frame(KIND_STORE, trace, |out| {
        let engine::tree::Config { identity, nonce } = config;
        let numbers = [identity.cluster, identity.member, u64::from(*nonce), *lease_ttl_s_min as u64];
        numbers.into_iter().for_each(|number| put_u64(out, number));
        put_u64(out, u64::from(tree.search_from()));
        out.push(u8::from(tree.heap_bytes() > 0));
    });
    let (map, end) = (tree.map(), tree.file_pages());
    let is_empty = |id| map.pages(PageId(id), 1).is_none_or(|page| page.iter().all(|byte| *byte == 0));
    if [0, 1].into_iter().all(is_empty) {
        return; // no checkpoint was ever written
    }
    let mut next = 0;
    while next < end {
        let first = next;
        let pages = (first..end.min(first + PAGES_PER_FRAME)).map_while(|id| map.pages(PageId(id), 1));
        let pages: Vec<&[u8]> = pages.collect();
        if pages.is_empty() {
            return; // what lies behind the end of the file is in frames
        }
        next += pages.len() as u32;
        encode_frame(KIND_PAGES, trace, |out| {
            put_u64(out, u64::from(first));
            pages.iter().for_each(|page| out.extend_from_slice(page));
        });
    }
}

/// Appends what follows the present, and says of what kind it is.
pub(super) fn encode_input(input: &Input, out: &mut Vec<u8>) -> u8 {
    match input {
        Input::Start => 32,
        Input::Message(message) => encode_message(message, out),
        Input::CheckpointDone(_, written) => {
            out.push(match written {
                Written::Durable => 1,
                Written::NoRoom => 0,
            });
            43
        }
        Input::Install(ready, _) => number(44, ready.0, out),
        Input::EndTurn => 45,
        Input::BeginCheckpoint => 46,
        Input::Tick => 47,
        Input::AutoCompact => 48,
    }
}

pub(super) fn encode_message(message: &ToStore, out: &mut Vec<u8>) -> u8 {
    match message {
        ToStore::Commit(batch) => {
            put_all(out, batch, |out, Committed { entry, .. }| put_entry(out, entry));
            33
        }
        ToStore::Leadership { leads, term, leader } => {
            out.push(u8::from(*leads));
            put_u64(out, term.0);
            put_option(out, *leader, |out, leader| put_u64(out, leader.0));
            34
        }
        ToStore::Versions(versions) => {
            put_all(out, versions, |out, version| {
                put_option(out, version.as_ref(), |out, version| put_block(out, version.as_bytes()));
            });
            35
        }
        ToStore::Dropped(id) => number(36, id.0, out),
        ToStore::Query(id, query) => {
            put_u64(out, id.core as u64);
            put_u64(out, id.number);
            let (what, lease) = match *query {
                Query::KeepAlive { lease } => (1, lease),
                Query::TimeToLive { lease, keys: false } => (2, lease),
                Query::TimeToLive { lease, keys: true } => (3, lease),
                Query::Leases => (4, 0),
                Query::Defragment => (5, 0),
            };
            out.push(what);
            number(37, lease as u64, out)
        }
        ToStore::PeerRequest(from, id, body) => {
            put_u64(out, from.0);
            put_u64(out, *id);
            out.extend_from_slice(body);
            38
        }
        ToStore::PeerResponse(id, body) => {
            put_u64(out, id.0);
            out.extend_from_slice(body);
            39
        }
        ToStore::ReadIndex(id, index) => {
            put_u64(out, id.0);
            put_option(out, *index, |out, index| put_u64(out, index.0));
            40
        }
        ToStore::PinSnapshot(peer) => number(41, peer.0, out),
        ToStore::NoSpace => 42,
    }
}
