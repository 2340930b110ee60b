//! The copy-on-write B+tree file: seven ordered tables in pages of 4 KiB, read through a map, never changed in place.
//!
//! ```text
//!          readers (any core)                            the writer
//!   Snapshot = a pin on {roots, version}     copy page → change → new root → publish
//!            │ node(id, birth)                             │ pages since the last checkpoint
//!            ▼                                             ▼
//!   page table: id → heap frame, or map            heap frames (anonymous memory)
//!                         │                                │ checkpoint (a background thread)
//!                 map, read-only  ◄──── page cache ◄───────┘ pages, fdatasync, meta, fdatasync
//! ```
//!
//! [`Tree`] is the single writer. Changes gather in a batch; within it a page is copied once and then changed where it is. `publish`
//! ends the batch and returns an immutable [`Snapshot`], which any thread may read without locks, through a [`Reader`]. A [`Checkpoint`]
//! brings a published version into the file. Losing everything since the last one must be repaired by replaying the log: what was applied is
//! a row of [`Table::Meta`], committed with everything else.
//!
//! Reading order:

mod types;

/// What every page begins with, and its checksum.
mod header;

/// Nodes: slotted pages of sorted cells.
mod node;

/// The page table: heap frames and the map, and why readers need no lock. All of the `unsafe` that matters.
mod frames;

/// Reads of one version.
mod read;

/// Positions in a table.
mod cursor;

/// Many rows at once.
mod lookups;

/// Sets of page ids.
mod bits;

/// Allocation, and when a page may be reused.
mod space;

/// Put, remove, split, merge.
mod writer;

/// The meta pages and the stored bitmap: the file's format starts here.
mod meta;

/// Writing a version into the file.
mod checkpoint;

/// Checking a whole file.
mod verify;

/// Checking the file of a running server, a slice at a time.
mod scrub;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::epoch::Guard;

use frames::{Frames, PageTable};
use header::Birth;
use meta::Meta;
use read::{Pages, Roots};
use space::{Freed, Space};

pub use checkpoint::Checkpoint;
pub use cursor::Cursor;
pub use lookups::{GROUP_ROWS, Lookups, Values};
pub use read::Reader;
pub use scrub::{Scrub, Slice, check_metas};
pub use types::{Config, Damage, Fault, Identity, Map, OpenError, PAGE_SIZE, PageId, Table};
pub use verify::{Finding, Report, verify};
pub use writer::LENGTH_MAX;

/// The tree with its unpublished changes: the single writer.
pub struct Tree {
    config: Config,
    frames: Frames,
    roots: Roots,
    space: Space,
    /// The newest published version.
    published: Arc<Pin>,
    /// Older versions that may still be pinned.
    older: VecDeque<Arc<Pin>>,
    /// The roots or pages differ from the published ones.
    changed: bool,
    /// A change failed halfway.
    broken: bool,
    /// A checkpoint is under way; it holds the version it writes.
    running: bool,
    /// What the meta pages say, each holding its version.
    metas: [Option<Meta>; 2],
    bad_meta: Option<Damage>,
}

/// What a pin keeps readable.
struct Pin {
    table: Arc<PageTable>,
    roots: Roots,
    version: u64,
    birth: Birth,
}

/// An immutable version of all tables. Cloning pins it once more, dropping unpins it: cheap, from any thread.
///
/// A pin keeps the pages of its version from being reused, so a long one costs space in the file, but no heap frame that a checkpoint has written.
#[derive(Clone)]
pub struct Snapshot {
    pin: Arc<Pin>,
}

impl Snapshot {
    /// Reads of this version. The guard must be of crossbeam's default collector (`crossbeam::epoch::pin()`).
    pub fn reader<'g>(&'g self, guard: &'g Guard) -> Reader<'g> {
        read::check_guard(guard);
        // SAFETY: for `'g` the pin is borrowed, so its version stays pinned and the table alive, and the guard is held.
        let pages = unsafe { Pages::new(&self.pin.table) };
        Reader { pages, roots: &self.pin.roots }
    }

    /// Versions count published batches.
    pub fn version(&self) -> u64 {
        self.pin.version
    }
}

impl Tree {
    /// An empty tree. The file is first touched by the first checkpoint, which there should be before anything relies on the file.
    pub fn create(config: Config, map: Arc<dyn Map>) -> Tree {
        let mut space = Space::new();
        space.hold(0);
        let birth = Birth::new(config.nonce, 0);
        Tree::new(config, map, space, Roots::default(), birth)
    }

    /// The version of the newest completed checkpoint. Reads the metas and the bitmap, nothing else: the time doesn't depend on the amount of data.
    pub fn open(config: Config, map: Arc<dyn Map>) -> Result<Tree, OpenError> {
        let metas = meta::read_metas(&*map)?;
        let newest = metas.newest;
        if newest.identity != config.identity {
            return Err(OpenError::Foreign { found: newest.identity });
        }
        let mut space = Space::restored(meta::read_bitmap(&*map, &newest)?);
        // One hold for the meta, one for the published version.
        space.hold(newest.version());
        space.hold(newest.version());
        // Whatever the older meta can't tell us it can't be gone back to for.
        let older = metas.older.filter(|older| match meta::read_bitmap(&*map, older) {
            Ok(bitmap) => {
                space.keep_older(&bitmap, older.version());
                true
            }
            Err(_) => false,
        });
        let mut tree = Tree::new(config, map, space, newest.roots, newest.birth);
        tree.bad_meta = metas.bad;
        for meta in [Some(newest), older].into_iter().flatten() {
            let slot = meta.slot().0 as usize;
            tree.metas[slot] = Some(meta);
        }
        Ok(tree)
    }

    fn new(config: Config, map: Arc<dyn Map>, space: Space, roots: Roots, published: Birth) -> Tree {
        let table = Arc::new(PageTable::new(map));
        let next = Birth::new(config.nonce, published.sequence() + 1);
        let frames = Frames::new(table.clone(), next);
        frames.cover(space.end());
        let pin = Pin { table, roots, version: published.sequence(), birth: published };
        Tree {
            config,
            frames,
            roots,
            space,
            published: Arc::new(pin),
            older: VecDeque::new(),
            changed: false,
            broken: false,
            running: false,
            metas: [None, None],
            bad_meta: None,
        }
    }

    /// The meta page that was neither whole nor empty when the file was opened, if any.
    ///
    /// After a crash in the last step of a checkpoint this is a torn meta, and the tree is the version before, as it must be. Otherwise it is
    /// damage, and what was opened may be older than the last completed checkpoint: then the log no longer reaches down to it, and this is the reason to give.
    pub fn bad_meta(&self) -> Option<Damage> {
        self.bad_meta
    }

    /// The value of `key`, unpublished changes included.
    ///
    /// # Errors
    ///
    /// Here and in all reads: the damage of the first page on the way that is not what was written.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<&[u8]>, Damage> {
        self.reader().get(table, key)
    }

    /// A cursor over the table, unpublished changes included. It stands nowhere yet.
    pub fn cursor(&self, table: Table) -> Cursor<'_> {
        self.reader().cursor(table)
    }

    /// As [`Reader::count`], unpublished changes included.
    pub fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        self.reader().count(table, from, to)
    }

    /// Reads of the present state, unpublished changes included.
    pub fn reader(&self) -> Reader<'_> {
        // SAFETY: the tree is borrowed.
        let pages = unsafe { Pages::new(self.frames.table()) };
        Reader { pages, roots: &self.roots }
    }

    /// The newest published version, without the changes made since.
    pub fn published(&self) -> Snapshot {
        Snapshot { pin: self.published.clone() }
    }

    /// Ends the batch: the present state as an immutable version. Without changes it is the last one again.
    ///
    /// # Panics
    ///
    /// If a change failed before: half of it may be in the tree.
    pub fn publish(&mut self) -> Snapshot {
        assert!(!self.broken, "a change failed halfway and must not be published");
        if self.changed {
            self.changed = false;
            let birth = self.frames.birth();
            let version = birth.sequence();
            self.space.end_batch(self.published.version);
            self.space.hold(version);
            let table = self.frames.table().clone();
            let pin = Arc::new(Pin { table, roots: self.roots, version, birth });
            self.older.push_back(std::mem::replace(&mut self.published, pin));
            self.frames.set_birth(Birth::new(self.config.nonce, version + 1));
            self.reclaim();
        }
        Snapshot { pin: self.published.clone() }
    }

    /// Makes pages reusable whose last pin is gone. `publish` does so too; call it when snapshots were dropped since.
    pub fn reclaim(&mut self) {
        let mut free = Vec::new();
        let space = &mut self.space;
        self.older.retain_mut(|pin| {
            // The last owner is this list: nobody reads or can clone it, and what others read happened before.
            let unpinned = Arc::get_mut(pin).is_some();
            if unpinned {
                space.let_go(pin.version, &mut free);
            }
            !unpinned
        });
        self.forget(free);
        self.frames.collect();
    }

    fn forget(&mut self, free: Vec<Freed>) {
        free.into_iter().for_each(|freed| self.frames.free(freed.first));
    }

    /// Asserts that lists and bit sets agree. Slow.
    #[cfg(test)]
    fn check(&self) {
        self.space.check();
    }

    /// Bytes of anonymous memory in heap frames: pages changed since the last checkpoint (or not yet given back). The
    /// caller begins a checkpoint when this nears its limit.
    pub fn heap_bytes(&self) -> u64 {
        self.frames.pages() * PAGE_SIZE as u64
    }

    /// Bytes of heap frames that a checkpoint has written and that wait for readers to let go of their epoch guards. `publish` and `reclaim`
    /// free them in small portions.
    pub fn retired_bytes(&self) -> u64 {
        self.frames.retired_pages() * PAGE_SIZE as u64
    }

    /// Bytes of pages that the present state uses, metas and bitmap included.
    pub fn in_use_bytes(&self) -> u64 {
        u64::from(self.space.live_pages()) * PAGE_SIZE as u64
    }

    /// Bytes of pages that are not free: in use, or kept for a pin, a meta or a running checkpoint.
    pub fn allocated_bytes(&self) -> u64 {
        u64::from(self.space.taken_pages()) * PAGE_SIZE as u64
    }

    /// Pages below which all that are not free lie: the least length of the file, some of it perhaps still in frames.
    pub fn file_pages(&self) -> u32 {
        self.space.end()
    }

    /// Versions older than the newest published one that had a pin when pages were last reclaimed: who looks on at a tree from outside
    /// knows by them which pages it could reuse.
    pub fn pinned(&self) -> impl Iterator<Item = u64> + '_ {
        self.older.iter().map(|pin| pin.version)
    }

    /// The file, as readers see it.
    pub fn map(&self) -> &Arc<dyn Map> {
        self.frames.table().map()
    }

    /// Page at which the next search for some pages in a row begins. With the file's contents and the pins it decides where pages go;
    /// a tree that is opened begins anew.
    pub fn search_from(&self) -> u32 {
        self.space.rover()
    }

    /// Goes on as a tree of the same contents whose [`Tree::search_from`] this is.
    pub fn set_search_from(&mut self, page: u32) {
        self.space.set_rover(page);
    }
}
