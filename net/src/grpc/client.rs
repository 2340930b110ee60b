//! A connection in the client's role: for peers, tests and load.
//!
//! The peer is a server that we chose, so there is less suspicion here; all limits of the machine below hold all the
//! same.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::grpc::message::{Assembly, prefix};
use crate::grpc::{CallId, Code, Method, Status, percent_decode, timeout};
use crate::h2::field::Field;
use crate::h2::{
    self, Block, Connection, ConnectionError, ErrorCode, Head, Indexing, OwnedHeader, Pull, Pulled, Received,
    Role, StreamKey,
};

/// Limits and names of a client connection.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// `:scheme`
    pub scheme: &'static str,
    /// `:authority`
    pub authority: String,
    /// The largest message taken, in bytes.
    pub max_message_bytes: usize,
    /// Bytes of a call's answers that the server may send before they are read.
    pub stream_window: u32,
    /// Idle time after which we ping; zero: never.
    pub keepalive_interval: Duration,
    /// How long that ping may stay unanswered.
    pub keepalive_timeout: Duration,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            scheme: "http",
            authority: "localhost".into(),
            max_message_bytes: i32::MAX as usize,
            stream_window: h2::limits::STREAM_WINDOW,
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// What a client connection has for its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// One answer.
    Message {
        /// The call.
        call: CallId,
        /// The encoded message.
        message: Bytes,
    },
    /// The call is over; nothing follows.
    Closed {
        /// The call.
        call: CallId,
        /// How it ended.
        status: Status,
    },
}

/// The fields of a response, or its trailers.
#[derive(Clone, Debug, Default)]
struct ResponseHead {
    http: u16,
    status: Option<Code>,
    message: String,
}

impl Head for ResponseHead {
    fn field(&mut self, field: Field, _: &[u8], value: &[u8]) {
        match field {
            Field::Status => {
                self.http = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok()).unwrap_or(0);
            }
            Field::GrpcStatus => self.status = Some(Code::from_wire(value)),
            Field::GrpcMessage => self.message = percent_decode(value),
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
struct CallState {
    assembly: Assembly,
    closed: bool,
}

type Http2 = Connection<ResponseHead, CallState>;

/// A gRPC client's end of one connection.
#[derive(Debug)]
pub struct Client {
    h2: Http2,
    config: ClientConfig,
    answers: Answers,
}

#[derive(Debug)]
struct Answers {
    events: VecDeque<ClientEvent>,
    max_message_bytes: usize,
    failure_told: bool,
}

impl Client {
    /// A connection that has sent and received nothing; its output begins with the preface.
    pub fn new(config: ClientConfig, now: Duration) -> Client {
        let http2 = h2::Config {
            role: Role::Client,
            max_concurrent_streams: 0,
            stream_window: config.stream_window,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            prepared: &[],
        };
        let answers = Answers {
            events: VecDeque::new(),
            max_message_bytes: config.max_message_bytes,
            failure_told: false,
        };
        Client { h2: Connection::new(http2, now), config, answers }
    }

    /// Begins a call. `None`: the server allows no more calls now, or the connection ends.
    pub fn open(
        &mut self,
        method: Method,
        metadata: &[OwnedHeader],
        timeout: Option<Duration>,
    ) -> Option<CallId> {
        let key = self.h2.open()?;
        let indexed = |name: &'static str, value| (name.into(), value, Indexing::Incremental);
        let mut fields: Vec<OwnedHeader> = vec![
            indexed(":method", "POST".into()),
            indexed(":scheme", self.config.scheme.into()),
            indexed(":path", method.path().into()),
            indexed(":authority", self.config.authority.clone().into()),
            indexed("te", "trailers".into()),
            indexed("content-type", "application/grpc".into()),
        ];
        if let Some(timeout) = timeout {
            fields.push(("grpc-timeout".into(), timeout::encode(timeout).into(), Indexing::Without));
        }
        fields.extend_from_slice(metadata);
        self.h2.send_block(key, Block::Fields(fields), false);
        Some(CallId(key))
    }

    /// A whole call with one request message.
    pub fn call(&mut self, method: Method, message: &[u8]) -> Option<CallId> {
        let call = self.open(method, &[], None)?;
        self.send_last(call, message);
        Some(call)
    }

    /// Sends one message.
    pub fn send(&mut self, call: CallId, message: &[u8]) {
        self.h2.send_data(call.0, false, |out| write(out, message));
    }

    /// Sends the last message of the call.
    pub fn send_last(&mut self, call: CallId, message: &[u8]) {
        self.h2.send_data(call.0, true, |out| write(out, message));
    }

    /// Says that no more messages follow.
    pub fn half_close(&mut self, call: CallId) {
        self.h2.send_end(call.0);
    }

    /// Gives up a call; no event of it follows.
    pub fn cancel(&mut self, call: CallId) {
        if let Some(state) = self.h2.app(call.0) {
            state.closed = true;
        }
        self.h2.reset(call.0, ErrorCode::Cancel);
        self.h2.release(call.0);
    }

    /// Takes bytes from the server.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let Client { h2, answers, .. } = self;
        h2.handle_bytes(now, bytes, &mut |h2, received| answers.handle(h2, received));
        answers.check_failure(h2);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.answers.events.pop_front()
    }

    /// Appends frames to `out` until about `limit` bytes were added. True: more could be sent now.
    pub fn poll_transmit(&mut self, now: Duration, out: &mut Vec<u8>, limit: usize) -> bool {
        self.h2.poll_transmit(now, out, limit, &mut Nothing)
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.h2.next_timeout()
    }

    /// The time of `next_timeout` has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        let Client { h2, answers, .. } = self;
        h2.handle_timeout(now, &mut |h2, received| answers.handle(h2, received));
        answers.check_failure(h2);
    }

    /// The transport is gone: all calls end with UNAVAILABLE.
    pub fn close(&mut self) {
        self.h2.close();
        self.answers.check_failure(&mut self.h2);
    }

    /// Calls under way.
    pub fn open_calls(&self) -> usize {
        self.h2.streams_len()
    }

    /// Nothing more will be sent or read.
    pub fn is_finished(&self) -> bool {
        self.h2.is_finished()
    }

    /// The server wants no more calls on this connection.
    pub fn is_draining(&self) -> bool {
        self.h2.peer_is_going_away()
    }

    /// Why the connection failed, if it did.
    pub fn error(&self) -> Option<ConnectionError> {
        self.h2.error()
    }
}

fn write(out: &mut Vec<u8>, message: &[u8]) {
    out.extend_from_slice(&prefix(message.len()));
    out.extend_from_slice(message);
}

impl Answers {
    fn handle(&mut self, h2: &mut Http2, received: Received<'_, ResponseHead>) {
        match received {
            Received::Head { key, head, end, .. } => {
                if end || head.status.is_some() {
                    self.close(h2, key, status_of(&head));
                } else if head.http != 200 {
                    let reason = format!("unexpected HTTP status code {}", head.http);
                    self.close(h2, key, Status::new(Code::Unknown, reason));
                }
            }
            Received::Data { key, payload, end } => self.handle_data(h2, key, payload, end),
            Received::Trailers { key, head } => {
                let partial = h2.app(key).is_some_and(|state| state.assembly.is_partial());
                let status = status_of(&head);
                let cut = partial && status.code == Code::Ok;
                let status = if cut { Status::new(Code::Internal, "unexpected EOF") } else { status };
                self.close(h2, key, status);
            }
            Received::Reset { key, code } => self.close(h2, key, status_of_reset(code)),
            Received::GoAway { last, .. } => self.refuse_above(h2, last),
            Received::Ping => {}
        }
    }

    fn handle_data(&mut self, h2: &mut Http2, key: StreamKey, payload: &[u8], end: bool) {
        let Some(state) = h2.app(key) else { return };
        let mut input = payload;
        let mut outcome = Ok(());
        while !input.is_empty() {
            match state.assembly.take(&mut input, self.max_message_bytes) {
                Ok(Some(message)) => {
                    self.events.push_back(ClientEvent::Message { call: CallId(key), message })
                }
                Ok(None) => break,
                Err(status) => {
                    outcome = Err(status);
                    break;
                }
            }
        }
        h2.refill_small_frames(payload.len() + h2::limits::SMALL_FRAME_SIZE);
        h2.consume(key, payload.len());
        match outcome {
            Err(status) => self.close(h2, key, status),
            Ok(()) if end => {
                self.close(
                    h2,
                    key,
                    Status::new(Code::Internal, "server closed the stream without sending trailers"),
                );
            }
            Ok(()) => {}
        }
    }

    fn close(&mut self, h2: &mut Http2, key: StreamKey, status: Status) {
        let Some(state) = h2.app(key) else { return };
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        self.events.push_back(ClientEvent::Closed { call: CallId(key), status });
        h2.reset(key, ErrorCode::Cancel); // only if something of it is still open
        h2.release(key);
    }

    fn refuse_above(&mut self, h2: &mut Http2, last: u32) {
        for key in h2.stream_keys() {
            if key.id() > last {
                self.close(h2, key, Status::new(Code::Unavailable, "the server is going away"));
            }
        }
    }

    fn check_failure(&mut self, h2: &mut Http2) {
        let Some(error) = h2.error() else { return };
        if !std::mem::replace(&mut self.failure_told, true) {
            for key in h2.stream_keys() {
                self.close(h2, key, Status::new(Code::Unavailable, error.reason));
            }
        }
    }
}

fn status_of(head: &ResponseHead) -> Status {
    match head.status {
        Some(code) => Status::new(code, head.message.clone()),
        None => Status::new(Code::Unknown, format!("no grpc-status, HTTP status {}", head.http)),
    }
}

// gRPC over HTTP/2, "Errors": how RST_STREAM codes become statuses.
fn status_of_reset(code: ErrorCode) -> Status {
    let status = match code {
        ErrorCode::RefusedStream => Code::Unavailable,
        ErrorCode::Cancel => Code::Canceled,
        ErrorCode::EnhanceYourCalm => Code::ResourceExhausted,
        ErrorCode::InadequateSecurity => Code::PermissionDenied,
        _ => Code::Internal,
    };
    Status::new(status, format!("stream terminated by RST_STREAM with error code: {code:?}"))
}

/// A client's messages are never pulled.
struct Nothing;

impl Pull for Nothing {
    fn pull(&mut self, _: StreamKey, _: usize, _: &mut Vec<u8>) -> Pulled {
        Pulled::Abort
    }
    fn aborted(&mut self, _: StreamKey, _: bool) {}
}
