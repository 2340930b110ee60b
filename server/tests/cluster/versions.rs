//! The version of the cluster: what all members say they are, decided by the leader.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::pb::StatusRequest;
use testkit::{Cluster, Server};

use crate::ask::put;
#[cfg(feature = "failpoints")]
use crate::options;
use crate::{program, three};

/// The leader looks every 4 s.
const PATIENCE: Duration = Duration::from_secs(20);

fn page(server: &Server, port: u16, path: &str) -> String {
    let mut socket = TcpStream::connect((server.address(), port)).expect("it serves");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes it");
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    answer
}

/// Everywhere that shows the version at this member: `/version` of both ports, Status, and the metric.
async fn shows(cluster: &Cluster, at: usize, version: &str) -> Result<(), String> {
    let server = &cluster.members()[at];
    let said = |what: &str, answer: &str| Err(format!("m{at} should be at {version}; {what}: {answer}"));
    let json = format!(r#""etcdcluster":"{version}","storage":"{version}"}}"#);
    for port in [2379, 2380] {
        let answer = page(server, port, "/version");
        if !answer.contains(&json) {
            return said("/version", &answer);
        }
    }
    let status = cluster.client(at).await.maintenance.status(StatusRequest {}).await;
    let storage = status.expect("it serves").into_inner().storage_version;
    if storage != version {
        return said("status", &storage);
    }
    let (minor, _) = version.rsplit_once('.').expect("X.Y.0");
    let metrics = page(server, 2379, "/metrics");
    let lines: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("etcd_cluster_version{") && line.ends_with(" 1"))
        .collect();
    match lines == [format!(r#"etcd_cluster_version{{cluster_version="{minor}"}} 1"#)] {
        true => Ok(()),
        false => said("metrics", &lines.join(" ")),
    }
}

async fn until_all_show(cluster: &Cluster, among: &[usize], version: &str) -> Duration {
    let started = Instant::now();
    for &at in among {
        while let Err(why) = shows(cluster, at, version).await {
            assert!(started.elapsed() < PATIENCE, "{why}\n{}", cluster.members()[at].log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    started.elapsed()
}

#[tokio::test]
async fn all_members_show_the_version_that_was_decided_also_after_a_start() {
    let mut cluster = three();
    until_all_show(&cluster, &[0, 1, 2], "3.7.0").await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let follower = (leader + 1) % 3;
    cluster.member(follower).restart();
    until_all_show(&cluster, &[follower], "3.7.0").await;
}

/// Two of three elect a leader; the third has never been heard. etcd decides on the oldest version at once, we when there
/// was time to hear it.
#[tokio::test]
async fn nothing_is_decided_over_the_head_of_a_member_that_was_never_heard() {
    if !program().is_ringd() {
        return;
    }
    let mut cluster = Cluster::spawn(crate::options(program()), 3);
    cluster.member(2).kill();
    cluster.member(0).wait_ready();
    cluster.member(1).wait_ready();
    let version = |cluster: &Cluster| page(&cluster.members()[0], 2379, "/version");
    let started = Instant::now();
    let oldest = r#""etcdcluster":"3.0.0","storage":"unknown"}"#;
    loop {
        let said = version(&cluster);
        assert!(!said.contains(r#""etcdcluster":"3.7.0""#), "m2 may be of any version");
        if said.contains(oldest) {
            break;
        }
        assert!(said.contains(r#""etcdcluster":"not_decided","storage":"unknown"}"#), "{said}");
        assert!(started.elapsed() < PATIENCE, "{said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    put(&mut cluster.client(0).await, "before", "1").await.expect("two of three serve all the same");
    cluster.member(2).restart();
    until_all_show(&cluster, &[0, 1, 2], "3.7.0").await;
}

/// A cluster with an old member is old until that is upgraded. After that nobody goes back.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn the_oldest_member_decides_and_an_older_one_is_not_let_in() {
    const SAYS: &str = "RINGD_SERVER_VERSION";
    if !program().is_ringd() {
        return;
    }
    let old = options(program()).env(SAYS, "3.6.9");
    let mut cluster = Cluster::spawn_each(vec![options(program()), options(program()), old], None);
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    until_all_show(&cluster, &[0, 1, 2], "3.6.0").await;
    tokio::time::sleep(Duration::from_secs(5)).await; // the leader looks again
    until_all_show(&cluster, &[0, 1, 2], "3.6.0").await;

    cluster.member(2).kill();
    cluster.member(2).remove_env(SAYS);
    cluster.member(2).restart();
    until_all_show(&cluster, &[0, 1, 2], "3.7.0").await;

    // etcd ends with the same sentence (`MustDetectDowngrade`).
    cluster.member(2).kill();
    cluster.member(2).add_env(SAYS, "3.6.9");
    cluster.member(2).restart_unready();
    let server = cluster.member(2);
    let status = server.wait_exit(PATIENCE);
    assert_eq!(status.code(), Some(11), "{}", server.log());
    let sentence = "invalid downgrade; server version is lower than determined cluster version";
    assert!(server.log().contains(sentence), "{}", server.log());
    until_all_show(&cluster, &[0, 1], "3.7.0").await;
}
