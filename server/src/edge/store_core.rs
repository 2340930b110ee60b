//! The store core's thread: `node::store_core` with its rings, its timers, the thread that writes its checkpoints, and the
//! figures that it is watched by.
//!
//! One turn: everything at hand is told, the version published and the outcomes handed over; a checkpoint begins behind that, so
//! that nobody waits for it. Between batches: slices of a compaction, never enough of them to delay the next batch noticeably.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::Store;
use engine::lease::CHECKPOINT_INTERVAL;
use node::apply;
use node::lease::EXPIRY_INTERVAL;
use node::propose::IdGenerator;
use node::store_core::{Fatal as CoreFatal, Input, Output, Present, Settings};

use super::checkpoint::CheckpointWriter;
use super::clock::now;
use super::failpoint::{failpoint, server_version};
use super::messages::{CheckpointDone, ForStore, Installation, ToClient, ToRaft};
use super::ring::{Ready, Receiver, Sender, drain};
use super::scrub::Scrubber;
use super::shared::{Note, Shared};
use super::trace::TracedStore;
use super::tree_file::TreeFile;
use crate::config::limits::{LOG_SINCE_CHECKPOINT_BYTES_MAX, Queue};
use crate::observe::metrics;
use crate::sys::{Fatal, FatalReason};

mod figures;

use figures::Figures;

/// Committed entries applied before a version is published and its outcomes answered.
const ENTRIES_PER_PUBLISH: usize = 4096;

/// Rows of history that one slice of a compaction looks at: about half a millisecond.
const COMPACTION_SLICE_ROWS: usize = 200;

/// A store that changed is written at least this often, so that a restart has little to replay.
const CHECKPOINT_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Everything the store core owns.
pub struct StoreCore {
    core: TracedStore<Figures>,
    rings: Rings,
    shared: Arc<Shared>,
    checkpoints: CheckpointWriter,
    scrubber: Scrubber,
    to_clients: Vec<VecDeque<ToClient>>,
    to_raft: VecDeque<ToRaft>,
    /// The file of a store that waits to take the place of the present one.
    next_tree: Option<Arc<TreeFile>>,
}

/// The store core's ends of the rings.
pub struct Rings {
    /// Committed entries.
    pub from_raft: Receiver<ForStore>,
    /// Queries, one ring per client core.
    pub from_clients: Vec<Receiver<ForStore>>,
    /// Finished checkpoints.
    pub from_background: Receiver<CheckpointDone>,
    /// Applied indexes and own proposals.
    pub to_raft: Sender<ToRaft>,
    /// Versions and outcomes, in the order of the cores' numbers.
    pub to_clients: Vec<Sender<ToClient>>,
}

impl StoreCore {
    /// Joins the store and its rings. `nonce` differs at each start of the process.
    pub fn new(
        store: Store,
        rings: Rings,
        (checkpoints, scrubber): (CheckpointWriter, Scrubber),
        (ids, nonce): (IdGenerator, u64),
        shared: Arc<Shared>,
    ) -> StoreCore {
        let cores = rings.to_clients.len();
        let settings = settings(&shared, cores, nonce);
        let figures = Figures::new(shared.clone());
        StoreCore {
            core: TracedStore::new(store, ids, settings, present(&shared), figures),
            rings,
            shared,
            checkpoints,
            scrubber,
            to_clients: (0..cores).map(|_| VecDeque::new()).collect(),
            to_raft: VecDeque::new(),
            next_tree: None,
        }
    }

    /// Runs until the raft core is gone.
    pub async fn run(mut self) {
        self.step(Input::Start);
        self.send();
        let compacts = self.core.auto_compaction_due().is_some();
        let core = Rc::new(RefCell::new(self));
        let ticker = glommio::spawn_local(tick_loop(core.clone())).detach();
        let compactor = compacts.then(|| glommio::spawn_local(compaction_loop(core.clone())).detach());
        loop {
            let slices = core.borrow().core.has_slices();
            let ready = if slices {
                glommio::executor().yield_now().await;
                Ready::Items
            } else {
                poll_fn(|cx| core.borrow_mut().poll_rings(cx)).await
            };
            if ready == Ready::Closed {
                break;
            }
            core.borrow_mut().turn();
        }
        ticker.cancel();
        if let Some(compactor) = compactor {
            compactor.cancel();
        }
    }

    fn turn(&mut self) {
        while let Some(CheckpointDone { checkpoint, result }) = self.rings.from_background.pop() {
            match CheckpointWriter::judge(result) {
                Ok(written) => self.step(Input::CheckpointDone(checkpoint, written)),
                Err(fatal) => self.shared.fatal(fatal),
            }
        }
        while self.core.takes_entries()
            && let Some(message) = self.rings.from_raft.pop()
        {
            self.take(message);
        }
        for ring in 0..self.rings.from_clients.len() {
            while let Some(message) = self.rings.from_clients[ring].pop() {
                self.take(message);
            }
        }
        self.step(Input::EndTurn);
        self.send();
        self.step(Input::BeginCheckpoint);
        self.checkpoints.hurry(self.core.waits_for_checkpoint());
    }

    fn take(&mut self, message: ForStore) {
        match message {
            ForStore::Core(message) => self.step(Input::Message(message)),
            ForStore::Install(installation) => {
                let Installation { ready, store, tree } = *installation;
                self.next_tree = Some(tree);
                self.step(Input::Install(ready, Box::new(store)));
            }
        }
    }

    fn step(&mut self, input: Input) {
        if let Err(fatal) = self.core.step(present(&self.shared), input) {
            end(&self.shared, &fatal);
        }
        for output in self.core.outputs() {
            match output {
                Output::Raft(message) => self.to_raft.push_back(message),
                Output::Client(core, message) => {
                    let outbox = &mut self.to_clients[core];
                    // A version that the client core has not even been sent is of no use once there is a newer one.
                    if matches!(message, ToClient::Published(_))
                        && matches!(outbox.back(), Some(ToClient::Published(_)))
                    {
                        outbox.pop_back();
                    }
                    outbox.push_back(message);
                }
                Output::BeginCheckpoint(checkpoint, _) => self.checkpoints.begin(checkpoint),
                Output::Cut(bytes) => self.checkpoints.cut(bytes),
                Output::Installed => {
                    let Some(tree) = self.next_tree.take() else { continue };
                    self.shared.replace_tree(tree.clone());
                    self.scrubber.replace(tree.clone());
                    self.checkpoints.replace(tree);
                }
                Output::Learner(is_learner) => self.shared.publish_learner(is_learner),
                Output::ClusterVersion(version) => {
                    if let Some((major, minor)) = node::cluster::version::major_minor(&version) {
                        self.shared.metrics.cluster_version_is(format!("{major}.{minor}"));
                    }
                }
                Output::Ready => self.shared.note(Note::Ready),
                Output::Removed => tracing::warn!(
                    "this member is removed from the cluster; it stops as soon as another member confirms that"
                ),
            }
        }
    }

    /// Hands over what waits, as far as the rings have room.
    fn send(&mut self) {
        for (outbox, ring) in self.to_clients.iter_mut().zip(&self.rings.to_clients) {
            drain(outbox, ring);
        }
        drain(&mut self.to_raft, &self.rings.to_raft);
        if self.to_raft.is_empty() {
            // Outcomes of configuration changes are in the ring before the raft core can see the index.
            self.shared.publish_applied(self.core.published());
        }
    }

    fn poll_rings(&mut self, cx: &mut Context<'_>) -> Poll<Ready> {
        let mut items = self.rings.from_background.poll_ready(cx) == Poll::Ready(Ready::Items);
        for ring in &self.rings.from_clients {
            items |= ring.poll_ready(cx) == Poll::Ready(Ready::Items);
        }
        for (outbox, ring) in self.to_clients.iter().zip(&self.rings.to_clients) {
            if !outbox.is_empty() {
                metrics::here().queue_full(Queue::StoreToClient);
                ring.register_for_room(cx);
            }
        }
        if !self.to_raft.is_empty() {
            self.rings.to_raft.register_for_room(cx);
        }
        self.send();
        if self.core.is_full() {
            // The end of the checkpoint wakes us.
            return if items { Poll::Ready(Ready::Items) } else { Poll::Pending };
        }
        match self.rings.from_raft.poll_ready(cx) {
            Poll::Pending if items => Poll::Ready(Ready::Items),
            poll => poll,
        }
    }

    fn tick(&mut self) {
        figures::count(&self.core);
        metrics::here().queue_length(Queue::RaftToStore, self.rings.from_raft.queued());
        let to_clients = self.rings.to_clients.iter().map(Sender::queued).sum();
        metrics::here().queue_length(Queue::StoreToClient, to_clients);
        self.step(Input::Tick);
        self.send();
        self.step(Input::BeginCheckpoint);
        self.checkpoints.hurry(self.core.waits_for_checkpoint());
        self.scrubber.tick(self.core.store(), now());
    }

    fn auto_compact(&mut self) {
        self.step(Input::AutoCompact);
        self.send();
    }
}

fn settings(shared: &Shared, client_cores: usize, nonce: u64) -> Settings {
    let config = &shared.config;
    Settings {
        member: shared.identity.member_id,
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.clone(),
        server_version: server_version().to_owned(),
        client_cores,
        election_timeout: config.election_timeout,
        request_timeout: shared.request_timeout(),
        quota: config.quota_backend_bytes,
        heap_limit_bytes: config.heap_limit_bytes,
        log_bytes_max: LOG_SINCE_CHECKPOINT_BYTES_MAX,
        checkpoint_interval: CHECKPOINT_INTERVAL_MAX,
        entries_per_publish: ENTRIES_PER_PUBLISH,
        compaction_rows: COMPACTION_SLICE_ROWS,
        lease_checkpoint: config.lease_checkpoint.then_some(CHECKPOINT_INTERVAL),
        auto_compaction: config.auto_compaction,
        nonce,
    }
}

/// What holds now. What was told before must have been taken from its ring before this is looked at.
fn present(shared: &Shared) -> Present {
    Present { now: now(), alone: shared.read_index().is_some(), cramped: shared.is_log_space_lost() }
}

fn end(shared: &Shared, fatal: &CoreFatal) -> ! {
    match fatal {
        CoreFatal::Apply(apply::Fatal::Damaged(_)) => shared.tree_damaged(),
        CoreFatal::Apply(error @ (apply::Fatal::Entry { .. } | apply::Fatal::Member(_))) => {
            shared.fatal(Fatal::new(FatalReason::LogDamaged, error.to_string()))
        }
        CoreFatal::Downgrade { .. } => {
            shared.fatal(Fatal::new(FatalReason::DataDirForeign, fatal.to_string()))
        }
    }
}

/// Sleeps until the compactor's next step. While a compaction is under way it looks every [`EXPIRY_INTERVAL`].
async fn compaction_loop(core: Rc<RefCell<StoreCore>>) {
    loop {
        let due = core.borrow().core.auto_compaction_due().flatten();
        let pause = due.map_or(EXPIRY_INTERVAL, |due| due.saturating_sub(now()));
        glommio::timer::sleep(pause).await;
        core.borrow_mut().auto_compact();
    }
}

async fn tick_loop(core: Rc<RefCell<StoreCore>>) {
    loop {
        glommio::timer::sleep(EXPIRY_INTERVAL).await;
        core.borrow_mut().tick();
    }
}
