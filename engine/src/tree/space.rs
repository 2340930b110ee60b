//! Which pages are taken, and when a page may be taken again.
//!
//! A page born in batch `b` and taken out of the tree by batch `f` belongs to the versions `b..f`. It may be reused when nobody holds one
//! of these any more. Holders are all alike, a count per version:
//!
//! - a pinned snapshot holds its version; the newest published one is always held;
//! - each of the two metas holds the version it describes: the newer one because a crash goes back to it, the
//!   older one because a crash that tears the next meta, or damage to the newer one, goes back to that;
//! - a checkpoint under way holds all versions that were held when it began: it writes the frames of all of them.
//!
//! Nobody can begin to hold an old version that nobody holds, so it is enough that a freed page waits in the list of the *newest* held
//! version it belongs to. When that version is let go, the page moves on to the next older held one it belongs to, or becomes free. So a
//! page made and dropped between two checkpoints is reused as soon as no reader sees it, however old the metas are.
//!
//! Three bit sets over page ids:
//!
//! - `taken`: not free;
//! - `live` ⊆ `taken`: part of the writer's present tree (or of the newest bitmap); what a checkpoint stores;
//! - `framed` ⊆ `taken`: the first page has a heap frame.

use std::collections::BTreeMap;

use super::bits::Bits;
use super::types::PageId;

/// Pages 0 and 1 are the metas.
const FIRST_PAGE: u32 = 2;
/// Gaps looked at for a run of pages before the file is extended instead: bounds the time of an allocation.
const RUN_SEARCH_GAPS: usize = 256;

/// A page or run that left the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    pub first: PageId,
    pub pages: u32,
    /// The batch that made it.
    pub born: u64,
}

/// The allocator and the lists of pages that wait.
#[derive(Debug)]
pub(super) struct Space {
    taken: Bits,
    live: Bits,
    framed: Bits,
    /// No free page is below.
    lowest: u32,
    /// Where the last search for a run ended.
    rover: u32,
    /// Version → how many hold it.
    holds: BTreeMap<u64, u32>,
    /// Version → freed pages whose newest held version it is.
    waiting: BTreeMap<u64, Vec<Freed>>,
    /// Freed by the present batch, made by earlier ones.
    leaving: Vec<Freed>,
}

impl Space {
    pub fn new() -> Space {
        let mut taken = Bits::default();
        (0..FIRST_PAGE).for_each(|id| taken.insert(id));
        Space {
            live: taken.clone(),
            taken,
            framed: Bits::default(),
            lowest: FIRST_PAGE,
            rover: FIRST_PAGE,
            holds: BTreeMap::new(),
            waiting: BTreeMap::new(),
            leaving: Vec::new(),
        }
    }

    /// As the newest meta's bitmap says. The version it describes must be held next.
    pub fn restored(live: Bits) -> Space {
        Space { taken: live.clone(), live, ..Space::new() }
    }

    /// Keeps the pages that only the older meta reaches, which describes `version`.
    pub fn keep_older(&mut self, older: &Bits, version: u64) {
        let only_older: Vec<u32> = older.without(&self.taken).collect();
        self.hold(version);
        for id in only_older {
            self.taken.insert(id);
            let freed = Freed { first: PageId(id), pages: 1, born: version };
            self.waiting.entry(version).or_default().push(freed);
        }
    }

    /// Pages below which all that are taken lie.
    pub fn end(&self) -> u32 {
        self.taken.end()
    }

    /// Where the next search for a run begins, if no lower page is free.
    pub fn rover(&self) -> u32 {
        self.rover
    }

    /// See [`Space::rover`].
    pub fn set_rover(&mut self, page: u32) {
        self.rover = page;
    }

    /// Pages of the present tree, metas and bitmap included.
    pub fn live_pages(&self) -> u32 {
        self.live.count()
    }

    /// Pages that are not free.
    pub fn taken_pages(&self) -> u32 {
        self.taken.count()
    }

    pub fn live(&self) -> &Bits {
        &self.live
    }

    /// First pages of all frames, in order: of the present tree, and of older versions that are pinned.
    pub fn dirty(&self) -> impl Iterator<Item = PageId> + '_ {
        self.framed.both(&self.taken).map(PageId)
    }

    /// Holds every held version once more, so that for the time being no frame is freed; returns them.
    pub fn hold_all(&mut self) -> Vec<u64> {
        self.holds.iter_mut().for_each(|(_, count)| *count += 1);
        self.holds.keys().copied().collect()
    }

    /// A free page, the lowest there is, for a heap frame.
    pub fn take_page(&mut self) -> PageId {
        let id = self.taken.next_clear(self.lowest);
        self.lowest = id + 1;
        self.take(id, 1);
        self.framed.insert(id);
        PageId(id)
    }

    /// `pages` free pages in a row, for one heap frame.
    pub fn take_run(&mut self, pages: u32) -> PageId {
        let first = self.find_run(pages);
        self.take(first, pages);
        self.framed.insert(first);
        PageId(first)
    }

    /// `pages` free pages in a row, to be written without a frame.
    pub fn take_unframed(&mut self, pages: u32) -> PageId {
        let first = self.find_run(pages);
        self.take(first, pages);
        PageId(first)
    }

    fn take(&mut self, first: u32, pages: u32) {
        assert!(first.checked_add(pages).is_some(), "the file is at its largest, 16 TiB");
        for id in first..first + pages {
            self.taken.insert(id);
            self.live.insert(id);
        }
    }

    fn find_run(&mut self, pages: u32) -> u32 {
        let end = self.taken.end();
        let mut from = self.rover.max(self.lowest);
        for _ in 0..RUN_SEARCH_GAPS {
            let start = self.taken.next_clear(from);
            if start >= end {
                from = 0; // next time from the lowest on
                break;
            }
            let stop = self.taken.next_set(start, start.saturating_add(pages));
            if stop - start == pages {
                self.rover = stop;
                return start;
            }
            from = stop;
        }
        self.rover = from;
        end
    }

    /// Takes a page or run out of the present tree. True: it was made by the present batch, nobody ever saw it, and it is free at
    /// once (the caller must forget its frame).
    pub fn leave(&mut self, freed: Freed, batch: u64) -> bool {
        for id in freed.first.0..freed.first.0 + freed.pages {
            self.live.remove(id);
        }
        if freed.born == batch {
            self.release_pages(freed);
            return true;
        }
        self.leaving.push(freed);
        false
    }

    /// Takes out of the present tree what only the version `version` ever had: a bitmap. True: it is free at once.
    pub fn leave_version(&mut self, freed: Freed, version: u64) -> bool {
        for id in freed.first.0..freed.first.0 + freed.pages {
            self.live.remove(id);
        }
        let waits = self.wait(freed, version + 1);
        if !waits {
            self.release_pages(freed);
        }
        !waits
    }

    /// The present batch was published. What it took out of the tree belongs to versions up to `before`.
    pub fn end_batch(&mut self, before: u64) {
        for freed in std::mem::take(&mut self.leaving) {
            let waits = self.wait(freed, before + 1);
            assert!(waits, "the newest published version is held");
        }
    }

    pub fn hold(&mut self, version: u64) {
        *self.holds.entry(version).or_insert(0) += 1;
    }

    /// Lets go of `version`; what becomes free by this is appended to `free`, for the caller to forget its frames.
    pub fn let_go(&mut self, version: u64, free: &mut Vec<Freed>) {
        let count = self.holds.get_mut(&version).expect("a version let go was held");
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.holds.remove(&version);
        for freed in self.waiting.remove(&version).unwrap_or_default() {
            if !self.wait(freed, version) {
                self.release_pages(freed);
                free.push(freed);
            }
        }
    }

    /// Queues `freed` at the newest held version before `until` that it belongs to; false if there is none.
    fn wait(&mut self, freed: Freed, until: u64) -> bool {
        if freed.born >= until {
            return false;
        }
        let Some((version, _)) = self.holds.range(freed.born..until).next_back() else { return false };
        self.waiting.entry(*version).or_default().push(freed);
        true
    }

    fn release_pages(&mut self, freed: Freed) {
        let first = freed.first.0;
        for id in first..first + freed.pages {
            self.taken.remove(id);
        }
        self.lowest = self.lowest.min(first);
        if self.framed.contains(first) {
            self.framed.remove(first);
        }
    }

    /// The frame of `id` is gone.
    pub fn cleaned(&mut self, id: PageId) {
        self.framed.remove(id.0);
    }

    /// Asserts that lists and bit sets agree. Slow: for tests.
    #[cfg(test)]
    pub fn check(&self) {
        let lists = self.waiting.values().flatten().chain(&self.leaving);
        let waiting: u32 = lists.map(|freed| freed.pages).sum();
        assert_eq!(self.taken.count(), self.live.count() + waiting, "each taken page is live or waits, once");
        assert!(self.live.without(&self.taken).next().is_none());
        assert!(self.framed.without(&self.taken).next().is_none());
        assert!(self.taken.next_clear(0) >= self.lowest);
        for (version, list) in &self.waiting {
            assert!(self.holds.contains_key(version), "pages wait for version {version}, which nobody holds");
            assert!(list.iter().all(|freed| freed.born <= *version));
        }
    }
}
