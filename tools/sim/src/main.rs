//! The command: see README.md.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use ringsim::check::Failure;
use ringsim::plan::Plan;
use ringsim::queue::{S, Time};
use ringsim::runner::{self, Limits, Summary, run_and_tell};
use ringsim::shrink::shrink;
use ringsim::story::Story;

/// As the server's. Worlds allocate much, and this takes a quarter less time over it than the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Simulates clusters of ringd members from seeds.
#[derive(Parser)]
#[command(name = "ringsim")]
struct Args {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Runs seeds.
    Run {
        /// One seed, with its story if it fails.
        #[arg(long)]
        seed: Option<u64>,
        /// Seeds A..B.
        #[arg(long, value_parser = parse_range)]
        seeds: Option<(u64, u64)>,
        /// Stops after so many simulated hours.
        #[arg(long)]
        hours: Option<f64>,
        /// Stops after so many minutes of wall time.
        #[arg(long)]
        minutes: Option<f64>,
        /// Threads; as many as there are CPUs if not given.
        #[arg(long)]
        jobs: Option<usize>,
        /// Every world has this many members.
        #[arg(long)]
        members: Option<usize>,
        /// A planted bug that is on (needs a build with --features planted).
        #[arg(long)]
        planted: Option<String>,
        /// Where plans of failing seeds are kept, made small.
        #[arg(long)]
        keep: Option<PathBuf>,
        /// Tells the story of the seed in any case.
        #[arg(long)]
        story: bool,
    },
    /// Runs plans that were kept.
    Replay {
        /// Files.
        plans: Vec<PathBuf>,
        /// Tells the story.
        #[arg(long)]
        story: bool,
    },
    /// Tells what real servers told their raft nodes, raft cores and store cores to others, and compares what they answer.
    ReplayTrace {
        /// Files that ringd wrote, built with the feature failpoints and started with RINGD_TRACE=<directory>.
        traces: Vec<PathBuf>,
    },
    /// Plants each bug in turn and says after how many seeds it is found (needs a build with --features planted).
    Bugs {
        /// Seeds A..B to look in.
        #[arg(long, value_parser = parse_range)]
        seeds: (u64, u64),
        /// Only this one.
        #[arg(long)]
        only: Option<String>,
    },
    /// Measures simulated seconds per second: three members, light load, one thread.
    Speed,
}

/// Failures after which a run of many seeds ends.
const FAILURES_MAX: usize = 3;

/// How long a failing plan is made smaller.
const SHRINK_PATIENCE: Duration = Duration::from_secs(60);

/// Lines of a story that are told.
const STORY_LINES: usize = 120;

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once("..").ok_or("seeds are A..B")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text}: {error}"));
    Ok((number(from)?, number(to)?))
}

fn main() -> ExitCode {
    runner::note_panics();
    match Args::parse().command {
        What::Run { seed: Some(seed), members, planted, keep, story, .. } => {
            runner::plant(planted.as_deref().map(known_bug));
            run_one(&runner::plan_of(seed, members), story, keep.as_deref())
        }
        What::Run { seeds, hours, minutes, jobs, members, planted, keep, .. } => {
            let limits = Limits {
                seeds: seeds.unwrap_or((0, u64::MAX)),
                simulated: hours.map(|hours| (hours * 3600.0) as Time * S),
                wall: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
                failures: FAILURES_MAX,
                jobs: jobs.unwrap_or_else(cpus),
                planted: planted.as_deref().map(known_bug),
                members,
            };
            run_many(&limits, keep.as_deref())
        }
        What::Replay { plans, story } => replay(&plans, story),
        What::ReplayTrace { traces } => replay_traces(&traces),
        What::Bugs { seeds, only } => bugs(seeds, only.as_deref()),
        What::Speed => speed(),
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn known_bug(name: &str) -> &'static str {
    let known = ringsim::bugs::ALL.iter().find(|bug| bug.name == name);
    known.unwrap_or_else(|| panic!("{name} is none of the planted bugs")).name
}

fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or("unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

fn print_failure(plan: &Plan, at: Time, failure: &Failure) {
    println!(
        "FAIL seed={} commit={} config={} checker={} at={:.6}s",
        plan.seed,
        commit(),
        plan.config_hash(),
        failure.checker,
        at as f64 / S as f64
    );
    println!("  {}", failure.what);
}

fn run_one(plan: &Plan, story: bool, keep: Option<&Path>) -> ExitCode {
    let (ended, lines) = run_and_tell(plan, Story::kept());
    if story || ended.failure.is_some() {
        lines.iter().skip(lines.len().saturating_sub(STORY_LINES)).for_each(|line| println!("{line}"));
    }
    println!("trace {:016x}  {:?}", ended.trace, ended.counters);
    let Some((at, failure)) = ended.failure else { return ExitCode::SUCCESS };
    print_failure(plan, at, &failure);
    keep_small(plan, &failure, keep);
    ExitCode::FAILURE
}

/// Makes a failing plan small and keeps it, so that every later check runs it.
fn keep_small(plan: &Plan, failure: &Failure, keep: Option<&Path>) {
    let Some(dir) = keep else { return };
    let (small, _, failure) = shrink(plan, failure.checker, SHRINK_PATIENCE);
    let file = dir.join(format!("{}-{}.json", plan.seed, failure.checker));
    let sizes = (plan.ops.len(), plan.faults.len(), small.ops.len(), small.faults.len());
    println!("  {} operations and {} faults made {} and {}", sizes.0, sizes.1, sizes.2, sizes.3);
    match std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, small.to_json())) {
        Ok(()) => println!("  ringsim replay --story {}", file.display()),
        Err(error) => println!("  cannot be kept as {}: {error}", file.display()),
    }
}

fn run_many(limits: &Limits, keep: Option<&Path>) -> ExitCode {
    let began = Instant::now();
    let summary = runner::run_many(limits);
    print_summary(&summary, began.elapsed());
    for (seed, at, failure) in &summary.failed {
        let plan = runner::plan_of(*seed, limits.members);
        print_failure(&plan, *at, failure);
        let members = limits.members.map_or(String::new(), |members| format!(" --members {members}"));
        let bug = limits.planted.map_or(String::new(), |bug| format!(" --planted {bug}"));
        println!("  ringsim run --seed {seed}{members}{bug}");
        if failure.checker != "determinism" {
            runner::plant(limits.planted);
            keep_small(&plan, failure, keep);
        }
    }
    if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_summary(summary: &Summary, took: Duration) {
    let hours = summary.sum.simulated as f64 / S as f64 / 3600.0;
    let per_core = summary.sum.simulated as f64 / S as f64 / summary.took.as_secs_f64().max(0.001);
    println!(
        "{} seeds ({} twice, {} calls replayed), {hours:.2} simulated hours in {:.0} s, {per_core:.0} simulated seconds per second and core",
        summary.seeds,
        summary.twice,
        summary.replayed,
        took.as_secs_f64()
    );
    println!("{:?}", summary.sum);
    println!("{:>24} {:>7} {:>7} {:>9}", "worlds of the kind", "passed", "failed", "hours");
    for ((_, kind), tally) in &summary.kinds {
        let hours = tally.simulated as f64 / S as f64 / 3600.0;
        println!("{kind:>24} {:>7} {:>7} {hours:>9.2}", tally.worlds - tally.failed, tally.failed);
    }
}

fn replay(plans: &[PathBuf], story: bool) -> ExitCode {
    let mut failed = false;
    for file in plans {
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string());
        let plan = match text.and_then(|text| Plan::from_json(&text)) {
            Ok(plan) => plan,
            Err(error) => {
                println!("{}: {error}", file.display());
                return ExitCode::FAILURE;
            }
        };
        let (ended, lines) = run_and_tell(&plan, if story { Story::kept() } else { Story::default() });
        lines.iter().for_each(|line| println!("{line}"));
        match ended.failure {
            None => println!("{}: passes", file.display()),
            Some((at, failure)) => {
                failed = true;
                print_failure(&plan, at, &failure);
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn replay_traces(traces: &[PathBuf]) -> ExitCode {
    let mut failed = false;
    for file in traces {
        match runner::replay_trace(file) {
            Ok(replayed) => println!("{}: the same, {replayed:?}", file.display()),
            Err(why) => {
                failed = true;
                println!("{}: {why}", file.display());
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Each bug is found, and the worlds that were lived through for it pass without it.
fn bugs(seeds: (u64, u64), only: Option<&str>) -> ExitCode {
    let mut wrong = 0;
    let mut sound = seeds.0; // worlds before this one have passed without any bug
    println!(
        "| bug | seeds until it is found | checker | seed | the same seeds without it |\n|---|---|---|---|---|"
    );
    for bug in ringsim::bugs::ALL.iter().filter(|bug| only.is_none_or(|only| only == bug.name)) {
        let found = runner::run_many(&limits_of(seeds, Some(bug.name)));
        let Some((seed, _, failure)) = found.failed.first() else {
            wrong += 1;
            println!("| {} | not in {} | | | |", bug.name, seeds.1 - seeds.0);
            continue;
        };
        let without = runner::run_many(&limits_of((sound, seed + 1), None));
        sound = sound.max(seed + 1);
        let passes = match without.failed.first() {
            None => "pass".to_owned(),
            Some((seed, at, failure)) => {
                wrong += 1;
                print_failure(&runner::plan_of(*seed, None), *at, failure);
                format!("{seed} FAILS")
            }
        };
        let count = seed - seeds.0 + 1;
        println!("| {} | {count} | {} | {seed} | {passes} |", bug.name, failure.checker);
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// As many threads as there are CPUs, up to the first failure.
fn limits_of(seeds: (u64, u64), planted: Option<&'static str>) -> Limits {
    Limits { seeds, simulated: None, wall: None, failures: 1, jobs: cpus(), planted, members: None }
}

fn speed() -> ExitCode {
    let plan = Plan::light(1, 600 * S);
    let began = Instant::now();
    let (ended, _) = run_and_tell(&plan, Story::default());
    let took = began.elapsed().as_secs_f64();
    let simulated = ended.counters.simulated as f64 / S as f64;
    println!("{:.0} simulated seconds per second: {:?}", simulated / took, ended.counters);
    match ended.failure {
        None => ExitCode::SUCCESS,
        Some((at, failure)) => {
            print_failure(&plan, at, &failure);
            ExitCode::FAILURE
        }
    }
}
