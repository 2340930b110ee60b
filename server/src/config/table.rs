//! The one table of flags: everything `etcd` 3.7.1 knows, then ours.
//!
//! Order is that of etcd's documentation. Default texts are etcd's, but for the data directory.

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false` in Go's spellings.
    Bool,
    /// Any text.
    Text,
    /// A comma-separated list.
    List,
    /// A signed 64-bit integer in Go's notations.
    Int,
    /// An unsigned 64-bit integer in Go's notations.
    Uint,
    /// An unsigned 32-bit integer in Go's notations.
    Uint32,
    /// `5s`, `1m30s`, `300ms` …
    Duration,
    /// Comma-separated URLs.
    Urls,
    /// One of these words; any other is not a value of the flag.
    OneOf(&'static [&'static str]),
    /// One of these words; etcd takes any other at first and refuses it when it checks the whole.
    Word(&'static [&'static str]),
}

/// What we do with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It has etcd's effect.
    Works,
    /// It describes the cluster: checked as etcd does.
    Cluster,
    /// It belongs to later work. Refused, unless its value is one of those that ask for what we do anyway.
    Later {
        /// What isn't there yet, as the end of a sentence.
        what: &'static str,
        /// Values that ask for nothing.
        accepts: &'static [&'static str],
    },
    /// It can't have a meaning here. Accepted, with one warning that says why.
    Meaningless {
        /// Why, as the end of a sentence.
        why: &'static str,
    },
    /// etcd accepts and ignores it, with any value or none, without a word; so do we.
    Ignored,
    /// It asks for text and an exit: `--help`, `--version`.
    Asks,
}

/// One row.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without dashes.
    pub name: &'static str,
    /// How a value is written.
    pub kind: Kind,
    /// The value if neither flag nor variable is given.
    pub default: &'static str,
    /// What we do with it.
    pub class: Class,
    /// One line for `--help`.
    pub help: &'static str,
}

impl Flag {
    /// The environment variable: `ETCD_` and the name in capitals, `-` as `_`.
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The flag of this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

const fn row(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    class: Class,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, class, help }
}

const fn later(what: &'static str, accepts: &'static [&'static str]) -> Class {
    Class::Later { what, accepts }
}

const fn meaningless(why: &'static str) -> Class {
    Class::Meaningless { why }
}

const FALSE: &[&str] = &["false"];
const EMPTY: &[&str] = &[""];

const DISCOVERY: &str = "members are named by --initial-cluster, not discovered";
const AUTH: &str = "users and roles";
const TRACING: &str = "distributed tracing";
const NO_BBOLT: &str = "ringd's tree file has no such batches or free lists";
const NO_SNAP_FILES: &str =
    "ringd keeps its log as a ring bounded by checkpoints, without snapshot files or a count of entries";

use Class::{Asks, Cluster, Ignored, Works};
use Kind::{Bool, Duration, Int, List, OneOf, Text, Uint, Uint32, Urls, Word};

/// Every flag.
#[rustfmt::skip] // a table is read by its columns
pub static FLAGS: &[Flag] = &[
    // Member
    row("name", Text, "default", Works, "Human-readable name for this member."),
    row("data-dir", Text, "", Works, "Path to the data directory (default '${name}.ringd')."),
    row("wal-dir", Text, "", Works, "Path to a directory of its own for the Raft log."),
    row("snapshot-count", Uint, "10000", meaningless(NO_SNAP_FILES), "Accepted for etcd's manifests."),
    row("snapshot-catchup-entries", Uint, "5000", meaningless(NO_SNAP_FILES), "Accepted for etcd's manifests."),
    row("heartbeat-interval", Uint, "100", Works, "Time (in milliseconds) of a heartbeat interval."),
    row("election-timeout", Uint, "1000", Works, "Time (in milliseconds) for an election to timeout."),
    row("initial-election-tick-advance", Bool, "true", Works, "Whether to fast-forward initial election ticks on boot."),
    row("listen-peer-urls", Urls, "http://localhost:2380", Works, "List of URLs to listen on for peer traffic."),
    row("listen-client-urls", Urls, "http://localhost:2379", Works, "List of URLs to listen on for client grpc traffic and http."),
    row("listen-client-http-urls", Urls, "", Works, "List of URLs to listen on for http only client traffic; listen-client-urls are then for grpc only."),
    row("listen-metrics-urls", Urls, "", Works, "List of URLs to listen on for the /metrics and /health endpoints."),
    row("max-snapshots", Uint, "5", meaningless(NO_SNAP_FILES), "Accepted for etcd's manifests."),
    row("max-wals", Uint, "5", meaningless(NO_SNAP_FILES), "Accepted for etcd's manifests."),
    row("memory-mlock", Bool, "false", Works, "Enable to make the pages of the tree file stay in RAM."),
    row("quota-backend-bytes", Int, "0", Works, "Raise alarms when the store exceeds the given quota. 0 means 2 GiB, less than 0 no quota."),
    row("backend-bbolt-freelist-type", Word(&["array", "map"]), "map", meaningless(NO_BBOLT), "Accepted for etcd's manifests."),
    row("backend-batch-interval", Duration, "0s", meaningless(NO_BBOLT), "Accepted for etcd's manifests."),
    row("backend-batch-limit", Int, "0", meaningless(NO_BBOLT), "Accepted for etcd's manifests."),
    row("max-txn-ops", Uint, "128", Works, "Maximum number of operations permitted in a transaction."),
    row("max-request-bytes", Uint, "1572864", Works, "Maximum client request size in bytes the server will accept."),
    row("max-concurrent-streams", Uint32, "4294967295", Works, "Maximum concurrent streams that each client can open at a time."),
    row("grpc-keepalive-min-time", Duration, "5s", Works, "Minimum interval that a client should wait before pinging the server."),
    row("grpc-keepalive-interval", Duration, "2h", Works, "Frequency of server-to-client ping to check if a connection is alive (0 to disable)."),
    row("grpc-keepalive-timeout", Duration, "20s", Works, "Wait before closing a non-responsive connection (0 to disable)."),
    row("socket-reuse-port", Bool, "false", Works, "Enable to set socket option SO_REUSEPORT on listeners."),
    row("socket-reuse-address", Bool, "false", Works, "Enable to set socket option SO_REUSEADDR on listeners."),
    row("raft-read-timeout", Duration, "5s", Works, "Read timeout set on each peer connection."),
    row("raft-write-timeout", Duration, "5s", Works, "Write timeout set on each peer connection."),
    row("feature-gates", Text, "", Works, "key=value pairs of feature gates, comma-separated."),

    // Clustering
    row("initial-advertise-peer-urls", Urls, "http://localhost:2380", Works, "List of this member's peer URLs to advertise to the rest of the cluster."),
    row("advertise-client-urls", Urls, "http://localhost:2379", Works, "List of this member's client URLs to advertise to the public."),
    row("initial-cluster", Text, "default=http://localhost:2380", Works, "Initial cluster configuration for bootstrapping."),
    row("initial-cluster-state", OneOf(&["new", "existing"]), "new", Works, "Initial cluster state ('new' or 'existing')."),
    row("initial-cluster-token", Text, "etcd-cluster", Works, "Initial cluster token; part of the member and cluster ids."),
    row("discovery-token", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: discovery token."),
    row("discovery-endpoints", List, "", later(DISCOVERY, EMPTY), "V3 discovery: gRPC endpoints of the discovery service."),
    row("discovery-dial-timeout", Duration, "2s", later(DISCOVERY, &["2s"]), "V3 discovery: dial timeout."),
    row("discovery-request-timeout", Duration, "5s", later(DISCOVERY, &["5s"]), "V3 discovery: request timeout."),
    row("discovery-keepalive-time", Duration, "2s", later(DISCOVERY, &["2s"]), "V3 discovery: keepalive time."),
    row("discovery-keepalive-timeout", Duration, "6s", later(DISCOVERY, &["6s"]), "V3 discovery: keepalive timeout."),
    row("discovery-insecure-transport", Bool, "true", later(DISCOVERY, &["true"]), "V3 discovery: disable transport security."),
    row("discovery-insecure-skip-tls-verify", Bool, "false", later(DISCOVERY, FALSE), "V3 discovery: skip certificate verification."),
    row("discovery-cert", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: certificate file."),
    row("discovery-key", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: key file."),
    row("discovery-cacert", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: CA file."),
    row("discovery-user", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: username[:password]."),
    row("discovery-password", Text, "", later(DISCOVERY, EMPTY), "V3 discovery: password."),
    row("discovery-srv", Text, "", later(DISCOVERY, EMPTY), "DNS srv domain used to bootstrap the cluster."),
    row("discovery-srv-name", Text, "", later(DISCOVERY, EMPTY), "Suffix to the dns srv name queried when bootstrapping."),
    row("discovery-fallback", OneOf(&["exit", "proxy"]), "exit", Works, "Expected behavior when discovery fails ('exit')."),
    row("strict-reconfig-check", Bool, "true", Works, "Reject reconfiguration requests that would cause quorum loss."),
    row("pre-vote", Bool, "true", Cluster, "Enable the raft Pre-Vote algorithm."),
    row("auto-compaction-mode", Word(&["periodic", "revision"]), "periodic", Works, "Interpret 'auto-compaction-retention' as 'periodic' or 'revision'."),
    row("auto-compaction-retention", Text, "0", Works, "A duration or hours ('periodic'), or a number of revisions ('revision'). 0 means disable auto compaction."),

    // Security
    row("cert-file", Text, "", Works, "Path to the client server TLS cert file."),
    row("key-file", Text, "", Works, "Path to the client server TLS key file."),
    row("client-cert-auth", Bool, "false", Works, "Enable client cert authentication."),
    row("trusted-ca-file", Text, "", Works, "Path to the client server TLS trusted CA cert file."),
    row("client-cert-file", Text, "", meaningless("ringd has no connection from a gateway to itself"), "Accepted for etcd's manifests."),
    row("client-key-file", Text, "", meaningless("ringd has no connection from a gateway to itself"), "Accepted for etcd's manifests."),
    row("client-crl-file", Text, "", Works, "Path to the client certificate revocation list file."),
    row("client-cert-allowed-hostname", List, "", Works, "Comma-separated list of allowed TLS hostnames for client cert authentication."),
    row("auto-tls", Bool, "false", Works, "Client TLS using generated certificates."),
    row("peer-cert-file", Text, "", Works, "Path to the peer server TLS cert file."),
    row("peer-key-file", Text, "", Works, "Path to the peer server TLS key file."),
    row("peer-client-cert-auth", Bool, "false", Works, "Enable peer client cert authentication."),
    row("peer-trusted-ca-file", Text, "", Works, "Path to the peer server TLS trusted CA file."),
    row("peer-client-cert-file", Text, "", Works, "Path to an explicit peer client TLS cert file."),
    row("peer-client-key-file", Text, "", Works, "Path to an explicit peer client TLS key file."),
    row("peer-crl-file", Text, "", Works, "Path to the peer certificate revocation list file."),
    row("peer-cert-allowed-cn", List, "", Works, "Comma-separated list of allowed CNs for inter-peer TLS authentication."),
    row("peer-cert-allowed-hostname", List, "", Works, "Comma-separated list of allowed SANs for inter-peer TLS authentication."),
    row("peer-auto-tls", Bool, "false", Works, "Peer TLS using self-generated certificates."),
    row("peer-skip-client-san-verification", Bool, "false", Works, "Skip verification of SAN fields in peer client certificates."),
    row("self-signed-cert-validity", Uint, "1", Works, "Validity period of self-made certificates, in years."),
    row("cipher-suites", List, "", Works, "Comma-separated list of supported TLS cipher suites."),
    row("tls-min-version", Text, "TLS1.2", Works, "Minimum TLS version supported: TLS1.2 or TLS1.3."),
    row("tls-max-version", Text, "", Works, "Maximum TLS version supported: TLS1.2 or TLS1.3."),
    row("cors", List, "*", Works, "Comma-separated white list of origins for CORS."),
    row("host-whitelist", List, "*", Works, "Comma-separated acceptable hostnames from HTTP client requests."),

    // Auth
    row("auth-token", Text, "simple", later(AUTH, &["simple"]), "Auth token options: 'simple' or 'jwt,…'."),
    row("auth-token-ttl", Uint, "300", later(AUTH, &["300"]), "Time (in seconds) of the auth-token-ttl."),
    row("bcrypt-cost", Uint, "10", later(AUTH, &["10"]), "Cost / strength of the bcrypt algorithm for hashing auth passwords."),

    // Profiling, monitoring, gateway
    row("enable-grpc-gateway", Bool, "true", later("the JSON gateway", FALSE), "Enable the JSON gateway."),
    row("enable-pprof", Bool, "false", later("profiling over HTTP", FALSE), "Enable runtime profiling data via HTTP server."),
    row("metrics", Word(&["basic", "extensive"]), "basic", Works, "Set level of detail for exported metrics."),

    // Logging
    row("logger", Word(&["zap"]), "zap", Works, "Only 'zap', which names the look of lines."),
    row("log-outputs", List, "default", Works, "Comma-separated: 'default', 'stderr', 'stdout', 'systemd/journal', or paths of files."),
    row("log-level", Word(&["debug", "info", "warn", "error", "panic", "fatal"]), "info", Works, "Log level."),
    row("log-format", Word(&["json", "console"]), "json", Works, "Log format: 'json' or 'console'."),
    row("enable-log-rotation", Bool, "false", Works, "Enable log rotation of a single log-outputs file target."),
    row("log-rotation-config-json", Text, LOG_ROTATION, Works, "Configures log rotation: sizes in MiB, ages in days, 0 is no limit."),
    row("warning-unary-request-duration", Duration, "300ms", Works, "Time after which a warning is logged for a unary request."),
    row("warning-apply-duration", Duration, "100ms", Works, "Time after which a warning is logged for an apply."),

    // Tracing
    row("enable-distributed-tracing", Bool, "false", later(TRACING, FALSE), "Enable distributed tracing."),
    row("distributed-tracing-address", Text, "localhost:4317", later(TRACING, &["localhost:4317"]), "Distributed tracing collector address."),
    row("distributed-tracing-service-name", Text, "etcd", later(TRACING, &["etcd"]), "Distributed tracing service name."),
    row("distributed-tracing-instance-id", Text, "", later(TRACING, EMPTY), "Distributed tracing instance ID."),
    row("distributed-tracing-sampling-rate", Int, "0", later(TRACING, &["0"]), "Number of samples per million spans."),

    // Checks, pacing
    row("corrupt-check-time", Duration, "0s", later("members are not compared with each other", &["0", "0s"]), "Duration of time between cluster corruption check passes."),
    row("compact-hash-check-time", Duration, "1m0s", Cluster, "Duration of time between leader checks followers compaction hashes."),
    row("compaction-batch-limit", Int, "0", meaningless("ringd compacts in slices of its own size between batches"), "Accepted for etcd's manifests."),
    row("compaction-sleep-interval", Duration, "0s", meaningless("ringd compacts in slices of its own size between batches"), "Accepted for etcd's manifests."),
    row("watch-progress-notify-interval", Duration, "0s", Works, "Duration of periodical watch progress notification (0 means 10m)."),
    row("downgrade-check-time", Duration, "5s", Cluster, "Duration of time between two downgrade status checks."),
    row("bootstrap-defrag-threshold-megabytes", Uint, "0", meaningless("ringd's tree file needs no defragmentation at start"), "Accepted for etcd's manifests."),
    row("max-learners", Int, "1", Works, "Maximum number of learners that can be part of the cluster membership."),
    row("v2-deprecation", OneOf(&["not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", meaningless("there is no v2 store; etcd ignores it too"), "Accepted for etcd's manifests."),

    // Unsafe
    row("force-new-cluster", Bool, "false", Works, "Force to create a new one-member cluster."),
    row("unsafe-no-fsync", Bool, "false", later("running without durability (and won't come)", FALSE), "Disables fsync, unsafe, will cause data loss."),

    // Ours
    row("ringd-placement", Word(&["auto", "unpinned"]), "auto", Works, "Bind executors to CPUs ('auto') or not ('unpinned')."),
    row("ringd-executors", Uint32, "0", Works, "At most so many executors; 0 means one per usable CPU."),
    row("ringd-max-connections", Uint32, "0", Works, "Client connections at a time; 0 means as many as the limit of open files allows."),
    row("ringd-connection-memory", Uint, "1073741824", Works, "Bytes that all connections may hold in unfinished requests and unsent answers."),
    row("ringd-heap-limit", Uint, "67108864", Works, "Bytes of changed tree pages in memory that force a checkpoint."),
    row("ringd-scrub-interval", Duration, "24h0m0s", Works, "Time from one verification of the whole tree file to the next. 0 means never."),

    row("config-file", Text, "", Works, "Path to the server configuration file (YAML or JSON); other flags and variables are then ignored."),
    row("version", Bool, "false", Asks, "Print the version and exit."),
    row("help", Bool, "false", Asks, "Print this and exit."),

    // etcd's own list of what it takes without a word
    row("cluster-active-size", Bool, "false", Ignored, ""),
    row("cluster-remove-delay", Bool, "false", Ignored, ""),
    row("cluster-sync-interval", Bool, "false", Ignored, ""),
    row("config", Bool, "false", Ignored, ""),
    row("force", Bool, "false", Ignored, ""),
    row("max-result-buffer", Bool, "false", Ignored, ""),
    row("max-retry-attempts", Bool, "false", Ignored, ""),
    row("peer-heartbeat-interval", Bool, "false", Ignored, ""),
    row("peer-election-timeout", Bool, "false", Ignored, ""),
    row("retry-interval", Bool, "false", Ignored, ""),
    row("snapshot", Bool, "false", Ignored, ""),
    row("v", Bool, "false", Ignored, ""),
    row("vv", Bool, "false", Ignored, ""),
    row("test.coverprofile", Bool, "false", Ignored, ""),
    row("test.outputdir", Bool, "false", Ignored, ""),
];

const LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
