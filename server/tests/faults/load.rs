//! A load that remembers what was acknowledged, and the check that nothing of it is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use testkit::pb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest,
};
use testkit::{Client, Server};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;

/// How long a load may go on without reaching the moment that it is there for.
const PATIENCE: Duration = Duration::from_secs(40);

/// Seconds a lease is granted for: longer than any test.
const LEASE_TTL: i64 = 10_000;

/// Revisions that compactions leave: enough that the heap fills and checkpoints are made.
const COMPACT_BEHIND: i64 = 1_000;

const WRITERS: usize = 8;
const KEYS_EACH: u64 = 40;
const LEASES_EACH: usize = 6;

/// What clients know about one server's data, over all its lives.
#[derive(Debug, Default)]
pub struct Known {
    writers: Vec<Writer>,
    /// The highest compaction that was acknowledged.
    compacted: i64,
}

/// What one writer knows about its own keys and leases; nobody else writes them.
#[derive(Debug, Default)]
struct Writer {
    number: usize,
    counter: u64,
    keys: BTreeMap<String, Key>,
    /// Granted and not revoked, as far as acknowledged; true: a revocation was sent and not answered.
    leases: BTreeMap<i64, bool>,
    /// Revoked, acknowledged.
    revoked: BTreeSet<i64>,
    /// The highest revision an answer named.
    revision: i64,
    acknowledged: u64,
}

#[derive(Clone, Debug, Default)]
struct Key {
    /// Of the last acknowledged write.
    revision: i64,
    /// What it wrote; none: it deleted the key, or there was none.
    value: Option<Value>,
    /// Sent after it and not answered: each may have happened or not.
    unanswered: Vec<Option<Value>>,
}

/// A value's number and length say all of its bytes, which keeps what is known small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    number: u64,
    length: usize,
}

impl Value {
    fn new(number: u64) -> Value {
        // Rows within a page, and every ninth in a run of pages of its own.
        let length =
            if number.is_multiple_of(9) { 9_000 + (number * 997) % 80_000 } else { 8 + number % 1_500 };
        Value { number, length: length as usize }
    }

    fn bytes(self) -> Vec<u8> {
        let mut bytes = self.number.to_be_bytes().to_vec();
        bytes.resize(self.length, (self.number * 7) as u8);
        bytes
    }

    fn of(bytes: &[u8]) -> Value {
        let number = bytes.get(..8).map(|head| u64::from_be_bytes(head.try_into().expect("8 bytes")));
        let value = Value { number: number.expect("every value has its number"), length: bytes.len() };
        assert!(value.bytes() == bytes, "value {} has other bytes than were put", value.number);
        value
    }
}

impl Known {
    /// Nothing yet.
    pub fn new() -> Known {
        let writers = (0..WRITERS).map(|number| Writer { number, ..Writer::default() }).collect();
        Known { writers, compacted: 0 }
    }

    /// Requests that were answered with success so far.
    pub fn acknowledged(&self) -> u64 {
        self.writers.iter().map(|writer| writer.acknowledged).sum()
    }

    /// Waits until the server serves, then writes, deletes, grants, revokes and compacts until it has ended by itself,
    /// which it may do before, and says how it ended.
    ///
    /// # Panics
    /// If it goes on serving for 40 s.
    pub async fn load_until_death(&mut self, server: &mut Server) -> std::process::ExitStatus {
        let started = Instant::now();
        let mut load = None;
        let status = loop {
            if let Some(status) = server.exited() {
                break status;
            }
            if load.is_none() && server.log().contains("ready to serve client requests") {
                load = Load::start(self, server).await;
            }
            let state = if load.is_some() { "serves" } else { "starts" };
            assert!(started.elapsed() < PATIENCE, "the server still {state} after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        if let Some(load) = load {
            *self = load.stop().await;
        }
        status
    }

    /// Everything acknowledged is there, or something that was sent after it.
    pub async fn check(&mut self, server: &Server) {
        let mut client = server.client().await;
        for writer in &mut self.writers {
            writer.check_keys(&mut client).await;
            writer.check_leases(&mut client).await;
        }
        if self.compacted > 1 {
            let revision = self.compacted - 1;
            let below = RangeRequest { key: "x".into(), revision, ..Default::default() };
            let status = client.kv.range(below).await.expect_err("an acknowledged compaction holds");
            assert_eq!(status.code(), Code::OutOfRange, "{status}");
        }
    }
}

/// A load under way.
struct Load {
    writers: JoinSet<Writer>,
    compactor: tokio::task::JoinHandle<i64>,
    stop: watch::Sender<bool>,
}

impl Load {
    /// `None`: the server is gone again.
    async fn start(known: &mut Known, server: &Server) -> Option<Load> {
        let mut clients = Vec::new();
        for _ in 0..WRITERS + 1 {
            clients.push(Client::connect(server.url()).await.ok()?);
        }
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        for (writer, client) in known.writers.drain(..).zip(clients.split_off(1)) {
            writers.spawn(writer.run(client, stopped.clone()));
        }
        let client = clients.remove(0);
        let compactor = tokio::spawn(compact(client, known.compacted, stopped));
        Some(Load { writers, compactor, stop })
    }

    async fn stop(mut self) -> Known {
        self.stop.send_replace(true);
        let mut writers = Vec::new();
        while let Some(writer) = self.writers.join_next().await {
            writers.push(writer.expect("no writer saw the revision go back"));
        }
        writers.sort_by_key(|writer: &Writer| writer.number);
        Known { writers, compacted: self.compactor.await.expect("the compactor found nothing wrong") }
    }
}

impl Writer {
    async fn run(mut self, mut client: Client, stop: watch::Receiver<bool>) -> Writer {
        while !*stop.borrow() {
            self.counter += 1;
            let n = self.counter;
            let answered = match n % 11 {
                0 => self.grant_or_revoke(&mut client, n).await,
                3 => self.delete(&mut client, n).await,
                _ => self.put(&mut client, n).await,
            };
            if !answered {
                break;
            }
        }
        self
    }

    fn key(&self, n: u64) -> String {
        format!("/w{}/{:02}", self.number, (n * 7) % KEYS_EACH)
    }

    async fn put(&mut self, client: &mut Client, n: u64) -> bool {
        let (key, value) = (self.key(n), Value::new(n));
        self.keys.entry(key.clone()).or_default().unanswered.push(Some(value));
        let lease = *self.leases.iter().find(|(_, revoked)| !**revoked).map_or(&0, |(id, _)| id);
        // Every fifth key hangs on a lease, and goes with it.
        let lease = if key.ends_with('5') { lease } else { 0 };
        let put = PutRequest { key: key.clone().into(), value: value.bytes(), lease, ..Default::default() };
        let Ok(answer) = client.kv.put(put).await else { return false };
        self.answered(key, answer.into_inner().header.expect("a header").revision, Some(value));
        true
    }

    async fn delete(&mut self, client: &mut Client, n: u64) -> bool {
        let key = self.key(n);
        self.keys.entry(key.clone()).or_default().unanswered.push(None);
        let delete = DeleteRangeRequest { key: key.clone().into(), ..Default::default() };
        let Ok(answer) = client.kv.delete_range(delete).await else { return false };
        self.answered(key, answer.into_inner().header.expect("a header").revision, None);
        true
    }

    async fn grant_or_revoke(&mut self, client: &mut Client, n: u64) -> bool {
        if self.leases.len() < LEASES_EACH {
            let id = (self.number as i64 + 1) * 1_000_000_000 + n as i64;
            let grant = LeaseGrantRequest { id, ttl: LEASE_TTL };
            let Ok(answer) = client.lease.lease_grant(grant).await else { return false };
            self.leases.insert(id, false);
            self.saw(answer.into_inner().header.expect("a header").revision);
            return true;
        }
        let id = *self.leases.keys().next().expect("there are some");
        self.leases.insert(id, true);
        // Its keys may go with it.
        for (_, key) in self.keys.iter_mut().filter(|(name, _)| name.ends_with('5')) {
            key.unanswered.push(None);
        }
        let Ok(answer) = client.lease.lease_revoke(LeaseRevokeRequest { id }).await else { return false };
        self.leases.remove(&id);
        self.revoked.insert(id);
        self.saw(answer.into_inner().header.expect("a header").revision);
        true
    }

    fn saw(&mut self, revision: i64) {
        assert!(revision >= self.revision, "the revision went from {} back to {revision}", self.revision);
        self.revision = revision;
        self.acknowledged += 1;
    }

    fn answered(&mut self, key: String, revision: i64, value: Option<Value>) {
        self.saw(revision);
        self.keys.insert(key, Key { revision, value, unanswered: Vec::new() });
    }

    /// What is found becomes what is known.
    async fn check_keys(&mut self, client: &mut Client) {
        let own = RangeRequest {
            key: format!("/w{}/", self.number).into(),
            range_end: format!("/w{}0", self.number).into(),
            ..Default::default()
        };
        let answer = client.kv.range(own).await.expect("the server serves").into_inner();
        let now = answer.header.expect("a header").revision;
        assert!(now >= self.revision, "the revision went from {} back to {now}", self.revision);
        self.revision = now;
        let mut found: BTreeMap<String, (i64, Value)> = BTreeMap::new();
        for kv in answer.kvs {
            let key = String::from_utf8(kv.key).expect("only text was put");
            found.insert(key, (kv.mod_revision, Value::of(&kv.value)));
        }
        for (name, key) in &mut self.keys {
            let there = found.remove(name);
            let value = there.map(|(_, value)| value);
            assert!(
                value == key.value || key.unanswered.contains(&value),
                "{name}: {value:?} is there; known is {key:?}"
            );
            if let Some((revision, value)) = there {
                let acknowledged = key.value == Some(value);
                let fits = if acknowledged { revision == key.revision } else { revision > key.revision };
                assert!(fits, "{name}: {value:?} has revision {revision}; known is {key:?}");
            }
            let revision = there.map_or(key.revision, |(revision, _)| revision);
            *key = Key { revision, value, unanswered: Vec::new() };
        }
        assert!(found.is_empty(), "never put: {:?}", found.keys());
    }

    async fn check_leases(&mut self, client: &mut Client) {
        let mut granted = async |id| {
            let request = LeaseTimeToLiveRequest { id, keys: false };
            client.lease.lease_time_to_live(request).await.expect("an answer").into_inner().granted_ttl
        };
        for id in &self.revoked {
            assert_eq!(granted(*id).await, 0, "lease {id} was revoked");
        }
        self.revoked.clear();
        for (id, revoked) in std::mem::take(&mut self.leases) {
            match (granted(id).await, revoked) {
                (LEASE_TTL, _) => drop(self.leases.insert(id, false)),
                (0, true) => {}
                (ttl, _) => panic!("lease {id}: granted {ttl} s, revocation sent: {revoked}"),
            }
        }
    }
}

/// Compacts behind the writers; gives back the last acknowledged revision.
async fn compact(mut client: Client, mut compacted: i64, stop: watch::Receiver<bool>) -> i64 {
    let get = RangeRequest { key: "x".into(), ..Default::default() };
    while !*stop.borrow() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let Ok(answer) = client.kv.range(get.clone()).await else { break };
        let revision = answer.into_inner().header.expect("a header").revision - COMPACT_BEHIND;
        if revision <= compacted {
            continue;
        }
        match client.kv.compact(CompactionRequest { revision, physical: false }).await {
            Ok(_) => compacted = revision,
            Err(status) if status.code() == Code::OutOfRange => {} // one without an answer had been done
            Err(_) => break,
        }
    }
    compacted
}
