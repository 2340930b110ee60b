//! Whom a member knows: the members of its store, those that have come to it, and those that were removed.
//!
//! As the server's edge does it with standing connections: each member says hello to all whom it knows, now and then. Who was
//! removed is told so and stops for good; a stranger is let in, for it may lead, and the entry that made it a member may
//! be on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consensus::{Forward, NodeId, PeerMessage};
use node::membership;
use node::peer::Forwards;

/// Bytes of proposals kept for one peer.
const FORWARD_BYTES_MAX: usize = 64 << 10;

/// Another member, or one that says so.
struct Peer {
    is_member: bool,
    /// Proposals on their way to it.
    forwards: Forwards,
    /// Since when it is heard of without a break, and when it was last.
    heard: Option<(Duration, Duration)>,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { is_member: false, forwards: Forwards::new(FORWARD_BYTES_MAX), heard: None }
    }
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

    /// A forward is to go there.
    pub fn forward(&mut self, to: NodeId, now: Duration, forward: &Forward) {
        if let Some(peer) = self.known.get_mut(&to) {
            peer.forwards.push(now, forward);
        }
    }

    /// There is a new connection to this peer: what was forwarded before goes on it, too.
    pub fn reconnected(&mut self, to: NodeId) {
        if let Some(peer) = self.known.get_mut(&to) {
            peer.forwards.start_over();
        }
    }

    /// Sends what was forwarded to this peer and is not sent yet, as long as `send` takes it.
    pub fn send_forwards(&mut self, to: NodeId, mut send: impl FnMut(&PeerMessage) -> bool) {
        let Some(peer) = self.known.get_mut(&to) else { return };
        let _: Result<(), ()> = peer.forwards.send(|message| if send(message) { Ok(()) } else { Err(()) });
    }

    /// Forgets the forwards that came before `then` or that are no longer `open`.
    pub fn forget_forwards(&mut self, then: Duration, open: impl Fn(&Forward) -> bool) {
        self.known.values_mut().for_each(|peer| peer.forwards.forget(then, &open));
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

    /// The connection to it is lost.
    pub fn lost(&mut self, node: NodeId) {
        if let Some(peer) = self.known.get_mut(&node) {
            peer.heard = None;
        }
    }

    /// Those that were removed.
    pub fn removed(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.removed.iter().copied()
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
