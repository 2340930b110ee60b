//! The entries a node keeps in memory, and raft's view of them.
//!
//! raft clones an entry three times on its way (append, ready, commit). So what raft gets is a *stub*: index, term and
//! kind, without bytes; a stub's clone allocates nothing. The bytes stay here, shared, and are put back where entries
//! leave the node ([`crate::Append`], commit, messages to peers). raft looks into the bytes of configuration changes
//! when they are proposed, but an empty `ConfChange` satisfies it, and the kind is what it decides by.
//!
//! Never evicted: entries above the applied index. raft reads those synchronously and panics without them. What is
//! evicted stays in the log on disk until the store's checkpoints cover it; for a peer that lags so far it is fetched from
//! there (`LogTemporarilyUnavailable` is what raft hears meanwhile). Of those entries only the terms are known here.
//!
//! ```text
//!   log_first          before          applied        committed, durable      last
//!      │ on disk, by runs │ evictable ... │ must stay ............................│
//! ```

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::eraftpb::{
    ConfState as RaftConfState, Entry as Stub, EntryType, HardState as RaftHardState, Snapshot,
    SnapshotMetadata,
};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::{Entry, EntryKind, HardState, Index, LogPosition, NodeId, ProposalId, Term};

/// Entries whose bytes are counted one by one.
const COUNTED_MAX: usize = 1024;

/// Entries in memory, consecutive, from just after `before` to the last one.
pub(crate) struct Cache {
    /// The first entry of the log on disk.
    log_first: Index,
    /// The terms of what is on disk and not here: each is the first position of its term, except that the first may be of an
    /// earlier one. They reach up to `before`.
    runs: VecDeque<LogPosition>,
    before: LogPosition,
    applied: Index,
    entries: VecDeque<Entry>,
    /// Indexes of the configuration changes above `applied`, ascending.
    conf_changes: VecDeque<Index>,
    /// Cost of all entries, and of those above `applied`.
    bytes: usize,
    unapplied_bytes: usize,
    /// Applied entries are kept up to this cost, for peers that lag.
    applied_bytes_limit: usize,
    initial: (HardState, RaftConfState),
    /// Names of the proposals whose entries were replaced by others.
    replaced: Vec<(LogPosition, ProposalId)>,
    /// Entries read back from disk, for one peer each; never empty.
    fetched: BTreeMap<NodeId, Vec<Entry>>,
    /// What was read back before that, until the end of the turn: messages of this turn may need it.
    outdated: Vec<Vec<Entry>>,
    /// Snapshots to be offered.
    pinned: BTreeMap<NodeId, SnapshotMetadata>,
    /// Peers for whom raft has asked for a snapshot.
    wanted: RefCell<BTreeSet<NodeId>>,
}

impl Cache {
    /// `entries` follow `applied` without a gap.
    pub fn new(
        applied: LogPosition,
        entries: Vec<Entry>,
        initial: (HardState, RaftConfState),
        applied_bytes_limit: usize,
    ) -> Cache {
        let mut cache = Cache {
            log_first: Index(applied.index.0 + 1),
            runs: VecDeque::from([applied]),
            before: applied,
            applied: applied.index,
            entries: VecDeque::new(),
            conf_changes: VecDeque::new(),
            bytes: 0,
            unapplied_bytes: 0,
            applied_bytes_limit,
            initial,
            replaced: Vec::new(),
            fetched: BTreeMap::new(),
            outdated: Vec::new(),
            pinned: BTreeMap::new(),
            wanted: RefCell::default(),
        };
        entries.into_iter().for_each(|entry| cache.append(entry));
        cache
    }

    /// Adds an entry at the end, or replaces the end from its index on: a new leader's log wins.
    ///
    /// # Panics
    ///
    /// If that leaves a gap or replaces an applied entry.
    pub fn append(&mut self, entry: Entry) {
        assert!(entry.index > self.applied, "entry {} replaces an applied one", entry.index);
        if entry.index <= self.last().index {
            self.truncate(entry.index);
        }
        assert_eq!(entry.index.0, self.last().index.0 + 1, "entries are consecutive");
        if entry.kind == EntryKind::ConfChange {
            self.conf_changes.push_back(entry.index);
        }
        self.bytes += entry.cost_bytes();
        self.unapplied_bytes += entry.cost_bytes();
        self.entries.push_back(entry);
    }

    fn truncate(&mut self, from: Index) {
        while self.last().index >= from {
            let entry = self.entries.pop_back().expect("last() is in memory while it is above applied");
            self.bytes -= entry.cost_bytes();
            self.unapplied_bytes -= entry.cost_bytes();
            self.replaced.extend(entry.proposal.map(|id| (entry.position(), id)));
        }
        while self.conf_changes.back().is_some_and(|&index| index >= from) {
            self.conf_changes.pop_back();
        }
    }

    /// The applied state covers `applied`: entries up to there may go, with the next [`Cache::evict`].
    pub fn applied_to(&mut self, applied: Index) {
        assert!(self.applied <= applied && applied <= self.last().index, "applied {applied}");
        let (from, to) = (self.position_of(self.applied) + 1, self.position_of(applied) + 1);
        // Positions count from `before`, so entry number k of the queue has position k + 1.
        for entry in self.entries.range(from - 1..to - 1) {
            self.unapplied_bytes -= entry.cost_bytes();
        }
        self.applied = applied;
        while self.conf_changes.front().is_some_and(|&index| index <= applied) {
            self.conf_changes.pop_front();
        }
    }

    /// Lets applied entries go beyond the limit. Not before raft's messages are taken: they are stubs of entries here.
    pub fn evict(&mut self) {
        while self.bytes - self.unapplied_bytes > self.applied_bytes_limit {
            let entry = self.entries.pop_front().expect("applied bytes are of entries");
            self.bytes -= entry.cost_bytes();
            self.move_before(entry.position());
        }
    }

    fn move_before(&mut self, position: LogPosition) {
        self.before = position;
        if self.runs.back().is_none_or(|run| run.term != position.term) {
            self.runs.push_back(position);
        }
    }

    /// A snapshot takes the place of everything. What was here and had a name is among the replaced.
    pub fn reset(&mut self, position: LogPosition) {
        let lost = std::mem::take(&mut self.entries);
        self.replaced.extend(lost.into_iter().filter_map(|e| e.proposal.map(|id| (e.position(), id))));
        self.conf_changes.clear();
        self.fetched.clear();
        self.outdated.clear();
        self.pinned.clear();
        self.runs = VecDeque::from([position]);
        self.log_first = Index(position.index.0 + 1);
        (self.before, self.applied) = (position, position.index);
        (self.bytes, self.unapplied_bytes) = (0, 0);
    }

    /// Takes the names of proposals whose entries are no longer here, other than by being applied and evicted.
    pub fn take_replaced(&mut self) -> Vec<(LogPosition, ProposalId)> {
        std::mem::take(&mut self.replaced)
    }

    /// The log on disk begins at `first`.
    pub fn log_starts_at(&mut self, first: Index) {
        self.log_first = self.log_first.max(first);
        let needed = Index(self.first().0 - 1);
        while self.runs.get(1).is_some_and(|run| run.index <= needed) {
            self.runs.pop_front();
        }
    }

    /// The first entry that raft may have, here or from disk.
    pub fn first(&self) -> Index {
        self.log_first.min(Index(self.before.index.0 + 1))
    }

    /// The last entry that is not here.
    pub fn before(&self) -> Index {
        self.before.index
    }

    /// The terms of `first..=last`, which are not here: where each begins, `first` included.
    pub fn terms(&self, first: Index, last: Index) -> Vec<LogPosition> {
        let later = self.runs.iter().filter(|run| first < run.index && run.index <= last);
        let at_first = self.run_of(first).map(|run| LogPosition { index: first, term: run.term });
        at_first.into_iter().chain(later.copied()).collect()
    }

    fn run_of(&self, index: Index) -> Option<&LogPosition> {
        let at = self.runs.partition_point(|run| run.index <= index);
        at.checked_sub(1).map(|at| &self.runs[at]).filter(|_| index <= self.before.index)
    }

    /// Entries read back for a peer; false if they are not what the log has there.
    pub fn put_fetched(&mut self, peer: NodeId, first: Index, entries: Vec<Entry>) -> bool {
        let fits = |(entry, index): (&Entry, u64)| {
            entry.index.0 == index && self.run_of(entry.index).is_some_and(|run| run.term == entry.term)
        };
        let sound = first >= self.first() && entries.iter().zip(first.0..).all(fits);
        if sound && !entries.is_empty() {
            self.outdated.extend(self.fetched.insert(peer, entries));
            return true;
        }
        false
    }

    /// Whether `index` was read back for this peer.
    pub fn has_fetched(&self, peer: NodeId, index: Index) -> bool {
        self.fetched.get(&peer).is_some_and(|entries| find(entries, index).is_some())
    }

    /// Ends a turn: forgets what was read back for those of whom `keep` doesn't say that they need it.
    pub fn retain_fetched(&mut self, mut keep: impl FnMut(NodeId, Index) -> bool) {
        self.outdated.clear();
        self.fetched.retain(|peer, entries| entries.last().is_some_and(|last| keep(*peer, last.index)));
    }

    /// The next snapshot for this peer.
    pub fn pin(&mut self, peer: NodeId, position: LogPosition, conf: &crate::ConfState) {
        let metadata = SnapshotMetadata {
            conf_state: Some(to_raft_conf(conf)),
            index: position.index.0,
            term: position.term.0,
        };
        self.pinned.insert(peer, metadata);
    }

    /// Takes the snapshot for this peer back.
    pub fn unpin(&mut self, peer: NodeId) {
        self.pinned.remove(&peer);
    }

    /// Takes the peers for whom raft has asked for a snapshot that is not pinned.
    pub fn take_wanted(&mut self) -> BTreeSet<NodeId> {
        self.wanted.take()
    }

    /// Whether the entries from `first` on cost more than `bytes`, or are too many to be counted, or are not all here.
    pub fn exceeds(&self, first: Index, bytes: usize) -> bool {
        let Some(from) = first.0.checked_sub(self.before.index.0 + 1) else { return true };
        let entries = self.entries.range((from as usize).min(self.entries.len())..);
        entries.len() > COUNTED_MAX || entries.map(Entry::cost_bytes).sum::<usize>() > bytes
    }

    /// The entries `first..=last`, which must be here.
    pub fn range(&self, first: Index, last: Index) -> impl ExactSizeIterator<Item = &Entry> {
        let (from, to) = (self.position_of(first), self.position_of(last));
        self.entries.range(from - 1..to)
    }

    /// The entry at `position`, if it is here and of that term, or was read back.
    pub fn entry(&self, position: LogPosition) -> Option<&Entry> {
        let entry = match position.index.0.checked_sub(self.before.index.0 + 1) {
            Some(at) => self.entries.get(at as usize),
            None => {
                let read = self.fetched.values().chain(&self.outdated);
                read.filter_map(|entries| find(entries, position.index)).next()
            }
        };
        entry.filter(|entry| entry.term == position.term)
    }

    fn position_of(&self, index: Index) -> usize {
        assert!(index >= self.before.index, "index {index} is no longer in memory");
        (index.0 - self.before.index.0) as usize
    }

    /// The end of the log.
    pub fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.before, Entry::position)
    }

    /// What the caller has applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Whether there is a configuration change at `index`, above the applied index.
    pub fn has_conf_change(&self, index: Index) -> bool {
        self.conf_changes.contains(&index)
    }

    /// The first configuration change above the applied index.
    pub fn first_conf_change(&self) -> Option<Index> {
        self.conf_changes.front().copied()
    }

    /// Cost of the entries above the applied index.
    pub fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes
    }

    /// Cost of all entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The entry at `index` among consecutive ones.
fn find(entries: &[Entry], index: Index) -> Option<&Entry> {
    let first = entries.first()?.index;
    entries.get(index.0.checked_sub(first.0)? as usize)
}

/// Stubs of entries up to a size, one at least.
fn stubs<'a>(entries: impl Iterator<Item = &'a Entry>, limit: u64) -> Vec<Stub> {
    let mut stubs = Vec::new();
    let mut size = 0;
    for entry in entries {
        size += entry.cost_bytes() as u64;
        if size > limit && !stubs.is_empty() {
            break;
        }
        stubs.push(stub(entry.kind, entry.position()));
    }
    stubs
}

/// An entry without its bytes.
pub(crate) fn stub(kind: EntryKind, position: LogPosition) -> Stub {
    let mut stub = Stub { index: position.index.0, term: position.term.0, ..Default::default() };
    if kind == EntryKind::ConfChange {
        stub.set_entry_type(EntryType::EntryConfChange);
    }
    stub
}

/// Where a stub is.
pub(crate) fn stub_position(stub: &Stub) -> LogPosition {
    LogPosition { index: Index(stub.index), term: Term(stub.term) }
}

/// raft's form of a configuration.
pub(crate) fn to_raft_conf(conf: &crate::ConfState) -> RaftConfState {
    let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
    RaftConfState { voters: ids(&conf.voters), learners: ids(&conf.learners), ..Default::default() }
}

/// Our form of raft's configuration. Joint ones never arise: only single-step changes are proposed.
pub(crate) fn from_raft_conf(conf: &RaftConfState) -> crate::ConfState {
    let ids = |nodes: &[u64]| {
        let mut nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
        nodes.sort_unstable();
        nodes
    };
    crate::ConfState { voters: ids(&conf.voters), learners: ids(&conf.learners) }
}

impl Storage for Cache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let (hard_state, conf_state) = &self.initial;
        let hard_state =
            RaftHardState { term: hard_state.term.0, vote: hard_state.vote.0, commit: hard_state.commit.0 };
        Ok(RaftState::new(hard_state, conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Stub>> {
        let limit = max_size.into().unwrap_or(u64::MAX);
        let (first, last) = (Index(low), Index(high.saturating_sub(1)));
        if last > self.last().index {
            return Err(Error::Store(StorageError::Unavailable));
        }
        if first > last {
            return Ok(Vec::new());
        }
        if first > self.before.index {
            return Ok(stubs(self.range(first, last), limit));
        }
        if first < self.first() || !context.can_async() {
            return Err(Error::Store(StorageError::Compacted));
        }
        let fetched = self.fetched.values().find(|entries| find(entries, first).is_some());
        let Some(entries) = fetched else {
            return Err(Error::Store(StorageError::LogTemporarilyUnavailable));
        };
        let wanted = entries.iter().filter(|entry| first <= entry.index && entry.index <= last);
        Ok(stubs(wanted, limit))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index <= self.before.index.0 {
            // That of the last entry before the log is known too.
            let known = index + 1 >= self.first().0;
            let run = self.run_of(Index(index)).filter(|_| known);
            return run.map(|run| run.term.0).ok_or(Error::Store(StorageError::Compacted));
        }
        let at = (index - self.before.index.0 - 1) as usize;
        self.entries.get(at).map(|e| e.term.0).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first().0)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index.0)
    }

    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match self.pinned.get(&NodeId(to)) {
            Some(metadata) => Ok(Snapshot { data: Default::default(), metadata: Some(metadata.clone()) }),
            None => {
                self.wanted.borrow_mut().insert(NodeId(to));
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(index: u64, term: u64, len: usize) -> Entry {
        let data = Bytes::from(vec![7; len]);
        let kind = if len == 1 { EntryKind::ConfChange } else { EntryKind::Normal };
        Entry { index: Index(index), term: Term(term), kind, data, proposal: None }
    }

    fn cache(limit: usize) -> Cache {
        let entries = (6..=10).map(|index| entry(index, 2, 100)).collect();
        Cache::new(LogPosition::new(5, 1), entries, Default::default(), limit)
    }

    #[test]
    fn bytes_follow_the_applied_index_and_eviction_keeps_the_limit() {
        let cost = entry(1, 1, 100).cost_bytes();
        let mut cache = cache(2 * cost);
        assert_eq!((cache.bytes(), cache.unapplied_bytes()), (5 * cost, 5 * cost));
        cache.applied_to(Index(5));
        assert_eq!(cache.unapplied_bytes(), 5 * cost);
        cache.applied_to(Index(9));
        cache.evict();
        assert_eq!((cache.bytes(), cache.unapplied_bytes()), (3 * cost, cost));
        assert_eq!(cache.before(), Index(7));
        assert_eq!(cache.term(7).unwrap(), 2);
        // They are on disk, until that is said to begin later.
        assert_eq!(cache.first_index().unwrap(), 6);
        assert_eq!([cache.term(5).unwrap(), cache.term(6).unwrap()], [1, 2]);
        cache.log_starts_at(Index(8));
        assert_eq!(cache.first_index().unwrap(), 8);
        assert_eq!(cache.term(7).unwrap(), 2);
        assert!(matches!(cache.term(6), Err(Error::Store(StorageError::Compacted))));
        assert_eq!(cache.last(), LogPosition::new(10, 2));
    }

    #[test]
    fn a_new_leader_replaces_the_end() {
        let mut cache = cache(0);
        cache.append(entry(11, 2, 1));
        assert_eq!(cache.first_conf_change(), Some(Index(11)));
        cache.append(entry(9, 3, 50));
        assert_eq!(cache.last(), LogPosition::new(9, 3));
        assert_eq!(cache.first_conf_change(), None);
        let cost = |len| entry(1, 1, len).cost_bytes();
        assert_eq!(cache.bytes(), 3 * cost(100) + cost(50));
        assert_eq!(cache.unapplied_bytes(), cache.bytes());
        assert!(cache.entry(LogPosition::new(9, 2)).is_none());
        assert_eq!(cache.entry(LogPosition::new(9, 3)).unwrap().data.len(), 50);
    }

    #[test]
    #[should_panic(expected = "replaces an applied one")]
    fn applied_entries_are_never_replaced() {
        let mut cache = cache(0);
        cache.applied_to(Index(8));
        cache.append(entry(8, 3, 1));
    }

    #[test]
    fn what_raft_reads_is_bounded_by_real_bytes() {
        let cost = entry(1, 1, 100).cost_bytes() as u64;
        let cache = cache(0);
        let context = || GetEntriesContext::empty(false);
        let count = |limit| cache.entries(6, 11, Some(limit), context()).unwrap().len();
        assert_eq!([count(0), count(cost), count(3 * cost), count(u64::MAX)], [1, 1, 3, 5]);
        let compacted = cache.entries(5, 7, None, context());
        assert!(matches!(compacted, Err(Error::Store(StorageError::Compacted))));
        let beyond = cache.entries(6, 12, None, context());
        assert!(matches!(beyond, Err(Error::Store(StorageError::Unavailable))));
    }
}
