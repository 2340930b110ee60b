//! Metrics under etcd's names, and ours.
//!
//! ```text
//! thread of a core ── relaxed stores ──▶ its Shard ─┐
//! thread of a core ── relaxed stores ──▶ its Shard ─┼─ GET /metrics: sum, render
//! background thread ─ relaxed stores ──▶ its Shard ─┘
//! ```
//!
//! A thread finds its shard in a thread-local, so counting takes no lock and no locked instruction, and no two cores
//! write to one cache line. The list of shards has a lock; it is taken when a thread counts for the first time and when
//! somebody scrapes.
//!
//! The text is written by hand (`render`), because `prometheus-client` can't produce etcd's names: it speaks
//! OpenMetrics, where each counter ends in `_total` in its samples but not in its `# TYPE`, so that
//! `etcd_server_health_success` can't exist at all, and `etcd_mvcc_put_total` has no type for a scraper of the
//! Prometheus text format 0.0.4, which is what etcd serves. Its histograms print `le="1.0"` where etcd prints `le="1"`.
//!
//! Not here: what is counted where; the callers know.

pub mod cell;
pub mod families;
pub mod peers;
mod render;

use std::cell::Cell;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use net::grpc::{Code, Method};

use crate::config::limits::Queue;
use cell::{Counter, Gauge, Histogram};
use families::{APPLY, HANDLING, Plain, REQUEST};

/// Content-Type of what [`Metrics::render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// Kinds of requests as etcd labels applies (`op`) and requests (`type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are etcd's")]
pub enum Op {
    Range,
    ReadonlyTxn,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    ClusterVersionSet,
    ClusterMemberAttrSet,
}

impl Op {
    /// The kind of request behind a method, where etcd measures it.
    pub fn of(method: Method) -> Option<Op> {
        Some(match method {
            Method::KvRange => Op::Range,
            Method::KvPut => Op::Put,
            Method::KvDeleteRange => Op::DeleteRange,
            Method::KvTxn => Op::Txn,
            Method::KvCompact => Op::Compaction,
            Method::LeaseGrant => Op::LeaseGrant,
            Method::LeaseRevoke => Op::LeaseRevoke,
            Method::MaintenanceAlarm => Op::Alarm,
            _ => return None,
        })
    }

    const COUNT: usize = 12;
    const ALL: [Op; Op::COUNT] = [
        Op::Range,
        Op::ReadonlyTxn,
        Op::Put,
        Op::DeleteRange,
        Op::Txn,
        Op::Compaction,
        Op::LeaseGrant,
        Op::LeaseRevoke,
        Op::LeaseCheckpoint,
        Op::Alarm,
        Op::ClusterVersionSet,
        Op::ClusterMemberAttrSet,
    ];
}

/// Checks behind `/livez` and `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are etcd's")]
pub enum Check {
    LivezSerializableRead,
    ReadyzDataCorruption,
    ReadyzSerializableRead,
    ReadyzLinearizableRead,
    ReadyzNonLearner,
}

impl Check {
    /// The check of this type and name.
    pub fn find(kind: &str, name: &str) -> Option<Check> {
        let at = Check::LABELS.iter().position(|&label| label == (kind, name))?;
        let all = [
            Check::LivezSerializableRead,
            Check::ReadyzDataCorruption,
            Check::ReadyzSerializableRead,
            Check::ReadyzLinearizableRead,
            Check::ReadyzNonLearner,
        ];
        all.get(at).copied()
    }

    /// `type` and `name`.
    const LABELS: [(&'static str, &'static str); 5] = [
        ("livez", "serializable_read"),
        ("readyz", "data_corruption"),
        ("readyz", "serializable_read"),
        ("readyz", "linearizable_read"),
        ("readyz", "non_learner"),
    ];
}

/// What one thread counts.
#[derive(Debug)]
pub struct Shard {
    name: String,
    /// Families without labels.
    pub plain: Plain,
    methods: Box<[PerMethod]>,
    apply: Box<[[Histogram; 2]; Op::COUNT]>,
    request: Box<[[Histogram; 2]; Op::COUNT]>,
    range: Box<[Histogram; 2]>,
    checks: [PerCheck; Check::LABELS.len()],
    stream_failures: [Counter; STREAM_FAILURES.len()],
    client_requests: [[Counter; 2]; CLIENT_VERSIONS_MAX + 1],
    queues: [PerQueue; Queue::ALL.len()],
}

#[derive(Debug)]
struct PerMethod {
    started: Counter,
    handled: [Counter; Code::ALL.len()],
    received: Counter,
    sent: Counter,
    handling: Histogram,
}

#[derive(Debug, Default)]
struct PerCheck {
    success: Counter,
    failure: Counter,
    /// The last result, 0 or 1; the cell of the thread that checked last isn't known, so each keeps its own.
    last: Gauge,
}

#[derive(Debug, Default)]
struct PerQueue {
    length: Gauge,
    full: Counter,
}

/// `Type` and `API` of `etcd_network_server_stream_failures_total`.
const STREAM_FAILURES: [(&str, &str); 4] =
    [("receive", "watch"), ("send", "watch"), ("receive", "lease-keepalive"), ("send", "lease-keepalive")];

/// Distinct values of the label `client_api_version`; a client that invents more is counted as `other`.
const CLIENT_VERSIONS_MAX: usize = 32;

/// Bytes of such a value.
const CLIENT_VERSION_BYTES_MAX: usize = 32;

impl Shard {
    fn new(name: &str) -> Shard {
        let pair = |bounds| [Histogram::new(bounds), Histogram::new(bounds)];
        let per_op = |bounds| Box::new(std::array::from_fn(|_| pair(bounds)));
        let method = |_: &Method| PerMethod {
            started: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            received: Counter::default(),
            sent: Counter::default(),
            handling: Histogram::new(HANDLING.bounds),
        };
        Shard {
            name: name.into(),
            plain: Plain::default(),
            methods: Method::ALL.iter().map(method).collect(),
            apply: per_op(APPLY.bounds),
            request: per_op(REQUEST.bounds),
            range: Box::new(pair(APPLY.bounds)),
            checks: Default::default(),
            stream_failures: Default::default(),
            client_requests: std::array::from_fn(|_| Default::default()),
            queues: Default::default(),
        }
    }

    /// A call has come.
    #[inline]
    pub fn call_started(&self, method: Method) {
        self.methods[method as usize].started.inc();
    }

    /// A call has its status. `took` counts only with `--metrics=extensive`.
    #[inline]
    pub fn call_handled(&self, method: Method, code: Code, took: Duration) {
        let cells = &self.methods[method as usize];
        cells.handled[code as usize].inc();
        cells.handling.observe_duration(took);
    }

    /// A message of a call has come.
    #[inline]
    pub fn message_received(&self, method: Method) {
        self.methods[method as usize].received.inc();
    }

    /// A message of a call has been handed out.
    #[inline]
    pub fn message_sent(&self, method: Method) {
        self.methods[method as usize].sent.inc();
    }

    /// One entry was applied.
    #[inline]
    pub fn applied(&self, op: Op, success: bool, took: Duration) {
        self.apply[op as usize][usize::from(success)].observe_duration(took);
    }

    /// A request has its answer, consensus included.
    #[inline]
    pub fn requested(&self, op: Op, success: bool, took: Duration) {
        self.request[op as usize][usize::from(success)].observe_duration(took);
    }

    /// A range was answered.
    #[inline]
    pub fn ranged(&self, success: bool, took: Duration) {
        self.range[usize::from(success)].observe_duration(took);
    }

    /// A health check has a result.
    pub fn checked(&self, check: Check, success: bool) {
        let cells = &self.checks[check as usize];
        if success {
            cells.success.inc()
        } else {
            cells.failure.inc()
        }
        cells.last.set(i64::from(success));
    }

    /// A watch stream (or else a keep-alive stream) broke while receiving (or else while sending).
    pub fn stream_failed(&self, watch: bool, receiving: bool) {
        self.stream_failures[2 * usize::from(!watch) + usize::from(!receiving)].inc();
    }

    /// A request of a client that announced this version of its API.
    #[inline]
    pub fn client_request(&self, version: ClientVersion, stream: bool) {
        self.client_requests[usize::from(version.0)][usize::from(stream)].inc();
    }

    /// Items that wait in this thread's end of a queue.
    #[inline]
    pub fn queue_length(&self, queue: Queue, length: usize) {
        self.queues[queue as usize].length.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// A queue was found full.
    pub fn queue_full(&self, queue: Queue) {
        self.queues[queue as usize].full.inc();
    }
}

/// All shards of the process. A shard stays when its thread ends, with what it counted.
static SHARDS: Mutex<Vec<&'static Shard>> = Mutex::new(Vec::new());

thread_local! {
    static HERE: Cell<Option<&'static Shard>> = const { Cell::new(None) };
}

/// This thread's shard. A thread that never called [`enter`] is called `background`.
#[inline]
pub fn here() -> &'static Shard {
    HERE.get().unwrap_or_else(|| enter("background"))
}

/// Gives this thread its shard, with the name that per-thread metrics show; the first call counts.
pub fn enter(name: &str) -> &'static Shard {
    if let Some(shard) = HERE.get() {
        return shard;
    }
    let shard: &'static Shard = Box::leak(Box::new(Shard::new(name)));
    shards().push(shard);
    HERE.set(Some(shard));
    shard
}

fn shards() -> std::sync::MutexGuard<'static, Vec<&'static Shard>> {
    // Nothing between lock and unlock can leave the list half changed.
    SHARDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value of the label `client_api_version`, as a small number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientVersion(u8);

static CLIENT_VERSIONS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The number of a version that a client announced; etcd calls the absent one `unknown`. Takes a lock: once per
/// connection, not per request.
pub fn client_version(announced: Option<&str>) -> ClientVersion {
    let text = announced.unwrap_or("unknown");
    let fits = text.len() <= CLIENT_VERSION_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let mut known = CLIENT_VERSIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let at = known.iter().position(|version| version == text).unwrap_or_else(|| {
        if fits && known.len() < CLIENT_VERSIONS_MAX {
            known.push(text.into());
            known.len() - 1
        } else {
            CLIENT_VERSIONS_MAX
        }
    });
    ClientVersion(u8::try_from(at).expect("at most CLIENT_VERSIONS_MAX"))
}

/// What doesn't change while the process runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Of this member.
    pub member_id: u64,
    /// Of etcd's gates: name, stage, enabled.
    pub feature_gates: Vec<(&'static str, &'static str, bool)>,
    /// `--metrics=extensive`
    pub extensive: bool,
}

/// The process's metrics. All values lie in shards; this is only a handle.
#[derive(Debug, Default)]
pub struct Metrics {
    facts: OnceLock<Facts>,
    /// Changes almost never, and is read by a scrape alone.
    alarms: Mutex<Vec<(u64, &'static str)>>,
    /// As major and minor, the one that stands last. There are as many as clusters have been upgraded to.
    cluster_versions: Mutex<Vec<String>>,
}

impl Metrics {
    /// Says what doesn't change; the first call counts.
    pub fn describe(&self, facts: Facts) {
        let _ = self.facts.set(facts);
    }

    /// Everything in the Prometheus text format 0.0.4: some 1 300 lines, 100 KiB.
    pub fn render(&self) -> String {
        let shards: Vec<&Shard> = shards().iter().copied().collect();
        let versions = CLIENT_VERSIONS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let cluster_versions = self.cluster_versions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let unknown = Facts::default();
        let scrape = render::Scrape {
            shards: &shards,
            facts: self.facts.get().unwrap_or(&unknown),
            client_versions: &versions,
            alarms: &alarms,
            cluster_versions: &cluster_versions,
            peers: &peers::all(),
            process: crate::sys::process::sample(),
        };
        let mut out = String::with_capacity(128 << 10);
        scrape.render(&mut out);
        out
    }

    /// The log core: one write of this many bytes and entries is durable.
    pub fn log_write(&self, took: Duration, bytes: usize, entries: usize) {
        let plain = &here().plain;
        plain.log_write.observe_duration(took);
        plain.wal_fsync.observe_duration(took);
        plain.wal_write.observe_duration(took);
        plain.log_batch_bytes.observe(bytes as u64);
        if entries > 0 {
            plain.log_batch_entries.observe(entries as u64);
        }
        plain.wal_write_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The raft core: a tick came this late.
    pub fn tick(&self, late: Duration) {
        here().plain.tick_lateness.observe_duration(late);
    }

    /// The raft core: a tick was left out, because the core came so much later than due.
    pub fn tick_skipped(&self, late: Duration) {
        let plain = &here().plain;
        plain.tick_lateness.observe_duration(late);
        plain.ticks_skipped.inc();
        plain.heartbeat_send_failures.inc();
    }

    /// The raft core: another leader, or none.
    pub fn leader_changed(&self, has_leader: bool, leads: bool) {
        let plain = &here().plain;
        // etcd counts a change when there is a new leader, not when one is lost.
        if has_leader {
            plain.leader_changes.inc();
        }
        plain.has_leader.set(i64::from(has_leader));
        plain.is_leader.set(i64::from(leads));
    }

    /// The raft core: this member is a learner, or is one no more.
    pub fn learner_changed(&self, is_learner: bool) {
        here().plain.is_learner.set(i64::from(is_learner));
    }

    /// A client core: bytes came from a socket.
    #[inline]
    pub fn client_received(&self, bytes: usize) {
        here().plain.client_received_bytes.add(bytes as u64);
    }

    /// A client core: bytes went to a socket.
    #[inline]
    pub fn client_sent(&self, bytes: usize) {
        here().plain.client_sent_bytes.add(bytes as u64);
    }

    /// A client core: it has one connection more.
    pub fn connection_opened(&self) {
        let plain = &here().plain;
        plain.connections.add(1);
        plain.connections_accepted.inc();
    }

    /// A client core: it has one connection less.
    pub fn connection_closed(&self) {
        here().plain.connections.add(-1);
    }

    /// A client core: a call has come.
    #[inline]
    pub fn request(&self, method: Method) {
        here().call_started(method);
    }

    /// The store core: the version of the cluster, as major and minor.
    pub fn cluster_version_is(&self, version: String) {
        let mut known = self.cluster_versions.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|other| *other != version);
        known.push(version);
    }

    /// The store core: the alarms that are active now, as (member, type), e.g. `NOSPACE`.
    pub fn set_alarms(&self, alarms: Vec<(u64, &'static str)>) {
        *self.alarms.lock().unwrap_or_else(PoisonError::into_inner) = alarms;
    }

    /// The store core: bytes of the tree file that are not free and that the newest snapshot reaches, and of its heap.
    pub fn space(&self, allocated: u64, in_use: u64, heap: u64) {
        let plain = &here().plain;
        plain.db_total_size.set_unsigned(allocated);
        plain.db_in_use_size.set_unsigned(in_use);
        plain.pages_allocated.set_unsigned(allocated / 4096);
        plain.pages_in_use.set_unsigned(in_use / 4096);
        plain.heap_bytes.set_unsigned(heap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_shard_and_keeps_it() {
        let name = std::thread::spawn(|| {
            let first = enter("one") as *const Shard as usize;
            assert_eq!(enter("two") as *const Shard as usize, first);
            assert_eq!(here() as *const Shard as usize, first);
            here().name.clone()
        });
        assert_eq!(name.join().expect("no panic"), "one");
        let background = std::thread::spawn(|| here().name.clone());
        assert_eq!(background.join().expect("no panic"), "background");
    }

    #[test]
    fn clients_cannot_invent_labels_without_bound() {
        assert_eq!(client_version(Some("3.7")), client_version(Some("3.7")));
        assert_eq!(client_version(None), client_version(Some("unknown")));
        let other = ClientVersion(u8::try_from(CLIENT_VERSIONS_MAX).expect("small"));
        assert_eq!(client_version(Some(&"9".repeat(CLIENT_VERSION_BYTES_MAX + 1))), other);
        assert_eq!(client_version(Some("a\nb")), other);
        for version in 0..2 * CLIENT_VERSIONS_MAX {
            let _ = client_version(Some(&version.to_string()));
        }
        assert_eq!(client_version(Some("one too many")), other);
        here().client_request(other, true);
    }

    #[test]
    fn enums_index_their_tables() {
        for (at, op) in Op::ALL.into_iter().enumerate() {
            assert_eq!(op as usize, at);
        }
        for (at, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, at);
        }
        for (at, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at);
        }
        for (at, (kind, name)) in Check::LABELS.into_iter().enumerate() {
            assert_eq!(Check::find(kind, name).map(|check| check as usize), Some(at));
        }
    }
}
