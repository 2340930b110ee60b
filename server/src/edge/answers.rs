//! Answers of calls: from [`node::calls`], which knows who waits for what, into the connections.
//!
//! Each is put straight into the connection's protocol machine. That of the connection whose event is being handled is lent by
//! its task; the others are looked up, and their tasks run at the end of the turn.

use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use consensus::Index;
use crossbeam::epoch;
use engine::RangeOptions;
use net::grpc::{CallId, Code, Method};
use net::pb::etcdserverpb as pb;
use net::pb::healthpb;
use node::Answer;
use node::api::{Error, Refusal, Space};
use node::calls::{Caller, Facts, Full, LongRead, Note, Shell};
use node::cores::PeerFigures;
use node::read::RangeReply;

use super::calls::Call;
use super::client_core::ClientCore;
use super::clock::now;
use super::connection::{ConnectionId, Grpc};
use super::messages::{ForStore, ToRaft, ToStore};
use super::shared::Shared;
use super::slow::About;
use crate::config::limits::Queue;
use crate::observe::metrics::{self, Op};

/// Range answers up to this size are put together at once; longer ones are pulled as the peer takes them.
const WHOLE_ANSWER_BYTES: u64 = 16 << 10;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Who {
    /// The connection.
    pub connection: ConnectionId,
    /// The call.
    pub call: CallId,
}

/// A call that waits.
pub type Waiter = Caller<Who>;

/// See the module's header.
pub struct Answers<'a> {
    core: &'a Rc<ClientCore>,
    current: Option<(ConnectionId, &'a mut Grpc)>,
}

impl<'a> Answers<'a> {
    /// Where no connection is borrowed.
    pub fn to_any(core: &'a Rc<ClientCore>) -> Answers<'a> {
        Answers { core, current: None }
    }

    /// Where an event of this connection is being handled.
    pub fn while_handling(
        core: &'a Rc<ClientCore>,
        connection: ConnectionId,
        grpc: &'a mut Grpc,
    ) -> Answers<'a> {
        Answers { core, current: Some((connection, grpc)) }
    }

    /// Does something with the caller's connection, if that is still there.
    fn with(&mut self, who: &Who, act: impl FnOnce(&ClientCore, &mut Grpc)) {
        let core = self.core;
        match &mut self.current {
            Some((current, grpc)) if *current == who.connection => act(core, grpc),
            _ => core.with_grpc(who.connection, |grpc| act(core, grpc)),
        }
    }
}

impl Shell<Who> for Answers<'_> {
    type Facts = Shared;

    fn facts(&self) -> &Shared {
        &self.core.shared
    }

    fn to_raft(&mut self, message: ToRaft) -> Result<(), Full> {
        self.core.to_raft.push(message).map_err(|refused| {
            let cells = metrics::here();
            match refused {
                ToRaft::Read(_) => return Full, // asked again at the end of the next turn
                ToRaft::Propose(..) => cells.queue_full(Queue::ClientToRaft),
                _ => {}
            }
            cells.plain.proposals_shed.inc();
            Full
        })
    }

    fn to_store(&mut self, message: ToStore) -> Result<(), Full> {
        self.core.to_store.push(message.into()).map_err(|refused| {
            if !matches!(refused, ForStore::Core(ToStore::NoSpace)) {
                metrics::here().plain.proposals_shed.inc();
            }
            Full
        })
    }

    fn reply(&mut self, waiter: &Waiter, entry: Option<&Bytes>, result: &Result<Answer, Error>) {
        self.with(&waiter.who, |core, grpc| match result {
            Ok(answer) => {
                let mut scratch = core.scratch.borrow_mut();
                scratch.clear();
                answer.encode(&core.shared.identity, core.shared.term(), &mut scratch);
                grpc.server.reply_raw(waiter.who.call, &scratch);
                core.ended(waiter, Code::Ok, About::write(entry, scratch.len()));
            }
            Err(error) => {
                let status = error.status();
                core.ended(waiter, status.code, About::write(entry, 0));
                grpc.server.finish(waiter.who.call, &status);
            }
        });
    }

    fn range(&mut self, waiter: &Waiter, options: &RangeOptions, reply: RangeReply) {
        let call = waiter.who.call;
        self.with(&waiter.who, |core, grpc| {
            let about = About::Range { options, count: reply.count(), size: reply.message_len() };
            if reply.message_len() > WHOLE_ANSWER_BYTES {
                grpc.server.reply_pulled(call, reply.message_len());
                core.ended(waiter, Code::Ok, about);
                // Nothing is pulled for a call that was canceled while it waited.
                if grpc.server.queued_bytes(call) > 0 {
                    grpc.calls.0.insert(call, Call::Body(Box::new(reply)));
                }
                return;
            }
            let mut scratch = core.scratch.borrow_mut();
            scratch.clear();
            match reply.encode(&epoch::pin(), &mut scratch) {
                Ok(()) => {
                    grpc.server.reply_raw(call, &scratch);
                    core.ended(waiter, Code::Ok, about);
                }
                Err(_) => core.shared.tree_damaged(),
            }
        });
    }

    fn refuse(&mut self, waiter: &Waiter, refusal: Refusal) {
        self.with(&waiter.who, |core, grpc| {
            let status = refusal.status();
            core.ended(waiter, status.code, About::Nothing);
            grpc.server.finish(waiter.who.call, &status);
        });
    }

    fn health(&mut self, waiter: &Waiter, first: &healthpb::HealthCheckResponse) {
        let call = waiter.who.call;
        self.with(&waiter.who, |_, grpc| {
            grpc.server.send(call, first);
            grpc.calls.0.insert(call, Call::Open);
        });
    }

    fn kept_alive(&mut self, who: &Who, answer: &pb::LeaseKeepAliveResponse) {
        self.with(who, |_, grpc| {
            grpc.server.send(who.call, answer);
            metrics::here().message_sent(Method::LeaseKeepAlive);
        });
    }

    fn end_stream(&mut self, who: &Who, error: Option<Error>) {
        self.with(who, |core, grpc| core.end_call(grpc, who.call, error));
    }

    /// A task of its own lets others run between the steps.
    fn begin(&mut self, mut read: LongRead<Who>) {
        let (core, began) = (self.core.clone(), now());
        glommio::spawn_local(async move {
            let Caller { who, method, .. } = *read.caller();
            loop {
                // Before the first step, too: a new task runs at once, and this connection is still borrowed.
                glommio::executor().yield_now().await;
                match core.calls.borrow_mut().go_on(read, &mut Answers::to_any(&core)) {
                    Some(rest) => read = rest,
                    None => break,
                }
                if core.connection(who.connection).is_none() {
                    return; // nobody waits any more
                }
            }
            match method {
                Method::MaintenanceHash => metrics::here().plain.hash.observe_duration(now() - began),
                Method::MaintenanceHashKv => metrics::here().plain.hash_rev.observe_duration(now() - began),
                _ => {}
            }
            core.end_turn();
        })
        .detach();
    }

    fn damaged(&mut self) {
        self.core.shared.tree_damaged();
    }

    fn note(&mut self, note: Note) {
        let cells = &metrics::here().plain;
        match note {
            Note::RangeBegun => cells.range_total.inc(),
            Note::ReadIndexFailed => cells.read_indexes_failed.inc(),
            Note::ReadIndexSlow => cells.slow_read_indexes.inc(),
        }
    }
}

impl ClientCore {
    /// Counts the end of a unary call, and notes a slow one. `about` says what it was.
    fn ended(&self, waiter: &Waiter, code: Code, about: About<'_>) {
        let cells = metrics::here();
        let took = now().saturating_sub(waiter.since);
        cells.call_handled(waiter.method, code, took);
        if code == Code::Ok {
            cells.message_sent(waiter.method);
        }
        let op = if waiter.read_only_txn { Some(Op::ReadonlyTxn) } else { Op::of(waiter.method) };
        if let Some(op) = op {
            cells.requested(op, code == Code::Ok, took);
        }
        if waiter.method == Method::KvRange {
            cells.ranged(code == Code::Ok, took);
        }
        let config = &self.shared.config;
        self.slow.borrow_mut().note(waiter, took, (config.warning_unary, config.warning_apply), about);
    }
}

impl Facts for Shared {
    fn term(&self) -> u64 {
        self.term()
    }

    fn leader(&self) -> u64 {
        self.leader()
    }

    fn is_learner(&self) -> bool {
        self.is_learner()
    }

    fn commit(&self) -> u64 {
        self.commit()
    }

    fn read_index(&self) -> Option<Index> {
        self.read_index()
    }

    fn space(&self) -> Space {
        self.space()
    }

    fn is_log_space_lost(&self) -> bool {
        self.is_log_space_lost()
    }

    fn peers(&self) -> Vec<PeerFigures> {
        self.peers()
    }

    fn unix_s(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
    }
}
