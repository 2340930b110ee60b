//! What goes wrong, as the plan says.

use super::World;
use crate::env::{Event, NodeNumber};
use crate::member::Moment;
use crate::plan::FaultKind;

/// Bytes that a full disk has left, less than.
const FULL_ROOM_BYTES: u64 = 256 << 10;

impl World {
    pub(super) fn fault(&mut self, number: usize) {
        if self.healed {
            return;
        }
        let fault = self.plan.faults[number];
        self.faults[fault.kind as usize] += 1;
        let now = self.env.queue.now();
        let until = now + fault.lasts;
        let node = fault.node;
        self.env.story.tell(now, || "world".to_owned(), || format!("{fault:?}"));
        match fault.kind {
            FaultKind::Kill | FaultKind::PowerCut => {
                self.crash(node, fault.kind == FaultKind::PowerCut, fault.draw);
                self.env.queue.at(until, Event::Boot(node));
            }
            FaultKind::CutAtMoment => {
                let moment = Moment::ALL[fault.draw as usize % Moment::ALL.len()];
                self.hosts[node].armed = Some((moment, fault.draw, fault.lasts));
            }
            FaultKind::Flip | FaultKind::LostWrite | FaultKind::MisdirectedWrite | FaultKind::StaleRead => {
                self.lie(node, fault.kind, fault.draw);
                self.env.queue.at(until, Event::Boot(node));
            }
            FaultKind::DiskFull => {
                self.hosts[node].disk.fill_up((fault.draw % FULL_ROOM_BYTES) as usize);
                self.env.queue.at(until, Event::FaultOver(number));
            }
            FaultKind::Pause => {
                let host = &mut self.hosts[node];
                host.paused_until = host.paused_until.max(until);
                self.env.queue.at(host.paused_until, Event::Resume(node));
            }
            FaultKind::DiskStall => {
                if let Some(member) = &mut self.hosts[node].member {
                    member.stall_disk(until);
                }
            }
            FaultKind::WriteError => {
                if let Some(member) = &mut self.hosts[node].member {
                    member.fail_next_write();
                }
            }
            FaultKind::Clog => self.env.network.clog(node, until),
            FaultKind::Isolate
            | FaultKind::Mute
            | FaultKind::Deaf
            | FaultKind::Split
            | FaultKind::CutLink => {
                for (from, to) in self.links(number) {
                    self.env.network.cut(from, to);
                }
                self.env.queue.at(until, Event::FaultOver(number));
            }
        }
    }

    pub(super) fn fault_over(&mut self, number: usize) {
        let fault = self.plan.faults[number];
        if fault.kind == FaultKind::DiskFull {
            self.hosts[fault.node].disk.make_room();
        }
        if !self.healed {
            for (from, to) in self.links(number) {
                self.env.network.mend(from, to);
            }
        }
    }

    /// The links that a fault of the network cuts.
    fn links(&self, number: usize) -> Vec<(NodeNumber, NodeNumber)> {
        let fault = self.plan.faults[number];
        let members = self.hosts.len();
        let node = fault.node;
        let is_cut = |from: NodeNumber, to: NodeNumber| match fault.kind {
            FaultKind::Isolate => from == node || to == node,
            FaultKind::Mute => from == node,
            FaultKind::Deaf => to == node,
            FaultKind::Split => (fault.draw >> from & 1) != (fault.draw >> to & 1),
            FaultKind::CutLink => {
                let next = (node + 1) % members;
                (from, to) == (node, next) || (from, to) == (next, node)
            }
            _ => false,
        };
        let all = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to && is_cut(*from, *to)).collect()
    }
}
