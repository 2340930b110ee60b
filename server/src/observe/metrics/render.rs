//! Shards to text: Prometheus' exposition format 0.0.4, as Go's client writes it for etcd.

use std::fmt::Write as _;

use net::grpc::{Code, Kind, Method};

use super::cell::{Collected, Counter, Gauge, Histogram};
use super::families::{APPLY, HANDLING, REQUEST, ROUND_TRIP, SNAPSHOT, Scale, Visit};
use super::peers::PeerCells;
use super::{CLIENT_VERSIONS_MAX, Check, Facts, Op, STREAM_FAILURES, Shard};
use crate::config::ETCD_VERSION;
use crate::config::limits::Queue;
use crate::observe::logs;
use crate::sys::process::Sample;

/// Everything that one scrape shows.
pub(super) struct Scrape<'a> {
    pub shards: &'a [&'a Shard],
    pub facts: &'a Facts,
    pub client_versions: &'a [String],
    pub alarms: &'a [(u64, &'a str)],
    /// The one that stands last.
    pub cluster_versions: &'a [String],
    pub peers: &'a [&'a PeerCells],
    pub process: Sample,
}

impl Scrape<'_> {
    pub(super) fn render(&self, out: &mut String) {
        self.facts(out);
        self.plain(out);
        self.ops(out);
        self.checks(out);
        self.clients(out);
        self.queues(out);
        self.peers(out);
        self.grpc(out);
        self.process(out);
    }

    /// Sum of one cell over all shards.
    fn sum(&self, cell: impl Fn(&Shard) -> &Counter) -> u64 {
        self.shards.iter().map(|shard| cell(shard).value()).sum()
    }

    fn collect<'s>(&'s self, cell: impl Fn(&'s Shard) -> &'s Histogram) -> Collected {
        let mut sum = Collected::default();
        for shard in self.shards {
            cell(shard).collect(&mut sum);
        }
        sum
    }

    /// Nothing before it was decided; a version that was left behind stays, as 0.
    fn cluster_version(&self, out: &mut String) {
        let Some(last) = self.cluster_versions.last() else { return };
        head(
            out,
            "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version",
            "gauge",
        );
        for version in self.cluster_versions {
            let labels = format!(r#"cluster_version="{version}""#);
            line(out, "etcd_cluster_version", &labels, u64::from(version == last));
        }
    }

    fn facts(&self, out: &mut String) {
        let one = |out: &mut String, name: &str, help: &str, labels: &str| {
            head(out, name, help, "gauge");
            line(out, name, labels, 1);
        };
        let id = format!(r#"server_id="{:x}""#, self.facts.member_id);
        one(
            out,
            "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID",
            &id,
        );
        let version = format!(r#"server_version="{ETCD_VERSION}""#);
        one(
            out,
            "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version",
            &version,
        );
        let ringd = concat!(r#"server_go_version="ringd "#, env!("CARGO_PKG_VERSION"), "\"");
        one(
            out,
            "etcd_server_go_version",
            "What is running instead of Go. 1 for 'server_go_version' label",
            ringd,
        );
        self.cluster_version(out);
        head(
            out,
            "etcd_server_feature_enabled",
            "Whether or not a feature is enabled. 1 is enabled, 0 is not",
            "gauge",
        );
        for (name, stage, enabled) in &self.facts.feature_gates {
            let labels = format!(r#"name="{name}",stage="{stage}""#);
            line(out, "etcd_server_feature_enabled", &labels, u64::from(*enabled));
        }
        if !self.alarms.is_empty() {
            head(
                out,
                "etcd_debugging_server_alarms",
                "Alarms for every member in cluster. 1 for 'server_id' label with current ID",
                "gauge",
            );
        }
        for (member, kind) in self.alarms {
            let labels = format!(r#"alarm_type="{kind}",server_id="{member:x}""#);
            line(out, "etcd_debugging_server_alarms", &labels, 1);
        }
    }

    fn plain(&self, out: &mut String) {
        let mut total = Total::default();
        for shard in self.shards {
            total.at = 0;
            shard.plain.visit(&mut total);
        }
        for (name, help, sum) in total.families {
            match sum {
                Sum::Counter(value) => {
                    head(out, name, help, "counter");
                    line(out, name, "", value);
                }
                Sum::Gauge(value) => {
                    head(out, name, help, "gauge");
                    line(out, name, "", value);
                }
                Sum::Histogram(scale, sum) => {
                    head(out, name, help, "histogram");
                    histogram(out, name, "", scale, &sum);
                }
            }
        }
        for (name, help, value) in [
            (
                "ringd_log_lines_dropped_total",
                "Log lines dropped because an output was too slow",
                logs::lines_dropped(),
            ),
            ("ringd_log_lines_failed_total", "Log lines that an output refused", logs::lines_failed()),
        ] {
            head(out, name, help, "counter");
            line(out, name, "", value);
        }
    }

    /// Histograms by kind of request. As in Go, a series exists once something was observed.
    fn ops(&self, out: &mut String) {
        let name = "etcd_server_apply_duration_seconds";
        head(out, name, "The latency distributions of v2 apply called by backend", "histogram");
        for op in Op::ALL {
            for success in [false, true] {
                let sum = self.collect(|shard| &shard.apply[op as usize][usize::from(success)]);
                let labels = format!(r#"op="{op:?}",success="{success}",version="v3""#);
                observed(out, name, &labels, APPLY, &sum);
            }
        }
        let name = "etcd_server_request_duration_seconds";
        head(out, name, "Response latency distribution in seconds for each type", "histogram");
        for op in Op::ALL {
            for success in [false, true] {
                let sum = self.collect(|shard| &shard.request[op as usize][usize::from(success)]);
                observed(out, name, &format!(r#"success="{success}",type="{op:?}""#), REQUEST, &sum);
            }
        }
        let name = "etcd_server_range_duration_seconds";
        head(out, name, "The latency distributions of txn.Range", "histogram");
        for success in [false, true] {
            let sum = self.collect(|shard| &shard.range[usize::from(success)]);
            observed(out, name, &format!(r#"success="{success}""#), APPLY, &sum);
        }
    }

    fn checks(&self, out: &mut String) {
        let name = "etcd_server_healthcheck";
        head(out, name, "The result of each kind of healthcheck", "gauge");
        for (at, (kind, check)) in Check::LABELS.into_iter().enumerate() {
            let cells = || self.shards.iter().map(|shard| &shard.checks[at]);
            if cells().all(|cells| cells.success.value() + cells.failure.value() == 0) {
                continue;
            }
            // Good if it was good wherever it was last asked.
            let good = cells()
                .all(|cells| cells.last.value() == 1 || cells.success.value() + cells.failure.value() == 0);
            line(out, name, &format!(r#"name="{check}",type="{kind}""#), u64::from(good));
        }
        let name = "etcd_server_healthchecks_total";
        head(out, name, "The total number of each kind of healthcheck", "counter");
        for (at, (kind, check)) in Check::LABELS.into_iter().enumerate() {
            let counts = [
                ("error", self.sum(|shard| &shard.checks[at].failure)),
                ("success", self.sum(|shard| &shard.checks[at].success)),
            ];
            for (status, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                line(out, name, &format!(r#"name="{check}",status="{status}",type="{kind}""#), count);
            }
        }
    }

    fn clients(&self, out: &mut String) {
        let name = "etcd_server_client_requests_total";
        head(out, name, "The total number of client requests per client version", "counter");
        for at in 0..=CLIENT_VERSIONS_MAX {
            let version = self.client_versions.get(at).map_or("other", String::as_str);
            for (stream, kind) in ["unary", "stream"].into_iter().enumerate() {
                let count = self.sum(|shard| &shard.client_requests[at][stream]);
                if count > 0 {
                    let labels = format!(r#"client_api_version="{}",type="{kind}""#, escaped(version));
                    line(out, name, &labels, count);
                }
            }
        }
        let name = "etcd_network_server_stream_failures_total";
        head(out, name, "The total number of stream failures from the local server", "counter");
        for (at, (kind, api)) in STREAM_FAILURES.into_iter().enumerate() {
            let count = self.sum(|shard| &shard.stream_failures[at]);
            if count > 0 {
                line(out, name, &format!(r#"API="{api}",Type="{kind}""#), count);
            }
        }
    }

    /// Per thread, because a queue belongs to the thread that takes from it.
    fn queues(&self, out: &mut String) {
        let name = "ringd_queue_length";
        head(out, name, "Items that wait, per executor and queue", "gauge");
        for (number, shard) in self.shards.iter().enumerate() {
            for queue in Queue::ALL {
                let cells = &shard.queues[queue as usize];
                if cells.length.value() != 0 || cells.full.value() != 0 || shard.name != "background" {
                    let labels = queue_labels(number, shard, queue);
                    line(out, name, &labels, cells.length.value());
                }
            }
        }
        let name = "ringd_queue_full_total";
        head(out, name, "How often a queue was found full, per executor and queue", "counter");
        for (number, shard) in self.shards.iter().enumerate() {
            for queue in Queue::ALL {
                let full = shard.queues[queue as usize].full.value();
                if full != 0 || shard.name != "background" {
                    line(out, name, &queue_labels(number, shard, queue), full);
                }
            }
        }
        let name = "ringd_queue_limit";
        head(out, name, "Items that a queue holds at most", "gauge");
        for queue in Queue::ALL {
            line(out, name, &format!(r#"queue="{}""#, queue.name()), queue.limit());
        }
    }

    /// All methods exist from the start, at zero.
    fn grpc(&self, out: &mut String) {
        let labels: Vec<String> = Method::ALL.iter().map(|&method| method_labels(method)).collect();
        let mut family = |name: &str, help: &str, cell: &dyn Fn(&Shard, usize) -> u64| {
            head(out, name, help, "counter");
            for (at, labels) in labels.iter().enumerate() {
                line(out, name, labels, self.shards.iter().map(|shard| cell(shard, at)).sum::<u64>());
            }
        };
        family("grpc_server_started_total", "Total number of RPCs started on the server.", &|shard, at| {
            shard.methods[at].started.value()
        });
        family(
            "grpc_server_msg_received_total",
            "Total number of RPC stream messages received on the server.",
            &|shard, at| shard.methods[at].received.value(),
        );
        family(
            "grpc_server_msg_sent_total",
            "Total number of gRPC stream messages sent by the server.",
            &|shard, at| shard.methods[at].sent.value(),
        );
        let name = "grpc_server_handled_total";
        head(
            out,
            name,
            "Total number of RPCs completed on the server, regardless of success or failure.",
            "counter",
        );
        for code in Code::ALL {
            for (at, labels) in labels.iter().enumerate() {
                let count = self.sum(|shard| &shard.methods[at].handled[code as usize]);
                let code = code_name(code);
                line(out, name, &format!(r#"grpc_code="{code}",{labels}"#), count);
            }
        }
        if self.facts.extensive {
            let name = "grpc_server_handling_seconds";
            head(
                out,
                name,
                "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
                "histogram",
            );
            for (at, labels) in labels.iter().enumerate() {
                let sum = self.collect(|shard| &shard.methods[at].handling);
                histogram(out, name, labels, HANDLING, &sum);
            }
        }
    }

    /// As in Go, a family exists once it has a series; with one member, none of these has.
    fn peers(&self, out: &mut String) {
        if self.peers.is_empty() {
            return;
        }
        let local = self.facts.member_id;
        for (name, help, labels, cell) in PEER_GAUGES {
            head(out, name, help, "gauge");
            for cells in self.peers {
                let labels = labels.text(local, cells.id);
                line(out, name, &labels, cell(cells).value());
            }
        }
        for (name, help, labels, cell) in PEER_COUNTERS {
            head(out, name, help, "counter");
            for cells in self.peers {
                let labels = labels.text(local, cells.id);
                line(out, name, &labels, cell(cells).value());
            }
        }
        for (name, help, labels, scale, cell) in PEER_HISTOGRAMS {
            head(out, name, help, "histogram");
            for cells in self.peers {
                let labels = labels.text(local, cells.id);
                let mut sum = Collected::default();
                cell(cells).collect(&mut sum);
                histogram(out, name, &labels, *scale, &sum);
            }
        }
    }

    fn process(&self, out: &mut String) {
        let now = &self.process;
        let mut family = |name: &str, help: &str, kind: &str, value: f64| {
            head(out, name, help, kind);
            line(out, name, "", number(value));
        };
        let gauges: [(&str, &str, f64); 8] = [
            ("os_fd_limit", "The file descriptor limit.", now.max_fds as f64),
            ("os_fd_used", "The number of used file descriptors.", now.open_fds as f64),
            ("process_max_fds", "Maximum number of open file descriptors.", now.max_fds as f64),
            ("process_open_fds", "Number of open file descriptors.", now.open_fds as f64),
            ("process_resident_memory_bytes", "Resident memory size in bytes.", now.resident_bytes as f64),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes.", now.virtual_bytes as f64),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                now.start_seconds,
            ),
            (
                "ringd_resident_anonymous_bytes",
                "Resident memory that no file is behind.",
                now.resident_anonymous_bytes as f64,
            ),
        ];
        for (name, help, value) in gauges {
            family(name, help, "gauge", value);
        }
        family(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            "counter",
            now.cpu_seconds,
        );
    }
}

/// Labels of a family of peers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `Local` and `Remote`
    Both,
    To,
    From,
}

impl Way {
    fn text(self, local: u64, remote: u64) -> String {
        match self {
            Way::Both => format!(r#"Local="{local:x}",Remote="{remote:x}""#),
            Way::To => format!(r#"To="{remote:x}""#),
            Way::From => format!(r#"From="{remote:x}""#),
        }
    }
}

/// Name, help, labels and cell of a family of peers.
type PeerFamily<T> = (&'static str, &'static str, Way, fn(&PeerCells) -> &T);

const PEER_GAUGES: &[PeerFamily<Gauge>] = &[
    ("etcd_network_known_peers", "The current number of known peers", Way::Both, |cells| &cells.known),
    ("etcd_network_active_peers", "The current number of active peer connections", Way::Both, |cells| {
        &cells.active
    }),
    (
        "etcd_network_snapshot_send_inflights_total",
        "Total number of inflight snapshot sends",
        Way::To,
        |cells| &cells.snapshot_sent.inflight,
    ),
    (
        "etcd_network_snapshot_receive_inflights_total",
        "Total number of inflight snapshot receives",
        Way::From,
        |cells| &cells.snapshot_received.inflight,
    ),
];

const PEER_COUNTERS: &[PeerFamily<Counter>] = &[
    ("etcd_network_disconnected_peers_total", "The total number of disconnected peers", Way::Both, |cells| {
        &cells.disconnected
    }),
    ("etcd_network_peer_sent_bytes_total", "The total number of bytes sent to peers", Way::To, |cells| {
        &cells.sent_bytes
    }),
    (
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers",
        Way::From,
        |cells| &cells.received_bytes,
    ),
    (
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures from peers",
        Way::To,
        |cells| &cells.sent_failures,
    ),
    (
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers",
        Way::From,
        |cells| &cells.received_failures,
    ),
    ("etcd_network_snapshot_send_success", "Total number of successful snapshot sends", Way::To, |cells| {
        &cells.snapshot_sent.success
    }),
    ("etcd_network_snapshot_send_failures", "Total number of snapshot send failures", Way::To, |cells| {
        &cells.snapshot_sent.failures
    }),
    (
        "etcd_network_snapshot_receive_success",
        "Total number of successful snapshot receives",
        Way::From,
        |cells| &cells.snapshot_received.success,
    ),
    (
        "etcd_network_snapshot_receive_failures",
        "Total number of snapshot receive failures",
        Way::From,
        |cells| &cells.snapshot_received.failures,
    ),
];

/// As [`PeerFamily`], with buckets.
type PeerHistogram = (&'static str, &'static str, Way, Scale, fn(&PeerCells) -> &Histogram);

const PEER_HISTOGRAMS: &[PeerHistogram] = &[
    (
        "etcd_network_peer_round_trip_time_seconds",
        "Round-Trip-Time histogram between peers",
        Way::To,
        ROUND_TRIP,
        |cells| &cells.round_trip,
    ),
    (
        "etcd_network_snapshot_send_total_duration_seconds",
        "Total latency distributions of v3 snapshot sends",
        Way::To,
        SNAPSHOT,
        |cells| &cells.snapshot_sent.duration,
    ),
    (
        "etcd_network_snapshot_receive_total_duration_seconds",
        "Total latency distributions of v3 snapshot receives",
        Way::From,
        SNAPSHOT,
        |cells| &cells.snapshot_received.duration,
    ),
];

/// One family over all shards.
enum Sum {
    Counter(u64),
    Gauge(i64),
    Histogram(Scale, Box<Collected>),
}

/// Adds up the plain families of shard after shard, which all come in one order.
#[derive(Default)]
struct Total {
    families: Vec<(&'static str, &'static str, Sum)>,
    at: usize,
}

impl Total {
    fn add(&mut self, name: &'static str, help: &'static str, zero: Sum, add: impl FnOnce(&mut Sum)) {
        if self.at == self.families.len() {
            self.families.push((name, help, zero));
        }
        add(&mut self.families[self.at].2);
        self.at += 1;
    }
}

impl Visit for Total {
    fn counter(&mut self, name: &'static str, help: &'static str, cell: &Counter) {
        self.add(name, help, Sum::Counter(0), |sum| {
            if let Sum::Counter(total) = sum {
                *total += cell.value();
            }
        });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, cell: &Gauge) {
        self.add(name, help, Sum::Gauge(0), |sum| {
            if let Sum::Gauge(total) = sum {
                *total = total.saturating_add(cell.value());
            }
        });
    }

    fn histogram(&mut self, name: &'static str, help: &'static str, scale: Scale, cell: &Histogram) {
        self.add(name, help, Sum::Histogram(scale, Box::default()), |sum| {
            if let Sum::Histogram(_, total) = sum {
                cell.collect(total);
            }
        });
    }
}

fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = match labels {
        "" => writeln!(out, "{name} {value}"),
        _ => writeln!(out, "{name}{{{labels}}} {value}"),
    };
}

/// A histogram's lines if anything was observed.
fn observed(out: &mut String, name: &str, labels: &str, scale: Scale, sum: &Collected) {
    if sum.count() > 0 {
        histogram(out, name, labels, scale, sum);
    }
}

/// Cumulative buckets, sum and count.
fn histogram(out: &mut String, name: &str, labels: &str, scale: Scale, sum: &Collected) {
    let comma = if labels.is_empty() { "" } else { "," };
    let per = scale.unit.scale();
    let mut cumulative = 0;
    for at in 0..scale.bounds.count() {
        cumulative += sum.buckets[at];
        let bound = number(scale.bounds.bound(at) as f64 / per);
        let _ = writeln!(out, r#"{name}_bucket{{{labels}{comma}le="{bound}"}} {cumulative}"#);
    }
    let _ = writeln!(out, r#"{name}_bucket{{{labels}{comma}le="+Inf"}} {}"#, sum.count());
    line(out, &format!("{name}_sum"), labels, number(sum.sum as f64 / per));
    line(out, &format!("{name}_count"), labels, sum.count());
}

/// A number as Go's client writes it: shortest form, with an exponent from 1e+06 on and below 0.0001.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e21).contains(&magnitude) && (magnitude < 1e6 || value.fract() != 0.0) {
        return format!("{value}");
    }
    // Rust: 1.234e-5; Go: 1.234e-05
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn queue_labels(number: usize, shard: &Shard, queue: Queue) -> String {
    format!(r#"executor="{number}",queue="{}",roles="{}""#, queue.name(), escaped(&shard.name))
}

fn method_labels(method: Method) -> String {
    let (service, name) = method.names();
    let kind = match method.kind() {
        Kind::Unary => "unary",
        Kind::ServerStream => "server_stream",
        Kind::Stream => "bidi_stream",
    };
    format!(r#"grpc_method="{name}",grpc_service="{service}",grpc_type="{kind}""#)
}

/// grpc-go's name of a code, e.g. `Canceled`.
fn code_name(code: Code) -> String {
    match code {
        Code::Ok => "OK".into(),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(shards: &[&Shard], extensive: bool) -> String {
        let facts = Facts {
            member_id: 0x8e9e_05c5_2164_694d,
            feature_gates: vec![("FastLeaseKeepAlive", "BETA", true)],
            extensive,
        };
        let versions = ["3.7".to_string()];
        let alarms = [(0x8e9e_05c5_2164_694d, "NOSPACE")];
        let process = Sample { cpu_seconds: 1.5, resident_bytes: 21_000_000, ..Sample::default() };
        let peer = PeerCells::new(0xab);
        peer.known.set(1);
        peer.sent_bytes.add(7);
        peer.round_trip.observe_duration(Duration::from_micros(150));
        let peers = [&peer];
        let scrape = Scrape {
            shards,
            facts: &facts,
            client_versions: &versions,
            alarms: &alarms,
            cluster_versions: &["3.6".into(), "3.7".into()],
            peers: &peers,
            process,
        };
        let mut out = String::new();
        scrape.render(&mut out);
        out
    }

    #[test]
    fn numbers_look_like_gos() {
        for (value, want) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.001, "0.001"),
            (0.0001, "0.0001"),
            (0.00005, "5e-05"),
            (8.192, "8.192"),
            (52.4288, "52.4288"),
            (409_600.0, "409600"),
            (8_388_608.0, "8.388608e+06"),
            (1.7e9, "1.7e+09"),
            (1_767_366_245.5, "1767366245.5"),
        ] {
            assert_eq!(number(value), want);
        }
    }

    #[test]
    fn what_two_threads_counted_is_one_series() {
        let (a, b) = (Shard::new("client"), Shard::new("client"));
        a.plain.put_total.add(2);
        b.plain.put_total.inc();
        a.plain.compact_revision.set(-1);
        a.plain.wal_fsync.observe_duration(Duration::from_millis(1));
        b.plain.wal_fsync.observe_duration(Duration::from_micros(3500));
        b.plain.wal_fsync.observe_duration(Duration::from_secs(60));
        let text = text(&[&a, &b], false);
        for want in [
            "# TYPE etcd_mvcc_put_total counter\netcd_mvcc_put_total 3\n",
            "etcd_debugging_mvcc_compact_revision -1\n",
            "# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 1\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.002\"} 1\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.004\"} 2\n",
            "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"8.192\"} 2\n\
             etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 3\n\
             etcd_disk_wal_fsync_duration_seconds_sum 60.0045\n\
             etcd_disk_wal_fsync_duration_seconds_count 3\n",
            "etcd_server_id{server_id=\"8e9e05c52164694d\"} 1\n",
            "etcd_server_version{server_version=\"3.7.1\"} 1\n",
            "etcd_cluster_version{cluster_version=\"3.6\"} 0\netcd_cluster_version{cluster_version=\"3.7\"} 1\n",
            "etcd_server_feature_enabled{name=\"FastLeaseKeepAlive\",stage=\"BETA\"} 1\n",
            "etcd_debugging_server_alarms{alarm_type=\"NOSPACE\",server_id=\"8e9e05c52164694d\"} 1\n",
            "etcd_network_known_peers{Local=\"8e9e05c52164694d\",Remote=\"ab\"} 1\n",
            "# TYPE etcd_network_peer_sent_bytes_total counter\netcd_network_peer_sent_bytes_total{To=\"ab\"} 7\n",
            "etcd_network_peer_received_bytes_total{From=\"ab\"} 0\n",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"ab\",le=\"0.0002\"} 1\n",
            "process_resident_memory_bytes 2.1e+07\n",
            "process_cpu_seconds_total 1.5\n",
        ] {
            assert!(text.contains(want), "no {want} in\n{text}");
        }
    }

    #[test]
    fn labels_are_etcds() {
        let shard = Shard::new("store+client");
        let ms = Duration::from_millis(1);
        shard.call_started(Method::ALL[0]);
        shard.call_handled(Method::ALL[0], Code::Ok, ms);
        shard.applied(Op::Put, true, ms);
        shard.requested(Op::ReadonlyTxn, false, ms);
        shard.ranged(true, ms);
        shard.checked(Check::ReadyzLinearizableRead, false);
        shard.stream_failed(true, false);
        shard.stream_failed(false, true);
        shard.client_request(super::super::ClientVersion(0), false);
        shard.queue_length(Queue::RaftToStore, 7);
        shard.queue_full(Queue::RaftToStore);
        let text = text(&[&shard], false);
        let method = method_labels(Method::ALL[0]);
        for want in [
            format!("grpc_server_started_total{{{method}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"OK\",{method}}} 1\n"),
            format!("grpc_server_handled_total{{grpc_code=\"DeadlineExceeded\",{method}}} 0\n"),
            "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\",version=\"v3\"} 1\n".into(),
            "etcd_server_request_duration_seconds_count{success=\"false\",type=\"ReadonlyTxn\"} 1\n".into(),
            "etcd_server_range_duration_seconds_bucket{success=\"true\",le=\"0.0016\"} 1\n".into(),
            "etcd_server_healthcheck{name=\"linearizable_read\",type=\"readyz\"} 0\n".into(),
            "etcd_server_healthchecks_total{name=\"linearizable_read\",status=\"error\",type=\"readyz\"} 1\n"
                .into(),
            "etcd_network_server_stream_failures_total{API=\"watch\",Type=\"send\"} 1\n".into(),
            "etcd_network_server_stream_failures_total{API=\"lease-keepalive\",Type=\"receive\"} 1\n".into(),
            "etcd_server_client_requests_total{client_api_version=\"3.7\",type=\"unary\"} 1\n".into(),
            "ringd_queue_length{executor=\"0\",queue=\"raft-to-store\",roles=\"store+client\"} 7\n".into(),
            "ringd_queue_full_total{executor=\"0\",queue=\"raft-to-store\",roles=\"store+client\"} 1\n"
                .into(),
        ] {
            assert!(text.contains(&want), "no {want} in\n{text}");
        }
        assert!(!text.contains("grpc_server_handling_seconds"));
        assert!(!text.contains(r#"op="Txn""#), "a series without a value");
    }

    #[test]
    fn extensive_adds_latencies_per_method() {
        let shard = Shard::new("client");
        let text = text(&[&shard], true);
        let method = method_labels(Method::ALL[0]);
        assert!(
            text.contains(&format!("grpc_server_handling_seconds_bucket{{{method},le=\"0.005\"}} 0\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("grpc_server_handling_seconds_bucket{{{method},le=\"10\"}} 0\n")),
            "{text}"
        );
    }

    /// What a scraper checks: each family once, its TYPE before its samples, every sample of a known family.
    #[test]
    fn every_line_belongs_to_a_declared_family() {
        let shard = Shard::new("client");
        let text = text(&[&shard, &shard], true);
        let mut types = std::collections::BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("name and kind");
                assert!(types.insert(name.to_string(), kind.to_string()).is_none(), "{name} twice");
                current = name.into();
            } else if !line.starts_with("# HELP ") {
                let name = line.split(['{', ' ']).next().expect("a name");
                let base = match types[&current].as_str() {
                    "histogram" => name.rsplit_once('_').expect("a suffix").0,
                    _ => name,
                };
                assert_eq!(base, current, "{line}");
                let value = line.rsplit_once(' ').expect("a value").1;
                value.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        for (name, kind) in super::super::families::NAMES {
            assert_eq!(types.get(*name).map(String::as_str), Some(*kind), "{name}");
        }
    }
}
