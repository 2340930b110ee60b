//! The store core: applies what is committed, publishes, answers the proposers, times leases, paces checkpoints.
//!
//! One turn: apply all committed entries at hand, publish one version for all of them, hand each client core the version
//! and then its outcomes, so that an answered write can be read by whoever hears of it. Between batches: slices of a
//! compaction, never enough of them to delay the next batch noticeably.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus::{ConfState, Index, NodeId, ProposalId, Term};
use engine::compact::Progress;
use engine::tree::Table;
use engine::{Alarm, AlarmKind, Store};
use node::Answer;
use node::api::{Error, Space};
use node::apply::{self, Effect};
use node::cluster::{ForSelf, for_self};
use node::lease::{EXPIRY_INTERVAL, Expiry, Renewals};
use node::membership::{Member, voters_and_learners};
use node::propose::{self, Command, IdGenerator, Write};
use rustc_hash::FxHashSet;

use super::auto_compaction::AutoCompaction;
use super::checkpoint::Checkpoints;
use super::clock::now;
use super::failpoint::failpoint;
use super::force_new;
use super::messages::{
    Committed, ForStore, Installation, Query, QueryAnswer, QueryId, ToClient, ToRaft, ToStore,
};
use super::ring::{Ready, Receiver, Sender, drain};
use super::scrub::Scrubber;
use super::shared::{Note, Shared};
use super::slow;
use crate::config::limits::Queue;
use crate::observe::metrics::{self, Op};
use crate::sys::{Fatal, FatalReason};

mod leases;
mod members;

use leases::{Asker, Barrier, Questions};

/// Committed entries applied before a version is published and its outcomes answered.
const ENTRIES_PER_PUBLISH: usize = 4096;

/// Rows of history that one slice of a compaction looks at: about half a millisecond.
const COMPACTION_SLICE_ROWS: usize = 200;

/// So long before a lease runs out its leader begins to make sure, at every tick, that it leads.
const EXPIRY_NEAR: Duration = Duration::from_secs(1);

/// How long a member that was removed goes on, so that it can answer and pass on what it knows.
const REMOVED_LINGERS: Duration = Duration::from_secs(1);

type Outcome = (ProposalId, Result<Answer, Error>);

/// Everything the store core owns.
pub struct StoreCore {
    store: Store,
    rings: Rings,
    shared: Arc<Shared>,
    checkpoints: Checkpoints,
    scrubber: Scrubber,
    ids: IdGenerator,
    renewals: Renewals<Asker>,
    expiry: Expiry,
    /// The term in which this member leads, or led last: expired leases are revoked in no other.
    lead_term: u64,
    /// Physical compactions whose answer waits for the rows to go.
    compactions: Vec<(i64, Outcome)>,
    /// Defragment calls that wait for its checkpoints.
    defragments: Vec<QueryId>,
    leadership: Leadership,
    proposals: u64,
    outcomes: Vec<Vec<Outcome>>,
    answers: Vec<Vec<(QueryId, Result<QueryAnswer, Error>)>>,
    to_clients: Vec<VecDeque<ToClient>>,
    to_raft: VecDeque<ToRaft>,
    compacting: bool,
    announced: Announced,
    /// Who leads, as far as it is known.
    leader: Option<NodeId>,
    /// What the members' servers are, as far as this leader knows.
    versions: Option<Vec<Option<String>>>,
    /// Members have come, gone or changed since they were last told to the raft core.
    members_changed: bool,
    /// When this member was removed from the cluster.
    removed_at: Option<Duration>,
    /// Questions that the leader has to answer.
    questions: Questions,
    /// Questions that wait until this leader knows that it still leads.
    barrier: Barrier,
    /// A store that waits to take the place of this one.
    installation: Option<Box<Installation>>,
    /// Applied index of the last published version.
    published: u64,
    /// Entries applied since then.
    unpublished: usize,
    /// When the compaction under way began.
    compaction_began: Option<Duration>,
    /// Revocations of expired leases that are proposed and not yet applied.
    revocations: FxHashSet<ProposalId>,
    /// This member's NOSPACE alarm is proposed and not yet applied.
    alarm: Option<ProposalId>,
    /// Compacts by itself, and the proposal that is under way for it.
    auto_compaction: Option<AutoCompaction>,
}

/// The store core's ends of the rings.
pub struct Rings {
    /// Committed entries.
    pub from_raft: Receiver<ForStore>,
    /// Queries, one ring per client core.
    pub from_clients: Vec<Receiver<ForStore>>,
    /// Finished checkpoints.
    pub from_background: Receiver<ForStore>,
    /// Applied indexes and own proposals.
    pub to_raft: Sender<ToRaft>,
    /// Versions and outcomes, in the order of the cores' numbers.
    pub to_clients: Vec<Sender<ToClient>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leadership {
    Follows,
    /// Became leader of this term; leases are timed from its first entry on.
    Elected(Term),
    Leads,
}

/// How far this member has made itself known since the process began.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Announced {
    No,
    /// Since when: a proposal that goes through another member may be lost without a word.
    Proposed(ProposalId, Duration),
    Yes,
}

impl StoreCore {
    /// Joins the store and its rings.
    pub fn new(
        store: Store,
        rings: Rings,
        (checkpoints, scrubber): (Checkpoints, Scrubber),
        ids: IdGenerator,
        shared: Arc<Shared>,
    ) -> StoreCore {
        let cores = rings.to_clients.len();
        let retention = shared.config.auto_compaction;
        let auto_compaction = retention.map(|kept| AutoCompaction::new(kept, now(), store.revision()));
        StoreCore {
            store,
            rings,
            shared,
            checkpoints,
            scrubber,
            ids,
            renewals: Renewals::default(),
            expiry: Expiry::default(),
            lead_term: 0,
            compactions: Vec::new(),
            defragments: Vec::new(),
            leadership: Leadership::Follows,
            proposals: 0,
            outcomes: (0..cores).map(|_| Vec::new()).collect(),
            answers: (0..cores).map(|_| Vec::new()).collect(),
            to_clients: (0..cores).map(|_| VecDeque::new()).collect(),
            to_raft: VecDeque::new(),
            compacting: true,
            announced: Announced::No,
            leader: None,
            versions: None,
            members_changed: true,
            removed_at: None,
            questions: Questions::default(),
            barrier: Barrier::default(),
            installation: None,
            published: 0,
            unpublished: 0,
            compaction_began: None,
            revocations: FxHashSet::default(),
            alarm: None,
            auto_compaction,
        }
    }

    /// Runs until the raft core is gone.
    pub async fn run(mut self) {
        self.tell_version();
        self.publish();
        self.send();
        let core = Rc::new(RefCell::new(self));
        let ticker = glommio::spawn_local(tick_loop(core.clone())).detach();
        let compacts = core.borrow().auto_compaction.is_some();
        let compactor = compacts.then(|| glommio::spawn_local(compaction_loop(core.clone())).detach());
        loop {
            let slices = core.borrow().has_slices();
            let ready = if slices {
                glommio::executor().yield_now().await;
                Ready::Items
            } else {
                poll_fn(|cx| core.borrow_mut().poll_rings(cx)).await
            };
            if ready == Ready::Closed {
                break;
            }
            core.borrow_mut().turn();
        }
        ticker.cancel();
        if let Some(compactor) = compactor {
            compactor.cancel();
        }
    }

    fn turn(&mut self) {
        let mut applied = self.take_background();
        applied |= self.take_committed();
        self.pass_barrier();
        applied |= self.install();
        self.take_queries();
        applied |= self.compact();
        applied |= self.checkpoints.wants_version() && !self.compacting;
        if applied {
            self.publish();
        }
        self.send();
        self.checkpoint();
    }

    fn take_background(&mut self) -> bool {
        let mut any = false;
        while let Some(message) = self.rings.from_background.pop() {
            let ForStore::CheckpointDone(checkpoint, result) = message else { continue };
            let defragmented = match self.checkpoints.end(&mut self.store, *checkpoint, result) {
                Ok(Some(index)) => {
                    self.to_raft.push_back(ToRaft::Checkpointed(index));
                    Ok(Answer { header: node::answer::HeaderKind::None, ..Answer::bare(0) })
                }
                Ok(None) => {
                    self.raise_no_space();
                    Err(Error::NoSpace)
                }
                Err(fatal) => self.shared.fatal(fatal),
            };
            if !self.checkpoints.is_defragmenting() {
                for id in self.defragments.drain(..) {
                    self.answers[id.core].push((id, defragmented.clone().map(QueryAnswer::Answer)));
                }
            }
            any = true;
        }
        any
    }

    fn take_committed(&mut self) -> bool {
        let mut entries = 0;
        while entries < ENTRIES_PER_PUBLISH && !self.checkpoints.is_full(&self.store) {
            let Some(message) = self.rings.from_raft.pop() else { break };
            let message = match message {
                ForStore::Core(message) => message,
                ForStore::Install(installation) => {
                    self.installation = Some(installation);
                    continue;
                }
                ForStore::CheckpointDone(..) => continue,
            };
            match message {
                ToStore::Commit(batch) => {
                    failpoint("commit-before-apply");
                    entries += batch.len();
                    self.apply_all(batch);
                }
                ToStore::Leadership { leads, term, leader } => self.led_by(leads, term, leader),
                ToStore::Versions(versions) => {
                    self.versions = Some(versions);
                    self.decide_version();
                }
                ToStore::Dropped(id) => self.own_proposal_dropped(id),
                ToStore::ReadIndex(id, index) => self.barrier_answered(id, index),
                ToStore::PinSnapshot(peer) => self.pin_snapshot(peer),
                ToStore::PeerRequest(from, id, body) => self.peer_asks(from, id, &body),
                ToStore::PeerResponse(id, body) => self.peer_answers(id, &body),
                ToStore::Query(..) | ToStore::NoSpace => {}
            }
        }
        entries > 0
    }

    fn apply_all(&mut self, batch: Vec<Committed>) {
        let began = now();
        let mut started = began;
        self.unpublished += batch.len();
        for Committed { entry, command } in batch {
            self.checkpoints.applied_bytes(entry.data.len());
            let counted = command.as_ref().and_then(count);
            // Read for each entry: what a batch took so far counts for the rest of it.
            let space = self.space();
            let term = entry.term;
            match apply::apply(&mut self.store, started, space, &entry, command) {
                Ok(Some(applied)) => {
                    if matches!(self.leadership, Leadership::Elected(elected) if term >= elected) {
                        self.start_leading();
                    }
                    let ended = now();
                    let took = ended - started;
                    if let Some(op) = counted {
                        metrics::here().applied(op, applied.result.is_ok(), took);
                    }
                    if took > self.shared.config.warning_apply {
                        slow::apply(&entry.data, took, self.shared.config.warning_apply, &applied.result);
                    }
                    started = ended;
                    self.applied(applied);
                }
                Ok(None) => {}
                Err(fatal) => self.cannot_apply(&fatal),
            }
        }
        metrics::here().plain.apply_batch.observe_duration(now() - began);
    }

    fn applied(&mut self, applied: apply::Applied) {
        if let Some(id) = applied.proposal {
            self.outcome(id, applied.result, applied.effect == Effect::AnswerWhenCompacted);
        }
        match applied.effect {
            Effect::None => {}
            Effect::AnswerWhenCompacted => self.compacting = true,
            Effect::LeaseRevoked(lease) => {
                for (who, result) in self.renewals.revoked(lease) {
                    self.renewed(who, result);
                }
            }
            Effect::LeasesCheckpointed(leases) => self.checkpointed(&leases),
            Effect::RaiseNoSpace => self.raise_no_space(),
            Effect::ConfChange(change) => {
                let own = self.shared.identity.member_id;
                if change.as_ref().is_some_and(|change| for_self(change, own) == ForSelf::Removed) {
                    self.removed_at = Some(now());
                }
                self.to_raft.push_back(ToRaft::ConfChange(applied.index, change));
                self.members_changed = true;
            }
            Effect::MemberPublished => self.members_changed = true,
            Effect::ClusterVersion(_) => self.tell_version(),
        }
        self.compacting |= self.store.finished_compact_revision() < self.store.compact_revision();
    }

    fn outcome(&mut self, id: ProposalId, result: Result<Answer, Error>, when_compacted: bool) {
        match Shared::client_of(id) {
            None => self.own_proposal_applied(id, result.err()),
            Some(_) if when_compacted && result.is_ok() => {
                self.compactions.push((self.store.compact_revision(), (id, result)));
            }
            Some(core) => self.outcomes[core].push((id, result)),
        }
    }

    fn cannot_apply(&self, fatal: &apply::Fatal) -> ! {
        match fatal {
            apply::Fatal::Damaged(_) => self.shared.tree_damaged(),
            apply::Fatal::Entry { .. } | apply::Fatal::Member(_) => {
                self.shared.fatal(Fatal::new(FatalReason::LogDamaged, fatal.to_string()))
            }
        }
    }

    fn take_queries(&mut self) {
        for ring in 0..self.rings.from_clients.len() {
            while let Some(message) = self.rings.from_clients[ring].pop() {
                match message {
                    ForStore::Core(ToStore::Query(id, query)) => {
                        if let Some(answer) = self.query(id, query) {
                            self.answers[id.core].push((id, answer));
                        }
                    }
                    ForStore::Core(ToStore::NoSpace) => self.raise_no_space(),
                    _ => {}
                }
            }
        }
    }

    fn query(&mut self, id: QueryId, query: Query) -> Option<Result<QueryAnswer, Error>> {
        match query {
            Query::KeepAlive { .. } | Query::TimeToLive { .. } => self.lease_query(id, query),
            Query::Leases => Some(Ok(QueryAnswer::Answer(node::lease::leases(&self.store)))),
            Query::Defragment => {
                self.checkpoints.defragment();
                self.defragments.push(id);
                None
            }
        }
    }

    /// Whether a slice of a compaction can be done. They change pages as writes do, so they wait as writes do while the
    /// heap is full: the end of the checkpoint wakes us.
    fn has_slices(&self) -> bool {
        self.compacting && !self.checkpoints.is_full(&self.store)
    }

    /// One slice; true if something changed.
    fn compact(&mut self) -> bool {
        if !self.has_slices() {
            return false;
        }
        let (began, before) = (now(), self.store.written().compacted);
        let progress = self.store.compact_slice(COMPACTION_SLICE_ROWS);
        if !matches!(progress, Ok(Progress::Idle)) {
            let cells = &metrics::here().plain;
            self.compaction_began.get_or_insert(began);
            cells.compaction_pause.observe_duration(now() - began);
            cells.compaction_keys.add(self.store.written().compacted - before);
        }
        match progress {
            Ok(Progress::Idle) => {
                self.compacting = false;
                false
            }
            Ok(Progress::More) => true,
            Ok(Progress::Finished(_)) => {
                self.count_compaction();
                let finished = self.store.finished_compact_revision();
                for (revision, outcome) in std::mem::take(&mut self.compactions) {
                    match Shared::client_of(outcome.0) {
                        Some(core) if revision <= finished => self.outcomes[core].push(outcome),
                        _ => self.compactions.push((revision, outcome)),
                    }
                }
                true
            }
            Err(damage) => self.cannot_apply(&damage.into()),
        }
    }

    fn publish(&mut self) {
        failpoint("apply-before-publish");
        let view = match self.store.publish() {
            Ok(view) => view,
            Err(damage) => self.cannot_apply(&damage.into()),
        };
        failpoint("publish-before-answer");
        self.store.tree_mut().reclaim();
        self.published = view.applied().index;
        if self.unpublished > 0 {
            metrics::here().plain.apply_batch_entries.observe(std::mem::take(&mut self.unpublished) as u64);
        }
        self.publish_figures();
        self.publish_members();
        for (core, outbox) in self.to_clients.iter_mut().enumerate() {
            // A version that the client core has not even been sent is of no use once there is a newer one.
            if matches!(outbox.back(), Some(ToClient::Published(_))) {
                outbox.pop_back();
            }
            outbox.push_back(ToClient::Published(view.clone()));
            if !self.outcomes[core].is_empty() {
                outbox.push_back(ToClient::Outcomes(std::mem::take(&mut self.outcomes[core])));
            }
        }
    }

    fn publish_figures(&self) {
        let tree = self.store.tree();
        self.shared.publish_space(tree.allocated_bytes(), tree.in_use_bytes(), tree.heap_bytes());
    }

    /// Hands over what waits, as far as the rings have room.
    fn send(&mut self) {
        for core in 0..self.to_clients.len() {
            let answers = &mut self.answers[core];
            if !answers.is_empty() {
                self.to_clients[core].push_back(ToClient::Answers(std::mem::take(answers)));
            }
            drain(&mut self.to_clients[core], &self.rings.to_clients[core]);
        }
        drain(&mut self.to_raft, &self.rings.to_raft);
        if self.to_raft.is_empty() {
            // Outcomes of configuration changes are in the ring before the raft core can see the index.
            self.shared.publish_applied(Index(self.published));
        }
    }

    fn poll_rings(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        let mut items = self.rings.from_background.poll_ready(cx) == Poll::Ready(Ready::Items);
        for ring in &self.rings.from_clients {
            items |= ring.poll_ready(cx) == Poll::Ready(Ready::Items);
        }
        for core in 0..self.to_clients.len() {
            if !self.to_clients[core].is_empty() {
                metrics::here().queue_full(Queue::StoreToClient);
                self.rings.to_clients[core].register_for_room(cx);
            }
        }
        if !self.to_raft.is_empty() {
            self.rings.to_raft.register_for_room(cx);
        }
        self.send();
        if self.checkpoints.is_full(&self.store) {
            // The end of the checkpoint wakes us.
            return if items { Poll::Ready(Ready::Items) } else { Poll::Pending };
        }
        match self.rings.from_raft.poll_ready(cx) {
            Poll::Pending if items => Poll::Ready(Ready::Items),
            poll => poll,
        }
    }

    fn space(&self) -> Space {
        Space { used: self.store.tree().allocated_bytes(), ..self.shared.space() }
    }

    fn led_by(&mut self, leads: bool, term: Term, leader: Option<NodeId>) {
        self.leader = leader;
        self.versions = None;
        if let Some(auto) = &mut self.auto_compaction {
            auto.lead(leads);
        }
        if leads {
            // Of a new term again: whoever led in between has done what is not applied here yet.
            self.stop_leading();
            self.leadership = Leadership::Elected(term);
            self.lead_term = term.0;
        } else if self.leadership != Leadership::Follows {
            self.stop_leading();
        }
    }

    fn stop_leading(&mut self) {
        if self.leadership == Leadership::Leads {
            self.store.lease_demote();
        }
        self.leadership = Leadership::Follows;
        self.drop_barrier();
        for (who, result) in self.renewals.demoted() {
            self.renewed(who, result);
        }
    }

    /// The first entry of our term is applied: what an earlier leader did is all here.
    fn start_leading(&mut self) {
        self.leadership = Leadership::Leads;
        self.store.lease_checkpointing(self.shared.config.lease_checkpoint);
        self.store.lease_promote(now(), self.shared.config.election_timeout);
        self.ask_again(); // behind the promotion: a question that waited is answered by one who times leases
        if self.announced == Announced::No {
            self.announce();
        }
        self.decide_version();
    }

    fn propose(&mut self, write: Write) -> ProposalId {
        self.proposals += 1;
        let id = Shared::store_proposal_id(self.proposals);
        self.to_raft.push_back(ToRaft::Propose(id, write));
        id
    }

    fn own_proposal_applied(&mut self, id: ProposalId, error: Option<Error>) {
        if matches!(self.announced, Announced::Proposed(proposed, _) if proposed == id) {
            self.announced = Announced::Yes;
            self.shared.note(Note::Ready);
        }
        self.compaction_over(id, error);
        self.own_proposal_over(id);
    }

    fn own_proposal_dropped(&mut self, id: ProposalId) {
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
    fn expire(&mut self) {
        if self.leadership != Leadership::Leads {
            return;
        }
        // While no lease is near its end, nobody is asked whether this member still leads.
        if self.store.next_lease_expiry().is_none_or(|due| due > now() + EXPIRY_NEAR) {
            return;
        }
        let confirmed = self.confirmed();
        for expired in self.expiry.poll(&mut self.store, now(), confirmed) {
            metrics::here().plain.lease_expired.inc();
            let write = propose::lease_expired(&mut self.ids, expired, self.lead_term);
            let id = self.propose(write);
            self.revocations.insert(id);
        }
    }

    /// Takes the step of `--auto-compaction-…` that is due.
    fn auto_compact(&mut self) {
        let revision = self.store.revision();
        let wanted = self.auto_compaction.as_mut().and_then(|auto| auto.step(now(), revision));
        if let Some(wanted) = wanted {
            let write = propose::compact(&mut self.ids, wanted);
            let id = self.propose(write);
            if let Some(auto) = &mut self.auto_compaction {
                auto.proposed(id);
            }
            self.send();
        }
    }

    fn compaction_over(&mut self, id: ProposalId, error: Option<Error>) {
        let revision = self.store.revision();
        if let Some(auto) = &mut self.auto_compaction {
            auto.over(id, now(), revision, error);
        }
    }

    fn raise_no_space(&mut self) {
        let member = self.shared.identity.member_id;
        let raised = Alarm { member, kind: AlarmKind::NoSpace };
        if self.leader.is_some() && self.alarm.is_none() && !self.store.alarms(None).contains(&raised) {
            let write =
                propose::raise_alarm(&mut self.ids, member, net::pb::etcdserverpb::AlarmType::Nospace);
            self.alarm = Some(self.propose(write));
        }
    }

    fn checkpoint(&mut self) {
        self.checkpoints.begin_if_due(&mut self.store, now(), self.compacting);
    }

    /// A compaction has ended: its time, and the hour as etcd shows it.
    fn count_compaction(&mut self) {
        let cells = &metrics::here().plain;
        if let Some(began) = self.compaction_began.take() {
            cells.compaction_total.observe_duration(now() - began);
        }
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        cells.compaction_last.set_unsigned(unix.as_secs());
    }

    fn count_figures(&self) {
        let cells = &metrics::here().plain;
        let written = self.store.written();
        cells.put_total.add(written.puts.saturating_sub(cells.put_total.value()));
        cells.total_put_size.set_unsigned(written.put_bytes);
        cells.proposals_applied.set_unsigned(self.published);
        cells.current_revision.set(self.store.revision());
        cells.compact_revision.set(self.store.compact_revision());
        cells.file_pages.set_unsigned(u64::from(self.store.tree().file_pages()));
        cells.log_bytes_since_checkpoint.set_unsigned(self.checkpoints.log_bytes());
        if let Ok(keys) = self.store.tree().count(Table::Keys, &[], None) {
            cells.keys.set_unsigned(keys);
        }
        metrics::here().queue_length(Queue::RaftToStore, self.rings.from_raft.queued());
        let to_clients = self.rings.to_clients.iter().map(Sender::queued).sum();
        metrics::here().queue_length(Queue::StoreToClient, to_clients);
    }

    fn tick(&mut self) {
        self.count_figures();
        if let Announced::Proposed(_, since) = self.announced
            && now() - since > self.shared.request_timeout()
        {
            self.announced = Announced::No;
        }
        if self.announced == Announced::No && self.leader.is_some() {
            self.announce();
        }
        if self.removed_at.is_some_and(|at| now() - at >= REMOVED_LINGERS) {
            self.shared.fatal(force_new::removed(self.shared.identity));
        }
        self.ask_again();
        if self.leadership == Leadership::Leads {
            self.expire();
            self.checkpoint_leases();
        }
        self.send();
        self.checkpoint();
        self.scrubber.tick(&self.store, now());
    }
}

/// Counts a command as etcd does, and says under which name its application is counted.
fn count(command: &Command) -> Option<Op> {
    let cells = &metrics::here().plain;
    Some(match command {
        Command::Put(_) => Op::Put, // rows are counted where they are written, also those of a txn
        Command::DeleteRange(_) => {
            cells.delete_total.inc();
            Op::DeleteRange
        }
        Command::Txn(_) => {
            cells.txn_total.inc();
            Op::Txn
        }
        Command::Compact { .. } => Op::Compaction,
        Command::LeaseGrant { ttl, .. } => {
            cells.lease_granted.inc();
            cells.lease_ttl.observe(u64::try_from(*ttl).unwrap_or(0));
            Op::LeaseGrant
        }
        Command::LeaseRevoke { .. } | Command::LeaseExpire { .. } => {
            cells.lease_revoked.inc();
            Op::LeaseRevoke
        }
        Command::LeaseCheckpoint { .. } => Op::LeaseCheckpoint,
        Command::Alarm(_) => Op::Alarm,
        Command::ClusterVersionSet { .. } => Op::ClusterVersionSet,
        Command::ClusterMemberAttrSet(_) => Op::ClusterMemberAttrSet,
        Command::Nothing => return None,
    })
}

/// Sleeps until the compactor's next step. While a compaction is under way it looks every [`EXPIRY_INTERVAL`].
async fn compaction_loop(core: Rc<RefCell<StoreCore>>) {
    loop {
        let due = core.borrow().auto_compaction.as_ref().and_then(AutoCompaction::next_timeout);
        let pause = due.map_or(EXPIRY_INTERVAL, |due| due.saturating_sub(now()));
        glommio::timer::sleep(pause).await;
        core.borrow_mut().auto_compact();
    }
}

/// Raft's configuration as the members table has it.
pub fn conf_state(members: &[Member]) -> ConfState {
    let (voters, learners) = voters_and_learners(members);
    let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    ConfState { voters: nodes(voters), learners: nodes(learners) }
}

async fn tick_loop(core: Rc<RefCell<StoreCore>>) {
    loop {
        glommio::timer::sleep(EXPIRY_INTERVAL).await;
        core.borrow_mut().tick();
    }
}
