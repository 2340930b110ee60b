//! What a raft core says and how it stands, as text that is the same if and only if it is the same.

use std::fmt::{self, Write as _};

use consensus::trace::describe::{self as node, told};
use consensus::{Message, PeerMessage, RoleChange};

use super::super::{Output, RaftCore, Shell};
use crate::cores::{Committed, PinnedSnapshot, ToLog, ToStore};
use crate::trace::bytes::{told_flags, told_to_client};

/// A line for each output, and one for the state.
pub(super) fn describe<S: Shell>(core: &RaftCore<S>, outputs: &[Output<S>]) -> String {
    let mut text = node::lines(outputs, line);
    state(core, &mut text).expect("a string takes all");
    text
}

fn line<S: Shell>(output: &Output<S>, out: &mut String) -> fmt::Result {
    match output {
        Output::Log(ToLog::Append(append)) => node::append(append, out),
        Output::Log(ToLog::Checkpointed(index)) => write!(out, "log up to {index} is not needed"),
        Output::Log(ToLog::Fetch(fetch)) => node::fetch(fetch, out),
        Output::Store(message) => to_store(message, out),
        Output::Client(core, message) => {
            write!(out, "client {core}: ")?;
            told_to_client(message, out)
        }
        Output::Send(envelope) => node::send(envelope, out),
        Output::SendSnapshot { message, pinned } => {
            let PinnedSnapshot { peer, position, conf, view: _ } = &**pinned;
            write!(out, "send a snapshot to {peer:?}, {position:?}, {conf:?}, {}", raft(message))
        }
        Output::CancelSnapshot(peer) => write!(out, "cancel the snapshot for {peer:?}"),
        Output::Members => write!(out, "members"),
        Output::ClusterVersion(version) => write!(out, "cluster version {version:?}"),
        Output::Import { from, message, received: _ } => {
            write!(out, "import of {from:?}, {}", raft(message))
        }
        Output::Discard(_) => write!(out, "discard"),
        Output::Unneeded(_) => write!(out, "unneeded"),
        Output::Rename(ready) => write!(out, "rename {ready}"),
        Output::Install { ready, store: _ } => write!(out, "install {ready}"),
        Output::Role(change) => write!(out, "{change:?}"),
        Output::SingleVoter(index) => write!(out, "single voter {index:?}"),
        Output::LogStalled(stalled) => write!(out, "log stalled {stalled}"),
        Output::Fatal(fatal) => write!(out, "fatal: {fatal}"),
    }
}

fn raft(message: &Message) -> String {
    node::message(&PeerMessage::Raft(message.clone()))
}

fn to_store(message: &ToStore, out: &mut String) -> fmt::Result {
    match message {
        ToStore::Commit(batch) => {
            write!(out, "commit ")?;
            let decoded = batch.iter().filter(|committed| committed.command.is_some()).count();
            node::entries(batch.iter().map(|Committed { entry, .. }| entry), out)?;
            write!(out, ", {decoded} decoded")
        }
        ToStore::Leadership { leads, term, leader } => {
            write!(out, "store: leads {leads}, {term:?}, {leader:?}")
        }
        ToStore::Versions(versions) => write!(out, "store: {versions:?}"),
        ToStore::Dropped(id) => write!(out, "store: {:x} dropped", id.0),
        ToStore::ReadIndex(id, index) => write!(out, "store: read {:x}: {index:?}", id.0),
        ToStore::PinSnapshot(peer) => write!(out, "store: pin a snapshot for {peer:?}"),
        ToStore::PeerRequest(from, number, body) => {
            write!(out, "store: {from:?} asks {number:x}, {}", told(body))
        }
        ToStore::PeerResponse(id, body) => write!(out, "store: answer to {:x}, {}", id.0, told(body)),
        ToStore::Query(id, query) => write!(out, "store: {id:?}, {query:?}"),
        ToStore::NoSpace => write!(out, "store: no space"),
    }
}

/// How the core stands: all of it that can be had cheaply.
fn state<S: Shell>(core: &RaftCore<S>, out: &mut String) -> fmt::Result {
    let status = core.node().status();
    let RoleChange { role, term, leader } = status.role;
    write!(
        out,
        "{role:?} in {term:?}, leader {leader:?}, committed {}, last {:?}",
        status.committed, status.last
    )?;
    write!(out, ", applied {}, checkpointed {}/{}", core.applied, core.released, core.checkpointed)?;
    let flags = [core.leads, core.log_stalled, core.is_learner(), core.node().takes_snapshot()];
    write!(out, ", {}", told_flags(flags))?;
    let (members, removed) = (core.members().len(), core.removed().len());
    write!(out, ", {members} members, {removed} removed, {} proposals", core.proposals_open())?;
    writeln!(out, ", {} open", core.books_open())
}
