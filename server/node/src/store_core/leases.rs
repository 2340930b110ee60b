//! Questions about leases: answered by the member that times them, which is the leader; the others ask it.
//!
//! A client may ask any member. One that doesn't lead passes the question on and keeps the client's until the answer is
//! here; one that knows no leader, or has just become it, keeps it until there is one. A question that got lost is put
//! again; putting one twice does no harm.
//!
//! The leader answers only after a read index that was asked for after the question came, and when it has applied so far
//! (etcd `LeaseRenew`, `ensureLeadership`): one that was cut off would renew what its successor has revoked. The only voter
//! needs to ask nobody.

use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, NodeId, ProposalId, ReadId};
use engine::lease::{CHECKPOINTS_PER_ENTRY_MAX, Checkpoint};
use rustc_hash::FxHashMap;

use super::{Leadership, Observer, StoreCore};
use crate::api::Error;
use crate::cores::{Query, QueryAnswer, QueryId, ToRaft, number_of, store_id};
use crate::forward::{Request, Response};
use crate::propose;

/// After this time without an answer, a question is put again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Entries of checkpoints of leases that a tick proposes, of up to a thousand leases each.
const CHECKPOINT_ENTRIES_PER_TICK_MAX: usize = 8;

/// Questions that may wait for a leader or its answer, and on the leader for its barrier; beyond, the answer is etcd's "too
/// many requests".
const QUESTIONS_MAX: usize = 65_536;

/// Who wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A client of this member.
    Client(QueryId),
    /// Another member, for one of its clients, under its number.
    Peer(NodeId, u64),
}

/// Questions of this member's clients that the leader has to answer.
#[derive(Default)]
pub(super) struct Questions {
    open: FxHashMap<u64, Question>,
}

struct Question {
    who: QueryId,
    request: Request,
    since: Duration,
    /// When it was put; `None`: there was nobody to ask.
    asked: Option<Duration>,
}

/// Questions that wait until this leader knows that it still leads.
#[derive(Default)]
pub(super) struct Barrier {
    /// Came after the last read index was asked for.
    waiting: Vec<(Asker, Request)>,
    asked: Option<Asked>,
    /// The last moment at which this member is known to have led.
    confirmed: Duration,
}

struct Asked {
    id: ReadId,
    since: Duration,
    questions: Vec<(Asker, Request)>,
    /// What has to be applied before they are answered; `None`: no answer yet.
    index: Option<Index>,
}

impl Questions {
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

impl Barrier {
    pub fn len(&self) -> usize {
        self.waiting.len() + self.asked.as_ref().map_or(0, |asked| asked.questions.len())
    }
}

impl<O: Observer> StoreCore<O> {
    /// A client of this member asks.
    pub(super) fn lease_query(&mut self, id: QueryId, query: Query) {
        let request = match query {
            Query::KeepAlive { lease } => Request::KeepAlive { lease },
            Query::TimeToLive { lease, keys } => Request::TimeToLive { lease, keys },
            Query::Leases | Query::Defragment => return,
        };
        if self.leadership == Leadership::Leads {
            return self.answer_as_leader(Asker::Client(id), request);
        }
        if self.questions.open.len() >= QUESTIONS_MAX {
            return self.answer(id, Err(Error::TooManyRequests));
        }
        let number = self.keep(id, request);
        self.ask(number);
    }

    /// Answers, at once or behind the barrier.
    fn answer_as_leader(&mut self, who: Asker, request: Request) {
        if self.present.alone || planted::is("keep-alive-without-confirmation") {
            self.answer_now(who, request);
        } else if self.barrier.waiting.len() >= QUESTIONS_MAX {
            self.respond(who, Response::Refused(Error::TooManyRequests));
        } else {
            self.barrier.waiting.push((who, request));
            self.ask_for_barrier();
        }
    }

    fn answer_now(&mut self, who: Asker, request: Request) {
        if let Some(response) = self.own_answer(who, request) {
            self.respond(who, response);
        }
    }

    fn respond(&mut self, who: Asker, response: Response) {
        match who {
            Asker::Client(id) => self.answer(id, to_query_answer(response)),
            Asker::Peer(node, number) => {
                self.tell_raft(ToRaft::PeerResponse(node, number, response.encode()));
            }
        }
    }

    /// The last moment at which this member is known to have led.
    pub(super) fn confirmed(&mut self) -> Duration {
        if self.present.alone || planted::is("old-leader-revokes-leases") {
            self.barrier.confirmed = self.present.now;
        } else {
            self.ask_for_barrier();
        }
        self.barrier.confirmed
    }

    fn ask_for_barrier(&mut self) {
        if self.barrier.asked.is_some() {
            return;
        }
        let id = ReadId(store_id(self.next_number()).0);
        let questions = std::mem::take(&mut self.barrier.waiting);
        self.barrier.asked = Some(Asked { id, since: self.present.now, questions, index: None });
        self.tell_raft(ToRaft::Read(id));
    }

    /// The answer to the question for a read index; `None` if the leader has changed meanwhile.
    pub(super) fn barrier_answered(&mut self, id: ReadId, index: Option<Index>) {
        let Some(asked) = self.barrier.asked.as_mut().filter(|asked| asked.id == id) else { return };
        match index {
            Some(_) => asked.index = index,
            None => self.drop_barrier(),
        }
        self.pass_barrier();
    }

    /// Answers what waits for the barrier, once so much is applied. Called after each batch.
    pub(super) fn pass_barrier(&mut self) {
        let applied = self.store.applied().index;
        let passed = |asked: &mut Asked| {
            let early = planted::is("leases-asked-before-applied");
            asked.index.is_some_and(|index| index.0 <= applied || early)
        };
        let Some(Asked { since, questions, .. }) = self.barrier.asked.take_if(passed) else { return };
        self.barrier.confirmed = since;
        for (who, request) in questions {
            self.answer_now(who, request);
        }
        if !self.barrier.waiting.is_empty() {
            self.ask_for_barrier();
        }
    }

    /// This member leads no more: who asked must ask another one.
    pub(super) fn drop_barrier(&mut self) {
        let asked = self.barrier.asked.take().map(|asked| asked.questions).unwrap_or_default();
        let waiting = std::mem::take(&mut self.barrier.waiting);
        for (who, request) in asked.into_iter().chain(waiting) {
            match who {
                Asker::Client(who) => {
                    self.keep(who, request);
                }
                Asker::Peer(..) => self.respond(who, Response::Refused(Error::NotPrimary)),
            }
        }
    }

    /// Keeps a client's question until the next tick.
    fn keep(&mut self, who: QueryId, request: Request) -> u64 {
        let number = number_of(store_id(self.next_number()));
        let question = Question { who, request, since: self.present.now, asked: None };
        self.questions.open.insert(number, question);
        number
    }

    /// The answer of the member that leads; `None`: it comes with the lease's revocation.
    fn own_answer(&mut self, who: Asker, request: Request) -> Option<Response> {
        Some(match request {
            Request::KeepAlive { lease } => {
                let renewed = self.renewals.renew(&mut self.store, self.present.now, lease, who);
                self.clear_checkpoints();
                let (_, result) = renewed?;
                self.count_renewal(lease, &result);
                result.map_or_else(Response::Refused, Response::KeptAlive)
            }
            Request::TimeToLive { lease, keys } => {
                let answer = crate::lease::time_to_live(&self.store, self.present.now, lease, keys);
                answer.map_or_else(Response::Refused, |answer| Response::TimeToLive(answer.body))
            }
            Request::Promote { .. } => return None,
        })
    }

    fn ask(&mut self, number: u64) {
        let Some(question) = self.questions.open.get_mut(&number) else { return };
        let Some(leader) = self.leader else { return };
        question.asked = Some(self.present.now);
        let id = store_id(number);
        let body = question.request.encode();
        self.tell_raft(ToRaft::PeerRequest(leader, id, body));
    }

    /// Another member asks, because this one leads.
    pub(super) fn peer_asks(&mut self, from: NodeId, number: u64, body: &[u8]) {
        let Ok(request) = Request::decode(body) else { return };
        match self.leadership {
            Leadership::Leads => self.answer_as_leader(Asker::Peer(from, number), request),
            _ => self.respond(Asker::Peer(from, number), Response::Refused(Error::NotPrimary)),
        }
    }

    /// The leader has answered.
    pub(super) fn peer_answers(&mut self, id: ProposalId, body: &Bytes) {
        let number = number_of(id);
        let Ok(response) = Response::decode(body) else { return };
        if response == Response::Refused(Error::NotPrimary) {
            // It leads no more, or doesn't know yet that it does: asked again with the next tick.
            if let Some(question) = self.questions.open.get_mut(&number) {
                question.asked = None;
            }
            return;
        }
        if let Some(question) = self.questions.open.remove(&number) {
            self.answer(question.who, to_query_answer(response));
        }
    }

    /// Writes down what is left of long leases, where that is asked for, and again what keep-alives wait for.
    pub(super) fn checkpoint_leases(&mut self) {
        for _ in 0..CHECKPOINT_ENTRIES_PER_TICK_MAX {
            let due = self.store.lease_checkpoints_due(self.present.now, CHECKPOINTS_PER_ENTRY_MAX);
            let is_last = due.len() < CHECKPOINTS_PER_ENTRY_MAX;
            self.propose_checkpoints(due);
            if is_last {
                break;
            }
        }
        self.renewals.clear_again();
        self.clear_checkpoints();
    }

    /// Takes back the checkpoints that keep-alives wait for.
    fn clear_checkpoints(&mut self) {
        loop {
            let clears = self.renewals.take_clears(&self.store);
            if clears.is_empty() {
                return;
            }
            self.propose_checkpoints(clears);
        }
    }

    fn propose_checkpoints(&mut self, checkpoints: Vec<Checkpoint>) {
        if !checkpoints.is_empty() {
            let write = propose::lease_checkpoint(&mut self.ids, checkpoints, self.lead_term);
            self.propose(write);
        }
    }

    /// What is left of these leases, or that they have all of their time again, is applied.
    pub(super) fn checkpointed(&mut self, leases: &[i64]) {
        for &lease in leases {
            for (who, result) in self.renewals.checkpointed(&mut self.store, self.present.now, lease) {
                self.count_renewal(lease, &result);
                self.renewed(who, result);
            }
        }
        self.clear_checkpoints();
    }

    fn count_renewal(&mut self, lease: i64, result: &Result<i64, Error>) {
        if matches!(result, Ok(ttl) if *ttl > 0) {
            self.observer.lease_renewed(lease);
        }
    }

    /// A keep-alive that had to wait has its answer.
    pub(super) fn renewed(&mut self, who: Asker, result: Result<i64, Error>) {
        let response = result.map_or_else(Response::Refused, Response::KeptAlive);
        self.respond(who, response);
    }

    /// Puts questions that wait: to this member's own store if it leads by now, else to who does.
    pub(super) fn ask_again(&mut self) {
        let (now, timeout) = (self.present.now, self.settings.request_timeout);
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
            self.answer_as_leader(Asker::Client(who), request);
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
