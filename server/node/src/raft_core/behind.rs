//! What is kept of the log for peers that catch up behind a snapshot.
//!
//! A snapshot is of a moment, and while it is on its way and made into a store the log goes on. If the log were given up as
//! usual meanwhile, a peer would find behind its snapshot that what follows is gone, and need another one: under a steady
//! load for ever. So from the moment that a snapshot is pinned until its peer has all of the log, the log is kept from where
//! the peer is known to be.
//!
//! Not for ever: a peer that is silent for [`SILENCE_MAX`], or more than [`ENTRIES_MAX`] entries or [`BYTES_MAX`] bytes
//! behind, is given up. The bytes are those of whole blocks of the log for each append by itself: what the disk holds is less
//! where it takes several of them at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use consensus::log::BLOCK;
use consensus::{Append, Entry, Index, NodeId, PeerStatus};

/// So many entries are kept for a peer; one that is slower than that needs another snapshot.
const ENTRIES_MAX: u64 = 4 << 20;

/// So many bytes of them, as written to disk. At 64 MiB/s, the pace of a snapshot, a store of 4 GiB takes one minute.
const BYTES_MAX: u64 = 4 << 30;

/// So long may a peer be silent: more than a start of its process takes.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How finely bytes are told apart: 256 steps to the bound.
const STEP_BYTES: u64 = BYTES_MAX / 256;

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Behind {
    holds: BTreeMap<NodeId, Hold>,
    weights: Weights,
}

#[derive(Debug)]
struct Hold {
    /// The peer has, or will have, everything up to here.
    from: Index,
    /// When it was heard of last.
    heard: Duration,
}

/// How many bytes of log lie behind an index, to about [`STEP_BYTES`]; counted while anybody is held for.
#[derive(Debug, Default)]
struct Weights {
    /// First entries of appends, and the bytes that had been counted before them.
    marks: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Weights {
    fn appended(&mut self, first: Index, bytes: u64) {
        if self.marks.back().is_none_or(|(_, before)| self.bytes - before >= STEP_BYTES) {
            self.marks.push_back((first, self.bytes));
        }
        self.bytes += bytes;
    }

    /// No fewer than there are behind this index.
    fn behind(&self, index: Index) -> u64 {
        let known = self.marks.partition_point(|(first, _)| first.0 <= index.0 + 1);
        let before = known.checked_sub(1).and_then(|at| self.marks.get(at)).or(self.marks.front());
        self.bytes - before.map_or(self.bytes, |(_, before)| *before)
    }

    /// Nobody asks for what is before this index any more.
    fn forget_before(&mut self, index: Index) {
        while self.marks.get(1).is_some_and(|(first, _)| first.0 <= index.0 + 1) {
            self.marks.pop_front();
        }
    }
}

impl Behind {
    /// A snapshot as of `position` is pinned for `peer`. If it had got an earlier one, it may still come to that.
    pub fn pinned(&mut self, peer: NodeId, position: Index, now: Duration) {
        let hold = self.holds.entry(peer).or_insert(Hold { from: position, heard: now });
        hold.from = hold.from.min(position);
        hold.heard = now;
    }

    /// The log grows.
    pub fn appended(&mut self, append: &Append) {
        if let (false, Some(first)) = (self.holds.is_empty(), append.entries.first()) {
            let bytes: usize = append.entries.iter().map(Entry::cost_bytes).sum();
            self.weights.appended(first.index, bytes.next_multiple_of(BLOCK) as u64);
        }
    }

    /// What the leader knows of its peers, and where its log ends. Whoever has all, is gone or was given up is dropped.
    pub fn tick(&mut self, progress: &[PeerStatus], last: Index, now: Duration) {
        let weights = &self.weights;
        self.holds.retain(|peer, hold| {
            let Some(peer) = progress.iter().find(|progress| progress.node == *peer) else { return false };
            if peer.recent_active {
                hold.heard = now; // raft forgets it for a moment once in each election timeout
            }
            hold.from = hold.from.max(peer.matched);
            let near =
                last.0.saturating_sub(hold.from.0) <= ENTRIES_MAX && weights.behind(hold.from) <= BYTES_MAX;
            peer.matched < last && near && now.saturating_sub(hold.heard) < SILENCE_MAX
        });
        match self.needed_from() {
            None => self.weights = Weights::default(),
            Some(needed) => self.weights.forget_before(needed),
        }
    }

    /// The log is needed behind this index.
    pub fn needed_from(&self) -> Option<Index> {
        self.holds.values().map(|hold| hold.from).min()
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

    /// Bytes are counted from the pin on, and what the peer has got counts no more.
    #[test]
    fn whoever_would_fill_the_disk_is_given_up() {
        let second = Duration::from_secs(1);
        let gib = |count: u64| count << 30;
        // entries of 1 GiB each, up to; what the peer has; what is kept
        let story = [
            (103, 0, Some(100)),
            (104, 0, Some(100)),
            (106, 103, Some(103)), // three of six
            (107, 103, Some(103)),
            (108, 103, None),
        ];
        let mut behind = Behind::default();
        behind.weights.appended(Index(99), gib(9)); // before anybody was held for
        behind.tick(&at(0, true), Index(100), second);
        behind.pinned(PEER, Index(100), Duration::ZERO);
        let mut end = 100;
        for (last, matched, want) in story {
            while end < last {
                end += 1;
                behind.weights.appended(Index(end), gib(1));
            }
            behind.tick(&at(matched, true), Index(last), second);
            assert_eq!(behind.needed_from(), want.map(Index), "{last} {matched}");
        }
        assert_eq!(behind.weights.bytes, 0, "nothing is counted for nobody");
    }

    #[test]
    fn small_appends_weigh_a_block_each_and_cost_few_marks() {
        let mut behind = Behind::default();
        let entry = |index: u64| Entry {
            index: Index(index),
            term: consensus::Term(1),
            kind: consensus::EntryKind::Normal,
            data: bytes::Bytes::from_static(b"x"),
            proposal: None,
        };
        let append = |index: u64| Append {
            ready: consensus::ReadyNumber(index),
            hard_state: consensus::HardState::default(),
            entries: vec![entry(index)],
            reset: None,
        };
        behind.appended(&append(1));
        assert_eq!(behind.weights.bytes, 0, "nobody is held for");
        behind.pinned(PEER, Index(1), Duration::ZERO);
        for index in 2..=100_001 {
            behind.appended(&append(index));
        }
        assert_eq!(behind.weights.behind(Index(1)), 100_000 * BLOCK as u64);
        let half = behind.weights.behind(Index(50_001));
        assert!((50_000..54_200).contains(&(half / BLOCK as u64)), "{half}");
        assert!(behind.weights.marks.len() <= 26, "{}", behind.weights.marks.len());
    }
}
