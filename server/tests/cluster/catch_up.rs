//! A follower that was away gets what it missed: from the leader's memory, from its log on disk, or as a snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::pb::{
    CompactionRequest, PutRequest, RangeRequest, StatusRequest, WatchCreateRequest, WatchRequest,
    watch_request::RequestUnion,
};
use testkit::{Client, Cluster};

use crate::ask::{assert_same, others, put};
use crate::{long_runs, options, program, three};

/// How long a follower may take to get what it missed.
const PATIENCE: Duration = Duration::from_secs(40);

/// The same after very many writes.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);

const VALUE_BYTES: usize = 200_000;

/// More than the leader keeps in memory for its followers (16 MiB), less than what makes a checkpoint with the usual heap.
const MORE_THAN_MEMORY: usize = 125;

/// More than the first segments of the log, so that checkpoints drop them.
const MORE_THAN_LOG: usize = 500;

/// Said once per snapshot.
const SNAPSHOT_SENT: &str = "sending a snapshot";

/// Small heaps make checkpoints, and checkpoints drop log.
fn cluster() -> Cluster {
    let options = options(program());
    Cluster::start(if program().is_ringd() { options.arg("--ringd-heap-limit=8388608") } else { options }, 3)
}

/// Puts `count` large values to twenty keys; the last revision.
async fn write(client: &mut Client, count: usize) -> i64 {
    let mut revision = 0;
    for n in 0..count {
        let value = vec![n as u8; VALUE_BYTES];
        let put = PutRequest { key: format!("large/{}", n % 20).into(), value, ..Default::default() };
        let answer = client.kv.put(put).await.expect("two of three").into_inner();
        revision = answer.header.expect("a header").revision;
    }
    revision
}

/// Waits until member `at` has applied `revision`.
async fn reaches(cluster: &Cluster, at: usize, revision: i64) {
    reaches_within(PATIENCE, cluster, at, revision).await;
}

async fn reaches_within(patience: Duration, cluster: &Cluster, at: usize, revision: i64) {
    let deadline = Instant::now() + patience;
    let mut client = cluster.client(at).await;
    loop {
        let status = client.maintenance.status(StatusRequest {}).await.expect("it serves").into_inner();
        let applied = status.header.expect("a header").revision;
        if applied >= revision {
            return;
        }
        assert!(Instant::now() < deadline, "m{at} is at revision {applied} of {revision} after {patience:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn snapshots_sent(cluster: &Cluster) -> usize {
    cluster.members().iter().map(|member| member.log().matches(SNAPSHOT_SENT).count()).sum()
}

/// Kills a follower, writes `count` values, brings it back.
async fn away_for(mut cluster: Cluster, count: usize) -> (Cluster, usize) {
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    put(&mut cluster.client(away).await, "before", "1").await.expect("three of three");
    cluster.member(away).kill();
    let revision = write(&mut cluster.client(leader).await, count).await;
    cluster.member(away).restart_unready();
    let started = Instant::now();
    cluster.member(away).wait_ready();
    reaches(&cluster, away, revision).await;
    println!("{count} puts of {VALUE_BYTES} bytes were caught up with in {:?}", started.elapsed());
    assert_same(&cluster, &[0, 1, 2]).await;
    assert_eq!(cluster.leader(&[0, 1, 2]).await, leader, "its return moved nothing");
    (cluster, away)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_memory() {
    let (cluster, _) = away_for(three(), 20).await;
    assert_eq!(snapshots_sent(&cluster), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_log_on_disk() {
    let (cluster, _) = away_for(three(), MORE_THAN_MEMORY).await;
    assert_eq!(snapshots_sent(&cluster), 0, "the log on disk has it all");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_snapshot() {
    let (mut cluster, away) = away_for(cluster(), MORE_THAN_LOG).await;
    if program().is_ringd() {
        assert!(snapshots_sent(&cluster) > 0, "the log on disk no longer has it");
    }
    // It is a member like the others: it votes, and what it holds outlives it.
    let other = others(away)[0];
    cluster.member(other).kill();
    put(&mut cluster.client(away).await, "after", "1").await.expect("two of three");
    cluster.member(other).restart();
    let revision = put(&mut cluster.client(away).await, "after", "2").await.expect("three of three");
    cluster.member(away).restart();
    reaches(&cluster, away, revision).await;
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// What was compacted while it was away is gone for it, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_snapshot_of_compacted_history() {
    let mut cluster = cluster();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    let mut client = cluster.client(leader).await;
    let old = put(&mut client, "before", "1").await.expect("three of three");
    cluster.member(away).kill();
    let half = write(&mut client, MORE_THAN_LOG / 2).await;
    client.kv.compact(CompactionRequest { revision: half, physical: true }).await.expect("two of three");
    let revision = write(&mut client, MORE_THAN_LOG / 2).await;
    cluster.member(away).restart();
    reaches(&cluster, away, revision).await;
    assert_same(&cluster, &[0, 1, 2]).await;
    let mut back = cluster.client(away).await;
    let at =
        |revision| RangeRequest { key: "before".into(), revision, serializable: true, ..Default::default() };
    let status = back.kv.range(at(old)).await.expect_err("compacted");
    assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
    assert_eq!(back.kv.range(at(half)).await.expect("kept").into_inner().kvs[0].mod_revision, old);
}

/// The member does not end, so its watches don't; the store under them is another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_lives_through_a_snapshot() {
    let cluster = cluster();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    let mut client = cluster.client(leader).await;
    let mut watch = cluster.client(away).await.open_watch();
    let create = WatchCreateRequest {
        key: "large/".into(),
        range_end: "large0".into(),
        start_revision: 1,
        ..Default::default()
    };
    watch.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    let first = write(&mut client, 20).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&first) {
        seen.extend(
            watch.expect().await.events.iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision)),
        );
    }
    cluster.members()[away].signal(Signal::STOP);
    let last = write(&mut client, MORE_THAN_LOG).await;
    cluster.members()[away].signal(Signal::CONT);
    reaches(&cluster, away, last).await;
    if program().is_ringd() {
        assert!(snapshots_sent(&cluster) > 0, "the log on disk no longer has it");
    }
    let first = *seen.first().expect("it saw the first");
    while seen.last() != Some(&last) {
        seen.extend(
            watch.expect().await.events.iter().map(|event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision)),
        );
    }
    let want: Vec<i64> = (first..=last).collect();
    assert!(seen == want, "of {} events {} were seen, or in another order", want.len(), seen.len());
    let next = write(&mut client, 1).await;
    assert_eq!(
        watch.expect().await.events[0].kv.as_ref().map(|kv| kv.mod_revision),
        Some(next),
        "it goes on"
    );
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// Puts large values, four at a time, until `done`, or 800 MB: less than the quota.
fn write_until(cluster_client: &Client, done: &Arc<AtomicBool>) -> tokio::task::JoinSet<i64> {
    const STEPS_MAX: usize = 200;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (mut client, done) = (cluster_client.clone(), done.clone());
        writers.spawn(async move {
            let mut last = 0;
            for _ in 0..STEPS_MAX {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                last = write(&mut client, 5).await;
            }
            last
        });
    }
    writers
}

/// What the leader says of snapshots and links: for the reader of a failed test.
fn about_snapshots(cluster: &Cluster) -> String {
    let interesting =
        |line: &&str| ["snapshot", "remote peer", "raft role"].iter().any(|word| line.contains(word));
    let of =
        |server: &testkit::Server| server.log().lines().filter(interesting).collect::<Vec<_>>().join("\n");
    cluster.members().iter().map(of).collect::<Vec<_>>().join("\n\n")
}

/// A snapshot is of a moment, and the log goes on. What follows it is kept until the follower has it, so that one is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_snapshot_is_enough_under_a_steady_load() {
    let mut cluster = cluster();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    let mut client = cluster.client(leader).await;
    cluster.member(away).kill();
    let before = write(&mut client, MORE_THAN_LOG).await;
    let done = Arc::new(AtomicBool::new(false));
    let writers = write_until(&client, &done);
    cluster.member(away).restart_unready();
    tokio::task::block_in_place(|| cluster.member(away).wait_ready());
    // Far enough behind the snapshot that the log on disk is needed, and that checkpoints have let go of what is not kept.
    reaches_within(CATCH_UP_MAX, &cluster, away, before + 4 * MORE_THAN_MEMORY as i64).await;
    done.store(true, Ordering::Relaxed);
    let last = writers.join_all().await.into_iter().max().expect("four of them");
    println!("{} puts during the catch-up", last - before);
    reaches_within(CATCH_UP_MAX, &cluster, away, last).await;
    if program().is_ringd() {
        assert_eq!(snapshots_sent(&cluster), 1, "{}", about_snapshots(&cluster));
    }
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// A cluster, a client of its leader, a follower that needs a snapshot and has just been started again with this failpoint, and
/// what it will have to reach.
#[cfg(feature = "failpoints")]
async fn with_faulty_import(failpoint: &str) -> (Cluster, Client, usize, i64) {
    let mut cluster = cluster();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    let mut client = cluster.client(leader).await;
    cluster.member(away).kill();
    let revision = write(&mut client, MORE_THAN_LOG).await;
    cluster.member(away).add_env("RINGD_FAILPOINTS", failpoint);
    cluster.member(away).restart_unready();
    (cluster, client, away, revision)
}

/// A follower that takes long to make a store of its snapshot is not sent another one.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_snapshot_is_enough_for_a_slow_follower() {
    if !program().is_ringd() {
        return;
    }
    let (mut cluster, mut client, away, _) = with_faulty_import("snapshot-import=slow@1").await;
    // Writes go on, so that the leader has something to send all the time.
    let done = Arc::new(AtomicBool::new(false));
    let timed = tokio::spawn({
        let (client, done) = (client.clone(), done.clone());
        put_times(client, move || done.load(Ordering::Relaxed))
    });
    tokio::task::block_in_place(|| cluster.member(away).wait_ready());
    let revision = write(&mut client, 20).await;
    reaches(&cluster, away, revision).await;
    done.store(true, Ordering::Relaxed);
    timed.await.expect("every put succeeds");
    assert_eq!(snapshots_sent(&cluster), 1, "{}", about_snapshots(&cluster));
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// A follower whose disk is full when it makes a store of its snapshot goes on as it was, and is sent another one.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_without_room_for_its_snapshot_gets_another_one() {
    if !program().is_ringd() {
        return;
    }
    let (mut cluster, _, away, revision) = with_faulty_import("snapshot-import=enospc@1").await;
    tokio::task::block_in_place(|| cluster.member(away).wait_ready());
    reaches(&cluster, away, revision).await;
    let log = cluster.members()[away].log();
    assert!(log.contains("a received snapshot is unusable"), "{log}");
    assert_eq!(snapshots_sent(&cluster), 2, "{}", about_snapshots(&cluster));
    assert_same(&cluster, &[0, 1, 2]).await;
}

/// How long each of these puts took, one every 10 ms, until `done` says so.
async fn put_times(mut client: Client, mut done: impl FnMut() -> bool) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut clock = tokio::time::interval(Duration::from_millis(10));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !done() {
        clock.tick().await;
        let asked = Instant::now();
        put(&mut client, "timed", "1").await.expect("two of three");
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    times
}

fn quantile(sorted: &[Duration], of: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * of) as usize]
}

/// Puts `count` small values, 256 at a time; the last revision.
async fn write_many(cluster: &Cluster, at: usize, count: usize) -> i64 {
    let mut writers = tokio::task::JoinSet::new();
    let mut client = cluster.client(at).await;
    for writer in 0..256 {
        if writer % 16 == 0 {
            client = cluster.client(at).await; // sixteen share a connection
        }
        writers.spawn(write_share(client.clone(), (writer..count).step_by(256)));
    }
    writers.join_all().await.into_iter().max().expect("256 of them")
}

async fn write_share(mut client: Client, numbers: impl Iterator<Item = usize>) -> i64 {
    let mut revision = 0;
    for n in numbers {
        let key = format!("small/{}", n % 200_000);
        revision = put(&mut client, &key, &format!("{n:0100}")).await.expect("two of three");
    }
    revision
}

/// The leader goes on while a follower gets what it missed in very many writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_very_many_writes() {
    let count = if long_runs() { 1_000_000 } else { 20_000 };
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let away = others(leader)[0];
    let second = Instant::now() + Duration::from_secs(if long_runs() { 10 } else { 1 });
    let before = put_times(cluster.client(leader).await, || Instant::now() > second).await;

    cluster.member(away).kill();
    let started = Instant::now();
    let revision = write_many(&cluster, leader, count).await;
    println!("{count} puts in {:?}", started.elapsed());

    cluster.member(away).restart_unready();
    let started = Instant::now();
    let caught_up = Arc::new(AtomicBool::new(false));
    let done = caught_up.clone();
    let timed = tokio::spawn(put_times(cluster.client(leader).await, move || done.load(Ordering::Relaxed)));
    tokio::task::block_in_place(|| cluster.member(away).wait_ready());
    reaches_within(CATCH_UP_MAX, &cluster, away, revision).await;
    let took = started.elapsed();
    caught_up.store(true, Ordering::Relaxed);
    let during = timed.await.expect("every put succeeds");
    let (p99_before, p99) = (quantile(&before, 0.99), quantile(&during, 0.99));
    println!(
        "caught up in {took:?} ({} snapshots); put p50 {:?} -> {:?}, p99 {p99_before:?} -> {p99:?} ({:.2}x), max {:?} -> {:?}, of {} and {}",
        snapshots_sent(&cluster),
        quantile(&before, 0.5),
        quantile(&during, 0.5),
        p99.as_secs_f64() / p99_before.as_secs_f64(),
        quantile(&before, 1.0),
        quantile(&during, 1.0),
        before.len(),
        during.len(),
    );
    if program().is_ringd() {
        assert!(snapshots_sent(&cluster) <= 1, "{}", about_snapshots(&cluster));
    }
    assert_same(&cluster, &[0, 1, 2]).await;
    assert_eq!(cluster.leader(&[0, 1, 2]).await, leader, "its return moved nothing");
    let all = RangeRequest {
        key: "small/".into(),
        range_end: "small0".into(),
        count_only: true,
        serializable: true,
        ..Default::default()
    };
    let held = cluster.client(away).await.kv.range(all).await.expect("it serves").into_inner().count;
    assert_eq!(held, count.min(200_000) as i64);
}
