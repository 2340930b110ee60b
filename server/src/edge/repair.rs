//! A member with a damaged log or tree, healed by its peers.
//!
//! Alone, such a member refuses to start. One of several keeps its promises and nothing else: what it may have acknowledged
//! and how it has voted is written to a file of its own (`repair`), and a `consensus::repair::Voter` answers in the place
//! of a node, until a leader has sent a snapshot that covers all of it. Then the damaged log is put aside, a new one begins
//! behind the snapshot, and the process starts over as an ordinary member. Until then it serves no client.
//!
//! ```text
//! promise durable ─▶ votes, asks for a snapshot ─▶ tree.next durable ─▶ segments ▷ damaged/ ─▶ new log durable
//!   ─▶ tree.next ▷ tree ─▶ promise removed ─▶ exec
//! ```
//!
//! The damaged log stays below its own directory, which may be a mount point or the data directory: these have no other names.
//!
//! As long as the promise is there, a start repeats all of this from the beginning; so a crash at any step is harmless.

use std::convert::Infallible;
use std::fs::{self, File};
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consensus::log::{Identity as LogIdentity, Log, LogConfig, Survey, Tail};
use consensus::repair::{Promise, Voter, VoterInput, VoterOutput};
use consensus::{Append, HardState, Index, LogPosition, Message, NodeId, PeerMessage, ReadyNumber, Term};
use engine::Store;
use futures_lite::future::or;
use glommio::{LocalExecutorBuilder, Placement};
use node::Identity;
use node::cluster::change::removed_ids;
use node::membership::Member;

use super::boot::{random, store_settings};
use super::boot_cluster::{self, first_members};
use super::clock::now;
use super::peers::{self, Incoming, Peers, SnapshotFile};
use super::segment_files::SegmentFiles;
use super::snapshot_files::{self, Imported};
use super::tree_file::TreeFile;
use super::{force_new, segments};
use crate::config::Config;
use crate::sys::data_dir::{DataDir, TREE_FILE};
use crate::sys::{Fatal, FatalReason};

/// Name of the promise's file in the data directory.
pub const PROMISE_FILE: &str = "repair";

/// Name of the file that says that a running process has found a damaged page.
pub const TREE_DAMAGED_FILE: &str = "tree.damaged";

/// Name of the folder, in the log's directory, of the segments that were damaged.
const DAMAGED_LOG_DIR: &str = "damaged";

/// Bytes of locked memory of the one executor: it does no direct I/O.
const IO_MEMORY: usize = 64 << 10;

/// A member under repair.
pub struct Repair {
    promise: Promise,
    members: Vec<Member>,
    removed: Vec<NodeId>,
    settings: engine::Config,
}

/// Whether this member has to be repaired, as an earlier process or this one has found: `why` is how opening it failed.
///
/// # Errors
/// `why`, where repair is not possible: the member is alone, has no log left, or one that does not tell how it has voted. Or
/// what was found can't be written down.
pub fn begin(
    config: &Config,
    dir: &DataDir,
    identity: Identity,
    why: Option<Fatal>,
) -> Result<Option<Repair>, Fatal> {
    let promised = read_promise(&config.data_dir)?;
    let marked = config.data_dir.join(TREE_DAMAGED_FILE).exists();
    let wanted = promised.is_some() || marked || why.as_ref().is_some_and(is_damage);
    // A cluster of one that is forced has no peers who could help.
    if !wanted || config.force_new_cluster {
        return why.map_or(Ok(None), Err);
    }
    let settings = store_settings(config, identity, random()?);
    let (applied, members, removed) = look_at_tree(config, &settings, identity);
    let log_identity = LogIdentity { cluster: identity.cluster_id, member: NodeId(identity.member_id) };
    let promise = match promised {
        Some(promise) => promise,
        None => match survey(&dir.log_path, log_identity).filter(|_| members.len() > 1) {
            Some(survey) => match Promise::of(log_identity, &survey, applied) {
                Some(promise) => promise,
                None => return why.map_or(Ok(None), |why| Err(votes_lost(why))),
            },
            None => return why.map_or(Ok(None), Err),
        },
    };
    write_promise(&config.data_dir, &promise).map_err(|error| unwritable(&config.data_dir, &error))?;
    tracing::error!(
        reason = why.as_ref().map(|fatal| fatal.message.clone()).unwrap_or_else(|| "found before".into()),
        floor = promise.floor.index.0,
        floor_term = promise.floor.term.0,
        "this member is damaged; it waits for a snapshot of its peers and serves nothing until then"
    );
    Ok(Some(Repair { promise, members, removed, settings }))
}

/// See the end of `consensus::repair`.
fn votes_lost(why: Fatal) -> Fatal {
    let message = format!(
        "{}; what is left of the log does not tell how this member has voted, so its peers cannot repair it: remove the member \
         and add it again with an empty data directory",
        why.message
    );
    Fatal::new(why.reason, message)
}

fn is_damage(fatal: &Fatal) -> bool {
    matches!(fatal.reason, FatalReason::LogDamaged | FatalReason::TreeDamaged)
}

/// What the tree still says, or the flags where it says nothing.
fn look_at_tree(
    config: &Config,
    settings: &engine::Config,
    identity: Identity,
) -> (LogPosition, Vec<Member>, Vec<NodeId>) {
    // Opening would make a file that is not there, and the next start would take it for one that was.
    let is_there = fs::metadata(config.data_dir.join(TREE_FILE)).is_ok_and(|file| file.len() > 0);
    let opened = is_there.then(|| TreeFile::open(&config.data_dir).ok()).flatten().and_then(|(tree, _)| {
        let store = Store::open(settings.clone(), tree).ok()?;
        let members = node::apply::members(&store).ok()?;
        let removed = removed_ids(&store).ok()?.into_iter().map(NodeId).collect::<Vec<_>>();
        let applied = store.applied();
        Some((LogPosition { index: Index(applied.index), term: Term(applied.term) }, members, removed))
    });
    match opened {
        Some(found) if !found.1.is_empty() => found,
        _ => (LogPosition::default(), first_members(config, identity, Vec::new()), Vec::new()),
    }
}

fn survey(log_dir: &Path, identity: LogIdentity) -> Option<Survey> {
    let files = SegmentFiles::open_beside_writer(log_dir).ok()?;
    files.ids().next()?;
    Survey::take(&files, identity).ok()
}

fn read_promise(dir: &Path) -> Result<Option<Promise>, Fatal> {
    match fs::read(dir.join(PROMISE_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unwritable(dir, &error)),
        Ok(bytes) => Promise::decode(&bytes).map(Some).map_err(|_| {
            Fatal::new(
                FatalReason::LogDamaged,
                format!(
                    "the file {} does not say what this damaged member has promised: remove the member and add it again",
                    dir.join(PROMISE_FILE).display()
                ),
            )
        }),
    }
}

fn write_promise(dir: &Path, promise: &Promise) -> io::Result<()> {
    let temporary = dir.join(format!("{PROMISE_FILE}.new"));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&promise.encode())?;
    file.sync_all()?;
    fs::rename(temporary, dir.join(PROMISE_FILE))?;
    File::open(dir)?.sync_all()
}

fn unwritable(dir: &Path, error: &io::Error) -> Fatal {
    Fatal::new(FatalReason::DataDirUnwritable, format!("cannot repair {}: {error}", dir.display()))
}

/// Repairs, then starts the process over. Returns only if that is not possible.
///
/// # Errors
/// The member was removed, or the disk fails.
pub fn run(
    config: &Config,
    dir: &DataDir,
    identity: Identity,
    repair: Repair,
    listeners: Vec<peers::Listener>,
    tls: Option<peers::Tls>,
) -> Result<Infallible, Fatal> {
    let settings = boot_cluster::peer_settings(config, identity, &repair.members, tls)?;
    let healing = Healing {
        data_dir: config.data_dir.clone(),
        log_dir: dir.log_path.clone(),
        identity,
        store: repair.settings,
        voter: Voter::new(repair.promise, config.election_ticks()),
        imports: crossbeam::channel::bounded(1),
        importing: false,
    };
    let (members, removed, interval) = (repair.members, repair.removed, config.heartbeat_interval);
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name("repair")
        .io_memory(IO_MEMORY)
        .spawn(move || async move {
            // The process ends here: an executor with open connections does not end by itself.
            match heal(healing, settings, listeners, members, removed, interval).await {
                Ok(()) => crate::sys::exit(&start_over()),
                Err(fatal) => crate::sys::exit(&fatal),
            }
        })
        .map_err(|error| cannot("start an executor", &error))?;
    match executor.join() {
        Ok(never) => never,
        Err(error) => Err(cannot("go on with the repair", &error)),
    }
}

fn cannot(what: &str, error: &dyn std::fmt::Display) -> Fatal {
    Fatal::new(FatalReason::StartFailed, format!("cannot {what}: {error}"))
}

async fn heal(
    healing: Healing,
    settings: peers::Settings,
    listeners: Vec<peers::Listener>,
    members: Vec<Member>,
    removed: Vec<NodeId>,
    interval: Duration,
) -> Result<(), Fatal> {
    let peers =
        Peers::start(settings, listeners).map_err(|error| cannot("start the peer connections", &error))?;
    peers.set_members(&members, &removed);
    healing.run(&peers, interval).await
}

/// The same program with the same arguments, in the same process. Returns only where that fails.
fn start_over() -> Fatal {
    let error = match std::env::current_exe() {
        Ok(program) => std::process::Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    cannot("start over after the repair, start it again", &error)
}

type Import = (NodeId, Box<Message>, Result<Imported, String>);

struct Healing {
    data_dir: PathBuf,
    log_dir: PathBuf,
    identity: Identity,
    store: engine::Config,
    voter: Voter,
    imports: (crossbeam::channel::Sender<Import>, crossbeam::channel::Receiver<Import>),
    importing: bool,
}

impl Healing {
    /// Until a snapshot is installed. Its few small writes block this thread, on which nothing else waits for a disk.
    async fn run(mut self, peers: &Peers, interval: Duration) -> Result<(), Fatal> {
        let mut due = now() + interval;
        loop {
            let incoming = or(async { Some(poll_fn(|cx| peers.poll_incoming(cx)).await) }, async {
                glommio::timer::sleep(due.saturating_sub(now())).await;
                None
            })
            .await;
            let input = match incoming {
                Some(incoming) => self.handle(incoming)?,
                None => {
                    due += interval;
                    peers.tick(now());
                    self.step(VoterInput::Tick, peers)?;
                    self.imported()
                }
            };
            if let Some(input) = input
                && self.step(input, peers)?
            {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, incoming: Incoming) -> Result<Option<VoterInput>, Fatal> {
        match incoming {
            Incoming::Message(from, message) => Ok(Some(VoterInput::Receive(from, message))),
            Incoming::Removed => Err(force_new::removed(self.identity)),
            Incoming::SnapshotReceived { from, file, message } => Ok(self.import(from, file, message)),
            Incoming::Unreachable(_) | Incoming::Reachable(_) | Incoming::SnapshotSent(..) => Ok(None),
        }
    }

    fn import(&mut self, from: NodeId, file: SnapshotFile, message: Box<Message>) -> Option<VoterInput> {
        if self.importing {
            let _ = fs::remove_file(file.path); // it is sent again if it is still wanted
            return None;
        }
        self.importing = true;
        let (dir, store, answer) = (self.data_dir.clone(), self.store.clone(), self.imports.0.clone());
        std::thread::spawn(move || {
            let result = snapshot_files::import(&dir, &file, store);
            let _ = answer.send((from, message, result)); // one at a time, so there is room
        });
        Some(VoterInput::SnapshotArrived)
    }

    fn imported(&mut self) -> Option<VoterInput> {
        let (from, message, result) = self.imports.1.try_recv().ok()?;
        self.importing = false;
        match result {
            Ok(Imported { .. }) => Some(VoterInput::Receive(from, Box::new(PeerMessage::Raft(*message)))),
            Err(error) => {
                tracing::error!(%error, "a received snapshot is unusable");
                Some(VoterInput::SnapshotUnusable)
            }
        }
    }

    /// True when a snapshot is installed.
    fn step(&mut self, input: VoterInput, peers: &Peers) -> Result<bool, Fatal> {
        let mut outputs = Vec::new();
        self.voter.step(input, &mut outputs);
        while !outputs.is_empty() {
            for output in std::mem::take(&mut outputs) {
                match output {
                    VoterOutput::Persist(promise) => {
                        write_promise(&self.data_dir, &promise)
                            .map_err(|error| unwritable(&self.data_dir, &error))?;
                        self.voter.step(VoterInput::Durable, &mut outputs);
                    }
                    VoterOutput::Send(envelope) => peers.send(envelope.to, &envelope.message),
                    VoterOutput::SnapshotIgnored(position) => {
                        tracing::warn!(
                            index = position.index.0,
                            "a snapshot does not cover what was acknowledged"
                        );
                    }
                    VoterOutput::Install { position, hard_state, .. } => {
                        self.install(position, hard_state)
                            .map_err(|error| unwritable(&self.data_dir, &error))?;
                        tracing::info!(index = position.index.0, "repaired by a snapshot; starting over");
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn install(&self, position: LogPosition, hard_state: HardState) -> io::Result<()> {
        put_aside(&self.log_dir)?;
        self.begin_log(position, hard_state)?;
        snapshot_files::install(&self.data_dir)?;
        for name in [TREE_DAMAGED_FILE, PROMISE_FILE] {
            match fs::remove_file(self.data_dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(&self.data_dir)?.sync_all()
    }

    /// A log that begins behind the snapshot, with what has been voted.
    fn begin_log(&self, position: LogPosition, hard_state: HardState) -> io::Result<()> {
        let identity =
            LogIdentity { cluster: self.identity.cluster_id, member: NodeId(self.identity.member_id) };
        let nonce = random().map_err(|fatal| io::Error::other(fatal.message))?;
        let mut log = Log::new(LogConfig::new(nonce), identity, Tail::default());
        let first = log.segment_wanted().ok_or_else(|| io::Error::other("a new log wants no segment"))?;
        segments::prepare(&self.log_dir, &first)?;
        log.segment_ready(first.id, first.size);
        let ready = ReadyNumber(1);
        log.append(Append { ready, hard_state, entries: Vec::new(), reset: Some(position) });
        while let Some(plan) = log.poll_write() {
            let mut buffer = vec![0; plan.len];
            log.encode(&plan, &mut buffer);
            let file =
                fs::OpenOptions::new().write(true).open(self.log_dir.join(plan.segment.file_name()))?;
            file.write_all_at(&buffer, plan.offset)?;
            file.sync_all()?;
            if log.written(Duration::ZERO) == Some(ready) {
                return Ok(());
            }
        }
        Err(io::Error::other("the new log's first write was not made"))
    }
}

/// Moves the segments out of the way, durably. What an earlier repair has left there goes.
fn put_aside(log_dir: &Path) -> io::Result<()> {
    let aside = log_dir.join(DAMAGED_LOG_DIR);
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(&aside)?;
    for id in SegmentFiles::open(log_dir)?.ids() {
        let name = id.file_name();
        fs::rename(log_dir.join(&name), aside.join(&name))?;
    }
    File::open(&aside)?.sync_all()?;
    File::open(log_dir)?.sync_all()
}

/// A running process has found a damaged page: the next start repairs this member instead of serving from it. Best effort,
/// in a process that is about to end; without the file the next start finds the damage again.
pub fn mark_tree_damaged(dir: &Path) {
    let marked = File::create(dir.join(TREE_DAMAGED_FILE)).and_then(|file| file.sync_all());
    if let Err(error) = marked.and_then(|()| File::open(dir)?.sync_all()) {
        tracing::error!(%error, "cannot note that the tree file is damaged");
    }
}
