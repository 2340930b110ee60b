//! Calls that wait for an answer of another core, each under a number of its client core.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use consensus::NodeId;
use net::grpc::{CallId, Method};
use node::read::LinearReads;
use rustc_hash::FxHashMap;

use super::connection::ConnectionId;

/// Who waits for an answer of another core.
#[derive(Default)]
pub struct Waiting {
    /// With the entry, which a warning about a slow one shows; the log's cache shares its bytes.
    pub writes: FxHashMap<u64, (Waiter, Bytes)>,
    /// Questions to the store core.
    pub queries: FxHashMap<u64, Waiter>,
    /// Calls of clients of other members, which have asked this one: the member, and its number for the question.
    pub peers: FxHashMap<u64, (NodeId, u64)>,
    /// MoveLeader calls.
    pub transfers: FxHashMap<u64, Waiter>,
    /// Linearizable reads.
    pub reads: LinearReads<(Waiter, Read)>,
    /// Writes, queries and reads in the order of their deadlines.
    pub deadlines: VecDeque<(Duration, u64)>,
}

/// A call that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiter {
    /// Its connection.
    pub connection: ConnectionId,
    /// The call.
    pub call: CallId,
    /// What it asked for.
    pub method: Method,
    /// It is a txn that only reads.
    pub read_only_txn: bool,
    /// When it came.
    pub since: Duration,
    /// For keep-alives: the request's number in its stream.
    pub request: u64,
}

/// A read to be done once the view covers its index.
pub type Read = node::api::Request;

impl Waiting {
    /// Whether anybody waits under this number.
    pub fn is_open(&self, number: u64) -> bool {
        self.writes.contains_key(&number)
            || self.queries.contains_key(&number)
            || self.reads.is_open(number)
            || self.transfers.contains_key(&number)
            || self.peers.contains_key(&number)
    }

    /// Gives up a call that waits for a write, an answer or an index.
    pub fn remove(&mut self, number: u64) -> Option<Waiter> {
        let write = self.writes.remove(&number).map(|(waiter, _)| waiter);
        let call = write.or_else(|| self.queries.remove(&number));
        call.or_else(|| self.reads.remove(number).map(|(waiter, _)| waiter))
    }
}
