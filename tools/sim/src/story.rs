//! What happened, told by member and in the order of time: for a reader who wants to know why a seed fails.

use crate::queue::Time;

/// Lines, if anybody wants them.
#[derive(Default)]
pub struct Story {
    told: bool,
    lines: Vec<(Time, String, String)>,
}

impl Story {
    /// A story that is kept.
    pub fn kept() -> Story {
        Story { told: true, lines: Vec::new() }
    }

    /// One line about somebody; it is only put together if it is kept.
    pub fn tell(&mut self, now: Time, who: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        if self.told {
            self.lines.push((now, who(), what()));
        }
    }

    /// The last `count` lines: time in seconds, who, what.
    pub fn tail(&self, count: usize) -> impl Iterator<Item = String> {
        let first = self.lines.len().saturating_sub(count);
        self.lines[first..]
            .iter()
            .map(|(at, who, what)| format!("{:>11.6} {who:<9} {what}", *at as f64 / 1e9))
    }
}
