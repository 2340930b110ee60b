//! The raft core's dealings with other members: messages, snapshots in both directions, questions between their edges.
//!
//! A snapshot on its way out is a version that the store core pinned; a thread reads it row by row. One on its way in:
//!
//! ```text
//! received (peers) ─▶ tree built beside the present one (thread) ─▶ raft's message stepped
//!   ─▶ raft takes it: the log begins anew (log core, durable) ─▶ renamed over the old tree (thread) ─▶ store core
//! ```
//!
//! Each step is durable before the next begins. A process that ends in between finds at its start either the old log
//! and throws the new tree away, or the new log and renames it (see `boot`).

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{
    Forward, Index, Input, InstallSnapshot, Lane, LogPosition, Message, Node, NodeId, Output, PeerMessage,
    ProposalId, ReadyNumber,
};
use node::cluster::version::Monitor;
use node::forward::Request;
use node::membership::Member;
use rustc_hash::FxHashMap;

use super::background::Background;
use super::behind::Behind;
use super::clock::now;
use super::failpoint::server_version;
use super::force_new;
use super::messages::{ForStore, Installation, PinnedSnapshot, ToClient, ToRaft, ToStore};
use super::peers::{self, HeartbeatDue, Incoming, Peers};
use super::ring::{Ready, Receiver, Sender, ring};
use super::shared::{PeerFigures, Shared};
use super::snapshot_files::{self, Imported};
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Messages of peers handled in one turn.
const TURN_MESSAGES: usize = 4096;

/// How long a peer has at least for building its store of a snapshot that it has, before it is looked whether it has.
/// It gets more where the snapshot was long on its way.
const INSTALL_TIME_MIN: Duration = Duration::from_secs(5);

/// Results of the snapshot thread that may wait; more than one snapshot is never being received.
const RING_SNAPSHOTS_MAX: usize = 8;

/// What the connections to peers are made of; they are opened on the raft core's own thread.
pub struct Seed {
    /// See [`Peers::start`].
    pub settings: peers::Settings,
    /// Bound peer sockets.
    pub listeners: Vec<peers::Listener>,
    /// Who belongs to the cluster as far as this member knows.
    pub members: Vec<Member>,
    /// Who was removed from it.
    pub removed: Vec<NodeId>,
    /// For the tree of a received snapshot.
    pub store: engine::Config,
    /// Where snapshots are built.
    pub background: Background,
}

/// What the snapshot thread has done.
enum Done {
    /// A received snapshot was built into a tree, or could not be.
    Imported(NodeId, Box<Message>, Result<Imported, String>),
    /// The tree has its final name.
    Renamed(ReadyNumber, Result<(), std::io::Error>),
}

/// See the module's header.
pub struct Replication {
    shared: Arc<Shared>,
    seed: Option<(peers::Settings, Vec<peers::Listener>)>,
    members: Vec<Member>,
    removed: Vec<NodeId>,
    peers: Option<Peers>,
    incoming: VecDeque<Incoming>,
    store: engine::Config,
    background: Background,
    done: Receiver<Done>,
    done_sender: Arc<Mutex<Sender<Done>>>,
    pinned: FxHashMap<NodeId, PinnedSnapshot>,
    /// Since when snapshots are on their way.
    began: FxHashMap<NodeId, Duration>,
    /// Snapshots that have arrived, and when their peers should have installed them.
    delivered: FxHashMap<NodeId, Duration>,
    /// Peers that catch up behind a snapshot.
    behind: Behind,
    /// A snapshot that was built and whose message raft is about to be given, or has been.
    imported: Option<Imported>,
    importing: Importing,
    installing: Installing,
    transfers: Vec<(ProposalId, NodeId)>,
    monitor: Monitor,
    /// Peers that have had time to install their snapshot, or have started over with it.
    overdue: Vec<NodeId>,
}

/// Whether the file of the next tree is in use before an installation. There is one: a second snapshot that came meanwhile would
/// take the place of the first under its feet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Importing {
    Nothing,
    /// It is being built.
    Running,
    /// Raft was given its message in this turn, and what it makes of it is not known before the turn's end.
    Given,
}

/// How far the installation of a snapshot has come.
enum Installing {
    Nothing,
    /// The log is being made to begin anew.
    Log(InstallSnapshot),
    /// The tree is being renamed.
    Rename,
}

impl Replication {
    /// Nothing is opened yet: [`Replication::start`] does it, on the thread that stays.
    pub fn new(seed: Seed, shared: Arc<Shared>) -> Replication {
        let (sender, done) = ring(RING_SNAPSHOTS_MAX);
        Replication {
            shared,
            seed: Some((seed.settings, seed.listeners)),
            members: seed.members,
            removed: seed.removed,
            peers: None,
            incoming: VecDeque::new(),
            store: seed.store,
            background: seed.background,
            done,
            done_sender: Arc::new(Mutex::new(sender)),
            pinned: FxHashMap::default(),
            began: FxHashMap::default(),
            delivered: FxHashMap::default(),
            behind: Behind::default(),
            imported: None,
            importing: Importing::Nothing,
            installing: Installing::Nothing,
            transfers: Vec::new(),
            monitor: Monitor::default(),
            overdue: Vec::new(),
        }
    }

    /// Opens the connections.
    pub fn start(&mut self) {
        let Some((settings, listeners)) = self.seed.take() else { return };
        self.publish_learner();
        match Peers::start(settings, listeners) {
            Ok(peers) => {
                peers.set_members(&self.members, &self.removed);
                self.peers = Some(peers);
            }
            Err(error) => self.shared.fatal(Fatal::new(
                FatalReason::StartFailed,
                format!("cannot start the connections to other members: {error}"),
            )),
        }
    }

    /// Looks for what has come, and asks to be woken when more does.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(peers) = &self.peers {
            while self.incoming.len() < TURN_MESSAGES
                && let Poll::Ready(incoming) = peers.poll_incoming(cx)
            {
                self.incoming.push_back(incoming);
            }
        }
        let done = self.done.poll_ready(cx) == Poll::Ready(Ready::Items);
        done || !self.incoming.is_empty()
    }

    /// What of it the node must hear next.
    pub fn poll(
        &mut self,
        node: &Node,
        to_store: &mut VecDeque<ForStore>,
        to_clients: &mut [VecDeque<ToClient>],
    ) -> Option<Input> {
        if let Some(peer) = self.overdue.pop() {
            return Some(Input::SnapshotSent(peer, true));
        }
        while let Some(done) = self.done.pop() {
            if let Some(input) = self.handle_done(done, to_store) {
                return Some(input);
            }
        }
        while let Some(incoming) = self.incoming.pop_front() {
            if self.comes_too_early(&incoming, node) {
                continue;
            }
            if let Some(input) = self.handle_incoming(incoming, to_store, to_clients) {
                return Some(input);
            }
        }
        None
    }

    /// Entries behind a snapshot that is being made into a store. The node would say that it lacks what is before them, and be
    /// sent another snapshot; raft sends these again when the node is there.
    fn comes_too_early(&self, incoming: &Incoming, node: &Node) -> bool {
        let Incoming::Message(_, message) = incoming else { return false };
        self.importing == Importing::Running
            && message.entries_follow().is_some_and(|before| before > node.status().last.index)
    }

    fn handle_incoming(
        &mut self,
        incoming: Incoming,
        to_store: &mut VecDeque<ForStore>,
        to_clients: &mut [VecDeque<ToClient>],
    ) -> Option<Input> {
        match incoming {
            Incoming::Message(from, message) => match *message {
                PeerMessage::Request { id, body } => {
                    route_request(from, id, body, to_store, to_clients);
                    None
                }
                PeerMessage::Response { id, body } => {
                    route_response(ProposalId(id), body, to_store, to_clients);
                    None
                }
                message => Some(Input::Receive(from, Box::new(message))),
            },
            Incoming::Unreachable(peer) => {
                tracing::warn!(
                    "remote-peer-id" = format!("{:x}", peer.0),
                    "lost the connection with remote peer"
                );
                Some(Input::Unreachable(peer))
            }
            Incoming::Reachable(peer) => {
                tracing::info!(
                    "remote-peer-id" = format!("{:x}", peer.0),
                    "established connection with remote peer"
                );
                // After a repair a peer starts over, and says nothing of the snapshot by itself.
                self.delivered.remove(&peer).map(|_| Input::SnapshotSent(peer, true))
            }
            Incoming::Removed => self.shared.fatal(force_new::removed(self.shared.identity)),
            Incoming::SnapshotSent(peer, true) => {
                // It is building its store. Raft hears of the success by the peer's own answer; told now, it would find the
                // peer still behind and send another one.
                let now = now();
                let took = self.began.remove(&peer).map_or(Duration::ZERO, |began| now - began);
                self.delivered.insert(peer, now + INSTALL_TIME_MIN.max(4 * took));
                None
            }
            Incoming::SnapshotSent(peer, false) => Some(Input::SnapshotSent(peer, false)),
            Incoming::SnapshotReceived { from, path, message } => {
                self.import(from, path, message);
                None
            }
        }
    }

    /// Builds the tree of a received snapshot on a thread.
    fn import(&mut self, from: NodeId, path: PathBuf, message: Box<Message>) {
        if self.importing != Importing::Nothing || !matches!(self.installing, Installing::Nothing) {
            // The present one replaces the very file that this would build. Raft asks again if it is still wanted.
            let _ = std::fs::remove_file(path);
            return;
        }
        self.imported = None;
        self.importing = Importing::Running;
        metrics::here().plain.snapshot_apply_in_progress.set(1);
        let (dir, locks) = (self.shared.config.data_dir.clone(), self.shared.config.memory_mlock);
        let (store, answer) = (self.store.clone(), self.done_sender.clone());
        self.background.run(move || {
            let result = snapshot_files::import(&dir, &path, store);
            if locks
                && let Ok(imported) = &result
                && let Err(error) = imported.tree.lock_in_memory()
            {
                tracing::warn!(%error, "cannot lock the tree file that a snapshot has brought into memory");
            }
            answer_with(&answer, Done::Imported(from, message, result));
        });
    }

    fn handle_done(&mut self, done: Done, to_store: &mut VecDeque<ForStore>) -> Option<Input> {
        match done {
            Done::Imported(from, message, Ok(imported)) => {
                self.imported = Some(imported);
                self.importing = Importing::Given;
                Some(Input::Receive(from, Box::new(PeerMessage::Raft(*message))))
            }
            Done::Imported(from, _, Err(error)) => {
                metrics::here().plain.snapshot_apply_in_progress.set(0);
                tracing::error!(%error, "remote-peer-id" = format!("{:x}", from.0), "a received snapshot is unusable");
                self.importing = Importing::Nothing;
                None
            }
            Done::Renamed(ready, Ok(())) => {
                metrics::here().plain.snapshot_apply_in_progress.set(0);
                self.installing = Installing::Nothing;
                let Imported { store, tree, .. } = self.imported.take()?;
                to_store.push_back(ForStore::Install(Box::new(Installation { ready, store: *store, tree })));
                None
            }
            Done::Renamed(_, Err(error)) => self.shared.fatal(Fatal::new(
                FatalReason::CheckpointFailed,
                format!("cannot put a received snapshot in the place of the tree file: {error}"),
            )),
        }
    }

    /// What another core wants of the peers, and what the node must hear of it.
    pub fn handle(
        &mut self,
        message: ToRaft,
        to_store: &mut VecDeque<ForStore>,
        to_clients: &mut [VecDeque<ToClient>],
    ) -> Option<Input> {
        match message {
            ToRaft::Members(members, removed) => {
                self.set_members(members, removed);
                None
            }
            ToRaft::ClusterVersion(version) => {
                if let Some(peers) = &self.peers {
                    peers.set_cluster_version(&version);
                }
                None
            }
            ToRaft::PeerRequest(to, id, body) => {
                if to.0 == self.shared.identity.member_id {
                    route_request(to, id.0, body, to_store, to_clients);
                } else {
                    self.send(to, &PeerMessage::Request { id: id.0, body });
                }
                None
            }
            ToRaft::PeerResponse(to, id, body) => {
                if to.0 == self.shared.identity.member_id {
                    route_response(ProposalId(id), body, to_store, to_clients);
                } else {
                    self.send(to, &PeerMessage::Response { id, body });
                }
                None
            }
            ToRaft::SnapshotPinned(pinned) => {
                let (peer, position, conf) = (pinned.peer, pinned.position, pinned.conf.clone());
                self.behind.pinned(peer, position.index, now());
                self.pinned.insert(peer, *pinned);
                Some(Input::SnapshotPinned { peer, position, conf })
            }
            _ => None,
        }
    }

    /// The members table, once it holds all whom this member began with: while it applies the beginning of the log, those
    /// that it has not met there yet are no strangers.
    fn set_members(&mut self, members: Vec<Member>, removed: Vec<NodeId>) {
        let known = |id: u64| members.iter().any(|member| member.id == id) || removed.contains(&NodeId(id));
        if !self.members.iter().all(|member| known(member.id)) {
            return;
        }
        if let Some(peers) = &self.peers {
            peers.set_members(&members, &removed);
        }
        self.members = members;
        self.removed = removed;
        self.publish_learner();
    }

    fn publish_learner(&self) {
        let own = self.members.iter().find(|member| member.id == self.shared.identity.member_id);
        self.shared.publish_learner(own.is_some_and(|member| member.is_learner));
    }

    /// What the node wants of the peers.
    pub fn start_output(&mut self, output: Output) {
        match output {
            Output::Send(envelope) if envelope.message.lane() == Lane::Snapshot => {
                if let PeerMessage::Raft(message) = *envelope.message {
                    self.send_snapshot(envelope.to, message);
                }
            }
            Output::Send(envelope) => self.send(envelope.to, &envelope.message),
            Output::SnapshotUnwanted(peer) => {
                self.pinned.remove(&peer);
                if let Some(peers) = &self.peers {
                    peers.cancel_snapshot(peer);
                }
            }
            Output::InstallSnapshot(install) => self.installing = Installing::Log(install),
            Output::SnapshotIgnored(position) => self.ignore(position),
            _ => {}
        }
    }

    fn send(&self, to: NodeId, message: &PeerMessage) {
        if let Some(peers) = &self.peers {
            peers.send(to, message);
        }
    }

    fn send_snapshot(&mut self, to: NodeId, message: Message) {
        let (Some(peers), Some(pinned)) = (&self.peers, self.pinned.remove(&to)) else { return };
        self.began.insert(to, now());
        peers.send_snapshot(to, message, Box::new(snapshot_files::Source::new(pinned.view)));
    }

    fn ignore(&mut self, position: LogPosition) {
        if self.imported.as_ref().is_some_and(|imported| imported.store.applied().index == position.index.0) {
            metrics::here().plain.snapshot_apply_in_progress.set(0);
            self.imported = None;
        }
    }

    /// The log core's writes up to this Ready are durable: if the log begins anew with it, the tree follows.
    pub fn durable(&mut self, ready: ReadyNumber) {
        match std::mem::replace(&mut self.installing, Installing::Nothing) {
            Installing::Log(install) if install.ready <= ready => {
                self.installing = Installing::Rename;
                let dir = self.shared.config.data_dir.clone();
                let answer = self.done_sender.clone();
                self.background.run(move || {
                    let result = snapshot_files::install(&dir);
                    answer_with(&answer, Done::Renamed(install.ready, result));
                });
            }
            other => self.installing = other,
        }
    }

    /// Somebody waits for this member to lead.
    pub fn transfer(&mut self, id: ProposalId, to: NodeId) {
        self.transfers.push((id, to));
    }

    /// Who leads now.
    pub fn led_by(&mut self, leader: Option<NodeId>, to_clients: &mut [VecDeque<ToClient>]) {
        self.transfers.retain(|(id, to)| {
            let waits = leader != Some(*to);
            if !waits && let Some(core) = Shared::client_of(*id) {
                to_clients[core].push_back(ToClient::Transferred(*id));
            }
            waits
        });
        if leader.is_some() {
            self.transfers.clear(); // another one won
        }
    }

    /// This member leads a new term, or does not lead.
    pub fn lead(&mut self, leads: bool, to_store: &mut VecDeque<ForStore>) {
        self.monitor.lead(leads, now());
        self.monitor_versions(to_store);
    }

    /// Hands over what the members' servers are, when the leader is to look at it.
    fn monitor_versions(&mut self, to_store: &mut VecDeque<ForStore>) {
        let Some(peers) = self.peers.as_ref().filter(|_| self.monitor.leads()) else { return };
        let own = self.shared.identity.member_id;
        let version = |member: &Member| match member.id == own {
            true => Some(server_version().to_owned()),
            false => peers.server_version(NodeId(member.id)),
        };
        let versions: Vec<Option<String>> = self.members.iter().map(version).collect();
        if self.monitor.looks(versions.iter().all(Option::is_some), now()) {
            to_store.push_back(ToStore::Versions(versions).into());
        }
    }

    /// The log is needed from here on, whatever the store's checkpoints cover.
    pub fn needed_from(&self) -> Option<Index> {
        self.behind.needed_from()
    }

    /// See [`Peers::forget_forwards`].
    pub fn forget_forwards(&self, then: Duration, open: impl Fn(&Forward) -> bool) {
        if let Some(peers) = &self.peers {
            peers.forget_forwards(then, open);
        }
    }

    /// See [`Peers::heartbeats_due`].
    pub fn heartbeats_due(&self, due: Option<HeartbeatDue>) {
        if let Some(peers) = &self.peers {
            peers.heartbeats_due(due);
        }
    }

    /// Once per tick: time for the connections, and figures for the other cores.
    pub fn tick(&mut self, node: &Node, to_store: &mut VecDeque<ForStore>) {
        self.monitor_versions(to_store);
        if self.importing == Importing::Given {
            self.importing = Importing::Nothing; // between two turns
        }
        let Some(peers) = &self.peers else { return };
        let now = now();
        peers.tick(now);
        let progress = node.peers();
        let overdue = &mut self.overdue;
        self.delivered.retain(|peer, due| {
            let waits = progress.iter().any(|progress| progress.node == *peer && progress.snapshot);
            let late = now >= *due;
            if waits && late {
                overdue.push(*peer);
            }
            waits && !late
        });
        self.behind.tick(&progress, node.status().last.index, now);
        let others = self.members.iter().filter(|member| member.id != self.shared.identity.member_id);
        let figures = others.map(|member| {
            let id = NodeId(member.id);
            let active_for: Option<Duration> = peers.active_for(id, now);
            let matched = progress.iter().find(|peer| peer.node == id).map(|peer| peer.matched);
            PeerFigures { member: member.id, active_for, matched }
        });
        self.shared.publish_peers(figures.collect());
    }
}

fn answer_with(sender: &Mutex<Sender<Done>>, done: Done) {
    let sender = sender.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The ring holds more than is ever under way.
    let _ = sender.push(done);
    sender.flush();
}

/// Questions about leases are the store core's, those about members the first client core's.
fn route_request(
    from: NodeId,
    id: u64,
    body: bytes::Bytes,
    to_store: &mut VecDeque<ForStore>,
    to_clients: &mut [VecDeque<ToClient>],
) {
    if matches!(Request::decode(&body), Ok(Request::KeepAlive { .. } | Request::TimeToLive { .. })) {
        to_store.push_back(ToStore::PeerRequest(from, id, body).into());
    } else if let Some(client) = to_clients.first_mut() {
        client.push_back(ToClient::PeerRequest(from, id, body));
    }
}

fn route_response(
    id: ProposalId,
    body: bytes::Bytes,
    to_store: &mut VecDeque<ForStore>,
    to_clients: &mut [VecDeque<ToClient>],
) {
    match Shared::client_of(id) {
        None => to_store.push_back(ToStore::PeerResponse(id, body).into()),
        Some(core) => {
            if let Some(client) = to_clients.get_mut(core) {
                client.push_back(ToClient::PeerResponse(id, body));
            }
        }
    }
}
