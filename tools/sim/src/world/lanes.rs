//! HTTP/2 connections between members: who is let in, and who hears what of them.

use consensus::Lane;
use node::peer::Refusal;

use super::{Done, World};
use crate::check::fail;
use crate::env::{Event, NodeNumber};
use crate::member::Member;
use crate::network::Letter;
use crate::queue::Time;
use crate::wire::link::{Came, Chunk, Name};

/// Elections after which a snapshot is given up of which nothing was acknowledged. (Production: a minute, of which it waits for
/// the end of a stall at most as long.)
const PROGRESS_ELECTIONS: Time = 20;

impl World {
    pub(super) fn chunk(&mut self, chunk: Chunk) -> Done {
        let now = self.env.queue.now();
        let host = &self.hosts[chunk.to()];
        let runs = host.member.is_some() || host.healing.is_some();
        let life = runs.then_some(host.life);
        self.env.trace(chunk.name.number << 1 | u64::from(chunk.back));
        self.env.network.lanes().map_or(Ok(()), |lanes| lanes.arrive(now, chunk, life))
    }

    /// A tick of a member.
    pub(super) fn tend_lanes(&mut self, number: NodeNumber) -> Done {
        let now = self.env.queue.now();
        self.env.network.tick_lanes(now, number)?;
        let patience = PROGRESS_ELECTIONS * self.plan.config.election();
        let Some((lanes, snapshots)) = self.env.network.lanes_and_snapshots() else { return Ok(()) };
        for way in snapshots.tick(lanes, now, number, patience) {
            self.env.snapshot_failed(way);
        }
        Ok(())
    }

    /// Whatever has happened on connections has its consequences, and what can leave, leaves.
    pub(super) fn see_to_lanes(&mut self) -> Done {
        let now = self.env.queue.now();
        while let Some(number) = self.env.network.lanes().and_then(|lanes| lanes.touched()) {
            while let Some((name, came)) = self.env.network.lanes().and_then(|lanes| lanes.next(now, number))
            {
                self.came(name, came)?;
            }
            for (at, chunk) in self.env.network.transmit(now, number)? {
                self.env.queue.at(at, Event::Chunk(Box::new(chunk)));
            }
        }
        Ok(())
    }

    fn came(&mut self, name: Name, came: Came) -> Done {
        let now = self.env.queue.now();
        self.tell_of(name, &came);
        let Some((lanes, snapshots)) = self.env.network.lanes_and_snapshots() else { return Ok(()) };
        match came {
            Came::Hello(_) => {
                let verdict = self.verdict(name);
                self.env.network.lanes().into_iter().for_each(|lanes| lanes.answer(name, verdict));
            }
            Came::Message(message) => {
                self.letter(Letter { from: name.from, to: name.to, message, snapshot: None })?;
            }
            Came::Forth(frame) => {
                if let Some(letter) = snapshots.receive_over(lanes, name, frame)? {
                    self.letter(letter)?;
                }
            }
            Came::Back(frame) => {
                if let Some(way) = snapshots.answered_over(lanes, now, name, &frame) {
                    self.env.snapshot_failed(way);
                }
            }
            Came::Open if name.lane == Lane::Snapshot => snapshots.opened(lanes, name),
            Came::Open => {
                let both = lanes.opened(name);
                self.lane_opened(name, both);
            }
            Came::Refused(refusal) => {
                self.lane_over(name);
                if refusal == Refusal::Removed && self.dialing(name).is_some() {
                    self.leave(name.from.0, "a peer says that it was removed");
                } else if !matches!(refusal, Refusal::Removed | Refusal::Busy) {
                    return fail("wire", format!("{name:?} was refused: {refusal}"));
                }
            }
            Came::Over => self.lane_over(name),
        }
        Ok(())
    }

    fn tell_of(&mut self, name: Name, came: &Came) {
        let what = match came {
            Came::Open => "is open",
            Came::Refused(_) => "is refused",
            Came::Over => "is over",
            _ => return,
        };
        let (now, (from, life)) = (self.env.queue.now(), name.from);
        let (number, lane, to) = (name.number, name.lane, name.to);
        self.env.story.tell(
            now,
            || format!("member {from}.{life}"),
            || format!("{lane:?} connection #{number} to member {to} {what}"),
        );
    }

    /// The member that has dialed, if it still lives.
    fn dialing(&mut self, name: Name) -> Option<&mut Member> {
        let host = &mut self.hosts[name.from.0];
        host.member.as_mut().filter(|_| host.life == name.from.1)
    }

    fn verdict(&mut self, name: Name) -> Result<(), Refusal> {
        let host = &mut self.hosts[name.to];
        if let Some(healing) = &mut host.healing {
            return if healing.judge(name.from.0) { Ok(()) } else { Err(Refusal::Removed) };
        }
        let Some(member) = &mut host.member else { return Err(Refusal::Busy) };
        match (member.judge(name.from.0), member.serves_writes()) {
            (true, _) => Ok(()),
            (false, true) => Err(Refusal::Removed),
            (false, false) => Err(Refusal::Busy),
        }
    }

    fn lane_opened(&mut self, name: Name, both: bool) {
        let host = &mut self.hosts[name.from.0];
        if let (Some(member), true) = (&mut host.member, host.life == name.from.1) {
            member.lane_opened(&mut self.env, name.to, name.lane, both);
        }
    }

    fn lane_over(&mut self, name: Name) {
        let now = self.env.queue.now();
        let pause = self.plan.config.election() / 4;
        let Some((lanes, snapshots)) = self.env.network.lanes_and_snapshots() else { return };
        if name.lane == Lane::Snapshot {
            return snapshots.lost(now, pause, name);
        }
        let tells = lanes.closed(name);
        let host = &mut self.hosts[name.from.0];
        if let (Some(member), true) = (&mut host.member, host.life == name.from.1) {
            member.lane_closed(name.to);
            if tells {
                member.unreachable(&mut self.env, name.to);
            }
        }
    }
}
