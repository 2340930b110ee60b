//! Changes of the membership, and of who leads, as the server's `members`, `conf_changes` and `join` wire them.

use std::time::Duration;

use bytes::Bytes;
use consensus::{NodeId, PeerMessage, ProposalId};
use crossbeam::epoch;
use net::grpc::Method;
use node::Answer;
use node::answer::HeaderKind;
use node::api::{self, Error};
use node::apply;
use node::cluster::rules::{self, Rules, Situation, check_transfer};
use node::cluster::{Change, change};
use node::forward::{Request, Response};
use node::read;

use super::{Done, Member, ToClient, ToRaft, node_id, node_number, stops};
use crate::check::{Failure, fail};
use crate::env::{Env, NodeNumber};

/// How long a member that was removed goes on.
const REMOVED_LINGERS: Duration = Duration::from_secs(1);

/// The name of the failure with which a member ends that was removed. The world takes it for what it is.
pub const REMOVED: &str = "removed";

/// What a member knows of another.
#[derive(Clone, Copy)]
pub(super) struct Figures {
    member: NodeId,
    active_for: Option<Duration>,
    matched: Option<u64>,
}

/// A wall clock that stands still, for the ids of new members: each host has one id.
const UNIX_S: u64 = 0;

impl Member {
    /// Whether a learner would refuse this call.
    pub(super) fn is_refused_for_learner(&self, method: Method, message: &Bytes) -> bool {
        self.peers.is_learner() && !api::learner_serves(method, message)
    }

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

    pub(super) fn change_members(&mut self, env: &mut Env, op: u64, change: Change) -> Done {
        let number = self.next_number();
        let leader = NodeId(self.shared.leader);
        let done = match &change {
            Change::Promote { id } if leader != node_id(self.number) => {
                env.oracle.answers.passes_on(op, self.number, number);
                self.ask_leader(env, number, leader, Request::Promote { member: *id })
            }
            _ => self.propose_change(env, number, change).map(|id| env.oracle.answers.becomes(op, id)),
        };
        match done {
            Ok(()) => {
                self.client.writes.insert(number, op);
                Ok(())
            }
            Err(error) => self.reply(env, op, Err(error)),
        }
    }

    fn ask_leader(&mut self, env: &mut Env, number: u64, leader: NodeId, ask: Request) -> Result<(), Error> {
        if leader.0 == 0 {
            return Err(Error::NoLeader);
        }
        self.ask_raft(env, ToRaft::ToPeer(leader, PeerMessage::Request { id: number, body: ask.encode() }));
        Ok(())
    }

    fn propose_change(&mut self, env: &mut Env, number: u64, change: Change) -> Result<u64, Error> {
        let members = read::members(&self.client.view, &epoch::pin())?;
        let own = node_id(self.number).0;
        let peers = &self.shared.peers;
        let figures = |id: u64| peers.iter().find(|peer| peer.member.0 == id);
        let matched = |id: u64| match members.iter().any(|member| member.id == id) {
            false => None,
            true if id == own => Some(self.shared.commit),
            true => Some(figures(id).and_then(|peer| peer.matched).unwrap_or(0)),
        };
        let leads = self.shared.leader == own;
        let situation = Situation {
            own,
            members: &members,
            active_for: &|id| figures(id).and_then(|peer| peer.active_for),
            matched: leads.then_some(&matched),
        };
        let Some(membership) = env.config.membership else { return Err(Error::Unhealthy) };
        let rules = Rules { strict_reconfig_check: membership.strict, max_learners: membership.max_learners };
        let request = self.client.ids.next_id();
        let change = rules::propose(change, request, UNIX_S, rules, &situation)?;
        self.ask_raft(env, ToRaft::ProposeConfChange(ProposalId(number), change));
        Ok(request)
    }

    pub(super) fn move_leader(&mut self, env: &mut Env, op: u64, target: u64) -> Done {
        let (own, leader) = (node_id(self.number).0, self.shared.leader);
        let members = read::members(&self.client.view, &epoch::pin());
        match members.and_then(|members| check_transfer(own, leader, &members, target)) {
            Err(error) => self.reply(env, op, Err(error)),
            Ok(()) if leader == target => {
                let answer = self.encoded(Ok(empty()));
                self.reply(env, op, answer)
            }
            Ok(()) => {
                let number = self.next_number();
                self.client.writes.insert(number, op);
                self.ask_raft(env, ToRaft::TransferLeader(ProposalId(number), NodeId(target)));
                Ok(())
            }
        }
    }

    /// Another member asks, because this one leads.
    pub(super) fn peer_asks(&mut self, env: &mut Env, from: NodeId, asked: u64, body: &[u8]) {
        let Ok(Request::Promote { member }) = Request::decode(body) else { return };
        let number = self.next_number();
        match self.propose_change(env, number, Change::Promote { id: member }) {
            Ok(id) => {
                env.oracle.answers.becomes_for(node_number(from), asked, id);
                self.client.peers.insert(number, (from, asked));
            }
            Err(error) => self.answer_peer(env, from, asked, &Response::Refused(error)),
        }
    }

    pub(super) fn answer_peer(&mut self, env: &mut Env, to: NodeId, asked: u64, response: &Response) {
        self.ask_raft(env, ToRaft::ToPeer(to, PeerMessage::Response { id: asked, body: response.encode() }));
    }

    /// The leader has answered.
    pub(super) fn peer_answers(&mut self, env: &mut Env, id: u64, body: &Bytes) -> Done {
        match Response::decode(body) {
            Ok(Response::Promoted(fields)) => self.written(env, ProposalId(id), Ok(Answer::new(0, fields))),
            Ok(Response::Refused(error)) => self.written(env, ProposalId(id), Err(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn transferred(&mut self, env: &mut Env, id: ProposalId) -> Done {
        self.written(env, id, Ok(empty()))
    }

    // The raft core's part.

    /// Something of a peer goes to the core that is asked.
    pub(super) fn route(&mut self, env: &mut Env, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Request { id, body } => self.to_client(env, ToClient::PeerRequest(from, id, body)),
            PeerMessage::Response { id, body } => self.to_client(env, ToClient::PeerResponse(id, body)),
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
        let figures = |peer: NodeId| Figures {
            member: peer,
            active_for: self.peers.active_for(peer, now),
            matched: progress.iter().find(|at| at.node == peer).map(|at| at.matched.0),
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

    // The store core's part.

    /// Tells the raft core whom it may talk to.
    pub(super) fn publish_members(&mut self, env: &mut Env) -> Done {
        if !std::mem::take(&mut self.store.members_changed) {
            return Ok(());
        }
        let store = &self.store.store;
        let known = apply::members(store).and_then(|members| Ok((members, change::removed_ids(store)?)));
        match known {
            Ok((members, removed)) => self.ask_raft(env, ToRaft::Members(members, removed)),
            Err(fatal) => return stops(self.number, fatal),
        }
        Ok(())
    }

    /// A member that was removed goes on for a while, then it stops for good.
    pub(super) fn stop_if_removed(&self, env: &Env) -> Done {
        let now = self.now(env);
        match self.store.removed_at.is_some_and(|at| now - at >= REMOVED_LINGERS) {
            true => removed(self.number),
            false => Ok(()),
        }
    }
}

/// The end of a member that was removed.
pub(super) fn removed<T>(number: NodeNumber) -> Result<T, Failure> {
    fail(REMOVED, format!("member {number} has been permanently removed from the cluster"))
}

fn empty() -> Answer {
    Answer { header: HeaderKind::None, ..Answer::bare(0) }
}
