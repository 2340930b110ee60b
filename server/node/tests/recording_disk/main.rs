//! A member on a recording disk: whatever a crash leaves, what was acknowledged is there.
//!
//! kill -9 alone proves little about durability, because the page cache outlives the process. Here the disk is virtual: it
//! records every write and every sync of the log's segments and of the tree file, and after a crash it gives back an image
//! that those would allow, with any sectors that were not synced lost, torn or kept. The member is the real one: Raft node,
//! log, store and checkpoints, joined as the server's edge joins them.
//!
//! A seed is a world: its workload, its schedule, its crashes. Each life of the process ends between any two of its steps,
//! by a kill (caches stay, synced or not) or a power cut; then the next one starts from what is found and goes on. Checked
//! at each start, and again and again in between, against a model of some hundred lines:
//!
//! - the state found is the model's after some entry, and no acknowledged one is missing after it;
//! - keys, leases, attached keys, membership, compactions and revisions are the model's, at the newest and at old revisions;
//! - HashKV is that of the same log replayed on a store without a disk;
//! - the tree file is sound page by page, its bitmap too; no checkpoint holds what the log could still lose.
//!
//! A test that finds nothing must be able to find something: [`fault::Fault`] plants one mistake at a time, and each must be
//! found within a number of seeds.
//!
//! `RINGD_SEEDS=n` runs n worlds instead of the usual number (and counts in how many of n each planted fault is found);
//! `RINGD_SEED=s` runs that one alone; `RINGD_NIGHTLY` means many.

mod checks;
mod disk;
mod fault;
mod life;
mod model;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use fault::Fault;
use world::{Counters, World};

/// Worlds in an ordinary run.
const SEEDS: u64 = 800;

/// Worlds of `tools/check --nightly`.
const SEEDS_NIGHTLY: u64 = 20_000;

/// A planted fault must be found in one of so many.
const SEEDS_WITH_FAULT: u64 = 600;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// The first thing that goes wrong; a panic is one too.
fn run(seed: u64, fault: Fault) -> Result<Counters, String> {
    let run = || {
        let mut world = World::new(seed, fault);
        world.run().map(|()| world.counters)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn acknowledged_writes_survive_every_crash() {
    let usual = if std::env::var_os("RINGD_NIGHTLY").is_some() { SEEDS_NIGHTLY } else { SEEDS };
    let seeds = match number("RINGD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGD_SEEDS").unwrap_or(usual),
    };
    let (count, mut sum) = (seeds.end - seeds.start, Counters::default());
    for seed in seeds {
        match run(seed, Fault::None) {
            Ok(counters) => sum.add(&counters),
            Err(why) => panic!("seed {seed}: {why}\nagain with RINGD_SEED={seed}"),
        }
    }
    println!("{sum:#?}");
    if count >= SEEDS {
        check_that_it_happened(&sum);
    }
}

/// What these worlds are for has happened in some of them.
fn check_that_it_happened(sum: &Counters) {
    let Counters { hit, .. } = sum;
    for (phase, times) in hit.iter().enumerate() {
        assert!(*times > 0, "no crash hit phase {phase} of a checkpoint: {sum:?}");
    }
    let rare = [
        ("kills", sum.kills),
        ("power cuts", sum.power_cuts),
        ("checkpoints", sum.checkpoints),
        ("abandoned checkpoints", sum.abandoned),
        ("finished compactions", sum.compactions),
        ("crashes during a log write", sum.hit_log_write),
        ("torn tails", sum.torn_tails),
        ("unacknowledged entries that stayed", sum.unacknowledged_kept),
        ("starts from a checkpoint", sum.opened),
        ("starts from a file without one", sum.empty),
        ("starts on an unsynced page cache", sum.unsynced_starts),
    ];
    for (what, times) in rare {
        assert!(times >= 10, "{times} {what}: {sum:?}");
    }
}

#[test]
fn a_seed_is_a_world() {
    let again = || format!("{:?}", run(1, Fault::None).expect("a sound world"));
    assert_eq!(again(), again());
}

#[test]
fn every_planted_fault_is_found() {
    let mut missed = Vec::new();
    for fault in Fault::ALL {
        let found = |seed| Some((seed, run(seed, fault).err()?));
        match number("RINGD_SEEDS") {
            // how often, to see which faults are found by luck only
            Some(count) => {
                let times = (0..count).filter_map(found).count();
                println!("{fault:?}: found in {times} of {count} worlds");
            }
            None => match (0..SEEDS_WITH_FAULT).find_map(found) {
                Some((seed, why)) => println!("{fault:?}: seed {seed}: {why}"),
                None => missed.push(fault),
            },
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_WITH_FAULT} worlds: {missed:?}");
}
