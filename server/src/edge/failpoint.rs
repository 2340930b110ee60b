//! Named places where a test can make the process die, compiled in only with the feature `failpoints`.
//!
//! `RINGD_FAILPOINTS=log-before-submit=100,checkpoint-before-meta=1` kills the process (as `kill -9` does: no unwinding, no
//! flushing) when the named place is reached for the given time. Names in use: `log-before-submit`,
//! `log-after-completion`, `commit-before-apply`, `apply-before-publish`, `checkpoint-before-pages`,
//! `checkpoint-before-sync`, `checkpoint-before-meta`, `checkpoint-between-pages`,
//! `checkpoint-before-meta-sync`, `checkpoint-after-end`.

/// Dies here if a test asked for it; nothing otherwise.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn failpoint(_name: &str) {}

/// Dies here if a test asked for it; nothing otherwise.
#[cfg(feature = "failpoints")]
pub fn failpoint(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static POINTS: OnceLock<Vec<(String, u64, AtomicU64)>> = OnceLock::new();
    let points = POINTS.get_or_init(|| {
        let plan = std::env::var("RINGD_FAILPOINTS").unwrap_or_default();
        let mut points = Vec::new();
        for (name, at) in plan.split(',').filter_map(|point| point.split_once('=')) {
            let at = at.parse().expect("a failpoint's count is a number");
            points.push((name.to_owned(), at, AtomicU64::new(0)));
        }
        points
    });
    for (point, at, hits) in points {
        if point == name && hits.fetch_add(1, Ordering::Relaxed) + 1 == *at {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
    }
}
