//! Changes of the membership, and of who leads, where the raft core deals with them.

use consensus::NodeId;
use node::cores::PeerFigures;
use node::raft_core::Input;

use super::{Done, Member, node_id, node_number};
use crate::env::{Env, NodeNumber};

impl Member {
    /// Whether it is no learner, as far as it knows.
    pub fn serves_writes(&self) -> bool {
        !self.peers.is_learner()
    }

    /// The members as this one knows them.
    pub fn members(&self) -> &[node::membership::Member] {
        self.peers.members()
    }

    /// Whether it knows this one, and would hear that it was removed.
    pub fn knows(&self, other: NodeNumber) -> bool {
        self.peers.knows(node_id(other))
    }

    // The raft core's part.

    /// Once per tick: all are greeted, and figures are there for the other cores.
    pub(super) fn tend_peers(&mut self, env: &mut Env) -> Done {
        if !env.greets() {
            return Ok(());
        }
        let now = self.now(env);
        let is_due = self.ticks.is_multiple_of(env.config.election_ticks as u64);
        for peer in self.peers.known() {
            if env.keep_up(self.id(), node_number(peer)) {
                self.peers.heard(peer, now);
            } else if is_due {
                env.hello(self.id(), node_number(peer));
            }
        }
        let progress = self.raft.core.node().peers();
        let figures = |peer: NodeId| PeerFigures {
            member: peer.0,
            active_for: self.peers.active_for(peer, now),
            matched: progress.iter().find(|at| at.node == peer).map(|at| at.matched),
        };
        self.shared.peers = self.peers.known().into_iter().map(figures).collect();
        let conf = self.raft.core.node().conf_state();
        env.oracle.configured(self.number, self.raft.conf_at.0, &conf)
    }

    /// Whether something of this peer is listened to. If not, it has been removed and must hear of it.
    pub fn judge(&mut self, from: NodeNumber) -> bool {
        self.peers.judge(node_id(from))
    }

    /// A peer has said hello.
    pub fn greeted(&mut self, env: &mut Env, from: NodeNumber) {
        let (peer, now) = (node_id(from), self.now(env));
        let was_there = self.peers.active_for(peer, now).is_some();
        self.peers.heard(peer, now);
        if !was_there {
            self.tell_raft(env, Input::Reachable(peer));
        }
    }
}
