//! Leases: what is granted, attached, renewed, and when it runs out.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{bytes, delete, put, store, txn, with_lease};
use crossbeam::epoch;
use engine::lease::{CHECKPOINT_INTERVAL, Checkpoint, Renewal};
use engine::{EventKind, LeaseId, LeaseStatus, Op, Revision, Store, TxnError};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ids(leases: Vec<LeaseId>) -> Vec<i64> {
    leases.into_iter().map(|lease| lease.0).collect()
}

#[test]
fn grants() {
    let mut store = store();
    for (id, ttl, want) in
        [(1, 100, 100), (2, 1, 2), (3, -5, 2), (4, 0, 2), (-3, 9_000_000_000, 9_000_000_000)]
    {
        assert_eq!(store.lease_grant(s(0), LeaseId(id), ttl).unwrap(), want, "{id}");
    }
    assert!(matches!(store.lease_grant(s(0), LeaseId(1), 5), Err(TxnError::LeaseExists { .. })));
    assert!(matches!(
        store.lease_grant(s(0), LeaseId(9), 9_000_000_001),
        Err(TxnError::LeaseTtlTooLarge { .. })
    ));
    assert!(matches!(store.lease_grant(s(0), LeaseId(0), 5), Err(TxnError::LeaseNotFound { .. })));
    assert!(matches!(store.lease_revoke(LeaseId(9)), Err(TxnError::LeaseNotFound { .. })));
    assert_eq!(store.revision(), 1);
}

#[test]
fn a_revoke_deletes_its_keys_in_order_in_one_revision() {
    let mut store = store();
    store.lease_grant(s(0), LeaseId(1), 10).unwrap();
    store.lease_grant(s(0), LeaseId(2), 10).unwrap();
    for key in ["c", "a", "b", "moved", "gone"] {
        store.put(&with_lease(put(key, key), 1)).unwrap();
    }
    store.put(&with_lease(put("moved", ""), 2)).unwrap();
    store.delete_range(&delete("gone")).unwrap();
    assert_eq!(store.lease_keys(LeaseId(1)).unwrap(), ["a", "b", "c"]);
    assert_eq!(store.lease_revoke(LeaseId(1)).unwrap(), 9);
    assert!(!store.lease_exists(LeaseId(1)));
    let view = store.publish().unwrap();
    let guard = epoch::pin();
    let mut events = view.events(&guard, Revision::start_of(9));
    for (sub, key) in [b"a", b"b", b"c"].into_iter().enumerate() {
        let event = events.next().unwrap().unwrap();
        assert_eq!((event.revision.sub, event.kind, event.key), (sub as i64, EventKind::Delete, &key[..]));
        let prev_kv = view.prev_kv(&guard, &event).unwrap().unwrap();
        assert_eq!(engine::row::KeyValue::decode(prev_kv).unwrap().value, key);
    }
    assert!(events.next().unwrap().is_none());
    assert_eq!(store.lease_keys(LeaseId(2)).unwrap(), ["moved"]);
    assert_eq!(view.lease_keys(&guard, LeaseId(2)).unwrap(), ["moved"]);
    assert_eq!(store.lease_revoke(LeaseId(2)).unwrap(), 10);
    store.lease_grant(s(0), LeaseId(3), 10).unwrap();
    assert_eq!(store.lease_revoke(LeaseId(3)).unwrap(), 10, "no keys, no new revision");
}

#[test]
fn only_a_leader_times_leases() {
    let mut store = store();
    store.lease_grant(s(5), LeaseId(1), 10).unwrap();
    assert_eq!(store.lease_renew(s(6), LeaseId(1)), Renewal::NotPrimary);
    assert_eq!(store.expired_leases(s(1_000_000), 10), []);
    assert_eq!(store.lease_status(s(500), LeaseId(1)), Some(LeaseStatus { granted_ttl: 10, ttl: 10 }));

    store.lease_promote(s(100), s(1));
    assert_eq!(store.next_lease_expiry(), Some(s(111)), "full TTL and an election timeout");
    store.lease_grant(s(102), LeaseId(2), 4).unwrap();
    assert_eq!(ids(store.leases()), [2, 1], "first to run out first");
    assert_eq!(store.lease_renew(s(103), LeaseId(1)), Renewal::Renewed { ttl: 10 });
    let half = s(105) + Duration::from_millis(500);
    assert_eq!(store.lease_status(half, LeaseId(1)), Some(LeaseStatus { granted_ttl: 10, ttl: 7 }));
    assert_eq!(store.lease_status(half, LeaseId(3)), None);
    assert_eq!(store.lease_renew(half, LeaseId(3)), Renewal::NotFound);

    assert_eq!(store.expired_leases(s(106) - Duration::from_nanos(1), 10), [], "never early");
    assert_eq!(ids(store.expired_leases(s(106), 10)), [2]);
    assert_eq!(store.lease_renew(s(106), LeaseId(2)), Renewal::Expired);
    assert_eq!(store.expired_leases(s(108), 10), [], "its revoke is under way");
    assert_eq!(ids(store.expired_leases(s(109), 10)), [2], "it seems to have got lost");
    store.lease_revoke(LeaseId(2)).unwrap();
    assert_eq!(store.lease_renew(s(110), LeaseId(2)), Renewal::NotFound);
    assert_eq!(ids(store.expired_leases(s(120), 10)), [1]);

    store.lease_demote();
    assert_eq!(store.expired_leases(s(200), 10), []);
    assert_eq!(store.next_lease_expiry(), None);
    store.lease_promote(s(300), s(1));
    assert_eq!(store.lease_renew(s(305), LeaseId(1)), Renewal::Renewed { ttl: 10 }, "it lives again");
}

/// What is left of a long lease is written down every five minutes, and a keep-alive waits until that is undone.
#[test]
fn what_is_left_of_long_leases_is_written_down() {
    let left =
        |lease, granted_at, remaining_ttl| Checkpoint { lease: LeaseId(lease), granted_at, remaining_ttl };
    let mut store = store();
    store.lease_checkpointing(Some(CHECKPOINT_INTERVAL));
    store.lease_grant(s(0), LeaseId(1), 1000).unwrap();
    store.lease_promote(s(100), s(0));
    store.set_applied(1, 1);
    store.lease_grant(s(100), LeaseId(2), 1000).unwrap();
    store.lease_grant(s(100), LeaseId(3), 300).unwrap();
    assert_eq!(store.lease_checkpoints_due(s(399), 10), []);
    assert_eq!(store.lease_renew(s(399), LeaseId(2)), Renewal::Renewed { ttl: 1000 });
    // The second has all of its time, the third is short.
    let now = s(400) + Duration::from_millis(1);
    assert_eq!(store.lease_checkpoints_due(now, 10), [left(1, 1, 700), left(2, 2, 999)]);
    assert_eq!(store.lease_checkpoints_due(now, 10), [], "they are on their way");
    assert_eq!(store.lease_renew(s(401), LeaseId(1)), Renewal::Checkpointed, "also before it is applied");
    store.lease_checkpoint(s(402), left(1, 1, 700)).unwrap();
    store.lease_checkpoint(s(402), left(2, 9, 5)).unwrap(); // of another grant
    store.lease_checkpoint(s(402), left(7, 1, 5)).unwrap(); // of none
    assert_eq!(store.lease_renew(s(403), LeaseId(1)), Renewal::Checkpointed);
    assert_eq!(store.lease_status(s(403), LeaseId(1)), Some(LeaseStatus { granted_ttl: 1000, ttl: 697 }));
    // One that got lost comes again, and meanwhile stands in the way of keep-alives.
    assert_eq!(store.lease_renew(s(403), LeaseId(2)), Renewal::Checkpointed);
    assert_eq!(store.lease_checkpoints_due(s(701), 10), [left(2, 2, 698)]);
    assert_eq!(store.lease_checkpoints_due(s(702), 10), [left(1, 1, 398)]);
    store.lease_checkpoint(s(703), left(2, 2, 0)).unwrap();
    assert_eq!(store.lease_renew(s(703), LeaseId(2)), Renewal::Renewed { ttl: 1000 });

    store.lease_demote();
    assert_eq!(store.lease_checkpoints_due(s(9999), 10), []);
    store.lease_promote(s(10_000), s(1));
    assert_eq!(store.next_lease_expiry(), Some(s(10_301)), "the short one");
    assert_eq!(store.lease_status(s(10_000), LeaseId(1)).unwrap().ttl, 701, "what was left, and not more");
    assert_eq!(store.lease_status(s(10_000), LeaseId(2)).unwrap().ttl, 1001);
    store.lease_checkpoint(s(10_000), left(1, 1, 0)).unwrap();
    assert_eq!(store.lease_renew(s(10_000), LeaseId(1)), Renewal::Renewed { ttl: 1000 });
    assert_eq!(store.lease_status(s(10_000), LeaseId(1)).unwrap().ttl, 1000);
    store.lease_revoke(LeaseId(1)).unwrap();
    store.lease_revoke(LeaseId(2)).unwrap();
    assert_eq!(store.lease_checkpoints_due(s(99_999), 10), []);
}

/// etcd's default: nothing is written down.
#[test]
fn without_checkpoints_a_new_leader_gives_all_of_the_time() {
    let mut store = store();
    store.lease_grant(s(0), LeaseId(1), 1000).unwrap();
    store.lease_promote(s(0), s(0));
    assert_eq!(store.lease_checkpoints_due(s(900), 10), []);
    store.lease_demote();
    store.lease_promote(s(900), s(1));
    assert_eq!(store.next_lease_expiry(), Some(s(1901)));
}

#[test]
fn expired_leases_come_in_the_order_of_expiry_and_not_more_than_asked_for() {
    let mut store = store();
    store.lease_promote(s(0), s(0));
    for (id, ttl) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        store.lease_grant(s(0), LeaseId(id), ttl).unwrap();
    }
    assert_eq!(ids(store.expired_leases(s(30), 2)), [2, 3]);
    assert_eq!(ids(store.expired_leases(s(30), 2)), [1]);
    assert_eq!(store.expired_leases(s(30), 2), []);
}

#[test]
fn a_new_leader_spreads_what_would_run_out_together() {
    let mut store = store();
    for id in 1..=3000 {
        store.lease_grant(s(0), LeaseId(id), 60).unwrap();
    }
    store.lease_promote(s(10), s(1));
    let mut per_second: BTreeMap<u64, usize> = BTreeMap::new();
    let mut total = 0;
    for second in 0..600 {
        let expired = store.expired_leases(s(second), 100_000);
        let count = expired.len();
        for lease in expired {
            store.lease_revoke(lease).unwrap();
        }
        total += count;
        if count > 0 {
            per_second.insert(second, count);
        }
    }
    assert_eq!(per_second.keys().next(), Some(&71), "none before its full TTL and the extension");
    assert!(per_second.values().all(|&count| count <= 750), "{per_second:?}");
    assert_eq!(total, 3000);
}

#[test]
fn a_transaction_moves_leases_like_single_requests() {
    let mut store = store();
    store.lease_grant(s(0), LeaseId(1), 10).unwrap();
    store.put(&with_lease(put("a", ""), 1)).unwrap();
    store.put(&with_lease(put("b", ""), 1)).unwrap();
    let ops = vec![Op::Delete(delete("a")), Op::Put(put("b", "")), Op::Put(with_lease(put("c", ""), 1))];
    store.txn(&txn(vec![], ops, vec![])).unwrap();
    assert_eq!(store.lease_keys(LeaseId(1)).unwrap(), [bytes("c")]);
}

#[test]
fn alarms_are_raised_once_and_cleared_exactly() {
    use engine::{Alarm, AlarmKind};
    let mut store: Store = store();
    let full = Alarm { member: 7, kind: AlarmKind::NoSpace };
    let broken = Alarm { member: 0, kind: AlarmKind::Corrupt };
    store.alarm_activate(full).unwrap();
    store.alarm_activate(full).unwrap();
    store.alarm_activate(broken).unwrap();
    assert_eq!(store.alarms(None), [broken, full]);
    assert_eq!(store.alarms(Some(AlarmKind::NoSpace)), [full]);
    assert!(store.has_alarm(AlarmKind::Corrupt));
    assert!(!store.alarm_deactivate(Alarm { member: 8, ..full }).unwrap());
    assert!(store.alarm_deactivate(broken).unwrap());
    assert!(!store.has_alarm(AlarmKind::Corrupt));
    assert_eq!(store.publish().unwrap().alarms(), [full]);
}
