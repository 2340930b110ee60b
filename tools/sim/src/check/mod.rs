//! What must hold, checked while the world runs, so that the first wrong thing ends it.
//!
//! The oracle sees every commit of every member, every durable write, every request and every answer. The first member
//! that hands out an index decides what stands there; everything else is compared with that, and with the model's answers.

pub mod answers;
pub mod leases;
pub mod questions;
pub mod raft;
pub mod time_to_live;
pub mod watches;

use consensus::{ConfChange, ConfChangeKind, ConfState, Entry, EntryKind};
use net::pb::etcdserverpb as pb;
use prost::Message;
use rustc_hash::FxHashMap;

use crate::members::Members;
use crate::model::{self, Model};
use crate::plan::Config;
use crate::queue::Time;

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which checker saw it.
    pub checker: &'static str,
    /// What it saw.
    pub what: String,
}

/// Fails by the name of a checker.
pub fn fail<T>(checker: &'static str, what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure { checker, what: what.into() })
}

/// What stands at an index, and the state after it.
pub struct Committed {
    /// The term of its entry.
    pub term: u64,
    /// A hash of its kind and bytes.
    pub hash: u64,
    /// The ID in its header; 0 if it is none of a client's.
    pub id: u64,
    /// When the first member handed it out.
    pub at: Time,
    /// Revision of the store after it.
    pub revision: i64,
    /// Compact revision after it.
    pub compact_revision: i64,
    /// What its proposer is told.
    pub answer: Option<model::Answer>,
}

/// What is rare, counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Answers that there is no space.
    pub no_space: u64,
    /// Tree files cut.
    pub cuts: u64,
    /// Proposals that say what is left of leases.
    pub lease_checkpoints: u64,
    /// Compactions that a server has proposed by itself.
    pub own_compactions: u64,
}

/// See the module's header.
pub struct Oracle {
    /// What is rare, counted.
    pub seen: Seen,
    /// The committed log; index `i` stands at `i - 1`.
    pub log: Vec<Committed>,
    /// Where each ID stands in it.
    pub by_id: FxHashMap<u64, u64>,
    /// The state after it.
    pub model: Model,
    /// The members after it.
    pub members: Members,
    /// Ids that were added to them and that nobody has looked at yet.
    pub added: Vec<u64>,
    /// Terms, votes, commits, durability.
    pub raft: raft::Raft,
    /// Requests and answers.
    pub answers: answers::Answers,
    /// Watch streams.
    pub watches: watches::Watches,
    /// Leases.
    pub leases: leases::Leases,
    /// Snapshots that members took.
    pub snapshots: u64,
    /// Which of them there were when.
    pub lease_sets: questions::LeaseSets,
    /// How long each of them lives, and what is attached to it.
    pub lease_times: time_to_live::LeaseTimes,
}

impl Oracle {
    /// Nothing has happened.
    pub fn new(config: &Config) -> Oracle {
        Oracle {
            seen: Seen::default(),
            log: Vec::new(),
            by_id: FxHashMap::default(),
            model: Model::new(config.lease_ttl_min),
            members: Members::default(),
            added: Vec::new(),
            raft: raft::Raft::new(config.members, config.hosts()),
            answers: answers::Answers::default(),
            watches: watches::Watches::default(),
            leases: leases::Leases::new(config.clock_rate_max),
            snapshots: 0,
            lease_sets: questions::LeaseSets::default(),
            lease_times: time_to_live::LeaseTimes::new(config),
        }
    }

    /// A member hands out committed entries.
    pub fn committed<'e>(
        &mut self,
        now: Time,
        node: usize,
        entries: impl Iterator<Item = &'e Entry>,
    ) -> Result<(), Failure> {
        for entry in entries {
            let hash = hash_entry(entry);
            self.raft.commits(node, entry.index.0)?;
            if let Some(known) = self.log.get(entry.index.0 as usize - 1) {
                if (known.term, known.hash) != (entry.term.0, hash) {
                    return fail(
                        "raft",
                        format!(
                            "member {node} commits entry {} of term {}, another committed one of term {} there{}",
                            entry.index,
                            entry.term,
                            known.term,
                            if known.term == entry.term.0 { " with other bytes" } else { "" }
                        ),
                    );
                }
                continue;
            }
            if entry.index.0 as usize != self.log.len() + 1 {
                return fail("raft", format!("member {node} commits entry {} before others", entry.index));
            }
            self.raft.first_commit(entry, &self.members)?;
            self.append(now, entry, hash)?;
        }
        Ok(())
    }

    fn append(&mut self, now: Time, entry: &Entry, hash: u64) -> Result<(), Failure> {
        let (id, answer) = match entry.kind {
            EntryKind::ConfChange => self.change_members(entry)?,
            EntryKind::Normal => self.apply(now, entry)?,
        };
        self.log.push(Committed {
            term: entry.term.0,
            hash,
            id,
            at: now,
            revision: self.model.revision,
            compact_revision: self.model.compact_revision,
            answer,
        });
        Ok(())
    }

    fn change_members(&mut self, entry: &Entry) -> Result<(u64, Option<model::Answer>), Failure> {
        let index = entry.index.0;
        let Ok(change) = ConfChange::decode(&entry.data) else {
            return fail("raft", format!("entry {index} is not what anybody proposed"));
        };
        self.note_id(change.id, index)?;
        let answer = self.members.change(index, &change);
        let adds = matches!(change.kind, ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode);
        if adds && answer.is_ok() && change.id != 0 {
            self.added.push(change.node.0);
        }
        Ok((change.id, Some(answer)))
    }

    /// An entry with this ID, if it has one, stands at this index.
    fn note_id(&mut self, id: u64, index: u64) -> Result<(), Failure> {
        if id == 0 {
            return Ok(());
        }
        if let Some(before) = self.by_id.insert(id, index) {
            return fail("exactly-once", format!("entry {index} is entry {before} once more (ID {id:x})"));
        }
        self.raft.not_dropped(id)
    }

    /// A member's configuration, as it takes it for that of this index.
    pub fn configured(&self, node: usize, index: u64, conf: &ConfState) -> Result<(), Failure> {
        let expected = self.members.conf_at(index);
        let ids = |nodes: &[consensus::NodeId]| nodes.iter().map(|node| node.0).collect::<Vec<u64>>();
        if (ids(&conf.voters), ids(&conf.learners)) != (expected.voters.clone(), expected.learners.clone()) {
            return fail(
                "membership",
                format!("member {node} goes by {conf:?} at {index}, not {expected:?}"),
            );
        }
        Ok(())
    }

    /// A member leads; it goes by the configuration of this index.
    pub fn leads(&mut self, node: usize, term: u64, conf_index: u64) -> Result<(), Failure> {
        self.raft.leads(node, term, conf_index, &self.members)
    }

    fn apply(&mut self, now: Time, entry: &Entry) -> Result<(u64, Option<model::Answer>), Failure> {
        let index = entry.index.0;
        let decoded =
            (pb::InternalRaftRequest::decode(entry.data.clone()), InTerm::decode(entry.data.clone()));
        let (Ok(request), Ok(in_term)) = decoded else {
            return fail("raft", format!("entry {index} is not what anybody proposed"));
        };
        let id = request.header.as_ref().map_or(0, |header| header.id);
        self.note_id(id, index)?;
        if let Some(said) = &request.cluster_member_attr_set {
            self.members.attributes(index, said);
        }
        let Term { term, granted_at } = in_term.header.unwrap_or_default();
        if term > 0 && term != entry.term.0 {
            return Ok((id, None)); // a leader's decision about leases counts in its own term only
        }
        if let Some(revoke) = &request.lease_revoke
            && term > 0
            && self.leases.is_of_another(revoke.id, granted_at)
        {
            return Ok((id, None));
        }
        self.leases.before_entry(now, index, &request, &self.model, term > 0)?;
        let answer = self.model.apply(&request);
        for lease in self.model.take_touched() {
            self.lease_times.changed(now, index, lease, self.model.leases.get(&lease));
        }
        if request.lease_grant.is_some() || request.lease_revoke.is_some() {
            self.lease_sets.changed(index, self.model.leases.keys());
        }
        Ok((id, answer))
    }

    /// A member takes a snapshot that covers this entry.
    pub fn installs(&mut self, node: usize, index: u64, term: u64) -> Result<(), Failure> {
        match self.log.get(index as usize - 1) {
            Some(known) if known.term == term => {}
            Some(known) => {
                return fail(
                    "raft",
                    format!("a snapshot of entry {index} of term {term}, it was {}", known.term),
                );
            }
            None => return fail("raft", format!("a snapshot of entry {index}, which nobody has committed")),
        }
        self.raft.handed_out(node, index);
        self.snapshots += 1;
        Ok(())
    }

    /// A member's log begins anew behind this entry.
    pub fn snapshot_durable(&mut self, node: usize, index: u64) {
        let terms = self.log[..index as usize].iter().map(|entry| entry.term);
        self.raft.snapshot(node, terms);
    }

    /// A member starts with what it has found on its disk.
    pub fn recovered(
        &mut self,
        node: usize,
        applied: u64,
        hard_state: consensus::HardState,
        entries: &[Entry],
    ) -> Result<(), Failure> {
        let Some(covered) = self.log.get(..applied as usize) else {
            let last = self.log.len();
            return fail("raft", format!("member {node} has applied {applied}, committed are {last}"));
        };
        let covered: Vec<u64> = covered.iter().map(|entry| entry.term).collect();
        self.raft.recovered(node, &covered, hard_state, entries)
    }

    /// The highest index whose state had this revision or an older one, and the first that had it.
    pub fn first_index_of(&self, revision: i64) -> u64 {
        self.log.partition_point(|entry| entry.revision < revision) as u64 + 1
    }

    /// Revision and compact revision after an index; index 0 is the empty store.
    pub fn at(&self, index: u64) -> (i64, i64) {
        match index.checked_sub(1).and_then(|at| self.log.get(at as usize)) {
            Some(entry) => (entry.revision, entry.compact_revision),
            None if index == 0 => (1, -1),
            None => (self.model.revision, self.model.compact_revision),
        }
    }
}

/// The part of an entry that is not etcd's: of a lease's expiry, the term in which its proposer leads and the entry that
/// granted the lease.
#[derive(Clone, PartialEq, prost::Message)]
struct InTerm {
    #[prost(message, optional, tag = "100")]
    header: Option<Term>,
}

/// See [`InTerm`].
#[derive(Clone, PartialEq, prost::Message)]
struct Term {
    #[prost(uint64, tag = "15")]
    term: u64,
    #[prost(uint64, tag = "14")]
    granted_at: u64,
}

/// Over what members must agree on.
pub fn hash_entry(entry: &Entry) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ u64::from(entry.kind == EntryKind::ConfChange);
    let (words, rest) = entry.data.as_chunks::<8>();
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    for word in words {
        hash = mix(hash, u64::from_le_bytes(*word));
    }
    let rest = rest.iter().fold(rest.len() as u64, |rest, byte| rest << 8 | u64::from(*byte));
    mix(hash, rest)
}
