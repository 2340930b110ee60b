//! Put and delete: how one change becomes rows.
//!
//! A change appends one row to `history` and replaces the key's row in `keys`; a change of lease
//! also moves a row of `lease_keys`. The new row links to the key's previous one, so nothing older
//! is touched.

use bytes::Bytes;

use crate::error::TxnError;
use crate::history::State;
use crate::lease::Lessor;
use crate::range::Bounds;
use crate::row::{self, KeyRow, KeyValue};
use crate::source::Source;
use crate::store::Store;
use crate::tree::{Damage, Table};
use crate::types::{DeleteOptions, LeaseId, PutOptions, Revision};

/// Keys that a DeleteRange collects before it deletes them: bounds its memory, not its effect.
const DELETE_CHUNK_KEYS: usize = 256;

/// The changes of one request: all have the same main revision, and subs 0, 1, 2, …
pub(crate) struct Changes {
    base: i64,
    count: i64,
}

impl Changes {
    pub fn after(revision: i64) -> Changes {
        Changes { base: revision, count: 0 }
    }

    fn next(&mut self) -> Revision {
        let revision = Revision { main: self.base + 1, sub: self.count };
        self.count += 1;
        revision
    }

    /// The revision as seen after these changes: one more if there are any.
    pub fn end(&self) -> i64 {
        self.base + i64::from(self.count > 0)
    }
}

impl<'s, S: Source<'s>> State<S> {
    /// etcd put.go: the lease must exist, then the key if something of it is to be kept.
    pub fn check_put(&self, lessor: &Lessor, put: &PutOptions) -> Result<(), TxnError> {
        if put.lease != LeaseId::NONE && !lessor.contains(put.lease) {
            return Err(TxnError::LeaseNotFound { lease: put.lease });
        }
        if (put.ignore_value || put.ignore_lease) && !self.key_row(&put.key)?.is_some_and(|row| row.live) {
            return Err(TxnError::KeyNotFound);
        }
        Ok(())
    }

    /// A copy of the stored `KeyValue`.
    fn copy_row(&self, row: &KeyRow) -> Result<Bytes, Damage> {
        Ok(Bytes::copy_from_slice(self.live_row(row.modified)?.kv))
    }
}

impl Store {
    /// Writes one key; answers its former row if asked for.
    pub(crate) fn write_put(
        &mut self,
        changes: &mut Changes,
        put: &PutOptions,
    ) -> Result<Option<Bytes>, Damage> {
        let state = self.state();
        let prior = state.key_row(&put.key)?;
        let live = prior.filter(|row| row.live);
        let kept = match &live {
            Some(row) if put.prev_kv || put.ignore_value => Some(state.copy_row(row)?),
            _ => None,
        };
        let value = match &kept {
            Some(kv) if put.ignore_value => KeyValue::decode(kv).map_err(|bad| bad.of(Table::History))?.value,
            _ => &put.value[..],
        };
        let former_lease = live.map_or(LeaseId::NONE, |row| row.lease);
        let lease = if put.ignore_lease { former_lease } else { put.lease };

        let modified = changes.next();
        let kv = KeyValue {
            key: &put.key,
            create_revision: live.map_or(modified.main, |row| row.create_revision),
            mod_revision: modified.main,
            version: live.map_or(1, |row| row.version + 1),
            value,
            lease: lease.0,
        };
        self.written.puts += 1;
        self.written.put_bytes += kv.encoded_len() as u64;
        let previous = prior.map(|row| row.modified);
        let history = kv.as_history(false, live.is_none(), previous);
        self.tree.put(Table::History, &row::history_key(modified), &history.parts(&kv))?;
        let row = KeyRow {
            live: true,
            kv_len: kv.encoded_len() as u32,
            modified,
            create_revision: kv.create_revision,
            version: kv.version,
            previous,
            lease,
        };
        self.tree.put(Table::Keys, &put.key, &[row.encode().as_ref()])?;
        self.move_lease(&put.key, former_lease, lease)?;
        Ok(kept.filter(|_| put.prev_kv))
    }

    /// Deletes the live keys of a range in ascending order; answers how many and, if asked for,
    /// their rows.
    pub(crate) fn write_delete(
        &mut self,
        changes: &mut Changes,
        delete: &DeleteOptions,
    ) -> Result<(i64, Vec<Bytes>), Damage> {
        let mut deleted = 0;
        let mut prev_kvs = Vec::new();
        let mut from = delete.key.to_vec();
        loop {
            let mut chunk = Vec::new();
            let bounds = Bounds::new(&from, &delete.range_end);
            self.state().walk(bounds, i64::MAX, |key, row, _| {
                chunk.push((key.to_vec(), row.whole().map_err(|bad| bad.of(Table::Keys))?));
                Ok(chunk.len() < DELETE_CHUNK_KEYS)
            })?;
            let full = chunk.len() == DELETE_CHUNK_KEYS;
            for (key, row) in chunk {
                if delete.prev_kv {
                    prev_kvs.push(self.state().copy_row(&row)?);
                }
                self.write_tombstone(changes, &key, &row)?;
                deleted += 1;
                from = key;
            }
            if !full {
                return Ok((deleted, prev_kvs));
            }
        }
    }

    /// Deletes one live key.
    pub(crate) fn write_tombstone(
        &mut self,
        changes: &mut Changes,
        key: &[u8],
        live: &KeyRow,
    ) -> Result<(), Damage> {
        let modified = changes.next();
        let previous = Some(live.modified);
        let kv = KeyValue { key, ..KeyValue::default() };
        let history = kv.as_history(true, false, previous);
        self.tree.put(Table::History, &row::history_key(modified), &history.parts(&kv))?;
        let row = KeyRow { modified, previous, ..KeyRow::default() };
        self.tree.put(Table::Keys, key, &[row.encode().as_ref()])?;
        self.move_lease(key, live.lease, LeaseId::NONE)
    }

    fn move_lease(&mut self, key: &[u8], from: LeaseId, to: LeaseId) -> Result<(), Damage> {
        if from == to {
            return Ok(());
        }
        if from != LeaseId::NONE {
            self.tree.remove(Table::LeaseKeys, &[&row::lease_key(from), key].concat())?;
        }
        if to != LeaseId::NONE {
            self.tree.put(Table::LeaseKeys, &[&row::lease_key(to), key].concat(), &[])?;
        }
        Ok(())
    }
}
