//! One client connection: sniffing, gRPC or HTTP/1.1, and the poll loop that moves its bytes.
//!
//! One task per connection waits for three things at once: the socket readable, the socket writable, an answer ready.
//! The state sits in an `Rc<RefCell<…>>` so that the core can put answers into it while the task sleeps; whoever does so
//! calls [`wake`] once. All answers of a turn leave in one write.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use net::grpc::{Bodies, CallId, Code, Fill, Server};
use net::tls::{Alpn, Tls};
use net::{Protocol, http1};
use node::leader::NeedLeader;
use rustc_hash::FxHashMap;

use super::calls::Call;
use super::client_core::ClientCore;
use super::clock::now;
use super::listen::Serves;
use super::pages::PageListener;
use super::shared::Shared;
use super::transport::{Received, Transport};
use super::turnstile::Ticket;
use crate::config::limits::CONNECTION_BYTES_SMALL;

/// A new connection must have said which protocol it speaks (and finished its TLS handshake) by then.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);

/// Output gathered before it goes to the socket: large enough that a list costs few system calls, small enough that a
/// stalled reader costs little and other streams' frames are never far behind. 15 full DATA frames are just short of four
/// TCP segments of 64 KiB; 128 KiB were two and a tiny third, which cost as much as the others (an eighth of a list's CPU).
const OUTPUT_BYTES: usize = 15 * (9 + (16 << 10));

/// Rounds of read and write before the task lets others run.
const ROUNDS_PER_TURN: usize = 4;

/// Names a connection for as long as its core lives; never reused.
pub type ConnectionId = u64;

/// State of a connection, shared by its task and its core.
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// What it speaks.
    pub speaks: Speaks,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    transport: Transport,
    out: Vec<u8>,
    sent: usize,
    /// When it must have said what it speaks.
    first_bytes_due: Duration,
    waker: Option<Waker>,
    /// What its listener is for.
    serves: Serves,
    peer_closed: bool,
    dead: bool,
    /// What it held when that was last counted.
    accounted: usize,
    /// Its place among those with much output.
    ticket: Ticket,
}

/// The protocol of a connection.
pub enum Speaks {
    /// Too few bytes to tell; here they are.
    Unknown(Vec<u8>),
    /// HTTP/2 with gRPC.
    Grpc(Box<Grpc>),
    /// HTTP/1.1.
    Http(Box<http1::Connection>),
}

/// A gRPC connection and its open calls.
pub struct Grpc {
    /// The protocol machine.
    pub server: Server,
    /// Calls that have state: bodies being pulled, watch and keep-alive streams.
    pub calls: OpenCalls,
    /// Streams that end when there is no leader for long.
    pub need_leader: NeedLeader<CallId>,
}

/// Open calls with state, by their id.
pub struct OpenCalls(pub FxHashMap<CallId, Call>, pub Arc<Shared>);

impl Bodies for OpenCalls {
    fn fill(&mut self, call: CallId, max: usize, out: &mut Vec<u8>) -> Fill {
        let guard = crossbeam::epoch::pin();
        let (fill, is_over) = match self.0.get_mut(&call) {
            Some(Call::Body(body)) => {
                let fill = body.fill(&guard, max, out);
                let is_over = !matches!(fill, Fill::Wrote(_));
                (fill, is_over)
            }
            Some(Call::Watch(_, pulled)) if !pulled.is_empty() => {
                let fill = pulled[0].fill(&guard, max, out);
                if matches!(fill, Fill::Done(_)) {
                    pulled.pop_front();
                }
                (fill, false) // the stream goes on
            }
            _ => return Fill::Abort(node::api::Error::Canceled.status()),
        };
        if matches!(&fill, Fill::Abort(status) if status.code == Code::DataLoss) {
            self.1.tree_damaged();
        }
        if is_over {
            self.0.remove(&call);
        }
        fill
    }
}

/// What one attempt to make progress came to.
#[derive(PartialEq, Eq)]
enum Round {
    /// Something moved; go on.
    Progress,
    /// A full buffer was sent and there is more: others first.
    More,
    /// Nothing more until a wake-up.
    Idle,
    /// Close the connection.
    End,
}

impl Connection {
    /// A connection that has received nothing.
    pub fn new(
        id: ConnectionId,
        transport: Transport,
        peer: Option<SocketAddr>,
        serves: Serves,
    ) -> Connection {
        Connection {
            id,
            speaks: Speaks::Unknown(Vec::new()),
            peer,
            transport,
            out: Vec::new(),
            sent: 0,
            first_bytes_due: now() + FIRST_BYTES_DEADLINE,
            waker: None,
            serves,
            peer_closed: false,
            dead: false,
            accounted: 0,
            ticket: Ticket::default(),
        }
    }

    /// The gRPC half, if that is what it speaks.
    pub fn grpc(&mut self) -> Option<&mut Grpc> {
        match &mut self.speaks {
            Speaks::Grpc(grpc) => Some(grpc),
            _ => None,
        }
    }

    /// Lets the connection's task run.
    pub fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Its TLS handshake is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.transport.tls().is_some_and(Tls::is_handshaking)
    }

    /// Ends it without a word.
    pub fn abandon(&mut self) {
        self.dead = true;
        self.wake();
    }

    /// Counts what it holds now against what all connections may hold.
    pub fn account(&mut self, shared: &Shared) {
        let machine = match &self.speaks {
            Speaks::Unknown(seen) => seen.capacity(),
            Speaks::Grpc(grpc) => grpc.server.held_bytes(),
            Speaks::Http(http) => http.held_bytes(),
        };
        let held = machine + self.out.capacity() + self.transport.held_bytes();
        if held != self.accounted {
            shared.connection_holds(self.accounted, held);
            self.accounted = held;
        }
    }

    /// It is gone, and what it held with it.
    pub fn account_gone(&mut self, shared: &Shared) {
        shared.connection_holds(std::mem::take(&mut self.accounted), 0);
    }

    /// What it held when that was last counted.
    pub fn accounted_bytes(&self) -> usize {
        self.accounted
    }

    /// The time at which [`Connection::handle_timeout`] is wanted.
    pub fn next_timeout(&self) -> Option<Duration> {
        match &self.speaks {
            Speaks::Unknown(_) => Some(self.first_bytes_due),
            Speaks::Grpc(grpc) => grpc.server.next_timeout(),
            Speaks::Http(http) => http.next_timeout(),
        }
    }

    /// Lets what waited too long have its consequence.
    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.speaks {
            Speaks::Unknown(_) => self.dead |= now >= self.first_bytes_due,
            Speaks::Grpc(grpc) => grpc.server.handle_timeout(now),
            Speaks::Http(http) => http.handle_timeout(now),
        }
        self.wake();
    }

    /// Starts a graceful end.
    pub fn shutdown(&mut self) {
        match &mut self.speaks {
            Speaks::Unknown(_) => self.dead = true,
            Speaks::Grpc(grpc) => grpc.server.shutdown(),
            Speaks::Http(_) => self.dead = self.out.is_empty(),
        }
        self.wake();
    }

    /// Decides the protocol with the bytes so far; gives back those that belong to it.
    fn decide(&mut self, core: &ClientCore, bytes: &[u8]) -> Option<Vec<u8>> {
        let Speaks::Unknown(seen) = &mut self.speaks else { return None };
        seen.extend_from_slice(bytes);
        let protocol = match self.transport.tls().map(|tls| tls.alpn()) {
            Some(Alpn::H2) => Protocol::Http2,
            Some(Alpn::Http1) => Protocol::Http1,
            Some(Alpn::None) | None => net::sniff(seen),
        };
        // Under TLS a browser or curl chooses HTTP/2 for the pages, too.
        let tls = self.transport.tls().is_some();
        let speaks = match (protocol, self.serves) {
            (Protocol::Undecided, _) => return None,
            (Protocol::Http1, Serves::Grpc) => {
                self.dead = true; // as grpc-go, to which these are no HTTP/2
                return None;
            }
            (Protocol::Http2, Serves::All | Serves::Grpc) => {
                let mut grpc = core.new_grpc();
                if tls && self.serves == Serves::All {
                    grpc.server.serve_plain_http();
                }
                Speaks::Grpc(Box::new(grpc))
            }
            (Protocol::Http2, Serves::Pages | Serves::Metrics) if tls => {
                let mut grpc = core.new_grpc();
                grpc.server.serve_only_plain_http();
                Speaks::Grpc(Box::new(grpc))
            }
            (Protocol::Http1 | Protocol::Http2, _) => Speaks::Http(Box::new(core.new_http())),
        };
        match std::mem::replace(&mut self.speaks, speaks) {
            Speaks::Unknown(seen) => Some(seen),
            _ => None,
        }
    }

    fn handle_bytes(&mut self, core: &ClientCore, bytes: &[u8]) {
        let decided;
        let bytes = if matches!(self.speaks, Speaks::Unknown(_)) {
            match self.decide(core, bytes) {
                Some(seen) => {
                    decided = seen;
                    &decided[..]
                }
                None => return,
            }
        } else {
            bytes
        };
        match &mut self.speaks {
            Speaks::Unknown(_) => {}
            Speaks::Grpc(grpc) => grpc.server.handle_bytes(now(), bytes),
            Speaks::Http(http) => http.handle_bytes(now(), bytes),
        }
    }

    fn handle_events(&mut self, core: &Rc<ClientCore>) {
        let listener = PageListener { serves: self.serves, tls: self.transport.tls().is_some() };
        match &mut self.speaks {
            Speaks::Unknown(_) => {}
            Speaks::Grpc(grpc) => {
                while let Some(event) = grpc.server.poll_event() {
                    core.handle_event(self.id, grpc, event);
                }
                while let Some((call, request)) = grpc.server.poll_http() {
                    let page = core.page(&request, listener);
                    grpc.server.respond_http(call, page.status, page.content_type, &page.headers, &page.body);
                }
            }
            Speaks::Http(http) => {
                while let Some(request) = http.poll_request() {
                    let page = core.page(&request, listener);
                    http.respond(page.status, page.content_type, &page.headers, &page.body);
                }
            }
        }
    }

    /// Output goes into the core's buffer, which is warm in the cache from the connection before.
    fn gather_output(&mut self, core: &ClientCore) {
        if !self.out.is_empty() {
            return;
        }
        std::mem::swap(&mut self.out, &mut core.output.borrow_mut());
        match &mut self.speaks {
            Speaks::Unknown(_) => {}
            Speaks::Grpc(grpc) => {
                grpc.server.poll_transmit(now(), &mut self.out, OUTPUT_BYTES, &mut grpc.calls);
            }
            Speaks::Http(http) => http.poll_transmit(&mut self.out),
        }
    }

    /// Writes what was gathered. The buffer goes back to the core, unless the socket is full: then what is left stays in it.
    fn write(&mut self, core: &ClientCore, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.transport.poll_write(cx, &mut self.out, &mut self.sent);
        if self.out.is_empty() {
            let emptied = std::mem::take(&mut self.out);
            let mut output = core.output.borrow_mut();
            if emptied.capacity() > output.capacity() {
                *output = emptied;
            }
        }
        polled
    }

    fn wants_read(&self) -> bool {
        !self.peer_closed
            && match &self.speaks {
                Speaks::Unknown(_) => true,
                Speaks::Grpc(grpc) => grpc.server.wants_read(),
                Speaks::Http(http) => http.wants_read(),
            }
    }

    fn is_finished(&self) -> bool {
        let machine = match &self.speaks {
            Speaks::Unknown(_) => false,
            Speaks::Grpc(grpc) => grpc.server.is_finished(),
            Speaks::Http(http) => http.is_finished(),
        };
        self.dead || self.peer_closed || machine
    }

    /// Writes what there is, reads what there is, once.
    fn round(&mut self, core: &Rc<ClientCore>, cx: &mut Context<'_>) -> io::Result<Round> {
        if self.dead {
            return Ok(Round::End); // also one whose peer takes nothing
        }
        let mut progress = false;
        self.handle_events(core); // back-pressure may have held some back
        self.gather_output(core);
        let waiting = self.out.len() - self.sent;
        let written = match self.write(core, cx) {
            Poll::Ready(result) => {
                result?;
                true
            }
            Poll::Pending => false,
        };
        core.shared.metrics.client_sent(waiting - (self.out.len() - self.sent));
        if written && self.is_finished() {
            self.gather_output(core);
            if self.out.is_empty() {
                return Ok(Round::End);
            }
            progress = true;
        }
        if self.wants_read() && self.out.len() - self.sent < OUTPUT_BYTES && !self.is_held_back(core) {
            progress |= self.read(core, cx)?;
        }
        if written && self.has_output() {
            return Ok(Round::More);
        }
        Ok(if progress { Round::Progress } else { Round::Idle })
    }

    /// Nothing is read from it, because all connections hold too much and it more than its share.
    fn is_held_back(&mut self, core: &ClientCore) -> bool {
        let shared = &core.shared;
        if !shared.connections_hold_too_much() {
            return false;
        }
        self.account(shared); // it may have read much in this turn already
        let held_back = self.accounted > shared.connection_bytes_share().min(CONNECTION_BYTES_SMALL);
        if held_back {
            core.holds_back.set(true);
        }
        held_back
    }

    fn has_output(&self) -> bool {
        match &self.speaks {
            Speaks::Unknown(_) => false,
            Speaks::Grpc(grpc) => grpc.server.has_output(),
            Speaks::Http(_) => false,
        }
    }

    fn read(&mut self, core: &Rc<ClientCore>, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut buffers = core.read_buffers.borrow_mut();
        match self.transport.poll_read(cx, &mut buffers) {
            Poll::Pending => Ok(false),
            Poll::Ready(received) => {
                match received? {
                    Received::End => self.peer_closed = true,
                    Received::Bytes(bytes) => {
                        core.shared.metrics.client_received(bytes.len());
                        self.handle_bytes(core, bytes);
                    }
                }
                drop(buffers);
                self.handle_events(core);
                Ok(true)
            }
        }
    }
}

/// The connection's task: runs until either side ends it.
pub fn poll_connection(
    connection: &Rc<RefCell<Connection>>,
    core: &Rc<ClientCore>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let mut connection = connection.borrow_mut();
    connection.waker = Some(cx.waker().clone());
    for _ in 0..ROUNDS_PER_TURN {
        match connection.round(core, cx) {
            Ok(Round::Progress) => {}
            Ok(Round::More) => {
                core.turnstile.wait(&connection.ticket, cx.waker());
                return Poll::Pending;
            }
            Ok(Round::Idle) => {
                connection.transport.release_memory();
                return Poll::Pending;
            }
            Ok(Round::End) => return Poll::Ready(()),
            Err(error) => {
                let peer = connection.peer;
                tracing::debug!(?peer, %error, "client connection lost");
                // A TLS alert may still tell the peer why; whether it arrives is of no consequence.
                connection.transport.close();
                let connection = &mut *connection;
                connection.out.clear();
                connection.sent = 0;
                let _ = connection.transport.poll_write(cx, &mut connection.out, &mut connection.sent);
                return Poll::Ready(());
            }
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}
