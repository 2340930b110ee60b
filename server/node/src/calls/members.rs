//! Changes of the membership, and of who leads.
//!
//! Any member may propose that one joins, leaves or moves; that a learner is promoted, the leader decides, because only it
//! knows how far the learner has come: the others ask it.
//!
//! That question or its answer may get lost, and the leader may change. So a promotion that waits is asked for again: once a
//! second, at once of a new leader, and when the answer was that this one leads no more or was replaced before it was done
//! (etcd `PromoteMember` goes on so until the time of the request is over). Asking twice does no harm: a learner is promoted
//! once, and what the leader has at hand already it doesn't begin again. As in etcd, one whose answer got lost may hear that
//! the member is no learner.

use std::hash::Hash;
use std::time::Duration;

use bytes::Bytes;
use consensus::{NodeId, ProposalId};
use crossbeam::epoch;

use super::{Caller, Calls, Facts, Full, Shell, Waits, empty};
use crate::Answer;
use crate::api::Error;
use crate::cluster::Change;
use crate::cluster::rules::{self, Situation, check_transfer};
use crate::cores::ToRaft;
use crate::forward::{Request, Response};
use crate::membership::Member;
use crate::read;

/// After this time without an answer, the leader is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A promotion that the leader decides.
pub struct Promotion {
    member: u64,
    /// Who was asked last, and when; `None`: nobody that will answer.
    asked: Option<(NodeId, Duration)>,
}

impl<W: Copy + Eq + Hash> Calls<W> {
    /// MemberAdd, MemberRemove, MemberUpdate, MemberPromote.
    pub(super) fn change_members(&mut self, caller: Caller<W>, change: Change, shell: &mut impl Shell<W>) {
        let number = self.number();
        match change {
            Change::Promote { id } if shell.facts().leader() != self.settings.identity.member_id => {
                let promotion = Promotion { member: id, asked: None };
                self.wait(number, caller.since, Waits::Promotion(caller, promotion));
                self.promotions.push(number);
                self.ask_leader(number, caller.since, shell);
            }
            change => {
                self.expect_by(number, caller.since);
                self.decide_change(number, caller, change, shell);
            }
        }
    }

    /// Proposes what waits under this number, or refuses it.
    fn decide_change(&mut self, number: u64, caller: Caller<W>, change: Change, shell: &mut impl Shell<W>) {
        match self.propose_change(number, change, shell) {
            Ok(request) => {
                shell.proposed(&caller, request);
                self.open.insert(number, Waits::Change(caller));
            }
            Err(error) => {
                self.open.remove(&number);
                fail(shell, &caller, error);
            }
        }
    }

    /// Proposes a change; gives the ID of its entry.
    fn propose_change(
        &mut self,
        number: u64,
        change: Change,
        shell: &mut impl Shell<W>,
    ) -> Result<u64, Error> {
        let members = self.members()?;
        let own = self.settings.identity.member_id;
        let request = self.ids.next_id();
        let facts = shell.facts();
        let peers = facts.peers();
        let figures = |id: u64| peers.iter().find(|peer| peer.member == id);
        // Who is a member stands in the table; the figures are up to a tick old, and one that was just added has none.
        let matched = |id: u64| match members.iter().any(|member| member.id == id) {
            false => None,
            true if id == own => Some(facts.commit()),
            true => Some(figures(id).and_then(|peer| peer.matched).map_or(0, |index| index.0)),
        };
        let situation = Situation {
            own,
            members: &members,
            active_for: &|id| figures(id).and_then(|peer| peer.active_for),
            matched: (facts.leader() == own).then_some(&matched),
        };
        let change = rules::propose(change, request, facts.unix_s(), self.settings.rules, &situation)?;
        let message = ToRaft::ProposeConfChange(self.id(number), change);
        shell.to_raft(message).map_err(|Full| Error::TooManyRequests)?;
        Ok(request)
    }

    fn members(&self) -> Result<Vec<Member>, Error> {
        read::members(&self.view, &epoch::pin())
    }

    /// MoveLeader. Its answer is due when the other leads.
    pub(super) fn move_leader(&mut self, caller: Caller<W>, target: u64, shell: &mut impl Shell<W>) {
        let leader = shell.facts().leader();
        let own = self.settings.identity.member_id;
        let checked = self.members().and_then(|members| check_transfer(own, leader, &members, target));
        match checked {
            Err(error) => return fail(shell, &caller, error),
            Ok(()) if leader == target => return shell.reply(&caller, None, &Ok(empty())),
            Ok(()) => {}
        }
        let number = self.number();
        match shell.to_raft(ToRaft::TransferLeader(self.id(number), NodeId(target))) {
            Ok(()) => self.wait(number, caller.since, Waits::Transfer(caller)),
            Err(Full) => fail(shell, &caller, Error::TooManyRequests),
        }
    }

    /// Another member asks, because this one leads. It may ask again what is being done already.
    pub(super) fn peer_asks(
        &mut self,
        now: Duration,
        (from, asked): (NodeId, u64),
        body: &[u8],
        shell: &mut impl Shell<W>,
    ) {
        let Ok(Request::Promote { member }) = Request::decode(body) else { return };
        if self.peers.values().any(|open| *open == (from, asked)) {
            return;
        }
        let number = self.number();
        match self.propose_change(number, Change::Promote { id: member }, shell) {
            Ok(request) => {
                shell.proposed_for(from, asked, request);
                self.peers.insert(number, (from, asked));
                self.expect_by(number, now);
            }
            Err(Error::Corrupt) => shell.damaged(),
            Err(error) => self.answer_peer(from, asked, &Response::Refused(error), shell),
        }
    }

    /// The outcome of what another member has asked.
    pub(super) fn done_for_peer(
        &mut self,
        number: u64,
        result: Result<Answer, Error>,
        shell: &mut impl Shell<W>,
    ) {
        let Some((from, asked)) = self.peers.remove(&number) else { return };
        let response = result.map_or_else(Response::Refused, |answer| Response::Promoted(answer.body));
        self.answer_peer(from, asked, &response, shell);
    }

    fn answer_peer(&mut self, to: NodeId, asked: u64, response: &Response, shell: &mut impl Shell<W>) {
        // Without room it is lost, and asked for again.
        let _ = shell.to_raft(ToRaft::PeerResponse(to, asked, response.encode()));
    }

    /// The leader has answered.
    pub(super) fn peer_answers(&mut self, id: ProposalId, body: &Bytes, shell: &mut impl Shell<W>) {
        let number = crate::cores::number_of(id);
        let Some(Waits::Promotion(_, promotion)) = self.open.get_mut(&number) else { return };
        match Response::decode(body) {
            // It leads no more, and nothing has come of it.
            Ok(Response::Refused(Error::NotLeader | Error::NoLeader | Error::LeaderChanged)) => {
                promotion.asked = None;
            }
            Ok(Response::Promoted(fields)) => self.written(id, Ok(Answer::new(0, fields)), shell),
            Ok(Response::Refused(error)) => self.written(id, Err(error), shell),
            _ => {}
        }
    }

    /// Asks the leader, if there is one.
    fn ask_leader(&mut self, number: u64, now: Duration, shell: &mut impl Shell<W>) {
        let id = self.id(number);
        let Some(Waits::Promotion(caller, promotion)) = self.open.get_mut(&number) else { return };
        let leader = NodeId(shell.facts().leader());
        promotion.asked = None;
        if leader.0 == 0 {
            return;
        }
        let request = Request::Promote { member: promotion.member };
        if shell.to_raft(ToRaft::PeerRequest(leader, id, request.encode())).is_ok() {
            promotion.asked = Some((leader, now));
            shell.passed_on(caller, number);
        }
    }

    /// Asks again for promotions that should have been answered.
    pub(super) fn ask_again(&mut self, now: Duration, shell: &mut impl Shell<W>) {
        for number in std::mem::take(&mut self.promotions) {
            let Some(Waits::Promotion(caller, promotion)) = self.open.get(&number) else { continue };
            let (caller, member) = (*caller, promotion.member);
            let leader = NodeId(shell.facts().leader());
            if leader.0 == self.settings.identity.member_id {
                self.decide_change(number, caller, Change::Promote { id: member }, shell);
                continue;
            }
            if promotion.asked.is_none_or(|(of, at)| of != leader || now - at >= ASK_AGAIN) {
                self.ask_leader(number, now, shell);
            }
            self.promotions.push(number);
        }
    }
}

/// Ends a call about members.
fn fail<W>(shell: &mut impl Shell<W>, caller: &Caller<W>, error: Error) {
    match error {
        Error::Corrupt => shell.damaged(),
        error => shell.refuse(caller, error.into()),
    }
}
