//! The same random watches and writes to the server under test and to the real etcd: each stream hears the same.
//!
//! After each round both are left alone until they have nothing more to say. Compared is, stream by stream, what is said
//! about watches (created, canceled, compacted, progress) in its order, and for each watch its events in theirs, with the
//! revision of the header they came under. Which watch of a stream is served first is not defined and not compared.

use std::collections::BTreeMap;
use std::time::Duration;

use testkit::pb::mvccpb::event::EventType;
use testkit::pb::request_op::Request;
use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{
    CompactionRequest, DeleteRangeRequest, Event, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
    RequestOp, TxnRequest, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse,
};
use testkit::{Client, Duplex, Program, Server, ServerOptions};

use crate::differential::Random;
use crate::{long_runs, options};

/// Longer than etcd takes to look after watches that lag (100 ms).
const QUIET: Duration = Duration::from_millis(250);

const STREAMS: usize = 2;

/// The only lease; revoking it deletes what hangs on it in one revision.
const LEASE: i64 = 7;

/// What happens in a round.
#[derive(Clone, Debug)]
enum Act {
    Ask(usize, RequestUnion),
    /// A request that asks for nothing.
    AskNothing(usize),
    Put(PutRequest),
    Delete(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(i64),
    Grant,
    Revoke,
}

fn create(stream: usize, request: WatchCreateRequest) -> Act {
    Act::Ask(stream, RequestUnion::CreateRequest(request))
}

fn cancel(stream: usize, watch_id: i64) -> Act {
    Act::Ask(stream, RequestUnion::CancelRequest(WatchCancelRequest { watch_id }))
}

fn progress(stream: usize) -> Act {
    Act::Ask(stream, RequestUnion::ProgressRequest(WatchProgressRequest {}))
}

fn put(key: &str) -> Act {
    Act::Put(PutRequest { key: key.into(), value: "v".into(), ..Default::default() })
}

fn delete(key: &str) -> Act {
    Act::Delete(DeleteRangeRequest { key: key.into(), ..Default::default() })
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest { key: key.into(), ..Default::default() }
}

/// One of the two servers, and its streams.
struct Side {
    server: Server,
    client: Client,
    streams: Vec<Duplex<WatchRequest, WatchResponse>>,
}

impl Side {
    async fn new(options: ServerOptions) -> Side {
        let server = options.start();
        let client = server.client().await;
        let streams = (0..STREAMS).map(|_| client.open_watch()).collect();
        Side { server, client, streams }
    }

    /// Does one thing; answers what the server says to that, as far as it is no watch's business.
    async fn act(&mut self, act: Act) -> String {
        fn show<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> String {
            answer.map_or_else(|status| format!("{:?} {}", status.code(), status.message()), |_| "OK".into())
        }
        match act {
            Act::Ask(stream, request) => {
                self.streams[stream].send(WatchRequest { request_union: Some(request) });
                String::new()
            }
            Act::AskNothing(stream) => {
                self.streams[stream].send(WatchRequest { request_union: None });
                String::new()
            }
            Act::Put(request) => show(self.client.kv.put(request).await),
            Act::Delete(request) => show(self.client.kv.delete_range(request).await),
            Act::Txn(request) => show(self.client.kv.txn(request).await),
            Act::Compact(revision) => {
                show(self.client.kv.compact(CompactionRequest { revision, physical: true }).await)
            }
            Act::Grant => {
                show(self.client.lease.lease_grant(LeaseGrantRequest { id: LEASE, ttl: 600 }).await)
            }
            Act::Revoke => show(self.client.lease.lease_revoke(LeaseRevokeRequest { id: LEASE }).await),
        }
    }

    /// What all streams say until they fall silent.
    async fn heard(&mut self) -> Vec<Heard> {
        let mut all = Vec::new();
        for stream in &mut self.streams {
            let mut heard = Heard::default();
            while let Some(answer) = stream.within(QUIET).await {
                heard.note(&answer);
            }
            all.push(heard);
        }
        all
    }
}

/// What one stream said in a round.
#[derive(Debug, Default, PartialEq, Eq)]
struct Heard {
    about_watches: Vec<String>,
    events: BTreeMap<i64, Vec<String>>,
}

impl Heard {
    fn note(&mut self, answer: &WatchResponse) {
        let header = answer.header.as_ref().expect("every answer has a header");
        if answer.events.is_empty() {
            let WatchResponse {
                watch_id, created, canceled, compact_revision, cancel_reason, fragment, ..
            } = answer;
            self.about_watches.push(format!(
                "{watch_id} at {}: created {created}, canceled {canceled}, compacted {compact_revision}, \
                 {cancel_reason:?}, fragment {fragment}",
                header.revision
            ));
        }
        let events = self.events.entry(answer.watch_id).or_default();
        events
            .extend(answer.events.iter().map(|event| format!("{} under {}", shown(event), header.revision)));
        if events.is_empty() {
            self.events.remove(&answer.watch_id);
        }
    }
}

fn shown(event: &Event) -> String {
    let kind = if event.r#type() == EventType::Put { "PUT" } else { "DELETE" };
    format!("{kind} {:?} before {:?}", event.kv, event.prev_kv)
}

/// Runs the rounds on both and compares what was heard.
async fn compare(name: &str, rounds: impl FnMut(i64) -> Option<Vec<Act>>, args: &[&str]) {
    assert!(testkit::oracle().is_current, "the comparison needs etcd 3.7 (Go >= 1.26)");
    let mut rounds = rounds;
    let with = |options: ServerOptions| args.iter().fold(options, |options, arg| options.arg(*arg));
    let (mut ours, mut theirs) =
        tokio::join!(Side::new(with(options())), Side::new(with(ServerOptions::new(Program::etcd()))));
    let mut told = Vec::new();
    loop {
        let revision = revision(&mut theirs.client).await;
        let Some(acts) = rounds(revision) else { break };
        told.push(format!("at revision {revision}: {acts:?}"));
        for act in acts {
            let (got, want) = tokio::join!(ours.act(act.clone()), theirs.act(act));
            assert_eq!(got, want, "{name}:\n{}", told.join("\n"));
        }
        let (got, want) = tokio::join!(ours.heard(), theirs.heard());
        if got != want {
            panic!(
                "{name}:\n{}\n--- got\n{got:#?}\n--- etcd says\n{want:#?}\n--- log\n{}",
                told.join("\n"),
                ours.server.log()
            );
        }
    }
}

async fn revision(client: &mut Client) -> i64 {
    let request = testkit::pb::RangeRequest { key: "x".into(), ..Default::default() };
    client.kv.range(request).await.unwrap().into_inner().header.unwrap().revision
}

/// A round of its own for each act.
async fn tell(name: &str, acts: Vec<Act>, args: &[&str]) {
    let mut acts = acts.into_iter();
    compare(name, |_| acts.next().map(|act| vec![act]), args).await;
}

fn watched(random: &mut Random, now: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: random.key(),
        range_end: random.range_end(),
        start_revision: random.revision(now),
        progress_notify: random.one_in(4),
        filters: if random.one_in(4) { vec![random.below(3) as i32] } else { Vec::new() },
        prev_kv: random.one_in(2),
        watch_id: if random.one_in(4) { random.below(6) as i64 - 1 } else { 0 },
        fragment: random.one_in(4),
    }
}

/// Keys of one transaction differ: it is the watches that are compared here.
fn txn(random: &mut Random) -> Act {
    let mut keys = vec!["a", "ab", "b", "c", "d/e"];
    let mut success = Vec::new();
    for _ in 0..1 + random.below(4) {
        let key = keys.remove(random.below(keys.len() as u64) as usize);
        let request = if random.one_in(3) {
            Request::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
        } else {
            Request::RequestPut(PutRequest { key: key.into(), value: "t".into(), ..Default::default() })
        };
        success.push(RequestOp { request: Some(request) });
    }
    Act::Txn(TxnRequest { success, ..Default::default() })
}

fn asks(act: &Act) -> bool {
    matches!(act, Act::Ask(..) | Act::AskNothing(_))
}

fn draw(random: &mut Random, now: i64) -> Act {
    let stream = random.below(STREAMS as u64) as usize;
    match random.below(100) {
        0..=29 => create(stream, watched(random, now)),
        30..=39 => cancel(stream, random.below(8) as i64 - 1),
        40..=47 => progress(stream),
        48 => Act::AskNothing(stream),
        49..=72 => Act::Put(PutRequest {
            lease: if random.one_in(4) { LEASE } else { 0 },
            key: random.key(),
            value: random.value(),
            ..Default::default()
        }),
        73..=80 => Act::Delete(DeleteRangeRequest {
            key: random.key(),
            range_end: random.range_end(),
            ..Default::default()
        }),
        81..=91 => txn(random),
        92..=94 => Act::Compact(random.revision(now)),
        95..=97 => Act::Grant,
        _ => Act::Revoke,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_watches_hear_what_they_would_hear_of_etcd() {
    let (seeds, rounds) = if long_runs() { (16, 200) } else { (4, 40) };
    let all: Vec<_> = (0..seeds)
        .map(|seed| {
            tokio::spawn(async move {
                let mut random = Random::new(1000 + seed);
                let mut left = rounds;
                // A stream is not answered in step with other calls, so what is asked there has a round of its own.
                let draws = |now: i64| {
                    left -= 1;
                    let first = draw(&mut random, now);
                    let mut acts = vec![first];
                    while !asks(&acts[0]) && random.one_in(2) {
                        acts.extend(Some(draw(&mut random, now)).filter(|act| !asks(act)));
                    }
                    (left >= 0).then_some(acts)
                };
                compare(&format!("seed {seed}"), draws, &[]).await;
            })
        })
        .collect();
    for one in all {
        one.await.expect("the same as etcd's");
    }
}

#[tokio::test]
async fn ids_and_refusals() {
    let with_id = |watch_id| WatchCreateRequest { watch_id, ..on("a") };
    let acts = vec![
        put("a"),
        create(0, with_id(-1)),
        create(0, with_id(-1)),
        create(0, with_id(-7)),
        create(0, with_id(1)),
        create(0, with_id(0)),
        create(0, with_id(0)), // 1 is taken
        cancel(0, 1),
        create(0, with_id(1)), // free again
        cancel(0, 0),
        create(0, with_id(0)), // not given again by itself
        cancel(0, -1),
        cancel(0, -7),
        put("a"),
        // Which of two reasons is given.
        create(0, WatchCreateRequest { start_revision: -1, range_end: "a".into(), ..with_id(1) }),
        create(0, WatchCreateRequest { range_end: "a".into(), ..with_id(1) }),
        create(0, WatchCreateRequest { start_revision: -1, ..with_id(1) }),
        create(0, WatchCreateRequest { start_revision: i64::MIN, ..with_id(9) }),
        create(0, WatchCreateRequest { start_revision: i64::MAX, ..with_id(10) }),
        progress(0),
        cancel(0, 10),
        progress(0),
        // Keys of their own kind.
        create(1, WatchCreateRequest { range_end: vec![0], ..on("b") }),
        create(1, on("")),
        create(1, WatchCreateRequest { range_end: "b".into(), ..on("") }),
        create(1, WatchCreateRequest { range_end: vec![0], ..on("") }),
        create(1, WatchCreateRequest { key: vec![0], range_end: vec![0, 0], ..Default::default() }),
        put("a"),
        put("b"),
        put("\0"),
        // Filters: both, twice the same, one that nobody knows.
        create(1, WatchCreateRequest { filters: vec![0, 1], ..on("f") }),
        create(1, WatchCreateRequest { filters: vec![1, 1], ..on("f") }),
        create(1, WatchCreateRequest { filters: vec![9], ..on("f") }),
        put("f"),
        delete("f"),
    ];
    tell("ids and refusals", acts, &[]).await;
}

/// A watch that a compaction has ended keeps its id and holds up progress until it is canceled.
#[tokio::test]
async fn compacted_watches() {
    let from = |start_revision| WatchCreateRequest { start_revision, ..on("a") };
    let acts = vec![
        put("a"),
        put("a"),
        put("a"),
        delete("a"),
        put("a"),
        Act::Compact(5),
        create(0, from(1)),
        create(0, WatchCreateRequest { watch_id: 3, ..from(4) }),
        create(0, WatchCreateRequest { prev_kv: true, ..from(5) }),
        create(0, WatchCreateRequest { prev_kv: true, ..from(6) }),
        progress(0),
        create(0, WatchCreateRequest { watch_id: 3, ..from(0) }),
        cancel(0, 3),
        cancel(0, 3),
        create(0, WatchCreateRequest { watch_id: 3, ..from(0) }),
        progress(0),
        cancel(0, 0),
        progress(0),
        put("a"),
        // A start that lay in the future and is compacted over before it is there.
        create(1, from(10)),
        put("b"),
        put("b"),
        Act::Compact(9),
        put("b"),
        put("a"),
        progress(1),
    ];
    tell("compacted", acts, &[]).await;
}

/// What hangs on a lease goes in one revision, in the order of keys.
#[tokio::test]
async fn leases_end_in_one_revision() {
    let hang = |key: &str| {
        Act::Put(PutRequest { key: key.into(), value: "v".into(), lease: LEASE, ..Default::default() })
    };
    let all = WatchCreateRequest { key: vec![0], range_end: vec![0], prev_kv: true, ..Default::default() };
    let acts = vec![
        Act::Grant,
        create(0, all.clone()),
        hang("c"),
        hang("a"),
        hang("b"),
        put("b"), // attached no more
        Act::Revoke,
        Act::Revoke,
        create(1, WatchCreateRequest { start_revision: 1, ..all }),
    ];
    tell("leases", acts, &[]).await;
}

/// With the shortest interval there is: a watch that waits for its start hears nothing.
#[tokio::test]
async fn progress_by_interval() {
    let notified = |start_revision| WatchCreateRequest { progress_notify: true, start_revision, ..on("a") };
    let servers = [options(), ServerOptions::new(Program::etcd())];
    for options in servers {
        let server = options.arg("--watch-progress-notify-interval=100ms").start();
        let mut client = server.client().await;
        let mut stream = client.open_watch();
        let ask = |request| WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
        stream.send(ask(notified(4)));
        assert!(stream.expect().await.created);
        stream.send(ask(notified(0)));
        assert!(stream.expect().await.created);
        stream.send(ask(on("a")));
        assert!(stream.expect().await.created);
        for revision in 1..=4 {
            // Three intervals: of the second always, of the first when its revision is there, of the third never.
            let mut told = BTreeMap::<i64, i64>::new();
            let until = tokio::time::Instant::now() + Duration::from_millis(450);
            while let Some(left) = until.checked_duration_since(tokio::time::Instant::now()) {
                let Some(answer) = stream.within(left).await else { break };
                assert!(!answer.created && !answer.canceled, "{answer:?}");
                if answer.events.is_empty() {
                    let at = answer.header.expect("every answer has a header").revision;
                    // One that was on its way when the put was done is of the revision before.
                    assert!((revision - 1..=revision).contains(&at), "{answer:?}");
                    *told.entry(answer.watch_id).or_default() += 1;
                }
            }
            let ids: Vec<i64> = told.keys().copied().collect();
            assert_eq!(ids, if revision < 4 { vec![1] } else { vec![0, 1] }, "{told:?}");
            client
                .kv
                .put(PutRequest { key: "z".into(), value: "v".into(), ..Default::default() })
                .await
                .unwrap();
        }
    }
}
