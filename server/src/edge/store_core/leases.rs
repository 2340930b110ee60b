//! Questions about leases: answered by the member that times them, which is the leader; the others ask it.
//!
//! A client may ask any member. One that doesn't lead passes the question on and keeps the client's until the answer is
//! here; one that knows no leader, or has just become it, keeps it until there is one. A question that got lost is put
//! again; putting one twice does no harm.

use std::time::Duration;

use bytes::Bytes;
use consensus::{NodeId, ProposalId};
use node::api::Error;
use node::forward::{Request, Response};
use rustc_hash::FxHashMap;

use super::{Leadership, StoreCore};
use crate::edge::clock::now;
use crate::edge::messages::{Query, QueryAnswer, QueryId, ToRaft};
use crate::edge::shared::Shared;

/// After this time without an answer, a question is put again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Questions of clients that may wait for a leader or its answer; beyond, the answer is etcd's "too many requests".
const QUESTIONS_MAX: usize = 65_536;

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A client of this member.
    Client(QueryId),
    /// Another member, for one of its clients, under its number.
    Peer(NodeId, u64),
}

/// Questions of this member's clients that the leader has to answer.
#[derive(Default)]
pub struct Questions {
    next: u64,
    open: FxHashMap<u64, Question>,
}

struct Question {
    who: QueryId,
    request: Request,
    since: Duration,
    /// When it was put; `None`: there was nobody to ask.
    asked: Option<Duration>,
}

impl StoreCore {
    /// A client of this member asks. `None`: the answer comes later.
    pub(super) fn lease_query(&mut self, id: QueryId, query: Query) -> Option<Result<QueryAnswer, Error>> {
        let request = match query {
            Query::KeepAlive { lease } => Request::KeepAlive { lease },
            Query::TimeToLive { lease, keys } => Request::TimeToLive { lease, keys },
            Query::Leases | Query::Defragment => return None,
        };
        if self.leadership == Leadership::Leads {
            return self.own_answer(Asker::Client(id), request).map(to_query_answer);
        }
        if self.questions.open.len() >= QUESTIONS_MAX {
            return Some(Err(Error::TooManyRequests));
        }
        self.questions.next += 1;
        let number = self.questions.next;
        let question = Question { who: id, request, since: now(), asked: None };
        self.questions.open.insert(number, question);
        self.ask(number);
        None
    }

    /// The answer of the member that leads; `None`: it comes with the lease's revocation.
    fn own_answer(&mut self, who: Asker, request: Request) -> Option<Response> {
        Some(match request {
            Request::KeepAlive { lease } => {
                let (_, result) = self.renewals.renew(&mut self.store, now(), lease, who)?;
                result.map_or_else(Response::Refused, Response::KeptAlive)
            }
            Request::TimeToLive { lease, keys } => {
                let answer = node::lease::time_to_live(&self.store, now(), lease, keys);
                answer.map_or_else(Response::Refused, |answer| Response::TimeToLive(answer.body))
            }
            Request::Promote { .. } => return None,
        })
    }

    fn ask(&mut self, number: u64) {
        let Some(question) = self.questions.open.get_mut(&number) else { return };
        let Some(leader) = self.leader else { return };
        question.asked = Some(now());
        let id = Shared::store_proposal_id(number);
        self.to_raft.push_back(ToRaft::PeerRequest(leader, id, question.request.encode()));
    }

    /// Another member asks, because this one leads.
    pub(super) fn peer_asks(&mut self, from: NodeId, number: u64, body: &[u8]) {
        let Ok(request) = Request::decode(body) else { return };
        let response = match self.leadership {
            Leadership::Leads => self.own_answer(Asker::Peer(from, number), request),
            _ => Some(Response::Refused(Error::NotPrimary)),
        };
        if let Some(response) = response {
            self.to_raft.push_back(ToRaft::PeerResponse(from, number, response.encode()));
        }
    }

    /// The leader has answered.
    pub(super) fn peer_answers(&mut self, id: ProposalId, body: &Bytes) {
        let number = Shared::number_of(id);
        let Ok(response) = Response::decode(body) else { return };
        if response == Response::Refused(Error::NotPrimary) {
            // It leads no more, or doesn't know yet that it does: asked again with the next tick.
            if let Some(question) = self.questions.open.get_mut(&number) {
                question.asked = None;
            }
            return;
        }
        if let Some(question) = self.questions.open.remove(&number) {
            self.answers[question.who.core].push((question.who, to_query_answer(response)));
        }
    }

    /// A keep-alive that had to wait has its answer.
    pub(super) fn renewed(&mut self, who: Asker, result: Result<i64, Error>) {
        match who {
            Asker::Client(id) => {
                self.answers[id.core].push((id, result.map(QueryAnswer::KeepAlive)));
            }
            Asker::Peer(node, number) => {
                let response = result.map_or_else(Response::Refused, Response::KeptAlive);
                self.to_raft.push_back(ToRaft::PeerResponse(node, number, response.encode()));
            }
        }
    }

    /// Puts questions that wait: to this member's own store if it leads by now, else to who does.
    pub(super) fn ask_again(&mut self) {
        let now = now();
        let timeout = self.shared.request_timeout();
        // The client's core has told it that its time is over.
        self.questions.open.retain(|_, question| now - question.since < timeout);
        let due = |question: &Question| question.asked.is_none_or(|at| now - at >= ASK_AGAIN);
        let mut numbers: Vec<u64> =
            self.questions.open.iter().filter(|(_, q)| due(q)).map(|(number, _)| *number).collect();
        numbers.sort_unstable();
        for number in numbers {
            if self.leadership != Leadership::Leads {
                self.ask(number);
                continue;
            }
            let Some(Question { who, request, .. }) = self.questions.open.remove(&number) else { continue };
            if let Some(response) = self.own_answer(Asker::Client(who), request) {
                self.answers[who.core].push((who, to_query_answer(response)));
            }
        }
    }
}

fn to_query_answer(response: Response) -> Result<QueryAnswer, Error> {
    match response {
        Response::KeptAlive(ttl) => Ok(QueryAnswer::KeepAlive(ttl)),
        Response::TimeToLive(fields) => Ok(QueryAnswer::TimeToLive(fields)),
        Response::Refused(error) => Err(error),
        Response::Promoted(_) => Err(Error::Malformed),
    }
}
