//! Byte streams between members: production's frames on connections that cut them anywhere, break, and damage them.
//!
//! In some worlds messages are not handed over whole. Each direction of each pair has a connection for each lane, as in the
//! server ([`consensus::peer`]); what is sent on it is encoded, cut into segments of any size, and decoded where it arrives.
//! A connection breaks at any byte, and then the next one begins with the next message; a bit that turns over must be noticed
//! before the end of its frame, and ends the connection. What is decoded is what was sent, in order, but for what a connection
//! took with it when it broke.
//!
//! Snapshots have a lane and machines of their own: [`snapshots`].
//!
//! In a part of these worlds frames go over HTTP/2, as in production: [`lanes`].

pub mod lanes;
pub mod link;
pub mod snapshots;

use std::collections::VecDeque;

use bytes::Bytes;
use consensus::peer::{self, Decoder, FRAME_BYTES_MAX};
use consensus::{Lane, PeerMessage};
use node::peer::VITAL_FRAME_BYTES_MAX;

use crate::check::{Failure, fail};
use crate::env::NodeNumber;
use crate::network::Letter;
use crate::rng::Rng;
use lanes::Lanes;
use snapshots::Snapshots;

/// Frames up to so many bytes are sometimes cut into single bytes.
const CUT_SINGLY_MAX: usize = 120;

/// Bytes under way.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Who sent them, in which life.
    pub from: (NodeNumber, u32),
    /// To whom.
    pub to: NodeNumber,
    lane: Lane,
    /// On the connection of this number.
    connection: u64,
    bytes: Bytes,
    /// With them ends a frame in which a bit has turned over.
    ends_damaged: bool,
}

struct Pipe {
    /// What is sent goes on this one; numbers begin with 1.
    connection: u64,
    /// What arrives on this one or an earlier one is thrown away.
    dead_through: u64,
    /// The receiver's: the connection that it reads, and how far it is.
    reads: u64,
    decoder: Decoder,
    /// What was sent on which connection and has not been decoded.
    sent: VecDeque<(u64, Box<PeerMessage>)>,
    /// The connections on which a bit has turned over, of those that are or will be read.
    damaged: Vec<u64>,
}

/// See the module's header.
pub struct Wire {
    members: usize,
    pipes: Vec<Pipe>,
    /// Frames with which the connection breaks, of 1000.
    resets: usize,
    /// Frames in which a bit turns over, of 1000.
    flips: usize,
    rng: Rng,
    /// Damaged frames that were noticed.
    pub noticed: u64,
    /// Those of snapshots.
    pub snapshots: Snapshots,
    /// HTTP/2 below the frames.
    pub lanes: Option<Lanes>,
}

impl Wire {
    /// All connections are there.
    pub fn new(members: usize, resets: usize, flips: usize, rng: Rng) -> Wire {
        let snapshots = Snapshots::new(resets, flips, Rng::new(rng.clone().next() ^ 1));
        let pipe = |number| Pipe {
            connection: 1,
            dead_through: 0,
            reads: 1,
            decoder: decoder(if number % 2 == 0 { Lane::Vital } else { Lane::Bulk }),
            sent: VecDeque::new(),
            damaged: Vec::new(),
        };
        let pipes = (0..members * members * 2).map(pipe).collect();
        Wire { members, pipes, resets, flips, rng, noticed: 0, snapshots, lanes: None }
    }

    fn pipe(&mut self, from: NodeNumber, to: NodeNumber, lane: Lane) -> &mut Pipe {
        let lane = usize::from(lane != Lane::Vital);
        &mut self.pipes[(from * self.members + to) * 2 + lane]
    }

    /// The segments that a message makes, and whether the connection breaks with the last of them.
    pub fn send(&mut self, letter: &Letter) -> (Vec<Segment>, bool) {
        let lane = letter.message.lane();
        let mut bytes = Vec::new();
        peer::encode(&letter.message, &mut bytes);
        let breaks = self.resets > 0 && self.rng.permille(self.resets);
        let damaged = !breaks && self.flips > 0 && self.rng.permille(self.flips);
        if damaged {
            let at = self.rng.below(bytes.len());
            bytes[at] ^= 1 << self.rng.below(8);
        }
        let whole = bytes.len();
        if breaks {
            bytes.truncate(self.rng.below(whole));
        }
        let loses_more = breaks && self.rng.permille(500);
        let cuts = cuts(&mut self.rng, bytes.len(), CUT_SINGLY_MAX);
        let pipe = self.pipe(letter.from.0, letter.to, lane);
        let connection = pipe.connection;
        pipe.sent.push_back((connection, letter.message.clone()));
        if damaged {
            pipe.damaged.push(connection);
        }
        if breaks {
            pipe.connection += 1;
        }
        if loses_more {
            pipe.dead_through = connection; // nor does anything arrive of what was under way
        }
        let bytes = Bytes::from(bytes);
        let segment = |(from, to): (usize, usize)| Segment {
            from: letter.from,
            to: letter.to,
            lane,
            connection,
            bytes: bytes.slice(from..to),
            ends_damaged: damaged && to == whole,
        };
        (cuts.windows(2).map(|cut| segment((cut[0], cut[1]))).collect(), breaks)
    }

    /// What a segment completes, and whether the receiver closes the connection at it.
    ///
    /// # Errors
    /// What was decoded is not what was sent; or sound bytes were refused; or damaged ones were not.
    pub fn receive(&mut self, segment: &Segment) -> Result<(Vec<Box<PeerMessage>>, bool), Failure> {
        let pipe = self.pipe(segment.from.0, segment.to, segment.lane);
        let mut messages = Vec::new();
        if segment.connection <= pipe.dead_through || segment.connection < pipe.reads {
            return Ok((messages, false));
        }
        if segment.connection > pipe.reads {
            pipe.reads = segment.connection;
            pipe.decoder = decoder(segment.lane);
            pipe.damaged.retain(|connection| *connection >= segment.connection);
        }
        let mut rest = &segment.bytes[..];
        let refused = loop {
            let message = match pipe.decoder.next(&mut rest) {
                Ok(None) => break None,
                Ok(Some(frame)) => peer::decode(&frame),
                Err(error) => Err(error),
            };
            match message {
                Ok(message) => messages.push(pipe.expect(segment, message)?),
                Err(error) => break Some(error),
            }
        };
        match refused {
            None if segment.ends_damaged => fail("wire", "a bit turned over in a frame, and nobody noticed"),
            None => Ok((messages, false)),
            Some(error) if !pipe.damaged.contains(&segment.connection) => {
                fail("wire", format!("sound bytes were refused: {error}"))
            }
            Some(_) => {
                pipe.close(segment.connection);
                self.noticed += 1;
                Ok((messages, true))
            }
        }
    }

    /// A process ends, and all its connections with it.
    pub fn reset(&mut self, node: NodeNumber) {
        for number in 0..self.pipes.len() {
            let (from, to) = (number / 2 / self.members, number / 2 % self.members);
            if from == node || to == node {
                let pipe = &mut self.pipes[number];
                pipe.close(pipe.connection);
            }
        }
    }

    /// Nothing gets through from one to the other: the connection breaks.
    pub fn cut(&mut self, letter: &Letter) {
        let pipe = self.pipe(letter.from.0, letter.to, letter.message.lane());
        pipe.close(pipe.connection);
    }

    /// No connection breaks any more.
    pub fn heal(&mut self) {
        self.resets = 0;
        self.flips = 0;
        self.snapshots.resets = 0;
        self.snapshots.flips = 0;
        if let Some(lanes) = &mut self.lanes {
            lanes.heal();
        }
    }
}

impl Pipe {
    /// The oldest message that was sent on this connection must be the one that has arrived.
    fn expect(&mut self, segment: &Segment, message: PeerMessage) -> Result<Box<PeerMessage>, Failure> {
        while let Some((connection, sent)) = self.sent.pop_front() {
            if connection < segment.connection {
                continue; // it went with its connection
            }
            if *sent != message {
                return fail("wire", format!("{sent:?} was sent, and {message:?} has arrived"));
            }
            return Ok(sent);
        }
        fail("wire", format!("{message:?} has arrived, and nobody has sent it"))
    }

    fn close(&mut self, connection: u64) {
        self.dead_through = self.dead_through.max(connection);
        self.connection = self.connection.max(connection + 1);
    }
}

/// Where bytes are cut, from their beginning to their end. Up to `singly_max` they are sometimes cut into single ones.
fn cuts(rng: &mut Rng, size: usize, singly_max: usize) -> Vec<usize> {
    let mut cuts = match rng.below(20) {
        0 if size <= singly_max => (1..size).collect(),
        0..6 if size > 0 => (0..rng.between(1, 3)).map(|_| rng.below(size)).collect(),
        _ => Vec::new(),
    };
    cuts.extend([0, size]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

fn decoder(lane: Lane) -> Decoder {
    match lane {
        Lane::Vital => Decoder::new(VITAL_FRAME_BYTES_MAX),
        Lane::Bulk | Lane::Snapshot => Decoder::new(FRAME_BYTES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(id: u64) -> Letter {
        let body = Bytes::from(vec![id as u8; id as usize % 300]);
        let message = Box::new(PeerMessage::Request { id, body });
        Letter { from: (0, 1), to: 1, message, snapshot: None }
    }

    /// What arrives of 2000 messages, and how many damaged ones were noticed.
    fn arrived(resets: usize, flips: usize) -> (Vec<u64>, u64) {
        let mut wire = Wire::new(2, resets, flips, Rng::new(7));
        let mut ids = Vec::new();
        for id in 0..2000 {
            for segment in wire.send(&letter(id)).0 {
                let (messages, _) = wire.receive(&segment).expect("what was sent, or nothing");
                for message in messages {
                    let PeerMessage::Request { id, .. } = *message else { panic!("it was a request") };
                    ids.push(id);
                }
            }
        }
        (ids, wire.noticed)
    }

    #[test]
    fn sound_connections_bring_everything_and_others_what_they_can() {
        assert_eq!(arrived(0, 0), ((0..2000).collect(), 0));
        for (resets, flips) in [(50, 0), (0, 50), (30, 30)] {
            let (ids, noticed) = arrived(resets, flips);
            assert!(ids.is_sorted() && (1700..1990).contains(&ids.len()), "{}", ids.len());
            assert_eq!(noticed > 0, flips > 0);
        }
    }

    #[test]
    fn what_is_not_what_was_sent_is_found_out() {
        let mut wire = Wire::new(2, 0, 0, Rng::new(1));
        let segments = wire.send(&letter(5)).0;
        wire.pipe(0, 1, Lane::Bulk).sent[0].1 = letter(6).message;
        let failed = segments.iter().find_map(|segment| wire.receive(segment).err());
        assert_eq!(failed.map(|failure| failure.checker), Some("wire"));
        let mut segment = wire.send(&letter(7)).0.pop().expect("a segment");
        segment.bytes = Bytes::from(vec![0xff; 40]);
        assert_eq!(wire.receive(&segment).map(|_| ()).map_err(|failure| failure.checker), Err("wire"));
    }
}
