//! The store core's turn: tells `node::store_core` what is at hand, and hands on what it says.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::{Entry, Index, ReadyNumber};
use engine::Store;
use node::Answer;
use node::api::Error;
use node::auto_compact::Retention;
use node::cores::{Committed, ToStore};
use node::lease::EXPIRY_INTERVAL;
use node::propose::{Command, IdGenerator};
use node::store_core::trace::Recorded;
use node::store_core::{Fatal, Input, Observer, Output, Present, Settings};

use super::{Done, Member, RunningCheckpoint, client_core, node_id, stops};
use crate::disk::{Disk, TreeDisk};
use crate::env::{Env, NodeNumber, Wake};

/// What the members' servers are.
/// What members say that they are.
pub const SERVER_VERSION: &str = "3.7.1";

/// Bytes of log since the last checkpoint: never reached here.
const LOG_BYTES_MAX: u64 = 256 << 20;

/// What the oracle is to know of the times of leases, noted while the machine takes a step.
#[derive(Default)]
pub(super) struct Noted {
    applied: Vec<u64>,
    renewed: Vec<i64>,
}

impl Observer for Noted {
    fn entry_applied(&mut self, entry: &Entry, _: &Result<Answer, Error>) {
        self.applied.push(entry.index.0);
    }

    fn lease_renewed(&mut self, lease: i64) {
        self.renewed.push(lease);
    }
}

/// The machine, with what the server's edge has as rings and a background thread.
pub(super) struct StoreCore {
    pub core: Recorded<Noted>,
    /// From the raft core.
    pub inbox: VecDeque<ForStore>,
    /// From the client core and the background thread.
    pub asked: VecDeque<Input>,
    /// The checkpoint being written.
    pub checkpoint: Option<RunningCheckpoint>,
    /// The file of the present store, once it has lost its name to that of a snapshot.
    pub unlinked: Option<TreeDisk>,
    /// To what length the file is to be cut.
    cut: Option<u64>,
}

/// To the store core.
pub(super) enum ForStore {
    Core(ToStore),
    Install(ReadyNumber, Box<Store>),
}

impl StoreCore {
    pub fn new(
        env: &Env,
        store: Store,
        ids: IdGenerator,
        (number, life): (NodeNumber, u32),
        nonce: u64,
    ) -> StoreCore {
        let settings = settings(env, number, life, nonce);
        StoreCore {
            core: Recorded::new(store, ids, settings, Present::default(), Noted::default(), env.records),
            inbox: VecDeque::new(),
            asked: VecDeque::new(),
            checkpoint: None,
            unlinked: None,
            cut: None,
        }
    }
}

fn settings(env: &Env, number: NodeNumber, life: u32, nonce: u64) -> Settings {
    let election_timeout = Duration::from_nanos(env.config.election());
    let flags = env.config.store;
    Settings {
        member: node_id(number).0,
        name: format!("m{number}.{life}"),
        client_urls: Vec::new(),
        server_version: SERVER_VERSION.to_owned(),
        client_cores: 1,
        election_timeout,
        request_timeout: client_core::request_timeout_in(env),
        quota: flags.quota,
        heap_limit_bytes: flags.heap_limit.unwrap_or(u64::MAX),
        log_bytes_max: LOG_BYTES_MAX,
        checkpoint_interval: Duration::from_nanos(env.config.checkpoint),
        entries_per_publish: env.config.apply_batch,
        compaction_rows: env.config.compaction_rows,
        lease_checkpoint: flags.lease_checkpoint.map(Duration::from_nanos),
        auto_compaction: flags.compact_period.map(|period| Retention::Period(Duration::from_nanos(period))),
        nonce,
    }
}

impl Member {
    pub(super) fn store_turn(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let mut entries = 0;
        while self.store.core.takes_entries()
            && let Some(message) = self.store.inbox.pop_front()
        {
            let input = match message {
                ForStore::Core(ToStore::Commit(batch)) => self.next_entries(env, batch, &mut entries),
                ForStore::Core(message) => Input::Message(message),
                ForStore::Install(ready, store) => Input::Install(ready, store),
            };
            self.step_store(env, input)?;
        }
        for input in std::mem::take(&mut self.store.asked) {
            self.step_store(env, input)?;
        }
        self.step_store(env, Input::EndTurn)?;
        if let Some(bytes) = self.store.cut.take()
            && self.store.unlinked.is_none()
        {
            disk.tree.trim(bytes as usize);
            env.oracle.seen.cuts += 1;
        }
        self.step_store(env, Input::BeginCheckpoint)?;
        let waits = !self.store.inbox.is_empty() && self.store.core.takes_entries();
        if waits || self.store.core.has_slices() {
            self.wake(env, Wake::Store);
        }
        Ok(())
    }

    /// As many of these as may be applied before a version is published; the others wait for the next turn.
    fn next_entries(&mut self, env: &Env, mut batch: Vec<Committed>, entries: &mut usize) -> Input {
        let room = env.config.apply_batch - *entries;
        if batch.len() > room {
            let rest = batch.split_off(room);
            self.store.inbox.push_front(ForStore::Core(ToStore::Commit(rest)));
        }
        *entries += batch.len();
        Input::Message(ToStore::Commit(batch))
    }

    pub(super) fn step_store(&mut self, env: &mut Env, input: Input) -> Done {
        let present = Present {
            now: self.now(env),
            alone: self.shared.single_voter.is_some(),
            cramped: self.shared.is_log_space_lost,
        };
        let timed = self.times_leases();
        if let Err(fatal) = self.store.core.step(present, input) {
            return match fatal {
                Fatal::Apply(_) | Fatal::Downgrade { .. } => stops(self.number, fatal),
            };
        }
        self.note_lease_times(env, timed);
        let outputs: Vec<Output> = self.store.core.outputs().collect();
        for output in outputs {
            match output {
                Output::Raft(message) => {
                    note_own(env, &message);
                    self.ask_raft(env, message);
                }
                Output::Client(_, message) => self.to_client(env, message),
                Output::BeginCheckpoint(checkpoint, _) => self.begin_checkpoint(env, checkpoint),
                Output::Cut(bytes) => self.store.cut = Some(bytes),
                Output::Installed => {
                    self.store.unlinked = None;
                    self.store.cut = None; // it was for the file before
                }
                Output::Learner(_) | Output::ClusterVersion(_) | Output::Ready | Output::Removed => {}
            }
        }
        // Outcomes of configuration changes are in the inbox before the raft core can see the index.
        let published = self.store.core.published().0;
        if published > self.shared.applied {
            self.shared.applied = published;
            // Production's raft core looks it up in its next turn; there always is one, of a tick at the latest.
            self.wake(env, Wake::Raft);
        }
        Ok(())
    }

    /// Which leases begin their time anew here: of a new leader all, of one that was leading those granted or renewed.
    fn note_lease_times(&mut self, env: &mut Env, timed: bool) {
        let (now, times) = (env.queue.now(), self.times_leases());
        let (known, noted) = (&mut env.oracle.lease_times, self.store.core.observer_mut());
        if times && !timed {
            known.promoted(now);
        }
        noted.applied.drain(..).filter(|_| times).for_each(|index| known.applied(now, index));
        noted.renewed.drain(..).for_each(|lease| known.renewed(now, lease));
    }

    pub(super) fn store_tick(&mut self, env: &mut Env) -> Done {
        self.schedule_store_tick(env);
        self.step_store(env, Input::Tick)?;
        if let Some(Some(due)) = self.store.core.auto_compaction_due()
            && due <= self.now(env)
        {
            self.step_store(env, Input::AutoCompact)?;
        }
        self.step_store(env, Input::BeginCheckpoint)
    }

    pub(super) fn schedule_store_tick(&mut self, env: &mut Env) {
        let interval = EXPIRY_INTERVAL.min(Duration::from_nanos(env.config.checkpoint));
        let after = env.true_span(self.number, interval);
        self.wake_after(env, after, Wake::StoreTick);
    }

    /// The client core or the background thread says something to the store core.
    pub(super) fn ask_store(&mut self, env: &mut Env, input: Input) {
        self.store.asked.push_back(input);
        self.wake(env, Wake::Store);
    }

    pub(super) fn to_store(&mut self, env: &mut Env, message: ForStore) {
        self.store.inbox.push_back(message);
        self.wake(env, Wake::Store);
    }

    /// The index that the published version reflects.
    pub fn published(&self) -> Index {
        Index(self.shared.applied)
    }

    /// Whether it times leases.
    pub fn times_leases(&self) -> bool {
        self.store.core.times_leases()
    }
}

/// Counts what a store core proposes by itself and few worlds see.
fn note_own(env: &mut Env, message: &node::cores::ToRaft) {
    let node::cores::ToRaft::Propose(_, write) = message else { return };
    match write.command {
        Command::Compact { .. } => env.oracle.seen.own_compactions += 1,
        Command::LeaseCheckpoint { .. } => env.oracle.seen.lease_checkpoints += 1,
        _ => {}
    }
}
