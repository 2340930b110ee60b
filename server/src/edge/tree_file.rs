//! The tree file on disk: opened, mapped read-only for readers, written by checkpoints.
//!
//! The address range is reserved once, far beyond the file's end, and never remapped; the file grows below it. The map
//! is read-only, so no stray write can reach the file. Writes go through the page cache (`pwrite`), so the map sees
//! them at once and readers never fault to the disk for a fresh page.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::tree::{Map, PAGE_SIZE, PageId};
use memmap2::{Mmap, MmapOptions};

use super::writeback::{Rest, Writeback};
use crate::sys::data_dir::TREE_FILE;

/// Address space reserved for the map when the kernel grants it; halved until it does.
const RESERVED_BYTES_MAX: usize = 1 << 40;

/// The file must be at least this large to be worth mapping; smaller reservations are refused.
const RESERVED_BYTES_MIN: usize = 1 << 30;

/// The tree file grows in steps of this many bytes, so that its length (and the file system's journal) rarely changes.
const GROWTH_BYTES: u64 = 16 << 20;

/// A new tree file has room for the metas, all zeros, so that one without any content has lost it.
const NEW_BYTES: u64 = 2 * PAGE_SIZE as u64;

/// Bytes read from the file at once where it is not read through the map.
const READ_BYTES: usize = 1 << 20;

/// The open file with its map. Shared: readers look through [`Map`], the background thread writes.
pub struct TreeFile {
    file: File,
    map: Mmap,
    /// Length of the file: how much of the map may be touched. Raised only after the file has grown.
    file_bytes: AtomicU64,
    /// What the file grows by is locked into memory.
    locked: AtomicBool,
}

impl TreeFile {
    /// Opens or creates the file below `dir`. The flag says whether it existed with content.
    pub fn open(dir: &Path) -> io::Result<(Arc<TreeFile>, bool)> {
        TreeFile::open_as(dir, TREE_FILE)
    }

    /// The same under another name.
    pub fn open_as(dir: &Path, name: &str) -> io::Result<(Arc<TreeFile>, bool)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(name))?;
        let found = file.metadata()?.len();
        if found == 0 {
            file.set_len(NEW_BYTES)?;
        }
        // A predecessor that was killed may have left its last meta in the page cache alone. What is opened from it will
        // free log segments, so it must not be lost in a power cut; and the file's name must not be either.
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        let map = reserve(&file)?;
        let file_bytes = AtomicU64::new(found.max(NEW_BYTES));
        Ok((Arc::new(TreeFile { file, map, file_bytes, locked: AtomicBool::new(false) }), found > 0))
    }

    /// Writes `bytes` at page `first`, growing the file when needed. Not durable before [`TreeFile::sync`].
    pub fn write_pages(&self, first: PageId, bytes: &[u8]) -> io::Result<()> {
        let at = first.0 as u64 * PAGE_SIZE as u64;
        self.grow_to(at + bytes.len() as u64)?;
        self.file.write_all_at(bytes, at)
    }

    /// Makes room for this many pages, so that writes below it don't change the file's length.
    pub fn grow_to_pages(&self, pages: u32) -> io::Result<()> {
        self.grow_to(u64::from(pages) * PAGE_SIZE as u64)
    }

    /// Has what is to be written from now on written back piece by piece.
    pub fn writeback<'a>(&'a self, rest: Rest<'a>) -> Writeback<'a> {
        Writeback::new(&self.file, rest)
    }

    /// Makes everything written so far survive a power cut.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Reads all of the file once, as the disk has it where the page cache could forget what is synced. So what can't be
    /// read is known before the map is looked at, which would end the process (SIGBUS).
    pub fn read_through(&self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed); // a hint
        for at in (0..self.bytes()).step_by(READ_BYTES) {
            let count = (self.bytes() - at).min(READ_BYTES as u64) as usize;
            self.file.read_exact_at(&mut buffer[..count], at)?;
        }
        Ok(())
    }

    /// Length of the file, in bytes.
    pub fn bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Acquire)
    }

    /// Cuts the file to `bytes`; the caller has shown that nothing above is reachable.
    pub fn trim(&self, bytes: u64) -> io::Result<()> {
        if bytes < self.bytes() {
            self.file_bytes.store(bytes, Ordering::Release);
            self.file.set_len(bytes)?;
        }
        Ok(())
    }

    fn grow_to(&self, bytes: u64) -> io::Result<()> {
        if bytes <= self.bytes() {
            return Ok(());
        }
        let length = bytes.next_multiple_of(GROWTH_BYTES);
        if length > self.map.len() as u64 {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the tree file outgrew its reserved address range",
            ));
        }
        rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, length)?;
        let before = self.file_bytes.swap(length, Ordering::AcqRel);
        if self.locked.load(Ordering::Relaxed)
            && let Err(error) = self.lock(before, length)
        {
            tracing::warn!(%error, bytes = length - before, "cannot lock what the tree file has grown by into memory");
        }
        Ok(())
    }

    /// `--memory-mlock`: from now on the file's pages stay in memory, also those that it will grow by. Reads all of it.
    ///
    /// # Errors
    /// mlock(2): `OutOfMemory` if that is more than may be locked.
    pub fn lock_in_memory(&self) -> io::Result<()> {
        self.locked.store(true, Ordering::Relaxed);
        self.lock(0, self.bytes())
    }

    fn lock(&self, from: u64, to: u64) -> io::Result<()> {
        let Some(range) = self.map.get(from as usize..to as usize) else { return Ok(()) };
        // SAFETY: the range is one of our own map, which lives until `self` is dropped; that its pages stay in memory
        // changes nothing that can be read there. A part that is later cut from the file is let go by the kernel.
        match unsafe { libc::mlock(range.as_ptr().cast(), range.len()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Fills the page table for the first `bytes` of the map, so that the first reads after a start don't fault.
    /// A hint: where the kernel refuses, reads fault as usual.
    pub fn populate(&self, bytes: u64) {
        const STEP: usize = 4 << 20;
        let end = bytes.min(self.bytes()) as usize;
        for at in (0..end).step_by(STEP) {
            if self.map.advise_range(memmap2::Advice::PopulateRead, at, STEP.min(end - at)).is_err() {
                return;
            }
        }
    }
}

impl Map for TreeFile {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let from = (first.0 as usize).checked_mul(PAGE_SIZE)?;
        let to = from.checked_add((count as usize).checked_mul(PAGE_SIZE)?)?;
        if to as u64 > self.bytes() {
            return None;
        }
        self.map.get(from..to)
    }
}

fn reserve(file: &File) -> io::Result<Mmap> {
    let mut length = RESERVED_BYTES_MAX;
    loop {
        // SAFETY: the map is read-only and shared. The file is ours alone (the data directory is locked); it changes
        // only through `write_pages`, on pages that no published version reaches, and shrinks only through `trim`
        // above every reachable page. `pages` hands out nothing beyond the file's length.
        match unsafe { MmapOptions::new().len(length).map(file) } {
            Ok(map) => return Ok(map),
            Err(error) if length <= RESERVED_BYTES_MIN => return Err(error),
            Err(_) => length /= 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_seen_through_the_map_and_nothing_beyond_the_file_is() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, existed) = TreeFile::open(dir.path()).unwrap();
        assert!(!existed);
        assert_eq!(tree.pages(PageId(0), 2).unwrap(), &[0; 2 * PAGE_SIZE][..]);
        assert!(tree.pages(PageId(2), 1).is_none());
        tree.write_pages(PageId(3), &[7; 2 * PAGE_SIZE]).unwrap();
        tree.sync().unwrap();
        assert_eq!(tree.pages(PageId(3), 2).unwrap(), &[7; 2 * PAGE_SIZE][..]);
        assert_eq!(tree.bytes(), GROWTH_BYTES);
        let pages = (GROWTH_BYTES / PAGE_SIZE as u64) as u32;
        assert!(tree.pages(PageId(pages - 1), 1).is_some());
        assert!(tree.pages(PageId(pages), 1).is_none());
        assert!(tree.pages(PageId(u32::MAX), u32::MAX).is_none());
        tree.trim(5 * PAGE_SIZE as u64).unwrap();
        assert!(tree.pages(PageId(5), 1).is_none());
        drop(tree);
        let (tree, existed) = TreeFile::open(dir.path()).unwrap();
        assert!(existed);
        assert_eq!(tree.pages(PageId(4), 1).unwrap(), &[7; PAGE_SIZE][..]);
    }
}
