//! From a checked configuration to running executors, in the order that a crash at any point survives.
//!
//! Data directory (locked) → tree file (mapped, newest checkpoint) → log (recovered from there) → listening sockets → cores.
//! What is above the checkpoint comes back through the same path as a live commit; there is no replay of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use consensus::log::{Log, LogConfig, RecoverError, Recovered, SegmentId, recover};
use consensus::{Index, LogPosition, NodeId, Term};
use engine::tree::Damage;
use engine::{Store, View};
use node::Identity;
use node::cluster::change::removed_ids;
use node::membership::Member;
use node::propose::IdGenerator;
use node::store_core::conf_state;
use rustc_hash::FxHashMap;
use socket2::Socket;

use super::background::Background;
use super::boot_cluster;
use super::certificates::Certificates;
use super::checkpoint::CheckpointWriter;
use super::client_core::{ClientCore, Listener};
use super::clock::now;
use super::executors::{self, ClientWork, Work};
use super::failpoint::failpoint;
use super::fetches::Fetches;
use super::force_new;
use super::join;
use super::listen::{self, Serves};
use super::log_core::LogCore;
use super::messages::{FromLog, Order, ToLog};
use super::raft_core::RaftCore;
use super::repair;
use super::replication;
use super::ring::{Receiver, Sender, ring};
use super::scrub::Scrubber;
use super::segment_files::SegmentFiles;
use super::segments;
use super::shared::{Clients, Note, Shared};
use super::snapshot_files;
use super::store_core::StoreCore;
use super::trace::TracedNode;
use super::tree_file::TreeFile;
use super::wiring::Wiring;
use crate::config::limits::{DESCRIPTORS_RESERVED, PEER_CACHE_BYTES, PROPOSALS_IN_FLIGHT_BYTES_MAX};
use crate::config::{self, Config};
use crate::observe::metrics::{self, Facts};
use crate::placement::{self, Plan, Role};
use crate::sys::data_dir::{DataDir, TREE_FILE};
use crate::sys::{self, Fatal, FatalReason, probe};

/// Ticks per heartbeat: one. etcd too.
const HEARTBEAT_TICKS: usize = 1;

/// The segment that is made first.
const FIRST_SEGMENT: SegmentId = SegmentId(1);

/// Answers of the background thread that may wait for the log core; more than segments are ever under preparation.
const RING_SEGMENTS_MAX: usize = 64;

/// Finished checkpoints that may wait for the store core; more than one is never under way.
const RING_CHECKPOINTS_MAX: usize = 4;

/// How long a predecessor that was killed may keep its port and its lock.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of the tree file that are mapped in at start, so that first reads don't fault.
const WARM_BYTES: u64 = 4 << 30;

/// A running server. The main thread waits for [`Running::notes`].
pub struct Running {
    /// What the cores report.
    pub notes: crossbeam::channel::Receiver<Note>,
    /// What all cores look at.
    pub shared: Arc<Shared>,
    /// The main thread's way to each client core.
    pub orders: Vec<Sender<Order>>,
    /// Keeps the directory locked.
    _dir: DataDir,
}

impl Running {
    /// Removes the names of unix sockets, as etcd does when it closes them.
    pub fn remove_unix_sockets(&self) {
        let config = &self.shared.config;
        for (url, _) in client_urls(config).filter(|(url, _)| url.unix) {
            let _ = fs::remove_file(&url.host); // where that fails the next start does it
        }
    }
}

/// Starts everything. Returns when the threads run; [`Note::Ready`] says when clients are served.
///
/// # Errors
/// One of the closed list of reasons, with its sentence.
pub fn start(config: Config) -> Result<Running, Fatal> {
    let connections_max = connections_max(&config, probe::raise_open_files())?;
    let machine = sys::machine::usable().map_err(|error| failed("read the CPUs of this machine", &error))?;
    let plan = placement::plan(&machine, config.placement);
    tracing::info!(plan = %plan, notes = ?plan.notes, "placement of roles on CPUs");
    probe::memlock(executors::locked_bytes(&plan))?;
    probe::io_uring()?;
    let (mut dir, identity, remotes, peer_tls) = open_data_dir(&config)?;
    let sockets = bind_all(&config)?;
    let peer_listeners = boot_cluster::listeners(&config)?;
    let listeners = listeners(&config)?;
    if let Some(damaged) = repair::begin(&config, &dir, identity, None)? {
        match repair::run(&config, &dir, identity, damaged, peer_listeners, peer_tls)? {}
    }
    let opened = match open_state(&config, &mut dir, identity, peer_tls.as_ref()) {
        Ok(opened) => opened,
        Err(fatal) => match repair::begin(&config, &dir, identity, Some(fatal))? {
            Some(damaged) => {
                match repair::run(&config, &dir, identity, damaged, peer_listeners, peer_tls)? {}
            }
            None => return Err(Fatal::new(FatalReason::StartFailed, "opened neither whole nor damaged")),
        },
    };
    let clients = Clients { cores: plan.clients().len(), connections_max };
    if config.memory_mlock {
        lock_in_memory(&opened.tree)?;
    }
    let (shared, notes) = Shared::new(config, identity, clients, opened.tree.clone());
    describe(&shared);
    let peers = boot_cluster::peers(&shared, &opened, remotes, peer_listeners, peer_tls)?;
    let orders = launch(&shared, &plan, opened, peers, sockets, listeners)?;
    Ok(Running { notes, shared, orders, _dir: dir })
}

/// How many connections there may be where `descriptors` files may be open.
fn connections_max(config: &Config, descriptors: u64) -> Result<usize, Fatal> {
    let room = descriptors.saturating_sub(DESCRIPTORS_RESERVED);
    if room == 0 {
        return Err(Fatal::new(
            FatalReason::StartFailed,
            format!(
                "the limit of open files is {descriptors}, of which ringd needs {DESCRIPTORS_RESERVED} for itself: raise \
                 it with LimitNOFILE= in the systemd unit, --ulimit nofile= for containers, or /etc/security/limits.conf"
            ),
        ));
    }
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let Some(wanted) = config.max_connections else { return Ok(room) };
    if wanted as usize > room {
        tracing::warn!(
            "--ringd-max-connections={wanted} is more than the limit of open files ({descriptors}) leaves room for"
        );
    }
    Ok(wanted as usize)
}

/// The directory, whose it is, whom a member that joins has found, and the certificates with which it has asked.
fn open_data_dir(
    config: &Config,
) -> Result<(DataDir, Identity, Vec<Member>, Option<super::peers::Tls>), Fatal> {
    let mut dir = patiently(
        |error: &Fatal| error.reason == FatalReason::DataDirLocked,
        || DataDir::open(&config.data_dir, config.wal_dir.as_deref()),
    )?;
    for warning in &dir.warnings {
        tracing::warn!("{warning}");
    }
    probe::direct_io(&dir.log_path)?;
    let peer_tls = config.peer_tls.as_ref().map(super::peers::Tls::start).transpose()?;
    let mut remotes = Vec::new();
    let identity = match dir.identity {
        Some(identity) if identity.log_begun => identity,
        // A start that ended before the log was begun has promised nothing to anybody: this one is the first.
        _ => {
            let found = join::find_cluster(config, peer_tls.as_ref())?;
            remotes = found.remotes;
            let identity = sys::identity::Identity {
                member: found.identity.member_id,
                cluster: found.identity.cluster_id,
                log_begun: false,
            };
            dir.found(identity)?;
            identity
        }
    };
    tracing::info!(
        "member-id" = format!("{:x}", identity.member),
        "cluster-id" = format!("{:x}", identity.cluster),
        "data-dir" = %config.data_dir.display(),
        remotes = remotes.len(),
        "opened the data directory"
    );
    Ok((dir, Identity { cluster_id: identity.cluster, member_id: identity.member }, remotes, peer_tls))
}

/// What the log core is made of.
struct LogSeed {
    log: Log,
    dir: PathBuf,
    existing: Vec<SegmentId>,
    background: Background,
    fetches: Fetches,
}

impl LogSeed {
    fn into_work(
        self,
        shared: &Arc<Shared>,
        (appends, durable): (Receiver<ToLog>, Sender<FromLog>),
    ) -> Box<dyn FnOnce() -> LogCore + Send> {
        let shared = shared.clone();
        let (sender, prepared) = ring(RING_SEGMENTS_MAX);
        Box::new(move || LogCore {
            log: self.log,
            dir: self.dir,
            appends,
            durable,
            prepared,
            prepared_sender: Arc::new(Mutex::new(sender)),
            background: self.background,
            fetches: self.fetches,
            starts_at: Index(0),
            shared,
            existing: self.existing,
            files: FxHashMap::default(),
            retry_at: None,
        })
    }
}

/// What the disk holds, opened.
pub struct Opened {
    /// The applied state.
    pub store: Store,
    /// How it was opened; for one that a peer sends.
    pub settings: engine::Config,
    /// What the store says to whoever starts with it.
    pub contents: Contents,
    tree: Arc<TreeFile>,
    node: TracedNode,
    log: Log,
    log_identity: consensus::log::Identity,
    segments: Vec<SegmentId>,
    log_dir: PathBuf,
    /// Differs at each start.
    nonce: u64,
}

/// All of the store that a start reads. It is read before anything runs: damage that is found by then is repaired.
pub struct Contents {
    /// The members.
    pub members: Vec<Member>,
    /// Who was removed.
    pub removed: Vec<NodeId>,
    view: Arc<View>,
}

impl Contents {
    fn read(config: &Config, store: &mut Store) -> Result<Contents, Fatal> {
        let unreadable =
            |error: node::apply::Fatal| tree_damaged(config, &format!("cannot read the members: {error}"));
        let members = node::apply::members(store).map_err(unreadable)?;
        let removed = removed_ids(store).map_err(unreadable)?.into_iter().map(NodeId).collect();
        let view = store.publish().map_err(|damage| tree_damaged(config, &damage.to_string()))?;
        Ok(Contents { members, removed, view })
    }
}

fn open_state(
    config: &Config,
    dir: &mut DataDir,
    identity: Identity,
    peer_tls: Option<&super::peers::Tls>,
) -> Result<Opened, Fatal> {
    let log_begun = dir.identity.is_some_and(|identity| identity.log_begun);
    let (tree, existed) =
        TreeFile::open(&config.data_dir).map_err(|error| probe::from_write(&config.data_dir, &error))?;
    let nonce = random()?;
    let settings = store_settings(config, identity, nonce);
    let (store, torn) = open_store(config, &settings, &tree, existed)?;
    let log_dir = dir.log_path.clone();
    fs::create_dir_all(&log_dir).map_err(|error| probe::from_write(&log_dir, &error))?;
    let files = SegmentFiles::open(&log_dir).map_err(|error| failed("read the log's directory", &error))?;
    let applied = store.applied();
    let applied = LogPosition { index: Index(applied.index), term: Term(applied.term) };
    let tree_lost = log_begun && !existed;
    let log_exists = files.ids().next().is_some();
    if !log_exists && (log_begun || applied.index.0 > 0) {
        if tree_lost {
            let _ = tree.trim(0); // as it was found
        }
        return Err(log_lost(&log_dir));
    }
    let log_identity =
        consensus::log::Identity { cluster: identity.cluster_id, member: NodeId(identity.member_id) };
    let recovered =
        recover(&files, log_identity, applied).map_err(|error| match store.tree().bad_meta().or(torn) {
            // The log does not reach down to what was opened, because what should have been opened is damaged.
            Some(damage) => tree_damaged(config, &format!("{damage}; {error}")),
            None if tree_lost => {
                let _ = tree.trim(0); // as it was found
                let why =
                    format!("it is gone or empty, and the log does not go back to the beginning: {error}");
                tree_damaged(config, &why)
            }
            None => damaged(&log_dir, &error),
        })?;
    files.sync().map_err(|error| failed("sync the log", &error))?;
    for note in &recovered.notes {
        tracing::warn!("log: {note}");
    }
    if tree_lost {
        tracing::warn!(
            "the tree file was gone or empty; the log goes back to the beginning, so it is made anew"
        );
    }
    let is_new = recovered.is_new();
    if is_new {
        refuse_lost_beginning(&log_dir, &files)?;
    }
    let Recovered { state, tail, snapshot, .. } = recovered;
    let (mut store, tree, applied) = match snapshot {
        Some(position) => {
            let (store, tree) = snapshot_files::finish(&config.data_dir, settings.clone(), position)
                .map_err(|why| tree_damaged(config, &why))?;
            (store, tree, position)
        }
        None => (store, tree, applied),
    };
    snapshot_files::remove_leftovers(&config.data_dir)
        .map_err(|error| failed("remove what an interrupted snapshot has left", &error))?;
    let state = match (is_new, config.force_new_cluster) {
        (true, _) => join::first_state(config, identity, peer_tls)?,
        (false, true) => force_new::rewrite(config, &store, identity, applied, state)?,
        (false, false) => state,
    };
    let contents = Contents::read(config, &mut store)?;
    let mut log = Log::new(LogConfig::new(nonce), log_identity, tail);
    let mut segments: Vec<_> = files.ids().collect();
    if segments.is_empty() {
        let first = log
            .segment_wanted()
            .ok_or_else(|| Fatal::new(FatalReason::StartFailed, "the log wants no segment"))?;
        segments::prepare(&log_dir, &first).map_err(|error| probe::from_write(&log_dir, &error))?;
        log.segment_ready(first.id, first.size);
        segments.push(first.id);
    }
    failpoint("log-before-begun");
    dir.begin_log()?;
    failpoint("log-after-begun");
    let conf = conf_state(&contents.members);
    let node = TracedNode::new(node_config(config, identity, nonce), state, applied, conf);
    Ok(Opened { store, settings, contents, tree, node, log, log_identity, segments, log_dir, nonce })
}

/// `--memory-mlock`
fn lock_in_memory(tree: &TreeFile) -> Result<(), Fatal> {
    probe::raise_memlock();
    tree.lock_in_memory().map_err(|error| {
        Fatal::new(
            FatalReason::MemlockTooLow,
            format!(
                "--memory-mlock: the {} KiB of the tree file cannot be locked into memory ({error}): raise the limit with \
                 LimitMEMLOCK= in the systemd unit, --ulimit memlock= for containers, or /etc/security/limits.conf",
                tree.bytes() / 1024
            ),
        )
    })
}

/// A log without a batch is new, unless it lacks the segment that every log begins with: no other is made before that
/// one is complete and its name durable.
fn refuse_lost_beginning(log_dir: &Path, files: &SegmentFiles) -> Result<(), Fatal> {
    match files.ids().next() {
        None | Some(FIRST_SEGMENT) => Ok(()),
        Some(_) => Err(Fatal::new(
            FatalReason::LogDamaged,
            format!(
                "the Raft log in {} cannot be used: its first file {} is gone; restore the data directory from a \
                 snapshot, or remove the member and add it again",
                log_dir.display(),
                FIRST_SEGMENT.file_name()
            ),
        )),
    }
}

/// A log that was begun has segments.
fn log_lost(log_dir: &Path) -> Fatal {
    Fatal::new(
        FatalReason::LogDamaged,
        format!(
            "the Raft log in {} is gone: there is no {} or later file, but the file {:?} of the data directory says that \
             the log was begun, so writes were acknowledged that only the log has; nothing was changed: mount or name (--wal-dir) \
             the directory that holds the log, or restore the data directory from a backup; a member that never served \
             can be begun anew in an empty data directory",
            log_dir.display(),
            FIRST_SEGMENT.file_name(),
            sys::identity::FILE,
        ),
    )
}

/// How the tree of this member is opened.
pub fn store_settings(config: &Config, identity: Identity, nonce: u64) -> engine::Config {
    engine::Config {
        tree: engine::tree::Config {
            identity: engine::tree::Identity { cluster: identity.cluster_id, member: identity.member_id },
            nonce: nonce as u16,
        },
        // etcd: 1.5 election timeouts, in whole seconds
        lease_ttl_s_min: (config.election_timeout * 3 / 2).as_millis().div_ceil(1000) as i64,
    }
}

/// The store, and the damage to a meta page that made it begin with nothing.
fn open_store(
    config: &Config,
    settings: &engine::Config,
    tree: &Arc<TreeFile>,
    existed: bool,
) -> Result<(Store, Option<Damage>), Fatal> {
    if !existed {
        return Ok((Store::create(settings.clone(), tree.clone()), None));
    }
    match Store::open(settings.clone(), tree.clone()) {
        Ok(store) => Ok((store, None)),
        // No checkpoint was ever completed: everything is in the log. If it is not, the metas were damaged.
        Err(engine::tree::OpenError::Empty { torn }) => {
            Ok((Store::create(settings.clone(), tree.clone()), torn))
        }
        Err(engine::tree::OpenError::Foreign { found }) => {
            Err(another_members(config, found, settings.tree.identity))
        }
        Err(error) => Err(tree_damaged(config, &error.to_string())),
    }
}

/// The tree file is whole, and of another member than the rest of the directory.
fn another_members(config: &Config, found: engine::tree::Identity, own: engine::tree::Identity) -> Fatal {
    let path = config.data_dir.join(TREE_FILE);
    Fatal::new(
        FatalReason::IdentityMismatch,
        format!(
            "the tree file {} belongs to member {:x} of cluster {:x}, but this is the data directory of member {:x} of \
             cluster {:x}: put the right one back",
            path.display(),
            found.member,
            found.cluster,
            own.member,
            own.cluster
        ),
    )
}

/// The end where the tree file is of no use.
pub fn tree_damaged(config: &Config, why: &str) -> Fatal {
    let path = config.data_dir.join(TREE_FILE);
    let message = format!(
        "the tree file {} cannot be used: {why}; nothing was changed: restore this member from a backup",
        path.display()
    );
    Fatal::new(FatalReason::TreeDamaged, message)
}

fn node_config(config: &Config, identity: Identity, nonce: u64) -> consensus::Config {
    consensus::Config {
        heartbeat_ticks: HEARTBEAT_TICKS,
        election_ticks: config.election_ticks(),
        proposal_bytes_limit: PROPOSALS_IN_FLIGHT_BYTES_MAX,
        cache_bytes_limit: PEER_CACHE_BYTES,
        ..consensus::Config::new(NodeId(identity.member_id), nonce, nonce)
    }
}

fn bind_all(config: &Config) -> Result<Vec<Socket>, Fatal> {
    let keepalive = &config.grpc_keepalive;
    let options = listen::Options {
        reuse_port: config.socket_reuse_port,
        user_timeout: Some(keepalive.timeout).filter(|time| !keepalive.interval.is_zero() && !time.is_zero()),
    };
    let urls = client_urls(config).map(|(url, _)| url);
    urls.map(|url| {
        patiently(
            |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse,
            || match url.unix {
                true => listen::bind_unix(&url.host),
                false => listen::bind(&url.host, url.port, options),
            },
        )
        .map_err(|error| probe::from_listen(&url.url, &error))
    })
    .collect()
}

/// Tries again for a while as long as the failure is `passing`. After a kill -9 the kernel tears io_uring down after the
/// process has been reaped: for some milliseconds its listening sockets and its lock are still there.
pub fn patiently<T, E>(
    passing: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let give_up = Instant::now() + PREDECESSOR_PATIENCE;
    loop {
        match attempt() {
            Err(error) if passing(&error) && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn listeners(config: &Config) -> Result<Vec<Listener>, Fatal> {
    let tls = config.client_tls.clone().map(Certificates::start).transpose()?;
    let of = |(url, serves): (&config::Listen, _)| Listener { tls: tls.clone().filter(|_| url.tls), serves };
    Ok(client_urls(config).map(of).collect())
}

/// Every URL for clients, and what is served there.
fn client_urls(config: &Config) -> impl Iterator<Item = (&config::Listen, Serves)> {
    let serves = if config.listen_client_http.is_empty() { Serves::All } else { Serves::Grpc };
    let with = |serves| move |url| (url, serves);
    let pages = config.listen_client_http.iter().map(with(Serves::Pages));
    let metrics = config.listen_metrics.iter().map(with(Serves::Metrics));
    config.listen_client.iter().map(with(serves)).chain(pages).chain(metrics)
}

fn launch(
    shared: &Arc<Shared>,
    plan: &Plan,
    opened: Opened,
    peers: replication::Seed,
    sockets: Vec<Socket>,
    listeners: Vec<Listener>,
) -> Result<Vec<Sender<Order>>, Fatal> {
    let clients = plan.clients();
    let mut wiring = Wiring::new(clients.len());
    let mut work: Vec<Work> = plan.executors.iter().map(|_| Work::default()).collect();
    let (tree_background, log_background) = (background("ringd-tree")?, background("ringd-log")?);
    let warm = opened.tree.clone();
    tree_background.run(move || warm.populate(WARM_BYTES));

    let log = LogSeed {
        log: opened.log,
        dir: opened.log_dir.clone(),
        existing: opened.segments,
        background: log_background,
        fetches: Fetches::new(opened.log_dir, opened.log_identity, background("ringd-fetch")?),
    };
    work[plan.executor_of(Role::Log)].log = Some(log.into_work(shared, wiring.log_rings()));
    let (node, rings, raft_shared) = (opened.node, wiring.raft_rings(), shared.clone());
    work[plan.executor_of(Role::Raft)].raft = Some((
        Box::new(move || RaftCore::new(node, rings, peers, raft_shared)),
        shared.config.heartbeat_interval,
    ));

    let lanes = clients.len() as u16 + 1;
    let unix_ms = unix_ms();
    let ids = |lane: usize| IdGenerator::new(shared.identity.member_id, unix_ms, lane as u16, lanes);
    let (store, view) = (opened.store, opened.contents.view);
    let (done_tx, done_rx) = ring(RING_CHECKPOINTS_MAX);
    let threads = (background("ringd-scrub")?, tree_background.clone());
    let scrubber =
        Scrubber::new(opened.tree.clone(), threads, store.tree().bad_meta(), shared.clone(), now());
    let checkpoints = CheckpointWriter::new(opened.tree, tree_background, done_tx);
    let rings = wiring.store_rings(done_rx);
    work[plan.executor_of(Role::Store)].store = Some(Box::new(StoreCore::new(
        store,
        rings,
        (checkpoints, scrubber),
        (ids(clients.len()), opened.nonce),
        shared.clone(),
    )));

    let mut orders = Vec::new();
    let mut sockets: Vec<_> = sockets.into_iter().enumerate().collect();
    for (number, executor) in clients.iter().enumerate() {
        let ends = wiring.client_ends(number);
        orders.push(ends.orders);
        let (shared, view, listeners, ids) = (shared.clone(), view.clone(), listeners.clone(), ids(number));
        let outgoing = (ends.to_raft, ends.to_store);
        work[*executor].client = Some(ClientWork {
            core: Box::new(move || ClientCore::new(number, shared, view, ids, outgoing, listeners)),
            rings: ends.incoming,
            sockets: std::mem::take(&mut sockets),
            others: if number == 0 { std::mem::take(&mut wiring.accepted) } else { Vec::new() },
        });
    }
    for (executor, work) in plan.executors.iter().zip(work) {
        executors::start(executor, work).map_err(|error| failed("start an executor", &error))?;
    }
    Ok(orders)
}

/// What metrics say that doesn't change.
fn describe(shared: &Shared) {
    let gates = shared.config.feature_gates.iter().map(|gate| (gate.name, gate.stage, gate.enabled));
    shared.metrics.describe(Facts {
        member_id: shared.identity.member_id,
        feature_gates: gates.collect(),
        extensive: shared.config.metrics_extensive,
    });
    let quota = shared.config.quota_backend_bytes.unwrap_or(0);
    metrics::here().plain.quota_backend_bytes.set_unsigned(quota);
}

/// A background thread.
pub fn background(name: &str) -> Result<Background, Fatal> {
    Background::start(name).map_err(|error| failed("start a background thread", &error))
}

fn failed(what: &str, error: &io::Error) -> Fatal {
    Fatal::new(FatalReason::StartFailed, format!("cannot {what}: {error}"))
}

fn damaged(dir: &Path, error: &RecoverError) -> Fatal {
    Fatal::new(FatalReason::LogDamaged, format!("the Raft log in {} cannot be used: {error}", dir.display()))
}

/// A number that differs at each start: for read tokens, page births, the log's id.
pub fn random() -> Result<u64, Fatal> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| failed("draw a random number", &error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The wall clock, for ids only.
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |duration| duration.as_millis() as u64)
}
