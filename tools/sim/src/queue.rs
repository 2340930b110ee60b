//! Virtual time: what happens when.
//!
//! Events of the same moment happen in an order drawn by chance, so that no run depends on the order in which code
//! happened to schedule them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::rng::Rng;

/// A moment, in nanoseconds since the world began.
pub type Time = u64;

/// A microsecond.
pub const US: Time = 1_000;

/// A millisecond.
pub const MS: Time = 1_000_000;

/// A second.
pub const S: Time = 1_000_000_000;

struct Entry<E> {
    at: Time,
    tie: u64,
    event: E,
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}

/// The events to come.
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    now: Time,
    rng: Rng,
}

impl<E> Queue<E> {
    /// Nothing yet, at time 0.
    pub fn new(rng: Rng) -> Queue<E> {
        Queue { heap: BinaryHeap::new(), now: 0, rng }
    }

    /// The present.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Something happens at `at`, or now if that is over.
    pub fn at(&mut self, at: Time, event: E) {
        let tie = self.rng.next();
        self.heap.push(Reverse(Entry { at: at.max(self.now), tie, event }));
    }

    /// Something of the plan happens at `at`. Its place among events of the same moment is its own, so that a plan from which
    /// something is left out shifts nothing else.
    pub fn planned(&mut self, at: Time, tie: u64, event: E) {
        self.heap.push(Reverse(Entry { at, tie, event }));
    }

    /// Something happens in `delay`.
    pub fn after(&mut self, delay: Time, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event, if it is not after `end`; time moves on to it.
    pub fn pop(&mut self, end: Time) -> Option<E> {
        if self.heap.peek().is_none_or(|Reverse(next)| next.at > end) {
            self.now = self.now.max(end);
            return None;
        }
        let Reverse(next) = self.heap.pop().expect("it was there");
        self.now = next.at;
        Some(next.event)
    }
}
