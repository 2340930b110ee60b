//! The present, as the pure crates want it: a `Duration` since the process started, monotonic.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Time since the first call of this function in the process. Never goes back.
pub fn now() -> Duration {
    START.get_or_init(Instant::now).elapsed()
}
