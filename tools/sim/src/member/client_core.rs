//! The client core's turn: [`node::calls`] with an inbox in place of rings, and clients of a world in place of connections.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use consensus::{Index, NodeId};
use crossbeam::epoch;
use engine::RangeOptions;
use net::grpc::{Fill, Method};
use net::pb::etcdserverpb as pb;
use net::pb::healthpb;
use node::Answer;
use node::api::{self, Error, Limits, Refusal, Space};
use node::calls::{Caller, Calls, Facts, Full, LongRead, Settings, Shell, request_timeout};
use node::cluster::rules::Rules;
use node::cores::{PeerFigures, ToClient, ToRaft, ToStore};
use node::propose::IdGenerator;
use node::read::RangeReply;
use node::store_core::Input;
use node::watch_hub::{Hub, LargeResponse, STREAM_QUEUED_BYTES_MAX, Sink, StreamId};
use prost::Message;

use super::{Done, Member, node_number, stops};
use crate::check::Failure;
use crate::env::{Env, RequestBody, Wake};

/// Waves of catching up before other work of the core goes on.
const ADVANCES_PER_TURN: usize = 4;

/// Bytes of a Range's answer that are taken at once, as a connection does it: no multiple of anything.
const PULLED_BYTES: usize = 997;

/// A wall clock that stands still, for the ids of new members: each host has one id.
const UNIX_S: u64 = 0;

pub(super) struct ClientCore {
    pub inbox: VecDeque<ToClient>,
    pub hub: Hub,
    /// By the numbers of operations. It is lent out while it is told something.
    pub calls: Option<Box<Calls<u64>>>,
    /// Reads that go on.
    long_reads: VecDeque<LongRead<u64>>,
    /// A turn for the watchers is coming.
    advancing: bool,
}

impl ClientCore {
    pub fn new(calls: Calls<u64>, hub: Hub) -> ClientCore {
        ClientCore {
            inbox: VecDeque::new(),
            hub,
            calls: Some(Box::new(calls)),
            long_reads: VecDeque::new(),
            advancing: false,
        }
    }

    /// Reads that are not at their end.
    pub fn reads_open(&self) -> usize {
        self.long_reads.len()
    }

    /// Who waits for what.
    pub fn calls(&self) -> &Calls<u64> {
        self.calls.as_ref().expect("it is lent out within a turn only")
    }
}

/// What calls go by in this world.
pub(super) fn settings(env: &Env, life: u32, identity: node::Identity) -> Settings {
    let membership = env.config.membership;
    Settings {
        core: 0,
        // Numbers of different lives differ.
        first_number: u64::from(life) << 40,
        identity,
        limits: Limits::default(),
        rules: Rules {
            strict_reconfig_check: membership.is_some_and(|membership| membership.strict),
            max_learners: membership.map_or(1, |membership| membership.max_learners),
        },
        request_timeout: request_timeout_in(env),
        range_rows: env.config.compaction_rows,
        hash_rows: env.config.compaction_rows,
    }
}

/// How long a call may wait for other cores.
pub(super) fn request_timeout_in(env: &Env) -> Duration {
    match env.config.request_timeout {
        Some(timeout) => Duration::from_nanos(timeout),
        None => request_timeout(Duration::from_nanos(env.config.election())),
    }
}

/// Where answers of calls go.
struct Answers<'e> {
    member: &'e mut Member,
    env: &'e mut Env,
    failure: Option<Failure>,
}

impl Answers<'_> {
    fn answer(&mut self, op: u64, result: Result<Bytes, Error>) {
        self.env.answer(self.member.id(), op, result);
    }

    /// A ring is full when its core has much to do: here, by lot.
    fn find_room(&mut self) -> Result<(), Full> {
        let (no_room, lot) = (self.env.config.no_room, &mut self.env.schedule);
        let is_full = no_room > 0 && lot.permille(no_room);
        if is_full { Err(Full) } else { Ok(()) }
    }

    fn fail(&mut self, why: impl std::fmt::Display) {
        let failed: Result<(), Failure> = stops(self.member.number, why);
        self.failure = self.failure.take().or(failed.err());
    }
}

impl Shell<u64> for Answers<'_> {
    type Facts = Member;

    fn facts(&self) -> &Member {
        self.member
    }

    fn to_raft(&mut self, message: ToRaft) -> Result<(), Full> {
        self.find_room()?;
        self.member.ask_raft(self.env, message);
        Ok(())
    }

    fn to_store(&mut self, message: ToStore) -> Result<(), Full> {
        self.find_room()?;
        self.member.ask_store(self.env, Input::Message(message));
        Ok(())
    }

    fn reply(&mut self, caller: &Caller<u64>, _: Option<&Bytes>, result: &Result<Answer, Error>) {
        let answer = result.as_ref().map_err(|error| *error).map(|answer| {
            let mut message = Vec::new();
            answer.encode(&self.member.identity, self.member.shared.term, &mut message);
            message.into()
        });
        self.answer(caller.who, answer);
    }

    fn range(&mut self, caller: &Caller<u64>, _: &RangeOptions, mut reply: RangeReply) {
        let (mut message, len) = (Vec::new(), reply.message_len());
        loop {
            match reply.fill(&epoch::pin(), PULLED_BYTES, &mut message) {
                Fill::Wrote(_) => {}
                Fill::Done(_) => break,
                Fill::Abort(status) => return self.fail(status.message),
            }
        }
        if message.len() as u64 != len {
            return self.fail(format!("an answer of {len} bytes has {}", message.len()));
        }
        self.answer(caller.who, Ok(message.into()));
    }

    fn refuse(&mut self, caller: &Caller<u64>, refusal: Refusal) {
        match refusal {
            Refusal::Error(error) => self.answer(caller.who, Err(error)),
            Refusal::Unimplemented(method) => self.fail(format!("{method:?} is not served")),
        }
    }

    fn health(&mut self, _: &Caller<u64>, _: &healthpb::HealthCheckResponse) {
        self.fail("no client of this world watches health");
    }

    fn kept_alive(&mut self, op: &u64, answer: &pb::LeaseKeepAliveResponse) {
        self.answer(*op, Ok(answer.encode_to_vec().into()));
    }

    fn end_stream(&mut self, op: &u64, error: Option<Error>) {
        if let Some(error) = error {
            self.answer(*op, Err(error));
        }
    }

    fn begin(&mut self, read: LongRead<u64>) {
        self.member.client.long_reads.push_back(read);
        let after = self.env.handover();
        self.member.wake_after(self.env, after, Wake::Read);
    }

    fn damaged(&mut self) {
        self.fail("the tree file is damaged");
    }

    fn proposed(&mut self, caller: &Caller<u64>, request: u64) {
        self.env.oracle.answers.becomes(caller.who, request);
    }

    fn passed_on(&mut self, caller: &Caller<u64>, number: u64) {
        self.env.oracle.answers.passes_on(caller.who, self.member.number, number);
    }

    fn proposed_for(&mut self, from: NodeId, asked: u64, request: u64) {
        self.env.oracle.answers.becomes_for(node_number(from), asked, request);
    }
}

impl Facts for Member {
    fn term(&self) -> u64 {
        self.shared.term
    }

    fn leader(&self) -> u64 {
        self.shared.leader
    }

    fn is_learner(&self) -> bool {
        self.peers.is_learner()
    }

    fn commit(&self) -> u64 {
        self.shared.commit
    }

    fn read_index(&self) -> Option<Index> {
        self.shared.single_voter
    }

    fn space(&self) -> Space {
        let core = &self.store.core;
        Space { used: core.store().tree().allocated_bytes(), quota: core.settings().quota }
    }

    fn is_log_space_lost(&self) -> bool {
        self.shared.is_log_space_lost
    }

    fn peers(&self) -> Vec<PeerFigures> {
        self.shared.peers.clone()
    }

    fn unix_s(&self) -> u64 {
        UNIX_S
    }
}

/// Where watch responses go.
struct ToStreams<'e>(&'e mut Env);

impl Sink for ToStreams<'_> {
    fn send(&mut self, stream: StreamId, message: &[u8]) {
        self.0.send_stream(stream.0, message);
    }

    fn send_large(&mut self, stream: StreamId, mut response: LargeResponse) {
        // A connection pulls it in pieces; here it leaves at once, in pieces all the same.
        let mut message = Vec::new();
        while let Fill::Wrote(_) = response.fill(&epoch::pin(), 1000, &mut message) {}
        self.0.send_stream(stream.0, &message);
    }

    fn queued_bytes(&self, stream: StreamId) -> usize {
        // The plan's bound, told as production's.
        match self.0.queued_bytes(stream.0) >= self.0.config.watch_buffer {
            true => STREAM_QUEUED_BYTES_MAX,
            false => 0,
        }
    }
}

impl Member {
    /// A client's request arrives.
    ///
    /// # Errors
    /// A checker has seen something.
    pub fn request(&mut self, env: &mut Env, body: RequestBody) -> Done {
        match body {
            RequestBody::Call { op, method, message } => self.call(env, op, method, &message),
            RequestBody::OpenWatch(stream) => {
                let now = self.now(env);
                self.client.hub.open(now, StreamId(stream));
                Ok(())
            }
            RequestBody::Watch(stream, message) => {
                let Ok(Some(request)) = api::watch::decode(&message) else {
                    return stops(self.number, "a WatchRequest is not one");
                };
                self.client.hub.set_view(self.view(), self.shared.term);
                self.client.hub.handle(StreamId(stream), request, &mut ToStreams(env));
                self.wake(env, Wake::Client);
                Ok(())
            }
        }
    }

    /// A client has gone away.
    pub fn close_watch(&mut self, stream: u64) {
        self.client.hub.close(StreamId(stream));
    }

    /// A client has taken something from a stream.
    pub fn stream_has_room(&mut self, env: &mut Env) {
        if self.client.hub.is_waiting() {
            self.wake(env, Wake::Client);
        }
    }

    /// Tells the calls something, and lets them have their answers out.
    fn tell_calls<T>(
        &mut self,
        env: &mut Env,
        tell: impl FnOnce(&mut Calls<u64>, &mut Answers<'_>) -> T,
    ) -> Result<T, Failure> {
        let mut calls = self.client.calls.take().expect("it is not lent out yet");
        let mut answers = Answers { member: self, env, failure: None };
        let told = tell(&mut calls, &mut answers);
        let failure = answers.failure;
        self.client.calls = Some(calls);
        failure.map_or(Ok(told), Err)
    }

    /// A keep-alive is a stream of one request. Some calls want a leader to be known (`hasleader`).
    fn call(&mut self, env: &mut Env, op: u64, method: Method, message: &Bytes) -> Done {
        let now = self.now(env);
        let has_leader = op.is_multiple_of(5);
        let served = self.tell_calls(env, |calls, answers| {
            if method != Method::LeaseKeepAlive {
                calls.call(now, op, method, has_leader, message, answers);
            } else if calls.open(now, op, method, has_leader, answers) {
                calls.keep_alive(now, op, message, answers)?;
                calls.half_close(op, answers);
            }
            calls.end_turn(answers);
            Ok(())
        })?;
        served.or_else(|error: Error| stops(self.number, error.text()))
    }

    pub(super) fn client_turn(&mut self, env: &mut Env) -> Done {
        let now = self.now(env);
        for message in std::mem::take(&mut self.client.inbox) {
            self.tell_calls(env, |calls, answers| calls.handle(now, message, answers))?;
        }
        self.tell_calls(env, |calls, answers| calls.end_turn(answers))?;
        self.wake_watchers(env);
        Ok(())
    }

    /// The next step of the read that has waited longest.
    pub(super) fn read_on(&mut self, env: &mut Env) -> Done {
        let Some(read) = self.client.long_reads.pop_front() else { return Ok(()) };
        let rest = self.tell_calls(env, |calls, answers| calls.go_on(read, answers))?;
        if let Some(rest) = rest {
            self.client.long_reads.push_back(rest);
            let after = env.handover();
            self.wake_after(env, after, Wake::Read);
        }
        Ok(())
    }

    /// The hub's turn comes a little later: requests may come before it, as on a machine.
    fn wake_watchers(&mut self, env: &mut Env) {
        if !std::mem::replace(&mut self.client.advancing, true) {
            let after = env.handover();
            self.wake_after(env, after, Wake::Advance);
        }
    }

    pub(super) fn advance_watches(&mut self, env: &mut Env) -> Done {
        self.client.advancing = false;
        let view = self.view();
        let hub = &mut self.client.hub;
        hub.set_view(view, self.shared.term);
        for _ in 0..ADVANCES_PER_TURN {
            match hub.advance(&epoch::pin(), &mut ToStreams(env)) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(damage) => return stops(self.number, damage),
            }
        }
        self.wake_watchers(env);
        Ok(())
    }

    pub(super) fn housekeeping(&mut self, env: &mut Env) -> Done {
        self.schedule_housekeeping(env);
        let now = self.now(env);
        self.tell_calls(env, |calls, answers| {
            calls.tick(now, answers);
            calls.end_turn(answers);
        })?;
        if self.client.hub.next_timeout().is_some_and(|due| due <= now) {
            self.client.hub.handle_timeout(now, &mut ToStreams(env));
        }
        Ok(())
    }

    pub(super) fn schedule_housekeeping(&mut self, env: &mut Env) {
        let after = env.true_span(self.number, Duration::from_millis(250));
        self.wake_after(env, after, Wake::Housekeeping);
    }
}

/// The client core of a process that starts.
pub(super) fn start(
    env: &Env,
    life: u32,
    identity: node::Identity,
    ids: IdGenerator,
    hub: Hub,
    view: std::sync::Arc<engine::View>,
) -> ClientCore {
    ClientCore::new(Calls::new(settings(env, life, identity), ids, view), hub)
}
