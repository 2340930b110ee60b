//! The paced scrub of the tree file: every page is verified now and then, whether anybody reads it or not.
//!
//! The store core hands the newest version to a background thread at a tick, the thread verifies a slice of it and
//! sleeps as it goes, and gives the pass back for the next tick. So no version is pinned for longer than a slice takes,
//! and the disk sees at most [`SCRUB_BYTES_PER_SECOND_MAX`]. Damage ends the process, as when a read meets it: the
//! copies that are whole are elsewhere, and this one must not be read or copied any more.
//!
//! A pass reads through the map: what is in the page cache is verified there, what is not comes from the disk.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engine::Store;
use engine::tree::{Damage, PAGE_SIZE, Scrub, Slice, Snapshot, check_metas};

use super::background::Background;
use super::shared::Shared;
use super::tree_file::TreeFile;
use crate::config::limits::SCRUB_BYTES_PER_SECOND_MAX;
use crate::observe::metrics;

/// Pages verified between two pauses of the thread: a 64th of a second's worth, 256 KiB.
const STEP_PAGES: u64 = SCRUB_BYTES_PER_SECOND_MAX / 64 / PAGE_SIZE as u64;

/// Steps of one slice: about half a second.
const SLICE_STEPS: usize = 32;

/// The first pass begins so long after a start, or after the interval if that is shorter: a start has enough to do.
const FIRST_DELAY_MAX: Duration = Duration::from_secs(600);

/// A slice's end, on its way back to the store core.
struct Done {
    scrub: Scrub,
    pages: u64,
    finished: bool,
}

/// Decides about passes; owned by the store core.
pub struct Scrubber {
    file: Arc<TreeFile>,
    shared: Arc<Shared>,
    /// A thread of its own: its slices sleep.
    own: Background,
    /// The thread that writes checkpoints: the metas are looked at between two of them.
    tree: Background,
    /// The meta that was damaged when the file was opened.
    known: Option<Damage>,
    answers: (crossbeam::channel::Sender<Done>, crossbeam::channel::Receiver<Done>),
    /// Between passes: when the next one begins. `None`: never.
    due: Option<Duration>,
    /// A pass that waits for its next slice.
    pass: Option<Scrub>,
    running: bool,
}

impl Scrubber {
    /// No pass under way; the first begins some time after `now`.
    pub fn new(
        file: Arc<TreeFile>,
        (own, tree): (Background, Background),
        known: Option<Damage>,
        shared: Arc<Shared>,
        now: Duration,
    ) -> Scrubber {
        let due = shared.config.scrub_interval.map(|interval| now + interval.min(FIRST_DELAY_MAX));
        let answers = crossbeam::channel::bounded(1); // one slice at a time
        Scrubber { file, shared, own, tree, known, answers, due, pass: None, running: false }
    }

    /// The store is another one, in another file: a pass begins anew.
    pub fn replace(&mut self, file: Arc<TreeFile>) {
        (self.file, self.known, self.pass) = (file, None, None);
        // What is under way looks at the old file, and its answer is not waited for.
        self.answers = crossbeam::channel::bounded(1);
        self.running = false;
    }

    /// Takes back a finished slice and begins the next one if it is time. Called at each tick.
    pub fn tick(&mut self, store: &Store, now: Duration) {
        if let Ok(done) = self.answers.1.try_recv() {
            self.running = false;
            self.count(&done, now);
            self.pass = Some(done.scrub).filter(|_| !done.finished);
        }
        if self.running {
            return;
        }
        if self.pass.is_none() && self.due.is_some_and(|due| now >= due) {
            self.due = None;
            self.pass = Some(Scrub::default());
            self.check_metas();
        }
        if let Some(scrub) = self.pass.take() {
            self.running = true;
            self.begin(scrub, store.tree().published());
        }
    }

    fn count(&mut self, done: &Done, now: Duration) {
        let cells = &metrics::here().plain;
        cells.scrub_pages.add(done.pages);
        if done.finished {
            cells.scrub_passes.inc();
            let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            cells.scrub_finished.set_unsigned(unix.as_secs());
            self.due = self.shared.config.scrub_interval.map(|interval| now + interval);
            tracing::debug!("verified every page of the tree file");
        }
    }

    fn begin(&self, mut scrub: Scrub, snapshot: Snapshot) {
        let (shared, answer) = (self.shared.clone(), self.answers.0.clone());
        self.own.run(move || {
            let slice = slice(&mut scrub, &snapshot)
                .unwrap_or_else(|damage| shared.tree_damaged_at(&damage, "the scrub"));
            drop(snapshot);
            // One slice is under way at most, so there is room.
            let _ = answer.send(Done { scrub, pages: slice.pages, finished: slice.finished });
        });
    }

    fn check_metas(&self) {
        let (file, shared, known) = (self.file.clone(), self.shared.clone(), self.known);
        self.tree.run(move || {
            if let Err(damage) = check_metas(&*file, known) {
                shared.tree_damaged_at(&damage, "the scrub");
            }
        });
    }
}

/// Verifies a slice, not faster than allowed.
fn slice(scrub: &mut Scrub, snapshot: &Snapshot) -> Result<Slice, Damage> {
    let mut all = Slice { pages: 0, finished: false };
    for _ in 0..SLICE_STEPS {
        let started = Instant::now();
        let step = scrub.step(snapshot, STEP_PAGES)?;
        all.pages += step.pages;
        all.finished = step.finished;
        // A large value may be more than a step: it is paid for.
        let share = Duration::from_secs_f64(
            (step.pages * PAGE_SIZE as u64) as f64 / SCRUB_BYTES_PER_SECOND_MAX as f64,
        );
        std::thread::sleep(share.saturating_sub(started.elapsed()));
        if all.finished {
            break;
        }
    }
    Ok(all)
}
