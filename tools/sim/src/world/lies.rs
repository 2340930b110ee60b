//! Disks that lie, and how many may.
//!
//! What a majority has stored must survive, so a cluster bears lies of a minority of those who vote at the time, and must get over
//! them. Beyond that nobody can promise that it goes on; but whoever finds out that his disk has lied stops or stands by, and so
//! what is still answered is right. A world comes to be beyond because it is a reckless one, or because members leave while others
//! are damaged.

use super::World;
use crate::disk::DiskLie;
use crate::env::NodeNumber;
use crate::member::node_id;
use crate::plan::FaultKind;
use crate::rng::Rng;

impl World {
    /// The power fails, and the disk lies, if a majority of sound disks is left.
    pub(super) fn lie(&mut self, node: NodeNumber, kind: FaultKind, draw: u64) {
        self.crash(node, true, draw);
        let may = self.plan.config.reckless || self.hosts[node].flipped || self.is_bearable_with(node);
        if may && self.hosts[node].disk.lie(lie_of(kind), &mut Rng::new(draw)) {
            self.hosts[node].flipped = true;
            self.lies += 1;
            self.beyond |= !self.are_liars_few();
        }
    }

    /// Whether the membership, as it is by now, leaves the liars a minority.
    pub(super) fn judge_liars(&mut self) {
        let changes = self.env.oracle.members.changes();
        if std::mem::replace(&mut self.changes_judged, changes) != changes {
            self.beyond |= !self.are_liars_few();
        }
    }

    fn votes(&self, node: NodeNumber) -> bool {
        self.env.oracle.members.votes(node_id(node).0)
    }

    fn liars_and_voters(&self) -> (usize, usize) {
        let voters = (0..self.hosts.len()).filter(|node| self.votes(*node));
        voters.fold((0, 0), |(liars, all), node| (liars + usize::from(self.hosts[node].flipped), all + 1))
    }

    fn are_liars_few(&self) -> bool {
        let (liars, voters) = self.liars_and_voters();
        liars == 0 || liars * 2 < voters
    }

    /// The same, if this one were a liar, too.
    fn is_bearable_with(&self, node: NodeNumber) -> bool {
        let (liars, voters) = self.liars_and_voters();
        (liars + usize::from(self.votes(node))) * 2 < voters
    }
}

fn lie_of(kind: FaultKind) -> DiskLie {
    match kind {
        FaultKind::LostWrite => DiskLie::Lost,
        FaultKind::MisdirectedWrite => DiskLie::Misdirected,
        FaultKind::StaleRead => DiskLie::Stale,
        _ => DiskLie::Flip,
    }
}
