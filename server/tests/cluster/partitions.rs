//! Members that run and don't reach each other: whole, in one direction, or only through a third.
//!
//! Each member has a network namespace of its own; the clients reach all of them all the time, so that a member cut off from the
//! others is asked, too.

use std::time::{Duration, Instant};

use testkit::history::Trial;
use testkit::pb::StatusRequest;
use testkit::{Cluster, Network};

use crate::ask::{assert_same, get, get_local, others, put, until_put, within};
use crate::{chance, long_runs, options, program};

/// How long a cluster may take to write again after a cut of its leader: it steps down, or the others stop waiting, after one
/// to two seconds, and an election may have to be repeated.
const FAILOVER_MAX: Duration = Duration::from_secs(8);

/// How long all may take to follow the same leader after a cut has healed.
const RECOVERY_MAX: Duration = Duration::from_secs(15);

fn cluster(network: &Network) -> Cluster {
    let mut cluster = Cluster::spawn_each(vec![options(program()); 3], Some(network));
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    cluster
}

/// How long what a follower was asked may take after a cut between it and the leader has healed.
const HEALED_MAX: Duration = Duration::from_secs(3);

async fn term(cluster: &Cluster, at: usize) -> u64 {
    let status = cluster.client(at).await.maintenance.status(StatusRequest {}).await;
    status.expect("it serves").into_inner().raft_term
}

/// All follow the same leader again and hold the same.
async fn assert_recovers(cluster: &Cluster) -> usize {
    let leader = within(RECOVERY_MAX, cluster.leader(&[0, 1, 2])).await;
    let leader = leader.unwrap_or_else(|| panic!("no leader {RECOVERY_MAX:?} after all reach all"));
    for at in 0..3 {
        // What was sent into the cut may have to be sent again first.
        let waited = until_put(&mut cluster.client(at).await, "healed", &at.to_string()).await;
        assert!(waited < RECOVERY_MAX, "m{at} writes only after {waited:?}");
    }
    assert_same(cluster, &[0, 1, 2]).await;
    leader
}

/// The leader, cut in some way so that the others elect another one. It must write and read nothing that is not so, and the
/// others go on.
async fn without_leader(cut: impl Fn(&Network, usize)) {
    let network = Network::new(3);
    let cluster = cluster(&network);
    let old = cluster.leader(&[0, 1, 2]).await;
    let [one, two] = others(old);
    until_put(&mut cluster.client(old).await, "k", "before").await;
    assert_same(&cluster, &[0, 1, 2]).await;
    let old_client = cluster.client(old).await;
    let mut client = cluster.client(one).await;

    cut(&network, old);
    let started = Instant::now();
    let (mut reader, mut writer) = (old_client.clone(), old_client.clone());
    // What it is asked at once it may still answer by what the others knew before; what it is asked later it must not.
    let write = tokio::spawn(async move { put(&mut writer, "from the old one", "1").await });
    let outage = until_put(&mut client, "k", "after").await;
    println!("writes go on after {outage:?}");
    assert!(outage < FAILOVER_MAX, "writes went on only after {outage:?}");
    let new = cluster.leader(&[one, two]).await;
    assert_ne!(new, old);
    for _ in 0..3 {
        let read = within(Duration::from_secs(1), get(&mut reader, "k")).await;
        if let Some(Ok(found)) = read {
            assert_eq!(
                found.as_deref(),
                Some("after"),
                "a stale read of the old leader after {:?}",
                started.elapsed()
            );
        }
    }
    let local = get_local(&mut old_client.clone(), "k").await.expect("its own state");
    assert!(local.as_deref() == Some("before") || local.as_deref() == Some("after"), "{local:?}");

    network.heal();
    assert_recovers(&cluster).await;
    if write.await.expect("no writer panics").is_ok() {
        let found = get(&mut client, "from the old one").await.expect("three of three");
        assert_eq!(found.as_deref(), Some("1"), "acknowledged and lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_from_all() {
    without_leader(|network, leader| network.isolate(leader)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hears_nobody() {
    without_leader(|network, leader| others(leader).into_iter().for_each(|i| network.cut(i, leader))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_nobody_hears() {
    without_leader(|network, leader| others(leader).into_iter().for_each(|i| network.cut(leader, i))).await;
}

/// Neither a follower that is alone nor one that reaches only the other follower can unseat a leader who has a quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_quorum_stays_whatever_the_third_does() {
    let network = Network::new(3);
    let cluster = cluster(&network);
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [lost, with] = others(leader);
    let mut revision = put(&mut cluster.client(lost).await, "k", "before").await.expect("three of three");
    let before = term(&cluster, leader).await;
    type Cut = fn(&Network, usize, usize);
    let cuts: [(&str, Cut); 4] = [
        ("alone", |network, lost, _| network.isolate(lost)),
        ("leader and it don't reach each other", |network, lost, leader| network.cut_both_ways(lost, leader)),
        ("it hears no leader", |network, lost, leader| network.cut(leader, lost)),
        ("no leader hears it", |network, lost, leader| network.cut(lost, leader)),
    ];
    for (what, cut) in cuts {
        cut(&network, lost, leader);
        let started = Instant::now();
        let mut slowest = Duration::ZERO;
        let mut clients = [cluster.client(leader).await, cluster.client(with).await];
        while started.elapsed() < Duration::from_secs(4) {
            for client in &mut clients {
                let asked = Instant::now();
                revision = put(client, "k", what).await.unwrap_or_else(|status| panic!("{what}: {status}"));
                slowest = slowest.max(asked.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{what}: slowest put {slowest:?}");
        // It may or may not be able to answer; what it answers is so.
        let mut away = cluster.client(lost).await;
        if let Some(Ok(found)) = within(Duration::from_secs(1), get(&mut away, "k")).await {
            assert_eq!(found.as_deref(), Some(what), "a stale read");
        }
        network.heal();
        assert_eq!(assert_recovers(&cluster).await, leader, "{what}");
        assert_eq!(term(&cluster, leader).await, before, "{what}: nobody was elected");
    }
    assert!(revision > 100, "{revision} puts were no load");
}

/// A follower whose words don't reach the leader for a while: what it is asked meanwhile and right afterwards is answered soon
/// after the cut has healed, however long TCP would have waited until it sends again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_follower_is_asked_around_a_cut_reaches_the_leader_when_it_has_healed() {
    let network = Network::new(3);
    let cluster = cluster(&network);
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [lost, _] = others(leader);
    let mut client = cluster.client(lost).await;
    until_put(&mut client, "k", "before").await;
    for length in [300, 1500, 2500, 4000].map(Duration::from_millis) {
        network.cut(lost, leader);
        let mut writer = client.clone();
        let during = tokio::spawn(async move { put(&mut writer, "during", "1").await });
        tokio::time::sleep(length).await;
        network.heal();
        let healed = Instant::now();
        let after = put(&mut client, "after", "1").await;
        let (after, after_took) = (after.map(|_| "written"), healed.elapsed());
        let during = during.await.expect("no writer panics").map(|_| "written");
        println!(
            "cut for {length:?}: after {after:?} in {after_took:?}, during {during:?} {:?}",
            healed.elapsed()
        );
        assert!(after.is_ok() && after_took < HEALED_MAX, "asked after a cut of {length:?}");
        assert!(during.is_ok() && healed.elapsed() < HEALED_MAX, "asked in a cut of {length:?}");
        assert_eq!(cluster.leader(&[0, 1, 2]).await, leader);
    }
}

/// Some way to lose messages, and what it was.
fn any_cut(network: &Network, leader: usize, draw: &mut impl FnMut(u64) -> u64) -> String {
    let one = draw(3) as usize;
    let [other, third] = others(one);
    match draw(8) {
        0 => {
            network.isolate(leader);
            format!("m{leader}, the leader, alone")
        }
        1 => {
            network.isolate(one);
            format!("m{one} alone")
        }
        2 => {
            network.cut(one, other);
            network.cut(one, third);
            format!("nobody hears m{one}")
        }
        3 => {
            network.cut(other, one);
            network.cut(third, one);
            format!("m{one} hears nobody")
        }
        4 => {
            network.cut_both_ways(one, other);
            format!("m{one} and m{other} apart")
        }
        5 => {
            network.cut(one, other);
            format!("m{other} does not hear m{one}")
        }
        6 => {
            network.cut(one, other);
            network.cut(other, third);
            network.cut(third, one);
            format!(
                "each hears one: m{one} not to m{other}, m{other} not to m{third}, m{third} not to m{one}"
            )
        }
        _ => {
            (0..3).for_each(|i| network.isolate(i));
            "all alone".into()
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_lose_nothing_and_reorder_nothing() {
    let rounds = if long_runs() { 60 } else { 5 };
    let (seed, mut draw) = chance();
    println!("seed {seed}");
    let network = Network::new(3);
    let mut cluster = cluster(&network);
    cluster.leader(&[0, 1, 2]).await;
    let urls: Vec<String> = cluster.members().iter().map(|member| member.url().to_owned()).collect();
    let mut trial = Trial::start(urls, 8, Duration::from_millis(4), seed);
    let mut slowest = Duration::ZERO;
    for round in 1..=rounds {
        tokio::time::sleep(Duration::from_millis(300 + draw(500))).await;
        let leader = cluster.leader(&[0, 1, 2]).await;
        let what = any_cut(&network, leader, &mut draw);
        tokio::time::sleep(Duration::from_millis(500 + draw(3500))).await;
        // Sometimes somebody dies in it.
        if draw(4) == 0 {
            let victim = draw(3) as usize;
            cluster.member(victim).restart_unready();
        }
        network.heal();
        let healed = Instant::now();
        (0..3).for_each(|i| cluster.member(i).wait_ready());
        let leader = within(RECOVERY_MAX, cluster.leader(&[0, 1, 2])).await;
        assert!(leader.is_some(), "round {round}, {what}: no leader {RECOVERY_MAX:?} after all reach all");
        slowest = slowest.max(healed.elapsed());
        if round % 10 == 0 || round == rounds {
            let verdict = trial.judge().await;
            assert_same(&cluster, &[0, 1, 2]).await;
            println!("{round} partitions, the last {what}; slowest recovery {slowest:?}: {verdict:?}");
            assert!(verdict.written > 20 * round && verdict.read > 20 * round, "{verdict:?} was no load");
            trial.go_on();
        }
    }
}
