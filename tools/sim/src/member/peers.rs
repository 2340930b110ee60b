//! Whom a member knows: the members of its store, those that have come to it, and those that were removed.
//!
//! As the server's edge does it with standing connections: each member says hello to all whom it knows, now and then. Who was
//! removed is told so and stops for good; a stranger is let in, for it may lead, and the entry that made it a member may
//! be on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consensus::NodeId;
use node::membership;

/// Another member, or one that says so.
#[derive(Default)]
struct Peer {
    is_member: bool,
    /// Since when it is heard of without a break, and when it was last.
    heard: Option<(Duration, Duration)>,
}

/// See the module's header.
pub(super) struct Peers {
    own: NodeId,
    members: Vec<membership::Member>,
    known: BTreeMap<NodeId, Peer>,
    removed: BTreeSet<NodeId>,
    /// A peer that isn't heard of for so long is not connected.
    patience: Duration,
}

impl Peers {
    /// Knows the members of the store, or those that the flags name.
    pub fn new(
        own: NodeId,
        members: Vec<membership::Member>,
        removed: &[NodeId],
        patience: Duration,
    ) -> Peers {
        let mut peers =
            Peers { own, members: Vec::new(), known: BTreeMap::new(), removed: BTreeSet::new(), patience };
        peers.connect(&members, removed);
        peers.members = members;
        peers
    }

    /// Whom it is to talk to from now on.
    pub fn set_members(&mut self, members: Vec<membership::Member>, removed: &[NodeId]) {
        self.connect(&members, removed);
        self.members = members;
    }

    fn connect(&mut self, members: &[membership::Member], removed: &[NodeId]) {
        self.removed.extend(removed);
        let is_member = |node: NodeId| members.iter().any(|member| member.id == node.0);
        for (node, peer) in &self.known {
            if peer.is_member && !is_member(*node) {
                self.removed.insert(*node);
            }
        }
        let removed = &self.removed;
        self.known.retain(|node, _| !removed.contains(node));
        for member in members.iter().filter(|member| member.id != self.own.0) {
            if !self.removed.contains(&NodeId(member.id)) {
                self.known.entry(NodeId(member.id)).or_default().is_member = true;
            }
        }
    }

    /// Whether this member is a learner, as far as it knows.
    pub fn is_learner(&self) -> bool {
        self.members.iter().any(|member| member.id == self.own.0 && member.is_learner)
    }

    /// The members, as it says them to one who wants to join.
    pub fn members(&self) -> &[membership::Member] {
        &self.members
    }

    /// Whether something of this peer is listened to: not if it was removed. Then it is known from now on.
    pub fn judge(&mut self, from: NodeId) -> bool {
        if self.removed.contains(&from) {
            return false;
        }
        self.known.entry(from).or_default();
        true
    }

    /// It has said hello.
    pub fn heard(&mut self, from: NodeId, now: Duration) {
        let patience = self.patience;
        if let Some(peer) = self.known.get_mut(&from) {
            let since =
                peer.heard.filter(|(_, last)| now - *last <= patience).map_or(now, |(since, _)| since);
            peer.heard = Some((since, now));
        }
    }

    /// For how long the link has been up.
    pub fn active_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        let (since, last) = self.known.get(&node)?.heard?;
        (now - last <= self.patience).then(|| now - since)
    }

    /// Whether messages go there.
    pub fn knows(&self, node: NodeId) -> bool {
        self.known.contains_key(&node)
    }

    /// All whom it knows.
    pub fn known(&self) -> Vec<NodeId> {
        self.known.keys().copied().collect()
    }
}
