//! The store core: applies what is committed, publishes, answers the proposers, times leases, decides about checkpoints.
//!
//! One turn: apply all committed entries at hand, publish one version for all of them, hand each client core the version
//! and then its outcomes, so that an answered write can be read by whoever hears of it. Between batches: slices of a
//! compaction, never enough of them to delay the next batch noticeably.
//!
//! It is told what happens with [`StoreCore::step`] and says what is to be done in [`Output`]s, which are to be handed on
//! in their order. Threads, files, clocks and queues are its owner's: the server's edge gives it rings and a disk, the
//! simulator inboxes and a virtual one. What the owner wants to count, to time or to log it hears of by an [`Observer`].

mod auto_compaction;
mod checkpoints;
mod leases;
mod members;
mod observer;
mod own;
/// What a store core of a real process was told, replayed.
pub mod trace;

use std::time::Duration;

use consensus::{ConfState, Index, NodeId, ProposalId, ReadyNumber, Term};
use engine::Store;
use engine::compact::Progress;
use engine::tree::Checkpoint;
use rustc_hash::FxHashSet;

use crate::Answer;
use crate::answer::HeaderKind;
use crate::api::{Error, Space};
use crate::apply::{self, Applied, Effect};
use crate::auto_compact::Retention;
use crate::cluster::change::is_removed;
use crate::cluster::{ForSelf, for_self};
use crate::cores::{Committed, Query, QueryAnswer, QueryId, ToClient, ToRaft, ToStore, client_of};
use crate::lease::{Expiry, Renewals};
use crate::membership::{Member, voters_and_learners};
use crate::propose::IdGenerator;

use auto_compaction::AutoCompaction;
use checkpoints::{Checkpoints, Defragment};
use leases::{Asker, Barrier, Questions};

pub use observer::Observer;

/// What a store core goes by: the operator's flags and the bounds of its process.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This member's id.
    pub member: u64,
    /// `--name`
    pub name: String,
    /// `--advertise-client-urls`
    pub client_urls: Vec<String>,
    /// What this member's server is, `X.Y.Z`.
    pub server_version: String,
    /// Client cores, numbered from 0.
    pub client_cores: usize,
    /// `--election-timeout`
    pub election_timeout: Duration,
    /// How long a request may take: what is asked of other members is given up after it.
    pub request_timeout: Duration,
    /// `--quota-backend-bytes`; `None` where there is no quota.
    pub quota: Option<u64>,
    /// Bytes of tree pages changed since the last checkpoint; reaching it holds entries back until the next one ends.
    pub heap_limit_bytes: u64,
    /// Bytes of log since the last checkpoint; nearing it begins one.
    pub log_bytes_max: u64,
    /// A store that changed is written at least this often, so that a restart has little to replay.
    pub checkpoint_interval: Duration,
    /// Committed entries applied before a version is published and its outcomes answered.
    pub entries_per_publish: usize,
    /// Rows of history that one slice of a compaction looks at.
    pub compaction_rows: usize,
    /// How often what is left of longer leases is written down
    /// ([`CHECKPOINT_INTERVAL`](engine::lease::CHECKPOINT_INTERVAL)); etcd's feature gate `LeaseCheckpoint`.
    pub lease_checkpoint: Option<Duration>,
    /// `--auto-compaction-mode`, `--auto-compaction-retention`
    pub auto_compaction: Option<Retention>,
    /// Differs at each start of the process. Questions to other members are numbered from here on, so that the answer to one
    /// of an earlier process is taken for none of this one's.
    pub nonce: u64,
}

/// The present: the time, and what the other cores have published by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Time since the process began.
    pub now: Duration,
    /// This member leads and is the only voter: it needs to ask nobody whether it still does.
    pub alone: bool,
    /// There is no room for another segment of the log.
    pub cramped: bool,
}

/// What happens to the store core.
pub enum Input {
    /// All are there: whoever must know from the beginning what the store holds is told. Comes first.
    Start,
    /// Another core says something.
    Message(ToStore),
    /// What [`Output::BeginCheckpoint`] began is over.
    CheckpointDone(Box<Checkpoint>, Written),
    /// A store came from a peer, complete and durable under its final name; [`Output::Installed`] answers. The number is that
    /// under which raft waits for it.
    Install(ReadyNumber, Box<Store>),
    /// All that was at hand has been told: whatever changed is published, whoever waits for it is answered.
    EndTurn,
    /// What came of the turn has been handed on: a checkpoint begins if one is due.
    BeginCheckpoint,
    /// [`EXPIRY_INTERVAL`](crate::lease::EXPIRY_INTERVAL) is over.
    Tick,
    /// See [`StoreCore::auto_compaction_due`].
    AutoCompact,
}

/// How the writing of a checkpoint ended, if the process goes on with the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// All of it is durable.
    Durable,
    /// There was no room for its pages; nothing that was durable is touched.
    NoRoom,
}

/// What is to be done.
pub enum Output {
    /// Tell the raft core. The applied index ([`StoreCore::published`]) must not reach it before what was told earlier.
    Raft(ToRaft),
    /// Tell a client core.
    Client(usize, ToClient),
    /// Write this checkpoint, which covers this index; [`Input::CheckpointDone`] says how that ended.
    BeginCheckpoint(Box<Checkpoint>, Index),
    /// Cut the tree file to so many bytes: nothing above is reachable.
    Cut(u64),
    /// The store of [`Input::Install`] has taken the place of the one before, whose file is of no use any more.
    Installed,
    /// This member is a learner, or is none.
    Learner(bool),
    /// The version (`X.Y.0`) that the cluster has decided on.
    ClusterVersion(String),
    /// This member has made itself known through the log: it can serve.
    Ready,
    /// This member has been removed from the cluster. It goes on until another one refuses it for that: as long as none knows,
    /// they may need its vote and its log to get to know. So it does if it is started again meanwhile. (etcd stops after a
    /// second, and what is left of two members may wait for it for ever.)
    Removed,
}

/// Why the process must end.
#[derive(Debug)]
pub enum Fatal {
    /// What is committed cannot be applied.
    Apply(apply::Fatal),
    /// The cluster has decided on a version that this server is too old for.
    Downgrade {
        /// What this server is.
        own: String,
        /// What the cluster has decided on.
        cluster: String,
    },
}

impl<E: Into<apply::Fatal>> From<E> for Fatal {
    fn from(error: E) -> Fatal {
        Fatal::Apply(error.into())
    }
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fatal::Apply(error) => error.fmt(f),
            Fatal::Downgrade { own, cluster } => write!(
                f,
                "invalid downgrade; server version is lower than determined cluster version: this is {own}, and the \
                 cluster has decided on {cluster}"
            ),
        }
    }
}

impl std::error::Error for Fatal {}

type Outcome = (ProposalId, Result<Answer, Error>);

type Done = Result<(), Fatal>;

/// See the module's header.
pub struct StoreCore<O = ()> {
    store: Store,
    settings: Settings,
    present: Present,
    /// Whoever counts, times and logs.
    pub observer: O,
    out: Vec<Output>,
    checkpoints: Checkpoints,
    ids: IdGenerator,
    renewals: Renewals<Asker>,
    expiry: Expiry,
    /// The term in which this member leads, or led last: expired leases are revoked in no other.
    lead_term: u64,
    /// Physical compactions whose answer waits for the rows to go.
    compactions: Vec<(i64, Outcome)>,
    /// Defragment calls that wait for its checkpoints.
    defragments: Vec<QueryId>,
    /// Those that came too late for them, and wait for the next ones. (Were these begun anew instead, somebody who asks again and
    /// again would never get there.)
    defragments_later: Vec<QueryId>,
    leadership: Leadership,
    /// Of the last proposal or question.
    number: u64,
    outcomes: Vec<Vec<Outcome>>,
    answers: Vec<Vec<(QueryId, Result<QueryAnswer, Error>)>>,
    compacting: bool,
    announced: Announced,
    /// Who leads, as far as it is known.
    leader: Option<NodeId>,
    /// What the members' servers are, as far as this leader knows.
    versions: Option<Vec<Option<String>>>,
    /// Members have come, gone or changed since they were last told to the raft core.
    members_changed: bool,
    /// Questions that the leader has to answer.
    questions: Questions,
    /// Questions that wait until this leader knows that it still leads.
    barrier: Barrier,
    /// A store that waits to take the place of this one.
    installation: Option<(ReadyNumber, Box<Store>)>,
    /// Applied index of the last published version.
    published: u64,
    /// Entries applied since then.
    unpublished: usize,
    /// Something besides entries changed since then.
    changed: bool,
    /// Revocations of expired leases that are proposed and not yet applied.
    revocations: FxHashSet<ProposalId>,
    /// This member's NOSPACE alarm is proposed and not yet applied.
    alarm: Option<ProposalId>,
    /// Compacts by itself, and the proposal that is under way for it.
    auto_compaction: Option<AutoCompaction>,
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

impl<O: Observer> StoreCore<O> {
    /// Begins with a store that its file covers as it is.
    pub fn new(
        store: Store,
        ids: IdGenerator,
        settings: Settings,
        present: Present,
        observer: O,
    ) -> StoreCore<O> {
        let cores = settings.client_cores;
        let covered = Index(store.applied().index);
        let auto_compaction =
            settings.auto_compaction.map(|kept| AutoCompaction::new(kept, present.now, store.revision()));
        StoreCore {
            checkpoints: Checkpoints::new(covered, present.now),
            store,
            present,
            observer,
            out: Vec::new(),
            ids,
            renewals: Renewals::default(),
            expiry: Expiry::default(),
            lead_term: 0,
            compactions: Vec::new(),
            defragments: Vec::new(),
            defragments_later: Vec::new(),
            leadership: Leadership::Follows,
            number: settings.nonce,
            outcomes: (0..cores).map(|_| Vec::new()).collect(),
            answers: (0..cores).map(|_| Vec::new()).collect(),
            compacting: true,
            announced: Announced::No,
            leader: None,
            versions: None,
            members_changed: true,
            questions: Questions::default(),
            barrier: Barrier::default(),
            installation: None,
            published: 0,
            unpublished: 0,
            changed: true, // all hear of what there is
            revocations: FxHashSet::default(),
            alarm: None,
            auto_compaction,
            settings,
        }
    }

    /// Something happens. What is to be done about it is in [`StoreCore::outputs`] afterwards.
    ///
    /// # Errors
    /// The process must end: what is half applied must not be published.
    pub fn step(&mut self, present: Present, input: Input) -> Done {
        self.present = present;
        match input {
            Input::Start => {
                if is_removed(&self.store, self.settings.member)? {
                    self.out.push(Output::Removed);
                }
                self.tell_version()?;
                self.end_turn()
            }
            Input::Message(message) => self.hear(message),
            Input::CheckpointDone(checkpoint, written) => {
                self.end_checkpoint(*checkpoint, written);
                Ok(())
            }
            Input::Install(ready, store) => {
                self.installation = Some((ready, store));
                Ok(())
            }
            Input::EndTurn => self.end_turn(),
            Input::BeginCheckpoint => {
                self.begin_checkpoint();
                Ok(())
            }
            Input::Tick => self.tick(),
            Input::AutoCompact => {
                self.auto_compact();
                Ok(())
            }
        }
    }

    /// What is to be done, in this order.
    pub fn outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.out.drain(..)
    }

    /// Whether more of what is committed should be told before the turn ends. Other messages of the raft core wait behind
    /// it.
    pub fn takes_entries(&self) -> bool {
        self.unpublished < self.settings.entries_per_publish && !self.is_full()
    }

    /// Whether heap frames have reached their limit: until the checkpoint under way ends, nothing more is applied.
    pub fn is_full(&self) -> bool {
        self.checkpoints.is_running() && self.store.tree().heap_bytes() >= self.settings.heap_limit_bytes
    }

    /// Whether something waits for the checkpoint under way, or will soon: a Defragment, the room that it gives back, the heap, a
    /// restart that would have much to replay. It should not be written at leisure then.
    pub fn waits_for_checkpoint(&self) -> bool {
        let settings = &self.settings;
        self.checkpoints.is_defragmenting()
            || self.present.cramped
            || self.store.tree().heap_bytes() >= settings.heap_limit_bytes / 4 * 3
            || self.checkpoints.log_bytes() >= settings.log_bytes_max / 4 * 3
    }

    /// Whether there is a slice of a compaction to do: then turns go on also if nothing is told. Slices change pages as
    /// writes do, so they wait as writes do while the heap is full: the end of the checkpoint goes on with them.
    pub fn has_slices(&self) -> bool {
        self.compacting && !self.is_full()
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What it goes by.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Applied index of the last published version.
    pub fn published(&self) -> Index {
        Index(self.published)
    }

    /// Bytes of log that a restart would replay.
    pub fn log_bytes(&self) -> u64 {
        self.checkpoints.log_bytes()
    }

    /// Questions and answers that wait, proposals of this core and a store to be installed: nothing of it stays when all is well.
    pub fn books_open(&self) -> usize {
        let unsent = self.outcomes.iter().map(Vec::len).sum::<usize>();
        let unsaid = self.answers.iter().map(Vec::len).sum::<usize>();
        let waiting = self.renewals.len() + self.questions.len() + self.barrier.len();
        let calls = self.compactions.len() + self.defragments.len() + self.defragments_later.len();
        let own = self.revocations.len() + usize::from(self.alarm.is_some());
        unsent + unsaid + waiting + calls + own + usize::from(self.installation.is_some())
    }

    /// Whether this member times leases: it leads, and has applied the first entry of its term.
    pub fn times_leases(&self) -> bool {
        self.leadership == Leadership::Leads
    }

    /// Whether the server compacts by itself, and if so, when its next step is due ([`Input::AutoCompact`]): `None` while a
    /// compaction is under way.
    pub fn auto_compaction_due(&self) -> Option<Option<Duration>> {
        self.auto_compaction.as_ref().map(AutoCompaction::next_timeout)
    }

    fn hear(&mut self, message: ToStore) -> Done {
        match message {
            ToStore::Commit(batch) => self.apply_all(batch)?,
            ToStore::Leadership { leads, term, leader } => self.led_by(leads, term, leader),
            ToStore::Versions(versions) => {
                self.versions = Some(versions);
                self.decide_version()?;
            }
            ToStore::Dropped(id) => self.own_proposal_dropped(id),
            ToStore::ReadIndex(id, index) => self.barrier_answered(id, index),
            ToStore::PinSnapshot(peer) => self.pin_snapshot(peer)?,
            ToStore::PeerRequest(from, id, body) => self.peer_asks(from, id, &body),
            ToStore::PeerResponse(id, body) => self.peer_answers(id, &body),
            ToStore::Query(id, query) => self.query(id, query),
            ToStore::NoSpace => self.raise_no_space(),
        }
        Ok(())
    }

    fn apply_all(&mut self, batch: Vec<Committed>) -> Done {
        self.observer.batch_begins();
        let now = self.present.now;
        self.unpublished += batch.len();
        for Committed { entry, command } in batch {
            self.checkpoints.applied_bytes(entry.data.len());
            self.observer.entry_begins(command.as_ref());
            // Read for each entry: what a batch took so far counts for the rest of it.
            let space = Space { used: self.store.tree().allocated_bytes(), quota: self.settings.quota };
            let Some(applied) = apply::apply(&mut self.store, now, space, &entry, command)? else { continue };
            if matches!(self.leadership, Leadership::Elected(elected) if entry.term >= elected) {
                self.start_leading()?;
            }
            self.observer.entry_applied(&entry, &applied.result);
            self.applied(applied)?;
        }
        self.observer.batch_ends();
        Ok(())
    }

    fn applied(&mut self, applied: Applied) -> Done {
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
                let own = self.settings.member;
                if change.as_ref().is_some_and(|change| for_self(change, own) == ForSelf::Removed) {
                    self.out.push(Output::Removed);
                }
                self.tell_raft(ToRaft::ConfChange(applied.index, change));
                self.members_changed = true;
            }
            Effect::MemberPublished => self.members_changed = true,
            Effect::ClusterVersion(_) => self.tell_version()?,
        }
        self.compacting |= self.store.finished_compact_revision() < self.store.compact_revision();
        Ok(())
    }

    fn outcome(&mut self, id: ProposalId, result: Result<Answer, Error>, when_compacted: bool) {
        match client_of(id) {
            None => self.own_proposal_applied(id, result.err()),
            Some(core) if when_compacted && result.is_ok() => {
                self.out.push(Output::Client(core, ToClient::Compacting(id)));
                self.compactions.push((self.store.compact_revision(), (id, result)));
            }
            Some(core) => self.outcomes[core].push((id, result)),
        }
    }

    fn end_turn(&mut self) -> Done {
        self.pass_barrier();
        self.install()?;
        self.compact()?;
        let wants_version = self.checkpoints.wants_version() && !self.compacting;
        if self.unpublished > 0 || wants_version || std::mem::take(&mut self.changed) {
            self.publish()?;
        }
        self.send_answers();
        Ok(())
    }

    /// One slice.
    fn compact(&mut self) -> Done {
        if !self.has_slices() {
            return Ok(());
        }
        self.observer.slice_begins(&self.store);
        let progress = self.store.compact_slice(self.settings.compaction_rows)?;
        self.observer.slice_ends(&self.store, &progress);
        match progress {
            Progress::Idle => self.compacting = false,
            Progress::More | Progress::Finished(_) => self.sliced(),
        }
        self.answer_compactions();
        Ok(())
    }

    /// Those whose rows are gone: by slices of this store, or by a peer's before this one was installed.
    fn answer_compactions(&mut self) {
        let finished = self.store.finished_compact_revision();
        for (revision, outcome) in std::mem::take(&mut self.compactions) {
            match client_of(outcome.0) {
                Some(core) if revision <= finished => {
                    self.outcomes[core].push(outcome);
                    self.changed = true; // answers leave with a version
                }
                _ => self.compactions.push((revision, outcome)),
            }
        }
    }

    fn sliced(&mut self) {
        self.changed = true;
        self.checkpoints.sliced();
    }

    fn publish(&mut self) -> Done {
        self.observer.publish_begins();
        let view = self.store.publish()?;
        self.changed = false;
        self.store.tree_mut().reclaim();
        self.observer.published(&self.store, std::mem::take(&mut self.unpublished));
        self.published = view.applied().index;
        self.publish_members()?;
        for (core, outcomes) in self.outcomes.iter_mut().enumerate() {
            self.out.push(Output::Client(core, ToClient::Published(view.clone())));
            if !outcomes.is_empty() {
                self.out.push(Output::Client(core, ToClient::Outcomes(std::mem::take(outcomes))));
            }
        }
        Ok(())
    }

    fn send_answers(&mut self) {
        for (core, answers) in self.answers.iter_mut().enumerate() {
            if !answers.is_empty() {
                self.out.push(Output::Client(core, ToClient::Answers(std::mem::take(answers))));
            }
        }
    }

    fn tell_raft(&mut self, message: ToRaft) {
        self.out.push(Output::Raft(message));
    }

    fn answer(&mut self, id: QueryId, answer: Result<QueryAnswer, Error>) {
        self.answers[id.core].push((id, answer));
    }

    fn query(&mut self, id: QueryId, query: Query) {
        match query {
            Query::KeepAlive { .. } | Query::TimeToLive { .. } => self.lease_query(id, query),
            Query::Leases => {
                self.answer(id, Ok(QueryAnswer::Answer(crate::lease::leases(&self.store))));
            }
            Query::Defragment => self.defragment(id),
        }
    }

    fn defragment(&mut self, id: QueryId) {
        let defragment = self.checkpoints.defragment(self.present.now);
        if defragment == Defragment::Begins {
            self.observer.defragment_begins();
        }
        match defragment {
            Defragment::Begins | Defragment::Joins => self.defragments.push(id),
            Defragment::Waits => self.defragments_later.push(id),
        }
    }

    fn begin_checkpoint(&mut self) {
        let begun =
            self.checkpoints.begin_if_due(&mut self.store, self.present, &self.settings, self.compacting);
        let Some((checkpoint, covers)) = begun else { return };
        if planted::is("log-dropped-when-checkpoint-begins") {
            self.tell_raft(ToRaft::Checkpointed(covers));
        }
        self.out.push(Output::BeginCheckpoint(Box::new(checkpoint), covers));
    }

    fn end_checkpoint(&mut self, checkpoint: Checkpoint, written: Written) {
        self.changed = true;
        let defragmented = match written {
            Written::Durable => {
                let frames = checkpoint.frames();
                let Some(ended) = self.checkpoints.end(&mut self.store, checkpoint, self.present.now) else {
                    return;
                };
                self.observer.checkpoint_written(ended.covers, frames, ended.took);
                if let Some((bytes, took)) = ended.cut {
                    self.out.push(Output::Cut(bytes));
                    self.observer.defragment_ends(Some(took));
                }
                self.tell_raft(ToRaft::Checkpointed(ended.covers));
                Ok(Answer { header: HeaderKind::None, ..Answer::bare(0) })
            }
            Written::NoRoom => {
                self.checkpoints.give_up(&mut self.store, checkpoint, self.present.now);
                self.observer.checkpoint_failed();
                self.observer.defragment_ends(None);
                self.raise_no_space();
                Err(Error::NoSpace)
            }
        };
        if !self.checkpoints.is_defragmenting() {
            for id in std::mem::take(&mut self.defragments) {
                self.answer(id, defragmented.clone().map(QueryAnswer::Answer));
            }
            for id in std::mem::take(&mut self.defragments_later) {
                self.defragment(id);
            }
        }
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
    fn start_leading(&mut self) -> Done {
        self.leadership = Leadership::Leads;
        self.store.lease_checkpointing(self.settings.lease_checkpoint);
        self.store.lease_promote(self.present.now, self.settings.election_timeout);
        self.ask_again(); // behind the promotion: a question that waited is answered by one who times leases
        if self.announced == Announced::No {
            self.announce();
        }
        self.decide_version()
    }

    fn tick(&mut self) -> Done {
        let now = self.present.now;
        if let Announced::Proposed(_, since) = self.announced
            && now - since > self.settings.request_timeout
        {
            self.announced = Announced::No;
        }
        if self.announced == Announced::No && self.leader.is_some() {
            self.announce();
        }
        self.ask_again();
        if self.leadership == Leadership::Leads {
            self.expire();
            self.checkpoint_leases();
        }
        self.send_answers();
        Ok(())
    }
}

/// Raft's configuration as the members table has it.
pub fn conf_state(members: &[Member]) -> ConfState {
    let (voters, learners) = voters_and_learners(members);
    let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    ConfState { voters: nodes(voters), learners: nodes(learners) }
}

#[cfg(test)]
mod tests;
