//! When to dial again: exponential back-off with jitter, from a seed.
//!
//! A peer that restarts should be back within a tick or two, so the first pauses are short; one that is gone for good
//! should cost little, and many members must not dial a restarted one in step. etcd dials at most ten times a second.

use std::time::Duration;

/// The first pause.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The pauses of one lane.
#[derive(Clone, Debug)]
pub struct Backoff {
    random: u64,
    failures: u32,
}

impl Backoff {
    /// No failure yet. Equal seeds give equal pauses.
    pub fn new(seed: u64) -> Backoff {
        Backoff { random: seed, failures: 0 }
    }

    /// An attempt has ended; the connection stood for `stood`. How long to wait before the next attempt: between half of
    /// the pause and the whole, which doubles with each failure. A connection that stood as long as the longest pause
    /// was none.
    pub fn pause(&mut self, stood: Duration) -> Duration {
        if stood >= PAUSE_MAX {
            self.failures = 0;
        }
        let whole = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures += 1;
        let half = whole / 2;
        half + half.mul_f64(self.fraction())
    }

    /// SplitMix64 (Steele, Lea, Flood 2014), as a number from 0 up to and without 1.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound_and_begin_anew_after_a_good_connection() {
        let mut backoff = Backoff::new(7);
        let none = Duration::ZERO;
        for whole_ms in [50u64, 100, 200, 400, 800, 1000, 1000] {
            let pause = backoff.pause(none);
            let whole = Duration::from_millis(whole_ms);
            assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
        }
        assert!(backoff.pause(PAUSE_MAX) <= PAUSE_FIRST);
        assert!(backoff.pause(PAUSE_MAX / 2) > PAUSE_FIRST / 2);
    }

    #[test]
    fn seeds_decide_the_jitter() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            (0..5).map(|_| backoff.pause(Duration::ZERO)).collect::<Vec<_>>()
        };
        assert_eq!(pauses(1), pauses(1));
        assert_ne!(pauses(1), pauses(2));
    }
}
