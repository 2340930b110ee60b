//! What outlives a process: the tree file with its map, and the segments of the log in their directory.
//!
//! Sectors, not files, are what survives or does not (the crate [`medium`]). The log's writes are direct and synchronous: one that
//! completed is durable, of one that did not some sectors may be. The tree's go to a page cache, which a kill leaves as it
//! is and a power cut drops.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use consensus::log::{NewSegment, ReadError, SegmentId, SegmentInfo, SegmentReader, WritePlan};
use engine::tree::{Map, PAGE_SIZE, PageId};
use medium::{Lie, Medium};
use memmap2::{Mmap, MmapOptions};

use crate::rng::Rng;

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
        let file = rustix::fs::memfd_create("ringsim-tree", rustix::fs::MemfdFlags::CLOEXEC)
            .expect("memory for a file");
        let file = File::from(file);
        file.set_len(MAP_BYTES as u64).expect("a sparse file");
        // SAFETY: the file is this process's alone and keeps its length. It changes through `write` only: by a
        // checkpoint, on pages that no published version reaches, or when no store is open.
        let map = unsafe { MmapOptions::new().len(MAP_BYTES).map(&file) }.expect("a map");
        TreeCache { file, map, len: AtomicUsize::new(0) }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, at as u64).expect("the file in memory is writable");
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
    /// What readers see.
    pub cache: Arc<TreeCache>,
    medium: Medium,
}

impl Default for TreeDisk {
    fn default() -> TreeDisk {
        TreeDisk { cache: Arc::new(TreeCache::new()), medium: Medium::default() }
    }
}

impl TreeDisk {
    /// Bytes in the file.
    pub fn len(&self) -> usize {
        self.medium.len()
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// By how many bytes the file must grow to hold so many pages.
    pub fn growth_to_pages(&self, pages: u32) -> usize {
        (pages as usize * PAGE_SIZE).next_multiple_of(GROWTH_BYTES).saturating_sub(self.len())
    }

    /// Makes room.
    pub fn grow_to_pages(&mut self, pages: u32) {
        let len = (pages as usize * PAGE_SIZE).next_multiple_of(GROWTH_BYTES);
        assert!(len <= MAP_BYTES, "the workload is too large for the map");
        if len > self.len() {
            self.cache.set_len(len);
            self.medium.set_len(len);
        }
    }

    /// Cuts the file.
    pub fn trim(&mut self, len: usize) {
        if len < self.len() {
            self.cache.set_len(len);
            self.medium.set_len(len);
        }
    }

    /// Writes to the page cache.
    pub fn write(&mut self, first: PageId, bytes: &[u8]) {
        let at = first.0 as usize * PAGE_SIZE;
        self.grow_to_pages(((at + bytes.len()) / PAGE_SIZE) as u32);
        self.cache.write(at, bytes);
        self.medium.write(at, bytes);
    }

    /// fdatasync.
    pub fn sync(&mut self) {
        self.medium.sync();
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        self.medium.cut_power(rng);
        let image = self.medium.image();
        self.cache.len.store(image.len(), Ordering::Relaxed);
        self.cache.write(0, &image);
    }

    fn lie(&mut self, lie: DiskLie, rng: &mut Rng) -> bool {
        let mut stale = self.medium.clone(); // as it is read, once
        let medium = if lie == DiskLie::Stale { &mut stale } else { &mut self.medium };
        let lied = medium.lie(lie.of_medium(), 0..medium.len(), rng);
        self.cache.write(0, &medium.image());
        lied
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
    /// The last one that has, and those behind it that had not when their process ended and may have arrived all the
    /// same, one per life: nothing later says yet that any of them was durable.
    unproven: Vec<WritePlan>,
    /// What a segment reads as until the next write.
    stale: Option<(SegmentId, Vec<u8>)>,
}

impl LogDisk {
    /// A prepared segment gets its name: written with zeros and synced, but its directory is not.
    pub fn name(&mut self, new: &NewSegment) {
        let segment = Segment { medium: Medium::zeros(new.size as usize), named: false };
        self.segments.insert(new.id, segment);
    }

    /// fsync of the directory.
    pub fn sync_directory(&mut self) {
        self.segments.values_mut().for_each(|segment| segment.named = true);
    }

    /// Begins a direct write.
    pub fn submit(&mut self, plan: WritePlan, bytes: Vec<u8>) {
        assert!(self.in_flight.is_none(), "one write at a time");
        assert_eq!(bytes.len(), plan.len);
        self.stale = None;
        self.in_flight = Some((plan, bytes));
    }

    /// Whether a write is under way.
    pub fn is_writing(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The write in flight completes and is durable.
    pub fn complete(&mut self) {
        let (plan, bytes) = self.in_flight.take().expect("a write is in flight");
        self.unproven = vec![plan];
        self.medium(plan.segment).write_through(plan.offset as usize, &bytes);
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
            self.unproven.push(plan);
            self.medium(plan.segment).write_torn(plan.offset as usize, &bytes, rng);
        }
    }

    fn cut_power(&mut self, rng: &mut Rng) {
        self.stale = None;
        self.segments.retain(|_, segment| segment.named || rng.permille(500));
        for segment in self.segments.values_mut() {
            segment.medium.cut_power(rng);
            segment.named = true;
        }
    }

    /// The disk lies about a batch that a later one has proven durable.
    fn lie(&mut self, lie: DiskLie, rng: &mut Rng) -> bool {
        let ids: Vec<SegmentId> = self.segments.keys().copied().collect();
        if self.unproven.is_empty() || ids.is_empty() {
            return false;
        }
        let id = rng.pick(&ids);
        let unproven = self.unproven.iter().filter(|plan| plan.segment == id);
        let first = unproven.map(|plan| plan.offset as usize).min();
        let medium = self.medium(id);
        let end = first.unwrap_or(medium.len());
        if lie != DiskLie::Stale {
            return end > 0 && medium.lie(lie.of_medium(), 0..end, rng);
        }
        let mut stale = medium.clone();
        let lied = end > 0 && stale.lie(lie.of_medium(), 0..end, rng);
        self.stale = lied.then(|| (id, stale.image().into_owned()));
        lied
    }

    /// Bytes of all segments.
    fn len(&self) -> usize {
        self.segments.values().map(|segment| segment.medium.len()).sum()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// What a reader sees now.
    pub fn image(&self) -> LogImage<'_> {
        let mut image: BTreeMap<_, _> =
            self.segments.iter().map(|(id, segment)| (*id, segment.medium.image())).collect();
        image.extend(self.stale.as_ref().map(|(id, bytes)| (*id, Cow::from(bytes))));
        LogImage(image)
    }
}

/// Segments as they are read back.
pub struct LogImage<'d>(BTreeMap<SegmentId, Cow<'d, [u8]>>);

impl SegmentReader for LogImage<'_> {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.0.iter().map(|(id, bytes)| SegmentInfo { id: *id, size: bytes.len() as u64 }).collect()
    }

    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let bytes = self.0.get(&segment).ok_or(ReadError)?;
        buf.copy_from_slice(bytes.get(offset as usize..offset as usize + buf.len()).ok_or(ReadError)?);
        Ok(())
    }
}

/// How a disk lies; see [`Lie`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskLie {
    /// A bit turns over.
    Flip,
    /// A write was lost.
    Lost,
    /// A write went to another place.
    Misdirected,
    /// What is read is older than what is there; after the next power cut it is read as it is.
    Stale,
}

impl DiskLie {
    fn of_medium(self) -> Lie {
        match self {
            DiskLie::Flip => Lie::Flip,
            DiskLie::Lost | DiskLie::Stale => Lie::Lost,
            DiskLie::Misdirected => Lie::Misdirected,
        }
    }
}

/// Everything that outlives the process.
#[derive(Default)]
pub struct Disk {
    /// The store's file.
    pub tree: TreeDisk,
    /// A durable one that waits to take its place.
    pub next_tree: Option<TreeDisk>,
    /// The log.
    pub log: LogDisk,
    /// Bytes that log and tree may have together, while that is bounded.
    capacity: Option<usize>,
    /// What a member under repair has promised: a small file that is replaced whole.
    pub promise: Option<Vec<u8>>,
    /// A process has found a damaged page and left a mark.
    pub is_tree_damaged: bool,
}

impl Disk {
    /// kill -9: the page cache stays, with all that was never synced in it.
    pub fn kill(&mut self, rng: &mut Rng) {
        self.log.land(rng);
    }

    /// The disk lies about the log or the tree. False: not this time.
    pub fn lie(&mut self, lie: DiskLie, rng: &mut Rng) -> bool {
        match rng.permille(500) {
            true => self.log.lie(lie, rng),
            false => self.tree.lie(lie, rng),
        }
    }

    /// From now on there is room for so many bytes more, and then no more.
    pub fn fill_up(&mut self, room: usize) {
        self.capacity = Some(self.log.len() + self.tree.len() + room);
    }

    /// There is room again.
    pub fn make_room(&mut self) {
        self.capacity = None;
    }

    /// Whether the log or the tree may take so many bytes more.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.capacity.is_none_or(|capacity| self.log.len() + self.tree.len() + bytes <= capacity)
    }

    /// The power fails.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        self.log.land(rng);
        self.log.cut_power(rng);
        self.tree.cut_power(rng);
    }
}
