//! A key's state at a revision.
//!
//! `keys` knows each key's newest row; older rows hang on it by their previous-revision links. So
//! the newest revision costs one look-up and an older one a walk back through as many changes as
//! the key had since. Compaction cuts chains at their old end: at the compact revision and after
//! it every walk finds what it needs, and before it nobody may ask.

use smallvec::SmallVec;

use crate::row::{self, BadRow, HistoryRow, KeyRow, KeyRowFront};
use crate::source::Source;
use crate::tree::{Damage, GROUP_ROWS, Lookups, Table, Values};
use crate::types::Revision;

/// The store as one moment shows it: the rows, and which revisions may be asked for.
#[derive(Clone, Copy)]
pub(crate) struct State<S> {
    pub source: S,
    /// The newest revision; inside a transaction that has changed something, the one it makes.
    pub revision: i64,
    /// Where history begins; -1 if never compacted.
    pub compact_revision: i64,
}

/// Where the row of a live key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    pub revision: Revision,
    /// Length of its encoded `KeyValue`.
    pub kv_len: u32,
}

/// Looks up the `history` rows of a list.
pub(crate) struct LiveRows<'s>(Lookups<'s>);

impl<'s> LiveRows<'s> {
    /// The values of rows that other rows refer to as alive, at most [`GROUP_ROWS`] of them: the absence of one is damage.
    #[inline]
    pub fn group(&mut self, located: &[Located]) -> Result<Values<'s>, Damage> {
        let keys: SmallVec<[[u8; 16]; GROUP_ROWS]> =
            located.iter().map(|located| row::history_key(located.revision)).collect();
        self.0.group(&keys)?.ok_or(BadRow.of(Table::History))
    }
}

impl<'s, S: Source<'s>> State<S> {
    /// The `keys` row of `key`, whether alive or not.
    pub fn key_row(&self, key: &[u8]) -> Result<Option<KeyRow>, Damage> {
        let Some(value) = self.source.get(Table::Keys, key)? else { return Ok(None) };
        KeyRow::decode(value).map(Some).map_err(|bad| bad.of(Table::Keys))
    }

    /// The `history` row at `revision`; `None` if compaction took it.
    pub fn history_row(&self, revision: Revision) -> Result<Option<HistoryRow<'s>>, Damage> {
        let key = row::history_key(revision);
        let Some(value) = self.source.get(Table::History, &key)? else { return Ok(None) };
        HistoryRow::decode(value).map(Some).map_err(|bad| bad.of(Table::History))
    }

    /// For the rows of a list.
    pub fn live_rows(&self) -> LiveRows<'s> {
        LiveRows(self.source.lookups(Table::History))
    }

    /// The `history` row that another row refers to as alive: its absence is damage.
    pub fn live_row(&self, revision: Revision) -> Result<HistoryRow<'s>, Damage> {
        self.history_row(revision)?.ok_or(BadRow.of(Table::History))
    }

    /// The row that shows a key at revision `at`, if the key is alive there. `at` must not lie
    /// before the compact revision.
    pub fn locate(&self, newest: &KeyRow, at: i64) -> Result<Option<Located>, Damage> {
        if newest.modified.main <= at {
            return Ok(newest.live.then_some(Located { revision: newest.modified, kv_len: newest.kv_len }));
        }
        self.locate_older(newest.previous, at)
    }

    /// [`State::locate`] for a `keys` row that is not decoded further than needed.
    #[inline]
    pub fn locate_front(&self, newest: &KeyRowFront<'_>, at: i64) -> Result<Option<Located>, Damage> {
        if newest.modified.main <= at {
            return Ok(newest.live.then_some(Located { revision: newest.modified, kv_len: newest.kv_len }));
        }
        let whole = newest.whole().map_err(|bad| bad.of(Table::Keys))?;
        self.locate_older(whole.previous, at)
    }

    /// [`State::locate`] for a key of which only an older row is known.
    pub fn locate_older(&self, mut link: Option<Revision>, at: i64) -> Result<Option<Located>, Damage> {
        while let Some(revision) = link {
            let Some(row) = self.history_row(revision)? else { return Ok(None) };
            if revision.main <= at {
                let kv_len = row.kv.len() as u32;
                return Ok((!row.deleted).then_some(Located { revision, kv_len }));
            }
            link = row.previous;
        }
        Ok(None)
    }
}
