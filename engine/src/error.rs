//! Why the store refused. Every variant but `Damaged` is for the client to act on.
//!
//! `Damaged` is for the caller: the tree file holds bytes that cannot be true, nothing may be
//! answered from it, and a store that met it while writing is half changed and must be dropped.

use crate::tree::Damage;
use crate::types::LeaseId;

/// Why a write or a transaction was refused.
#[derive(Debug)]
pub enum TxnError {
    /// A put names a lease that does not exist, or a revoke does.
    LeaseNotFound {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// A grant of an id that is in use.
    LeaseExists {
        /// The lease asked for.
        lease: LeaseId,
    },
    /// A grant of more than [`crate::lease::LEASE_TTL_S_MAX`] seconds.
    LeaseTtlTooLarge {
        /// The seconds asked for.
        ttl: i64,
    },
    /// `ignore_value` or `ignore_lease` on a key that does not exist.
    KeyNotFound,
    /// The revision lies before the compact revision, or a compaction is not newer than the last.
    Compacted {
        /// Where history begins.
        compact_revision: i64,
    },
    /// The revision is not reached yet.
    FutureRevision {
        /// The newest revision.
        revision: i64,
    },
    /// Not the client's: the tree file is damaged.
    Damaged(Damage),
}

/// Why a read was refused.
#[derive(Debug)]
pub enum RangeError {
    /// The revision lies before the compact revision.
    Compacted {
        /// Where history begins.
        compact_revision: i64,
    },
    /// The revision is not reached yet.
    FutureRevision {
        /// The newest revision.
        revision: i64,
    },
    /// Not the client's: the tree file is damaged.
    Damaged(Damage),
}

impl From<Damage> for TxnError {
    fn from(damage: Damage) -> Self {
        TxnError::Damaged(damage)
    }
}

impl From<Damage> for RangeError {
    fn from(damage: Damage) -> Self {
        RangeError::Damaged(damage)
    }
}

impl From<RangeError> for TxnError {
    fn from(error: RangeError) -> Self {
        match error {
            RangeError::Compacted { compact_revision } => TxnError::Compacted { compact_revision },
            RangeError::FutureRevision { revision } => TxnError::FutureRevision { revision },
            RangeError::Damaged(damage) => TxnError::Damaged(damage),
        }
    }
}
