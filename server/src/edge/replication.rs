//! The raft core's surroundings: connections to the other members, and the thread that builds received snapshots. What is
//! sent to whom, and what becomes of a snapshot, [`node::raft_core`] decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use consensus::{Index, Message, NodeId, ReadyNumber};
use node::membership::Member;
use node::raft_core::{Input, Output, PinnedSnapshot, RaftCore, Shell};

use super::background::Background;
use super::failpoint::server_version;
use super::force_new;
use super::messages::Installation;
use super::peers::{self, HeartbeatDue, Incoming, Peers, SnapshotFile};
use super::ring::{Ready, Receiver, Sender, ring};
use super::shared::{PeerFigures, Shared};
use super::snapshot_files::{self, Imported};
use super::trace::TracedNode;
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

/// Messages of peers handled in one turn.
const TURN_MESSAGES: usize = 4096;

/// Results of the snapshot thread that may wait; more than one snapshot is never being received.
const RING_SNAPSHOTS_MAX: usize = 8;

/// What the raft core is made with here.
pub struct Surroundings;

impl Shell for Surroundings {
    type Node = TracedNode;
    type Received = SnapshotFile;
    type Store = Imported;
}

/// What a raft core and its connections begin with; they are opened on the raft core's own thread.
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
    peers: Option<Peers>,
    incoming: VecDeque<Incoming>,
    store: engine::Config,
    background: Background,
    done: Receiver<Done>,
    done_sender: Arc<Mutex<Sender<Done>>>,
}

impl Replication {
    /// Nothing is opened yet: [`Replication::start`] does it, on the thread that stays.
    pub fn new(
        seed: (peers::Settings, Vec<peers::Listener>),
        store: engine::Config,
        background: Background,
        shared: Arc<Shared>,
    ) -> Replication {
        let (sender, done) = ring(RING_SNAPSHOTS_MAX);
        Replication {
            shared,
            seed: Some(seed),
            peers: None,
            incoming: VecDeque::new(),
            store,
            background,
            done,
            done_sender: Arc::new(Mutex::new(sender)),
        }
    }

    /// Opens the connections.
    pub fn start(&mut self, core: &RaftCore<Surroundings>) {
        let Some((settings, listeners)) = self.seed.take() else { return };
        match Peers::start(settings, listeners) {
            Ok(peers) => self.peers = Some(peers),
            Err(error) => self.shared.fatal(Fatal::new(
                FatalReason::StartFailed,
                format!("cannot start the connections to other members: {error}"),
            )),
        }
        self.set_members(core);
    }

    /// Talks to those whom the core knows now.
    pub fn set_members(&self, core: &RaftCore<Surroundings>) {
        if let Some(peers) = &self.peers {
            peers.set_members(core.members(), core.removed());
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

    /// What of it the core must hear next.
    pub fn poll(&mut self) -> Option<Input<Surroundings>> {
        if let Some(done) = self.done.pop() {
            return Some(self.done(done));
        }
        Some(match self.incoming.pop_front()? {
            Incoming::Message(from, message) => Input::Message(from, message),
            Incoming::Unreachable(peer) => {
                tracing::warn!(
                    "remote-peer-id" = format!("{:x}", peer.0),
                    "lost the connection with remote peer"
                );
                Input::Unreachable(peer)
            }
            Incoming::Reachable(peer) => {
                tracing::info!(
                    "remote-peer-id" = format!("{:x}", peer.0),
                    "established connection with remote peer"
                );
                Input::Reachable(peer)
            }
            Incoming::Removed => self.shared.fatal(force_new::removed(self.shared.identity)),
            Incoming::SnapshotSent(peer, ok) => Input::SnapshotSent(peer, ok),
            Incoming::SnapshotReceived { from, file, message } => {
                Input::SnapshotReceived { from, message, received: file }
            }
        })
    }

    fn done(&mut self, done: Done) -> Input<Surroundings> {
        match done {
            Done::Imported(from, message, Ok(store)) => {
                let index = Index(store.store.applied().index);
                Input::Imported { from, message, index, store }
            }
            Done::Imported(from, _, Err(error)) => {
                metrics::here().plain.snapshot_apply_in_progress.set(0);
                tracing::error!(%error, "remote-peer-id" = format!("{:x}", from.0), "a received snapshot is unusable");
                Input::ImportFailed
            }
            Done::Renamed(ready, Ok(())) => {
                metrics::here().plain.snapshot_apply_in_progress.set(0);
                Input::Renamed(ready)
            }
            Done::Renamed(_, Err(error)) => self.shared.fatal(Fatal::new(
                FatalReason::CheckpointFailed,
                format!("cannot put a received snapshot in the place of the tree file: {error}"),
            )),
        }
    }

    /// What the core wants of peers and files.
    pub fn start_output(&mut self, output: Output<Surroundings>) {
        let Some(peers) = &self.peers else { return };
        match output {
            Output::Send(envelope) => peers.send(envelope.to, &envelope.message),
            Output::SendSnapshot { message, pinned } => {
                let PinnedSnapshot { peer, view, .. } = *pinned;
                peers.send_snapshot(peer, *message, Box::new(snapshot_files::Source::new(view)));
            }
            Output::CancelSnapshot(peer) => peers.cancel_snapshot(peer),
            Output::ClusterVersion(version) => peers.set_cluster_version(&version),
            Output::Import { from, message, received } => self.import(from, received, message),
            Output::Discard(file) => drop(std::fs::remove_file(file.path)),
            Output::Unneeded(imported) => {
                metrics::here().plain.snapshot_apply_in_progress.set(0);
                self.background.run(move || drop(imported));
            }
            Output::Rename(ready) => self.rename(ready),
            _ => {}
        }
    }

    /// Builds the tree of a received snapshot on a thread.
    fn import(&mut self, from: NodeId, file: SnapshotFile, message: Box<Message>) {
        metrics::here().plain.snapshot_apply_in_progress.set(1);
        let (dir, locks) = (self.shared.config.data_dir.clone(), self.shared.config.memory_mlock);
        let (store, answer) = (self.store.clone(), self.done_sender.clone());
        self.background.run(move || {
            let result = snapshot_files::import(&dir, &file, store);
            if locks
                && let Ok(imported) = &result
                && let Err(error) = imported.tree.lock_in_memory()
            {
                tracing::warn!(%error, "cannot lock the tree file that a snapshot has brought into memory");
            }
            answer_with(&answer, Done::Imported(from, message, result));
        });
    }

    fn rename(&mut self, ready: ReadyNumber) {
        let (dir, answer) = (self.shared.config.data_dir.clone(), self.done_sender.clone());
        self.background.run(move || {
            let result = snapshot_files::install(&dir);
            answer_with(&answer, Done::Renamed(ready, result));
        });
    }

    /// What that member's server is, as far as it is known now.
    pub fn server_version(&self, member: NodeId) -> Option<String> {
        match member.0 == self.shared.identity.member_id {
            true => Some(server_version().to_owned()),
            false => self.peers.as_ref()?.server_version(member),
        }
    }

    /// See [`Peers::heartbeats_due`].
    pub fn heartbeats_due(&self, due: Option<HeartbeatDue>) {
        if let Some(peers) = &self.peers {
            peers.heartbeats_due(due);
        }
    }

    /// Once per tick: time for the connections, and figures for the other cores.
    pub fn tick(&self, core: &RaftCore<Surroundings>, now: Duration) {
        let Some(peers) = &self.peers else { return };
        peers.forget_forwards(core.forwards_since(now), |forward| core.wants_again(forward));
        peers.tick(now);
        let progress = core.node().peers();
        let own = self.shared.identity.member_id;
        let others = core.members().iter().filter(|member| member.id != own);
        let figures = others.map(|member| {
            let id = NodeId(member.id);
            let active_for: Option<Duration> = peers.active_for(id, now);
            let matched = progress.iter().find(|peer| peer.node == id).map(|peer| peer.matched);
            PeerFigures { member: member.id, active_for, matched }
        });
        self.shared.publish_peers(figures.collect());
    }
}

impl Imported {
    /// For the store core, under the number by which raft waits for it.
    pub fn install(self, ready: ReadyNumber) -> Installation {
        Installation { ready, store: *self.store, tree: self.tree }
    }
}

fn answer_with(sender: &Mutex<Sender<Done>>, done: Done) {
    let sender = sender.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The ring holds more than is ever under way.
    let _ = sender.push(done);
    sender.flush();
}
