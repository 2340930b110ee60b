//! Members that come and go.

use consensus::NodeId;

use super::{Done, World};
use crate::check::fail;
use crate::env::{Event, NodeNumber};
use crate::member::{Member, node_id, node_number};

impl World {
    /// Whether a member listens to another. One that was removed is told so, but not by a learner.
    pub(super) fn is_let_in(&mut self, from: (NodeNumber, u32), to: NodeNumber) -> bool {
        let refuses = self.hosts[to].member.as_mut().is_some_and(|member| !member.judge(from.0));
        let votes = self.hosts[to].member.as_ref().is_some_and(Member::serves_writes);
        if refuses && votes {
            self.env.refuse(to, from);
        }
        !refuses
    }

    pub(super) fn hello(&mut self, from: (NodeNumber, u32), to: NodeNumber) {
        let is_paused = self.hosts[to].paused_until > self.env.queue.now();
        if !is_paused
            && self.is_let_in(from, to)
            && let Some(member) = &mut self.hosts[to].member
        {
            member.greeted(&mut self.env, from.0);
        }
    }

    /// A member ends for good. Whoever starts its process again finds the same.
    pub(super) fn leave(&mut self, number: NodeNumber, why: &str) {
        let now = self.env.queue.now();
        self.env.story.tell(now, || format!("member {number}"), || format!("leaves: {why}"));
        self.crash(number, false, 1);
    }

    /// Members that were added are started, some time after that.
    pub(super) fn start_added(&mut self) {
        for id in std::mem::take(&mut self.env.oracle.added) {
            let after = self.env.schedule.exponential(self.plan.config.election());
            self.env.queue.after(after, Event::Boot(node_number(NodeId(id))));
        }
    }

    /// What one who has nothing yet is told by some member; one who joins for the first time, by one that knows of it. `None`:
    /// by nobody.
    pub(super) fn remotes(
        &mut self,
        number: NodeNumber,
        is_first_start: bool,
    ) -> Option<Vec<node::membership::Member>> {
        let id = node_id(number).0;
        let hosts = self.hosts.iter().enumerate().filter(|(other, _)| {
            self.env.network.is_up(number, *other) && self.env.network.is_up(*other, number)
        });
        let mut members = hosts.filter_map(|(_, host)| Some(host.member.as_ref()?.members()));
        members
            .find(|members| !is_first_start || members.iter().any(|member| member.id == id))
            .map(<[_]>::to_vec)
    }

    /// Whether this is a host of a member, as the log has it now.
    pub(super) fn belongs(&self, number: NodeNumber) -> bool {
        self.env.oracle.members.has(node_id(number).0)
    }

    /// Clients of a member that was removed, that is a learner, or that is broken for good, go to another one.
    pub(super) fn leave_those_that_do_not_vote(&mut self) {
        let votes = |number: &NodeNumber| {
            !self.hosts[*number].broken && self.env.oracle.members.votes(node_id(*number).0)
        };
        let voters: Vec<NodeNumber> = (0..self.hosts.len()).filter(votes).collect();
        if self.plan.config.membership.is_none() || voters.is_empty() {
            return;
        }
        for (number, client) in
            self.clients.iter_mut().enumerate().filter(|(_, client)| client.busy.is_none())
        {
            if !voters.contains(&client.member) {
                client.member = voters[number % voters.len()];
            }
        }
        for number in 0..self.watchers.len() {
            // A member that was removed before it knew anybody, while nobody could tell it, shows nothing to its watchers.
            if !self.belongs(self.watchers[number].member) {
                self.break_stream(number);
                self.watchers[number].member = voters[number % voters.len()];
            }
        }
    }

    /// A member that was removed has stopped, if there is a voter whom it knows to tell it so: of a learner it does not believe it.
    pub(super) fn check_gone(&self, number: NodeNumber) -> Done {
        let votes = |other: NodeNumber| self.env.oracle.members.votes(node_id(other).0);
        let says = |other: NodeNumber| self.hosts[other].member.is_some() && votes(other);
        let hears = |member: &Member| (0..self.hosts.len()).any(|other| says(other) && member.knows(other));
        match self.hosts[number].member.as_ref().is_some_and(hears) {
            true => fail("liveness", format!("member {number} was removed and goes on")),
            false => Ok(()),
        }
    }
}
