//! Who the peers are, and what becomes of what their connections tell.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use consensus::peer::Frame;
use consensus::{Lane, Message, NodeId, PeerMessage};
use glommio::task::JoinHandle;
use node::membership::Member;
use node::peer::pages::{self, Page};
use node::peer::{self, Accepted, Dropped, Forwards, Hello, Refusal};

use super::super::clock::now;
use super::conn::{Buffers, Conn, Conns, Handle, HeartbeatDue};
use super::dial::{keep_dialed, lane_config};
use super::origin::NameChecks;
use super::queues::Queues;
use super::rejections::Rejections;
use super::snapshot_in::Receiver;
use super::snapshot_out::{self, Transfer};
use super::{Incoming, Settings, SnapshotSource};
use crate::config::limits::{PEER_REMOTES_MAX, PROPOSALS_IN_FLIGHT_BYTES_MAX};
use crate::observe::metrics::peers::{self, PeerCells};

/// State behind [`super::Peers`].
pub(super) struct Inner {
    pub settings: Settings,
    pub queues: Rc<Queues>,
    pub receiver: Rc<Receiver>,
    pub peers: RefCell<BTreeMap<NodeId, Rc<Peer>>>,
    /// All connections, standing or not.
    pub conns: RefCell<Conns>,
    pub acceptors: RefCell<Vec<JoinHandle<()>>>,
    pub cluster_version: RefCell<Option<String>>,
    pub read_buffers: Buffers,
    /// Heartbeats that are sent now were due then.
    pub heartbeats_due: Cell<Option<HeartbeatDue>>,
    pub rejections: Rejections,
    pub name_checks: NameChecks,
    members: RefCell<Vec<Member>>,
    removed: RefCell<BTreeSet<NodeId>>,
    /// The newest accepted connection of each sender and lane.
    accepted: RefCell<BTreeMap<(NodeId, Lane), Rc<Handle>>>,
    conn_count: Cell<u64>,
    transfer_count: Cell<u64>,
    removed_told: Cell<bool>,
}

/// Another member, or one that says so and that this member has not heard of yet (etcd calls those remotes).
pub(super) struct Peer {
    pub node: NodeId,
    pub urls: RefCell<Vec<String>>,
    pub gone: Cell<bool>,
    pub active_since: Cell<Option<Duration>>,
    pub cells: &'static PeerCells,
    /// As it said when a standing lane to it was opened; forgotten when one of them breaks.
    pub server_version: RefCell<Option<String>>,
    /// It belongs to the members.
    is_member: Cell<bool>,
    /// Proposals on their way there.
    pub forwards: RefCell<Forwards>,
    /// The snapshot on its way there.
    snapshot: RefCell<Option<Rc<Transfer>>>,
    lanes: [StandingLane; 2],
}

/// A lane that is always to be up.
#[derive(Default)]
pub(super) struct StandingLane {
    pub conn: RefCell<Option<Rc<RefCell<Conn>>>>,
    open: Cell<bool>,
    /// The owner knows that messages are being dropped.
    told: Cell<bool>,
    /// What was logged last.
    failure: RefCell<String>,
}

impl StandingLane {
    /// Why it could not be brought up the last time; empty if it was.
    #[cfg(test)]
    pub fn last_failure(&self) -> String {
        self.failure.borrow().clone()
    }
}

impl Peer {
    /// A standing lane.
    pub fn lane(&self, lane: Lane) -> &StandingLane {
        match lane {
            Lane::Vital => &self.lanes[0],
            Lane::Bulk | Lane::Snapshot => &self.lanes[1],
        }
    }

    fn end(&self) {
        self.gone.set(true);
        self.cells.known.set(0);
        self.cells.active.set(0);
        if let Some(transfer) = self.snapshot.take() {
            transfer.cancel();
        }
        for lane in &self.lanes {
            if let Some(conn) = &*lane.conn.borrow() {
                conn.borrow().handle.kill();
            }
        }
    }
}

impl Inner {
    pub fn new(settings: Settings) -> Inner {
        Inner {
            settings,
            queues: Rc::default(),
            receiver: Rc::default(),
            peers: RefCell::default(),
            conns: RefCell::default(),
            acceptors: RefCell::default(),
            cluster_version: RefCell::default(),
            read_buffers: Buffers::default(),
            heartbeats_due: Cell::new(None),
            rejections: Rejections::default(),
            name_checks: NameChecks::default(),
            members: RefCell::default(),
            removed: RefCell::default(),
            accepted: RefCell::default(),
            conn_count: Cell::new(0),
            transfer_count: Cell::new(0),
            removed_told: Cell::new(false),
        }
    }

    /// This member.
    pub fn me(&self) -> NodeId {
        NodeId(self.settings.identity.member_id)
    }

    pub fn add_conn(&self, conn: Rc<RefCell<Conn>>) -> u64 {
        let number = self.conn_count.get();
        self.conn_count.set(number + 1);
        self.conns.borrow_mut().insert(number, conn);
        number
    }

    pub fn new_accepted(&self) -> Accepted {
        let identity = self.settings.identity;
        let config = lane_config(&self.settings, Lane::Snapshot);
        Accepted::new((identity.cluster_id, self.me()), self.settings.server_version, config, now())
    }

    pub fn cluster_id_text(&self) -> String {
        format!("{:x}", self.settings.identity.cluster_id)
    }

    pub fn page(&self, method: &str, path: &str) -> Page {
        let version = self.cluster_version.borrow();
        pages::page(method, path, &self.members.borrow(), version.as_deref())
    }

    // Members.

    pub fn set_members(self: &Rc<Inner>, members: &[Member], removed: &[NodeId]) {
        *self.members.borrow_mut() = members.to_vec();
        self.removed.borrow_mut().extend(removed);
        let known: BTreeMap<NodeId, &Member> =
            members.iter().map(|member| (NodeId(member.id), member)).collect();
        let mut gone = Vec::new();
        for (node, peer) in &*self.peers.borrow() {
            let lost = peer.is_member.get() && !known.contains_key(node);
            if lost || self.removed.borrow().contains(node) {
                gone.push(*node);
            }
        }
        for node in gone {
            self.removed.borrow_mut().insert(node);
            if let Some(peer) = self.peers.borrow_mut().remove(&node) {
                peer.end();
            }
            self.accepted
                .borrow()
                .iter()
                .filter(|((from, _), _)| *from == node)
                .for_each(|(_, conn)| conn.kill());
        }
        for (node, member) in known {
            if node != self.me() && !self.removed.borrow().contains(&node) {
                self.add_peer(node, &member.peer_urls, true);
            }
        }
    }

    /// Begins to dial a peer, or learns its URLs.
    fn add_peer(self: &Rc<Inner>, node: NodeId, urls: &[String], is_member: bool) {
        if let Some(peer) = self.peers.borrow().get(&node) {
            if is_member || !peer.is_member.get() {
                *peer.urls.borrow_mut() = urls.to_vec();
            }
            peer.is_member.set(peer.is_member.get() || is_member);
            peer.cells.known.set(i64::from(peer.is_member.get()));
            return;
        }
        let peer = Rc::new(Peer {
            node,
            urls: RefCell::new(urls.to_vec()),
            gone: Cell::new(false),
            active_since: Cell::new(None),
            cells: peers::peer(node.0),
            server_version: RefCell::default(),
            is_member: Cell::new(is_member),
            forwards: RefCell::new(Forwards::new(PROPOSALS_IN_FLIGHT_BYTES_MAX)),
            snapshot: RefCell::default(),
            lanes: Default::default(),
        });
        peer.cells.known.set(i64::from(is_member));
        self.peers.borrow_mut().insert(node, peer.clone());
        for lane in [Lane::Vital, Lane::Bulk] {
            glommio::spawn_local(keep_dialed(self.clone(), peer.clone(), lane)).detach();
        }
    }

    /// Whether a connection is let in. Its ids have been compared with ours.
    ///
    /// A sender that is no member yet is let in: it may lead, and the entry that made it a member may be among those that it
    /// is about to send. It is answered at the URLs that it names.
    ///
    /// One that was removed is told so, and stops for good. Not by a learner: if nobody else knows of it yet, those who vote
    /// may still need the vote of the one that has led them.
    pub fn judge(self: &Rc<Inner>, hello: &Hello, handle: &Rc<Handle>) -> Result<(), Refusal> {
        if self.removed.borrow().contains(&hello.from) {
            if self.is_learner() {
                return Err(Refusal::Busy);
            }
            tracing::warn!(peer = format!("{:x}", hello.from.0), "refused a connection of a removed member");
            return Err(Refusal::Removed);
        }
        if !self.peers.borrow().contains_key(&hello.from) {
            let remotes = self.peers.borrow().values().filter(|peer| !peer.is_member.get()).count();
            if remotes >= PEER_REMOTES_MAX {
                return Err(Refusal::Busy);
            }
            self.add_peer(hello.from, &hello.peer_urls, false);
        }
        let before = self.accepted.borrow_mut().insert((hello.from, hello.lane), handle.clone());
        if let Some(before) = before {
            before.kill();
        }
        Ok(())
    }

    fn is_learner(&self) -> bool {
        let me = self.me().0;
        self.members.borrow().iter().any(|member| member.id == me && member.is_learner)
    }

    // What lanes tell.

    pub fn lane_opened(&self, node: NodeId, lane: Lane, server_version: Option<String>) {
        let Some(peer) = self.peers.borrow().get(&node).cloned() else { return };
        *peer.server_version.borrow_mut() = server_version;
        let standing = peer.lane(lane);
        standing.open.set(true);
        standing.told.set(false);
        standing.failure.borrow_mut().clear();
        if lane == Lane::Bulk {
            peer.forwards.borrow_mut().start_over();
        }
        if peer.lanes.iter().all(|lane| lane.open.get()) {
            peer.active_since.set(Some(now()));
            peer.cells.active.set(1);
            self.queues.push(Incoming::Reachable(node));
            tracing::info!(peer = format!("{:x}", node.0), "connected to a peer");
        }
    }

    pub fn lane_refused(&self, node: NodeId, lane: Lane, refusal: Refusal) {
        if refusal == Refusal::Removed && !self.removed_told.replace(true) {
            tracing::error!(
                by = format!("{:x}", node.0),
                "the member has been permanently removed from the cluster"
            );
            self.queues.push(Incoming::Removed);
        }
        tracing::debug!(peer = format!("{:x}", node.0), ?lane, %refusal, "refused by a peer");
    }

    /// A standing lane is down, or could not be brought up.
    pub fn lane_failed(&self, peer: &Peer, lane: Lane, reason: &str) {
        let standing = peer.lane(lane);
        let was_open = standing.open.replace(false);
        peer.active_since.set(None);
        peer.cells.active.set(0);
        if was_open {
            peer.server_version.take();
            peer.cells.disconnected.inc();
            self.tell_unreachable(peer, standing);
        }
        // Once per reason, not once per attempt.
        if !peer.gone.get() && *standing.failure.borrow() != reason {
            tracing::warn!(peer = format!("{:x}", peer.node.0), ?lane, reason, "no connection to a peer");
            *standing.failure.borrow_mut() = reason.to_owned();
        }
    }

    fn tell_unreachable(&self, peer: &Peer, standing: &StandingLane) {
        if !standing.told.replace(true) {
            self.queues.push(Incoming::Unreachable(peer.node));
        }
    }

    pub fn send(&self, to: NodeId, message: &PeerMessage) {
        let peers = self.peers.borrow();
        let Some(peer) = peers.get(&to) else { return };
        let lane = message.lane();
        if lane == Lane::Snapshot {
            return self.queues.push(Incoming::SnapshotSent(to, false));
        }
        let standing = peer.lane(lane);
        let sent = match message {
            PeerMessage::Forward(forward) => {
                peer.forwards.borrow_mut().push(now(), forward);
                self.send_kept(peer)
            }
            message => self.send_on(standing, message),
        };
        match sent {
            Ok(()) => standing.told.set(false),
            Err(_) => {
                peer.cells.sent_failures.inc();
                self.tell_unreachable(peer, standing);
            }
        }
    }

    /// Sends what could not be sent when it was forwarded.
    pub fn send_forwards(&self) {
        for peer in self.peers.borrow().values() {
            let _ = self.send_kept(peer); // it stays
        }
    }

    fn send_kept(&self, peer: &Peer) -> Result<(), Dropped> {
        peer.forwards.borrow_mut().send(|message| self.send_on(peer.lane(Lane::Bulk), message))
    }

    fn send_on(&self, standing: &StandingLane, message: &PeerMessage) -> Result<(), Dropped> {
        let conn = standing.conn.borrow();
        let Some(conn) = &*conn else { return Err(Dropped::NotOpen) };
        let mut conn = conn.borrow_mut();
        let sent = conn.as_dialed().map_or(Err(Dropped::NotOpen), |dialed| dialed.send(message));
        if let Some(due) = self.heartbeats_due.get()
            && sent.is_ok()
            && message.is_heartbeat()
        {
            conn.handle.heartbeat(due);
        }
        conn.handle.wake();
        sent
    }

    /// A frame that an accepted connection has brought.
    ///
    /// # Errors
    /// It must not be there; the connection ends.
    pub fn handle_frame(
        &self,
        from: NodeId,
        lane: Lane,
        frame: &Frame,
        conn: &Rc<Handle>,
    ) -> Result<(), &'static str> {
        if lane == Lane::Snapshot {
            let ids = (from, self.me());
            return self.receiver.handle_frame(&self.settings.data_dir, ids, frame, conn);
        }
        let message = peer::message(frame, lane, (from, self.me()))?;
        self.queues.push_message(from, lane, message, frame.payload.len(), conn);
        Ok(())
    }

    // Snapshots.

    /// A name for a transfer, unlike those of an earlier process.
    pub fn next_transfer(&self) -> u64 {
        self.transfer_count.set(self.transfer_count.get() + 1);
        self.settings.seed.wrapping_add(self.transfer_count.get())
    }

    pub fn send_snapshot(self: &Rc<Inner>, to: NodeId, message: Message, source: Box<dyn SnapshotSource>) {
        let Some(peer) = self.peers.borrow().get(&to).cloned() else {
            return self.queues.push(Incoming::SnapshotSent(to, false));
        };
        let transfer = Rc::new(Transfer::default());
        if let Some(before) = peer.snapshot.replace(Some(transfer.clone())) {
            before.cancel();
        }
        let sending = snapshot_out::send(self.clone(), peer, transfer, message, source);
        glommio::spawn_local(sending).detach();
    }

    pub fn cancel_snapshot(&self, to: NodeId) {
        if let Some(transfer) = self.peers.borrow().get(&to).and_then(|peer| peer.snapshot.take()) {
            transfer.cancel();
        }
    }

    pub fn shutdown(&self) {
        for acceptor in self.acceptors.take() {
            acceptor.cancel();
        }
        for peer in self.peers.take().into_values() {
            peer.end();
        }
        for conn in self.conns.borrow().values() {
            conn.borrow().handle.kill();
        }
    }
}
