//! Clients that read and write shared keys and write down what they asked and were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::Status;

use super::{Ask, Op, Row, Told};
use crate::Client;
use crate::pb::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op, response_op,
};

/// Keys that all clients share.
const KEYS: u64 = 12;

/// How long a client waits for an answer before it calls the outcome unknown.
const PATIENCE: Duration = Duration::from_secs(2);

/// A source of chance; the same number gives the same choices.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// The source of this number.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A number below `bound`, by splitmix64.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Clients at work.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Worker>,
}

/// A client between two calls, and between two loads.
pub(super) struct Worker {
    number: usize,
    chance: Chance,
    /// Values written so far.
    values: u64,
    /// The mod revision of each key as it was seen last.
    seen: Vec<i64>,
    member: usize,
    ops: Vec<Op>,
}

impl Worker {
    pub fn new(number: usize, seed: u64) -> Worker {
        let chance = Chance::new(seed.wrapping_mul(1000) + number as u64);
        Worker { number, chance, values: 0, seen: vec![0; KEYS as usize], member: number, ops: Vec::new() }
    }

    /// What it has asked since this was asked last.
    pub fn take(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.ops)
    }
}

impl Load {
    /// Lets the workers go on against these members, each with a pause between calls.
    pub fn start(workers: Vec<Worker>, urls: &[String], pause: Duration) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for worker in workers {
            clients.spawn(work(worker, urls.to_vec(), pause, stop.clone()));
        }
        Load { stop, clients }
    }

    /// Ends it; every call has had its answer or its time.
    pub async fn stop(self) -> Vec<Worker> {
        self.stop.store(true, Ordering::Relaxed);
        let mut workers = self.clients.join_all().await;
        workers.sort_by_key(|worker| worker.number);
        workers
    }
}

async fn work(mut worker: Worker, urls: Vec<String>, pause: Duration, stop: Arc<AtomicBool>) -> Worker {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(pause).await;
        let Some(open) = &mut client else {
            // The next member, and a moment for it to come back.
            worker.member = (worker.member + 1) % urls.len();
            let connected = tokio::time::timeout(PATIENCE, Client::connect(&urls[worker.member])).await;
            client = connected.ok().and_then(Result::ok);
            continue;
        };
        let ask = worker.choose();
        let invoked = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, call(open, &ask, worker.number)).await;
        let told = match answer {
            Ok(Ok(told)) => Some((Instant::now(), told)),
            // Whatever the error says, it is not believed: the events show what happened.
            Ok(Err(_)) | Err(_) => {
                client = None;
                None
            }
        };
        worker.learn(&ask, told.as_ref().map(|(_, told)| told));
        worker.ops.push(Op { client: worker.number, member: worker.member, ask, invoked, told });
    }
    worker
}

fn key(number: u64) -> String {
    format!("k/{number:02}")
}

impl Worker {
    fn choose(&mut self) -> Ask {
        let number = self.chance.below(KEYS);
        let key = key(number);
        self.values += 1;
        let value = format!("{}.{}", self.number, self.values);
        match self.chance.below(20) {
            0..5 => Ask::Put { key, value },
            5..9 => Ask::Swap { key, expected: self.seen[number as usize], value },
            9 => Ask::Delete { key, mark: format!("mark/{}", self.number), value },
            10..16 => Ask::Read { key, end: String::new(), serializable: false },
            16 => Ask::Read { key: "k/".into(), end: "k0".into(), serializable: false },
            17 => Ask::Read { key: "k/".into(), end: "k0".into(), serializable: true },
            _ => Ask::Read { key, end: String::new(), serializable: true },
        }
    }

    fn learn(&mut self, ask: &Ask, told: Option<&Told>) {
        let mut saw = |key: &str, revision: i64| {
            let number = key.strip_prefix("k/").and_then(|number| number.parse::<usize>().ok());
            if let Some(seen) = number.and_then(|number| self.seen.get_mut(number)) {
                *seen = revision;
            }
        };
        match (ask, told) {
            (Ask::Put { key, .. } | Ask::Swap { key, .. }, Some(Told::Written(revision))) => {
                saw(key, *revision)
            }
            (Ask::Delete { key, .. }, Some(Told::Written(_))) => saw(key, 0),
            (Ask::Swap { key, .. }, Some(Told::NotSwapped(_, row))) => {
                saw(key, row.as_ref().map_or(0, |row| row.mod_revision));
            }
            (Ask::Read { .. }, Some(Told::Read(_, rows))) => {
                rows.iter().for_each(|row| saw(&row.key, row.mod_revision));
            }
            _ => {}
        }
    }
}

async fn call(client: &mut Client, ask: &Ask, number: usize) -> Result<Told, Status> {
    let revision = |header: Option<crate::pb::ResponseHeader>| header.expect("a header").revision;
    match ask {
        Ask::Put { key, value } => {
            let put =
                PutRequest { key: key.as_str().into(), value: value.as_str().into(), ..Default::default() };
            let answer = client.kv.put(put).await?.into_inner();
            Ok(Told::Written(revision(answer.header)))
        }
        Ask::Read { key, end, serializable } => {
            let range = RangeRequest {
                key: key.as_str().into(),
                range_end: end.as_str().into(),
                serializable: *serializable,
                ..Default::default()
            };
            let answer = client.kv.range(range).await?.into_inner();
            Ok(Told::Read(revision(answer.header), answer.kvs.into_iter().map(row).collect()))
        }
        Ask::Swap { key, expected, value } => {
            let answer = client.kv.txn(swap(key, *expected, value)).await?.into_inner();
            let made = revision(answer.header);
            Ok(if answer.succeeded { Told::Written(made) } else { Told::NotSwapped(made, found(answer)) })
        }
        Ask::Delete { key, mark, value } => {
            assert_eq!(*mark, format!("mark/{number}"), "marks are not shared");
            let answer = client.kv.txn(delete(key, mark, value)).await?.into_inner();
            Ok(Told::Written(revision(answer.header)))
        }
    }
}

fn swap(key: &str, expected: i64, value: &str) -> TxnRequest {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    let read = RangeRequest { key: key.into(), ..Default::default() };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.into(),
            target_union: Some(TargetUnion::ModRevision(expected)),
            ..Default::default()
        }],
        success: vec![op(request_op::Request::RequestPut(put))],
        failure: vec![op(request_op::Request::RequestRange(read))],
    }
}

fn delete(key: &str, mark: &str, value: &str) -> TxnRequest {
    let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
    let put = PutRequest { key: mark.into(), value: value.into(), ..Default::default() };
    let success =
        vec![op(request_op::Request::RequestDeleteRange(delete)), op(request_op::Request::RequestPut(put))];
    TxnRequest { success, ..Default::default() }
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

/// What the read of a swap that failed has found.
fn found(answer: TxnResponse) -> Option<Row> {
    match answer.responses.into_iter().next().and_then(|response| response.response) {
        Some(response_op::Response::ResponseRange(range)) => range.kvs.into_iter().next().map(row),
        other => panic!("a swap that failed reads: {other:?}"),
    }
}

fn row(kv: KeyValue) -> Row {
    Row { key: text(kv.key), value: text(kv.value), mod_revision: kv.mod_revision }
}

pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("only text is written")
}
