//! Snapshots for peers: pinned, on their way, being installed there.
//!
//! A version of the store is held from when the store core has pinned it until raft's message leaves with it. Raft does not
//! send one to a peer that is silent, so what was pinned for one that has just died is given up after [`PINNED_MAX`]: the
//! version would keep its pages for as long as this member leads.
//!
//! A peer that has received its snapshot builds a store of it before it can say so. Raft is told that the snapshot has arrived
//! only when the peer has had time for that (or says by itself that it is there): told at once, raft would find the peer still
//! behind, and another snapshot would be sent.

use std::collections::BTreeMap;
use std::time::Duration;

use consensus::{NodeId, PeerStatus};

use super::PinnedSnapshot;

/// So long may a pinned version wait for raft's message.
const PINNED_MAX: Duration = Duration::from_secs(10);

/// How long a peer has at least for building its store of a snapshot that it has, before it is looked whether it has.
/// It gets more where the snapshot was long on its way.
const INSTALL_TIME_MIN: Duration = Duration::from_secs(5);

/// See the module's header.
#[derive(Default)]
pub(super) struct Offers {
    pinned: BTreeMap<NodeId, (Duration, Box<PinnedSnapshot>)>,
    /// Since when snapshots are on their way.
    began: BTreeMap<NodeId, Duration>,
    /// Snapshots that have arrived, and when their peers should have installed them.
    delivered: BTreeMap<NodeId, Duration>,
}

impl Offers {
    /// The store core has pinned a version.
    pub fn pinned(&mut self, now: Duration, snapshot: Box<PinnedSnapshot>) {
        self.pinned.insert(snapshot.peer, (now, snapshot));
    }

    /// Raft's message leaves, and the version with it.
    pub fn leaves(&mut self, now: Duration, peer: NodeId) -> Option<Box<PinnedSnapshot>> {
        let (_, snapshot) = self.pinned.remove(&peer)?;
        self.began.insert(peer, now);
        Some(snapshot)
    }

    /// Raft wants it no more.
    pub fn unwanted(&mut self, peer: NodeId) {
        self.pinned.remove(&peer);
        self.began.remove(&peer);
    }

    /// The peer has it.
    pub fn delivered(&mut self, now: Duration, peer: NodeId) {
        let took = self.began.remove(&peer).map_or(Duration::ZERO, |began| now.saturating_sub(began));
        self.delivered.insert(peer, now + INSTALL_TIME_MIN.max(4 * took));
    }

    /// It did not get there.
    pub fn failed(&mut self, peer: NodeId) {
        self.began.remove(&peer);
    }

    /// The peer is there anew. After a repair it starts over, and says nothing of the snapshot by itself: whether it had got
    /// one.
    pub fn reachable(&mut self, peer: NodeId) -> bool {
        self.delivered.remove(&peer).is_some()
    }

    /// Peers that have had their time and that raft still takes for busy with a snapshot.
    pub fn overdue(&mut self, now: Duration, progress: &[PeerStatus]) -> Vec<NodeId> {
        let mut overdue = Vec::new();
        self.delivered.retain(|peer, due| {
            let waits = progress.iter().any(|progress| progress.node == *peer && progress.snapshot);
            let late = now >= *due;
            if waits && late {
                overdue.push(*peer);
            }
            waits && !late
        });
        overdue
    }

    /// Peers for which something has been pinned for too long.
    pub fn stale(&self, now: Duration) -> Vec<NodeId> {
        let is_stale = |since: Duration| now.saturating_sub(since) >= PINNED_MAX;
        self.pinned.iter().filter(|(_, (since, _))| is_stale(*since)).map(|(peer, _)| *peer).collect()
    }

    /// Versions that are held, and peers that something is remembered of.
    pub fn len(&self) -> usize {
        self.pinned.len() + self.began.len() + self.delivered.len()
    }
}
