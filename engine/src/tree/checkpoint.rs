//! Checkpoints: bringing the newest published version into the file.
//!
//! `Tree::begin_checkpoint` notes which pages to write and gives out a [`Checkpoint`], which a background thread works off:
//!
//! 1. make the file at least [`Checkpoint::file_pages`] long;
//! 2. write what [`Checkpoint::fill`] gives, until it gives nothing more: the pages in the order of the file, then the bitmap;
//! 3. fdatasync;
//! 4. write [`Checkpoint::meta`];
//! 5. fdatasync.
//!
//! Frames of older versions that readers have pinned are written too, though the meta doesn't reach them: so that a slow reader costs
//! pages of the file, but never memory beyond the next checkpoint.
//!
//! Then `Tree::end_checkpoint` makes readers use the map for these pages, and frees the frames. Meanwhile the writer goes on: the frames
//! being written are published and don't change, and none is freed, because the checkpoint holds their versions (see `space`).
//!
//! If writing fails before step 3 has begun (a full disk), the checkpoint can be given up with `Tree::abandon_checkpoint` and begun again later:
//! only pages that no meta reaches were written. If a sync fails nobody knows what is on the disk, and the process must stop.
//!
//! What a crash leaves: up to step 3 any of the pages written, which the old metas don't reach; in step 4 a meta that is old, torn or new. Torn
//! and old mean the version before (`meta` says why its pages are all there), new means this one, and all its pages were synced before.

use std::sync::Arc;

use crossbeam::epoch;

use super::Tree;
use super::frames::PageTable;
use super::header::{Page, Pointer};
use super::meta::{self, Meta};
use super::space::Freed;
use super::types::{PAGE_SIZE, PageId};

/// The work of one checkpoint. Dropping it without ending or abandoning it leaves the tree unable to begin another.
pub struct Checkpoint {
    table: Arc<PageTable>,
    /// First pages of frames to write, in order.
    dirty: Vec<PageId>,
    /// How many of them are written.
    written: usize,
    /// Versions held until the end.
    held: Vec<u64>,
    /// Pages the file needs.
    file_pages: u32,
    meta: Meta,
    bitmap: Vec<u8>,
    bitmap_written: bool,
}

impl Checkpoint {
    /// Appends the next pages to write, sealed and in a row in the file, to `out`, stopping at the first end of a page or run beyond
    /// `limit` bytes. Returns where they go; `None` when all were given.
    pub fn fill(&mut self, out: &mut Vec<u8>, limit: usize) -> Option<PageId> {
        let Some(first) = self.dirty.get(self.written).copied() else {
            return self.fill_bitmap(out);
        };
        let start = out.len();
        let mut next = first;
        while self.dirty.get(self.written) == Some(&next) && out.len() - start < limit {
            // SAFETY: `begin_checkpoint` listed pages of a published version that have frames, and the tree frees and retires none
            // of them before this checkpoint is given back.
            let pages = unsafe { self.table.copy_sealed(next, out) };
            next.0 += pages;
            self.written += 1;
        }
        Some(first)
    }

    fn fill_bitmap(&mut self, out: &mut Vec<u8>) -> Option<PageId> {
        if self.bitmap_written {
            return None;
        }
        self.bitmap_written = true;
        out.extend_from_slice(&self.bitmap);
        Some(self.meta.bitmap)
    }

    /// The last page to write, after all others are synced.
    pub fn meta(&self) -> (PageId, Page) {
        (self.meta.slot(), self.meta.encode())
    }

    /// How long the file must be, in pages.
    pub fn file_pages(&self) -> u32 {
        self.file_pages
    }

    /// How many frames there are to write.
    pub fn frames(&self) -> usize {
        self.dirty.len()
    }
}

impl Tree {
    /// Begins to write the newest published version. `None` if it is in the file already, if there are unpublished
    /// changes, or if a checkpoint is under way.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        let version = self.published.version;
        self.reclaim();
        let durable = self.newest_meta().map(|meta| meta.version());
        if self.changed || self.broken || self.running || durable == Some(version) {
            return None;
        }
        let dirty = self.space.dirty().collect();
        let (bitmap, bitmap_pages) = self.take_bitmap();
        let mut live = self.space.live().clone();
        let old = self.newest_meta().map_or(0..0, |meta| meta.bitmap.0..meta.bitmap.0 + meta.bitmap_pages);
        old.for_each(|id| live.remove(id));
        let birth = self.published.birth;
        let meta = Meta {
            identity: self.config.identity,
            checkpoint: self.newest_meta().map_or(0, |meta| meta.checkpoint) + 1,
            birth,
            pages: live.end(),
            bitmap,
            bitmap_pages,
            roots: self.published.roots,
        };
        let bitmap = meta::encode_bitmap(&live, Pointer { id: bitmap, birth }, bitmap_pages);
        self.running = true;
        Some(Checkpoint {
            table: self.frames.table().clone(),
            dirty,
            written: 0,
            held: self.space.hold_all(),
            file_pages: self.space.end(),
            meta,
            bitmap,
            bitmap_written: false,
        })
    }

    /// Takes pages for a bitmap that covers the file including these pages.
    fn take_bitmap(&mut self) -> (PageId, u32) {
        let mut pages = meta::bitmap_pages(self.space.end()).max(1);
        loop {
            let first = self.space.take_unframed(pages);
            self.frames.cover(self.space.end());
            if meta::bitmap_pages(self.space.live().end()) <= pages {
                return (first, pages);
            }
            self.give_back_bitmap(first, pages);
            pages += 1;
        }
    }

    fn give_back_bitmap(&mut self, first: PageId, pages: u32) {
        let now = self.frames.birth().sequence();
        let free = self.space.leave(Freed { first, pages, born: now }, now);
        assert!(free, "nobody saw it");
    }

    /// The checkpoint is complete: everything was written and synced.
    ///
    /// # Panics
    ///
    /// If the checkpoint is another tree's.
    pub fn end_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.check_own(&checkpoint);
        let guard = epoch::pin();
        for id in checkpoint.dirty {
            self.frames.retire(id, &guard);
            self.space.cleaned(id);
        }
        let meta = checkpoint.meta;
        let slot = meta.slot().0 as usize;
        let mut free = Vec::new();
        if let Some(old) = self.newest_meta() {
            let (version, bitmap) =
                (old.version(), Freed { first: old.bitmap, pages: old.bitmap_pages, born: old.version() });
            let waits = !self.space.leave_version(bitmap, version);
            assert!(waits, "the meta holds its version");
        }
        self.space.hold(meta.version());
        if let Some(older) = self.metas[slot].replace(meta) {
            self.space.let_go(older.version(), &mut free);
        }
        self.finish(&checkpoint.held, free);
    }

    /// The checkpoint could not be written, and no sync was tried. Everything stays as it was.
    ///
    /// # Panics
    ///
    /// If the checkpoint is another tree's.
    pub fn abandon_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.check_own(&checkpoint);
        self.give_back_bitmap(checkpoint.meta.bitmap, checkpoint.meta.bitmap_pages);
        self.finish(&checkpoint.held, Vec::new());
    }

    fn finish(&mut self, held: &[u64], mut free: Vec<Freed>) {
        held.iter().for_each(|version| self.space.let_go(*version, &mut free));
        self.running = false;
        self.forget(free);
        self.reclaim();
    }

    fn check_own(&self, checkpoint: &Checkpoint) {
        assert!(
            self.running && Arc::ptr_eq(self.frames.table(), &checkpoint.table),
            "another tree's checkpoint"
        );
    }

    fn newest_meta(&self) -> Option<&Meta> {
        self.metas.iter().flatten().max_by_key(|meta| meta.checkpoint)
    }

    /// The number of the last completed checkpoint; 0 before the first.
    pub fn checkpoints(&self) -> u64 {
        self.newest_meta().map_or(0, |meta| meta.checkpoint)
    }

    /// The length in bytes to which the file may be cut at once (`Defragment`): above it nothing is reached by a meta, a pin or a
    /// running checkpoint. It holds until the next `begin_checkpoint`, so cut the file where checkpoints are written, in that order.
    pub fn trim(&mut self) -> u64 {
        self.reclaim();
        u64::from(self.space.end()) * PAGE_SIZE as u64
    }
}
