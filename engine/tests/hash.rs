//! HashKV against a real etcd.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{bytes, delete, put, store, txn, with_lease};
use crossbeam::epoch;
use engine::compact::Progress;
use engine::{DeleteOptions, LeaseId, Op, RangeError, Store, View};

fn hash(view: &Arc<View>, revision: i64) -> Result<(u32, i64, i64), RangeError> {
    let mut job = view.hash_kv(&epoch::pin(), revision)?;
    loop {
        if let Some(got) = job.step(&epoch::pin(), 3).unwrap() {
            return Ok((got.hash.hash, got.hash.compact_revision, got.hash.revision));
        }
    }
}

fn finish_compaction(store: &mut Store) {
    while store.compact_slice(2).unwrap() != Progress::Idle {}
}

/// `want` and what follows: (revision asked for, hash, compact revision, hashed revision).
#[track_caller]
fn check(store: &mut Store, want: &[(i64, u32, i64, i64)]) {
    let view = store.publish().unwrap();
    for &(revision, value, compact_revision, hashed) in want {
        assert_eq!(hash(&view, revision).unwrap(), (value, compact_revision, hashed), "at {revision}");
    }
}

/// The values are answers of etcd 3.7.1 (a single new member, requests through its JSON gateway,
/// compactions with `physical`) to this very sequence.
#[test]
fn every_hash_is_the_one_that_etcd_answered() {
    let mut store = store();
    check(&mut store, &[(0, 1084519789, -1, 1)]);
    store.put(&put("a", "1")).unwrap();
    store.put(&put("b", "2")).unwrap();
    store.put(&put("a", "3")).unwrap();
    store.lease_grant(Duration::ZERO, LeaseId(7), 100).unwrap();
    store.put(&with_lease(put("c", "x"), 7)).unwrap();
    store.delete_range(&delete("b")).unwrap();
    let ops = vec![Op::Put(put("d", "4")), Op::Put(put("e", "5")), Op::Delete(delete("a"))];
    assert_eq!(store.txn(&txn(vec![], ops, vec![])).unwrap().revision, 7);
    check(
        &mut store,
        &[
            (0, 2022875583, -1, 7),
            (4, 2069675932, -1, 4),
            (6, 1095625802, -1, 6),
            (7, 2022875583, -1, 7),
            (-5, 1084519789, -1, -5),
        ],
    );
    let view = store.publish().unwrap();
    assert!(matches!(hash(&view, 8), Err(RangeError::FutureRevision { revision: 7 })));

    store.compact(6).unwrap();
    check(&mut store, &[(0, 1192399304, 6, 7), (7, 1192399304, 6, 7)]); // before anything is removed
    finish_compaction(&mut store);
    check(&mut store, &[(6, 1095625802, -1, 6), (7, 1192399304, 6, 7), (0, 1192399304, 6, 7)]);
    let view = store.publish().unwrap();
    assert!(matches!(hash(&view, 5), Err(RangeError::Compacted { compact_revision: 6 })));

    store.put(&put("b", "again")).unwrap();
    store.delete_range(&delete("d")).unwrap();
    check(&mut store, &[(0, 1731596164, 6, 9)]);
    store.compact(9).unwrap();
    check(&mut store, &[(0, 1198862580, 9, 9)]);
    finish_compaction(&mut store);
    let want = [(6, 1095625802, -1, 6), (9, 1731596164, 6, 9), (0, 1198862580, 9, 9)];
    check(&mut store, &want);
    let view = store.publish().unwrap();
    assert!(matches!(hash(&view, 8), Err(RangeError::Compacted { compact_revision: 9 })));

    store.put(&put("f", "")).unwrap();
    check(&mut store, &[(0, 17413023, 9, 10), (9, 1731596164, 6, 9), (10, 17413023, 9, 10)]);
    assert_eq!(store.lease_revoke(LeaseId(7)).unwrap(), 11);
    check(&mut store, &[(0, 3116915171, 9, 11)]);
    store.compact(11).unwrap();
    check(&mut store, &[(0, 1981293639, 11, 11)]);
    finish_compaction(&mut store);
    check(&mut store, &[(9, 1731596164, 6, 9), (11, 3116915171, 9, 11), (0, 1981293639, 11, 11)]);

    // nothing is alive any more: etcd then hashes what the compaction before had kept
    let all = DeleteOptions { key: bytes("\0"), range_end: bytes("\0"), prev_kv: false };
    assert_eq!(store.delete_range(&all).unwrap().revision, 12);
    check(&mut store, &[(11, 3116915171, 9, 11), (0, 1750930553, 11, 12), (12, 1750930553, 11, 12)]);
    store.compact(12).unwrap();
    check(&mut store, &[(0, 1084519789, 12, 12)]);
    finish_compaction(&mut store);
    check(&mut store, &[(12, 2365176796, 11, 12), (0, 1084519789, 12, 12)]);
    store.put(&put("z", "1")).unwrap();
    check(&mut store, &[(0, 765405192, 12, 13), (12, 2365176796, 11, 12), (13, 765405192, 12, 13)]);
}

#[test]
fn the_newest_ten_compaction_hashes_are_kept() {
    let mut store = store();
    for value in 0..13 {
        let revision = store.put(&put("k", &value.to_string())).unwrap().revision;
        store.compact(revision).unwrap();
        finish_compaction(&mut store);
    }
    store.put(&put("k", "last")).unwrap(); // revision 15; compactions were at 2..=14
    let view = store.publish().unwrap();
    for revision in 2..5 {
        assert!(matches!(hash(&view, revision), Err(RangeError::Compacted { .. })), "{revision}");
    }
    for revision in 5..15 {
        let (_, compact_revision, hashed) = hash(&view, revision).unwrap();
        assert_eq!((compact_revision, hashed), (revision - 1, revision));
    }
}

#[test]
fn a_compaction_that_waited_leaves_no_hash() {
    let mut store = store();
    for value in 0..8 {
        store.put(&put("k", &value.to_string())).unwrap();
    }
    store.compact(3).unwrap();
    store.compact_slice(1).unwrap();
    store.compact(5).unwrap();
    store.compact(6).unwrap();
    let mut finished = vec![];
    loop {
        match store.compact_slice(1).unwrap() {
            Progress::Finished(revision) => finished.push(revision),
            Progress::More => {}
            Progress::Idle => break,
        }
    }
    assert_eq!(finished, [3, 6], "of those that wait only the last matters");
    let view = store.publish().unwrap();
    assert_eq!(hash(&view, 3).unwrap().1, -1);
    assert!(matches!(hash(&view, 5), Err(RangeError::Compacted { .. })));
    assert_eq!(hash(&view, 6).unwrap().1, 6, "computed now, not kept");
}

#[test]
fn the_whole_hash_sees_every_table_but_not_the_log_position() {
    let of = |store: &mut Store| store.publish().unwrap().hash(&epoch::pin()).unwrap();
    let mut store = store();
    let mut seen = vec![of(&mut store)];
    store.put(&put("k", "v")).unwrap();
    seen.push(of(&mut store));
    store.lease_grant(Duration::ZERO, LeaseId(1), 10).unwrap();
    seen.push(of(&mut store));
    store.set_user_meta(b"cluster_version", b"3.7.0").unwrap();
    seen.push(of(&mut store));
    store.set_member(1, Some(b"one")).unwrap();
    seen.push(of(&mut store));
    let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
    assert_eq!(distinct.len(), seen.len());
    store.set_applied(9, 2);
    assert_eq!(of(&mut store), seen[4]);
}
