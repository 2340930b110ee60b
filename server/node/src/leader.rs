//! Streams that ask for a leader (`hasleader: true`): ended when there has been none for a while.
//!
//! etcd interceptor.go, `monitorLeader`: it counts the election timeouts in a row without a leader and cancels at three.
//! Time is taken here instead of counted, so a look that comes late changes nothing.

use std::time::Duration;

/// Election timeouts without a leader after which streams end (etcd: `maxNoLeaderCnt`).
const ELECTION_TIMEOUTS: u32 = 3;

/// Since when there is no leader.
#[derive(Debug)]
pub struct LeaderLoss {
    patience: Duration,
    since: Option<Duration>,
}

impl LeaderLoss {
    /// Knows of no loss.
    pub fn new(election_timeout: Duration) -> LeaderLoss {
        LeaderLoss { patience: election_timeout * ELECTION_TIMEOUTS, since: None }
    }

    /// Whether streams that ask for a leader must end now.
    pub fn is_due(&mut self, now: Duration, has_leader: bool) -> bool {
        if has_leader {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(now);
        now - since >= self.patience
    }
}

/// The calls of one connection that ask for a leader.
///
/// Ended calls are forgotten when there are as many of them as of the others, so the list is bounded by what is open.
#[derive(Debug)]
pub struct NeedLeader<C> {
    calls: Vec<C>,
    look_at: usize,
}

/// So many calls are kept without a look at which of them are still open.
const LOOK_AT_MIN: usize = 16;

impl<C> Default for NeedLeader<C> {
    fn default() -> NeedLeader<C> {
        NeedLeader { calls: Vec::new(), look_at: LOOK_AT_MIN }
    }
}

impl<C: Copy> NeedLeader<C> {
    /// This call asks for a leader.
    pub fn add(&mut self, call: C, is_open: impl Fn(C) -> bool) {
        if self.calls.len() >= self.look_at {
            self.calls.retain(|&call| is_open(call));
            self.look_at = (2 * self.calls.len()).max(LOOK_AT_MIN);
        }
        self.calls.push(call);
    }

    /// Takes those that are still open.
    pub fn take_open(&mut self, is_open: impl Fn(C) -> bool) -> Vec<C> {
        let mut calls = std::mem::take(&mut self.calls);
        calls.retain(|&call| is_open(call));
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_election_timeouts_in_a_row_are_too_many() {
        let mut loss = LeaderLoss::new(Duration::from_millis(1000));
        // at, is there a leader, must streams end
        let story = [
            (0, true, false),
            (100, false, false),
            (3000, false, false),
            (3050, true, false), // in time
            (3100, false, false),
            (6000, false, false),
            (6100, false, true),
            (9000, false, true), // those that came meanwhile, too
            (9100, true, false),
            (9200, false, false),
        ];
        for (at, has_leader, want) in story {
            assert_eq!(loss.is_due(Duration::from_millis(at), has_leader), want, "at {at}");
        }
    }

    #[test]
    fn only_open_calls_are_kept() {
        let mut calls = NeedLeader::default();
        for call in 0..10_000_u32 {
            calls.add(call, |call| call % 1000 == 0);
            assert!(calls.calls.len() <= 2 * LOOK_AT_MIN + 20, "{}", calls.calls.len());
        }
        assert_eq!(calls.take_open(|call| call % 2000 == 0), [0, 2000, 4000, 6000, 8000]);
        assert!(calls.take_open(|_| true).is_empty());
    }
}
