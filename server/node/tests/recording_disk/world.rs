//! A member, its disk, its clients and what it goes through: several lives, each ended by a kill or a power cut.

use consensus::log::{Identity, Log, LogConfig, State, recover};
use consensus::{ConfState, Config, Index, LogPosition, Node, NodeId, Term};
use engine::tree::OpenError;
use engine::{Store, tree};
use node::apply;
use node::membership::{Member, voters_and_learners};

use crate::checks::{Replay, check_file, check_store};
use crate::disk::Disk;
use crate::fault::Fault;
use crate::life::{Life, Outside, Weights};
use crate::model::{LEASE_TTL_S_MIN, Model};
use medium::rng::Rng;

pub const MEMBER: u64 = 7;
const CLUSTER: u64 = 0xc1;

/// Steps of a settling life before it counts as stuck.
const SETTLING_STEPS_MAX: usize = 20_000;

/// What has happened, so that tests can say that it did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub lives: usize,
    pub kills: usize,
    pub power_cuts: usize,
    pub acknowledged: usize,
    pub checks: usize,
    pub checkpoints: usize,
    pub abandoned: usize,
    pub compactions: usize,
    pub segments: usize,
    /// Crashes during each phase of a checkpoint, in the order of the phases.
    pub hit: [usize; 6],
    /// Crashes while a log write was in flight.
    pub hit_log_write: usize,
    /// Starts that found a torn last batch.
    pub torn_tails: usize,
    /// Starts that found entries nobody had acknowledged.
    pub unacknowledged_kept: usize,
    /// Starts that found a checkpoint.
    pub opened: usize,
    /// Starts that found a tree file without any.
    pub empty: usize,
    /// Starts after a kill with writes of the tree in the page cache only.
    pub unsynced_starts: usize,
}

impl Counters {
    pub fn add(&mut self, other: &Counters) {
        let Counters { hit, .. } = self;
        hit.iter_mut().zip(other.hit).for_each(|(sum, more)| *sum += more);
        let fields: [(&mut usize, usize); 15] = [
            (&mut self.lives, other.lives),
            (&mut self.kills, other.kills),
            (&mut self.power_cuts, other.power_cuts),
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.checks, other.checks),
            (&mut self.checkpoints, other.checkpoints),
            (&mut self.abandoned, other.abandoned),
            (&mut self.compactions, other.compactions),
            (&mut self.segments, other.segments),
            (&mut self.hit_log_write, other.hit_log_write),
            (&mut self.torn_tails, other.torn_tails),
            (&mut self.unacknowledged_kept, other.unacknowledged_kept),
            (&mut self.opened, other.opened),
            (&mut self.empty, other.empty),
            (&mut self.unsynced_starts, other.unsynced_starts),
        ];
        fields.into_iter().for_each(|(sum, more)| *sum += more);
    }
}

/// The store's settings; the nonce differs at each start.
pub fn store_config(nonce: u64) -> engine::Config {
    engine::Config {
        tree: tree::Config {
            identity: tree::Identity { cluster: CLUSTER, member: MEMBER },
            nonce: nonce as u16,
        },
        lease_ttl_s_min: LEASE_TTL_S_MIN,
    }
}

const LOG_IDENTITY: Identity = Identity { cluster: CLUSTER, member: NodeId(MEMBER) };

/// Sizes of the first segment, of the others, and of a batch: small, so that segments are recycled often. Some entries are
/// longer than the first segment.
const LOG_SIZES: [(u64, u64, usize); 3] =
    [(16 << 10, 24 << 10, 4 << 10), (32 << 10, 48 << 10, 8 << 10), (64 << 10, 128 << 10, 16 << 10)];

pub struct World {
    disk: Disk,
    model: Model,
    replay: Replay,
    rng: Rng,
    fault: Fault,
    log_sizes: (u64, u64, usize),
    /// The last crash was a kill, and caches hold what is not on the disk.
    left_unsynced: bool,
    /// The present life is to show that: it syncs nothing but its own log writes, and ends by a power cut.
    double: bool,
    pub counters: Counters,
}

impl World {
    pub fn new(seed: u64, fault: Fault) -> World {
        let mut rng = Rng::new(seed);
        World {
            log_sizes: LOG_SIZES[rng.below(LOG_SIZES.len())],
            disk: Disk::new(),
            model: Model::new(),
            replay: Replay::new(),
            rng,
            fault,
            left_unsynced: false,
            double: false,
            counters: Counters::default(),
        }
    }

    /// Some lives; the last one ends with everything done and everything compared.
    pub fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.rng.between(2, 6) {
            self.live(false)?;
            self.crash();
        }
        self.live(true)
    }

    fn log_config(&self, nonce: u64) -> LogConfig {
        let (first_segment_size, segment_size, batch_bytes_max) = self.log_sizes;
        LogConfig { first_segment_size, segment_size, batch_bytes_max, ..LogConfig::new(nonce) }
    }

    fn node_config(&self, nonce: u64) -> Config {
        let entry_bytes_max = self.log_sizes.1 as usize - 1024;
        Config { entry_bytes_max, ..Config::new(NodeId(MEMBER), nonce, nonce) }
    }

    fn outside(&mut self) -> Outside<'_> {
        Outside {
            disk: &mut self.disk,
            model: &mut self.model,
            replay: &mut self.replay,
            rng: &mut self.rng,
            counters: &mut self.counters,
            fault: self.fault,
        }
    }

    fn live(&mut self, to_the_end: bool) -> Result<(), String> {
        let mut life = self.start().map_err(|why| format!("at start {}: {why}", self.counters.lives))?;
        let most = self.rng.weighted(&[(1, 10), (2, 100), (3, 400), (1, 1000)]);
        let mut steps = self.rng.between(0, most);
        self.double = self.left_unsynced && self.rng.permille(500);
        if self.double {
            steps = self.rng.between(500, 1500);
            life.without_background();
        }
        for _ in 0..steps {
            life.step(&mut self.outside())?;
            if !to_the_end && self.rng.permille(life.delicacy_permille()) {
                break;
            }
        }
        if !to_the_end {
            self.count_hit(&life);
            return Ok(());
        }
        life.set_weights(Weights::settling());
        for _ in 0..SETTLING_STEPS_MAX {
            if !life.step(&mut self.outside())? {
                life.check(&mut self.outside())?;
                return life.check_settled(&self.outside());
            }
        }
        Err(format!("the member never comes to rest: {}", life.describe()))
    }

    fn count_hit(&mut self, life: &Life) {
        if let Some(phase) = life.checkpoint_phase() {
            self.counters.hit[phase as usize] += 1;
        }
        self.counters.hit_log_write += usize::from(self.disk.log.is_writing());
    }

    fn crash(&mut self) {
        if !self.double && self.rng.permille(400) {
            self.counters.kills += 1;
            self.disk.kill(&mut self.rng);
        } else {
            self.counters.power_cuts += 1;
            self.disk.cut_power(&mut self.rng);
        }
        self.left_unsynced = !self.disk.is_synced();
    }

    /// What a process does first, in the order of the server's `boot`.
    fn start(&mut self) -> Result<Life, String> {
        self.counters.lives += 1;
        self.counters.unsynced_starts += usize::from(self.left_unsynced);
        // What an earlier process left in the caches looks as if it were on the disk. Before anything is built on it,
        // it must be.
        if self.fault != Fault::TreeNotSyncedAtStart {
            self.disk.tree.sync();
        }
        if self.fault != Fault::DirectoryNotSyncedAtStart {
            self.disk.log.sync_directory();
        }
        let nonce = self.rng.next();
        let store = self.open_store(nonce)?;
        let applied = store.applied();
        let applied = LogPosition { index: Index(applied.index), term: Term(applied.term) };
        let recovered = recover(&self.disk.log.image(), LOG_IDENTITY, applied).map_err(|e| e.to_string())?;
        if self.fault != Fault::LogNotSyncedAtStart {
            self.disk.log.sync();
        }
        self.counters.torn_tails += usize::from(!recovered.notes.is_empty());
        let entries = &recovered.state.entries;
        let last = entries.last().map_or(applied.index, |entry| entry.index).0;
        self.counters.unacknowledged_kept += usize::from(last > self.model.acknowledged);
        if last < self.model.last() {
            self.replay.forget();
        }
        self.model.recovered(last, entries)?;
        let state = match recovered.is_new() {
            true => State::bootstrap(&[(NodeId(MEMBER), first_member().encode().into())]),
            false => recovered.state.clone(),
        };
        let mut log = Log::new(self.log_config(nonce), LOG_IDENTITY, recovered.tail);
        if self.disk.log.is_empty() {
            let first = log.segment_wanted().ok_or("the log wants no segment")?;
            self.disk.log.name(&first);
            self.disk.log.sync_directory();
            log.segment_ready(first.id, first.size);
        }
        let node = Node::new(self.node_config(nonce), state, applied, conf_state(&store)?);
        let weights = Weights::draw(&mut self.rng);
        let mut life = Life::new(node, log, store, nonce >> 24, weights)?;
        life.turn(&mut self.outside())?;
        Ok(life)
    }

    fn open_store(&mut self, nonce: u64) -> Result<Store, String> {
        let map = self.disk.tree.cache.clone();
        if self.disk.tree.len() == 0 {
            return Ok(Store::create(store_config(nonce), map));
        }
        check_file(&*map)?;
        let mut store = match Store::open(store_config(nonce), map.clone()) {
            Ok(store) => store,
            // A meta lies in one sector, so no crash can tear it.
            Err(OpenError::Empty { torn: None }) => {
                self.counters.empty += 1;
                return Ok(Store::create(store_config(nonce), map));
            }
            Err(error) => return Err(error.to_string()),
        };
        self.counters.opened += 1;
        let applied = store.applied().index;
        if applied > self.model.durable && self.fault == Fault::None {
            return Err(format!("the checkpoint holds entry {applied}, durable were {}", self.model.durable));
        }
        let view = store.publish().map_err(|damage| damage.to_string())?;
        check_store(&store, &view, &self.model, &mut self.replay, &mut self.rng)?;
        Ok(store)
    }
}

fn first_member() -> Member {
    Member { id: MEMBER, peer_urls: vec!["http://localhost:2380".to_owned()], ..Member::default() }
}

fn conf_state(store: &Store) -> Result<ConfState, String> {
    let members = apply::members(store).map_err(|fatal| fatal.to_string())?;
    let (voters, learners) = voters_and_learners(&members);
    let nodes = |ids: Vec<u64>| ids.into_iter().map(NodeId).collect();
    Ok(ConfState { voters: nodes(voters), learners: nodes(learners) })
}
