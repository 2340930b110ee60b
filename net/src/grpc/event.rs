//! What a connection tells the server, and what it asks of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::grpc::{Method, Status};
use crate::h2::StreamKey;

/// A call of one connection. Never reused on that connection, so a late answer can only miss, never hit another call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(pub(crate) StreamKey);

impl CallId {
    /// The id as one number, for a ring or a map key.
    pub fn to_u64(self) -> u64 {
        self.0.to_u64()
    }

    /// Undoes [`CallId::to_u64`]. A number that was never a call of this connection names no call: answers to it are
    /// ignored.
    pub fn from_u64(number: u64) -> CallId {
        CallId(StreamKey::from_u64(number))
    }
}

/// The request fields that the server reads (etcd-defined metadata); all others are checked, counted and dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `token`, or else `authorization`, without a leading `Bearer `. A secret: never to be logged.
    pub token: Option<Arc<str>>,
    /// `hasleader: true` was given: fail at once while there is no leader.
    pub has_leader: bool,
    /// `client-api-version`, for a metric.
    pub client_api_version: Option<Arc<str>>,
    /// `grpcgateway-accept` was given: a client certificate's name must not be used as identity.
    pub gateway: bool,
}

/// What a connection has for the server. Each call begins with `Request` or `Open`.
///
/// Every call that was handed out must be ended once by the server, with a `reply…`, `finish` or
/// [`release`](super::Server::release), also after `Canceled`: until then its work counts against the connection
/// (that is the defence against rapid resets).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole call whose request is one message (unary and server-streaming methods).
    Request {
        /// The call.
        call: CallId,
        /// What is asked.
        method: Method,
        /// The typed request fields.
        metadata: Metadata,
        /// When the caller stops waiting, on the clock of `now`. The connection answers by itself when it comes.
        deadline: Option<Duration>,
        /// The encoded request.
        message: Bytes,
    },
    /// A call of a bidirectional method has begun; its messages follow.
    Open {
        /// The call.
        call: CallId,
        /// What is asked.
        method: Method,
        /// The typed request fields.
        metadata: Metadata,
        /// When the caller stops waiting, on the clock of `now`.
        deadline: Option<Duration>,
    },
    /// One more request message.
    Message {
        /// The call.
        call: CallId,
        /// The encoded message.
        message: Bytes,
    },
    /// The caller sends no more messages; it may still wait for answers.
    HalfClose {
        /// The call.
        call: CallId,
    },
    /// The caller is gone (reset, deadline, connection lost) or an answer could not be delivered. Drop the work, then
    /// `release` the call; answers to it are ignored.
    Canceled {
        /// The call.
        call: CallId,
    },
}

/// Answers whose bytes are not held by the connection but pulled as the peer's window admits.
pub trait Bodies {
    /// Appends at most `max` (> 0) bytes of the body of `call` to `out`: the next ones after those of the last call.
    fn fill(&mut self, call: CallId, max: usize, out: &mut Vec<u8>) -> Fill;
}

/// No call of this connection has a pulled body.
impl Bodies for () {
    fn fill(&mut self, _: CallId, _: usize, _: &mut Vec<u8>) -> Fill {
        Fill::Abort(Status::new(crate::grpc::Code::Internal, "no body"))
    }
}

/// What [`Bodies::fill`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// This many bytes; there are more. Zero: nothing at hand now, ask again on the next `poll_transmit`.
    Wrote(usize),
    /// This many bytes, and with them the announced length is complete.
    Done(usize),
    /// The body cannot be completed. The client sees this status if no byte of the message has left yet, else a
    /// reset stream.
    Abort(Status),
}
