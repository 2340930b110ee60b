//! What surrounds the members: time, the network between them, the connections of clients, and who watches.

use std::time::Duration;

use bytes::Bytes;
use net::grpc::Method;
use node::api::Error;
use rustc_hash::FxHashMap;

use crate::check::Oracle;
use crate::network::{Letter, Network};
use crate::plan::Config;
use crate::queue::{Queue, Time};
use crate::rng::Rng;
use crate::story::Story;
use crate::wire::Segment;
use crate::wire::link::Chunk;
use crate::wire::snapshots::{Piece, Way};

/// Number of a member, from 0.
pub type NodeNumber = usize;

/// Something happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A core, a timer or a device of a member, in one of its lives.
    Wake(NodeNumber, u32, Wake),
    /// A message between members arrives.
    Letter(Box<Letter>),
    /// Bytes of a connection between members arrive.
    Bytes(Box<Segment>),
    /// Bytes of a snapshot, or of an answer to it, arrive.
    SnapshotBytes(Box<Piece>),
    /// Bytes of an HTTP/2 connection between members arrive.
    Chunk(Box<Chunk>),
    /// A member's connection to another is broken.
    Unreachable {
        /// Who hears of it, in which life.
        from: (NodeNumber, u32),
        /// To whom it was.
        to: NodeNumber,
    },
    /// A member hears what came of a snapshot that it has sent.
    SnapshotSent {
        /// Who sent it, in which life.
        from: (NodeNumber, u32),
        /// To whom.
        to: NodeNumber,
        /// It arrived whole.
        ok: bool,
    },
    /// A member says hello to another.
    Hello {
        /// Who, in which life.
        from: (NodeNumber, u32),
        /// To whom.
        to: NodeNumber,
    },
    /// A member in one of its lives hears that it was removed.
    Removed(NodeNumber, u32),
    /// A client's request arrives.
    Request(Box<Request>),
    /// An answer arrives at its client.
    Answer {
        /// To which operation.
        op: u64,
        /// Of which member, in which life.
        from: (NodeNumber, u32),
        /// The message, or why there is none.
        result: Result<Bytes, Error>,
    },
    /// A message of a watch stream arrives at its client.
    WatchMessage {
        /// Of which stream.
        stream: u64,
        /// A WatchResponse.
        message: Bytes,
    },
    /// A client's time has come: the next operation of the plan.
    Op(usize),
    /// A client has waited long enough for the answer to this operation.
    GiveUp {
        /// Who.
        client: usize,
        /// On what.
        op: u64,
    },
    /// A fault of the plan begins.
    Fault(usize),
    /// It is over.
    FaultOver(usize),
    /// A process starts.
    Boot(NodeNumber),
    /// A process that stood still may go on.
    Resume(NodeNumber),
}

/// What of a member has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The raft core's turn.
    Raft,
    /// The log core's turn.
    Log,
    /// The store core's turn.
    Store,
    /// The client core's turn.
    Client,
    /// Raft's tick is due.
    Tick,
    /// The store core's timer (leases, checkpoints).
    StoreTick,
    /// The client core's timer (deadlines, progress of watches).
    Housekeeping,
    /// The write in flight completes.
    LogWritten,
    /// The idle marker of the log is due.
    LogTimeout,
    /// The background thread goes on preparing a segment.
    Segment,
    /// The background thread goes on writing a checkpoint.
    Checkpoint,
    /// Entries are read back from the log.
    Fetch,
    /// A received snapshot is built into a tree.
    Import,
    /// The tree gets its final name.
    Rename,
    /// Watchers get what the newest version has for them.
    Advance,
    /// A long read goes on.
    Read,
}

/// What a client says to a member.
#[derive(Clone, Debug)]
pub struct Request {
    /// To whom.
    pub to: (NodeNumber, u32),
    /// What.
    pub body: RequestBody,
}

/// See [`Request`].
#[derive(Clone, Debug)]
pub enum RequestBody {
    /// A call with one message.
    Call {
        /// Its number.
        op: u64,
        /// What is asked.
        method: Method,
        /// How.
        message: Bytes,
    },
    /// A Watch call begins.
    OpenWatch(u64),
    /// One message of it.
    Watch(u64, Bytes),
}

/// The client's end of a watch stream.
struct Stream {
    from: (NodeNumber, u32),
    /// Bytes on their way.
    queued: usize,
    /// When the last one of them arrives.
    last: Time,
}

/// See the module's header.
pub struct Env {
    /// The plan's configuration.
    pub config: Config,
    /// Time and what comes.
    pub queue: Queue<Event>,
    /// Between members.
    pub network: Network,
    /// Who watches.
    pub oracle: Oracle,
    /// What is told afterwards.
    pub story: Story,
    /// Of handovers and devices.
    pub schedule: Rng,
    streams: FxHashMap<u64, Stream>,
    /// Hash of all that has happened.
    pub trace: u64,
    /// What members are told is written down, to be told to others: see [`crate::replayed`].
    pub records: bool,
}

impl Env {
    /// The surroundings of a world at time 0.
    pub fn new(seed: u64, config: &Config, story: Story) -> Env {
        Env {
            config: config.clone(),
            queue: Queue::new(Rng::of(seed, "ties", 0)),
            network: Network::new(config, Rng::of(seed, "network", 0)),
            oracle: Oracle::new(config),
            story,
            schedule: Rng::of(seed, "schedule", 0),
            streams: FxHashMap::default(),
            trace: 0,
            records: false,
        }
    }

    /// Mixes something that has happened into the trace.
    pub fn trace(&mut self, value: u64) {
        self.trace = (self.trace.rotate_left(5) ^ value).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    /// True time of a span of a member's clock.
    pub fn true_span(&self, node: NodeNumber, local: Duration) -> Time {
        local.as_nanos() as u64 * 1000 / self.config.clock_rates[node]
    }

    /// What a member's clock has counted in a span of true time.
    pub fn local_span(&self, node: NodeNumber, span: Time) -> Duration {
        Duration::from_nanos((u128::from(span) * u128::from(self.config.clock_rates[node]) / 1000) as u64)
    }

    /// How long a handover from core to core takes.
    pub fn handover(&mut self) -> Time {
        let mean = self.config.handover;
        let slow = self.config.slow_handovers > 0 && self.schedule.permille(self.config.slow_handovers);
        self.schedule.exponential(if slow { 100 * mean } else { mean })
    }

    /// How long something takes that takes at least `least`, and `more` longer on average.
    pub fn takes(&mut self, (least, more): (Time, Time)) -> Time {
        least + self.schedule.exponential(more)
    }

    /// A member sends to another. False: it was dropped, for there is no connection, or too much waits for it.
    pub fn send(&mut self, letter: Letter) -> bool {
        let now = self.queue.now();
        if let Some(lanes) = self.network.lanes() {
            let sent = lanes.send(letter.from.0, letter.to, &letter.message);
            self.network.sent += 1;
            if sent == Err(true) {
                let takes = self.config.latency.0;
                self.queue.after(takes, Event::Unreachable { from: letter.from, to: letter.to });
            }
            return sent.is_ok();
        }
        if self.network.is_wire() {
            let stream = self.network.stream(now, &letter);
            for (at, segment) in stream.segments {
                self.queue.at(at, Event::Bytes(Box::new(segment)));
            }
            if stream.broken {
                let takes = self.config.latency.0;
                self.queue.after(takes, Event::Unreachable { from: letter.from, to: letter.to });
            }
            return true;
        }
        let mut arrivals = self.network.arrivals(now, &letter);
        let last = arrivals.pop();
        for at in arrivals {
            self.queue.at(at, Event::Letter(Box::new(letter.clone())));
        }
        if let Some(at) = last {
            self.queue.at(at, Event::Letter(Box::new(letter)));
        }
        true
    }

    /// Members hear that another one is there.
    pub fn greets(&self) -> bool {
        self.config.membership.is_some() || self.config.http2.is_some()
    }

    /// A member sees to it that it is connected to another, in worlds with connections. True: it is.
    pub fn keep_up(&mut self, from: (NodeNumber, u32), to: NodeNumber) -> bool {
        let now = self.queue.now();
        self.network.keep_up(now, from, to)
    }

    /// A member has nothing to do with another any more.
    pub fn part(&mut self, own: NodeNumber, peer: NodeNumber) {
        if let Some(lanes) = self.network.lanes() {
            lanes.part(own, peer);
        }
    }

    /// A member says hello to another: if the link is up, it is heard. Where there are connections, they begin with it.
    pub fn hello(&mut self, from: (NodeNumber, u32), to: NodeNumber) {
        if self.config.http2.is_none() && self.network.is_up(from.0, to) {
            let takes = self.takes(self.config.latency);
            self.queue.after(takes, Event::Hello { from, to });
        }
    }

    /// A member refuses another that was removed, which hears it if the link is up.
    pub fn refuse(&mut self, by: NodeNumber, who: (NodeNumber, u32)) {
        if self.config.http2.is_some() {
            return self.part(by, who.0); // it hears it when it connects again
        }
        if self.network.is_up(by, who.0) {
            let takes = self.takes(self.config.latency);
            self.queue.after(takes, Event::Removed(who.0, who.1));
        }
    }

    /// A member sends a snapshot, which takes its time; the sender hears what came of it.
    pub fn send_snapshot(&mut self, letter: Letter) {
        let now = self.queue.now();
        if let Some((lanes, snapshots)) = self.network.lanes_and_snapshots() {
            return snapshots.send_over(lanes, now, letter);
        }
        if self.network.is_wire() {
            let way = (letter.from, letter.to);
            let pieces = self.network.snapshots().send(letter);
            return self.send_pieces(way, pieces);
        }
        let takes = self.schedule.exponential(self.config.election());
        let (from, to) = (letter.from, letter.to);
        match self.network.arrivals(now, &letter).first() {
            Some(at) => self.queue.at(at + takes, Event::Letter(Box::new(letter))),
            None => self.queue.after(takes, Event::SnapshotSent { from, to, ok: false }),
        }
    }

    /// Bytes of a snapshot leave.
    pub fn send_pieces(&mut self, way: Way, pieces: Vec<Piece>) {
        match self.network.pass(self.queue.now(), &pieces) {
            Some(arrivals) => arrivals.into_iter().zip(pieces).for_each(|(at, piece)| {
                self.queue.at(at, Event::SnapshotBytes(Box::new(piece)));
            }),
            None => self.abandon_snapshot(way),
        }
    }

    /// A snapshot does not arrive; its sender hears of it.
    pub fn abandon_snapshot(&mut self, way: Way) {
        if let Some((from, to)) = self.network.snapshots().abandon(way) {
            self.snapshot_failed((from, to));
        }
    }

    /// The sender of a snapshot hears that it has not arrived.
    pub fn snapshot_failed(&mut self, (from, to): Way) {
        let takes = self.schedule.exponential(self.config.election());
        self.queue.after(takes, Event::SnapshotSent { from, to, ok: false });
    }

    /// A member answers a client.
    pub fn answer(&mut self, from: (NodeNumber, u32), op: u64, result: Result<Bytes, Error>) {
        let takes = self.takes(self.config.latency);
        self.queue.after(takes, Event::Answer { op, from, result });
    }

    /// A client opens a stream to a member.
    pub fn open_stream(&mut self, stream: u64, from: (NodeNumber, u32)) {
        self.streams.insert(stream, Stream { from, queued: 0, last: 0 });
    }

    /// A stream is over.
    pub fn close_stream(&mut self, stream: u64) {
        self.streams.remove(&stream);
    }

    /// A member sends on a stream, in order.
    pub fn send_stream(&mut self, stream: u64, message: &[u8]) {
        let takes = self.takes(self.config.latency);
        let Some(state) = self.streams.get_mut(&stream) else { return };
        state.queued += message.len();
        state.last = state.last.max(self.queue.now() + takes) + 1;
        let message = Bytes::copy_from_slice(message);
        self.queue.at(state.last, Event::WatchMessage { stream, message });
    }

    /// Bytes on their way to the client.
    pub fn queued_bytes(&self, stream: u64) -> usize {
        self.streams.get(&stream).map_or(0, |stream| stream.queued)
    }

    /// A message has arrived. Whose stream it is, if it is still open.
    pub fn delivered(&mut self, stream: u64, bytes: usize) -> Option<(NodeNumber, u32)> {
        let state = self.streams.get_mut(&stream)?;
        state.queued -= bytes;
        Some(state.from)
    }
}
