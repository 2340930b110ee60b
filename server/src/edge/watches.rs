//! Watch streams: between the hub, which decides, and the connections, which carry.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::epoch;
use engine::View;
use net::grpc::{CallId, Method};
use node::api;
use node::watch_hub::{Config as HubConfig, Hub, LargeResponse, Sink, StreamId};
use rustc_hash::FxHashMap;

use super::calls::Call;
use super::client_core::{ClientCore, ConnectionRef};
use super::clock::now;
use super::connection::{ConnectionId, Grpc};
use super::shared::Shared;
use crate::observe::metrics;

/// Waves of catching up before other work of the core goes on.
const ADVANCES_PER_TURN: usize = 4;

/// Where each stream's responses go.
#[derive(Default)]
pub struct Streams(FxHashMap<StreamId, (ConnectionId, CallId)>);

/// A hub for one client core.
pub fn new_hub(shared: &Shared, number: usize, view: &Arc<View>) -> Hub {
    let config = &shared.config;
    let settings = HubConfig {
        fragment_bytes_max: config.max_request_bytes as usize + (512 << 10),
        progress_interval: config.watch_progress_notify_interval,
        ..HubConfig::new(shared.identity, shared.identity.member_id.wrapping_add(number as u64))
    };
    Hub::new(settings, view.clone(), shared.term())
}

/// Puts responses into connections. The connection whose event is being handled is lent by its task; the others are
/// looked up.
struct ToConnections<'a> {
    core: &'a ClientCore,
    streams: &'a Streams,
    current: Option<(ConnectionId, &'a mut Grpc)>,
}

impl ToConnections<'_> {
    fn with<T>(&mut self, stream: StreamId, act: impl FnOnce(&mut Grpc, CallId) -> T) -> Option<T> {
        let (connection, call) = *self.streams.0.get(&stream)?;
        if let Some((current, grpc)) = &mut self.current
            && *current == connection
        {
            return Some(act(grpc, call));
        }
        let connection: ConnectionRef = self.core.connection(connection)?;
        let mut connection = connection.borrow_mut();
        Some(act(connection.grpc()?, call))
    }
}

impl ToConnections<'_> {
    fn touch(&self, stream: StreamId, sent: Option<()>) {
        if sent.is_some() {
            metrics::here().message_sent(Method::Watch);
        }
        if sent.is_some()
            && let Some((connection, _)) = self.streams.0.get(&stream)
        {
            self.core.touch(*connection);
        }
    }
}

impl Sink for ToConnections<'_> {
    fn send(&mut self, stream: StreamId, message: &[u8]) {
        let sent = self.with(stream, |grpc, call| grpc.server.send_raw(call, message));
        self.touch(stream, sent);
    }

    fn send_large(&mut self, stream: StreamId, response: LargeResponse) {
        let sent = self.with(stream, |grpc, call| {
            let Some(Call::Watch(_, pulled)) = grpc.calls.0.get_mut(&call) else { return };
            let message_len = response.message_len();
            pulled.push_back(response);
            grpc.server.send_pulled(call, message_len);
        });
        self.touch(stream, sent);
    }

    fn queued_bytes(&self, stream: StreamId) -> usize {
        let Some((connection, call)) = self.streams.0.get(&stream) else { return 0 };
        if let Some((current, grpc)) = &self.current
            && current == connection
        {
            return grpc.server.queued_bytes(*call);
        }
        let Some(connection) = self.core.connection(*connection) else { return 0 };
        let mut connection = connection.borrow_mut();
        connection.grpc().map_or(0, |grpc| grpc.server.queued_bytes(*call))
    }
}

impl ClientCore {
    /// A Watch call begins.
    pub fn open_watch(&self, connection: ConnectionId, call: CallId) -> Call {
        let stream = StreamId(self.next_number());
        self.streams.borrow_mut().0.insert(stream, (connection, call));
        self.hub.borrow_mut().open(now(), stream);
        Call::Watch(stream, VecDeque::new())
    }

    /// One message of a Watch call. False: it is no WatchRequest, and the call must end.
    pub fn watch_message(
        &self,
        connection: ConnectionId,
        grpc: &mut Grpc,
        stream: StreamId,
        message: &bytes::Bytes,
    ) -> bool {
        let Ok(request) = api::watch::decode(message) else { return false };
        let Some(request) = request else { return true };
        let mut hub = self.hub.borrow_mut();
        hub.set_view(self.view(), self.shared.term());
        let streams = self.streams.borrow();
        let mut sink = ToConnections { core: self, streams: &streams, current: Some((connection, grpc)) };
        hub.handle(stream, request, &mut sink);
        self.wants_advance.set(true);
        true
    }

    /// A Watch call has ended.
    pub fn close_watch(&self, stream: StreamId) {
        self.hub.borrow_mut().close(stream);
        self.streams.borrow_mut().0.remove(&stream);
    }

    /// Brings events to watchers. Must not be called while a connection is borrowed. True: there is more to do.
    pub fn advance_watches(&self) -> bool {
        let mut hub = self.hub.borrow_mut();
        hub.set_view(self.view(), self.shared.term());
        let streams = self.streams.borrow();
        let mut sink = ToConnections { core: self, streams: &streams, current: None };
        for _ in 0..ADVANCES_PER_TURN {
            match hub.advance(&epoch::pin(), &mut sink) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_) => self.shared.tree_damaged(),
            }
        }
        true
    }

    /// Sends progress notices that are due.
    pub fn watch_progress(&self) {
        let mut hub = self.hub.borrow_mut();
        if hub.next_timeout().is_some_and(|due| due <= now()) {
            let streams = self.streams.borrow();
            let mut sink = ToConnections { core: self, streams: &streams, current: None };
            hub.handle_timeout(now(), &mut sink);
        }
    }
}
