//! What the cores of a member say to each other, as far as it is neither a file nor a socket.
//!
//! A member is four cores: raft core, log core, store core, client cores. What each of them decides is code of this crate and
//! of [`consensus`]; the server's edge gives each a thread and the rings between them, the simulator an inbox.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{
    Append, ConfChange, ConfState, DropReason, Entry, Fetch, Index, LogPosition, NodeId, ProposalId, ReadId,
    ReadyNumber, Term,
};
use engine::View;

use crate::Answer;
use crate::api::Error;
use crate::membership::Member;
use crate::propose::{Command, Write};

/// Client or store core → raft core.
pub enum ToRaft {
    /// Replicate this; its outcome comes from the store core, or a refusal from the raft core.
    Propose(ProposalId, Write),
    /// Which index must a read that starts now cover? The answer has the same name.
    Read(ReadId),
    /// Store core: everything up to here is in a durable checkpoint; older log may be recycled.
    Checkpointed(Index),
    /// Store core: the outcome of a configuration change it applied (`None`: refused by the membership rules).
    ConfChange(Index, Option<ConfChange>),
    /// Replicate this change of the membership; its outcome comes as that of a proposal does.
    ProposeConfChange(ProposalId, ConfChange),
    /// Hand leadership to this member; who asked hears of it when it leads.
    TransferLeader(ProposalId, NodeId),
    /// This member is about to end: if it leads, another one should.
    HandOver,
    /// Store core: who belongs to the cluster, and who was removed.
    Members(Vec<Member>, Vec<NodeId>),
    /// Store core: the cluster version (`X.Y.0`).
    ClusterVersion(String),
    /// Ask another member something; the answer comes back under the same name.
    PeerRequest(NodeId, ProposalId, Bytes),
    /// The answer to what another member asked under this number.
    PeerResponse(NodeId, u64, Bytes),
    /// Store core: a version for a peer that needs a snapshot.
    SnapshotPinned(Box<PinnedSnapshot>),
    /// Store core: the store is what the snapshot of this Ready made of it.
    SnapshotInstalled(ReadyNumber),
}

/// Raft core, client cores → store core.
pub enum ToStore {
    /// Apply these, in order.
    Commit(Vec<Committed>),
    /// This member became leader, or ceased to lead.
    Leadership {
        /// It leads now.
        leads: bool,
        /// In this term.
        term: Term,
        /// Who leads, as far as it is known.
        leader: Option<NodeId>,
    },
    /// This member leads; what the servers of all members are, `None` where it is not known now.
    Versions(Vec<Option<String>>),
    /// The store core's own proposal was not taken.
    Dropped(ProposalId),
    /// A question that only the owner of the store can answer.
    Query(QueryId, Query),
    /// Another member asks, under this number.
    PeerRequest(NodeId, u64, Bytes),
    /// Another member has answered what this core asked.
    PeerResponse(ProposalId, Bytes),
    /// The answer to the store core's [`ToRaft::Read`]; `None` where it could not be had because the leader has changed.
    ReadIndex(ReadId, Option<Index>),
    /// A peer needs a snapshot: answer with [`ToRaft::SnapshotPinned`].
    PinSnapshot(NodeId),
    /// A client core refused a write because the quota is used up: the alarm is due.
    NoSpace,
}

/// Store or raft core → a client core.
pub enum ToClient {
    /// A newer version of the store; comes before the outcomes it contains.
    Published(Arc<View>),
    /// Outcomes of this core's proposals, in the order of the log.
    Outcomes(Vec<(ProposalId, Result<Answer, Error>)>),
    /// A physical compaction is applied: its outcome comes when the rows are gone, however long that takes.
    Compacting(ProposalId),
    /// The proposal was not taken.
    Dropped(ProposalId, DropReason),
    /// The answer to [`ToRaft::Read`]; `None` where it could not be had because the leader has changed.
    ReadIndex(ReadId, Option<Index>),
    /// The member named in [`ToRaft::TransferLeader`] leads.
    Transferred(ProposalId),
    /// Another member asks, under this number, what a client core decides.
    PeerRequest(NodeId, u64, Bytes),
    /// Another member has answered what this core asked.
    PeerResponse(ProposalId, Bytes),
    /// Answers to [`ToStore::Query`].
    Answers(Vec<(QueryId, Result<QueryAnswer, Error>)>),
}

/// Raft core → log core.
pub enum ToLog {
    /// Write these records; answer [`FromLog`] when they survive a power cut.
    Append(Append),
    /// Segments that end at or below this index may be reused.
    Checkpointed(Index),
    /// Read entries back for a peer that lags; answered by [`FromLog::Fetched`].
    Fetch(Fetch),
}

/// Log core → raft core.
pub enum FromLog {
    /// The appends up to this Ready are durable.
    Durable(ReadyNumber),
    /// What [`ToLog::Fetch`] asked for: for whom, from which index on; `None` if the log does not reach down to it.
    Fetched(NodeId, Index, Option<Vec<Entry>>),
    /// The log begins at this entry from now on.
    StartsAt(Index),
}

/// A version of the store that is to be sent to a peer.
pub struct PinnedSnapshot {
    /// To whom.
    pub peer: NodeId,
    /// The log position it reflects.
    pub position: LogPosition,
    /// The members as of there.
    pub conf: ConfState,
    /// Keeps its pages for as long as it is held.
    pub view: Arc<View>,
}

/// A committed entry, with what its local proposer had decoded already.
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// What it says, if this process proposed it.
    pub command: Option<Command>,
}

/// Proposals of the store core itself carry this core number.
const STORE_CORE: u64 = 0xffff;

/// What a name has room for behind the core's number.
const NUMBER: u64 = 0xffff_ffff_ffff;

/// A name for what client core `core` proposes or asks: the core that waits for it, and that core's own number for it, of
/// which the lower 48 bits count. Those of [`ReadId`]s are made alike.
pub fn client_id(core: usize, number: u64) -> ProposalId {
    ProposalId((core as u64) << 48 | number & NUMBER)
}

/// A name for what the store core proposes or asks.
pub fn store_id(number: u64) -> ProposalId {
    ProposalId(STORE_CORE << 48 | number & NUMBER)
}

/// The core's own number in a name.
pub fn number_of(id: ProposalId) -> u64 {
    id.0 & NUMBER
}

/// The client core that waits for what has this name; `None`: the store core does.
pub fn client_of(id: ProposalId) -> Option<usize> {
    let core = id.0 >> 48;
    (core != STORE_CORE).then_some(core as usize)
}

/// What this member knows of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFigures {
    /// Its id.
    pub member: u64,
    /// For how long the connections with it have been unbroken; `None`: they are not.
    pub active_for: Option<Duration>,
    /// Up to where it holds this leader's log; `None` if this member doesn't lead.
    pub matched: Option<Index>,
}

/// A client core's name for its question: the core, and its own number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueryId {
    /// The client core that asks.
    pub core: usize,
    /// Its number for the question.
    pub number: u64,
}

/// What only the owner of the store knows or may do.
#[derive(Clone, Copy, Debug)]
pub enum Query {
    /// Renew a lease.
    KeepAlive {
        /// The lease.
        lease: i64,
    },
    /// Time left of a lease.
    TimeToLive {
        /// The lease.
        lease: i64,
        /// With the attached keys.
        keys: bool,
    },
    /// All leases.
    Leases,
    /// Trim the tree file.
    Defragment,
}

/// Answer to a [`Query`].
pub enum QueryAnswer {
    /// The whole answer but for the header's ids and term.
    Answer(Answer),
    /// What is left of a lease: the answer's fields after the header.
    TimeToLive(Bytes),
    /// A keep-alive: the granted TTL in seconds; 0: no such lease.
    KeepAlive(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_core_waits() {
        assert_eq!(client_of(client_id(0, u64::MAX >> 16)), Some(0));
        assert_eq!(client_of(client_id(63, 7)), Some(63));
        assert_eq!(client_of(store_id(7)), None);
        assert_ne!(client_id(1, 7), client_id(1, 8));
        assert_eq!([number_of(client_id(3, 9)), number_of(store_id(1 << 48 | 9))], [9, 9]);
    }
}
