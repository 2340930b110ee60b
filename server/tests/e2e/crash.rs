//! kill -9 under load, over and over: what was acknowledged is there, the revision never goes back, and the server
//! comes up by itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use testkit::Client;
use testkit::pb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest,
};
use tokio::task::JoinSet;
use tonic::Code;

use crate::{long_runs, options};

/// What one writer knows about its own keys; nobody else writes them.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Key to the last acknowledged write (revision; value, or none for a deletion), and what was sent after it
    /// without an answer.
    keys: BTreeMap<String, Key>,
    /// Leases acknowledged and not revoked since, and those for which a revocation was sent without an answer.
    leases: BTreeMap<i64, bool>,
    /// The highest revision an answer named.
    revision: i64,
    /// Number of acknowledged requests.
    acknowledged: u64,
    counter: u64,
}

#[derive(Clone, Debug, Default)]
struct Key {
    revision: i64,
    value: Option<String>,
    unanswered: Vec<Option<String>>,
}

/// Writes until the connection breaks.
async fn write(mut client: Client, writer: usize, mut known: Known, stop: Arc<AtomicBool>) -> Known {
    while !stop.load(Ordering::Relaxed) {
        known.counter += 1;
        let n = known.counter;
        let ok = match n % 11 {
            0 => revoke_or_grant(&mut client, writer, &mut known, n).await,
            3 => delete(&mut client, writer, &mut known, n).await,
            _ => put(&mut client, writer, &mut known, n).await,
        };
        if !ok {
            break;
        }
    }
    known
}

fn key(writer: usize, n: u64) -> String {
    format!("/w{writer}/{:02}", (n * 7) % 40)
}

async fn put(client: &mut Client, writer: usize, known: &mut Known, n: u64) -> bool {
    let (key, value) = (key(writer, n), format!("{n} {}", "x".repeat((n % 700) as usize)));
    let request = PutRequest { key: key.clone().into(), value: value.clone().into(), ..Default::default() };
    known.keys.entry(key.clone()).or_default().unanswered.push(Some(value.clone()));
    let Ok(answer) = client.kv.put(request).await else { return false };
    known.answered(key, answer.into_inner().header.unwrap().revision, Some(value));
    true
}

async fn delete(client: &mut Client, writer: usize, known: &mut Known, n: u64) -> bool {
    let key = key(writer, n);
    known.keys.entry(key.clone()).or_default().unanswered.push(None);
    let request = DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
    let Ok(answer) = client.kv.delete_range(request).await else { return false };
    known.answered(key, answer.into_inner().header.unwrap().revision, None);
    true
}

async fn revoke_or_grant(client: &mut Client, writer: usize, known: &mut Known, n: u64) -> bool {
    if known.leases.len() < 8 {
        let id = (writer as i64 + 1) * 1_000_000 + n as i64;
        let Ok(answer) = client.lease.lease_grant(LeaseGrantRequest { id, ttl: 10_000 }).await else {
            return false;
        };
        known.leases.insert(id, false);
        known.saw(answer.into_inner().header.unwrap().revision);
    } else {
        let id = *known.leases.keys().next().unwrap();
        known.leases.insert(id, true);
        let Ok(answer) = client.lease.lease_revoke(LeaseRevokeRequest { id }).await else { return false };
        known.leases.remove(&id);
        known.saw(answer.into_inner().header.unwrap().revision);
    }
    true
}

impl Known {
    fn saw(&mut self, revision: i64) {
        assert!(revision >= self.revision, "the revision went from {} back to {revision}", self.revision);
        self.revision = revision;
        self.acknowledged += 1;
    }

    fn answered(&mut self, key: String, revision: i64, value: Option<String>) {
        self.saw(revision);
        self.keys.insert(key, Key { revision, value, unanswered: Vec::new() });
    }

    /// Every acknowledged write is there, or one that was sent after it; what is found becomes what is known.
    async fn check(&mut self, client: &mut Client, writer: usize) {
        let prefix = RangeRequest {
            key: format!("/w{writer}/").into(),
            range_end: format!("/w{writer}0").into(),
            ..Default::default()
        };
        let answer = client.kv.range(prefix).await.expect("the server serves").into_inner();
        let now = answer.header.unwrap().revision;
        assert!(now >= self.revision, "the revision went from {} back to {now}", self.revision);
        self.revision = now;
        let mut found: BTreeMap<String, (i64, String)> = BTreeMap::new();
        for kv in answer.kvs {
            let text = |bytes| String::from_utf8(bytes).expect("only text was put");
            found.insert(text(kv.key), (kv.mod_revision, text(kv.value)));
        }
        for (key, known) in &mut self.keys {
            let value = found.get(key).map(|(_, value)| value.clone());
            let expected = value == known.value || known.unanswered.contains(&value);
            assert!(expected, "{key}: {value:?} is there; acknowledged was {known:?}");
            match found.get(key) {
                Some((revision, value)) if known.value.as_ref() == Some(value) => {
                    assert_eq!(
                        *revision, known.revision,
                        "{key}: the acknowledged value under another revision"
                    )
                }
                Some((revision, _)) => assert!(*revision > known.revision, "{key}"),
                None => {}
            }
            let revision = found.get(key).map_or(known.revision, |(revision, _)| *revision);
            *known = Key { revision, value, unanswered: Vec::new() };
        }
        for key in found.keys() {
            assert!(self.keys.contains_key(key), "{key} was never put");
        }
        for (id, revoked) in self.leases.clone() {
            let request = LeaseTimeToLiveRequest { id, keys: false };
            let answer = client.lease.lease_time_to_live(request).await.unwrap().into_inner();
            match (answer.granted_ttl, revoked) {
                (10_000, false) => {}
                (10_000, true) => drop(self.leases.insert(id, false)),
                (0, true) => drop(self.leases.remove(&id)),
                other => panic!("lease {id}: (granted TTL, revocation sent) is {other:?}"),
            }
        }
    }
}

/// Compacts behind the writers. An acknowledged compaction must hold.
async fn compact(mut client: Client, compacted: Arc<AtomicI64>, stop: Arc<AtomicBool>) {
    let get = RangeRequest { key: "x".into(), ..Default::default() };
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let Ok(answer) = client.kv.range(get.clone()).await else { return };
        let revision = answer.into_inner().header.unwrap().revision - 50;
        if revision <= compacted.load(Ordering::Relaxed) {
            continue;
        }
        match client.kv.compact(CompactionRequest { revision, physical: false }).await {
            Ok(_) => compacted.store(revision, Ordering::Relaxed),
            Err(status) if status.code() == Code::OutOfRange => {} // one that was not answered had been done
            Err(_) => return,
        }
    }
}

async fn check_compacted(client: &mut Client, compacted: i64) {
    if compacted > 1 {
        let below = RangeRequest { key: "x".into(), revision: compacted - 1, ..Default::default() };
        let status = client.kv.range(below).await.expect_err("an acknowledged compaction holds");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    const WRITERS: usize = 16;
    let cycles = if long_runs() { 200 } else { 20 };
    // Small heaps force checkpoints to fall into the time under load.
    let options = options();
    let mut server = match crate::program().is_ringd() {
        true => options.arg("--ringd-heap-limit=8388608").start(),
        false => options.start(),
    };
    let mut known = vec![Known::default(); WRITERS];
    let compacted = Arc::new(AtomicI64::new(0));
    let mut slowest = Duration::ZERO;
    for cycle in 0..cycles {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for (writer, known) in known.drain(..).enumerate() {
            let client = server.client().await;
            let stop = stop.clone();
            writers.spawn(async move { (writer, write(client, writer, known, stop).await) });
        }
        let compactor = tokio::spawn(compact(server.client().await, compacted.clone(), stop.clone()));
        tokio::time::sleep(Duration::from_millis(100 + (cycle * 37) % 400)).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        let mut back: BTreeMap<usize, Known> = BTreeMap::new();
        while let Some(writer) = writers.join_next().await {
            let (writer, known) = writer.expect("no writer saw the revision go back");
            back.insert(writer, known);
        }
        compactor.await.unwrap();
        known = back.into_values().collect();
        server.restart();
        slowest = slowest.max(server.ready_after());
        let mut client = server.client().await;
        for (writer, known) in known.iter_mut().enumerate() {
            known.check(&mut client, writer).await;
        }
        check_compacted(&mut client, compacted.load(Ordering::Relaxed)).await;
    }
    let acknowledged: u64 = known.iter().map(|known| known.acknowledged).sum();
    assert!(acknowledged > cycles * 20, "only {acknowledged} requests in {cycles} cycles were no load");
    println!("{cycles} kills, {acknowledged} acknowledged requests, 0 lost, slowest start {slowest:?}");
}
