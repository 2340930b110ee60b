//! The accepting end of a connection: a lane, or GET requests.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::peer::{Decoder, Frame};
use net::h2::{self, Connection, ConnectionError, ErrorCode, Indexing, Received, Role, StreamKey, limits};

use super::dialed::Nothing;
use super::hello::{self, Hello, Refusal, RequestHead};
use super::{Dropped, LaneConfig, frame_bytes_max};
use consensus::NodeId;

/// Requests and lanes open at once on one connection.
const STREAMS_MAX: u32 = 16;

/// What an accepted connection has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptedEvent {
    /// A peer wants a lane; its ids are right. To be answered with [`Accepted::accept`].
    Hello(Hello),
    /// A frame of the lane.
    Frame(Frame),
    /// A request that is none for a lane: method and path. To be answered with [`Accepted::respond`].
    Page(PageKey, String, String),
    /// The connection is broken, and why; nothing follows.
    Closed(&'static str),
}

/// Names a request for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageKey(StreamKey);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Asked(StreamKey),
    Open(StreamKey),
    Closed,
}

type Http2 = Connection<RequestHead, ()>;

/// The accepting end of one HTTP/2 connection.
#[derive(Debug)]
pub struct Accepted {
    h2: Http2,
    lane: Lane,
    config: LaneConfig,
}

/// What the callbacks of the connection change.
#[derive(Debug)]
struct Lane {
    cluster_id: u64,
    member: NodeId,
    server_version: &'static str,
    phase: Phase,
    frames: Decoder,
    events: VecDeque<AcceptedEvent>,
}

impl Accepted {
    /// A connection that has received nothing, at this member of this cluster, whose server is of this version.
    pub fn new(
        (cluster_id, member): (u64, NodeId),
        server_version: &'static str,
        config: LaneConfig,
        now: Duration,
    ) -> Accepted {
        let h2 = Http2::new(
            h2::Config {
                role: Role::Server,
                max_concurrent_streams: STREAMS_MAX,
                stream_window: config.stream_window,
                // The other end pings when it is idle; silence of a whole read timeout is its death.
                keepalive_interval: config.read_timeout,
                keepalive_timeout: config.read_timeout / 4,
                prepared: &[],
            },
            now,
        );
        let (frames, events) = (Decoder::new(0), VecDeque::new());
        let lane = Lane { cluster_id, member, server_version, phase: Phase::Waiting, frames, events };
        Accepted { h2, lane, config }
    }

    /// Takes bytes from the peer.
    pub fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        let Accepted { h2, lane, .. } = self;
        h2.handle_bytes(now, bytes, &mut |h2, received| lane.handle(h2, received));
        self.check_failure();
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<AcceptedEvent> {
        self.lane.events.pop_front()
    }

    /// Answers the last [`AcceptedEvent::Hello`].
    pub fn accept(&mut self, lane: consensus::Lane, verdict: Result<(), Refusal>) {
        let Phase::Asked(key) = self.lane.phase else { return };
        match verdict {
            Ok(()) => {
                let block = self.lane.answer(200);
                self.h2.send_block(key, block, false);
                self.h2.set_patient(key);
                self.lane.frames = Decoder::new(frame_bytes_max(lane));
                self.lane.phase = Phase::Open(key);
            }
            Err(refusal) => {
                self.lane.phase = Phase::Waiting;
                self.lane.refuse(&mut self.h2, key, refusal);
            }
        }
    }

    /// Sends a frame that `write` appends, of about `size` bytes, to the dialing end.
    ///
    /// # Errors
    /// It was dropped.
    pub fn send_frame(&mut self, size: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Dropped> {
        let Phase::Open(key) = self.lane.phase else { return Err(Dropped::NotOpen) };
        let waiting = self.h2.output_bytes();
        if waiting > 0 && waiting + size > self.config.send_bytes_limit {
            return Err(Dropped::Full);
        }
        self.h2.send_data(key, false, write);
        Ok(())
    }

    /// Answers a request for a page.
    pub fn respond(&mut self, key: PageKey, page: &super::pages::Page) {
        let text = |value: &str| value.to_owned().into();
        let fields = vec![
            (":status".into(), page.status.to_string().into(), Indexing::Never),
            ("content-type".into(), page.content_type.into(), Indexing::Never),
            ("content-length".into(), page.body.len().to_string().into(), Indexing::Never),
            ("x-etcd-cluster-id".into(), text(&format!("{:x}", self.lane.cluster_id)), Indexing::Never),
        ];
        self.h2.send_block(key.0, h2::Block::Fields(fields), false);
        self.h2.send_data(key.0, true, |out| out.extend_from_slice(&page.body));
        self.h2.release(key.0);
    }

    /// Appends bytes for the socket until about `limit` were added. True: more could be sent now.
    pub fn poll_transmit(&mut self, now: Duration, out: &mut Vec<u8>, limit: usize) -> bool {
        self.h2.poll_transmit(now, out, limit, &mut Nothing)
    }

    /// Something could be sent now.
    pub fn has_output(&self) -> bool {
        self.h2.has_output()
    }

    /// False: what the peer makes us answer is not being read by it; stop reading.
    pub fn wants_read(&self) -> bool {
        self.h2.control_frames_waiting() < limits::CONTROL_FRAMES_PAUSE
    }

    /// When `handle_timeout` is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        self.h2.next_timeout()
    }

    /// The time of `next_timeout` has come (at any other it does no harm).
    pub fn handle_timeout(&mut self, now: Duration) {
        let Accepted { h2, lane, .. } = self;
        h2.handle_timeout(now, &mut |h2, received| lane.handle(h2, received));
        self.check_failure();
    }

    /// Nothing more will be heard, and all output was taken.
    pub fn is_finished(&self) -> bool {
        self.lane.phase == Phase::Closed && !self.h2.has_output()
    }

    fn check_failure(&mut self) {
        if let Some(error) = self.h2.error() {
            let silent = error.code == ErrorCode::NoError;
            self.lane.close(if silent { "the peer was silent for too long" } else { error.reason });
        }
    }
}

impl Lane {
    fn close(&mut self, reason: &'static str) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.events.push_back(AcceptedEvent::Closed(reason));
        }
    }

    fn answer(&self, status: u16) -> h2::Block {
        hello::answer(status, self.cluster_id, self.member, self.server_version)
    }

    fn refuse(&mut self, h2: &mut Http2, key: StreamKey, refusal: Refusal) {
        let (status, text) = refusal.answer();
        h2.send_block(key, self.answer(status), false);
        h2.send_data(key, true, |out| {
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        });
        h2.release(key);
    }

    fn handle(&mut self, h2: &mut Http2, received: Received<'_, RequestHead>) {
        match received {
            Received::Head { key, head, too_large, .. } => self.handle_request(h2, key, &head, too_large),
            Received::Data { key, payload, end } => {
                if self.phase == Phase::Open(key) {
                    self.handle_data(h2, payload);
                    h2.refill_small_frames(payload.len() + limits::SMALL_FRAME_SIZE);
                } else if self.phase == Phase::Asked(key) {
                    return self.fail(h2, "frames before the answer");
                }
                h2.consume(key, payload.len());
                if end && self.phase == Phase::Open(key) {
                    self.close("the peer has ended the lane");
                }
            }
            Received::Trailers { key, .. } | Received::Reset { key, .. } => {
                if matches!(self.phase, Phase::Open(open) | Phase::Asked(open) if open == key) {
                    self.close("the peer has ended the lane");
                }
                h2.release(key);
            }
            Received::GoAway { .. } => self.close("the peer is going away"),
            Received::Ping => {}
        }
    }

    fn handle_request(&mut self, h2: &mut Http2, key: StreamKey, head: &RequestHead, too_large: bool) {
        let asked = match Hello::of_request(head) {
            _ if too_large => Err(Refusal::Request),
            None => {
                let (method, path) = (head.method.clone(), head.path.clone());
                return self.events.push_back(AcceptedEvent::Page(PageKey(key), method, path));
            }
            Some(asked) => asked,
        };
        let checked = asked.and_then(|hello| hello.check(self.cluster_id, self.member).map(|()| hello));
        match checked {
            Ok(hello) if self.phase == Phase::Waiting => {
                self.phase = Phase::Asked(key);
                self.events.push_back(AcceptedEvent::Hello(hello));
            }
            Ok(_) => self.refuse(h2, key, Refusal::Request),
            Err(refusal) => self.refuse(h2, key, refusal),
        }
    }

    fn fail(&mut self, h2: &mut Http2, reason: &'static str) {
        self.close(reason);
        h2.fail(ConnectionError { code: ErrorCode::Protocol, reason });
    }

    fn handle_data(&mut self, h2: &mut Http2, mut payload: &[u8]) {
        loop {
            match self.frames.next(&mut payload) {
                Ok(Some(frame)) => self.events.push_back(AcceptedEvent::Frame(frame)),
                Ok(None) => return,
                Err(_) => return self.fail(h2, "a broken frame"),
            }
        }
    }
}
