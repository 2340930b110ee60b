//! The few calls that these tests make over and over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testkit::pb::{HashKvRequest, PutRequest, RangeRequest, StatusRequest};
pub use testkit::within;
use testkit::{Client, Cluster};
use tonic::Status;

/// How long members may take until they have applied the same.
const CONVERGENCE: Duration = Duration::from_secs(20);

/// Puts; the revision.
pub async fn put(client: &mut Client, key: &str, value: &str) -> Result<i64, Status> {
    let request = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    Ok(client.kv.put(request).await?.into_inner().header.expect("a header").revision)
}

/// A linearizable read of one key: its value, if it is there.
pub async fn get(client: &mut Client, key: &str) -> Result<Option<String>, Status> {
    read(client, key, false).await
}

/// A serializable read of one key.
pub async fn get_local(client: &mut Client, key: &str) -> Result<Option<String>, Status> {
    read(client, key, true).await
}

async fn read(client: &mut Client, key: &str, serializable: bool) -> Result<Option<String>, Status> {
    let request = RangeRequest { key: key.into(), serializable, ..Default::default() };
    let answer = client.kv.range(request).await?.into_inner();
    Ok(answer.kvs.into_iter().next().map(|kv| text(kv.value)))
}

/// All keys that begin with `prefix`, with their values, by a linearizable read.
pub async fn list(client: &mut Client, prefix: &str) -> BTreeMap<String, String> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    let request = RangeRequest { key: prefix.into(), range_end: end, ..Default::default() };
    let answer = client.kv.range(request).await.expect("a quorum is there").into_inner();
    answer.kvs.into_iter().map(|kv| (text(kv.key), text(kv.value))).collect()
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("only text was put")
}

/// The members apart from `one`.
pub fn others(one: usize) -> [usize; 2] {
    [(one + 1) % 3, (one + 2) % 3]
}

/// Puts through `client` until one is acknowledged; how long that took.
pub async fn until_put(client: &mut Client, key: &str, value: &str) -> Duration {
    let started = Instant::now();
    loop {
        match within(Duration::from_secs(1), put(client, key, value)).await {
            Some(Ok(_)) => return started.elapsed(),
            last => {
                assert!(started.elapsed() < Duration::from_secs(30), "no put of {key} succeeds: {last:?}")
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until all of `among` have applied the same index, then compares their stores: the revision they agree on.
pub async fn assert_same(cluster: &Cluster, among: &[usize]) -> i64 {
    let deadline = Instant::now() + CONVERGENCE;
    loop {
        let mut applied = Vec::new();
        for &i in among {
            let status = cluster.client(i).await.maintenance.status(StatusRequest {}).await;
            applied.push(status.expect("it serves").into_inner().raft_applied_index);
        }
        if applied.iter().all(|index| *index == applied[0]) {
            break;
        }
        assert!(Instant::now() < deadline, "members {among:?} have applied {applied:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut hashes = Vec::new();
    for &i in among {
        let answer = cluster.client(i).await.maintenance.hash_kv(HashKvRequest { revision: 0 }).await;
        let answer = answer.expect("it serves").into_inner();
        hashes.push((answer.header.expect("a header").revision, answer.hash, answer.compact_revision));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "members {among:?} hold {hashes:?}");
    hashes[0].0
}
