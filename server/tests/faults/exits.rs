//! Exit codes that need a fault: see the table in `sys/fatal.rs`. Those of a wrong start are in `tests/flags.rs`.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use testkit::pb::{DefragmentRequest, PutRequest};

use crate::{directory, options};

/// 19: the tree file of one member lies in the directory of another.
#[tokio::test]
async fn a_tree_file_of_another_member_is_refused() {
    let (ours, theirs) = (directory(), directory());
    for (dir, name) in [(&ours, "ours"), (&theirs, "theirs")] {
        // The token is part of the ids.
        let mut server = options(dir.path()).arg(format!("--initial-cluster-token={name}")).start();
        let mut client = server.client().await;
        client.kv.put(PutRequest { key: name.into(), ..Default::default() }).await.unwrap();
        client.maintenance.defragment(DefragmentRequest {}).await.unwrap(); // a checkpoint, so that it has a meta
        server.kill();
    }
    std::fs::copy(theirs.path().join("data/tree"), ours.path().join("data/tree")).unwrap();
    let before = std::fs::read(ours.path().join("data/tree")).unwrap();
    let mut server = options(ours.path()).spawn();
    let status = server.wait_exit(Duration::from_secs(20));
    assert_eq!(status.code(), Some(19), "{}", server.log());
    assert!(server.log().contains("belongs to member"), "{}", server.log());
    assert_eq!(std::fs::read(ours.path().join("data/tree")).unwrap(), before, "left as it was");
}

/// 19: a founder that died before its log held anything comes back with flags that make another member of it. The cluster that it
/// began to found is not described any more, so nobody would ever send it anything.
#[test]
fn a_founder_that_comes_back_as_somebody_else_is_refused() {
    let dir = directory();
    let mut server = options(dir.path()).env("RINGD_FAILPOINTS", "log-after-begun=1").spawn();
    let status = server.wait_exit(Duration::from_secs(20));
    assert_eq!(status.signal(), Some(9), "{}", server.log());
    server.remove_env("RINGD_FAILPOINTS");
    server.add_arg("--initial-cluster-token=other");
    server.restart_unready();
    let status = server.wait_exit(Duration::from_secs(20));
    assert_eq!(status.code(), Some(19), "{}", server.log());
    for said in ["its log is empty", "--initial-cluster-token", "remove the data directory"] {
        assert!(server.log().contains(said), "{said:?} is not in {}", server.log());
    }
    // The data stays as it was: with the flags of the first start it is what that start began.
    server.add_arg("--initial-cluster-token=etcd-cluster");
    server.restart();
}

/// 23: a write to the log that never ends, with the core that waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_device_that_falls_silent_ends_the_process() {
    let dir = directory();
    let mut server = options(dir.path()).env("RINGD_FAILPOINTS", "log-write=stall@20").start();
    let mut client = server.client().await;
    let writer = tokio::spawn(async move {
        for i in 0.. {
            let put = PutRequest { key: format!("k{i}").into(), ..Default::default() };
            if tokio::time::timeout(Duration::from_secs(60), client.kv.put(put)).await.is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let status = server.wait_exit(Duration::from_secs(60));
    writer.abort();
    assert_eq!(status.code(), Some(23), "{}", server.log());
    assert!(
        started.elapsed() > Duration::from_secs(19),
        "a slow disk is not a dead one: {:?}",
        started.elapsed()
    );
    assert!(server.log().contains("has not answered a write for"), "{}", server.log());
}
