//! The member's files: the tree file with its map, and the segments of the log in their directory.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consensus::log::{NewSegment, ReadError, SegmentId, SegmentInfo, SegmentReader, WritePlan};
use engine::tree::{Map, PAGE_SIZE, PageId};
use memmap2::{Mmap, MmapOptions};

use medium::Medium;
use medium::rng::Rng;

/// Address space of the tree's map, in bytes; the file stays far below.
const MAP_BYTES: usize = 64 << 20;

/// The tree file grows in steps of this many bytes: small, so that it grows often.
const GROWTH_BYTES: usize = 64 << 10;

/// The page cache of the tree file, as the store maps it.
pub struct TreeCache {
    file: File,
    map: Mmap,
    len: AtomicUsize,
}

impl TreeCache {
    fn new() -> TreeCache {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(MAP_BYTES as u64).expect("a sparse file");
        // SAFETY: the file is this process's alone and keeps its length. It changes through `write` only: by a
        // checkpoint, on pages that no published version reaches, or when no store is open.
        let map = unsafe { MmapOptions::new().len(MAP_BYTES).map(&file) }.expect("a map");
        TreeCache { file, map, len: AtomicUsize::new(0) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, at as u64).expect("the temporary file is writable");
    }

    fn set_len(&self, len: usize) {
        let before = self.len.swap(len, Ordering::Relaxed);
        if len > before {
            self.write(before, &vec![0; len - before]);
        }
    }
}

impl Map for TreeCache {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let from = first.0 as usize * PAGE_SIZE;
        let to = from.checked_add(count as usize * PAGE_SIZE)?;
        (to <= self.len.load(Ordering::Relaxed)).then(|| &self.map[from..to])
    }
}

/// The tree file: what readers see, and what a power cut would leave.
pub struct TreeDisk {
    pub cache: Arc<TreeCache>,
    medium: Medium,
}

impl TreeDisk {
    pub fn new() -> TreeDisk {
        TreeDisk { cache: Arc::new(TreeCache::new()), medium: Medium::default() }
    }

    pub fn len(&self) -> usize {
        self.medium.len()
    }

    pub fn grow_to_pages(&mut self, pages: u32) {
        let len = (pages as usize * PAGE_SIZE).next_multiple_of(GROWTH_BYTES);
        assert!(len <= MAP_BYTES, "the workload is too large for the map");
        if len > self.len() {
            self.cache.set_len(len);
            self.medium.set_len(len);
        }
    }

    pub fn trim(&mut self, len: usize) {
        if len < self.len() {
            self.cache.set_len(len);
            self.medium.set_len(len);
        }
    }

    pub fn write(&mut self, first: PageId, bytes: &[u8]) {
        let at = first.0 as usize * PAGE_SIZE;
        self.grow_to_pages(((at + bytes.len()) / PAGE_SIZE) as u32);
        self.cache.write(at, bytes);
        self.medium.write(at, bytes);
    }

    pub fn sync(&mut self) {
        self.medium.sync();
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        self.medium.cut_power(rng);
        let image = self.medium.image();
        self.cache.set_len(0);
        self.cache.set_len(image.len());
        self.cache.write(0, &image);
    }
}

struct Segment {
    medium: Medium,
    /// The directory was synced since the file got its name.
    named: bool,
}

/// The log's directory.
#[derive(Default)]
pub struct LogDisk {
    segments: BTreeMap<SegmentId, Segment>,
    /// The one direct write that was submitted and has not completed.
    in_flight: Option<(WritePlan, Vec<u8>)>,
}

impl LogDisk {
    /// A prepared segment gets its name: written with zeros and synced, but its directory is not.
    pub fn name(&mut self, new: &NewSegment) {
        let segment = Segment { medium: Medium::zeros(new.size as usize), named: false };
        self.segments.insert(new.id, segment);
    }

    pub fn sync_directory(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.named = true);
    }

    pub fn submit(&mut self, plan: WritePlan, bytes: Vec<u8>) {
        assert!(self.in_flight.is_none(), "one write at a time");
        assert_eq!(bytes.len(), plan.len);
        self.in_flight = Some((plan, bytes));
    }

    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The write in flight completes: durable, or (for a planted fault) only in a cache.
    pub fn complete(&mut self, durable: bool) {
        let (plan, bytes) = self.in_flight.take().expect("a write is in flight");
        let medium = self.medium(plan.segment);
        match durable {
            true => medium.write_through(plan.offset as usize, &bytes),
            false => medium.write(plan.offset as usize, &bytes),
        }
    }

    /// fdatasync of every segment.
    pub fn sync(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.medium.sync());
    }

    fn medium(&mut self, id: SegmentId) -> &mut Medium {
        &mut self.segments.get_mut(&id).expect("writes go to segments that exist").medium
    }

    /// The process ends. Some of the write in flight arrives, in the device's cache at least.
    fn land(&mut self, rng: &mut Rng) {
        if let Some((plan, bytes)) = self.in_flight.take() {
            self.medium(plan.segment).write_torn(plan.offset as usize, &bytes, rng);
        }
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        self.segments.retain(|_, segment| segment.named || rng.permille(500));
        for segment in self.segments.values_mut() {
            segment.medium.cut_power(rng);
            segment.named = true;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What a starting process reads.
    pub fn image(&self) -> LogImage {
        LogImage(
            self.segments.iter().map(|(id, segment)| (*id, segment.medium.image().into_owned())).collect(),
        )
    }
}

/// Segments as they are read back.
pub struct LogImage(BTreeMap<SegmentId, Vec<u8>>);

impl SegmentReader for LogImage {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.0.iter().map(|(id, bytes)| SegmentInfo { id: *id, size: bytes.len() as u64 }).collect()
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let bytes = self.0.get(&segment).ok_or(ReadError)?;
        buf.copy_from_slice(bytes.get(offset as usize..offset as usize + buf.len()).ok_or(ReadError)?);
        Ok(())
    }
}

/// Everything that outlives the process.
pub struct Disk {
    pub tree: TreeDisk,
    pub log: LogDisk,
}

impl Disk {
    pub fn new() -> Disk {
        Disk { tree: TreeDisk::new(), log: LogDisk::default() }
    }

    /// Whether a power cut would leave what a read shows.
    pub fn is_synced(&self) -> bool {
        let segment = |segment: &Segment| segment.named && segment.medium.is_synced();
        self.tree.medium.is_synced() && self.log.segments.values().all(segment)
    }

    /// kill -9: the page cache stays, with all that was never synced in it.
    pub fn kill(&mut self, rng: &mut Rng) {
        self.log.land(rng);
    }

    /// The power fails.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        self.log.land(rng);
        self.log.cut_power(rng);
        self.tree.cut_power(rng);
    }
}
