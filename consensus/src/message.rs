//! What members say to each other.

use bytes::Bytes;
use raft::eraftpb::MessageType;

use crate::NodeId;

/// A message of raft. Its entries carry no bytes; those are in `data`, one for each entry, shared and not copied.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What raft says.
    pub raft: raft::eraftpb::Message,
    /// The bytes of `raft.entries`, in the same order.
    pub data: Vec<Bytes>,
}

/// A message and its addressee.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// To whom.
    pub to: NodeId,
    /// What.
    pub message: Box<Message>,
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
