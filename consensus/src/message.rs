//! What members say to each other.

use bytes::Bytes;
use raft::eraftpb::MessageType;

use crate::{DropReason, EntryKind, Index, NodeId, ProposalId, Term};

/// A message of raft. Its entries carry no bytes; those are in `data`, one for each entry, shared and not copied.
///
/// Read index messages are the exception: they have one entry, whose bytes are the token, and no `data`.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What raft says.
    pub raft: raft::eraftpb::Message,
    /// The bytes of `raft.entries`, in the same order.
    pub data: Vec<Bytes>,
}

/// All that one member can say to another. It travels in a box.
#[allow(clippy::large_enum_variant)] // nearly all are the large one
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// Raft's own.
    Raft(Message),
    /// From a follower to the leader: append these.
    Forward(Forward),
    /// The leader's answer where it has not appended some of them, and never will.
    ForwardRefused(ForwardRefused),
    /// A question of the edges of two members, opaque here; a [`Node`](crate::Node) ignores it.
    Request {
        /// Comes back with the response.
        id: u64,
        /// What is asked.
        body: Bytes,
    },
    /// The answer to a request, opaque here; a [`Node`](crate::Node) ignores it.
    Response {
        /// Of the request.
        id: u64,
        /// What is answered.
        body: Bytes,
    },
}

/// Proposals that another member is asked to append because it leads.
///
/// They are appended at most once: only by the leader of `term`, and only if `sequence` is higher than any that this start
/// of the origin has sent in that term before. So it may be sent again as it is, if what was sent after it is sent again, too;
/// whether its proposals were appended shows when they commit, or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The term in which the origin knows the addressee as leader.
    pub term: Term,
    /// [`Config::boot_nonce`](crate::Config::boot_nonce) of the origin.
    pub boot_nonce: u64,
    /// 1, 2, 3 … over the life of the origin's process.
    pub sequence: u64,
    /// What to append, in this order.
    pub proposals: Vec<(ProposalId, EntryKind, Bytes)>,
}

/// Which proposals of a [`Forward`] were not appended and never will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardRefused {
    /// That of the origin; ids of an earlier process mean nothing to its successor.
    pub boot_nonce: u64,
    /// Which, and why.
    pub refused: Vec<(ProposalId, DropReason)>,
}

/// A connection to a peer. What is on one never waits for what is on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// What keeps a leader in office: heartbeats, votes, read indexes. Short messages only.
    Vital,
    /// Entries and proposals.
    Bulk,
    /// The store, streamed to a peer that is too far behind.
    Snapshot,
}

impl PeerMessage {
    /// A leader says that it is still there.
    pub fn is_heartbeat(&self) -> bool {
        matches!(self, PeerMessage::Raft(message) if message.raft.get_msg_type() == MessageType::MsgHeartbeat)
    }

    /// Of a leader's entries: the index of the one before them, which the receiver must have.
    pub fn entries_follow(&self) -> Option<Index> {
        match self {
            PeerMessage::Raft(message) if message.raft.get_msg_type() == MessageType::MsgAppend => {
                Some(Index(message.raft.index))
            }
            _ => None,
        }
    }

    /// The lane on which it travels.
    pub fn lane(&self) -> Lane {
        match self {
            PeerMessage::Raft(message) => match message.raft.get_msg_type() {
                MessageType::MsgSnapshot => Lane::Snapshot,
                MessageType::MsgAppend | MessageType::MsgAppendResponse => Lane::Bulk,
                _ => Lane::Vital,
            },
            _ => Lane::Bulk,
        }
    }
}

/// A message and its addressee.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Box<PeerMessage>,
}

impl Envelope {
    /// A message without entries' bytes, or with them in `data`.
    pub(crate) fn raft(raft: raft::eraftpb::Message, data: Vec<Bytes>) -> Envelope {
        let to = NodeId(raft.to);
        Envelope { to, message: Box::new(PeerMessage::Raft(Message { raft, data })) }
    }
}

/// What a message of a member that doesn't lead promises, and therefore what must be durable before it leaves.
///
/// raft marks every such message as "after persistence". That would make a follower's heartbeat answers wait for its
/// disk, so we are finer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// "I have stored this": waits for everything before it.
    Stored,
    /// Nothing but the term it speaks in: waits for the (term, vote) that is on its way to disk, if any.
    Term,
}

pub(crate) fn promise_of(message: &raft::eraftpb::Message) -> Promise {
    match message.get_msg_type() {
        MessageType::MsgAppendResponse if message.reject => Promise::Term,
        MessageType::MsgAppendResponse
        | MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse => Promise::Stored,
        _ => Promise::Term,
    }
}
