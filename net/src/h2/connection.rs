//! The machine: what it knows, how bytes become frames, its timers and its end.
//!
//! `handle_bytes` cuts the input into frames ([`super::receive`] has a handler for each) and tells the application of
//! heads, data and resets while it still holds the bytes, so a payload is copied once: into the application's buffer.
//! Output has two parts. Control frames and short answers are encoded at once into `ready`; whatever must wait for a
//! window, or is long, is queued on its stream and scheduled by [`super::transmit`]. `ready` always leaves first and
//! whole, which also keeps header blocks in the order in which the encoder made them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::h2::PREFACE;
use crate::h2::budget::Budgets;
use crate::h2::error::{ConnectionError, ErrorCode, fatal};
use crate::h2::frame::{self, FrameHeader, HEADER_SIZE};
use crate::h2::head::{Head, Heads};
use crate::h2::hpack::encoder::{Encoder, Header, Prepared};
use crate::h2::limits::*;
use crate::h2::settings::{INITIAL_WINDOW, PeerSettings, id};
use crate::h2::stream::{Stream, StreamKey, Streams};
use crate::h2::transmit::Schedule;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes requests.
    Server,
    /// Makes them.
    Client,
}

/// What a connection is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which end.
    pub role: Role,
    /// SETTINGS_MAX_CONCURRENT_STREAMS for the peer; `u32::MAX`: not sent, [`STREAMS_OPEN_MAX`] holds.
    pub max_concurrent_streams: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE: bytes that the peer may send on a stream before they are read; [`STREAM_WINDOW`]. What
    /// peers send before they have our SETTINGS, they send into a window of 65 535 (RFC 9113 6.5.2): with a smaller one
    /// the application must see to it that they send nothing until then.
    pub stream_window: u32,
    /// Idle time after which we ping; zero: never.
    pub keepalive_interval: Duration,
    /// How long that ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// Header blocks that will be sent often, for [`Block::Prepared`](super::Block::Prepared).
    pub prepared: &'static [&'static [Header<'static>]],
}

/// What the peer did, told while `handle_bytes` runs.
#[derive(Debug)]
pub enum Received<'f, H> {
    /// A new stream (server) or the head of a response (client). `end`: nothing follows.
    Head {
        /// The stream; it stays until it is released.
        key: StreamKey,
        /// The fields.
        head: H,
        /// More or larger fields than allowed.
        too_large: bool,
        /// No data follows.
        end: bool,
    },
    /// Payload.
    Data {
        /// The stream.
        key: StreamKey,
        /// The bytes, without padding.
        payload: &'f [u8],
        /// No more follows.
        end: bool,
    },
    /// Trailers; nothing follows.
    Trailers {
        /// The stream.
        key: StreamKey,
        /// The fields.
        head: H,
    },
    /// The stream is dead: reset by the peer, or by us because the peer broke a rule.
    Reset {
        /// The stream; it stays until it is released.
        key: StreamKey,
        /// Why.
        code: ErrorCode,
    },
    /// A PING that is no ack (gRPC counts them).
    Ping,
    /// The peer wants no streams above `last` any more.
    GoAway {
        /// The last stream it will look at.
        last: u32,
        /// Why.
        code: ErrorCode,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The client's preface is not complete (server role).
    Preface,
    /// The peer's first SETTINGS has not come.
    FirstSettings,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    No,
    /// GOAWAY(2^31-1) is sent; new streams still count until `at` or the ack of our PING.
    Notice {
        at: Duration,
    },
    /// The GOAWAY with the last stream is sent; streams above it are ignored.
    Draining {
        last: u32,
    },
    Failed,
}

/// A header block whose CONTINUATION frames are still coming.
#[derive(Debug)]
pub(crate) struct PartialBlock {
    pub stream: u32,
    pub end_stream: bool,
    pub bytes: Vec<u8>,
    pub continuations: u32,
    pub deadline: Duration,
}

/// One HTTP/2 connection. `H`: what heads are decoded into; `S`: what the application keeps per stream.
#[derive(Debug)]
pub struct Connection<H, S> {
    pub(crate) config: Config,
    pub(crate) now: Duration,
    // Receiving.
    pub(crate) phase: Phase,
    input: Vec<u8>,
    pub(crate) heads: Heads<H>,
    pub(crate) block: Option<PartialBlock>,
    pub(crate) last_peer_id: u32,
    pub(crate) recv_window: i64,
    pub(crate) recv_unacked: u32,
    pub(crate) budgets: Budgets,
    pub(crate) reset_memory: VecDeque<(u32, Duration)>,
    pub(crate) streams: Streams<S>,
    pub(crate) peer: PeerSettings,
    // Sending.
    pub(crate) encoder: Encoder,
    pub(crate) prepared: Vec<Prepared>,
    pub(crate) ready: Vec<u8>,
    pub(crate) control_frames: usize,
    pub(crate) send_window: i64,
    pub(crate) schedule: Schedule,
    /// Bytes held in the queues of streams.
    pub(crate) held_bytes: usize,
    next_id: u32,
    pub(crate) peer_goaway: Option<u32>,
    // Timers and end.
    phase_deadline: Option<Duration>,
    pub(crate) settings_ack_deadline: Option<Duration>,
    last_received: Duration,
    pub(crate) ping_deadline: Option<Duration>,
    /// When the last keepalive ping went out, until it is acknowledged.
    pub(crate) ping_sent: Option<Duration>,
    pub(crate) round_trip: Option<Duration>,
    stall_check: Duration,
    pub(crate) end: End,
    error: Option<ConnectionError>,
}

/// Payload of keepalive and drain pings.
pub(crate) const PING_PAYLOAD: [u8; 8] = *b"ringping";

impl<H: Head, S: Default> Connection<H, S> {
    /// A connection whose output begins with our preface and SETTINGS.
    pub fn new(config: Config, now: Duration) -> Connection<H, S> {
        let server = config.role == Role::Server;
        let mut connection = Connection {
            phase: if server { Phase::Preface } else { Phase::FirstSettings },
            phase_deadline: Some(now + if server { PREFACE_TIME } else { FIRST_SETTINGS_TIME }),
            now,
            input: Vec::new(),
            heads: Heads::default(),
            block: None,
            last_peer_id: 0,
            recv_window: i64::from(CONNECTION_WINDOW),
            recv_unacked: 0,
            budgets: Budgets::new(now),
            reset_memory: VecDeque::new(),
            streams: Streams::new(),
            peer: PeerSettings::default(),
            encoder: Encoder::default(),
            prepared: config.prepared.iter().map(|headers| Prepared::new(headers)).collect(),
            ready: Vec::new(),
            control_frames: 0,
            send_window: i64::from(INITIAL_WINDOW),
            schedule: Schedule::default(),
            held_bytes: 0,
            next_id: 1,
            peer_goaway: None,
            settings_ack_deadline: None,
            last_received: now,
            ping_deadline: None,
            ping_sent: None,
            round_trip: None,
            stall_check: now,
            end: End::No,
            error: None,
            config,
        };
        connection.greet();
        connection
    }

    fn greet(&mut self) {
        if self.config.role == Role::Client {
            self.ready.extend_from_slice(PREFACE);
        }
        let mut entries = vec![
            (id::HEADER_TABLE_SIZE, HEADER_TABLE_SIZE as u32),
            (id::ENABLE_PUSH, 0),
            (id::INITIAL_WINDOW_SIZE, self.config.stream_window),
            (id::MAX_FRAME_SIZE, FRAME_SIZE_MAX as u32),
            (id::MAX_HEADER_LIST_SIZE, HEADER_LIST_SIZE_MAX as u32),
        ];
        if self.config.role == Role::Server && self.config.max_concurrent_streams != u32::MAX {
            entries.push((id::MAX_CONCURRENT_STREAMS, self.config.max_concurrent_streams));
        }
        frame::settings(&mut self.ready, &entries);
        frame::window_update(&mut self.ready, 0, CONNECTION_WINDOW - INITIAL_WINDOW);
    }

    /// Takes bytes from the peer, in any cut, and tells `on` what they say. After a connection error the rest is
    /// ignored.
    pub fn handle_bytes(
        &mut self,
        now: Duration,
        bytes: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) {
        self.now = now;
        self.last_received = now;
        if self.error.is_some() || bytes.is_empty() {
            return;
        }
        if let Err(error) = self.take(bytes, on) {
            self.fail(error);
        }
    }

    fn take(
        &mut self,
        mut bytes: &[u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Result<(), ConnectionError> {
        if self.phase == Phase::Preface {
            bytes = self.take_preface(bytes)?;
            if self.phase == Phase::Preface {
                return Ok(());
            }
        }
        if !self.input.is_empty() {
            bytes = self.complete_frame(bytes, on)?;
        }
        while let Some(header) = bytes.first_chunk::<HEADER_SIZE>() {
            let header = FrameHeader::decode(header)?;
            let Some((payload, rest)) = bytes[HEADER_SIZE..].split_at_checked(header.length) else { break };
            self.handle_frame(header, payload, on)?;
            if self.end == End::Failed {
                return Ok(()); // the application has had enough
            }
            bytes = rest;
        }
        // A cut frame waits. Its buffer grows by what has come, not by what its header promises.
        self.input.extend_from_slice(bytes);
        Ok(())
    }

    fn take_preface<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8], ConnectionError> {
        let (taken, rest) = bytes.split_at(bytes.len().min(PREFACE.len() - self.input.len()));
        self.input.extend_from_slice(taken);
        if !PREFACE.starts_with(&self.input) {
            return fatal(ErrorCode::Protocol, "no HTTP/2 preface");
        }
        if self.input.len() == PREFACE.len() {
            self.input.clear();
            self.phase = Phase::FirstSettings;
            self.phase_deadline = Some(self.now + FIRST_SETTINGS_TIME);
        }
        Ok(rest)
    }

    // Adds to the frame that was cut at the end of the last input until it is whole, then handles it.
    fn complete_frame<'b>(
        &mut self,
        mut bytes: &'b [u8],
        on: &mut impl FnMut(&mut Self, Received<'_, H>),
    ) -> Result<&'b [u8], ConnectionError> {
        loop {
            let header = self.input.first_chunk().map(FrameHeader::decode).transpose()?;
            let want = HEADER_SIZE + header.map_or(0, |h| h.length);
            let (taken, rest) = bytes.split_at(bytes.len().min(want - self.input.len()));
            self.input.extend_from_slice(taken);
            bytes = rest;
            if self.input.len() < want {
                return Ok(bytes);
            }
            if let Some(header) = header {
                let whole = std::mem::take(&mut self.input);
                self.handle_frame(header, &whole[HEADER_SIZE..], on)?;
                return Ok(bytes);
            }
        }
    }

    pub(crate) fn first_settings_came(&mut self) {
        self.phase = Phase::Open;
        self.phase_deadline = None;
    }

    /// Counts one more frame in `ready` that the peer made us send.
    pub(crate) fn count_control(&mut self) -> Result<(), ConnectionError> {
        self.control_frames += 1;
        if self.control_frames > CONTROL_FRAMES_MAX {
            return fatal(ErrorCode::EnhanceYourCalm, "too many control frames waiting");
        }
        Ok(())
    }

    /// Ends the connection with a GOAWAY that says why. What was queued on streams is dropped.
    pub fn fail(&mut self, error: ConnectionError) {
        if self.error.is_some() {
            return;
        }
        self.error = Some(error);
        self.end = End::Failed;
        frame::goaway(&mut self.ready, self.last_peer_id, error.code, error.reason);
        self.input = Vec::new();
        self.block = None;
        self.kill_streams();
    }

    /// The transport is gone: nothing will be sent or received any more.
    pub fn close(&mut self) {
        self.end = End::Failed;
        self.error.get_or_insert(ConnectionError { code: ErrorCode::NoError, reason: "connection closed" });
        self.ready = Vec::new();
        self.kill_streams();
    }

    fn kill_streams(&mut self) {
        let keys: Vec<StreamKey> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.kill(key);
        }
    }

    /// Why the connection failed, if it did.
    pub fn error(&self) -> Option<ConnectionError> {
        self.error
    }

    /// The peer has sent GOAWAY.
    pub fn peer_is_going_away(&self) -> bool {
        self.peer_goaway.is_some()
    }

    /// All streams, dead ones included that are not released yet.
    pub fn stream_keys(&self) -> Vec<StreamKey> {
        self.streams.iter().map(|(key, _)| key).collect()
    }

    /// Streams that are not released or still open on the wire.
    pub fn streams_len(&self) -> usize {
        self.streams.len()
    }

    /// Nothing will be sent any more and nothing that is received matters.
    pub fn is_finished(&self) -> bool {
        let drained = matches!(self.end, End::Draining { .. }) && self.streams.len() == 0;
        (self.end == End::Failed || drained) && self.ready.is_empty()
    }

    /// Starts a graceful end (RFC 9113 6.8): GOAWAY(2^31-1) and a PING, whose ack (or a quarter of a second) tells that the
    /// client knows; then the GOAWAY with the last stream.
    pub fn shutdown(&mut self) {
        if self.end == End::No {
            self.end = End::Notice { at: self.now + DRAIN_NOTICE_TIME };
            frame::goaway(&mut self.ready, i32::MAX as u32, ErrorCode::NoError, "");
            frame::ping(&mut self.ready, false, PING_PAYLOAD);
        }
    }

    pub(crate) fn shutdown_was_noticed(&mut self) {
        if let End::Notice { .. } = self.end {
            self.end = End::Draining { last: self.last_peer_id };
            frame::goaway(&mut self.ready, self.last_peer_id, ErrorCode::NoError, "");
        }
    }

    /// Opens a stream (client role). `None`: the peer allows no more, or the connection ends.
    pub fn open(&mut self) -> Option<StreamKey> {
        assert_eq!(self.config.role, Role::Client, "only clients open streams");
        let allowed = (self.peer.max_concurrent_streams as usize).min(STREAMS_OPEN_MAX);
        let refused = self.end != End::No || self.peer_goaway.is_some() || self.next_id > i32::MAX as u32;
        if refused || self.streams.len() >= allowed {
            return None;
        }
        let key = self.streams.insert(self.next_id, i64::from(self.config.stream_window), self.now);
        self.next_id += 2;
        Some(key)
    }

    /// Has this id never been used (RFC 9113 5.1, "idle")?
    pub(crate) fn is_idle(&self, id: u32) -> bool {
        let ours = (id % 2 == 1) == (self.config.role == Role::Client);
        if ours { id >= self.next_id } else { id > self.last_peer_id }
    }

    pub(crate) fn remember_reset(&mut self, id: u32) {
        if self.reset_memory.len() == RESET_MEMORY_MAX {
            self.reset_memory.pop_front();
        }
        self.reset_memory.push_back((id, self.now));
    }

    /// Did we reset this stream so recently that the peer may not know it yet?
    pub(crate) fn was_reset_by_us(&mut self, id: u32) -> bool {
        let forget = self.now.saturating_sub(RESET_MEMORY_TIME);
        while self.reset_memory.front().is_some_and(|&(_, at)| at < forget) {
            self.reset_memory.pop_front();
        }
        self.config.role == Role::Client || self.reset_memory.iter().any(|&(reset, _)| reset == id)
    }

    /// What the application keeps for a stream.
    #[inline]
    pub fn app(&mut self, key: StreamKey) -> Option<&mut S> {
        self.streams.get_mut(key).map(|s| &mut s.app)
    }

    /// Can anything still be sent on this stream?
    pub fn is_open(&self, key: StreamKey) -> bool {
        self.streams.get(key).is_some_and(|s| s.send_open)
    }

    /// Lets a stream be blocked for any time.
    pub fn set_patient(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.patient = true;
        }
    }

    /// The application has no more use for the stream.
    pub fn release(&mut self, key: StreamKey) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.held = false;
            if stream.is_dead() {
                self.streams.remove(key);
            }
        }
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        if self.end == End::Failed {
            return None;
        }
        let notice = if let End::Notice { at } = self.end { Some(at) } else { None };
        let ping = match self.ping_deadline {
            None if self.config.keepalive_interval > Duration::ZERO && self.phase == Phase::Open => {
                Some(self.last_received + self.config.keepalive_interval)
            }
            deadline => deadline,
        };
        let stall = (self.schedule.streams > 0).then_some(self.stall_check + STALL_CHECK_PERIOD);
        let block = self.block.as_ref().map(|b| b.deadline);
        [self.phase_deadline, self.settings_ack_deadline, notice, ping, stall, block]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time of `next_timeout` has come (being called too early or too late does no harm).
    pub fn handle_timeout(&mut self, now: Duration, on: &mut impl FnMut(&mut Self, Received<'_, H>)) {
        self.now = now;
        let due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if self.end == End::Failed {
            return;
        }
        if due(self.phase_deadline) {
            return self.fail(ConnectionError {
                code: ErrorCode::Protocol,
                reason: "no preface and SETTINGS in time",
            });
        }
        if due(self.settings_ack_deadline) {
            let reason = "SETTINGS not acknowledged in time";
            return self.fail(ConnectionError { code: ErrorCode::SettingsTimeout, reason });
        }
        if due(self.block.as_ref().map(|b| b.deadline)) {
            let reason = "header block not complete in time";
            return self.fail(ConnectionError { code: ErrorCode::EnhanceYourCalm, reason });
        }
        if let End::Notice { at } = self.end
            && at <= now
        {
            self.shutdown_was_noticed();
        }
        self.check_keepalive();
        if self.schedule.streams > 0 && now >= self.stall_check + STALL_CHECK_PERIOD {
            self.check_stalls(on);
        }
    }

    fn check_keepalive(&mut self) {
        let interval = self.config.keepalive_interval;
        if interval == Duration::ZERO || self.phase != Phase::Open {
            return;
        }
        if self.ping_deadline.is_some_and(|at| at <= self.now) {
            // RFC 9113 has no word for it: the peer is not there, so it will not read a GOAWAY either.
            return self.close();
        }
        if self.ping_deadline.is_none() && self.now >= self.last_received + interval {
            frame::ping(&mut self.ready, false, PING_PAYLOAD);
            self.ping_deadline = Some(self.now + self.config.keepalive_timeout);
            self.ping_sent = Some(self.now);
        }
    }

    // A stream whose output did not move for a minute is reset, so that what it pins can be freed.
    fn check_stalls(&mut self, on: &mut impl FnMut(&mut Self, Received<'_, H>)) {
        self.stall_check = self.now;
        let limit = self.now.saturating_sub(STALL_TIME);
        let is_stalled =
            |s: &Stream<S>| !s.queue.is_empty() && !s.patient && s.progress <= limit && s.send_open;
        let stalled: Vec<StreamKey> =
            self.streams.iter().filter(|(_, s)| is_stalled(s)).map(|(key, _)| key).collect();
        for key in stalled {
            self.reset(key, ErrorCode::Cancel);
            on(self, Received::Reset { key, code: ErrorCode::Cancel });
            self.bury(key);
        }
    }

    /// From the last keepalive ping to its acknowledgement, once for each.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.round_trip.take()
    }

    pub(crate) fn ping_was_acknowledged(&mut self) {
        self.round_trip = self.ping_sent.take().map(|sent| self.now.saturating_sub(sent)).or(self.round_trip);
    }

    /// Any sign of life ends the wait for a keepalive answer.
    pub(crate) fn peer_is_alive(&mut self) {
        self.ping_deadline = None;
    }

    pub(crate) fn begin_stall_checks(&mut self) {
        if self.schedule.streams == 0 {
            self.stall_check = self.now;
        }
    }
}
