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

/// When an event happens, and where it is kept.
type Key = (Time, u64, usize);

/// The events to come.
///
/// What the plan says is known from the beginning and stays in a list of its own, so that the heap holds what is under way and
/// is small. It orders keys only; events lie where they were put.
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Key>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    /// Of the plan, the next one last.
    planned: Vec<(Key, E)>,
    is_sorted: bool,
    now: Time,
    rng: Rng,
}

impl<E> Queue<E> {
    /// Nothing yet, at time 0.
    pub fn new(rng: Rng) -> Queue<E> {
        Queue {
            heap: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            planned: Vec::new(),
            is_sorted: true,
            now: 0,
            rng,
        }
    }

    /// The present.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Something happens at `at`, or now if that is over.
    pub fn at(&mut self, at: Time, event: E) {
        let tie = self.rng.next();
        let place = match self.free.pop() {
            Some(place) => {
                self.events[place] = Some(event);
                place
            }
            None => {
                self.events.push(Some(event));
                self.events.len() - 1
            }
        };
        self.heap.push(Reverse((at.max(self.now), tie, place)));
    }

    /// Something of the plan happens at `at`. Its place among events of the same moment is its own, so that a plan from which
    /// something is left out shifts nothing else.
    pub fn planned(&mut self, at: Time, tie: u64, event: E) {
        self.planned.push(((at, tie, self.planned.len()), event));
        self.is_sorted = false;
    }

    /// Something happens in `delay`.
    pub fn after(&mut self, delay: Time, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event, if it is not after `end`; time moves on to it.
    pub fn pop(&mut self, end: Time) -> Option<E> {
        if !self.is_sorted {
            self.planned.sort_unstable_by_key(|(key, _)| Reverse(*key));
            self.is_sorted = true;
        }
        let planned = self.planned.last().map(|(key, _)| (key.0, key.1));
        let other = self.heap.peek().map(|Reverse(key)| (key.0, key.1));
        let next = [planned, other].into_iter().flatten().min();
        let Some((at, _)) = next.filter(|(at, _)| *at <= end) else {
            self.now = self.now.max(end);
            return None;
        };
        self.now = at;
        if next == planned {
            return self.planned.pop().map(|(_, event)| event);
        }
        let Reverse((_, _, place)) = self.heap.pop().expect("it was there");
        self.free.push(place);
        self.events[place].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_whoever_put_them_there() {
        let rng = &mut Rng::new(1);
        let mut queue = Queue::new(Rng::new(2));
        let mut expected = Vec::new();
        for _ in 0..300 {
            let at = rng.below(1000) as Time;
            expected.push(at);
            match rng.permille(500) {
                true => queue.planned(at, rng.next(), at),
                false => queue.at(at, at),
            }
        }
        expected.sort_unstable();
        let mut found = Vec::new();
        for end in [400, 2000] {
            while let Some(at) = queue.pop(end) {
                assert_eq!((at, at <= end), (queue.now(), true));
                found.push(at);
            }
            assert_eq!(queue.now(), end);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn what_was_planned_shifts_no_tie_and_the_past_is_now() {
        let order = |planned: bool| {
            let mut queue = Queue::new(Rng::new(3));
            if planned {
                queue.planned(7, 1 << 63, 100);
            }
            (0..8).for_each(|number| queue.at(7, number));
            std::iter::from_fn(|| queue.pop(7)).filter(|number| *number < 100).collect::<Vec<_>>()
        };
        assert_eq!(order(true), order(false));
        assert_ne!(order(false), (0..8).collect::<Vec<_>>(), "chance decides");
        let mut queue = Queue::new(Rng::new(4));
        queue.at(5, ());
        assert_eq!(queue.pop(9), Some(()));
        queue.at(1, ());
        assert_eq!((queue.pop(9), queue.now()), (Some(()), 5));
    }
}
