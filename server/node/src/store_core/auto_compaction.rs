//! The server's own compactions: [`crate::auto_compact`] with the proposal that is under way.

use std::time::Duration;

use consensus::ProposalId;

use crate::api::Error;
use crate::auto_compact::{Compactor, Retention};

/// Owned by the store core.
pub(super) struct AutoCompaction {
    compactor: Compactor,
    /// The proposal, what it compacts, and since when.
    under_way: Option<(ProposalId, i64, Duration)>,
}

/// One that is over.
pub(super) struct Over {
    pub kept: Retention,
    pub revision: i64,
    pub took: Duration,
    /// Why nothing was compacted. As in etcd: if somebody else was there first, all is well.
    pub error: Option<Error>,
}

impl AutoCompaction {
    /// Begins at `now`, when the store is at `revision`.
    pub fn new(retention: Retention, now: Duration, revision: i64) -> AutoCompaction {
        AutoCompaction { compactor: Compactor::new(retention, now, revision), under_way: None }
    }

    /// See [`Compactor::lead`].
    pub fn lead(&mut self, leads: bool) {
        self.compactor.lead(leads);
    }

    /// See [`Compactor::next_timeout`].
    pub fn next_timeout(&self) -> Option<Duration> {
        self.compactor.next_timeout()
    }

    /// The revision to propose a compaction of; then [`AutoCompaction::proposed`] is due.
    pub fn step(&mut self, now: Duration, revision: i64) -> Option<(Retention, i64)> {
        let wanted = self.compactor.step(now, revision)?;
        Some((self.compactor.retention(), wanted))
    }

    /// This proposal is what [`AutoCompaction::step`] asked for.
    pub fn proposed(&mut self, id: ProposalId, revision: i64, now: Duration) {
        self.under_way = Some((id, revision, now));
    }

    /// A proposal of the store core was applied, or refused with this error.
    pub fn over(&mut self, id: ProposalId, now: Duration, newest: i64, error: Option<Error>) -> Option<Over> {
        let (_, revision, since) = self.under_way.take_if(|(own, ..)| *own == id)?;
        let error = error.filter(|&error| error != Error::Compacted);
        self.compactor.finished(now, newest, error.is_none());
        Some(Over { kept: self.compactor.retention(), revision, took: now.saturating_sub(since), error })
    }
}
