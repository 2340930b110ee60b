//! What surprises in etcd's behaviour, one story each. Where an answer is spelled out, etcd 3.7.1
//! gave it to the same requests.

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{bytes, compare, delete, put, range, read, split_kvs, store, txn, with_lease};
use crossbeam::epoch;
use engine::CompareResult::{Equal, Greater, Less, NotEqual, Unknown};
use engine::{
    CompareTarget, DeleteOptions, LeaseId, Op, OpOutcome, PutOptions, RangeError, RangeOptions, SortOrder,
    SortTarget, Store, TxnError,
};

fn brief(store: &mut Store, options: &RangeOptions) -> String {
    let answer = read(&store.publish().unwrap(), options, 1000).unwrap();
    let more = if answer.more { " more" } else { "" };
    format!("{} count={}{more}", answer.brief(), answer.count)
}

/// k1=b@2 k2=a@3 k3=c@4 k2=d@5 k4=0@6 with lease 9
fn four_keys() -> Store {
    let mut store = store();
    store.lease_grant(Duration::ZERO, LeaseId(9), 100).unwrap();
    for (key, value) in [("k1", "b"), ("k2", "a"), ("k3", "c"), ("k2", "d")] {
        store.put(&put(key, value)).unwrap();
    }
    store.put(&with_lease(put("k4", "0"), 9)).unwrap();
    store
}

#[test]
fn ranges() {
    let mut store = four_keys();
    let all = || range("k", "l");
    let sorted = |target, order| RangeOptions { sort_target: target, sort_order: order, ..all() };
    let cases = [
        ("all", all(), "k1=b@2 k2=d@5 k3=c@4 k4=0@6 count=4"),
        ("one", range("k3", ""), "k3=c@4 count=1"),
        ("missing", range("k", ""), " count=0"),
        ("from a key on", range("k3", "\0"), "k3=c@4 k4=0@6 count=2"),
        ("everything", range("\0", "\0"), "k1=b@2 k2=d@5 k3=c@4 k4=0@6 count=4"),
        ("inverted", range("l", "k"), " count=0"),
        ("empty", range("k1", "k1"), " count=0"),
        ("limit", RangeOptions { limit: 2, ..all() }, "k1=b@2 k2=d@5 count=4 more"),
        ("limit just enough", RangeOptions { limit: 4, ..all() }, "k1=b@2 k2=d@5 k3=c@4 k4=0@6 count=4"),
        ("negative limit", RangeOptions { limit: -1, ..all() }, "k1=b@2 k2=d@5 k3=c@4 k4=0@6 count=4"),
        ("older", RangeOptions { revision: 4, ..all() }, "k1=b@2 k2=a@3 k3=c@4 count=3"),
        ("older, limit", RangeOptions { revision: 4, limit: 1, ..all() }, "k1=b@2 count=3 more"),
        ("negative revision", RangeOptions { revision: -5, ..range("k1", "") }, "k1=b@2 count=1"),
        ("count only", RangeOptions { count_only: true, limit: 2, ..all() }, " count=4"),
        (
            "target without order, limit: cut in key order, then sorted",
            RangeOptions { limit: 2, ..sorted(SortTarget::Value, SortOrder::None) },
            "k1=b@2 k3=c@4 count=4 more",
        ),
        (
            "target with order: sorted, then cut",
            RangeOptions { limit: 2, ..sorted(SortTarget::Value, SortOrder::Ascend) },
            "k4=0@6 k1=b@2 count=4 more",
        ),
        (
            "newest first",
            RangeOptions { limit: 2, ..sorted(SortTarget::Mod, SortOrder::Descend) },
            "k4=0@6 k2=d@5 count=4 more",
        ),
        (
            "last key first",
            sorted(SortTarget::Key, SortOrder::Descend),
            "k4=0@6 k3=c@4 k2=d@5 k1=b@2 count=4",
        ),
        (
            "by version",
            sorted(SortTarget::Version, SortOrder::Descend),
            "k2=d@5 k4=0@6 k3=c@4 k1=b@2 count=4",
        ),
        ("by creation", sorted(SortTarget::Create, SortOrder::Ascend), "k1=b@2 k2=d@5 k3=c@4 k4=0@6 count=4"),
        (
            "a filter: the count ignores it",
            RangeOptions { limit: 1, min_mod_revision: 4, ..all() },
            "k2=d@5 count=4 more",
        ),
        (
            "two filters",
            RangeOptions { min_mod_revision: 4, max_create_revision: 3, ..all() },
            "k2=d@5 count=4",
        ),
    ];
    for (name, options, want) in cases {
        assert_eq!(brief(&mut store, &options), want, "{name}");
    }
}

#[test]
fn keys_only_knows_the_lease_only_if_the_value_was_looked_at() {
    let mut store = four_keys();
    let view = store.publish().unwrap();
    for (target, lease) in [(SortTarget::Key, 0), (SortTarget::Mod, 0), (SortTarget::Value, 9)] {
        let options = RangeOptions { keys_only: true, sort_target: target, ..range("k4", "") };
        let answer = read(&view, &options, 1000).unwrap();
        let kv = engine::row::KeyValue::decode(&answer.kvs[0]).unwrap();
        assert_eq!((kv.key, kv.value, kv.version, kv.lease), (&b"k4"[..], &b""[..], 1, lease), "{target:?}");
    }
}

#[test]
fn revisions_that_cannot_be_read() {
    let mut store = four_keys();
    store.compact(4).unwrap();
    let view = store.publish().unwrap();
    let at = |revision| read(&view, &RangeOptions { revision, ..range("k2", "") }, 100);
    assert!(matches!(at(7), Err(RangeError::FutureRevision { revision: 6 })));
    assert!(matches!(at(3), Err(RangeError::Compacted { compact_revision: 4 })));
    assert_eq!(at(4).unwrap().brief(), "k2=a@3", "exactly the compact revision is still readable");
    assert_eq!(at(4).unwrap().revision, 6, "the header has the store's revision");
    for revision in [4, 3, -1, -7] {
        assert!(matches!(store.compact(revision), Err(TxnError::Compacted { compact_revision: 4 })));
    }
    assert!(matches!(store.compact(7), Err(TxnError::FutureRevision { revision: 6 })));
}

#[test]
fn an_older_view_stays_as_it_was() {
    let mut store = four_keys();
    let view = store.publish().unwrap();
    store.delete_range(&DeleteOptions { key: bytes("\0"), range_end: bytes("\0"), prev_kv: false }).unwrap();
    store.compact(7).unwrap();
    while store.compact_slice(1).unwrap() != engine::compact::Progress::Idle {}
    assert_eq!(read(&view, &range("k", "l"), 10).unwrap().brief(), "k1=b@2 k2=d@5 k3=c@4 k4=0@6");
    let now = store.publish().unwrap();
    assert_eq!(read(&now, &range("k", "l"), 10).unwrap().brief(), "");
    assert_eq!((now.revision(), now.compact_revision(), now.finished_compact_revision()), (7, 7, 7));
}

#[test]
fn puts() {
    let mut store = store();
    assert!(matches!(
        store.put(&PutOptions { ignore_lease: true, ..put("k", "v") }),
        Err(TxnError::KeyNotFound)
    ));
    assert!(matches!(
        store.put(&PutOptions { ignore_value: true, ..with_lease(put("k", ""), 5) }),
        Err(TxnError::LeaseNotFound { lease: LeaseId(5) }),
    ));
    assert_eq!(store.revision(), 1, "a refused request changes nothing");
    store.lease_grant(Duration::ZERO, LeaseId(5), 10).unwrap();
    assert_eq!(store.put(&with_lease(put("k", "v"), 5)).unwrap().revision, 2);
    store.put(&PutOptions { ignore_lease: true, ..put("k", "w") }).unwrap();
    assert_eq!(store.lease_keys(LeaseId(5)).unwrap(), ["k"]);
    let kept = store.put(&PutOptions { ignore_value: true, prev_kv: true, ..put("k", "") }).unwrap();
    let prev_kv = kept.prev_kv.unwrap();
    let prev_kv = engine::row::KeyValue::decode(&prev_kv).unwrap();
    assert_eq!((prev_kv.value, prev_kv.mod_revision, prev_kv.version, prev_kv.lease), (&b"w"[..], 3, 2, 5));
    assert_eq!(brief(&mut store, &range("k", "")), "k=w@4 count=1");
    assert!(store.lease_keys(LeaseId(5)).unwrap().is_empty(), "a put without a lease detaches it");
}

#[test]
fn deletions() {
    let mut store = four_keys();
    let gone = store.delete_range(&delete("nothing")).unwrap();
    assert_eq!((gone.deleted, gone.revision), (0, 6), "nothing deleted, no new revision");
    let all = DeleteOptions { key: bytes("k2"), range_end: bytes("k4"), prev_kv: true };
    let gone = store.delete_range(&all).unwrap();
    assert_eq!((gone.deleted, gone.revision, gone.prev_kvs.len()), (2, 7, 2));
    let first = engine::row::KeyValue::decode(&gone.prev_kvs[0]).unwrap();
    assert_eq!((first.key, first.value), (&b"k2"[..], &b"d"[..]), "in key order");
    store.put(&put("k2", "new")).unwrap();
    let view = store.publish().unwrap();
    let answer = read(&view, &range("k2", ""), 100).unwrap();
    let kv = engine::row::KeyValue::decode(&answer.kvs[0]).unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (8, 8, 1), "a new generation");
}

#[test]
fn delete_range_takes_more_keys_than_one_chunk() {
    let mut store = store();
    for number in 0..600 {
        store.put(&put(&format!("k{number:04}"), "v")).unwrap();
    }
    let all = DeleteOptions { key: bytes("k"), range_end: bytes("l"), prev_kv: true };
    let gone = store.delete_range(&all).unwrap();
    assert_eq!((gone.deleted, gone.prev_kvs.len(), gone.revision), (600, 600, 602));
    let view = store.publish().unwrap();
    let guard = epoch::pin();
    let mut events = view.events(&guard, engine::Revision::start_of(602));
    for number in 0..600 {
        let event = events.next().unwrap().unwrap();
        assert_eq!(event.revision, engine::Revision { main: 602, sub: number });
        assert_eq!(event.key, format!("k{number:04}").as_bytes());
    }
    assert!(events.next().unwrap().is_none());
    assert_eq!(brief(&mut store, &range("\0", "\0")), " count=0");
}

#[test]
fn compares() {
    use CompareTarget::{Create, Lease, Mod, Value, Version};
    let mut store = four_keys();
    store.delete_range(&delete("k3")).unwrap();
    let value = |text: &str| Value(bytes(text));
    // k1=b@2 k2=d@5 (created 3, version 2) k4=0@6 with lease 9
    let cases = [
        ("k2", "", Version(2), Equal, true),
        ("k2", "", Version(2), NotEqual, false),
        ("k2", "", Create(3), Equal, true),
        ("k2", "", Mod(4), Greater, true),
        ("k2", "", Mod(5), Greater, false),
        ("k2", "", Mod(6), Less, true),
        ("k2", "", value("d"), Equal, true),
        ("k2", "", value("c"), Greater, true),
        ("k4", "", Lease(9), Equal, true),
        ("k1", "", Lease(0), Equal, true),
        ("k2", "", Version(77), Unknown, true),
        ("k2", "", CompareTarget::Unknown, Equal, true),
        ("k2", "", CompareTarget::Unknown, NotEqual, false),
        // a missing key has zeros, and no value at all
        ("no", "", Version(0), Equal, true),
        ("no", "", Create(0), Equal, true),
        ("no", "", Mod(0), Equal, true),
        ("no", "", Lease(0), Equal, true),
        ("no", "", Mod(0), Greater, false),
        ("no", "", value("x"), NotEqual, false),
        ("no", "", value(""), Equal, false),
        ("no", "", value(""), Unknown, false),
        ("k3", "", Version(0), Equal, true),
        ("k3", "", value("c"), Equal, false),
        // of a range every key must do
        ("k", "l", Mod(1), Greater, true),
        ("k", "l", Mod(2), Greater, false),
        ("k", "\0", Version(0), Greater, true),
        ("x", "z", Version(0), Equal, true),
        ("x", "z", value(""), NotEqual, false),
    ];
    for (key, end, target, result, want) in cases {
        let mut condition = compare(key, target, result);
        condition.range_end = bytes(end);
        let asked = txn(vec![condition.clone()], vec![], vec![]);
        let view = store.publish().unwrap();
        assert_eq!(view.txn(&epoch::pin(), &asked).unwrap().succeeded, want, "{condition:?}");
        let outcome = store.txn(&asked).unwrap();
        assert_eq!((outcome.succeeded, outcome.revision), (want, 7), "{condition:?}");
    }
}

#[test]
fn a_nested_compare_sees_the_state_before_the_whole_transaction() {
    let mut store = store();
    let nested = txn(
        vec![compare("n", CompareTarget::Version(1), Equal)],
        vec![Op::Put(put("m", "1"))],
        vec![Op::Range(range("n", ""))],
    );
    let ops =
        vec![Op::Put(put("n", "1")), Op::Txn(nested), Op::Range(range("n", "")), Op::Delete(delete("none"))];
    let outcome = store.txn(&txn(vec![], ops, vec![])).unwrap();
    assert_eq!((outcome.revision, outcome.succeeded), (2, true));
    let [OpOutcome::Put(put), OpOutcome::Txn(nested), OpOutcome::Range(range), OpOutcome::Delete(gone)] =
        &outcome.responses[..]
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(put.revision, 2);
    assert_eq!((nested.revision, nested.succeeded), (0, false));
    let OpOutcome::Range(inner) = &nested.responses[0] else { panic!("{nested:?}") };
    assert_eq!(inner, range, "the nested range sees the put all the same");
    assert_eq!((range.revision, range.count, split_kvs(&range.kvs).len()), (2, 1, 1));
    assert_eq!((gone.revision, gone.deleted), (2, 0), "something changed before");
}

#[test]
fn headers_inside_a_transaction_tell_what_had_happened_by_then() {
    let mut store = four_keys();
    let ops = vec![
        Op::Range(range("k1", "")),
        Op::Delete(delete("none")),
        Op::Delete(delete("k1")),
        Op::Range(range("k1", "")),
        Op::Range(RangeOptions { revision: 6, ..range("k1", "") }),
        Op::Delete(delete("none")),
    ];
    let outcome = store.txn(&txn(vec![], ops, vec![])).unwrap();
    let told: Vec<_> = outcome
        .responses
        .iter()
        .map(|response| match response {
            OpOutcome::Range(range) => (range.revision, range.count),
            OpOutcome::Delete(gone) => (gone.revision, gone.deleted),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(6, 1), (6, 0), (7, 1), (7, 0), (7, 1), (7, 0)]);
    let nothing = txn(vec![], vec![Op::Delete(delete("none"))], vec![]);
    assert_eq!(store.txn(&nothing).unwrap().revision, 7, "nothing changed, no new revision");
}

#[test]
fn a_check_that_fails_fails_the_whole_transaction() {
    let ranged = |revision| Op::Range(RangeOptions { revision, ..range("k1", "") });
    type Expected = fn(&TxnError) -> bool;
    let cases: [(Op, Expected); 6] = [
        (ranged(7), |error| matches!(error, TxnError::FutureRevision { .. })), // 7 is what the txn would make
        (ranged(2), |error| matches!(error, TxnError::Compacted { .. })),
        (ranged(-5), |error| matches!(error, TxnError::Compacted { .. })),
        (Op::Put(with_lease(put("z", ""), 4)), |error| matches!(error, TxnError::LeaseNotFound { .. })),
        (Op::Put(PutOptions { ignore_value: true, ..put("z", "") }), |error| {
            matches!(error, TxnError::KeyNotFound)
        }),
        (Op::Put(PutOptions { ignore_lease: true, ..put("a", "") }), |error| {
            matches!(error, TxnError::KeyNotFound)
        }),
    ];
    for (op, expected) in cases {
        let mut store = four_keys();
        store.compact(3).unwrap();
        for nest in [false, true] {
            let op = if nest { Op::Txn(txn(vec![], vec![op.clone()], vec![])) } else { op.clone() };
            // "a" is put before the check's turn would come, but checks see the state before
            let error =
                store.txn(&txn(vec![], vec![Op::Put(put("a", "1")), op.clone()], vec![])).unwrap_err();
            assert!(expected(&error), "{op:?}: {error:?}");
            assert_eq!(brief(&mut store, &range("a", "")), " count=0");
            assert_eq!(store.revision(), 6);
            // in the branch not taken nobody looks
            assert!(store.txn(&txn(vec![], vec![], vec![op])).is_ok());
        }
    }
}

#[test]
fn what_makes_a_transaction_a_read() {
    let read = || Op::Range(range("k", ""));
    let cases = [
        (txn(vec![], vec![], vec![]), true),
        (txn(vec![], vec![read()], vec![read(), read()]), true),
        (txn(vec![], vec![read()], vec![Op::Put(put("k", ""))]), false),
        (txn(vec![], vec![Op::Txn(txn(vec![], vec![read()], vec![]))], vec![]), false),
    ];
    for (txn, want) in cases {
        assert_eq!(txn.is_read_only(), want, "{txn:?}");
    }
}

#[test]
fn one_key_put_and_deleted_in_one_revision() {
    let mut store = store();
    let nested = |op| Op::Txn(txn(vec![], vec![op], vec![]));
    let ops = vec![nested(Op::Put(put("k", "short"))), nested(Op::Delete(delete("k")))];
    assert_eq!(store.txn(&txn(vec![], ops, vec![])).unwrap().revision, 2);
    assert_eq!(brief(&mut store, &range("k", "")), " count=0");
    assert_eq!(brief(&mut store, &RangeOptions { revision: 1, ..range("\0", "\0") }), " count=0");
    store.put(&put("k", "long")).unwrap();
    assert_eq!(brief(&mut store, &RangeOptions { revision: 2, ..range("\0", "\0") }), " count=0");
    assert_eq!(brief(&mut store, &range("k", "")), "k=long@3 count=1");
}

#[test]
fn compact_keeps_what_a_reader_at_that_revision_still_sees() {
    // versions of one key (x = tombstone), compact at, what remains
    let cases = [
        ("2 5 7x 9 12x", 4, "2 5 7x 9 12x"),
        ("2 5 7x 9 12x", 6, "5 7x 9 12x"),
        ("2 5 7x 9 12x", 7, "7x 9 12x"),
        ("2 5 7x 9 12x", 8, "9 12x"),
        ("2 5 7x 9 12x", 9, "9 12x"),
        ("2 5 7x 9 12x", 12, "12x"),
        ("2 5 7x 9 12x", 13, ""),
        ("2 3 4", 4, "4"),
        ("2", 13, "2"),
    ];
    for (history, at, want) in cases {
        let mut store = store();
        let mut revision = 1;
        for change in history.split_whitespace().chain(["14"]) {
            let main: i64 = change.trim_end_matches('x').parse().unwrap();
            while revision + 1 < main {
                revision = store.put(&put("other", "")).unwrap().revision;
            }
            revision = match change {
                "14" => store.put(&put("other", "")).unwrap().revision,
                _ if change.ends_with('x') => store.delete_range(&delete("k")).unwrap().revision,
                _ => store.put(&put("k", change)).unwrap().revision,
            };
        }
        store.compact(at).unwrap();
        while store.compact_slice(1).unwrap() != engine::compact::Progress::Idle {}
        let view = store.publish().unwrap();
        let guard = epoch::pin();
        let mut events = view.events(&guard, engine::Revision::default());
        let mut left = vec![];
        while let Some(event) = events.next().unwrap() {
            if event.key == b"k" {
                let mark = if event.kind == engine::EventKind::Delete { "x" } else { "" };
                left.push(format!("{}{mark}", event.revision.main));
            }
        }
        assert_eq!(left.join(" "), want, "history={history:?} at={at}");
    }
}

#[test]
fn prev_kv_of_an_event_at_the_compact_revision_is_gone() {
    let mut store = store();
    for value in ["1", "2", "3"] {
        store.put(&put("k", value)).unwrap();
    }
    for finish in [false, true] {
        let _ = store.compact(3);
        while finish && store.compact_slice(1).unwrap() != engine::compact::Progress::Idle {}
        let view = store.publish().unwrap();
        let guard = epoch::pin();
        let mut events = view.events(&guard, engine::Revision::start_of(3));
        let at_compact = events.next().unwrap().unwrap();
        assert_eq!(at_compact.revision.main, 3);
        assert!(view.prev_kv(&guard, &at_compact).unwrap().is_none());
        let after = events.next().unwrap().unwrap();
        let prev_kv = view.prev_kv(&guard, &after).unwrap().unwrap();
        assert_eq!(engine::row::KeyValue::decode(prev_kv).unwrap().value, b"2");
    }
}

#[test]
fn long_values_and_odd_keys() {
    let mut store = store();
    let long = Bytes::from((0..1_500_000u32).map(|i| i as u8).collect::<Vec<_>>());
    let keys: [&[u8]; 4] = [b"\0", b"\xff\xff", b"a\0b", &[b'k'; 2000]];
    for key in keys {
        let key = Bytes::copy_from_slice(key);
        store.put(&PutOptions { key: key.clone(), value: long.clone(), ..Default::default() }).unwrap();
        let view = store.publish().unwrap();
        let options = RangeOptions { key: key.clone(), ..Default::default() };
        let answer = read(&view, &options, 10).unwrap();
        let kv = engine::row::KeyValue::decode(&answer.kvs[0]).unwrap();
        assert!(kv.key == key && kv.value == long);
    }
}

#[test]
fn a_compaction_in_the_same_batch_takes_nothing_from_a_watcher_that_is_up_to_date() {
    let mut store = store();
    for value in ["1", "2", "3"] {
        store.put(&put("k", value)).unwrap();
    }
    assert_eq!(store.publish().unwrap().history_intact_from(), -1);
    store.compact(4).unwrap();
    let view = store.publish().unwrap();
    assert_eq!((view.compact_revision(), view.history_intact_from()), (4, -1), "nothing is removed yet");
    let guard = epoch::pin();
    let mut events = view.events(&guard, engine::Revision::start_of(3));
    for before in [b"1", b"2"] {
        let event = events.next().unwrap().unwrap();
        assert!(view.prev_kv(&guard, &event).unwrap().is_none(), "for one that comes late");
        let prev_kv = view.prev_kv_from(&guard, &event, 2).unwrap().unwrap();
        assert_eq!(engine::row::KeyValue::decode(prev_kv).unwrap().value, before);
    }
    store.compact_slice(1).unwrap();
    assert_eq!(store.publish().unwrap().history_intact_from(), 4);
}
