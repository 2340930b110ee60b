//! The engine: etcd's multi-version key space on one copy-on-write B+tree file.
//!
//! Everything here is a pure state machine: no clock, no thread, no file. [`Store`] is the single
//! writer, owned by one core; it applies requests in log order, deterministically. After a batch it
//! publishes a [`View`], an immutable version that any core can pin and read. The tree below
//! ([`tree`]) knows pages and tables, not etcd; everything above it in this list knows etcd, not pages.
//!
//! Reading order:

/// What goes in and what comes out: revisions, request options, outcomes.
pub mod types;

/// Why the store refused: the client's turn, or ours.
pub mod error;

/// Row formats of all tables, with golden bytes.
pub mod row;

/// The copy-on-write B+tree file: pages, cursors, snapshots, checkpoints.
pub mod tree;

/// Reading rows from either side: the writer's unpublished state or a published snapshot.
mod source;

/// A key's state at a revision: the newest row, or the links to older ones.
mod history;

/// Range: bounds, and answers spliced from stored bytes.
pub mod range;

/// Planning a Range, in slices: filters, sorting, counting.
pub mod plan;

/// The single writer.
pub mod store;

/// Put and delete: how one change becomes rows.
mod write;

/// Transactions: compares, pre-checks, execution.
mod txn;

/// Compaction: logical at once, physical in slices.
pub mod compact;

/// Leases: grants, renewals, expiry.
pub mod lease;

/// Alarms: NOSPACE and CORRUPT, per member.
pub mod alarm;

/// What a request costs against the quota.
pub mod quota;

/// Hashes that members compare: HashKV and Hash.
pub mod hash;

/// The published, immutable version and what can be read from it on any core.
pub mod view;

/// The order of events, read forward for watches.
pub mod events;

/// A store as a stream of bytes, for members that lag too far behind.
pub mod snapshot;

pub use alarm::{Alarm, AlarmKind};
pub use error::{RangeError, TxnError};
pub use events::{Event, EventKind, Events};
pub use hash::{HashKv, KeyValueHash};
pub use plan::{Planned, RangeJob};
pub use range::RangeAnswer;
pub use store::{Config, Store, Written};
pub use types::*;
pub use view::View;
