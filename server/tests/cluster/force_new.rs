//! `--force-new-cluster`: the way out when the quorum is lost for good.

use std::time::{Duration, Instant};

use testkit::pb::{MemberListRequest, PutRequest, RangeRequest};
use testkit::{Cluster, Server};

use crate::{options, program, three};

fn put(key: &str) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

/// Number of keys that begin with `k`, and names and peer URLs of the members.
async fn seen(server: &Server) -> (i64, Vec<(String, Vec<String>)>) {
    let mut client = server.client().await;
    let range =
        RangeRequest { key: "k".into(), range_end: "l".into(), count_only: true, ..Default::default() };
    let count = client.kv.range(range).await.expect("it serves").into_inner().count;
    let list = client.cluster.member_list(MemberListRequest { linearizable: true }).await;
    let members = list.expect("it serves").into_inner().members;
    (count, members.into_iter().map(|member| (member.name, member.peer_ur_ls)).collect())
}

/// A member that has founded a cluster with two others whom it never met.
#[tokio::test]
async fn a_member_that_never_saw_the_others_goes_on_alone() {
    let mut cluster = Cluster::spawn(options(program()), 3);
    for i in 1..3 {
        cluster.member(i).kill();
    }
    // It has its log, from which nothing comes without the others.
    let log = if cluster.members()[0].is_ringd() { "log" } else { "member/wal" };
    let path = cluster.members()[0].data_dir().join(log);
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(&path).map_or(0, Iterator::count) == 0 {
        assert!(Instant::now() < deadline, "no log in {}", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(2));
    cluster.member(0).kill();

    let alone = cluster.member(0);
    alone.add_arg("--force-new-cluster");
    alone.restart();
    let want = vec![("m0".to_owned(), vec![alone.peer_url()])];
    assert_eq!(seen(alone).await, (0, want.clone()));
    alone.client().await.kv.put(put("k1")).await.expect("it leads");

    // The flag may stay and may go. With etcd's it may not: the put is lost (3.7.1).
    if alone.is_ringd() {
        alone.restart();
        assert_eq!(seen(alone).await, (1, want.clone()));
    }
    alone.add_arg("--force-new-cluster=false");
    alone.restart();
    assert_eq!(seen(alone).await, (1, want));
}

#[tokio::test]
async fn one_of_three_goes_on_with_all_that_was_acknowledged() {
    let mut cluster = three();
    let mut client = cluster.client(1).await;
    for i in 0..20 {
        client.kv.put(put(&format!("k{i}"))).await.expect("three of three");
    }
    // The one that goes on must have applied them.
    assert_eq!(seen(&cluster.members()[0]).await.0, 20);
    for i in 0..3 {
        cluster.member(i).kill();
    }
    let alone = cluster.member(0);
    alone.add_arg("--force-new-cluster");
    alone.restart();
    assert_eq!(seen(alone).await, (20, vec![("m0".to_owned(), vec![alone.peer_url()])]));
    alone.client().await.kv.put(put("k20")).await.expect("it leads");
    assert_eq!(seen(alone).await.0, 21);
}
