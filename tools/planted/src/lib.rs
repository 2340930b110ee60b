//! Bugs that can be switched on, so that the simulator proves that it would find them.
//!
//! Where a rule could be broken by a plausible mistake, the code asks `planted::is("name")` and, if so, makes the mistake.
//! Without the feature `on` (which only `ringsim` has, and only by a feature of its own) the answer is a constant `false`
//! and the compiler removes the branch. One bug is on at a time, per thread: each thread simulates a world of its own.
//!
//! The table of names, and how many seeds each takes to be found, is in `tools/sim/README.md`.

#[cfg(feature = "on")]
mod switch {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Whether this bug is to be made.
    pub fn is(name: &str) -> bool {
        ON.get() == Some(name)
    }

    /// Switches one bug on, or all off, for this thread.
    pub fn switch(name: Option<&'static str>) {
        ON.set(name);
    }
}

#[cfg(feature = "on")]
pub use switch::{is, switch};

/// Whether this bug is to be made: never in this build.
#[cfg(not(feature = "on"))]
#[inline(always)]
pub const fn is(_name: &str) -> bool {
    false
}
