//! Changes of the membership, and of who leads, on the client core that was asked.
//!
//! Any member may propose that one joins, leaves or moves; that a learner is promoted, the leader decides, because only it
//! knows how far the learner has come: the others ask it.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use consensus::{NodeId, ProposalId};
use crossbeam::epoch;
use node::Answer;
use node::answer::HeaderKind;
use node::api::Error;
use node::cluster::Change;
use node::cluster::rules::{self, Rules, Situation, check_transfer};
use node::forward::{Request, Response};
use node::membership::Member;
use node::read;

use super::client_core::ClientCore;
use super::connection::Grpc;
use super::messages::ToRaft;
use super::shared::Shared;
use super::waiting::Waiter;

impl ClientCore {
    /// MemberAdd, MemberRemove, MemberUpdate, MemberPromote.
    pub fn change_members(&self, waiter: Waiter, grpc: &mut Grpc, change: Change) {
        let number = self.next_number();
        let done = match (&change, NodeId(self.shared.leader())) {
            (Change::Promote { id }, leader) if leader.0 != self.identity.member_id => {
                self.ask_leader(number, leader, Request::Promote { member: *id })
            }
            _ => self.propose_change(number, change),
        };
        match done {
            Ok(()) => self.wait_for_write(number, waiter),
            Err(error) => self.fail(grpc, &waiter, &error.status()),
        }
    }

    fn ask_leader(&self, number: u64, leader: NodeId, request: Request) -> Result<(), Error> {
        if leader.0 == 0 {
            return Err(Error::NoLeader);
        }
        let id = Shared::proposal_id(self.number, number);
        self.tell_raft(ToRaft::PeerRequest(leader, id, request.encode()))
    }

    fn propose_change(&self, number: u64, change: Change) -> Result<(), Error> {
        let members = self.members()?;
        let peers = self.shared.peers();
        let figures = |id: u64| peers.iter().find(|peer| peer.member == id);
        // Who is a member stands in the table; the figures are up to a tick old, and one that was just added has none.
        let matched = |id: u64| match members.iter().any(|member| member.id == id) {
            false => None,
            true if id == self.identity.member_id => Some(self.shared.commit()),
            true => Some(figures(id).and_then(|peer| peer.matched).map_or(0, |index| index.0)),
        };
        let leads = self.shared.leader() == self.identity.member_id;
        let situation = Situation {
            own: self.identity.member_id,
            members: &members,
            active_for: &|id| figures(id).and_then(|peer| peer.active_for),
            matched: leads.then_some(&matched),
        };
        let config = &self.shared.config;
        let rules =
            Rules { strict_reconfig_check: config.strict_reconfig_check, max_learners: config.max_learners };
        let request = self.ids.borrow_mut().next_id();
        let change = rules::propose(change, request, unix_s(), rules, &situation)?;
        self.tell_raft(ToRaft::ProposeConfChange(Shared::proposal_id(self.number, number), change))
    }

    fn members(&self) -> Result<Vec<Member>, Error> {
        match read::members(&self.view(), &epoch::pin()) {
            Err(Error::Corrupt) => self.shared.tree_damaged(),
            result => result,
        }
    }

    /// MoveLeader. Its answer is due when the other leads.
    pub fn move_leader(&self, waiter: Waiter, grpc: &mut Grpc, target: u64) {
        let leader = self.shared.leader();
        let checked = self
            .members()
            .and_then(|members| check_transfer(self.identity.member_id, leader, &members, target));
        match checked {
            Err(error) => return self.fail(grpc, &waiter, &error.status()),
            Ok(()) if leader == target => return self.reply(grpc, &waiter, &Ok(empty())),
            Ok(()) => {}
        }
        let number = self.next_number();
        let id = Shared::proposal_id(self.number, number);
        match self.tell_raft(ToRaft::TransferLeader(id, NodeId(target))) {
            Ok(()) => self.wait_for_transfer(number, waiter),
            Err(error) => self.fail(grpc, &waiter, &error.status()),
        }
    }

    /// The other member leads.
    pub fn transferred(&self, id: ProposalId) {
        self.written(id, Ok(empty()));
    }

    /// Another member asks, because this one leads.
    pub fn peer_asks(self: &Rc<Self>, from: NodeId, asked: u64, body: &[u8]) {
        let Ok(Request::Promote { member }) = Request::decode(body) else { return };
        let number = self.next_number();
        match self.propose_change(number, Change::Promote { id: member }) {
            Ok(()) => self.wait_for_peer(number, from, asked),
            Err(error) => self.answer_peer(from, asked, &Response::Refused(error)),
        }
    }

    /// Tells another member what came of what it asked.
    pub fn answer_peer(&self, to: NodeId, asked: u64, response: &Response) {
        // Without room its call ends by its deadline.
        let _ = self.tell_raft(ToRaft::PeerResponse(to, asked, response.encode()));
    }

    /// The leader has answered.
    pub fn peer_answers(&self, id: ProposalId, body: &Bytes) {
        match Response::decode(body) {
            Ok(Response::Promoted(fields)) => self.written(id, Ok(Answer::new(0, fields))),
            Ok(Response::Refused(error)) => self.written(id, Err(error)),
            _ => {}
        }
    }
}

fn empty() -> Answer {
    Answer { header: HeaderKind::None, ..Answer::bare(0) }
}

/// The wall clock, for the ids of new members only.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}
