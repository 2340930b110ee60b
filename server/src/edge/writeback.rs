//! Large writes that leave the disk to others in between.
//!
//! What a device has been handed is what the next write of the log waits behind, and a checkpoint may be hundreds of megabytes.
//! So what is written to a large file goes out in pieces: `sync_file_range(2)` has one written back and waits for it before the
//! next is begun; then the device rests for as long as that took, unless somebody waits for the end.
//!
//! This makes nothing durable: neither is the file's metadata written nor the device's cache emptied. What counts is the sync at
//! the end, which finds little left to do.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Bytes that are on their way to the device at a time, about. Few enough for a log write to pass soon, enough for the device to
/// reach its speed.
const PIECE_BYTES: u64 = 512 << 10;

/// The longest rest after a piece: a device that has stalled has rested.
const REST_MAX: Duration = Duration::from_millis(50);

/// Whether the device rests between pieces.
#[derive(Clone, Copy)]
pub enum Rest<'a> {
    /// Somebody waits for the end.
    Never,
    /// Somebody waits for the end while this is set.
    Unless(&'a AtomicBool),
}

/// Has what is written to a file written back piece by piece.
pub struct Writeback<'a> {
    file: &'a File,
    rest: Rest<'a>,
    /// What has been written since the last piece lies in here.
    range: Range<u64>,
    /// How much that is.
    bytes: u64,
    /// The file system knows nothing of it: the sync at the end does everything.
    refused: bool,
}

impl<'a> Writeback<'a> {
    /// Nothing is written yet.
    pub fn new(file: &'a File, rest: Rest<'a>) -> Writeback<'a> {
        Writeback { file, rest, range: 0..0, bytes: 0, refused: false }
    }

    /// So many bytes have been written at this offset, which should not lie below the last ones.
    ///
    /// # Errors
    /// Writing them back failed. As after a failed sync, what the page cache shows is no evidence of the disk any more, and no
    /// later sync reports it again.
    pub fn written(&mut self, at: u64, bytes: u64) -> io::Result<()> {
        let end = at + bytes;
        self.range = match self.bytes {
            0 => at..end,
            _ => self.range.start.min(at)..self.range.end.max(end),
        };
        self.bytes += bytes;
        if self.bytes < PIECE_BYTES || self.refused {
            return Ok(());
        }
        self.bytes = 0;
        let began = Instant::now();
        match write_back(self.file, &self.range) {
            Ok(()) => {}
            Err(error) if is_unknown(&error) => self.refused = true,
            Err(error) => return Err(error),
        }
        if self.rests() {
            std::thread::sleep(began.elapsed().min(REST_MAX));
        }
        Ok(())
    }

    fn rests(&self) -> bool {
        match self.rest {
            Rest::Never => false,
            Rest::Unless(hurry) => !hurry.load(Ordering::Relaxed),
        }
    }
}

/// The system call is not there, or not for such files.
fn is_unknown(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EOPNOTSUPP | libc::EPERM)
    )
}

/// Begins to write back what is dirty in the range, and waits until it is.
fn write_back(file: &File, range: &Range<u64>) -> io::Result<()> {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (at, bytes) = (range.start as libc::off64_t, (range.end - range.start) as libc::off64_t);
    // SAFETY: the call takes integers alone, and touches no memory of ours; the descriptor is borrowed from `file`, which is open.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at, bytes, all) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pieces_go_out_as_they_get_large_enough_and_the_file_is_as_if_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (paced, hurry) = (File::create_new(dir.path().join("paced")).unwrap(), AtomicBool::new(false));
        let plain = File::create_new(dir.path().join("plain")).unwrap();
        let mut writeback = Writeback::new(&paced, Rest::Unless(&hurry));
        let mut pieces = 0;
        for number in 0..40u64 {
            // With gaps, as the pages of a checkpoint have.
            let (at, content) = (number * (200 << 10), vec![number as u8; 100 << 10]);
            paced.write_all_at(&content, at).unwrap();
            plain.write_all_at(&content, at).unwrap();
            writeback.written(at, content.len() as u64).unwrap();
            pieces += u32::from(writeback.bytes == 0);
            assert!(writeback.bytes < PIECE_BYTES);
        }
        assert!(!writeback.refused);
        assert_eq!(pieces, 6, "one for each six of a hundred KiB");
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        assert!(read("paced") == read("plain"));
    }

    #[test]
    fn what_cannot_be_written_back_by_range_is_left_to_the_sync() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = File::from(OwnedFd::from(writer));
        let mut writeback = Writeback::new(&file, Rest::Never);
        writeback.written(0, PIECE_BYTES).unwrap();
        assert!(writeback.refused);
        writeback.written(PIECE_BYTES, PIECE_BYTES).unwrap();
    }
}
