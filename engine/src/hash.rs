//! Hashes that members compare: HashKV and Hash.
//!
//! **HashKV** is etcd's, byte for byte, so that members of both kinds agree (etcd hash.go): CRC-32C
//! over the word `key`, then over each row of the key space in the order of revisions, as etcd
//! stores it: 8 bytes main, `_`, 8 bytes sub, `t` if it is a tombstone, the encoded `KeyValue`. Left
//! out are rows after the revision asked for; rows at or before the compact revision that a
//! compaction at the revision asked for would remove (unless that would leave nothing at all); and
//! a tombstone at exactly the compact revision. So the hash does not depend on how far a
//! compaction's physical part has come.
//!
//! A finished compaction also leaves a hash: of the rows up to its revision, seen before it removed
//! any. The newest [`HASHES_KEPT`] are kept, in memory only, and HashKV at such a revision answers
//! from there; its compact revision is then that of the compaction before. Revision 0 is asked for there too before it
//! means the newest: after a compaction at 0, which is allowed once, that one's hash is the answer until it is forgotten.
//! All as etcd does. A compaction that a restart replays from the log leaves its hash again.
//!
//! **Hash** covers all tables in their order and serves tests alone. Its value differs from etcd's,
//! whose tables differ.

use std::sync::Arc;

use crossbeam::epoch::Guard;

use crate::error::RangeError;
use crate::history::State;
use crate::range::Bounds;
use crate::row::{self, BadRow, HistoryRow};
use crate::source::Source;
use crate::tree::{Damage, Table};
use crate::types::Revision;
use crate::view::View;

/// Hashes of finished compactions that are kept. etcd hash.go: hashStorageMaxSize.
pub const HASHES_KEPT: usize = 10;

/// A hash and the two revisions that it depends on: only hashes with the same two are comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyValueHash {
    /// CRC-32C.
    pub hash: u32,
    /// Compact revision at the time; -1 if never compacted.
    pub compact_revision: i64,
    /// The last revision that was hashed.
    pub revision: i64,
}

/// Answer to a HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// The hash.
    pub hash: KeyValueHash,
    /// Header revision.
    pub revision: i64,
}

/// The hashes of the newest finished compactions, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct HashCache(Vec<KeyValueHash>);

impl HashCache {
    pub fn store(&mut self, hash: KeyValueHash) {
        self.0.push(hash);
        self.0.sort_by_key(|hash| hash.revision);
        if self.0.len() > HASHES_KEPT {
            self.0.remove(0);
        }
    }

    fn at(&self, revision: i64) -> Option<KeyValueHash> {
        self.0.iter().find(|hash| hash.revision == revision).copied()
    }
}

/// CRC-32C over rows in etcd's form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpaceHasher(u32);

impl KeySpaceHasher {
    pub fn new() -> Self {
        KeySpaceHasher(crc32c::crc32c(b"key"))
    }

    pub fn row(&mut self, revision: Revision, row: &HistoryRow<'_>) {
        let mut key = [b't'; 18];
        key[..8].copy_from_slice(&revision.main.to_be_bytes());
        key[8] = b'_';
        key[9..17].copy_from_slice(&revision.sub.to_be_bytes());
        let key = &key[..if row.deleted { 18 } else { 17 }];
        self.0 = crc32c::crc32c_append(crc32c::crc32c_append(self.0, key), row.kv);
    }

    pub fn finish(self) -> u32 {
        self.0
    }
}

/// A HashKV under way. It reads the whole history, so it is made in steps.
pub struct HashKvJob {
    view: Arc<View>,
    /// The revision asked for.
    revision: i64,
    /// Rows at or before the compact revision count if they show their key at this revision.
    kept_at: i64,
    hasher: KeySpaceHasher,
    next: Revision,
    done: Option<KeyValueHash>,
}

impl HashKvJob {
    /// Hashes the next `rows` rows or a few less; the answer when all are done.
    pub fn step(&mut self, guard: &Guard, rows: usize) -> Result<Option<HashKv>, Damage> {
        let view = self.view.clone();
        let state = view.state(guard);
        if self.done.is_none() {
            self.hash_rows(&state, rows)?;
        }
        Ok(self.done.map(|hash| HashKv { hash, revision: state.revision }))
    }

    fn hash_rows<'s, S: Source<'s>>(&mut self, state: &State<S>, rows: usize) -> Result<(), Damage> {
        let bad = |bad: BadRow| bad.of(Table::History);
        let mut cursor = state.source.cursor(Table::History);
        let mut found = cursor.seek(&row::history_key(self.next))?;
        for _ in 0..rows {
            if !found {
                break;
            }
            let revision = row::decode_history_key(cursor.key()).map_err(bad)?;
            if revision.main > self.revision {
                break;
            }
            let row = HistoryRow::decode(cursor.value()?).map_err(bad)?;
            if self.belongs(state, revision, &row)? {
                self.hasher.row(revision, &row);
            }
            self.next = Revision { sub: revision.sub + 1, ..revision };
            found = cursor.next()?;
        }
        let at_end = !found || row::decode_history_key(cursor.key()).map_err(bad)?.main > self.revision;
        if at_end {
            self.done = Some(KeyValueHash {
                hash: self.hasher.finish(),
                compact_revision: state.compact_revision,
                revision: self.revision,
            });
        }
        Ok(())
    }

    fn belongs<'s, S: Source<'s>>(
        &self,
        state: &State<S>,
        revision: Revision,
        row: &HistoryRow<'_>,
    ) -> Result<bool, Damage> {
        if revision.main > state.compact_revision {
            return Ok(true);
        }
        let key = row::key_of(row.kv).map_err(|bad| bad.of(Table::History))?;
        let Some(newest) = state.key_row(key)? else { return Ok(false) };
        Ok(state.locate(&newest, self.kept_at)?.is_some_and(|located| located.revision == revision))
    }
}

impl View {
    /// Begins a HashKV at `revision`; 0 means the newest. etcd takes a negative one as it is and
    /// finds no rows.
    pub fn hash_kv(self: &Arc<Self>, guard: &Guard, revision: i64) -> Result<HashKvJob, RangeError> {
        let mut job = HashKvJob {
            view: self.clone(),
            revision,
            kept_at: revision,
            hasher: KeySpaceHasher::new(),
            next: Revision::default(),
            done: self.hashes.at(revision),
        };
        if job.done.is_some() {
            return Ok(job);
        }
        let state = self.state(guard);
        if revision > 0 && revision < state.compact_revision {
            return Err(RangeError::Compacted { compact_revision: state.compact_revision });
        }
        if revision > state.revision {
            return Err(RangeError::FutureRevision { revision: state.revision });
        }
        if revision == 0 {
            job.revision = state.revision;
        }
        let any = state.any_live_at(job.revision)?;
        job.kept_at = if any { job.revision } else { state.compact_revision };
        Ok(job)
    }

    /// CRC-32C of all rows of all tables but the applied index. For tests: two members agree only
    /// if their compactions have come equally far.
    pub fn hash(&self, guard: &Guard) -> Result<u32, Damage> {
        let state = self.state(guard);
        let mut crc = 0;
        for table in Table::ALL {
            crc = crc32c::crc32c_append(crc, format!("{table:?}").as_bytes());
            let mut cursor = state.source.cursor(table);
            let mut found = cursor.seek_first()?;
            while found {
                if !(table == Table::Meta && cursor.key() == row::META_APPLIED) {
                    crc = crc32c::crc32c_append(crc, cursor.key());
                    crc = crc32c::crc32c_append(crc, cursor.value()?);
                }
                found = cursor.next()?;
            }
        }
        Ok(crc)
    }
}

impl<'s, S: Source<'s>> State<S> {
    fn any_live_at(&self, at: i64) -> Result<bool, Damage> {
        if at >= self.revision {
            return Ok(self.source.count(Table::Keys, &[], None)? > 0);
        }
        let mut any = false;
        if at < 1 {
            return Ok(any);
        }
        self.walk(Bounds::From(&[]), at, |_, _, _| {
            any = true;
            Ok(false)
        })?;
        Ok(any)
    }
}
