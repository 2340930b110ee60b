//! One connection with a peer, dialed or accepted: its machine and the poll loop that moves its bytes.
//!
//! The same shape as a client's connection ([`super::super::connection`]): one task waits for the socket readable, the
//! socket writable and something to send, all at once. What has been heard goes into the queues of [`Inner`]; while the
//! owner has not taken more than a connection's share of it, the socket is not read, and TCP slows the peer down.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use consensus::{Lane, NodeId};
use net::tls::{Alpn, Fit};
use net::{Protocol, http1};
use node::peer::snapshot::SnapshotFrame;
use node::peer::{Accepted, AcceptedEvent, Dialed, DialedEvent};

use super::super::clock::now;
use super::super::transport::{ReadBuffers, Received, Transport, release};
use super::Inner;
use super::origin;
use super::snapshot_out::Link;
use crate::config::limits::{PEER_BACKLOG_BYTES_MAX, PEER_OUTPUT_BYTES_MAX};
use crate::observe::metrics;
use crate::observe::metrics::peers::{self, PeerCells};

/// A new connection must have said which protocol it speaks (and finished its TLS handshake) by then.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);

/// Rounds of read and write before the task lets others run.
const ROUNDS_PER_TURN: usize = 4;

/// A request body on the peer port: nothing that is served has one.
const REQUEST_BODY_BYTES_MAX: usize = 64 << 10;

/// What others may do to a connection while its task has it.
#[derive(Default)]
pub(super) struct Handle {
    dead: Cell<bool>,
    /// Bytes of messages heard by it that the owner hasn't taken.
    backlog: Cell<usize>,
    /// The task has ended.
    closed: Cell<bool>,
    /// Heartbeats in its output. As many as fit into a vital lane.
    heartbeats: RefCell<Vec<HeartbeatDue>>,
    /// What the name servers say of its certificate, once they have.
    vouched: Cell<Option<bool>>,
    /// Answers on the snapshot lane. At most one for each frame that was taken.
    answers: RefCell<VecDeque<SnapshotFrame>>,
    waker: RefCell<Option<Waker>>,
}

impl Handle {
    /// Ends the connection.
    pub fn kill(&self) {
        self.dead.set(true);
        self.wake();
    }

    /// Lets its task run.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Nothing is sent or heard any more.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// The task has ended. Heartbeats that never left are late by the time that they have waited.
    pub fn close(&self) {
        self.closed.set(true);
        self.heartbeats_sent();
    }

    /// A heartbeat was put into the output.
    pub fn heartbeat(&self, due: HeartbeatDue) {
        self.heartbeats.borrow_mut().push(due);
    }

    /// The socket has taken all output.
    fn heartbeats_sent(&self) {
        let mut sent = self.heartbeats.borrow_mut();
        if !sent.is_empty() {
            let now = now();
            sent.drain(..).for_each(|due| due.count_sent(now));
        }
    }

    /// Sends an answer on the snapshot lane.
    pub fn answer(&self, frame: SnapshotFrame) {
        if !self.closed.get() {
            self.answers.borrow_mut().push_back(frame);
            self.wake();
        }
    }

    /// Its certificate may come from its address, or may not.
    pub fn vouch(&self, fits: bool) {
        self.vouched.set(Some(fits));
        self.wake();
    }

    /// `bytes` were heard.
    pub fn heard(&self, bytes: usize) {
        self.backlog.set(self.backlog.get() + bytes);
    }

    /// `bytes` were taken by the owner.
    pub fn taken(&self, bytes: usize) {
        let before = self.backlog.get();
        self.backlog.set(before - bytes);
        if before > PEER_BACKLOG_BYTES_MAX && self.backlog.get() <= PEER_BACKLOG_BYTES_MAX {
            self.wake();
        }
    }
}

/// When a heartbeat was due. One that comes after others were left out stands for those, too: each was due in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatDue {
    /// The first.
    pub first: Duration,
    /// From one to the next.
    pub interval: Duration,
    /// How many; at least one.
    pub count: u32,
}

impl HeartbeatDue {
    fn count_sent(self, now: Duration) {
        for number in 0..self.count {
            let late = now.saturating_sub(self.first + self.interval * number);
            metrics::here().plain.heartbeat_lateness.observe_duration(late);
        }
    }
}

/// What a connection speaks.
pub(super) enum Machine {
    /// Too few bytes to tell; here they are.
    Unknown(Vec<u8>),
    Http(Box<http1::Connection>),
    Accepted(Box<Accepted>),
    Dialed(Box<Dialed>),
}

/// Whether an accepted connection's certificate may come from the address that it comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Unchecked,
    /// A thread asks the name servers.
    Asked,
    Good,
}

/// A connection.
pub(super) struct Conn {
    pub handle: Rc<Handle>,
    pub machine: Machine,
    /// Who is at the other end, on which lane, once that is known.
    pub peer: Option<(NodeId, Lane)>,
    /// Who is told what the peer says, instead of the owner: a transfer.
    pub link: Option<Rc<Link>>,
    /// Counts what goes to the peer, or comes from it.
    pub cells: Option<&'static PeerCells>,
    transport: Transport,
    origin: Origin,
    out: Vec<u8>,
    sent: usize,
    first_bytes_due: Option<Duration>,
    peer_closed: bool,
    /// Why it ended.
    pub reason: Cow<'static, str>,
}

/// All connections, by a number that is never used again.
pub(super) type Conns = BTreeMap<u64, Rc<RefCell<Conn>>>;

/// What one attempt to make progress came to.
#[derive(PartialEq, Eq)]
enum Round {
    Progress,
    Idle,
    End,
}

impl Conn {
    /// A connection to a peer that was dialed.
    pub fn dialed(transport: Transport, dialed: Dialed) -> Conn {
        let peer = Some((dialed.hello().to, dialed.hello().lane));
        let cells = Some(peers::peer(dialed.hello().to.0));
        Conn { peer, cells, ..Conn::new(transport, Machine::Dialed(Box::new(dialed)), None) }
    }

    /// A connection that somebody has made to us.
    pub fn accepted(transport: Transport) -> Conn {
        Conn::new(transport, Machine::Unknown(Vec::new()), Some(now() + FIRST_BYTES_DEADLINE))
    }

    fn new(transport: Transport, machine: Machine, first_bytes_due: Option<Duration>) -> Conn {
        Conn {
            handle: Rc::default(),
            machine,
            peer: None,
            link: None,
            cells: None,
            transport,
            origin: Origin::Unchecked,
            out: Vec::new(),
            sent: 0,
            first_bytes_due,
            peer_closed: false,
            reason: Cow::Borrowed("the connection was lost"),
        }
    }

    /// The dialing end, if it is one.
    pub fn as_dialed(&mut self) -> Option<&mut Dialed> {
        match &mut self.machine {
            Machine::Dialed(dialed) => Some(dialed),
            _ => None,
        }
    }

    /// The accepting end, if it is one.
    pub fn as_accepted(&mut self) -> Option<&mut Accepted> {
        match &mut self.machine {
            Machine::Accepted(accepted) => Some(accepted),
            _ => None,
        }
    }

    /// Lets what waited too long have its consequence.
    pub fn tick(&mut self, now: Duration) {
        let due = match &self.machine {
            Machine::Unknown(_) => self.first_bytes_due,
            Machine::Http(http) => http.next_timeout(),
            Machine::Accepted(accepted) => accepted.next_timeout(),
            Machine::Dialed(dialed) => dialed.next_timeout(),
        };
        if due.is_none_or(|due| now < due) {
            return;
        }
        match &mut self.machine {
            Machine::Unknown(_) => self.handle.dead.set(true),
            Machine::Http(http) => http.handle_timeout(now),
            Machine::Accepted(accepted) => accepted.handle_timeout(now),
            Machine::Dialed(dialed) => dialed.handle_timeout(now),
        }
        self.handle.wake();
    }

    /// Decides the protocol with the bytes so far; gives back those that belong to it.
    fn decide(&mut self, inner: &Inner, bytes: &[u8]) -> Option<Vec<u8>> {
        let Machine::Unknown(seen) = &mut self.machine else { return None };
        seen.extend_from_slice(bytes);
        if !self.is_origin_good(inner) {
            return None;
        }
        let Machine::Unknown(seen) = &mut self.machine else { return None };
        let protocol = match self.transport.tls().map(|tls| tls.alpn()) {
            Some(Alpn::H2) => Protocol::Http2,
            Some(Alpn::Http1) => Protocol::Http1,
            Some(Alpn::None) | None => net::sniff(seen),
        };
        let machine = match protocol {
            Protocol::Undecided => return None,
            Protocol::Http2 => Machine::Accepted(Box::new(inner.new_accepted())),
            Protocol::Http1 => Machine::Http(Box::new(http1::Connection::new(REQUEST_BODY_BYTES_MAX, now()))),
        };
        match std::mem::replace(&mut self.machine, machine) {
            Machine::Unknown(seen) => Some(seen),
            _ => None,
        }
    }

    /// Nobody is spoken to before the TLS handshake is complete and the certificate fits the address.
    fn is_origin_good(&mut self, inner: &Inner) -> bool {
        if self.origin == Origin::Unchecked && self.transport.tls().is_none_or(|tls| !tls.is_handshaking()) {
            self.origin = match origin::check(inner, &self.transport, &self.handle) {
                Fit::Yes => Origin::Good,
                Fit::Ask => Origin::Asked,
                Fit::No => return false,
            };
        }
        if self.origin == Origin::Asked && self.handle.vouched.get() == Some(true) {
            self.origin = Origin::Good;
        }
        self.origin == Origin::Good
    }

    fn handle_bytes(&mut self, inner: &Inner, bytes: &[u8]) {
        let decided;
        let bytes = if matches!(self.machine, Machine::Unknown(_)) {
            match self.decide(inner, bytes) {
                Some(seen) => {
                    decided = seen;
                    &decided[..]
                }
                None => return,
            }
        } else {
            bytes
        };
        match &mut self.machine {
            Machine::Unknown(_) => {}
            Machine::Http(http) => http.handle_bytes(now(), bytes),
            Machine::Accepted(accepted) => accepted.handle_bytes(now(), bytes),
            Machine::Dialed(dialed) => dialed.handle_bytes(now(), bytes),
        }
        self.count_received(bytes.len());
    }

    fn count_received(&mut self, bytes: usize) {
        let Some(cells) = self.cells else { return };
        cells.received_bytes.add(bytes as u64);
        if let Some(took) = self.as_dialed().and_then(Dialed::take_round_trip) {
            cells.round_trip.observe_duration(took);
        }
    }

    /// What a peer sends was lost.
    fn receive_failed(&self) {
        if let (Some(cells), Machine::Accepted(_)) = (self.cells, &self.machine) {
            cells.received_failures.inc();
        }
    }

    fn handle_events(&mut self, inner: &Rc<Inner>) {
        match &mut self.machine {
            Machine::Unknown(_) => {}
            Machine::Http(http) => {
                while let Some(request) = http.poll_request() {
                    let method = match &request.method {
                        http1::HttpMethod::Get => "GET",
                        _ => "other",
                    };
                    let page = inner.page(method, &request.path);
                    let cluster = inner.cluster_id_text();
                    http.respond(
                        page.status,
                        page.content_type,
                        &[("X-Etcd-Cluster-ID", &cluster)],
                        &page.body,
                    );
                }
            }
            Machine::Accepted(_) => {
                while let Some(event) = self.as_accepted().and_then(Accepted::poll_event) {
                    self.handle_accepted(inner, event);
                }
            }
            Machine::Dialed(_) => {
                while let Some(event) = self.as_dialed().and_then(Dialed::poll_event) {
                    self.handle_dialed(inner, event);
                }
            }
        }
    }

    fn handle_accepted(&mut self, inner: &Rc<Inner>, event: AcceptedEvent) {
        match event {
            AcceptedEvent::Hello(hello) => {
                let verdict = inner.judge(&hello, &self.handle);
                if verdict.is_ok() {
                    self.peer = Some((hello.from, hello.lane));
                    self.cells = Some(peers::peer(hello.from.0));
                }
                if let Some(accepted) = self.as_accepted() {
                    accepted.accept(hello.lane, verdict);
                }
            }
            AcceptedEvent::Frame(frame) => {
                let Some((from, lane)) = self.peer else { return };
                if let Err(reason) = inner.handle_frame(from, lane, &frame, &self.handle) {
                    self.reason = reason.into();
                    self.handle.dead.set(true);
                    self.receive_failed();
                }
            }
            AcceptedEvent::Page(key, method, path) => {
                let page = inner.page(&method, &path);
                if let Some(accepted) = self.as_accepted() {
                    accepted.respond(key, &page);
                }
            }
            AcceptedEvent::Closed(reason) => self.reason = reason.into(),
        }
    }

    fn handle_dialed(&mut self, inner: &Rc<Inner>, event: DialedEvent) {
        let Some((peer, lane)) = self.peer else { return };
        if let Some(link) = &self.link {
            link.push(event.clone());
        }
        match event {
            DialedEvent::Open if self.link.is_some() => {}
            DialedEvent::Open => {
                let version = self.as_dialed().and_then(|dialed| dialed.server_version().map(str::to_owned));
                inner.lane_opened(peer, lane, version);
            }
            DialedEvent::Refused(refusal) => {
                inner.lane_refused(peer, lane, refusal);
                self.reason = refusal.answer().1.into();
                self.handle.dead.set(true);
            }
            DialedEvent::Frame(_) => {} // only a transfer is answered, and it has its link
            DialedEvent::Closed(reason) => self.reason = reason.into(),
        }
    }

    fn gather_output(&mut self) {
        if !self.out.is_empty() {
            return;
        }
        match &mut self.machine {
            Machine::Unknown(_) => {}
            Machine::Http(http) => http.poll_transmit(&mut self.out),
            Machine::Accepted(accepted) => {
                for frame in self.handle.answers.take() {
                    // Answers are short; a peer that takes none of them is not read either.
                    let _ = accepted.send_frame(frame.size(), |out| frame.encode(out));
                }
                accepted.poll_transmit(now(), &mut self.out, PEER_OUTPUT_BYTES_MAX);
            }
            Machine::Dialed(dialed) => {
                dialed.poll_transmit(now(), &mut self.out, PEER_OUTPUT_BYTES_MAX);
            }
        }
        if let Some(cells) = self.cells {
            cells.sent_bytes.add(self.out.len() as u64);
        }
    }

    fn has_output(&self) -> bool {
        match &self.machine {
            Machine::Unknown(_) => false,
            Machine::Http(http) => http.has_output(),
            Machine::Accepted(accepted) => accepted.has_output(),
            Machine::Dialed(dialed) => dialed.has_output(),
        }
    }

    fn wants_read(&self) -> bool {
        !self.peer_closed
            && self.origin != Origin::Asked
            && self.handle.backlog.get() <= PEER_BACKLOG_BYTES_MAX
            && match &self.machine {
                Machine::Http(http) => http.wants_read(),
                Machine::Accepted(accepted) => accepted.wants_read(),
                Machine::Unknown(_) | Machine::Dialed(_) => true,
            }
    }

    fn is_finished(&self) -> bool {
        self.peer_closed
            || match &self.machine {
                Machine::Unknown(_) => false,
                Machine::Http(http) => http.is_finished(),
                Machine::Accepted(accepted) => accepted.is_finished(),
                Machine::Dialed(dialed) => dialed.is_finished(),
            }
    }

    /// Writes what there is, reads what there is, once.
    fn round(&mut self, inner: &Rc<Inner>, cx: &mut Context<'_>) -> io::Result<Round> {
        if self.origin == Origin::Asked && self.handle.vouched.get().is_some() {
            self.handle_bytes(inner, &[]);
        }
        self.handle_events(inner);
        self.gather_output();
        let written = match self.transport.poll_write(cx, &mut self.out, &mut self.sent) {
            Poll::Ready(result) => {
                result?;
                true
            }
            Poll::Pending => false,
        };
        if written && !self.has_output() {
            self.handle.heartbeats_sent();
        }
        if self.handle.dead.get() || written && self.is_finished() && !self.has_output() {
            return Ok(Round::End);
        }
        let mut progress = written && self.has_output();
        if self.wants_read() {
            progress |= self.read(inner, cx)?;
        }
        Ok(if progress { Round::Progress } else { Round::Idle })
    }

    /// The socket failed, or TLS did. What a handshake failed of is worth knowing at both ends.
    fn lost(&mut self, inner: &Inner, error: &io::Error) {
        tracing::debug!(peer = ?self.peer, %error, "peer connection lost");
        self.reason = error.to_string().into();
        self.receive_failed();
        if matches!(self.machine, Machine::Unknown(_)) && error.kind() == io::ErrorKind::InvalidData {
            inner.rejections.tell(self.transport.peer_addr(), &self.reason);
        }
    }

    fn read(&mut self, inner: &Rc<Inner>, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut buffers = inner.read_buffers.borrow_mut();
        match self.transport.poll_read(cx, &mut buffers) {
            Poll::Pending => Ok(false),
            Poll::Ready(received) => {
                match received? {
                    Received::End => self.peer_closed = true,
                    Received::Bytes(bytes) => self.handle_bytes(inner, bytes),
                }
                drop(buffers);
                self.handle_events(inner);
                Ok(true)
            }
        }
    }
}

/// The connection's task: runs until either side ends it.
pub(super) fn poll_conn(conn: &Rc<RefCell<Conn>>, inner: &Rc<Inner>, cx: &mut Context<'_>) -> Poll<()> {
    let mut conn = conn.borrow_mut();
    *conn.handle.waker.borrow_mut() = Some(cx.waker().clone());
    for _ in 0..ROUNDS_PER_TURN {
        match conn.round(inner, cx) {
            Ok(Round::Progress) => {}
            Ok(Round::Idle) => {
                release(&mut conn.out);
                conn.transport.release_memory();
                return Poll::Pending;
            }
            Ok(Round::End) => return Poll::Ready(()),
            Err(error) => {
                conn.lost(inner, &error);
                // A TLS alert may still tell the peer why; whether it arrives is of no consequence.
                conn.transport.close();
                let conn = &mut *conn;
                conn.out.clear();
                conn.sent = 0;
                let _ = conn.transport.poll_write(cx, &mut conn.out, &mut conn.sent);
                return Poll::Ready(());
            }
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// Buffers for reading, one set for all connections of the executor.
pub(super) type Buffers = RefCell<ReadBuffers>;
