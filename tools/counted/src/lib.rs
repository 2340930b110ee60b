//! An allocator that counts, for tests of what something costs in memory.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: counted::Allocator = counted::Allocator;
//!
//! let (before, live) = (counted::allocations(), counted::begin_peak());
//! drop(vec![0_u8; 100]);
//! assert_eq!((counted::allocations() - before, counted::peak() - live), (1, 100));
//! assert_eq!(counted::live(), live);
//! ```
//!
//! Each thread counts for itself; bytes that one thread allocates and another frees are missing there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// Allocations of this thread so far; one that grows counts again.
pub fn allocations() -> usize {
    ALLOCATIONS.get()
}

/// Bytes that this thread has allocated so far, whatever became of them.
pub fn bytes() -> usize {
    BYTES.get()
}

/// Bytes that this thread has allocated and not freed.
pub fn live() -> isize {
    LIVE.get()
}

/// The highest [`live`] since [`begin_peak`].
pub fn peak() -> isize {
    PEAK.get()
}

/// Begins to look for a new [`peak`]; answers [`live`].
pub fn begin_peak() -> isize {
    PEAK.set(LIVE.get());
    LIVE.get()
}

fn allocated(size: usize) {
    ALLOCATIONS.set(ALLOCATIONS.get() + 1);
    BYTES.set(BYTES.get() + size);
    LIVE.set(LIVE.get() + size as isize);
    PEAK.set(PEAK.get().max(LIVE.get()));
}

fn freed(size: usize) {
    LIVE.set(LIVE.get() - size as isize);
}

/// The system's allocator, counting per thread.
#[derive(Debug)]
pub struct Allocator;

// SAFETY: every method hands its arguments to `System` unchanged and returns what that returns; the counters are plain
// thread-local cells without destructors, so touching them neither allocates nor fails.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        freed(layout.size());
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        freed(layout.size());
        allocated(size);
        // SAFETY: as above; the pointer came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
