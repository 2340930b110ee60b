//! The raft core: all that a member decides between its clients, its log, its store and its peers.
//!
//! It owns the consensus node and keeps the books around it: what the proposers had decoded until their entries commit
//! (`proposals`), what waits for a leader (`orphans`), snapshots for peers (`offers`) and from them (`receiving`),
//! how much of the log is kept for those that catch up (`behind`), who waits for whom to lead, when the leader looks at the
//! versions of its members.
//!
//! One turn: [`applied`](RaftCore::applied) is looked up, then everything at hand is given to
//! [`handle`](RaftCore::handle), then [`end_turn`](RaftCore::end_turn) once (so that all proposals of the turn become one
//! append), then the outputs are started in their order, and none of them is waited for. A tick of the clock is
//! [`tick`](RaftCore::tick) before such a turn. The very first turn has no input: a lone voter campaigns in it.
//!
//! No I/O, no clock, no thread: the server's edge joins it with rings, sockets and files, the simulator with inboxes and
//! virtual ones. The present is an argument.

mod behind;
mod io;
mod offers;
mod orphans;
mod proposals;
mod receiving;
#[cfg(test)]
mod tests;
/// What a raft core of a real process was told, replayed.
pub mod trace;

use std::time::Duration;

use consensus::{
    DropReason, Entry, Forward, Index, Lane, Node, NodeId, Output as NodeOutput, PeerMessage, PeerStatus,
    ProposalId, ReadId, Role, RoleChange,
};

use crate::cluster::version::Monitor;
pub use crate::cores::PinnedSnapshot;
use crate::cores::{FromLog, ToClient, ToLog, ToRaft, ToStore, client_of};
use crate::forward::Request;
use crate::membership::Member;
use crate::propose::Write;
pub use io::{Consensus, Fatal, Input, Output, Shell};

use behind::Behind;
use offers::Offers;
use proposals::Proposals;
use receiving::Receiving;

type NodeInput = consensus::Input;

/// What a raft core is told once.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// This member.
    pub own: NodeId,
    /// A log device that does not answer for two of them makes a leader hand over.
    pub election_timeout: Duration,
    /// So long a client waits for its proposal.
    pub request_timeout: Duration,
    /// Bytes of proposals that may wait for a leader; beyond, the answer is "too many requests".
    pub orphan_bytes_max: usize,
    /// Changes of the membership that wait for their turn.
    pub conf_changes_open_max: usize,
}

/// See the module's header.
pub struct RaftCore<S: Shell> {
    node: S::Node,
    config: Config,
    /// What the node has asked for in this turn.
    outputs: Vec<NodeOutput>,
    /// The last index told to the node as applied.
    applied: Index,
    /// What the store's checkpoints cover, and what of the log was given up for it.
    checkpointed: Index,
    released: Index,
    leads: bool,
    leader: Option<NodeId>,
    log_stalled: bool,
    proposals: Proposals,
    /// Who waits for whom to lead, since when.
    transfers: Vec<(Duration, ProposalId, NodeId)>,
    members: Vec<Member>,
    removed: Vec<NodeId>,
    monitor: Monitor,
    offers: Offers,
    behind: Behind,
    receiving: Receiving<S::Store>,
}

impl<S: Shell> RaftCore<S> {
    /// A core around this node. `members` and `removed` are what is known of the cluster before anything is applied.
    pub fn new(node: S::Node, config: Config, members: Vec<Member>, removed: Vec<NodeId>) -> RaftCore<S> {
        RaftCore {
            node,
            config,
            outputs: Vec::new(),
            applied: Index(0),
            checkpointed: Index(0),
            released: Index(0),
            leads: false,
            leader: None,
            log_stalled: false,
            proposals: Proposals::new(config.orphan_bytes_max, config.conf_changes_open_max),
            transfers: Vec::new(),
            members,
            removed,
            monitor: Monitor::default(),
            offers: Offers::default(),
            behind: Behind::default(),
            receiving: Receiving::Nothing,
        }
    }

    /// A look at the node.
    pub fn node(&self) -> &Node {
        self.node.node()
    }

    /// Who belongs to the cluster.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Who was removed from it.
    pub fn removed(&self) -> &[NodeId] {
        &self.removed
    }

    /// Whether this member is a learner, as far as it knows.
    pub fn is_learner(&self) -> bool {
        self.members.iter().any(|member| member.id == self.config.own.0 && member.is_learner)
    }

    /// Proposals whose outcome is not known here.
    pub fn proposals_open(&self) -> usize {
        self.proposals.len()
    }

    /// Snapshots for peers, and transfers that somebody waits for: nothing of it stays when all is well.
    pub fn books_open(&self) -> usize {
        self.offers.len() + self.transfers.len() + usize::from(!self.receiving.is_free())
    }

    /// What the store has applied meanwhile. It is looked up, not told: a message would cost this core a wake-up per
    /// batch, and with one put in flight the wake-ups are what a put costs.
    ///
    /// `applied` must have been read before the store core's messages were taken, and those are given to
    /// [`RaftCore::handle`] before this is called: then the outcome of every configuration change up to there is known.
    pub fn applied(&mut self, applied: Index) {
        if applied > self.applied {
            self.applied = applied;
            self.step(NodeInput::Applied(applied));
        }
    }

    /// Takes what has happened. Most outputs come with [`RaftCore::end_turn`].
    pub fn handle(&mut self, now: Duration, input: Input<S>, out: &mut Vec<Output<S>>) {
        match input {
            Input::Core(message) => self.handle_core(now, message, out),
            Input::Log(message) => self.handle_log(message, out),
            Input::Message(from, message) => self.handle_message(from, message, out),
            Input::Reachable(peer) => {
                if self.offers.reachable(peer) {
                    self.step(NodeInput::SnapshotSent(peer, true));
                }
            }
            Input::Unreachable(peer) => self.step(NodeInput::Unreachable(peer)),
            // It is building its store. Raft hears of the success by the peer's own answer, or later.
            Input::SnapshotSent(peer, true) => self.offers.delivered(now, peer),
            Input::SnapshotSent(peer, false) => {
                self.offers.failed(peer);
                self.step(NodeInput::SnapshotSent(peer, false));
            }
            Input::SnapshotReceived { received, .. } if !self.receiving.is_free() => {
                out.push(Output::Discard(received));
            }
            Input::SnapshotReceived { from, message, received } => {
                self.receiving = Receiving::Importing;
                out.push(Output::Import { from, message, received });
            }
            Input::Imported { from, message, index, store } => {
                self.receiving = Receiving::Given { index, store };
                self.step(NodeInput::Receive(from, Box::new(PeerMessage::Raft(*message))));
            }
            Input::ImportFailed => self.receiving = Receiving::Nothing,
            Input::Renamed(ready) => {
                let store = self.receiving.renamed(ready);
                out.extend(store.map(|store| Output::Install { ready, store }));
            }
        }
    }

    fn step(&mut self, input: NodeInput) {
        self.node.step(input, &mut self.outputs);
    }

    fn handle_core(&mut self, now: Duration, message: ToRaft, out: &mut Vec<Output<S>>) {
        match message {
            ToRaft::Propose(id, write) if self.leader.is_none() => self.wait_for_leader(now, id, write, out),
            ToRaft::Propose(id, write) => self.propose(now, id, write),
            ToRaft::ProposeConfChange(id, change) => {
                self.proposals.change_proposed(now, self.leads, id, &change);
                self.step(NodeInput::ProposeConfChange(id, change));
            }
            ToRaft::Read(id) => self.step(NodeInput::ReadIndex(id)),
            ToRaft::ConfChange(index, change) => self.step(NodeInput::ApplyConfChange(index, change)),
            ToRaft::Checkpointed(index) => {
                self.checkpointed = index;
                self.release_log(out);
            }
            ToRaft::TransferLeader(id, to) => {
                self.transfers.push((now, id, to));
                self.step(NodeInput::TransferLeader(Some(to)));
            }
            ToRaft::HandOver => self.step(NodeInput::TransferLeader(None)),
            ToRaft::Members(members, removed) => self.set_members(members, removed, out),
            ToRaft::ClusterVersion(version) => out.push(Output::ClusterVersion(version)),
            ToRaft::PeerRequest(to, id, body) if to == self.config.own => {
                route(to, PeerMessage::Request { id: id.0, body }, out);
            }
            ToRaft::PeerRequest(to, id, body) => send(to, PeerMessage::Request { id: id.0, body }, out),
            ToRaft::PeerResponse(to, id, body) if to == self.config.own => {
                route(to, PeerMessage::Response { id, body }, out);
            }
            ToRaft::PeerResponse(to, id, body) => send(to, PeerMessage::Response { id, body }, out),
            ToRaft::SnapshotPinned(pinned) => {
                let (peer, position, conf) = (pinned.peer, pinned.position, pinned.conf.clone());
                self.behind.pinned(peer, position.index, now);
                self.offers.pinned(now, pinned);
                self.step(NodeInput::SnapshotPinned { peer, position, conf });
            }
            ToRaft::SnapshotInstalled(ready) => self.step(NodeInput::SnapshotInstalled(ready)),
        }
    }

    fn handle_log(&mut self, message: FromLog, out: &mut Vec<Output<S>>) {
        match message {
            FromLog::Durable(ready) => {
                out.extend(self.receiving.durable(ready).map(Output::Rename));
                self.step(NodeInput::Durable(ready));
            }
            FromLog::Fetched(peer, first, entries) => self.step(NodeInput::Fetched(peer, first, entries)),
            FromLog::StartsAt(index) => self.step(NodeInput::LogStartsAt(index)),
        }
    }

    fn handle_message(&mut self, from: NodeId, message: Box<PeerMessage>, out: &mut Vec<Output<S>>) {
        match &*message {
            PeerMessage::Request { .. } | PeerMessage::Response { .. } => route(from, *message, out),
            _ if self.comes_too_early(&message) || message.lane() == Lane::Snapshot => {}
            _ => self.step(NodeInput::Receive(from, message)),
        }
    }

    /// Entries behind a snapshot that is being made into a store. The node would say that it lacks what is before them, and be
    /// sent another snapshot; raft sends these again when the node is there.
    ///
    /// (Likewise a snapshot's message never comes alone: its store comes with it, as [`Input::SnapshotReceived`].)
    fn comes_too_early(&self, message: &PeerMessage) -> bool {
        self.receiving.is_importing()
            && message.entries_follow().is_some_and(|before| before > self.node().status().last.index)
    }

    fn wait_for_leader(&mut self, now: Duration, id: ProposalId, write: Write, out: &mut Vec<Output<S>>) {
        if self.proposals.orphans.push(now, id, write).is_err() {
            self.dropped(id, DropReason::TooManyRequests, out);
        }
    }

    fn propose(&mut self, now: Duration, id: ProposalId, write: Write) {
        let entry = self.proposals.proposed(now, self.leads, id, write);
        self.step(NodeInput::Propose(id, entry));
    }

    /// The members table, once it holds all whom this member began with: while it applies the beginning of the log, those
    /// that it has not met there yet are no strangers.
    fn set_members(&mut self, members: Vec<Member>, removed: Vec<NodeId>, out: &mut Vec<Output<S>>) {
        let known = |id: u64| members.iter().any(|member| member.id == id) || removed.contains(&NodeId(id));
        if self.members.iter().all(|member| known(member.id)) {
            self.members = members;
            self.removed = removed;
            out.push(Output::Members);
        }
    }

    /// Gives up the log that the store's checkpoints cover, but for what peers need behind a snapshot that is on its way.
    fn release_log(&mut self, out: &mut Vec<Output<S>>) {
        let needed_from = self.behind.needed_from();
        let index = needed_from.map_or(self.checkpointed, |held| held.min(self.checkpointed));
        if index > self.released {
            self.released = index;
            out.push(Output::Log(ToLog::Checkpointed(index)));
        }
    }

    /// A tick of the clock; a turn follows. `log_waits`: for how long the write of the log that is under way has taken.
    pub fn tick(&mut self, now: Duration, log_waits: Duration, out: &mut Vec<Output<S>>) {
        self.forget(now, out);
        self.watch_log(log_waits, out);
        let then = now.saturating_sub(self.config.request_timeout);
        for (id, change) in self.proposals.changes_due(then) {
            self.handle_core(now, ToRaft::ProposeConfChange(id, change), out);
        }
        let progress = self.node().peers();
        self.tend_snapshots(now, &progress);
        self.release_log(out);
        self.step(NodeInput::Tick);
    }

    /// Clients have been told that their time is over; the store core hears it here, and proposes anew what it still wants.
    fn forget(&mut self, now: Duration, out: &mut Vec<Output<S>>) {
        let timeout = self.config.request_timeout;
        for (id, reason) in self.proposals.forget(now, timeout) {
            self.dropped(id, reason, out);
        }
        self.transfers.retain(|(since, ..)| now.saturating_sub(*since) < timeout);
    }

    /// A leader whose disk has not answered for two election timeouts hands over: it would go on as leader without
    /// committing anything.
    fn watch_log(&mut self, log_waits: Duration, out: &mut Vec<Output<S>>) {
        let stalled = log_waits >= 2 * self.config.election_timeout;
        if stalled != self.log_stalled {
            self.log_stalled = stalled;
            out.push(Output::LogStalled(stalled));
            self.step(NodeInput::LogStalled(stalled));
        }
    }

    fn tend_snapshots(&mut self, now: Duration, progress: &[PeerStatus]) {
        for peer in self.offers.overdue(now, progress) {
            self.step(NodeInput::SnapshotSent(peer, true));
        }
        for peer in self.offers.stale(now) {
            self.step(NodeInput::SnapshotUnpinned(peer));
        }
        let last = self.node().status().last.index;
        self.behind.tick(progress, last, now);
    }

    /// What forwards came before this moment, nobody waits for.
    pub fn forwards_since(&self, now: Duration) -> Duration {
        now.saturating_sub(self.config.request_timeout)
    }

    /// Whether a forward is worth sending again on another connection: not if it has committed, or was forwarded to the
    /// leader of another term.
    pub fn wants_again(&self, forward: &Forward) -> bool {
        forward.term == self.node().status().role.term && self.proposals.is_open(forward)
    }

    /// What the members' servers are, for the store core, when the leader is to look at it: at each tick, and when it has
    /// come to lead. `version_of` says it for each member that it is known of now.
    pub fn look_at_versions(
        &mut self,
        now: Duration,
        version_of: impl Fn(NodeId) -> Option<String>,
    ) -> Option<ToStore> {
        if !self.monitor.leads() {
            return None;
        }
        let versions: Vec<Option<String>> =
            self.members.iter().map(|member| version_of(NodeId(member.id))).collect();
        let looks = self.monitor.looks(versions.iter().all(Option::is_some), now);
        looks.then_some(ToStore::Versions(versions))
    }

    /// Ends a turn: gives all that follows from its inputs.
    pub fn end_turn(&mut self, now: Duration, out: &mut Vec<Output<S>>) {
        self.flush(now, out);
        if !self.proposals.orphans.is_empty() && self.leader.is_some() {
            while self.leader.is_some()
                && let Some((id, write)) = self.proposals.orphans.pop()
            {
                self.propose(now, id, write);
            }
            self.flush(now, out);
        }
        if !self.node().takes_snapshot() {
            out.extend(self.receiving.ignored().map(Output::Unneeded));
        }
    }

    fn flush(&mut self, now: Duration, out: &mut Vec<Output<S>>) {
        self.node.flush(&mut self.outputs);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            self.start(now, output, out);
        }
        self.outputs = outputs;
        self.proposals.settle(now, self.leads);
    }

    fn start(&mut self, now: Duration, output: NodeOutput, out: &mut Vec<Output<S>>) {
        match output {
            NodeOutput::Append(append) => {
                self.behind.appended(&append);
                out.push(Output::Log(ToLog::Append(append)));
            }
            NodeOutput::Send(envelope) if envelope.message.lane() == Lane::Snapshot => {
                let pinned = self.offers.leaves(now, envelope.to);
                if let (PeerMessage::Raft(message), Some(pinned)) = (*envelope.message, pinned) {
                    out.push(Output::SendSnapshot { message: Box::new(message), pinned });
                }
            }
            NodeOutput::Send(envelope) => out.push(Output::Send(envelope)),
            NodeOutput::Commit(entries) => self.commit(entries, out),
            NodeOutput::SingleVoter(index) => out.push(Output::SingleVoter(index)),
            NodeOutput::ProposalDropped(id, reason) => self.dropped(id, reason, out),
            NodeOutput::Role(change) => self.role_changed(now, change, out),
            NodeOutput::ReadReady(id, index) => out.push(read_answered(id, Some(index))),
            NodeOutput::ReadDropped(id) => out.push(read_answered(id, None)),
            NodeOutput::Fetch(fetch) => out.push(Output::Log(ToLog::Fetch(fetch))),
            NodeOutput::SnapshotWanted(peer) => out.push(Output::Store(ToStore::PinSnapshot(peer))),
            NodeOutput::SnapshotUnwanted(peer) => {
                self.offers.unwanted(peer);
                out.push(Output::CancelSnapshot(peer));
            }
            NodeOutput::InstallSnapshot(install) => self.receiving.taken(install),
            NodeOutput::SnapshotIgnored(position) => {
                out.extend(self.receiving.refused(position.index).map(Output::Unneeded));
            }
            NodeOutput::AcknowledgedLost { acknowledged, last } => {
                out.push(Output::Fatal(Fatal::AcknowledgedLost { acknowledged, last }));
            }
            // The store has made the same of it.
            NodeOutput::ConfState(_) => {}
        }
    }

    fn commit(&mut self, entries: Vec<Entry>, out: &mut Vec<Output<S>>) {
        let batch = entries.into_iter().map(|entry| self.proposals.committed(entry)).collect();
        out.push(Output::Store(ToStore::Commit(batch)));
    }

    fn role_changed(&mut self, now: Duration, change: RoleChange, out: &mut Vec<Output<S>>) {
        self.leads = change.role == Role::Leader;
        self.leader = change.leader;
        let (leads, term, leader) = (self.leads, change.term, change.leader);
        out.push(Output::Role(change));
        out.push(Output::Store(ToStore::Leadership { leads, term, leader }));
        self.monitor.lead(leads, now);
        let Some(leader) = leader else { return };
        for (_, id, to) in self.transfers.drain(..) {
            if let Some(core) = client_of(id).filter(|_| to == leader) {
                out.push(Output::Client(core, ToClient::Transferred(id)));
            } // else another one won
        }
    }

    fn dropped(&mut self, id: ProposalId, reason: DropReason, out: &mut Vec<Output<S>>) {
        if self.proposals.dropped(id, reason) {
            out.push(match client_of(id) {
                None => Output::Store(ToStore::Dropped(id)),
                Some(core) => Output::Client(core, ToClient::Dropped(id, reason)),
            });
        }
    }
}

fn read_answered<S: Shell>(id: ReadId, index: Option<Index>) -> Output<S> {
    match client_of(ProposalId(id.0)) {
        None => Output::Store(ToStore::ReadIndex(id, index)),
        Some(core) => Output::Client(core, ToClient::ReadIndex(id, index)),
    }
}

fn send<S: Shell>(to: NodeId, message: PeerMessage, out: &mut Vec<Output<S>>) {
    out.push(Output::Send(consensus::Envelope { to, message: Box::new(message) }));
}

/// Something that another member asks or answers goes to the core that it is for. Questions about leases are the store
/// core's, those about members the first client core's.
fn route<S: Shell>(from: NodeId, message: PeerMessage, out: &mut Vec<Output<S>>) {
    match message {
        PeerMessage::Request { id, body } => {
            let of_leases =
                matches!(Request::decode(&body), Ok(Request::KeepAlive { .. } | Request::TimeToLive { .. }));
            out.push(match of_leases {
                true => Output::Store(ToStore::PeerRequest(from, id, body)),
                false => Output::Client(0, ToClient::PeerRequest(from, id, body)),
            });
        }
        PeerMessage::Response { id, body } => {
            let id = ProposalId(id);
            out.push(match client_of(id) {
                None => Output::Store(ToStore::PeerResponse(id, body)),
                Some(core) => Output::Client(core, ToClient::PeerResponse(id, body)),
            });
        }
        _ => {}
    }
}
