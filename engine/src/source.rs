//! Reading rows from either side: the writer's unpublished state, or a published snapshot.
//!
//! Everything that reads is written once over [`Source`] and compiled for both.

use crate::row::BadRow;
use crate::tree::{Cursor, Damage, Fault, Lookups, PageId, Reader, Table, Tree};

/// One state of the tables. Rows live as long as `'s`: the borrow of the writer's tree, or the pin
/// of a snapshot and its epoch guard.
pub(crate) trait Source<'s>: Copy {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&'s [u8]>, Damage>;

    fn cursor(&self, table: Table) -> Cursor<'s>;

    fn lookups(&self, table: Table) -> Lookups<'s>;

    /// Rows in `[from, to)`; of `keys` only the live ones. Costs two descents.
    fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage>;
}

impl<'s> Source<'s> for &'s Tree {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&'s [u8]>, Damage> {
        Tree::get(self, table, key)
    }

    fn cursor(&self, table: Table) -> Cursor<'s> {
        Tree::cursor(self, table)
    }

    fn lookups(&self, table: Table) -> Lookups<'s> {
        self.reader().lookups(table)
    }

    fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        Tree::count(self, table, from, to)
    }
}

impl<'s> Source<'s> for Reader<'s> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<&'s [u8]>, Damage> {
        Reader::get(self, table, key)
    }

    fn cursor(&self, table: Table) -> Cursor<'s> {
        Reader::cursor(self, table)
    }

    fn lookups(&self, table: Table) -> Lookups<'s> {
        Reader::lookups(self, table)
    }

    fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        Reader::count(self, table, from, to)
    }
}

impl BadRow {
    /// What to report when a row is not what `table` holds, or misses. The page's checksum held, so
    /// it was written so, by a bug or by another version: which page it is on does not matter.
    pub(crate) fn of(self, _table: Table) -> Damage {
        Damage { offset: 0, page: PageId(0), fault: Fault::Row }
    }
}
