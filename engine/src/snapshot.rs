//! A store as a stream of bytes, for a member that can't catch up from the log any more.
//!
//! The stream is logical: the rows of every table of one published version, in order. The receiver builds its own tree
//! from them, so the two files need not agree on pages, and damage of one can't travel to the other: every row is read
//! through checked pages and written into fresh ones. Numbering, checksums and the digest of what travels are the
//! transport's; here it is only known where the stream begins and ends.
//!
//! ```text
//! begin   "ringd snapshot 1\n" (17 bytes)  applied index u64  applied term u64        all numbers big-endian
//! row     table u8 (0..=6)  key length u32  value length u32  key  value              ascending by table, then key
//! end     0xff  number of rows u64
//! ```

use std::sync::Arc;

use crossbeam::epoch::Guard;

use crate::store::{Config, Store};
use crate::tree::{Damage, Map, Table, Tree};
use crate::types::Applied;
use crate::view::View;

/// What a stream begins with.
const MAGIC: &[u8; 17] = b"ringd snapshot 1\n";

/// Bytes of the beginning.
const BEGIN_LEN: usize = MAGIC.len() + 16;

/// Bytes of a row in front of its key.
const ROW_HEAD_LEN: usize = 9;

/// Stands where a row would name its table.
const END: u8 = 0xff;

/// Bytes of the end.
const END_LEN: usize = 9;

/// Longest key or value that a stream may hold: more than a request may carry.
const PART_LEN_MAX: usize = 64 << 20;

/// A version on its way out. It keeps its pages for as long as it lives.
pub struct Export {
    view: Arc<View>,
    begun: bool,
    /// Where to go on: the table, and the last key that was written.
    table: usize,
    after: Option<Vec<u8>>,
    rows: u64,
    done: bool,
}

impl Export {
    /// Nothing written yet.
    pub fn new(view: Arc<View>) -> Export {
        Export { view, begun: false, table: 0, after: None, rows: 0, done: false }
    }

    /// The log position of the version.
    pub fn applied(&self) -> Applied {
        self.view.applied()
    }

    /// Appends about `limit` bytes, at least one row, to `out`. False when the end has been written.
    ///
    /// # Errors
    /// A page is damaged; the stream must be given up.
    pub fn fill(&mut self, guard: &Guard, limit: usize, out: &mut Vec<u8>) -> Result<bool, Damage> {
        if !self.begun {
            self.begun = true;
            let Applied { index, term } = self.view.applied();
            out.extend_from_slice(MAGIC);
            out.extend_from_slice(&index.to_be_bytes());
            out.extend_from_slice(&term.to_be_bytes());
        }
        let until = out.len() + limit;
        while let Some(&table) = Table::ALL.get(self.table) {
            if self.fill_table(table, guard, until, out)? {
                return Ok(true);
            }
            self.table += 1;
            self.after = None;
        }
        if !self.done {
            self.done = true;
            out.push(END);
            out.extend_from_slice(&self.rows.to_be_bytes());
        }
        Ok(false)
    }

    /// True if `out` is full before the table is over.
    fn fill_table(
        &mut self,
        table: Table,
        guard: &Guard,
        until: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, Damage> {
        let view = self.view.clone();
        let mut cursor = view.reader(guard).cursor(table);
        let mut valid = match &self.after {
            None => cursor.seek_first()?,
            Some(key) => {
                let found = cursor.seek(key)?;
                if found && cursor.key() == &key[..] { cursor.next()? } else { found }
            }
        };
        while valid {
            let (key, value) = (cursor.key(), cursor.value()?);
            out.push(table as u8);
            out.extend_from_slice(&(key.len() as u32).to_be_bytes());
            out.extend_from_slice(&(value.len() as u32).to_be_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
            self.rows += 1;
            if out.len() >= until {
                self.after = Some(key.to_vec());
                return Ok(true);
            }
            valid = cursor.next()?;
        }
        Ok(false)
    }
}

/// Why a stream is no snapshot.
#[derive(Debug, PartialEq, Eq)]
pub enum ImportError {
    /// It does not begin as one of this version.
    Begin,
    /// A row of an unknown table, out of order, or too long.
    Row {
        /// How many rows came before.
        number: u64,
    },
    /// The end names another number of rows, or something follows it.
    End,
    /// It ends in the middle.
    Cut,
    /// It begins with another log position than its rows hold.
    Applied,
    /// A row does not hold what its table should, or the new tree could not be read back.
    Damage(Damage),
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ImportError::Begin => write!(f, "not a snapshot of this version"),
            ImportError::Row { number } => write!(f, "snapshot row {number} is invalid"),
            ImportError::End => write!(f, "the end of the snapshot does not fit its rows"),
            ImportError::Cut => write!(f, "the snapshot is cut off"),
            ImportError::Applied => write!(f, "the snapshot begins with another applied index than it holds"),
            ImportError::Damage(damage) => write!(f, "the snapshot's rows are no store: {damage}"),
        }
    }
}

impl std::error::Error for ImportError {}

impl From<Damage> for ImportError {
    fn from(damage: Damage) -> ImportError {
        ImportError::Damage(damage)
    }
}

/// A store that is being built from a stream.
pub struct Import {
    store: Store,
    /// What came and is no whole row yet.
    rest: Vec<u8>,
    applied: Option<Applied>,
    last: Option<(u8, Vec<u8>)>,
    rows: u64,
    ended: bool,
}

impl Import {
    /// Begins with an empty tree; `map` is that of a new file.
    pub fn new(config: Config, map: Arc<dyn Map>) -> Import {
        let store = Store::create(config, map);
        Import { store, rest: Vec::new(), applied: None, last: None, rows: 0, ended: false }
    }

    /// Takes the next bytes of the stream, cut anywhere.
    ///
    /// # Errors
    /// The stream is not a snapshot; what was built must be thrown away.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        if self.rest.is_empty() {
            let used = self.take(bytes)?;
            self.rest.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        let mut rest = std::mem::take(&mut self.rest);
        rest.extend_from_slice(bytes);
        let used = self.take(&rest)?;
        rest.drain(..used);
        self.rest = rest;
        Ok(())
    }

    /// Bytes of anonymous memory that the tree takes. See [`Tree::heap_bytes`].
    pub fn heap_bytes(&self) -> u64 {
        self.store.tree.heap_bytes()
    }

    /// The tree with all rows that came, published, so that a checkpoint can write them out where heap frames become
    /// many. What such a checkpoint holds is a part, not a store: the file counts only after [`Import::finish`].
    pub fn tree_mut(&mut self) -> &mut Tree {
        self.store.tree.publish();
        &mut self.store.tree
    }

    /// How many of the bytes were whole rows.
    fn take(&mut self, bytes: &[u8]) -> Result<usize, ImportError> {
        let mut used = 0;
        if self.applied.is_none() {
            let Some(begin) = bytes.first_chunk::<BEGIN_LEN>() else {
                let known = bytes.len().min(MAGIC.len());
                return if bytes[..known] == MAGIC[..known] { Ok(0) } else { Err(ImportError::Begin) };
            };
            self.applied = Some(decode_begin(begin)?);
            used = BEGIN_LEN;
        }
        while let Some(len) = self.take_row(&bytes[used..])? {
            used += len;
        }
        Ok(used)
    }

    fn take_row(&mut self, bytes: &[u8]) -> Result<Option<usize>, ImportError> {
        let Some(&table) = bytes.first() else { return Ok(None) };
        if self.ended {
            return Err(ImportError::End);
        }
        if table == END {
            return self.take_end(bytes);
        }
        let invalid = ImportError::Row { number: self.rows };
        let Some(head) = bytes.first_chunk::<ROW_HEAD_LEN>() else { return Ok(None) };
        let (key_len, value_len) = (number(&head[1..5]), number(&head[5..9]));
        let Some(&into) = Table::ALL.get(usize::from(table)) else { return Err(invalid) };
        if key_len > PART_LEN_MAX || value_len > PART_LEN_MAX {
            return Err(invalid);
        }
        let len = ROW_HEAD_LEN + key_len + value_len;
        let Some(row) = bytes.get(ROW_HEAD_LEN..len) else { return Ok(None) };
        let (key, value) = row.split_at(key_len);
        let last = self.last.as_ref().map(|(table, key)| (*table, &key[..]));
        if last.is_some_and(|last| last >= (table, key)) {
            return Err(invalid);
        }
        self.store.tree_mut().put(into, key, &[value])?;
        let (last_table, last_key) = self.last.get_or_insert_default();
        *last_table = table;
        last_key.clear();
        last_key.extend_from_slice(key);
        self.rows += 1;
        Ok(Some(len))
    }

    fn take_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ImportError> {
        let Some(end) = bytes.first_chunk::<END_LEN>() else { return Ok(None) };
        let rows = u64::from_be_bytes(end[1..].try_into().unwrap_or_default());
        if rows != self.rows {
            return Err(ImportError::End);
        }
        self.ended = true;
        Ok(Some(END_LEN))
    }

    /// The store, ready to be published and written out.
    ///
    /// # Errors
    /// The stream is not complete, or its rows contradict each other.
    pub fn finish(self) -> Result<Store, ImportError> {
        if !self.ended || !self.rest.is_empty() {
            return Err(ImportError::Cut);
        }
        let mut store = self.store;
        store.load()?;
        match self.applied == Some(store.applied()) {
            true => Ok(store),
            false => Err(ImportError::Applied),
        }
    }
}

fn decode_begin(begin: &[u8; BEGIN_LEN]) -> Result<Applied, ImportError> {
    let (magic, numbers) = begin.split_at(MAGIC.len());
    let (index, term) = numbers.split_at(8);
    if magic != MAGIC {
        return Err(ImportError::Begin);
    }
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap_or_default());
    Ok(Applied { index: number(index), term: number(term) })
}

/// Four bytes, big-endian.
fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}
