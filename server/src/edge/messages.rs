//! What the cores say to each other. One ring per pair and direction; see `ring.rs`.

use std::sync::Arc;

use consensus::log::NewSegment;
use consensus::{Append, ConfChange, DropReason, Entry, Index, ProposalId, ReadId, ReadyNumber};
use engine::View;
use engine::tree::Checkpoint;
use glommio::net::AcceptedTcpStream;
use node::Answer;
use node::api::Error;
use node::propose::{Command, Write};

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
}

/// Raft core → log core.
pub enum ToLog {
    /// Write these records; answer [`FromLog`] when they survive a power cut.
    Append(Append),
    /// Segments that end at or below this index may be reused.
    Checkpointed(Index),
}

/// Log core → raft core: the appends up to this Ready are durable.
pub struct FromLog(pub ReadyNumber);

/// Background thread → log core: the segment is on disk, or could not be made.
pub struct SegmentPrepared {
    /// Which one.
    pub segment: NewSegment,
    /// What the file system said.
    pub result: std::io::Result<()>,
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
        leader: bool,
    },
    /// The store core's own proposal was not taken.
    Dropped(ProposalId),
    /// A question that only the owner of the store can answer.
    Query(QueryId, Query),
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
    /// A keep-alive: the granted TTL in seconds; 0: no such lease.
    KeepAlive(i64),
}
