//! What real members told their raft nodes, told to others: they answer the same. So what the simulator proves of a node holds
//! for the one in the server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use consensus::trace::{Replay, Replayed, TraceError};
use testkit::history::Trial;
use testkit::{Cluster, Program, ServerOptions};

use crate::chance;

/// All traces in a directory; each member has one for each of its lives.
fn replay_all(dir: &Path) -> Vec<(Vec<u8>, Replayed)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("the directory is there") {
        let path = entry.expect("readable").path();
        let trace = fs::read(&path).expect("readable");
        let replayed = Replay::all(&trace).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!("{}: {} bytes, {replayed:?}", path.display(), trace.len());
        all.push((trace, replayed));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_members_did_under_load_through_a_kill_and_a_change_of_leader_replays_identically() {
    let traces = tempfile::tempdir().expect("a directory");
    let dir = traces.path().to_str().expect("a path of text");
    let options = ServerOptions::new(Program::Ringd(env!("CARGO_BIN_EXE_ringd").into()))
        .arg("--ringd-placement=unpinned")
        .env("RINGD_TRACE", dir);
    let mut cluster = Cluster::start(options, 3);
    let killed = cluster.leader(&[0, 1, 2]).await;
    let urls: Vec<String> = cluster.members().iter().map(|member| member.url().to_owned()).collect();
    let (seed, _) = chance();
    let mut trial = Trial::start(urls, 8, Duration::from_millis(4), seed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.member(killed).kill();
    let rest: Vec<usize> = (0..3).filter(|i| *i != killed).collect();
    cluster.leader(&rest).await;
    cluster.member(killed).restart();
    let next = cluster.leader(&[0, 1, 2]).await;
    let (_, to) = cluster.leader_and_id(rest[(rest[0] == next) as usize]).await.expect("it serves");
    let mut client = cluster.client(next).await;
    let moved = client.maintenance.move_leader(testkit::pb::MoveLeaderRequest { target_id: to }).await;
    assert!(moved.is_ok(), "{moved:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let verdict = trial.judge().await;
    assert!(verdict.written > 100 && verdict.read > 100, "{verdict:?} was no load");
    for i in 0..3 {
        cluster.member(i).terminate();
    }
    let all = replay_all(traces.path());
    assert_eq!(all.len(), 4, "three members, one of them with two lives");
    for (trace, replayed) in &all {
        assert!(replayed.calls > 100 && replayed.outputs > 100, "{replayed:?}");
        // Another byte in the middle of it does not go unnoticed.
        let mut changed = trace.clone();
        changed[trace.len() / 2] ^= 4;
        match Replay::all(&changed) {
            Ok(short) => assert!(short.torn && short.calls < replayed.calls, "{short:?}"),
            Err(error) => assert!(matches!(error, TraceError::Frame(..)), "{error}"),
        }
    }
    let committed = all.iter().map(|(_, replayed)| replayed.committed.0).max().unwrap_or(0);
    assert!(committed > verdict.written as u64, "{committed} entries, {verdict:?}");
}
