//! The numbers of consensus, one type each, so that none is taken for another.

use bytes::Bytes;

use crate::{ConfChange, ConfChangeKind};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Position in the Raft log. The first entry is 1; zero means "before the log".
    Index
}
number! {
    /// Number of an election. Zero means "before any"; a bootstrapped log starts at 1, its first leader at 2.
    Term
}
number! {
    /// Id of a member, as etcd computes it; zero means "none".
    NodeId
}
number! {
    /// Number of an [`Append`](crate::Append). They are durable in this order; a durable one covers all before it.
    ReadyNumber
}
number! {
    /// The caller's name for a proposal. It comes back with the committed entry on the member that proposed it.
    ProposalId
}
number! {
    /// The caller's name for a linearizable read.
    ReadId
}

/// An entry's place and the term that put it there. Two logs that agree here agree on everything before.
///
/// The derived order compares indexes first; compare positions of one log only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition {
    /// Where.
    pub index: Index,
    /// By the leader of which term.
    pub term: Term,
}

impl LogPosition {
    /// Shorthand for tests and tables.
    pub const fn new(index: u64, term: u64) -> LogPosition {
        LogPosition { index: Index(index), term: Term(term) }
    }
}

/// What an entry's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// An `InternalRaftRequest`, or nothing: the entry with which a leader opens its term has no bytes.
    Normal,
    /// A [`ConfChange`](crate::ConfChange), encoded as etcd's `raftpb.ConfChange`.
    ConfChange,
}

/// One entry of the Raft log. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub index: Index,
    /// The term of the leader that appended it.
    pub term: Term,
    /// What `data` is.
    pub kind: EntryKind,
    /// The proposed bytes, as they were proposed.
    pub data: Bytes,
    /// Set on the member that proposed it, until that process ends; never written to disk or sent.
    pub proposal: Option<ProposalId>,
}

impl Entry {
    /// Where it is.
    pub fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }

    /// What an entry is charged where bytes are bounded: its data and what it costs to keep.
    pub fn cost_bytes(&self) -> usize {
        self.data.len() + std::mem::size_of::<Entry>()
    }
}

/// What a member must not forget: breaking it could give a term two leaders.
///
/// `commit` is a hint: it may be older than what was really committed, never newer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term this member has seen.
    pub term: Term,
    /// Whom it voted for in that term; zero for nobody.
    pub vote: NodeId,
    /// Up to where it knows the log to be committed.
    pub commit: Index,
}

/// Who votes and who only listens, as of the applied index. The store keeps it with the applied state, in the same commit:
/// a checkpoint that covers a configuration change without its result would leave a member without a vote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Members whose votes count, ascending.
    pub voters: Vec<NodeId>,
    /// Members that receive entries and don't vote, ascending.
    pub learners: Vec<NodeId>,
}

impl ConfState {
    /// What an accepted change makes of it. raft comes to the same result.
    pub fn apply(&mut self, change: &ConfChange) {
        let (adds_to, takes_from) = match change.kind {
            ConfChangeKind::AddNode => (Some(&mut self.voters), &mut self.learners),
            ConfChangeKind::AddLearnerNode => (Some(&mut self.learners), &mut self.voters),
            ConfChangeKind::RemoveNode => {
                self.learners.retain(|node| *node != change.node);
                (None, &mut self.voters)
            }
            ConfChangeKind::UpdateNode => return,
        };
        takes_from.retain(|node| *node != change.node);
        if let Some(nodes) = adds_to
            && let Err(at) = nodes.binary_search(&change.node)
        {
            nodes.insert(at, change.node);
        }
    }
}
