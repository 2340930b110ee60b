//! A record of all that went into a raft core and what came out of it, and the proof that it comes out again.
//!
//! As [`consensus::trace`], for the machine around the node: [`Recorded`] writes down what a real process tells its raft core,
//! [`Replay`] tells it to another one, around a node that begins as the recorded one did, and compares.
//!
//! What is left out: what a proposer had decoded is decoded anew from the entry ([`store_core::trace`](crate::store_core::trace) shows
//! that both say the same; here it is told whether a committed entry came with it). Versions of the store, received snapshots and the
//! stores that are built of them the core only hands on: in the replay they are empty.
//!
//! A trace is of one life of a process: 8 bytes of magic and version, then frames as between peers
//! ([`consensus::peer`]: length, checksums, kind, payload). All numbers are little-endian, times are in nanoseconds since the process
//! began, an *option* is a byte 0, or 1 and the number, a *text* is its length (4) and its bytes, a *frame* a message as between peers.
//!
//! | bytes | trace |
//! |---|---|
//! | 6 | magic `RINGDR` |
//! | 2 | format version, 1 |
//! | … | one start, the node's start and entries ([`consensus::trace`], kinds 16 and 17), then calls |
//!
//! | bytes | start (kind 18) |
//! |---|---|
//! | 8 × 5 | the fields of [`Config`] in their order |
//! | 4, then each | members: their JSON (text) |
//! | 4 + 8 each | who was removed |
//!
//! | bytes | call (kind 32 and above) |
//! |---|---|
//! | text | what came of it, a line for each output and one for the state |
//! | 8 | the present; 0 where it is not told |
//! | … | what went in, by kind |
//!
//! | kind | input | bytes |
//! |---|---|---|
//! | 32 | the end of a turn | |
//! | 33 | tick | how long the log has been waited for (8) |
//! | 34 | applied | index (8) |
//! | 35 | a look at the versions | 4, then of each that was looked at: member (8), 0, or 1 and a text |
//! | 36 | propose | id (8), the ID in the entry (8), the entry |
//! | 37 | read index | id (8) |
//! | 38 | checkpointed | index (8) |
//! | 39 | a configuration change was applied | index (8), 0, or 1 and the change as in an entry |
//! | 40 | propose a configuration change | id (8), the change as in an entry |
//! | 41 | transfer the leadership | id (8), to whom (8) |
//! | 42 | hand over | |
//! | 43 | members | as in the start |
//! | 44 | the cluster's version | the text |
//! | 45 | ask a peer | whom (8), id (8), the body |
//! | 46 | answer a peer | whom (8), number (8), the body |
//! | 47 | snapshot pinned | peer (8), index (8), term (8), voters (4 + 8 each), learners (4 + 8 each) |
//! | 48 | snapshot installed | number (8) |
//! | 49 | durable | number (8) |
//! | 50 | fetched | peer (8), first (8), 0, or 1 and entries as a store core's |
//! | 51 | the log starts at | index (8) |
//! | 52 | message | from (8), the frame |
//! | 53 | reachable | peer (8) |
//! | 54 | unreachable | peer (8) |
//! | 55 | snapshot sent | peer (8), 0 or 1 |
//! | 56 | snapshot received | from (8), the frame |
//! | 57 | imported | from (8), index (8), the frame |
//! | 58 | the import has failed | |
//! | 59 | renamed | number (8) |
//!
//! The end of a trace says nothing: the process was killed, or the file has got as long as it may.

use std::cell::RefCell;
use std::ops::Deref;
use std::time::Duration;

use consensus::peer::{self, encode_frame};
use consensus::trace::codec::{
    number, put_all, put_block, put_conf, put_nodes, put_option, put_position, put_u64,
};
use consensus::trace::frames;
use consensus::{Index, Message, NodeId, PeerMessage};

use super::{Config, Input, Output, RaftCore, Shell};
use crate::cores::{FromLog, ToRaft, ToStore};
use crate::membership::Member;
use crate::propose::Write;
use crate::trace::bytes::{put_entry, put_time};

mod describe;
mod replay;

pub use consensus::trace::Replayed;
use describe::describe;
#[cfg(test)]
pub(super) use replay::take_input;
pub use replay::{OtherCore, Replay};

/// What a trace begins with.
pub static MAGIC: [u8; 8] = *b"RINGDR\x01\x00";

pub(super) const KIND_START: u8 = 18;
const KIND_END_TURN: u8 = 32;
const KIND_TICK: u8 = 33;
const KIND_APPLIED: u8 = 34;
const KIND_VERSIONS: u8 = 35;
pub(super) const KIND_INPUT_FIRST: u8 = 36;

/// A raft core whose inputs and outputs are written down, if anybody wants them. It is driven like a [`RaftCore`].
pub struct Recorded<S: Shell> {
    core: RaftCore<S>,
    trace: Option<Vec<u8>>,
}

impl<S: Shell> Recorded<S> {
    /// See [`RaftCore::new`]. `start` is what the node began with ([`consensus::trace::encode_start`]), and it has been told nothing
    /// yet; without it nothing is written down.
    pub fn new(
        node: S::Node,
        start: Option<&[u8]>,
        config: Config,
        members: Vec<Member>,
        removed: Vec<NodeId>,
    ) -> Recorded<S> {
        let trace = start.map(|start| encode_start(start, &config, &members, &removed));
        Recorded { core: RaftCore::new(node, config, members, removed), trace }
    }

    /// See [`RaftCore::applied`].
    pub fn applied(&mut self, applied: Index) {
        self.core.applied(applied);
        self.call(KIND_APPLIED, Duration::ZERO, &[], |out| put_u64(out, applied.0));
    }

    /// See [`RaftCore::handle`].
    pub fn handle(&mut self, now: Duration, input: Input<S>, out: &mut Vec<Output<S>>) {
        if self.trace.is_none() {
            return self.core.handle(now, input, out);
        }
        let (before, mut payload) = (out.len(), Vec::new());
        let kind = encode_input(&input, &mut payload);
        self.core.handle(now, input, out);
        self.call(kind, now, &out[before..], |trace| trace.extend_from_slice(&payload));
    }

    /// See [`RaftCore::tick`].
    pub fn tick(&mut self, now: Duration, log_waits: Duration, out: &mut Vec<Output<S>>) {
        let before = out.len();
        self.core.tick(now, log_waits, out);
        self.call(KIND_TICK, now, &out[before..], |trace| put_time(trace, log_waits));
    }

    /// See [`RaftCore::end_turn`].
    pub fn end_turn(&mut self, now: Duration, out: &mut Vec<Output<S>>) {
        let before = out.len();
        self.core.end_turn(now, out);
        self.call(KIND_END_TURN, now, &out[before..], |_| {});
    }

    /// See [`RaftCore::look_at_versions`].
    pub fn look_at_versions(
        &mut self,
        now: Duration,
        version_of: impl Fn(NodeId) -> Option<String>,
    ) -> Option<ToStore> {
        // It looks at nothing if it does not lead, which is not worth a word at each tick.
        if self.trace.is_none() || !self.core.monitor.leads() {
            return self.core.look_at_versions(now, version_of);
        }
        let looked = RefCell::new(Vec::new());
        let versions = self.core.look_at_versions(now, |member| {
            let version = version_of(member);
            looked.borrow_mut().push((member, version.clone()));
            version
        });
        let output = versions.map(Output::Store);
        self.call(KIND_VERSIONS, now, output.as_slice(), |out| {
            let looked = looked.into_inner();
            put_all(out, &looked, |out, (member, version)| {
                put_u64(out, member.0);
                put_option(out, version.as_ref(), |out, version| put_block(out, version.as_bytes()));
            });
        });
        output.and_then(|output| match output {
            Output::Store(message) => Some(message),
            _ => None,
        })
    }

    /// What was written down since it was last taken; whole frames.
    pub fn take(&mut self) -> Vec<u8> {
        self.trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn call(&mut self, kind: u8, now: Duration, outputs: &[Output<S>], write: impl FnOnce(&mut Vec<u8>)) {
        let Some(trace) = &mut self.trace else { return };
        let text = describe(&self.core, outputs);
        frames::encode_call(kind, &text, trace, |out| {
            put_time(out, now);
            write(out);
        });
    }
}

/// The core can be looked at.
impl<S: Shell> Deref for Recorded<S> {
    type Target = RaftCore<S>;

    fn deref(&self) -> &RaftCore<S> {
        &self.core
    }
}

fn encode_start(start: &[u8], config: &Config, members: &[Member], removed: &[NodeId]) -> Vec<u8> {
    let mut trace = MAGIC.to_vec();
    // In the order of its fields; one more field does not compile without a place here and in the replay.
    let Config { own, election_timeout, request_timeout, orphan_bytes_max, conf_changes_open_max } = *config;
    encode_frame(KIND_START, &mut trace, |out| {
        put_u64(out, own.0);
        [election_timeout, request_timeout].into_iter().for_each(|time| put_time(out, time));
        [orphan_bytes_max, conf_changes_open_max].into_iter().for_each(|size| put_u64(out, size as u64));
        put_members(out, members, removed);
    });
    trace.extend_from_slice(start);
    trace
}

fn put_members(out: &mut Vec<u8>, members: &[Member], removed: &[NodeId]) {
    put_all(out, members, |out, member| put_block(out, &member.encode()));
    put_nodes(out, removed);
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    peer::encode(&PeerMessage::Raft(message.clone()), out);
}

/// Appends what follows the present, and says of what kind it is.
pub(super) fn encode_input<S: Shell>(input: &Input<S>, out: &mut Vec<u8>) -> u8 {
    match input {
        Input::Core(message) => encode_message(message, out),
        Input::Log(FromLog::Durable(ready)) => number(49, ready.0, out),
        Input::Log(FromLog::Fetched(peer, first, entries)) => {
            put_u64(out, peer.0);
            put_u64(out, first.0);
            put_option(out, entries.as_deref(), |out, entries| put_all(out, entries, put_entry));
            50
        }
        Input::Log(FromLog::StartsAt(index)) => number(51, index.0, out),
        Input::Message(from, message) => {
            put_u64(out, from.0);
            peer::encode(message, out);
            52
        }
        Input::Reachable(peer) => number(53, peer.0, out),
        Input::Unreachable(peer) => number(54, peer.0, out),
        Input::SnapshotSent(peer, ok) => {
            put_u64(out, peer.0);
            out.push(u8::from(*ok));
            55
        }
        Input::SnapshotReceived { from, message, received: _ } => {
            put_u64(out, from.0);
            put_message(out, message);
            56
        }
        Input::Imported { from, message, index, store: _ } => {
            put_u64(out, from.0);
            put_u64(out, index.0);
            put_message(out, message);
            57
        }
        Input::ImportFailed => 58,
        Input::Renamed(ready) => number(59, ready.0, out),
    }
}

fn encode_message(message: &ToRaft, out: &mut Vec<u8>) -> u8 {
    match message {
        ToRaft::Propose(id, Write { entry, id: request, command: _ }) => {
            put_u64(out, id.0);
            put_u64(out, *request);
            out.extend_from_slice(entry);
            36
        }
        ToRaft::Read(id) => number(37, id.0, out),
        ToRaft::Checkpointed(index) => number(38, index.0, out),
        ToRaft::ConfChange(index, change) => {
            put_u64(out, index.0);
            put_option(out, change.as_ref(), |out, change| out.extend_from_slice(&change.encode()));
            39
        }
        ToRaft::ProposeConfChange(id, change) => {
            put_u64(out, id.0);
            out.extend_from_slice(&change.encode());
            40
        }
        ToRaft::TransferLeader(id, to) => {
            put_u64(out, id.0);
            number(41, to.0, out)
        }
        ToRaft::HandOver => 42,
        ToRaft::Members(members, removed) => {
            put_members(out, members, removed);
            43
        }
        ToRaft::ClusterVersion(version) => {
            out.extend_from_slice(version.as_bytes());
            44
        }
        ToRaft::PeerRequest(to, id, body) => {
            put_u64(out, to.0);
            put_u64(out, id.0);
            out.extend_from_slice(body);
            45
        }
        ToRaft::PeerResponse(to, id, body) => {
            put_u64(out, to.0);
            put_u64(out, *id);
            out.extend_from_slice(body);
            46
        }
        ToRaft::SnapshotPinned(pinned) => {
            put_u64(out, pinned.peer.0);
            put_position(out, pinned.position);
            put_conf(out, &pinned.conf);
            47
        }
        ToRaft::SnapshotInstalled(ready) => number(48, ready.0, out),
    }
}
