//! One member: the machines of production, and between them the wiring that the server's edge does with rings and timers.
//!
//! Nothing here decides anything. Proposals are made by `node::api` and `node::propose`, ordered by `node::raft_core`, made
//! durable by `consensus::log::Log`, applied by `node::apply` to an `engine::Store`, watched through `node::watch_hub`. The
//! four cores of the server are four inboxes here; a core's turn takes what its inbox holds at that moment, and how long
//! after a handover the turn comes is drawn, so that cores race as they do on a machine. What clients' calls wait for,
//! `node::calls` knows.
//!
//! The files follow the server's: [`raft_core`], [`log_core`], [`store_core`], [`client_core`], [`members`],
//! [`repair`].

mod books;
mod boot;
mod client_core;
mod log_core;
mod members;
mod peers;
mod raft_core;
mod repair;
mod replication;
mod store_core;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use consensus::log::{Fetcher, Log, NewSegment};
use consensus::{Fetch, HardState, Index, Lane, LogPosition, NodeId, PeerMessage, ProposalId, ReadyNumber};
use engine::tree::Checkpoint;
use engine::{Store, View};
use node::Identity;
use node::cores::PeerFigures;
use node::raft_core::Input;
use raft::eraftpb::MessageType;
use rustc_hash::FxHashMap;

use crate::check::Failure;
use crate::disk::Disk;
use crate::env::{Env, NodeNumber, Wake};
use crate::queue::Time;

use client_core::ClientCore;
use peers::Peers;
use raft_core::Surroundings;
use replication::SnapshotFiles;
use store_core::{ForStore, StoreCore};

pub use books::Books;
pub use boot::{CLUSTER, node_id, node_number, peer_url};
pub use repair::Healing;
pub use store_core::SERVER_VERSION;

/// What all cores may look at.
#[derive(Default)]
struct Shared {
    term: u64,
    leader: u64,
    /// The commit index while this member is the only voter and leads.
    single_voter: Option<Index>,
    applied: u64,
    /// What is known to be committed.
    commit: u64,
    /// What is known of the others, as of the last tick.
    peers: Vec<PeerFigures>,
    /// There was no room for the log's next segment.
    is_log_space_lost: bool,
}

struct RaftCore {
    core: node::raft_core::trace::Recorded<Surroundings>,
    inbox: VecDeque<Input<Surroundings>>,
    /// For the oracle: the requests of proposals whose outcome is not known here.
    requests: FxHashMap<ProposalId, u64>,
    /// The last change of the configuration that this life has applied, or what its store began with.
    conf_at: Index,
}

struct LogCore {
    log: Log,
    /// What is not durable yet.
    appends: VecDeque<Appended>,
    fetches: VecDeque<Fetch>,
    fetchers: FxHashMap<NodeId, Fetcher>,
    first_index: Index,
    /// Since when the write in flight is.
    writing_since: Option<Time>,
    preparing: VecDeque<(NewSegment, bool)>,
    /// No segment is asked for before then: there was no room.
    segments_from: Time,
    /// No write completes before then.
    stalled_until: Time,
    fail_next: bool,
    /// What the write in flight makes durable.
    completing: Option<ReadyNumber>,
}

/// An append for the oracle: places of its entries, and behind which snapshot it begins.
struct Appended {
    ready: ReadyNumber,
    places: Vec<(u64, u64)>,
    hard_state: HardState,
    reset: Option<LogPosition>,
}

struct RunningCheckpoint {
    checkpoint: Box<Checkpoint>,
    phase: Phase,
}

/// What the background thread does next for a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Grow,
    Pages,
    Sync,
    Meta,
    MetaSync,
}

/// Something half done, when a power cut finds out what depends on the order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// A checkpoint's pages are written and not synced.
    Pages,
    /// A checkpoint's meta page is written and not synced.
    Meta,
    /// A segment of the log has a name that is not durable.
    Segment,
    /// The log has begun anew behind a snapshot whose tree has not its final name yet.
    Install,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 4] = [Moment::Pages, Moment::Meta, Moment::Segment, Moment::Install];
}

/// A member that runs.
pub struct Member {
    number: NodeNumber,
    life: u32,
    identity: Identity,
    booted: Time,
    shared: Shared,
    raft: RaftCore,
    log: LogCore,
    store: StoreCore,
    client: ClientCore,
    snapshot: SnapshotFiles,
    peers: Peers,
    ticks: u64,
    store_config: engine::Config,
    /// Which cores have a turn coming.
    scheduled: [bool; 4],
    tick_due: u64,
}

/// The name of the failure with which a member ends that has lost what it had acknowledged: it must be replaced.
pub const LOST: &str = "lost";

type Done = Result<(), Failure>;

impl Member {
    /// Its number and life.
    pub fn id(&self) -> (NodeNumber, u32) {
        (self.number, self.life)
    }

    /// Whether it believes that it leads.
    pub fn leads(&self) -> bool {
        self.shared.leader == node_id(self.number).0
    }

    /// Whether this is such a moment.
    pub fn is_at(&self, moment: Moment) -> bool {
        let phase = self.store.checkpoint.as_ref().map(|running| running.phase);
        match moment {
            Moment::Pages => phase == Some(Phase::Sync),
            Moment::Meta => phase == Some(Phase::MetaSync),
            Moment::Segment => self.log.preparing.front().is_some_and(|(_, is_named)| *is_named),
            Moment::Install => self.snapshot.is_renaming(),
        }
    }

    /// Index up to which everything is applied and published.
    pub fn applied(&self) -> u64 {
        self.client.calls().view().applied().index
    }

    /// The newest published version.
    pub fn view(&self) -> Arc<View> {
        self.client.calls().view().clone()
    }

    /// The store, for the audit.
    pub fn store(&self) -> &Store {
        self.store.core.store()
    }

    /// Bytes of its tree that count against the quota.
    pub fn used(&self) -> u64 {
        self.store().tree().allocated_bytes()
    }

    /// What its raft core and its store core were told, where that is written down.
    pub fn traces(&mut self) -> [Vec<u8>; 2] {
        [self.raft.core.take(), self.store.core.take()]
    }

    /// For a report: what it is doing.
    pub fn describe(&self) -> String {
        let status = self.raft.core.node().status();
        format!(
            "{:?} in term {}, leader {:?}, last {:?}, committed {}, applied {}, log idle {} stuck {}, {} calls wait",
            status.role.role,
            status.role.term,
            status.role.leader,
            status.last,
            status.committed,
            self.applied(),
            self.log.log.is_idle(),
            self.log.log.is_stuck(),
            self.client.calls().len(),
        )
    }

    /// The present on its own clock, since it began.
    fn now(&self, env: &Env) -> Duration {
        env.local_span(self.number, env.queue.now() - self.booted)
    }

    /// A core has something to do: its turn comes.
    fn wake(&mut self, env: &mut Env, core: Wake) {
        let at = core as usize;
        if !std::mem::replace(&mut self.scheduled[at], true) {
            let after = env.handover();
            self.wake_after(env, after, core);
        }
    }

    fn wake_after(&self, env: &mut Env, after: Time, wake: Wake) {
        env.queue.after(after, crate::env::Event::Wake(self.number, self.life, wake));
    }

    /// Something of it has something to do, now.
    ///
    /// # Errors
    /// A checker has seen something.
    pub fn woken(&mut self, env: &mut Env, disk: &mut Disk, wake: Wake) -> Done {
        if let Some(scheduled) = self.scheduled.get_mut(wake as usize) {
            *scheduled = false;
        }
        match wake {
            Wake::Raft => self.raft_turn(env),
            Wake::Log => self.log_turn(env, disk),
            Wake::Store => self.store_turn(env, disk),
            Wake::Client => self.client_turn(env),
            Wake::Tick => self.tick(env),
            Wake::StoreTick => self.store_tick(env),
            Wake::Housekeeping => self.housekeeping(env),
            Wake::LogWritten => self.log_written(env, disk),
            Wake::LogTimeout => self.log_timeout(env),
            Wake::Segment => self.prepare_segment(env, disk),
            Wake::Checkpoint => self.advance_checkpoint(env, disk),
            Wake::Fetch => self.fetched(env, disk),
            Wake::Import => self.import(env, disk),
            Wake::Rename => self.rename(env, disk),
            Wake::Advance => self.advance_watches(env),
            Wake::Read => self.read_on(env),
        }
    }

    /// A message of a peer arrives.
    pub fn receive(&mut self, env: &mut Env, from: NodeNumber, message: Box<PeerMessage>) {
        self.tell_raft(env, Input::Message(node_id(from), message));
    }

    /// A snapshot that it has sent has arrived, or not.
    pub fn snapshot_sent(&mut self, env: &mut Env, to: NodeNumber, ok: bool) {
        self.tell_raft(env, Input::SnapshotSent(node_id(to), ok));
    }

    /// What it has sent to another member is lost.
    pub fn unreachable(&mut self, env: &mut Env, to: NodeNumber) {
        self.tell_raft(env, Input::Unreachable(node_id(to)));
    }

    /// Its standing lane for entries and proposals is new, or both lanes to that member are up.
    pub fn lane_opened(&mut self, env: &mut Env, to: NodeNumber, lane: Lane, both: bool) {
        if lane == Lane::Bulk {
            self.peers.reconnected(node_id(to));
            self.send_forwards(env, node_id(to));
        }
        if both {
            self.greeted(env, to);
        }
    }

    /// One of them is down.
    pub fn lane_closed(&mut self, to: NodeNumber) {
        self.peers.lost(node_id(to));
    }

    /// Its log device takes no writes until then.
    pub fn stall_disk(&mut self, until: Time) {
        self.log.stalled_until = self.log.stalled_until.max(until);
    }

    /// No fault of its disk is left.
    pub fn heal_disk(&mut self) {
        self.log.stalled_until = 0;
        self.log.fail_next = false;
    }

    /// The next write of the log fails.
    pub fn fail_next_write(&mut self) {
        self.log.fail_next = true;
    }
}

/// Votes that leave a member.
fn note_votes(env: &mut Env, number: NodeNumber, message: &PeerMessage) -> Done {
    let PeerMessage::Raft(said) = message else { return Ok(()) };
    let raft = &said.raft;
    match raft.get_msg_type() {
        MessageType::MsgRequestVoteResponse if !raft.reject => {
            env.oracle.raft.votes(number, raft.term, raft.to)
        }
        MessageType::MsgRequestVote => env.oracle.raft.votes(number, raft.term, raft.from),
        _ => Ok(()),
    }
}

/// A failure of a member itself: production would stop with this text.
fn stops<T>(number: NodeNumber, why: impl std::fmt::Display) -> Result<T, Failure> {
    crate::check::fail("halt", format!("member {number} stops: {why}"))
}
