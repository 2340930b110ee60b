//! Watch streams, message by message.

use std::time::Duration;

use testkit::pb::mvccpb::event::EventType;
use testkit::pb::watch_create_request::FilterType;
use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{
    CompactionRequest, DeleteRangeRequest, Event, PutRequest, RequestOp, TxnRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse, request_op,
};
use testkit::{Client, Duplex};

use crate::{options, start};

type Stream = Duplex<WatchRequest, WatchResponse>;

/// Long enough for anything that would come to have come.
const QUIET: Duration = Duration::from_millis(300);

fn create(request: WatchCreateRequest) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) }
}

fn cancel(watch_id: i64) -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })) }
}

fn progress() -> WatchRequest {
    WatchRequest { request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})) }
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

fn on_all() -> WatchCreateRequest {
    WatchCreateRequest { key: vec![0], range_end: vec![0], ..Default::default() }
}

async fn put(client: &mut Client, key: &str, value: &str) -> i64 {
    let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    client.kv.put(request).await.unwrap().into_inner().header.unwrap().revision
}

async fn delete(client: &mut Client, key: &str) -> i64 {
    let request = DeleteRangeRequest { key: key.into(), ..Default::default() };
    client.kv.delete_range(request).await.unwrap().into_inner().header.unwrap().revision
}

/// Creates a watch and takes the answer that says so.
async fn created(stream: &mut Stream, request: WatchCreateRequest) -> i64 {
    stream.send(create(request));
    let answer = stream.expect().await;
    assert!(answer.created && !answer.canceled && answer.events.is_empty(), "{answer:?}");
    answer.watch_id
}

/// `PUT key=value@revision`, with `<previous` if there is one.
fn show(event: &Event) -> String {
    let kv = event.kv.as_ref().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let previous = event.prev_kv.as_ref().map(|kv| format!(" <{}@{}", text(&kv.value), kv.mod_revision));
    let change = match event.r#type() {
        EventType::Put => format!("PUT {}={}", text(&kv.key), text(&kv.value)),
        EventType::Delete => {
            let rest = (kv.create_revision, kv.version, kv.lease, kv.value.len());
            assert_eq!(rest, (0, 0, 0, 0), "a deletion has key and revision only");
            format!("DELETE {}", text(&kv.key))
        }
    };
    format!("{change}@{}{}", kv.mod_revision, previous.unwrap_or_default())
}

fn shown(answer: &WatchResponse) -> Vec<String> {
    answer.events.iter().map(show).collect()
}

/// Collects answers until `count` events are there.
async fn events(stream: &mut Stream, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        let answer = stream.expect().await;
        assert!(!answer.canceled, "{answer:?}");
        all.extend(shown(&answer));
    }
    all
}

#[tokio::test]
async fn a_synced_watch_gets_one_answer_per_revision() {
    let server = start();
    let mut client = server.client().await;
    let mut stream = client.open_watch();
    let id = created(&mut stream, WatchCreateRequest { prev_kv: true, ..on_all() }).await;
    assert_eq!(id, 0, "ids are counted from 0");

    put(&mut client, "a", "1").await;
    put(&mut client, "a", "2").await;
    let ops = [("b", "x"), ("c", "y")].map(|(key, value)| RequestOp {
        request: Some(request_op::Request::RequestPut(PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        })),
    });
    client.kv.txn(TxnRequest { success: ops.into(), ..Default::default() }).await.unwrap();
    delete(&mut client, "a").await;
    delete(&mut client, "a").await; // nothing there: no revision, no event

    let want: [&[&str]; 4] =
        [&["PUT a=1@2"], &["PUT a=2@3 <1@2"], &["PUT b=x@4", "PUT c=y@4"], &["DELETE a@5 <2@3"]];
    for (revision, want) in (2..).zip(want) {
        let answer = stream.expect().await;
        assert_eq!((shown(&answer), answer.watch_id), (want.iter().map(|s| s.to_string()).collect(), id));
        assert_eq!(answer.header.unwrap().revision, revision, "a live event's header has its revision");
    }
    assert_eq!(stream.within(QUIET).await, None);
}

#[tokio::test]
async fn the_past_is_replayed_and_runs_into_the_present() {
    let server = start();
    let mut client = server.client().await;
    for i in 0..2500 {
        put(&mut client, &format!("k{}", i % 3), &i.to_string()).await;
    }
    let mut stream = client.open_watch();
    created(&mut stream, WatchCreateRequest { start_revision: 2, prev_kv: true, ..on_all() }).await;
    for i in 2500..2600 {
        put(&mut client, &format!("k{}", i % 3), &i.to_string()).await;
    }
    let mut next = 0_i64;
    while next < 2600 {
        let answer = stream.expect().await;
        assert!(
            answer.events.len() <= 1000,
            "at most 1000 revisions in one answer, got {}",
            answer.events.len()
        );
        assert!(
            answer.header.unwrap().revision
                >= answer.events.last().unwrap().kv.as_ref().unwrap().mod_revision
        );
        for event in &answer.events {
            let previous = if next < 3 { String::new() } else { format!(" <{}@{}", next - 3, next - 1) };
            assert_eq!(show(event), format!("PUT k{}={next}@{}{previous}", next % 3, next + 2));
            next += 1;
        }
    }
    assert_eq!(stream.within(QUIET).await, None);
}

#[tokio::test]
async fn the_future_starts_when_it_is_there() {
    let server = start();
    let mut client = server.client().await;
    put(&mut client, "k", "1").await;
    let mut stream = client.open_watch();
    created(&mut stream, WatchCreateRequest { start_revision: 5, ..on("k") }).await;
    stream.send(progress());
    assert_eq!(stream.within(QUIET).await, None, "no progress before the start");
    for i in 2..=5 {
        put(&mut client, "k", &i.to_string()).await;
    }
    assert_eq!(events(&mut stream, 2).await, ["PUT k=4@5", "PUT k=5@6"]);
    stream.send(progress());
    let answer = stream.expect().await;
    assert_eq!((answer.watch_id, answer.header.unwrap().revision, answer.events.len()), (-1, 6, 0));
}

#[tokio::test]
async fn keys_and_ranges() {
    let server = start();
    let mut client = server.client().await;
    let range = |key: &str, end: &[u8]| WatchCreateRequest { range_end: end.into(), ..on(key) };
    let cases: [(&str, WatchCreateRequest, &[&str]); 5] = [
        ("one key", on("b"), &["b"]),
        ("half-open", range("b", b"d"), &["b", "ba", "c"]),
        ("from a key on", range("c", &[0]), &["c", "d"]),
        ("all", on_all(), &["a", "b", "ba", "c", "d"]),
        ("no key means all from the lowest", range("", &[0]), &["a", "b", "ba", "c", "d"]),
    ];
    let mut streams = Vec::new();
    for (what, request, want) in cases {
        let mut stream = client.open_watch();
        created(&mut stream, request).await;
        streams.push((what, stream, want));
    }
    for key in ["a", "b", "ba", "c", "d"] {
        put(&mut client, key, "v").await;
    }
    for (what, mut stream, want) in streams {
        let got = events(&mut stream, want.len()).await;
        let keys: Vec<&str> = got.iter().map(|text| text[4..].split('=').next().unwrap()).collect();
        assert_eq!(keys, want, "{what}");
        assert_eq!(stream.within(Duration::from_millis(50)).await, None, "{what}");
    }
}

#[tokio::test]
async fn filters_drop_kinds_of_events() {
    let server = start();
    let mut client = server.client().await;
    let filter = |kind: FilterType| WatchCreateRequest { filters: vec![kind.into()], ..on("k") };
    let mut no_put = client.open_watch();
    let mut no_delete = client.open_watch();
    created(&mut no_put, filter(FilterType::Noput)).await;
    created(&mut no_delete, filter(FilterType::Nodelete)).await;
    put(&mut client, "k", "1").await;
    delete(&mut client, "k").await;
    put(&mut client, "k", "2").await;
    assert_eq!(events(&mut no_put, 1).await, ["DELETE k@3"]);
    assert_eq!(events(&mut no_delete, 2).await, ["PUT k=1@2", "PUT k=2@4"]);
    assert_eq!(no_put.within(QUIET).await, None, "an answer with nothing left is not sent");
}

#[tokio::test]
async fn ids_are_given_taken_and_refused() {
    let server = start();
    let mut client = server.client().await;
    let mut stream = client.open_watch();
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..on("k") };
    assert_eq!(created(&mut stream, with_id(1)).await, 1);
    assert_eq!(created(&mut stream, with_id(0)).await, 0);
    assert_eq!(created(&mut stream, with_id(0)).await, 2, "1 is taken");
    assert_eq!(created(&mut stream, with_id(40)).await, 40);
    let refusals = [
        (with_id(40), "mvcc: duplicate watch ID provided on the WatchStream"),
        (WatchCreateRequest { range_end: "a".into(), ..on("k") }, "mvcc: watcher range is empty"),
        (WatchCreateRequest { range_end: "k".into(), ..on("k") }, "mvcc: watcher range is empty"),
        (
            WatchCreateRequest { start_revision: -1, ..on("k") },
            "etcdserver: mvcc: required revision has been compacted",
        ),
    ];
    for (request, reason) in refusals {
        stream.send(create(request.clone()));
        let answer = stream.expect().await;
        let flags = (answer.watch_id, answer.created, answer.canceled, answer.compact_revision);
        assert_eq!((flags, answer.cancel_reason.as_str()), ((-1, true, true, 0), reason), "{request:?}");
    }
    put(&mut client, "k", "v").await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let answer = stream.expect().await;
        assert_eq!(shown(&answer), ["PUT k=v@2"]);
        ids.push(answer.watch_id);
    }
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 40], "the stream and its watches live on");
}

#[tokio::test]
async fn a_canceled_watch_says_so_and_is_silent() {
    let server = start();
    let mut client = server.client().await;
    let mut stream = client.open_watch();
    let first = created(&mut stream, on("k")).await;
    let second = created(&mut stream, on("k")).await;
    stream.send(cancel(77)); // unknown: no answer
    stream.send(cancel(first));
    let answer = stream.expect().await;
    assert_eq!((answer.watch_id, answer.canceled, answer.created), (first, true, false));
    assert_eq!((answer.header.unwrap().revision, answer.cancel_reason.as_str()), (1, ""));
    put(&mut client, "k", "v").await;
    let answer = stream.expect().await;
    assert_eq!((answer.watch_id, shown(&answer)), (second, vec!["PUT k=v@2".to_owned()]));
    assert_eq!(stream.within(QUIET).await, None);
}

#[tokio::test]
async fn below_the_compact_revision_there_is_nothing_to_watch() {
    let server = start();
    let mut client = server.client().await;
    for i in 0..10 {
        put(&mut client, "k", &i.to_string()).await;
    }
    client.kv.compact(CompactionRequest { revision: 7, physical: true }).await.unwrap();
    let mut stream = client.open_watch();
    let id = created(&mut stream, WatchCreateRequest { start_revision: 6, ..on("k") }).await;
    let answer = stream.expect().await;
    let flags = (answer.watch_id, answer.created, answer.canceled, answer.compact_revision);
    assert_eq!(flags, (id, false, true, 7));
    assert_eq!((answer.cancel_reason.as_str(), answer.events.len()), ("", 0));

    let at = created(&mut stream, WatchCreateRequest { start_revision: 7, prev_kv: true, ..on("k") }).await;
    let answer = stream.expect().await;
    assert_eq!(answer.watch_id, at);
    let want: Vec<String> = (5..10)
        .map(|i| match i {
            5 => "PUT k=5@7".to_owned(), // what was before the compacted revision is gone
            _ => format!("PUT k={i}@{} <{}@{}", i + 2, i - 1, i + 1),
        })
        .collect();
    assert_eq!(shown(&answer), want);
}

/// A deletion at exactly the compacted revision is still seen by a watch from there.
#[tokio::test]
async fn a_tombstone_at_the_compacted_revision_is_seen() {
    let server = start();
    let mut client = server.client().await;
    put(&mut client, "k", "v").await;
    let gone = delete(&mut client, "k").await;
    put(&mut client, "other", "v").await;
    client.kv.compact(CompactionRequest { revision: gone, physical: true }).await.unwrap();
    let mut stream = client.open_watch();
    created(&mut stream, WatchCreateRequest { start_revision: gone, ..on_all() }).await;
    assert_eq!(events(&mut stream, 2).await, ["DELETE k@3", "PUT other=v@4"]);
}

#[tokio::test]
async fn progress_needs_a_watch() {
    let server = start();
    let mut client = server.client().await;
    put(&mut client, "k", "v").await;
    let mut stream = client.open_watch();
    stream.send(progress());
    stream.send(WatchRequest { request_union: None });
    assert_eq!(stream.within(QUIET).await, None, "no watch, no progress; an empty request means nothing");
    created(&mut stream, on("x")).await;
    stream.send(progress());
    let answer = stream.expect().await;
    assert_eq!(
        (answer.watch_id, answer.created, answer.canceled, answer.events.len()),
        (-1, false, false, 0)
    );
    assert_eq!(answer.header.unwrap().revision, 2);
}

#[tokio::test]
async fn a_half_closed_stream_goes_on() {
    let server = start();
    let mut client = server.client().await;
    let mut stream = client.open_watch();
    created(&mut stream, on("k")).await;
    stream.half_close();
    tokio::time::sleep(QUIET).await;
    put(&mut client, "k", "v").await;
    assert_eq!(events(&mut stream, 1).await, ["PUT k=v@2"]);
}

#[tokio::test]
async fn a_big_answer_comes_in_fragments_if_asked_for() {
    let server = options().arg("--max-request-bytes=40000").start();
    let mut client = server.client().await;
    let value = "v".repeat(30_000);
    for i in 0..40 {
        put(&mut client, &format!("k{i:02}"), &value).await;
    }
    // One revision with 1.2 MB of previous values; fragments are for answers over max-request-bytes + 512 KiB.
    let watch = |fragment| WatchCreateRequest { prev_kv: true, fragment, ..on_all() };
    let mut whole = client.open_watch();
    created(&mut whole, watch(false)).await;
    let mut stream = client.open_watch();
    created(&mut stream, watch(true)).await;
    let all = DeleteRangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    client.kv.delete_range(all).await.unwrap();

    let one = whole.expect().await;
    assert_eq!((one.events.len(), one.fragment), (40, false), "without it the answer is whole");
    let (mut got, mut flags) = (Vec::new(), Vec::new());
    while got.len() < 40 {
        let answer = stream.expect().await;
        assert!(answer.events.len() * 30_000 < 40_000 + 524_288, "{} events", answer.events.len());
        assert_eq!(answer.header.unwrap().revision, 42);
        flags.push(answer.fragment);
        got.extend(answer.events);
    }
    assert!(got == one.events);
    assert!(flags.len() >= 3, "{flags:?}");
    assert_eq!(
        flags.iter().position(|more| !more),
        Some(flags.len() - 1),
        "all but the last say that more comes"
    );
}

#[tokio::test]
async fn many_watches_on_many_streams_see_everything_once() {
    let server = start();
    let mut client = server.client().await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let mut stream = client.open_watch();
        for key in ["a", "b", "c"] {
            created(&mut stream, on(key)).await;
        }
        streams.push(stream);
    }
    for i in 0..100 {
        put(&mut client, ["a", "b", "c"][i % 3], &i.to_string()).await;
    }
    for stream in &mut streams {
        let mut next = [0, 1, 2];
        for _ in 0..100 {
            let answer = stream.expect().await;
            let key = answer.watch_id as usize;
            assert_eq!(
                shown(&answer),
                [format!("PUT {}={}@{}", ["a", "b", "c"][key], next[key], next[key] + 2)]
            );
            next[key] += 3;
        }
        assert!(next.iter().all(|next| *next >= 100));
    }
}
