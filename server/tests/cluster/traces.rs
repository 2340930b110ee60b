//! What real members told their raft nodes, raft cores and store cores, told to others: they answer the same. So what the simulator proves of
//! these machines holds for the ones in the server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use node::trace::{Replay, Replayed, TraceError};
use testkit::history::Trial;
use testkit::pb::{
    CompactionRequest, DefragmentRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest,
    MoveLeaderRequest, PutRequest,
};
use testkit::{Client, Cluster, Program, ServerOptions};

use crate::chance;

/// All traces in a directory; each member has one of each machine for each of its lives.
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

/// A lease that is kept alive once, and one that will run out. (No keys: the trial knows of no other writers than its own.)
async fn leases(client: &mut Client) {
    for (id, ttl) in [(7, 60), (8, 1)] {
        client.lease.lease_grant(LeaseGrantRequest { id, ttl }).await.expect("a quorum is there");
    }
    let mut stream = client.open_keep_alive();
    stream.send(LeaseKeepAliveRequest { id: 7 });
    assert_eq!(stream.expect().await.ttl, 60);
}

/// A key that goes with its lease, and a compaction of most of what the trial has written.
async fn revoke_and_compact(client: &mut Client) {
    let put = PutRequest { key: b"leased".to_vec(), value: b"v".to_vec(), lease: 7, ..Default::default() };
    client.kv.put(put).await.expect("a quorum is there");
    let revoked = client.lease.lease_revoke(LeaseRevokeRequest { id: 7 }).await.expect("a quorum is there");
    let revision = revoked.into_inner().header.expect("a header").revision;
    let compaction = CompactionRequest { revision: revision - 20, physical: true };
    client.kv.compact(compaction).await.expect("a quorum is there");
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
    leases(&mut cluster.client((killed + 1) % 3).await).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Its next life begins with a store that is in its file.
    let cut = cluster.client(killed).await.maintenance.defragment(DefragmentRequest {}).await;
    assert!(cut.is_ok(), "{cut:?}");
    cluster.member(killed).kill();
    let rest: Vec<usize> = (0..3).filter(|i| *i != killed).collect();
    cluster.leader(&rest).await;
    cluster.member(killed).restart();
    let next = cluster.leader(&[0, 1, 2]).await;
    let (_, to) = cluster.leader_and_id(rest[(rest[0] == next) as usize]).await.expect("it serves");
    let mut client = cluster.client(next).await;
    let moved = client.maintenance.move_leader(MoveLeaderRequest { target_id: to }).await;
    assert!(moved.is_ok(), "{moved:?}");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let verdict = trial.judge().await;
    assert!(verdict.written > 100 && verdict.read > 100, "{verdict:?} was no load");
    revoke_and_compact(&mut client).await;
    for i in 0..3 {
        cluster.member(i).terminate();
    }
    let all = replay_all(traces.path());
    assert_eq!(all.len(), 12, "three members, one of them with two lives, and three machines in each");
    for (trace, replayed) in &all {
        let (calls, outputs) = replayed.calls_and_outputs();
        assert!(calls > 100 && outputs > 100, "{replayed:?}");
        // Another byte in the middle of it does not go unnoticed.
        let mut changed = trace.clone();
        changed[trace.len() / 2] ^= 4;
        match Replay::all(&changed) {
            Ok(short) => assert!(short.is_torn() && short.calls_and_outputs().0 < calls, "{short:?}"),
            Err(error) => assert!(matches!(error, TraceError::Frame(..)), "{error}"),
        }
    }
    let (mut nodes, mut rafts, mut stores, mut checkpoints) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for (_, replayed) in &all {
        match replayed {
            Replayed::Node(node) => nodes.push(node.committed.0),
            Replayed::Raft(raft) => rafts.push(raft.committed.0),
            Replayed::Store(store) => {
                stores.push(store.applied.0);
                checkpoints += store.checkpoints;
            }
        }
    }
    assert_eq!((nodes.len(), rafts.len(), stores.len()), (4, 4, 4));
    for indexes in [nodes, rafts, stores] {
        assert!(indexes.iter().max() > Some(&(verdict.written as u64)), "{indexes:?}, {verdict:?}");
    }
    assert!(checkpoints >= 2, "the Defragment's");
}
