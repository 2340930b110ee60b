//! What surrounds [`Calls`](super::Calls): where its messages and answers go, and what it may look up.
//!
//! These are traits, not outputs in a queue: an answer goes from the store's pages straight into its connection's buffer,
//! without a stop in between. A shell does what it is told and calls nothing back.

use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, NodeId};
use engine::RangeOptions;
use net::grpc::Method;
use net::pb::etcdserverpb as pb;
use net::pb::healthpb;

use super::LongRead;
use crate::Answer;
use crate::api::{Error, Refusal, Space};
use crate::cores::{PeerFigures, ToRaft, ToStore};
use crate::read::RangeReply;

/// What the other cores have made known. Each is looked up where it is needed, for it may change at any time.
pub trait Facts {
    /// The current term.
    fn term(&self) -> u64;

    /// Id of the leader; 0: none is known.
    fn leader(&self) -> u64;

    /// Whether this member is a learner, as far as it has applied.
    fn is_learner(&self) -> bool;

    /// What is known to be committed.
    fn commit(&self) -> u64;

    /// The index that a linearizable read must see that starts now; `None`: this member is not the only voter, raft must be
    /// asked.
    fn read_index(&self) -> Option<Index>;

    /// How full the store is.
    fn space(&self) -> Space;

    /// Whether the log has no room: what a NOSPACE alarm would refuse is refused.
    fn is_log_space_lost(&self) -> bool;

    /// The other members, as of the last tick.
    fn peers(&self) -> Vec<PeerFigures>;

    /// The wall clock in seconds since 1970, for the ids of new members only.
    fn unix_s(&self) -> u64;
}

/// The way to another core has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Something to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A Range begins.
    RangeBegun,
    /// The leader has changed before it answered a question for a read index.
    ReadIndexFailed,
    /// A read's time is over, and it has no read index yet.
    ReadIndexSlow,
}

/// Whose call it is, for the shell; `W` is its name of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller<W> {
    /// The call.
    pub who: W,
    /// What is asked.
    pub method: Method,
    /// It is a txn that only reads.
    pub read_only_txn: bool,
    /// When it came.
    pub since: Duration,
}

/// See the module's header.
///
/// Each call is ended once: by [`Shell::reply`], [`Shell::refuse`], [`Shell::range`] or [`Shell::end_stream`]. One that is gone
/// by then is for the shell to ignore.
pub trait Shell<W> {
    /// Where [`Facts`] are looked up.
    type Facts: Facts;

    /// See [`Facts`].
    fn facts(&self) -> &Self::Facts;

    /// To the raft core.
    ///
    /// # Errors
    /// [`Full`]: it was not taken.
    fn to_raft(&mut self, message: ToRaft) -> Result<(), Full>;

    /// To the store core.
    ///
    /// # Errors
    /// [`Full`]: it was not taken.
    fn to_store(&mut self, message: ToStore) -> Result<(), Full>;

    /// The answer of a call; `entry` is the Raft entry that it became, if it did.
    fn reply(&mut self, caller: &Caller<W>, entry: Option<&Bytes>, result: &Result<Answer, Error>);

    /// The answer of a Range, to be encoded at once or pulled as the caller takes it.
    fn range(&mut self, caller: &Caller<W>, options: &RangeOptions, reply: RangeReply);

    /// The call is not served.
    fn refuse(&mut self, caller: &Caller<W>, refusal: Refusal);

    /// The first message of a health watch, which stays open and gets no more.
    fn health(&mut self, caller: &Caller<W>, first: &healthpb::HealthCheckResponse);

    /// The next answer of a keep-alive stream.
    fn kept_alive(&mut self, who: &W, answer: &pb::LeaseKeepAliveResponse);

    /// The end of a keep-alive stream, which is forgotten; `None`: a good one.
    fn end_stream(&mut self, who: &W, error: Option<Error>);

    /// A read that takes long: [`Calls::go_on`](super::Calls::go_on) is to be called, at a pace of the shell's, until it gives
    /// nothing back. Where nobody waits any more it may be dropped.
    fn begin(&mut self, read: LongRead<W>);

    /// A read has met a damaged page: nothing may be answered from this store any more.
    fn damaged(&mut self);

    /// The call was proposed, under this ID.
    fn proposed(&mut self, _caller: &Caller<W>, _request: u64) {}

    /// The call was passed on to the leader, under this number.
    fn passed_on(&mut self, _caller: &Caller<W>, _number: u64) {}

    /// What another member has passed on under its number `asked` was proposed, under this ID.
    fn proposed_for(&mut self, _from: NodeId, _asked: u64, _request: u64) {}

    /// Something to count.
    fn note(&mut self, _note: Note) {}
}
