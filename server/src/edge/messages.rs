//! What the cores say to each other, where more than [`node::cores`] is in it. One ring per pair and direction; see `ring.rs`.

use std::sync::Arc;

use consensus::log::NewSegment;
use consensus::{Entry, Index, NodeId, ReadyNumber};
use engine::Store;
use engine::tree::Checkpoint;
use glommio::net::AcceptedTcpStream;
pub use node::cores::{
    Committed, FromLog, PinnedSnapshot, Query, QueryAnswer, QueryId, ToClient, ToLog, ToRaft, ToStore,
};

use super::tree_file::TreeFile;

/// A store received from a peer, complete and durable under its final name.
pub struct Installation {
    /// The number under which raft waits for it.
    pub ready: ReadyNumber,
    /// The store.
    pub store: Store,
    /// Its file.
    pub tree: Arc<TreeFile>,
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

/// What comes to the store core.
pub enum ForStore {
    /// From another core.
    Core(ToStore),
    /// Go on with this store; answer with [`ToRaft::SnapshotInstalled`].
    Install(Box<Installation>),
}

impl From<ToStore> for ForStore {
    fn from(message: ToStore) -> ForStore {
        ForStore::Core(message)
    }
}

/// Background thread → store core: a checkpoint has been written and synced, or failed.
pub struct CheckpointDone {
    /// Which.
    pub checkpoint: Box<Checkpoint>,
    /// How that ended.
    pub result: Result<(), CheckpointError>,
}

/// Where writing a checkpoint failed.
pub enum CheckpointError {
    /// While pages were written: nothing is lost, it can be tried again.
    Write(std::io::Error),
    /// While syncing: what the page cache holds is no evidence of what the disk holds any more.
    Sync(std::io::Error),
}

/// Acceptor and main thread → a client core.
pub enum Order {
    /// A new connection, with the number of the listener it came by.
    Accepted(AcceptedTcpStream, usize),
    /// This member has made itself known: begin to accept connections.
    Serve,
    /// Stop: finish what is in flight, then say so.
    Shutdown,
}
