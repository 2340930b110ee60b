//! The page table: where a page's bytes are. The one place of the tree with `unsafe`.
//!
//! Pages changed since the last checkpoint live in heap frames, all others are read from the map. The table has one atomic
//! word per page id:
//!
//! | word | the page is | |
//! |---|---|---|
//! | 0 | in the map | not yet verified since it was written or the file was opened |
//! | 1 | in the map | verified |
//! | else | in the heap frame at this address | |
//!
//! Readers on any core load the word and follow it, without a lock. Why what they then hold stays what it is:
//!
//! 1. *Contents.* Only the writer changes frames, and only through [`Frames::page_mut`], which demands that the frame
//!    was born in the present, unpublished batch. Readers reach pages from published roots, so they
//!    never see such a page, and a published page never changes again (its checksum is put into a copy, by the checkpoint).
//! 2. *Ids.* A page id is given back, its frame freed and its word reset ([`Frames::free`]) only when no pinned version reaches
//!    it. A reader's references borrow its pin, and the pin's reference count is decremented after them (release) and read by the writer before
//!    (acquire): the last read happens before the reuse.
//! 3. *Memory.* When a checkpoint has written a frame, its word becomes 0 while readers may still be in it
//!    ([`Frames::retire`]). They hold an epoch guard as long as the reference, and the frame is freed only after every guard of
//!    that time is gone.
//! 4. *The map.* The bytes of a page in the file are written only by the checkpoint that owns its frame, and readers
//!    use the map for it only when that checkpoint has ended. The writer sets the word of an id that
//!    readers could be verifying (word 0 → 1) never: they hold a pin, so the id can't be freed, and a clean page gets no frame again.
//!
//! Two lifetimes rather than one, because a slow list pins its version for minutes and must not thereby keep every frame
//! which a checkpoint has cleaned meanwhile.
//!
//! The writer itself reads without a guard: frames are freed and retired by `&mut self` methods of the tree, so none of its references lives then.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicU64};

use crossbeam::epoch;

use super::header::{self, Birth, HEADER_SIZE, KIND_RUN, Page, Pointer};
use super::node;
use super::types::{Damage, Fault, Map, PAGE_SIZE, PageId};

const CHUNK_BITS: u32 = 16;
const CHUNK_LEN: usize = 1 << CHUNK_BITS;
const CHUNKS: usize = 1 << (32 - CHUNK_BITS);
/// Cleared frames kept for the next batch rather than given back to the allocator.
const POOL_FRAMES: usize = 256;

type Chunk = [AtomicPtr<u8>; CHUNK_LEN];

fn verified() -> *mut u8 {
    ptr::without_provenance_mut(1)
}

fn is_frame(word: *mut u8) -> bool {
    word.addr() > 1
}

/// The page table, shared by the writer and all snapshots.
pub(super) struct PageTable {
    map: Arc<dyn Map>,
    /// Chunks appear as the file grows and stay.
    chunks: Box<[AtomicPtr<Chunk>]>,
}

impl PageTable {
    pub fn new(map: Arc<dyn Map>) -> PageTable {
        let chunks = (0..CHUNKS).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        PageTable { map, chunks }
    }

    pub fn map(&self) -> &Arc<dyn Map> {
        &self.map
    }

    fn word(&self, id: PageId) -> Result<&AtomicPtr<u8>, Damage> {
        let chunk = self.chunks[(id.0 >> CHUNK_BITS) as usize].load(Acquire);
        // SAFETY: a chunk, once stored, lives as long as the table; it was initialized before the release store.
        let chunk = unsafe { chunk.as_ref() }.ok_or(Damage::new(id, Fault::BeyondFile))?;
        Ok(&chunk[id.0 as usize % CHUNK_LEN])
    }

    /// Makes the table cover `id`. Only the writer calls it.
    fn cover(&self, id: PageId) {
        let slot = &self.chunks[(id.0 >> CHUNK_BITS) as usize];
        if slot.load(Relaxed).is_null() {
            let layout = Layout::new::<Chunk>();
            // SAFETY: the layout is not empty; zeroed memory is a valid array of null `AtomicPtr`s.
            let chunk = unsafe { alloc_zeroed(layout) }.cast::<Chunk>();
            if chunk.is_null() {
                handle_alloc_error(layout);
            }
            slot.store(chunk, Release);
        }
    }

    /// The tree node `at`, which its parent says is of `level`.
    ///
    /// # Safety
    ///
    /// As long as the returned reference lives, the page must be reachable from a version that is pinned, and an epoch
    /// guard of the default collector must be held; or the tree that owns this table must be borrowed.
    #[inline]
    pub unsafe fn node(&self, at: Pointer, level: u8) -> Result<&Page, Damage> {
        let entry = self.word(at.id)?;
        let word = entry.load(Acquire);
        let page = if is_frame(word) {
            // SAFETY: the word is the address of a frame of at least a page, alive and unchanging as the caller promises.
            unsafe { &*word.cast::<Page>() }
        } else if word == verified() {
            self.mapped_page(at.id)?
        } else {
            return self.node_first_touched(at, level, entry);
        };
        if header::birth(page) != at.birth {
            return Err(Damage::new(at.id, Fault::WrongBirth));
        }
        if header::kind_and_level(page) != header::node_kind(level) {
            return Err(Damage::new(at.id, Fault::WrongKind));
        }
        Ok(page)
    }

    /// Asks for the first line of a page that will soon be read.
    #[inline]
    pub fn prefetch(&self, id: PageId) {
        let Ok(entry) = self.word(id) else { return };
        let word = entry.load(Acquire);
        if is_frame(word) {
            prefetch_line(word);
        } else if let Some(bytes) = self.map.pages(id, 1) {
            prefetch_line(bytes.as_ptr());
        }
    }

    #[cold]
    fn node_first_touched(&self, at: Pointer, level: u8, entry: &AtomicPtr<u8>) -> Result<&Page, Damage> {
        let page = self.mapped_page(at.id)?;
        header::check_sealed(page, at, header::node_kind(level))?;
        node::check_structure(page).map_err(|fault| Damage::new(at.id, fault))?;
        self.mark_verified(entry);
        Ok(page)
    }

    /// The contents of the run `at`, which its owner says are `len` bytes.
    ///
    /// # Safety
    ///
    /// As for [`PageTable::node`].
    pub unsafe fn run(&self, at: Pointer, len: u32) -> Result<&[u8], Damage> {
        let entry = self.word(at.id)?;
        let word = entry.load(Acquire);
        let pages = header::run_pages(len);
        let bytes = if is_frame(word) {
            // SAFETY: as in `node`, the word is the address of a frame. Every frame has at least one page.
            let first = unsafe { &*word.cast::<Page>() };
            if run_frame_pages(first) != pages {
                return Err(Damage::new(at.id, Fault::Structure));
            }
            // SAFETY: the frame of a run has as many pages as its header's length takes.
            unsafe { std::slice::from_raw_parts(word, pages as usize * PAGE_SIZE) }
        } else {
            let bytes = self.mapped(at.id, pages)?;
            if word != verified() {
                header::check_sealed(bytes, at, u16::from_le_bytes([KIND_RUN, 0]))?;
                self.mark_verified(entry);
            }
            bytes
        };
        let whole =
            header::birth(bytes) == at.birth && bytes[16] == KIND_RUN && header::u32_at(bytes, 20) == len;
        if !whole {
            return Err(Damage::new(at.id, Fault::WrongBirth));
        }
        Ok(&bytes[HEADER_SIZE..HEADER_SIZE + len as usize])
    }

    /// As [`PageTable::node`], but a page in the map is verified anew; says whether it was.
    ///
    /// # Safety
    ///
    /// As for [`PageTable::node`].
    pub unsafe fn verify_node(&self, at: Pointer, level: u8) -> Result<(&Page, bool), Damage> {
        let entry = self.word(at.id)?;
        if is_frame(entry.load(Acquire)) {
            // SAFETY: promised by the caller. If the frame was retired just now, the page is verified as on first touch.
            return unsafe { self.node(at, level) }.map(|page| (page, false));
        }
        // A clean page of a pinned version gets no frame again: the map has it.
        self.node_first_touched(at, level, entry).map(|page| (page, true))
    }

    /// Verifies a run anew if it is in the map; gives the number of pages verified.
    ///
    /// # Safety
    ///
    /// As for [`PageTable::node`].
    pub unsafe fn verify_run(&self, at: Pointer, len: u32) -> Result<u64, Damage> {
        if is_frame(self.word(at.id)?.load(Acquire)) {
            return Ok(0);
        }
        let pages = header::run_pages(len);
        let bytes = self.mapped(at.id, pages)?;
        header::check_sealed(bytes, at, u16::from_le_bytes([KIND_RUN, 0]))?;
        if header::u32_at(bytes, 20) != len {
            return Err(Damage::new(at.id, Fault::Structure));
        }
        Ok(u64::from(pages))
    }

    fn mark_verified(&self, entry: &AtomicPtr<u8>) {
        // Fails only if another reader was first: nobody else touches the word of a reachable clean page.
        let _ = entry.compare_exchange(ptr::null_mut(), verified(), Relaxed, Relaxed);
    }

    #[inline]
    fn mapped_page(&self, id: PageId) -> Result<&Page, Damage> {
        let bytes = self.mapped(id, 1)?;
        bytes.try_into().map_err(|_| Damage::new(id, Fault::BeyondFile))
    }

    #[inline]
    fn mapped(&self, id: PageId, count: u32) -> Result<&[u8], Damage> {
        let bytes = self.map.pages(id, count).filter(|bytes| bytes.len() == count as usize * PAGE_SIZE);
        bytes.ok_or(Damage::new(id, Fault::BeyondFile))
    }

    /// Appends a copy of the frame of `id`, sealed, to `out`; returns its pages.
    ///
    /// # Safety
    ///
    /// The page must have a frame, be published, and be held by a checkpoint under way, which keeps frames from being freed.
    pub unsafe fn copy_sealed(&self, id: PageId, out: &mut Vec<u8>) -> u32 {
        let word = self.word(id).expect("a page with a frame is covered").load(Acquire);
        assert!(is_frame(word), "page {id:?} has no frame");
        // SAFETY: the frame is alive and unchanging as the caller promises; its size is that of `frame_pages`.
        let bytes = unsafe {
            let pages = frame_pages(&*word.cast::<Page>());
            std::slice::from_raw_parts(word, pages as usize * PAGE_SIZE)
        };
        let start = out.len();
        out.extend_from_slice(bytes);
        header::seal(&mut out[start..]);
        (bytes.len() / PAGE_SIZE) as u32
    }
}

impl Drop for PageTable {
    fn drop(&mut self) {
        for slot in &mut self.chunks {
            let Some(chunk) = NonNull::new(*slot.get_mut()) else { continue };
            // SAFETY: the table is the chunk's only owner, and nobody can read through a table being dropped.
            let words = unsafe { &mut *chunk.as_ptr() };
            for word in words.iter_mut().map(|word| *word.get_mut()).filter(|word| is_frame(*word)) {
                // SAFETY: frames in the table are owned by it, allocated by `allocate`.
                unsafe { free_frame(word) };
            }
            // SAFETY: allocated in `cover` with this layout.
            unsafe { dealloc(chunk.as_ptr().cast(), Layout::new::<Chunk>()) };
        }
    }
}

/// Asks the core for the cache line at `address`: a hint, without an effect that a program could see.
#[inline]
pub(super) fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction; it reads nothing and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The writer's side of the table: it alone makes, changes and frees frames.
pub(super) struct Frames {
    table: Arc<PageTable>,
    /// The present, unpublished batch.
    birth: Birth,
    /// Freed frames of one page, each owned by this list. Their contents are left-overs.
    pool: Vec<*mut u8>,
    /// Pages in frames of the table.
    pages: u64,
    /// Pages in retired frames that wait for readers to leave.
    retired: Arc<AtomicU64>,
}

// SAFETY: the pool's frames belong to this value alone; everything else is `Send`.
unsafe impl Send for Frames {}
// SAFETY: a shared reference gives no access to the pool.
unsafe impl Sync for Frames {}

impl Frames {
    pub fn new(table: Arc<PageTable>, birth: Birth) -> Frames {
        Frames { table, birth, pool: Vec::new(), pages: 0, retired: Arc::default() }
    }

    pub fn table(&self) -> &Arc<PageTable> {
        &self.table
    }

    /// The present, unpublished batch.
    pub fn birth(&self) -> Birth {
        self.birth
    }

    /// From now on the frames of the batch before can't be changed any more.
    pub fn set_birth(&mut self, birth: Birth) {
        assert!(birth.sequence() > self.birth.sequence(), "batches go forward");
        self.birth = birth;
    }

    /// Pages in frames.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages in retired frames that are not freed yet.
    pub fn retired_pages(&self) -> u64 {
        self.retired.load(Relaxed)
    }

    /// Frees some retired frames, if no reader can be in them any more.
    pub fn collect(&self) {
        if self.retired_pages() > 0 {
            epoch::pin().flush();
        }
    }

    /// Makes the table cover all ids below `end`.
    pub fn cover(&self, end: u32) {
        (0..end.div_ceil(CHUNK_LEN as u32)).for_each(|chunk| self.table.cover(PageId(chunk << CHUNK_BITS)));
    }

    /// A new node of the present batch.
    pub fn make_node(&mut self, id: PageId, level: u8) -> Pointer {
        let at = Pointer { id, birth: self.birth };
        let frame = self.page_frame();
        // SAFETY: a frame just taken belongs to us alone and has a page; the zeros initialize it.
        let page = unsafe {
            frame.write_bytes(0, PAGE_SIZE);
            &mut *frame.cast::<Page>()
        };
        node::init(page, at, level);
        self.install(id, frame, 1);
        at
    }

    /// A copy of the node `from` as a node of the present batch.
    pub fn copy_node(&mut self, from: Pointer, level: u8, id: PageId) -> Result<Pointer, Damage> {
        // SAFETY: the tree, which owns these frames, is borrowed: they are freed and retired by `&mut self` only.
        let source = unsafe { self.table.node(from, level) }? as *const Page;
        let frame = self.page_frame();
        // SAFETY: a frame just taken belongs to us alone and has a page; the source, alive as said above, is another page.
        let page = unsafe {
            frame.copy_from_nonoverlapping(source.cast(), PAGE_SIZE);
            &mut *frame.cast::<Page>()
        };
        header::set_id(page, id);
        header::set_birth(page, self.birth);
        self.install(id, frame, 1);
        Ok(Pointer { id, birth: self.birth })
    }

    /// A new run of the present batch, holding the concatenation of `parts`.
    pub fn make_run(&mut self, id: PageId, parts: &[&[u8]]) -> (Pointer, u32) {
        let at = Pointer { id, birth: self.birth };
        let len = parts.iter().map(|part| part.len()).sum::<usize>();
        let len = u32::try_from(len).expect("the writer bounds the length of keys and values");
        let pages = header::run_pages(len);
        let frame = if pages == 1 { self.page_frame() } else { allocate(pages) };
        let size = pages as usize * PAGE_SIZE;
        let mut end = HEADER_SIZE;
        for part in parts {
            // SAFETY: a frame just taken belongs to us alone; header and parts, of `len` bytes together, fit into its pages.
            unsafe { frame.add(end).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            end += part.len();
        }
        // SAFETY: as above; with these zeros all `size` bytes are initialized.
        let bytes = unsafe {
            frame.write_bytes(0, HEADER_SIZE);
            frame.add(end).write_bytes(0, size - end);
            std::slice::from_raw_parts_mut(frame, size)
        };
        header::set_header(bytes, at, KIND_RUN, 0);
        header::set_u32(bytes, 20, len);
        self.install(id, frame, pages);
        (at, len)
    }

    /// A node of the present batch, to be changed in place.
    pub fn page_mut(&mut self, id: PageId) -> &mut Page {
        let word = self.table.word(id).expect("a page of this batch is covered").load(Relaxed);
        assert!(is_frame(word), "page {id:?} has no frame");
        // SAFETY: frames in the table have at least a page. It was born in the present batch (checked below, before anything
        // changes), so no reader can reach it, and this borrow of `self` excludes the writer's other references.
        let page = unsafe { &mut *word.cast::<Page>() };
        assert!(header::birth(page) == self.birth, "page {id:?} is published and must not change");
        page
    }

    /// Forgets page `id`, which no pinned version reaches, and frees its frame if it has one.
    pub fn free(&mut self, id: PageId) {
        let word = self.table.word(id).expect("an allocated page is covered").swap(ptr::null_mut(), Relaxed);
        if !is_frame(word) {
            return;
        }
        // SAFETY: it was in the table, so it is a frame, and nobody can read it any more (2. above).
        let pages = frame_pages(unsafe { &*word.cast::<Page>() });
        self.pages -= u64::from(pages);
        if pages == 1 && self.pool.len() < POOL_FRAMES {
            self.pool.push(word);
        } else {
            // SAFETY: taken out of the table, so it is ours, and it is not in the pool.
            unsafe { free_frame(word) };
        }
    }

    /// From now on page `id` is read from the map. Its frame is freed when the last reader has left it.
    pub fn retire(&mut self, id: PageId, guard: &epoch::Guard) {
        let word = self.table.word(id).expect("an allocated page is covered").swap(ptr::null_mut(), Release);
        assert!(is_frame(word), "page {id:?} has no frame");
        // SAFETY: it was in the table, so it is a frame.
        let pages = u64::from(frame_pages(unsafe { &*word.cast::<Page>() }));
        self.pages -= pages;
        self.retired.fetch_add(pages, Relaxed);
        let frame = Frame { frame: word, pages, retired: self.retired.clone() };
        // SAFETY: the frame was taken out of the table above; readers who found it there before hold a guard (3. above).
        unsafe { guard.defer_unchecked(move || frame.free()) };
    }

    fn install(&mut self, id: PageId, frame: *mut u8, pages: u32) {
        self.table.cover(id);
        let before = self.table.word(id).expect("covered above").swap(frame, Release);
        assert!(!is_frame(before), "page {id:?} has a frame already");
        self.pages += u64::from(pages);
    }

    fn page_frame(&mut self) -> *mut u8 {
        self.pool.pop().unwrap_or_else(|| allocate(1))
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        for frame in self.pool.drain(..) {
            // SAFETY: the pool holds frames of one page, allocated by `allocate(1)`.
            unsafe { dealloc(frame, layout(1)) };
        }
    }
}

/// A frame out of the table, on its way to be freed. Three words: more would be boxed by the epoch collector.
struct Frame {
    frame: *mut u8,
    pages: u64,
    retired: Arc<AtomicU64>,
}

// SAFETY: the frame belongs to this value alone, and any thread may free memory.
unsafe impl Send for Frame {}

impl Frame {
    fn free(self) {
        // SAFETY: made in `retire` from a frame of the table, when nobody reads it any more.
        unsafe { free_frame(self.frame) };
        self.retired.fetch_sub(self.pages, Relaxed);
    }
}

fn layout(pages: u32) -> Layout {
    Layout::from_size_align(pages as usize * PAGE_SIZE, 16).expect("runs are far below the address space")
}

fn allocate(pages: u32) -> *mut u8 {
    // SAFETY: the layout is not empty.
    let frame = unsafe { alloc(layout(pages)) };
    if frame.is_null() {
        handle_alloc_error(layout(pages));
    }
    frame
}

/// # Safety
///
/// `frame` must come from `allocate`, hold a page or run whose header tells its size, and be nobody else's.
unsafe fn free_frame(frame: *mut u8) {
    // SAFETY: promised by the caller.
    unsafe {
        let pages = frame_pages(&*frame.cast::<Page>());
        dealloc(frame, layout(pages));
    }
}

fn run_frame_pages(first: &Page) -> u32 {
    header::run_pages(header::u32_at(first, 20))
}

fn frame_pages(first: &Page) -> u32 {
    if first[16] == KIND_RUN { run_frame_pages(first) } else { 1 }
}
