//! etcd's rules of watching, told on a store, a hub and streams that can be blocked.

use std::collections::BTreeMap;

use crossbeam::epoch;
use engine::{Op, PutOptions, Store, Txn};
use net::grpc::Fill;
use net::pb::mvccpb::event::EventType;
use prost::Message;

use super::*;
use crate::testing::{WHO, delete, put, store, text};

mod large;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);
const TERM: u64 = 5;

#[derive(Default)]
struct Out {
    sent: BTreeMap<StreamId, Vec<pb::WatchResponse>>,
    /// Bytes of a stream that is not being read; such a stream only fills.
    blocked: BTreeMap<StreamId, usize>,
    /// Responses that were pulled.
    pulled: usize,
}

impl Sink for Out {
    fn send(&mut self, stream: StreamId, message: &[u8]) {
        if let Some(queued) = self.blocked.get_mut(&stream) {
            *queued += message.len();
        }
        self.sent.entry(stream).or_default().push(pb::WatchResponse::decode(message).expect("a response"));
    }

    fn send_large(&mut self, stream: StreamId, mut response: LargeResponse) {
        let (mut message, mut pieces) = (Vec::new(), 0);
        while let Fill::Wrote(wrote) = response.fill(&crossbeam::epoch::pin(), 1000, &mut message) {
            assert_eq!(wrote, 1000, "as much as was asked for");
            pieces += 1;
        }
        assert_eq!(message.len() as u64, response.message_len());
        assert!(pieces > 0);
        self.pulled += 1;
        self.send(stream, &message);
    }

    fn queued_bytes(&self, stream: StreamId) -> usize {
        self.blocked.get(&stream).copied().unwrap_or(0)
    }
}

struct World {
    store: Store,
    hub: Hub,
    out: Out,
    now: Duration,
}

impl World {
    fn new() -> World {
        World::with(Config::new(WHO, 1))
    }

    fn with(config: Config) -> World {
        let mut store = store();
        let view = store.publish().unwrap();
        let mut hub = Hub::new(config, view, TERM);
        hub.open(Duration::ZERO, A);
        hub.open(Duration::ZERO, B);
        World { store, hub, out: Out::default(), now: Duration::ZERO }
    }

    /// Applies as one entry.
    fn apply(&mut self, change: impl FnOnce(&mut Store)) -> &mut World {
        change(&mut self.store);
        let applied = self.store.applied();
        self.store.set_applied(applied.index + 1, TERM);
        self
    }

    fn put(&mut self, key: &str, value: &str) -> &mut World {
        self.apply(|store| drop(store.put(&put(key, value)).unwrap()))
    }

    fn delete(&mut self, key: &str) -> &mut World {
        self.apply(|store| drop(store.delete_range(&delete(key, "")).unwrap()))
    }

    fn compact(&mut self, revision: i64) -> &mut World {
        self.apply(|store| store.compact(revision).unwrap())
    }

    fn finish_compaction(&mut self) -> &mut World {
        while self.store.compact_slice(1000).unwrap() != engine::compact::Progress::Idle {}
        self
    }

    fn publish(&mut self) -> &mut World {
        let view = self.store.publish().unwrap();
        self.hub.set_view(view, TERM);
        self
    }

    fn advance(&mut self) -> &mut World {
        for _ in 0..100_000 {
            if !self.hub.advance(&epoch::pin(), &mut self.out).unwrap() {
                return self;
            }
        }
        panic!("the hub never comes to rest");
    }

    fn run(&mut self) -> &mut World {
        self.publish().advance()
    }

    fn ask(&mut self, stream: StreamId, request: RequestUnion) -> &mut World {
        self.hub.handle(stream, request, &mut self.out);
        self
    }

    fn create(&mut self, stream: StreamId, create: pb::WatchCreateRequest) -> &mut World {
        self.ask(stream, RequestUnion::CreateRequest(create))
    }

    fn cancel(&mut self, stream: StreamId, watch_id: i64) -> &mut World {
        self.ask(stream, RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id }))
    }

    fn progress(&mut self, stream: StreamId) -> &mut World {
        self.ask(stream, RequestUnion::ProgressRequest(pb::WatchProgressRequest {}))
    }

    fn tick(&mut self, by: Duration) -> &mut World {
        self.now += by;
        self.hub.handle_timeout(self.now, &mut self.out);
        self
    }

    /// What was sent on a stream since the last look.
    fn take(&mut self, stream: StreamId) -> Vec<String> {
        self.take_responses(stream).iter().map(show).collect()
    }

    fn take_responses(&mut self, stream: StreamId) -> Vec<pb::WatchResponse> {
        let all = self.out.sent.remove(&stream).unwrap_or_default();
        for response in &all {
            let header = response.header.unwrap();
            assert_eq!((header.cluster_id, header.member_id, header.raft_term), (11, 12, TERM));
        }
        all
    }
}

/// A response in short: `id@revision`, then what is set, then events as `+key=value` or `-key`, `<prev` and `:mod`.
fn show(response: &pb::WatchResponse) -> String {
    let mut text = format!("{}@{}", response.watch_id, response.header.unwrap().revision);
    let flags =
        [(response.created, " created"), (response.canceled, " canceled"), (response.fragment, " fragment")];
    for (set, name) in flags {
        text += if set { name } else { "" };
    }
    if response.compact_revision != 0 {
        text += &format!(" compacted={}", response.compact_revision);
    }
    if !response.cancel_reason.is_empty() {
        text += &format!(" ({})", response.cancel_reason);
    }
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for event in &response.events {
        let kv = event.kv.as_ref().unwrap();
        text += &match event.r#type() {
            EventType::Put => format!(" +{}={}", utf8(&kv.key), utf8(&kv.value)),
            EventType::Delete => {
                assert_eq!((kv.create_revision, kv.version, kv.lease, kv.value.len()), (0, 0, 0, 0));
                format!(" -{}", utf8(&kv.key))
            }
        };
        if let Some(prev) = &event.prev_kv {
            assert_eq!(prev.key, kv.key);
            text += &format!("<{}", utf8(&prev.value));
        }
        text += &format!(":{}", kv.mod_revision);
    }
    text
}

fn watch(key: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: text(key), ..Default::default() }
}

fn prefix(key: &str, end: &str) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { range_end: text(end), ..watch(key) }
}

fn from(start_revision: i64, create: pb::WatchCreateRequest) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { start_revision, ..create }
}

#[test]
fn live_events_come_one_revision_per_response() {
    let mut w = World::new();
    w.put("a", "0").run();
    w.create(A, watch("a")).create(A, prefix("a", "c")).create(B, watch("x"));
    assert_eq!(w.take(A), ["0@2 created", "1@2 created"]);
    w.put("a", "1").put("b", "2").put("c", "3").delete("a").run();
    let mut got = w.take(A);
    got.sort();
    assert_eq!(got, ["0@3 +a=1:3", "0@6 -a:6", "1@3 +a=1:3", "1@4 +b=2:4", "1@6 -a:6"]);
    assert_eq!(w.take(B), ["0@2 created"]);
}

#[test]
fn all_events_of_a_transaction_come_together_and_in_order() {
    let mut w = World::new();
    w.create(A, prefix("a", "z")).create(A, watch("b"));
    let put = |key: &str| Op::Put(put(key, "v"));
    let txn = Txn { success: vec![put("c"), put("b"), put("a")], ..Default::default() };
    w.apply(|store| drop(store.txn(&txn).unwrap())).run();
    assert_eq!(w.take(A), ["0@1 created", "1@1 created", "0@2 +c=v:2 +b=v:2 +a=v:2", "1@2 +b=v:2"]);
    w.apply(|store| drop(store.delete_range(&delete("a", "c")).unwrap())).run();
    assert_eq!(w.take(A), ["0@3 -a:3 -b:3", "1@3 -b:3"]);
}

#[test]
fn ids_are_given_out_in_order_or_taken_as_asked() {
    let mut w = World::new();
    let with_id = |watch_id| pb::WatchCreateRequest { watch_id, ..watch("k") };
    for id in [0, 2, 0, 0, 2, -7] {
        w.create(A, with_id(id));
    }
    w.cancel(A, 0).create(A, with_id(0)).create(B, with_id(0));
    let duplicate = "-1@1 created canceled (mvcc: duplicate watch ID provided on the WatchStream)";
    assert_eq!(
        w.take(A),
        [
            "0@1 created",
            "2@1 created",
            "1@1 created",
            "3@1 created",
            duplicate,
            "-7@1 created",
            "0@1 canceled",
            "4@1 created"
        ]
    );
    assert_eq!(w.take(B), ["0@1 created"]);
}

#[test]
fn what_cannot_be_watched_is_refused_and_the_stream_goes_on() {
    let mut w = World::new();
    w.put("k", "v").run();
    let empty = "-1@2 created canceled (mvcc: watcher range is empty)";
    let compacted = "-1@2 created canceled (etcdserver: mvcc: required revision has been compacted)";
    let cases = [
        (prefix("b", "b"), empty),
        (prefix("b", "a"), empty),
        (from(-1, watch("k")), compacted),
        (from(-1, prefix("b", "a")), compacted),
        (watch(""), "0@2 created"),
        (prefix("", "\0"), "1@2 created"),
    ];
    for (create, want) in cases {
        w.create(A, create.clone());
        assert_eq!(w.take(A), [want], "{create:?}");
    }
    w.put("\0", "zero").run();
    let mut got = w.take(A);
    got.sort();
    assert_eq!(got, ["0@3 +\0=zero:3", "1@3 +\0=zero:3"]);
}

#[test]
fn history_is_replayed_from_the_start_revision_on() {
    let mut w = World::new();
    w.put("a", "2").put("b", "3").put("a", "4").delete("a").put("c", "6").run();
    w.create(A, from(2, prefix("a", "c"))).create(A, from(4, watch("a"))).create(A, from(1, watch("c")));
    w.advance();
    w.put("a", "7").run();
    let mut got = w.take(A);
    got[3..].sort();
    assert_eq!(
        got,
        [
            "0@6 created",
            "1@6 created",
            "2@6 created",
            "0@6 +a=2:2 +b=3:3 +a=4:4 -a:5",
            "0@7 +a=7:7",
            "1@6 +a=4:4 -a:5",
            "1@7 +a=7:7",
            "2@6 +c=6:6",
        ]
    );
}

#[test]
fn a_start_in_the_future_hears_nothing_before() {
    let mut w = World::new();
    w.create(A, from(4, watch("k")));
    w.progress(A);
    w.put("k", "2").put("k", "3").run();
    w.progress(A);
    assert_eq!(w.take(A), ["0@1 created"]);
    w.put("k", "4").run();
    w.progress(A);
    assert_eq!(w.take(A), ["0@4 +k=4:4", "-1@4"]);
}

#[test]
fn previous_rows_come_where_history_has_them() {
    let mut w = World::new();
    let prev = pb::WatchCreateRequest { prev_kv: true, ..prefix("a", "z") };
    w.create(A, prev.clone()).create(B, prefix("a", "z"));
    w.put("k", "1").put("k", "2").delete("k").put("k", "5").run();
    assert_eq!(w.take(A), ["0@1 created", "0@2 +k=1:2", "0@3 +k=2<1:3", "0@4 -k<2:4", "0@5 +k=5:5"]);
    assert_eq!(w.take(B), ["0@1 created", "0@2 +k=1:2", "0@3 +k=2:3", "0@4 -k:4", "0@5 +k=5:5"]);
    // The event at exactly the compact revision has lost its previous row; later ones have not.
    w.compact(3).finish_compaction().run();
    w.create(A, from(3, prev)).advance();
    assert_eq!(w.take(A), ["1@5 created", "1@5 +k=2:3 -k<2:4 +k=5:5"]);
}

#[test]
fn filters_drop_kinds_of_events() {
    let mut w = World::new();
    for filters in [vec![], vec![0], vec![1], vec![0, 1], vec![7]] {
        w.create(A, pb::WatchCreateRequest { filters, ..watch("k") });
    }
    w.take(A);
    w.put("k", "2").delete("k").run();
    let mut got = w.take(A);
    got.sort();
    assert_eq!(got, ["0@2 +k=2:2", "0@3 -k:3", "1@3 -k:3", "2@2 +k=2:2", "4@2 +k=2:2", "4@3 -k:3"]);
}

#[test]
fn a_start_below_the_compact_revision_is_cancelled_after_created() {
    let mut w = World::new();
    w.put("k", "2").put("k", "3").put("k", "4").put("k", "5").run();
    w.compact(4).run();
    w.create(A, from(3, watch("k"))).create(A, from(4, watch("k"))).advance();
    assert_eq!(w.take(A), ["0@5 created", "1@5 created", "0@0 canceled compacted=4", "1@5 +k=4:4 +k=5:5"]);
    // Its id stays taken, and keeps progress back, until the client cancels it, too; that gets an answer.
    w.create(A, pb::WatchCreateRequest { watch_id: 0, ..watch("k") })
        .progress(A)
        .cancel(A, 0)
        .progress(A)
        .cancel(A, 0);
    assert_eq!(w.take(A), ["2@5 created", "0@5 canceled", "-1@5"]);
    w.put("k", "6").run();
    assert_eq!(w.take(A).len(), 2);
}

#[test]
fn a_synced_watcher_survives_a_compaction_in_the_same_view() {
    let mut w = World::new();
    w.create(A, pb::WatchCreateRequest { prev_kv: true, ..watch("k") });
    w.put("k", "2").put("k", "3").put("k", "4").compact(4).run();
    assert_eq!(w.take(A), ["0@1 created", "0@2 +k=2:2", "0@3 +k=3<2:3", "0@4 +k=4<3:4"]);
}

#[test]
fn a_hub_that_slept_over_a_compaction_cancels_instead_of_skipping() {
    let mut w = World::new();
    w.create(A, watch("k")).create(A, from(4, watch("k"))).create(A, from(9, watch("k")));
    w.put("k", "2").put("k", "3").put("k", "4").put("k", "5").compact(4).finish_compaction().run();
    w.put("k", "6").run();
    let mut got = w.take(A);
    got.sort();
    assert_eq!(
        got,
        [
            "0@0 canceled compacted=4",
            "0@1 created",
            "1@1 created",
            "1@4 +k=4:4",
            "1@5 +k=5:5",
            "1@6 +k=6:6",
            "2@1 created"
        ]
    );
}

#[test]
fn cancelling_answers_known_ids_only() {
    let mut w = World::new();
    w.create(A, watch("k")).cancel(A, 5).cancel(A, 0).cancel(A, 0);
    w.put("k", "2").run();
    assert_eq!(w.take(A), ["0@1 created", "0@1 canceled"]);
    assert_eq!(w.hub.figures(), Figures { streams: 2, ..Default::default() });
}

#[test]
fn progress_is_told_when_all_watchers_of_the_stream_are_synced() {
    let mut w = World::new();
    w.progress(A);
    assert_eq!(w.take(A), [""; 0]);
    w.put("k", "2").run();
    w.create(A, watch("k")).create(A, from(2, watch("k")));
    w.progress(A);
    assert_eq!(w.take(A), ["0@2 created", "1@2 created"]);
    w.advance();
    w.progress(A).progress(A);
    assert_eq!(w.take(A), ["1@2 +k=2:2", "-1@2", "-1@2"]);
    // Never ahead of an event of that revision: the new view is not dispatched yet.
    w.put("k", "3").publish();
    w.progress(A);
    w.advance();
    w.progress(A);
    let got = w.take(A);
    assert_eq!(got[0], "-1@2");
    assert_eq!(got[3], "-1@3");
}

/// Made between a new version and its dispatch. Seen by the simulator.
#[test]
fn progress_is_not_told_from_before_a_watcher_was_made() {
    let mut w = World::new();
    w.put("k", "2").run();
    w.put("k", "3").put("k", "4").publish();
    w.create(A, from(4, watch("k"))).create(B, watch("k"));
    w.progress(A).progress(B);
    assert_eq!(w.take(A), ["0@4 created"]);
    assert_eq!(w.take(B), ["0@4 created"]);
    w.advance();
    w.progress(A).progress(B);
    assert_eq!(w.take(A), ["0@4 +k=4:4", "-1@4"]);
    assert_eq!(w.take(B), ["-1@4"]);
}

#[test]
fn progress_notices_come_by_interval_unless_there_were_events() {
    let interval = Duration::from_secs(10);
    let mut w = World::with(Config { progress_interval: interval, ..Config::new(WHO, 1) });
    let notify = |create| pb::WatchCreateRequest { progress_notify: true, ..create };
    w.create(A, notify(watch("a"))).create(A, watch("a")).create(A, notify(from(9, watch("b"))));
    w.take(A);
    let most = interval + interval / 10;
    w.tick(interval - Duration::from_millis(1));
    assert_eq!(w.take(A), [""; 0]);
    w.tick(most - interval);
    assert_eq!(w.take(A), ["0@1"]);
    w.put("a", "2").run();
    assert_eq!(w.take(A).len(), 2);
    w.tick(most);
    assert_eq!(w.take(A), [""; 0]);
    w.tick(most);
    assert_eq!(w.take(A), ["0@2"]);
    assert!(w.hub.next_timeout().unwrap() > w.now);
}

#[test]
fn jitter_is_at_most_a_tenth_and_depends_on_the_seed() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut w = World::with(Config::new(WHO, seed));
        let tick = w.hub.next_timeout().unwrap();
        assert!((600..660).contains(&tick.as_secs()), "{tick:?}");
        seen.insert(tick);
        w.hub.close(A);
        w.hub.close(B);
        assert_eq!(w.hub.next_timeout(), None);
    }
    assert!(seen.len() > 50);
}

#[test]
fn big_responses_are_split_for_those_who_ask() {
    let mut w = World::with(Config { fragment_bytes_max: 200, ..Config::new(WHO, 1) });
    let fragment = |create| pb::WatchCreateRequest { fragment: true, ..create };
    w.create(A, fragment(prefix("k", "l"))).create(B, prefix("k", "l")).create(B, fragment(watch("k0")));
    let value = "v".repeat(60);
    let puts = (0..5).map(|i| Op::Put(put(&format!("k{i}"), &value))).collect();
    w.apply(|store| drop(store.txn(&Txn { success: puts, ..Default::default() }).unwrap())).run();
    let parts = w.take_responses(A);
    let shape: Vec<_> = parts[1..].iter().map(|part| (part.events.len(), part.fragment)).collect();
    assert_eq!(shape, [(2, true), (2, true), (1, false)]);
    assert!(parts.iter().all(|part| part.encoded_len() < 200 && part.watch_id == 0));
    let keys: Vec<_> =
        parts.iter().flat_map(|part| &part.events).map(|e| e.kv.as_ref().unwrap().key.clone()).collect();
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4"]);
    let whole = w.take_responses(B);
    assert_eq!(whole.iter().map(|r| r.events.len()).collect::<Vec<_>>(), [0, 0, 5, 1]);
}

#[test]
fn a_long_history_comes_in_pieces_of_whole_revisions() {
    let mut w = World::new();
    for i in 0..2500 {
        let ops = ["a", "b"].map(|key| Op::Put(put(key, &i.to_string()))).to_vec();
        w.apply(|store| drop(store.txn(&Txn { success: ops, ..Default::default() }).unwrap()));
    }
    w.run();
    w.create(A, from(1, prefix("a", "z"))).create(A, from(1000, watch("b"))).advance();
    for (id, first) in [(0, 2), (1, 1000)] {
        let responses: Vec<_> =
            w.out.sent[&A].iter().filter(|r| r.watch_id == id && !r.events.is_empty()).collect();
        let mut revisions = Vec::new();
        for response in responses {
            let mut of_response: Vec<i64> =
                response.events.iter().map(|e| e.kv.as_ref().unwrap().mod_revision).collect();
            let events_each = if id == 0 { 2 } else { 1 };
            of_response.dedup();
            assert!(of_response.len() <= 1000, "{} revisions", of_response.len());
            assert_eq!(response.events.len(), of_response.len() * events_each, "a revision is split");
            revisions.extend(of_response);
        }
        assert_eq!(revisions, (first..=2501).collect::<Vec<i64>>(), "watcher {id}");
    }
}

#[test]
fn a_stream_that_is_not_read_holds_a_position_and_nobody_else() {
    let mut w = World::new();
    w.create(A, watch("k")).create(A, watch("other")).create(B, watch("k"));
    w.out.blocked.insert(A, 0);
    let value = "v".repeat(10_000);
    for _ in 0..100 {
        w.put("k", &value).run();
    }
    w.progress(A);
    let held = w.out.blocked[&A];
    assert!(held < STREAM_QUEUED_BYTES_MAX + 11_000, "{held} bytes queued");
    let before = w.take(A).len() - 2;
    assert!(before < 30);
    assert_eq!(w.take(B).len(), 101);
    assert!(w.hub.is_waiting());
    assert_eq!(w.hub.figures().lagging, 1);
    // Read again, it gets the rest: nothing twice, nothing left out.
    w.out.blocked.remove(&A);
    w.advance();
    let rest = w.take_responses(A);
    let revisions: Vec<i64> =
        rest.iter().flat_map(|r| &r.events).map(|e| e.kv.as_ref().unwrap().mod_revision).collect();
    assert_eq!(revisions, (2 + before as i64..=101).collect::<Vec<i64>>());
    assert!(!w.hub.is_waiting());
    w.progress(A);
    assert_eq!(w.take(A), ["-1@101"]);
}

#[test]
fn a_held_up_watcher_can_be_overtaken_by_a_compaction_or_closed() {
    let mut w = World::new();
    w.create(A, watch("k")).create(B, watch("k"));
    w.out.blocked = BTreeMap::from([(A, STREAM_QUEUED_BYTES_MAX), (B, STREAM_QUEUED_BYTES_MAX)]);
    w.put("k", "2").put("k", "3").put("k", "4").run();
    assert_eq!(w.hub.figures().lagging, 2);
    w.hub.close(B);
    w.compact(4).finish_compaction().run();
    w.out.blocked.clear();
    w.advance();
    assert_eq!(w.take(A), ["0@1 created", "0@0 canceled compacted=4"]);
    assert_eq!(w.take(B), ["0@1 created"]);
    assert_eq!(w.hub.figures(), Figures { streams: 1, watchers: 1, lagging: 0, events: 0 });
}

#[test]
fn closed_streams_leave_nothing_behind() {
    let mut w = World::new();
    w.put("k", "2").run();
    for i in 0..100 {
        w.create(A, from(i % 3, if i % 2 == 0 { watch("k") } else { prefix("k", "l") }));
        w.create(B, from(50, watch("k")));
    }
    w.hub.close(A);
    w.hub.close(A);
    w.hub.close(B);
    w.put("k", "3").run();
    assert_eq!(w.hub.figures(), Figures::default());
    assert_eq!((w.hub.watchers_bytes, w.hub.next_timeout()), (0, None));
    w.create(A, watch("k"));
    assert!(w.out.sent[&A].iter().filter(|r| !r.created).count() == 0);
}

#[test]
fn watchers_are_bounded_by_what_they_cost() {
    let mut w = World::with(Config { watchers_bytes_max: 10_000, ..Config::new(WHO, 1) });
    for _ in 0..1000 {
        w.create(A, watch("k"));
    }
    let refused = w.take(A).iter().filter(|r| r.contains("too many requests")).count();
    assert!((900..1000).contains(&refused), "{refused}");
    assert!(w.hub.watchers_bytes <= 10_000);
    w.hub.close(A);
    w.hub.open(w.now, A);
    w.create(A, watch("k"));
    assert_eq!(w.take(A), ["0@1 created"]);
}

/// Any mix of watchers, writes, blocked streams and compactions: what a watcher has received is exactly the events of
/// its span since its start, in order, in whole revisions; or a prefix of that and a compacted cancel.
#[test]
fn every_watcher_hears_every_event_once_and_in_order() {
    for seed in 0..40u64 {
        let mut draws = seed;
        let mut draw = move |below: u64| {
            draws = draws.wrapping_add(1);
            mix(draws) % below
        };
        let mut w = World::new();
        let mut log: Vec<(i64, String)> = Vec::new();
        let mut created: BTreeMap<(StreamId, i64), (i64, pb::WatchCreateRequest)> = BTreeMap::new();
        let mut ids = [0, 0];
        for _ in 0..150 {
            match draw(12) {
                0..=5 => {
                    let key = ["a", "b", "c"][draw(3) as usize];
                    let next = w.store.revision() + 1;
                    w.put(key, "v");
                    log.push((next, key.to_owned()));
                }
                6 => {
                    let next = w.store.revision() + 1;
                    let ops =
                        ["a", "c"].map(|key| Op::Put(PutOptions { key: text(key), ..Default::default() }));
                    w.apply(|store| {
                        drop(store.txn(&Txn { success: ops.to_vec(), ..Default::default() }).unwrap())
                    });
                    log.extend([(next, "a".to_owned()), (next, "c".to_owned())]);
                }
                7 | 8 => {
                    let lane = draw(2) as usize;
                    let stream = [A, B][lane];
                    let start = draw(w.hub.view.revision() as u64 + 3) as i64;
                    let span = [watch("a"), prefix("a", "c"), prefix("b", "\0")][draw(3) as usize].clone();
                    let first = if start == 0 { w.hub.view.revision() + 1 } else { start };
                    created.insert((stream, ids[lane]), (first, span.clone()));
                    ids[lane] += 1;
                    w.create(stream, from(start, span));
                }
                9 => {
                    let stream = [A, B][draw(2) as usize];
                    match w.out.blocked.remove(&stream) {
                        Some(_) => {}
                        None => drop(w.out.blocked.insert(stream, STREAM_QUEUED_BYTES_MAX - 100)),
                    }
                }
                10 if w.store.revision() > w.store.compact_revision() + 5 => {
                    let at = w.store.revision() - draw(5) as i64;
                    w.compact(at);
                    if draw(2) == 0 {
                        w.finish_compaction();
                    }
                }
                _ => drop(w.run()),
            }
        }
        w.out.blocked.clear();
        w.run();
        for ((stream, id), (first, create)) in created {
            let responses: Vec<_> =
                w.out.sent[&stream].iter().filter(|r| r.watch_id == id && !r.created).collect();
            let cancelled = responses.iter().any(|r| r.canceled);
            let got: Vec<(i64, String)> = responses
                .iter()
                .flat_map(|r| &r.events)
                .map(|e| e.kv.as_ref().unwrap())
                .map(|kv| (kv.mod_revision, String::from_utf8(kv.key.to_vec()).unwrap()))
                .collect();
            let span = Span::new(create.key, create.range_end).unwrap();
            let wants = |key: &str| match &span {
                Span::Key(only) => only == key,
                Span::From(start) => start <= key,
                Span::Range(start, end) => start <= key && key.as_bytes() < &end[..],
            };
            let want: Vec<_> = log.iter().filter(|(rev, key)| *rev >= first && wants(key)).cloned().collect();
            match cancelled {
                false => assert_eq!(got, want, "seed {seed} {stream:?} watcher {id} from {first}"),
                true => assert!(want.starts_with(&got), "seed {seed} {stream:?} watcher {id} from {first}"),
            }
        }
    }
}
