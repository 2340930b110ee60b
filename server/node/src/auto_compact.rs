//! `--auto-compaction-mode`, `--auto-compaction-retention`: when the member that leads compacts by itself, and up to where.
//!
//! etcd's rules (`etcdserver/api/v3compactor`), step for step:
//!
//! - *periodic*, keep what is younger than a period: the revision is noted every tenth of the period (of an hour, if the
//!   period is longer) in a window that reaches back one period. After one whole period, and then every period (or hour),
//!   the oldest revision of the window is compacted, unless it was the last time.
//! - *revision*, keep that many revisions: every five minutes what lies further back is compacted.
//!
//! A member that does not lead goes on noting revisions and compacts nothing. After a failure the next step tries again.

use std::collections::VecDeque;
use std::time::Duration;

/// How often *revision* looks (etcd `revision.go`, `revInterval`).
pub const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// Notes per period, or per hour (etcd `periodic.go`, `retryDivisor`).
const NOTES_PER_INTERVAL: u32 = 10;

/// Periods longer than this are compacted this often.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Shortest time between two steps, whatever the period: below it the store would do little else.
const STEP_MIN: Duration = Duration::from_millis(10);

/// What history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// What is younger than this. Not zero.
    Period(Duration),
    /// This many revisions. Above 0.
    Revisions(i64),
}

/// One compactor. Steps are due at [`Compactor::next_timeout`]; the caller proposes what [`Compactor::step`] returns and
/// says with [`Compactor::finished`] what became of it.
#[derive(Debug)]
pub struct Compactor {
    retention: Retention,
    leads: bool,
    next: Duration,
    /// The revision being compacted: no step is due until it is over.
    under_way: Option<i64>,
    /// The last one that was compacted.
    last: i64,
    /// When that was; at first, when this compactor began.
    last_at: Duration,
    /// How long after it the next may come.
    pause: Duration,
    /// Revisions noted, oldest first. Bounded by `period / step`.
    window: VecDeque<i64>,
}

impl Compactor {
    /// A compactor that begins at `now`, when the store is at `revision`.
    pub fn new(retention: Retention, now: Duration, revision: i64) -> Compactor {
        let pause = match retention {
            Retention::Period(period) => period,
            Retention::Revisions(_) => Duration::ZERO,
        };
        let mut compactor = Compactor {
            retention,
            leads: false,
            next: now,
            under_way: None,
            last: 0,
            last_at: now,
            pause,
            window: VecDeque::new(),
        };
        compactor.rest(now, revision);
        compactor
    }

    /// What is kept.
    pub fn retention(&self) -> Retention {
        self.retention
    }

    /// This member leads, or ceased to.
    pub fn lead(&mut self, leads: bool) {
        self.leads = leads;
    }

    /// When the next step is due; nothing is while a compaction is under way.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.under_way.is_none().then_some(self.next)
    }

    /// Takes the step that is due at `now`, when the store is at `revision`. `Some`: compact this revision.
    pub fn step(&mut self, now: Duration, revision: i64) -> Option<i64> {
        if self.under_way.is_some() || now < self.next {
            return None;
        }
        let wanted = self.wanted(now, revision).filter(|_| self.leads);
        match wanted {
            Some(_) => self.under_way = wanted,
            None => self.rest(now, revision),
        }
        wanted
    }

    /// The compaction is over. `compacted`: it was done, by us or by somebody before us.
    pub fn finished(&mut self, now: Duration, revision: i64, compacted: bool) {
        let Some(wanted) = self.under_way.take() else { return };
        if compacted {
            (self.last, self.last_at) = (wanted, now);
        }
        self.rest(now, revision);
    }

    fn wanted(&mut self, now: Duration, revision: i64) -> Option<i64> {
        let wanted = match self.retention {
            Retention::Period(_) if now.saturating_sub(self.last_at) < self.pause => return None,
            Retention::Period(_) => *self.window.front()?,
            Retention::Revisions(count) => revision - count,
        };
        if wanted <= 0 || wanted == self.last {
            return None;
        }
        if let Retention::Period(period) = self.retention
            && self.leads
        {
            self.pause = period.min(INTERVAL_MAX); // only the first wait is a whole period
        }
        Some(wanted)
    }

    /// Until the next step.
    fn rest(&mut self, now: Duration, revision: i64) {
        self.next = now + self.interval();
        if let Retention::Period(period) = self.retention {
            self.window.push_back(revision);
            let kept = period.as_nanos() / self.interval().as_nanos() + 1;
            while self.window.len() as u128 > kept {
                self.window.pop_front();
            }
        }
    }

    fn interval(&self) -> Duration {
        match self.retention {
            Retention::Period(period) => (period.min(INTERVAL_MAX) / NOTES_PER_INTERVAL).max(STEP_MIN),
            Retention::Revisions(_) => REVISION_INTERVAL,
        }
    }
}

#[cfg(test)]
mod tests;
