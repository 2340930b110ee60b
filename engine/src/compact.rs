//! Compaction: logical at once, physical in slices.
//!
//! [`Store::compact`] moves the compact revision; from then on nobody reads before it. The rows that
//! no reader needs any more are removed later, by [`Store::compact_slice`], a bounded piece at a
//! time between batches. What is kept: for each key the newest row at or before the compact
//! revision if it is a put, and everything after. A tombstone at exactly the compact revision stays
//! until the next compaction, so that a watch from there still sees the deletion.
//!
//! A row dies when its successor does not lie after the compact revision, and every row knows its
//! predecessor. So it is enough to sweep the rows between the last compaction and this one and to
//! remove what each of them replaced: the cost is that of the changes, not of the store.
//!
//! ```text
//!   SweepOld ──► Hash ──► Sweep ──► finished      with the hash for etcd's corruption check
//!                         Sweep ──► finished      without
//! ```
//!
//! The hash reads all rows up to the compact revision, less those at or before the previous one that
//! this compaction removes. `SweepOld` removes just these first, so that `Hash` can take all it
//! finds. (etcd would hash them, too, if nothing at all were kept. But each revision has made a row,
//! and that of the compact revision is kept, put or tombstone.)
//!
//! A compaction cut short by a restart is swept again from its start, which removes what is left,
//! and leaves no hash. One that is scheduled while another is under way waits for it and leaves no
//! hash either (etcd kvstore.go: checkPrevCompactionCompleted); of several that wait only the last
//! matters.

use std::sync::Arc;

use crate::error::TxnError;
use crate::hash::{KeySpaceHasher, KeyValueHash};
use crate::row::{self, BadRow, HistoryRow};
use crate::store::Store;
use crate::tree::{Damage, Table};
use crate::types::Revision;

/// Stored bytes that one row of a slice's budget allows to be hashed, so that a slice of large
/// values takes no longer than one of small ones.
const BYTES_PER_ROW: usize = 1024;

/// How far compaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is nothing to do.
    Idle,
    /// There is more to do.
    More,
    /// The compaction at this revision is done; there may be another.
    Finished(i64),
}

/// `finished <= scheduled`; a job is under way while they differ.
#[derive(Debug)]
pub(crate) struct Compaction {
    scheduled: i64,
    finished: i64,
    job: Option<Job>,
}

impl Default for Compaction {
    fn default() -> Self {
        Compaction { scheduled: -1, finished: -1, job: None }
    }
}

impl Compaction {
    pub fn resume(scheduled: i64, finished: i64) -> Self {
        // slices may have run before the restart
        let job =
            (scheduled > finished).then(|| Job { begun: true, ..Job::without_hash(scheduled, finished) });
        Compaction { scheduled, finished, job }
    }

    pub fn scheduled(&self) -> i64 {
        self.scheduled
    }

    pub fn finished(&self) -> i64 {
        self.finished
    }

    /// The revision from which nothing has been removed yet.
    pub fn history_intact_from(&self) -> i64 {
        match &self.job {
            Some(job) if job.begun => job.revision,
            _ => self.finished,
        }
    }
}

#[derive(Debug)]
struct Job {
    /// The revision compacted at.
    revision: i64,
    /// The compaction before.
    previous: i64,
    /// A slice has run, so rows may be gone.
    begun: bool,
    phase: Phase,
    hash: Option<u32>,
}

#[derive(Debug)]
enum Phase {
    SweepOld { next: Revision },
    Hash { next: Revision, hasher: KeySpaceHasher },
    Sweep { next: Revision },
}

impl Job {
    fn with_hash(revision: i64, previous: i64) -> Job {
        let phase = Phase::SweepOld { next: sweep_start(previous) };
        Job { revision, previous, begun: false, phase, hash: None }
    }

    fn without_hash(revision: i64, previous: i64) -> Job {
        let phase = Phase::Sweep { next: sweep_start(previous) };
        Job { revision, previous, begun: false, phase, hash: None }
    }
}

/// At the previous compact revision itself there may be tombstones that it kept.
fn sweep_start(previous: i64) -> Revision {
    Revision::start_of(previous.max(0))
}

/// What a slice found to remove.
enum Dead {
    Row(Revision),
    Tombstone { revision: Revision, key: Vec<u8> },
}

impl Store {
    /// Applies a Compact: history begins at `revision` from now on.
    pub fn compact(&mut self, revision: i64) -> Result<(), TxnError> {
        let compact_revision = self.compact_revision();
        if revision <= compact_revision {
            return Err(TxnError::Compacted { compact_revision });
        }
        if revision > self.revision {
            return Err(TxnError::FutureRevision { revision: self.revision });
        }
        if self.compaction.job.is_none() {
            self.compaction.job = Some(Job::with_hash(revision, self.compaction.finished));
        }
        self.compaction.scheduled = revision;
        self.write_compact_row()?;
        Ok(())
    }

    /// Up to where compaction has removed rows; equal to the compact revision when it is done.
    pub fn finished_compact_revision(&self) -> i64 {
        self.compaction.finished
    }

    /// Goes on with compaction by about `rows` rows, at least one.
    pub fn compact_slice(&mut self, rows: usize) -> Result<Progress, Damage> {
        let Some(mut job) = self.compaction.job.take() else { return Ok(Progress::Idle) };
        job.begun = true;
        let done = self.advance(&mut job, rows.max(1))?;
        if !done {
            self.compaction.job = Some(job);
            return Ok(Progress::More);
        }
        self.finish(&job)?;
        Ok(Progress::Finished(job.revision))
    }

    fn finish(&mut self, job: &Job) -> Result<(), Damage> {
        self.compaction.finished = job.revision;
        if self.compaction.scheduled > job.revision {
            self.compaction.job = Some(Job::without_hash(self.compaction.scheduled, job.revision));
        }
        if let Some(hash) = job.hash {
            let hash = KeyValueHash { hash, compact_revision: job.previous, revision: job.revision };
            Arc::make_mut(&mut self.hashes).store(hash);
        }
        self.write_compact_row()
    }

    fn write_compact_row(&mut self) -> Result<(), Damage> {
        let Compaction { scheduled, finished, .. } = self.compaction;
        let value = row::encode_pair(scheduled as u64, finished as u64);
        self.tree.put(Table::Meta, row::META_COMPACT, &[&value])
    }

    /// One slice of the present phase, and on to the next one where it ends. True when all are done.
    fn advance(&mut self, job: &mut Job, rows: usize) -> Result<bool, Damage> {
        match &mut job.phase {
            Phase::SweepOld { next } => {
                if self.sweep(next, job.revision, Some(job.previous), rows)? {
                    job.phase = Phase::Hash { next: Revision::default(), hasher: KeySpaceHasher::new() };
                }
            }
            Phase::Hash { next, hasher } => {
                if self.hash_slice(next, hasher, job.revision, job.previous, rows)? {
                    job.hash = Some(hasher.finish());
                    job.phase = Phase::Sweep { next: sweep_start(job.previous) };
                }
            }
            Phase::Sweep { next } => return self.sweep(next, job.revision, None, rows),
        }
        Ok(false)
    }

    /// Removes what the next `rows` rows up to `revision` replaced, and tombstones before it. With
    /// `old`, only rows that are not after that revision, and no tombstones. True at the end.
    fn sweep(
        &mut self,
        next: &mut Revision,
        revision: i64,
        old: Option<i64>,
        rows: usize,
    ) -> Result<bool, Damage> {
        let mut dead = Vec::new();
        let ended = self.visit_rows(next, revision, rows, |at, row| {
            if let Some(previous) = row.previous
                && old.is_none_or(|old| previous.main <= old)
            {
                dead.push(Dead::Row(previous));
            }
            let at_it = at.main == revision && planted::is("tombstone-dropped-at-compact-revision");
            if row.deleted && (at.main < revision || at_it) && old.is_none() {
                dead.push(Dead::Tombstone { revision: at, key: row::key_of(row.kv)?.to_vec() });
            }
            Ok(())
        })?;
        self.written.compacted += dead.len() as u64;
        for dead in dead {
            self.remove_dead(dead)?;
        }
        Ok(ended)
    }

    fn remove_dead(&mut self, dead: Dead) -> Result<(), Damage> {
        match dead {
            Dead::Row(revision) => {
                self.tree.remove(Table::History, &row::history_key(revision))?;
            }
            Dead::Tombstone { revision, key } => {
                self.tree.remove(Table::History, &row::history_key(revision))?;
                if self.state().key_row(&key)?.is_some_and(|row| row.modified == revision) {
                    self.tree.remove(Table::Keys, &key)?;
                }
            }
        }
        Ok(())
    }

    fn hash_slice(
        &self,
        next: &mut Revision,
        hasher: &mut KeySpaceHasher,
        revision: i64,
        previous: i64,
        rows: usize,
    ) -> Result<bool, Damage> {
        self.visit_rows(next, revision, rows, |at, row| {
            if !(row.deleted && at.main == previous) {
                hasher.row(at, row);
            }
            Ok(())
        })
    }

    /// Visits the next `rows` rows of `history` up to main revision `last`, fewer if they are long,
    /// and moves `next` behind them. True if there are no more.
    fn visit_rows(
        &self,
        next: &mut Revision,
        last: i64,
        rows: usize,
        mut visit: impl FnMut(Revision, &HistoryRow<'_>) -> Result<(), BadRow>,
    ) -> Result<bool, Damage> {
        let bad = |bad: BadRow| bad.of(Table::History);
        let mut bytes_left = rows * BYTES_PER_ROW;
        let mut cursor = self.tree.cursor(Table::History);
        let mut found = cursor.seek(&row::history_key(*next))?;
        for _ in 0..rows {
            if !found || bytes_left == 0 {
                break;
            }
            let at = row::decode_history_key(cursor.key()).map_err(bad)?;
            if at.main > last {
                return Ok(true);
            }
            let value = cursor.value()?;
            visit(at, &HistoryRow::decode(value).map_err(bad)?).map_err(bad)?;
            bytes_left = bytes_left.saturating_sub(value.len());
            *next = Revision { sub: at.sub + 1, ..at };
            found = cursor.next()?;
        }
        Ok(!found)
    }
}
