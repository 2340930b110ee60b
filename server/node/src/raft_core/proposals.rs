//! The book of proposals: what waits for a leader, what is on its way, and what its proposers had decoded.

use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfChange, DropReason, Entry, EntryKind, Forward, ProposalId};
use rustc_hash::FxHashMap;

use super::orphans::Orphans;
use crate::cluster::conf_changes::ConfChanges;
use crate::cores::Committed;
use crate::propose::{Command, Forwarded, Write};

/// See the module's header.
pub(super) struct Proposals {
    /// What the proposers had decoded, until the entry commits.
    commands: FxHashMap<ProposalId, Command>,
    /// The same of proposals made while another member led.
    forwarded: Forwarded,
    /// Those of this turn that were made while this member led as far as it was known, and the IDs of their entries.
    fresh: Vec<(ProposalId, u64)>,
    /// Proposals that wait for a leader.
    pub orphans: Orphans,
    /// Changes of the membership, until they commit.
    conf_changes: ConfChanges,
}

impl Proposals {
    pub fn new(orphan_bytes_max: usize, conf_changes_open_max: usize) -> Proposals {
        Proposals {
            commands: FxHashMap::default(),
            forwarded: Forwarded::default(),
            fresh: Vec::new(),
            orphans: Orphans::new(orphan_bytes_max),
            conf_changes: ConfChanges::new(conf_changes_open_max),
        }
    }

    /// A proposal is handed to consensus. Gives its entry.
    pub fn proposed(&mut self, now: Duration, leads: bool, id: ProposalId, write: Write) -> Bytes {
        let Write { command, entry, id: request } = write;
        match leads {
            true => {
                self.commands.insert(id, command);
                self.fresh.push((id, request));
            }
            false => self.forwarded.insert(now, request, id, command),
        }
        entry
    }

    /// The node has been given the proposals of the turn. If it has learned in the same turn that another member leads, it has
    /// sent them there: their entries will be known by their IDs alone, if they commit at all.
    pub fn settle(&mut self, now: Duration, leads: bool) {
        for (id, request) in self.fresh.drain(..) {
            if !leads && let Some(command) = self.commands.remove(&id) {
                self.forwarded.insert(now, request, id, command);
            }
        }
    }

    /// The same of a change of the membership.
    pub fn change_proposed(&mut self, now: Duration, leads: bool, id: ProposalId, change: &ConfChange) {
        self.conf_changes.proposed(now, id, change);
        if !leads {
            self.forwarded.insert(now, change.id, id, Command::Nothing);
        }
    }

    /// Joins a committed entry with what its proposer on this member had decoded.
    pub fn committed(&mut self, mut entry: Entry) -> Committed {
        let own = entry.proposal.and_then(|id| self.commands.remove(&id));
        if own.is_some() {
            return Committed { entry, command: own };
        }
        let (id, command) = self.forwarded.take(&entry).unzip();
        entry.proposal = entry.proposal.or(id);
        if let (EntryKind::ConfChange, Some(id)) = (entry.kind, entry.proposal) {
            self.conf_changes.over(id);
        }
        let command = command.filter(|_| entry.kind == EntryKind::Normal);
        Committed { entry, command }
    }

    /// Consensus has refused a proposal: whether its proposer must hear of it. Otherwise it will be made again.
    pub fn dropped(&mut self, id: ProposalId, reason: DropReason) -> bool {
        if reason == DropReason::ConfChangePending && self.conf_changes.refused(id) {
            return false;
        }
        self.conf_changes.over(id);
        self.commands.remove(&id);
        true
    }

    /// Those for which nobody waits any more, because they came before `now - timeout`, and what to say of them.
    pub fn forget(
        &mut self,
        now: Duration,
        timeout: Duration,
    ) -> impl Iterator<Item = (ProposalId, DropReason)> + use<> {
        let orphans = self.orphans.forget_before(now.saturating_sub(timeout)).into_iter();
        let forwarded = self.forwarded.forget_before(now.saturating_sub(2 * timeout)).into_iter();
        let unknown = forwarded.map(|id| (id, DropReason::OutcomeUnknown));
        orphans.map(|id| (id, DropReason::NoLeader)).chain(unknown)
    }

    /// Changes of the membership to be proposed again; forgets those from before `then`.
    pub fn changes_due(&mut self, then: Duration) -> Vec<(ProposalId, ConfChange)> {
        self.conf_changes.due(then)
    }

    /// Whether somebody may still wait for one of these. They commit in their order, so the last one tells.
    pub fn is_open(&self, forward: &Forward) -> bool {
        forward.proposals.last().is_some_and(|(_, kind, data)| self.forwarded.is_open(*kind, data))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.commands.len() + self.forwarded.len() + self.orphans.len()
    }
}
