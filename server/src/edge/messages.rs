//! What the cores say to each other. One ring per pair and direction; see `ring.rs`.

use std::sync::Arc;

use bytes::Bytes;
use consensus::log::NewSegment;
use consensus::{
    Append, ConfChange, ConfState, DropReason, Entry, Fetch, Index, LogPosition, NodeId, ProposalId, ReadId,
    ReadyNumber, Term,
};
use engine::tree::Checkpoint;
use engine::{Store, View};
use glommio::net::AcceptedTcpStream;
use node::Answer;
use node::api::Error;
use node::membership::Member;
use node::propose::{Command, Write};

use super::tree_file::TreeFile;

/// Client or store core → raft core.
pub enum ToRaft {
    /// Replicate this; its outcome comes from the store core, or [`ToClient::Dropped`] from the raft core.
    Propose(ProposalId, Write),
    /// Which index must a read that starts now cover? Answered by [`ToClient::ReadIndex`].
    Read(ReadId),
    /// Store core: everything up to here is in a durable checkpoint; older log may be recycled.
    Checkpointed(Index),
    /// Store core: the outcome of a configuration change it applied (`None`: refused by the membership rules).
    ConfChange(Index, Option<ConfChange>),
    /// Replicate this change of the membership; its outcome comes as that of a proposal does.
    ProposeConfChange(ProposalId, ConfChange),
    /// Hand leadership to this member; [`ToClient::Transferred`] when it leads.
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

/// A store received from a peer, complete and durable under its final name.
pub struct Installation {
    /// The number under which raft waits for it.
    pub ready: ReadyNumber,
    /// The store.
    pub store: Store,
    /// Its file.
    pub tree: Arc<TreeFile>,
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

/// The segment is on disk, or could not be made.
pub struct SegmentPrepared {
    /// Which one.
    pub segment: NewSegment,
    /// What the file system said.
    pub result: std::io::Result<()>,
}

/// Background threads → log core.
pub enum FromBackground {
    /// A segment.
    Prepared(SegmentPrepared),
    /// Entries read back: see [`FromLog::Fetched`].
    Fetched(NodeId, Index, Option<Vec<Entry>>),
}

/// A committed entry, with what its local proposer had decoded already.
pub struct Committed {
    /// The entry.
    pub entry: Entry,
    /// What it says, if this process proposed it.
    pub command: Option<Command>,
}

/// Raft core, client cores and background thread → store core.
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
    /// The answer to the store core's [`ToRaft::Read`].
    ReadIndex(ReadId, Option<Index>),
    /// A peer needs a snapshot: answer with [`ToRaft::SnapshotPinned`].
    PinSnapshot(NodeId),
    /// Go on with this store; answer with [`ToRaft::SnapshotInstalled`].
    Install(Box<Installation>),
    /// A client core refused a write because the quota is used up: the alarm is due.
    NoSpace,
    /// A checkpoint has been written and synced, or failed.
    CheckpointDone(Box<Checkpoint>, Result<(), CheckpointError>),
}

/// Where writing a checkpoint failed.
pub enum CheckpointError {
    /// While pages were written: nothing is lost, it can be tried again.
    Write(std::io::Error),
    /// While syncing: what the page cache holds is no evidence of what the disk holds any more.
    Sync(std::io::Error),
}

/// Store core, raft core and acceptor → a client core.
pub enum ToClient {
    /// A newer version of the store; comes before the outcomes it contains.
    Published(Arc<View>),
    /// Outcomes of this core's proposals, in the order of the log.
    Outcomes(Vec<(ProposalId, Result<Answer, Error>)>),
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
    /// A new connection, with the number of the listener it came by.
    Accepted(AcceptedTcpStream, usize),
    /// This member has made itself known: begin to accept connections.
    Serve,
    /// Stop: finish what is in flight, then say so.
    Shutdown,
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
