//! The server compacts by itself, as `--auto-compaction-…` says.

use std::time::{Duration, Instant};

use testkit::Server;
use testkit::pb::{PutRequest, RangeRequest};

use crate::{long_runs, options};

const PATIENCE: Duration = Duration::from_secs(30);

/// Puts one key `count` times; the revision after it.
async fn put(server: &Server, count: usize) -> i64 {
    let mut client = server.client().await;
    let mut revision = 0;
    for i in 0..count {
        let request = PutRequest { key: "k".into(), value: i.to_string().into(), ..Default::default() };
        let answer = client.kv.put(request).await.unwrap().into_inner();
        revision = answer.header.unwrap().revision;
    }
    revision
}

/// Whether `revision` can still be read.
async fn is_kept(server: &Server, revision: i64) -> bool {
    let request = RangeRequest { key: "k".into(), revision, ..Default::default() };
    match server.client().await.kv.range(request).await {
        Ok(_) => true,
        Err(status) => {
            assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
            false
        }
    }
}

/// Waits for a line of the log with these words.
async fn wait_for(server: &Server, words: &str, patience: Duration) -> String {
    let started = Instant::now();
    loop {
        if let Some(line) = server.log().lines().find(|line| line.contains(words)) {
            return line.to_owned();
        }
        assert!(started.elapsed() < patience, "never said {words}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_is_older_than_the_period_goes() {
    let server = options().arg("--auto-compaction-retention=2s").start();
    let old = put(&server, 10).await;
    assert!(is_kept(&server, old - 1).await, "nothing goes before the period is over");
    // The first step compacts what was there at the start; a later one reaches our puts.
    let started = Instant::now();
    while is_kept(&server, old - 1).await {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(1), "too early: {:?}", started.elapsed());
    assert!(is_kept(&server, old).await, "the newest revision of a key stays");
    let line = wait_for(&server, "completed auto periodic compaction", PATIENCE).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["compact-period"]), (&"info".into(), &"2s".into()), "{line}");
    assert!(line["revision"].is_i64() && line["took"].is_string(), "{line}");
}

/// Both servers look every five minutes, so this belongs to the long runs.
#[tokio::test]
async fn so_many_revisions_are_kept() {
    let retention = ["--auto-compaction-mode=revision", "--auto-compaction-retention=10"];
    let server = options().arg(retention[0]).arg(retention[1]).start();
    let newest = put(&server, 50).await;
    assert!(is_kept(&server, 2).await);
    if !long_runs() {
        return;
    }
    let line =
        wait_for(&server, "completed auto revision compaction", Duration::from_secs(300) + PATIENCE).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["revision"], &line["revision-compaction-retention"]),
        (&(newest - 10).into(), &10.into()),
        "{line}"
    );
    assert!(!is_kept(&server, newest - 11).await);
    assert!(is_kept(&server, newest - 10).await);
}
