//! From texts of the right kind to a [`Config`]: the checks that look at more than one flag, in etcd's order and words.

use std::path::PathBuf;
use std::time::Duration;

use node::auto_compact::Retention;

use super::args::Given;
use super::cluster::{ClusterState, Initial};
use super::table::{Class, Kind};
use super::values::{self, Url};
use super::{
    ClientTls, Config, FeatureGate, GrpcKeepalive, HttpAccess, Listen, Log, LogFormat, LogLevel, LogOutput,
    limits,
};
use super::{rotation, tls};
use crate::placement;

/// etcd's upper limit of `--election-timeout`.
const ELECTION_MS_MAX: u64 = 50_000;
/// etcd's default quota, where 0 is given.
const QUOTA_DEFAULT: u64 = 2 << 30;
/// Above this etcd warns.
const QUOTA_RECOMMENDED_MAX: u64 = 8 << 30;
/// Above this etcd warns.
const REQUEST_RECOMMENDED_MAX: u64 = 10 << 20;
/// etcd's default, where 0 is given.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(600);
/// etcd's lower limit.
const PROGRESS_MIN: Duration = Duration::from_millis(100);

/// Smallest `--raft-read-timeout` and `--raft-write-timeout` (etcd `rafthttp.DefaultConnReadTimeout`).
const RAFT_TIMEOUT_MIN: Duration = Duration::from_secs(5);

/// etcd's default, where 0 is given.
const WARNING_UNARY_DEFAULT: Duration = Duration::from_millis(300);

/// etcd 3.7's gates: name, default, stage, and what asking for the other value means here.
const GATES: &[(&str, bool, &str, Gate)] = &[
    ("StopGRPCServiceOnDefrag", false, "ALPHA", Gate::NoEffect("ringd never pauses for defragmentation")),
    ("InitialCorruptCheck", false, "ALPHA", Gate::NoEffect(NOT_COMPARED)),
    ("CompactHashCheck", false, "ALPHA", Gate::NoEffect(NOT_COMPARED)),
    ("TxnModeWriteWithSharedBuffer", true, "BETA", Gate::NoEffect("ringd has no such buffer")),
    (LEASE_CHECKPOINT, false, "ALPHA", Gate::Works),
    (
        LEASE_CHECKPOINT_PERSIST,
        false,
        "ALPHA",
        Gate::NoEffect("ringd keeps checkpoints of leases in any case"),
    ),
    (
        "SetMemberLocalAddr",
        false,
        "ALPHA",
        Gate::NoEffect("the kernel chooses where connections to peers come from"),
    ),
    ("FastLeaseKeepAlive", true, "BETA", Gate::NoEffect("ringd has one way to keep leases alive")),
    ("PriorityRequest", false, "ALPHA", Gate::NoEffect("ringd has no such priority")),
];

const LEASE_CHECKPOINT: &str = "LeaseCheckpoint";
const LEASE_CHECKPOINT_PERSIST: &str = "LeaseCheckpointPersist";
const NOT_COMPARED: &str = "members are not compared with each other yet";

enum Gate {
    Works,
    NoEffect(&'static str),
}

/// Checks everything and builds the configuration. The error is one sentence.
pub(super) fn config(mut given: Given) -> Result<Config, String> {
    check_classes(&mut given)?;
    let log = log(&given)?;
    let urls = ListenUrls::read(&given)?;
    let (heartbeat_interval, election_timeout) = timing(&given)?;
    check_words(&given)?;
    let feature_gates = feature_gates(&mut given)?;
    let name = given.text("name").to_string();
    let data_dir = match given.text("data-dir") {
        "" => PathBuf::from(format!("{name}.ringd")),
        dir => PathBuf::from(dir),
    };
    let client_tls = tls::client(&mut given, &data_dir, &urls.client)?;
    let listen_client = listen(&mut given, &urls.client, client_tls.as_ref(), "client")?;
    let listen_client_http = listen(&mut given, &urls.client_http, client_tls.as_ref(), "client")?;
    if let Some(both) = listen_client_http.iter().find(|http| {
        listen_client.iter().any(|client| (&client.host, client.port) == (&http.host, http.port))
    }) {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {}",
            both.url
        ));
    }
    let listen_metrics = listen(&mut given, &urls.metrics, client_tls.as_ref(), "metrics")?;
    let peer_tls = tls::peer(&mut given, &data_dir, &urls.peer)?;
    let listen_peer = listen_peer(&mut given, &urls.peer, peer_tls.is_some())?;
    let raft_read_timeout = raft_timeout(&mut given, "raft-read-timeout")?;
    let raft_write_timeout = raft_timeout(&mut given, "raft-write-timeout")?;
    if name == "default" {
        given.warn("it isn't recommended to use default name, please set a value for --name".into(), "name");
    }
    let bootstrap = bootstrap(&given, &name, &urls.advertise_peer);
    Ok(Config {
        config_file: None,
        data_dir,
        wal_dir: path(&given, "wal-dir"),
        bootstrap,
        advertise_client_urls: urls.advertise_client.into_iter().map(|url| url.text).collect(),
        listen_client,
        listen_client_http,
        listen_peer,
        listen_metrics,
        http_access: HttpAccess::parse(given.text("cors"), given.text("host-whitelist"))
            .map_err(|error| format!("invalid value for --cors: {error}"))?,
        socket_reuse_port: given.bool("socket-reuse-port"),
        socket_reuse_address: given.bool("socket-reuse-address"),
        client_tls,
        peer_tls,
        raft_read_timeout,
        raft_write_timeout,
        heartbeat_interval,
        election_timeout,
        initial_election_tick_advance: given.bool("initial-election-tick-advance"),
        pre_vote: given.bool("pre-vote"),
        strict_reconfig_check: given.bool("strict-reconfig-check"),
        max_learners: max_learners(&given)?,
        force_new_cluster: given.bool("force-new-cluster"),
        quota_backend_bytes: quota(&mut given),
        memory_mlock: given.bool("memory-mlock"),
        max_txn_ops: bounded(&given, "max-txn-ops", u64::from(u32::MAX))?,
        max_request_bytes: max_request_bytes(&mut given)?,
        max_concurrent_streams: bounded(&given, "max-concurrent-streams", u64::from(u32::MAX))?,
        grpc_keepalive: GrpcKeepalive {
            min_time: duration(&given, "grpc-keepalive-min-time")?,
            interval: duration(&given, "grpc-keepalive-interval")?,
            timeout: duration(&given, "grpc-keepalive-timeout")?,
        },
        watch_progress_notify_interval: progress_interval(&given)?,
        auto_compaction: auto_compaction(&given)?,
        warning_apply: duration(&given, "warning-apply-duration")?,
        warning_unary: match duration(&given, "warning-unary-request-duration")? {
            Duration::ZERO => WARNING_UNARY_DEFAULT,
            given => given,
        },
        lease_checkpoint: feature_gates.iter().any(|gate| gate.name == LEASE_CHECKPOINT && gate.enabled),
        feature_gates,
        metrics_extensive: given.text("metrics") == "extensive",
        log,
        placement: placement(&given)?,
        max_connections: max_connections(&given)?,
        connection_bytes_limit: at_least(&given, "ringd-connection-memory", limits::CONNECTION_BYTES_MIN)?,
        heap_limit_bytes: at_least(&given, "ringd-heap-limit", limits::HEAP_BYTES_MIN)?,
        scrub_interval: Some(duration(&given, "ringd-scrub-interval")?)
            .filter(|interval| !interval.is_zero()),
        name,
        warnings: given.warnings,
    })
}

/// What belongs to later work is refused, what can't have a meaning here is warned about.
fn check_classes(given: &mut Given) -> Result<(), String> {
    let mut warnings = Vec::new();
    for (flag, value) in given.iter() {
        match flag.class {
            Class::Works | Class::Cluster | Class::Ignored | Class::Asks => {}
            Class::Meaningless { why } => warnings.push((format!("has no effect here: {why}"), flag.name)),
            Class::Later { what, accepts } => {
                if !accepts.iter().any(|accepted| same_value(flag.kind, accepted, value)) {
                    return Err(format!("--{} is not there yet: {what} (given {value:?})", flag.name));
                }
            }
        }
    }
    for (message, about) in warnings {
        given.warn(message, about);
    }
    Ok(())
}

/// Whether two texts of a kind mean the same: `--auto-tls=F` asks for `false`.
fn same_value(kind: Kind, a: &str, b: &str) -> bool {
    a == b
        || match kind {
            Kind::Bool => values::parse_bool(a) == values::parse_bool(b),
            Kind::Duration => values::parse_duration(a) == values::parse_duration(b),
            Kind::Int => values::parse_int(a) == values::parse_int(b),
            Kind::Uint | Kind::Uint32 => values::parse_uint(a) == values::parse_uint(b),
            _ => false,
        }
}

struct ListenUrls {
    client: Vec<Url>,
    client_http: Vec<Url>,
    peer: Vec<Url>,
    metrics: Vec<Url>,
    advertise_client: Vec<Url>,
    advertise_peer: Vec<Url>,
}

impl ListenUrls {
    fn read(given: &Given) -> Result<ListenUrls, String> {
        let client = urls(given, "listen-client-urls");
        let client_http = urls(given, "listen-client-http-urls");
        let metrics = urls(given, "listen-metrics-urls");
        let peer = urls(given, "listen-peer-urls");
        for listed in [&peer, &client, &client_http, &metrics] {
            values::check_bind(listed)?;
        }
        let advertise_peer = urls(given, "initial-advertise-peer-urls");
        values::check_host(&advertise_peer).map_err(|error| {
            format!(
                "--initial-advertise-peer-urls {:?} must be \"host:port\" ({error})",
                given.text("initial-advertise-peer-urls"),
            )
        })?;
        let advertise_client = urls(given, "advertise-client-urls");
        values::check_host(&advertise_client).map_err(|error| {
            format!(
                "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \
                 \"unixs:/path/to/socket\" ({error})",
                given.text("advertise-client-urls"),
            )
        })?;
        if given.is_set("listen-client-urls") && !given.is_set("advertise-client-urls") {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly".into()
            );
        }
        if client.is_empty() {
            return Err("--listen-client-urls names no URL: without one nobody could be served".into());
        }
        Ok(ListenUrls { client, client_http, peer, metrics, advertise_client, advertise_peer })
    }
}

fn urls(given: &Given, name: &'static str) -> Vec<Url> {
    values::parse_urls(given.text(name)).expect("checked when it was given")
}

/// `--initial-…`: founding is checked here, but only a start without data is stopped by a mistake.
fn bootstrap(given: &Given, name: &str, peer_urls: &[Url]) -> Result<super::Bootstrap, String> {
    // etcd config.go, UpdateDefaultClusterFromName: a name alone is enough.
    let from_name = || {
        let parts: Vec<String> = peer_urls.iter().map(|url| format!("{name}={}", url.text)).collect();
        parts.join(",")
    };
    let default = super::table::find("initial-cluster").expect("in the table").default;
    let cluster = match given.text("initial-cluster") {
        text if text == default && name != "default" => from_name(),
        text => text.to_string(),
    };
    let initial = Initial {
        name,
        cluster: &cluster,
        state: match given.text("initial-cluster-state") {
            "existing" => ClusterState::Existing,
            _ => ClusterState::New,
        },
        token: given.text("initial-cluster-token"),
        peer_urls,
    };
    initial.check()
}

/// Heartbeat interval and election timeout.
fn timing(given: &Given) -> Result<(Duration, Duration), String> {
    let tick = uint(given, "heartbeat-interval");
    let election = uint(given, "election-timeout");
    if tick == 0 {
        return Err(format!("--heartbeat-interval must be >0 (set to {tick}ms)"));
    }
    if election == 0 {
        return Err(format!("--election-timeout must be >0 (set to {election}ms)"));
    }
    if tick.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{tick}ms]"
        ));
    }
    if election > ELECTION_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_MS_MAX}ms"
        ));
    }
    Ok((Duration::from_millis(tick), Duration::from_millis(election)))
}

/// Words that etcd checks only now.
fn check_words(given: &Given) -> Result<(), String> {
    for (flag, value) in given.iter() {
        if let Kind::Word(words) = flag.kind
            && !words.contains(&value)
        {
            return Err(match flag.name {
                "auto-compaction-mode" if value.is_empty() => "undefined auto-compaction-mode".into(),
                "auto-compaction-mode" => format!("unknown auto-compaction-mode {value:?}"),
                name => format!("unknown --{name} {value:?}: it is one of {}", words.join(", ")),
            });
        }
    }
    if given.text("discovery-fallback") == "proxy" {
        return Err(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"".into()
        );
    }
    let check = values::parse_duration(given.text("compact-hash-check-time"))?;
    if check <= 0 {
        return Err(format!(
            "--compact-hash-check-time must be >0 (set to {})",
            given.text("compact-hash-check-time")
        ));
    }
    Ok(())
}

fn feature_gates(given: &mut Given) -> Result<Vec<FeatureGate>, String> {
    let mut gates: Vec<FeatureGate> =
        GATES.iter().map(|&(name, enabled, stage, _)| FeatureGate { name, stage, enabled }).collect();
    let text = given.text("feature-gates").to_string();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("missing bool value for feature gate {part}"));
        };
        let value = values::parse_bool(value.trim())
            .map_err(|error| format!("invalid value of {}={value}, err: {error}", name.trim()))?;
        match name.trim() {
            "AllAlpha" => set_stage(&mut gates, "ALPHA", value),
            "AllBeta" => set_stage(&mut gates, "BETA", value),
            name => match gates.iter_mut().find(|gate| gate.name == name) {
                Some(gate) => gate.enabled = value,
                None => return Err(format!("unrecognized feature gate: {name}")),
            },
        }
    }
    let is_on = |name| gates.iter().any(|gate| gate.name == name && gate.enabled);
    if is_on(LEASE_CHECKPOINT_PERSIST) && !is_on(LEASE_CHECKPOINT) {
        return Err(format!(
            "enabling feature gate {LEASE_CHECKPOINT_PERSIST} requires enabling feature gate {LEASE_CHECKPOINT}"
        ));
    }
    for (gate, (name, default, _, meaning)) in gates.iter().zip(GATES) {
        match meaning {
            _ if gate.enabled == *default => {}
            Gate::Works => {}
            Gate::NoEffect(why) => {
                given.warn(format!("feature gate {name} has no effect here: {why}"), "feature-gates")
            }
        }
    }
    Ok(gates)
}

fn set_stage(gates: &mut [FeatureGate], stage: &str, enabled: bool) {
    gates.iter_mut().filter(|gate| gate.stage == stage).for_each(|gate| gate.enabled = enabled);
}

fn log(given: &Given) -> Result<Log, String> {
    let level = match given.text("log-level") {
        "debug" => LogLevel::Debug,
        "info" => LogLevel::Info,
        "warn" => LogLevel::Warn,
        "error" => LogLevel::Error,
        "panic" => LogLevel::Panic,
        "fatal" => LogLevel::Fatal,
        other => return Err(format!("unrecognized level: {other:?}")),
    };
    let format = match given.text("log-format") {
        "json" => LogFormat::Json,
        "console" => LogFormat::Console,
        other => return Err(format!("unknown log format: {other}, supported values json, console")),
    };
    let mut outputs = Vec::new();
    let words: Vec<&str> = given.text("log-outputs").split(',').filter(|word| !word.is_empty()).collect();
    for &word in &words {
        let output = match word {
            "default" if words.len() > 1 => {
                return Err(format!(
                    "multi logoutput for \"default\" is not supported yet (given {words:?})"
                ));
            }
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => LogOutput::Journal,
            path => LogOutput::File(path.into()),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    if outputs.is_empty() {
        return Err("--log-outputs names no output".into());
    }
    let rotation = match given.bool("enable-log-rotation") {
        true => Some(rotation::parse(&outputs, given.text("log-rotation-config-json"))?),
        false => None,
    };
    Ok(Log { level, format, outputs, rotation })
}

/// The sockets of one `--listen-…` flag. Scheme and certificate must fit.
fn listen(
    given: &mut Given,
    urls: &[Url],
    tls: Option<&ClientTls>,
    what: &str,
) -> Result<Vec<Listen>, String> {
    let mut listen = Vec::new();
    for url in urls {
        let text = &url.text;
        let is_tls = matches!(url.scheme.as_str(), "https" | "unixs");
        if is_tls && tls.is_none() {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for {what} url {text} with HTTPS scheme"
            ));
        }
        // A metrics port without TLS beside a client port with it is usual, so etcd says nothing there.
        if !is_tls && tls.is_some() && what == "client" {
            given.warn(
                format!(
                    "scheme is http or unix while key and cert files are present; ignoring them for {text}"
                ),
                text,
            );
        }
        if !is_tls && given.bool("client-cert-auth") && what == "client" {
            given.warn(
                format!("scheme is http or unix while --client-cert-auth is enabled; ignoring it for {text}"),
                text,
            );
        }
        let (host, port, unix) = (url.host.clone(), url.port, !url.is_tcp());
        listen.push(Listen { url: text.clone(), host, port, tls: is_tls, unix });
    }
    Ok(listen)
}

/// 0 is etcd's 2 GiB, less than 0 is none.
fn quota(given: &mut Given) -> Option<u64> {
    let bytes = values::parse_int(given.text("quota-backend-bytes")).expect("checked when it was given");
    let Ok(bytes) = u64::try_from(bytes) else {
        given.warn("disabled the quota of the store".into(), "quota-backend-bytes");
        return None;
    };
    if bytes > QUOTA_RECOMMENDED_MAX {
        given.warn(
            format!(
                "the quota of {bytes} bytes exceeds etcd's recommended maximum of {QUOTA_RECOMMENDED_MAX}"
            ),
            "quota-backend-bytes",
        );
    }
    Some(if bytes == 0 { QUOTA_DEFAULT } else { bytes })
}

/// The sockets of `--listen-peer-urls`.
fn listen_peer(given: &mut Given, urls: &[Url], has_tls: bool) -> Result<Vec<Listen>, String> {
    let unusable = |url: &&Url| !url.is_tcp();
    if let Some(url) = urls.iter().find(unusable) {
        return Err(format!("cannot listen on {}: unix sockets are not there yet", url.text));
    }
    if let Some(url) = urls.iter().find(|url| url.scheme == "https" && !has_tls) {
        return Err(format!(
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url {} with HTTPS scheme",
            url.text
        ));
    }
    for url in urls.iter().filter(|url| url.scheme != "https") {
        if has_tls {
            let what = "scheme is http while peer key and cert files are present; ignoring them for";
            given.warn(format!("{what} {}", url.text), &url.text);
        }
        if given.bool("peer-client-cert-auth") {
            let what = "scheme is http while --peer-client-cert-auth is enabled; ignoring it for";
            given.warn(format!("{what} {}", url.text), &url.text);
        }
    }
    let listen = |url: &Url| Listen {
        url: url.text.clone(),
        host: url.host.clone(),
        port: url.port,
        tls: url.scheme == "https",
        unix: false,
    };
    Ok(urls.iter().map(listen).collect())
}

/// Timeouts of peer connections: never below etcd's defaults, as in etcd (`embed/config.go`).
fn raft_timeout(given: &mut Given, name: &'static str) -> Result<Duration, String> {
    let asked = duration(given, name)?;
    if asked < RAFT_TIMEOUT_MIN {
        given.warn(format!("--{name} below {RAFT_TIMEOUT_MIN:?} is taken as {RAFT_TIMEOUT_MIN:?}"), name);
    }
    Ok(asked.max(RAFT_TIMEOUT_MIN))
}

/// etcd `ValidateMaxLearnerConfig`: fewer than none is more than may be.
fn max_learners(given: &Given) -> Result<usize, String> {
    let learners = values::parse_int(given.text("max-learners")).expect("checked when it was given");
    usize::try_from(learners).map_err(|_| "membership: too many learner members in cluster".into())
}

fn max_request_bytes(given: &mut Given) -> Result<u32, String> {
    let bytes = bounded(given, "max-request-bytes", limits::REQUEST_BYTES_MAX)?;
    if u64::from(bytes) > REQUEST_RECOMMENDED_MAX {
        given.warn(
            format!("{bytes} bytes exceed the recommended maximum of {REQUEST_RECOMMENDED_MAX}"),
            "max-request-bytes",
        );
    }
    Ok(bytes)
}

fn progress_interval(given: &Given) -> Result<Duration, String> {
    let interval = duration(given, "watch-progress-notify-interval")?;
    Ok(if interval.is_zero() { PROGRESS_DEFAULT } else { interval.max(PROGRESS_MIN) })
}

/// etcd `embed/etcd.go`, `parseCompactionRetention`: a plain number counts hours or revisions, anything else is a duration,
/// whose nanoseconds count as revisions where revisions are asked for. Less than 0, which etcd would run with, is refused.
fn auto_compaction(given: &Given) -> Result<Option<Retention>, String> {
    let text = match given.text("auto-compaction-retention") {
        "" => "0",
        text => text,
    };
    let is_periodic = given.text("auto-compaction-mode") == "periodic";
    let number: Option<i64> = text.parse().ok().filter(|&number| number >= 0);
    let value = match number {
        Some(hours) if is_periodic => hours.checked_mul(3_600_000_000_000),
        Some(revisions) => Some(revisions),
        None => Some(
            values::parse_duration(text)
                .map_err(|error| format!("error parsing CompactionRetention: {error}"))?,
        ),
    };
    match value.and_then(|value| u64::try_from(value).ok()) {
        None => Err(format!("--auto-compaction-retention is out of range (set to {text})")),
        Some(0) => Ok(None),
        Some(nanos) if is_periodic => Ok(Some(Retention::Period(Duration::from_nanos(nanos)))),
        Some(revisions) => Ok(Some(Retention::Revisions(revisions as i64))),
    }
}

fn placement(given: &Given) -> Result<placement::Options, String> {
    let pinning = match given.text("ringd-placement") {
        "unpinned" => placement::Pinning::Unpinned,
        _ => placement::Pinning::Auto,
    };
    let executors_max = bounded(given, "ringd-executors", u64::from(u32::MAX))?;
    Ok(placement::Options { pinning, executors_max: executors_max as usize })
}

/// 0 leaves it to the limit of open files.
fn max_connections(given: &Given) -> Result<Option<u32>, String> {
    let count = bounded(given, "ringd-max-connections", u64::from(u32::MAX))?;
    Ok(Some(count).filter(|&count| count > 0))
}

/// An unsigned value with a lower bound of ours.
fn at_least(given: &Given, name: &'static str, min: u64) -> Result<u64, String> {
    let value = uint(given, name);
    if value < min {
        return Err(format!("--{name} must be at least {min} (set to {value})"));
    }
    Ok(value)
}

pub(super) fn path(given: &Given, name: &'static str) -> Option<PathBuf> {
    Some(given.text(name)).filter(|text| !text.is_empty()).map(PathBuf::from)
}

fn uint(given: &Given, name: &'static str) -> u64 {
    values::parse_uint(given.text(name)).expect("checked when it was given")
}

/// An unsigned value with an upper bound of ours, which fits in 32 bits.
fn bounded(given: &Given, name: &'static str, max: u64) -> Result<u32, String> {
    let value = uint(given, name);
    match u32::try_from(value) {
        Ok(small) if value <= max => Ok(small),
        _ => Err(format!("--{name} must be at most {max} (set to {value})")),
    }
}

/// A duration that isn't negative.
fn duration(given: &Given, name: &'static str) -> Result<Duration, String> {
    let nanos = values::parse_duration(given.text(name)).expect("checked when it was given");
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| format!("--{name} must not be negative (set to {})", given.text(name)))
}
