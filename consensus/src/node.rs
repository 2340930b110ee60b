//! `Node`: the `raft` crate behind one `step`.
//!
//! # A turn
//!
//! The caller collects what has happened (a turn), gives each event to [`Node::step`], then calls [`Node::flush`] once,
//! then starts the outputs in order and waits for none of them. All proposals of a turn become one raft proposal and
//! one [`Append`] (more only beyond [`Config::append_bytes`]). Raft runs in its asynchronous form: each Ready is handed
//! out with its number, and durability is reported later by number, cumulatively.
//!
//! # What holds
//!
//! - `applied <= commit handed out <= min(committed, durable here) <= last`. A commit is never ahead of this member's
//!   own disk, so no checkpoint can hold what the log could lose. With one voter, own durability *is* the commit.
//! - A change of the configuration is handed out when this member's log says that it is committed, and that is durable. Otherwise
//!   one that acted on it (that told the removed member, which left) could forget it in a power cut, and count on who has left.
//! - A message that says "I have stored this" leaves after the [`Input::Durable`] that makes it true; a message that
//!   reveals a term leaves after the term is durable. A leader's appends leave before its own disk has them.
//! - [`Output::SingleVoter`] is cleared before anybody can hear of a second voter: already when a configuration change
//!   is appended, not when it is applied.
//! - The order of outputs does not depend on clocks, threads or random numbers. raft draws its election jitter from the
//!   thread's generator; it is overwritten after each step with a hash of (seed, term, role, campaigns).
//!
//! # One voter
//!
//! There is no separate path for it. Its election needs no timeout, because nobody can object, so it campaigns as soon
//! as every configuration change of its log is applied. Two raft facts shape this: raft refuses to campaign while a
//! committed configuration change is unapplied, and it asserts on election that its whole log is durable, which a lone
//! voter that still has writes in flight (a cluster shrunk to one) would violate. Both are checked before asking.

use bytes::Bytes;
use raft::eraftpb::{Entry as Stub, Message as RaftMessage, MessageType};
use raft::{ProgressState, RawNode, Ready, SnapshotStatus, StateRole};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};

use crate::cache::{Cache, from_raft_conf, stub, stub_position, to_raft_conf};
use crate::log::State;
use crate::message::{Promise, promise_of};
use crate::read_index::Reads;
use crate::{
    ConfChange, ConfState, Entry, EntryKind, Envelope, HardState, Index, LogPosition, Message, NodeId,
    PeerMessage, ProposalId, ReadyNumber, Term,
};

mod forward;
mod guard;
mod io;
mod peers;
mod reads;
mod snapshot;

use forward::{Forwards, Queue};
pub(crate) use guard::is_sound;
pub use io::{
    Append, Config, DropReason, Fetch, Input, InstallSnapshot, Output, PeerStatus, Role, RoleChange, Status,
};
use peers::Peers;
use snapshot::Snapshots;

/// Entries in one [`Output::Commit`] at most, so that a long replay reaches the store in pieces.
const COMMIT_ENTRIES_MAX: usize = 4096;

/// One member of a Raft group.
pub struct Node {
    config: Config,
    raft: RawNode<Cache>,
    /// The bootstrap entries while they are not durable: nothing is taken out of raft before.
    unwritten: Unwritten,
    hard_state: HardState,
    queue: Queue,
    forwards: Forwards,
    /// Proposals of this member whose entries were replaced, until something is committed in their place.
    lost: BTreeMap<LogPosition, ProposalId>,
    /// Bytes of entries that peers sent in this turn.
    received: FxHashMap<(u64, u64), Bytes>,
    /// Messages that wait for durability, in order.
    held: VecDeque<(ReadyNumber, Envelope)>,
    /// Committed entries that wait for the durability of the commit itself, in order.
    held_commits: VecDeque<(ReadyNumber, Vec<Entry>)>,
    /// What the appends so far say to be committed.
    commit_appended: Index,
    reads: Reads,
    snapshots: Snapshots,
    peers: Peers,
    appended: ReadyNumber,
    /// The last append that changed term or vote.
    appended_vote: ReadyNumber,
    /// What the log says. `durable` is behind it while a snapshot is being installed.
    log_durable: ReadyNumber,
    durable: ReadyNumber,
    role: RoleChange,
    single_voter: Option<Index>,
    /// The last configuration change that the store has decided.
    conf_applied: Index,
    campaigns: u64,
    /// Ticks in office since the log device stopped answering.
    stalled_ticks: Option<usize>,
}

#[derive(Debug, PartialEq)]
enum Unwritten {
    Nothing,
    Entries(Vec<Entry>),
    OnTheWay,
}

impl Node {
    /// A node that goes on from `state`, which is what [`log::recover`](crate::log::recover) found or
    /// [`State::bootstrap`] made. `applied` and `conf` come from the store; both are default on the very first start.
    ///
    /// # Panics
    ///
    /// If the log does not follow `applied`; `recover` has checked that.
    pub fn new(config: Config, state: State, applied: LogPosition, conf: ConfState) -> Node {
        let last = state.entries.last().map_or(applied, Entry::position);
        let mut hard_state = state.hard_state;
        // The store is never ahead of durable commits, but the hint in the log may be behind the store.
        hard_state.commit = hard_state.commit.max(applied.index).min(last.index);
        let unwritten = match state.unwritten {
            true => Unwritten::Entries(state.entries.clone()),
            false => Unwritten::Nothing,
        };
        let initial = (hard_state, to_raft_conf(&conf));
        let cache = Cache::new(applied, state.entries, initial, config.cache_bytes_limit);
        let raft = RawNode::new(&raft_config(&config, applied), cache, &silent_logger())
            .expect("the configuration is valid and the cache never fails");
        let reads = Reads::new(config.id, config.boot_nonce);
        let mut node = Node {
            config,
            raft,
            unwritten,
            hard_state,
            queue: Queue::default(),
            forwards: Forwards::new(hard_state.term),
            lost: BTreeMap::new(),
            received: FxHashMap::default(),
            held: VecDeque::new(),
            held_commits: VecDeque::new(),
            commit_appended: state.hard_state.commit,
            reads,
            snapshots: Snapshots::default(),
            peers: Peers::default(),
            appended: ReadyNumber(0),
            appended_vote: ReadyNumber(0),
            log_durable: ReadyNumber(0),
            durable: ReadyNumber(0),
            role: RoleChange { role: Role::Follower, term: hard_state.term, leader: None },
            single_voter: None,
            conf_applied: applied.index,
            campaigns: 0,
            stalled_ticks: None,
        };
        node.draw_election_timeout();
        node
    }

    /// Takes one event. Never waits, never reads a clock, draws randomness only from its seed. Most outputs come with
    /// [`Node::flush`].
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Propose(id, data) => self.enqueue(id, EntryKind::Normal, data, out),
            Input::ProposeConfChange(id, change) => {
                self.enqueue(id, EntryKind::ConfChange, change.encode(), out);
            }
            Input::ReadIndex(read) if self.reads.len() >= self.config.reads_limit => {
                out.push(Output::ReadDropped(read));
            }
            Input::ReadIndex(read) => self.reads.push(read),
            Input::Durable(ready) => self.handle_durable(ready, out),
            Input::Applied(index) => self.handle_applied(index),
            Input::ApplyConfChange(index, change) => self.apply_conf_change(index, change, out),
            Input::Tick => self.tick(),
            Input::Campaign => self.campaign(),
            Input::Receive(from, message) => self.receive(from, *message, out),
            Input::Unreachable(peer) => self.raft.report_unreachable(peer.0),
            Input::TransferLeader(to) => self.transfer(to),
            Input::LogStartsAt(first) => self.raft.mut_store().log_starts_at(first),
            Input::Fetched(peer, first, entries) => self.fetched(peer, first, entries),
            Input::SnapshotPinned { peer, position, conf } => {
                self.snapshot_pinned(peer, position, &conf, out);
            }
            Input::SnapshotUnpinned(peer) => self.snapshot_unpinned(peer, out),
            Input::SnapshotSent(peer, ok) => self.snapshot_sent(peer, ok),
            Input::SnapshotInstalled(ready) => self.snapshot_installed(ready, out),
            Input::LogStalled(stalled) => {
                self.stalled_ticks = stalled.then_some(0);
                if stalled && !self.alone() {
                    self.transfer(None);
                }
            }
        }
    }

    /// Ends a turn: gives all that follows from its inputs.
    pub fn flush(&mut self, out: &mut Vec<Output>) {
        if self.unwritten != Unwritten::Nothing {
            return self.append_bootstrap(out);
        }
        self.campaign_if_alone();
        self.start_reads();
        self.drain(out);
        self.propose_all(out);
        self.received.clear();
        self.offer_snapshots(out);
        self.tend_peers(out);
        self.raft.mut_store().evict();
        self.publish_single_voter(out);
    }

    /// A look at the node.
    pub fn status(&self) -> Status {
        let cache = self.raft.store();
        Status {
            role: self.role,
            committed: Index(self.raft.raft.raft_log.committed),
            applied: Index(self.raft.raft.raft_log.applied),
            last: cache.last(),
            appended: self.appended,
            durable: self.durable,
            log_durable: self.log_durable,
            unapplied_bytes: cache.unapplied_bytes() + self.queue.bytes,
            cache_bytes: cache.bytes(),
            reads: self.reads.len(),
            lead_transferee: self.raft.raft.lead_transferee.map(NodeId),
        }
    }

    /// Whether a snapshot that was received is being taken: raft has accepted its message, and the store has not been replaced.
    pub fn takes_snapshot(&self) -> bool {
        self.snapshots.installing.is_some() || self.raft.snap().is_some()
    }

    /// Reads, proposals, messages and snapshots that wait for something, and a transfer under way: nothing of it stays when all is
    /// well.
    pub fn books_open(&self) -> usize {
        let proposals = self.queue.len() + self.lost.len();
        let transfers = usize::from(self.raft.raft.lead_transferee.is_some());
        self.reads.len() + proposals + self.held.len() + self.snapshots.len() + transfers
    }

    /// Who votes and who only listens, as raft goes by it now.
    pub fn conf_state(&self) -> ConfState {
        from_raft_conf(&self.raft.raft.prs().conf().to_conf_state())
    }

    fn append_bootstrap(&mut self, out: &mut Vec<Output>) {
        if let Unwritten::Entries(entries) = &mut self.unwritten {
            let entries = std::mem::take(entries);
            self.unwritten = Unwritten::OnTheWay;
            out.push(Output::Append(Append {
                ready: ReadyNumber(0),
                hard_state: self.hard_state,
                entries,
                reset: None,
            }));
        }
    }

    fn handle_durable(&mut self, ready: ReadyNumber, out: &mut Vec<Output>) {
        assert!(ready <= self.appended, "durable {ready} beyond the last append {}", self.appended);
        if self.unwritten == Unwritten::OnTheWay {
            self.unwritten = Unwritten::Nothing;
        }
        self.log_durable = self.log_durable.max(ready);
        self.settle_durable(out);
    }

    /// All that is durable is told to raft, and what waited for it leaves.
    fn settle_durable(&mut self, out: &mut Vec<Output>) {
        // The append of a snapshot is not done before the store is replaced.
        let bound = self.snapshots.installing.map(|(ready, _)| ReadyNumber(ready.0 - 1));
        let ready = bound.map_or(self.log_durable, |bound| bound.min(self.log_durable));
        self.durable = ready;
        self.raft.on_persist_ready(ready.0);
        while self.held.front().is_some_and(|(waits_for, _)| *waits_for <= ready) {
            let (_, envelope) = self.held.pop_front().expect("it was there");
            out.push(Output::Send(envelope));
        }
        self.release_commits(out);
    }

    fn handle_applied(&mut self, index: Index) {
        if index <= self.raft.store().applied() {
            return;
        }
        let undecided = self.raft.store().first_conf_change().filter(|at| *at > self.conf_applied);
        assert!(undecided.is_none_or(|at| at > index), "the change at {undecided:?} was not applied to raft");
        self.raft.advance_apply_to(index.0);
        self.raft.mut_store().applied_to(index);
    }

    fn apply_conf_change(&mut self, index: Index, change: Option<ConfChange>, out: &mut Vec<Output>) {
        if index <= self.snapshots.taken {
            return; // the snapshot has decided it
        }
        let expected = index > self.conf_applied && self.raft.store().has_conf_change(index);
        assert!(expected, "configuration changes are applied in order, once; not {index}");
        self.conf_applied = index;
        let Some(change) = change.and_then(|change| change.to_raft()) else { return };
        let conf = self.raft.apply_conf_change(&change).expect("the store refuses invalid changes");
        self.leave_office_if_removed();
        self.draw_election_timeout();
        self.publish_single_voter(out);
        out.push(Output::ConfState(from_raft_conf(&conf)));
    }

    fn tick(&mut self) {
        self.reads.tick(self.config.election_ticks.div_ceil(2) as u32);
        if self.hand_over_if_stalled() {
            return;
        }
        let must_wait = self.must_not_campaign();
        let raft = &mut self.raft.raft;
        let follows = raft.state != StateRole::Leader;
        if follows && must_wait {
            // Time passes all the same: whether it may vote for others depends on it.
            raft.election_elapsed = raft.election_elapsed.saturating_add(1);
            return;
        }
        if follows && raft.election_elapsed + 1 >= raft.randomized_election_timeout() {
            self.campaigns += 1;
        }
        self.raft.tick();
        self.repeat_transfer();
        self.draw_election_timeout();
    }

    fn campaign(&mut self) {
        if self.must_not_campaign() {
            return;
        }
        self.campaigns += 1;
        // It fails where raft knows nothing to campaign for; an election timeout will come.
        let _ = self.raft.campaign();
        self.draw_election_timeout();
    }

    /// Whether an election would find this member unfit: see "One voter" and the module `snapshot`; or its disk is stuck, and
    /// it would be a leader who can't write.
    fn must_not_campaign(&self) -> bool {
        // Handed out and not durable, or received in this turn and not handed out.
        let raft_log = &self.raft.raft.raft_log;
        let in_flight = self.appended > self.durable || raft_log.last_index() > raft_log.persisted;
        let unfit = if self.alone() { in_flight } else { self.stalled_ticks.is_some() };
        unfit || self.snapshots.installing.is_some()
    }

    fn campaign_if_alone(&mut self) {
        let raft = &self.raft.raft;
        let committed = Index(raft.raft_log.committed);
        let unapplied_change = self.raft.store().first_conf_change().is_some_and(|at| at <= committed);
        if raft.state != StateRole::Leader && self.alone() && !unapplied_change {
            self.campaign();
        }
    }

    /// Whether this member is the only voter.
    fn alone(&self) -> bool {
        let raft = &self.raft.raft;
        raft.prs().is_singleton() && raft.promotable()
    }

    fn receive(&mut self, from: NodeId, message: PeerMessage, out: &mut Vec<Output>) {
        match message {
            PeerMessage::Raft(message) => self.receive_raft(from, message, out),
            PeerMessage::Forward(forward) => self.receive_forward(from, forward),
            PeerMessage::ForwardRefused(refusal) => self.receive_refusal(refusal, out),
            PeerMessage::Request { .. } | PeerMessage::Response { .. } => {}
        }
    }

    fn receive_raft(&mut self, from: NodeId, message: Message, out: &mut Vec<Output>) {
        let Message { raft: message, data } = message;
        let kind = message.get_msg_type();
        if message.from != from.0 || message.to != self.config.id.0 {
            return; // a peer that doesn't follow the protocol
        }
        if kind == MessageType::MsgReadIndex {
            return self.receive_read_index(from, &message);
        }
        let with_data = if kind == MessageType::MsgAppend { message.entries.len() } else { 0 };
        if !guard::is_sound(&message) || data.len() != with_data {
            return;
        }
        match kind {
            MessageType::MsgSnapshot => self.receive_snapshot(message, out),
            MessageType::MsgHeartbeat if self.lacks_acknowledged(&message) => {
                let (acknowledged, last) = (Index(message.commit), self.raft.store().last());
                out.push(Output::AcknowledgedLost { acknowledged, last });
            }
            MessageType::MsgTimeoutNow if self.must_not_campaign() => {}
            MessageType::MsgAppendResponse => {
                self.before_answer(from);
                let _ = self.raft.step(message);
                self.after_answer(from);
            }
            _ => {
                for (stub, data) in message.entries.iter().zip(data) {
                    self.received.insert((stub.index, stub.term), data);
                }
                // raft refuses what is not for it; there is nobody to tell.
                let _ = self.raft.step(message);
            }
        }
        self.draw_election_timeout();
    }

    /// A leader's heartbeat carries a commit up to which it knows this member's log to be durable and equal to its own. raft
    /// panics if it is not there.
    fn lacks_acknowledged(&self, heartbeat: &RaftMessage) -> bool {
        heartbeat.term >= self.raft.raft.term && heartbeat.commit > self.raft.raft.raft_log.last_index()
    }

    /// Takes from raft all that it has ready.
    fn drain(&mut self, out: &mut Vec<Output>) {
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            self.observe_role(out);
            self.handle_ready(ready, out);
            // A commit in this leader's own term may be what reads were waiting for.
            self.start_reads();
        }
        self.draw_election_timeout();
    }

    fn handle_ready(&mut self, mut ready: Ready, out: &mut Vec<Output>) {
        let number = ReadyNumber(ready.number());
        let reset = self.take_snapshot(&ready, out);
        let entries = self.take_entries(ready.take_entries());
        if planted::is("conf-change-at-append") {
            self.change_conf_at_append(&entries);
        }
        self.note_replaced();
        let vote_changed = self.observe_hard_state(&ready);
        let append = (ready.must_sync() || self.commits_a_change(&ready)).then(|| {
            self.appended = number;
            self.commit_appended = self.hard_state.commit;
            if vote_changed {
                self.appended_vote = number;
            }
            Append { ready: number, hard_state: self.hard_state, entries, reset }
        });
        self.publish_single_voter(out);
        for message in ready.take_messages() {
            // A lone voter leads before its vote is durable; with learners there is somebody to hear of the term.
            if let Some(envelope) = self.envelope(message) {
                self.hold(Promise::Term, envelope, out);
            }
        }
        out.extend(append.map(Output::Append));
        out.extend(reset.map(|position| self.install(&ready, position)));
        for message in ready.take_persisted_messages() {
            self.send_when_true(message, out);
        }
        self.commit(&ready, out);
        for read_state in ready.take_read_states() {
            self.answer_reads(&read_state.request_ctx, Index(read_state.index), out);
        }
        self.raft.advance_append_async(ready);
    }

    /// Whole entries for raft's stubs; they are in the cache then.
    fn take_entries(&mut self, stubs: Vec<Stub>) -> Vec<Entry> {
        let mut entries = Vec::with_capacity(stubs.len());
        for stub in stubs {
            let entry = self.whole_entry(&stub);
            self.raft.mut_store().append(entry.clone());
            entries.push(entry);
        }
        entries
    }

    /// A planted bug: the new configuration counts before anybody knows that it will be committed.
    fn change_conf_at_append(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let change = ConfChange::decode(&entry.data).ok().and_then(|change| change.to_raft());
            // raft refuses to remove the last voter.
            let _ = change.map(|change| self.raft.apply_conf_change(&change));
        }
    }

    /// Remembers the hard state; whether term or vote have changed.
    fn observe_hard_state(&mut self, ready: &Ready) -> bool {
        let Some(new) = ready.hs() else { return false };
        let old = self.hard_state;
        self.hard_state =
            HardState { term: Term(new.term), vote: NodeId(new.vote), commit: Index(new.commit) };
        (old.term, old.vote) != (self.hard_state.term, self.hard_state.vote)
    }

    fn observe_role(&mut self, out: &mut Vec<Output>) {
        let raft = &self.raft.raft;
        let role = match raft.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        let leader = (raft.leader_id != raft::INVALID_ID).then_some(NodeId(raft.leader_id));
        let now = RoleChange { role, term: Term(raft.term), leader };
        if now == self.role {
            return;
        }
        if now.leader.is_none() {
            self.reads.retreat();
        } else if now.leader != self.role.leader || now.term != self.role.term {
            out.extend(self.reads.fail_attempt().into_iter().map(Output::ReadDropped));
        }
        self.role = now;
        out.push(Output::Role(now));
    }

    /// Whether this Ready commits a change of the configuration of which the log doesn't say so yet.
    fn commits_a_change(&self, ready: &Ready) -> bool {
        last_change(ready).is_some_and(|index| index > self.commit_appended)
    }

    fn commit(&mut self, ready: &Ready, out: &mut Vec<Output>) {
        let stubs = ready.committed_entries();
        let (Some(first), Some(last)) = (stubs.first(), stubs.last()) else { return };
        let last_position = LogPosition::new(last.index, last.term);
        let last_index = last_position.index;
        let entries = self.raft.store().range(Index(first.index), last_index).cloned();
        let waits_for = match last_change(ready) {
            Some(_) => self.appended,
            None => self.held_commits.back().map_or(ReadyNumber(0), |(waits_for, _)| *waits_for),
        };
        if waits_for > self.durable {
            self.held_commits.push_back((waits_for, entries.collect()));
        } else {
            hand_out(entries, out);
        }
        self.drop_lost(last_position, DropReason::LeaderChanged, out);
    }

    fn release_commits(&mut self, out: &mut Vec<Output>) {
        while self.held_commits.front().is_some_and(|(waits_for, _)| *waits_for <= self.durable) {
            let (_, entries) = self.held_commits.pop_front().expect("it was there");
            hand_out(entries.into_iter(), out);
        }
    }

    /// A message of raft, with its bytes. `None` if it is of no use any more: this member led when raft made it, and
    /// follows a leader now who has replaced the entries.
    fn envelope(&mut self, message: RaftMessage) -> Option<Envelope> {
        let to = NodeId(message.to);
        let kind = message.get_msg_type();
        if kind == MessageType::MsgSnapshot {
            self.snapshot_leaves(to);
        }
        if kind != MessageType::MsgAppend || message.entries.is_empty() {
            return Some(Envelope::raft(message, Vec::new()));
        }
        let cache = self.raft.store();
        let entries: Option<Vec<&Entry>> =
            message.entries.iter().map(|stub| cache.entry(stub_position(stub))).collect();
        let Some(entries) = entries else {
            assert!(self.raft.raft.state != StateRole::Leader, "a leader sends what the cache holds");
            return None;
        };
        let bytes = entries.iter().map(|entry| entry.cost_bytes()).sum();
        let data = entries.into_iter().map(|entry| entry.data.clone()).collect();
        self.note_sent(to, bytes);
        Some(Envelope::raft(message, data))
    }

    fn send_when_true(&mut self, message: RaftMessage, out: &mut Vec<Output>) {
        let promise = promise_of(&message);
        if let Some(envelope) = self.envelope(message) {
            self.hold(promise, envelope, out);
        }
    }

    /// Sends a message as soon as what it promises is durable.
    fn hold(&mut self, promise: Promise, envelope: Envelope, out: &mut Vec<Output>) {
        let waits_for = match promise {
            _ if planted::is("promise-sent-early") => ReadyNumber(0),
            Promise::Stored => self.appended,
            Promise::Term => self.appended_vote,
        };
        if waits_for <= self.durable {
            out.push(Output::Send(envelope));
            return;
        }
        // Kept in the order of what they wait for; equal ones in the order in which raft made them.
        let at = self.held.partition_point(|(held, _)| *held <= waits_for);
        self.held.insert(at, (waits_for, envelope));
    }

    fn publish_single_voter(&mut self, out: &mut Vec<Output>) {
        let raft = &self.raft.raft;
        let single = raft.state == StateRole::Leader
            && self.alone()
            && raft.commit_to_current_term()
            && self.raft.store().first_conf_change().is_none();
        let now = single.then_some(Index(raft.raft_log.committed));
        if now != self.single_voter {
            self.single_voter = now;
            out.push(Output::SingleVoter(now));
        }
    }

    fn draw_election_timeout(&mut self) {
        let raft = &mut self.raft.raft;
        let parts = [raft.term, raft.state as u64, self.campaigns];
        let drawn = parts.into_iter().fold(self.config.seed, |hash, part| mix(hash ^ part));
        let ticks = self.config.election_ticks;
        raft.set_randomized_election_timeout(ticks + (drawn % ticks as u64) as usize);
    }
}

/// Committed entries, in pieces.
fn hand_out(mut entries: impl ExactSizeIterator<Item = Entry>, out: &mut Vec<Output>) {
    while entries.len() > 0 {
        out.push(Output::Commit(entries.by_ref().take(COMMIT_ENTRIES_MAX).collect()));
    }
}

/// The last change of the configuration that a Ready commits.
fn last_change(ready: &Ready) -> Option<Index> {
    let is_change = |stub: &&Stub| stub.get_entry_type() != raft::eraftpb::EntryType::EntryNormal;
    ready.committed_entries().iter().rev().find(is_change).map(|stub| Index(stub.index))
}

/// One round of splitmix64: spreads small differences over all bits.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn raft_config(config: &Config, applied: LogPosition) -> raft::Config {
    assert!(config.entry_bytes_max <= crate::log::ENTRY_BYTES_MAX, "the log can't hold such entries");
    raft::Config {
        id: config.id.0,
        election_tick: config.election_ticks,
        heartbeat_tick: config.heartbeat_ticks,
        applied: applied.index.0,
        check_quorum: true,
        pre_vote: true,
        max_size_per_msg: config.append_bytes as u64,
        max_inflight_msgs: peers::MESSAGES_IN_FLIGHT_MAX,
        max_uncommitted_size: raft::NO_LIMIT,
        max_committed_size_per_ready: raft::NO_LIMIT,
        ..Default::default()
    }
}

/// raft explains itself through slog; what matters of it leaves as [`Output::Role`].
fn silent_logger() -> slog::Logger {
    slog::Logger::root(slog::Discard, slog::o!())
}

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
