//! The store core's turn: applies what is committed, publishes, answers the proposers, times leases, paces checkpoints.

use std::time::Duration;

use consensus::{Index, ProposalId, ReadId};
use engine::compact::Progress;
use node::Answer;
use node::api::{Error, Space};
use node::apply::{self, Effect};
use node::cluster::{ForSelf, for_self};
use node::cores::{QueryAnswer, QueryId};
use node::lease::EXPIRY_INTERVAL;
use node::propose::{self, Write};

use super::raft_core::{client_of, store_proposal};
use super::{
    Announced, Done, Leadership, Member, Proposer, Query, ToClient, ToRaft, ToStore, node_id, stops,
};
use crate::env::{Env, Wake};

/// The cluster version that a first start decides on.
const CLUSTER_VERSION: &str = "3.7.0";

impl Member {
    pub(super) fn store_turn(&mut self, env: &mut Env) -> Done {
        let mut outcomes = Vec::new();
        let before = self.store.store.applied().index;
        let mut entries = 0;
        let mut changed = false;
        while entries < env.config.apply_batch
            && let Some(message) = self.store.inbox.pop_front()
        {
            match message {
                ToStore::Commit(mut batch) => {
                    let room = env.config.apply_batch - entries;
                    if batch.len() > room {
                        let rest = batch.split_off(room);
                        self.store.inbox.push_front(ToStore::Commit(rest));
                    }
                    entries += batch.len();
                    self.apply_all(env, batch, &mut outcomes)?;
                }
                ToStore::Leadership { leads, term, leader } => {
                    self.store.leader = leader;
                    self.lead(env, leads, term);
                }
                ToStore::Dropped(id) => {
                    self.announced(id, Announced::No); // the next tick tries again
                    self.own_proposal_over(env, id);
                }
                ToStore::Query(id, query) => self.query(env, id, query),
                ToStore::PinSnapshot(peer) => self.pin_snapshot(env, peer)?,
                ToStore::Install(ready, store) => self.store.installation = Some((ready, store)),
                ToStore::ReadIndex(id, led) => self.read_confirmed(env, id, led),
                ToStore::CheckpointDone(checkpoint, index) => {
                    self.store.store.tree_mut().end_checkpoint(*checkpoint);
                    self.store.is_ending = false;
                    self.store.covered = index.0;
                    self.store.checkpointed_at = self.now(env);
                    self.ask_raft(env, ToRaft::Checkpointed(index));
                    changed = true;
                }
                ToStore::CheckpointAbandoned(checkpoint) => {
                    self.store.store.tree_mut().abandon_checkpoint(*checkpoint);
                    self.store.is_ending = false;
                    self.store.checkpointed_at = self.now(env);
                }
            }
        }
        changed |= self.store.store.applied().index > before;
        changed |= self.replace_store(env);
        changed |= self.compact(env, &mut outcomes)?;
        if changed {
            self.publish(env, outcomes)?;
        }
        self.begin_checkpoint(env);
        if !self.store.inbox.is_empty() || self.store.compacting {
            self.wake(env, Wake::Store);
        }
        Ok(())
    }

    fn apply_all(
        &mut self,
        env: &mut Env,
        batch: Vec<(consensus::Entry, Option<propose::Command>)>,
        outcomes: &mut Vec<(ProposalId, Result<Answer, Error>)>,
    ) -> Done {
        let now = self.now(env);
        for (entry, command) in batch {
            let applied = match apply::apply(&mut self.store.store, now, Space::UNLIMITED, &entry, command) {
                Ok(Some(applied)) => applied,
                Ok(None) => continue,
                Err(fatal) => return stops(self.number, fatal),
            };
            if self.store.leadership == Leadership::Elected {
                self.start_leading(env);
            }
            if let Some(id) = applied.proposal {
                let waits = applied.effect == Effect::AnswerWhenCompacted && applied.result.is_ok();
                match client_of(id) {
                    None => {
                        self.announced(id, Announced::Yes);
                        self.own_proposal_over(env, id);
                    }
                    Some(_) if waits => {
                        let revision = self.store.store.compact_revision();
                        self.store.compactions.push((revision, id, applied.result));
                    }
                    Some(_) => outcomes.push((id, applied.result)),
                }
            }
            match applied.effect {
                Effect::ConfChange(change) => {
                    let own = node_id(self.number).0;
                    if change.as_ref().is_some_and(|change| for_self(change, own) == ForSelf::Removed) {
                        self.store.removed_at = Some(now);
                    }
                    self.store.members_changed = true;
                    self.ask_raft(env, ToRaft::ConfChange(applied.index, change));
                }
                Effect::MemberPublished => self.store.members_changed = true,
                Effect::LeaseRevoked(lease) => {
                    for (id, result) in self.store.renewals.revoked(lease) {
                        self.renewed(env, id, result);
                    }
                }
                _ => {}
            }
            let store = &self.store.store;
            self.store.compacting |= store.finished_compact_revision() < store.compact_revision();
        }
        Ok(())
    }

    /// One slice; true if something changed.
    fn compact(
        &mut self,
        env: &mut Env,
        outcomes: &mut Vec<(ProposalId, Result<Answer, Error>)>,
    ) -> Result<bool, crate::check::Failure> {
        if !self.store.compacting {
            return Ok(false);
        }
        match self.store.store.compact_slice(env.config.compaction_rows) {
            Ok(Progress::Idle) => {
                self.store.compacting = false;
                Ok(false)
            }
            Ok(Progress::More) => Ok(true),
            Ok(Progress::Finished(_)) => {
                let finished = self.store.store.finished_compact_revision();
                for (revision, id, result) in std::mem::take(&mut self.store.compactions) {
                    match revision <= finished {
                        true => outcomes.push((id, result)),
                        false => self.store.compactions.push((revision, id, result)),
                    }
                }
                Ok(true)
            }
            Err(damage) => stops(self.number, damage),
        }
    }

    fn publish(&mut self, env: &mut Env, outcomes: Vec<(ProposalId, Result<Answer, Error>)>) -> Done {
        let view = match self.store.store.publish() {
            Ok(view) => view,
            Err(damage) => return stops(self.number, damage),
        };
        self.store.store.tree_mut().reclaim();
        self.publish_members(env)?;
        self.shared.applied = view.applied().index;
        self.to_client(env, ToClient::Published(view));
        if !outcomes.is_empty() {
            self.to_client(env, ToClient::Outcomes(outcomes));
        }
        // Production's raft core looks the applied index up in its next turn; there always is one, of a tick at the latest.
        self.wake(env, Wake::Raft);
        Ok(())
    }

    fn query(&mut self, env: &mut Env, id: QueryId, query: Query) {
        let now = self.now(env);
        let answer = match query {
            Query::KeepAlive { lease } => {
                if let Some((id, result)) = self.store.renewals.renew(&mut self.store.store, now, lease, id) {
                    self.renewed(env, id, result);
                }
                return;
            }
            Query::TimeToLive { lease, keys } => {
                node::lease::time_to_live(&self.store.store, now, lease, keys)
            }
            Query::Leases => Ok(node::lease::leases(&self.store.store)),
            Query::Defragment => Err(Error::Stopped),
        };
        self.to_client(env, ToClient::Answers(vec![(id, answer.map(QueryAnswer::Answer))]));
    }

    fn renewed(&mut self, env: &mut Env, id: QueryId, result: Result<i64, Error>) {
        self.to_client(env, ToClient::Answers(vec![(id, result.map(QueryAnswer::KeepAlive))]));
    }

    fn lead(&mut self, env: &mut Env, leader: bool, term: u64) {
        self.store.term = term;
        if !leader {
            self.store.leadership = Leadership::Follows;
            self.store.store.lease_demote();
            let demoted: Vec<_> = self.store.renewals.demoted().collect();
            for (id, result) in demoted {
                self.renewed(env, id, result);
            }
        } else if self.store.leadership == Leadership::Follows {
            self.store.leadership = Leadership::Elected;
        }
    }

    /// The first entry of our term is applied: what an earlier leader did is all here.
    fn start_leading(&mut self, env: &mut Env) {
        if self.store.store.applied().term != self.store.term {
            return;
        }
        self.store.leadership = Leadership::Leads;
        let (now, election) = (self.now(env), Duration::from_nanos(env.config.election()));
        self.store.store.lease_promote(now, election);
        if self.store.announced == Announced::No {
            self.announce(env);
        }
        if matches!(apply::cluster_version(&self.store.store), Ok(None)) {
            let write = propose::cluster_version_set(&mut self.store.ids, CLUSTER_VERSION);
            self.propose_own(env, write, Proposer::Store);
        }
    }

    /// Each start publishes name and client URLs through the log.
    fn announce(&mut self, env: &mut Env) {
        let (id, name) = (node_id(self.number).0, format!("m{}.{}", self.number, self.life));
        let write = propose::member_attributes_set(&mut self.store.ids, id, &name, &[]);
        self.store.announced =
            Announced::Proposed(self.propose_own(env, write, Proposer::Store), self.now(env));
    }

    fn propose_own(&mut self, env: &mut Env, write: Write, proposer: Proposer) -> ProposalId {
        self.store.proposals += 1;
        let id = store_proposal(u64::from(self.life) << 40 | self.store.proposals);
        self.ask_raft(env, ToRaft::Propose(id, write, proposer));
        id
    }

    fn announced(&mut self, id: ProposalId, now: Announced) {
        if matches!(self.store.announced, Announced::Proposed(proposed, _) if proposed == id) {
            self.store.announced = now;
        }
    }

    fn own_proposal_over(&mut self, env: &mut Env, id: ProposalId) {
        if self.store.revocations.remove(&id).is_some() {
            self.store.expiry.revoked();
            self.expire(env);
        }
    }

    /// Proposes the revocation of leases that have run out.
    fn expire(&mut self, env: &mut Env) {
        let now = self.now(env);
        let is_due = self.store.store.next_lease_expiry().is_some_and(|due| due <= now);
        if self.store.leadership == Leadership::Leads && is_due {
            let confirmed = self.confirmed(env);
            self.expire_until(env, confirmed);
        }
    }

    /// The same for those that had run out at a moment at which this member is known to have led.
    fn expire_until(&mut self, env: &mut Env, confirmed: Duration) {
        let now = self.now(env);
        for expired in self.store.expiry.poll(&mut self.store.store, now, confirmed) {
            let term = self.store.term;
            let write = propose::lease_expired(&mut self.store.ids, expired, term);
            let id = self.propose_own(env, write, Proposer::Expiry { term });
            self.store.revocations.insert(id, expired.lease);
        }
    }

    /// The last moment at which this member is known to have led. The only voter always knows; one among others asks for a
    /// read index: its answer proves that it led when it was asked.
    fn confirmed(&mut self, env: &mut Env) -> Duration {
        let (now, election) = (self.now(env), Duration::from_nanos(env.config.election()));
        if self.shared.single_voter.is_some() || planted::is("old-leader-revokes-leases") {
            self.store.confirmed = now;
        } else if self.store.confirming.is_none_or(|(_, since)| now - since > election) {
            self.store.proposals += 1;
            let id = ReadId(store_proposal(u64::from(self.life) << 40 | self.store.proposals).0);
            self.store.confirming = Some((id, now));
            self.ask_raft(env, ToRaft::ReadIndex(id));
        }
        self.store.confirmed
    }

    fn read_confirmed(&mut self, env: &mut Env, id: ReadId, led: bool) {
        if let Some((asked, since)) = self.store.confirming
            && asked == id
        {
            self.store.confirming = None;
            if led {
                self.store.confirmed = since;
                if self.store.leadership == Leadership::Leads {
                    self.expire_until(env, since);
                }
            }
        }
    }

    pub(super) fn store_tick(&mut self, env: &mut Env) -> Done {
        self.schedule_store_tick(env);
        self.stop_if_removed(env)?;
        let (now, election) = (self.now(env), Duration::from_nanos(env.config.election()));
        if let Announced::Proposed(_, since) = self.store.announced
            && now - since > Duration::from_secs(5) + 2 * election
        {
            self.store.announced = Announced::No;
        }
        if self.store.announced == Announced::No && self.store.leader != 0 {
            self.announce(env);
        }
        self.expire(env);
        self.begin_checkpoint(env);
        Ok(())
    }

    pub(super) fn schedule_store_tick(&mut self, env: &mut Env) {
        let interval = EXPIRY_INTERVAL.min(Duration::from_nanos(env.config.checkpoint));
        let after = env.true_span(self.number, interval);
        self.wake_after(env, after, Wake::StoreTick);
    }

    /// The index that the published version reflects.
    pub fn published(&self) -> Index {
        Index(self.shared.applied)
    }
}
