//! Named places where a test can make the process die or an operation fail, compiled in only with the feature
//! `failpoints`.
//!
//! The variable `RINGD_FAILPOINTS` lists them, separated by commas:
//!
//! - `log-before-submit=100` kills the process (as `kill -9` does: no unwinding, no flushing) when that place is reached
//!   for the 100th time;
//! - `log-write=eio@50` lets the 50th operation at that place fail with EIO, before anything is done (`enospc@50`:
//!   with ENOSPC; `stall@50`: never end, and hold its thread; `slow@50`: take ten seconds, then succeed).
//!
//! | place | when |
//! |---|---|
//! | `log-before-submit` | a batch is encoded |
//! | `log-after-submit` | its write is with the kernel and has not been seen to end |
//! | `log-after-completion` | it is durable; nobody knows |
//! | `log-after-report` | the raft core has been told |
//! | `segment-before-sync`, `segment-before-rename`, `segment-after-rename` | a new segment is filled; synced; in place, its directory not synced |
//! | `log-before-begun`, `log-after-begun` | a first start: first segment and tree file are there; and that is noted |
//! | `commit-before-apply` | committed entries have reached the store |
//! | `apply-before-publish` | they are applied |
//! | `publish-before-answer` | readers could see them; no proposer has its answer |
//! | `checkpoint-before-pages`, `checkpoint-between-pages` | nothing, a part is written |
//! | `checkpoint-before-sync`, `checkpoint-before-meta` | all pages are written; synced |
//! | `checkpoint-before-meta-sync`, `checkpoint-after-meta-sync` | the meta page is written; synced, and the store does not know |
//! | `checkpoint-after-end` | the store knows, the log does not |
//!
//! Operations that can be made to fail: `log-write`, `log-write-report` (done, and reported as failed), `segment-write`,
//! `snapshot-import` (a received snapshot is built into a store), `checkpoint-write`, `checkpoint-sync`,
//! `checkpoint-meta-write`, `checkpoint-meta-sync`.
//!
//! Besides, `RINGD_SERVER_VERSION` is what the process says to other members that its server is, in place of the truth.

/// Dies here if a test asked for it; nothing otherwise.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn failpoint(_name: &str) {}

/// The error that a test wants here; never one otherwise.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn fault(_name: &str) -> std::io::Result<()> {
    Ok(())
}

/// What this process says its server is.
#[cfg(not(feature = "failpoints"))]
pub fn server_version() -> &'static str {
    crate::config::ETCD_VERSION
}

#[cfg(feature = "failpoints")]
pub use armed::{failpoint, fault, is_planned, server_version};

#[cfg(feature = "failpoints")]
mod armed {
    use std::io;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    /// What a slow operation takes.
    const SLOW: Duration = Duration::from_secs(10);

    /// What a test asked for.
    struct Point {
        name: String,
        /// The error to fail with; none: die, or stall.
        errno: Option<i32>,
        /// Never go on.
        stalls: bool,
        /// Go on late.
        slow: bool,
        /// Which time.
        at: u64,
        hits: AtomicU64,
    }

    /// Dies here if a test asked for it; nothing otherwise.
    pub fn failpoint(name: &str) {
        if reached(name).is_some() {
            let _ = kill_process(getpid(), Signal::KILL);
            // The signal is on its way: this thread must do nothing more.
            loop {
                std::thread::park();
            }
        }
    }

    /// The error that a test wants here; never one otherwise.
    pub fn fault(name: &str) -> io::Result<()> {
        match reached(name) {
            Some(Point { errno: Some(errno), .. }) => Err(io::Error::from_raw_os_error(*errno)),
            Some(Point { stalls: true, .. }) => loop {
                std::thread::park();
            },
            Some(Point { slow: true, .. }) => {
                std::thread::sleep(SLOW);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether a test has something in mind for this place.
    pub fn is_planned(name: &str) -> bool {
        plan().iter().any(|point| point.name == name)
    }

    /// What this process says its server is.
    pub fn server_version() -> &'static str {
        static SAID: OnceLock<String> = OnceLock::new();
        SAID.get_or_init(|| {
            std::env::var("RINGD_SERVER_VERSION").unwrap_or_else(|_| crate::config::ETCD_VERSION.to_owned())
        })
    }

    fn reached(name: &str) -> Option<&'static Point> {
        plan()
            .iter()
            .find(|point| point.name == name && point.hits.fetch_add(1, Ordering::Relaxed) + 1 == point.at)
    }

    fn plan() -> &'static [Point] {
        static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
        POINTS.get_or_init(|| {
            let plan = std::env::var("RINGD_FAILPOINTS").unwrap_or_default();
            plan.split(',').filter(|text| !text.is_empty()).map(parse).collect()
        })
    }

    fn parse(text: &str) -> Point {
        let (name, action) = text.split_once('=').expect("a failpoint is name=action");
        let (errno, at) = match action.split_once('@') {
            None => (None, action),
            Some(("eio", at)) => (Some(libc::EIO), at),
            Some(("enospc", at)) => (Some(libc::ENOSPC), at),
            Some(("stall" | "slow", at)) => (None, at),
            Some((other, _)) => panic!("no action of a failpoint: {other}"),
        };
        let at = at.parse().expect("a failpoint's count is a number");
        let (stalls, slow) = (action.starts_with("stall@"), action.starts_with("slow@"));
        Point { name: name.to_owned(), errno, stalls, slow, at, hits: AtomicU64::new(0) }
    }
}
