//! What all cores may look at: a handful of published numbers, the metrics, and the way to end the process.
//!
//! Each number has one writer. Readers see a value that was true; what must be consistent is published as one value.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consensus::{Index, NodeId, ProposalId, Term};
use node::api::Space;
pub use node::cores::PeerFigures;
use node::{Identity, calls, cores};

use super::tree_file::TreeFile;
use crate::config::Config;
use crate::config::limits::LOG_STALL_MAX;
use crate::observe::metrics::Metrics;
use crate::sys::{Fatal, FatalReason};

/// "Not the only voter" in [`Shared::single_voter`].
const NOT_SINGLE: u64 = u64::MAX;

/// No write in `log_write_began`.
const NO_WRITE: u64 = u64::MAX;

/// See the module's header.
pub struct Shared {
    /// What the operator asked for.
    pub config: Config,
    /// Who this member is.
    pub identity: Identity,
    /// Figures of all cores.
    pub metrics: Metrics,
    /// Connections that there may be in all.
    pub connections_max: usize,
    /// Commit index while this member is the only voter, else [`NOT_SINGLE`]: one value, so that a reader can't take an
    /// old "single" with a new index or the reverse. Written by the raft core.
    single_voter: AtomicU64,
    term: AtomicU64,
    leader: AtomicU64,
    commit: AtomicU64,
    applied: AtomicU64,
    space_allocated: AtomicU64,
    /// What the raft core knew of the other members at its last tick.
    peers: Mutex<Vec<PeerFigures>>,
    /// Open connections of each client core.
    connections: Box<[AtomicUsize]>,
    /// What all connections hold in unfinished requests and unsent answers.
    connection_bytes: AtomicUsize,
    tree: Mutex<Arc<TreeFile>>,
    log_space_lost: AtomicBool,
    is_learner: AtomicBool,
    /// When the log write under way was submitted, in milliseconds of the clock; [`NO_WRITE`] if none is.
    log_write_began: AtomicU64,
    notes: crossbeam::channel::Sender<Note>,
}

/// The client side of a server.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// Client cores.
    pub cores: usize,
    /// Connections that there may be in all.
    pub connections_max: usize,
}

/// What the cores and the signal thread tell the main thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// This member has made itself known through the log and serves.
    Ready,
    /// SIGTERM or SIGINT.
    Stop,
    /// A client core has nothing in flight any more.
    Drained,
}

impl Shared {
    /// Everything unknown yet. The receiver belongs to the main thread.
    pub fn new(
        config: Config,
        identity: Identity,
        clients: Clients,
        tree: Arc<TreeFile>,
    ) -> (Arc<Shared>, crossbeam::channel::Receiver<Note>) {
        let (notes, heard) = crossbeam::channel::unbounded();
        let shared = Shared {
            config,
            identity,
            metrics: Metrics::default(),
            single_voter: AtomicU64::new(NOT_SINGLE),
            term: AtomicU64::new(0),
            leader: AtomicU64::new(0),
            commit: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            tree: Mutex::new(tree),
            space_allocated: AtomicU64::new(0),
            connections_max: clients.connections_max,
            connections: (0..clients.cores).map(|_| AtomicUsize::new(0)).collect(),
            connection_bytes: AtomicUsize::new(0),
            peers: Mutex::default(),
            log_space_lost: AtomicBool::new(false),
            is_learner: AtomicBool::new(false),
            log_write_began: AtomicU64::new(NO_WRITE),
            notes,
        };
        (Arc::new(shared), heard)
    }

    /// Tells the main thread. It listens until the process ends.
    pub fn note(&self, note: Note) {
        let _ = self.notes.send(note);
    }

    /// Ends the process with this reason, at once: nothing that is not durable gets acknowledged any more.
    pub fn fatal(&self, fatal: Fatal) -> ! {
        crate::sys::exit(&fatal)
    }

    /// A read met a page that is not what was written: nothing may be answered from this file any more. Looks through the
    /// whole file to say where.
    pub fn tree_damaged(&self) -> ! {
        self.mark_tree_damaged();
        let path = self.config.data_dir.join(crate::sys::data_dir::TREE_FILE);
        let tree = self.tree.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let place = match engine::tree::verify(&*tree) {
            Ok(report) => match report.findings.first() {
                Some(finding) => format!("{finding} ({} findings in all)", report.finding_count),
                None => "a page that the newest checkpoint does not reach".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        self.fatal(Fatal::new(
            FatalReason::TreeDamaged,
            format!(
                "the tree file {} is damaged: {place}; nothing was changed: restore this member from a backup",
                path.display()
            ),
        ))
    }

    /// As [`Shared::tree_damaged`], where it is known what is damaged and who found it.
    pub fn tree_damaged_at(&self, damage: &engine::tree::Damage, finder: &str) -> ! {
        self.mark_tree_damaged();
        let path = self.config.data_dir.join(crate::sys::data_dir::TREE_FILE);
        self.fatal(Fatal::new(
            FatalReason::TreeDamaged,
            format!(
                "{finder} found the tree file {} damaged: {damage}; nothing was changed: restore this member from a backup",
                path.display()
            ),
        ))
    }

    /// Whether this member leads others, who had better have another leader before it ends.
    pub fn leads_others(&self) -> bool {
        self.leader() == self.identity.member_id && self.read_index().is_none()
    }

    /// One among others is repaired by its next start.
    fn mark_tree_damaged(&self) {
        if self.read_index().is_none() {
            super::repair::mark_tree_damaged(&self.config.data_dir);
        }
    }

    /// Store core: the store is in another file now.
    pub fn replace_tree(&self, tree: Arc<TreeFile>) {
        *self.tree.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = tree;
    }

    /// Raft core: the index every read confirmed by this single voter must cover, or `None` once it isn't single.
    pub fn publish_single_voter(&self, index: Option<Index>) {
        self.single_voter.store(index.map_or(NOT_SINGLE, |i| i.0), Ordering::Release);
    }

    /// The index that a linearizable read starting now must wait for; `None`: not the single voter, ask raft.
    pub fn read_index(&self) -> Option<Index> {
        match self.single_voter.load(Ordering::Acquire) {
            NOT_SINGLE => None,
            index => Some(Index(index)),
        }
    }

    /// Raft core: a change of role.
    pub fn publish_role(&self, term: Term, leader: NodeId, leads: bool) {
        self.term.store(term.0, Ordering::Release);
        if self.leader.swap(leader.0, Ordering::AcqRel) != leader.0 {
            self.metrics.leader_changed(leader.0 != 0, leads);
        }
    }

    /// Raft core, once per tick: what it knows of the others. It does not wait for a reader; the next tick is near.
    pub fn publish_peers(&self, figures: Vec<PeerFigures>) {
        if let Ok(mut peers) = self.peers.try_lock() {
            *peers = figures;
        }
    }

    /// The other members as of the last tick, for changes of the membership.
    pub fn peers(&self) -> Vec<PeerFigures> {
        self.peers.lock().map_or_else(|poisoned| poisoned.into_inner().clone(), |peers| peers.clone())
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        calls::request_timeout(self.config.election_timeout)
    }

    /// Raft core: committed up to here.
    pub fn publish_commit(&self, index: Index) {
        self.commit.store(index.0, Ordering::Release);
    }

    /// Store core: applied up to here.
    pub fn publish_applied(&self, index: Index) {
        self.applied.store(index.0, Ordering::Release);
    }

    /// Store core: bytes in allocated pages, in live pages, and in heap frames.
    pub fn publish_space(&self, allocated: u64, in_use: u64, heap: u64) {
        self.space_allocated.store(allocated, Ordering::Release);
        self.metrics.space(allocated, in_use, heap);
    }

    /// How full the store is.
    pub fn space(&self) -> Space {
        Space { used: self.space_allocated.load(Ordering::Acquire), quota: self.config.quota_backend_bytes }
    }

    /// A connection was given to this client core.
    pub fn connection_opened(&self, core: usize) {
        self.connections[core].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection of this client core is gone.
    pub fn connection_closed(&self, core: usize) {
        self.connections[core].fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections of all client cores.
    pub fn connection_count(&self) -> usize {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Client cores.
    pub fn client_cores(&self) -> usize {
        self.connections.len()
    }

    /// A connection held `before` bytes and now holds `after`.
    pub fn connection_holds(&self, before: usize, after: usize) {
        if after >= before {
            self.connection_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.connection_bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// Connections hold as much as they may.
    pub fn connections_hold_too_much(&self) -> bool {
        self.connection_bytes.load(Ordering::Relaxed) as u64 >= self.config.connection_bytes_limit
    }

    /// What each connection could hold if all held the same and together as much as they may.
    pub fn connection_bytes_share(&self) -> usize {
        (self.config.connection_bytes_limit / self.connection_count().max(1) as u64) as usize
    }

    /// The client core with the fewest connections.
    pub fn emptiest_client(&self) -> usize {
        let counts = self.connections.iter().map(|count| count.load(Ordering::Relaxed));
        counts.enumerate().min_by_key(|(_, count)| *count).map_or(0, |(core, _)| core)
    }

    /// Log core: the next segment could not be made (true), or it could again.
    pub fn log_space_lost(&self, lost: bool) {
        self.log_space_lost.store(lost, Ordering::Release);
    }

    /// Whether this member is a learner, as far as it has applied. One that is no member (yet) is none.
    pub fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Acquire)
    }

    /// Raft core: the members have changed.
    pub fn publish_learner(&self, is_learner: bool) {
        self.is_learner.store(is_learner, Ordering::Release);
        self.metrics.learner_changed(is_learner);
    }

    /// There is no room for the next log segment: writes are refused as by a NOSPACE alarm.
    pub fn is_log_space_lost(&self) -> bool {
        self.log_space_lost.load(Ordering::Acquire)
    }

    /// Log core: a write was submitted at this time, or has ended.
    pub fn log_writes(&self, since: Option<Duration>) {
        let began = since.map_or(NO_WRITE, |since| since.as_millis() as u64);
        self.log_write_began.store(began, Ordering::Relaxed);
    }

    /// For how long the write of the log that is under way has taken.
    pub fn log_write_age(&self, now: Duration) -> Duration {
        match self.log_write_began.load(Ordering::Relaxed) {
            NO_WRITE => Duration::ZERO,
            began => now.saturating_sub(Duration::from_millis(began)),
        }
    }

    /// Ends the process if the log device has not answered for [`LOG_STALL_MAX`]: a member that neither writes nor dies
    /// keeps its clients from those who could serve them. Asked by the main thread, which waits for no device.
    pub fn end_if_log_stalled(&self, now: Duration) {
        let began = self.log_write_began.load(Ordering::Relaxed);
        let waits = now.saturating_sub(Duration::from_millis(began));
        if began != NO_WRITE && waits > LOG_STALL_MAX {
            self.fatal(Fatal::new(
                FatalReason::LogStalled,
                format!(
                    "the device of the Raft log has not answered a write for {} s; nothing that was not durable has \
                     been acknowledged: replace the device",
                    waits.as_secs()
                ),
            ));
        }
    }

    /// Current term, for response headers.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Id of the leader; 0: none known.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Acquire)
    }

    /// Committed index.
    pub fn commit(&self) -> u64 {
        self.commit.load(Ordering::Acquire)
    }

    /// Applied index.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// See [`cores::client_id`].
    pub fn proposal_id(core: usize, number: u64) -> ProposalId {
        cores::client_id(core, number)
    }

    /// See [`cores::store_id`].
    pub fn store_proposal_id(number: u64) -> ProposalId {
        cores::store_id(number)
    }

    /// See [`cores::number_of`].
    pub fn number_of(id: ProposalId) -> u64 {
        cores::number_of(id)
    }

    /// See [`cores::client_of`].
    pub fn client_of(id: ProposalId) -> Option<usize> {
        cores::client_of(id)
    }
}
