//! Members that are lost, and come back.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::Client;
use testkit::pb::{PutRequest, RangeRequest};
use tonic::{Code, Status};

use crate::ask::{assert_same, get, get_local, list, others, put, until_put, within};
use crate::three;

/// How long a cluster that has lost its leader may take until it writes again. An election takes one to two seconds with
/// the default timeouts; the rest is for a busy machine.
const FAILOVER_MAX: Duration = Duration::from_secs(5);

/// Everything that was acknowledged is there.
async fn assert_holds(client: &mut Client, acknowledged: &[String]) {
    let found = list(client, "a/").await;
    for key in acknowledged {
        assert!(found.contains_key(key), "{key} was acknowledged and is lost; {} are there", found.len());
    }
}

/// Puts as fast as one client can until `stop` or a call fails; what was acknowledged.
async fn writes_until(mut client: Client, name: &str, stop: Instant) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let key = format!("a/{name}/{n:06}");
        let left = stop.saturating_duration_since(Instant::now());
        match within(left, put(&mut client, &key, "v")).await {
            Some(Ok(_)) => acknowledged.push(key),
            _ => break,
        }
    }
    acknowledged
}

#[tokio::test]
async fn the_leader_is_killed_and_writes_go_on() {
    let mut cluster = three();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let leader = cluster.leader(&[0, 1, 2]).await;
        let [one, two] = others(leader);
        let mut writers = tokio::task::JoinSet::new();
        for at in 0..3 {
            let client = cluster.client(at).await;
            let stop = Instant::now() + Duration::from_millis(1500);
            writers.spawn(async move { writes_until(client, &format!("{round}/{at}"), stop).await });
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        cluster.member(leader).kill();
        let killed = Instant::now();
        let mut client = cluster.client(one).await;
        until_put(&mut client, "probe", &round.to_string()).await;
        let outage = killed.elapsed();
        println!("round {round}: writes go on after {outage:?}");
        assert!(outage < FAILOVER_MAX, "writes went on only after {outage:?}");
        while let Some(written) = writers.join_next().await {
            acknowledged.extend(written.expect("no writer panics"));
        }
        assert_eq!(
            get(&mut cluster.client(two).await, "probe").await.expect("two of three"),
            Some(round.to_string())
        );
        assert_holds(&mut client, &acknowledged).await;
        cluster.member(leader).restart();
        assert_same(&cluster, &[0, 1, 2]).await;
    }
    assert!(acknowledged.len() > 100, "only {} puts were no load", acknowledged.len());
}

#[tokio::test]
async fn a_follower_is_killed_and_catches_up() {
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [down, up] = others(leader);
    put(&mut cluster.client(down).await, "before", "1").await.expect("three of three");
    cluster.member(down).kill();
    let mut client = cluster.client(up).await;
    for n in 0..500 {
        put(&mut client, &format!("a/{n:03}"), "v").await.expect("two of three");
    }
    cluster.member(down).restart();
    let mut back = cluster.client(down).await;
    assert_eq!(list(&mut back, "a/").await.len(), 500, "a linearizable read waits until it has caught up");
    put(&mut back, "after", "1").await.expect("three of three");
    assert_same(&cluster, &[0, 1, 2]).await;
    assert_eq!(cluster.leader(&[0, 1, 2]).await, leader, "its return moved nothing");
}

#[tokio::test]
async fn all_are_killed_and_come_back() {
    let mut cluster = three();
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let stop = Instant::now() + Duration::from_secs(1);
        let mut writers = tokio::task::JoinSet::new();
        for at in 0..3 {
            let client = cluster.client(at).await;
            writers.spawn(async move { writes_until(client, &format!("{round}/{at}"), stop).await });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        (0..3).for_each(|i| cluster.member(i).kill());
        while let Some(written) = writers.join_next().await {
            acknowledged.extend(written.expect("no writer panics"));
        }
        (0..3).for_each(|i| cluster.member(i).restart_unready());
        (0..3).for_each(|i| cluster.member(i).wait_ready());
        cluster.leader(&[0, 1, 2]).await;
        for i in 0..3 {
            assert_holds(&mut cluster.client(i).await, &acknowledged).await;
        }
        assert_same(&cluster, &[0, 1, 2]).await;
    }
    assert!(acknowledged.len() > 30, "only {} puts were no load", acknowledged.len());
}

#[tokio::test]
async fn two_quick_restarts_harm_nobody() {
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    for victim in [others(leader)[0], leader] {
        let witness = others(victim)[0];
        let mut client = cluster.client(witness).await;
        until_put(&mut client, "a/before", &victim.to_string()).await;
        cluster.member(victim).restart_unready();
        std::thread::sleep(Duration::from_millis(150)); // in the middle of its start
        cluster.member(victim).restart_unready();
        cluster.member(victim).wait_ready();
        until_put(&mut client, "a/after", &victim.to_string()).await;
        let mut back = cluster.client(victim).await;
        assert_eq!(get(&mut back, "a/after").await.expect("three of three"), Some(victim.to_string()));
        assert_same(&cluster, &[0, 1, 2]).await;
    }
}

fn assert_timed_out(what: &str, answer: Result<(), Status>) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    assert!(status.message().starts_with("etcdserver: request timed out"), "{what}: {status}");
}

#[tokio::test]
async fn a_minority_serves_its_own_state_and_nothing_else() {
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    for alone in [others(leader)[0], leader] {
        until_put(&mut cluster.client(alone).await, "k", &alone.to_string()).await;
        let value = Some(alone.to_string());
        assert_same(&cluster, &[0, 1, 2]).await;
        others(alone).into_iter().for_each(|i| cluster.member(i).kill());
        let client = cluster.client(alone).await;
        let started = Instant::now();
        let (mut writer, mut reader) = (client.clone(), client.clone());
        let local = async {
            // As long as the others wait in vain, and after.
            let mut client = client.clone();
            while started.elapsed() < Duration::from_secs(3) {
                assert_eq!(get_local(&mut client, "k").await.expect("its own state"), value);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let write = async { put(&mut writer, "k", "lost").await.map(drop) };
        let read = async { get(&mut reader, "k").await.map(drop) };
        let (write, read, ()) = tokio::join!(write, read, local);
        // etcd v3_server.go: ReqTimeout is 5 s and two election timeouts.
        assert!(started.elapsed() < Duration::from_secs(12), "after {:?}", started.elapsed());
        assert_timed_out("a put", write);
        assert_timed_out("a linearizable read", read);
        assert_eq!(get_local(&mut client.clone(), "k").await.expect("its own state"), value);
        let all = RangeRequest { key: vec![0], range_end: vec![0], serializable: true, ..Default::default() };
        assert_eq!(client.clone().kv.range(all).await.expect("its own state").into_inner().count, 1);

        others(alone).into_iter().for_each(|i| cluster.member(i).restart_unready());
        others(alone).into_iter().for_each(|i| cluster.member(i).wait_ready());
        cluster.leader(&[0, 1, 2]).await;
        let found = get(&mut client.clone(), "k").await.expect("three of three");
        assert!(found == value || found.as_deref() == Some("lost"), "{found:?}");
        until_put(&mut client.clone(), "k", "again").await;
        assert_same(&cluster, &[0, 1, 2]).await;
    }
}

/// Without a leader a member refuses nothing at once: one may come while the request has time.
#[tokio::test]
async fn what_is_asked_without_a_leader_waits_for_one() {
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [alone, other] = others(leader);
    put(&mut cluster.client(alone).await, "k", "before").await.expect("three of three");
    cluster.member(leader).kill();
    cluster.member(other).kill();
    let deadline = Instant::now() + Duration::from_secs(10);
    while cluster.leader_and_id(alone).await.is_none_or(|(leader, _)| leader != 0) {
        assert!(Instant::now() < deadline, "it still follows somebody");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (mut writer, mut reader) = (cluster.client(alone).await, cluster.client(alone).await);
    let write = tokio::spawn(async move { put(&mut writer, "w", "waited").await });
    let read = tokio::spawn(async move { get(&mut reader, "k").await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!write.is_finished() && !read.is_finished(), "there is nobody who could have answered");
    cluster.member(other).restart();
    write.await.expect("no writer panics").expect("two of three");
    // A read may be told that there is another leader now; etcd's always is.
    match read.await.expect("no reader panics") {
        Ok(found) => assert_eq!(found.as_deref(), Some("before")),
        Err(status) => assert_eq!(status.message(), "etcdserver: leader changed"),
    }
    assert_eq!(
        get(&mut cluster.client(other).await, "w").await.expect("two of three").as_deref(),
        Some("waited")
    );
}

/// Stopped for five seconds, it still believes that it leads when it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_answers_nothing_old() {
    let cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [one, _] = others(leader);
    let mut old = cluster.client(leader).await;
    let mut client = cluster.client(one).await;
    put(&mut client, "k", "before").await.expect("three of three");
    for round in 0..2 {
        let leader = cluster.leader(&[0, 1, 2]).await;
        let [one, _] = others(leader);
        let (mut old_client, mut client) = (cluster.client(leader).await, cluster.client(one).await);
        cluster.members()[leader].signal(Signal::STOP);
        let stopped = Instant::now();
        until_put(&mut client, "k", &format!("new {round}")).await;
        // These wait in its socket until it goes on.
        let mut reads = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut client = old_client.clone();
            reads.spawn(async move { get(&mut client, "k").await });
        }
        let value = PutRequest {
            key: "from the old one".into(),
            value: round.to_string().into(),
            ..Default::default()
        };
        let write = tokio::spawn(async move { old_client.kv.put(value).await });
        tokio::time::sleep(Duration::from_secs(5).saturating_sub(stopped.elapsed())).await;
        cluster.members()[leader].signal(Signal::CONT);
        let mut answered = 0;
        while let Some(read) = reads.join_next().await {
            if let Ok(found) = read.expect("no reader panics") {
                assert_eq!(found, Some(format!("new {round}")), "a stale read");
                answered += 1;
            }
        }
        let write = write.await.expect("no writer panics");
        println!("round {round}: {answered} of 20 reads answered, put: {:?}", write.as_ref().map(drop));
        if write.is_ok() {
            let found = get(&mut client, "from the old one").await.expect("three of three");
            assert_eq!(found, Some(round.to_string()), "acknowledged and lost");
        }
        until_put(&mut client, "k", "between").await;
        assert_same(&cluster, &[0, 1, 2]).await;
    }
    assert_eq!(get(&mut old, "k").await.expect("three of three").as_deref(), Some("between"));
}
