//! The log: what makes a write durable.
//!
//! A ring of segments, files of fixed size that are written once before use, so that a data write never changes a
//! file's size or extents. Into them go *batches*: one header, then records, in whole blocks of 4 KiB, one write each.
//! One write is in flight at a time and carries all that queued meanwhile; an idle device gets one request at once.
//! A segment whose entries are all covered by a checkpoint of the store is used again.
//!
//! - [`record`]: the bytes of a batch. The format is documented there.
//! - [`ring`]: [`Log`], which decides what is written where.
//! - [`segment`]: what the edge has to offer for reading, and how unreadable sectors are narrowed down.
//! - [`verdict`]: torn tail or damage, as one pure function.
//! - [`recover`](mod@recover): from segments back to the state.
//! - [`fetch`](mod@fetch): entries read back for a peer that lags, while the log is being written.
//! - [`report`]: what recovery tells the operator.
//!
//! Assumed of the medium: a sector of 512 bytes is written whole or not at all; a completed O_DIRECT|O_DSYNC write is
//! durable; nothing else. A torn batch has sectors of before and after in any mixture.

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
mod fetch;
pub mod record;
pub mod recover;
pub mod report;
pub mod ring;
mod scan;
pub mod segment;
mod survey;
pub mod verdict;

pub use fetch::Fetcher;
pub use recover::{Recovered, Tail, recover};
pub use report::{Damage, Note, Proof, RecoverError};
pub use ring::{Log, LogConfig, NewSegment, WritePlan};
pub use segment::{ReadError, SegmentId, SegmentInfo, SegmentReader};
pub use survey::Survey;

use crate::{Entry, HardState, NodeId};

/// Unit of a write; offsets and lengths are multiples of it.
pub const BLOCK: usize = 4096;

/// Longest data of one entry in bytes. With its header it fits into an empty segment of any permitted size.
pub const ENTRY_BYTES_MAX: usize = 32 << 20;

/// Whose log it is. Every batch says it, so that a log of another member or cluster is never taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// etcd's cluster id.
    pub cluster: u64,
    /// This member.
    pub member: NodeId,
}

/// What a node goes on from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The last hard state.
    pub hard_state: HardState,
    /// The entries above the applied index, consecutive.
    pub entries: Vec<Entry>,
    /// Set while nothing of it is on disk: see [`State::bootstrap`].
    pub unwritten: bool,
}
