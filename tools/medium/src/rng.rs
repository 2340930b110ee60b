//! Chance, all of it from one number.
//!
//! Each domain (the schedule, the network, each disk, …) draws from a generator of its own, so that one more packet does
//! not change which sectors a power cut keeps.

/// SplitMix64 (Steele, Lea, Flood 2014): equidistributed and more than good enough to choose events by.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The generator of a domain of a seed; `number` tells members or clients apart.
    pub fn of(seed: u64, domain: &str, number: u64) -> Rng {
        let mut rng = Rng(seed ^ 0x5eed);
        for byte in domain.bytes() {
            rng.0 = rng.next() ^ u64::from(byte);
        }
        rng.0 = rng.next() ^ number;
        Rng(rng.next())
    }

    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "a generator that never ends is no iterator here")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// In `first..=last`.
    pub fn between(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// True in `of` out of 1000.
    pub fn permille(&mut self, of: usize) -> bool {
        self.below(1000) < of
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// One of these, by weight. The sum of weights is not 0.
    pub fn weighted<T: Copy>(&mut self, choices: &[(usize, T)]) -> T {
        let mut at = self.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, choice) in choices {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        unreachable!("the weights were summed up")
    }

    /// About exponentially distributed around `mean`, at most 20 times it; whole numbers only, so the same everywhere.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let drawn = self.next() | 1;
        let zeros = u64::from(drawn.leading_zeros().min(28));
        // -log2 of a number in (0, 1): the leading zeros, and the rest as if the logarithm were straight between them.
        let rest = (drawn << zeros << 1) >> 48;
        let log2_16 = ((zeros + 1) << 16) - rest;
        ((u128::from(mean) * u128::from(log2_16) * 45_426) >> 32) as u64 // 45 426 / 65 536 is the logarithm of 2
    }
}
