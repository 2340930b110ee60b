//! Responses that are too large to be held say what held ones would.

use super::*;

/// Rows of this size: three of them, with their previous rows, are more than a batch holds.
const SIZE: usize = 400_000;

fn value(letter: u8) -> String {
    String::from_utf8(vec![letter; SIZE]).unwrap()
}

/// Keys, whether they were put, and first letter and length of value and previous value.
type Seen = Vec<(String, bool, Option<u8>, usize, Option<u8>, usize)>;

fn seen(responses: &[pb::WatchResponse]) -> Seen {
    let events = responses.iter().flat_map(|response| &response.events);
    events
        .map(|event| {
            let kv = event.kv.as_ref().unwrap();
            let prev = event.prev_kv.as_ref().map_or(&[][..], |prev| &prev.value);
            for value in [&kv.value[..], prev] {
                assert!(value.iter().all(|byte| *byte == value[0]), "bytes of one row");
            }
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            let put = event.r#type() == EventType::Put;
            (key, put, kv.value.first().copied(), kv.value.len(), prev.first().copied(), prev.len())
        })
        .collect()
}

fn put_all(world: &mut World, letter: u8) {
    let value = value(letter);
    let ops = (0..5).map(|i| Op::Put(put(&format!("k{i}"), &value))).collect();
    world.apply(|store| drop(store.txn(&Txn { success: ops, ..Txn::default() }).unwrap()));
}

fn expected(put: bool, letter: u8, prev: Option<u8>) -> Seen {
    let value = put.then_some(letter);
    let of = |i: i32| {
        let (len, prev_len) = (if put { SIZE } else { 0 }, if prev.is_some() { SIZE } else { 0 });
        (format!("k{i}"), put, value, len, prev, prev_len)
    };
    (0..5).map(of).collect()
}

#[test]
fn of_new_and_of_old_revisions_with_and_without_previous_rows() {
    let mut w = World::new();
    let prev_kv = |create| pb::WatchCreateRequest { prev_kv: true, ..create };
    w.create(A, prev_kv(prefix("k", "l"))).create(B, prefix("k", "l"));
    w.run().take(A);
    w.take(B);
    put_all(&mut w, b'a');
    w.run();
    for stream in [A, B] {
        assert_eq!(seen(&w.take_responses(stream)), expected(true, b'a', None));
    }
    put_all(&mut w, b'b');
    w.apply(|store| drop(store.delete_range(&delete("k", "l")).unwrap()));
    w.run();
    for (stream, prev) in [(A, true), (B, false)] {
        let responses = w.take_responses(stream);
        assert_eq!(responses.len(), 2, "one per revision");
        let put = expected(true, b'b', prev.then_some(b'a'));
        let deleted = expected(false, b'x', prev.then_some(b'b'));
        assert_eq!(seen(&responses), [put, deleted].concat());
    }
    assert_eq!(w.out.pulled, 2 + 2 + 1, "all but the deletion without previous rows");
    // The same from the past: 2, 3 and 4 are the revisions.
    w.create(A, from(2, prev_kv(prefix("k", "l")))).run();
    let all =
        [expected(true, b'a', None), expected(true, b'b', Some(b'a')), expected(false, b'x', Some(b'b'))];
    assert_eq!(seen(&w.take_responses(A)), all.concat());
}

#[test]
fn of_a_watcher_that_takes_fragments() {
    let mut w = World::with(Config { fragment_bytes_max: SIZE * 2, ..Config::new(WHO, 1) });
    w.create(A, pb::WatchCreateRequest { fragment: true, ..prefix("k", "l") }).run().take(A);
    put_all(&mut w, b'a');
    w.run();
    let responses = w.take_responses(A);
    let fragments: Vec<bool> = responses.iter().map(|response| response.fragment).collect();
    assert_eq!(fragments, [true, true, true, true, false]);
    assert_eq!(seen(&responses), expected(true, b'a', None));
}
