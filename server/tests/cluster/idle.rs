//! A cluster that nobody uses sends heartbeats and nothing else.

use std::time::Duration;

use testkit::process;

use crate::{program, three};

/// Ticks and heartbeats are 10 per second, answered by two; each wakes one thread, and a few timers come on top.
const SLEEPS_PER_SECOND_MAX: u64 = 300;

#[tokio::test]
async fn an_idle_cluster_sleeps_between_heartbeats() {
    if !program().is_ringd() {
        return; // Go's runtime wakes its threads as it likes
    }
    let cluster = three();
    cluster.leader(&[0, 1, 2]).await;
    // What follows a start is not idleness.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let count = || cluster.members().iter().map(|member| process::sleeps(member.pid()).unwrap());
    let before: Vec<u64> = count().collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for ((member, before), after) in cluster.members().iter().zip(before).zip(count()) {
        let slept = after - before;
        assert!(slept < 3 * SLEEPS_PER_SECOND_MAX, "{} went to sleep {slept} times in 3 s", member.url());
    }
}
