//! What an operator can say: etcd's flags and `ETCD_*` variables, and a few of our own.
//!
//! ```text
//! argv, environment → args (forms, precedence) → check (kinds, combinations) → Config
//!                        ↑ table: every flag, its kind, default and what we do with it
//! ```
//!
//! A flag of etcd falls in one of five classes ([`Class`]): it works; it describes the
//! cluster; it belongs to later work and is refused unless it says what we do anyway; it can't have a meaning here and is
//! accepted with a warning; it is ignored silently, as etcd does. Nothing is dropped without a word that etcd would
//! have obeyed.
//!
//! Not here: reading certificates, making directories, opening sockets. Those fail at start, with their own exit codes
//! (`sys::fatal`).

mod access;
pub mod args;
mod check;
pub mod cluster;
pub mod file;
pub mod limits;
mod rotation;
pub mod table;
#[cfg(test)]
mod tests;
mod tls;
pub mod values;

use std::path::PathBuf;
use std::time::Duration;

pub use access::HttpAccess;
pub use args::{Exit, parse};
pub use cluster::{ClusterId, ClusterState, Founder, MemberId};
use node::auto_compact::Retention;
pub use table::Class;

use crate::placement;

/// The version of etcd whose surface this is.
pub const ETCD_VERSION: &str = "3.7.1";

/// Everything the flags and the environment decide, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `--config-file`: all that follows is from there.
    pub config_file: Option<PathBuf>,
    /// `--name`
    pub name: String,
    /// `--data-dir`; `<name>.ringd` if not given.
    pub data_dir: PathBuf,
    /// `--wal-dir`: a directory of its own for the Raft log.
    pub wal_dir: Option<PathBuf>,

    /// What `--initial-…` say, or why they can't found a cluster. As in etcd it is used, and a mistake in it is
    /// fatal, only where the data directory is still empty: afterwards identity and members come from there.
    pub bootstrap: Result<Bootstrap, String>,
    /// `--advertise-client-urls`, sorted.
    pub advertise_client_urls: Vec<String>,

    /// `--listen-client-urls`: gRPC, and HTTP/1.1 if `listen_client_http` is empty.
    pub listen_client: Vec<Listen>,
    /// `--listen-client-http-urls`: HTTP without gRPC; then `listen_client` is for gRPC alone.
    pub listen_client_http: Vec<Listen>,
    /// `--listen-peer-urls`: the other members.
    pub listen_peer: Vec<Listen>,
    /// `--listen-metrics-urls`: `/metrics`, `/health`, `/livez`, `/readyz` only.
    pub listen_metrics: Vec<Listen>,
    /// `--cors`, `--host-whitelist`
    pub http_access: HttpAccess,
    /// `--socket-reuse-port`
    pub socket_reuse_port: bool,
    /// `--socket-reuse-address`
    pub socket_reuse_address: bool,
    /// Client TLS. Given as soon as a certificate is, even if no URL is https.
    pub client_tls: Option<ClientTls>,
    /// Peer TLS. Given as soon as a certificate is, even if no URL is https.
    pub peer_tls: Option<PeerTls>,
    /// `--raft-read-timeout`
    pub raft_read_timeout: Duration,
    /// `--raft-write-timeout`
    pub raft_write_timeout: Duration,

    /// `--heartbeat-interval`
    pub heartbeat_interval: Duration,
    /// `--election-timeout`
    pub election_timeout: Duration,
    /// `--initial-election-tick-advance`
    pub initial_election_tick_advance: bool,
    /// `--pre-vote`
    pub pre_vote: bool,
    /// `--strict-reconfig-check`
    pub strict_reconfig_check: bool,
    /// `--max-learners`
    pub max_learners: usize,
    /// `--force-new-cluster`: start over as the only member, with the data that is there.
    pub force_new_cluster: bool,

    /// `--quota-backend-bytes`: bytes of the tree file that may be allocated; `None` = no quota.
    pub quota_backend_bytes: Option<u64>,
    /// `--memory-mlock`: the tree file's pages stay in memory.
    pub memory_mlock: bool,
    /// `--max-txn-ops`
    pub max_txn_ops: u32,
    /// `--max-request-bytes`: of one marshalled request.
    pub max_request_bytes: u32,
    /// `--max-concurrent-streams`, per connection.
    pub max_concurrent_streams: u32,
    /// `--grpc-keepalive-…`
    pub grpc_keepalive: GrpcKeepalive,
    /// `--watch-progress-notify-interval`; 10 minutes if not given.
    pub watch_progress_notify_interval: Duration,

    /// `--auto-compaction-mode`, `--auto-compaction-retention`; `None`: nobody compacts but clients.
    pub auto_compaction: Option<Retention>,
    /// `--warning-apply-duration`: longer applies and reads are logged.
    pub warning_apply: Duration,
    /// `--warning-unary-request-duration`: unary calls that take longer are logged. 300 ms if 0 is given, as in etcd.
    pub warning_unary: Duration,

    /// `--feature-gates`: all of etcd's, with what is asked for.
    pub feature_gates: Vec<FeatureGate>,
    /// Feature gate `LeaseCheckpoint`: what is left of long leases outlives a change of leader.
    pub lease_checkpoint: bool,
    /// `--metrics=extensive`: also `grpc_server_handling_seconds`.
    pub metrics_extensive: bool,
    /// `--log-…`
    pub log: Log,

    /// `--ringd-placement`, `--ringd-executors`
    pub placement: placement::Options,
    /// `--ringd-max-connections`: client connections at a time; `None`: as many as the limit of open files allows.
    pub max_connections: Option<u32>,
    /// `--ringd-connection-memory`: bytes that connections may hold together.
    pub connection_bytes_limit: u64,
    /// `--ringd-heap-limit`: bytes of tree pages changed since the last checkpoint; reaching it forces one.
    pub heap_limit_bytes: u64,
    /// `--ringd-scrub-interval`: from the end of one pass over the tree file to the next. `None`: never.
    pub scrub_interval: Option<Duration>,

    /// To be logged once the log is open.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// The election timeout in ticks; a tick is a heartbeat interval.
    pub fn election_ticks(&self) -> usize {
        (self.election_timeout.as_millis() / self.heartbeat_interval.as_millis().max(1)) as usize
    }
}

/// How this member finds its cluster on its very first start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    /// Whether the cluster is founded or joined. Who joins takes the ids below from the cluster instead.
    pub state: ClusterState,
    /// This member, from its peer URLs and the cluster token.
    pub member_id: MemberId,
    /// The cluster, from the ids of its members.
    pub cluster_id: ClusterId,
    /// `--initial-cluster-token`
    pub cluster_token: String,
    /// This member's peer URLs as `--initial-cluster` has them, sorted.
    pub peer_urls: Vec<String>,
    /// All that `--initial-cluster` names, by id.
    pub members: Vec<Founder>,
}

/// A line for the log at start: something given that has no effect, or is not recommended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The sentence.
    pub message: String,
    /// The flag or variable it is about.
    pub about: String,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The URL as given.
    pub url: String,
    /// An IP address, or `localhost`; of a unix socket its path.
    pub host: String,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
    /// https, unixs
    pub tls: bool,
    /// unix, unixs
    pub unix: bool,
}

/// `--cert-file` and its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `--cert-file`
    pub cert_file: PathBuf,
    /// `--key-file`
    pub key_file: PathBuf,
    /// `--trusted-ca-file`: given, a client must show a certificate that this CA signed, with or without
    /// `--client-cert-auth`, as in etcd.
    pub client_ca_file: Option<PathBuf>,
    /// `--client-crl-file`: serial numbers of certificates that are no longer accepted.
    pub crl_file: Option<PathBuf>,
    /// Versions, cipher suites, allowed names.
    pub settings: net::tls::Settings,
    /// `--auto-tls`: the server makes the two files itself.
    pub self_signed: Option<SelfSigned>,
}

/// `--peer-cert-file` and its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerTls {
    /// The peer port's, as the client port's.
    pub listen: ClientTls,
    /// `--peer-client-cert-file`, or else `--peer-cert-file`: shown to peers that are dialed.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// `--peer-skip-client-san-verification`: a certificate may come from any address.
    pub skip_san_verification: bool,
}

/// What a self-made certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// `--self-signed-cert-validity`
    pub validity_years: u32,
    /// The hosts of `--listen-client-urls`.
    pub hosts: Vec<String>,
}

/// One of etcd's feature gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureGate {
    /// As written in `--feature-gates`.
    pub name: &'static str,
    /// `ALPHA`, `BETA`
    pub stage: &'static str,
    /// Its default, or what was asked for.
    pub enabled: bool,
}

/// `--grpc-keepalive-…`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcKeepalive {
    /// A client may ping this often; more costs it the connection.
    pub min_time: Duration,
    /// An idle connection is pinged after this; zero = never.
    pub interval: Duration,
    /// A ping unanswered for this long ends the connection.
    pub timeout: Duration,
}

/// `--log-level`, `--log-format`, `--log-outputs`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Lines below this are dropped.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go, without duplicates; never empty.
    pub outputs: Vec<LogOutput>,
    /// When the one file among them is put aside; `None`: it only grows.
    pub rotation: Option<LogRotation>,
}

/// `--log-rotation-config-json`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRotation {
    /// Bytes of a file that a line may not take it beyond.
    pub bytes_max: u64,
    /// Files put aside longer ago than this are deleted; `None`: however old.
    pub age_max: Option<Duration>,
    /// So many files put aside are kept, the youngest; `None`: all.
    pub backups_max: Option<usize>,
}

/// etcd's log levels. `panic` and `fatal` let nothing pass but the line before an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// `debug`
    Debug,
    /// `info`
    Info,
    /// `warn`
    Warn,
    /// `error`
    Error,
    /// `panic`
    Panic,
    /// `fatal`
    Fatal,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Tab-separated text with the fields as JSON at its end.
    Console,
}

/// `--log-outputs`
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogOutput {
    /// `default`, `stderr`
    Stderr,
    /// `stdout`
    Stdout,
    /// `systemd/journal`
    Journal,
    /// A file that is appended to.
    File(PathBuf),
}
