//! Starting over as the only member (`--force-new-cluster`): for a cluster that lost its quorum for good.
//!
//! The whole log is kept. What of it was committed this member can't tell: its own commit index is a hint that may lie
//! behind what was acknowledged. etcd drops what is above the hint, and with it writes that clients were told of (seen
//! with 3.7.1: a put, a kill, a restart with the flag, and the put is gone); to keep one that nobody was told of is
//! allowed. Only from an uncommitted removal of this very member on the log is dropped.
//!
//! Behind it come conf changes that remove every other member, learners too, and make a voter of this one; they count as
//! committed at once and go into the log in one write, so after a crash in between the next start does it again. As
//! entries, and not as rows, because a member that is added later may read the log from its beginning.

use consensus::{ConfChange, ConfChangeKind, Entry, EntryKind, HardState, Index, NodeId};

use super::Context;
use crate::membership::{InvalidMember, Member};

/// Why this member can't go on alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It was removed from the cluster, or never became a member.
    NotAMember,
    /// A committed conf change can't be read.
    Invalid(InvalidMember),
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refused::NotAMember => f.write_str(
                "--force-new-cluster: this member is no member of the cluster in its data directory",
            ),
            Refused::Invalid(error) => write!(f, "--force-new-cluster: {error}"),
        }
    }
}

impl std::error::Error for Refused {}

/// Makes of what a restart found the log of a cluster of one. `members` is the table as of the applied index; `entries`
/// are those above it. Afterwards all entries are committed; the new ones are at the end of `entries`.
///
/// # Errors
/// [`Refused`]; nothing has changed.
pub fn rewrite(
    own: u64,
    members: &[Member],
    applied: Index,
    hard_state: &mut HardState,
    entries: &mut Vec<Entry>,
) -> Result<(), Refused> {
    let commit = hard_state.commit.max(applied);
    let mut members = members.to_vec();
    let mut kept = entries.len();
    for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::ConfChange) {
        let before = members.clone();
        foresee(&mut members, entry)?;
        if entry.index > commit && members.iter().all(|member| member.id != own) {
            (members, kept) = (before, at);
            break;
        }
    }
    let changes = changes(own, &members)?;
    entries.truncate(kept);
    let last = entries.last().map_or(commit, |entry| entry.index);
    for (index, change) in (last.0 + 1..).zip(changes) {
        entries.push(Entry {
            index: Index(index),
            term: hard_state.term,
            kind: EntryKind::ConfChange,
            data: change.encode(),
            proposal: None,
        });
    }
    hard_state.commit = entries.last().map_or(commit, |entry| entry.index);
    Ok(())
}

/// The changes that leave `own` alone, as a voter. This member comes first, so that there always is a voter.
fn changes(own: u64, members: &[Member]) -> Result<Vec<ConfChange>, Refused> {
    let itself = members.iter().find(|member| member.id == own).ok_or(Refused::NotAMember)?;
    let change = |kind, id, context| ConfChange { id: 0, kind, node: NodeId(id), context };
    let mut changes = Vec::new();
    if itself.is_learner {
        let member = Member { id: own, ..Member::default() };
        let context = Context { member, is_promote: true, ..Context::default() };
        changes.push(change(ConfChangeKind::AddNode, own, context.encode()));
    }
    let others = members.iter().filter(|member| member.id != own);
    changes.extend(others.map(|member| change(ConfChangeKind::RemoveNode, member.id, Default::default())));
    Ok(changes)
}

/// Who will be there when this entry is applied. A change that is refused then may count here: at worst one more is
/// removed that isn't there, which is refused too.
fn foresee(members: &mut Vec<Member>, entry: &Entry) -> Result<(), Refused> {
    let invalid = |error: String| Refused::Invalid(InvalidMember(error));
    let change = ConfChange::decode(&entry.data).map_err(|error| invalid(error.to_string()))?;
    let at = members.iter().position(|member| member.id == change.node.0);
    match change.kind {
        ConfChangeKind::RemoveNode => members.retain(|member| member.id != change.node.0),
        ConfChangeKind::UpdateNode => {}
        ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode => {
            let context = Context::decode(&change.context).map_err(Refused::Invalid)?;
            match at {
                Some(at) if context.is_promote => members[at].is_learner = false,
                None if !context.is_promote => {
                    let is_learner = change.kind == ConfChangeKind::AddLearnerNode;
                    members.push(Member { is_learner, ..context.member });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use consensus::Term;

    use super::*;

    fn member(id: u64, is_learner: bool) -> Member {
        Member { id, peer_urls: vec![format!("http://{id}:1")], is_learner, ..Member::default() }
    }

    fn entry(index: u64, change: Option<ConfChange>) -> Entry {
        let kind = if change.is_some() { EntryKind::ConfChange } else { EntryKind::Normal };
        let data = change.map_or_else(Default::default, |change| change.encode());
        Entry { index: Index(index), term: Term(3), kind, data, proposal: None }
    }

    fn add(id: u64, is_learner: bool) -> ConfChange {
        let kind = if is_learner { ConfChangeKind::AddLearnerNode } else { ConfChangeKind::AddNode };
        let context = Context { member: member(id, is_learner), ..Context::default() };
        ConfChange { id: 1, kind, node: NodeId(id), context: context.encode() }
    }

    fn remove(id: u64) -> ConfChange {
        ConfChange { id: 1, kind: ConfChangeKind::RemoveNode, node: NodeId(id), context: Default::default() }
    }

    /// What is appended, as text: index, kind, member.
    fn run(
        members: &[Member],
        applied: u64,
        commit: u64,
        mut entries: Vec<Entry>,
    ) -> Result<String, Refused> {
        let mut hard_state = HardState { term: Term(5), vote: NodeId(2), commit: Index(commit) };
        rewrite(1, members, Index(applied), &mut hard_state, &mut entries)?;
        assert_eq!((hard_state.term, hard_state.vote), (Term(5), NodeId(2)));
        assert!(entries.windows(2).all(|pair| pair[0].index.0 + 1 == pair[1].index.0), "{entries:?}");
        let mut words: Vec<String> = Vec::new();
        for entry in entries.iter().filter(|entry| entry.term == Term(5)) {
            assert_eq!(entry.kind, EntryKind::ConfChange);
            let change = ConfChange::decode(&entry.data).expect("our own");
            words.push(format!("{} {:?} {}", entry.index.0, change.kind, change.node.0));
        }
        words.push(format!("commit {}", hard_state.commit.0));
        Ok(words.join(", "))
    }

    #[test]
    fn all_others_go_and_this_one_votes() {
        let three = [member(1, false), member(2, false), member(3, true)];
        let entries = || vec![entry(8, None), entry(9, None), entry(10, None)];
        let cases: [(&str, Result<String, Refused>, &str); 7] = [
            ("alone already", run(&three[..1], 10, 10, vec![]), "commit 10"),
            ("learners go too", run(&three, 10, 10, vec![]), "11 RemoveNode 2, 12 RemoveNode 3, commit 12"),
            (
                "the tree is ahead of the commit hint",
                run(&three[..2], 10, 7, vec![]),
                "11 RemoveNode 2, commit 11",
            ),
            (
                "what may have been acknowledged is kept",
                run(&three[..2], 7, 9, entries()),
                "11 RemoveNode 2, commit 11",
            ),
            (
                "a learner becomes a voter first",
                run(&[member(1, true), member(2, false)], 7, 7, vec![]),
                "8 AddNode 1, 9 RemoveNode 2, commit 9",
            ),
            (
                "changes that wait to be applied count",
                run(&three, 7, 9, vec![entry(8, Some(add(4, true))), entry(9, Some(remove(2)))]),
                "10 RemoveNode 3, 11 RemoveNode 4, commit 11",
            ),
            (
                "an uncommitted removal of this member is dropped, and what is behind it",
                run(
                    &three[..2],
                    7,
                    7,
                    vec![entry(8, Some(add(4, false))), entry(9, Some(remove(1))), entry(10, None)],
                ),
                "9 RemoveNode 2, 10 RemoveNode 4, commit 10",
            ),
        ];
        for (name, got, want) in cases {
            assert_eq!(got.as_deref(), Ok(want), "{name}");
        }
    }

    #[test]
    fn a_removed_member_founds_nothing() {
        assert_eq!(run(&[member(2, false)], 7, 7, vec![]), Err(Refused::NotAMember));
        let both = [member(1, false), member(2, false)];
        assert_eq!(run(&both, 7, 8, vec![entry(8, Some(remove(1)))]), Err(Refused::NotAMember));
    }
}
