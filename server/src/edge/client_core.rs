//! A client core: its connections, the calls that wait for another core, and the newest version of the store.
//!
//! What a call asks for is decided in `node::api`; this file knows who waits for what. Reads are answered here, from the
//! newest published version; writes go to the raft core and come back from the store core as outcomes. Answers are put
//! straight into the connection's protocol machine; each connection that got some is woken once per turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use consensus::{DropReason, Index, NodeId, ProposalId, ReadId};
use engine::View;
use glommio::net::AcceptedTcpStream;
use net::grpc::{self, Code, Method, Status};
use net::http1;
use net::tls::Tls;
use node::api::{Error, Limits};
use node::forward::Response;
use node::leader::{LeaderLoss, NeedLeader};
use node::propose::{IdGenerator, Write};
use node::watch_hub::Hub;
use node::{Answer, Identity};
use rustc_hash::FxHashMap;

use super::certificates::Certificates;
use super::clock::now;
use super::connection::{self, Calls, Connection, ConnectionId, Grpc, Speaks};
use super::listen::Serves;
use super::messages::{ForStore, Order, Query, QueryAnswer, QueryId, ToClient, ToRaft, ToStore};
use super::ring::{Ready, Sender};
use super::shared::{Note, Shared};
use super::slow::{About, SlowCalls};
use super::transport::{ReadBuffers, Transport};
use super::turnstile::{self, Turnstile};
use super::waiting::{Read, Waiter, Waiting};
use super::watches::{self, Streams};
use super::wiring::Incoming;
use crate::config::limits::{CONNECTION_BYTES_PATIENCE_MILLIS, HANDSHAKES_MAX, Queue};
use crate::observe::metrics::{self, Op};

/// How often deadlines are looked at: the precision of every timeout of a connection.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(250);

/// A core's handle on a connection's state.
pub type ConnectionRef = Rc<RefCell<Connection>>;

/// See the module's header.
pub struct ClientCore {
    /// Which of the client cores it is.
    pub number: usize,
    /// What all cores may look at.
    pub shared: Arc<Shared>,
    /// For response headers.
    pub identity: Identity,
    /// What is refused by size.
    pub limits: Limits,
    /// Buffers for reading, used within one poll.
    pub read_buffers: RefCell<ReadBuffers>,
    /// Where a connection gathers its output, within one poll; none if a stalled one has it.
    pub output: RefCell<Vec<u8>>,
    /// Where short answers are put together.
    pub scratch: RefCell<Vec<u8>>,
    /// Entry ids.
    pub ids: RefCell<IdGenerator>,
    /// Watchers of this core's connections.
    pub hub: RefCell<Hub>,
    /// Where watch responses go.
    pub streams: RefCell<Streams>,
    /// The hub has something to do that could not be done at once.
    pub wants_advance: Cell<bool>,
    advancing: Cell<bool>,
    view: RefCell<Arc<View>>,
    to_raft: Sender<ToRaft>,
    to_store: Sender<ForStore>,
    connections: RefCell<FxHashMap<ConnectionId, ConnectionRef>>,
    waiting: RefCell<Waiting>,
    next_number: Cell<u64>,
    touched: RefCell<Vec<ConnectionId>>,
    /// Accept loops that begin with [`Order::Serve`].
    pub acceptors: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>,
    listeners: Vec<Listener>,
    /// Connections whose TLS handshake is not complete; the first is the oldest.
    handshakes: RefCell<BTreeSet<ConnectionId>>,
    /// A connection was not read because all hold too much; it must be woken when that is over.
    pub holds_back: Cell<bool>,
    /// Connections that have more to send than one turn takes.
    pub turnstile: Turnstile,
    /// Since when connections hold more than they may.
    too_much_since: Cell<Option<Duration>>,
    leader_loss: RefCell<LeaderLoss>,
    shutting_down: Cell<bool>,
    /// When the turn of the connection at hand began: its requests came then.
    pub turn_began: Cell<Duration>,
    slow: RefCell<SlowCalls>,
}

/// What connections of one listener get.
#[derive(Clone)]
pub struct Listener {
    /// TLS, if it is spoken here.
    pub tls: Option<Arc<Certificates>>,
    /// What they are served.
    pub serves: Serves,
}

impl ClientCore {
    /// A core without connections. `view` is the version the store was opened with.
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        view: Arc<View>,
        ids: IdGenerator,
        (to_raft, to_store): (Sender<ToRaft>, Sender<ForStore>),
        listeners: Vec<Listener>,
    ) -> ClientCore {
        let config = &shared.config;
        ClientCore {
            number,
            identity: shared.identity,
            limits: Limits {
                request_bytes_max: config.max_request_bytes as usize,
                txn_ops_max: config.max_txn_ops as usize,
            },
            read_buffers: RefCell::default(),
            output: RefCell::default(),
            scratch: RefCell::new(Vec::new()),
            ids: RefCell::new(ids),
            hub: RefCell::new(watches::new_hub(&shared, number, &view)),
            streams: RefCell::default(),
            wants_advance: Cell::new(false),
            advancing: Cell::new(false),
            view: RefCell::new(view),
            to_raft,
            to_store,
            connections: RefCell::default(),
            waiting: RefCell::default(),
            next_number: Cell::new(1),
            touched: RefCell::default(),
            acceptors: RefCell::default(),
            listeners,
            handshakes: RefCell::default(),
            holds_back: Cell::new(false),
            turnstile: Turnstile::default(),
            too_much_since: Cell::new(None),
            leader_loss: RefCell::new(LeaderLoss::new(shared.config.election_timeout)),
            shutting_down: Cell::new(false),
            turn_began: Cell::new(now()),
            slow: RefCell::default(),
            shared,
        }
    }

    /// Serves until the store core is gone.
    pub async fn run(self: Rc<Self>, rings: Incoming) {
        let housekeeping = glommio::spawn_local(housekeeping_loop(self.clone())).detach();
        let core = self.clone();
        let turnstile =
            glommio::spawn_local(async move { core.turnstile.run(turnstile::look_around).await }).detach();
        while poll_fn(|cx| poll_incoming(&rings, cx)).await == Ready::Items {
            for ring in [&rings.raft, &rings.store] {
                while let Some(message) = ring.pop() {
                    self.handle(message);
                }
            }
            for ring in &rings.orders {
                while let Some(order) = ring.pop() {
                    self.obey(order);
                }
            }
            if self.wants_advance.get() {
                self.deliver_events();
            }
            self.end_turn();
        }
        housekeeping.cancel();
        turnstile.cancel();
    }

    fn handle(self: &Rc<Self>, message: ToClient) {
        match message {
            ToClient::Published(view) => self.published(view),
            ToClient::Outcomes(outcomes) => {
                for (id, result) in outcomes {
                    self.written(id, result);
                }
            }
            ToClient::Dropped(id, reason) => self.written(id, Err(refusal(reason))),
            ToClient::ReadIndex(id, index) => self.read_confirmed(id, index),
            ToClient::Transferred(id) => self.transferred(id),
            ToClient::PeerRequest(from, id, body) => self.peer_asks(from, id, &body),
            ToClient::PeerResponse(id, body) => self.peer_answers(id, &body),
            ToClient::Answers(answers) => {
                for (id, result) in answers {
                    self.answered(id, result);
                }
            }
        }
    }

    fn obey(self: &Rc<Self>, order: Order) {
        match order {
            Order::Accepted(stream, listener) => self.accepted(stream, listener),
            Order::Serve => {
                for acceptor in self.acceptors.borrow_mut().drain(..) {
                    glommio::spawn_local(acceptor).detach();
                }
            }
            Order::Shutdown => self.shutdown(),
        }
    }

    /// The newest version of the store.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    fn published(self: &Rc<Self>, view: Arc<View>) {
        *self.view.borrow_mut() = view;
        let applied = Index(self.view.borrow().applied().index);
        self.do_covered_reads(applied);
        self.wants_advance.set(true);
    }

    fn do_covered_reads(self: &Rc<Self>, applied: Index) {
        loop {
            let covered = self.waiting.borrow_mut().reads.pop_covered(applied);
            let Some((waiter, read)) = covered else { return };
            self.with_grpc(waiter.connection, |grpc| self.read(waiter, grpc, read));
        }
    }

    /// The raft core's answer to [`ToRaft::Read`].
    fn read_confirmed(self: &Rc<Self>, id: ReadId, index: Option<Index>) {
        let Some(index) = index else {
            metrics::here().plain.read_indexes_failed.inc();
            for (waiter, _) in self.waiting.borrow_mut().reads.fail(number_of(ProposalId(id.0))) {
                self.with_grpc(waiter.connection, |grpc| {
                    self.fail(grpc, &waiter, &Error::LeaderChanged.status());
                });
            }
            return;
        };
        self.waiting.borrow_mut().reads.confirm(number_of(ProposalId(id.0)), index);
        let applied = Index(self.view.borrow().applied().index);
        self.do_covered_reads(applied);
    }

    /// The end of a write, or of what is waited for like one.
    pub fn written(&self, id: ProposalId, result: Result<Answer, Error>) {
        let number = number_of(id);
        let mut waiting = self.waiting.borrow_mut();
        let peer = waiting.peers.remove(&number);
        let write = waiting.writes.remove(&number);
        let transfer = waiting.transfers.remove(&number);
        drop(waiting);
        if let Some((node, asked)) = peer {
            let response = result.map_or_else(Response::Refused, |answer| Response::Promoted(answer.body));
            return self.answer_peer(node, asked, &response);
        }
        if let Some((waiter, entry)) = write {
            self.with_grpc(waiter.connection, |grpc| self.reply_to(grpc, &waiter, Some(&entry), &result));
        } else if let Some(waiter) = transfer {
            self.with_grpc(waiter.connection, |grpc| self.reply(grpc, &waiter, &result));
        }
    }

    fn answered(&self, id: QueryId, result: Result<QueryAnswer, Error>) {
        let Some(waiter) = self.waiting.borrow_mut().queries.remove(&id.number) else { return };
        self.with_grpc(waiter.connection, |grpc| match result {
            Ok(QueryAnswer::Answer(answer)) => self.reply(grpc, &waiter, &Ok(answer)),
            Ok(QueryAnswer::TimeToLive(fields)) => {
                let answer = Answer::new(self.view.borrow().revision(), fields);
                self.reply(grpc, &waiter, &Ok(answer));
            }
            Ok(QueryAnswer::KeepAlive(ttl)) => self.kept_alive(grpc, waiter, Ok(ttl)),
            Err(error) => self.query_failed(grpc, waiter, error),
        });
    }

    /// Ends a unary call.
    pub fn reply(&self, grpc: &mut Grpc, waiter: &Waiter, result: &Result<Answer, Error>) {
        self.reply_to(grpc, waiter, None, result);
    }

    /// Ends a unary call that was proposed as `entry`, if it was.
    fn reply_to(
        &self,
        grpc: &mut Grpc,
        waiter: &Waiter,
        entry: Option<&Bytes>,
        result: &Result<Answer, Error>,
    ) {
        match result {
            Ok(answer) => {
                let mut scratch = self.scratch.borrow_mut();
                scratch.clear();
                answer.encode(&self.identity, self.shared.term(), &mut scratch);
                grpc.server.reply_raw(waiter.call, &scratch);
                let size = scratch.len();
                drop(scratch);
                self.ended(waiter, Code::Ok, About::write(entry, size));
            }
            Err(error) => {
                let status = error.status();
                self.ended(waiter, status.code, About::write(entry, 0));
                grpc.server.finish(waiter.call, &status);
            }
        }
    }

    /// Ends a call that was answered from the store. Damage ends the process instead.
    pub fn reply_read(&self, grpc: &mut Grpc, waiter: &Waiter, result: &Result<Answer, Error>) {
        if matches!(result, Err(Error::Corrupt)) {
            self.shared.tree_damaged();
        }
        self.reply(grpc, waiter, result);
    }

    /// Ends a call with a status.
    pub fn fail(&self, grpc: &mut Grpc, waiter: &Waiter, status: &Status) {
        self.ended(waiter, status.code, About::Nothing);
        grpc.server.finish(waiter.call, status);
    }

    /// Counts the end of a unary call, and notes a slow one. `about` says what it was.
    pub fn ended(&self, waiter: &Waiter, code: Code, about: About<'_>) {
        let cells = metrics::here();
        let took = now().saturating_sub(waiter.since);
        cells.call_handled(waiter.method, code, took);
        if code == Code::Ok {
            cells.message_sent(waiter.method);
        }
        let op = if waiter.read_only_txn { Some(Op::ReadonlyTxn) } else { Op::of(waiter.method) };
        if let Some(op) = op {
            cells.requested(op, code == Code::Ok, took);
        }
        if waiter.method == Method::KvRange {
            cells.ranged(code == Code::Ok, took);
        }
        let config = &self.shared.config;
        self.slow.borrow_mut().note(waiter, took, (config.warning_unary, config.warning_apply), about);
    }

    /// Logs the slow calls of the turn. No connection may be borrowed.
    fn warn_of_slow_calls(&self) {
        if self.slow.borrow().is_empty() {
            return;
        }
        let peer = |id| Some(self.connection(id)?.borrow().peer.as_ref()?.to_string());
        self.slow.borrow_mut().log(peer);
    }

    /// Does something with a connection that is still there and speaks gRPC, and lets its task run afterwards.
    pub fn with_grpc(&self, id: ConnectionId, act: impl FnOnce(&mut Grpc)) {
        let Some(connection) = self.connection(id) else { return };
        if let Some(grpc) = connection.borrow_mut().grpc() {
            act(grpc);
            self.touch(id);
        }
    }

    /// Brings events to watchers, at once as far as that is little, in a task of its own as far as it is not. No
    /// connection may be borrowed.
    pub fn deliver_events(self: &Rc<Self>) {
        self.wants_advance.set(false);
        if self.advancing.get() || !self.advance_watches() {
            return;
        }
        self.advancing.set(true);
        let core = self.clone();
        glommio::spawn_local(async move {
            loop {
                core.end_turn();
                glommio::executor().yield_now().await;
                if !core.advance_watches() {
                    break;
                }
            }
            core.advancing.set(false);
            core.end_turn();
        })
        .detach();
    }

    /// What follows a turn of a connection's task.
    fn connection_turned(self: &Rc<Self>) {
        if self.wants_advance.get() || self.hub.borrow().is_waiting() {
            self.deliver_events();
        }
        self.end_turn();
    }

    /// A connection of this core, if it is still there.
    pub fn connection(&self, id: ConnectionId) -> Option<ConnectionRef> {
        self.connections.borrow().get(&id).cloned()
    }

    /// Lets a connection's task run at the end of the turn.
    pub fn touch(&self, id: ConnectionId) {
        let mut touched = self.touched.borrow_mut();
        if touched.last() != Some(&id) {
            touched.push(id);
        }
    }

    /// Wakes each connection that got something, once, and the other cores.
    pub fn end_turn(&self) {
        self.ask_for_read_index();
        self.warn_of_slow_calls();
        let mut touched = self.touched.borrow_mut();
        touched.sort_unstable();
        touched.dedup();
        let connections = self.connections.borrow();
        for id in touched.drain(..) {
            if let Some(connection) = connections.get(&id) {
                connection.borrow_mut().wake();
            }
        }
        self.to_raft.flush();
        self.to_store.flush();
    }

    /// One question for all reads that came since the last one was asked.
    fn ask_for_read_index(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let Some(number) = waiting.reads.ask(|| self.next_number()) else { return };
        let id = ReadId(Shared::proposal_id(self.number, number).0);
        if self.to_raft.push(ToRaft::Read(id)).is_err() {
            waiting.reads.take_back();
        }
    }

    /// Hands a write to the raft core; its outcome ends the call.
    pub fn propose(&self, grpc: &mut Grpc, waiter: Waiter, write: Write) {
        let number = self.next_number();
        let id = Shared::proposal_id(self.number, number);
        let entry = write.entry.clone();
        if self.to_raft.push(ToRaft::Propose(id, write)).is_err() {
            metrics::here().plain.proposals_shed.inc();
            metrics::here().queue_full(Queue::ClientToRaft);
            return self.fail(grpc, &waiter, &Error::TooManyRequests.status());
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.writes.insert(number, (waiter, entry));
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// Asks the store core; its answer ends the call (or is one of a stream).
    pub fn query(&self, grpc: &mut Grpc, waiter: Waiter, query: Query) {
        let number = self.next_number();
        let id = QueryId { core: self.number, number };
        if self.to_store.push(ToStore::Query(id, query).into()).is_err() {
            metrics::here().plain.proposals_shed.inc();
            return self.fail(grpc, &waiter, &Error::TooManyRequests.status());
        }
        let mut waiting = self.waiting.borrow_mut();
        waiting.queries.insert(number, waiter);
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// Says something to the raft core.
    ///
    /// # Errors
    /// Its ring is full.
    pub fn tell_raft(&self, message: ToRaft) -> Result<(), Error> {
        self.to_raft.push(message).map_err(|_| {
            metrics::here().plain.proposals_shed.inc();
            Error::TooManyRequests
        })
    }

    /// Keeps a call until [`ClientCore::written`] of its number, or its deadline.
    pub fn wait_for_write(&self, number: u64, waiter: Waiter) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.writes.insert(number, (waiter, Bytes::new()));
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// Keeps a MoveLeader call until the other leads, or its deadline.
    pub fn wait_for_transfer(&self, number: u64, waiter: Waiter) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.transfers.insert(number, waiter);
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// Keeps another member's question until [`ClientCore::written`] of its number, or its deadline.
    pub fn wait_for_peer(&self, number: u64, node: NodeId, asked: u64) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.peers.insert(number, (node, asked));
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// A write was refused for lack of room: this member's alarm is due.
    pub fn out_of_space(&self) {
        // A full ring only delays the alarm until the next refusal.
        let _ = self.to_store.push(ToStore::NoSpace.into());
    }

    /// Reads once the view covers what is committed now; at once if it does already. The only voter knows without asking;
    /// otherwise the raft core asks the leader, once for all reads of a turn.
    pub fn read_linearizable(self: &Rc<Self>, waiter: Waiter, grpc: &mut Grpc, read: Read) {
        let index = self.shared.read_index();
        if index.is_some_and(|index| index.0 <= self.view.borrow().applied().index) {
            return self.read(waiter, grpc, read);
        }
        let number = self.next_number();
        let mut waiting = self.waiting.borrow_mut();
        waiting.reads.push(number, (waiter, read), index);
        waiting.deadlines.push_back((now() + self.shared.request_timeout(), number));
    }

    /// A number that this core has not used yet.
    pub fn next_number(&self) -> u64 {
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        number
    }

    /// A protocol machine for a new gRPC connection.
    pub fn new_grpc(&self) -> Grpc {
        let config = &self.shared.config;
        let mut server = grpc::Server::new(
            grpc::Config {
                max_request_bytes: config.max_request_bytes as usize,
                max_concurrent_streams: config.max_concurrent_streams,
                keepalive_min_time: config.grpc_keepalive.min_time,
                keepalive_interval: config.grpc_keepalive.interval,
                keepalive_timeout: config.grpc_keepalive.timeout,
            },
            now(),
        );
        if self.shutting_down.get() {
            server.shutdown();
        }
        let calls = Calls(FxHashMap::default(), self.shared.clone());
        Grpc { server, calls, need_leader: NeedLeader::default() }
    }

    /// A protocol machine for a new HTTP/1.1 connection.
    pub fn new_http(&self) -> http1::Connection {
        http1::Connection::new(self.limits.request_bytes_max, now())
    }

    /// Takes over a connection.
    pub fn accepted(self: &Rc<Self>, stream: AcceptedTcpStream, listener: usize) {
        // First of all: from here on the stream owns its descriptor. Asking glommio's accepted stream for its peer would
        // close the descriptor of one that the peer has reset meanwhile, and a stream would be made of whatever has
        // that number then.
        let stream = stream.bind_to_executor();
        let peer = stream.peer_addr().ok();
        let Some(listener) = self.listeners.get(listener) else { return };
        let tls = match listener.tls.as_ref().map(|files| new_session(files)).transpose() {
            Ok(tls) => tls,
            Err(reason) => {
                self.shared.connection_closed(self.number);
                return tracing::debug!(?peer, %reason, "refused a client connection");
            }
        };
        let id = self.next_number();
        let mut handshaking = tls.is_some();
        if handshaking {
            self.begin_handshake(id);
        }
        let connection = Connection::new(id, Transport::new(stream, tls), peer, listener.serves);
        let connection = Rc::new(RefCell::new(connection));
        self.connections.borrow_mut().insert(id, connection.clone());
        self.shared.metrics.connection_opened();
        let core = self.clone();
        glommio::spawn_local(async move {
            poll_fn(|cx| {
                core.turn_began.set(now());
                let poll = connection::poll_connection(&connection, &core, cx);
                if handshaking && !connection.borrow().is_handshaking() {
                    handshaking = false;
                    core.handshakes.borrow_mut().remove(&id);
                }
                connection.borrow_mut().account(&core.shared);
                core.connection_turned();
                poll
            })
            .await;
            core.closed(id, &connection);
        })
        .detach();
    }

    /// Counts a handshake; the oldest make room where there are too many.
    fn begin_handshake(&self, id: ConnectionId) {
        let mut handshakes = self.handshakes.borrow_mut();
        handshakes.insert(id); // ids grow with time
        while handshakes.len() > (HANDSHAKES_MAX / self.shared.client_cores()).max(1) {
            let oldest = handshakes.pop_first().and_then(|oldest| self.connection(oldest));
            if let Some(oldest) = oldest {
                oldest.borrow_mut().abandon();
            }
        }
    }

    fn end_streams_that_need_a_leader(&self) {
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            let mut connection = connection.borrow_mut();
            let Some(grpc) = connection.grpc() else { continue };
            let open = &grpc.calls.0;
            let calls = grpc.need_leader.take_open(|call| open.contains_key(&call));
            for call in &calls {
                self.end_stream(grpc, *call, Error::NoLeader);
            }
            if !calls.is_empty() {
                connection.wake();
            }
        }
    }

    /// Lets those be read again that were not because connections held too much; if they hold too much for too long,
    /// closes the one that holds the most.
    fn bound_connection_bytes(&self, now: Duration) {
        if !self.shared.connections_hold_too_much() {
            self.too_much_since.set(None);
            if self.holds_back.take() {
                for connection in self.connections.borrow().values() {
                    connection.borrow_mut().wake();
                }
            }
            return;
        }
        let since = self.too_much_since.get().unwrap_or(now);
        self.too_much_since.set(Some(since));
        if now - since < Duration::from_millis(CONNECTION_BYTES_PATIENCE_MILLIS) {
            return;
        }
        let connections = self.connections.borrow();
        let worst = connections.values().max_by_key(|connection| connection.borrow().accounted_bytes());
        let Some(mut worst) = worst.map(|worst| worst.borrow_mut()) else { return };
        let (peer, bytes) = (worst.peer, worst.accounted_bytes());
        if bytes > self.shared.connection_bytes_share() {
            tracing::warn!(?peer, bytes, "closing a connection: all together hold too much, and it the most");
            worst.abandon();
        }
    }

    fn closed(&self, id: ConnectionId, connection: &ConnectionRef) {
        self.connections.borrow_mut().remove(&id);
        self.handshakes.borrow_mut().remove(&id);
        connection.borrow_mut().account_gone(&self.shared);
        if matches!(connection.borrow().speaks, Speaks::Unknown(_)) {
            metrics::here().plain.connections_refused.inc();
        }
        if let Some(grpc) = connection.borrow_mut().grpc() {
            self.forget_calls(grpc);
        }
        self.shared.metrics.connection_closed();
        self.shared.connection_closed(self.number);
        self.note_if_drained();
    }

    fn shutdown(&self) {
        self.shutting_down.set(true);
        if self.number == 0 {
            let _ = self.tell_raft(ToRaft::HandOver); // as well as it can be done
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            connection.borrow_mut().shutdown();
        }
        self.note_if_drained();
    }

    fn note_if_drained(&self) {
        let waiting = self.waiting.borrow();
        if self.shutting_down.get() && (self.connections.borrow().is_empty() || waiting.writes.is_empty()) {
            self.shared.note(Note::Drained);
        }
    }

    fn housekeeping(self: &Rc<Self>) {
        let now = now();
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            let mut connection = connection.borrow_mut();
            if connection.next_timeout().is_some_and(|due| due <= now) {
                connection.handle_timeout(now);
            }
        }
        self.bound_connection_bytes(now);
        if self.leader_loss.borrow_mut().is_due(now, self.shared.leader() != 0) {
            self.end_streams_that_need_a_leader();
        }
        self.time_out(now);
        self.count_watches();
        self.watch_progress();
        self.end_turn();
        self.note_if_drained();
    }

    fn count_watches(&self) {
        let figures = self.hub.borrow().figures();
        let cells = &metrics::here().plain;
        cells.watch_streams.set_unsigned(figures.streams as u64);
        cells.watchers.set_unsigned(figures.watchers as u64);
        cells.slow_watchers.set_unsigned(figures.lagging as u64);
        let counted = cells.events.value();
        cells.events.add(figures.events.saturating_sub(counted));
        metrics::here().queue_length(Queue::ClientToRaft, self.to_raft.queued());
    }

    fn time_out(&self, now: Duration) {
        loop {
            let mut waiting = self.waiting.borrow_mut();
            match waiting.deadlines.front() {
                Some((due, number)) if *due <= now || !waiting.is_open(*number) => {}
                _ => return,
            }
            let Some((_, number)) = waiting.deadlines.pop_front() else { return };
            waiting.peers.remove(&number);
            let transfer = waiting.transfers.remove(&number);
            if waiting.reads.awaits_index(number) {
                metrics::here().plain.slow_read_indexes.inc();
            }
            let waiter = waiting.remove(number);
            drop(waiting);
            if let Some(waiter) = transfer {
                let status = Error::TimeoutLeaderTransfer.status();
                self.with_grpc(waiter.connection, |grpc| self.fail(grpc, &waiter, &status));
            }
            if let Some(waiter) = waiter {
                self.with_grpc(waiter.connection, |grpc| self.query_failed(grpc, waiter, Error::Timeout));
            }
        }
    }
}

/// A TLS session with the newest certificate.
fn new_session(certificates: &Certificates) -> Result<Tls, String> {
    let config = certificates.current().ok_or("the TLS files cannot be used")?;
    Tls::new(&config).map_err(|error| error.to_string())
}

fn number_of(id: ProposalId) -> u64 {
    id.0 & 0xffff_ffff_ffff
}

fn refusal(reason: DropReason) -> Error {
    match reason {
        DropReason::NoLeader | DropReason::NotLeader(..) => Error::NoLeader,
        DropReason::LeaderTransfer | DropReason::LeaderChanged => Error::LeaderChanged,
        DropReason::OutcomeUnknown => Error::TimeoutLeaderFailure,
        DropReason::TooManyRequests => Error::TooManyRequests,
        DropReason::TooLarge => Error::RequestTooLarge,
        DropReason::ConfChangePending => Error::Unhealthy,
    }
}

fn poll_incoming(rings: &Incoming, cx: &mut Context<'_>) -> Poll<Ready> {
    let mut items = false;
    for ring in &rings.orders {
        items |= ring.poll_ready(cx) == Poll::Ready(Ready::Items);
    }
    items |= rings.raft.poll_ready(cx) == Poll::Ready(Ready::Items);
    match rings.store.poll_ready(cx) {
        Poll::Pending if items => Poll::Ready(Ready::Items),
        poll => poll,
    }
}

async fn housekeeping_loop(core: Rc<ClientCore>) {
    loop {
        glommio::timer::sleep(HOUSEKEEPING_INTERVAL).await;
        core.housekeeping();
    }
}
