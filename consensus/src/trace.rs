//! A record of all that went into a node and what came out of it, and the proof that it comes out again.
//!
//! A [`Node`] is a function of what it was told: no clock, no thread, no file. [`Recorded`] writes down what a real process tells
//! its node, [`Replay`] tells it to another node and compares each answer. So what the simulator proves of a node holds for the
//! one in the server as well, and a node that misbehaved in a server can be looked at afterwards, step by step.
//!
//! A trace is of one life of a process. It begins with 8 bytes of magic and version, then come frames as between peers
//! ([`peer`](crate::peer): length, checksums, kind, payload). All numbers are little-endian.
//!
//! | bytes | trace |
//! |---|---|
//! | 6 | magic `RINGDT` |
//! | 2 | format version, 1 |
//! | … | one start, entries as far as there are any, then calls, one frame each |
//!
//! | bytes | start (kind 16) |
//! |---|---|
//! | 8 × 12 | the fields of [`Config`] in their order |
//! | 24 | hard state: term, vote, commit |
//! | 16 | applied: index, term |
//! | 1 | 1 if nothing of the state is on disk yet, else 0 |
//! | 4 + 8 each | voters |
//! | 4 + 8 each | learners |
//!
//! Entries (kind 17): entries of the state, as below, as many frames as it takes.
//!
//! | bytes | call (kind 32 and above) |
//! |---|---|
//! | 4 + … | what came out of it, as text, one line for each output: see [`describe()`] |
//! | … | what went in, by kind |
//!
//! | kind | input | bytes |
//! |---|---|---|
//! | 32 | none: a flush | |
//! | 33 | tick | |
//! | 34 | campaign | |
//! | 35 | receive | from (8), the message as its frame between peers |
//! | 36 | propose | id (8), the data |
//! | 37 | propose a configuration change | id (8), the change as in an entry |
//! | 38 | apply a configuration change | index (8), 0, or 1 and the change as in an entry |
//! | 39 | read index | id (8) |
//! | 40 | durable | number (8) |
//! | 41 | applied | index (8) |
//! | 42 | the log starts at | index (8) |
//! | 43 | fetched | peer (8), first (8), 0, or 1 and entries as below |
//! | 44 | snapshot pinned | peer (8), index (8), term (8), voters and learners as in the start |
//! | 45 | snapshot sent | peer (8), 0 or 1 |
//! | 46 | snapshot installed | number (8) |
//! | 47 | transfer the leadership | 0, or 1 and to whom (8) |
//! | 48 | unreachable | peer (8) |
//! | 49 | the log is stalled | 0 or 1 |
//! | 50 | snapshot unpinned | peer (8) |
//!
//! | bytes | entries |
//! |---|---|
//! | 4 | how many |
//! | 21 + … each | index (8), term (8), kind (1: 1 normal, 2 configuration change), length (4), the data |
//!
//! The end of a trace says nothing: the process was killed, or the file has got as long as it may. What is left of a frame at the
//! end is reported as [`Replayed::torn`]; anything else that is not as above is refused.

use std::ops::Deref;

use self::codec::{number, put_all, put_block, put_conf, put_entry_kind, put_option, put_position, put_u64};
use crate::log::State;
use crate::peer;
use crate::{ConfState, Config, Entry, Input, LogPosition, Node, Output};

/// How traces write down what they have in common, and how it is read back.
pub mod codec;
/// What a node says, as text.
pub mod describe;
/// What traces of all machines have in common.
pub mod frames;
/// A trace told to a machine of any kind, and compared.
pub mod machine;
mod replay;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use describe::describe;
pub use frames::TraceError;
pub use replay::{OtherNode, Replay, Replayed, Start};

/// What a trace begins with.
pub static MAGIC: [u8; 8] = *b"RINGDT\x01\x00";

const KIND_START: u8 = 16;
const KIND_ENTRIES: u8 = 17;
const KIND_FLUSH: u8 = 32;

/// Of an entry, without its data.
const ENTRY_BYTES: usize = 21;

/// Bytes of entries' data in one frame, about.
const ENTRIES_BYTES: usize = 8 << 20;

/// A node whose inputs and outputs are written down. It is driven like a [`Node`].
pub struct Recorded {
    node: Node,
    trace: Vec<u8>,
}

impl Recorded {
    /// See [`Node::new`], whose arguments begin the trace.
    pub fn new(config: Config, state: State, applied: LogPosition, conf: ConfState) -> Recorded {
        let mut trace = MAGIC.to_vec();
        trace.extend(encode_start(&config, &state, applied, &conf));
        Recorded { node: Node::new(config, state, applied, conf), trace }
    }

    /// See [`Node::step`].
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        let (before, mut payload) = (out.len(), Vec::new());
        let kind = encode_input(&input, &mut payload);
        self.node.step(input, out);
        self.call(kind, &payload, &out[before..]);
    }

    /// See [`Node::flush`].
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        let before = out.len();
        self.node.flush(out);
        self.call(KIND_FLUSH, &[], &out[before..]);
    }

    /// What was written down since it was last taken; whole frames.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.trace)
    }

    fn call(&mut self, kind: u8, payload: &[u8], outputs: &[Output]) {
        let text = describe(outputs);
        frames::encode_call(kind, &text, &mut self.trace, |out| out.extend_from_slice(payload));
    }
}

/// The node can be looked at.
impl Deref for Recorded {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

/// What a node begins with ([`Node::new`]), as the frames of its start and its entries. [`Start`] takes them.
pub fn encode_start(config: &Config, state: &State, applied: LogPosition, conf: &ConfState) -> Vec<u8> {
    let mut trace = Vec::new();
    // In the order of its fields; one more field does not compile without a place here and in the replay.
    let Config {
        id,
        seed,
        boot_nonce,
        heartbeat_ticks,
        election_ticks,
        proposal_bytes_limit,
        entry_bytes_max,
        append_bytes,
        cache_bytes_limit,
        reads_limit,
        peer_bytes_in_flight,
        fetch_bytes,
    } = *config;
    let sizes = [
        heartbeat_ticks,
        election_ticks,
        proposal_bytes_limit,
        entry_bytes_max,
        append_bytes,
        cache_bytes_limit,
        reads_limit,
        peer_bytes_in_flight,
        fetch_bytes,
    ];
    peer::encode_frame(KIND_START, &mut trace, |out| {
        [id.0, seed, boot_nonce].into_iter().for_each(|number| put_u64(out, number));
        sizes.into_iter().for_each(|size| put_u64(out, size as u64));
        let hard_state = state.hard_state;
        let numbers = [hard_state.term.0, hard_state.vote.0, hard_state.commit.0];
        numbers.into_iter().for_each(|number| put_u64(out, number));
        put_position(out, applied);
        out.push(u8::from(state.unwritten));
        put_conf(out, conf);
    });
    let mut rest = &state.entries[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|entry| {
            bytes += entry.data.len();
            bytes <= ENTRIES_BYTES
        });
        let (entries, more) = rest.split_at(fits.count().max(1));
        peer::encode_frame(KIND_ENTRIES, &mut trace, |out| put_entries(out, entries));
        rest = more;
    }
    trace
}

/// Appends what follows the outputs, and says of what kind it is.
fn encode_input(input: &Input, out: &mut Vec<u8>) -> u8 {
    match input {
        Input::Tick => 33,
        Input::Campaign => 34,
        Input::Receive(from, message) => {
            put_u64(out, from.0);
            peer::encode(message, out);
            35
        }
        Input::Propose(id, data) => {
            put_u64(out, id.0);
            out.extend_from_slice(data);
            36
        }
        Input::ProposeConfChange(id, change) => {
            put_u64(out, id.0);
            out.extend_from_slice(&change.encode());
            37
        }
        Input::ApplyConfChange(index, change) => {
            put_u64(out, index.0);
            put_option(out, change.as_ref(), |out, change| out.extend_from_slice(&change.encode()));
            38
        }
        Input::ReadIndex(read) => number(39, read.0, out),
        Input::Durable(ready) => number(40, ready.0, out),
        Input::Applied(index) => number(41, index.0, out),
        Input::LogStartsAt(index) => number(42, index.0, out),
        Input::Fetched(peer, first, entries) => {
            put_u64(out, peer.0);
            put_u64(out, first.0);
            put_option(out, entries.as_deref(), put_entries);
            43
        }
        Input::SnapshotPinned { peer, position, conf } => {
            put_u64(out, peer.0);
            put_position(out, *position);
            put_conf(out, conf);
            44
        }
        Input::SnapshotSent(peer, ok) => {
            put_u64(out, peer.0);
            out.push(u8::from(*ok));
            45
        }
        Input::SnapshotInstalled(ready) => number(46, ready.0, out),
        Input::TransferLeader(to) => {
            put_option(out, *to, |out, to| put_u64(out, to.0));
            47
        }
        Input::Unreachable(peer) => number(48, peer.0, out),
        Input::LogStalled(stalled) => {
            out.push(u8::from(*stalled));
            49
        }
        Input::SnapshotUnpinned(peer) => number(50, peer.0, out),
    }
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    put_all(out, entries, |out, entry| {
        put_position(out, entry.position());
        put_entry_kind(out, entry.kind);
        put_block(out, &entry.data);
    });
}
