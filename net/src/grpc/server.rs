//! One client connection in the server's role.

use std::time::Duration;

use crate::grpc::{Bodies, CallId, Event, Status};

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

/// A gRPC server's end of one connection, from the preface on.
///
/// Bytes go in through `handle_bytes`, then `poll_event` until it has none, then `poll_transmit` into the
/// connection's output; `handle_timeout` when `next_timeout` has come. When `is_finished`, close the socket.
#[derive(Debug)]
pub struct Server {
    _config: Config,
}

impl Server {
    /// A connection that has sent and received nothing.
    pub fn new(config: Config, now: Duration) -> Server {
        let _ = now;
        Server { _config: config }
    }

    /// Takes bytes from the peer, in any cut. What the peer did wrong shows as GOAWAY in the output and then as
    /// `is_finished`.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let _ = (now, bytes);
    }

    /// The next event, if the connection may start more work now.
    pub fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Appends frames to `out` until about `limit` bytes were added. True: more could be sent now.
    pub fn poll_transmit(
        &mut self,
        now: Duration,
        out: &mut Vec<u8>,
        limit: usize,
        bodies: &mut dyn Bodies,
    ) -> bool {
        let _ = (now, out, limit, bodies);
        false
    }

    /// Something could be transmitted now.
    pub fn has_output(&self) -> bool {
        false
    }

    /// The time of `next_timeout` has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        let _ = now;
    }

    /// When `handle_timeout` is wanted, on the clock of `now`.
    pub fn next_timeout(&self) -> Option<Duration> {
        None
    }

    /// False: stop reading the socket (back-pressure) until it is true again.
    pub fn wants_read(&self) -> bool {
        true
    }

    /// Answers a unary call: head, message, OK.
    pub fn reply<M: prost::Message>(&mut self, call: CallId, message: &M) {
        let _ = (call, message);
    }

    /// Answers a unary call with an encoded message.
    pub fn reply_raw(&mut self, call: CallId, message: &[u8]) {
        let _ = (call, message);
    }

    /// Answers a unary call with a message of `message_len` bytes that [`Bodies::fill`] will give.
    pub fn reply_pulled(&mut self, call: CallId, message_len: u64) {
        let _ = (call, message_len);
    }

    /// Sends one message of a response stream.
    pub fn send<M: prost::Message>(&mut self, call: CallId, message: &M) {
        let _ = (call, message);
    }

    /// Sends one encoded message of a response stream.
    pub fn send_raw(&mut self, call: CallId, message: &[u8]) {
        let _ = (call, message);
    }

    /// Sends one message of a response stream, its bytes to be given by [`Bodies::fill`].
    pub fn send_pulled(&mut self, call: CallId, message_len: u64) {
        let _ = (call, message_len);
    }

    /// Ends a call with a status; trailers-only if nothing was sent.
    pub fn finish(&mut self, call: CallId, status: &Status) {
        let _ = (call, status);
    }

    /// The work of a canceled call is over.
    pub fn release(&mut self, call: CallId) {
        let _ = call;
    }

    /// Bytes of this call that were not yet appended to an output, pulled ones included.
    pub fn queued_bytes(&self, call: CallId) -> usize {
        let _ = call;
        0
    }

    /// Starts a graceful end: no new calls, those under way are finished.
    pub fn shutdown(&mut self) {}

    /// Nothing more will be sent or read: close the socket.
    pub fn is_finished(&self) -> bool {
        false
    }
}
