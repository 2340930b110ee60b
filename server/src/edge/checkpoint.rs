//! When the tree is written to its file, and how.
//!
//! A checkpoint begins when the heap frames near their limit, when much log would have to be replayed, or when the last
//! one is some time ago and something has changed. A background thread writes the pages in the order of the file, syncs,
//! writes the meta, syncs; then the store core lets readers use the map and the log core reuse its segments.
//!
//! A failed write is harmless (only unreachable pages were touched): the alarm is raised and it is tried again later. A
//! failed sync is not: what the page cache shows is no evidence of the disk any more, so the process ends.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use consensus::Index;
use engine::Store;
use engine::tree::Checkpoint;

use super::background::Background;
use super::clock::now;
use super::failpoint::{failpoint, fault};
use super::messages::{CheckpointError, ForStore};
use super::ring::Sender;
use super::shared::Shared;
use super::tree_file::TreeFile;
use crate::config::limits::LOG_SINCE_CHECKPOINT_BYTES_MAX;
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Bytes per `pwrite`.
const WRITE_BYTES: usize = 1 << 20;

/// A store that changed is written at least this often, so that a restart has little to replay.
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// After a failed write, how long until the next try.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Checkpoints after which no meta reaches what was freed before: the file has two.
const DEFRAGMENT_CHECKPOINTS: u8 = 2;

/// Decides about checkpoints; owned by the store core.
pub struct Checkpoints {
    file: Arc<TreeFile>,
    background: Background,
    answer: Arc<Mutex<Sender<ForStore>>>,
    shared: Arc<Shared>,
    running: Option<Running>,
    /// Index that the last completed one covers.
    covered: Index,
    last: Duration,
    retry_at: Duration,
    log_bytes: u64,
    /// Checkpoints to be made until the file can be cut: see [`Checkpoints::defragment`].
    defragment: u8,
    /// Since when.
    defragment_began: Duration,
}

struct Running {
    index: Index,
    started: Duration,
    log_bytes: u64,
    /// It is one of those that a Defragment waits for.
    defragments: bool,
}

impl Checkpoints {
    /// None under way. `answer` leads to the store core; `covered` is what the file held when it was opened.
    pub fn new(
        file: Arc<TreeFile>,
        background: Background,
        answer: Sender<ForStore>,
        covered: Index,
        shared: Arc<Shared>,
    ) -> Checkpoints {
        Checkpoints {
            file,
            background,
            answer: Arc::new(Mutex::new(answer)),
            shared,
            running: None,
            covered,
            last: now(),
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

    /// Bytes of log that a restart would replay.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes
    }

    /// Defragment: makes checkpoints until neither meta reaches anything freed by now, then cuts the file.
    pub fn defragment(&mut self) {
        if !self.is_defragmenting() {
            self.defragment_began = now();
            metrics::here().plain.defrag_inflight.set(1);
        }
        self.defragment = DEFRAGMENT_CHECKPOINTS;
        if let Some(running) = &mut self.running {
            running.defragments = false; // it began too early
        }
    }

    /// Whether one is being written.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The store is another one, in a file that covers this index. None must be running.
    pub fn replace(&mut self, file: Arc<TreeFile>, covered: Index) {
        self.file = file;
        self.covered = covered;
        self.last = now();
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
    pub fn begin_if_due(&mut self, store: &mut Store, now: Duration, compacting: bool) {
        let defragments = self.is_defragmenting() && !compacting;
        if self.running.is_some() || (now < self.retry_at && !defragments) {
            return;
        }
        let applied = Index(store.applied().index);
        let stale = now >= self.last + INTERVAL_MAX && applied > self.covered;
        let heap = store.tree().heap_bytes() >= self.shared.config.heap_limit_bytes / 2;
        // Without room for another segment, what the log holds must become reusable.
        let cramped = self.shared.is_log_space_lost() && applied > self.covered;
        if !(defragments || heap || stale || cramped || self.log_bytes >= LOG_SINCE_CHECKPOINT_BYTES_MAX / 2)
        {
            return;
        }
        let Some(checkpoint) = store.tree_mut().begin_checkpoint() else { return };
        self.running = Some(Running { index: applied, started: now, log_bytes: self.log_bytes, defragments });
        let (file, answer) = (self.file.clone(), self.answer.clone());
        self.background.run(move || {
            let mut checkpoint = Box::new(checkpoint);
            let result = write(&file, &mut checkpoint);
            let answer = answer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // One checkpoint is under way at most, so the ring has room.
            let _ = answer.push(ForStore::CheckpointDone(checkpoint, result));
            answer.flush();
        });
    }

    /// Whether heap frames have reached their limit: until the checkpoint under way ends, nothing more is applied.
    pub fn is_full(&self, store: &Store) -> bool {
        self.running.is_some() && store.tree().heap_bytes() >= self.shared.config.heap_limit_bytes
    }

    /// The background thread is done. `Some`: the log up to this index is not needed any more. `None`: there was no
    /// room; it will be tried again.
    ///
    /// # Errors
    /// A sync failed, or a write did for another reason than room: the process must end.
    pub fn end(
        &mut self,
        store: &mut Store,
        checkpoint: Checkpoint,
        result: Result<(), CheckpointError>,
    ) -> Result<Option<Index>, Fatal> {
        let Some(running) = self.running.take() else { return Ok(None) };
        match result {
            Ok(()) => {
                let frames = checkpoint.frames();
                store.tree_mut().end_checkpoint(checkpoint);
                failpoint("checkpoint-after-end");
                let took = now() - running.started;
                let metrics = &metrics::here().plain;
                metrics.checkpoint.observe_duration(took);
                metrics.backend_commit.observe_duration(took);
                metrics.checkpoint_pages.add(frames as u64);
                tracing::debug!(index = running.index.0, pages = frames, ?took, "wrote a checkpoint");
                self.covered = running.index;
                self.last = now();
                self.log_bytes -= running.log_bytes;
                if running.defragments {
                    self.defragment -= 1;
                    if self.defragment == 0 {
                        self.cut(store);
                    }
                }
                Ok(Some(running.index))
            }
            Err(CheckpointError::Write(error)) if is_full_disk(&error) => {
                store.tree_mut().abandon_checkpoint(checkpoint);
                self.retry_at = now() + RETRY_INTERVAL;
                self.defragment = 0;
                metrics::here().plain.defrag_inflight.set(0);
                metrics::here().plain.checkpoint_failures.inc();
                tracing::error!(%error, "no room to write a checkpoint; it will be tried again");
                Ok(None)
            }
            Err(CheckpointError::Write(error) | CheckpointError::Sync(error)) => Err(Fatal::new(
                FatalReason::CheckpointFailed,
                format!(
                    "a write or sync of the tree file failed: {error}; what was acknowledged is in the log"
                ),
            )),
        }
    }

    fn cut(&self, store: &mut Store) {
        let bytes = store.tree_mut().trim();
        if let Err(error) = self.file.trim(bytes) {
            tracing::warn!(%error, "cannot cut the tree file");
        }
        let cells = &metrics::here().plain;
        cells.defrag_inflight.set(0);
        cells.backend_defrag.observe_duration(now() - self.defragment_began);
    }
}

fn is_full_disk(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Writes a checkpoint of a tree that nobody reads yet. Runs on a background thread.
///
/// # Errors
/// Those of the file system; the tree is of no use then.
pub fn write_all(file: &TreeFile, checkpoint: &mut Checkpoint) -> std::io::Result<()> {
    match write(file, checkpoint) {
        Ok(()) => Ok(()),
        Err(CheckpointError::Write(error) | CheckpointError::Sync(error)) => Err(error),
    }
}

/// The five steps. Runs on the background thread.
fn write(file: &TreeFile, checkpoint: &mut Checkpoint) -> Result<(), CheckpointError> {
    use CheckpointError::{Sync, Write};
    failpoint("checkpoint-before-pages");
    file.grow_to_pages(checkpoint.file_pages()).map_err(Write)?;
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    while let Some(first) = checkpoint.fill(&mut buffer, WRITE_BYTES) {
        fault("checkpoint-write").and_then(|()| file.write_pages(first, &buffer)).map_err(Write)?;
        buffer.clear();
        failpoint("checkpoint-between-pages");
    }
    failpoint("checkpoint-before-sync");
    fault("checkpoint-sync").and_then(|()| file.sync()).map_err(Sync)?;
    failpoint("checkpoint-before-meta");
    let (slot, meta) = checkpoint.meta();
    // From here on the new version may be the durable one: a failure is as bad as that of a sync.
    fault("checkpoint-meta-write").and_then(|()| file.write_pages(slot, &meta[..])).map_err(Sync)?;
    failpoint("checkpoint-before-meta-sync");
    fault("checkpoint-meta-sync").and_then(|()| file.sync()).map_err(Sync)?;
    failpoint("checkpoint-after-meta-sync");
    Ok(())
}
