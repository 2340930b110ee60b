//! When the tree is written to its file.
//!
//! A checkpoint begins when the heap frames near their limit, when much log would have to be replayed, when the log has no
//! room left, or when the last one is some time ago and something has changed, be it by slices of a compaction. When it is
//! durable readers may use the map, and the log core may reuse its segments. One for which there is no room is given up and
//! tried again.
//!
//! A Defragment makes two: after them neither of the file's metas reaches anything that was freed before, and the file can be
//! cut.

use std::time::Duration;

use consensus::Index;
use engine::Store;
use engine::tree::Checkpoint;

use super::{Present, Settings};

/// After one for which there was no room, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Checkpoints after which no meta reaches what was freed before: the file has two.
const DEFRAGMENT_CHECKPOINTS: u8 = 2;

/// Decides about checkpoints; owned by the store core.
pub(super) struct Checkpoints {
    running: Option<Running>,
    /// Index that the last completed one covers.
    covered: Index,
    /// Slices of a compaction have changed pages since the last one began: behind the entry that asked for it, and without another.
    sliced: bool,
    last: Duration,
    retry_at: Duration,
    log_bytes: u64,
    /// Checkpoints to be made until the file can be cut: see [`Checkpoints::defragment`].
    defragment: u8,
    /// Since when.
    defragment_began: Duration,
}

struct Running {
    covers: Index,
    began: Duration,
    log_bytes: u64,
    /// It is one of those that a Defragment waits for.
    defragments: bool,
}

/// What becomes of a Defragment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Defragment {
    /// Its checkpoints are the next ones.
    Begins,
    /// So are those of the one before, which are its own, too.
    Joins,
    /// Those of an earlier one have begun, and may leave what was freed since then.
    Waits,
}

/// A checkpoint that is durable.
pub(super) struct Ended {
    /// The log up to here is not needed any more.
    pub covers: Index,
    pub took: Duration,
    /// The file is to be cut to so many bytes, for a Defragment that took so long.
    pub cut: Option<(u64, Duration)>,
}

impl Checkpoints {
    /// None under way; the file covers this index.
    pub fn new(covered: Index, now: Duration) -> Checkpoints {
        Checkpoints {
            running: None,
            covered,
            sliced: false,
            last: now,
            retry_at: Duration::ZERO,
            log_bytes: 0,
            defragment: 0,
            defragment_began: Duration::ZERO,
        }
    }

    /// The store applied an entry of this many bytes.
    pub fn applied_bytes(&mut self, bytes: usize) {
        self.log_bytes += bytes as u64;
    }

    /// A slice of a compaction has changed the store.
    pub fn sliced(&mut self) {
        self.sliced = true;
    }

    /// Bytes of log that a restart would replay.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Makes checkpoints until neither meta reaches anything freed by now, if none are being made for an earlier Defragment.
    pub fn defragment(&mut self, now: Duration) -> Defragment {
        if self.is_defragmenting() {
            let has_begun = self.running.as_ref().is_some_and(|running| running.defragments);
            let is_first = self.defragment == DEFRAGMENT_CHECKPOINTS && !has_begun;
            return if is_first { Defragment::Joins } else { Defragment::Waits };
        }
        self.defragment_began = now;
        self.defragment = DEFRAGMENT_CHECKPOINTS;
        if let Some(running) = &mut self.running {
            running.defragments = false; // it began too early
        }
        Defragment::Begins
    }

    /// Whether one is being written.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The store is another one, in a file that covers this index. None must be running.
    pub fn replace(&mut self, covered: Index, now: Duration) {
        self.covered = covered;
        self.sliced = false;
        self.last = now;
        self.log_bytes = 0;
    }

    /// Whether a Defragment is not over yet.
    pub fn is_defragmenting(&self) -> bool {
        self.defragment > 0
    }

    /// Whether a version should be published so that a Defragment has one to write.
    pub fn wants_version(&self) -> bool {
        self.is_defragmenting() && self.running.is_none()
    }

    /// Begins a checkpoint of the last published version if one is due. A Defragment waits for a compaction to end.
    pub fn begin_if_due(
        &mut self,
        store: &mut Store,
        present: Present,
        settings: &Settings,
        compacting: bool,
    ) -> Option<(Checkpoint, Index)> {
        let now = present.now;
        let defragments = self.is_defragmenting() && !compacting;
        if self.running.is_some() || (now < self.retry_at && !defragments) {
            return None;
        }
        let covers = Index(store.applied().index);
        let is_news = covers > self.covered;
        let stale = now >= self.last + settings.checkpoint_interval && (is_news || self.sliced);
        let heap = store.tree().heap_bytes() >= settings.heap_limit_bytes / 2;
        // Without room for another segment, what the log holds must become reusable.
        let cramped = present.cramped && is_news;
        let log = self.log_bytes >= settings.log_bytes_max / 2;
        if !(defragments || heap || stale || cramped || log) {
            return None;
        }
        let checkpoint = store.tree_mut().begin_checkpoint()?;
        self.sliced = false;
        self.running = Some(Running { covers, began: now, log_bytes: self.log_bytes, defragments });
        Some((checkpoint, covers))
    }

    /// The one under way is durable.
    pub fn end(&mut self, store: &mut Store, checkpoint: Checkpoint, now: Duration) -> Option<Ended> {
        let running = self.running.take()?;
        store.tree_mut().end_checkpoint(checkpoint);
        self.covered = running.covers;
        self.last = now;
        self.log_bytes -= running.log_bytes;
        let mut cut = None;
        if running.defragments {
            self.defragment -= 1;
            if self.defragment == 0 {
                cut = Some((store.tree_mut().trim(), now.saturating_sub(self.defragment_began)));
            }
        }
        Some(Ended { covers: running.covers, took: now.saturating_sub(running.began), cut })
    }

    /// There was no room for the one under way, nor is there for what a Defragment waits for.
    pub fn give_up(&mut self, store: &mut Store, checkpoint: Checkpoint, now: Duration) {
        self.running = None;
        self.sliced = true; // perhaps
        store.tree_mut().abandon_checkpoint(checkpoint);
        self.retry_at = now + RETRY_INTERVAL;
        self.defragment = 0;
    }
}
