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
        (true, None, _) if planted::is("durable-batch-cut-as-torn") => Verdict::TornTail,
        (true, None, _) => Verdict::Damage,
        (false, _, Some(_)) => Verdict::TornTail,
        (false, _, None) => Verdict::End,
    }
}

/// Whether nothing before this batch is needed: the store has applied everything up to its first entry, or, if it
/// holds none, everything there is. Before a reset nothing is ever needed: what the store lacks is in the snapshot.
pub fn may_begin_at(header: &Header, applied: LogPosition) -> bool {
    match header.first.index.0 {
        _ if header.reset => true,
        0 => header.last.index <= applied.index,
        first => first <= applied.index.0 + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Identity, SegmentId};
    use super::*;
    use crate::{HardState, NodeId};

    fn header(first: u64, last: u64) -> Header {
        Header {
            identity: Identity { cluster: 1, member: NodeId(1) },
            log_id: 1,
            epoch: 1,
            sequence: 9,
            durable_through: 8,
            segment: SegmentId(1),
            segment_blocks: 1,
            offset: 0,
            len: 4096,
            records_len: 0,
            records: 0,
            first: LogPosition::new(first, 1),
            last: LogPosition::new(last, 1),
            hard_state: HardState::default(),
            previous: 0,
            records_crc: 0,
            marker: false,
            reset: false,
        }
    }

    #[test]
    fn torn_tail_or_damage() {
        use Verdict::*;
        // The chain's last entry, the store's applied; is the next batch's header there, is there a later batch, is
        // there one at which the log may begin anew?
        let cases = [
            (10, 10, false, false, false, End),
            (10, 3, false, false, false, End),
            (10, 3, true, false, false, TornTail),
            (10, 10, true, false, false, TornTail),
            // A later batch proves that this one was durable, whatever is left of it.
            (10, 3, true, true, false, Damage),
            (10, 3, false, true, false, Damage),
            (10, 10, false, true, false, Damage),
            // So does the store.
            (10, 11, false, false, false, Damage),
            (10, 11, true, false, false, Damage),
            (0, 1, false, false, false, Damage),
            // What is missing may be in the store.
            (10, 20, false, true, true, Restart),
            (10, 20, true, true, true, Restart),
            // A place to begin anew is no reason to skip what is not proven.
            (0, 0, false, false, true, End),
        ];
        let some = header(1, 1);
        for (last, applied, torn, later, restart, want) in cases {
            let evidence = Evidence {
                last: LogPosition::new(last, 1),
                applied: LogPosition::new(applied, 1),
                torn: torn.then_some(&some),
                later: later.then_some(&some),
                restart: restart.then_some(&some),
            };
            assert_eq!(decide(&evidence), want, "{evidence:?}");
        }
    }

    #[test]
    fn a_log_begins_where_the_store_misses_nothing() {
        // First and last index of the batch (first 0: no entries), the store's applied.
        let cases = [
            (1, 5, 0, true),
            (2, 5, 0, false),
            (6, 9, 5, true),
            (7, 9, 5, false),
            (3, 9, 5, true),
            (0, 5, 5, true),
            (0, 6, 5, false),
            (0, 0, 0, true),
        ];
        for (first, last, applied, want) in cases {
            let got = may_begin_at(&header(first, last), LogPosition::new(applied, 1));
            assert_eq!(got, want, "first={first} last={last} applied={applied}");
        }
    }
}
