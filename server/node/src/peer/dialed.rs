//! The dialing end of a lane: asks, waits for the answer, then sends.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::PeerMessage;
use consensus::peer::{self, Decoder, Frame};
use net::h2::{
    self, Connection, ConnectionError, ErrorCode, Pull, Pulled, Received, Role, StreamKey, limits,
};

use super::hello::{AnswerHead, Hello, Refusal};
use super::{Dropped, LaneConfig, frame_bytes_max};

/// Bytes of a refusal's text that are looked at.
const REFUSAL_BYTES_MAX: usize = 256;

/// What a dialed connection has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialedEvent {
    /// The peer has checked us, and we it: messages go out.
    Open,
    /// It won't have us; the connection ends.
    Refused(Refusal),
    /// A frame of the peer's.
    Frame(Frame),
    /// The connection is broken, and why; nothing follows.
    Closed(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asked,
    Open,
    /// The answer was no; its text is coming.
    Refused(u16, bool),
    Closed,
}

type Http2 = Connection<AnswerHead, ()>;

/// The dialing end of one connection.
#[derive(Debug)]
pub struct Dialed {
    h2: Http2,
    key: Option<StreamKey>,
    lane: Peer,
    config: LaneConfig,
    answer_due: Duration,
}

/// What the callbacks of the connection change.
#[derive(Debug)]
struct Peer {
    hello: Hello,
    phase: Phase,
    server_version: Option<String>,
    text: Vec<u8>,
    frames: Decoder,
    events: VecDeque<DialedEvent>,
}

impl Dialed {
    /// A connection that has sent and received nothing; its output begins with the question.
    pub fn new(hello: Hello, config: LaneConfig, now: Duration) -> Dialed {
        let mut h2 = Http2::new(
            h2::Config {
                role: Role::Client,
                max_concurrent_streams: 0,
                stream_window: config.stream_window,
                keepalive_interval: config.read_timeout / 3,
                keepalive_timeout: config.read_timeout - config.read_timeout / 3,
                prepared: &[],
            },
            now,
        );
        let key = h2.open();
        if let Some(key) = key {
            h2.send_block(key, hello.request(), false);
            h2.set_patient(key);
        }
        let frames = Decoder::new(frame_bytes_max(hello.lane));
        let (text, events) = (Vec::new(), VecDeque::new());
        let lane = Peer { hello, phase: Phase::Asked, server_version: None, text, frames, events };
        Dialed { h2, key, lane, config, answer_due: now + config.read_timeout }
    }

    /// Who and what for.
    pub fn hello(&self) -> &Hello {
        &self.lane.hello
    }

    /// What the peer has said its server is, from [`DialedEvent::Open`] on.
    pub fn server_version(&self) -> Option<&str> {
        self.lane.server_version.as_deref()
    }

    /// Takes bytes from the peer.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let Dialed { h2, lane, .. } = self;
        h2.handle_bytes(now, bytes, &mut |h2, received| lane.handle(h2, received));
        self.check_failure();
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<DialedEvent> {
        self.lane.events.pop_front()
    }

    /// Sends `message`, which belongs to this lane.
    ///
    /// # Errors
    /// It was dropped.
    pub fn send(&mut self, message: &PeerMessage) -> Result<(), Dropped> {
        self.send_frame(peer::encoded_bytes_max(message), |out| peer::encode(message, out))
    }

    /// Sends a frame that `write` appends, of about `size` bytes.
    ///
    /// # Errors
    /// It was dropped.
    pub fn send_frame(&mut self, size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Dropped> {
        let (Phase::Open, Some(key)) = (self.lane.phase, self.key) else { return Err(Dropped::NotOpen) };
        let waiting = self.waiting_bytes();
        if waiting > 0 && waiting + size > self.config.send_bytes_limit {
            return Err(Dropped::Full);
        }
        self.h2.send_data(key, false, write);
        Ok(())
    }

    /// Bytes that wait for the socket or for the peer's windows.
    pub fn waiting_bytes(&self) -> usize {
        self.h2.output_bytes()
    }

    /// From the last PING to its acknowledgement, once for each. There is one per third of the read timeout in which the
    /// peer has said nothing, so on a lane that is not answered about one per third.
    pub fn take_round_trip(&mut self) -> Option<Duration> {
        self.h2.take_round_trip()
    }

    /// Messages go out.
    pub fn is_open(&self) -> bool {
        self.lane.phase == Phase::Open
    }

    /// Appends bytes for the socket until about `limit` were added. True: more could be sent now.
    pub fn poll_transmit(&mut self, now: Duration, out: &mut Vec<u8>, limit: usize) -> bool {
        self.h2.poll_transmit(now, out, limit, &mut Nothing)
    }

    /// Something could be sent now.
    pub fn has_output(&self) -> bool {
        self.h2.has_output()
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        let answer = (self.lane.phase == Phase::Asked).then_some(self.answer_due);
        [self.h2.next_timeout(), answer].into_iter().flatten().min()
    }

    /// The time of `next_timeout` has come (at any other it does no harm).
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.lane.phase == Phase::Asked && now >= self.answer_due {
            return self.lane.close("no answer in time");
        }
        let Dialed { h2, lane, .. } = self;
        h2.handle_timeout(now, &mut |h2, received| lane.handle(h2, received));
        self.check_failure();
    }

    /// Nothing more will be sent or heard.
    pub fn is_finished(&self) -> bool {
        self.lane.phase == Phase::Closed
    }

    fn check_failure(&mut self) {
        if let Some(error) = self.h2.error() {
            let silent = error.code == ErrorCode::NoError;
            self.lane.close(if silent { "the peer was silent for too long" } else { error.reason });
        }
    }
}

impl Peer {
    fn close(&mut self, reason: &'static str) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.events.push_back(DialedEvent::Closed(reason));
        }
    }

    fn handle(&mut self, h2: &mut Http2, received: Received<'_, AnswerHead>) {
        match received {
            Received::Head { key, head, end, .. } => self.handle_answer(h2, key, &head, end),
            Received::Data { key, payload, end } => {
                self.handle_data(h2, payload);
                h2.consume(key, payload.len());
                h2.refill_small_frames(payload.len() + limits::SMALL_FRAME_SIZE);
                if end {
                    self.handle_end();
                }
            }
            Received::Trailers { .. } => self.handle_end(),
            Received::Reset { .. } => self.close("the peer has reset the lane"),
            Received::GoAway { .. } => self.close("the peer is going away"),
            Received::Ping => {}
        }
    }

    fn handle_answer(&mut self, h2: &mut Http2, _: StreamKey, head: &AnswerHead, end: bool) {
        let cluster_is_ours = head.cluster == Some(self.hello.cluster_id);
        if head.status == 200 {
            if !cluster_is_ours {
                self.refused(Refusal::Cluster);
            } else if head.from != Some(self.hello.to.0) {
                self.refused(Refusal::Member);
            } else if end {
                self.close("the peer has ended the lane");
            } else {
                self.phase = Phase::Open;
                self.server_version = head.server_version.clone();
                self.events.push_back(DialedEvent::Open);
                return;
            }
            h2.fail(ConnectionError { code: ErrorCode::Cancel, reason: "not the member that was meant" });
        } else {
            self.phase = Phase::Refused(head.status, cluster_is_ours);
            if end {
                self.handle_end();
            }
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        self.phase = Phase::Closed;
        self.events.push_back(DialedEvent::Refused(refusal));
    }

    fn handle_end(&mut self) {
        match self.phase {
            Phase::Refused(status, ours) => self.refused(Refusal::of_answer(status, &self.text, ours)),
            _ => self.close("the peer has ended the lane"),
        }
    }

    fn handle_data(&mut self, h2: &mut Http2, mut payload: &[u8]) {
        match self.phase {
            Phase::Refused(..) => {
                let room = REFUSAL_BYTES_MAX.saturating_sub(self.text.len());
                self.text.extend_from_slice(&payload[..payload.len().min(room)]);
            }
            Phase::Open => loop {
                match self.frames.next(&mut payload) {
                    Ok(Some(frame)) => self.events.push_back(DialedEvent::Frame(frame)),
                    Ok(None) => return,
                    Err(_) => {
                        let reason = "a broken frame";
                        self.close(reason);
                        return h2.fail(ConnectionError { code: ErrorCode::Protocol, reason });
                    }
                }
            },
            Phase::Asked | Phase::Closed => {}
        }
    }
}

/// Bodies are never pulled here.
pub(super) struct Nothing;

impl Pull for Nothing {
    fn pull(&mut self, _: StreamKey, _: usize, _: &mut Vec<u8>) -> Pulled {
        Pulled::Abort
    }

    fn aborted(&mut self, _: StreamKey, _: bool) {}
}
