//! kill -9 over and over, one member, two or all, while clients write down what they were told: it is always one store.

use std::time::{Duration, Instant};

use testkit::Cluster;
use testkit::history::Trial;

use crate::ask::{assert_same, others, until_put, within};
use crate::{chance, long_runs, options, program};

/// How long a cluster of which all members run may take until it writes.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

/// Who is killed.
async fn victims(cluster: &Cluster, draw: &mut impl FnMut(u64) -> u64) -> Vec<usize> {
    let one = draw(3) as usize;
    match draw(10) {
        0..3 => vec![one],
        3..6 => vec![cluster.leader(&[0, 1, 2]).await],
        6..8 => others(one).to_vec(),
        _ => vec![0, 1, 2],
    }
}

/// Starts them one after the other; some are killed again in the middle of it.
async fn bring_back(cluster: &mut Cluster, victims: &[usize], draw: &mut impl FnMut(u64) -> u64) {
    for &i in victims {
        tokio::time::sleep(Duration::from_millis(draw(300))).await;
        cluster.member(i).restart_unready();
        if draw(5) == 0 {
            tokio::time::sleep(Duration::from_millis(draw(200))).await;
            cluster.member(i).restart_unready();
        }
    }
    for &i in victims {
        cluster.member(i).wait_ready();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_reorder_nothing() {
    let cycles = if long_runs() { 500 } else { 10 };
    let (seed, mut draw) = chance();
    println!("seed {seed}");
    let options = match program().is_ringd() {
        // Small heaps let checkpoints fall into the time under load.
        true => options(program()).arg("--ringd-heap-limit=8388608"),
        false => options(program()),
    };
    let mut cluster = Cluster::start(options, 3);
    cluster.leader(&[0, 1, 2]).await;
    let urls: Vec<String> = cluster.members().iter().map(|member| member.url().to_owned()).collect();
    let mut trial = Trial::start(urls, 8, Duration::from_millis(4), seed);
    let (mut kills, mut slowest) = (0, Duration::ZERO);
    for cycle in 1..=cycles {
        tokio::time::sleep(Duration::from_millis(200 + draw(600))).await;
        let victims = victims(&cluster, &mut draw).await;
        victims.iter().for_each(|&i| cluster.member(i).kill());
        kills += victims.len();
        // As long as one is down the others may elect a leader, or not yet.
        tokio::time::sleep(Duration::from_millis(draw(2000))).await;
        bring_back(&mut cluster, &victims, &mut draw).await;
        let back = Instant::now();
        let leader = within(RECOVERY_MAX, cluster.leader(&[0, 1, 2])).await;
        assert!(leader.is_some(), "no leader {RECOVERY_MAX:?} after all are back in cycle {cycle}");
        slowest = slowest.max(back.elapsed());
        if cycle % 25 == 0 || cycle == cycles {
            let verdict = trial.judge().await;
            assert_same(&cluster, &[0, 1, 2]).await;
            println!("{cycle} cycles, {kills} kills, slowest recovery {slowest:?}: {verdict:?}");
            assert!(verdict.written > 20 * cycle, "{verdict:?} in {cycle} cycles was no load");
            assert!(
                verdict.read > 20 * cycle && verdict.unknown_happened + verdict.unknown_lost > 0,
                "{verdict:?}"
            );
            trial.go_on();
        }
    }
    until_put(&mut cluster.client(0).await, "end", "1").await;
}
