//! The copy-on-write B+tree file. (Interim: kept in memory; the pages arrive with the next changes.)

mod types;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::epoch::Guard;

pub use types::{Config, Damage, Fault, Identity, Map, OpenError, PAGE_SIZE, PageId, Table};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The tree with its unpublished changes: the single writer.
pub struct Tree {
    tables: [Arc<Rows>; Table::COUNT],
}

/// An immutable version. Cloning pins it once more, dropping unpins it.
#[derive(Clone)]
pub struct Snapshot {
    tables: [Arc<Rows>; Table::COUNT],
}

/// Reads of a snapshot under an epoch guard. What it returns lives as long as both.
#[derive(Clone, Copy)]
pub struct Reader<'g> {
    tables: &'g [Arc<Rows>; Table::COUNT],
}

/// A position in a table.
pub struct Cursor<'a> {
    rows: &'a Rows,
    at: Option<(&'a [u8], &'a [u8])>,
}

/// Pages to be written by a background thread.
pub struct Checkpoint(());

impl Tree {
    /// An empty tree. The file is first touched by the first checkpoint.
    pub fn create(_config: Config, _map: Arc<dyn Map>) -> Tree {
        Tree { tables: Default::default() }
    }

    /// The tree of the newest completed checkpoint.
    pub fn open(_config: Config, _map: Arc<dyn Map>) -> Result<Tree, OpenError> {
        Err(OpenError::Empty { torn: None })
    }

    /// The value of `key`, unpublished changes included.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Damage> {
        self.reader().get(table, key)
    }

    /// Sets `key` to the concatenation of `value`.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[&[u8]]) -> Result<(), Damage> {
        Arc::make_mut(&mut self.tables[table as usize]).insert(key.to_vec(), value.concat());
        Ok(())
    }

    /// Removes `key`; false if it was not there.
    pub fn remove(&mut self, table: Table, key: &[u8]) -> Result<bool, Damage> {
        Ok(Arc::make_mut(&mut self.tables[table as usize]).remove(key).is_some())
    }

    /// A cursor before the first row.
    pub fn cursor(&self, table: Table) -> Cursor<'_> {
        self.reader().cursor(table)
    }

    /// The sum of weights in `[from, to)`, to the end if `to` is `None`.
    pub fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        self.reader().count(table, from, to)
    }

    /// The present state as an immutable version.
    pub fn publish(&mut self) -> Snapshot {
        Snapshot { tables: self.tables.clone() }
    }

    /// Makes pages reusable whose last pin is gone.
    pub fn reclaim(&mut self) {}

    /// The pages to write, of the last published version; `None` if there is nothing new.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        None
    }

    /// After all was written and synced.
    pub fn end_checkpoint(&mut self, _checkpoint: Checkpoint) {}

    /// Anonymous memory held by pages changed since the last checkpoint.
    pub fn heap_bytes(&self) -> u64 {
        0
    }

    /// Bytes in pages that the present state uses.
    pub fn in_use_bytes(&self) -> u64 {
        0
    }

    /// Bytes in pages that are used or wait for a pin or a checkpoint.
    pub fn allocated_bytes(&self) -> u64 {
        0
    }

    fn reader(&self) -> Reader<'_> {
        Reader { tables: &self.tables }
    }
}

impl Snapshot {
    /// Reads of this version.
    pub fn reader<'g>(&'g self, _guard: &'g Guard) -> Reader<'g> {
        Reader { tables: &self.tables }
    }
}

impl<'g> Reader<'g> {
    /// The value of `key`.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<&'g [u8]>, Damage> {
        Ok(self.tables[table as usize].get(key).map(Vec::as_slice))
    }

    /// A cursor before the first row.
    pub fn cursor(&self, table: Table) -> Cursor<'g> {
        Cursor { rows: &self.tables[table as usize], at: None }
    }

    /// The sum of weights in `[from, to)`, to the end if `to` is `None`.
    pub fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        let rows = self.tables[table as usize].range(from.to_vec()..);
        let rows = rows.take_while(|(key, _)| to.is_none_or(|to| key.as_slice() < to));
        Ok(rows.filter(|(_, value)| table.weight(value.first().copied())).count() as u64)
    }
}

impl<'a> Cursor<'a> {
    /// To the first row at or after `key`; false if there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, Damage> {
        Ok(self.set(self.rows.range(key.to_vec()..).next()))
    }

    /// To the last row at or before `key`; false if there is none.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, Damage> {
        Ok(self.set(self.rows.range(..=key.to_vec()).next_back()))
    }

    /// To the first row; false if the table is empty.
    pub fn seek_first(&mut self) -> Result<bool, Damage> {
        Ok(self.set(self.rows.iter().next()))
    }

    /// To the last row; false if the table is empty.
    pub fn seek_last(&mut self) -> Result<bool, Damage> {
        Ok(self.set(self.rows.iter().next_back()))
    }

    /// To the next row; false if there is none, and the cursor is nowhere.
    #[allow(clippy::should_implement_trait)] // it borrows nothing from the cursor and can fail
    pub fn next(&mut self) -> Result<bool, Damage> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some((key, _)) = self.at else { return Ok(false) };
        Ok(self.set(self.rows.range::<[u8], _>((Excluded(key), Unbounded)).next()))
    }

    /// To the row before; false if there is none, and the cursor is nowhere.
    pub fn prev(&mut self) -> Result<bool, Damage> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some((key, _)) = self.at else { return Ok(false) };
        Ok(self.set(self.rows.range::<[u8], _>((Unbounded, Excluded(key))).next_back()))
    }

    /// Whether it stands on a row.
    pub fn is_valid(&self) -> bool {
        self.at.is_some()
    }

    /// The row's key. The cursor must stand on one.
    pub fn key(&self) -> &'a [u8] {
        self.at.expect("the cursor stands on a row").0
    }

    /// The row's value. The cursor must stand on one.
    pub fn value(&self) -> Result<&'a [u8], Damage> {
        Ok(self.at.expect("the cursor stands on a row").1)
    }

    fn set(&mut self, row: Option<(&'a Vec<u8>, &'a Vec<u8>)>) -> bool {
        self.at = row.map(|(key, value)| (key.as_slice(), value.as_slice()));
        self.at.is_some()
    }
}
