//! Members that are damaged, and repaired by the others.

use super::{Done, Host, World};
use crate::check::Failure;
use crate::env::{Event, NodeNumber, Wake};
use crate::member::{Healing, Member};
use crate::network::Letter;

impl World {
    /// Begins the repair of a member that needs it: `why` is how its start has failed. False: it is whole, as far as known.
    pub(super) fn heal_member(
        &mut self,
        number: NodeNumber,
        nonce: u64,
        why: Option<Failure>,
    ) -> Result<bool, Failure> {
        let host = &mut self.hosts[number];
        match Healing::begin(&mut self.env, &mut host.disk, (number, host.life), nonce, why) {
            Ok(Some(healing)) => {
                self.found_out += u64::from(!std::mem::replace(&mut host.found_out, true));
                host.healing = Some(Box::new(healing));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(Failure { checker: "halt", what }) => {
                self.break_for_good(number, &what);
                Ok(true)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Nobody can repair it.
    pub(super) fn break_for_good(&mut self, number: NodeNumber, what: &str) {
        let now = self.env.queue.now();
        self.env.story.tell(now, || format!("member {number}"), || format!("is broken: {what}"));
        self.crash(number, false, 1);
        let host = &mut self.hosts[number];
        self.found_out += u64::from(!std::mem::replace(&mut host.found_out, true));
        host.broken = true;
    }

    pub(super) fn letter_to_healing(&mut self, letter: Letter) -> Done {
        let (from, to, is_snapshot) = (letter.from, letter.to, letter.snapshot.is_some());
        let host = &mut self.hosts[to];
        let Some(healing) = &mut host.healing else { return Ok(()) };
        if !healing.judge(from.0) {
            self.env.refuse(to, from);
            return Ok(());
        }
        if is_snapshot {
            let takes = self.env.takes(self.plan.config.latency);
            self.env.queue.after(takes, Event::SnapshotSent { from, to, ok: true });
        }
        healing.receive(&mut self.env, &mut host.disk, letter)
    }

    pub(super) fn wake_healing(&mut self, number: NodeNumber, wake: Wake) -> Done {
        let host = &mut self.hosts[number];
        let Some(healing) = &mut host.healing else { return Ok(()) };
        if healing.woken(&mut self.env, &mut host.disk, wake)? {
            // The process starts over; its disk is a new one.
            (host.healing, host.flipped, host.found_out) = (None, false, false);
            self.repairs += 1;
            self.env.queue.at(self.env.queue.now(), Event::Boot(number));
        }
        Ok(())
    }

    pub(super) fn describe(&self, host: &Host) -> Option<String> {
        let healing = host.healing.as_ref().map(|healing| healing.describe(self.env.queue.now()));
        healing.or_else(|| host.member.as_ref().map(Member::describe))
    }
}
