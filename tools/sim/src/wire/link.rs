//! One HTTP/2 connection between two members: production's machines at both ends ([`Dialed`], [`Accepted`]), and what becomes of
//! the bytes between them.
//!
//! Bytes are cut anywhere. The connection breaks at any of them, and then each end learns that it is over, some time later. A bit
//! that turns over in the payload of a DATA frame must have been noticed by the end of the peer frame it belongs to; one in the
//! nine bytes before the payload ends the connection sooner or later, or says nothing (reserved bits, flags that mean nothing).
//! Neither ever changes, doubles or skips a message. What turns over is never such a bit of a frame's type that it becomes one
//! that nobody knows, for RFC 9113 (4.1) wants those ignored; nor is it in a hello or in frames that only keep windows and time:
//! TCP's checksum is all that protects these.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use consensus::peer::Frame;
use consensus::{Lane, PeerMessage};
use net::h2::PREFACE;
use net::h2::frame::{FrameHeader, HEADER_SIZE, kind};
use node::peer::snapshot::SnapshotFrame;
use node::peer::{Accepted, AcceptedEvent, Dialed, DialedEvent, Dropped, Hello, LaneConfig, Refusal};

use super::cuts;
use crate::check::{Failure, fail};
use crate::env::NodeNumber;
use crate::member::{CLUSTER, SERVER_VERSION, node_id, peer_url};
use crate::queue::Time;
use crate::rng::Rng;

/// Bytes taken from a machine at a time, as by the server's edge.
const OUTPUT_BYTES: usize = 128 << 10;

/// Output up to so many bytes is sometimes cut into single bytes.
const CUT_SINGLY_MAX: usize = 300;

/// Ways for a connection to end that are nobody's mistake.
const GOOD_REASONS: [&str; 8] = [
    "no answer in time",
    "no preface and SETTINGS in time",
    "SETTINGS not acknowledged in time",
    "header block not complete in time",
    "the peer was silent for too long",
    "the peer has reset the lane",
    "the peer is going away",
    "the peer has ended the lane",
];

/// Who has dialed whom for what. The number is no other connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Who has dialed, in which life.
    pub from: (NodeNumber, u32),
    /// Whom.
    pub to: NodeNumber,
    /// For what.
    pub lane: Lane,
    /// Counts from 1.
    pub number: u64,
}

/// Bytes under way.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// On which connection.
    pub name: Name,
    /// To the end that has dialed.
    pub back: bool,
    bytes: Bytes,
    /// With them end so many bytes of DATA, from the connection's beginning.
    payload: u64,
    /// Behind them the connection is over.
    last: bool,
}

impl Chunk {
    /// Where they arrive.
    pub fn to(&self) -> NodeNumber {
        if self.back { self.name.from.0 } else { self.name.to }
    }
}

/// What a connection tells.
#[derive(Debug)]
pub enum Came {
    /// At the accepting end: somebody wants to be let in.
    Hello(Hello),
    /// At the accepting end: a message of a standing lane.
    Message(Box<PeerMessage>),
    /// At the accepting end: of a snapshot.
    Forth(SnapshotFrame),
    /// At the dialing end: of a snapshot.
    Back(SnapshotFrame),
    /// At the dialing end: it is let in.
    Open,
    /// At the dialing end: it is not.
    Refused(Refusal),
    /// At the dialing end: the connection is over.
    Over,
}

/// A bit that turns over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// In a peer frame that ends with this byte of DATA.
    Frame { end: u64 },
    /// In what HTTP/2 puts before DATA.
    Header,
}

/// The accepting end.
enum Accepting {
    /// Nothing has arrived.
    NotYet,
    /// In this life of the member.
    Here(u32, Box<Accepted>),
    Gone,
}

/// See the module's header.
pub(crate) struct Link {
    pub name: Name,
    config: LaneConfig,
    dialed: Option<Box<Dialed>>,
    accepting: Accepting,
    /// Forth and back: nothing more is sent, and the last bytes are still to be.
    ending: [bool; 2],
    /// They were.
    ended: [bool; 2],
    /// What has arrived and is not read, because the accepting end wants its answers to be read first.
    unread: VecDeque<Chunk>,
    /// Frames on their way: with which byte of DATA they end, and the messages among them.
    sent: VecDeque<(u64, Option<Box<PeerMessage>>)>,
    /// Bytes of DATA that were put in, and that have left.
    data: (u64, u64),
    damage: Option<Damage>,
    noticed: bool,
    /// The dialing end has been told that it is over.
    is_over_told: bool,
    /// The accepting end has closed it.
    is_accepted_closed: bool,
    /// The machine of the accepting end has lost power, and nothing has arrived there since.
    pub is_silent: bool,
    came: VecDeque<Came>,
    /// When the last bytes arrive, forth and back.
    pub last: [Time; 2],
    /// Since when something could not be delivered, or its delivery not be confirmed.
    pub stuck: Option<Time>,
    pub dialed_at: Time,
    /// It was let in.
    pub was_open: bool,
}

impl Link {
    pub fn dial(name: Name, config: LaneConfig, now: Time) -> Link {
        let hello = Hello {
            lane: name.lane,
            cluster_id: CLUSTER,
            from: node_id(name.from.0),
            to: node_id(name.to),
            peer_urls: vec![peer_url(name.from.0)],
            server_version: Some(SERVER_VERSION.to_owned()),
        };
        Link {
            name,
            config,
            dialed: Some(Box::new(Dialed::new(hello, config, Duration::from_nanos(now)))),
            accepting: Accepting::NotYet,
            ending: [false; 2],
            ended: [false; 2],
            unread: VecDeque::new(),
            sent: VecDeque::new(),
            data: (0, 0),
            damage: None,
            noticed: false,
            is_over_told: false,
            is_accepted_closed: false,
            is_silent: false,
            came: VecDeque::new(),
            last: [0; 2],
            stuck: None,
            dialed_at: now,
            was_open: false,
        }
    }

    /// Nobody is there any more at either end.
    pub fn is_over(&self) -> bool {
        self.dialed.is_none() && !matches!(self.accepting, Accepting::Here(..))
    }

    /// Pretends that this was sent.
    #[cfg(test)]
    pub fn expect_instead(&mut self, message: PeerMessage) {
        self.sent[0].1 = Some(Box::new(message));
    }

    /// What it tells next.
    pub fn next(&mut self) -> Option<Came> {
        self.came.pop_front()
    }

    /// A damaged bit was noticed; told once.
    pub fn take_noticed(&mut self) -> bool {
        std::mem::take(&mut self.noticed)
    }

    // What the ends want to say.

    /// Sends a message of its lane.
    pub fn send(&mut self, message: &PeerMessage) -> Result<(), Dropped> {
        let kept = Box::new(message.clone());
        self.put(consensus::peer::encoded_bytes_max(message), Some(kept), |out| {
            consensus::peer::encode(message, out);
        })
    }

    /// Sends a frame of a snapshot, or of an answer to it.
    pub fn send_frame(&mut self, back: bool, frame: &SnapshotFrame) -> Result<(), Dropped> {
        match (&mut self.accepting, back) {
            (_, false) => self.put(frame.size(), None, |out| frame.encode(out)),
            (Accepting::Here(_, accepted), true) => {
                accepted.send_frame(frame.size(), |out| frame.encode(out))
            }
            (_, true) => Err(Dropped::NotOpen),
        }
    }

    fn put(
        &mut self,
        size: usize,
        message: Option<Box<PeerMessage>>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Dropped> {
        let Some(dialed) = &mut self.dialed else { return Err(Dropped::NotOpen) };
        let mut written = 0;
        dialed.send_frame(size, |out| {
            let before = out.len();
            write(out);
            written = out.len() - before;
        })?;
        self.data.0 += written as u64;
        self.sent.push_back((self.data.0, message));
        Ok(())
    }

    /// Answers the hello.
    pub fn answer(&mut self, lane: Lane, verdict: Result<(), Refusal>) {
        if let Accepting::Here(_, accepted) = &mut self.accepting {
            accepted.accept(lane, verdict);
        }
    }

    // How it ends.

    /// The process that has dialed is gone, or gives it up: the other end hears of it if `says`.
    pub fn hang_up(&mut self, says: bool) {
        self.dialed = None;
        self.ended[0] |= !says;
        self.ending[0] = true;
    }

    /// The process that has accepted is gone, or ends it: the other end hears of it if `says`.
    pub fn drop_accepted(&mut self, says: bool) {
        self.accepting = Accepting::Gone;
        self.unread.clear();
        self.is_silent = !says;
        self.ended[1] |= !says;
        self.ending[1] = true;
    }

    // Bytes.

    /// Something is to leave, forth or back.
    pub fn has_output(&self, back: bool) -> bool {
        let ends = self.ending[usize::from(back)] && !self.ended[usize::from(back)];
        let machine = match (&self.accepting, back) {
            (_, false) => self.dialed.as_ref().is_some_and(|dialed| dialed.has_output()),
            (Accepting::Here(_, accepted), true) => accepted.has_output(),
            (_, true) => false,
        };
        !self.ended[usize::from(back)] && (ends || machine)
    }

    /// What leaves now, forth or back. With it the connection breaks in `resets` of 1000 cases, and a bit turns over in `flips`.
    pub fn transmit(
        &mut self,
        now: Time,
        back: bool,
        (resets, flips): (usize, usize),
        rng: &mut Rng,
    ) -> Result<Vec<Chunk>, Failure> {
        let way = usize::from(back);
        if !self.has_output(back) {
            return Ok(Vec::new());
        }
        let mut out = self.output(Duration::from_nanos(now), back);
        let frames = frames(&out);
        if !back && flips > 0 && self.damage.is_none() && rng.permille(flips) {
            self.damage = self.turn_a_bit(&mut out, &frames, rng);
        }
        let whole = out.len();
        if whole > 0 && resets > 0 && rng.permille(resets) {
            out.truncate(rng.below(whole));
            self.break_off(rng.permille(500));
            self.ending[way] = true;
        }
        let last = self.ending[way];
        self.ended[way] |= last;
        let chunks = self.chunks(back, out, &frames, last, rng);
        match (last, back) {
            (true, false) => self.lost_after_output(),
            (true, true) if self.is_accepted_closed => self.accepting = Accepting::Gone,
            (false, true) => self.read(Duration::from_nanos(now))?, // there may be room again
            (false, false) | (true, true) => {}
        }
        Ok(chunks)
    }

    /// The dialing end has closed it itself.
    fn lost_after_output(&mut self) {
        if self.is_over_told {
            self.dialed = None;
        }
    }

    fn output(&mut self, now: Duration, back: bool) -> Vec<u8> {
        let mut out = Vec::new();
        match (&mut self.accepting, back) {
            (_, false) => {
                while self.dialed.as_mut().is_some_and(|end| end.poll_transmit(now, &mut out, OUTPUT_BYTES)) {
                }
            }
            (Accepting::Here(_, end), true) => while end.poll_transmit(now, &mut out, OUTPUT_BYTES) {},
            (_, true) => {}
        }
        out
    }

    /// The connection is lost; each end hears of it behind what is under way, if that is not lost, too.
    fn break_off(&mut self, loses_more: bool) {
        self.ending = [true; 2];
        if loses_more {
            self.drop_accepted(true);
        }
    }

    /// Cut anywhere.
    fn chunks(
        &mut self,
        back: bool,
        out: Vec<u8>,
        frames: &[(usize, FrameHeader)],
        last: bool,
        rng: &mut Rng,
    ) -> Vec<Chunk> {
        let (size, bytes, before) = (out.len(), Bytes::from(out), self.data.1);
        let data = |to: usize| {
            let whole = frames.iter().filter(|(at, frame)| at + HEADER_SIZE + frame.length <= to);
            let data = whole.filter(|(_, frame)| frame.kind == kind::DATA);
            data.map(|(_, frame)| frame.length as u64).sum::<u64>()
        };
        if !back {
            self.data.1 += data(usize::MAX);
        }
        let cuts = cuts(rng, size, CUT_SINGLY_MAX);
        let mut chunks: Vec<Chunk> = cuts
            .windows(2)
            .map(|cut| Chunk {
                name: self.name,
                back,
                bytes: bytes.slice(cut[0]..cut[1]),
                payload: before + data(cut[1]),
                last: false,
            })
            .collect();
        if last && chunks.is_empty() {
            chunks.push(Chunk { name: self.name, back, bytes: Bytes::new(), payload: before, last });
        }
        if let Some(end) = chunks.last_mut() {
            end.last = last;
        }
        chunks
    }

    fn turn_a_bit(&self, out: &mut [u8], frames: &[(usize, FrameHeader)], rng: &mut Rng) -> Option<Damage> {
        let data: Vec<&(usize, FrameHeader)> =
            frames.iter().filter(|(_, frame)| frame.kind == kind::DATA && frame.length > 0).collect();
        if data.is_empty() {
            return None;
        }
        let (at, header) = data[rng.below(data.len())];
        if rng.permille(300) {
            // Length, flags, stream; of the type such bits that it becomes HEADERS or SETTINGS.
            let byte = rng.below(HEADER_SIZE);
            out[at + byte] ^= if byte == 3 { rng.pick(&[1, 4]) } else { 1 << rng.below(8) };
            return Some(Damage::Header);
        }
        let byte = rng.below(header.length);
        out[at + HEADER_SIZE + byte] ^= 1 << rng.below(8);
        let before = data.iter().filter(|(other, _)| other < at);
        let offset = self.data.1 + before.map(|(_, frame)| frame.length as u64).sum::<u64>() + byte as u64;
        let end = self.sent.iter().map(|(end, _)| *end).find(|end| *end > offset)?;
        Some(Damage::Frame { end })
    }

    /// Bytes arrive at a member that runs in this life, or does not run.
    ///
    /// # Errors
    /// Sound bytes were refused, or damaged ones were not; or what has arrived is not what was sent.
    pub fn arrive(&mut self, at: Time, chunk: Chunk, life: Option<u32>) -> Result<(), Failure> {
        let now = Duration::from_nanos(at);
        if chunk.back {
            if let Some(dialed) = &mut self.dialed {
                dialed.handle_bytes(now, &chunk.bytes);
                self.hear_dialed()?;
            }
            if chunk.last {
                self.lost();
            }
            return Ok(());
        }
        match (&self.accepting, life) {
            (Accepting::NotYet, Some(life)) => {
                let identity = (CLUSTER, node_id(self.name.to));
                let accepted = Accepted::new(identity, SERVER_VERSION, self.config, now);
                self.accepting = Accepting::Here(life, Box::new(accepted));
            }
            (Accepting::Here(here, _), Some(life)) if *here == life => {}
            (Accepting::Gone, None) if self.is_silent => {
                self.stuck.get_or_insert(at);
                return Ok(());
            }
            _ => {
                // Nobody is there who knows of it, and that is said, also by a machine that had lost power.
                self.drop_accepted(true);
                (self.is_silent, self.ended[1]) = (false, false);
                return Ok(());
            }
        }
        self.unread.push_back(chunk);
        self.read(now)
    }

    /// The accepting end takes what has arrived.
    fn read(&mut self, now: Duration) -> Result<(), Failure> {
        while let Accepting::Here(_, accepted) = &mut self.accepting {
            let Some(chunk) = self.unread.pop_front_if(|_| accepted.wants_read()) else { return Ok(()) };
            accepted.handle_bytes(now, &chunk.bytes);
            self.hear_accepted()?;
            let overdue = matches!(self.damage, Some(Damage::Frame { end }) if end <= chunk.payload);
            if overdue && !self.is_accepted_closed {
                return fail("wire", "a bit turned over in a frame, and nobody noticed");
            }
            if chunk.last {
                self.drop_accepted(true);
            }
        }
        Ok(())
    }

    /// Time passes at a member.
    ///
    /// # Errors
    /// As of [`Link::arrive`].
    pub fn tick(&mut self, now: Time, node: NodeNumber) -> Result<(), Failure> {
        let now = Duration::from_nanos(now);
        let is_due = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        if let (true, Some(dialed)) = (self.name.from.0 == node, &mut self.dialed)
            && is_due(dialed.next_timeout())
        {
            dialed.handle_timeout(now);
            self.hear_dialed()?;
        }
        if let (true, Accepting::Here(_, accepted)) = (self.name.to == node, &mut self.accepting)
            && is_due(accepted.next_timeout())
        {
            accepted.handle_timeout(now);
            self.hear_accepted()?;
        }
        Ok(())
    }

    /// The dialing end learns that the connection is over.
    pub fn lost(&mut self) {
        if self.dialed.take().is_some() && !std::mem::replace(&mut self.is_over_told, true) {
            self.came.push_back(Came::Over);
        }
        (self.ending[0], self.ended[0]) = (true, true);
    }

    fn hear_dialed(&mut self) -> Result<(), Failure> {
        while let Some(event) = self.dialed.as_mut().and_then(|dialed| dialed.poll_event()) {
            let came = match event {
                DialedEvent::Open => {
                    self.was_open = true;
                    Came::Open
                }
                DialedEvent::Frame(frame) => Came::Back(snapshot_frame(&frame)?),
                DialedEvent::Refused(refusal) => {
                    self.hang_up(true);
                    self.is_over_told = true;
                    Came::Refused(refusal)
                }
                DialedEvent::Closed(reason) => {
                    self.judge_end(reason)?;
                    self.ending[0] = true;
                    self.is_over_told = true;
                    Came::Over
                }
            };
            self.came.push_back(came);
        }
        Ok(())
    }

    fn hear_accepted(&mut self) -> Result<(), Failure> {
        while let Accepting::Here(_, accepted) = &mut self.accepting
            && let Some(event) = accepted.poll_event()
        {
            let came = match event {
                AcceptedEvent::Hello(hello) => {
                    let ids = (hello.from, hello.to, hello.lane);
                    if ids != (node_id(self.name.from.0), node_id(self.name.to), self.name.lane) {
                        return fail("wire", format!("{:?} says hello as {hello:?}", self.name));
                    }
                    Came::Hello(hello)
                }
                AcceptedEvent::Frame(frame) => self.frame(&frame)?,
                AcceptedEvent::Page(_, method, path) => {
                    return fail("wire", format!("{:?} asks for a page: {method} {path}", self.name));
                }
                AcceptedEvent::Closed(reason) => {
                    self.judge_end(reason)?;
                    self.noticed |= self.damage.is_some();
                    self.is_accepted_closed = true;
                    self.ending[1] = true;
                    continue;
                }
            };
            self.came.push_back(came);
        }
        Ok(())
    }

    /// A frame has arrived: it must be the oldest that has not.
    fn frame(&mut self, frame: &Frame) -> Result<Came, Failure> {
        let Some((_, sent)) = self.sent.pop_front() else {
            return fail("wire", format!("{frame:?} has arrived, and nobody has sent it"));
        };
        let Some(sent) = sent else { return Ok(Came::Forth(snapshot_frame(frame)?)) };
        let ids = (node_id(self.name.from.0), node_id(self.name.to));
        match node::peer::message(frame, self.name.lane, ids) {
            Ok(message) if message == *sent => Ok(Came::Message(sent)),
            other => fail("wire", format!("{sent:?} was sent, and {other:?} has arrived")),
        }
    }

    fn judge_end(&self, reason: &str) -> Result<(), Failure> {
        match self.damage.is_some() || GOOD_REASONS.contains(&reason) {
            true => Ok(()),
            false => fail("wire", format!("sound bytes were refused: {reason}")),
        }
    }
}

fn snapshot_frame(frame: &Frame) -> Result<SnapshotFrame, Failure> {
    SnapshotFrame::decode(frame)
        .or_else(|error| fail("wire", format!("a frame of a snapshot is none: {error}")))
}

/// HTTP/2's frames in output, each with the place of its header.
fn frames(out: &[u8]) -> Vec<(usize, FrameHeader)> {
    let mut at = if out.starts_with(PREFACE) { PREFACE.len() } else { 0 };
    let mut frames = Vec::new();
    while let Some(header) = out.get(at..).and_then(<[u8]>::first_chunk::<HEADER_SIZE>) {
        let Ok(header) = FrameHeader::decode(header) else { break };
        frames.push((at, header));
        at += HEADER_SIZE + header.length;
    }
    debug_assert_eq!(at, out.len(), "whole frames leave a machine");
    frames
}
