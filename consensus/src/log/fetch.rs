//! Entries read back from the segments, for a peer that lags, while the log goes on being written.
//!
//! What is wanted is in whole, durable batches: it is applied. So nothing here needs the writer's state, only its files: the
//! chain of batches is followed from the newest head that is not beyond the first wanted entry. An entry that was replaced
//! is told from its successor by its term. A segment that is used again meanwhile ends the chain, and the answer is what
//! was found before.
//!
//! Consecutive fetches go on where the last one ended, so a peer that reads a whole log reads it once.

use super::record::{self, Header};
use super::scan::Scan;
use super::{Identity, SegmentId, SegmentReader};
use crate::{Entry, Fetch, Index, LogPosition, Term};

/// Reads for one peer.
#[derive(Debug, Default)]
pub struct Fetcher {
    cursor: Option<Cursor>,
}

/// The batch in which the next fetch will probably begin.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    next: Index,
    segment: SegmentId,
    offset: u64,
    sequence: u64,
}

impl Fetcher {
    /// The entries from `fetch.first` on, at least one; `None` if it isn't in the log, or can't be read.
    pub fn fetch(
        &mut self,
        reader: &dyn SegmentReader,
        identity: Identity,
        fetch: &Fetch,
    ) -> Option<Vec<Entry>> {
        let mut scan = Scan::new(reader, identity).ok()?;
        let mut batch = self.resume(&mut scan, fetch.first).or_else(|| begin(&scan, fetch.first))?;
        let mut found = Found { fetch, entries: Vec::new(), bytes: 0 };
        loop {
            if found.take_from(&mut scan, &batch) {
                let Header { segment, offset, sequence, .. } = batch;
                self.cursor = Some(Cursor { next: found.next(), segment, offset, sequence });
                break;
            }
            match next(&mut scan, &batch) {
                Some(header) => batch = header,
                None => break,
            }
        }
        (!found.entries.is_empty()).then_some(found.entries)
    }

    fn resume(&self, scan: &mut Scan<'_>, first: Index) -> Option<Header> {
        let cursor = self.cursor.filter(|cursor| cursor.next == first)?;
        if !scan.segments.iter().any(|info| info.id == cursor.segment) {
            return None;
        }
        let header = scan.batch_at(cursor.segment, cursor.offset)?;
        (header.sequence == cursor.sequence).then_some(header)
    }
}

/// The newest head before or at which `first` was written.
fn begin(scan: &Scan<'_>, first: Index) -> Option<Header> {
    let not_beyond = |head: &&Header| match head.records {
        0 => head.last.index < first,
        _ => head.first.index <= first,
    };
    scan.heads.iter().rev().find(not_beyond).copied()
}

/// The batch after `batch`.
fn next(scan: &mut Scan<'_>, batch: &Header) -> Option<Header> {
    let behind = scan.batch_at(batch.segment, batch.offset + u64::from(batch.len));
    let hash = record::header_hash(&batch.encode());
    let candidates = scan.heads.iter().copied().chain(behind);
    let follows = |header: &Header| header.sequence == batch.sequence + 1 && header.previous == hash;
    candidates.filter(follows).max_by_key(|header| header.epoch)
}

struct Found<'a> {
    fetch: &'a Fetch,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Found<'_> {
    fn next(&self) -> Index {
        Index(self.fetch.first.0 + self.entries.len() as u64)
    }

    /// Takes what is wanted of a batch. True if that is enough.
    fn take_from(&mut self, scan: &mut Scan<'_>, batch: &Header) -> bool {
        let last = batch.first.index.0 + u64::from(batch.records);
        let useful = batch.records > 0 && batch.first.index <= self.next() && self.next().0 < last;
        if !useful {
            return false;
        }
        let Some(entries) = scan.read_entries(batch, LogPosition::default()) else { return false };
        for entry in entries {
            if entry.index != self.next() || Some(entry.term) != self.term_of(entry.index) {
                continue;
            }
            self.bytes += entry.data.len();
            self.entries.push(entry);
            if self.bytes >= self.fetch.bytes_max || self.next() > self.fetch.last {
                return true;
            }
        }
        false
    }

    fn term_of(&self, index: Index) -> Option<Term> {
        let runs = &self.fetch.terms;
        let at = runs.partition_point(|run| run.index <= index);
        at.checked_sub(1).map(|at| runs[at].term)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::log::{Log, LogConfig, Tail};
    use crate::testing::{Disk, IDENTITY, small_log};
    use crate::{Append, EntryKind, HardState, NodeId, ReadyNumber};

    fn entry(index: u64, term: u64, len: usize) -> Entry {
        let data = Bytes::from(vec![(index * 10 + term) as u8; len]);
        Entry { index: Index(index), term: Term(term), kind: EntryKind::Normal, data, proposal: None }
    }

    fn write(log: &mut Log, disk: &mut Disk, entries: Vec<Entry>) {
        let hard_state = HardState::default();
        log.append(Append { ready: ReadyNumber(1), hard_state, entries, reset: None });
        while !log.is_idle() {
            while let Some(wanted) = log.segment_wanted() {
                disk.segments.insert(wanted.id, vec![0; wanted.size as usize]);
                log.segment_ready(wanted.id, wanted.size);
            }
            let plan = log.poll_write().expect("there is room");
            let mut buf = vec![0; plan.len];
            log.encode(&plan, &mut buf);
            disk.in_flight = Some((plan, buf));
            disk.complete();
            log.written(Duration::ZERO);
        }
    }

    /// Entries 1..=200 over many segments; those from 150 on were first of term 1, then replaced.
    fn log() -> (Log, Disk) {
        let mut log = Log::new(LogConfig { ..small_log() }, IDENTITY, Tail::default());
        let mut disk = Disk::default();
        for index in 1..=170 {
            write(&mut log, &mut disk, vec![entry(index, 1, 1500)]);
        }
        for index in (150..=200).step_by(3) {
            write(&mut log, &mut disk, (index..index + 3).map(|index| entry(index, 2, 700)).collect());
        }
        (log, disk)
    }

    fn fetch(first: u64, last: u64, bytes_max: usize) -> Fetch {
        let terms = vec![LogPosition::new(first, 1), LogPosition::new(150.max(first + 1), 2)];
        let terms = if first >= 150 { vec![LogPosition::new(first, 2)] } else { terms };
        Fetch { peer: NodeId(2), first: Index(first), last: Index(last), bytes_max, terms }
    }

    #[test]
    fn the_whole_log_is_read_back_in_pieces_as_it_was_last_written() {
        let (_, disk) = log();
        for bytes_max in [1, 2000, 20_000, 1 << 20] {
            let mut fetcher = Fetcher::default();
            let mut next = 1;
            while next <= 200 {
                let entries = fetcher.fetch(&disk, IDENTITY, &fetch(next, 200, bytes_max)).unwrap();
                for found in entries {
                    let want = if next < 150 { entry(next, 1, 1500) } else { entry(next, 2, 700) };
                    assert_eq!(found, want);
                    next += 1;
                }
            }
            assert_eq!(next, 201);
        }
    }

    #[test]
    fn what_was_recycled_is_gone_and_the_rest_is_not() {
        let (mut log, mut disk) = log();
        assert_eq!(log.first_index(), Index(1));
        log.checkpointed(Index(100));
        let first = log.first_index();
        assert!(Index(50) < first && first <= Index(101), "{first}");
        // The free segments are written over.
        for index in 201..=300 {
            write(&mut log, &mut disk, vec![entry(index, 2, 1500)]);
        }
        let mut fetcher = Fetcher::default();
        assert_eq!(fetcher.fetch(&disk, IDENTITY, &fetch(1, 100, 1 << 20)), None);
        let entries = fetcher.fetch(&disk, IDENTITY, &fetch(first.0, 140, 1 << 20)).unwrap();
        assert_eq!((entries[0].index, entries.last().unwrap().index), (first, Index(140)));
    }

    #[test]
    fn an_entry_of_another_term_is_not_taken_for_the_wanted_one() {
        let (_, disk) = log();
        let mut wanted = fetch(150, 160, 1 << 20);
        wanted.terms = vec![LogPosition::new(150, 3)];
        assert_eq!(Fetcher::default().fetch(&disk, IDENTITY, &wanted), None);
    }
}
