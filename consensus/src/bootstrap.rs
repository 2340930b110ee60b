//! The log of a cluster that starts for the first time.
//!
//! As etcd's: one add-node entry per member, all at term 1 and already committed, so that every member begins with the
//! same log without anybody having sent it. The first election then opens term 2. Members are ordered by id, which
//! makes the entries the same on all of them. Term and index appear in every response header, so this is fixed.

use bytes::Bytes;

use crate::{ConfChange, ConfChangeKind, Entry, EntryKind, HardState, Index, NodeId, Term, log::State};

impl State {
    /// The state with which each of `members` (id, member as JSON) starts a new cluster. Nothing of it is on disk yet:
    /// the node asks for it with its first append, and commits it when that is durable.
    ///
    /// # Panics
    ///
    /// If there are no members, or two of the same id.
    pub fn bootstrap(members: &[(NodeId, Bytes)]) -> State {
        assert!(!members.is_empty(), "a cluster has at least one member");
        let mut members = members.to_vec();
        members.sort_by_key(|(id, _)| *id);
        assert!(members.windows(2).all(|w| w[0].0 < w[1].0), "member ids are unique");
        let entries: Vec<Entry> = members
            .into_iter()
            .zip(1..)
            .map(|((node, context), index)| Entry {
                index: Index(index),
                term: Term(1),
                kind: EntryKind::ConfChange,
                data: ConfChange { id: 0, kind: ConfChangeKind::AddNode, node, context }.encode(),
                proposal: None,
            })
            .collect();
        let commit = Index(entries.len() as u64);
        let hard_state = HardState { term: Term(1), vote: NodeId(0), commit };
        State { hard_state, entries, unwritten: true }
    }
}
