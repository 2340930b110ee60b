//! Events of a connection: calls go to [`node::calls`], watches to the hub.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use net::grpc::{CallId, Code, Event, Kind, Metadata, Method, Status};
use node::api::Error;

use super::answers::{Answers, Who};
use super::calls::Call;
use super::client_core::ClientCore;
use super::connection::{ConnectionId, Grpc};
use crate::observe::metrics;

impl ClientCore {
    /// Takes an event of a connection's protocol machine.
    pub fn handle_event(self: &Rc<Self>, connection: ConnectionId, grpc: &mut Grpc, event: Event) {
        match event {
            Event::Request { call, method, metadata, message, .. } => {
                count_call(method, &metadata, false);
                metrics::here().message_received(method);
                let (now, who) = (self.turn_began.get(), Who { connection, call });
                let mut answers = Answers::while_handling(self, connection, grpc);
                let mut calls = self.calls.borrow_mut();
                calls.call(now, who, method, metadata.has_leader, &message, &mut answers);
            }
            Event::Open { call, method, metadata, .. } => {
                count_call(method, &metadata, true);
                self.open(connection, grpc, call, method, metadata.has_leader);
            }
            Event::Message { call, message } => self.stream_message(connection, grpc, call, &message),
            Event::HalfClose { call } => self.half_closed(connection, grpc, call),
            Event::Canceled { call } => self.canceled(connection, grpc, call),
        }
    }

    fn open(
        self: &Rc<Self>,
        connection: ConnectionId,
        grpc: &mut Grpc,
        call: CallId,
        method: Method,
        has_leader: bool,
    ) {
        debug_assert_eq!(method.kind(), Kind::Stream);
        let (now, who) = (self.turn_began.get(), Who { connection, call });
        let mut answers = Answers::while_handling(self, connection, grpc);
        if !self.calls.borrow_mut().open(now, who, method, has_leader, &mut answers) {
            return;
        }
        let state = match method {
            Method::Watch => self.open_watch(connection, call),
            _ => Call::KeepAlive,
        };
        grpc.calls.0.insert(call, state);
        if has_leader {
            let open = &grpc.calls.0;
            grpc.need_leader.add(call, |call| open.contains_key(&call));
        }
    }

    fn stream_message(
        self: &Rc<Self>,
        connection: ConnectionId,
        grpc: &mut Grpc,
        call: CallId,
        message: &Bytes,
    ) {
        match grpc.calls.0.get(&call) {
            Some(Call::Watch(stream, _)) => {
                let stream = *stream;
                metrics::here().message_received(Method::Watch);
                if !self.watch_message(connection, grpc, stream, message) {
                    self.close_watch(stream);
                    metrics::here().stream_failed(true, true);
                    self.end_call(grpc, call, Some(Error::Malformed));
                }
            }
            Some(Call::KeepAlive) => {
                let (now, who) = (self.turn_began.get(), Who { connection, call });
                let mut answers = Answers::while_handling(self, connection, grpc);
                let kept = self.calls.borrow_mut().keep_alive(now, who, message, &mut answers);
                match kept {
                    Ok(()) => metrics::here().message_received(Method::LeaseKeepAlive),
                    Err(error) => {
                        metrics::here().stream_failed(false, true);
                        self.end_call(grpc, call, Some(error));
                    }
                }
            }
            _ => {}
        }
    }

    fn half_closed(self: &Rc<Self>, connection: ConnectionId, grpc: &mut Grpc, call: CallId) {
        // A watch goes on: only the client's cancel ends it (etcd does the same).
        if matches!(grpc.calls.0.get(&call), Some(Call::KeepAlive)) {
            let mut answers = Answers::while_handling(self, connection, grpc);
            self.calls.borrow_mut().half_close(Who { connection, call }, &mut answers);
        }
    }

    fn canceled(&self, connection: ConnectionId, grpc: &mut Grpc, call: CallId) {
        match grpc.calls.0.remove(&call) {
            Some(Call::Watch(stream, _)) => {
                self.close_watch(stream);
                metrics::here().call_handled(Method::Watch, Code::Canceled, Duration::ZERO);
                grpc.server.finish(call, &Error::WatchCanceled.status());
            }
            Some(Call::KeepAlive) => {
                self.calls.borrow_mut().forget_stream(Who { connection, call });
                grpc.server.release(call);
            }
            Some(Call::Body(_) | Call::Open) => grpc.server.release(call),
            // What was handed to another core still completes, and its outcome ends the call: until then the work
            // counts against the connection, or resets would be a way to have unlimited work done.
            None => {}
        }
    }

    /// Ends a stream for a reason of the server's.
    pub fn end_stream(&self, connection: ConnectionId, grpc: &mut Grpc, call: CallId, error: Error) {
        if let Some(state) = grpc.calls.0.get(&call) {
            self.forget_call(Who { connection, call }, state);
        }
        self.end_call(grpc, call, Some(error));
    }

    /// Ends a stream that is forgotten elsewhere.
    pub fn end_call(&self, grpc: &mut Grpc, call: CallId, error: Option<Error>) {
        grpc.calls.0.remove(&call);
        let status = error.map_or(Status::OK, Error::status);
        metrics::here().call_handled(Method::LeaseKeepAlive, status.code, Duration::ZERO);
        grpc.server.finish(call, &status);
    }

    /// The connection is gone: nobody waits for these any more.
    pub fn forget_calls(&self, connection: ConnectionId, grpc: &mut Grpc) {
        for (call, state) in grpc.calls.0.drain() {
            self.forget_call(Who { connection, call }, &state);
        }
    }

    fn forget_call(&self, who: Who, state: &Call) {
        match state {
            Call::Watch(stream, _) => self.close_watch(*stream),
            Call::KeepAlive => self.calls.borrow_mut().forget_stream(who),
            Call::Body(_) | Call::Open => {}
        }
    }
}

/// A call has come: counts it.
fn count_call(method: Method, metadata: &Metadata, stream: bool) {
    let cells = metrics::here();
    cells.call_started(method);
    let version = metadata.client_api_version.as_deref();
    cells.client_request(metrics::client_version(version), stream);
}
