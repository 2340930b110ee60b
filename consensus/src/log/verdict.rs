//! Torn tail or damage?
//!
//! Recovery follows the chain of batches until the first block that does not continue it. That is where writing ended,
//! unless something proves that more was durable:
//!
//! - a later batch of this log exists. One write is in flight at a time, so it was submitted only when all before it
//!   were durable;
//! - the store has applied, in a checkpoint, an entry beyond the chain. It applies nothing that is not durable.
//!
//! Without such proof the rest was never acknowledged, except in the 50 ms before the marker of a pause: it is a torn
//! tail and is overwritten. With it, cutting the rest off would lose acknowledged writes: it is damage, and only another
//! member, or the operator, can help. Damage that lies wholly within what the store has checkpointed harms nobody: the
//! chain begins anew behind it.

use super::record::Header;
use crate::LogPosition;

/// What is known at the first block that does not continue the chain.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The end of the log as far as the chain goes.
    pub last: LogPosition,
    /// What the store has applied and checkpointed.
    pub applied: LogPosition,
    /// The header of the batch that should continue the chain, if it is intact and only its records are not.
    pub torn: Option<&'a Header>,
    /// The first later batch of this log whose header is intact.
    pub later: Option<&'a Header>,
    /// The newest later batch behind which nothing before it is needed.
    pub restart: Option<&'a Header>,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The log ends here.
    End,
    /// The log ends here; a batch that nobody was told about began here and was not completed.
    TornTail,
    /// Begin anew at the restart: all that is skipped is in the store.
    Restart,
    /// Something acknowledged is missing.
    Damage,
}

/// The decision.
pub fn decide(evidence: &Evidence<'_>) -> Verdict {
    let proven = evidence.later.is_some() || evidence.applied.index > evidence.last.index;
    match (proven, evidence.restart, evidence.torn) {
        (true, Some(_), _) => Verdict::Restart,
        (true, None, _) => Verdict::Damage,
        (false, _, Some(_)) => Verdict::TornTail,
        (false, _, None) => Verdict::End,
    }
}

/// Whether nothing before this batch is needed: the store has applied everything up to its first entry, or, if it
/// holds none, everything there is.
pub fn may_begin_at(header: &Header, applied: LogPosition) -> bool {
    match header.first.index.0 {
        0 => header.last.index <= applied.index,
        first => first <= applied.index.0 + 1,
    }
}
