//! The HTTP/2 connections between members ([`Link`]), as the server's edge keeps them: each member dials each other once for each
//! standing lane, again after a pause when that has failed, and once more for each attempt to bring a snapshot over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use consensus::{Lane, PeerMessage};
use net::h2::limits::STREAM_WINDOW;
use node::peer::snapshot::SnapshotFrame;
use node::peer::{Backoff, Dropped, LaneConfig, Refusal};

use super::link::{Came, Chunk, Link, Name};
use crate::check::Failure;
use crate::env::NodeNumber;
use crate::plan::Config;
use crate::queue::{S, Time};
use crate::rng::Rng;

/// Elections for which a peer may be silent, and for which what was sent may stay unconfirmed: production's relations.
const READ_TIMEOUT_ELECTIONS: Time = 5;
const STALL_ELECTIONS: Time = 2;

/// Bytes that may wait to be sent on the vital lane, on the others, and on both where windows are so small that the lanes are slow.
const VITAL_BYTES_MAX: usize = 256 << 10;
const BULK_BYTES_MAX: usize = 16 << 20;
const SLOW_VITAL_BYTES_MAX: usize = 2 << 10;
const SLOW_BULK_BYTES_MAX: usize = 32 << 10;

/// Production pauses as if an election took so long.
const ELECTION: Time = S;

/// Messages are lost with their connection; a connection carries several at once.
const RESETS_SHARE: usize = 8;

/// And through tiny windows each leaves in many pieces, with any of which the connection may break.
const SLOW_RESETS_SHARE: usize = 100;

/// A standing lane to a peer.
struct Standing {
    link: Option<u64>,
    is_open: bool,
    backoff: Backoff,
    /// It is not dialed before.
    not_before: Time,
    /// The owner knows that messages are being dropped.
    is_told: bool,
}

/// See the module's header.
pub struct Lanes {
    members: usize,
    window: u32,
    election: Time,
    /// From each to each, vital and bulk.
    standing: Vec<Standing>,
    links: BTreeMap<u64, Link>,
    count: u64,
    /// Where something has happened that is not seen to.
    touched: VecDeque<u64>,
    pub(super) resets: usize,
    pub(super) flips: usize,
    rng: Rng,
    /// Connections that were let in.
    pub opened: u64,
    /// Damaged bits that were noticed.
    pub noticed: u64,
}

impl Lanes {
    /// Nobody has dialed anybody.
    pub fn new(config: &Config, window: u32, flips: usize, mut rng: Rng) -> Lanes {
        let members = config.hosts();
        let standing = |_| Standing {
            link: None,
            is_open: false,
            backoff: Backoff::new(rng.next()),
            not_before: 0,
            is_told: false,
        };
        Lanes {
            standing: (0..members * members * 2).map(standing).collect(),
            members,
            window,
            election: config.election(),
            links: BTreeMap::new(),
            count: 0,
            touched: VecDeque::new(),
            resets: config.loss.div_ceil(if window < STREAM_WINDOW {
                SLOW_RESETS_SHARE
            } else {
                RESETS_SHARE
            }),
            flips,
            rng,
            opened: 0,
            noticed: 0,
        }
    }

    fn standing(&mut self, from: NodeNumber, to: NodeNumber, lane: Lane) -> &mut Standing {
        let lane = usize::from(lane != Lane::Vital);
        &mut self.standing[(from * self.members + to) * 2 + lane]
    }

    fn config(&self, lane: Lane) -> LaneConfig {
        let slow = self.window < STREAM_WINDOW;
        let send_bytes_limit = match lane {
            Lane::Vital if slow => SLOW_VITAL_BYTES_MAX,
            Lane::Bulk if slow => SLOW_BULK_BYTES_MAX,
            Lane::Vital => VITAL_BYTES_MAX,
            Lane::Bulk | Lane::Snapshot => BULK_BYTES_MAX,
        };
        let read_timeout = Duration::from_nanos(READ_TIMEOUT_ELECTIONS * self.election);
        LaneConfig { read_timeout, send_bytes_limit, stream_window: self.window }
    }

    /// Dials a lane of a snapshot.
    pub fn dial(&mut self, now: Time, from: (NodeNumber, u32), to: NodeNumber, lane: Lane) -> u64 {
        self.count += 1;
        let name = Name { from, to, lane, number: self.count };
        self.links.insert(name.number, Link::dial(name, self.config(lane), now));
        self.touch(name.number);
        name.number
    }

    /// Dials the standing lanes that are down and whose pause is over; in vain if the way is cut. True: both are up.
    pub fn keep_up(&mut self, now: Time, from: (NodeNumber, u32), to: NodeNumber, is_up: bool) -> bool {
        for lane in [Lane::Vital, Lane::Bulk] {
            let standing = self.standing(from.0, to, lane);
            if standing.link.is_some() || now < standing.not_before {
                continue;
            }
            if is_up {
                let number = self.dial(now, from, to, lane);
                self.standing(from.0, to, lane).link = Some(number);
            } else {
                self.pause(now, now, from.0, to, lane);
            }
        }
        [Lane::Vital, Lane::Bulk].into_iter().all(|lane| self.standing(from.0, to, lane).is_open)
    }

    fn pause(&mut self, now: Time, dialed_at: Time, from: NodeNumber, to: NodeNumber, lane: Lane) {
        let election = self.election;
        let in_production =
            |span: Time| (u128::from(span) * u128::from(ELECTION) / u128::from(election)) as u64;
        let stood = Duration::from_nanos(in_production(now - dialed_at));
        let standing = self.standing(from, to, lane);
        let pause = standing.backoff.pause(stood).as_nanos() * u128::from(election) / u128::from(ELECTION);
        standing.not_before = now + pause as Time;
    }

    /// Sends a message on its standing lane.
    ///
    /// # Errors
    /// It was dropped; `true` if the sender is to hear of that.
    pub fn send(&mut self, from: NodeNumber, to: NodeNumber, message: &PeerMessage) -> Result<(), bool> {
        let lane = message.lane();
        let number = self.standing(from, to, lane).link;
        let sent = number.and_then(|number| self.links.get_mut(&number)).map(|link| link.send(message));
        let standing = self.standing(from, to, lane);
        match (sent, number) {
            (Some(Ok(())), Some(number)) => {
                standing.is_told = false;
                self.touch(number);
                Ok(())
            }
            _ => Err(!std::mem::replace(&mut standing.is_told, true)),
        }
    }

    /// Sends a frame of a snapshot, or of an answer to it.
    ///
    /// # Errors
    /// It was dropped.
    pub fn send_frame(&mut self, number: u64, back: bool, frame: &SnapshotFrame) -> Result<(), Dropped> {
        self.touch(number);
        self.links.get_mut(&number).ok_or(Dropped::NotOpen)?.send_frame(back, frame)
    }

    /// Answers a hello. One who is let in is heard on this connection only.
    pub fn answer(&mut self, name: Name, verdict: Result<(), Refusal>) {
        if verdict.is_ok() {
            let before = |link: &Link| {
                let other = link.name;
                (other.from.0, other.to, other.lane) == (name.from.0, name.to, name.lane)
                    && other.number < name.number
            };
            self.drop_accepted(before);
        }
        if let Some(link) = self.links.get_mut(&name.number) {
            link.answer(name.lane, verdict);
        }
        self.touch(name.number);
    }

    /// A member hears nothing more of a peer, and says nothing more to it.
    pub fn part(&mut self, own: NodeNumber, peer: NodeNumber) {
        self.drop_accepted(|link| (link.name.to, link.name.from.0) == (own, peer));
        let dialed = |link: &Link| (link.name.from.0, link.name.to) == (own, peer);
        let numbers: Vec<u64> =
            self.links.values().filter(|link| dialed(link)).map(|link| link.name.number).collect();
        numbers.into_iter().for_each(|number| self.hang_up(number));
        for lane in [Lane::Vital, Lane::Bulk] {
            let standing = self.standing(own, peer, lane);
            (standing.link, standing.is_open) = (None, false);
        }
    }

    /// Ends a connection from its dialing end.
    pub fn hang_up(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number) {
            link.hang_up(true);
            self.touch(number);
        }
    }

    fn drop_accepted(&mut self, which: impl Fn(&Link) -> bool) {
        for (number, link) in self.links.iter_mut().filter(|(_, link)| which(link)) {
            link.drop_accepted(true);
            self.touched.push_back(*number);
        }
    }

    /// A process ends, of itself or because its machine has lost power: then nobody hears of it.
    pub fn reset(&mut self, node: NodeNumber, says: bool) {
        for (number, link) in &mut self.links {
            if link.name.from.0 == node {
                link.hang_up(says);
                self.touched.push_back(*number);
            } else if link.name.to == node {
                link.drop_accepted(says);
                self.touched.push_back(*number);
            }
        }
        for to in 0..self.members {
            for lane in [Lane::Vital, Lane::Bulk] {
                let standing = self.standing(node, to, lane);
                (standing.link, standing.is_open, standing.not_before) = (None, false, 0);
                standing.is_told = false;
            }
        }
    }

    // What happens on them.

    fn touch(&mut self, number: u64) {
        if self.touched.back() != Some(&number) {
            self.touched.push_back(number);
        }
    }

    /// A connection that is to be seen to: [`Lanes::next`] until it has nothing to tell, then [`Lanes::transmit`].
    pub fn touched(&mut self) -> Option<u64> {
        self.touched.pop_front()
    }

    /// Bytes arrive at a member that runs in this life, or does not run.
    ///
    /// # Errors
    /// See [`Link::arrive`].
    pub fn arrive(&mut self, now: Time, chunk: Chunk, life: Option<u32>) -> Result<(), Failure> {
        let number = chunk.name.number;
        let Some(link) = self.links.get_mut(&number) else { return Ok(()) };
        link.arrive(now, chunk, life)?;
        self.touch(number);
        Ok(())
    }

    /// Time passes at a member. `is_up`: whether bytes get from the first to the second.
    ///
    /// # Errors
    /// See [`Link::tick`].
    pub fn tick(
        &mut self,
        now: Time,
        node: NodeNumber,
        is_up: impl Fn(NodeNumber, NodeNumber) -> bool,
    ) -> Result<(), Failure> {
        let stall = STALL_ELECTIONS * self.election;
        for (number, link) in &mut self.links {
            let (from, to) = (link.name.from.0, link.name.to);
            if from != node && to != node {
                continue;
            }
            link.tick(now, node)?;
            match link.stuck {
                Some(_) if is_up(from, to) && is_up(to, from) && !link.is_silent => link.stuck = None,
                Some(since) if from == node && now - since >= stall => link.lost(),
                _ => {}
            }
            self.touched.push_back(*number);
        }
        Ok(())
    }

    /// What a connection tells next.
    pub fn next(&mut self, now: Time, number: u64) -> Option<(Name, Came)> {
        let link = self.links.get_mut(&number)?;
        self.noticed += u64::from(link.take_noticed());
        let Some(came) = link.next() else {
            if link.is_over() && !link.has_output(false) && !link.has_output(true) {
                self.links.remove(&number);
            }
            return None;
        };
        let (name, dialed_at) = (link.name, link.dialed_at);
        match &came {
            Came::Open => self.opened += 1,
            Came::Over | Came::Refused(_) if name.lane != Lane::Snapshot => {
                let standing = self.standing(name.from.0, name.to, name.lane);
                if standing.link == Some(number) {
                    standing.link = None;
                    self.pause(now, dialed_at, name.from.0, name.to, name.lane);
                }
            }
            _ => {}
        }
        Some((name, came))
    }

    /// A standing lane is open. True: so is the other.
    pub fn opened(&mut self, name: Name) -> bool {
        let standing = self.standing(name.from.0, name.to, name.lane);
        (standing.is_open, standing.is_told) = (true, false);
        [Lane::Vital, Lane::Bulk].into_iter().all(|lane| self.standing(name.from.0, name.to, lane).is_open)
    }

    /// A standing lane is over. True: it was open, and its owner does not know yet that messages are being dropped.
    pub fn closed(&mut self, name: Name) -> bool {
        let standing = self.standing(name.from.0, name.to, name.lane);
        std::mem::take(&mut standing.is_open) && !std::mem::replace(&mut standing.is_told, true)
    }

    /// The connection of this number.
    pub(crate) fn link(&mut self, number: u64) -> Option<&mut Link> {
        self.links.get_mut(&number)
    }

    /// What leaves on a connection now, forth or back.
    ///
    /// # Errors
    /// See [`Link::transmit`].
    pub(crate) fn transmit(&mut self, now: Time, number: u64, back: bool) -> Result<Vec<Chunk>, Failure> {
        let (faults, rng) = ((self.resets, self.flips), &mut self.rng);
        let Some(link) = self.links.get_mut(&number) else { return Ok(Vec::new()) };
        link.transmit(now, back, faults, rng)
    }

    /// No connection breaks any more.
    pub(super) fn heal(&mut self) {
        (self.resets, self.flips) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::plan::Plan;
    use crate::queue::MS;

    /// Two members and the bytes between them.
    struct Pair {
        lanes: Lanes,
        under_way: VecDeque<Chunk>,
        now: Time,
        arrived: Vec<u64>,
        verdict: Result<(), Refusal>,
        refused: Vec<Refusal>,
        over: usize,
    }

    impl Pair {
        fn new(window: u32, resets: usize, flips: usize) -> Pair {
            let mut config = Plan::draw_for(1, Some(3)).config;
            let share = if window < STREAM_WINDOW { SLOW_RESETS_SHARE } else { RESETS_SHARE };
            (config.tick, config.election_ticks, config.loss) = (100 * MS, 10, resets * share);
            Pair {
                lanes: Lanes::new(&config, window, flips, Rng::new(7)),
                under_way: VecDeque::new(),
                now: 0,
                arrived: Vec::new(),
                verdict: Ok(()),
                refused: Vec::new(),
                over: 0,
            }
        }

        /// Everything that can happen now happens.
        fn settle(&mut self) -> Result<(), Failure> {
            loop {
                while let Some(number) = self.lanes.touched() {
                    while let Some((name, came)) = self.lanes.next(self.now, number) {
                        match came {
                            Came::Hello(_) => self.lanes.answer(name, self.verdict),
                            Came::Message(message) => {
                                let PeerMessage::Request { id, .. } = *message else { panic!("a request") };
                                self.arrived.push(id);
                            }
                            Came::Open => drop(self.lanes.opened(name)),
                            Came::Refused(refusal) => self.refused.push(refusal),
                            Came::Over => {
                                self.over += 1;
                                self.lanes.closed(name);
                            }
                            Came::Forth(_) | Came::Back(_) => panic!("no snapshot is under way"),
                        }
                    }
                    for back in [false, true] {
                        self.under_way.extend(self.lanes.transmit(self.now, number, back)?);
                    }
                }
                let Some(chunk) = self.under_way.pop_front() else { return Ok(()) };
                self.lanes.arrive(self.now, chunk, Some(1))?;
            }
        }

        /// A while passes.
        fn pass(&mut self, time: Time) -> Result<(), Failure> {
            self.now += time;
            self.lanes.keep_up(self.now, (0, 1), 1, true);
            for node in [0, 1] {
                self.lanes.tick(self.now, node, |_, _| true)?;
            }
            self.settle()
        }

        fn send(&mut self, id: u64) -> Result<(), bool> {
            let message = PeerMessage::Request { id, body: Bytes::from(vec![id as u8; id as usize % 300]) };
            self.lanes.send(0, 1, &message)
        }
    }

    #[test]
    fn sound_connections_bring_everything_and_others_what_they_can() {
        let all: Vec<u64> = (0..2000).collect();
        let mut ends = BTreeSet::new();
        for (window, resets, flips) in [
            (STREAM_WINDOW, 0, 0),
            (1, 0, 0),
            (33, 0, 0),
            (STREAM_WINDOW, 30, 0),
            (STREAM_WINDOW, 0, 30),
            (50, 2, 2),
        ] {
            let mut pair = Pair::new(window, resets, flips);
            pair.pass(0).expect("it is let in");
            let mut sent = Vec::new();
            for id in &all {
                if pair.send(*id).is_ok() {
                    sent.push(*id);
                }
                pair.pass(10 * MS).expect("what was sent, or nothing");
            }
            pair.lanes.heal();
            for _ in 0..100 {
                pair.pass(500 * MS).expect("what was sent, or nothing");
            }
            assert!(pair.arrived.is_sorted() && pair.arrived.iter().all(|id| sent.binary_search(id).is_ok()));
            let is_sound = resets + flips == 0;
            assert_eq!(pair.lanes.opened == 2, is_sound, "one connection for each lane");
            assert_eq!(pair.arrived == all, is_sound, "{window} {resets} {flips}: {}", pair.arrived.len());
            assert_eq!(pair.over == 0, is_sound, "{window} {resets} {flips}");
            assert_eq!(pair.lanes.noticed > 0, flips > 0, "{window} {resets} {flips}");
            assert!(pair.arrived.len() > 300, "{window} {resets} {flips}: {}", pair.arrived.len());
            assert!(pair.lanes.links.len() <= 4, "connections that are over are forgotten");
            ends.insert(pair.arrived.len());
        }
        assert!(ends.len() > 3, "{ends:?}");
    }

    #[test]
    fn what_is_not_what_was_sent_is_found_out() {
        let mut pair = Pair::new(STREAM_WINDOW, 0, 0);
        pair.pass(0).expect("it is let in");
        pair.send(1).expect("it goes out");
        let number = pair.lanes.standing(0, 1, Lane::Bulk).link.expect("it is up");
        let other = PeerMessage::Request { id: 2, body: Bytes::new() };
        pair.lanes.links.get_mut(&number).expect("it is there").expect_instead(other);
        assert_eq!(pair.settle().map_err(|failure| failure.checker), Err("wire"));
    }

    #[test]
    fn who_is_refused_hears_why_and_tries_again_after_a_pause() {
        let mut pair = Pair::new(STREAM_WINDOW, 0, 0);
        pair.verdict = Err(Refusal::Removed);
        pair.pass(0).expect("a refusal is no mistake");
        assert_eq!(pair.refused, [Refusal::Removed; 2]);
        assert_eq!(pair.send(1), Err(true), "the sender hears that it was dropped");
        assert_eq!(pair.send(2), Err(false), "once");
        pair.pass(MS).expect("nothing happens");
        assert_eq!(pair.refused.len(), 2);
        pair.verdict = Ok(());
        pair.pass(S).expect("it is let in");
        assert_eq!((pair.send(3), pair.refused.len()), (Ok(()), 2));
    }

    #[test]
    fn a_process_that_is_gone_is_missed() {
        for says in [true, false] {
            let mut pair = Pair::new(STREAM_WINDOW, 0, 0);
            pair.pass(0).expect("it is let in");
            pair.lanes.reset(1, says);
            pair.settle().expect("it is over");
            assert_eq!(pair.over > 0, says, "a machine without power says nothing");
            for _ in 0..20 {
                pair.send(1).unwrap_or_default();
                pair.pass(100 * MS).expect("it is dialed anew");
            }
            assert!(pair.over >= 2 && pair.arrived.contains(&1), "{says}: {} {:?}", pair.over, pair.arrived);
        }
    }
}
