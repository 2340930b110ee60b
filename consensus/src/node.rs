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
//! - A message that says "I have stored this" leaves after the [`Input::Durable`] that makes it true; a message that
//!   reveals a term leaves after the term is durable. A leader's appends leave at once.
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
use raft::{ProgressState, RawNode, Ready, StateRole};
use rustc_hash::FxHashMap;
use std::collections::VecDeque;

use crate::cache::{Cache, from_raft_conf, stub, stub_position, to_raft_conf};
use crate::log::State;
use crate::message::{Promise, promise_of};
use crate::read_index::Reads;
use crate::{
    ConfChange, ConfState, Entry, EntryKind, Envelope, HardState, Index, LogPosition, Message, NodeId,
    PeerMessage, ProposalId, ReadyNumber, Term,
};

mod io;

pub use io::{
    Append, Config, DropReason, Fetch, Input, InstallSnapshot, Output, PeerStatus, Role, RoleChange, Status,
};

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
    /// Bytes of entries that peers sent in this turn.
    received: FxHashMap<(u64, u64), Bytes>,
    /// Messages that wait for durability, in order.
    held: VecDeque<(ReadyNumber, Envelope)>,
    reads: Reads,
    appended: ReadyNumber,
    /// The last append that changed term or vote.
    appended_vote: ReadyNumber,
    durable: ReadyNumber,
    role: RoleChange,
    single_voter: Option<Index>,
    /// The last configuration change that the store has decided.
    conf_applied: Index,
    campaigns: u64,
}

/// Proposals of this turn, and those already in raft that no Ready has shown yet.
#[derive(Default)]
struct Queue {
    proposals: VecDeque<Proposal>,
    bytes: usize,
    conf_change: bool,
    stepped: VecDeque<Entry>,
}

struct Proposal {
    id: ProposalId,
    kind: EntryKind,
    data: Bytes,
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
            received: FxHashMap::default(),
            held: VecDeque::new(),
            reads,
            appended: ReadyNumber(0),
            appended_vote: ReadyNumber(0),
            durable: ReadyNumber(0),
            role: RoleChange { role: Role::Follower, term: hard_state.term, leader: None },
            single_voter: None,
            conf_applied: applied.index,
            campaigns: 0,
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
            Input::Receive(from, message) => self.receive(from, *message),
            Input::Unreachable(peer) => self.raft.report_unreachable(peer.0),
            Input::TransferLeader(_)
            | Input::LogStartsAt(_)
            | Input::Fetched(..)
            | Input::SnapshotPinned { .. }
            | Input::SnapshotSent(..)
            | Input::SnapshotInstalled(_)
            | Input::LogStalled(_) => {} // to come
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
        while !self.queue.proposals.is_empty() {
            self.propose_some(out);
            self.drain(out);
        }
        self.received.clear();
        self.raft.mut_store().evict();
        self.publish_single_voter(out);
    }

    /// A look at the node.
    pub fn status(&self) -> Status {
        let cache = self.raft.store();
        Status {
            role: self.role,
            committed: Index(self.raft.raft.raft_log.committed),
            applied: cache.applied(),
            last: cache.last(),
            appended: self.appended,
            durable: self.durable,
            unapplied_bytes: cache.unapplied_bytes() + self.queue.bytes,
            cache_bytes: cache.bytes(),
            reads: self.reads.len(),
            lead_transferee: self.raft.raft.lead_transferee.map(NodeId),
        }
    }

    /// What a leader knows of the other members, by their ids; empty on any other.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let raft = &self.raft.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let others = raft.prs().iter().filter(|(id, _)| **id != self.config.id.0);
        let learners = raft.prs().conf().learners();
        let mut peers: Vec<PeerStatus> = others
            .map(|(&id, progress)| PeerStatus {
                node: NodeId(id),
                matched: Index(progress.matched),
                recent_active: progress.recent_active,
                learner: learners.contains(&id),
                snapshot: progress.state == ProgressState::Snapshot,
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.node);
        peers
    }

    fn enqueue(&mut self, id: ProposalId, kind: EntryKind, data: Bytes, out: &mut Vec<Output>) {
        match self.refusal(kind, data.len()) {
            Some(reason) => out.push(Output::ProposalDropped(id, reason)),
            None => {
                self.queue.bytes += data.len() + std::mem::size_of::<Entry>();
                self.queue.conf_change |= kind == EntryKind::ConfChange;
                self.queue.proposals.push_back(Proposal { id, kind, data });
            }
        }
    }

    fn refusal(&self, kind: EntryKind, len: usize) -> Option<DropReason> {
        if let Some(reason) = self.leaderless() {
            return Some(reason);
        }
        if len > self.config.entry_bytes_max {
            return Some(DropReason::TooLarge);
        }
        let waiting = self.raft.store().unapplied_bytes() + self.queue.bytes;
        let cost = len + std::mem::size_of::<Entry>();
        if waiting > 0 && waiting + cost > self.config.proposal_bytes_limit {
            return Some(DropReason::TooManyRequests);
        }
        // raft would replace the change by an empty entry without telling; refuse it here instead.
        let pending = self.queue.conf_change
            || self.raft.store().first_conf_change().is_some()
            || self.raft.raft.has_pending_conf();
        (kind == EntryKind::ConfChange && pending).then_some(DropReason::ConfChangePending)
    }

    fn leaderless(&self) -> Option<DropReason> {
        let raft = &self.raft.raft;
        match raft.state {
            StateRole::Leader if raft.lead_transferee.is_some() => Some(DropReason::LeaderTransfer),
            StateRole::Leader => None,
            _ if raft.leader_id == raft::INVALID_ID => Some(DropReason::NoLeader),
            _ => Some(DropReason::NotLeader(NodeId(raft.leader_id))),
        }
    }

    /// Gives raft the next [`Config::append_bytes`] of the queue as one proposal.
    fn propose_some(&mut self, out: &mut Vec<Output>) {
        // A message of the same turn may have ended our leadership.
        if let Some(reason) = self.leaderless() {
            self.drop_queue(reason, out);
            return;
        }
        let mut position = self.raft.store().last();
        position.term = Term(self.raft.raft.term);
        let mut stubs = Vec::with_capacity(self.queue.proposals.len());
        let mut bytes = 0;
        while bytes < self.config.append_bytes
            && let Some(proposal) = self.queue.proposals.pop_front()
        {
            let Proposal { id, kind, data } = proposal;
            position.index.0 += 1;
            stubs.push(stub(kind, LogPosition::default()));
            let LogPosition { index, term } = position;
            let entry = Entry { index, term, kind, data, proposal: Some(id) };
            bytes += entry.cost_bytes();
            self.queue.stepped.push_back(entry);
        }
        self.queue.bytes -= bytes;
        self.queue.conf_change &= !self.queue.proposals.is_empty();
        let mut message = RaftMessage { from: self.config.id.0, entries: stubs, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        if self.raft.step(message).is_err() {
            // Not a member any more. Nothing of it has been appended.
            for entry in std::mem::take(&mut self.queue.stepped) {
                let id = entry.proposal.expect("stepped entries are proposals");
                out.push(Output::ProposalDropped(id, DropReason::NoLeader));
            }
        }
    }

    fn drop_queue(&mut self, reason: DropReason, out: &mut Vec<Output>) {
        self.queue.bytes = 0;
        self.queue.conf_change = false;
        let dropped = self.queue.proposals.drain(..);
        out.extend(dropped.map(|proposal| Output::ProposalDropped(proposal.id, reason)));
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
        self.durable = self.durable.max(ready);
        self.raft.on_persist_ready(ready.0);
        while self.held.front().is_some_and(|(waits_for, _)| *waits_for <= ready) {
            let (_, envelope) = self.held.pop_front().expect("it was there");
            out.push(Output::Send(envelope));
        }
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
        let expected = index > self.conf_applied && self.raft.store().has_conf_change(index);
        assert!(expected, "configuration changes are applied in order, once; not {index}");
        self.conf_applied = index;
        let Some(change) = change.and_then(|change| change.to_raft()) else { return };
        let conf = self.raft.apply_conf_change(&change).expect("the store refuses invalid changes");
        self.draw_election_timeout();
        self.publish_single_voter(out);
        out.push(Output::ConfState(from_raft_conf(&conf)));
    }

    fn tick(&mut self) {
        let raft = &self.raft.raft;
        if raft.state != StateRole::Leader && self.alone() && self.appended > self.durable {
            return; // see "One voter": an election now would find writes in flight
        }
        let elapsed = raft.election_elapsed + 1;
        if raft.state != StateRole::Leader && elapsed >= raft.randomized_election_timeout() {
            self.campaigns += 1;
        }
        self.raft.tick();
        self.draw_election_timeout();
        self.reads.tick(self.config.election_ticks as u32);
    }

    fn campaign(&mut self) {
        if self.alone() && self.appended > self.durable {
            return;
        }
        self.campaigns += 1;
        // It fails where raft knows nothing to campaign for; an election timeout will come.
        let _ = self.raft.campaign();
        self.draw_election_timeout();
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

    fn receive(&mut self, from: NodeId, message: PeerMessage) {
        let PeerMessage::Raft(Message { raft: message, data }) = message else { return };
        if message.from != from.0 || message.entries.len() != data.len() {
            return; // a peer that doesn't follow the protocol
        }
        for (stub, data) in message.entries.iter().zip(data) {
            self.received.insert((stub.index, stub.term), data);
        }
        // raft refuses what is not for it; there is nobody to tell.
        let _ = self.raft.step(message);
        self.draw_election_timeout();
    }

    fn start_reads(&mut self) {
        let raft = &self.raft.raft;
        let can_ask = match raft.state {
            StateRole::Leader => raft.commit_to_current_term(),
            _ => raft.leader_id != raft::INVALID_ID,
        };
        if can_ask && let Some(token) = self.reads.start() {
            self.raft.read_index(token);
        }
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
        let entries = self.take_entries(ready.take_entries());
        let vote_changed = self.observe_hard_state(&ready);
        let append = ready.must_sync().then(|| {
            self.appended = number;
            if vote_changed {
                self.appended_vote = number;
            }
            Append { ready: number, hard_state: self.hard_state, entries, reset: None }
        });
        self.publish_single_voter(out);
        for message in ready.take_messages() {
            let envelope = self.envelope(message);
            out.push(Output::Send(envelope));
        }
        out.extend(append.map(Output::Append));
        for message in ready.take_persisted_messages() {
            self.send_when_true(message, out);
        }
        self.commit(&ready, out);
        for read_state in ready.take_read_states() {
            let index = Index(read_state.index);
            let reads = self.reads.confirmed(&read_state.request_ctx);
            out.extend(reads.into_iter().map(|read| Output::ReadReady(read, index)));
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

    fn whole_entry(&mut self, stub: &Stub) -> Entry {
        let position = stub_position(stub);
        if self.queue.stepped.front().is_some_and(|entry| entry.position() == position) {
            return self.queue.stepped.pop_front().expect("it was there");
        }
        let kind = match stub.get_entry_type() {
            raft::eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            _ => EntryKind::ConfChange,
        };
        // Without bytes: the entry with which this leader opens its term.
        let data = self.received.get(&(stub.index, stub.term)).cloned().unwrap_or_default();
        Entry { index: position.index, term: position.term, kind, data, proposal: None }
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
        if now.leader != self.role.leader || now.term != self.role.term {
            out.extend(self.reads.fail_attempt().into_iter().map(Output::ReadDropped));
        }
        self.role = now;
        out.push(Output::Role(now));
    }

    fn commit(&mut self, ready: &Ready, out: &mut Vec<Output>) {
        let stubs = ready.committed_entries();
        let (Some(first), Some(last)) = (stubs.first(), stubs.last()) else { return };
        let cache = self.raft.store();
        let mut entries = cache.range(Index(first.index), Index(last.index)).cloned();
        while entries.len() > 0 {
            out.push(Output::Commit(entries.by_ref().take(COMMIT_ENTRIES_MAX).collect()));
        }
    }

    fn envelope(&self, message: RaftMessage) -> Envelope {
        let cache = self.raft.store();
        let data = message.entries.iter().map(|stub| {
            let entry = cache.entry(stub_position(stub)).expect("raft sends what the cache holds");
            entry.data.clone()
        });
        let data = data.collect();
        Envelope::raft(message, data)
    }

    fn send_when_true(&mut self, message: RaftMessage, out: &mut Vec<Output>) {
        let waits_for = match promise_of(&message) {
            Promise::Stored => self.appended,
            Promise::Term => self.appended_vote,
        };
        let envelope = self.envelope(message);
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
mod tests;
