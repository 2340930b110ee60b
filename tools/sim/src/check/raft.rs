//! Consensus: terms, votes, commits, and what is durable where.
//!
//! - Nobody leads a term that another leads; nobody grants two votes in a term, also not before and after a crash.
//! - What a member has committed grows by one, and only it; after a restart it begins at what its checkpoint covers.
//! - A committed entry is durable on a majority at that moment: of the configuration that its leader went by, which is the
//!   one before the last change of its log or the one after it. (One is appended when the one before it is applied, and
//!   nobody campaigns before what he knows to be committed is applied.) A change itself is committed by those before it.
//! - A leader had the votes of a majority of the configuration that it goes by, and belongs to it.
//! - Term and vote found after a restart are at least what was durable before it.
//! - What a member said would never commit never does.

use consensus::{Entry, EntryKind, HardState};
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Failure, fail};
use crate::member::{node_id, node_number};
use crate::members::Members;

/// What a member's log holds for sure.
#[derive(Default)]
struct Durable {
    /// Term of each entry; index `i` stands at `i - 1`.
    terms: Vec<u64>,
    hard_state: HardState,
    /// The last index that this life has handed out.
    handed_out: u64,
    /// An append is under way with which the log begins anew.
    resetting: bool,
}

impl Durable {
    fn has(&self, index: u64, term: u64) -> bool {
        self.terms.get(index as usize - 1) == Some(&term)
    }
}

/// See the module's header.
pub struct Raft {
    /// Members that the cluster began with.
    founders: usize,
    members: Vec<Durable>,
    leaders: FxHashMap<u64, usize>,
    votes: FxHashMap<(usize, u64), u64>,
    dropped: FxHashSet<u64>,
}

impl Raft {
    /// Members whose logs are empty, on so many hosts.
    pub fn new(founders: usize, hosts: usize) -> Raft {
        Raft {
            founders,
            members: (0..hosts).map(|_| Durable::default()).collect(),
            leaders: FxHashMap::default(),
            votes: FxHashMap::default(),
            dropped: FxHashSet::default(),
        }
    }

    /// A write has completed: these entries and this hard state are durable on a member.
    pub fn durable(
        &mut self,
        node: usize,
        entries: &[(u64, u64)],
        hard_state: HardState,
    ) -> Result<(), Failure> {
        let member = &mut self.members[node];
        for (index, term) in entries {
            member.terms.truncate(*index as usize - 1);
            if member.terms.len() + 1 != *index as usize {
                return fail(
                    "raft",
                    format!("member {node} appends entry {index} after entry {}", member.terms.len()),
                );
            }
            member.terms.push(*term);
        }
        if hard_state.term < member.hard_state.term {
            return fail(
                "raft",
                format!(
                    "member {node} goes back from term {} to {}",
                    member.hard_state.term, hard_state.term
                ),
            );
        }
        member.hard_state = hard_state;
        Ok(())
    }

    /// A member starts with what it has found on its disk. `covered` are the terms of what its checkpoint covers.
    pub fn recovered(
        &mut self,
        node: usize,
        covered: &[u64],
        hard_state: HardState,
        entries: &[Entry],
    ) -> Result<(), Failure> {
        let applied = covered.len() as u64;
        let member = &mut self.members[node];
        let (was, is) = (member.hard_state, hard_state);
        if is.term < was.term || (is.term == was.term && was.vote.0 != 0 && is.vote != was.vote) {
            return fail(
                "raft",
                format!(
                    "member {node} has forgotten: it was in term {} with a vote for {}, it starts in term {} with a vote for {}",
                    was.term, was.vote, is.term, is.vote
                ),
            );
        }
        let last = entries.last().map_or(applied, |entry| entry.index.0);
        // An append of the last life may have been complete on disk before its completion was seen; nothing durable may
        // be missing unless a later append of this log, complete but unseen, has replaced it.
        let replaced = entries.iter().any(|entry| {
            member.terms.get(entry.index.0 as usize - 1).is_some_and(|term| *term < entry.term.0)
        });
        let reset = std::mem::take(&mut member.resetting);
        if last < member.terms.len() as u64 && !replaced && !reset {
            return fail(
                "durability",
                format!("member {node} has lost entries {}..={}", last + 1, member.terms.len()),
            );
        }
        if member.terms.len() < covered.len() || reset {
            member.terms = covered.to_vec();
        }
        for entry in entries {
            let at = entry.index.0 as usize - 1;
            if at <= member.terms.len() {
                member.terms.truncate(at);
                member.terms.push(entry.term.0);
            }
        }
        member.hard_state = hard_state;
        member.handed_out = applied;
        Ok(())
    }

    /// A member's log begins anew after a snapshot at this index; `terms` are those of the entries it covers.
    pub fn snapshot(&mut self, node: usize, terms: impl Iterator<Item = u64>) {
        let member = &mut self.members[node];
        member.terms = terms.collect();
        member.resetting = false;
    }

    /// A member asks for an append with which its log begins anew.
    pub fn resets(&mut self, node: usize) {
        self.members[node].resetting = true;
    }

    /// A snapshot stands for everything up to this entry.
    pub fn handed_out(&mut self, node: usize, index: u64) {
        self.members[node].handed_out = index;
    }

    /// A member hands out the entry at this index.
    pub fn commits(&mut self, node: usize, index: u64) -> Result<(), Failure> {
        let member = &mut self.members[node];
        if index != member.handed_out + 1 {
            return fail(
                "raft",
                format!("member {node} hands out entry {index} after entry {}", member.handed_out),
            );
        }
        if index as usize > member.terms.len() {
            return fail("raft", format!("member {node} hands out entry {index}, which its disk has not"));
        }
        member.handed_out = index;
        Ok(())
    }

    /// Nobody has handed out this entry before.
    pub fn first_commit(&self, entry: &Entry, members: &Members) -> Result<(), Failure> {
        let (index, term) = (entry.index.0, entry.term.0);
        if index as usize <= self.founders {
            return Ok(()); // every founder begins with these
        }
        let has = |id| self.members[node_number(consensus::NodeId(id))].has(index, term);
        let conf = members.conf_at(index - 1);
        let is_change = entry.kind == EntryKind::ConfChange;
        if conf.is_majority(has) || !is_change && members.conf_before(conf).is_majority(has) {
            return Ok(());
        }
        let durable: Vec<usize> =
            (0..self.members.len()).filter(|at| self.members[*at].has(index, term)).collect();
        fail(
            "durability",
            format!(
                "entry {index} of term {term} commits while durable on {durable:?}, voters are {conf:x?}"
            ),
        )
    }

    /// A member leads, and goes by the configuration of this index.
    pub fn leads(
        &mut self,
        node: usize,
        term: u64,
        conf_index: u64,
        members: &Members,
    ) -> Result<(), Failure> {
        match self.leaders.insert(term, node) {
            Some(other) if other != node => {
                return fail("raft", format!("members {other} and {node} both lead term {term}"));
            }
            _ => {}
        }
        let (conf, own) = (members.conf_at(conf_index), node_id(node).0);
        if !conf.voters.contains(&own) {
            return fail("membership", format!("member {node} leads term {term}, voters are {conf:x?}"));
        }
        let votes =
            |id| id == own || self.votes.get(&(node_number(consensus::NodeId(id)), term)) == Some(&own);
        if !conf.is_majority(votes) {
            return fail("raft", format!("member {node} leads term {term} without a majority of {conf:x?}"));
        }
        Ok(())
    }

    /// Terms in which somebody has led.
    pub fn terms_led(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// Whether this member has ever led.
    pub fn has_led(&self, node: usize) -> bool {
        self.leaders.values().any(|leader| *leader == node)
    }

    /// A member's grant of a vote leaves it.
    pub fn votes(&mut self, node: usize, term: u64, candidate: u64) -> Result<(), Failure> {
        match self.votes.insert((node, term), candidate) {
            Some(other) if other != candidate => {
                fail("raft", format!("member {node} votes for {other} and for {candidate} in term {term}"))
            }
            _ => Ok(()),
        }
    }

    /// A member has said that the proposal with this ID will never commit.
    pub fn dropped(&mut self, id: u64) {
        self.dropped.insert(id);
    }

    /// The ID commits.
    pub fn not_dropped(&self, id: u64) -> Result<(), Failure> {
        match self.dropped.contains(&id) {
            true => fail("exactly-once", format!("the proposal {id:x} commits though it was refused")),
            false => Ok(()),
        }
    }
}
