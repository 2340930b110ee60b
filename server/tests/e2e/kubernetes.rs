//! The requests of a kube-apiserver, shape by shape, through the `etcd-client` crate.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType, GetOptions, KeyValue,
    PutOptions, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tonic::Code;

use crate::{options, start};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

fn create(key: &str, value: &str, lease: i64) -> Txn {
    Txn::new().when([Compare::mod_revision(key, CompareOp::Equal, 0)]).and_then([TxnOp::put(
        key,
        value,
        Some(PutOptions::new().with_lease(lease)),
    )])
}

fn update(key: &str, revision: i64, value: &str) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::put(key, value, None)])
        .or_else([TxnOp::get(key, None)])
}

fn delete(key: &str, revision: i64) -> Txn {
    Txn::new()
        .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
        .and_then([TxnOp::delete(key, None)])
        .or_else([TxnOp::get(key, None)])
}

/// The revision of a transaction that must succeed.
async fn succeed(client: &mut Client, txn: Txn) -> i64 {
    let answer = client.txn(txn).await.expect("the transaction is answered");
    assert!(answer.succeeded(), "the guard held, so {answer:?} should have succeeded");
    answer.header().expect("a header").revision()
}

/// The row that the failure branch of a guarded write returns.
async fn fail(client: &mut Client, txn: Txn) -> Vec<KeyValue> {
    let answer = client.txn(txn).await.expect("the transaction is answered");
    assert!(!answer.succeeded(), "the guard did not hold, so {answer:?} should not have succeeded");
    match answer.op_responses().as_slice() {
        [TxnOpResponse::Get(found)] => found.kvs().to_vec(),
        other => panic!("the failure branch is one range, got {other:?}"),
    }
}

fn status(error: Error) -> (Code, String) {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("expected a gRPC status, got {other:?}"),
    }
}

#[tokio::test]
async fn create_happens_once() {
    let server = start();
    let mut client = server.etcd_client().await;
    let before = client.get("/registry/pods/a/x", None).await.unwrap().header().unwrap().revision();
    let revision = succeed(&mut client, create("/registry/pods/a/x", "v1", 0)).await;
    assert_eq!(revision, before + 1);

    let again = client.txn(create("/registry/pods/a/x", "v2", 0)).await.unwrap();
    assert!(!again.succeeded());
    assert_eq!(again.op_responses().len(), 0, "the failure branch of a create is empty");
    assert_eq!(again.header().unwrap().revision(), revision, "a failed transaction makes no revision");

    let answer = client.get("/registry/pods/a/x", Some(GetOptions::new().with_limit(1))).await.unwrap();
    let kv = &answer.kvs()[0];
    assert_eq!(
        (kv.value(), kv.create_revision(), kv.mod_revision(), kv.version()),
        (&b"v1"[..], revision, revision, 1)
    );
    assert!(answer.header().unwrap().revision() >= revision);
}

#[tokio::test]
async fn guarded_update_succeeds_or_returns_the_row_in_its_way() {
    let server = start();
    let mut client = server.etcd_client().await;
    let key = "/registry/leases/kube-node-lease/ip-10-0-0-1";
    let first = succeed(&mut client, create(key, "one", 0)).await;
    let second = succeed(&mut client, update(key, first, "two")).await;
    assert_eq!(second, first + 1);

    let stale = fail(&mut client, update(key, first, "three")).await;
    assert_eq!(stale.len(), 1);
    assert_eq!((stale[0].value(), stale[0].mod_revision(), stale[0].version()), (&b"two"[..], second, 2));

    let third = succeed(&mut client, update(key, stale[0].mod_revision(), "three")).await;
    assert_eq!(third, second + 1, "the failed attempt made no revision");

    let absent = fail(&mut client, update("/registry/leases/absent", 7, "x")).await;
    assert!(absent.is_empty());
}

#[tokio::test]
async fn guarded_delete_succeeds_or_returns_the_row_in_its_way() {
    let server = start();
    let mut client = server.etcd_client().await;
    let first = succeed(&mut client, create("/registry/pods/a/x", "one", 0)).await;
    let second = succeed(&mut client, update("/registry/pods/a/x", first, "two")).await;

    let stale = fail(&mut client, delete("/registry/pods/a/x", first)).await;
    assert_eq!((stale[0].value(), stale[0].mod_revision()), (&b"two"[..], second));

    let gone = succeed(&mut client, delete("/registry/pods/a/x", second)).await;
    assert_eq!(gone, second + 1, "the answer's revision is the deletion's resource version");
    assert!(client.get("/registry/pods/a/x", None).await.unwrap().kvs().is_empty());
    assert!(fail(&mut client, delete("/registry/pods/a/x", second)).await.is_empty());

    let born_again = succeed(&mut client, create("/registry/pods/a/x", "three", 0)).await;
    let kv = client.get("/registry/pods/a/x", None).await.unwrap().kvs()[0].clone();
    assert_eq!((kv.create_revision(), kv.version()), (born_again, 1), "a new life of the key");
}

#[tokio::test]
async fn get_at_an_older_revision() {
    let server = start();
    let mut client = server.etcd_client().await;
    let mut revision = succeed(&mut client, create("k", "v0", 0)).await;
    let first = revision;
    for i in 1..5 {
        revision = succeed(&mut client, update("k", revision, &format!("v{i}"))).await;
    }
    for i in 0..5 {
        let at = GetOptions::new().with_limit(1).with_revision(first + i);
        let answer = client.get("k", Some(at)).await.unwrap();
        assert_eq!(answer.kvs()[0].value_str().unwrap(), format!("v{i}"));
        assert_eq!(answer.header().unwrap().revision(), revision, "the header has the store's revision");
    }
    client.compact(first + 3, None).await.unwrap();
    let at = |revision| Some(GetOptions::new().with_limit(1).with_revision(revision));
    assert_eq!(client.get("k", at(first + 3)).await.unwrap().kvs()[0].value(), b"v3");
    let error = status(client.get("k", at(first + 2)).await.unwrap_err());
    assert_eq!(error, (Code::OutOfRange, COMPACTED.to_owned()));
    let error = status(client.get("k", at(revision + 1)).await.unwrap_err());
    assert_eq!(
        error,
        (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision".to_owned())
    );
}

#[tokio::test]
async fn paged_list_at_a_pinned_revision() {
    let server = start();
    let mut client = server.etcd_client().await;
    for i in 0..1203 {
        client.put(format!("/registry/pods/ns/p{i:05}"), format!("value {i}"), None).await.unwrap();
    }
    client.put("/registry/pods0", "beyond the prefix", None).await.unwrap();
    let end = "/registry/pods0";
    let mut start_key = b"/registry/pods/".to_vec();
    let mut pinned = 0;
    let mut seen = Vec::new();
    loop {
        let page = GetOptions::new().with_range(end).with_limit(500).with_revision(pinned);
        let answer = client.get(start_key.clone(), Some(page)).await.unwrap();
        assert_eq!(
            answer.count() as usize,
            1203 - seen.len(),
            "the count is of the whole rest, whatever the limit"
        );
        if pinned == 0 {
            pinned = answer.header().unwrap().revision();
            // What happens between the pages must not be seen by the later ones.
            client.put("/registry/pods/ns/p00900", "changed", None).await.unwrap();
            client.delete("/registry/pods/ns/p01000", None).await.unwrap();
            client.put("/registry/pods/ns/p00700a", "new", None).await.unwrap();
        }
        seen.extend(answer.kvs().iter().map(|kv| (kv.key().to_vec(), kv.value().to_vec())));
        if !answer.more() {
            break;
        }
        assert_eq!(answer.kvs().len(), 500);
        start_key = seen.last().unwrap().0.clone();
        start_key.push(0);
    }
    let want: Vec<_> = (0..1203)
        .map(|i| (format!("/registry/pods/ns/p{i:05}").into_bytes(), format!("value {i}").into_bytes()))
        .collect();
    assert!(seen == want, "all pages together are the list at the revision of the first");
}

#[tokio::test]
async fn count_and_keys_only() {
    let server = start();
    let mut client = server.etcd_client().await;
    for i in 0..300 {
        client.put(format!("/registry/events/a/{i:04}"), "x".repeat(100), None).await.unwrap();
    }
    for i in 0..50 {
        client.delete(format!("/registry/events/a/{:04}", i * 3), None).await.unwrap();
    }
    let count = GetOptions::new().with_prefix().with_count_only();
    let answer = client.get("/registry/events/", Some(count)).await.unwrap();
    assert_eq!((answer.count(), answer.kvs().len(), answer.more()), (250, 0, false));

    let keys = GetOptions::new().with_prefix().with_keys_only();
    let answer = client.get("/registry/events/", Some(keys)).await.unwrap();
    assert_eq!((answer.count(), answer.kvs().len()), (250, 250));
    assert!(
        answer.kvs().iter().all(|kv| kv.value().is_empty() && kv.mod_revision() > 0 && kv.version() == 1)
    );
    assert!(answer.kvs().windows(2).all(|pair| pair[0].key() < pair[1].key()));

    // The current revision of a resource: a prefix that matches nothing, limit 1.
    let none = client.get("/registry/nothing/", Some(GetOptions::new().with_limit(1))).await.unwrap();
    assert_eq!((none.count(), none.header().unwrap().revision()), (0, 351));
}

#[tokio::test]
async fn watch_goes_on_where_the_list_ended() {
    let server = start();
    let require_leader = ConnectOptions::new().with_require_leader(true);
    let mut client = Client::connect([server.url()], Some(require_leader)).await.unwrap();
    for i in 0..10 {
        client.put(format!("/registry/pods/ns/p{i}"), "old", None).await.unwrap();
    }
    let list = client.get("/registry/pods/", Some(GetOptions::new().with_prefix())).await.unwrap();
    let listed = list.header().unwrap().revision();
    client.put("/registry/pods/ns/p3", "new", None).await.unwrap();
    client.put("/registry/other/x", "not watched", None).await.unwrap();

    let from = WatchOptions::new().with_prefix().with_start_revision(listed + 1).with_prev_key();
    let mut watch = client.watch("/registry/pods/", Some(from.with_progress_notify())).await.unwrap();
    // etcd-client hands over the answer to the create request first.
    client.delete("/registry/pods/ns/p4", None).await.unwrap();
    succeed(&mut client, create("/registry/pods/ns/p99", "born", 0)).await;

    let mut events = Vec::new();
    while events.len() < 3 {
        let answer = tokio::time::timeout(Duration::from_secs(10), watch.message()).await;
        let answer = answer.expect("events come").unwrap().expect("the stream goes on");
        assert!(!answer.canceled(), "{answer:?}");
        events.extend(answer.events().iter().map(|event| {
            let kv = event.kv().unwrap();
            let previous = event.prev_kv().map(|kv| kv.value().to_vec());
            (event.event_type(), kv.key_str().unwrap().to_owned(), kv.mod_revision() - listed, previous)
        }));
    }
    let old = Some(b"old".to_vec());
    assert_eq!(
        events,
        [
            (EventType::Put, "/registry/pods/ns/p3".to_owned(), 1, old.clone()),
            (EventType::Delete, "/registry/pods/ns/p4".to_owned(), 3, old),
            (EventType::Put, "/registry/pods/ns/p99".to_owned(), 4, None),
        ]
    );
}

#[tokio::test]
async fn progress_on_request_is_never_ahead_of_events() {
    let server = start();
    let mut client = server.etcd_client().await;
    let mut watch = client.watch("/registry/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let mut writer = client.clone();
    let writing = tokio::spawn(async move {
        let mut last = 0;
        for i in 0..400 {
            let answer = writer.put(format!("/registry/x/{}", i % 7), format!("{i}"), None).await.unwrap();
            last = answer.header().unwrap().revision();
        }
        last
    });
    let (mut delivered, mut progressed, mut progress_answers) = (0, 0, 0);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    let mut asking = tokio::time::interval(Duration::from_millis(5));
    let mut last = None;
    let writing = &mut { writing };
    loop {
        tokio::select! {
            answer = watch.message() => {
                let answer = answer.unwrap().unwrap();
                let revision = answer.header().unwrap().revision();
                if answer.watch_id() == -1 {
                    assert!(answer.events().is_empty());
                    assert!(revision >= progressed);
                    progressed = revision;
                    progress_answers += 1;
                }
                for event in answer.events() {
                    let at = event.kv().unwrap().mod_revision();
                    assert!(at > progressed, "event {at} came after a progress notice of {progressed}");
                    assert!(delivered == 0 || at == delivered + 1, "no gap: {delivered} then {at}");
                    delivered = at;
                }
            }
            _ = asking.tick() => watch.request_progress().await.unwrap(),
            revision = &mut *writing, if last.is_none() => last = Some(revision.unwrap()),
            () = tokio::time::sleep_until(deadline) => panic!("progress at {progressed}, events at {delivered}, of {last:?}"),
        }
        if last.is_some_and(|last| delivered == last && progressed >= last) {
            break;
        }
    }
    assert!(progress_answers > 0);
}

#[tokio::test]
async fn progress_by_interval_reaches_a_quiet_watch() {
    let interval = "--watch-progress-notify-interval=1s";
    let server = options().arg(interval).start();
    let mut client = server.etcd_client().await;
    let from = WatchOptions::new().with_prefix().with_progress_notify();
    let mut watch = client.watch("/registry/pods/", Some(from)).await.unwrap();
    let written = client.put("/registry/nodes/x", "y", None).await.unwrap().header().unwrap().revision();
    let progress = async {
        loop {
            let answer = watch.message().await.unwrap().unwrap();
            assert!(answer.events().is_empty() && !answer.canceled(), "{answer:?}");
            if !answer.created() && answer.header().unwrap().revision() >= written {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), progress).await.expect("a notice every second");
}

#[tokio::test]
async fn watch_from_a_compacted_revision_is_told_so() {
    let server = start();
    let mut client = server.etcd_client().await;
    for i in 0..10 {
        client.put("k", format!("{i}"), None).await.unwrap();
    }
    client.compact(8, None).await.unwrap();
    let mut watch = client.watch("k", Some(WatchOptions::new().with_start_revision(3))).await.unwrap();
    let canceled = loop {
        let answer = watch.message().await.unwrap().unwrap();
        if !answer.created() || answer.canceled() {
            break answer;
        }
    };
    assert!(canceled.canceled(), "{canceled:?}");
    assert_eq!(canceled.compact_revision(), 8);
    assert!(canceled.events().is_empty());
}

#[tokio::test]
async fn events_share_a_lease_and_vanish_with_it() {
    let server = start();
    let mut client = server.etcd_client().await;
    let granted = client.lease_grant(2, None).await.unwrap();
    assert_eq!(granted.ttl(), 2);
    let lease = granted.id();
    for i in 0..20 {
        succeed(&mut client, create(&format!("/registry/events/ns/e{i:02}"), "event", lease)).await;
    }
    let kept = client.lease_grant(3660, None).await.unwrap().id();
    succeed(&mut client, create("/registry/events/ns/kept", "event", kept)).await;
    let prefix = WatchOptions::new().with_prefix().with_prev_key();
    let mut watch = client.watch("/registry/events/", Some(prefix)).await.unwrap();
    let before = client.get("x", None).await.unwrap().header().unwrap().revision();

    let mut gone = Vec::new();
    let collect = async {
        while gone.len() < 20 {
            for event in watch.message().await.unwrap().unwrap().events() {
                let kv = event.kv().unwrap();
                assert_eq!(event.event_type(), EventType::Delete);
                assert_eq!(event.prev_kv().map(|kv| (kv.value(), kv.lease())), Some((&b"event"[..], lease)));
                assert_eq!(kv.mod_revision(), before + 1, "one revision takes all keys of a lease");
                gone.push(kv.key_str().unwrap().to_owned());
            }
        }
    };
    let started = std::time::Instant::now();
    tokio::time::timeout(Duration::from_secs(8), collect).await.expect("the lease runs out");
    assert!(started.elapsed() > Duration::from_millis(1000), "not before its time: {:?}", started.elapsed());
    assert!(gone.windows(2).all(|pair| pair[0] < pair[1]), "in the order of keys: {gone:?}");
    let left = client.get("/registry/events/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(left.count(), 1);
    assert_eq!(left.kvs()[0].lease(), kept);
}

#[tokio::test]
async fn master_lease_lives_as_long_as_it_is_kept_alive() {
    let server = start();
    let mut client = server.etcd_client().await;
    let lease = client.lease_grant(2, None).await.unwrap().id();
    succeed(&mut client, create("/registry/masterleases/10.0.0.1", "m", lease)).await;
    let (mut keeper, mut answers) = client.lease_keep_alive(lease).await.unwrap();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        keeper.keep_alive().await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.id(), answer.ttl()), (lease, 2));
    }
    assert_eq!(client.get("/registry/masterleases/10.0.0.1", None).await.unwrap().count(), 1);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(client.get("/registry/masterleases/10.0.0.1", None).await.unwrap().count(), 0);
    keeper.keep_alive().await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().ttl(), 0, "a revoked lease is answered with TTL 0");
}

/// Every five minutes each apiserver tries to become the one that compacts; here three do so at the same moment.
#[tokio::test]
async fn one_apiserver_wins_the_compaction_race() {
    let server = start();
    let mut client = server.etcd_client().await;
    for i in 0..20 {
        client.put("k", format!("{i}"), None).await.unwrap();
    }
    let mut compacted = 0;
    for round in 0..3 {
        let at = client.put("k", "again", None).await.unwrap().header().unwrap().revision();
        let mut racers = Vec::new();
        for _ in 0..3 {
            let mut client = server.etcd_client().await;
            racers.push(tokio::spawn(async move {
                let marker = "compact_rev_key";
                let race = Txn::new()
                    .when([Compare::version(marker, CompareOp::Equal, round)])
                    .and_then([TxnOp::put(marker, at.to_string(), None)])
                    .or_else([TxnOp::get(marker, None)]);
                let answer = client.txn(race).await.unwrap();
                if !answer.succeeded() {
                    let TxnOpResponse::Get(found) = &answer.op_responses()[0] else { panic!("{answer:?}") };
                    assert_eq!(found.kvs()[0].version(), round + 1);
                    assert_eq!(found.kvs()[0].value_str().unwrap(), at.to_string());
                }
                answer.succeeded()
            }));
        }
        let mut winners = 0;
        for racer in racers {
            winners += i32::from(racer.await.unwrap());
        }
        assert_eq!(winners, 1, "round {round}");
        let header = client.compact(at, None).await.unwrap();
        assert!(header.header().unwrap().revision() > at);
        compacted = at;
    }
    let again = status(client.compact(compacted, None).await.unwrap_err());
    assert_eq!(again, (Code::OutOfRange, COMPACTED.to_owned()));
}

#[tokio::test]
async fn status_and_health_as_an_apiserver_asks() {
    let server = start();
    let mut client = server.etcd_client().await;
    let status = client.status().await.unwrap();
    assert_eq!(
        status.version(),
        if server.is_ringd() || testkit::oracle().is_current { "3.7.1" } else { status.version() }
    );
    assert!(status.db_size() > 0);
    assert!(status.leader() > 0 && status.leader() == status.header().unwrap().member_id());
    assert!(status.raft_index() > 0 && status.raft_term() > 0 && !status.is_learner());
    let health = client.get("/registry/health", None).await.unwrap();
    assert_eq!(health.kvs().len(), 0);
}

#[tokio::test]
async fn fan_out_does_not_stall_on_watches_that_nobody_reads() {
    let server = start();
    let mut client = server.etcd_client().await;
    let mut idle = Vec::new();
    for _ in 0..50 {
        let mut one = server.etcd_client().await;
        idle.push(one.watch("/registry/", Some(WatchOptions::new().with_prefix())).await.unwrap());
    }
    let mut watch = client.watch("/registry/", Some(WatchOptions::new().with_prefix())).await.unwrap();
    let mut writer = server.etcd_client().await;
    let writing = tokio::spawn(async move {
        for i in 0..200 {
            writer.put(format!("/registry/x{i}"), "y".repeat(10_000), None).await.unwrap();
        }
    });
    let mut events = 0;
    let reading = async {
        while events < 200 {
            events += watch.message().await.unwrap().unwrap().events().len();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("the reader gets its events");
    writing.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn unguarded_deletes_of_a_whole_kind() {
    let server = start();
    let mut client = server.etcd_client().await;
    for i in 0..30 {
        client.put(format!("/registry/jobs/ns/{i:02}"), "j", None).await.unwrap();
    }
    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let answer = client.delete("/registry/jobs/", Some(options)).await.unwrap();
    assert_eq!((answer.deleted(), answer.prev_kvs().len()), (30, 30));
    assert_eq!(answer.header().unwrap().revision(), 32, "one revision for all");
}
