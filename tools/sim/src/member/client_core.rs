//! The client core's turn: calls are decoded, answered from the newest version, or wait for another core.

use std::sync::Arc;

use bytes::Bytes;
use consensus::{DropReason, Index, ProposalId, ReadId};
use crossbeam::epoch;

use engine::{Planned, RangeOptions, View};
use net::grpc::{Fill, Method};
use node::Answer;
use node::api::{self, Context, Error, Limits, Refusal, Request, Space};
use node::forward::Response;
use node::lease;
use node::propose::Write;
use node::read::{self, RangeReply};
use node::watch_hub::{LargeResponse, STREAM_QUEUED_BYTES_MAX, Sink, StreamId};
use prost::Message;

use super::{Done, Member, Proposer, Query, Read, ToClient, ToRaft, ToStore, stops};
use crate::env::{Env, RequestBody, Wake};

/// Waves of catching up before other work of the core goes on.
const ADVANCES_PER_TURN: usize = 4;

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
                self.client.hub.set_view(self.client.view.clone(), self.shared.term);
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

    fn call(&mut self, env: &mut Env, op: u64, method: Method, message: &Bytes) -> Done {
        if self.is_refused_for_learner(method, message) {
            return self.reply(env, op, Err(Error::NotSupportedForLearner));
        }
        if method == Method::LeaseKeepAlive {
            return match lease_of(message) {
                Ok(lease) => self.read_linearizable(env, op, Read::KeepAlive { lease }),
                Err(error) => self.reply(env, op, Err(error)),
            };
        }
        let mut context =
            Context { limits: Limits::default(), space: Space::UNLIMITED, ids: &mut self.client.ids };
        match api::decode(&mut context, method, message) {
            Ok(Request::Write(write)) => self.propose(env, op, write),
            Ok(
                request @ (Request::Range { linearizable: true, .. }
                | Request::TxnRead { linearizable: true, .. }
                | Request::MemberList { linearizable: true }),
            ) => self.read_linearizable(env, op, Read::Call(request)),
            Ok(Request::LeaseTimeToLive { id, keys }) => {
                self.to_store(env, ToStore::Query(op, Query::TimeToLive { lease: id, keys }));
                Ok(())
            }
            Ok(Request::ConfChange(change)) => self.change_members(env, op, change),
            Ok(Request::MoveLeader { target }) => self.move_leader(env, op, target),
            Ok(request) => self.read(env, op, &request),
            Err(Refusal::Error(error)) => self.reply(env, op, Err(error)),
            Err(Refusal::Unimplemented(method)) => stops(self.number, format!("{method:?} is not served")),
        }
    }

    fn propose(&mut self, env: &mut Env, op: u64, write: Write) -> Done {
        let number = self.next_number();
        self.client.writes.insert(number, op);
        env.oracle.answers.becomes(op, write.id);
        self.ask_raft(env, ToRaft::Propose(ProposalId(number), write, Proposer::Client));
        Ok(())
    }

    /// Numbers of different lives differ, for raft's cache may name those of an earlier one.
    pub(super) fn next_number(&mut self) -> u64 {
        self.client.numbers += 1;
        u64::from(self.life) << 40 | self.client.numbers
    }

    fn read_linearizable(&mut self, env: &mut Env, op: u64, read: Read) -> Done {
        let is_keep_alive = matches!(read, Read::KeepAlive { .. });
        let unconfirmed = is_keep_alive && planted::is("keep-alive-without-confirmation");
        if unconfirmed || planted::is("follower-reads-locally") {
            return self.read_now(env, op, read);
        }
        let index = self.shared.single_voter;
        self.client.reads.push(op, (op, read), index);
        self.ask_for_index(env);
        self.read_covered(env)
    }

    fn ask_for_index(&mut self, env: &mut Env) {
        let number = self.next_number();
        if let Some(question) = self.client.reads.ask(|| number) {
            self.ask_raft(env, ToRaft::ReadIndex(ReadId(question)));
        }
    }

    /// Does the reads that the newest version may answer.
    fn read_covered(&mut self, env: &mut Env) -> Done {
        let applied = Index(self.client.view.applied().index);
        while let Some((op, read)) = self.client.reads.pop_covered(applied) {
            self.read_now(env, op, read)?;
        }
        Ok(())
    }

    fn read_now(&mut self, env: &mut Env, op: u64, read: Read) -> Done {
        match read {
            Read::Call(request) => self.read(env, op, &request),
            Read::KeepAlive { lease } => {
                self.to_store(env, ToStore::Query(op, Query::KeepAlive { lease }));
                Ok(())
            }
        }
    }

    /// Answers from the newest published version.
    fn read(&mut self, env: &mut Env, op: u64, request: &Request) -> Done {
        let view = self.client.view.clone();
        let guard = &epoch::pin();
        let result = match request {
            Request::Range { options, .. } => self.range(&view, options, env.config.compaction_rows),
            Request::TxnRead { txn, .. } => self.encoded(read::txn(&view, guard, txn)),
            Request::MemberList { .. } => self.encoded(read::member_list(&view, guard)),
            other => return stops(self.number, format!("no client of this world asks for {other:?}")),
        };
        self.reply(env, op, result)
    }

    /// Plans a Range in steps of so many rows, then takes the whole answer.
    fn range(&self, view: &Arc<View>, options: &RangeOptions, rows: usize) -> Result<Bytes, Error> {
        let guard = &epoch::pin();
        let mut planned = read::range(view, guard, options, rows)?;
        let answer = loop {
            match planned {
                Planned::Done(answer) => break answer,
                Planned::More(job) => planned = read::range_step(job, guard, rows)?,
            }
        };
        let mut message = Vec::new();
        RangeReply::new(answer, &self.identity, self.shared.term).encode(guard, &mut message)?;
        Ok(message.into())
    }

    pub(super) fn encoded(&self, result: Result<Answer, Error>) -> Result<Bytes, Error> {
        result.map(|answer| {
            let mut message = Vec::new();
            answer.encode(&self.identity, self.shared.term, &mut message);
            message.into()
        })
    }

    pub(super) fn reply(&mut self, env: &mut Env, op: u64, result: Result<Bytes, Error>) -> Done {
        if matches!(result, Err(Error::Corrupt)) {
            return stops(self.number, "the tree file is damaged");
        }
        env.answer((self.number, self.life), op, result);
        Ok(())
    }

    pub(super) fn client_turn(&mut self, env: &mut Env) -> Done {
        for message in std::mem::take(&mut self.client.inbox) {
            self.client_message(env, message)?;
        }
        self.wake_watchers(env);
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
        let hub = &mut self.client.hub;
        hub.set_view(self.client.view.clone(), self.shared.term);
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

    fn client_message(&mut self, env: &mut Env, message: ToClient) -> Done {
        match message {
            ToClient::Published(view) => {
                self.client.view = view;
                self.read_covered(env)
            }
            ToClient::Outcomes(outcomes) => {
                outcomes.into_iter().try_for_each(|(id, result)| self.written(env, id, result))
            }
            ToClient::Dropped(id, reason) => self.written(env, id, Err(refusal(reason))),
            ToClient::ReadReady(id, index) => {
                self.client.reads.confirm(id.0, index);
                self.ask_for_index(env);
                self.read_covered(env)
            }
            ToClient::ReadDropped(id) => {
                let failed = self.client.reads.fail(id.0);
                self.ask_for_index(env);
                failed.into_iter().try_for_each(|(op, _)| self.reply(env, op, Err(Error::LeaderChanged)))
            }
            ToClient::Transferred(id) => self.transferred(env, id),
            ToClient::PeerRequest(from, id, body) => {
                self.peer_asks(env, from, id, &body);
                Ok(())
            }
            ToClient::PeerResponse(id, body) => self.peer_answers(env, id, &body),
            ToClient::KeptAlive(op, result) => {
                let header = self.identity.header(self.client.view.revision(), self.shared.term);
                let answer = result
                    .map(|(id, ttl)| lease::keep_alive_response(header, id, ttl).encode_to_vec().into());
                self.reply(env, op, answer)
            }
            ToClient::Answered(op, result) => {
                let result = self.encoded(result);
                self.reply(env, op, result)
            }
        }
    }

    pub(super) fn written(&mut self, env: &mut Env, id: ProposalId, result: Result<Answer, Error>) -> Done {
        if let Some((from, asked)) = self.client.peers.remove(&id.0) {
            let response = result.map_or_else(Response::Refused, |answer| Response::Promoted(answer.body));
            self.answer_peer(env, from, asked, &response);
            return Ok(());
        }
        let Some(op) = self.client.writes.remove(&id.0) else { return Ok(()) };
        let result = self.encoded(result);
        self.reply(env, op, result)
    }

    pub(super) fn housekeeping(&mut self, env: &mut Env) -> Done {
        self.schedule_housekeeping(env);
        let now = self.now(env);
        if self.client.hub.next_timeout().is_some_and(|due| due <= now) {
            self.client.hub.handle_timeout(now, &mut ToStreams(env));
        }
        Ok(())
    }

    pub(super) fn schedule_housekeeping(&mut self, env: &mut Env) {
        let after = env.true_span(self.number, std::time::Duration::from_millis(250));
        self.wake_after(env, after, Wake::Housekeeping);
    }
}

fn lease_of(message: &Bytes) -> Result<i64, Error> {
    api::lease::decode_keep_alive(message)
}

fn refusal(reason: DropReason) -> Error {
    match reason {
        DropReason::NoLeader | DropReason::NotLeader(..) => Error::NoLeader,
        DropReason::TooManyRequests => Error::TooManyRequests,
        DropReason::TooLarge => Error::RequestTooLarge,
        DropReason::ConfChangePending => Error::Unhealthy,
        _ => Error::LeaderChanged,
    }
}
