//! What a checkpoint holds, it gives back.

mod common;

use std::time::Duration;

use common::{Disk, config, delete, put, range, read, with_lease};
use crossbeam::epoch;
use engine::compact::Progress;
use engine::lease::Checkpoint;
use engine::{Alarm, AlarmKind, Applied, LeaseId, Store, TxnError};

fn reopened(disk: &Disk) -> Store {
    Store::open(config(), disk.map()).unwrap()
}

#[test]
fn everything_is_as_it_was() {
    let disk = Disk::new();
    let mut store = Store::create(config(), disk.map());
    store.set_applied(30, 3);
    store.lease_grant(Duration::ZERO, LeaseId(7), 100).unwrap();
    store.put(&put("a", "1")).unwrap();
    store.put(&with_lease(put("b", "2"), 7)).unwrap();
    store.delete_range(&delete("a")).unwrap();
    store.put(&with_lease(put("long", &"x".repeat(100_000)), 7)).unwrap();
    let (full, corrupt) =
        (Alarm { member: 1, kind: AlarmKind::NoSpace }, Alarm { member: 0, kind: AlarmKind::Corrupt });
    store.alarm_activate(full).unwrap();
    store.alarm_activate(corrupt).unwrap();
    store.alarm_deactivate(corrupt).unwrap();
    store.set_user_meta(b"cluster_version", b"3.7.0").unwrap();
    store.set_member(9, Some(b"nine")).unwrap();
    store.set_member(2, Some(b"two")).unwrap();
    store.set_member(9, None).unwrap();
    store.compact(2).unwrap();
    store.set_applied(42, 3);
    let left = Checkpoint { lease: LeaseId(7), granted_at: 31, remaining_ttl: 40 };
    store.lease_checkpoint(Duration::ZERO, left).unwrap();
    let before = store.publish().unwrap();
    disk.checkpoint(&mut store);
    store.put(&put("later", "lost with the process")).unwrap();
    store.set_applied(43, 3);

    let mut store = reopened(&disk);
    assert_eq!((store.revision(), store.applied()), (5, Applied { index: 42, term: 3 }));
    assert_eq!((store.compact_revision(), store.finished_compact_revision()), (2, -1));
    assert_eq!(store.alarms(None), [full]);
    assert_eq!(store.user_meta(b"cluster_version").unwrap().unwrap(), "3.7.0");
    assert_eq!(store.members().unwrap(), [(2, "two".into())]);
    assert_eq!(store.leases(), [LeaseId(7)]);
    assert_eq!(store.lease_status(Duration::ZERO, LeaseId(7)).unwrap().granted_ttl, 100);
    assert_eq!((store.lease_granted_at(LeaseId(7)), store.lease_granted_at(LeaseId(8))), (Some(31), None));
    assert_eq!(store.lease_keys(LeaseId(7)).unwrap(), ["b", "long"]);
    let after = store.publish().unwrap();
    for options in [range("\0", "\0"), engine::RangeOptions { revision: 3, ..range("\0", "\0") }] {
        assert_eq!(read(&after, &options, 5000).unwrap(), read(&before, &options, 5000).unwrap());
    }
    assert_eq!(after.user_meta(&epoch::pin(), b"cluster_version").unwrap().unwrap(), "3.7.0");
    assert_eq!(after.members(&epoch::pin()).unwrap(), [(2, "two".into())]);
    assert_eq!(after.hash(&epoch::pin()).unwrap(), before.hash(&epoch::pin()).unwrap());

    assert_eq!(store.put(&put("a", "again")).unwrap().revision, 6);
    assert!(matches!(store.lease_grant(Duration::ZERO, LeaseId(7), 5), Err(TxnError::LeaseExists { .. })));
    store.lease_promote(Duration::ZERO, Duration::ZERO);
    assert_eq!(store.next_lease_expiry(), Some(Duration::from_secs(40)), "what was left of it");
    assert_eq!(store.lease_revoke(LeaseId(7)).unwrap(), 7);
}

#[test]
fn a_compaction_cut_short_goes_on_and_leaves_no_hash() {
    let disk = Disk::new();
    let mut whole = Store::create(config(), disk.map());
    let hash_of = |store: &mut Store, revision| {
        let view = store.publish().unwrap();
        let mut job = view.hash_kv(&epoch::pin(), revision).unwrap();
        job.step(&epoch::pin(), usize::MAX).unwrap().unwrap().hash
    };
    for round in 0..50 {
        for key in ["a", "b", "c"] {
            whole.put(&put(key, &round.to_string())).unwrap();
        }
        whole.delete_range(&delete("b")).unwrap();
    }
    whole.compact(150).unwrap();
    disk.checkpoint(&mut whole);
    // the whole of it takes this many slices
    let mut slices = 0;
    while whole.compact_slice(7).unwrap() != Progress::Idle {
        slices += 1;
    }
    let want = whole.publish().unwrap().hash(&epoch::pin()).unwrap();
    let compaction_hash = hash_of(&mut whole, 150);
    assert_eq!(compaction_hash.compact_revision, -1, "kept from before anything was removed");

    assert!(slices > 20);
    for stop in [0, 1, 3, slices / 4, slices] {
        let disk = disk.copy(); // each round starts from the same file
        let mut store = reopened(&disk);
        for _ in 0..stop {
            store.compact_slice(7).unwrap();
        }
        disk.checkpoint(&mut store);
        let mut store = reopened(&disk);
        assert_eq!(store.compact_revision(), 150);
        while store.compact_slice(7).unwrap() != Progress::Idle {}
        assert_eq!(store.finished_compact_revision(), 150);
        assert_eq!(store.publish().unwrap().hash(&epoch::pin()).unwrap(), want, "after {stop} slices");
        assert_eq!(hash_of(&mut store, 150).compact_revision, 150, "no hash was kept");
    }
}

#[test]
fn a_foreign_row_is_damage_and_not_a_panic() {
    let disk = Disk::new();
    let mut store = Store::create(config(), disk.map());
    store.put(&put("a", "1")).unwrap();
    store.tree_mut().put(engine::tree::Table::Keys, b"b", &[b"\x01"]).unwrap();
    let modified = engine::Revision { main: 1, sub: 99 };
    let nowhere = engine::row::KeyRow { live: true, kv_len: 9, modified, ..Default::default() };
    store.tree_mut().put(engine::tree::Table::Keys, b"c", &[nowhere.encode().as_ref()]).unwrap();
    let view = store.publish().unwrap();
    for key in ["b", "c"] {
        let options = range(key, "");
        let damaged = match view.range(&epoch::pin(), &options) {
            Err(engine::RangeError::Damaged(_)) => true,
            Ok(mut answer) => answer.fill(&epoch::pin(), 100, &mut vec![]).is_err(),
            Err(_) => false,
        };
        assert!(damaged, "{key}");
    }
    assert!(matches!(store.put(&put("b", "")), Err(TxnError::Damaged(_))));
    for (table, key, value) in [
        (engine::tree::Table::Meta, &b"applied"[..], &b"short"[..]),
        (engine::tree::Table::Meta, b"revision", b"short"),
        (engine::tree::Table::Meta, b"compact", b"short"),
        (engine::tree::Table::Meta, b"alarm/x", b""),
        (engine::tree::Table::Leases, b"12345678", b"\x80"),
        (engine::tree::Table::Leases, b"short", b"\x05\x00"),
    ] {
        let disk = Disk::new();
        let mut store = Store::create(config(), disk.map());
        store.put(&put("a", "1")).unwrap();
        disk.checkpoint(&mut store);
        store.tree_mut().put(table, key, &[value]).unwrap();
        publish_raw(&mut store, &disk);
        let opened = Store::open(config(), disk.map());
        assert!(opened.is_err(), "{table:?} {key:?}");
    }
}

/// A checkpoint without the store's own rows, so that what was put under it stays.
fn publish_raw(store: &mut Store, disk: &Disk) {
    store.tree_mut().publish();
    disk.write_checkpoint(store);
}
