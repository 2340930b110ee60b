//! What goes into a raft core and what comes out of it.

use consensus::{Envelope, Index, LogPosition, Message, Node, NodeId, PeerMessage, ReadyNumber, RoleChange};

use super::PinnedSnapshot;
use crate::cores::{FromLog, ToClient, ToLog, ToRaft, ToStore};

/// What a shell brings along.
pub trait Shell {
    /// [`Node`], or one that writes down what happens to it.
    type Node: Consensus;
    /// A snapshot as it was received, to be built into a store: a file, or bytes.
    type Received;
    /// The store that was built of one, and what it lies in.
    type Store;
}

/// What drives like a [`Node`] and can be looked at.
pub trait Consensus {
    /// See [`Node::step`].
    fn step(&mut self, input: consensus::Input, out: &mut Vec<consensus::Output>);

    /// See [`Node::flush`].
    fn flush(&mut self, out: &mut Vec<consensus::Output>);

    /// A look at it.
    fn node(&self) -> &Node;
}

impl Consensus for Node {
    fn step(&mut self, input: consensus::Input, out: &mut Vec<consensus::Output>) {
        Node::step(self, input, out);
    }

    fn flush(&mut self, out: &mut Vec<consensus::Output>) {
        Node::flush(self, out);
    }

    fn node(&self) -> &Node {
        self
    }
}

/// All that can happen to a raft core but for the passing of time ([`RaftCore::tick`](super::RaftCore::tick)) and what the
/// store has applied ([`RaftCore::applied`](super::RaftCore::applied)).
pub enum Input<S: Shell> {
    /// A client core or the store core wants something.
    Core(ToRaft),
    /// The log core says something.
    Log(FromLog),
    /// A peer says something.
    Message(NodeId, Box<PeerMessage>),
    /// Both directions to a peer are open again.
    Reachable(NodeId),
    /// Messages to a peer were lost.
    Unreachable(NodeId),
    /// A snapshot was received whole by that peer, or has failed.
    SnapshotSent(NodeId, bool),
    /// A peer's snapshot is here, whole and durable.
    SnapshotReceived {
        /// Whose.
        from: NodeId,
        /// raft's message, to be stepped when the store is built.
        message: Box<Message>,
        /// The snapshot.
        received: S::Received,
    },
    /// [`Output::Import`] is done: the store is durable beside the present one.
    Imported {
        /// Whose snapshot it was.
        from: NodeId,
        /// As it came with [`Output::Import`].
        message: Box<Message>,
        /// What the store covers.
        index: Index,
        /// The store.
        store: S::Store,
    },
    /// [`Output::Import`] has failed, and nothing is left of it. The peer will find out and send another one.
    ImportFailed,
    /// [`Output::Rename`] is done, and durable.
    Renamed(ReadyNumber),
}

/// All that a raft core can ask of its shell, which starts these in order and waits for none.
pub enum Output<S: Shell> {
    /// To the log core.
    Log(ToLog),
    /// To the store core.
    Store(ToStore),
    /// To the client core of this number.
    Client(usize, ToClient),
    /// To a peer, on the lane of the message; lost if it does not go.
    Send(Envelope),
    /// To a peer: the pinned version of the store, behind it raft's message. To be answered with [`Input::SnapshotSent`].
    SendSnapshot {
        /// raft's message, which names the addressee.
        message: Box<Message>,
        /// The version.
        pinned: Box<PinnedSnapshot>,
    },
    /// A snapshot that may be on its way to this peer is of no use any more. No answer to [`Output::SendSnapshot`] is
    /// wanted, though one does no harm.
    CancelSnapshot(NodeId),
    /// [`RaftCore::members`](super::RaftCore::members) and [`RaftCore::removed`](super::RaftCore::removed) have changed: talk to
    /// those and to nobody else.
    Members,
    /// The cluster version (`X.Y.0`), to be told to whoever asks at the peer port.
    ClusterVersion(String),
    /// Build a store of this beside the present one; answered with [`Input::Imported`] or [`Input::ImportFailed`].
    Import {
        /// Whose snapshot it is.
        from: NodeId,
        /// To come back.
        message: Box<Message>,
        /// The snapshot.
        received: S::Received,
    },
    /// This snapshot is not wanted now, because another one is being taken.
    Discard(S::Received),
    /// The store that was built is not wanted: raft did not take its message.
    Unneeded(S::Store),
    /// The store that was built takes the place of the present one on disk; answered with [`Input::Renamed`].
    Rename(ReadyNumber),
    /// To the store core: go on with this store, and say [`ToRaft::SnapshotInstalled`] of this number.
    Install {
        /// The number.
        ready: ReadyNumber,
        /// The store.
        store: S::Store,
    },
    /// To be published: role, term or leader have changed.
    Role(RoleChange),
    /// To be published as one value before any later output: see [`consensus::Output::SingleVoter`].
    SingleVoter(Option<Index>),
    /// The log device does not answer (true), or does again.
    LogStalled(bool),
    /// The process must end.
    Fatal(Fatal),
}

/// Why a raft core can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fatal {
    /// The leader knows that this member has acknowledged entries that its log does not hold. The promise behind every
    /// election is broken; the member must be replaced.
    AcknowledgedLost {
        /// What the leader knows to be here.
        acknowledged: Index,
        /// What is here.
        last: LogPosition,
    },
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Fatal::AcknowledgedLost { acknowledged, last } = self;
        write!(
            f,
            "the leader knows that this member has acknowledged the log up to {acknowledged}, but it ends at {}: \
             acknowledged entries were lost; remove this member and add it again",
            last.index
        )
    }
}
