//! The server's own compactions: `node::auto_compact` with the proposal that is under way, and etcd's words in the log.

use std::time::Duration;

use consensus::ProposalId;
use node::api::Error;
use node::auto_compact::{Compactor, REVISION_INTERVAL, Retention};

use crate::config::values::show_duration;

/// Owned by the store core.
pub struct AutoCompaction {
    compactor: Compactor,
    /// The proposal, what it compacts, and since when.
    under_way: Option<(ProposalId, i64, Duration)>,
    /// What is compacted by the proposal that is just being made, and since when.
    wanted: (i64, Duration),
}

impl AutoCompaction {
    /// Begins at `now`, when the store is at `revision`.
    pub fn new(retention: Retention, now: Duration, revision: i64) -> AutoCompaction {
        let compactor = Compactor::new(retention, now, revision);
        AutoCompaction { compactor, under_way: None, wanted: (0, now) }
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
    pub fn step(&mut self, now: Duration, revision: i64) -> Option<i64> {
        let wanted = self.compactor.step(now, revision)?;
        self.wanted = (wanted, now);
        match self.compactor.retention() {
            Retention::Period(period) => tracing::info!(
                revision = wanted,
                "compact-period" = show_duration(period),
                "starting auto periodic compaction"
            ),
            Retention::Revisions(count) => tracing::info!(
                revision = wanted,
                "revision-compaction-retention" = count,
                "starting auto revision compaction"
            ),
        }
        Some(wanted)
    }

    /// The proposal that [`AutoCompaction::step`] asked for.
    pub fn proposed(&mut self, id: ProposalId) {
        self.under_way = Some((id, self.wanted.0, self.wanted.1));
    }

    /// A proposal of the store core was applied, or refused with this error.
    pub fn over(&mut self, id: ProposalId, now: Duration, revision: i64, error: Option<Error>) {
        let Some((_, wanted, since)) = self.under_way.take_if(|(own, ..)| *own == id) else { return };
        // As etcd: if somebody else was there first, all is well.
        let error = error.filter(|&error| error != Error::Compacted);
        self.compactor.finished(now, revision, error.is_none());
        let took = show_duration(now.saturating_sub(since));
        match (self.compactor.retention(), error) {
            (Retention::Period(period), None) => tracing::info!(
                revision = wanted,
                "compact-period" = show_duration(period),
                took,
                "completed auto periodic compaction"
            ),
            (Retention::Revisions(count), None) => tracing::info!(
                revision = wanted,
                "revision-compaction-retention" = count,
                took,
                "completed auto revision compaction"
            ),
            (Retention::Period(period), Some(error)) => tracing::warn!(
                revision = wanted,
                "compact-period" = show_duration(period),
                error = error.text(),
                "failed auto periodic compaction"
            ),
            (Retention::Revisions(count), Some(error)) => tracing::warn!(
                revision = wanted,
                "revision-compaction-retention" = count,
                "retry-interval" = show_duration(REVISION_INTERVAL),
                error = error.text(),
                "failed auto revision compaction"
            ),
        }
    }
}
