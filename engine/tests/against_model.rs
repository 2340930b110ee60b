//! Random requests to the engine and to the model, every answer compared, and afterwards every
//! revision that can still be read, every event and every hash.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::model::{Model, Refusal, Response};
use common::{Answer, Disk, read, split_kvs};
use crossbeam::epoch;
use engine::compact::Progress;
use engine::tree::Table;
use engine::{
    Compare, CompareResult, CompareTarget, DeleteOptions, EventKind, LeaseId, Op, OpOutcome, PutOptions,
    RangeError, RangeOptions, Revision, SortOrder, SortTarget, Store, Txn, TxnError, TxnOutcome, View,
};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Action {
    Put(PutOptions),
    Delete(DeleteOptions),
    Txn(Txn),
    /// So far back from the newest revision.
    Compact(i64),
    Slice(usize),
    Grant(i64),
    Revoke(i64),
    Range(RangeOptions),
    HashKv(i64),
    Checkpoint,
    /// After a checkpoint, so that nothing is lost.
    Reopen,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "a\0", "b", "ba", "c", "\u{7f}"]).prop_map(common::bytes)
}

fn end() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["", "", "\0", "b", "bb", "d", "a"]).prop_map(common::bytes)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        4 => prop::sample::select(vec!["", "x", "y", "zz"]).prop_map(common::bytes),
        1 => (0usize..6000).prop_map(|len| Bytes::from(vec![b'v'; len])),
    ]
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 3 => 1i64..40, 1 => Just(-1i64), 1 => Just(-2i64)]
}

fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(0i64), 1 => 1i64..30]
}

fn puts() -> impl Strategy<Value = PutOptions> {
    let lease = prop_oneof![3 => Just(0i64), 2 => Just(1i64), 1 => 2i64..4];
    (key(), value(), lease, any::<bool>(), prop::bool::weighted(0.15), prop::bool::weighted(0.15)).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| PutOptions {
            key,
            value: if ignore_value { Bytes::new() } else { value },
            lease: LeaseId(if ignore_lease { 0 } else { lease }),
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn deletes() -> impl Strategy<Value = DeleteOptions> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteOptions {
        key,
        range_end,
        prev_kv,
    })
}

fn ranges() -> impl Strategy<Value = RangeOptions> {
    let order =
        prop::sample::select(vec![SortOrder::None, SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
    let target = prop::sample::select(vec![
        SortTarget::Key,
        SortTarget::Key,
        SortTarget::Version,
        SortTarget::Create,
        SortTarget::Mod,
        SortTarget::Value,
    ]);
    let shape = (key(), end(), -1i64..5, revision(), order, target);
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.2));
    (shape, flags, (bound(), bound(), bound(), bound())).prop_map(
        |((key, range_end, limit, revision, sort_order, sort_target), (keys_only, count_only), bounds)| {
            RangeOptions {
                key,
                range_end,
                limit,
                revision,
                sort_order,
                sort_target,
                keys_only,
                count_only,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        },
    )
}

fn compares() -> impl Strategy<Value = Compare> {
    let result = prop::sample::select(vec![
        CompareResult::Equal,
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
        CompareResult::Unknown,
    ]);
    let target = prop_oneof![
        (0i64..3).prop_map(CompareTarget::Version),
        (0i64..20).prop_map(CompareTarget::Create),
        (0i64..20).prop_map(CompareTarget::Mod),
        (0i64..3).prop_map(CompareTarget::Lease),
        value().prop_map(CompareTarget::Value),
        Just(CompareTarget::Unknown),
    ];
    (key(), end(), target, result).prop_map(|(key, range_end, target, result)| Compare {
        key,
        range_end,
        target,
        result,
    })
}

/// Transactions at least as wild as those that pass the duplicate-key rule.
fn txns() -> impl Strategy<Value = Txn> {
    let op = prop_oneof![
        2 => ranges().prop_map(Op::Range),
        3 => puts().prop_map(Op::Put),
        2 => deletes().prop_map(Op::Delete),
    ];
    let flat = (vec(compares(), 0..2), vec(op.clone(), 0..4), vec(op, 0..3))
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure })
        .boxed();
    (flat.clone(), flat, any::<bool>()).prop_map(|(mut txn, nested, nest)| {
        if nest {
            txn.success.insert(txn.success.len() / 2, Op::Txn(nested));
        }
        let mut seen = vec![];
        drop_conflicts(&mut txn, &mut seen);
        txn
    })
}

/// No key is put twice. Deletions may overlap anything: etcd does not see all such conflicts.
fn drop_conflicts(txn: &mut Txn, put_keys: &mut Vec<Bytes>) {
    for ops in [&mut txn.success, &mut txn.failure] {
        let mut keep = vec![];
        for mut op in ops.drain(..) {
            match &mut op {
                Op::Put(put) if put_keys.contains(&put.key) => continue,
                Op::Put(put) => put_keys.push(put.key.clone()),
                Op::Txn(nested) => drop_conflicts(nested, put_keys),
                Op::Range(_) | Op::Delete(_) => {}
            }
            keep.push(op);
        }
        *ops = keep;
    }
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => puts().prop_map(Action::Put),
        3 => deletes().prop_map(Action::Delete),
        4 => txns().prop_map(Action::Txn),
        2 => (-1i64..12).prop_map(Action::Compact),
        4 => (1usize..6).prop_map(Action::Slice),
        1 => (1i64..4).prop_map(Action::Grant),
        1 => (1i64..4).prop_map(Action::Revoke),
        4 => ranges().prop_map(Action::Range),
        2 => revision().prop_map(Action::HashKv),
        2 => Just(Action::Checkpoint),
        1 => Just(Action::Reopen),
    ];
    vec(action, 1..70)
}

fn refusal(error: TxnError) -> Refusal {
    match error {
        TxnError::LeaseNotFound { .. } => Refusal::LeaseNotFound,
        TxnError::KeyNotFound => Refusal::KeyNotFound,
        TxnError::Compacted { .. } => Refusal::Compacted,
        TxnError::FutureRevision { .. } => Refusal::FutureRevision,
        other => panic!("{other:?}"),
    }
}

fn range_refusal(error: RangeError) -> Refusal {
    refusal(error.into())
}

fn response(outcome: OpOutcome) -> Response {
    let rows = |kvs: Vec<Bytes>| kvs.into_iter().map(|kv| kv.to_vec()).collect();
    match outcome {
        OpOutcome::Range(range) => Response::Range(Answer {
            revision: range.revision,
            count: range.count,
            more: range.more,
            kvs: split_kvs(&range.kvs),
        }),
        OpOutcome::Put(put) => {
            Response::Put { revision: put.revision, prev_kv: put.prev_kv.map(|kv| kv.to_vec()) }
        }
        OpOutcome::Delete(delete) => Response::Delete {
            revision: delete.revision,
            deleted: delete.deleted,
            prev_kvs: rows(delete.prev_kvs),
        },
        OpOutcome::Txn(txn) => txn_response(txn),
    }
}

fn txn_response(txn: TxnOutcome) -> Response {
    let responses = txn.responses.into_iter().map(response).collect();
    Response::Txn { revision: txn.revision, succeeded: txn.succeeded, responses }
}

/// Both, and the compaction hashes that the engine must have kept.
struct Pair {
    disk: Disk,
    store: Store,
    model: Model,
    hashes: Vec<(i64, u32)>,
    /// Hash of the compaction under way, if it leaves one.
    hash_under_way: Option<(i64, u32)>,
}

impl Pair {
    fn act(&mut self, action: &Action) {
        match action {
            Action::Put(put) => {
                let got = self.store.put(put).map(|outcome| response(OpOutcome::Put(outcome)));
                assert_eq!(got.map_err(refusal), self.model.put(put));
            }
            Action::Delete(delete) => {
                let got = response(OpOutcome::Delete(self.store.delete_range(delete).unwrap()));
                assert_eq!(got, self.model.delete(delete));
            }
            Action::Txn(txn) => self.txn(txn),
            Action::Compact(back) => self.compact(self.model.revision - back),
            Action::Slice(rows) => self.slice(*rows),
            Action::Grant(lease) => {
                let granted = self.store.lease_grant(Duration::ZERO, LeaseId(*lease), 10).is_ok();
                assert_eq!(granted, self.model.leases.insert(*lease, 10).is_none());
            }
            Action::Revoke(lease) => {
                let got = self.store.lease_revoke(LeaseId(*lease)).map_err(refusal);
                assert_eq!(got, self.model.revoke(*lease));
            }
            Action::Range(options) => {
                let view = self.store.publish().unwrap();
                let got = read(&view, options, 100).map_err(range_refusal);
                assert_eq!(got, self.model.range(options));
            }
            Action::Checkpoint => self.disk.checkpoint(&mut self.store),
            Action::Reopen => self.reopen(),
            Action::HashKv(revision) => {
                let view = self.store.publish().unwrap();
                self.check_hash(&view, *revision);
            }
        }
        assert_eq!(self.store.revision(), self.model.revision);
    }

    fn reopen(&mut self) {
        self.disk.checkpoint(&mut self.store);
        self.store = Store::open(common::config(), self.disk.map()).unwrap();
        self.hashes.clear(); // they are kept in memory only
        self.hash_under_way = None;
        let leases: Vec<_> = self.model.leases.keys().map(|&lease| LeaseId(lease)).collect();
        assert_eq!(self.store.leases(), leases);
    }

    fn txn(&mut self, txn: &Txn) {
        if txn.is_read_only() {
            let view = self.store.publish().unwrap();
            let got = view.txn(&epoch::pin(), txn).map(txn_response).map_err(refusal);
            assert_eq!(got, self.model.txn(txn));
            return;
        }
        let got = self.store.txn(txn).map(txn_response).map_err(refusal);
        assert_eq!(got, self.model.txn(txn));
    }

    fn compact(&mut self, revision: i64) {
        let idle = self.store.compact_revision() == self.store.finished_compact_revision();
        let hash = self.model.compaction_hash(revision);
        let want = self.model.compact(revision);
        assert_eq!(self.store.compact(revision).map_err(refusal), want);
        assert_eq!(self.store.compact_revision(), self.model.compact);
        if want.is_ok() && idle {
            self.hash_under_way = Some((revision, hash));
        }
    }

    fn slice(&mut self, rows: usize) {
        if let Progress::Finished(revision) = self.store.compact_slice(rows).unwrap()
            && let Some((at, hash)) = self.hash_under_way.take_if(|(at, _)| *at == revision)
        {
            self.hashes.push((at, hash));
            let excess = self.hashes.len().saturating_sub(10);
            self.hashes.drain(..excess);
        }
    }

    fn check_hash(&self, view: &Arc<View>, revision: i64) {
        let mut job = match view.hash_kv(&epoch::pin(), revision) {
            Ok(job) => job,
            Err(RangeError::Compacted { .. }) => {
                assert!(0 < revision && revision < self.model.compact, "{revision}");
                return;
            }
            Err(RangeError::FutureRevision { .. }) => {
                assert!(revision > self.model.revision, "{revision}");
                return;
            }
            Err(other) => panic!("{other:?}"),
        };
        let got = loop {
            if let Some(done) = job.step(&epoch::pin(), 2).unwrap() {
                break done;
            }
        };
        let cached = self.hashes.iter().find(|(at, _)| *at == revision);
        let at = if revision == 0 { self.model.revision } else { revision };
        let want = cached.map_or_else(|| self.model.hash_kv(at), |&(_, hash)| hash);
        assert_eq!(got.hash.hash, want, "at {revision}, cached: {cached:?}");
        // etcd's trap: a compaction at revision 0 leaves a hash that HashKV(0) answers ever after
        let hashed = if cached.is_some() { revision } else { at };
        assert_eq!((got.hash.revision, got.revision), (hashed, self.model.revision));
        assert!(cached.is_some() || got.hash.compact_revision == self.model.compact);
    }

    /// Every revision that can be read, every event, every hash.
    fn check_all(&mut self) {
        let view = self.store.publish().unwrap();
        for revision in self.model.compact.max(1)..=self.model.revision {
            let all = RangeOptions { revision, ..common::range("\0", "\0") };
            assert_eq!(read(&view, &all, 50).unwrap(), self.model.range(&all).unwrap());
            for (key, end) in [("a", "b"), ("b", ""), ("b", "\0")] {
                let count = RangeOptions { revision, count_only: true, ..common::range(key, end) };
                assert_eq!(read(&view, &count, 50).unwrap(), self.model.range(&count).unwrap());
            }
            self.check_hash(&view, revision);
        }
        self.check_events(&view);
        for &lease in self.model.leases.keys() {
            assert_eq!(self.store.lease_keys(LeaseId(lease)).unwrap(), self.model.lease_keys(lease));
        }
    }

    /// With all compactions finished: no row too many, none too few.
    fn check_stored(&self) {
        let mut rows = self.store.tree().cursor(Table::History);
        let mut found = rows.seek_first().unwrap();
        for row in &self.model.stored {
            assert!(found, "{row:?} is missing");
            assert_eq!(rows.key(), engine::row::history_key(Revision { main: row.main, sub: row.sub }));
            found = rows.next().unwrap();
        }
        assert!(!found, "a row was not removed");
        let keys: BTreeSet<_> = self.model.stored.iter().map(|row| &row.key).collect();
        let mut rows = self.store.tree().cursor(Table::Keys);
        let mut found = rows.seek_first().unwrap();
        for key in keys {
            assert!(found && rows.key() == key.as_slice(), "{key:?} is missing");
            found = rows.next().unwrap();
        }
        assert!(!found, "a row was not removed");
    }

    fn check_events(&self, view: &View) {
        let guard = epoch::pin();
        let from = self.model.compact.max(0);
        let mut events = view.events(&guard, Revision::start_of(from));
        for change in self.model.changes.iter().filter(|change| change.main >= from) {
            let at_compact = change.main == self.model.compact;
            if at_compact
                && !self.model.stored.iter().any(|row| (row.main, row.sub) == (change.main, change.sub))
            {
                continue; // replaced within the compacted revision itself
            }
            let mut event = events.next().unwrap().expect("the model has one");
            while at_compact && (event.revision.main, event.revision.sub) < (change.main, change.sub) {
                event = events.next().unwrap().expect("the model has one"); // not yet removed
            }
            assert_eq!((event.revision.main, event.revision.sub), (change.main, change.sub));
            assert_eq!(event.key, change.key);
            let deleted =
                common::model::Kv { key: change.key.clone(), modified: change.main, ..Default::default() };
            let kind = if change.put.is_some() { EventKind::Put } else { EventKind::Delete };
            assert_eq!(event.kind, kind);
            let mut kv = vec![];
            event.encode_kv(&mut kv);
            assert_eq!(kv.len(), event.kv_len());
            assert_eq!(kv, change.put.clone().unwrap_or(deleted).encode());

            let before = change.main - 1;
            let prev_kv = view.prev_kv(&guard, &event).unwrap().map(<[u8]>::to_vec);
            let want = self.model.state_at(before).remove(&change.key).map(|kv| kv.encode());
            assert_eq!(prev_kv, want.filter(|_| before >= self.model.compact && !event.is_create()));
        }
        assert!(events.next().unwrap().is_none());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engine_answers_as_the_model(actions in actions()) {
        let disk = Disk::new();
        let store = Store::create(common::config(), disk.map());
        let mut pair =
            Pair { disk, store, model: Model::default(), hashes: vec![], hash_under_way: None };
        pair.act(&Action::Grant(1));
        for action in &actions {
            pair.act(action);
        }
        pair.check_all();
        while pair.store.compact_revision() > pair.store.finished_compact_revision() {
            pair.slice(3);
            let view = pair.store.publish().unwrap();
            pair.check_hash(&view, 0);
        }
        pair.check_all();
        pair.check_stored();
    }
}
