//! Changes of the membership, and of who leads, where the raft core deals with them.

use std::time::Duration;

use consensus::{NodeId, PeerMessage, ProposalId};
use node::cores::{PeerFigures, ToStore, client_of};
use node::forward::Request;

use super::{Done, Member, ToClient, ToRaft, node_id, node_number};
use crate::check::{Failure, fail};
use crate::env::{Env, NodeNumber};

/// The name of the failure with which a member ends that was removed. The world takes it for what it is.
pub const REMOVED: &str = "removed";

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

    /// Something of a peer goes to the core that is asked.
    pub(super) fn route(&mut self, env: &mut Env, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Request { id, body } => match Request::decode(&body) {
                Ok(Request::KeepAlive { .. } | Request::TimeToLive { .. }) => {
                    self.tell_store(env, ToStore::PeerRequest(from, id, body));
                }
                _ => self.to_client(env, ToClient::PeerRequest(from, id, body)),
            },
            PeerMessage::Response { id, body } => match client_of(ProposalId(id)) {
                None => self.tell_store(env, ToStore::PeerResponse(ProposalId(id), body)),
                Some(_) => self.to_client(env, ToClient::PeerResponse(ProposalId(id), body)),
            },
            _ => {}
        }
    }

    pub(super) fn send_to_peer(&mut self, env: &mut Env, to: NodeId, message: PeerMessage) -> Done {
        if to == node_id(self.number) {
            self.route(env, to, message);
            return Ok(());
        }
        self.send(env, to, Box::new(message))
    }

    /// Who leads now: whoever waits for that is told.
    pub(super) fn led_by(&mut self, env: &mut Env, leader: Option<NodeId>) {
        if leader.is_none() {
            return;
        }
        for (id, to) in std::mem::take(&mut self.raft.transfers) {
            if leader == Some(to) {
                self.to_client(env, ToClient::Transferred(id));
            }
        }
    }

    /// Once per tick: what was refused is proposed again, all are greeted, and figures are there for the other cores.
    pub(super) fn tend_peers(&mut self, env: &mut Env) -> Done {
        if env.config.membership.is_none() {
            return Ok(());
        }
        let now = self.now(env);
        let election = Duration::from_nanos(env.config.election());
        let then = now.saturating_sub(Duration::from_secs(5) + 2 * election);
        for (id, change) in self.raft.conf_changes.due(then) {
            self.raft.inbox.push_back(ToRaft::ProposeConfChange(id, change));
        }
        self.ticks += 1;
        if self.ticks.is_multiple_of(env.config.election_ticks as u64) {
            for peer in self.peers.known() {
                env.hello(self.id(), node_number(peer));
            }
        }
        let progress = self.raft.node.peers();
        let figures = |peer: NodeId| PeerFigures {
            member: peer.0,
            active_for: self.peers.active_for(peer, now),
            matched: progress.iter().find(|at| at.node == peer).map(|at| at.matched),
        };
        self.shared.peers = self.peers.known().into_iter().map(figures).collect();
        let conf = self.raft.node.conf_state();
        env.oracle.configured(self.number, self.raft.conf_at.0, &conf)
    }

    /// Whether something of this peer is listened to. If not, it has been removed and must hear of it.
    pub fn judge(&mut self, from: NodeNumber) -> bool {
        self.peers.judge(node_id(from))
    }

    /// A peer has said hello.
    pub fn greeted(&mut self, env: &Env, from: NodeNumber) {
        self.peers.heard(node_id(from), self.now(env));
    }
}

/// The end of a member that was removed.
pub(super) fn removed<T>(number: NodeNumber) -> Result<T, Failure> {
    fail(REMOVED, format!("member {number} has been permanently removed from the cluster"))
}
