//! The published, immutable version and what can be read from it on any core.
//!
//! A view pins the pages it reaches for as long as it lives, so whoever answers from one must not
//! keep it longer than it makes progress. Reads take an epoch guard, which keeps page *memory* in
//! place; no guard and nothing borrowed under it may be held across a wait.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam::epoch::Guard;

use crate::alarm::{Alarm, AlarmKind};
use crate::error::{RangeError, TxnError};
use crate::hash::HashCache;
use crate::history::State;
use crate::plan::{Planned, RangeJob};
use crate::range::RangeAnswer;
use crate::store::Store;
use crate::tree::{Damage, Reader, Snapshot};
use crate::types::{Applied, RangeOptions, Txn, TxnOutcome};

/// One version of the store. Cheap to clone behind its `Arc`, readable on every core.
pub struct View {
    snapshot: Snapshot,
    revision: i64,
    compact_revision: i64,
    finished_compact_revision: i64,
    history_intact_from: i64,
    applied: Applied,
    alarms: Vec<Alarm>,
    pub(crate) hashes: Arc<HashCache>,
    allocated_bytes: u64,
    in_use_bytes: u64,
}

impl View {
    pub(crate) fn new(store: &mut Store) -> View {
        let snapshot = store.tree.publish();
        View {
            snapshot,
            revision: store.revision(),
            compact_revision: store.compact_revision(),
            finished_compact_revision: store.compaction.finished(),
            history_intact_from: store.compaction.history_intact_from(),
            applied: store.applied(),
            alarms: store.alarms(None),
            hashes: store.hashes.clone(),
            allocated_bytes: store.tree.allocated_bytes(),
            in_use_bytes: store.tree.in_use_bytes(),
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Where history begins; -1 if never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Up to where compaction has removed rows; equal to the compact revision when it is done.
    pub fn finished_compact_revision(&self) -> i64 {
        self.finished_compact_revision
    }

    /// The revision from which [`View::events`] has no holes in this view. It may lie before the
    /// compact revision: a compaction that is scheduled but has removed nothing yet leaves what a
    /// watcher that was up to date still has to see.
    pub fn history_intact_from(&self) -> i64 {
        self.history_intact_from
    }

    /// The log position that this view reflects.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The raised alarms by member and kind.
    pub fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }

    /// Whether any member has raised an alarm of this kind.
    pub fn has_alarm(&self, kind: AlarmKind) -> bool {
        self.alarms.iter().any(|alarm| alarm.kind == kind)
    }

    /// Bytes in pages that are used or wait for a pin or a checkpoint: `dbSize`, and what the quota
    /// is held against.
    pub fn allocated_bytes(&self) -> u64 {
        self.allocated_bytes
    }

    /// Bytes in pages that this version uses: `dbSizeInUse`.
    pub fn in_use_bytes(&self) -> u64 {
        self.in_use_bytes
    }

    /// Plans a Range at once; the answer's rows are read when it is filled.
    pub fn range(self: &Arc<Self>, guard: &Guard, options: &RangeOptions) -> Result<RangeAnswer, RangeError> {
        let mut planned = self.plan_range(guard, options, usize::MAX)?;
        loop {
            match planned {
                Planned::Done(answer) => return Ok(answer),
                Planned::More(job) => planned = job.step(guard, usize::MAX)?,
            }
        }
    }

    /// Plans a Range, but reads no more than `rows` rows for it now: the rest is for [`RangeJob::step`].
    pub fn plan_range(
        self: &Arc<Self>,
        guard: &Guard,
        options: &RangeOptions,
        rows: usize,
    ) -> Result<Planned, RangeError> {
        RangeJob::begin(self, guard, options, rows)
    }

    /// Answers a transaction of which [`Txn::is_read_only`] is true.
    pub fn txn(&self, guard: &Guard, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        self.state(guard).read_txn(txn)
    }

    /// What [`Store::set_user_meta`] set.
    pub fn user_meta(&self, guard: &Guard, name: &[u8]) -> Result<Option<Bytes>, Damage> {
        self.state(guard).user_meta(name)
    }

    /// All values that [`Store::set_user_meta`] set under names that begin with `prefix`, by name: the name behind the
    /// prefix, and the value.
    pub fn user_meta_below(&self, guard: &Guard, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Damage> {
        self.state(guard).user_meta_below(prefix)
    }

    /// All rows that [`Store::set_member`] set, in the order of ids.
    pub fn members(&self, guard: &Guard) -> Result<Vec<(u64, Bytes)>, Damage> {
        self.state(guard).members()
    }

    pub(crate) fn reader<'g>(&'g self, guard: &'g Guard) -> Reader<'g> {
        self.snapshot.reader(guard)
    }

    pub(crate) fn state<'g>(&'g self, guard: &'g Guard) -> State<Reader<'g>> {
        State {
            source: self.snapshot.reader(guard),
            revision: self.revision,
            compact_revision: self.compact_revision,
        }
    }
}
