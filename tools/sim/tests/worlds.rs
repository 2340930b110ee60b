//! Some worlds, and what the simulator promises about itself. The many are run by `tools/check` with the command.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ringsim::plan::{FaultKind, Plan};
use ringsim::runner::{Limits, run, run_many};
use ringsim::{bugs, shrink};

/// Worlds of each size that are run here; the command runs more.
const SEEDS: u64 = 6;

/// Worlds of the default swarm that are run here.
const FIRST_WORLDS: u64 = 300;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

#[test]
fn worlds_of_every_size_pass_and_a_seed_is_a_world() {
    for members in [1, 3, 5] {
        for seed in 0..SEEDS {
            let plan = Plan::draw_for(seed, Some(members));
            let ended = run(&plan);
            assert_eq!(ended.failure, None, "ringsim run --seed {seed} --members {members}");
            assert!(ended.counters.answers > 0, "seed {seed}");
            if seed == 0 {
                let again = run(&plan);
                assert_eq!((again.trace, again.counters), (ended.trace, ended.counters), "{members} members");
            }
        }
    }
}

#[test]
fn a_plan_is_data_and_lives_the_same_after_a_file() {
    let plan = Plan::draw(7);
    let read = Plan::from_json(&plan.to_json()).expect("a plan as it was written");
    assert_eq!(run(&plan).trace, run(&read).trace);
    assert!(Plan::from_json("{}").is_err());
}

/// With windows of a few bytes, too.
#[test]
fn a_world_over_http2_is_the_same_each_time() {
    let tiny = |plan: &Plan| plan.kinds().contains(&"tiny windows") && !plan.faults.is_empty();
    let plan = (0..300).map(Plan::draw).find(tiny).expect("there is one among the first 300");
    let (ended, again) = (run(&plan), run(&plan));
    assert_eq!(ended.failure, None, "ringsim run --seed {}", plan.seed);
    assert_eq!((again.trace, again.counters), (ended.trace, ended.counters), "seed {}", plan.seed);
    assert!(ended.counters.opened > 0, "seed {}", plan.seed);
}

#[test]
fn plans_that_were_kept_pass() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for entry in std::fs::read_dir(dir).expect("the directory is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|ext| ext == "json") {
            let text = std::fs::read_to_string(&path).expect("readable");
            let plan = Plan::from_json(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(run(&plan).failure, None, "ringsim replay --story {}", path.display());
        }
    }
}

/// All faults and operations are drawn, in worlds of all sizes.
#[test]
fn the_swarm_draws_everything() {
    let (mut sizes, mut faults, mut ops) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for seed in 0..300 {
        let plan = Plan::draw(seed);
        sizes.insert(plan.config.members);
        faults.extend(plan.faults.iter().map(|fault| format!("{:?}", fault.kind)));
        ops.extend(plan.ops.iter().map(|op| format!("{:?}", op.kind)));
    }
    assert_eq!(sizes, BTreeSet::from([1, 3, 5]));
    assert_eq!((faults.len(), ops.len()), (17, 29), "{faults:?} {ops:?}");
}

/// The first worlds pass, and there are all kinds of them, all faults happen in them, and what is rare happens, too.
#[test]
fn the_first_worlds_pass_and_reach_what_is_rare() {
    let limits = Limits {
        seeds: (0, FIRST_WORLDS),
        simulated: None,
        wall: None,
        failures: 1,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        planted: None,
        members: None,
    };
    let summary = run_many(&limits);
    assert_eq!(summary.failed, [], "ringsim run --seed {:?}", summary.failed.first().map(|failed| failed.0));
    assert_eq!((summary.seeds, summary.twice), (FIRST_WORLDS, FIRST_WORLDS / 100));
    assert!(summary.replayed > 100 * summary.twice, "{} calls", summary.replayed);
    let kinds: Vec<_> = summary.kinds.iter().filter(|((is_fault, _), _)| !is_fault).collect();
    assert_eq!((kinds.len(), summary.kinds.len() - kinds.len()), (15, FaultKind::ALL.len()), "{kinds:?}");
    for (kind, tally) in &summary.kinds {
        assert!(tally.worlds >= 5, "{kind:?}: {tally:?}");
    }
    let founders = |members: &str| summary.kinds[&(false, members.to_owned())].worlds;
    let founders = founders("one member") + 3 * founders("three members") + 5 * founders("five members");
    let sum = &summary.sum;
    let rare = [
        ("members repaired", sum.repairs),
        ("snapshots taken", sum.snapshots),
        ("changes of the membership", sum.changes - founders),
        ("frames damaged and noticed", sum.damaged),
        ("snapshots resumed, times ten", 10 * sum.resumed),
        ("connections over HTTP/2", sum.opened),
        ("leases expired", sum.expiries),
        ("writes without space", sum.no_space),
        ("tree files cut", sum.cuts),
        ("rounds of an operator below a quota, times five", 5 * sum.operated),
        ("checkpoints of leases", sum.lease_checkpoints),
        ("compactions by the server itself", sum.own_compactions),
        ("lies of disks", sum.lies),
        ("lies found out", sum.found_out),
        ("worlds with too many lies, times ten", 10 * sum.beyond),
        ("leaders after the first ones", sum.leaders - FIRST_WORLDS),
        ("events watched", sum.watched),
    ];
    for (what, count) in rare {
        assert!(count >= 30, "{what}: only {count} in {FIRST_WORLDS} worlds");
    }
}

#[test]
fn kinds_of_faults_are_counted_at_their_places() {
    assert!(FaultKind::ALL.iter().enumerate().all(|(place, kind)| place == *kind as usize));
}

/// The checkers are able to fail: clocks that run three times as fast as the plan says end leases early.
#[test]
fn a_broken_promise_is_found_out_and_its_plan_made_small() {
    let found = (0..200).find_map(|seed| {
        let mut plan = Plan::draw_for(seed, Some(3));
        plan.config.clock_rates.fill(3000);
        plan.config.clock_rate_max = 1000;
        let failure = run(&plan).failure?;
        (failure.1.checker == "lease").then_some(plan)
    });
    let plan = found.expect("a lease that ends early is seen in one of the worlds");
    let (small, _, failure) = shrink::shrink(&plan, "lease", std::time::Duration::from_secs(30));
    assert_eq!(failure.checker, "lease");
    // How small, depends on how long it may take; what comes after the failure goes in any case.
    assert!(small.ops.len() < plan.ops.len(), "all of {} operations are left", plan.ops.len());
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable") {
        let path = entry.expect("readable").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_planted_bug_is_in_the_table_and_somewhere_in_the_code() {
    let mut files = Vec::new();
    for dir in ["consensus/src", "engine/src", "net/src", "server/node/src", "tools/sim/src"] {
        sources(&workspace().join(dir), &mut files);
    }
    let question = "planted::is(\"";
    let mut asked = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable").replace("\\\"", "\"");
        for (at, _) in text.match_indices(question) {
            let name = text[at + question.len()..].split('"').next().unwrap_or_default();
            asked.insert(name.to_owned());
        }
    }
    let listed: BTreeSet<String> = bugs::ALL.iter().map(|bug| bug.name.to_owned()).collect();
    assert_eq!(asked, listed, "the code asks for the left, the table lists the right");
    let readme = std::fs::read_to_string(workspace().join("tools/sim/README.md")).expect("readable");
    for bug in bugs::ALL {
        assert!(readme.contains(&format!("| `{}` |", bug.name)), "{} is not in the README's table", bug.name);
    }
}
