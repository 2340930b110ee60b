//! The raft core: feeds `consensus::Node` and starts what it asks for. It waits for no disk and no client.
//!
//! One turn: take all that the rings hold, step, flush once (so that all proposals of the turn become one append), start
//! the outputs, wake each neighbour once. Ticks come from a timer whose due times are start + n × interval; a late
//! timer yields one tick, never a burst, because a burst of ticks would look like silence of the leader.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{DropReason, Entry, Index, Input, NodeId, Output, ProposalId, ReadId, Role};
use node::cluster::conf_changes::ConfChanges;
use node::propose::{Command, Forwarded, Write};
use rustc_hash::FxHashMap;

use super::clock::now;
use super::messages::{Committed, ForStore, FromLog, ToClient, ToLog, ToRaft, ToStore};
use super::orphans::Orphans;
use super::peers::HeartbeatDue;
use super::replication::{Replication, Seed};
use super::ring::{Ready, Receiver, Sender, drain};
use super::shared::Shared;
use super::trace::TracedNode;
use crate::config::limits::{CONF_CHANGES_OPEN_MAX, Queue};
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Messages taken from one ring in one turn: enough for any batch, small enough that a tick is never far.
const TURN_MESSAGES: usize = 4096;

/// Everything the raft core owns.
pub struct RaftCore {
    node: TracedNode,
    from_clients: Vec<Receiver<ToRaft>>,
    from_store: Receiver<ToRaft>,
    from_log: Receiver<FromLog>,
    to_log: Sender<ToLog>,
    to_store: Sender<ForStore>,
    to_clients: Vec<Sender<ToClient>>,
    /// What did not fit into a client core's ring. While there is any, nothing is taken from that core, so it is bounded by
    /// one turn's messages, and the core refuses further requests itself.
    client_outboxes: Vec<VecDeque<ToClient>>,
    shared: Arc<Shared>,
    outputs: Vec<Output>,
    /// The last index told to the node as applied.
    applied: Index,
    /// What the store's checkpoints cover, and what of the log was given up for it.
    checkpointed: Index,
    released: Index,
    /// What the proposers had decoded, until the entry commits.
    commands: FxHashMap<ProposalId, Command>,
    /// The same of proposals made while another member led.
    forwarded: Forwarded,
    /// Proposals that wait for a leader.
    orphans: Orphans,
    /// Changes of the membership, until they commit.
    conf_changes: ConfChanges,
    leads: bool,
    log_stalled: bool,
    replication: Replication,
    /// What did not fit into a ring. Bounded by the bytes that may be proposed and not yet applied.
    log_outbox: VecDeque<ToLog>,
    store_outbox: VecDeque<ForStore>,
}

/// The raft core's ends of the rings.
pub struct Rings {
    /// One per client core, in the order of their numbers.
    pub from_clients: Vec<Receiver<ToRaft>>,
    /// Applied and checkpointed indexes, and the store's own proposals (lease expiry).
    pub from_store: Receiver<ToRaft>,
    /// Durable Readys.
    pub from_log: Receiver<FromLog>,
    /// Appends.
    pub to_log: Sender<ToLog>,
    /// Committed entries.
    pub to_store: Sender<ForStore>,
    /// Refused proposals.
    pub to_clients: Vec<Sender<ToClient>>,
}

impl RaftCore {
    /// Joins the node and its rings.
    pub fn new(node: TracedNode, rings: Rings, replication: Seed, shared: Arc<Shared>) -> RaftCore {
        RaftCore {
            node,
            replication: Replication::new(replication, shared.clone()),
            from_clients: rings.from_clients,
            from_store: rings.from_store,
            from_log: rings.from_log,
            to_log: rings.to_log,
            to_store: rings.to_store,
            client_outboxes: rings.to_clients.iter().map(|_| VecDeque::new()).collect(),
            to_clients: rings.to_clients,
            shared,
            outputs: Vec::new(),
            applied: Index(0),
            checkpointed: Index(0),
            released: Index(0),
            commands: FxHashMap::default(),
            forwarded: Forwarded::default(),
            orphans: Orphans::default(),
            conf_changes: ConfChanges::new(CONF_CHANGES_OPEN_MAX),
            leads: false,
            log_stalled: false,
            log_outbox: VecDeque::new(),
            store_outbox: VecDeque::new(),
        }
    }

    /// Runs until every client core is gone. A lone voter campaigns in its first turn.
    pub async fn run(mut self, tick_interval: Duration) {
        self.replication.start();
        self.end_turn();
        let core = Rc::new(RefCell::new(self));
        let ticker = glommio::spawn_local(tick_loop(core.clone(), tick_interval)).detach();
        while poll_fn(|cx| core.borrow_mut().poll_rings(cx)).await == Ready::Items {
            core.borrow_mut().turn();
        }
        ticker.cancel();
    }

    /// What the store has applied meanwhile. It is looked up, not told: a message would cost this core a wake-up per
    /// batch, and with one put in flight the wake-ups are what a put costs.
    ///
    /// `applied` must have been read before the store core's ring was emptied: then the outcome of every configuration
    /// change up to there has been taken from it.
    fn take_applied(&mut self, applied: Index) {
        if applied > self.applied {
            self.applied = applied;
            self.node.step(Input::Applied(applied), &mut self.outputs);
        }
    }

    fn turn(&mut self) {
        let applied = Index(self.shared.applied());
        for number in 0..self.from_clients.len() {
            for _ in 0..TURN_MESSAGES {
                if !self.client_outboxes[number].is_empty() {
                    break;
                }
                let Some(message) = self.from_clients[number].pop() else { break };
                self.handle(message);
            }
        }
        while let Some(message) = self.from_log.pop() {
            self.handle_log(message);
        }
        while let Some(message) = self.from_store.pop() {
            self.handle(message);
        }
        while let Some(input) =
            self.replication.poll(&self.node, &mut self.store_outbox, &mut self.client_outboxes)
        {
            self.node.step(input, &mut self.outputs);
        }
        self.take_applied(applied);
        self.end_turn();
    }

    fn handle(&mut self, message: ToRaft) {
        let input = match message {
            ToRaft::Propose(id, write) if self.shared.leader() == 0 => {
                return self.wait_for_leader(id, write);
            }
            ToRaft::Propose(id, write) => self.propose(id, write),
            ToRaft::ProposeConfChange(id, change) => {
                self.conf_changes.proposed(now(), id, &change);
                if !self.leads {
                    self.forwarded.insert(now(), change.id, id, Command::Nothing);
                }
                Input::ProposeConfChange(id, change)
            }
            ToRaft::Read(id) => Input::ReadIndex(id),
            ToRaft::ConfChange(index, change) => Input::ApplyConfChange(index, change),
            ToRaft::Checkpointed(index) => {
                self.checkpointed = index;
                return self.release_log();
            }
            ToRaft::TransferLeader(id, to) => {
                self.replication.transfer(id, to);
                Input::TransferLeader(Some(to))
            }
            ToRaft::HandOver => Input::TransferLeader(None),
            ToRaft::SnapshotInstalled(ready) => Input::SnapshotInstalled(ready),
            other => {
                match self.replication.handle(other, &mut self.store_outbox, &mut self.client_outboxes) {
                    Some(input) => input,
                    None => return,
                }
            }
        };
        self.node.step(input, &mut self.outputs);
    }

    /// Gives up the log that the store's checkpoints cover, but for what peers need behind a snapshot that is on its way.
    fn release_log(&mut self) {
        let index =
            self.replication.needed_from().map_or(self.checkpointed, |held| held.min(self.checkpointed));
        if index > self.released {
            self.released = index;
            self.log_outbox.push_back(ToLog::Checkpointed(index));
        }
    }

    fn wait_for_leader(&mut self, id: ProposalId, write: Write) {
        if self.orphans.push(now(), id, write).is_err() {
            self.dropped(id, DropReason::TooManyRequests);
        }
    }

    /// What waited for a leader goes to the one that there is now.
    fn propose_orphans(&mut self) {
        while self.shared.leader() != 0
            && let Some((id, write)) = self.orphans.pop()
        {
            let input = self.propose(id, write);
            self.node.step(input, &mut self.outputs);
        }
    }

    /// Clients have been told that their time is over; the store core hears it here, and proposes anew what it still wants.
    fn forget_proposals(&mut self) {
        let timeout = self.shared.request_timeout();
        for id in self.orphans.forget_before(now().saturating_sub(timeout)) {
            self.dropped(id, DropReason::NoLeader);
        }
        for id in self.forwarded.forget_before(now().saturating_sub(2 * timeout)) {
            self.dropped(id, DropReason::OutcomeUnknown);
        }
    }

    fn propose(&mut self, id: ProposalId, write: Write) -> Input {
        let Write { command, entry, id: request } = write;
        match self.leads {
            true => drop(self.commands.insert(id, command)),
            false => self.forwarded.insert(now(), request, id, command),
        }
        Input::Propose(id, entry)
    }

    fn handle_log(&mut self, message: FromLog) {
        let input = match message {
            FromLog::Durable(ready) => {
                self.replication.durable(ready);
                Input::Durable(ready)
            }
            FromLog::Fetched(peer, first, entries) => Input::Fetched(peer, first, entries),
            FromLog::StartsAt(index) => Input::LogStartsAt(index),
        };
        self.node.step(input, &mut self.outputs);
    }

    /// A leader whose disk has not answered for two election timeouts hands over: it would go on as leader without
    /// committing anything. (Much later the main thread ends the process.)
    fn watch_log(&mut self) {
        let waited = self.shared.log_write_age(now());
        let stalled = waited >= 2 * self.shared.config.election_timeout;
        if stalled != self.log_stalled {
            self.log_stalled = stalled;
            tracing::warn!(stalled, waited_ms = waited.as_millis() as u64, "the log device does not answer");
            self.node.step(Input::LogStalled(stalled), &mut self.outputs);
        }
    }

    fn tick(&mut self, due: HeartbeatDue) {
        self.count_lateness(due);
        let cells = &metrics::here().plain;
        cells.proposals_committed.set_unsigned(self.shared.commit());
        metrics::here().queue_length(Queue::RaftToLog, self.to_log.queued());
        cells
            .proposals_pending
            .set_unsigned((self.commands.len() + self.forwarded.len() + self.orphans.len()) as u64);
        self.forget_proposals();
        self.watch_log();
        for (id, change) in self.conf_changes.due(now().saturating_sub(self.shared.request_timeout())) {
            self.handle(ToRaft::ProposeConfChange(id, change));
        }
        self.replication.heartbeats_due(Some(due));
        self.node.step(Input::Tick, &mut self.outputs);
        self.turn();
        self.replication.heartbeats_due(None);
        self.forget_forwards();
        self.replication.tick(&self.node, &mut self.store_outbox);
        self.release_log();
    }

    /// What has committed, or was forwarded to the leader of another term, need not be sent again.
    fn forget_forwards(&self) {
        let term = self.node.status().role.term;
        let then = now().saturating_sub(self.shared.request_timeout());
        self.replication.forget_forwards(then, |forward| {
            let last = forward.proposals.last();
            forward.term == term && last.is_some_and(|(_, kind, data)| self.forwarded.is_open(*kind, data))
        });
    }

    /// A tick that was left out counts as one that came as late as this one.
    fn count_lateness(&self, due: HeartbeatDue) {
        let late = now().saturating_sub(due.first);
        self.shared.metrics.tick(late);
        for left_out in 1..due.count {
            self.shared.metrics.tick_skipped(late.saturating_sub(due.interval * left_out));
        }
    }

    fn end_turn(&mut self) {
        self.flush();
        if !self.orphans.is_empty() && self.shared.leader() != 0 {
            self.propose_orphans();
            self.flush();
        }
        self.send_outboxes();
    }

    fn flush(&mut self) {
        self.node.flush(&mut self.outputs);
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain(..) {
            self.start(output);
        }
        self.outputs = outputs;
    }

    fn start(&mut self, output: Output) {
        match output {
            Output::Append(append) => self.log_outbox.push_back(ToLog::Append(append)),
            Output::Commit(entries) => self.commit(entries),
            Output::SingleVoter(index) => self.shared.publish_single_voter(index),
            Output::ProposalDropped(id, reason) => self.dropped(id, reason),
            Output::Role(change) => self.role_changed(change),
            Output::ReadReady(id, index) => self.read_answered(id, Some(index)),
            Output::ReadDropped(id) => self.read_answered(id, None),
            Output::Fetch(fetch) => self.log_outbox.push_back(ToLog::Fetch(fetch)),
            Output::SnapshotWanted(peer) => self.store_outbox.push_back(ToStore::PinSnapshot(peer).into()),
            Output::AcknowledgedLost { acknowledged, last } => self.shared.fatal(Fatal::new(
                FatalReason::LogDamaged,
                format!(
                    "the leader knows that this member has acknowledged the log up to {acknowledged}, but it ends at \
                     {}: acknowledged entries were lost; remove this member and add it again",
                    last.index
                ),
            )),
            // The store has made the same of it.
            Output::ConfState(_) => {}
            other => self.replication.start_output(other),
        }
    }

    fn role_changed(&mut self, change: consensus::RoleChange) {
        self.leads = change.role == Role::Leader;
        let known = change.leader.unwrap_or(NodeId(0));
        self.shared.publish_role(change.term, known, self.leads);
        let (leads, term, leader) = (self.leads, change.term, change.leader);
        self.store_outbox.push_back(ToStore::Leadership { leads, term, leader }.into());
        self.replication.lead(self.leads, &mut self.store_outbox);
        self.replication.led_by(change.leader, &mut self.client_outboxes);
        tracing::info!(
            raft_term = change.term.0,
            role = ?change.role,
            leader = format!("{:x}", known.0),
            "raft role changed"
        );
    }

    fn commit(&mut self, entries: Vec<Entry>) {
        if let Some(last) = entries.last() {
            self.shared.publish_commit(last.index);
        }
        let batch = entries.into_iter().map(|entry| self.with_command(entry)).collect();
        self.store_outbox.push_back(ToStore::Commit(batch).into());
    }

    /// Joins an entry with what its proposer on this member had decoded.
    fn with_command(&mut self, mut entry: Entry) -> Committed {
        let own = entry.proposal.and_then(|id| self.commands.remove(&id));
        if own.is_some() {
            return Committed { entry, command: own };
        }
        let (id, command) = self.forwarded.take(&entry).unzip();
        entry.proposal = entry.proposal.or(id);
        if let (consensus::EntryKind::ConfChange, Some(id)) = (entry.kind, entry.proposal) {
            self.conf_changes.over(id);
        }
        let command = command.filter(|_| entry.kind == consensus::EntryKind::Normal);
        Committed { entry, command }
    }

    fn dropped(&mut self, id: ProposalId, reason: DropReason) {
        if reason == DropReason::ConfChangePending && self.conf_changes.refused(id) {
            return;
        }
        self.conf_changes.over(id);
        metrics::here().plain.proposals_failed.inc();
        self.commands.remove(&id);
        let Some(core) = Shared::client_of(id) else {
            return self.store_outbox.push_back(ToStore::Dropped(id).into());
        };
        self.client_outboxes[core].push_back(ToClient::Dropped(id, reason));
    }

    fn read_answered(&mut self, id: ReadId, index: Option<Index>) {
        let Some(core) = Shared::client_of(ProposalId(id.0)) else {
            return self.store_outbox.push_back(ToStore::ReadIndex(id, index).into());
        };
        self.client_outboxes[core].push_back(ToClient::ReadIndex(id, index));
    }

    fn send_outboxes(&mut self) {
        drain(&mut self.log_outbox, &self.to_log);
        drain(&mut self.store_outbox, &self.to_store);
        for (outbox, client) in self.client_outboxes.iter_mut().zip(&self.to_clients) {
            drain(outbox, client);
        }
    }

    fn poll_rings(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        self.send_outboxes();
        let mut open = false;
        let mut items = false;
        for (ring, outbox) in self.from_clients.iter().zip(&self.client_outboxes) {
            if !outbox.is_empty() {
                open = true; // it must take its answers first; `poll_room` asks to be woken then
                continue;
            }
            match ring.poll_ready(cx) {
                Poll::Ready(Ready::Items) => items = true,
                Poll::Ready(Ready::Closed) => {}
                Poll::Pending => open = true,
            }
        }
        items |= self.from_log.poll_ready(cx) == Poll::Ready(Ready::Items);
        items |= self.from_store.poll_ready(cx) == Poll::Ready(Ready::Items);
        items |= self.replication.poll_ready(cx);
        let waiting =
            |core: &RaftCore| core.client_outboxes.iter().filter(|outbox| !outbox.is_empty()).count();
        let before = waiting(self);
        self.poll_room(cx);
        items |= waiting(self) < before; // the ring of that core was not looked at above
        match (items, open) {
            (true, _) => Poll::Ready(Ready::Items),
            (false, true) => Poll::Pending,
            (false, false) => Poll::Ready(Ready::Closed),
        }
    }

    /// Asks to be woken when a full ring has room again.
    fn poll_room(&mut self, cx: &mut Context<'_>) {
        if !self.log_outbox.is_empty() {
            metrics::here().queue_full(Queue::RaftToLog);
            self.to_log.register_for_room(cx);
        }
        if !self.store_outbox.is_empty() {
            metrics::here().queue_full(Queue::RaftToStore);
            self.to_store.register_for_room(cx);
        }
        for (outbox, client) in self.client_outboxes.iter().zip(&self.to_clients) {
            if !outbox.is_empty() {
                client.register_for_room(cx);
            }
        }
        self.send_outboxes();
    }
}

async fn tick_loop(core: Rc<RefCell<RaftCore>>, interval: Duration) {
    let mut due = now() + interval;
    loop {
        glommio::timer::sleep(due.saturating_sub(now())).await;
        let late = now().saturating_sub(due);
        let missed = (late.as_nanos() / interval.as_nanos()) as u32; // skipped ticks count as late, once each
        let count = missed + 1;
        core.borrow_mut().tick(HeartbeatDue { first: due, interval, count });
        due += interval * count;
    }
}
