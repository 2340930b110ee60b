//! Leases, whichever member is asked and whoever leads.

use std::time::{Duration, Instant};

use testkit::Client;
use testkit::pb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest,
};

use crate::ask::{assert_same, get, others, within};
use crate::three;

async fn grant(client: &mut Client, id: i64, ttl: i64) {
    let answer = client
        .lease
        .lease_grant(LeaseGrantRequest { id, ttl })
        .await
        .expect("a quorum is there")
        .into_inner();
    assert_eq!((answer.id, answer.ttl), (id, ttl));
}

async fn attach(client: &mut Client, key: &str, lease: i64) {
    let put = PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
    client.kv.put(put).await.expect("a quorum is there");
}

/// One keep-alive on a stream of its own; the TTL it answers.
async fn keep_alive(client: &Client, id: i64) -> i64 {
    let mut stream = client.open_keep_alive();
    stream.send(LeaseKeepAliveRequest { id });
    stream.expect().await.ttl
}

/// TTL left and granted, and the number of keys.
async fn time_to_live(client: &mut Client, id: i64) -> (i64, i64, usize) {
    let answer = client.lease.lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }).await;
    let answer = answer.expect("a quorum is there").into_inner();
    (answer.ttl, answer.granted_ttl, answer.keys.len())
}

/// Waits until the key is gone; when that was.
async fn gone(client: &mut Client, key: &str, within: Duration) -> Instant {
    let started = Instant::now();
    while get(client, key).await.expect("a quorum is there").is_some() {
        assert!(started.elapsed() < within, "{key} is still there after {within:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Instant::now()
}

#[tokio::test]
async fn any_member_grants_keeps_shows_and_revokes() {
    let cluster = three();
    let mut clients = [cluster.client(0).await, cluster.client(1).await, cluster.client(2).await];
    for at in 0..3 {
        let id = 100 + at as i64;
        grant(&mut clients[at], id, 60).await;
        attach(&mut clients[(at + 1) % 3], &format!("l{at}"), id).await;
        for client in &mut clients {
            assert_eq!(keep_alive(client, id).await, 60, "asked of any member");
            let (ttl, granted, keys) = time_to_live(client, id).await;
            assert!(
                (58..=60).contains(&ttl) && granted == 60 && keys == 1,
                "{ttl} of {granted}, {keys} keys"
            );
        }
        let by = &mut clients[(at + 2) % 3];
        by.lease.lease_revoke(LeaseRevokeRequest { id }).await.expect("a quorum is there");
        for client in &mut clients {
            assert_eq!(get(client, &format!("l{at}")).await.expect("a quorum is there"), None);
            assert_eq!(time_to_live(client, id).await, (-1, 0, 0));
            assert_eq!(keep_alive(client, id).await, 0, "it is gone");
        }
    }
    assert_same(&cluster, &[0, 1, 2]).await;
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_ends_everywhere_and_not_before_its_time() {
    let cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [one, two] = others(leader);
    let (mut one, mut two) = (cluster.client(one).await, cluster.client(two).await);
    grant(&mut one, 7, 3).await;
    attach(&mut two, "l", 7).await;
    // Kept alive through a follower for longer than its TTL.
    let mut kept = Instant::now();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        kept = Instant::now();
        assert_eq!(keep_alive(&one, 7).await, 3);
    }
    assert!(get(&mut two, "l").await.expect("three of three").is_some());
    let ended = gone(&mut two, "l", Duration::from_secs(10)).await;
    assert!(ended - kept >= Duration::from_secs(3), "gone {:?} after it was kept alive", ended - kept);
    for at in 0..3 {
        assert_eq!(time_to_live(&mut cluster.client(at).await, 7).await, (-1, 0, 0), "at m{at}");
    }
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// A new leader does not know when a lease was last kept alive, so it begins with the full TTL.
#[tokio::test]
async fn leases_outlive_their_leader_and_then_end() {
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [one, two] = others(leader);
    grant(&mut cluster.client(leader).await, 7, 5).await;
    grant(&mut cluster.client(leader).await, 8, 600).await;
    attach(&mut cluster.client(one).await, "short", 7).await;
    attach(&mut cluster.client(one).await, "long", 8).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let killed = Instant::now();
    cluster.member(leader).kill();
    cluster.leader(&[one, two]).await;
    let led = Instant::now();
    let mut client = cluster.client(two).await;
    let (ttl, granted, keys) = time_to_live(&mut client, 8).await;
    assert!((590..=600).contains(&ttl) && granted == 600 && keys == 1, "{ttl} of {granted}, {keys} keys");
    let kept = within(Duration::from_secs(10), keep_alive(&client, 8)).await;
    assert_eq!(kept, Some(600), "the new leader keeps it alive");
    let ended = gone(&mut client, "short", Duration::from_secs(15)).await;
    assert!(
        ended - killed >= Duration::from_secs(5),
        "gone {:?} after the leader was killed",
        ended - killed
    );
    assert!(ended - led <= Duration::from_secs(9), "gone only {:?} after the next one led", ended - led);
    assert!(get(&mut client, "long").await.expect("two of three").is_some());

    cluster.member(leader).restart();
    let mut back = cluster.client(leader).await;
    assert_eq!(get(&mut back, "short").await.expect("three of three"), None);
    assert_eq!(keep_alive(&back, 8).await, 600);
    assert_same(&cluster, &[0, 1, 2]).await;
}
