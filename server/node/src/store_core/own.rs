//! What the store core proposes by itself: revocations of leases that have run out, its alarm, compactions.

use std::time::Duration;

use consensus::ProposalId;
use engine::{Alarm, AlarmKind};
use net::pb::etcdserverpb::AlarmType;

use super::{Announced, Leadership, Observer, Output, StoreCore};
use crate::api::Error;
use crate::cores::{ToRaft, store_id};
use crate::propose::{self, Write};

/// So long before a lease runs out its leader begins to make sure, at every tick, that it leads.
const EXPIRY_NEAR: Duration = Duration::from_secs(1);

impl<O: Observer> StoreCore<O> {
    /// A number that nothing of this member has had, nor of earlier processes, as good as certainly.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    pub(super) fn propose(&mut self, write: Write) -> ProposalId {
        let id = store_id(self.next_number());
        self.tell_raft(ToRaft::Propose(id, write));
        id
    }

    pub(super) fn own_proposal_applied(&mut self, id: ProposalId, error: Option<Error>) {
        if matches!(self.announced, Announced::Proposed(proposed, _) if proposed == id) {
            self.announced = Announced::Yes;
            self.out.push(Output::Ready);
        }
        self.compaction_over(id, error);
        self.own_proposal_over(id);
    }

    pub(super) fn own_proposal_dropped(&mut self, id: ProposalId) {
        if matches!(self.announced, Announced::Proposed(proposed, _) if proposed == id) {
            self.announced = Announced::No; // the next tick tries again
        }
        self.compaction_over(id, Some(Error::NoLeader));
        self.own_proposal_over(id);
    }

    fn own_proposal_over(&mut self, id: ProposalId) {
        if self.revocations.remove(&id) {
            self.expiry.revoked();
            self.expire();
        }
        if self.alarm == Some(id) {
            self.alarm = None;
        }
    }

    /// Proposes the revocation of leases that have run out, as many as may be under way.
    pub(super) fn expire(&mut self) {
        if self.leadership != Leadership::Leads {
            return;
        }
        let now = self.present.now;
        // While no lease is near its end, nobody is asked whether this member still leads.
        if self.store.next_lease_expiry().is_none_or(|due| due > now + EXPIRY_NEAR) {
            return;
        }
        let confirmed = self.confirmed();
        for expired in self.expiry.poll(&mut self.store, now, confirmed) {
            self.observer.lease_expired();
            let write = propose::lease_expired(&mut self.ids, expired, self.lead_term);
            let id = self.propose(write);
            self.revocations.insert(id);
        }
    }

    /// Takes the step of `--auto-compaction-…` that is due.
    pub(super) fn auto_compact(&mut self) {
        let (now, revision) = (self.present.now, self.store.revision());
        let wanted = self.auto_compaction.as_mut().and_then(|auto| auto.step(now, revision));
        let Some((kept, wanted)) = wanted else { return };
        self.observer.compaction_starts(kept, wanted);
        let write = propose::compact(&mut self.ids, wanted);
        let id = self.propose(write);
        if let Some(auto) = &mut self.auto_compaction {
            auto.proposed(id, wanted, now);
        }
    }

    fn compaction_over(&mut self, id: ProposalId, error: Option<Error>) {
        let (now, newest) = (self.present.now, self.store.revision());
        let over = self.auto_compaction.as_mut().and_then(|auto| auto.over(id, now, newest, error));
        if let Some(over) = over {
            self.observer.compaction_ends(over.kept, over.revision, over.took, over.error);
        }
    }

    pub(super) fn raise_no_space(&mut self) {
        let member = self.settings.member;
        let raised = Alarm { member, kind: AlarmKind::NoSpace };
        if self.leader.is_some() && self.alarm.is_none() && !self.store.alarms(None).contains(&raised) {
            let write = propose::raise_alarm(&mut self.ids, member, AlarmType::Nospace);
            self.alarm = Some(self.propose(write));
        }
    }
}
