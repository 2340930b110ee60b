//! Every family of metrics counts what its name says; one that nothing counts is found here.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::Server;
use testkit::pb::*;

use crate::options;

/// What no healthy single member can be made to count from outside. `etcd_…` ones are 0 on a healthy etcd, too.
const STAY: &[(&str, &str)] = &[
    ("etcd_server_is_learner", "there are no learners"),
    ("etcd_server_proposals_failed_total", "nothing is lost without a change of leaders"),
    ("etcd_server_proposals_pending", "nothing waits when all is answered"),
    ("etcd_server_read_indexes_failed_total", "there is always a leader"),
    ("etcd_server_slow_read_indexes_total", "there is always a leader"),
    ("etcd_server_snapshot_apply_in_progress_total", "nobody sends a snapshot"),
    ("etcd_server_heartbeat_send_failures_total", "only if a tick is left out"),
    ("ringd_heartbeat_lateness_seconds", "a member alone has nobody to send one to"),
    ("ringd_ticks_skipped_total", "only if a tick is left out"),
    ("etcd_debugging_mvcc_slow_watcher_total", "watchers here keep up"),
    ("etcd_server_health_failures", "it is healthy"),
    ("etcd_disk_defrag_inflight", "it is over when its call is"),
    ("etcd_network_server_stream_failures_total", "see the test of malformed messages"),
    ("ringd_proposals_shed_total", "only under overload"),
    ("ringd_checkpoint_failures_total", "only without room"),
    ("ringd_log_lines_dropped_total", "outputs keep up"),
    ("ringd_log_lines_failed_total", "outputs keep up"),
    ("ringd_queue_length", "nothing waits when all is answered"),
    ("ringd_queue_full_total", "only under overload"),
    ("ringd_scrub_pages_total", "its first pass begins later than this test ends"),
    ("ringd_scrub_passes_total", "its first pass begins later than this test ends"),
    ("ringd_scrub_last_finished_timestamp_seconds", "its first pass begins later than this test ends"),
    ("ringd_log_bytes_since_checkpoint", "the checkpoint of a Defragment has just been made"),
];

/// Names and values as GET /metrics shows them: the sum of the samples of a family, of histograms the counts.
fn scrape(server: &Server) -> BTreeMap<String, f64> {
    let mut families = BTreeMap::new();
    let mut family = String::new();
    for line in get(server, "/metrics").lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap().to_owned();
            families.insert(family.clone(), 0.0);
        }
        let name = line.split(['{', ' ']).next().unwrap();
        if family.is_empty() || line.starts_with('#') {
            continue; // headers of HTTP, or HELP
        }
        if name == family || name == format!("{family}_count") {
            let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
            *families.get_mut(&family).unwrap() += value;
        }
    }
    families
}

fn get(server: &Server, path: &str) -> String {
    let mut socket = TcpStream::connect((server.address(), 2379)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    answer
}

/// Everything that a client can make a healthy member do.
async fn everything(server: &Server) {
    let mut client = server.client().await;
    let put = |i: i32| PutRequest { key: "k".into(), value: i.to_string().into(), ..Default::default() };
    let mut watch = client.open_watch();
    watch.send(WatchRequest {
        request_union: Some(watch_request::RequestUnion::CreateRequest(WatchCreateRequest {
            key: "k".into(),
            ..Default::default()
        })),
    });
    assert!(watch.expect().await.created);
    for i in 0..20 {
        client.kv.put(put(i)).await.unwrap();
    }
    assert_eq!(watch.expect().await.events.len(), 1);
    let op = |request| RequestOp { request: Some(request) };
    let txn =
        TxnRequest { success: vec![op(request_op::Request::RequestPut(put(20)))], ..Default::default() };
    client.kv.txn(txn).await.unwrap();
    client.kv.range(RangeRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let delete = DeleteRangeRequest { key: "k".into(), ..Default::default() };
    client.kv.delete_range(delete).await.unwrap();
    client.kv.compact(CompactionRequest { revision: 10, physical: true }).await.unwrap();
    client.kv.put(put(21)).await.unwrap();

    let grant = |id| LeaseGrantRequest { ttl: 2, id };
    for id in [1, 2] {
        client.lease.lease_grant(grant(id)).await.unwrap();
    }
    let mut alive = client.open_keep_alive();
    alive.send(LeaseKeepAliveRequest { id: 1 });
    assert_eq!(alive.expect().await.ttl, 2);
    client.lease.lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
    let started = Instant::now();
    while !client.lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20), "the lease doesn't expire");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    client.maintenance.hash(HashRequest {}).await.unwrap();
    client.maintenance.hash_kv(HashKvRequest { revision: 0 }).await.unwrap();
    client.maintenance.defragment(DefragmentRequest {}).await.unwrap();
    for path in ["/health", "/livez", "/readyz"] {
        get(server, path);
    }
    drop(TcpStream::connect((server.address(), 2379)).unwrap()); // says nothing
    // Figures are taken every half second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
}

#[tokio::test]
async fn every_family_counts() {
    let server = options().arg("--warning-apply-duration=1ns").start();
    if !server.is_ringd() {
        return;
    }
    let before = scrape(&server);
    everything(&server).await;
    let after = scrape(&server);
    let moves = |name: &str| {
        let value = after[name];
        // Facts and figures of the start count as they are.
        value != 0.0 || before.get(name).is_some_and(|before| *before != value)
    };
    let still: Vec<&String> =
        after.keys().filter(|name| !moves(name) && !STAY.iter().any(|(stays, _)| stays == name)).collect();
    assert!(still.is_empty(), "nothing counts {still:?}");
    for (name, _) in STAY {
        assert!(after.contains_key(*name), "{name} is no family any more");
    }
    let names = after.keys().filter(|name| name.starts_with("etcd_") || name.starts_with("ringd_")).count();
    assert!(names > 70, "only {names} families were looked at");
}

/// Exact where exactness can be told.
#[tokio::test]
async fn what_is_counted_is_what_happened() {
    let server = options().start();
    if !server.is_ringd() {
        return;
    }
    everything(&server).await;
    let after = scrape(&server);
    for (name, want) in [
        ("etcd_mvcc_put_total", 22.0), // one of them in a txn
        ("etcd_mvcc_delete_total", 1.0),
        ("etcd_mvcc_txn_total", 1.0),
        ("etcd_mvcc_range_total", 1.0),
        ("etcd_debugging_lease_granted_total", 2.0),
        ("etcd_debugging_lease_revoked_total", 2.0),
        ("etcd_debugging_lease_ttl_total", 2.0),
        ("etcd_debugging_server_lease_expired_total", 1.0),
        ("etcd_debugging_mvcc_db_compaction_keys_total", 8.0), // of revisions 2 to 10 the last stays
        ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", 1.0),
        ("etcd_debugging_mvcc_compact_revision", 10.0),
        ("etcd_debugging_mvcc_current_revision", 24.0),
        ("etcd_mvcc_hash_duration_seconds", 1.0),
        ("etcd_mvcc_hash_rev_duration_seconds", 1.0),
        ("etcd_disk_backend_defrag_duration_seconds", 1.0),
        ("etcd_server_health_success", 1.0),
        ("etcd_server_range_duration_seconds", 1.0),
        ("etcd_server_slow_apply_total", 0.0),
    ] {
        assert_eq!(after[name], want, "{name}");
    }
    assert!(after["etcd_debugging_lease_renewed_total"] >= 1.0);
}

#[tokio::test]
async fn malformed_messages_of_streams_are_counted() {
    let server = options().start();
    if !server.is_ringd() {
        return;
    }
    let client = server.client().await;
    // Field 1 is a message of the one and a number of the other; these bytes are neither.
    let garbage = PutRequest { key: vec![0xff, 0xff], ..Default::default() };
    for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        let mut grpc = tonic::client::Grpc::new(client.channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<PutRequest, PutResponse>::default();
        let request = tonic::Request::new(garbage.clone());
        let answer = grpc.server_streaming(request, path.parse().unwrap(), codec).await;
        let status = match answer {
            Ok(stream) => stream.into_inner().message().await.err(),
            Err(status) => Some(status),
        };
        assert_eq!(status.expect("refused").code(), tonic::Code::Internal, "{path}");
    }
    let text = get(&server, "/metrics");
    for api in ["watch", "lease-keepalive"] {
        let line = format!("etcd_network_server_stream_failures_total{{API=\"{api}\",Type=\"receive\"}} 1");
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

/// Both warnings, with etcd's words and fields; the value of a put is not among them.
#[tokio::test]
async fn slow_work_is_warned_about() {
    let server =
        options().arg("--warning-apply-duration=1ns").arg("--warning-unary-request-duration=1ns").start();
    let mut client = server.client().await;
    let put = PutRequest { key: "slow-key".into(), value: "secret".into(), ..Default::default() };
    client.kv.put(put).await.unwrap();
    client.kv.range(RangeRequest { key: "slow-key".into(), ..Default::default() }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let log = server.log();
    let find = |msg: &str, words: &str| -> serde_json::Value {
        let line = log.lines().find(|line| line.contains(msg) && line.contains(words));
        serde_json::from_str(line.unwrap_or_else(|| panic!("no {msg} with {words} in {log}"))).unwrap()
    };
    let apply = find("apply request took too long", "put:<");
    assert_eq!((&apply["level"], &apply["expected-duration"]), (&"warn".into(), &"1ns".into()), "{apply}");
    assert!(apply["request"].as_str().unwrap().contains("value_size:6"), "{apply}");
    assert!(apply["took"].is_string() && apply["prefix"] == "", "{apply}");
    let read = find("apply request took too long", "read-only range ");
    assert!(read["response"].as_str().unwrap().starts_with("range_response_count:1 size:"), "{read}");
    let stats = find("request stats", "/etcdserverpb.KV/Put");
    for field in ["start time", "time spent", "remote", "request content"] {
        assert!(stats[field].is_string(), "{field}: {stats}");
    }
    for field in ["request count", "request size", "response count", "response size"] {
        assert!(stats[field].is_i64(), "{field}: {stats}");
    }
    assert!(stats["request content"].as_str().unwrap().contains("slow-key"), "{stats}");
    assert!(stats["remote"].as_str().unwrap().starts_with("127."), "{stats}");
    assert!(!log.contains("secret"), "values are not for logs");
}

#[tokio::test]
async fn quick_work_is_not_warned_about() {
    let server =
        options().arg("--warning-apply-duration=1h").arg("--warning-unary-request-duration=1h").start();
    server.client().await.kv.put(PutRequest { key: "k".into(), ..Default::default() }).await.unwrap();
    let log = server.log();
    assert!(!log.contains("took too long") && !log.contains("request stats"), "{log}");
}
