//! What the cores say to each other. One ring per pair and direction; see `ring.rs`.

use std::sync::Arc;

use bytes::Bytes;
use consensus::log::{Append, NewSegment};
use consensus::{DropReason, Entry, Index, ProposalId, ReadyNumber};
use engine::View;
use engine::tree::Checkpoint;
use glommio::net::AcceptedTcpStream;
use node::apply::Outcome;

use super::queries::{Answer, Query, QueryId};

/// Client or store core → raft core.
pub enum ToRaft {
    /// Replicate this entry; its outcome comes from the store core, or [`ToClient::Dropped`] from the raft core.
    Propose(ProposalId, Bytes),
    /// Store core: everything up to here is applied.
    Applied(Index),
    /// Store core: everything up to here is in a durable checkpoint; older log may be recycled.
    Checkpointed(Index),
    /// Store core: the outcome of a configuration change it applied (`None`: refused by the membership rules).
    ConfChange(Index, Option<consensus::ConfChange>),
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

/// Raft core, client cores and background thread → store core.
pub enum ToStore {
    /// Apply these, in order.
    Commit(Vec<Entry>),
    /// This member became leader of the term, or ceased to lead.
    Leadership {
        /// It leads now.
        leader: bool,
    },
    /// A question that only the owner of the store can answer.
    Query(QueryId, Query),
    /// A checkpoint has been written and synced, or failed.
    CheckpointDone(Box<Checkpoint>, std::io::Result<()>),
}

/// Store core, raft core and acceptor → a client core.
pub enum ToClient {
    /// A newer version of the store; comes before the outcomes it contains.
    Published(Arc<View>),
    /// Outcomes of this core's proposals, in the order of the log.
    Outcomes(Vec<(ProposalId, Outcome)>),
    /// The proposal was not taken.
    Dropped(ProposalId, DropReason),
    /// Answer to [`ToStore::Query`].
    Answer(QueryId, Answer),
    /// A new connection, with the number of the listener it came by.
    Accepted(AcceptedTcpStream, usize),
    /// Stop: finish what is in flight, then say so.
    Shutdown,
}
