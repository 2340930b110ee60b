//! How the tree is written to its file; `node::store_core` decides when.
//!
//! A background thread writes the pages in the order of the file, a piece at a time so that the log's writes don't wait behind all
//! of them, syncs, writes the meta, syncs; then the store core lets readers use the map and the log core reuse its segments.
//!
//! A failed write is harmless (only unreachable pages were touched): the alarm is raised and it is tried again later. A
//! failed sync is not: what the page cache shows is no evidence of the disk any more, so the process ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use engine::tree::{Checkpoint, PAGE_SIZE};
use node::store_core::Written;

use super::background::Background;
use super::failpoint::{failpoint, fault};
use super::messages::{CheckpointDone, CheckpointError};
use super::ring::Sender;
use super::tree_file::TreeFile;
use super::writeback::Rest;
use crate::sys::{Fatal, FatalReason};

/// Bytes per `pwrite`, about.
const WRITE_BYTES: usize = 512 << 10;

/// Writes checkpoints; owned by the store core.
pub struct CheckpointWriter {
    file: Arc<TreeFile>,
    background: Background,
    answer: Arc<Mutex<Sender<CheckpointDone>>>,
    /// Somebody waits for the one under way.
    hurry: Arc<AtomicBool>,
}

impl CheckpointWriter {
    /// `answer` leads to the store core.
    pub fn new(
        file: Arc<TreeFile>,
        background: Background,
        answer: Sender<CheckpointDone>,
    ) -> CheckpointWriter {
        CheckpointWriter { file, background, answer: Arc::new(Mutex::new(answer)), hurry: Arc::default() }
    }

    /// Has it written; the answer comes through the ring.
    pub fn begin(&self, mut checkpoint: Box<Checkpoint>) {
        let (file, answer, hurry) = (self.file.clone(), self.answer.clone(), self.hurry.clone());
        self.background.run(move || {
            let result = write(&file, &mut checkpoint, Rest::Unless(&hurry));
            let answer = answer.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            // One checkpoint is under way at most, so the ring has room.
            let _ = answer.push(CheckpointDone { checkpoint, result });
            answer.flush();
        });
    }

    /// Whether somebody waits for the one under way: then the disk does not rest.
    pub fn hurry(&self, hurry: bool) {
        self.hurry.store(hurry, Ordering::Relaxed);
    }

    /// What the end of a checkpoint means.
    ///
    /// # Errors
    /// A sync failed, or a write did for another reason than room: the process must end.
    pub fn judge(result: Result<(), CheckpointError>) -> Result<Written, Fatal> {
        match result {
            Ok(()) => Ok(Written::Durable),
            Err(CheckpointError::Write(error)) if is_full_disk(&error) => {
                tracing::error!(%error, "no room to write a checkpoint; it will be tried again");
                Ok(Written::NoRoom)
            }
            Err(CheckpointError::Write(error) | CheckpointError::Sync(error)) => Err(Fatal::new(
                FatalReason::CheckpointFailed,
                format!(
                    "a write or sync of the tree file failed: {error}; what was acknowledged is in the log"
                ),
            )),
        }
    }

    /// The store is another one, in another file. No checkpoint must be under way.
    pub fn replace(&mut self, file: Arc<TreeFile>) {
        self.file = file;
    }

    /// Gives the file system back what lies above: nothing there is reachable.
    pub fn cut(&self, bytes: u64) {
        if let Err(error) = self.file.trim(bytes) {
            tracing::warn!(%error, "cannot cut the tree file");
        }
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
    match write(file, checkpoint, Rest::Never) {
        Ok(()) => Ok(()),
        Err(CheckpointError::Write(error) | CheckpointError::Sync(error)) => Err(error),
    }
}

/// The five steps. Runs on the background thread.
fn write(file: &TreeFile, checkpoint: &mut Checkpoint, rest: Rest<'_>) -> Result<(), CheckpointError> {
    use CheckpointError::{Sync, Write};
    failpoint("checkpoint-before-pages");
    file.grow_to_pages(checkpoint.file_pages()).map_err(Write)?;
    let mut buffer = Vec::with_capacity(WRITE_BYTES);
    let mut writeback = file.writeback(rest);
    while let Some(first) = checkpoint.fill(&mut buffer, WRITE_BYTES) {
        fault("checkpoint-write").and_then(|()| file.write_pages(first, &buffer)).map_err(Write)?;
        writeback.written(first.0 as u64 * PAGE_SIZE as u64, buffer.len() as u64).map_err(Sync)?;
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
