//! The start of a process, in the order of the server's `boot`.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Duration;

use consensus::log::{Identity as LogIdentity, Log, LogConfig, Recovered, State, Tail, recover};
use consensus::trace::encode_start;
use consensus::{Config, Index, LogPosition, Node, NodeId, Term};
use engine::Store;
use engine::tree::{self, OpenError};
use node::cluster::{added_member_id, change};
use node::cores::FromLog;
use node::membership;
use node::propose::IdGenerator;
use node::raft_core;
use node::raft_core::trace::Recorded;
use node::store_core::{Input, conf_state};
use node::watch_hub::{Config as HubConfig, Hub};
use node::{Identity, apply};
use rustc_hash::FxHashMap;

use super::{Done, LogCore, Member, Peers, RaftCore, Shared, SnapshotFiles, StoreCore, client_core, stops};
use crate::check::Failure;
use crate::disk::Disk;
use crate::env::{Env, NodeNumber, Wake};
use crate::queue::MS;

/// The cluster's id.
pub const CLUSTER: u64 = 0xc1;

/// Changes of the membership that wait for their turn, as in the server's limits.
const CONF_CHANGES_OPEN_MAX: usize = 64;

/// Bytes of proposals that wait for a leader: few, so that worlds get there.
const ORPHAN_BYTES_MAX: usize = 64 << 10;

/// Hosts of a world, at most.
pub const HOSTS_MAX: usize = 8;

/// Where a host's peers reach it.
pub fn peer_url(number: NodeNumber) -> String {
    format!("http://10.0.0.{number}:2380")
}

/// Each host has one id, which is that of a member added under its URL when the clock began.
static IDS: LazyLock<[NodeId; HOSTS_MAX]> =
    LazyLock::new(|| std::array::from_fn(|number| NodeId(added_member_id(&[peer_url(number)], 0))));

/// The id of a member.
pub fn node_id(number: NodeNumber) -> NodeId {
    IDS[number]
}

/// Undoes [`node_id`].
pub fn node_number(id: NodeId) -> NodeNumber {
    IDS.iter().position(|known| *known == id).expect("the id of a host")
}

fn first_member(number: NodeNumber) -> membership::Member {
    membership::Member {
        id: node_id(number).0,
        peer_urls: vec![peer_url(number)],
        ..membership::Member::default()
    }
}

impl Member {
    /// Starts a process on what its disk holds. `nonce` is from the system's random source. `remotes` are the members that
    /// one finds who joins a cluster, and starts for the first time.
    ///
    /// # Errors
    /// It refuses to start, or a checker has seen something.
    pub fn boot(
        env: &mut Env,
        disk: &mut Disk,
        number: NodeNumber,
        life: u32,
        nonce: u64,
        remotes: Vec<membership::Member>,
    ) -> Result<Member, Failure> {
        // What an earlier process left in the caches looks as if it were on the disk. Before anything is built on it, it
        // must be.
        disk.tree.sync();
        disk.log.sync_directory();
        let store_config = store_config(env, number, nonce);
        let mut store = open_store(&store_config, disk, number)?;
        let identity = LogIdentity { cluster: CLUSTER, member: node_id(number) };
        let mut recovered = recover_log(env, disk, number, identity, &store)?;
        if let Some(snapshot) = recovered.snapshot {
            // The process ended between the log's new beginning and the new tree's final name.
            let Some(next) = disk.next_tree.take() else { return stops(number, "a snapshot is missing") };
            drop(std::mem::replace(&mut disk.tree, next));
            store = open_store(&store_config, disk, number)?;
            if position(&store) != snapshot {
                return stops(number, "the snapshot that waits is another one");
            }
            recovered = recover_log(env, disk, number, identity, &store)?;
        }
        disk.next_tree = None;
        disk.log.sync();
        let applied = handed_out(env, position(&store));
        let is_new = recovered.is_new();
        let Recovered { state, tail, .. } = recovered;
        let log = open_log(env, disk, identity, tail, nonce);
        env.oracle.recovered(number, applied.index.0, state.hard_state, &state.entries)?;
        let founds = is_new && number < env.config.members;
        let state = if founds { State::bootstrap(&bootstrap_members(env)) } else { state };
        let (members, removed) = members_of(&store, number)?;
        let removed: Vec<NodeId> = removed.into_iter().map(NodeId).collect();
        let conf = conf_state(&members);
        let members = if members.is_empty() { first_members(env, number, remotes) } else { members };
        let peers = Peers::new(
            node_id(number),
            members.clone(),
            &removed,
            3 * Duration::from_nanos(env.config.election()),
        );
        let config = node_config(env, number, nonce);
        let start = env.records.then(|| encode_start(&config, &state, applied, &conf));
        let node = Node::new(config, state, applied, conf);
        let core = Recorded::new(node, start.as_deref(), raft_config(env, number), members, removed);
        let Ok(view) = store.publish() else { return stops(number, "the tree file is damaged") };
        let covered = view.applied().index;
        let unix_ms = env.queue.now() / MS + u64::from(life);
        let ids = |lane| IdGenerator::new(node_id(number).0, unix_ms, lane, 2);
        let identity = Identity { cluster_id: CLUSTER, member_id: node_id(number).0 };
        let hub = HubConfig {
            progress_interval: Duration::from_nanos(env.config.progress),
            fragment_bytes_max: env.config.tiny.map_or(2 << 20, |tiny| tiny.fragment),
            ..HubConfig::new(identity, nonce)
        };
        let mut member = Member {
            number,
            life,
            identity,
            booted: env.queue.now(),
            shared: Shared { applied: covered, ..Shared::default() },
            raft: RaftCore {
                core,
                inbox: VecDeque::new(),
                requests: FxHashMap::default(),
                conf_at: applied.index,
            },
            log: LogCore {
                log,
                appends: VecDeque::new(),
                fetches: VecDeque::new(),
                fetchers: FxHashMap::default(),
                first_index: Index(0),
                writing_since: None,
                preparing: VecDeque::new(),
                segments_from: 0,
                stalled_until: 0,
                fail_next: false,
                completing: None,
            },
            store: StoreCore::new(env, store, ids(1), (number, life), nonce),
            client: client_core::start(env, life, identity, ids(0), Hub::new(hub, view.clone(), 0), view),
            snapshot: SnapshotFiles::default(),
            peers,
            ticks: 0,
            store_config,
            scheduled: [false; 4],
            tick_due: 0,
        };
        member.start(env)?;
        Ok(member)
    }

    fn start(&mut self, env: &mut Env) -> Done {
        self.step_store(env, Input::Start)?;
        self.wake(env, Wake::Raft);
        self.wake(env, Wake::Store);
        self.log.first_index = self.log.log.first_index();
        let first = self.log.first_index;
        self.tell_raft(env, raft_core::Input::Log(FromLog::StartsAt(first)));
        self.schedule_tick(env);
        self.schedule_store_tick(env);
        self.schedule_housekeeping(env);
        Ok(())
    }
}

pub(super) fn position(store: &Store) -> LogPosition {
    let applied = store.applied();
    LogPosition { index: Index(applied.index), term: Term(applied.term) }
}

/// What a checkpoint covers, and for a planted bug one entry less.
fn handed_out(env: &Env, applied: LogPosition) -> LogPosition {
    let before = applied.index.0.checked_sub(2).and_then(|at| env.oracle.log.get(at as usize));
    match before {
        Some(before) if planted::is("entry-applied-twice") => {
            LogPosition::new(applied.index.0 - 1, before.term)
        }
        _ => applied,
    }
}

fn recover_log(
    env: &Env,
    disk: &Disk,
    number: NodeNumber,
    identity: LogIdentity,
    store: &Store,
) -> Result<Recovered, Failure> {
    recover(&disk.log.image(), identity, handed_out(env, position(store)))
        .or_else(|error| stops(number, error))
}

pub(super) fn store_config(env: &Env, number: NodeNumber, nonce: u64) -> engine::Config {
    engine::Config {
        tree: tree::Config {
            identity: tree::Identity { cluster: CLUSTER, member: node_id(number).0 },
            nonce: nonce as u16,
        },
        lease_ttl_s_min: env.config.lease_ttl_min,
    }
}

fn open_store(config: &engine::Config, disk: &Disk, number: NodeNumber) -> Result<Store, Failure> {
    let map = disk.tree.cache.clone();
    if disk.tree.is_empty() {
        return Ok(Store::create(config.clone(), map));
    }
    match Store::open(config.clone(), map.clone()) {
        Ok(store) => Ok(store),
        // A meta lies in one sector, so no crash can tear it.
        Err(OpenError::Empty { torn: None }) => Ok(Store::create(config.clone(), map)),
        Err(error) => stops(number, error),
    }
}

/// The log's first segment is made before anything else can be.
fn open_log(env: &Env, disk: &mut Disk, identity: LogIdentity, tail: Tail, nonce: u64) -> Log {
    let (first_segment_size, segment_size, batch_bytes_max) = env.config.log_sizes;
    let config = LogConfig { first_segment_size, segment_size, batch_bytes_max, ..LogConfig::new(nonce) };
    let mut log = Log::new(config, identity, tail);
    if disk.log.is_empty() {
        let first = log.segment_wanted().expect("a new log wants its first segment");
        disk.log.name(&first);
        disk.log.sync_directory();
        log.segment_ready(first.id, first.size);
    }
    log
}

fn bootstrap_members(env: &Env) -> Vec<(NodeId, bytes::Bytes)> {
    (0..env.config.members).map(|number| (node_id(number), first_member(number).encode().into())).collect()
}

fn raft_config(env: &Env, number: NodeNumber) -> raft_core::Config {
    let election_timeout = Duration::from_nanos(env.config.election());
    raft_core::Config {
        own: node_id(number),
        election_timeout,
        request_timeout: client_core::request_timeout_in(env),
        orphan_bytes_max: ORPHAN_BYTES_MAX,
        conf_changes_open_max: CONF_CHANGES_OPEN_MAX,
    }
}

fn node_config(env: &Env, number: NodeNumber, nonce: u64) -> Config {
    let mut config = Config::new(node_id(number), nonce, nonce);
    config.election_ticks = env.config.election_ticks;
    config.entry_bytes_max = env.config.log_sizes.1 as usize - 1024;
    config.cache_bytes_limit = env.config.cache_bytes;
    if let Some(tiny) = &env.config.tiny {
        tiny.bound(&mut config);
    }
    config
}

/// The members of a store, and the ids of those that were removed.
pub(super) fn members_of(
    store: &Store,
    number: NodeNumber,
) -> Result<(Vec<membership::Member>, Vec<u64>), Failure> {
    let found = apply::members(store).and_then(|members| Ok((members, change::removed_ids(store)?)));
    found.or_else(|fatal| stops(number, fatal))
}

/// Whom a member knows before it has applied anything: the founders, if it is one; else itself and those that it has found.
pub(super) fn first_members(
    env: &Env,
    number: NodeNumber,
    mut remotes: Vec<membership::Member>,
) -> Vec<membership::Member> {
    if number < env.config.members {
        return (0..env.config.members).map(first_member).collect();
    }
    if remotes.iter().all(|member| member.id != node_id(number).0) {
        remotes.push(first_member(number));
    }
    remotes
}
