//! What a metric is in memory: one 64-bit word, or a row of them.
//!
//! Every cell has one writer, the thread whose shard it is in, so an increment is a load and a store without a locked
//! instruction. Readers may see one cell older than another; Prometheus doesn't mind, and neither may a test.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Only goes up.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Nothing counted yet.
    pub const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more. Only the shard's own thread may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// The count.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Goes up and down. What is scraped is the sum over all threads: a fact that one thread owns is set by that one alone.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// 0
    pub const fn new() -> Gauge {
        Gauge(AtomicI64::new(0))
    }

    /// The value from now on.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// As [`Gauge::set`]; what is above `i64::MAX` becomes that.
    #[inline]
    pub fn set_unsigned(&self, value: u64) {
        self.set(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// So much more, or less. Only the shard's own thread may call this.
    #[inline]
    pub fn add(&self, difference: i64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(difference), Relaxed);
    }

    /// The value.
    pub fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of a histogram's buckets, in the unit of its raw values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bounds {
    /// `first`, twice that, and so on, `count` of them: Prometheus' `ExponentialBuckets(first, 2, count)`.
    Doubling {
        /// The lowest bound; not 0.
        first: u64,
        /// How many.
        count: usize,
    },
    /// These, ascending.
    List(&'static [u64]),
}

/// Buckets of the widest histogram.
pub const BUCKETS_MAX: usize = 24;

impl Bounds {
    /// How many bounds there are; one more bucket lies above the last.
    pub const fn count(self) -> usize {
        match self {
            Bounds::Doubling { count, .. } => count,
            Bounds::List(list) => list.len(),
        }
    }

    /// The bound of this number.
    pub fn bound(self, at: usize) -> u64 {
        match self {
            Bounds::Doubling { first, .. } => first << at,
            Bounds::List(list) => list[at],
        }
    }

    /// The bucket of a value: the first whose bound isn't below it; [`Bounds::count`] if it is above all.
    #[inline]
    pub fn bucket(self, value: u64) -> usize {
        match self {
            // (value - 1) / first lies in [2^(k-1), 2^k) exactly for the values of bucket k.
            Bounds::Doubling { first, count } => match value.saturating_sub(1) / first {
                0 => 0,
                ratio => count.min((u64::BITS - ratio.leading_zeros()) as usize),
            },
            Bounds::List(list) => list.partition_point(|&bound| bound < value),
        }
    }
}

/// Counts of values by size, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    buckets: [AtomicU64; BUCKETS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing observed yet.
    pub const fn new(bounds: Bounds) -> Histogram {
        assert!(bounds.count() <= BUCKETS_MAX, "widen BUCKETS_MAX");
        Histogram { bounds, buckets: [const { AtomicU64::new(0) }; BUCKETS_MAX + 1], sum: AtomicU64::new(0) }
    }

    /// One value in the histogram's raw unit. Only the shard's own thread may call this.
    #[inline]
    pub fn observe(&self, value: u64) {
        let bucket = &self.buckets[self.bounds.bucket(value)];
        bucket.store(bucket.load(Relaxed).wrapping_add(1), Relaxed);
        self.sum.store(self.sum.load(Relaxed).wrapping_add(value), Relaxed);
    }

    /// One duration, for histograms whose raw unit is the nanosecond.
    #[inline]
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds what this one has seen.
    pub fn collect(&self, into: &mut Collected) {
        for (count, bucket) in into.buckets.iter_mut().zip(&self.buckets) {
            *count += bucket.load(Relaxed);
        }
        into.sum = into.sum.wrapping_add(self.sum.load(Relaxed));
    }
}

/// Histograms of several threads together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Collected {
    /// Per bucket, not cumulative.
    pub buckets: [u64; BUCKETS_MAX + 1],
    /// In the raw unit.
    pub sum: u64,
}

impl Collected {
    /// All values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_buckets_agree_with_a_search() {
        const LIST: &[u64] = &[1000, 2000, 4000, 8000, 16_000];
        let doubling = Bounds::Doubling { first: 1000, count: 5 };
        let list = Bounds::List(LIST);
        assert_eq!((0..5).map(|at| doubling.bound(at)).collect::<Vec<_>>(), LIST);
        let edges = LIST.iter().flat_map(|&bound| [bound - 1, bound, bound + 1]);
        for value in edges.chain([0, 1, 1500, 3000, 16_001, 1 << 40, u64::MAX]) {
            assert_eq!(doubling.bucket(value), list.bucket(value), "{value}");
        }
        let units = Bounds::Doubling { first: 1, count: 4 };
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 8, 9, 100].map(|value| units.bucket(value)),
            [0, 0, 1, 2, 2, 3, 3, 4, 4]
        );
    }

    #[test]
    fn histograms_of_two_threads_add_up() {
        let bounds = Bounds::Doubling { first: 10, count: 3 };
        let (a, b) = (Histogram::new(bounds), Histogram::new(bounds));
        a.observe(10);
        a.observe(41);
        b.observe(11);
        b.observe_duration(Duration::from_nanos(20));
        let mut sum = Collected::default();
        a.collect(&mut sum);
        b.collect(&mut sum);
        assert_eq!((&sum.buckets[..4], sum.sum, sum.count()), (&[1, 2, 0, 1][..], 82, 4));
    }

    #[test]
    fn gauges_and_counters() {
        let gauge = Gauge::default();
        gauge.set(-1);
        gauge.add(3);
        assert_eq!(gauge.value(), 2);
        gauge.set_unsigned(u64::MAX);
        assert_eq!(gauge.value(), i64::MAX);
        let counter = Counter::default();
        counter.inc();
        counter.add(2);
        assert_eq!(counter.value(), 3);
    }
}
