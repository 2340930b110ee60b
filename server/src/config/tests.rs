//! The whole way from words to a [`Config`]: what every flag does, and what they do together.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::table::{self, Class, FLAGS, Kind};
use super::*;
use crate::placement::Pinning;

fn run(words: &[&str]) -> Result<Config, Exit> {
    parse(words.iter().map(OsString::from), [])
}

fn good(words: &[&str]) -> Config {
    run(words).unwrap_or_else(|exit| panic!("{words:?}: {}", exit.stderr))
}

/// The sentence of a refusal with exit code 1.
fn refusal(words: &[&str]) -> String {
    let exit = run(words).map(|_| ()).expect_err(&format!("{words:?}"));
    assert_eq!(exit.code, 1, "{words:?}: {}", exit.stderr);
    let line: serde_json::Value = serde_json::from_str(exit.stderr.trim()).expect("a JSON line");
    assert_eq!(line["msg"], "failed to verify flags", "{words:?}");
    line["error"].as_str().expect("a sentence").to_string()
}

/// Every flag of etcd 3.7.1, from its documentation.
const ETCD: &str = "name data-dir wal-dir snapshot-count snapshot-catchup-entries heartbeat-interval election-timeout \
    initial-election-tick-advance listen-peer-urls listen-client-urls listen-client-http-urls listen-metrics-urls \
    max-snapshots max-wals memory-mlock quota-backend-bytes backend-bbolt-freelist-type backend-batch-interval \
    backend-batch-limit max-txn-ops max-request-bytes max-concurrent-streams grpc-keepalive-min-time \
    grpc-keepalive-interval grpc-keepalive-timeout socket-reuse-port socket-reuse-address raft-read-timeout \
    raft-write-timeout feature-gates initial-advertise-peer-urls advertise-client-urls initial-cluster \
    initial-cluster-state initial-cluster-token discovery-token discovery-endpoints discovery-dial-timeout \
    discovery-request-timeout discovery-keepalive-time discovery-keepalive-timeout discovery-insecure-transport \
    discovery-insecure-skip-tls-verify discovery-cert discovery-key discovery-cacert discovery-user discovery-password \
    discovery-srv discovery-srv-name discovery-fallback strict-reconfig-check pre-vote auto-compaction-mode \
    auto-compaction-retention cert-file key-file client-cert-auth trusted-ca-file client-cert-file client-key-file \
    client-crl-file client-cert-allowed-hostname auto-tls peer-cert-file peer-key-file peer-client-cert-auth \
    peer-trusted-ca-file peer-client-cert-file peer-client-key-file peer-crl-file peer-cert-allowed-cn \
    peer-cert-allowed-hostname peer-auto-tls peer-skip-client-san-verification self-signed-cert-validity cipher-suites \
    tls-min-version tls-max-version cors host-whitelist auth-token auth-token-ttl bcrypt-cost enable-grpc-gateway \
    enable-pprof metrics logger log-outputs log-level log-format enable-log-rotation log-rotation-config-json \
    warning-unary-request-duration warning-apply-duration enable-distributed-tracing distributed-tracing-address \
    distributed-tracing-service-name distributed-tracing-instance-id distributed-tracing-sampling-rate \
    corrupt-check-time compact-hash-check-time compaction-batch-limit compaction-sleep-interval \
    watch-progress-notify-interval downgrade-check-time bootstrap-defrag-threshold-megabytes max-learners v2-deprecation \
    force-new-cluster unsafe-no-fsync config-file version help cluster-active-size cluster-remove-delay \
    cluster-sync-interval config force max-result-buffer max-retry-attempts peer-heartbeat-interval \
    peer-election-timeout retry-interval snapshot v vv test.coverprofile test.outputdir";

#[test]
fn the_table_holds_every_flag_of_etcd_and_a_few_of_ours() {
    let mut known: Vec<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    let mut want: Vec<&str> = ETCD.split_whitespace().collect();
    want.extend(["ringd-placement", "ringd-executors", "ringd-heap-limit"]);
    want.extend(["ringd-max-connections", "ringd-connection-memory", "ringd-scrub-interval"]);
    known.sort_unstable();
    want.sort_unstable();
    assert_eq!(known, want);
}

#[test]
fn defaults_are_etcds() {
    let config = good(&[]);
    let local = |port| Listen {
        url: format!("http://localhost:{port}"),
        host: "localhost".into(),
        port,
        tls: false,
        unix: false,
    };
    assert_eq!((config.name.as_str(), config.data_dir.as_path()), ("default", Path::new("default.ringd")));
    assert_eq!((config.listen_client, config.listen_metrics), (vec![local(2379)], vec![]));
    assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
    let bootstrap = config.bootstrap.expect("etcd's defaults found a cluster");
    assert_eq!(bootstrap.member_id.to_string(), "8e9e05c52164694d");
    assert_eq!(bootstrap.cluster_id.to_string(), "cdf818194e3a8c32");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!((config.max_txn_ops, config.max_request_bytes), (128, 1_572_864));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.grpc_keepalive.min_time, Duration::from_secs(5));
    assert_eq!(config.grpc_keepalive.interval, Duration::from_secs(7200));
    assert_eq!(config.grpc_keepalive.timeout, Duration::from_secs(20));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!((config.wal_dir, config.client_tls, config.metrics_extensive), (None, None, false));
    let log = Log {
        level: LogLevel::Info,
        format: LogFormat::Json,
        outputs: vec![LogOutput::Stderr],
        rotation: None,
    };
    assert_eq!(config.log, log);
    assert_eq!(config.placement.pinning, Pinning::Auto);
    assert_eq!(config.feature_gates.len(), 9);
}

#[test]
fn the_defaults_of_the_table_are_accepted_when_given() {
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.class, Class::Asks | Class::Ignored)) {
        // What isn't there can't be asked for, also where etcd has it by default.
        if flag.name == "enable-grpc-gateway" {
            assert!(refusal(&["--enable-grpc-gateway"]).contains("the JSON gateway"));
            good(&["--enable-grpc-gateway=false"]);
            continue;
        }
        let word = format!("--{}={}", flag.name, flag.default);
        let advertise = "--advertise-client-urls=http://localhost:2379";
        good(&[&word, advertise]);
    }
}

#[test]
fn what_belongs_to_later_work_is_refused_by_name() {
    for flag in FLAGS {
        let Class::Later { what, accepts } = flag.class else { continue };
        let value = match flag.kind {
            Kind::Bool if accepts.contains(&"true") => "false",
            Kind::Bool => "true",
            Kind::Duration => "3h",
            Kind::Uint | Kind::Int => "7",
            Kind::Urls => "http://127.0.0.1:1",
            _ => "something",
        };
        let sentence = refusal(&[&format!("--{}={value}", flag.name)]);
        assert!(sentence.starts_with(&format!("--{} is not there yet: {what}", flag.name)), "{sentence}");
        for accepted in accepts {
            good(&[&format!("--{}={accepted}", flag.name)]);
        }
    }
    // Spellings of one value.
    good(&["--auto-tls=F", "--discovery-dial-timeout=2000ms", "--auth-token-ttl=0x12c"]);
}

#[test]
fn what_has_no_meaning_here_warns_once_and_says_why() {
    for flag in FLAGS {
        let Class::Meaningless { why } = flag.class else { continue };
        let value = match flag.kind {
            Kind::Bool => "true",
            Kind::Duration => "1s",
            Kind::OneOf(words) | Kind::Word(words) => words[0],
            _ => "7",
        };
        let word = format!("--{}={value}", flag.name);
        let warnings = good(&["--name=a", &word, &word]).warnings;
        assert_eq!(warnings.len(), 1, "{word}: {warnings:?}");
        assert_eq!(warnings[0].about, flag.name);
        assert!(warnings[0].message.contains(why), "{warnings:?}");
    }
}

#[test]
fn what_etcd_ignores_is_ignored_without_a_word() {
    for flag in FLAGS.iter().filter(|flag| flag.class == Class::Ignored) {
        for word in [format!("--{}", flag.name), format!("-{}=anything", flag.name)] {
            assert_eq!(good(&["--name=a", &word]).warnings, [], "{word}");
        }
    }
}

#[test]
fn every_flag_has_its_variable_and_a_line_of_help() {
    for flag in FLAGS {
        assert_eq!(flag.variable().to_ascii_lowercase().replace('_', "-"), format!("etcd-{}", flag.name));
        assert_eq!(flag.help.is_empty(), flag.class == Class::Ignored, "{}", flag.name);
        assert!(std::ptr::eq(table::find(flag.name).expect("itself"), flag), "{} twice", flag.name);
    }
}

#[test]
fn flags_that_contradict_each_other_are_refused_in_etcds_words() {
    let advertise = "--advertise-client-urls=http://a:1";
    let cases: &[(&[&str], &str)] = &[
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--election-timeout=499"],
            "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--heartbeat-interval=18446744073709551615"],
            "--election-timeout[1000ms] should be at least as 5 times as \
             --heartbeat-interval[18446744073709551615ms]",
        ),
        (
            &["--election-timeout=50001"],
            "--election-timeout[50001ms] is too long, and should be set less than 50000ms",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-client-urls=http://example.com:1", advertise],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--listen-peer-urls=http://example.com:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--listen-metrics-urls=http://example.com:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--listen-client-urls=", advertise],
            "--listen-client-urls names no URL: without one nobody could be served",
        ),
        (
            &["--advertise-client-urls=http://:1"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \
             \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (
            &["--listen-client-urls=https://127.0.0.1:1", advertise],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (&["--tls-min-version=TLS1.1"], "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["--cipher-suites=TLS_NULL"], "unexpected TLS cipher suite \"TLS_NULL\""),
        (
            &["--cipher-suites=TLS_RSA_WITH_AES_128_GCM_SHA256"],
            "TLS cipher suite \"TLS_RSA_WITH_AES_128_GCM_SHA256\" is not supported: ringd speaks only those with \
             forward secrecy and authenticated encryption (TLS_ECDHE_…_GCM_…, …_CHACHA20_POLY1305_…)",
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
        (&["--cert-file=c"], "KeyFile and CertFile must both be present[key: , cert: c]"),
        (&["--key-file=k"], "KeyFile and CertFile must both be present[key: k, cert: ]"),
        (
            &["--cert-file=c", "--key-file=k", "--client-cert-auth"],
            "--client-cert-auth needs --trusted-ca-file: the system's CAs are not used",
        ),
        (&["--auto-compaction-mode=often"], "unknown auto-compaction-mode \"often\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (
            &["--discovery-fallback=proxy"],
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        (&["--compact-hash-check-time=0s"], "--compact-hash-check-time must be >0 (set to 0s)"),
        (&["--log-level=loud"], "unrecognized level: \"loud\""),
        (&["--log-format=xml"], "unknown log format: xml, supported values json, console"),
        (&["--log-outputs="], "--log-outputs names no output"),
        (
            &["--log-outputs=default,stdout"],
            "multi logoutput for \"default\" is not supported yet (given [\"default\", \"stdout\"])",
        ),
        (
            &["--enable-log-rotation"],
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (&["--logger=capnslog"], "unknown --logger \"capnslog\": it is one of zap"),
        (&["--metrics=some"], "unknown --metrics \"some\": it is one of basic, extensive"),
        (&["--ringd-placement=mars"], "unknown --ringd-placement \"mars\": it is one of auto, unpinned"),
        (&["--ringd-heap-limit=1"], "--ringd-heap-limit must be at least 8388608 (set to 1)"),
        (&["--max-request-bytes=33554433"], "--max-request-bytes must be at most 33554432 (set to 33554433)"),
        (&["--max-txn-ops=4294967296"], "--max-txn-ops must be at most 4294967295 (set to 4294967296)"),
        (&["--grpc-keepalive-timeout=-1s"], "--grpc-keepalive-timeout must not be negative (set to -1s)"),
        (&["--feature-gates=A=true"], "unrecognized feature gate: A"),
        (&["--feature-gates=CompactHashCheck"], "missing bool value for feature gate CompactHashCheck"),
        (
            &["--feature-gates=LeaseCheckpointPersist=true"],
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
    ];
    for (words, want) in cases {
        assert_eq!(refusal(words), *want, "{words:?}");
    }
}

#[test]
fn a_mistake_in_the_initial_cluster_waits_for_a_first_start() {
    let config = good(&["--initial-cluster=b=http://localhost:2380"]);
    let sentence = config.bootstrap.expect_err("another name");
    assert_eq!(sentence, "couldn't find local name \"default\" in the initial cluster configuration");
    // A name alone is enough, as in etcd.
    let bootstrap = good(&["--name=a"]).bootstrap.expect("founds");
    assert_eq!(bootstrap.peer_urls, ["http://localhost:2380"]);
    let token = good(&["--initial-cluster-token=t"]).bootstrap.expect("founds");
    assert_ne!(token.cluster_id, bootstrap.cluster_id);
    assert_eq!(token.cluster_token, "t");
}

#[test]
fn peer_certificates_fit_the_peer_urls() {
    let https = "--listen-peer-urls=https://127.0.0.1:2380";
    let cases: [(&[&str], &str); 4] = [
        (
            &[https],
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url https://127.0.0.1:2380 with HTTPS scheme",
        ),
        (&[https, "--peer-cert-file=a"], "KeyFile and CertFile must both be present[key: , cert: a]"),
        (
            &[https, "--peer-cert-file=a", "--peer-key-file=b", "--peer-client-cert-auth"],
            "--peer-client-cert-auth needs --peer-trusted-ca-file",
        ),
        (
            &[https, "--peer-cert-file=a", "--peer-key-file=b", "--peer-client-cert-file=c"],
            "--peer-client-cert-file and --peer-client-key-file must both be given, or none",
        ),
    ];
    for (flags, want) in cases {
        let got = refusal(flags);
        assert!(got.contains(want), "{flags:?}: {got}");
    }
    let all = [
        https,
        "--peer-cert-file=a",
        "--peer-key-file=b",
        "--peer-client-cert-file=c",
        "--peer-client-key-file=d",
        "--raft-read-timeout=1s",
        "--raft-write-timeout=7s",
    ];
    let config = good(&all);
    let tls = config.peer_tls.expect("certificates");
    assert_eq!((tls.listen.key_file, tls.cert_file, tls.key_file), ("b".into(), "c".into(), "d".into()));
    assert_eq!(config.raft_read_timeout, Duration::from_secs(5), "etcd's least");
    assert_eq!(config.raft_write_timeout, Duration::from_secs(7));
    assert!(
        config.warnings.iter().any(|warning| warning.about == "raft-read-timeout"),
        "{:?}",
        config.warnings
    );
    let auto = good(&[https, "--peer-auto-tls"]).peer_tls.expect("certificates");
    assert!(auto.listen.self_signed.is_some() && auto.cert_file.ends_with("fixtures/peer/cert.pem"));
    assert_eq!(good(&[]).peer_tls, None);
}

#[test]
fn what_kubeadm_passes_is_understood() {
    let config = good(&[
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--feature-gates=InitialCorruptCheck=true",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=node-1=https://10.0.0.1:2380",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--name=node-1",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--watch-progress-notify-interval=5s",
    ]);
    let tls = config.client_tls.expect("certificates");
    assert_eq!(tls.client_ca_file, Some(PathBuf::from("/etc/kubernetes/pki/etcd/ca.crt")));
    assert!(config.listen_client.iter().all(|listen| listen.tls), "{:?}", config.listen_client);
    assert_eq!(config.listen_client.len(), 2);
    assert!(!config.listen_metrics[0].tls);
    assert!(config.listen_peer[0].tls);
    let peer = config.peer_tls.expect("certificates");
    assert_eq!(peer.listen.client_ca_file, Some(PathBuf::from("/etc/kubernetes/pki/etcd/ca.crt")));
    assert_eq!(peer.cert_file, PathBuf::from("/etc/kubernetes/pki/etcd/peer.crt"));
    assert_eq!(peer.listen.cert_file, peer.cert_file);
    assert_eq!(config.bootstrap.expect("founds").peer_urls, ["https://10.0.0.1:2380"]);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    let about: Vec<&str> = config.warnings.iter().map(|warning| warning.about.as_str()).collect();
    assert_eq!(about, ["snapshot-count", "feature-gates"]);
}

#[test]
fn plain_client_ports_beside_certificates_are_warned_about() {
    let url = "http://127.0.0.1:2379";
    let listen = format!("--listen-client-urls={url},https://127.0.0.1:2378");
    let advertise = format!("--advertise-client-urls={url}");
    let tls = ["--cert-file=c", "--key-file=k", "--trusted-ca-file=a", "--client-cert-auth", "--name=a"];
    let config = good(&[&[&*listen, &*advertise][..], &tls].concat());
    let about: Vec<&str> = config.warnings.iter().map(|warning| warning.about.as_str()).collect();
    assert_eq!(about, [url, url]);
    assert_eq!(config.listen_client.iter().map(|listen| listen.tls).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn leases_are_checkpointed_where_that_is_asked_for() {
    for (gates, on) in [
        ("", false),
        ("LeaseCheckpoint=true", true),
        ("AllAlpha=true", true),
        ("AllAlpha=true,LeaseCheckpoint=false,LeaseCheckpointPersist=false", false),
        ("LeaseCheckpoint=true,LeaseCheckpointPersist=true", true),
    ] {
        assert_eq!(good(&[&format!("--feature-gates={gates}")]).lease_checkpoint, on, "{gates}");
    }
    let config = good(&["--feature-gates=LeaseCheckpoint=true", "--name=a"]);
    assert_eq!(config.warnings, []);
}

#[test]
fn pages_may_have_listeners_of_their_own() {
    let config = good(&["--listen-client-http-urls=http://127.0.0.1:2378"]);
    assert_eq!((config.listen_client.len(), config.listen_client_http[0].port), (1, 2378));
    assert!(good(&[]).listen_client_http.is_empty() && !good(&[]).memory_mlock);
    assert!(good(&["--memory-mlock"]).memory_mlock);
    let https = "--listen-client-http-urls=https://127.0.0.1:2378";
    assert!(
        refusal(&[https])
            .starts_with("TLS key/cert (--cert-file, --key-file) must be provided for client url")
    );
}

#[test]
fn values_at_their_edges() {
    assert_eq!(good(&["--quota-backend-bytes=-1"]).quota_backend_bytes, None);
    assert_eq!(good(&["--quota-backend-bytes=1"]).quota_backend_bytes, Some(1));
    assert_eq!(
        good(&["--watch-progress-notify-interval=1ms"]).watch_progress_notify_interval,
        Duration::from_millis(100)
    );
    assert_eq!(good(&["--election-timeout=50000"]).election_timeout, Duration::from_secs(50));
    assert_eq!(good(&["--heartbeat-interval=200"]).heartbeat_interval, Duration::from_millis(200));
    assert_eq!(good(&["--max-request-bytes=33554432"]).max_request_bytes, 33_554_432);
    assert_eq!(good(&["--name=x"]).data_dir, PathBuf::from("x.ringd"));
    assert_eq!(good(&["--data-dir=d", "--wal-dir=w"]).wal_dir, Some(PathBuf::from("w")));
    assert_eq!(good(&["--ringd-placement=unpinned"]).placement.pinning, Pinning::Unpinned);
    assert_eq!(good(&["--log-outputs=systemd/journal"]).log.outputs, [LogOutput::Journal]);
    let rotation = |words: &[&str]| good(words).log.rotation;
    let given = r#"--log-rotation-config-json={"maxsize": 7}"#;
    assert_eq!(rotation(&["--log-outputs=/x", given]), None);
    let rotating = rotation(&["--log-outputs=/x", "--enable-log-rotation", given]);
    assert_eq!(rotating.map(|rotation| rotation.bytes_max), Some(7 << 20));
    let outputs = good(&["--log-outputs=stderr,/x,stdout,/x"]).log.outputs;
    assert_eq!(outputs, [LogOutput::Stderr, LogOutput::File("/x".into()), LogOutput::Stdout]);
    assert!(good(&["--metrics=extensive"]).metrics_extensive);
}

#[test]
fn the_server_compacts_by_itself_as_asked() {
    use node::auto_compact::Retention::{Period, Revisions};
    let hours = |count: u64| Duration::from_secs(count * 3600);
    // mode, retention, what it asks for
    let cases = [
        ("periodic", "", None),
        ("periodic", "0", None),
        ("periodic", "0s", None),
        ("revision", "0", None),
        ("periodic", "1", Some(Period(hours(1)))),
        ("periodic", "72", Some(Period(hours(72)))),
        ("periodic", "5m", Some(Period(Duration::from_secs(300)))),
        ("periodic", "1h30m", Some(Period(Duration::from_secs(5400)))),
        ("revision", "1000", Some(Revisions(1000))),
        ("revision", "1us", Some(Revisions(1000))),
    ];
    for (mode, retention, want) in cases {
        let words =
            [format!("--auto-compaction-mode={mode}"), format!("--auto-compaction-retention={retention}")];
        let config = good(&[&words[0], &words[1]]);
        assert_eq!(config.auto_compaction, want, "{words:?}");
    }
    assert_eq!(refusal(&["--auto-compaction-retention=x"]), "error parsing CompactionRetention: parse error");
    for text in ["-1h", "2562048", "9223372036854775807"] {
        let sentence = refusal(&[&format!("--auto-compaction-retention={text}")]);
        assert_eq!(sentence, format!("--auto-compaction-retention is out of range (set to {text})"));
    }
}

fn file(text: &str) -> Result<Config, Exit> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("ringd.yaml");
    std::fs::write(&path, text).expect("writable");
    // What else is given has no effect, but must still be flags.
    run(&["--name=flag", "--heartbeat-interval=7", &format!("--config-file={}", path.display())])
}

#[test]
fn a_configuration_file_says_everything() {
    let text = r#"
        name: node-1
        data-dir: /var/lib/etcd
        listen-client-urls: https://127.0.0.1:2379,https://10.0.0.1:2379
        advertise-client-urls: https://10.0.0.1:2379
        election-timeout: 2000
        quota-backend-bytes: -1
        auto-compaction-mode: revision
        auto-compaction-retention: 1000
        watch-progress-notify-interval: 5000000000
        pre-vote: false
        feature-gates: InitialCorruptCheck=true
        log-outputs: [stderr, /x]
        initial-cluster:
        client-transport-security:
          cert-file: a.crt
          key-file: a.key
          client-cert-auth: true
          trusted-ca-file: ca.crt
        peer-transport-security:
        socket-options: { reuse-port: true }
        cert-file: not here
        no-such-key: [1, 2]
    "#;
    let config = file(text).unwrap_or_else(|exit| panic!("{}", exit.stderr));
    assert!(config.config_file.is_some());
    assert_eq!((config.name.as_str(), config.data_dir.as_path()), ("node-1", Path::new("/var/lib/etcd")));
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100), "the flag is ignored");
    assert_eq!(config.election_timeout, Duration::from_secs(2));
    assert_eq!((config.listen_client.len(), config.quota_backend_bytes), (2, None));
    assert_eq!(config.auto_compaction, Some(node::auto_compact::Retention::Revisions(1000)));
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert!(!config.pre_vote && config.socket_reuse_port);
    assert_eq!(config.log.outputs, [LogOutput::Stderr, LogOutput::File("/x".into())]);
    assert_eq!(config.client_tls.expect("certificates").client_ca_file, Some(PathBuf::from("ca.crt")));
    let about: Vec<&str> = config.warnings.iter().map(|warning| warning.about.as_str()).collect();
    assert_eq!(about, ["cert-file", "no-such-key", "feature-gates", "quota-backend-bytes"]);
    // JSON is YAML; an empty file is one with defaults.
    assert_eq!(file(r#"{"name": "a", "max-txn-ops": 7}"#).expect("JSON").max_txn_ops, 7);
    for empty in ["", "# nothing", "---", "null"] {
        assert_eq!(file(empty).expect("empty").name, "default", "{empty:?}");
    }
}

#[test]
fn a_configuration_file_may_be_wrong() {
    for (text, want) in [
        ("name: [a", "not YAML"),
        ("just words", "the file must be a map of keys to values"),
        ("client-transport-security: yes", "client-transport-security must be a map"),
        ("name: [a]", "name must be a text"),
        ("grpc-keepalive-interval: 5s", "grpc-keepalive-interval must be a number of nanoseconds"),
        ("pre-vote: 1", "pre-vote must be true or false"),
        ("max-txn-ops: -1", "max-txn-ops must be a whole number, 0 or more"),
        ("max-txn-ops: many", "max-txn-ops must be a whole number, 0 or more"),
        ("listen-client-urls: localhost", "invalid value for listen-client-urls: "),
        ("election-timeout: 1", "--election-timeout[1ms] should be at least as 5 times"),
        ("enable-pprof: true", "--enable-pprof is not there yet"),
        ("log-outputs: [[a]]", "log-outputs must be a list of texts"),
    ] {
        let exit = file(text).map(|_| ()).expect_err(text);
        assert_eq!(exit.code, 1, "{text}");
        assert!(exit.stderr.contains(want), "{text}: {}", exit.stderr);
    }
    assert!(
        refusal(&["--config-file=/nonexistent"]).contains("cannot read the configuration file /nonexistent")
    );
    let long = format!("# {}", "x".repeat(file::BYTES_MAX as usize));
    assert!(file(&long).expect_err("too long").stderr.contains("is longer than"));
    let env = [("ETCD_CONFIG_FILE".into(), "/nonexistent".into()), ("ETCD_NAME".into(), "a".into())];
    assert!(parse([], env).expect_err("no such file").stderr.contains("/nonexistent"));
}

#[test]
fn every_flag_has_one_place_in_the_file_or_none() {
    for flag in FLAGS.iter().filter(|flag| !matches!(flag.class, Class::Asks | Class::Ignored)) {
        let exit = file(&format!("{}: [[]]", flag.name));
        let in_file = exit.is_err_and(|exit| exit.stderr.contains(&format!("{} must be", flag.name)));
        let in_map = ["cert-file", "key-file", "client-cert-auth", "trusted-ca-file", "auto-tls"];
        if in_map.contains(&flag.name) || flag.name.starts_with("peer-") || flag.name == "config-file" {
            assert!(!in_file, "{}", flag.name);
        }
        if flag.name.starts_with("listen-") || flag.name.starts_with("ringd-") {
            assert!(in_file, "{}", flag.name);
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "[a-z:\\[\\]{}&*#|>, 0-9\"'\n-]{0,60}") {
        if let Err(exit) = file(&text) {
            assert_eq!(exit.code, 1);
        }
    }
}

#[test]
fn what_is_large_or_odd_only_warns() {
    for (words, about) in [
        (&["--name=a", "--quota-backend-bytes=8589934593"][..], "quota-backend-bytes"),
        (&["--name=a", "--quota-backend-bytes=-1"], "quota-backend-bytes"),
        (&["--name=a", "--max-request-bytes=10485761"], "max-request-bytes"),
        (&["--name=a", "--feature-gates=AllBeta=false,TxnModeWriteWithSharedBuffer=true"], "feature-gates"),
        (&["--name=default"], "name"),
    ] {
        let about_what: Vec<String> = good(words).warnings.into_iter().map(|warning| warning.about).collect();
        assert_eq!(about_what, [about], "{words:?}");
    }
    assert_eq!(good(&["--name=a", "--quota-backend-bytes=8589934592"]).warnings, []);
}

proptest::proptest! {
    /// Whatever is typed: an answer, never a panic; and a refusal always says something.
    #[test]
    fn no_words_and_no_variables_make_it_panic(
        words in proptest::collection::vec((0..FLAGS.len(), 0..4_usize, VALUES), 0..5),
        variables in proptest::collection::vec((0..FLAGS.len(), VALUES), 0..3),
        stray in ".{0,12}",
    ) {
        let word = |(flag, form, value): &(usize, usize, String)| {
            let name = FLAGS[*flag].name;
            match form {
                0 => vec![format!("--{name}={value}")],
                1 => vec![format!("-{name}"), value.clone()],
                2 => vec![format!("--{name}")],
                _ => vec![value.clone()],
            }
        };
        let args = words.iter().flat_map(word).chain([stray]).map(OsString::from);
        let env = variables.iter().map(|(flag, value)| (FLAGS[*flag].variable().into(), value.into()));
        match parse(args, env) {
            Ok(config) => assert!(config.election_timeout >= 5 * config.heartbeat_interval),
            Err(exit) => assert_eq!(exit.stderr.is_empty(), exit.code == 0, "{exit:?}"),
        }
    }
}

/// Values near what flags take.
const VALUES: &str = "(|-?[0-9]{1,20}|0x[0-9a-f]{1,17}|[0-9.]{1,4}(ns|us|ms|s|m|h)|true|false|(https?|unix)://[a-z0-9.:\\[\\]]{0,12}:[0-9]{1,6}(,http://[^,]{0,8})?|[a-z]=[a-z:/0-9]{0,12}|TLS1.[23]|.{0,12})";
