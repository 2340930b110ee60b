//! The raft core's shell: rings, the clock, sockets and threads around [`node::raft_core`], which decides everything. It waits
//! for no disk and no client.
//!
//! One turn: take all that the rings hold, give it to the core, start what comes out, wake each neighbour once. Ticks come
//! from a timer whose due times are start + n × interval; a late timer yields one tick, never a burst, because a burst of
//! ticks would look like silence of the leader.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{Index, NodeId, Role, RoleChange};
use node::raft_core::{Config, Input, Output};

use super::clock::now;
use super::messages::{ForStore, FromLog, ToClient, ToLog, ToRaft, ToStore};
use super::peers::HeartbeatDue;
use super::replication::{Replication, Seed, Surroundings};
use super::ring::{Ready, Receiver, Sender, drain};
use super::shared::Shared;
use super::trace::{TracedNode, TracedRaft};
use crate::config::limits::{CONF_CHANGES_OPEN_MAX, PROPOSALS_IN_FLIGHT_BYTES_MAX, Queue};
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Messages taken from one ring in one turn: enough for any batch, small enough that a tick is never far.
const TURN_MESSAGES: usize = 4096;

/// Everything on the raft core's thread.
pub struct RaftCore {
    core: TracedRaft<Surroundings>,
    outputs: Vec<Output<Surroundings>>,
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
    pub fn new(node: TracedNode, rings: Rings, seed: Seed, shared: Arc<Shared>) -> RaftCore {
        let config = Config {
            own: NodeId(shared.identity.member_id),
            election_timeout: shared.config.election_timeout,
            request_timeout: shared.request_timeout(),
            orphan_bytes_max: PROPOSALS_IN_FLIGHT_BYTES_MAX,
            conf_changes_open_max: CONF_CHANGES_OPEN_MAX,
        };
        let Seed { settings, listeners, members, removed, store, background } = seed;
        RaftCore {
            core: TracedRaft::new(node, config, members, removed),
            outputs: Vec::new(),
            replication: Replication::new((settings, listeners), store, background, shared.clone()),
            from_clients: rings.from_clients,
            from_store: rings.from_store,
            from_log: rings.from_log,
            to_log: rings.to_log,
            to_store: rings.to_store,
            client_outboxes: rings.to_clients.iter().map(|_| VecDeque::new()).collect(),
            to_clients: rings.to_clients,
            shared,
            log_outbox: VecDeque::new(),
            store_outbox: VecDeque::new(),
        }
    }

    /// Runs until every client core is gone. A lone voter campaigns in its first turn.
    pub async fn run(mut self, tick_interval: Duration) {
        self.shared.publish_learner(self.core.is_learner());
        self.replication.start(&self.core);
        self.end_turn(now());
        let core = Rc::new(RefCell::new(self));
        let ticker = glommio::spawn_local(tick_loop(core.clone(), tick_interval)).detach();
        while poll_fn(|cx| core.borrow_mut().poll_rings(cx)).await == Ready::Items {
            core.borrow_mut().turn();
        }
        ticker.cancel();
    }

    fn turn(&mut self) {
        let now = now();
        let applied = Index(self.shared.applied());
        for number in 0..self.from_clients.len() {
            for _ in 0..TURN_MESSAGES {
                if !self.client_outboxes[number].is_empty() {
                    break;
                }
                let Some(message) = self.from_clients[number].pop() else { break };
                self.core.handle(now, Input::Core(message), &mut self.outputs);
            }
        }
        while let Some(message) = self.from_log.pop() {
            self.core.handle(now, Input::Log(message), &mut self.outputs);
        }
        while let Some(message) = self.from_store.pop() {
            self.core.handle(now, Input::Core(message), &mut self.outputs);
        }
        while let Some(input) = self.replication.poll() {
            self.core.handle(now, input, &mut self.outputs);
        }
        self.core.applied(applied);
        self.end_turn(now);
    }

    fn tick(&mut self, due: HeartbeatDue) {
        self.count_lateness(due);
        let cells = &metrics::here().plain;
        cells.proposals_committed.set_unsigned(self.shared.commit());
        metrics::here().queue_length(Queue::RaftToLog, self.to_log.queued());
        cells.proposals_pending.set_unsigned(self.core.proposals_open() as u64);
        self.replication.heartbeats_due(Some(due));
        let now = now();
        self.core.tick(now, self.shared.log_write_age(now), &mut self.outputs);
        self.turn();
        self.replication.heartbeats_due(None);
        self.look_at_versions(now);
        self.replication.tick(&self.core, now);
        self.send_outboxes();
    }

    /// A tick that was left out counts as one that came as late as this one.
    fn count_lateness(&self, due: HeartbeatDue) {
        let late = now().saturating_sub(due.first);
        self.shared.metrics.tick(late);
        for left_out in 1..due.count {
            self.shared.metrics.tick_skipped(late.saturating_sub(due.interval * left_out));
        }
    }

    fn end_turn(&mut self, now: Duration) {
        self.core.end_turn(now, &mut self.outputs);
        let mut outputs = std::mem::take(&mut self.outputs);
        let mut leads_anew = false;
        for output in outputs.drain(..) {
            leads_anew |= matches!(&output, Output::Role(change) if change.role == Role::Leader);
            self.start(now, output);
        }
        self.outputs = outputs;
        if leads_anew {
            self.look_at_versions(now);
        }
        self.send_outboxes();
    }

    fn start(&mut self, now: Duration, output: Output<Surroundings>) {
        match output {
            Output::Log(message) => self.log_outbox.push_back(message),
            Output::Store(message) => self.tell_store(message),
            Output::Client(core, message) => self.tell_client(core, message),
            Output::SingleVoter(index) => self.shared.publish_single_voter(index),
            Output::Role(change) => self.role_changed(change),
            Output::LogStalled(stalled) => {
                let waited_ms = self.shared.log_write_age(now).as_millis() as u64;
                tracing::warn!(stalled, waited_ms, "the log device does not answer");
            }
            Output::Members => {
                self.shared.publish_learner(self.core.is_learner());
                self.replication.set_members(&self.core);
            }
            Output::Install { ready, store } => {
                self.store_outbox.push_back(ForStore::Install(Box::new(store.install(ready))));
            }
            Output::Fatal(fatal) => self.shared.fatal(Fatal::new(FatalReason::LogDamaged, fatal.to_string())),
            other => self.replication.start_output(other),
        }
    }

    fn tell_store(&mut self, message: ToStore) {
        match &message {
            ToStore::Commit(batch) => {
                if let Some(last) = batch.last() {
                    self.shared.publish_commit(last.entry.index);
                }
            }
            ToStore::Dropped(_) => metrics::here().plain.proposals_failed.inc(),
            _ => {}
        }
        self.store_outbox.push_back(message.into());
    }

    fn tell_client(&mut self, core: usize, message: ToClient) {
        if matches!(message, ToClient::Dropped(..)) {
            metrics::here().plain.proposals_failed.inc();
        }
        // An answer of a peer names any core.
        if let Some(outbox) = self.client_outboxes.get_mut(core) {
            outbox.push_back(message);
        }
    }

    fn role_changed(&self, change: RoleChange) {
        let known = change.leader.unwrap_or(NodeId(0));
        self.shared.publish_role(change.term, known, change.role == Role::Leader);
        tracing::info!(
            raft_term = change.term.0,
            role = ?change.role,
            leader = format!("{:x}", known.0),
            "raft role changed"
        );
    }

    fn look_at_versions(&mut self, now: Duration) {
        let replication = &self.replication;
        let versions = self.core.look_at_versions(now, |member| replication.server_version(member));
        self.store_outbox.extend(versions.map(ForStore::from));
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
