//! Leases: what the five calls answer, and what happens when time runs out.

use std::time::{Duration, Instant};

use testkit::Client;
use testkit::pb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, RangeRequest,
};

use crate::start;

async fn grant(client: &mut Client, id: i64, ttl: i64) -> i64 {
    client.lease.lease_grant(LeaseGrantRequest { id, ttl }).await.unwrap().into_inner().id
}

async fn put(client: &mut Client, key: &str, lease: i64) -> i64 {
    let request = PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
    client.kv.put(request).await.unwrap().into_inner().header.unwrap().revision
}

async fn time_to_live(client: &mut Client, id: i64) -> LeaseTimeToLiveResponse {
    client.lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await.unwrap().into_inner()
}

async fn keys_of(client: &mut Client, id: i64) -> Vec<String> {
    let keys = time_to_live(client, id).await.keys;
    let mut keys: Vec<String> = keys.into_iter().map(|key| String::from_utf8(key).unwrap()).collect();
    keys.sort();
    keys
}

async fn leases(client: &mut Client) -> Vec<i64> {
    let answer = client.lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    answer.leases.iter().map(|lease| lease.id).collect()
}

async fn count(client: &mut Client) -> i64 {
    let all = RangeRequest { key: vec![0], range_end: vec![0], count_only: true, ..Default::default() };
    client.kv.range(all).await.unwrap().into_inner().count
}

#[tokio::test]
async fn keys_move_between_leases() {
    let server = start();
    let mut client = server.client().await;
    grant(&mut client, 1, 600).await;
    grant(&mut client, 2, 300).await;
    put(&mut client, "a", 1).await;
    put(&mut client, "b", 1).await;
    assert_eq!(keys_of(&mut client, 1).await, ["a", "b"]);
    put(&mut client, "a", 2).await;
    assert_eq!(
        (keys_of(&mut client, 1).await, keys_of(&mut client, 2).await),
        (vec!["b".into()], vec!["a".into()])
    );
    put(&mut client, "a", 0).await;
    assert_eq!(keys_of(&mut client, 2).await, [""; 0], "a put without a lease detaches");
    let keep = PutRequest { key: "b".into(), value: "w".into(), ignore_lease: true, ..Default::default() };
    client.kv.put(keep).await.unwrap();
    assert_eq!(keys_of(&mut client, 1).await, ["b"]);
    let kv =
        client.kv.range(RangeRequest { key: "b".into(), ..Default::default() }).await.unwrap().into_inner();
    assert_eq!((kv.kvs[0].lease, kv.kvs[0].value.as_slice()), (1, &b"w"[..]));

    let answer = time_to_live(&mut client, 1).await;
    assert_eq!((answer.id, answer.granted_ttl), (1, 600));
    assert!((598..=600).contains(&answer.ttl), "{answer:?}");
    let without = LeaseTimeToLiveRequest { id: 1, keys: false };
    assert!(client.lease.lease_time_to_live(without).await.unwrap().into_inner().keys.is_empty());
    let unknown = time_to_live(&mut client, 99).await;
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl, unknown.keys.len()), (99, -1, 0, 0));
    assert_eq!(leases(&mut client).await, [2, 1], "in the order of the time they have left");
}

#[tokio::test]
async fn revoking_deletes_the_keys_in_one_revision() {
    let server = start();
    let mut client = server.client().await;
    grant(&mut client, 1, 600).await;
    let empty = grant(&mut client, 0, 600).await;
    for key in ["c", "a", "b"] {
        put(&mut client, key, 1).await;
    }
    let last = put(&mut client, "z", 0).await;
    let revoke = |id| LeaseRevokeRequest { id };
    let answer = client.lease.lease_revoke(revoke(1)).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, last + 1);
    assert_eq!(count(&mut client).await, 1);
    let answer = client.lease.lease_revoke(revoke(empty)).await.unwrap().into_inner();
    assert_eq!(answer.header.unwrap().revision, last + 1, "nothing deleted, no revision");
    assert_eq!(leases(&mut client).await, [0; 0]);
}

#[tokio::test]
async fn keep_alive_answers_each_request_in_order() {
    let server = start();
    let mut client = server.client().await;
    grant(&mut client, 1, 5).await;
    grant(&mut client, 2, 50).await;
    let mut stream = client.open_keep_alive();
    let asked = Instant::now();
    for id in [1, 99, 2, 1] {
        stream.send(LeaseKeepAliveRequest { id });
    }
    for want in [(1, 5), (99, 0), (2, 50), (1, 5)] {
        let answer = stream.expect().await;
        assert_eq!((answer.id, answer.ttl), want);
        assert!(answer.header.unwrap().revision == 1);
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let left = time_to_live(&mut client, 1).await.ttl;
    // On a busy machine more time has gone by than was slept.
    let least = (Duration::from_secs(5).saturating_sub(asked.elapsed())).as_secs() as i64;
    assert!((least..=3).contains(&left), "{left} s left after 2.1 to {:?} of 5", asked.elapsed());
    stream.send(LeaseKeepAliveRequest { id: 1 });
    assert_eq!(stream.expect().await.ttl, 5);
    let left = time_to_live(&mut client, 1).await.ttl;
    assert!((4..=5).contains(&left), "{left} s left after a renewal");
    stream.half_close();
    assert_eq!(stream.next().await.expect("a half-closed stream ends with OK"), None);
}

#[tokio::test]
async fn a_lease_runs_out_neither_early_nor_much_too_late() {
    let server = start();
    let mut client = server.client().await;
    let granted = Instant::now();
    grant(&mut client, 1, 2).await;
    grant(&mut client, 2, 600).await;
    put(&mut client, "short", 1).await;
    put(&mut client, "long", 2).await;
    while count(&mut client).await == 2 {
        assert!(granted.elapsed() < Duration::from_secs(6), "2 s have become {:?}", granted.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(granted.elapsed() >= Duration::from_secs(2), "gone after {:?}", granted.elapsed());
    assert_eq!(leases(&mut client).await, [2]);
    assert_eq!(time_to_live(&mut client, 1).await.ttl, -1);
    let mut stream = client.open_keep_alive();
    stream.send(LeaseKeepAliveRequest { id: 1 });
    assert_eq!(stream.expect().await.ttl, 0, "what has run out can't be kept alive");
}

/// After a restart a lease has at least the time it had.
#[tokio::test]
async fn leases_and_what_hangs_on_them_survive_a_restart() {
    let mut server = start();
    let mut client = server.client().await;
    grant(&mut client, 1, 4).await;
    grant(&mut client, 2, 600).await;
    grant(&mut client, 3, 600).await;
    put(&mut client, "a", 1).await;
    put(&mut client, "b", 2).await;
    put(&mut client, "moved", 2).await;
    put(&mut client, "moved", 3).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.restart();
    let restarted = Instant::now();
    let mut client = server.client().await;
    assert_eq!(count(&mut client).await, 3);
    assert_eq!(keys_of(&mut client, 1).await, ["a"]);
    assert_eq!(keys_of(&mut client, 2).await, ["b"]);
    assert_eq!(keys_of(&mut client, 3).await, ["moved"]);
    assert_eq!(time_to_live(&mut client, 1).await.granted_ttl, 4);
    while count(&mut client).await == 3 {
        assert!(restarted.elapsed() < Duration::from_secs(10), "still there after {:?}", restarted.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(restarted.elapsed() >= Duration::from_secs(3), "gone after {:?}", restarted.elapsed());
    let mut left = leases(&mut client).await;
    left.sort_unstable();
    assert_eq!(left, [2, 3]);
}

#[tokio::test]
async fn thousands_of_leases_run_out_together() {
    let server = start();
    let mut client = server.client().await;
    for id in 1..=2000 {
        grant(&mut client, id, 2).await;
        if id % 4 == 0 {
            put(&mut client, &format!("k{id}"), id).await;
        }
    }
    let started = Instant::now();
    while !leases(&mut client).await.is_empty() {
        assert!(started.elapsed() < Duration::from_secs(15), "{} are left", leases(&mut client).await.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(&mut client).await, 0);
}
