//! What a damaged log still says about its end.
//!
//! Every batch repeats the hard state and the end of the log, so the newest header that is intact tells both, whatever is
//! damaged before it. Batches behind it that left no intact header are a torn tail by the same reasoning as in
//! [`verdict`](super::verdict): nothing proves that they were ever durable; unless the store does, which has applied
//! what it can only have from there.

use super::record::Header;
use super::scan::Scan;
use super::{BLOCK, Identity, RecoverError, SegmentReader};
use crate::{HardState, LogPosition};

/// The newest intact header of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The hard state with it.
    pub hard_state: HardState,
    /// The end of the log with it.
    pub last: LogPosition,
}

impl Survey {
    /// Looks at every block of every segment.
    pub fn take(reader: &dyn SegmentReader, identity: Identity) -> Result<Survey, RecoverError> {
        let mut scan = Scan::new(reader, identity)?;
        let mut newest: Option<Header> = None;
        for info in scan.segments.clone() {
            for offset in (0..info.size).step_by(BLOCK) {
                let header = scan.batch_at(info.id, offset);
                let later =
                    header.filter(|header| newest.is_none_or(|newest| header.sequence > newest.sequence));
                newest = later.or(newest);
            }
        }
        let survey = newest.map(|header| Survey { hard_state: header.hard_state, last: header.last });
        Ok(survey.unwrap_or_default())
    }

    /// Whether nothing durable can have followed: not if the store has applied entries beyond. What has followed may also have
    /// held a newer term and a vote.
    pub fn is_whole(&self, applied: LogPosition) -> bool {
        self.last.index >= applied.index && self.last != LogPosition::default()
    }
}
