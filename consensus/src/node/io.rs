//! What goes into a node and what comes out of it.

use bytes::Bytes;

use crate::message::PeerMessage;
use crate::{
    ConfChange, ConfState, Entry, Envelope, HardState, Index, LogPosition, NodeId, ProposalId, ReadId,
    ReadyNumber, Term,
};

/// What a node is told once. Counts of ticks are etcd's `--election-timeout` and `--heartbeat-interval` in ticks.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member.
    pub id: NodeId,
    /// Decides the election jitter.
    pub seed: u64,
    /// Differs at each start of the process: part of every read token.
    pub boot_nonce: u64,
    /// A leader's heartbeat is due every so many ticks; at least 1.
    pub heartbeat_ticks: usize,
    /// A follower campaigns after this many ticks without a leader, up to twice as many; above `heartbeat_ticks`.
    pub election_ticks: usize,
    /// Bytes proposed and not yet applied, above which proposals are dropped as "too many requests".
    pub proposal_bytes_limit: usize,
    /// Longest data of one entry in bytes, at most [`log::ENTRY_BYTES_MAX`](crate::log::ENTRY_BYTES_MAX).
    pub entry_bytes_max: usize,
    /// Proposals of one turn are appended in pieces of about this many bytes, each with its own durability.
    pub append_bytes: usize,
    /// Applied entries are kept in memory up to this many bytes, for peers that lag; zero is right for one member.
    pub cache_bytes_limit: usize,
    /// Reads waiting for an answer, above which new ones are dropped.
    pub reads_limit: usize,
    /// Entries sent to one peer and not yet acknowledged, in bytes: beyond, the peer gets no more until it answers. Rounded
    /// up to one message of `append_bytes`.
    pub peer_bytes_in_flight: usize,
    /// Bytes of one [`Fetch`], about.
    pub fetch_bytes: usize,
}

impl Config {
    /// etcd's defaults (a tick of 100 ms: heartbeat 1, election 10) and the bounds of this product.
    pub fn new(id: NodeId, seed: u64, boot_nonce: u64) -> Config {
        Config {
            id,
            seed,
            boot_nonce,
            heartbeat_ticks: 1,
            election_ticks: 10,
            proposal_bytes_limit: 64 << 20,
            entry_bytes_max: crate::log::ENTRY_BYTES_MAX,
            append_bytes: 1 << 20,
            cache_bytes_limit: 0,
            reads_limit: 1 << 17,
            peer_bytes_in_flight: 8 << 20,
            fetch_bytes: 4 << 20,
        }
    }
}

/// All that can happen to a node. There is no other way in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A tick of the clock has passed.
    Tick,
    /// Campaign now instead of waiting for the election timeout.
    Campaign,
    /// A peer has said something.
    Receive(NodeId, Box<PeerMessage>),
    /// Append this to the log; a follower asks the leader to. The id is never used again by this process.
    Propose(ProposalId, Bytes),
    /// Append a change of the membership, if none is under way; a follower asks the leader to.
    ProposeConfChange(ProposalId, ConfChange),
    /// The store has applied the configuration change at this index. `None` where the rules of the membership have
    /// refused it, so that raft's configuration stays. To be followed, in this turn or later, by `Applied`.
    ApplyConfChange(Index, Option<ConfChange>),
    /// A linearizable read has arrived.
    ReadIndex(ReadId),
    /// The disk has finished an [`Append`]: that Ready and all before it survive a power cut.
    Durable(ReadyNumber),
    /// The applied state covers all entries up to this one.
    Applied(Index),
    /// The log on disk begins at this entry: those before it can no longer be fetched.
    LogStartsAt(Index),
    /// The answer to an [`Output::Fetch`] for this peer, which began at this index: entries from there on, at least one;
    /// `None` if they are no longer in the log.
    Fetched(NodeId, Index, Option<Vec<Entry>>),
    /// The answer to [`Output::SnapshotWanted`]: the caller holds the state of the store as of `position`, with the members
    /// `conf`, and keeps the log from there on until the peer has caught up.
    SnapshotPinned {
        /// For whom.
        peer: NodeId,
        /// What it covers; applied.
        position: LogPosition,
        /// The members as of there.
        conf: ConfState,
    },
    /// What was pinned for this peer is to be given up, because raft's message has not left for too long. If it has left by
    /// now, nothing happens; else [`Output::SnapshotUnwanted`] comes, and another one is asked for when raft wants one again.
    SnapshotUnpinned(NodeId),
    /// A snapshot was received whole by this peer (and its message), or has failed.
    SnapshotSent(NodeId, bool),
    /// The store has been replaced as [`Output::InstallSnapshot`] of this number wanted. After [`Input::Durable`] of that
    /// number. It stands for `Applied` of the snapshot's index.
    SnapshotInstalled(ReadyNumber),
    /// Hand leadership over to this voter, or to the one that suits best. Nothing happens if this member doesn't lead.
    TransferLeader(Option<NodeId>),
    /// Messages to this peer were lost.
    Unreachable(NodeId),
    /// This member's log device doesn't answer (true), or does again (false). While it doesn't, this member hands leadership
    /// over, or gives it up, and doesn't campaign. A lone voter keeps it: nobody else could have it.
    LogStalled(bool),
}

/// All that a node can ask of the world. The caller starts these in order and waits for none.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// To the log.
    Append(Append),
    /// To a peer.
    Send(Envelope),
    /// `Some(commit)` while this member is the only voter, leads, and has committed in its own term: then every read
    /// may take `commit` as its read index without asking. One value, to be published as one, before any later output.
    SingleVoter(Option<Index>),
    /// Apply these, in order; durable here and committed. Each entry is handed out once.
    Commit(Vec<Entry>),
    /// The read sees what it must when the applied state covers this index.
    ReadReady(ReadId, Index),
    /// The read can't be confirmed (another member leads now, or too many wait). It may be retried.
    ReadDropped(ReadId),
    /// The proposal is not in the log and never will be; see [`DropReason::OutcomeUnknown`] for the exception. It may be said
    /// twice of one that was forwarded.
    ProposalDropped(ProposalId, DropReason),
    /// Role, term or leader have changed.
    Role(RoleChange),
    /// The configuration after a change, as raft has it. The store has made the same with [`ConfState::apply`].
    ConfState(ConfState),
    /// Read these entries back from the log on disk. One at a time for each peer.
    Fetch(Fetch),
    /// A peer needs what the log no longer has. To be answered with [`Input::SnapshotPinned`]; then raft's message leaves as
    /// [`Output::Send`], to be sent behind the whole snapshot, or [`Output::SnapshotUnwanted`] comes.
    SnapshotWanted(NodeId),
    /// The snapshot that was wanted for (or pinned for, or is on its way to) this peer is of no use any more.
    SnapshotUnwanted(NodeId),
    /// The message of a received snapshot was accepted: replace the store. What has been handed out before and is not
    /// applied yet can be forgotten; nothing of it comes again.
    InstallSnapshot(InstallSnapshot),
    /// The message of a received snapshot was refused: the store has more, or another one is being installed.
    SnapshotIgnored(LogPosition),
    /// The leader knows that this member has acknowledged entries that its log does not hold. The promise behind every
    /// election is broken; the process must stop and its member be replaced.
    AcknowledgedLost {
        /// What the leader knows to be here.
        acknowledged: Index,
        /// What is here.
        last: LogPosition,
    },
}

/// Entries to read back from the log on disk, for a peer that lags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// For whom.
    pub peer: NodeId,
    /// The first wanted.
    pub first: Index,
    /// The last wanted.
    pub last: Index,
    /// Stop after about so many bytes of data; one entry at least.
    pub bytes_max: usize,
    /// The terms of the entries: each position is the first wanted entry of its term. An entry of another term at the same
    /// index, which the log may hold as well, has been replaced.
    pub terms: Vec<LogPosition>,
}

/// See [`Output::InstallSnapshot`].
///
/// An [`Append`] of the same number precedes it; it makes the log begin behind the snapshot. Only when that is durable may
/// the store be replaced. A process that ends between the two finds at its start a log that begins at `position`
/// and an older store; it has to finish the installation, so the snapshot must have been durable before its message
/// was given to the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// To be reported by [`Input::SnapshotInstalled`].
    pub ready: ReadyNumber,
    /// What the snapshot covers.
    pub position: LogPosition,
    /// The members as of there.
    pub conf: ConfState,
    /// The hard state as of this append.
    pub hard_state: HardState,
}

/// What to write and sync. Nothing that depends on it leaves the node before [`Input::Durable`] with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Append {
    /// Durable in this order, cumulatively.
    pub ready: ReadyNumber,
    /// The hard state as of this append.
    pub hard_state: HardState,
    /// Consecutive. If the first is not beyond the end of the log, it and those after it are replaced.
    pub entries: Vec<Entry>,
    /// All entries before are forgotten and the log begins behind this position, before `entries`: a snapshot takes their
    /// place.
    pub reset: Option<LogPosition>,
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// No leader is known: an election is under way.
    NoLeader,
    /// Another member leads.
    NotLeader(NodeId),
    /// Leadership is being handed over.
    LeaderTransfer,
    /// Too many bytes are proposed and not yet applied. etcd: "too many requests".
    TooManyRequests,
    /// Larger than [`Config::entry_bytes_max`].
    TooLarge,
    /// Another change of the membership is not applied yet.
    ConfChangePending,
    /// It was appended, but another leader's entry was committed in its place.
    LeaderChanged,
    /// It was appended, then a snapshot took the place of that part of the log: it may have been committed or not. The only
    /// reason with which a dropped proposal may have taken effect.
    OutcomeUnknown,
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows, or waits for a leader.
    Follower,
    /// Asks whether an election could be won.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Decides the order of entries.
    Leader,
}

/// Who this member is and whom it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// Its role.
    pub role: Role,
    /// In this term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
}

/// A look at a node, for status answers and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Role, term and leader.
    pub role: RoleChange,
    /// Known to be committed.
    pub committed: Index,
    /// Reported as applied.
    pub applied: Index,
    /// The end of the log.
    pub last: LogPosition,
    /// The last append handed out, and the last one reported durable.
    pub appended: ReadyNumber,
    /// See `appended`. While a snapshot is being installed, nothing of it or after it counts as durable.
    pub durable: ReadyNumber,
    /// The last append that the log has reported durable.
    pub log_durable: ReadyNumber,
    /// Cost of the entries that are not applied yet.
    pub unapplied_bytes: usize,
    /// Cost of all entries in memory.
    pub cache_bytes: usize,
    /// Reads without an answer.
    pub reads: usize,
    /// To whom this leader is handing over.
    pub lead_transferee: Option<NodeId>,
}

/// What a leader knows of another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// It holds the leader's log up to here, durably.
    pub matched: Index,
    /// It has been heard of within the last election timeout or two.
    pub recent_active: bool,
    /// It doesn't vote.
    pub learner: bool,
    /// It is being sent a snapshot.
    pub snapshot: bool,
}
