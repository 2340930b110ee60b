//! Watch streams of clients, from their opening to their end.

use bytes::Bytes;
use net::pb::etcdserverpb as pb;
use pb::watch_request::RequestUnion;
use prost::Message;

use super::{Done, World};
use crate::check::fail;
use crate::env::{Event, Request, RequestBody};
use crate::plan::Op;
use crate::queue::Time;
use crate::watcher::message;

impl World {
    pub(super) fn watch_op(&mut self, op: &Op) {
        if self.healed || !self.open_stream(op.client) {
            return;
        }
        let newest = self.env.oracle.model.revision;
        let Some((stream, _)) = self.watchers[op.client].stream else { return };
        let open = self.env.oracle.watches.ids(stream);
        if let Some(union) = self.watchers[op.client].request(op, &self.plan.config, &open, newest) {
            self.send_watch(op.client, union);
        }
    }

    /// Makes sure that a client has a stream, and asks again for what the last one had.
    pub(super) fn open_stream(&mut self, client: usize) -> bool {
        if self.watchers[client].stream.is_some() {
            return true;
        }
        let to = self.watchers[client].member;
        if self.hosts[to].member.as_ref().is_none_or(|member| !member.serves_writes()) {
            self.watchers[client].member = (to + 1) % self.hosts.len();
            return false;
        }
        self.streams += 1;
        let (stream, life) = (self.streams, self.hosts[to].life);
        self.watchers[client].stream = Some((stream, life));
        self.stream_owner.insert(stream, client);
        self.env.open_stream(stream, (to, life));
        self.to_member(client, RequestBody::OpenWatch(stream));
        for create in std::mem::take(&mut self.watchers[client].resume) {
            self.send_watch(client, RequestUnion::CreateRequest(create));
        }
        true
    }

    fn send_watch(&mut self, client: usize, union: RequestUnion) {
        let Some((stream, _)) = self.watchers[client].stream else { return };
        if let RequestUnion::CreateRequest(create) = &union {
            self.env.oracle.watches.ask(stream, create.clone());
        }
        self.to_member(client, RequestBody::Watch(stream, message(union)));
    }

    /// In order: a stream's messages take equally long.
    fn to_member(&mut self, client: usize, body: RequestBody) {
        let Some((_, life)) = self.watchers[client].stream else { return };
        let request = Request { to: (self.watchers[client].member, life), body };
        self.streams_order(request);
    }

    fn streams_order(&mut self, request: Request) {
        // Events of one moment are in no order, so each message of a stream has a moment of its own.
        let at = self.env.queue.now() + self.plan.config.latency.0 + self.next_moment();
        self.env.queue.at(at, Event::Request(Box::new(request)));
    }

    fn next_moment(&mut self) -> Time {
        self.ops += 1;
        self.ops
    }

    pub(super) fn break_stream(&mut self, client: usize) {
        let Some((stream, _)) = self.watchers[client].stream.take() else { return };
        self.env.close_stream(stream);
        self.stream_owner.remove(&stream);
        let mut resume = self.env.oracle.watches.close(stream);
        self.watchers[client].resume.append(&mut resume);
    }

    pub(super) fn watch_message(&mut self, stream: u64, message: &Bytes) -> Done {
        let Some(from) = self.env.delivered(stream, message.len()) else { return Ok(()) };
        let Ok(response) = pb::WatchResponse::decode(message.clone()) else {
            return fail("watch", "a WatchResponse is not one");
        };
        self.env.trace(stream << 32 | message.len() as u64);
        let model = &self.env.oracle.model;
        self.env.oracle.watches.response(model, stream, response)?;
        let host = &mut self.hosts[from.0];
        if let (Some(member), true) = (&mut host.member, host.life == from.1) {
            member.stream_has_room(&mut self.env);
        }
        Ok(())
    }
}
