//! The log as the node wrote it, and the state after each entry of it, as simply as it can be said.
//!
//! The model knows nothing of terms, pages or segments. Whatever a crash leaves must be its state after some entry, none
//! earlier than the last acknowledged one; what follows that entry is then forgotten here, too.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use consensus::{Entry, EntryKind, ProposalId};

use crate::workload::Op;

/// A key's newest row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    pub value: Bytes,
    pub create: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

pub type Kvs = BTreeMap<Bytes, Kv>;

/// Everything that an applied entry can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub revision: i64,
    pub compact_revision: i64,
    pub kvs: Rc<Kvs>,
    /// Granted TTLs by id.
    pub leases: Rc<BTreeMap<i64, i64>>,
    /// The member's name, once the entry that adds it was applied.
    pub member: Option<String>,
    pub cluster_version: Option<String>,
    /// What the entry's proposer is told: the header's revision, unless it is refused.
    pub answer: Option<i64>,
}

/// The shortest TTL that is granted, in seconds.
pub const LEASE_TTL_S_MIN: i64 = 2;

impl State {
    fn empty() -> State {
        State {
            revision: 1,
            compact_revision: -1,
            kvs: Rc::default(),
            leases: Rc::default(),
            member: None,
            cluster_version: None,
            answer: None,
        }
    }

    /// The state after `op`.
    fn after(&self, op: &Op) -> State {
        let mut next = self.clone();
        let done = next.apply(op);
        if done.is_none() {
            next = self.clone(); // a refused one changes nothing
        }
        next.answer = done.map(|()| next.revision);
        next
    }

    fn apply(&mut self, op: &Op) -> Option<()> {
        match op {
            Op::Put { .. } | Op::Delete { .. } => self.write(std::slice::from_ref(op))?,
            Op::Txn { key, success, failure } => {
                self.write(if self.kvs.contains_key(key) { success } else { failure })?;
            }
            Op::Compact { revision, .. } => {
                if *revision <= self.compact_revision || *revision > self.revision {
                    return None;
                }
                self.compact_revision = *revision;
            }
            Op::Grant { lease, ttl } => {
                if self.leases.contains_key(lease) {
                    return None;
                }
                Rc::make_mut(&mut self.leases).insert(*lease, (*ttl).max(LEASE_TTL_S_MIN));
            }
            Op::Revoke { lease } => {
                Rc::make_mut(&mut self.leases).remove(lease)?;
                self.remove(|_, kv| kv.lease == *lease);
            }
            Op::Attributes { name } => self.member = self.member.as_ref().map(|_| name.clone()),
            Op::ClusterVersion { version } => self.cluster_version = Some(version.clone()),
        }
        Some(())
    }

    /// All of these in one revision, if any of them changes anything.
    fn write(&mut self, ops: &[Op]) -> Option<()> {
        let granted = |op: &Op| match op {
            Op::Put { lease, .. } => *lease == 0 || self.leases.contains_key(lease),
            _ => true,
        };
        if !ops.iter().all(granted) {
            return None;
        }
        let (before, mut after) = (self.revision, self.revision);
        for op in ops {
            self.revision = before;
            match op {
                Op::Put { key, value, lease } => self.put(key, value, *lease),
                Op::Delete { key, range_end } if range_end.is_empty() => self.remove(|k, _| k == key),
                Op::Delete { key, range_end } => self.remove(|k, _| k >= key && k < range_end),
                other => unreachable!("no list holds {other:?}"),
            }
            after = after.max(self.revision);
        }
        self.revision = after;
        Some(())
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, lease: i64) {
        self.revision += 1;
        let modified = self.revision;
        let kvs = Rc::make_mut(&mut self.kvs);
        let new = Kv { value: Bytes::new(), create: modified, modified, version: 0, lease };
        let kv = kvs.entry(key.clone()).or_insert(new);
        kv.value = value.clone();
        kv.lease = lease;
        kv.modified = modified;
        kv.version += 1;
    }

    fn remove(&mut self, goes: impl Fn(&Bytes, &Kv) -> bool) {
        if self.kvs.iter().any(|(key, kv)| goes(key, kv)) {
            self.revision += 1;
            Rc::make_mut(&mut self.kvs).retain(|key, kv| !goes(key, kv));
        }
    }
}

/// The log and its states.
pub struct Model {
    /// Entry `i` stands at `i - 1`.
    pub entries: Vec<Entry>,
    /// State after entry `i` stands at `i`.
    states: Vec<State>,
    /// What was proposed under each id.
    proposed: BTreeMap<ProposalId, Op>,
    /// Somebody was told that the entries up to this one are done.
    pub acknowledged: u64,
    /// A completed write, or the last recovery, has made the entries up to this one durable.
    pub durable: u64,
}

impl Model {
    pub fn new() -> Model {
        Model {
            entries: Vec::new(),
            states: vec![State::empty()],
            proposed: BTreeMap::new(),
            acknowledged: 0,
            durable: 0,
        }
    }

    pub fn propose(&mut self, id: ProposalId, op: Op) {
        self.proposed.insert(id, op);
    }

    /// The node appends to the log.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            if entry.index.0 <= self.durable {
                return Err(format!(
                    "entry {} is appended, though {} are durable",
                    entry.index, self.durable
                ));
            }
            self.truncate(entry.index.0 - 1);
            let before = self.newest();
            let op = entry.proposal.and_then(|id| self.proposed.get(&id));
            let mut state = op.map_or_else(|| before.clone(), |op| before.after(op));
            if entry.kind == EntryKind::ConfChange {
                state.member = Some(String::new());
            }
            self.states.push(state);
            self.entries.push(entry.clone());
        }
        Ok(())
    }

    /// What a restart has found: the log up to `last`, of which the entries above the checkpoint are `entries`.
    pub fn recovered(&mut self, last: u64, entries: &[Entry]) -> Result<(), String> {
        if last < self.acknowledged {
            return Err(format!("entries up to {} were acknowledged, {last} are left", self.acknowledged));
        }
        if last > self.last() {
            return Err(format!("{last} entries found, {} were ever written", self.last()));
        }
        for found in entries {
            let written = &self.entries[found.index.0 as usize - 1];
            let as_written = (found.index, found.term, found.kind, &found.data)
                == (written.index, written.term, written.kind, &written.data);
            if !as_written {
                return Err(format!("entry {} is not what was written", found.index));
            }
        }
        self.truncate(last);
        self.durable = last;
        Ok(())
    }

    fn truncate(&mut self, last: u64) {
        self.entries.truncate(last as usize);
        self.states.truncate(last as usize + 1);
    }

    pub fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The state after entry `index`, if there is one.
    pub fn state(&self, index: u64) -> Option<&State> {
        self.states.get(index as usize)
    }

    pub fn newest(&self) -> &State {
        self.states.last().expect("there is the empty one")
    }

    /// The keys at `revision`, as the entries up to `index` left them.
    pub fn kvs_at(&self, revision: i64, index: u64) -> &Kvs {
        let states = &self.states[..=index as usize];
        let after = states.partition_point(|state| state.revision <= revision);
        &states[after.max(1) - 1].kvs
    }
}
