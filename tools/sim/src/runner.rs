//! Runs of plans: one, or many on several threads.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use node::trace::{Replay, Replayed};

use crate::check::Failure;
use crate::plan::{FaultKind, Plan};
use crate::queue::Time;
use crate::replayed::Life;
use crate::story::Story;
use crate::world::{Counters, Ended, World};

/// Bytes of a trace that are read at once.
const TRACE_PIECE_BYTES: usize = 1 << 20;

thread_local! {
    /// Where the last panic of this thread was, and what it said.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic is noted, not printed: in here it is a finding.
pub fn note_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<String>().cloned();
        let text = text.or_else(|| info.payload().downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let place = info.location().map_or(String::new(), |at| format!("{}:{}: ", at.file(), at.line()));
        PANIC.set(Some(format!("{place}{}", text.unwrap_or_default())));
    }));
}

fn live(world: &mut World) -> Ended {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|_| {
        let what = PANIC.take().unwrap_or_else(|| "a panic without a text".to_owned());
        let counters = world.counters();
        let failure = Failure { checker: "panic", what };
        Ended { counters, trace: 0, failure: Some((counters.simulated, failure)) }
    })
}

/// Runs a plan again, as it must have ended `before`, and tells all lives in it to other machines.
fn run_again(plan: &Plan, before: &Ended) -> Result<u64, Failure> {
    let mut world = World::new(plan, Story::default());
    world.record();
    let again = live(&mut world);
    if (again.trace, &again.counters) != (before.trace, &before.counters) {
        let what = format!("{:?} and {:?}", before.counters, again.counters);
        return Err(Failure { checker: "determinism", what });
    }
    world.into_lives().iter().map(Life::replay).sum()
}

/// Runs a plan. A panic of a member is a failure of the checker "panic".
pub fn run(plan: &Plan) -> Ended {
    run_and_tell(plan, Story::default()).0
}

/// Runs a plan and gives the last lines of its story.
pub fn run_and_tell(plan: &Plan, story: Story) -> (Ended, Vec<String>) {
    let mut world = World::new(plan, story);
    let ended = live(&mut world);
    let lines = world.story().tail(usize::MAX).collect();
    (ended, lines)
}

/// Tells a trace that a server wrote to a machine of its kind, piece by piece.
///
/// # Errors
/// Why it does not replay, or can't be read.
pub fn replay_trace(file: &Path) -> Result<Replayed, String> {
    let replay = || {
        let mut trace = File::open(file).map_err(|error| error.to_string())?;
        let (mut replay, mut piece) = (Replay::default(), vec![0; TRACE_PIECE_BYTES]);
        loop {
            match trace.read(&mut piece).map_err(|error| error.to_string())? {
                0 => return replay.finish().map_err(|error| error.to_string()),
                size => replay.push(&piece[..size]).map_err(|error| error.to_string())?,
            }
        }
    };
    let panicked = |_| Err(PANIC.take().unwrap_or_else(|| "a panic without a text".to_owned()));
    catch_unwind(replay).unwrap_or_else(panicked)
}

/// What many runs have come to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Seeds run.
    pub seeds: u64,
    /// Of these, run twice.
    pub twice: u64,
    /// Calls of machines in these that others were given, and answered the same.
    pub replayed: u64,
    /// All of them together.
    pub sum: Counters,
    /// Wall time of all threads together.
    pub took: Duration,
    /// By the kind of world, and (true) by the kind of fault that has happened in it.
    pub kinds: BTreeMap<(bool, String), Tally>,
    /// What failed.
    pub failed: Vec<(u64, Time, Failure)>,
}

/// Worlds of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// How many.
    pub worlds: u64,
    /// Of these, failed.
    pub failed: u64,
    /// Simulated time.
    pub simulated: Time,
}

impl Summary {
    fn add(&mut self, plan: &Plan, ended: Ended) {
        self.seeds += 1;
        self.sum.add(&ended.counters);
        let happened = FaultKind::ALL.iter().filter(|kind| ended.counters.faults[**kind as usize] > 0);
        let kinds = plan.kinds().into_iter().map(|kind| (false, kind.to_owned()));
        for kind in kinds.chain(happened.map(|kind| (true, format!("{kind:?}")))) {
            let tally = self.kinds.entry(kind).or_default();
            tally.worlds += 1;
            tally.failed += u64::from(ended.failure.is_some());
            tally.simulated += ended.counters.simulated;
        }
        if let Some((at, failure)) = ended.failure {
            self.failed.push((plan.seed, at, failure));
        }
    }
}

/// How far [`run_many`] goes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The seeds, one after the other.
    pub seeds: (u64, u64),
    /// Ends after so much simulated time, too.
    pub simulated: Option<Time>,
    /// Ends after so much wall time, too.
    pub wall: Option<Duration>,
    /// Ends after so many failures.
    pub failures: usize,
    /// Threads.
    pub jobs: usize,
    /// The planted bug that is on.
    pub planted: Option<&'static str>,
    /// Each seed has this many members, if not what it draws.
    pub members: Option<usize>,
}

/// The plan of a seed under these limits.
pub fn plan_of(seed: u64, members: Option<usize>) -> Plan {
    Plan::draw_for(seed, members)
}

/// Runs seeds on several threads. Every hundredth runs twice, and must do the same again; what its members were told is told to
/// others ([`crate::replayed`]).
pub fn run_many(limits: &Limits) -> Summary {
    let next = AtomicU64::new(limits.seeds.0);
    let stop = AtomicBool::new(false);
    let summary = Mutex::new(Summary::default());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..limits.jobs {
            scope.spawn(|| {
                plant(limits.planted);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let late = limits.wall.is_some_and(|wall| began.elapsed() > wall);
                    if seed >= limits.seeds.1 || late || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let began = Instant::now();
                    let plan = plan_of(seed, limits.members);
                    let mut ended = run(&plan);
                    let mut replayed = 0;
                    let twice = seed.is_multiple_of(100);
                    if twice && ended.failure.is_none() {
                        match run_again(&plan, &ended) {
                            Ok(calls) => replayed = calls,
                            Err(failure) => ended.failure = Some((0, failure)),
                        }
                    }
                    let mut summary = summary.lock().expect("nobody panics while holding it");
                    summary.twice += u64::from(twice);
                    summary.replayed += replayed;
                    summary.took += began.elapsed();
                    summary.add(&plan, ended);
                    let enough = limits.simulated.is_some_and(|most| summary.sum.simulated >= most);
                    if enough || summary.failed.len() >= limits.failures {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut summary = summary.into_inner().expect("nobody panicked while holding it");
    summary.failed.sort_by_key(|(seed, ..)| *seed);
    summary
}

/// Switches a planted bug on for this thread, or all off.
#[cfg(feature = "planted")]
pub fn plant(name: Option<&'static str>) {
    planted::switch(name);
}

/// Switches a planted bug on for this thread: not in this build.
#[cfg(not(feature = "planted"))]
pub fn plant(name: Option<&'static str>) {
    assert!(name.is_none(), "planted bugs need a build with --features planted");
}
