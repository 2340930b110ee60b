//! Snapshots as bytes: production's frames and its two machines, one at each end ([`node::peer::snapshot`]).
//!
//! A connection breaks at any byte, and the next one goes on at the chunk that the receiver names. What has arrived in the end is,
//! to the byte, what was sent. The digest is not SHA-256 here: who compares all bytes needs none.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use consensus::peer::{Decoder, FRAME_BYTES_MAX, FrameError};
use consensus::{Lane, NodeId, PeerMessage};
use node::peer::snapshot::{DIGEST_BYTES, Incoming, Next, Outgoing, Pace, SnapshotFrame};

use super::lanes::Lanes;
use super::link::Name;
use super::{CUT_SINGLY_MAX, cuts};
use crate::check::{Failure, fail};
use crate::env::NodeNumber;
use crate::network::Letter;
use crate::queue::Time;
use crate::rng::Rng;

/// Chunks are of at most this many bytes.
const CHUNK_BYTES: usize = 4000;

/// So many bytes are read and not acknowledged, at most.
const PACE: Pace = Pace { bytes_per_second: 1 << 30, unacknowledged_bytes_max: 3 * CHUNK_BYTES };

/// Who sends, in which life, and to whom.
pub type Way = ((NodeNumber, u32), NodeNumber);

/// Bytes of such a connection, under way.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Of which snapshot.
    pub way: Way,
    /// From its receiver to its sender.
    pub back: bool,
    connection: u64,
    bytes: Bytes,
    /// With them ends a frame in which a bit has turned over.
    ends_damaged: bool,
}

impl Piece {
    /// Where it arrives.
    pub fn to(&self) -> NodeNumber {
        if self.back { self.way.0.0 } else { self.way.1 }
    }

    /// Where it comes from.
    pub fn from(&self) -> NodeNumber {
        if self.back { self.way.1 } else { self.way.0.0 }
    }
}

/// What bytes have led to.
#[derive(Debug)]
pub enum Came {
    /// More bytes, either way.
    Pieces(Vec<Piece>),
    /// The snapshot is there, and so is the message behind it.
    Whole(Letter),
    /// The sender has given up.
    Nothing,
}

struct Transfer {
    sent: Letter,
    outgoing: Outgoing,
    read: usize,
    /// On this connection the sender sends and hears.
    connection: u64,
    heard: Decoder,
    /// The receiver is at this one.
    reads: u64,
    decoder: Decoder,
    incoming: Option<Incoming>,
    received: Vec<u8>,
    /// Connections on which a bit has turned over.
    damaged: Vec<u64>,
    /// Over HTTP/2.
    over: Over,
}

/// The HTTP/2 connections of a transfer.
#[derive(Default)]
struct Over {
    /// The first one's number.
    first: u64,
    /// The present one's.
    link: Option<u64>,
    /// If there is none: when the next one is dialed.
    retry_at: Time,
    /// What the receiver had acknowledged, and since when.
    progress: (u64, Time),
}

/// Where frames go.
enum Out<'a> {
    /// Onto the transfer's own connection.
    Pieces(&'a mut Vec<Piece>),
    /// Onto the HTTP/2 connection of this number.
    Lane(&'a mut Lanes, u64),
}

/// All snapshots under way; one on each link.
pub struct Snapshots {
    transfers: BTreeMap<(NodeNumber, NodeNumber), Transfer>,
    count: u64,
    /// So many connections there were, of all transfers: bytes of an earlier one are still under way when the next one begins.
    connections: u64,
    pub(super) resets: usize,
    pub(super) flips: usize,
    rng: Rng,
    /// Connections that went on where another one was.
    pub resumed: u64,
    /// Damaged frames that were noticed.
    pub noticed: u64,
}

impl Snapshots {
    pub(super) fn new(resets: usize, flips: usize, rng: Rng) -> Snapshots {
        let transfers = BTreeMap::new();
        Snapshots { transfers, count: 0, connections: 0, resets, flips, rng, resumed: 0, noticed: 0 }
    }

    /// # Panics
    /// If the letter brings no snapshot.
    fn transfer(&mut self, letter: Letter) -> Transfer {
        let PeerMessage::Raft(message) = &*letter.message else { panic!("it is raft's") };
        let snapshot = letter.snapshot.as_ref().expect("there is one");
        self.count += 1;
        let outgoing = Outgoing::new(self.count, snapshot.len() as u64, message.clone(), PACE);
        Transfer {
            outgoing,
            sent: letter,
            read: 0,
            connection: self.connections,
            heard: Decoder::new(FRAME_BYTES_MAX),
            reads: self.connections + 1,
            decoder: Decoder::new(FRAME_BYTES_MAX),
            incoming: None,
            received: Vec::new(),
            damaged: Vec::new(),
            over: Over::default(),
        }
    }

    /// A member sends a snapshot, and the message behind it. One that is still under way there is given up.
    ///
    /// # Panics
    /// If the letter brings none.
    pub fn send(&mut self, letter: Letter) -> Vec<Piece> {
        let key = (letter.from.0, letter.to);
        let mut transfer = self.transfer(letter);
        let mut pieces = Vec::new();
        self.begin(&mut transfer, &mut pieces);
        self.transfers.insert(key, transfer);
        pieces
    }

    /// Nothing of it arrives any more. Whose it was, if it was under way.
    pub fn abandon(&mut self, way: Way) -> Option<Way> {
        let key = (way.0.0, way.1);
        self.transfers.get(&key).filter(|transfer| transfer.sent.from == way.0)?;
        self.transfers.remove(&key).map(|transfer| (transfer.sent.from, transfer.sent.to))
    }

    /// A process ends. Whose snapshots can't go on because of that.
    pub fn reset(&mut self, node: NodeNumber) -> Vec<Way> {
        let mut over = Vec::new();
        self.transfers.retain(|(from, to), transfer| {
            let stays = *from != node && *to != node;
            if !stays {
                over.push((transfer.sent.from, transfer.sent.to));
            }
            stays
        });
        over
    }

    /// Bytes arrive.
    ///
    /// # Errors
    /// What has arrived is not what was sent; sound bytes were refused, or damaged ones were not.
    pub fn receive(&mut self, now: Time, piece: &Piece) -> Result<Came, Failure> {
        let key = (piece.way.0.0, piece.way.1);
        let Some(mut transfer) = self.transfers.remove(&key) else { return Ok(Came::Pieces(Vec::new())) };
        if transfer.sent.from != piece.way.0 {
            self.transfers.insert(key, transfer);
            return Ok(Came::Pieces(Vec::new()));
        }
        let came = match piece.back {
            false => self.receive_forth(&mut transfer, piece),
            true => self.receive_back(&mut transfer, now, piece),
        };
        if matches!(came, Ok(Came::Pieces(_))) {
            self.transfers.insert(key, transfer);
        }
        came
    }

    fn receive_forth(&mut self, transfer: &mut Transfer, piece: &Piece) -> Result<Came, Failure> {
        let mut pieces = Vec::new();
        if piece.connection < transfer.reads {
            return Ok(Came::Pieces(pieces));
        }
        if piece.connection > transfer.reads {
            transfer.reads = piece.connection;
            transfer.decoder = Decoder::new(FRAME_BYTES_MAX);
        }
        let mut rest = &piece.bytes[..];
        loop {
            let frame = match transfer.decoder.next(&mut rest) {
                Ok(None) if piece.ends_damaged => {
                    return fail("wire", "a bit turned over in a snapshot's frame, and nobody noticed");
                }
                Ok(None) => return Ok(Came::Pieces(pieces)),
                Ok(Some(frame)) => SnapshotFrame::decode(&frame),
                Err(error) => Err(error),
            };
            match frame {
                Ok(frame) => {
                    let out = &mut Out::Pieces(&mut pieces);
                    if let Some(letter) = self.handle(transfer, frame, out)? {
                        return Ok(Came::Whole(letter));
                    }
                }
                Err(error) => {
                    self.refuse(transfer, piece.connection, error, &mut pieces)?;
                    return Ok(Came::Pieces(pieces));
                }
            }
        }
    }

    /// The receiver's part.
    fn handle(
        &mut self,
        transfer: &mut Transfer,
        frame: SnapshotFrame,
        out: &mut Out<'_>,
    ) -> Result<Option<Letter>, Failure> {
        let sent = &transfer.sent;
        let known = transfer.incoming.as_mut();
        let answer = match (frame, known) {
            (SnapshotFrame::Begin { transfer: number, message, .. }, known) => match known {
                Some(incoming) if incoming.transfer == number => {
                    self.resumed += u64::from(incoming.next() > 0);
                    incoming.resume()
                }
                _ => {
                    let incoming = Incoming::new(NodeId(sent.from.0 as u64), number, message);
                    transfer.received.clear();
                    transfer.incoming.insert(incoming).resume()
                }
            },
            (SnapshotFrame::Chunk { number, bytes }, Some(incoming)) => {
                if incoming.handle_chunk(number).is_err() {
                    return fail("wire", format!("chunk {number} of a snapshot after {}", incoming.next()));
                }
                transfer.received.extend_from_slice(&bytes);
                SnapshotFrame::Need(incoming.next())
            }
            (SnapshotFrame::End(end), Some(incoming)) => {
                let message = PeerMessage::Raft((*incoming.message).clone());
                let is_whole =
                    incoming.handle_end(&end).is_ok() && end.bytes == transfer.received.len() as u64;
                let is_it = sent.snapshot.as_deref() == Some(&transfer.received[..]);
                if !is_whole || !is_it || message != *sent.message {
                    return fail("wire", "the snapshot that has arrived is not the one that was sent");
                }
                return Ok(Some(sent.clone()));
            }
            (frame, _) => return fail("wire", format!("{frame:?} has arrived, and no snapshot has begun")),
        };
        let reads = transfer.reads;
        self.put(transfer, reads, true, &answer, out);
        Ok(None)
    }

    /// The receiver closes a connection on which a bit has turned over.
    fn refuse(
        &mut self,
        transfer: &mut Transfer,
        connection: u64,
        error: FrameError,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), Failure> {
        if !transfer.damaged.contains(&connection) {
            return fail("wire", format!("sound bytes of a snapshot were refused: {error}"));
        }
        self.noticed += 1;
        transfer.reads = connection + 1;
        transfer.decoder = Decoder::new(FRAME_BYTES_MAX);
        if transfer.connection == connection {
            self.begin(transfer, pieces);
        }
        Ok(())
    }

    /// The sender's part.
    fn receive_back(&mut self, transfer: &mut Transfer, now: Time, piece: &Piece) -> Result<Came, Failure> {
        let mut pieces = Vec::new();
        if piece.connection != transfer.connection {
            return Ok(Came::Pieces(pieces));
        }
        let mut rest = &piece.bytes[..];
        loop {
            let frame = match transfer.heard.next(&mut rest) {
                Ok(None) => break,
                Ok(Some(frame)) => SnapshotFrame::decode(&frame),
                Err(error) => Err(error),
            };
            match frame {
                Ok(frame) => transfer.outgoing.handle(&frame),
                Err(error) => return fail("wire", format!("a snapshot's answer was refused: {error}")),
            }
        }
        match self.pump(transfer, Duration::from_nanos(now), &mut Out::Pieces(&mut pieces)) {
            true => Ok(Came::Pieces(pieces)),
            false => Ok(Came::Nothing),
        }
    }

    /// Sends what may be sent. False: it is over.
    fn pump(&mut self, transfer: &mut Transfer, mut now: Duration, out: &mut Out<'_>) -> bool {
        loop {
            match transfer.outgoing.next(now) {
                Next::Send(frame) => {
                    let connection = transfer.connection;
                    self.put(transfer, connection, false, &frame, out);
                }
                Next::At(then) => now = then,
                Next::Read => {
                    let all = transfer.sent.snapshot.clone().expect("there is one");
                    let to = (transfer.read + self.rng.between(1, CHUNK_BYTES)).min(all.len());
                    match transfer.read < to {
                        true => transfer.outgoing.push(all.slice(transfer.read..to)),
                        false => transfer.outgoing.push_end(all.len() as u64, [7; DIGEST_BYTES]),
                    }
                    transfer.read = to;
                }
                Next::Wait => return true,
                Next::Over(_) => return false,
            }
        }
    }

    /// The sender begins on a new connection.
    fn begin(&mut self, transfer: &mut Transfer, pieces: &mut Vec<Piece>) {
        self.connections += 1;
        transfer.connection = self.connections;
        transfer.heard = Decoder::new(FRAME_BYTES_MAX);
        let (frame, connection) = (transfer.outgoing.begin(), transfer.connection);
        self.put(transfer, connection, false, &frame, &mut Out::Pieces(pieces));
    }

    /// Bytes of a frame on a connection, which may break with them; then the sender begins on the next one.
    fn put(
        &mut self,
        transfer: &mut Transfer,
        connection: u64,
        back: bool,
        frame: &SnapshotFrame,
        out: &mut Out<'_>,
    ) {
        let pieces = match out {
            Out::Pieces(pieces) => pieces,
            Out::Lane(lanes, number) => {
                // What finds no room is missed by the receiver, and then the connection is a broken one.
                if lanes.send_frame(*number, back, frame).is_err() {
                    lanes.hang_up(*number);
                    transfer.over.link = None;
                }
                return;
            }
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        let breaks = self.resets > 0 && self.rng.permille(self.resets);
        let damaged = !back && !breaks && self.flips > 0 && self.rng.permille(self.flips);
        if breaks {
            bytes.truncate(self.rng.below(bytes.len()));
        }
        if damaged {
            let at = self.rng.below(bytes.len());
            bytes[at] ^= 1 << self.rng.below(8);
            transfer.damaged.push(connection);
        }
        let way = (transfer.sent.from, transfer.sent.to);
        let (size, bytes) = (bytes.len(), Bytes::from(bytes));
        for cut in cuts(&mut self.rng, size, CUT_SINGLY_MAX).windows(2) {
            let ends_damaged = damaged && cut[1] == size;
            let bytes = bytes.slice(cut[0]..cut[1]);
            pieces.push(Piece { way, back, connection, bytes, ends_damaged });
        }
        if breaks && connection == transfer.connection {
            self.begin(transfer, pieces);
        }
    }
}

/// Over HTTP/2: the same machines, with a connection of their own for each attempt.
impl Snapshots {
    /// A member sends a snapshot, and the message behind it. One that is still under way there is given up.
    pub fn send_over(&mut self, lanes: &mut Lanes, now: Time, letter: Letter) {
        let key = (letter.from.0, letter.to);
        let mut transfer = self.transfer(letter);
        let link = lanes.dial(now, transfer.sent.from, key.1, Lane::Snapshot);
        transfer.over = Over { first: link, link: Some(link), retry_at: 0, progress: (0, now) };
        if let Some(before) = self.transfers.insert(key, transfer).and_then(|before| before.over.link) {
            lanes.hang_up(before);
        }
    }

    /// The transfer of a connection, and whether it is its present one at the sender's end.
    fn of(&mut self, name: Name) -> Option<(&mut Transfer, bool)> {
        let transfer = self.transfers.get_mut(&(name.from.0, name.to))?;
        let is_its = transfer.sent.from == name.from && name.number >= transfer.over.first;
        let is_present = transfer.over.link == Some(name.number);
        is_its.then_some((transfer, is_present))
    }

    /// The sender is let in.
    pub fn opened(&mut self, lanes: &mut Lanes, name: Name) {
        if let Some((transfer, true)) = self.of(name) {
            let frame = transfer.outgoing.begin();
            let _ = lanes.send_frame(name.number, false, &frame); // the first one finds room
        }
    }

    /// A frame arrives at the receiver. The letter, if it was the last one.
    ///
    /// # Errors
    /// What has arrived is not what was sent.
    pub fn receive_over(
        &mut self,
        lanes: &mut Lanes,
        name: Name,
        frame: SnapshotFrame,
    ) -> Result<Option<Letter>, Failure> {
        let key = (name.from.0, name.to);
        let begins = matches!(frame, SnapshotFrame::Begin { .. });
        let reads = match self.of(name) {
            Some((transfer, _)) if begins => {
                transfer.reads = transfer.reads.max(name.number);
                transfer.reads
            }
            Some((transfer, _)) => transfer.reads,
            None => return Ok(None), // one that was given up
        };
        if reads != name.number {
            return fail(
                "wire",
                format!("{name:?} brings bytes of a snapshot that goes over connection {reads}"),
            );
        }
        let Some(mut transfer) = self.transfers.remove(&key) else { return Ok(None) };
        let arrived = self.handle(&mut transfer, frame, &mut Out::Lane(lanes, name.number))?;
        match &arrived {
            Some(_) => transfer.over.link.into_iter().for_each(|link| lanes.hang_up(link)),
            None => drop(self.transfers.insert(key, transfer)),
        }
        Ok(arrived)
    }

    /// An answer arrives at the sender. Whose snapshot it was that is given up with it, if one is.
    pub fn answered_over(
        &mut self,
        lanes: &mut Lanes,
        now: Time,
        name: Name,
        frame: &SnapshotFrame,
    ) -> Option<Way> {
        let (transfer, true) = self.of(name)? else { return None };
        transfer.outgoing.handle(frame);
        let key = (name.from.0, name.to);
        let mut transfer = self.transfers.remove(&key)?;
        let goes_on = self.pump(&mut transfer, Duration::from_nanos(now), &mut Out::Lane(lanes, name.number));
        match goes_on {
            true => {
                let acknowledged = transfer.outgoing.acknowledged();
                if acknowledged > transfer.over.progress.0 {
                    transfer.over.progress = (acknowledged, now);
                }
                self.transfers.insert(key, transfer);
                None
            }
            false => {
                lanes.hang_up(name.number);
                Some((name.from, name.to))
            }
        }
    }

    /// A connection is over; another one is dialed after a while.
    pub fn lost(&mut self, now: Time, pause: Time, name: Name) {
        if let Some((transfer, true)) = self.of(name) {
            (transfer.over.link, transfer.over.retry_at) = (None, now + pause);
        }
    }

    /// Dials anew for what a member sends, and gives up what nothing has been heard of for so long. Whose that was.
    pub fn tick(&mut self, lanes: &mut Lanes, now: Time, node: NodeNumber, patience: Time) -> Vec<Way> {
        let mut given_up = Vec::new();
        for ((from, to), transfer) in &mut self.transfers {
            if *from != node {
                continue;
            }
            let over = &mut transfer.over;
            if now - over.progress.1 >= patience {
                given_up.push((transfer.sent.from, *to));
            } else if over.link.is_none() && now >= over.retry_at {
                over.link = Some(lanes.dial(now, transfer.sent.from, *to, Lane::Snapshot));
            }
        }
        for way in &given_up {
            let transfer = self.transfers.remove(&(way.0.0, way.1));
            transfer.and_then(|transfer| transfer.over.link).into_iter().for_each(|link| lanes.hang_up(link));
        }
        given_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::Message;
    use raft::eraftpb::{self, MessageType};
    use std::collections::VecDeque;

    fn letter(size: usize) -> Letter {
        let raft = eraftpb::Message { msg_type: MessageType::MsgSnapshot as i32, ..Default::default() };
        let message = Box::new(PeerMessage::Raft(Message { raft, data: Vec::new() }));
        let snapshot = Some((0..size).map(|at| at as u8).collect::<Vec<u8>>().into());
        Letter { from: (0, 1), to: 1, message, snapshot }
    }

    /// How a snapshot ends whose pieces arrive in order.
    fn sent(size: usize, resets: usize, flips: usize) -> (Letter, Snapshots) {
        let mut snapshots = Snapshots::new(resets, flips, Rng::new(size as u64));
        let mut under_way: VecDeque<Piece> = snapshots.send(letter(size)).into();
        while let Some(piece) = under_way.pop_front() {
            match snapshots.receive(0, &piece).expect("what was sent, or nothing") {
                Came::Pieces(more) => under_way.extend(more),
                Came::Whole(letter) => return (letter, snapshots),
                Came::Nothing => panic!("the sender has given up"),
            }
        }
        panic!("nothing is under way any more")
    }

    #[test]
    fn a_snapshot_arrives_whole_over_whatever_connections() {
        let mut went_on = 0;
        for size in [1, 100, 5000, 300_000] {
            for (resets, flips) in [(0, 0), (50, 0), (0, 50), (100, 100)] {
                let (arrived, snapshots) = sent(size, resets, flips);
                assert_eq!(arrived.snapshot, letter(size).snapshot, "{size} {resets} {flips}");
                assert!(flips > 0 || snapshots.noticed == 0);
                assert!(resets + flips > 0 || snapshots.resumed == 0);
                went_on += snapshots.resumed.min(1) + snapshots.noticed.min(1);
            }
        }
        assert!(went_on >= 5, "{went_on}");
    }

    #[test]
    fn bytes_of_a_snapshot_that_was_given_up_are_none_of_the_next_ones() {
        let mut snapshots = Snapshots::new(300, 0, Rng::new(3));
        let mut under_way: VecDeque<Piece> = snapshots.send(letter(50_000)).into();
        for given_up in 0..5 {
            let late = under_way.split_off(under_way.len() / 2);
            for piece in under_way {
                let came = snapshots.receive(0, &piece).expect("what was sent, or nothing");
                assert!(matches!(came, Came::Pieces(_)), "{given_up}: {came:?}");
            }
            under_way = late;
            under_way.extend(snapshots.send(letter(9000 + given_up)));
        }
        loop {
            let piece = under_way.pop_front().expect("it arrives");
            match snapshots.receive(0, &piece).expect("what was sent, or nothing") {
                Came::Pieces(more) => under_way.extend(more),
                Came::Whole(letter) => {
                    return assert_eq!(letter.snapshot.map(|bytes| bytes.len()), Some(9004));
                }
                Came::Nothing => panic!("the sender has given up"),
            }
        }
    }

    #[test]
    fn another_snapshot_than_was_sent_is_found_out() {
        let mut snapshots = Snapshots::new(0, 0, Rng::new(1));
        let mut under_way: VecDeque<Piece> = snapshots.send(letter(9000)).into();
        let failure = loop {
            let piece = under_way.pop_front().expect("it fails before the end");
            if let Some(transfer) = snapshots.transfers.get_mut(&(0, 1)).filter(|at| !at.received.is_empty())
            {
                transfer.received[0] ^= 1;
            }
            match snapshots.receive(0, &piece) {
                Ok(Came::Pieces(more)) => under_way.extend(more),
                Ok(came) => panic!("{came:?}"),
                Err(failure) => break failure,
            }
        };
        assert_eq!(failure.checker, "wire");
    }
}
