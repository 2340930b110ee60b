//! The log's segment files: created and pre-written in the background, opened for direct, synchronous writing by the
//! log core, and read back at start.
//!
//! A segment is written with zeros from end to end and synced before its first use, so that a log write never needs a
//! change of size or extent to become durable (which would cost a journal commit).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consensus::log::{NewSegment, SegmentId};
use glommio::io::{DmaFile, OpenOptions as DmaOpenOptions};

use super::failpoint::{failpoint, fault};
use super::writeback::{Rest, Writeback};

/// Zeros are written in steps of this size.
const ZERO_STEP: usize = 512 << 10;

/// Creates `segment` below `dir` under a temporary name, fills it with zeros, syncs it, renames it and syncs the
/// directory: a segment under its final name is always complete.
///
/// # Errors
/// Whatever the file system says; `StorageFull` in particular. A half-made file is removed.
pub fn prepare(dir: &Path, segment: &NewSegment) -> io::Result<()> {
    let final_path = dir.join(segment.id.file_name());
    let temporary = final_path.with_extension("new");
    write_zeros(&temporary, segment.size).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    failpoint("segment-before-rename");
    std::fs::rename(&temporary, &final_path)?;
    failpoint("segment-after-rename");
    File::open(dir)?.sync_all()
}

fn write_zeros(path: &Path, size: u64) -> io::Result<()> {
    fault("segment-write")?;
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let zeros = vec![0u8; ZERO_STEP];
    let mut writeback = Writeback::new(&file, Rest::Never); // the log may have filled the one before by now
    let mut at = 0;
    while at < size {
        let step = (size - at).min(ZERO_STEP as u64);
        (&file).write_all(&zeros[..step as usize])?;
        writeback.written(at, step)?;
        at += step;
    }
    failpoint("segment-before-sync");
    file.sync_all()
}

/// Opens a segment for the log core: `O_DIRECT | O_DSYNC`, so that the completion of a write is its durability.
pub async fn open_direct(dir: &Path, id: SegmentId) -> io::Result<DmaFile> {
    let path: PathBuf = dir.join(id.file_name());
    let file = DmaOpenOptions::new()
        .read(true) // glommio wants both for direct files
        .write(true)
        .custom_flags(libc::O_DSYNC)
        .dma_open(&path)
        .await
        .map_err(io::Error::from)?;
    // SAFETY: `file` owns the descriptor and outlives this borrow.
    lock(unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) })?;
    Ok(file)
}

/// How long a write of a predecessor that was killed may still be on its way to the disk.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);

/// Locks a segment's open file, waiting for a predecessor's last write.
///
/// After a kill -9 a direct write may still be in flight, and it may land after a successor has recovered the log. The
/// request holds the open file it goes through, and the kernel keeps that file's lock until the write is over: so the
/// log core locks every segment it writes through, and recovery locks every segment before it reads.
pub fn lock(file: impl AsFd) -> io::Result<()> {
    let give_up = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
