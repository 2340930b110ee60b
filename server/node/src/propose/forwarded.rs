//! Proposals of this member while another one leads.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfChange, Entry, EntryKind, ProposalId};
use rustc_hash::FxHashMap;

use super::{Command, request_id};

/// Own proposals on their way through another member, which leads: when one of them commits, its entry is known here
/// only by the ID it carries.
///
/// Bounded by the caller: an entry goes in per proposal and comes out with [`Forwarded::take`] or
/// [`Forwarded::forget_before`].
#[derive(Debug, Default)]
pub struct Forwarded {
    open: FxHashMap<u64, (ProposalId, Command)>,
    ages: VecDeque<(Duration, u64)>,
}

impl Forwarded {
    /// A proposal was handed to consensus at `now` while another member led.
    pub fn insert(&mut self, now: Duration, request: u64, id: ProposalId, command: Command) {
        self.open.insert(request, (id, command));
        self.ages.push_back((now, request));
    }

    /// Who proposed this committed entry, if it was one of these.
    pub fn take(&mut self, entry: &Entry) -> Option<(ProposalId, Command)> {
        if self.open.is_empty() {
            return None;
        }
        self.open.remove(&request_of(entry.kind, &entry.data)?)
    }

    /// Whether the proposal with these bytes is one of these, so that somebody may still wait for it.
    pub fn is_open(&self, kind: EntryKind, data: &Bytes) -> bool {
        request_of(kind, data).is_some_and(|request| self.open.contains_key(&request))
    }

    /// Forgets those handed over before `then`, whose outcome is unknown; gives their names.
    pub fn forget_before(&mut self, then: Duration) -> Vec<ProposalId> {
        let mut forgotten = Vec::new();
        while let Some((at, request)) = self.ages.front()
            && (*at < then || !self.open.contains_key(request))
        {
            forgotten.extend(self.open.remove(request).map(|(id, _)| id));
            self.ages.pop_front();
        }
        forgotten
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

fn request_of(kind: EntryKind, data: &Bytes) -> Option<u64> {
    match kind {
        EntryKind::Normal => request_id(data),
        EntryKind::ConfChange => ConfChange::decode(data).ok().map(|change| change.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::propose::encode;
    use consensus::{ConfChangeKind, Index, NodeId, Term};

    fn entry(kind: EntryKind, data: Bytes) -> Entry {
        Entry { index: Index(9), term: Term(2), kind, data, proposal: None }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_committed_entry_finds_its_proposer_once() {
        let mut forwarded = Forwarded::default();
        forwarded.insert(at(1), u64::MAX, ProposalId(5), Command::Nothing);
        forwarded.insert(at(1), 8, ProposalId(6), Command::Nothing);
        let foreign = entry(EntryKind::Normal, encode(7, 4, b"put", &[]));
        assert!(forwarded.take(&foreign).is_none());
        let own = entry(EntryKind::Normal, encode(u64::MAX, 4, b"put", &[]));
        assert!(!forwarded.is_open(foreign.kind, &foreign.data) && forwarded.is_open(own.kind, &own.data));
        assert_eq!(forwarded.take(&own).map(|(id, _)| id), Some(ProposalId(5)));
        assert!(forwarded.take(&own).is_none() && !forwarded.is_open(own.kind, &own.data));
        let change =
            ConfChange { id: 8, kind: ConfChangeKind::RemoveNode, node: NodeId(3), context: Bytes::new() };
        let change = entry(EntryKind::ConfChange, change.encode());
        assert_eq!(forwarded.take(&change).map(|(id, _)| id), Some(ProposalId(6)));
        assert!(forwarded.is_empty());
    }

    #[test]
    fn those_whose_time_is_over_are_forgotten() {
        let mut forwarded = Forwarded::default();
        for request in 1..=3 {
            forwarded.insert(at(request), request, ProposalId(request), Command::Nothing);
        }
        assert_eq!(forwarded.forget_before(at(3)), [ProposalId(1), ProposalId(2)]);
        assert_eq!(forwarded.len(), 1);
        let kept = entry(EntryKind::Normal, encode(3, 4, b"", &[]));
        assert!(forwarded.take(&kept).is_some());
    }

    #[test]
    fn bytes_without_a_header_in_front_have_no_id() {
        assert_eq!(request_id(&encode(300, 4, b"x", &[])), Some(300));
        for bytes in
            [&b""[..], b"\xa2", b"\xa2\x06", b"\xa2\x06\x02\x08", b"\xa2\x06\x02\x10\x01", b"\x22\x01x"]
        {
            assert_eq!(request_id(bytes), None, "{bytes:?}");
        }
    }
}
