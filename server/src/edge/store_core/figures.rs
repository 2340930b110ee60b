//! What the store core is watched by: times, counters, warnings, log lines; and the places where a test lets it die.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus::{Entry, Index};
use engine::Store;
use engine::compact::Progress;
use engine::tree::Table;
use node::Answer;
use node::api::Error;
use node::auto_compact::{REVISION_INTERVAL, Retention};
use node::propose::Command;
use node::store_core::{Observer, StoreCore};

use super::failpoint;
use crate::config::values::show_duration;
use crate::edge::clock::now;
use crate::edge::shared::Shared;
use crate::edge::slow;
use crate::observe::metrics::{self, Op};

/// See the module's header.
pub struct Figures {
    shared: Arc<Shared>,
    batch_began: Duration,
    entry_began: Duration,
    /// Under which name the entry being applied is counted.
    counted: Option<Op>,
    slice_began: Duration,
    /// Rows that were removed before it.
    removed: u64,
    /// When the compaction under way began.
    compaction_began: Option<Duration>,
}

impl Figures {
    /// Nothing has happened.
    pub fn new(shared: Arc<Shared>) -> Figures {
        Figures {
            shared,
            batch_began: Duration::ZERO,
            entry_began: Duration::ZERO,
            counted: None,
            slice_began: Duration::ZERO,
            removed: 0,
            compaction_began: None,
        }
    }

    /// A compaction has ended: its time, and the hour as etcd shows it.
    fn count_compaction(&mut self) {
        let cells = &metrics::here().plain;
        if let Some(began) = self.compaction_began.take() {
            cells.compaction_total.observe_duration(now() - began);
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        cells.compaction_last.set_unsigned(unix.as_secs());
    }
}

impl Observer for Figures {
    fn batch_begins(&mut self) {
        failpoint("commit-before-apply");
        self.batch_began = now();
        self.entry_began = self.batch_began;
    }

    fn entry_begins(&mut self, command: Option<&Command>) {
        self.counted = command.and_then(count_command);
    }

    fn entry_applied(&mut self, entry: &Entry, result: &Result<Answer, Error>) {
        let ended = now();
        let took = ended - self.entry_began;
        if let Some(op) = self.counted {
            metrics::here().applied(op, result.is_ok(), took);
        }
        let limit = self.shared.config.warning_apply;
        if took > limit {
            slow::apply(&entry.data, took, limit, result);
        }
        self.entry_began = ended;
    }

    fn batch_ends(&mut self) {
        metrics::here().plain.apply_batch.observe_duration(now() - self.batch_began);
    }

    fn publish_begins(&mut self) {
        failpoint("apply-before-publish");
    }

    fn published(&mut self, store: &Store, entries: usize) {
        failpoint("publish-before-answer");
        if entries > 0 {
            metrics::here().plain.apply_batch_entries.observe(entries as u64);
        }
        let tree = store.tree();
        self.shared.publish_space(tree.allocated_bytes(), tree.in_use_bytes(), tree.heap_bytes());
    }

    fn slice_begins(&mut self, store: &Store) {
        (self.slice_began, self.removed) = (now(), store.written().compacted);
    }

    fn slice_ends(&mut self, store: &Store, progress: &Progress) {
        if matches!(progress, Progress::Idle) {
            return;
        }
        let cells = &metrics::here().plain;
        self.compaction_began.get_or_insert(self.slice_began);
        cells.compaction_pause.observe_duration(now() - self.slice_began);
        cells.compaction_keys.add(store.written().compacted - self.removed);
        if matches!(progress, Progress::Finished(_)) {
            self.count_compaction();
        }
    }

    fn checkpoint_written(&mut self, covers: Index, frames: usize, took: Duration) {
        failpoint("checkpoint-after-end");
        let metrics = &metrics::here().plain;
        metrics.checkpoint.observe_duration(took);
        metrics.backend_commit.observe_duration(took);
        metrics.checkpoint_pages.add(frames as u64);
        tracing::debug!(index = covers.0, pages = frames, ?took, "wrote a checkpoint");
    }

    fn checkpoint_failed(&mut self) {
        metrics::here().plain.checkpoint_failures.inc();
    }

    fn defragment_begins(&mut self) {
        metrics::here().plain.defrag_inflight.set(1);
    }

    fn defragment_ends(&mut self, took: Option<Duration>) {
        let cells = &metrics::here().plain;
        cells.defrag_inflight.set(0);
        if let Some(took) = took {
            cells.backend_defrag.observe_duration(took);
        }
    }

    fn lease_renewed(&mut self, _: i64) {
        metrics::here().plain.lease_renewed.inc();
    }

    fn lease_expired(&mut self) {
        metrics::here().plain.lease_expired.inc();
    }

    fn compaction_starts(&mut self, kept: Retention, revision: i64) {
        match kept {
            Retention::Period(period) => tracing::info!(
                revision,
                "compact-period" = show_duration(period),
                "starting auto periodic compaction"
            ),
            Retention::Revisions(count) => tracing::info!(
                revision,
                "revision-compaction-retention" = count,
                "starting auto revision compaction"
            ),
        }
    }

    fn compaction_ends(&mut self, kept: Retention, revision: i64, took: Duration, error: Option<Error>) {
        let took = show_duration(took);
        match (kept, error) {
            (Retention::Period(period), None) => tracing::info!(
                revision,
                "compact-period" = show_duration(period),
                took,
                "completed auto periodic compaction"
            ),
            (Retention::Revisions(count), None) => tracing::info!(
                revision,
                "revision-compaction-retention" = count,
                took,
                "completed auto revision compaction"
            ),
            (Retention::Period(period), Some(error)) => tracing::warn!(
                revision,
                "compact-period" = show_duration(period),
                error = error.text(),
                "failed auto periodic compaction"
            ),
            (Retention::Revisions(count), Some(error)) => tracing::warn!(
                revision,
                "revision-compaction-retention" = count,
                "retry-interval" = show_duration(REVISION_INTERVAL),
                error = error.text(),
                "failed auto revision compaction"
            ),
        }
    }

    fn version_decided(&mut self, before: Option<&str>, version: &str) {
        match before {
            None => {
                tracing::info!("cluster-version" = version, "setting up initial cluster version using v3 API")
            }
            Some(from) => tracing::info!(from, to = version, "updating cluster version using v3 API"),
        }
    }

    fn installed(&mut self, store: &Store) {
        tracing::info!(index = store.applied().index, revision = store.revision(), "installed a snapshot");
    }
}

/// Figures as of a tick.
pub fn count(core: &StoreCore<Figures>) {
    let cells = &metrics::here().plain;
    let store = core.store();
    let written = store.written();
    cells.put_total.add(written.puts.saturating_sub(cells.put_total.value()));
    cells.total_put_size.set_unsigned(written.put_bytes);
    cells.proposals_applied.set_unsigned(core.published().0);
    cells.current_revision.set(store.revision());
    cells.compact_revision.set(store.compact_revision());
    cells.file_pages.set_unsigned(u64::from(store.tree().file_pages()));
    cells.log_bytes_since_checkpoint.set_unsigned(core.log_bytes());
    if let Ok(keys) = store.tree().count(Table::Keys, &[], None) {
        cells.keys.set_unsigned(keys);
    }
}

/// Counts a command as etcd does, and says under which name its application is counted.
fn count_command(command: &Command) -> Option<Op> {
    let cells = &metrics::here().plain;
    Some(match command {
        Command::Put(_) => Op::Put, // rows are counted where they are written, also those of a txn
        Command::DeleteRange(_) => {
            cells.delete_total.inc();
            Op::DeleteRange
        }
        Command::Txn(_) => {
            cells.txn_total.inc();
            Op::Txn
        }
        Command::Compact { .. } => Op::Compaction,
        Command::LeaseGrant { ttl, .. } => {
            cells.lease_granted.inc();
            cells.lease_ttl.observe(u64::try_from(*ttl).unwrap_or(0));
            Op::LeaseGrant
        }
        Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => {
            cells.lease_revoked.inc();
            Op::LeaseRevoke
        }
        Command::LeaseCheckpoint { .. } => Op::LeaseCheckpoint,
        Command::Alarm(_) => Op::Alarm,
        Command::ClusterVersionSet { .. } => Op::ClusterVersionSet,
        Command::ClusterMemberAttrSet(_) => Op::ClusterMemberAttrSet,
        Command::Nothing => return None,
    })
}
