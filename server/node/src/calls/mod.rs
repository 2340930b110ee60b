//! Calls of clients, from their request to their answer: a client core without its connections.
//!
//! ```text
//!  call ──▶ admitted? ──▶ decoded, checked ──▶ read ──────────▶ newest version ──────────────▶ answer
//!                                          ├─▶ linearizable ──▶ raft: which index? ──▶ read
//!                                          ├─▶ write, change of the members ──▶ raft ──▶ outcome ──▶ answer
//!                                          └─▶ lease, defragmentation ──▶ store core ──▶ answer
//! ```
//!
//! What a call asks for is decided in [`crate::api`]. Here is known who waits for what: each question to another core has a
//! number, under which the call lies in a book until the answer comes or its time is over. Reads are answered here, from the
//! newest published version. The one exception is a promotion that was asked of a member that doesn't lead: the leader is
//! asked for it, again and again until it has answered ([`members`]).
//!
//! Not here: connections, the bytes of answers, watch streams ([`crate::watch_hub`]), metrics. These are the [`Shell`]'s,
//! which is the server's client core or the simulator's. `W` is its name for a call, or for a stream.
//!
//! What waits is bounded by the calls that the shell lets in, and each for no longer than the request timeout, but for those that
//! take as long as there is much to do: a Defragment, and a physical Compact once it is applied.

mod members;
mod reads;
mod shell;
mod streams;

use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use consensus::{DropReason, Index, NodeId, ProposalId};
use engine::{View, quota};
use net::grpc::Method;
use rustc_hash::FxHashMap;

pub use reads::LongRead;
pub use shell::{Caller, Facts, Full, Note, Shell};

use crate::api::{self, Context, Error, Limits, Refusal, Request};
use crate::cluster::rules::Rules;
use crate::cores::{self, Query, QueryAnswer, QueryId, ToClient, ToRaft, ToStore};
use crate::propose::{Command, IdGenerator, Write};
use crate::read::LinearReads;
use crate::{Answer, Identity};
use members::Promotion;
use streams::KeepAlives;

/// What stays the same as long as the process runs.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which of the client cores it is.
    pub core: usize,
    /// Where its numbers begin. Those of an earlier life of this member must be out of use: answers may still come under them.
    pub first_number: u64,
    /// Who answers.
    pub identity: Identity,
    /// What is refused by size.
    pub limits: Limits,
    /// For changes of the membership.
    pub rules: Rules,
    /// How long a call may wait for other cores.
    pub request_timeout: Duration,
    /// Rows of a Range that are read in one step.
    pub range_rows: usize,
    /// Rows of history that a HashKV reads in one step.
    pub hash_rows: usize,
}

/// How long a request may wait: etcd gives it 5 s for the disk and two elections.
pub fn request_timeout(election_timeout: Duration) -> Duration {
    Duration::from_secs(5) + 2 * election_timeout
}

/// See the module's header.
pub struct Calls<W> {
    settings: Settings,
    ids: IdGenerator,
    view: Arc<View>,
    next_number: u64,
    /// Who waits for an answer of another core.
    open: FxHashMap<u64, Waits<W>>,
    /// Linearizable reads.
    reads: LinearReads<(Caller<W>, Request)>,
    /// What other members have asked this one, because it leads: the member, and its number for the question.
    peers: FxHashMap<u64, (NodeId, u64)>,
    /// Those in `open` that wait for the leader's answer, in the order they came.
    promotions: Vec<u64>,
    /// All of these, in the order of their deadlines.
    deadlines: VecDeque<(Duration, u64)>,
    /// Keep-alive streams.
    streams: FxHashMap<W, KeepAlives>,
}

/// For what a call waits.
enum Waits<W> {
    /// The outcome of its entry; the log's cache shares the bytes.
    Write(Caller<W>, Bytes),
    /// The rows that a compaction removes, for which etcd has no limit of time either.
    Compaction(Caller<W>, Bytes),
    /// The outcome of a change of the members.
    Change(Caller<W>),
    /// The leader's answer to a promotion.
    Promotion(Caller<W>, Promotion),
    /// Another leader.
    Transfer(Caller<W>),
    /// The store core.
    Question(Caller<W>),
    /// The store core, as the request of this number of a keep-alive stream.
    KeepAlive(W, u64),
}

impl<W: Copy + Eq + Hash> Calls<W> {
    /// Nobody has called. `view` is the version that the store was opened with.
    pub fn new(settings: Settings, ids: IdGenerator, view: Arc<View>) -> Calls<W> {
        Calls {
            next_number: settings.first_number,
            settings,
            ids,
            view,
            open: FxHashMap::default(),
            reads: LinearReads::default(),
            peers: FxHashMap::default(),
            promotions: Vec::new(),
            deadlines: VecDeque::new(),
            streams: FxHashMap::default(),
        }
    }

    /// The newest version of the store.
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Calls, streams and questions of other members that wait for something.
    pub fn len(&self) -> usize {
        self.open.len() + self.reads.len() + self.peers.len() + self.streams.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the outcome of a write is awaited.
    pub fn awaits_writes(&self) -> bool {
        self.open.values().any(|waits| matches!(waits, Waits::Write(..) | Waits::Change(..)))
    }

    /// A call with one request has come at `now`.
    pub fn call(
        &mut self,
        now: Duration,
        who: W,
        method: Method,
        has_leader: bool,
        message: &Bytes,
        shell: &mut impl Shell<W>,
    ) {
        let caller = Caller { who, method, read_only_txn: false, since: now };
        let admitted = admit(shell.facts(), method, has_leader, message);
        match admitted.and_then(|()| self.decode(shell.facts(), method, message)) {
            Ok(request) => self.dispatch(caller, request, shell),
            Err(refusal) => {
                if refusal == Refusal::Error(Error::NoSpace) {
                    // The alarm is due; where there is no room for this, the next refusal says it again.
                    let _ = shell.to_store(ToStore::NoSpace);
                }
                shell.refuse(&caller, refusal);
            }
        }
    }

    /// A call with a stream of requests has come at `now`; whether it is let in. A Watch is the shell's from here on.
    pub fn open(
        &mut self,
        now: Duration,
        who: W,
        method: Method,
        has_leader: bool,
        shell: &mut impl Shell<W>,
    ) -> bool {
        if let Err(refusal) = admit(shell.facts(), method, has_leader, &Bytes::new()) {
            shell.refuse(&Caller { who, method, read_only_txn: false, since: now }, refusal);
            return false;
        }
        if method == Method::LeaseKeepAlive {
            self.streams.insert(who, KeepAlives::default());
        }
        true
    }

    /// Another core says something, at `now`. A newer version of the store must be given to the watchers by the shell.
    pub fn handle(&mut self, now: Duration, message: ToClient, shell: &mut impl Shell<W>) {
        match message {
            ToClient::Published(view) => {
                self.view = view;
                self.do_covered_reads(shell);
            }
            ToClient::Outcomes(outcomes) => {
                for (id, result) in outcomes {
                    self.written(id, result, shell);
                }
            }
            ToClient::Compacting(id) => self.compacting(cores::number_of(id)),
            ToClient::Dropped(id, reason) => self.written(id, Err(refusal(reason)), shell),
            ToClient::ReadIndex(id, index) => self.read_confirmed(ProposalId(id.0), index, shell),
            ToClient::Transferred(id) => self.written(id, Ok(empty()), shell),
            ToClient::PeerRequest(from, asked, body) => self.peer_asks(now, (from, asked), &body, shell),
            ToClient::PeerResponse(id, body) => self.peer_answers(id, &body, shell),
            ToClient::Answers(answers) => {
                for (id, result) in answers {
                    self.answered(id, result, shell);
                }
            }
        }
    }

    /// What had come was handled: one question for all reads that have come since the last one was asked.
    pub fn end_turn(&mut self, shell: &mut impl Shell<W>) {
        let next = &mut self.next_number;
        let Some(number) = self.reads.ask(|| take_number(next)) else { return };
        let id = consensus::ReadId(cores::client_id(self.settings.core, number).0);
        if shell.to_raft(ToRaft::Read(id)).is_err() {
            self.reads.take_back();
        }
    }

    /// Time has passed: calls whose time is over are told so, and the leader is asked again what it has not answered.
    pub fn tick(&mut self, now: Duration, shell: &mut impl Shell<W>) {
        while let Some((due, number)) = self.deadlines.front().copied()
            && (due <= now || !self.is_open(number))
        {
            self.deadlines.pop_front();
            if self.is_open(number) {
                self.time_out(number, shell);
            }
        }
        self.ask_again(now, shell);
    }

    fn decode(&mut self, facts: &impl Facts, method: Method, message: &Bytes) -> Result<Request, Refusal> {
        let mut context = Context { limits: self.settings.limits, space: facts.space(), ids: &mut self.ids };
        let request = api::decode(&mut context, method, message)?;
        if let Request::Write(write) = &request
            && facts.is_log_space_lost()
            && takes_space(&write.command)
        {
            return Err(Error::NoSpace.into());
        }
        Ok(request)
    }

    fn dispatch(&mut self, mut caller: Caller<W>, request: Request, shell: &mut impl Shell<W>) {
        caller.read_only_txn = matches!(request, Request::TxnRead { .. });
        match request {
            Request::Range { linearizable: true, .. }
            | Request::TxnRead { linearizable: true, .. }
            | Request::MemberList { linearizable: true } => self.read_linearizable(caller, request, shell),
            Request::Write(write) => self.propose(caller, write, shell),
            Request::LeaseTimeToLive { id, keys } => {
                self.ask_store(caller, Query::TimeToLive { lease: id, keys }, shell);
            }
            Request::LeaseLeases => self.ask_store(caller, Query::Leases, shell),
            Request::Defragment => self.ask_store(caller, Query::Defragment, shell),
            Request::ConfChange(change) => self.change_members(caller, change, shell),
            Request::MoveLeader { target } => self.move_leader(caller, target, shell),
            request => self.read(caller, request, shell),
        }
    }

    /// Hands a write to the raft core; its outcome ends the call.
    fn propose(&mut self, caller: Caller<W>, write: Write, shell: &mut impl Shell<W>) {
        let number = self.number();
        let (entry, request) = (write.entry.clone(), write.id);
        if shell.to_raft(ToRaft::Propose(self.id(number), write)).is_err() {
            return shell.refuse(&caller, Error::TooManyRequests.into());
        }
        shell.proposed(&caller, request);
        self.wait(number, caller.since, Waits::Write(caller, entry));
    }

    /// Asks the store core; its answer ends the call.
    fn ask_store(&mut self, caller: Caller<W>, query: Query, shell: &mut impl Shell<W>) {
        let number = self.number();
        let id = QueryId { core: self.settings.core, number };
        if shell.to_store(ToStore::Query(id, query)).is_err() {
            return shell.refuse(&caller, Error::TooManyRequests.into());
        }
        match query {
            // It takes as long as the file is large, and etcd has no limit for it either.
            Query::Defragment => drop(self.open.insert(number, Waits::Question(caller))),
            _ => self.wait(number, caller.since, Waits::Question(caller)),
        }
    }

    /// The end of a write, or of what is waited for like one.
    fn written(&mut self, id: ProposalId, result: Result<Answer, Error>, shell: &mut impl Shell<W>) {
        let number = cores::number_of(id);
        match self.open.remove(&number) {
            Some(Waits::Write(caller, entry) | Waits::Compaction(caller, entry)) => {
                shell.reply(&caller, Some(&entry), &result)
            }
            Some(Waits::Change(caller) | Waits::Promotion(caller, _) | Waits::Transfer(caller)) => {
                shell.reply(&caller, None, &result);
            }
            Some(waits @ (Waits::Question(_) | Waits::KeepAlive(..))) => {
                drop(self.open.insert(number, waits))
            }
            None => self.done_for_peer(number, result, shell),
        }
    }

    fn compacting(&mut self, number: u64) {
        match self.open.remove(&number) {
            Some(Waits::Write(caller, entry)) => {
                drop(self.open.insert(number, Waits::Compaction(caller, entry)));
            }
            Some(waits) => drop(self.open.insert(number, waits)),
            None => {}
        }
    }

    fn answered(&mut self, id: QueryId, result: Result<QueryAnswer, Error>, shell: &mut impl Shell<W>) {
        match (self.open.remove(&id.number), result) {
            (Some(Waits::Question(caller)), result) => {
                let answer = result.map(|answer| match answer {
                    QueryAnswer::Answer(answer) => answer,
                    QueryAnswer::TimeToLive(fields) => Answer::new(self.view.revision(), fields),
                    QueryAnswer::KeepAlive(_) => Answer::bare(self.view.revision()),
                });
                shell.reply(&caller, None, &answer);
            }
            (Some(Waits::KeepAlive(who, request)), Ok(QueryAnswer::KeepAlive(ttl))) => {
                self.renewed(who, request, Ok(ttl), shell);
            }
            (Some(Waits::KeepAlive(who, request)), Err(error)) => {
                self.renewed(who, request, Err(error), shell);
            }
            (Some(waits), _) => drop(self.open.insert(id.number, waits)),
            (None, _) => {}
        }
    }

    fn wait(&mut self, number: u64, since: Duration, waits: Waits<W>) {
        self.open.insert(number, waits);
        self.expect_by(number, since);
    }

    /// Whatever waits under this number waits no longer than it may.
    fn expect_by(&mut self, number: u64, since: Duration) {
        self.deadlines.push_back((since + self.settings.request_timeout, number));
    }

    fn is_open(&self, number: u64) -> bool {
        self.open.contains_key(&number) || self.reads.is_open(number) || self.peers.contains_key(&number)
    }

    fn time_out(&mut self, number: u64, shell: &mut impl Shell<W>) {
        self.peers.remove(&number); // its own member has told it
        if self.reads.awaits_index(number) {
            shell.note(Note::ReadIndexSlow);
        }
        if let Some((caller, _)) = self.reads.remove(number) {
            shell.refuse(&caller, Error::Timeout.into());
        }
        match self.open.remove(&number) {
            Some(Waits::Transfer(caller)) => shell.refuse(&caller, Error::TimeoutLeaderTransfer.into()),
            Some(Waits::Promotion(caller, _)) if shell.facts().leader() == 0 => {
                shell.refuse(&caller, Error::NoLeader.into()); // etcd `waitLeader`
            }
            Some(
                Waits::Write(caller, _)
                | Waits::Change(caller)
                | Waits::Promotion(caller, _)
                | Waits::Question(caller),
            ) => shell.refuse(&caller, Error::Timeout.into()),
            Some(Waits::KeepAlive(who, request)) => self.renewed(who, request, Err(Error::Timeout), shell),
            Some(waits @ Waits::Compaction(..)) => drop(self.open.insert(number, waits)),
            None => {}
        }
    }

    fn number(&mut self) -> u64 {
        take_number(&mut self.next_number)
    }

    fn id(&self, number: u64) -> ProposalId {
        cores::client_id(self.settings.core, number)
    }

    fn applied(&self) -> Index {
        Index(self.view.applied().index)
    }
}

fn take_number(next: &mut u64) -> u64 {
    // What a name has room for.
    let number = cores::number_of(ProposalId(*next));
    *next = number + 1;
    number
}

/// Whether a call is served at all now. `message` is that of a unary one.
fn admit(facts: &impl Facts, method: Method, has_leader: bool, message: &Bytes) -> Result<(), Refusal> {
    if !api::is_served(method) {
        return Err(Refusal::Unimplemented(method));
    }
    if facts.is_learner() && !api::learner_serves(method, message) {
        return Err(Error::NotSupportedForLearner.into());
    }
    if has_leader && facts.leader() == 0 {
        return Err(Error::NoLeader.into());
    }
    Ok(())
}

/// Whether a NOSPACE alarm would refuse it.
fn takes_space(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant { .. } => true,
        Command::Txn(txn) => quota::txn_cost(txn) > 0,
        _ => false,
    }
}

/// What a proposer is told that raft did not serve.
fn refusal(reason: DropReason) -> Error {
    match reason {
        DropReason::NoLeader | DropReason::NotLeader(..) => Error::NoLeader,
        DropReason::LeaderTransfer | DropReason::LeaderChanged => Error::LeaderChanged,
        DropReason::OutcomeUnknown => Error::TimeoutLeaderFailure,
        DropReason::TooManyRequests => Error::TooManyRequests,
        DropReason::TooLarge => Error::RequestTooLarge,
        DropReason::ConfChangePending => Error::Unhealthy,
    }
}

/// An answer without any field.
fn empty() -> Answer {
    Answer { header: crate::answer::HeaderKind::None, ..Answer::bare(0) }
}

#[cfg(test)]
mod tests;
