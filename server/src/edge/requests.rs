//! What happens to a call: decoded by `node::api`, then answered here, by the store core, or through the log.

use std::rc::Rc;
use std::time::Duration;

use crossbeam::epoch;
use engine::{AlarmKind, Planned, RangeAnswer, RangeJob, RangeOptions, View, quota};
use net::grpc::{CallId, Code, Event, Kind, Metadata, Method};
use net::pb::etcdserverpb::AlarmType;
use node::api::{self, Context, Error, Refusal, Request};
use node::cluster::version::storage;
use node::lease;
use node::propose::Command;
use node::read::{self, RangeReply};

use super::calls::Call;
use super::client_core::ClientCore;
use super::clock::now;
use super::connection::{ConnectionId, Grpc};
use super::messages::Query;
use super::slow::About;
use super::waiting::Waiter;
use crate::observe::metrics;

/// Range answers up to this size are put together at once; longer ones are pulled as the peer takes them.
const WHOLE_ANSWER_BYTES: u64 = 16 << 10;

/// Rows a Range is planned by before other work of its core goes on: a tenth of a millisecond or two.
const RANGE_ROWS_PER_TURN: usize = 4000;

/// Rows of history a HashKV reads before other work of its core goes on.
const HASH_ROWS_PER_TURN: usize = 2000;

impl ClientCore {
    /// Takes an event of a connection's protocol machine.
    pub fn handle_event(self: &Rc<Self>, connection: ConnectionId, grpc: &mut Grpc, event: Event) {
        match event {
            Event::Request { call, method, metadata, message, .. } => {
                let waiter = self.begin(connection, call, method, &metadata, false);
                metrics::here().message_received(method);
                match self.admit(method, &metadata, &message) {
                    Ok(()) => self.request(waiter, grpc, &message),
                    Err(refusal) => self.fail(grpc, &waiter, &refusal.status()),
                }
            }
            Event::Open { call, method, metadata, .. } => {
                let waiter = self.begin(connection, call, method, &metadata, true);
                match self.admit(method, &metadata, &bytes::Bytes::new()) {
                    Ok(()) => {
                        self.open(connection, grpc, call, method);
                        if metadata.has_leader {
                            let open = &grpc.calls.0;
                            grpc.need_leader.add(call, |call| open.contains_key(&call));
                        }
                    }
                    Err(refusal) => self.fail(grpc, &waiter, &refusal.status()),
                }
            }
            Event::Message { call, message } => self.stream_message(connection, grpc, call, &message),
            Event::HalfClose { call } => self.half_closed(grpc, call),
            Event::Canceled { call } => self.canceled(grpc, call),
        }
    }

    /// A call has come: counts it.
    fn begin(
        &self,
        connection: ConnectionId,
        call: CallId,
        method: Method,
        metadata: &Metadata,
        stream: bool,
    ) -> Waiter {
        let cells = metrics::here();
        cells.call_started(method);
        if let Some(version) = &metadata.client_api_version {
            cells.client_request(metrics::client_version(Some(version)), stream);
        } else {
            cells.client_request(metrics::client_version(None), stream);
        }
        let since = self.turn_began.get();
        Waiter { connection, call, method, read_only_txn: false, since, request: 0 }
    }

    /// `message` is that of a unary call.
    fn admit(&self, method: Method, metadata: &Metadata, message: &bytes::Bytes) -> Result<(), Refusal> {
        if !api::is_served(method) {
            return Err(Refusal::Unimplemented(method));
        }
        if self.shared.is_learner() && !api::learner_serves(method, message) {
            return Err(Error::NotSupportedForLearner.into());
        }
        if metadata.has_leader && self.shared.leader() == 0 {
            return Err(Error::NoLeader.into());
        }
        Ok(())
    }

    fn request(self: &Rc<Self>, waiter: Waiter, grpc: &mut Grpc, message: &bytes::Bytes) {
        let mut ids = self.ids.borrow_mut();
        let mut context = Context { limits: self.limits, space: self.shared.space(), ids: &mut ids };
        let decoded = api::decode(&mut context, waiter.method, message);
        drop(ids);
        match decoded {
            Ok(request) => self.dispatch(waiter, grpc, request),
            Err(refusal) => {
                if refusal == Refusal::Error(Error::NoSpace) {
                    self.out_of_space();
                }
                self.fail(grpc, &waiter, &refusal.status());
            }
        }
    }

    fn dispatch(self: &Rc<Self>, mut waiter: Waiter, grpc: &mut Grpc, request: Request) {
        waiter.read_only_txn = matches!(request, Request::TxnRead { .. });
        match request {
            Request::Range { linearizable: true, .. }
            | Request::TxnRead { linearizable: true, .. }
            | Request::MemberList { linearizable: true } => self.read_linearizable(waiter, grpc, request),
            Request::Write(write) if self.shared.is_log_space_lost() && takes_space(&write.command) => {
                self.out_of_space();
                self.fail(grpc, &waiter, &Error::NoSpace.status());
            }
            Request::Write(write) => self.propose(grpc, waiter, write),
            Request::LeaseTimeToLive { id, keys } => {
                self.query(grpc, waiter, Query::TimeToLive { lease: id, keys });
            }
            Request::LeaseLeases => self.query(grpc, waiter, Query::Leases),
            Request::Defragment => self.query(grpc, waiter, Query::Defragment),
            request => self.read(waiter, grpc, request),
        }
    }

    /// Answers from the newest published version.
    pub fn read(self: &Rc<Self>, waiter: Waiter, grpc: &mut Grpc, request: Request) {
        let call = waiter.call;
        let view = self.view();
        let guard = &epoch::pin();
        match request {
            Request::Range { options, .. } => self.range(grpc, &waiter, &options),
            Request::TxnRead { txn, .. } => self.reply_read(grpc, &waiter, &read::txn(&view, guard, &txn)),
            Request::MemberList { .. } => self.reply_read(grpc, &waiter, &read::member_list(&view, guard)),
            Request::Hash => {
                let began = now();
                let hash = read::hash(&view, guard);
                metrics::here().plain.hash.observe_duration(now() - began);
                self.reply_read(grpc, &waiter, &hash);
            }
            Request::HashKv { revision } => self.hash_kv(waiter, grpc, revision),
            Request::Status => self.status(grpc, &waiter),
            Request::HealthCheck { service } => match api::health::check(&service) {
                Ok(message) => self.reply_message(grpc, &waiter, &message),
                Err(error) => self.fail(grpc, &waiter, &error.status()),
            },
            Request::HealthList => self.reply_message(grpc, &waiter, &api::health::list()),
            Request::HealthWatch { service } => {
                grpc.server.send(call, &api::health::watch(&service));
                grpc.calls.0.insert(call, Call::Open);
            }
            Request::ConfChange(change) => self.change_members(waiter, grpc, change),
            Request::MoveLeader { target } => self.move_leader(waiter, grpc, target),
            Request::Write(_)
            | Request::LeaseTimeToLive { .. }
            | Request::LeaseLeases
            | Request::Defragment => {
                unreachable!("dispatch sends these to other cores")
            }
        }
    }

    fn reply_message(&self, grpc: &mut Grpc, waiter: &Waiter, message: &impl prost::Message) {
        grpc.server.reply(waiter.call, message);
        self.ended(waiter, Code::Ok, About::Nothing);
    }

    fn range(self: &Rc<Self>, grpc: &mut Grpc, waiter: &Waiter, options: &RangeOptions) {
        metrics::here().plain.range_total.inc();
        let planned = read::range(&self.view(), &epoch::pin(), options, RANGE_ROWS_PER_TURN);
        match planned {
            Ok(Planned::Done(answer)) => self.reply_range(grpc, waiter, options, answer),
            Ok(Planned::More(job)) => self.plan_on(*waiter, options.clone(), job),
            Err(Error::Corrupt) => self.shared.tree_damaged(),
            Err(error) => self.fail(grpc, waiter, &error.status()),
        }
    }

    /// A large range is planned on by a task of its own, which lets others run between its steps.
    fn plan_on(self: &Rc<Self>, waiter: Waiter, options: RangeOptions, mut job: Box<RangeJob>) {
        let core = self.clone();
        glommio::spawn_local(async move {
            let answer = loop {
                // Before the first step, too: a new task runs at once, and this connection is still borrowed.
                glommio::executor().yield_now().await;
                match read::range_step(job, &epoch::pin(), RANGE_ROWS_PER_TURN) {
                    Ok(Planned::Done(answer)) => break answer,
                    Ok(Planned::More(more)) => job = more,
                    Err(_) => core.shared.tree_damaged(),
                }
                if core.connection(waiter.connection).is_none() {
                    return; // nobody waits any more
                }
            };
            core.with_grpc(waiter.connection, |grpc| core.reply_range(grpc, &waiter, &options, answer));
            core.end_turn();
        })
        .detach();
    }

    fn reply_range(&self, grpc: &mut Grpc, waiter: &Waiter, options: &RangeOptions, answer: RangeAnswer) {
        let call = waiter.call;
        let reply = RangeReply::new(answer, &self.identity, self.shared.term());
        let about = About::Range { options, count: reply.count(), size: reply.message_len() };
        if reply.message_len() > WHOLE_ANSWER_BYTES {
            grpc.server.reply_pulled(call, reply.message_len());
            self.ended(waiter, Code::Ok, about);
            // Nothing is pulled for a call that was canceled while it waited.
            if grpc.server.queued_bytes(call) > 0 {
                grpc.calls.0.insert(call, Call::Body(Box::new(reply)));
            }
            return;
        }
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        match reply.encode(&epoch::pin(), &mut scratch) {
            Ok(()) => {
                grpc.server.reply_raw(call, &scratch);
                self.ended(waiter, Code::Ok, about);
            }
            Err(_) => self.shared.tree_damaged(),
        }
    }

    fn status(&self, grpc: &mut Grpc, waiter: &Waiter) {
        let view = self.view();
        let guard = &epoch::pin();
        let config = &self.shared.config;
        let cluster_version = read::cluster_version(&view, guard).ok().flatten();
        let member = api::maintenance::MemberStatus {
            db_size: view.allocated_bytes(),
            db_size_in_use: view.in_use_bytes(),
            db_size_quota: config.quota_backend_bytes.map_or(-1, |bytes| bytes as i64),
            leader: self.shared.leader(),
            commit_index: self.shared.commit(),
            applied_index: view.applied().index,
            term: self.shared.term(),
            alarms: alarms(&view),
            is_learner: self.shared.is_learner(),
            storage_version: storage(cluster_version.as_deref()).unwrap_or_default().to_owned(),
        };
        let header = self.identity.header(view.revision(), self.shared.term());
        self.reply_message(grpc, waiter, &api::maintenance::status(header, &member));
    }

    /// A hash of the whole history takes long: a task of its own does it in steps.
    fn hash_kv(self: &Rc<Self>, waiter: Waiter, grpc: &mut Grpc, revision: i64) {
        let mut job = match read::hash_kv(&self.view(), &epoch::pin(), revision) {
            Ok(job) => job,
            Err(error) => return self.fail(grpc, &waiter, &error.status()),
        };
        let (core, began) = (self.clone(), now());
        glommio::spawn_local(async move {
            // A new task runs at once, and this connection is still borrowed.
            glommio::executor().yield_now().await;
            let result = loop {
                match read::hash_kv_step(&mut job, &epoch::pin(), HASH_ROWS_PER_TURN) {
                    Ok(Some(answer)) => break Ok(answer),
                    Ok(None) => glommio::executor().yield_now().await,
                    Err(error) => break Err(error),
                }
            };
            metrics::here().plain.hash_rev.observe_duration(now() - began);
            core.with_grpc(waiter.connection, |grpc| core.reply_read(grpc, &waiter, &result));
            core.end_turn();
        })
        .detach();
    }

    fn open(&self, connection: ConnectionId, grpc: &mut Grpc, call: CallId, method: Method) {
        debug_assert_eq!(method.kind(), Kind::Stream);
        let state = match method {
            Method::Watch => self.open_watch(connection, call),
            _ => Call::KeepAlive(Box::default()),
        };
        grpc.calls.0.insert(call, state);
    }

    fn stream_message(
        &self,
        connection: ConnectionId,
        grpc: &mut Grpc,
        call: CallId,
        message: &bytes::Bytes,
    ) {
        match grpc.calls.0.get_mut(&call) {
            Some(Call::Watch(stream, _)) => {
                let stream = *stream;
                metrics::here().message_received(Method::Watch);
                if !self.watch_message(connection, grpc, stream, message) {
                    self.close_watch(stream);
                    metrics::here().stream_failed(true, true);
                    self.end_call(grpc, call, Some(Error::Malformed));
                }
            }
            Some(Call::KeepAlive(state)) => match api::lease::decode_keep_alive(message) {
                Ok(lease) => {
                    let request = state.answers.begin(lease);
                    let method = Method::LeaseKeepAlive;
                    metrics::here().message_received(method);
                    let since = self.turn_began.get();
                    let waiter = Waiter { connection, call, method, read_only_txn: false, since, request };
                    self.query(grpc, waiter, Query::KeepAlive { lease });
                }
                Err(error) => {
                    metrics::here().stream_failed(false, true);
                    self.end_call(grpc, call, Some(error));
                }
            },
            _ => {}
        }
    }

    /// One answer of a keep-alive stream has come; those whose turn it is leave.
    pub fn kept_alive(&self, grpc: &mut Grpc, waiter: Waiter, result: Result<i64, Error>) {
        let Some(Call::KeepAlive(state)) = grpc.calls.0.get_mut(&waiter.call) else { return };
        state.answers.complete(waiter.request, result);
        while let Some(answer) = state.answers.poll() {
            match answer {
                Ok((lease, ttl)) => {
                    let header = self.identity.header(self.view().revision(), self.shared.term());
                    grpc.server.send(waiter.call, &lease::keep_alive_response(header, lease, ttl));
                    metrics::here().message_sent(Method::LeaseKeepAlive);
                }
                Err(error) => return self.end_call(grpc, waiter.call, Some(error)),
            }
        }
        if state.half_closed && state.answers.is_idle() {
            self.end_call(grpc, waiter.call, None);
        }
    }

    /// A question to another core failed: ends the call, or gives a stream its answer.
    pub fn query_failed(&self, grpc: &mut Grpc, waiter: Waiter, error: Error) {
        if matches!(grpc.calls.0.get(&waiter.call), Some(Call::KeepAlive(_))) {
            self.kept_alive(grpc, waiter, Err(error));
        } else {
            self.fail(grpc, &waiter, &error.status());
        }
    }

    fn half_closed(&self, grpc: &mut Grpc, call: CallId) {
        // A watch goes on: only the client's cancel ends it (etcd does the same).
        if let Some(Call::KeepAlive(state)) = grpc.calls.0.get_mut(&call) {
            state.half_closed = true;
            if state.answers.is_idle() {
                self.end_call(grpc, call, None);
            }
        }
    }

    fn canceled(&self, grpc: &mut Grpc, call: CallId) {
        match grpc.calls.0.remove(&call) {
            Some(Call::Watch(stream, _)) => {
                self.close_watch(stream);
                metrics::here().call_handled(Method::Watch, Code::Canceled, Duration::ZERO);
                grpc.server.finish(call, &Error::WatchCanceled.status());
            }
            Some(_) => grpc.server.release(call),
            // What was handed to another core still completes, and its outcome ends the call: until then the work
            // counts against the connection, or resets would be a way to have unlimited work done.
            None => {}
        }
    }

    /// Ends a stream for a reason of the server's.
    pub fn end_stream(&self, grpc: &mut Grpc, call: CallId, error: Error) {
        if let Some(Call::Watch(stream, ..)) = grpc.calls.0.get(&call) {
            self.close_watch(*stream);
        }
        self.end_call(grpc, call, Some(error));
    }

    fn end_call(&self, grpc: &mut Grpc, call: CallId, error: Option<Error>) {
        grpc.calls.0.remove(&call);
        let status = error.map_or(net::grpc::Status::OK, Error::status);
        metrics::here().call_handled(Method::LeaseKeepAlive, status.code, Duration::ZERO);
        grpc.server.finish(call, &status);
    }

    /// The connection is gone: nobody waits for these any more.
    pub fn forget_calls(&self, grpc: &mut Grpc) {
        for (_, call) in grpc.calls.0.drain() {
            if let Call::Watch(stream, _) = call {
                self.close_watch(stream);
            }
        }
    }
}

/// Whether a NOSPACE alarm would refuse it.
fn takes_space(command: &Command) -> bool {
    match command {
        Command::Put(_) | Command::LeaseGrant { .. } => true,
        Command::Txn(txn) => quota::txn_cost(txn) > 0,
        _ => false,
    }
}

/// Active alarms as the API shows them.
fn alarms(view: &View) -> Vec<(u64, AlarmType)> {
    let kind = |kind| match kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    view.alarms().iter().map(|alarm| (alarm.member, kind(alarm.kind))).collect()
}
