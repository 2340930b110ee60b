//! The tree file of a replayed store, in memory.
//!
//! A map's bytes must stay where they are for as long as it lives, and what readers see may only be added to. So what a checkpoint
//! writes lies beside what was there before, and nothing is given back while the replay lasts: it takes as much memory as its
//! checkpoints wrote.

use std::sync::OnceLock;

use engine::tree::{Checkpoint, Map, PAGE_SIZE, PageId};

/// Pages in a chunk of the table.
const CHUNK: usize = 1 << 12;

/// Chunks, so that the file has room for 64 GiB.
const CHUNKS: usize = 1 << 12;

/// See the module's header.
pub(super) struct File {
    /// What it began with.
    base: Vec<u8>,
    /// What was written since, by the page that it begins with.
    written: Box<[OnceLock<Chunk>]>,
}

type Chunk = Box<[OnceLock<Box<Written>>]>;

/// A page or a run of pages, and what took its place.
struct Written {
    bytes: Box<[u8]>,
    next: OnceLock<Box<Written>>,
}

impl File {
    pub fn new(base: Vec<u8>) -> File {
        File { base, written: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    /// Writes all of a checkpoint: each page of a node and each run as what it will be read as.
    pub fn write(&self, checkpoint: &mut Checkpoint) {
        let mut bytes = Vec::new();
        while let Some(first) = checkpoint.fill(&mut bytes, 1) {
            self.put(first, &bytes);
            bytes.clear();
        }
        let (slot, meta) = checkpoint.meta();
        self.put(slot, &meta[..]);
    }

    fn put(&self, first: PageId, bytes: &[u8]) {
        let chunk =
            self.written.get(first.0 as usize / CHUNK).expect("a replayed store is smaller than 64 GiB");
        let chunk = chunk.get_or_init(|| (0..CHUNK).map(|_| OnceLock::new()).collect());
        let mut place = &chunk[first.0 as usize % CHUNK];
        while let Some(written) = place.get() {
            place = &written.next;
        }
        let written = Box::new(Written { bytes: bytes.into(), next: OnceLock::new() });
        assert!(place.set(written).is_ok(), "one thread writes");
    }

    fn written(&self, first: PageId) -> Option<&Written> {
        let chunk = self.written.get(first.0 as usize / CHUNK)?.get()?;
        let mut last = chunk[first.0 as usize % CHUNK].get()?;
        while let Some(next) = last.next.get() {
            last = next;
        }
        Some(last)
    }
}

impl Map for File {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let bytes = (count as usize).checked_mul(PAGE_SIZE)?;
        if let Some(written) = self.written(first) {
            return written.bytes.get(..bytes);
        }
        let from = (first.0 as usize).checked_mul(PAGE_SIZE)?;
        self.base.get(from..from.checked_add(bytes)?)
    }
}
