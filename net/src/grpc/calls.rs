//! From streams to calls: requests are put together, checked, and wait here until they may start.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::grpc::head::{Refusal, RequestHead};
use crate::grpc::keepalive::Strikes;
use crate::grpc::message::Assembly;
use crate::grpc::server::{Config, Http2, OVERHEAD_BYTES, is_single, send_refusal, send_status};
use crate::grpc::{CallId, Code, Event, Kind, Metadata, Method, Status};
use crate::h2::limits::{
    ASSEMBLY_BYTES_MAX, CONTROL_FRAMES_PAUSE, EXECUTING_MAX, OUTPUT_BYTES_MAX, WAITING_BYTES_MAX,
};
use crate::h2::{ConnectionError, ErrorCode, Received, StreamKey};
use crate::http1;

/// What is known of a call, kept with its stream.
#[derive(Debug, Default)]
pub(crate) struct CallState {
    method: Option<Method>,
    metadata: Metadata,
    deadline: Option<Duration>,
    assembly: Assembly,
    /// The message of a unary call has come; another one would be an error.
    request_done: bool,
    /// The request whose message has come but not the end of its stream.
    pending: Option<Box<Event>>,
    /// A request that is no gRPC: how it will be refused when it has ended, or what it is if plain HTTP is served.
    not_grpc: Option<Box<(Refusal, Option<http1::Request>)>>,
    /// Its answer has no body.
    pub head_only: bool,
    /// The server knows of it.
    handed: bool,
    /// It counts as executing.
    executing: bool,
    /// The response's head was sent or queued.
    pub head_sent: bool,
    /// A pulled body was queued.
    pub pulled: bool,
}

/// All calls of one connection.
#[derive(Debug)]
pub(crate) struct Calls {
    message_limit: usize,
    /// Whole requests that may not have started yet.
    requests: VecDeque<Event>,
    /// Everything else, never withheld.
    events: VecDeque<Event>,
    /// Plain HTTP requests.
    http_requests: VecDeque<(CallId, http1::Request)>,
    pub plain_http: bool,
    /// No request is a call, whatever it says of itself.
    pub no_calls: bool,
    /// Bytes of messages in both queues of events.
    waiting_bytes: usize,
    /// Bytes of messages that are not complete.
    assembly_bytes: usize,
    executing: usize,
    deadlines: BinaryHeap<Reverse<(Duration, StreamKey)>>,
    pub strikes: Strikes,
    failure_told: bool,
}

impl Calls {
    pub fn new(config: &Config) -> Calls {
        Calls {
            message_limit: config.max_request_bytes.saturating_add(OVERHEAD_BYTES),
            requests: VecDeque::new(),
            events: VecDeque::new(),
            http_requests: VecDeque::new(),
            plain_http: false,
            no_calls: false,
            waiting_bytes: 0,
            assembly_bytes: 0,
            executing: 0,
            deadlines: BinaryHeap::new(),
            strikes: Strikes::new(config.keepalive_min_time),
            failure_told: false,
        }
    }

    #[cfg(test)]
    pub fn deadlines_len(&self) -> usize {
        self.deadlines.len()
    }

    pub fn held_bytes(&self) -> usize {
        self.waiting_bytes + self.assembly_bytes
    }

    #[inline]
    pub fn handle(&mut self, now: Duration, h2: &mut Http2, received: Received<'_, RequestHead>) {
        match received {
            Received::Head { key, head, too_large, end } => {
                self.handle_head(now, h2, key, head, too_large, end)
            }
            Received::Data { key, payload, end } => self.handle_data(h2, key, payload, end),
            Received::Trailers { key, .. } => self.handle_end(h2, key),
            Received::Reset { key, .. } => self.cancel(h2, key),
            Received::Ping => {
                if !self.strikes.handle_ping(now, h2.streams_len() > 0) {
                    h2.fail(ConnectionError { code: ErrorCode::EnhanceYourCalm, reason: "too_many_pings" });
                }
            }
            Received::GoAway { .. } => {}
        }
    }

    fn handle_head(
        &mut self,
        now: Duration,
        h2: &mut Http2,
        key: StreamKey,
        mut head: RequestHead,
        too_large: bool,
        end: bool,
    ) {
        if too_large {
            let status = Status::new(Code::ResourceExhausted, "header list too large");
            return self.refuse(h2, key, 431, &status, true);
        }
        let checked = if self.no_calls { Err(Refusal::not_grpc_here()) } else { head.check() };
        let method = match checked {
            Ok(method) => method,
            // What is no gRPC at all is answered when it is complete, as an HTTP server does: then all of it has been
            // checked. A gRPC client of a stream may wait for the answer before it sends more.
            Err(refusal) if !refusal.is_grpc => {
                if let Some(state) = h2.app(key) {
                    let plain = self.plain_http.then(|| head.to_http());
                    state.not_grpc = Some(Box::new((refusal, plain)));
                }
                return if end {
                    self.handle_end(h2, key)
                };
            }
            Err(refusal) => return self.refuse(h2, key, refusal.http, &refusal.status, false),
        };
        if self.is_overrun(h2) {
            h2.reset(key, ErrorCode::RefusedStream);
            return self.release(h2, key);
        }
        let deadline = head.timeout.map(|timeout| now.saturating_add(timeout));
        let metadata = head.take_metadata();
        let Some(state) = h2.app(key) else { return };
        state.method = Some(method);
        state.deadline = deadline;
        if method.kind() == Kind::Stream {
            state.handed = true;
            h2.set_patient(key);
            self.events.push_back(Event::Open { call: CallId(key), method, metadata, deadline });
        } else {
            state.metadata = metadata;
        }
        if let Some(deadline) = deadline {
            self.remember_deadline(h2, deadline, key);
        }
        if end {
            self.handle_end(h2, key);
        }
    }

    fn refuse(&mut self, h2: &mut Http2, key: StreamKey, http: u16, status: &Status, with_body: bool) {
        self.strikes.forgive();
        send_refusal(h2, key, http, status, with_body);
        self.release(h2, key);
    }

    /// The peer takes no answers and still sends requests.
    fn is_overrun(&self, h2: &Http2) -> bool {
        self.is_withheld(h2)
            && !h2.has_output()
            && (self.waiting_bytes >= WAITING_BYTES_MAX || self.requests.len() >= EXECUTING_MAX)
    }

    #[inline]
    fn handle_data(&mut self, h2: &mut Http2, key: StreamKey, payload: &[u8], end: bool) {
        let Some(state) = h2.app(key) else { return };
        let Some(method) = state.method else {
            return if end { self.handle_end(h2, key) } else { h2.consume(key, payload.len()) };
        };
        let single = is_single(method.kind());
        let before = state.assembly.size();
        let mut input = payload;
        let mut outcome = Ok(());
        while !input.is_empty() {
            if single && state.request_done {
                outcome = Err(Status::new(Code::Internal, "more than one request message"));
                break;
            }
            match state.assembly.take(&mut input, self.message_limit) {
                Ok(Some(message)) if single => {
                    state.request_done = true;
                    self.waiting_bytes += message.len();
                    let request = Event::Request {
                        call: CallId(key),
                        method,
                        metadata: std::mem::take(&mut state.metadata),
                        deadline: state.deadline,
                        message,
                    };
                    if end && input.is_empty() {
                        self.requests.push_back(request);
                    } else {
                        state.pending = Some(Box::new(request));
                    }
                }
                Ok(Some(message)) => {
                    self.waiting_bytes += message.len();
                    self.events.push_back(Event::Message { call: CallId(key), message });
                }
                Ok(None) => break,
                Err(status) => {
                    outcome = Err(status);
                    break;
                }
            }
        }
        let after = state.assembly.size();
        self.assembly_bytes = self.assembly_bytes - before + after;
        if self.assembly_bytes > ASSEMBLY_BYTES_MAX {
            outcome = Err(Status::new(Code::ResourceExhausted, "too many incomplete requests"));
        }
        match outcome {
            Err(status) => self.abandon(h2, key, &status),
            Ok(()) => {
                if after == 0 {
                    h2.refill_small_frames(payload.len() + crate::h2::limits::SMALL_FRAME_SIZE);
                }
                if end {
                    self.handle_end(h2, key);
                } else {
                    h2.consume(key, payload.len());
                }
            }
        }
    }

    // The caller sends no more.
    fn handle_end(&mut self, h2: &mut Http2, key: StreamKey) {
        let Some(state) = h2.app(key) else { return };
        if let Some(not_grpc) = state.not_grpc.take() {
            match *not_grpc {
                (_, Some(request)) => self.http_requests.push_back((CallId(key), request)),
                (refusal, None) => self.refuse(h2, key, refusal.http, &refusal.status, true),
            }
            return;
        }
        let Some(method) = state.method else { return };
        if let Some(request) = state.pending.take() {
            return self.requests.push_back(*request);
        }
        let single = is_single(method.kind());
        if state.assembly.is_partial() || single && !state.request_done {
            return self.abandon(h2, key, &Status::new(Code::Internal, "unexpected EOF"));
        }
        if !single {
            self.events.push_back(Event::HalfClose { call: CallId(key) });
        }
    }

    /// Ends a call because of what its request is.
    fn abandon(&mut self, h2: &mut Http2, key: StreamKey, status: &Status) {
        self.strikes.forgive();
        if h2.queued_bytes(key) > 0 {
            h2.reset(key, ErrorCode::Cancel);
        } else {
            send_status(h2, key, status);
        }
        self.cancel(h2, key);
    }

    /// A call has ended on the wire before its work did. Who knows of it is told; who does not never will.
    pub fn cancel(&mut self, h2: &mut Http2, key: StreamKey) {
        let Some(state) = h2.app(key) else { return };
        self.assembly_bytes -= state.assembly.size();
        state.assembly = Assembly::default();
        if let Some(pending) = state.pending.take() {
            self.waiting_bytes -= message_size(&pending);
            self.release(h2, key);
        } else if state.handed {
            self.events.push_back(Event::Canceled { call: CallId(key) });
        } else if !state.request_done {
            self.release(h2, key);
        }
        // Else its request is still in the queue; `poll` will find it dead.
        h2.bury(key);
    }

    /// The work of a call is over.
    #[inline]
    pub fn release(&mut self, h2: &mut Http2, key: StreamKey) {
        if let Some(state) = h2.app(key) {
            if std::mem::take(&mut state.executing) {
                self.executing -= 1;
            }
            let size = state.assembly.size();
            if size > 0 {
                self.assembly_bytes -= size;
                state.assembly = Assembly::default();
            }
            state.handed = state.pulled; // a pulled body still wants to hear of a reset
            h2.release(key);
        }
    }

    /// May no further request be started?
    fn is_withheld(&self, h2: &Http2) -> bool {
        self.executing >= EXECUTING_MAX || h2.output_bytes() > OUTPUT_BYTES_MAX
    }

    pub fn wants_read(&self, h2: &Http2) -> bool {
        if h2.error().is_some() {
            return false;
        }
        if h2.control_frames_waiting() >= CONTROL_FRAMES_PAUSE || self.executing >= EXECUTING_MAX {
            return false;
        }
        let withheld = self.is_withheld(h2);
        if withheld && !h2.has_output() {
            return true; // the peer's own windows hold the answers: its WINDOW_UPDATEs must be read
        }
        let waits = withheld && !self.requests.is_empty();
        !waits && self.waiting_bytes < WAITING_BYTES_MAX
    }

    #[inline]
    pub fn poll(&mut self, h2: &mut Http2) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            self.waiting_bytes -= message_size(&event);
            return Some(event);
        }
        while !self.requests.is_empty() && !self.is_withheld(h2) {
            let event = self.requests.pop_front()?;
            self.waiting_bytes -= message_size(&event);
            let Event::Request { call: CallId(key), method, .. } = event else { continue };
            let open = h2.is_open(key);
            let Some(state) = h2.app(key) else { continue };
            if !open {
                self.release(h2, key); // canceled before it started
                continue;
            }
            state.handed = true;
            if method.kind() == Kind::Unary {
                state.executing = true;
                self.executing += 1;
            }
            return Some(event);
        }
        None
    }

    /// The next plain HTTP request.
    pub fn poll_http(&mut self, h2: &mut Http2) -> Option<(CallId, http1::Request)> {
        while let Some((call, request)) = self.http_requests.pop_front() {
            let open = h2.is_open(call.0);
            match h2.app(call.0) {
                Some(state) if open => {
                    state.head_only = request.method == http1::HttpMethod::Head;
                    return Some((call, request));
                }
                _ => self.release(h2, call.0),
            }
        }
        None
    }

    fn remember_deadline(&mut self, h2: &Http2, deadline: Duration, key: StreamKey) {
        // Calls that ended leave their deadlines behind; these go when they are the majority.
        if self.deadlines.len() > 2 * h2.streams_len() + 64 {
            self.deadlines.retain(|Reverse((_, key))| h2.is_open(*key));
        }
        self.deadlines.push(Reverse((deadline, key)));
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Calls whose deadline has passed.
    pub fn expired(&mut self, now: Duration, h2: &Http2) -> Vec<StreamKey> {
        let mut expired = Vec::new();
        while let Some(&Reverse((at, key))) = self.deadlines.peek()
            && at <= now
        {
            self.deadlines.pop();
            if h2.is_open(key) {
                expired.push(key);
            }
        }
        expired
    }

    /// After the connection has failed, tells of all its calls.
    pub fn check_failure(&mut self, h2: &mut Http2) {
        if h2.error().is_none() || std::mem::replace(&mut self.failure_told, true) {
            return;
        }
        self.deadlines.clear();
        for event in self.requests.drain(..) {
            self.waiting_bytes -= message_size(&event);
            if let Event::Request { call, .. } = event
                && let Some(state) = h2.app(call.0)
            {
                state.request_done = false; // no longer in the queue
            }
        }
        for key in h2.stream_keys() {
            self.cancel(h2, key);
        }
    }
}

fn message_size(event: &Event) -> usize {
    match event {
        Event::Request { message, .. } | Event::Message { message, .. } => message.len(),
        _ => 0,
    }
}
