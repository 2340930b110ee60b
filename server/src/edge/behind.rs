//! What is kept of the log for peers that catch up behind a snapshot.
//!
//! A snapshot is of a moment, and while it is on its way and made into a store the log goes on. If the log were given up as
//! usual meanwhile, a peer would find behind its snapshot that what follows is gone, and need another one: under a steady
//! load for ever. So from the moment that a snapshot is pinned until its peer has all of the log, the log is kept from where
//! the peer is known to be.
//!
//! Not for ever: a peer that is silent for [`SILENCE_MAX`], or more than [`ENTRIES_MAX`] entries behind, is given up.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::{Index, NodeId, PeerStatus};

/// So many entries are kept for a peer; one that is slower than that needs another snapshot.
const ENTRIES_MAX: u64 = 4 << 20;

/// So long may a peer be silent: more than a start of its process takes.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// See the module's header.
#[derive(Debug, Default)]
pub struct Behind(BTreeMap<NodeId, Hold>);

#[derive(Debug)]
struct Hold {
    /// The peer has, or will have, everything up to here.
    from: Index,
    /// When it was heard of last.
    heard: Duration,
}

impl Behind {
    /// A snapshot as of `position` is pinned for `peer`. If it had got an earlier one, it may still come to that.
    pub fn pinned(&mut self, peer: NodeId, position: Index, now: Duration) {
        let hold = self.0.entry(peer).or_insert(Hold { from: position, heard: now });
        hold.from = hold.from.min(position);
        hold.heard = now;
    }

    /// What the leader knows of its peers, and where its log ends. Whoever has all, is gone or was given up is dropped.
    pub fn tick(&mut self, progress: &[PeerStatus], last: Index, now: Duration) {
        self.0.retain(|peer, hold| {
            let Some(peer) = progress.iter().find(|progress| progress.node == *peer) else { return false };
            if peer.recent_active {
                hold.heard = now; // raft forgets it for a moment once in each election timeout
            }
            hold.from = hold.from.max(peer.matched);
            let near = last.0.saturating_sub(hold.from.0) <= ENTRIES_MAX;
            peer.matched < last && near && now.saturating_sub(hold.heard) < SILENCE_MAX
        });
    }

    /// The log is needed behind this index.
    pub fn needed_from(&self) -> Option<Index> {
        self.0.values().map(|hold| hold.from).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn at(matched: u64, recent_active: bool) -> [PeerStatus; 1] {
        let snapshot = matched == 0;
        [PeerStatus { node: PEER, matched: Index(matched), recent_active, learner: false, snapshot }]
    }

    /// One line per tick: seconds, what the leader knows of the peer, the end of its log, what it keeps.
    #[test]
    fn the_log_is_kept_until_the_peer_has_it_all() {
        let story = [
            (0.1, at(0, true), 200, Some(100)),
            (5.0, at(0, true), 9_000, Some(100)), // it is built into a store
            (5.1, at(100, false), 9_100, Some(100)), // between two rounds of raft's
            (5.2, at(100, true), 9_200, Some(100)),
            (5.3, at(4_000, true), 9_300, Some(4_000)), // what it has need not be kept
            (6.1, at(8_000, false), 9_400, Some(8_000)),
            (6.2, at(9_400, true), 9_500, Some(9_400)), // a steady load
            (6.3, at(9_500, true), 9_500, None),
        ];
        let mut behind = Behind::default();
        behind.pinned(PEER, Index(100), Duration::ZERO);
        for (seconds, progress, last, want) in story {
            behind.tick(&progress, Index(last), Duration::from_secs_f64(seconds));
            assert_eq!(behind.needed_from(), want.map(Index), "at {seconds}");
        }
    }

    #[test]
    fn a_second_snapshot_does_not_give_up_what_the_first_needs() {
        let mut behind = Behind::default();
        behind.pinned(PEER, Index(100), Duration::ZERO);
        behind.tick(&at(0, true), Index(500), Duration::from_secs(1));
        behind.pinned(PEER, Index(400), Duration::from_secs(2));
        assert_eq!(behind.needed_from(), Some(Index(100)));
        behind.pinned(NodeId(3), Index(50), Duration::from_secs(2));
        assert_eq!(behind.needed_from(), Some(Index(50)), "the slowest one");
        behind.tick(&at(0, true), Index(500), Duration::from_secs(3));
        assert_eq!(behind.needed_from(), Some(Index(100)), "the other one is gone");
    }

    #[test]
    fn whoever_is_silent_or_hopelessly_slow_is_given_up() {
        let (second, ten) = (Duration::from_secs(1), Duration::from_secs(10));
        let mut behind = Behind::default();
        behind.pinned(PEER, Index(100), Duration::ZERO);
        behind.tick(&at(0, true), Index(200), second);
        behind.tick(&at(0, false), Index(200), ten);
        assert_eq!(behind.needed_from(), Some(Index(100)));
        behind.tick(&at(0, false), Index(200), second + ten);
        assert_eq!(behind.needed_from(), None, "silent");
        behind.pinned(PEER, Index(100), Duration::ZERO);
        behind.tick(&at(0, true), Index(100 + ENTRIES_MAX), second);
        assert_eq!(behind.needed_from(), Some(Index(100)));
        behind.tick(&at(0, true), Index(101 + ENTRIES_MAX), second);
        assert_eq!(behind.needed_from(), None, "slow");
        behind.pinned(PEER, Index(100), Duration::ZERO);
        behind.tick(&[], Index(200), second);
        assert_eq!(behind.needed_from(), None, "this member leads no more");
    }
}
