//! One client connection in the server's role.
//!
//! [`Server`] joins two halves that borrow apart: the HTTP/2 machine, and `Calls`, which turns what that machine
//! receives into events. A unary call becomes an event only when its request is complete, so a half-sent request costs
//! its bytes and nothing else.

use std::borrow::Cow;
use std::time::Duration;

use crate::grpc::calls::{CallState, Calls};
use crate::grpc::head::RequestHead;
use crate::grpc::message::{PREFIX_SIZE, prefix};
use crate::grpc::{Bodies, CallId, Code, Event, Fill, Kind, Status, percent_encode};
use crate::h2::{
    self, Block, Connection, ConnectionError, ErrorCode, Header, Indexing, OwnedHeader, Pull, Pulled, Role,
    StreamKey,
};
use crate::http1;

/// Limits and times of a connection. `Default` gives etcd's defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Largest request message, in bytes, before the 512 KiB that etcd adds for the gRPC receive limit.
    pub max_request_bytes: usize,
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub max_concurrent_streams: u32,
    /// Pings of a client closer than this are strikes (`--grpc-keepalive-min-time`).
    pub keepalive_min_time: Duration,
    /// Idle time after which the server pings (`--grpc-keepalive-interval`); zero: never.
    pub keepalive_interval: Duration,
    /// How long that ping may stay unanswered (`--grpc-keepalive-timeout`).
    pub keepalive_timeout: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            keepalive_min_time: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// What etcd adds to `--max-request-bytes` for the gRPC receive limit (`grpcOverheadBytes`).
pub const OVERHEAD_BYTES: usize = 512 * 1024;

pub(crate) type Http2 = Connection<RequestHead, CallState>;

const RESPONSE_HEAD: usize = 0;
const TRAILERS_OK: usize = 1;
static PREPARED: [&[Header<'static>]; 2] = [
    &[Header::new(b":status", b"200"), Header::new(b"content-type", b"application/grpc")],
    &[Header::new(b"grpc-status", b"0")],
];

/// A gRPC server's end of one connection, from the preface on.
///
/// Bytes go in through `handle_bytes`, then `poll_event` until it has none, then `poll_transmit` into the
/// connection's output; `handle_timeout` when `next_timeout` has come. When `is_finished`, close the socket.
#[derive(Debug)]
pub struct Server {
    h2: Http2,
    calls: Calls,
}

impl Server {
    /// A connection that has received nothing; its output begins with SETTINGS.
    pub fn new(config: Config, now: Duration) -> Server {
        let http2 = h2::Config {
            role: Role::Server,
            max_concurrent_streams: config.max_concurrent_streams,
            stream_window: h2::limits::STREAM_WINDOW,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            prepared: &PREPARED,
        };
        Server { h2: Connection::new(http2, now), calls: Calls::new(&config) }
    }

    /// Takes bytes from the peer, in any cut. What the peer did wrong shows as GOAWAY in the output and then as
    /// `is_finished`.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let Server { h2, calls } = self;
        h2.handle_bytes(now, bytes, &mut |h2, received| calls.handle(now, h2, received));
        calls.check_failure(h2);
    }

    /// The next event, if the connection may start more work now.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.calls.poll(&mut self.h2)
    }

    /// From now on requests that are no gRPC come out of [`Server::poll_http`] (etcd under TLS, where ALPN leads browsers
    /// and curl to HTTP/2); else they are refused with 415 or 405 (etcd without TLS).
    pub fn serve_plain_http(&mut self) {
        self.calls.plain_http = true;
    }

    /// From now on all requests come out of [`Server::poll_http`], also those that look like gRPC: this connection is one
    /// for pages alone.
    pub fn serve_only_plain_http(&mut self) {
        self.calls.plain_http = true;
        self.calls.no_calls = true;
    }

    /// The next plain HTTP request (after `serve_plain_http`), to be answered with `respond_http` (or `release`). Its body
    /// was read and dropped.
    pub fn poll_http(&mut self) -> Option<(CallId, http1::Request)> {
        self.calls.poll_http(&mut self.h2)
    }

    /// Answers a plain HTTP request. `headers` come on top of `content-type` and `content-length`.
    pub fn respond_http(
        &mut self,
        call: CallId,
        status: u16,
        content_type: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let Some(state) = self.h2.app(call.0) else { return };
        let bodiless = state.head_only || body.is_empty();
        let field = |name: &str, value: String| -> OwnedHeader {
            (name.to_ascii_lowercase().into(), value.into(), Indexing::Without)
        };
        let mut fields = vec![field(":status", status.to_string())];
        if !content_type.is_empty() {
            fields.push(field("content-type", content_type.into()));
        }
        fields
            .extend(headers.iter().map(|(name, value)| field(name, value.replace(['\r', '\n', '\0'], " "))));
        if status != 204 && status != 304 {
            fields.push(field("content-length", body.len().to_string()));
        }
        self.calls.strikes.forgive();
        self.h2.send_block(call.0, Block::Fields(fields), bodiless);
        if !bodiless {
            self.h2.send_data(call.0, true, |out| out.extend_from_slice(body));
        }
        self.calls.release(&mut self.h2, call.0);
    }

    /// Appends frames to `out` until about `limit` bytes were added: what is ready leaves whole, then short answers, then
    /// one DATA frame per stream with bulk data in turn. True: more could be sent now.
    pub fn poll_transmit(
        &mut self,
        now: Duration,
        out: &mut Vec<u8>,
        limit: usize,
        bodies: &mut dyn Bodies,
    ) -> bool {
        let sent_before = self.h2.data_frames_sent();
        let mut puller = Puller { bodies, aborted: Vec::new(), reason: None };
        let mut more = self.h2.poll_transmit(now, out, limit, &mut puller);
        if self.h2.data_frames_sent() > sent_before {
            self.calls.strikes.forgive();
        }
        for (key, status) in puller.aborted {
            self.calls.strikes.forgive();
            more = true;
            match status {
                Some(status) => send_status(&mut self.h2, key, &status),
                None => self.calls.cancel(&mut self.h2, key),
            }
        }
        more
    }

    /// Something could be transmitted now (a body may turn out to have nothing at hand).
    pub fn has_output(&self) -> bool {
        self.h2.has_output()
    }

    /// The time of `next_timeout` has come (being called too early or too late does no harm).
    pub fn handle_timeout(&mut self, now: Duration) {
        let Server { h2, calls } = self;
        h2.handle_timeout(now, &mut |h2, received| calls.handle(now, h2, received));
        calls.check_failure(h2);
        for key in calls.expired(now, h2) {
            self.expire(key);
        }
    }

    /// When `handle_timeout` is wanted, on the clock of `now`.
    pub fn next_timeout(&self) -> Option<Duration> {
        [self.h2.next_timeout(), self.calls.next_deadline()].into_iter().flatten().min()
    }

    // The caller's deadline has passed: it is told so, its work is dropped.
    fn expire(&mut self, key: StreamKey) {
        if self.h2.queued_bytes(key) > 0 {
            self.h2.reset(key, ErrorCode::Cancel); // in the midst of a message no status can be sent
        } else {
            send_status(&mut self.h2, key, &Status::new(Code::DeadlineExceeded, "context deadline exceeded"));
        }
        self.calls.cancel(&mut self.h2, key);
    }

    /// False: stop reading the socket (back-pressure) until it is true again.
    pub fn wants_read(&self) -> bool {
        self.calls.wants_read(&self.h2)
    }

    /// Answers a unary call: head, message, OK.
    #[inline]
    pub fn reply<M: prost::Message>(&mut self, call: CallId, message: &M) {
        self.send(call, message);
        self.end_ok(call);
    }

    /// Answers a unary call with an encoded message.
    pub fn reply_raw(&mut self, call: CallId, message: &[u8]) {
        self.send_raw(call, message);
        self.end_ok(call);
    }

    /// Answers a unary call with a message of `message_len` bytes that [`Bodies::fill`] will give.
    pub fn reply_pulled(&mut self, call: CallId, message_len: u64) {
        self.send_pulled(call, message_len);
        self.end_ok(call);
    }

    /// Sends one message of a response stream.
    #[inline]
    pub fn send<M: prost::Message>(&mut self, call: CallId, message: &M) {
        self.begin(call);
        self.h2.send_data(call.0, false, |out| {
            let at = out.len();
            out.extend_from_slice(&[0; PREFIX_SIZE]);
            message.encode(out).expect("a Vec has room");
            let length = out.len() - at - PREFIX_SIZE;
            out[at..at + PREFIX_SIZE].copy_from_slice(&prefix(length));
        });
    }

    /// Sends one encoded message of a response stream.
    pub fn send_raw(&mut self, call: CallId, message: &[u8]) {
        self.begin(call);
        self.h2.send_data(call.0, false, |out| {
            out.extend_from_slice(&prefix(message.len()));
            out.extend_from_slice(message);
        });
    }

    /// Sends one message of a response stream, its bytes to be given by [`Bodies::fill`]. If several are queued on a
    /// call, `fill` is asked for them one after the other.
    pub fn send_pulled(&mut self, call: CallId, message_len: u64) {
        self.begin(call);
        if let Some(state) = self.h2.app(call.0) {
            state.pulled = true;
        }
        let length = usize::try_from(message_len).expect("64-bit");
        self.h2.send_pulled(call.0, prefix(length), message_len);
    }

    /// Ends a call with a status; trailers-only if nothing was sent.
    pub fn finish(&mut self, call: CallId, status: &Status) {
        self.calls.strikes.forgive();
        if status.code == Code::Ok && status.message.is_empty() {
            self.begin(call);
            return self.end_ok(call);
        }
        send_status(&mut self.h2, call.0, status);
        self.calls.release(&mut self.h2, call.0);
    }

    /// The work of a canceled call is over. For a call that still runs: the same as resetting it.
    pub fn release(&mut self, call: CallId) {
        self.h2.reset(call.0, ErrorCode::Cancel);
        self.calls.release(&mut self.h2, call.0);
    }

    /// Bytes of this call that were not yet appended to an output, pulled ones included.
    pub fn queued_bytes(&self, call: CallId) -> usize {
        usize::try_from(self.h2.queued_bytes(call.0)).expect("64-bit")
    }

    /// Calls that are open or not yet released, for metrics and tests.
    pub fn open_calls(&self) -> usize {
        self.h2.streams_len()
    }

    #[cfg(test)]
    pub(crate) fn deadlines_len(&self) -> usize {
        self.calls.deadlines_len()
    }

    /// Bytes of memory that requests and answers hold here, for metrics and process-wide budgets.
    pub fn held_bytes(&self) -> usize {
        self.h2.output_bytes() + self.calls.held_bytes()
    }

    /// Starts a graceful end: no new calls, those under way are finished.
    pub fn shutdown(&mut self) {
        self.h2.shutdown();
    }

    /// The transport is gone (end of stream, error): all calls are canceled, nothing is sent any more.
    pub fn close(&mut self) {
        self.h2.close();
        self.calls.check_failure(&mut self.h2);
    }

    /// Nothing more will be sent or read: close the socket.
    pub fn is_finished(&self) -> bool {
        self.h2.is_finished()
    }

    /// Why the connection failed, if it did. For the log.
    pub fn error(&self) -> Option<ConnectionError> {
        self.h2.error()
    }

    // Sends the response's head unless it was sent.
    #[inline]
    fn begin(&mut self, call: CallId) {
        self.calls.strikes.forgive();
        if let Some(state) = self.h2.app(call.0)
            && !std::mem::replace(&mut state.head_sent, true)
        {
            self.h2.send_block(call.0, Block::Prepared(RESPONSE_HEAD), false);
        }
    }

    #[inline]
    fn end_ok(&mut self, call: CallId) {
        self.h2.send_block(call.0, Block::Prepared(TRAILERS_OK), true);
        self.calls.release(&mut self.h2, call.0);
    }
}

/// Ends a call on the wire with a status that is not a plain OK.
pub(crate) fn send_status(h2: &mut Http2, key: StreamKey, status: &Status) {
    let head_sent = h2.app(key).is_some_and(|state| state.head_sent);
    let mut fields = if head_sent { Vec::new() } else { head_fields("200".into()) };
    push_status(&mut fields, status);
    h2.send_block(key, Block::Fields(fields), true);
}

/// Ends a call that never was one, with an HTTP status of its own. With a body for those who speak no gRPC.
pub(crate) fn send_refusal(h2: &mut Http2, key: StreamKey, http: u16, status: &Status, with_body: bool) {
    let mut fields = head_fields(http.to_string().into());
    push_status(&mut fields, status);
    if status.code == Code::Unimplemented {
        fields.push(("grpc-accept-encoding".into(), "identity".into(), Indexing::Without));
    }
    h2.send_block(key, Block::Fields(fields), !with_body);
    if with_body {
        h2.send_data(key, true, |out| out.extend_from_slice(status.message.as_bytes()));
    }
}

fn head_fields(http: Cow<'static, str>) -> Vec<OwnedHeader> {
    vec![
        (":status".into(), http, Indexing::Without),
        ("content-type".into(), "application/grpc".into(), Indexing::Incremental),
    ]
}

fn push_status(fields: &mut Vec<OwnedHeader>, status: &Status) {
    fields.push(("grpc-status".into(), status.code.wire().into(), Indexing::Without));
    if !status.message.is_empty() {
        let message = percent_encode(&status.message).into_owned();
        fields.push(("grpc-message".into(), message.into(), Indexing::Without));
    }
}

/// Is the request of this kind of method one message?
pub(crate) fn is_single(kind: Kind) -> bool {
    kind != Kind::Stream
}

/// Hands the machine's questions for bytes to the owner of the bodies.
struct Puller<'b> {
    bodies: &'b mut dyn Bodies,
    /// Calls whose body broke off; with the status to be sent where that is possible.
    aborted: Vec<(StreamKey, Option<Status>)>,
    reason: Option<Status>,
}

impl Pull for Puller<'_> {
    fn pull(&mut self, key: StreamKey, max: usize, out: &mut Vec<u8>) -> Pulled {
        let before = out.len();
        match self.bodies.fill(CallId(key), max, out) {
            Fill::Wrote(size) => {
                assert_eq!(size, out.len() - before, "a body said otherwise than it did");
                Pulled::Some
            }
            Fill::Done(size) => {
                assert_eq!(size, out.len() - before, "a body said otherwise than it did");
                Pulled::Done
            }
            Fill::Abort(status) => {
                self.reason = Some(status);
                Pulled::Abort
            }
        }
    }

    fn aborted(&mut self, key: StreamKey, untouched: bool) {
        let short = || Status::new(Code::Internal, "the body ended too early");
        let reason = self.reason.take().unwrap_or_else(short);
        self.aborted.push((key, untouched.then_some(reason)));
    }
}
