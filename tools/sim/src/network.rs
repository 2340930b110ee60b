//! The network between members: late, lossy, doubled, out of order, cut.
//!
//! Each direction of each pair is a link of its own. Whether a letter is lost is drawn when it is sent; a link that is
//! cut by then loses it, one that is cut later doesn't get it back.

use bytes::Bytes;
use consensus::PeerMessage;
use smallvec::{SmallVec, smallvec};

use crate::check::Failure;
use crate::env::NodeNumber;
use crate::plan::Config;
use crate::queue::Time;
use crate::rng::Rng;
use crate::wire::lanes::Lanes;
use crate::wire::link::Chunk;
use crate::wire::snapshots::{Piece, Snapshots, Way};
use crate::wire::{Segment, Wire};

/// A message under way.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Who sent it, in which life.
    pub from: (NodeNumber, u32),
    /// To whom.
    pub to: NodeNumber,
    /// What.
    pub message: Box<PeerMessage>,
    /// A whole snapshot, which goes before the message.
    pub snapshot: Option<Bytes>,
}

/// See the module's header.
pub struct Network {
    latency: (Time, Time),
    loss: usize,
    duplicates: usize,
    replays: usize,
    reorder: bool,
    /// How much later an old message comes again, on average.
    replay_delay: Time,
    rng: Rng,
    members: usize,
    /// How many faults cut each link; `from * members + to`.
    cuts: Vec<u32>,
    /// Until when what a member sends is held back.
    clogged: Vec<Time>,
    /// When the last letter of each link arrives.
    last: Vec<Time>,
    /// Letters sent.
    pub sent: u64,
    /// In worlds whose members talk in bytes.
    wire: Option<Wire>,
}

/// What becomes of a letter that is sent as bytes.
pub struct Stream {
    /// What arrives when.
    pub segments: Vec<(Time, Segment)>,
    /// The sender learns that its connection is broken.
    pub broken: bool,
}

impl Network {
    /// All links up.
    pub fn new(config: &Config, rng: Rng) -> Network {
        let hosts = config.hosts();
        let links = hosts * hosts;
        let mut wire_rng = rng.clone();
        let mut wire =
            config.wire.map(|flips| Wire::new(hosts, config.loss, flips, Rng::new(wire_rng.next())));
        if let (Some(wire), Some(flips), Some(window)) = (&mut wire, config.wire, config.http2) {
            wire.lanes = Some(Lanes::new(config, window, flips, Rng::new(wire_rng.next())));
        }
        Network {
            latency: config.latency,
            loss: config.loss,
            duplicates: config.duplicates,
            replays: config.replays,
            reorder: config.reorder,
            replay_delay: 2 * config.election(),
            rng,
            members: hosts,
            cuts: vec![0; links],
            clogged: vec![0; hosts],
            last: vec![0; links],
            sent: 0,
            wire,
        }
    }

    /// Whether members talk in bytes.
    pub fn is_wire(&self) -> bool {
        self.wire.is_some()
    }

    /// A letter as bytes on its connection.
    ///
    /// # Panics
    /// In worlds whose members hand letters over.
    pub fn stream(&mut self, now: Time, letter: &Letter) -> Stream {
        self.sent += 1;
        let link = letter.from.0 * self.members + letter.to;
        let wire = self.wire.as_mut().expect("members talk in bytes");
        if self.cuts[link] > 0 {
            wire.cut(letter);
            return Stream { segments: Vec::new(), broken: true };
        }
        let (segments, broken) = wire.send(letter);
        let mut at = now + self.latency.0 + self.rng.exponential(self.latency.1);
        at = at.max(self.clogged[letter.from.0]);
        let last = &mut self.last[link]; // of both lanes together: near enough
        let gap = gap(self.latency, segments.len());
        let mut arrivals = Vec::new();
        for segment in segments {
            at = at.max(*last + 1);
            *last = at;
            arrivals.push((at, segment));
            at += self.rng.exponential(gap);
        }
        Stream { segments: arrivals, broken }
    }

    /// What arrives with these bytes, and whether the receiver closes the connection because of them.
    ///
    /// # Errors
    /// See [`Wire::receive`].
    pub fn receive(&mut self, segment: &Segment) -> Result<(Vec<Box<PeerMessage>>, bool), Failure> {
        self.wire.as_mut().expect("members talk in bytes").receive(segment)
    }

    /// A process ends, or, if not `says`, its machine has lost power. Which snapshots can't go on because of that.
    pub fn reset(&mut self, node: NodeNumber, says: bool) -> Vec<Way> {
        let Some(wire) = &mut self.wire else { return Vec::new() };
        wire.reset(node);
        if let Some(lanes) = &mut wire.lanes {
            lanes.reset(node, says);
        }
        wire.snapshots.reset(node)
    }

    /// The HTTP/2 connections between members, in worlds that have them.
    pub fn lanes(&mut self) -> Option<&mut Lanes> {
        self.wire.as_mut()?.lanes.as_mut()
    }

    /// These and the snapshots that go over them.
    pub fn lanes_and_snapshots(&mut self) -> Option<(&mut Lanes, &mut Snapshots)> {
        let wire = self.wire.as_mut()?;
        Some((wire.lanes.as_mut()?, &mut wire.snapshots))
    }

    /// A member sees to it that its standing lanes to another are up. True: both are.
    pub fn keep_up(&mut self, now: Time, from: (NodeNumber, u32), to: NodeNumber) -> bool {
        let is_up = self.is_up(from.0, to) && self.is_up(to, from.0);
        self.lanes().is_some_and(|lanes| lanes.keep_up(now, from, to, is_up))
    }

    /// Time passes at a member.
    ///
    /// # Errors
    /// See [`Lanes::tick`].
    pub fn tick_lanes(&mut self, now: Time, node: NodeNumber) -> Result<(), Failure> {
        let (cuts, members) = (&self.cuts, self.members);
        let Some(lanes) = self.wire.as_mut().and_then(|wire| wire.lanes.as_mut()) else { return Ok(()) };
        lanes.tick(now, node, |from, to| cuts[from * members + to] == 0)
    }

    /// What leaves on an HTTP/2 connection now, and when it arrives. What is sent on a way that is cut waits; what is sent while
    /// only the other direction is cut arrives, but nobody hears of that.
    ///
    /// # Errors
    /// See [`Lanes::transmit`].
    pub fn transmit(&mut self, now: Time, number: u64) -> Result<Vec<(Time, Chunk)>, Failure> {
        let Some(lanes) = self.wire.as_mut().and_then(|wire| wire.lanes.as_mut()) else {
            return Ok(Vec::new());
        };
        let mut arrivals = Vec::new();
        for back in [false, true] {
            let Some(link) = lanes.link(number).filter(|link| link.has_output(back)) else { continue };
            let (from, to) = match back {
                false => (link.name.from.0, link.name.to),
                true => (link.name.to, link.name.from.0),
            };
            let is_cut = |from: NodeNumber, to: NodeNumber| self.cuts[from * self.members + to] > 0;
            if is_cut(from, to) || is_cut(to, from) {
                link.stuck.get_or_insert(now);
            }
            if is_cut(from, to) {
                continue;
            }
            let mut last = link.last[usize::from(back)];
            let mut at = now + self.latency.0 + self.rng.exponential(self.latency.1);
            at = at.max(self.clogged[from]);
            let chunks = lanes.transmit(now, number, back)?;
            let gap = gap(self.latency, chunks.len());
            for chunk in chunks {
                at = at.max(last + 1);
                last = at;
                arrivals.push((at, chunk));
                at += self.rng.exponential(gap);
            }
            if let Some(link) = lanes.link(number) {
                link.last[usize::from(back)] = last;
            }
        }
        Ok(arrivals)
    }

    /// Snapshots as bytes.
    ///
    /// # Panics
    /// In worlds whose members hand letters over.
    pub fn snapshots(&mut self) -> &mut Snapshots {
        &mut self.wire.as_mut().expect("members talk in bytes").snapshots
    }

    /// When these arrive, in their order. `None`: the link is cut.
    pub fn pass(&mut self, now: Time, pieces: &[Piece]) -> Option<Vec<Time>> {
        let mut arrivals = Vec::new();
        for piece in pieces {
            let link = piece.from() * self.members + piece.to();
            if self.cuts[link] > 0 {
                return None;
            }
            let at = now + self.latency.0 + self.rng.exponential(self.latency.1 / 4);
            let at = at.max(self.clogged[piece.from()]).max(self.last[link] + 1);
            self.last[link] = at;
            arrivals.push(at);
        }
        Some(arrivals)
    }

    /// Damaged frames that were noticed.
    pub fn noticed(&self) -> u64 {
        self.wire.as_ref().map_or(0, |wire| {
            wire.noticed + wire.snapshots.noticed + wire.lanes.as_ref().map_or(0, |lanes| lanes.noticed)
        })
    }

    /// HTTP/2 connections that were let in.
    pub fn opened(&self) -> u64 {
        self.wire.as_ref().and_then(|wire| wire.lanes.as_ref()).map_or(0, |lanes| lanes.opened)
    }

    /// Snapshots that went on over another connection.
    pub fn resumed(&self) -> u64 {
        self.wire.as_ref().map_or(0, |wire| wire.snapshots.resumed)
    }

    /// When a letter that is sent now arrives: never, once, or more often.
    pub fn arrivals(&mut self, now: Time, letter: &Letter) -> SmallVec<[Time; 3]> {
        self.sent += 1;
        let link = letter.from.0 * self.members + letter.to;
        if self.cuts[link] > 0 || (self.loss > 0 && self.rng.permille(self.loss)) {
            return SmallVec::new();
        }
        let mut at = now + self.latency.0 + self.rng.exponential(self.latency.1);
        at = at.max(self.clogged[letter.from.0]);
        if !self.reorder {
            at = at.max(self.last[link] + 1);
            self.last[link] = at;
        }
        let mut arrivals = smallvec![at];
        if self.duplicates > 0 && self.rng.permille(self.duplicates) {
            arrivals.push(at + self.rng.exponential(self.latency.1));
        }
        if self.replays > 0 && self.rng.permille(self.replays) {
            arrivals.push(at + self.rng.exponential(self.replay_delay));
        }
        arrivals
    }

    /// Cuts a direction, once more.
    pub fn cut(&mut self, from: NodeNumber, to: NodeNumber) {
        self.cuts[from * self.members + to] += 1;
    }

    /// Undoes one [`Network::cut`].
    pub fn mend(&mut self, from: NodeNumber, to: NodeNumber) {
        self.cuts[from * self.members + to] -= 1;
    }

    /// Whether a letter could get through.
    pub fn is_up(&self, from: NodeNumber, to: NodeNumber) -> bool {
        self.cuts[from * self.members + to] == 0
    }

    /// Holds back what a member sends until `until`.
    pub fn clog(&mut self, from: NodeNumber, until: Time) {
        self.clogged[from] = self.clogged[from].max(until);
    }

    /// From now on nothing is lost, doubled or late, and every link is up.
    pub fn heal(&mut self) {
        self.loss = 0;
        self.duplicates = 0;
        self.replays = 0;
        self.cuts.fill(0);
        self.clogged.fill(0);
        if let Some(wire) = &mut self.wire {
            wire.heal();
        }
    }
}

/// How far apart the pieces of what is sent at once arrive, on average: together half of what the way takes. Were each as far from the
/// next as messages are, a frame in single bytes would take longer than an election, and clients would give up on all they ask.
fn gap(latency: (Time, Time), pieces: usize) -> Time {
    latency.1 / 2 / pieces.max(2) as Time
}
