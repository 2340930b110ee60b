//! The single writer.
//!
//! A [`Store`] applies requests in log order and keeps what they changed unpublished until
//! [`Store::publish`] makes an immutable [`View`] of it, with the log position that it reflects.
//! Nothing it does depends on anything but the requests and their order; the present (`now`) only
//! moves lease expiry, which is never stored. Compaction's physical part runs in slices between
//! batches and changes nothing that may be asked for.
//!
//! Errors of a request leave the store unchanged, except [`TxnError::Damaged`]: after that the
//! store is half changed and its owner must drop it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::alarm::Alarm;
use crate::compact::Compaction;
use crate::error::TxnError;
use crate::hash::HashCache;
use crate::history::State;
use crate::lease::Lessor;
use crate::row::{self, BadRow};
use crate::source::Source;
use crate::tree::{self, Damage, Map, OpenError, Table, Tree};
use crate::types::{Applied, DeleteOptions, DeleteOutcome, PutOptions, PutOutcome};
use crate::view::View;
use crate::write::Changes;

/// What a store must be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The tree's own settings.
    pub tree: tree::Config,
    /// Shortest TTL that is granted, in seconds; shorter ones are raised to it. etcd: 1.5 election
    /// timeouts, rounded up. Must be equal on all members, since it decides what is applied.
    pub lease_ttl_s_min: i64,
}

/// The revision of an empty store.
pub(crate) const FIRST_REVISION: i64 = 1;

/// What was written since the store was opened, transactions taken apart. Not stored: figures for an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows put.
    pub puts: u64,
    /// Their marshalled bytes.
    pub put_bytes: u64,
    /// Rows of history that compactions removed.
    pub compacted: u64,
}

/// The single writer of one tree file.
pub struct Store {
    pub(crate) tree: Tree,
    pub(crate) config: Config,
    pub(crate) revision: i64,
    pub(crate) compaction: Compaction,
    pub(crate) lessor: Lessor,
    pub(crate) alarms: BTreeSet<Alarm>,
    pub(crate) hashes: Arc<HashCache>,
    pub(crate) written: Written,
    applied: Applied,
}

impl Store {
    /// An empty store at revision 1.
    pub fn create(config: Config, map: Arc<dyn Map>) -> Store {
        let tree = Tree::create(config.tree, map);
        Store::around(tree, config)
    }

    fn around(tree: Tree, config: Config) -> Store {
        Store {
            tree,
            config,
            revision: FIRST_REVISION,
            compaction: Compaction::default(),
            lessor: Lessor::default(),
            alarms: BTreeSet::new(),
            hashes: Arc::default(),
            written: Written::default(),
            applied: Applied::default(),
        }
    }

    /// The store as the file's newest durable checkpoint holds it. A compaction that was under way
    /// goes on with the next [`Store::compact_slice`].
    pub fn open(config: Config, map: Arc<dyn Map>) -> Result<Store, OpenError> {
        let mut store = Store::around(Tree::open(config.tree, map)?, config);
        store.load()?;
        Ok(store)
    }

    /// Takes from the tree what is kept beside it.
    pub(crate) fn load(&mut self) -> Result<(), Damage> {
        let bad = |bad: BadRow| bad.of(Table::Meta);
        if let Some(value) = self.tree.get(Table::Meta, row::META_APPLIED)? {
            let (index, term) = row::decode_pair(value).map_err(bad)?;
            self.applied = Applied { index, term };
        }
        if let Some(value) = self.tree.get(Table::Meta, row::META_REVISION)? {
            let bytes = value.try_into().map_err(|_| bad(BadRow))?;
            self.revision = i64::from_be_bytes(bytes);
        }
        if let Some(value) = self.tree.get(Table::Meta, row::META_COMPACT)? {
            let (scheduled, finished) = row::decode_pair(value).map_err(bad)?;
            self.compaction = Compaction::resume(scheduled as i64, finished as i64);
        }
        self.load_alarms()?;
        self.load_leases()
    }

    /// What it was told when it was opened.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Where history begins; -1 if never compacted.
    pub fn compact_revision(&self) -> i64 {
        self.compaction.scheduled()
    }

    /// The log position that the store reflects.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// What was written since the store was opened.
    pub fn written(&self) -> Written {
        self.written
    }

    /// Notes that the entry at this position has been applied; also for entries that change nothing.
    pub fn set_applied(&mut self, index: u64, term: u64) {
        assert!(
            index >= self.applied.index,
            "applied index goes back from {} to {index}",
            self.applied.index
        );
        self.applied = Applied { index, term };
    }

    /// Applies a Put. etcd apply: the lease is checked before the key.
    pub fn put(&mut self, put: &PutOptions) -> Result<PutOutcome, TxnError> {
        self.state().check_put(&self.lessor, put)?;
        let mut changes = Changes::after(self.revision);
        let prev_kv = self.write_put(&mut changes, put)?;
        self.revision = changes.end();
        Ok(PutOutcome { revision: self.revision, prev_kv })
    }

    /// Applies a DeleteRange.
    pub fn delete_range(&mut self, delete: &DeleteOptions) -> Result<DeleteOutcome, TxnError> {
        let mut changes = Changes::after(self.revision);
        let (deleted, prev_kvs) = self.write_delete(&mut changes, delete)?;
        self.revision = changes.end();
        Ok(DeleteOutcome { revision: self.revision, deleted, prev_kvs })
    }

    /// The state as of the last applied request.
    pub(crate) fn state(&self) -> State<&Tree> {
        State { source: &self.tree, revision: self.revision, compact_revision: self.compact_revision() }
    }

    /// A value that the layers above keep with the store: cluster version, membership and such.
    pub fn user_meta(&self, name: &[u8]) -> Result<Option<Bytes>, Damage> {
        self.state().user_meta(name)
    }

    /// All such values whose names begin with `prefix`, in the order of names: name behind the prefix, and value.
    pub fn user_meta_below(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Damage> {
        self.state().user_meta_below(prefix)
    }

    /// Sets such a value; committed with everything else.
    pub fn set_user_meta(&mut self, name: &[u8], value: &[u8]) -> Result<(), Damage> {
        self.tree.put(Table::Meta, &[row::META_USER, name].concat(), &[value])
    }

    /// A row of `members`, the key and value of which the layers above define.
    pub fn member(&self, id: u64) -> Result<Option<Bytes>, Damage> {
        Ok(self.tree.get(Table::Members, &id.to_be_bytes())?.map(Bytes::copy_from_slice))
    }

    /// Sets or, with `None`, removes a row of `members`.
    pub fn set_member(&mut self, id: u64, value: Option<&[u8]>) -> Result<(), Damage> {
        match value {
            Some(value) => self.tree.put(Table::Members, &id.to_be_bytes(), &[value]),
            None => self.tree.remove(Table::Members, &id.to_be_bytes()).map(drop),
        }
    }

    /// All rows of `members`, in the order of ids.
    pub fn members(&self) -> Result<Vec<(u64, Bytes)>, Damage> {
        self.state().members()
    }

    /// Makes everything applied so far visible. The view holds the log position, so a reader that
    /// waits for an index knows when it is covered.
    pub fn publish(&mut self) -> Result<Arc<View>, Damage> {
        let mut applied = row::encode_pair(self.applied.index, self.applied.term);
        if planted::is("applied-index-apart") {
            applied = row::encode_pair(self.applied.index.saturating_sub(1), self.applied.term);
        }
        self.tree.put(Table::Meta, row::META_APPLIED, &[&applied])?;
        self.tree.put(Table::Meta, row::META_REVISION, &[&self.revision.to_be_bytes()])?;
        Ok(Arc::new(View::new(self)))
    }

    /// The tree below, for checkpoints, reclaiming and figures.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tree below, for checkpoints and reclaiming. Rows are the store's alone to write.
    pub fn tree_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }
}

impl<'s, S: Source<'s>> State<S> {
    pub(crate) fn user_meta(&self, name: &[u8]) -> Result<Option<Bytes>, Damage> {
        let key = [row::META_USER, name].concat();
        Ok(self.source.get(Table::Meta, &key)?.map(Bytes::copy_from_slice))
    }

    pub(crate) fn user_meta_below(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, Damage> {
        let prefix = [row::META_USER, prefix].concat();
        let mut all = Vec::new();
        let mut rows = self.source.cursor(Table::Meta);
        let mut found = rows.seek(&prefix)?;
        while found && let Some(name) = rows.key().strip_prefix(&prefix[..]) {
            let name = Bytes::copy_from_slice(name);
            all.push((name, Bytes::copy_from_slice(rows.value()?)));
            found = rows.next()?;
        }
        Ok(all)
    }

    pub(crate) fn members(&self) -> Result<Vec<(u64, Bytes)>, Damage> {
        let mut members = Vec::new();
        let mut rows = self.source.cursor(Table::Members);
        let mut found = rows.seek_first()?;
        while found {
            let id = rows.key().try_into().map_err(|_| BadRow.of(Table::Members))?;
            members.push((u64::from_be_bytes(id), Bytes::copy_from_slice(rows.value()?)));
            found = rows.next()?;
        }
        Ok(members)
    }
}
