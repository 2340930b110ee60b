//! Changes of the membership that were refused because the one before them is not applied yet.
//!
//! Raft takes one at a time, and who asks for the next has often just been told that the one before is done: by this
//! member, while the leader still applies it. (An etcd drops such a change, and its caller waits in vain.) So it is
//! proposed again, once per tick, until it is taken or its caller has stopped waiting.

use std::time::Duration;

use consensus::{ConfChange, ProposalId};

/// Changes that are proposed and not yet committed, oldest first.
#[derive(Debug)]
pub struct ConfChanges {
    open: Vec<Open>,
    open_max: usize,
}

#[derive(Debug)]
struct Open {
    since: Duration,
    id: ProposalId,
    change: ConfChange,
    refused: bool,
}

impl ConfChanges {
    /// None yet; `open_max` of them are kept.
    pub fn new(open_max: usize) -> ConfChanges {
        ConfChanges { open: Vec::new(), open_max }
    }

    /// A change is proposed at `now`, for the first time or again. Beyond the bound it has one attempt.
    pub fn proposed(&mut self, now: Duration, id: ProposalId, change: &ConfChange) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.refused = false;
        } else if self.open.len() < self.open_max {
            self.open.push(Open { since: now, id, change: change.clone(), refused: false });
        }
    }

    /// Another change is not applied yet: whether this one will be proposed again.
    pub fn refused(&mut self, id: ProposalId) -> bool {
        let open = self.open.iter_mut().find(|open| open.id == id);
        open.map(|open| open.refused = true).is_some()
    }

    /// It was committed, or refused for good.
    pub fn over(&mut self, id: ProposalId) {
        self.open.retain(|open| open.id != id);
    }

    /// Those to propose again. Forgets what was proposed first before `then`: nobody waits for it any more.
    pub fn due(&mut self, then: Duration) -> Vec<(ProposalId, ConfChange)> {
        self.open.retain(|open| open.since >= then);
        self.open.iter().filter(|open| open.refused).map(|open| (open.id, open.change.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use consensus::{ConfChangeKind, NodeId};

    use super::*;

    const OPEN_MAX: usize = 64;

    fn change(node: u64) -> ConfChange {
        ConfChange {
            id: node,
            kind: ConfChangeKind::RemoveNode,
            node: NodeId(node),
            context: Default::default(),
        }
    }

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    fn due(changes: &mut ConfChanges, then: u64) -> Vec<u64> {
        changes.due(at(then)).into_iter().map(|(id, _)| id.0).collect()
    }

    #[test]
    fn what_is_refused_is_proposed_again_until_it_is_over() {
        let mut changes = ConfChanges::new(OPEN_MAX);
        for id in [1, 2, 3] {
            changes.proposed(at(id), ProposalId(id), &change(id));
        }
        assert_eq!(due(&mut changes, 0), [0; 0]);
        assert!(changes.refused(ProposalId(2)) && changes.refused(ProposalId(3)));
        assert_eq!(due(&mut changes, 0), [2, 3]);
        changes.proposed(at(9), ProposalId(2), &change(2));
        assert_eq!(due(&mut changes, 0), [3], "the second is on its way again");
        assert!(changes.refused(ProposalId(2)));
        changes.over(ProposalId(3));
        assert!(!changes.refused(ProposalId(3)));
        assert_eq!(due(&mut changes, 2), [2]);
        assert_eq!(due(&mut changes, 3), [0; 0], "nobody waits since then");
        assert!(!changes.refused(ProposalId(2)));
    }

    #[test]
    fn beyond_the_bound_there_is_one_attempt() {
        let mut changes = ConfChanges::new(OPEN_MAX);
        let last = OPEN_MAX as u64;
        for id in 0..=last {
            changes.proposed(at(1), ProposalId(id), &change(id));
        }
        assert!(changes.refused(ProposalId(last - 1)));
        assert!(!changes.refused(ProposalId(last)));
    }
}
