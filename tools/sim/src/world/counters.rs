//! What happens in worlds, counted.

use crate::plan::FaultKind;
use crate::queue::Time;

/// What has happened, so that a test can say that it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Nanoseconds simulated.
    pub simulated: Time,
    /// Events.
    pub events: u64,
    /// Processes ended.
    pub crashes: u64,
    /// Damaged members repaired.
    pub repairs: u64,
    /// Entries committed.
    pub entries: u64,
    /// The newest revision.
    pub revisions: u64,
    /// Answers checked.
    pub answers: u64,
    /// Watch events checked.
    pub watched: u64,
    /// Changes of who votes, those with which the cluster began included.
    pub changes: u64,
    /// Messages between members.
    pub letters: u64,
    /// Of these, damaged on their way and noticed.
    pub damaged: u64,
    /// HTTP/2 connections between members that were let in.
    pub opened: u64,
    /// Snapshots that went on over another connection.
    pub resumed: u64,
    /// Leaders elected.
    pub leaders: u64,
    /// Snapshots that members took.
    pub snapshots: u64,
    /// Writes that were refused because of an alarm, or answered with that the quota is used up.
    pub no_space: u64,
    /// Tree files cut.
    pub cuts: u64,
    /// Proposals that say what is left of leases.
    pub lease_checkpoints: u64,
    /// Compactions that the server has proposed by itself.
    pub own_compactions: u64,
    /// Leases that ended because their time was over.
    pub expiries: u64,
    /// Times that an operator has made room below a quota that stays.
    pub operated: u64,
    /// Lies of disks, with something to lie about.
    pub lies: u64,
    /// Members that found out that their disk had lied.
    pub found_out: u64,
    /// Worlds (1 or 0) in which more disks have lied than a cluster can bear.
    pub beyond: u64,
    /// Of these, those that did everything all the same.
    pub lived_on: u64,
    /// Faults that happened, by their kind ([`FaultKind::ALL`]).
    pub faults: [u64; FaultKind::ALL.len()],
}

impl Counters {
    /// Adds those of another world.
    pub fn add(&mut self, more: &Counters) {
        let pairs = [
            (&mut self.simulated, more.simulated),
            (&mut self.events, more.events),
            (&mut self.crashes, more.crashes),
            (&mut self.repairs, more.repairs),
            (&mut self.entries, more.entries),
            (&mut self.revisions, more.revisions),
            (&mut self.answers, more.answers),
            (&mut self.watched, more.watched),
            (&mut self.changes, more.changes),
            (&mut self.letters, more.letters),
            (&mut self.damaged, more.damaged),
            (&mut self.opened, more.opened),
            (&mut self.resumed, more.resumed),
            (&mut self.leaders, more.leaders),
            (&mut self.snapshots, more.snapshots),
            (&mut self.no_space, more.no_space),
            (&mut self.cuts, more.cuts),
            (&mut self.lease_checkpoints, more.lease_checkpoints),
            (&mut self.own_compactions, more.own_compactions),
            (&mut self.expiries, more.expiries),
            (&mut self.operated, more.operated),
            (&mut self.lies, more.lies),
            (&mut self.found_out, more.found_out),
            (&mut self.beyond, more.beyond),
            (&mut self.lived_on, more.lived_on),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        self.faults.iter_mut().zip(more.faults).for_each(|(sum, more)| *sum += more);
    }
}
