//! A file in memory-mapped form, and a disk that remembers what was synced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use memmap2::Mmap;

use super::super::{Checkpoint, Config, Identity, Map, PAGE_SIZE, PageId, Tree};

/// Address space of a test's map, in pages; the file is far shorter.
const MAP_PAGES: usize = 1 << 16;

pub const CONFIG: Config = Config { identity: Identity { cluster: 1, member: 2 }, nonce: 0 };

/// A temporary file and its map.
pub struct TestFile {
    pub file: File,
    map: Mmap,
}

impl TestFile {
    pub fn new() -> Arc<TestFile> {
        TestFile::with(&[])
    }

    pub fn with(bytes: &[u8]) -> Arc<TestFile> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        // SAFETY: the file is this process's alone; pages beyond its end are never given out, see `pages`.
        let map = unsafe { memmap2::MmapOptions::new().len(MAP_PAGES * PAGE_SIZE).map(&file) }.unwrap();
        Arc::new(TestFile { file, map })
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.file.metadata().unwrap().len() as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Writes and syncs a whole checkpoint.
    pub fn write(&self, checkpoint: &mut Checkpoint) {
        for (page, bytes) in writes(checkpoint) {
            self.file.write_all_at(&bytes, page.offset()).unwrap();
        }
        let (page, bytes) = checkpoint.meta();
        self.file.write_all_at(&bytes, page.offset()).unwrap();
    }

    pub fn checkpoint(&self, tree: &mut Tree) -> bool {
        let Some(mut checkpoint) = tree.begin_checkpoint() else { return false };
        self.write(&mut checkpoint);
        tree.end_checkpoint(checkpoint);
        true
    }
}

impl Map for TestFile {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let start = first.0 as usize * PAGE_SIZE;
        let end = start + count as usize * PAGE_SIZE;
        let len = self.file.metadata().unwrap().len() as usize;
        (end <= len).then(|| &self.map[start..end])
    }
}

/// All writes of a checkpoint but the meta's.
pub fn writes(checkpoint: &mut Checkpoint) -> Vec<(PageId, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let mut bytes = Vec::new();
        match checkpoint.fill(&mut bytes, 8 * PAGE_SIZE) {
            Some(page) => all.push((page, bytes)),
            None => return all,
        }
    }
}
