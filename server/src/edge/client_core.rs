//! A client core: its connections, and around [`node::calls`], which knows who waits for what, all that is I/O.
//!
//! What the other cores say goes to the calls, and what these answer into connections ([`super::answers`]); each connection
//! that got something is woken once per turn.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use engine::View;
use glommio::net::AcceptedTcpStream;
use net::grpc;
use net::http1;
use net::tls::Tls;
use node::api::{Error, Limits};
use node::calls::{Calls, Settings};
use node::cluster::rules::Rules;
use node::leader::{LeaderLoss, NeedLeader};
use node::propose::IdGenerator;
use node::watch_hub::Hub;
use rustc_hash::FxHashMap;

use super::answers::{Answers, Who};
use super::certificates::Certificates;
use super::clock::now;
use super::connection::{self, Connection, ConnectionId, Grpc, OpenCalls, Speaks};
use super::listen::Serves;
use super::messages::{ForStore, Order, ToClient, ToRaft};
use super::ring::{Ready, Sender};
use super::shared::{Note, Shared};
use super::slow::SlowCalls;
use super::transport::{ReadBuffers, Transport};
use super::turnstile::{self, Turnstile};
use super::watches::{self, Streams};
use super::wiring::Incoming;
use crate::config::limits::{CONNECTION_BYTES_PATIENCE_MILLIS, HANDSHAKES_MAX, Queue};
use crate::observe::metrics;

/// How often deadlines are looked at: the precision of every timeout of a connection.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(250);

/// Rows a Range is planned by before other work of its core goes on: a tenth of a millisecond or two.
const RANGE_ROWS_PER_TURN: usize = 4000;

/// Rows of history a HashKV reads before other work of its core goes on.
const HASH_ROWS_PER_TURN: usize = 2000;

/// A core's handle on a connection's state.
pub type ConnectionRef = Rc<RefCell<Connection>>;

/// See the module's header.
pub struct ClientCore {
    /// Which of the client cores it is.
    pub number: usize,
    /// What all cores may look at.
    pub shared: Arc<Shared>,
    /// Buffers for reading, used within one poll.
    pub read_buffers: RefCell<ReadBuffers>,
    /// Where a connection gathers its output, within one poll; none if a stalled one has it.
    pub output: RefCell<Vec<u8>>,
    /// Where short answers are put together.
    pub scratch: RefCell<Vec<u8>>,
    /// Who waits for what, and the newest version of the store.
    pub calls: RefCell<Calls<Who>>,
    /// Watchers of this core's connections.
    pub hub: RefCell<Hub>,
    /// Where watch responses go.
    pub streams: RefCell<Streams>,
    /// The hub has something to do that could not be done at once.
    pub wants_advance: Cell<bool>,
    advancing: Cell<bool>,
    /// Proposals and questions.
    pub to_raft: Sender<ToRaft>,
    /// Questions.
    pub to_store: Sender<ForStore>,
    connections: RefCell<FxHashMap<ConnectionId, ConnectionRef>>,
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
    /// Calls of this turn that took long.
    pub slow: RefCell<SlowCalls>,
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
        ClientCore {
            number,
            read_buffers: RefCell::default(),
            output: RefCell::default(),
            scratch: RefCell::new(Vec::new()),
            calls: RefCell::new(Calls::new(settings(number, &shared), ids, view.clone())),
            hub: RefCell::new(watches::new_hub(&shared, number, &view)),
            streams: RefCell::default(),
            wants_advance: Cell::new(false),
            advancing: Cell::new(false),
            to_raft,
            to_store,
            connections: RefCell::default(),
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
            let now = now();
            for ring in [&rings.raft, &rings.store] {
                while let Some(message) = ring.pop() {
                    self.handle(now, message);
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

    fn handle(self: &Rc<Self>, now: Duration, message: ToClient) {
        if matches!(message, ToClient::Published(_)) {
            self.wants_advance.set(true);
        }
        self.calls.borrow_mut().handle(now, message, &mut Answers::to_any(self));
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
        self.calls.borrow().view().clone()
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
    pub fn end_turn(self: &Rc<Self>) {
        self.calls.borrow_mut().end_turn(&mut Answers::to_any(self));
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

    /// A number for a connection or a watch stream, which this core has not used yet.
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
        let calls = OpenCalls(FxHashMap::default(), self.shared.clone());
        Grpc { server, calls, need_leader: NeedLeader::default() }
    }

    /// A protocol machine for a new HTTP/1.1 connection.
    pub fn new_http(&self) -> http1::Connection {
        http1::Connection::new(self.shared.config.max_request_bytes as usize, now())
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
            let id = connection.id;
            let Some(grpc) = connection.grpc() else { continue };
            let open = &grpc.calls.0;
            let calls = grpc.need_leader.take_open(|call| open.contains_key(&call));
            for call in &calls {
                self.end_stream(id, grpc, *call, Error::NoLeader);
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
            self.forget_calls(id, grpc);
        }
        self.shared.metrics.connection_closed();
        self.shared.connection_closed(self.number);
        self.note_if_drained();
    }

    fn shutdown(&self) {
        self.shutting_down.set(true);
        if self.number == 0 {
            let _ = self.to_raft.push(ToRaft::HandOver); // as well as it can be done
        }
        let connections: Vec<_> = self.connections.borrow().values().cloned().collect();
        for connection in connections {
            connection.borrow_mut().shutdown();
        }
        self.note_if_drained();
    }

    fn note_if_drained(&self) {
        if self.shutting_down.get()
            && (self.connections.borrow().is_empty() || !self.calls.borrow().awaits_writes())
        {
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
        self.calls.borrow_mut().tick(now, &mut Answers::to_any(self));
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
}

/// A TLS session with the newest certificate.
fn new_session(certificates: &Certificates) -> Result<Tls, String> {
    let config = certificates.current().ok_or("the TLS files cannot be used")?;
    Tls::new(&config).map_err(|error| error.to_string())
}

/// What the calls of a client core go by.
fn settings(core: usize, shared: &Shared) -> Settings {
    let config = &shared.config;
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Settings {
        core,
        // An earlier life of this process used fewer numbers than 2^16 in a millisecond.
        first_number: (unix.as_millis() as u64) << 16,
        identity: shared.identity,
        limits: Limits {
            request_bytes_max: config.max_request_bytes as usize,
            txn_ops_max: config.max_txn_ops as usize,
        },
        rules: Rules {
            strict_reconfig_check: config.strict_reconfig_check,
            max_learners: config.max_learners,
        },
        request_timeout: shared.request_timeout(),
        range_rows: RANGE_ROWS_PER_TURN,
        hash_rows: HASH_ROWS_PER_TURN,
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
