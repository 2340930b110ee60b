//! The engine as simply as it can be said: a list of changes, replayed for every question.

use std::collections::BTreeMap;

use engine::{
    Compare, CompareResult, CompareTarget, DeleteOptions, Op, PutOptions, RangeOptions, SortOrder,
    SortTarget, Txn,
};

use super::Answer;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kv {
    pub key: Vec<u8>,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub value: Vec<u8>,
    pub lease: i64,
}

impl Kv {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let varint = |out: &mut Vec<u8>, mut value: u64| {
            while value > 127 {
                out.push((value % 128) as u8 + 128);
                value /= 128;
            }
            out.push(value as u8);
        };
        let scalar = |out: &mut Vec<u8>, tag, value: i64| {
            if value != 0 {
                out.push(tag);
                varint(out, value as u64);
            }
        };
        let text = |out: &mut Vec<u8>, tag, value: &[u8]| {
            if !value.is_empty() {
                out.push(tag);
                varint(out, value.len() as u64);
                out.extend_from_slice(value);
            }
        };
        text(&mut out, 0x0a, &self.key);
        scalar(&mut out, 0x10, self.create);
        scalar(&mut out, 0x18, self.modified);
        scalar(&mut out, 0x20, self.version);
        text(&mut out, 0x2a, &self.value);
        scalar(&mut out, 0x30, self.lease);
        out
    }
}

#[derive(Clone, Debug)]
pub struct Change {
    pub main: i64,
    pub sub: i64,
    pub key: Vec<u8>,
    /// The row put; `None` for a deletion.
    pub put: Option<Kv>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    LeaseNotFound,
    KeyNotFound,
    Compacted,
    FutureRevision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    Range(Answer),
    Put { revision: i64, prev_kv: Option<Vec<u8>> },
    Delete { revision: i64, deleted: i64, prev_kvs: Vec<Vec<u8>> },
    Txn { revision: i64, succeeded: bool, responses: Vec<Response> },
}

pub struct Model {
    /// All changes ever; compaction removes nothing here.
    pub changes: Vec<Change>,
    /// What compactions, each carried out at once, left of `changes`.
    pub stored: Vec<Change>,
    pub revision: i64,
    pub compact: i64,
    pub leases: BTreeMap<i64, i64>,
    /// Change count of the transaction under way.
    sub: i64,
}

impl Default for Model {
    fn default() -> Self {
        Model { changes: vec![], stored: vec![], revision: 1, compact: -1, leases: BTreeMap::new(), sub: 0 }
    }
}

fn in_range(key: &[u8], first: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key == first,
        b"\0" => key >= first,
        end => key >= first && key < end,
    }
}

impl Model {
    pub fn state_at(&self, revision: i64) -> BTreeMap<Vec<u8>, Kv> {
        let mut state = BTreeMap::new();
        for change in self.changes.iter().filter(|change| change.main <= revision) {
            match &change.put {
                Some(kv) => state.insert(change.key.clone(), kv.clone()),
                None => state.remove(&change.key),
            };
        }
        state
    }

    /// The revision as the next operation of the transaction under way sees it.
    fn seen(&self) -> i64 {
        self.revision + i64::from(self.sub > 0)
    }

    fn record(&mut self, key: &[u8], put: Option<Kv>) {
        let change = Change { main: self.revision + 1, sub: self.sub, key: key.to_vec(), put };
        self.changes.push(change.clone());
        self.stored.push(change);
        self.sub += 1;
    }

    fn end(&mut self) -> i64 {
        self.revision = self.seen();
        self.sub = 0;
        self.revision
    }

    pub fn put(&mut self, put: &PutOptions) -> Result<Response, Refusal> {
        self.check_put(put)?;
        let prev_kv = self.do_put(put);
        Ok(Response::Put { revision: self.end(), prev_kv })
    }

    fn check_put(&self, put: &PutOptions) -> Result<(), Refusal> {
        if put.lease.0 != 0 && !self.leases.contains_key(&put.lease.0) {
            return Err(Refusal::LeaseNotFound);
        }
        let exists = self.state_at(self.revision).contains_key(&put.key[..]);
        if (put.ignore_value || put.ignore_lease) && !exists {
            return Err(Refusal::KeyNotFound);
        }
        Ok(())
    }

    fn do_put(&mut self, put: &PutOptions) -> Option<Vec<u8>> {
        let main = self.revision + 1;
        let prior = self.state_at(i64::MAX).remove(&put.key[..]);
        let mut kv = prior.clone().unwrap_or(Kv { create: main, ..Default::default() });
        kv.key = put.key.to_vec();
        kv.modified = main;
        kv.version += 1;
        if !put.ignore_value {
            kv.value = put.value.to_vec();
        }
        if !put.ignore_lease {
            kv.lease = put.lease.0;
        }
        self.record(&put.key, Some(kv));
        prior.filter(|_| put.prev_kv).map(|kv| kv.encode())
    }

    pub fn delete(&mut self, delete: &DeleteOptions) -> Response {
        let (deleted, prev_kvs) = self.do_delete(delete);
        Response::Delete { revision: self.end(), deleted, prev_kvs }
    }

    fn do_delete(&mut self, delete: &DeleteOptions) -> (i64, Vec<Vec<u8>>) {
        let state = self.state_at(i64::MAX);
        let gone: Vec<_> =
            state.into_values().filter(|kv| in_range(&kv.key, &delete.key, &delete.range_end)).collect();
        for kv in &gone {
            self.record(&kv.key, None);
        }
        let prev_kvs = if delete.prev_kv { gone.iter().map(Kv::encode).collect() } else { vec![] };
        (gone.len() as i64, prev_kvs)
    }

    pub fn revoke(&mut self, lease: i64) -> Result<i64, Refusal> {
        self.leases.remove(&lease).ok_or(Refusal::LeaseNotFound)?;
        for kv in self.state_at(i64::MAX).into_values().filter(|kv| kv.lease == lease) {
            self.record(&kv.key, None);
        }
        Ok(self.end())
    }

    pub fn lease_keys(&self, lease: i64) -> Vec<Vec<u8>> {
        self.state_at(i64::MAX).into_values().filter(|kv| kv.lease == lease).map(|kv| kv.key).collect()
    }

    pub fn range(&self, options: &RangeOptions) -> Result<Answer, Refusal> {
        let seen = self.seen();
        if options.revision > seen {
            return Err(Refusal::FutureRevision);
        }
        let at = if options.revision <= 0 { seen } else { options.revision };
        if at < self.compact {
            return Err(Refusal::Compacted);
        }
        let state = self.state_at(at);
        let mut kvs: Vec<Kv> =
            state.into_values().filter(|kv| in_range(&kv.key, &options.key, &options.range_end)).collect();
        let count = kvs.len() as i64;
        if options.count_only {
            return Ok(Answer { revision: seen, count, more: false, kvs: vec![] });
        }
        let filters = [
            (options.min_mod_revision, options.max_mod_revision, (|kv| kv.modified) as fn(&Kv) -> i64),
            (options.min_create_revision, options.max_create_revision, |kv| kv.create),
        ];
        let sorted = options.sort_order == SortOrder::Descend
            || (options.sort_order == SortOrder::Ascend && options.sort_target != SortTarget::Key);
        let filtered = filters.iter().any(|&(min, max, _)| min != 0 || max != 0);
        let limit = if options.limit > 0 { options.limit as usize } else { usize::MAX };
        if !sorted && !filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        for (min, max, of) in filters {
            kvs.retain(|kv| (min == 0 || of(kv) >= min) && (max == 0 || of(kv) <= max));
        }
        match options.sort_target {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.modified),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if options.sort_order == SortOrder::Descend {
            kvs.reverse();
        }
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        for kv in kvs.iter_mut().filter(|_| options.keys_only) {
            kv.value.clear();
            if options.sort_target != SortTarget::Value {
                kv.lease = 0;
            }
        }
        Ok(Answer { revision: seen, count, more, kvs: kvs.iter().map(Kv::encode).collect() })
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<Response, Refusal> {
        let before = self.state_at(self.revision);
        self.check_txn(txn, &before)?;
        let outcome = self.do_txn(txn, &before);
        let revision = self.end();
        match outcome {
            Response::Txn { succeeded, responses, .. } => {
                Ok(Response::Txn { revision, succeeded, responses })
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn check_txn(&self, txn: &Txn, before: &BTreeMap<Vec<u8>, Kv>) -> Result<(), Refusal> {
        for op in self.branch(txn, before).1 {
            match op {
                Op::Range(range) if range.revision == 0 => {}
                Op::Range(range) if range.revision > self.revision => return Err(Refusal::FutureRevision),
                Op::Range(range) if range.revision < self.compact => return Err(Refusal::Compacted),
                Op::Range(_) | Op::Delete(_) => {}
                Op::Put(put) => self.check_put(put)?,
                Op::Txn(nested) => self.check_txn(nested, before)?,
            }
        }
        Ok(())
    }

    fn do_txn(&mut self, txn: &Txn, before: &BTreeMap<Vec<u8>, Kv>) -> Response {
        let (succeeded, ops) = self.branch(txn, before);
        let mut responses = vec![];
        for op in ops {
            responses.push(match op {
                Op::Range(range) => Response::Range(self.range(range).expect("checked before")),
                Op::Put(put) => {
                    let prev_kv = self.do_put(put);
                    Response::Put { revision: self.seen(), prev_kv }
                }
                Op::Delete(delete) => {
                    let (deleted, prev_kvs) = self.do_delete(delete);
                    Response::Delete { revision: self.seen(), deleted, prev_kvs }
                }
                Op::Txn(nested) => self.do_txn(nested, before),
            });
        }
        Response::Txn { revision: 0, succeeded, responses }
    }

    fn branch<'t>(&self, txn: &'t Txn, before: &BTreeMap<Vec<u8>, Kv>) -> (bool, &'t [Op]) {
        let succeeded = txn.compare.iter().all(|compare| holds(compare, before));
        (succeeded, if succeeded { &txn.success } else { &txn.failure })
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compact {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.compact = revision;
        let newest = newest_per_key(&self.stored, revision);
        self.stored.retain(|change| {
            let is_newest = newest.get(&change.key) == Some(&(change.main, change.sub));
            change.main > revision || (is_newest && (change.put.is_some() || change.main == revision))
        });
        Ok(())
    }

    /// etcd's algorithm over `stored`, written down as its source says it.
    pub fn hash_kv(&self, revision: i64) -> u32 {
        let keep = self.keep(revision, false);
        hash_rows(&self.stored, self.compact, revision, &keep)
    }

    /// The hash that a compaction at `revision` leaves: to be asked before [`Model::compact`].
    pub fn compaction_hash(&self, revision: i64) -> u32 {
        let keep = self.keep(revision, true);
        hash_rows(&self.stored, self.compact, revision, &keep)
    }

    fn keep(&self, revision: i64, tombstone_there: bool) -> Vec<(i64, i64)> {
        let newest = newest_per_key(&self.stored, revision);
        let rows = self.stored.iter().filter(|row| newest.get(&row.key) == Some(&(row.main, row.sub)));
        let kept = rows.filter(|row| row.put.is_some() || (tombstone_there && row.main == revision));
        kept.map(|row| (row.main, row.sub)).collect()
    }
}

fn newest_per_key(changes: &[Change], revision: i64) -> BTreeMap<Vec<u8>, (i64, i64)> {
    let upto = changes.iter().filter(|change| change.main <= revision);
    upto.map(|change| (change.key.clone(), (change.main, change.sub))).collect()
}

fn hash_rows(rows: &[Change], compact: i64, revision: i64, keep: &[(i64, i64)]) -> u32 {
    let mut bytes = b"key".to_vec();
    for row in rows {
        if row.main > revision {
            continue;
        }
        if row.main <= compact && !keep.is_empty() && !keep.contains(&(row.main, row.sub)) {
            continue;
        }
        if row.main == compact && row.put.is_none() {
            continue;
        }
        bytes.extend(row.main.to_be_bytes());
        bytes.push(b'_');
        bytes.extend(row.sub.to_be_bytes());
        match &row.put {
            Some(kv) => bytes.extend(kv.encode()),
            None => {
                bytes.push(b't');
                bytes.extend(Kv { key: row.key.clone(), ..Default::default() }.encode());
            }
        }
    }
    crc32_castagnoli(&bytes)
}

/// Bit by bit, so that it shares nothing with the crate under test.
fn crc32_castagnoli(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn holds(compare: &Compare, state: &BTreeMap<Vec<u8>, Kv>) -> bool {
    let kvs: Vec<&Kv> =
        state.values().filter(|kv| in_range(&kv.key, &compare.key, &compare.range_end)).collect();
    if kvs.is_empty() {
        let value = matches!(compare.target, CompareTarget::Value(_));
        return !value && kv_holds(compare, &Kv::default());
    }
    kvs.into_iter().all(|kv| kv_holds(compare, kv))
}

fn kv_holds(compare: &Compare, kv: &Kv) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(given) => kv.version.cmp(given),
        CompareTarget::Create(given) => kv.create.cmp(given),
        CompareTarget::Mod(given) => kv.modified.cmp(given),
        CompareTarget::Lease(given) => kv.lease.cmp(given),
        CompareTarget::Value(given) => kv.value.as_slice().cmp(given),
        CompareTarget::Unknown => std::cmp::Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Unknown => true,
    }
}
