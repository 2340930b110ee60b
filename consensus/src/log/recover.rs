//! From segments back to the state.
//!
//! ```text
//!   heads: the first block of every segment
//!     └─ begin at the newest head behind which nothing is missing: all before it is in the store
//!          └─ follow the chain: the next batch is just behind, or at the head of another segment
//!               └─ it ends: is there proof of more? (verdict)
//!                     ├─ no: the log ends here, the next batch is written here
//!                     └─ yes: begin anew at a later batch if the store covers the gap, else damage
//! ```
//!
//! What is read: the head of every segment, every batch from the beginning on (the records only of those with entries
//! that the store does not have), and the rest of the last segment, which must hold no later batch. Nor may the others: a
//! segment whose head is neither a batch nor zeros is searched in full, of the rest the beginning, in case the write of a
//! head was lost.
//!
//! A complete last batch whose completion nobody saw may still sit in the device's cache, so before a node acts on what
//! was found, every segment has to be synced (fdatasync) once.

use super::record::Header;
use super::scan::{Scan, Search};
use super::verdict::{Evidence, Verdict, decide, may_begin_at};
use super::{
    Damage, Identity, Note, Proof, RecoverError, SegmentId, SegmentInfo, SegmentReader, State, record,
};
use crate::{Entry, HardState, Index, LogPosition};

/// What a log holds.
#[derive(Debug)]
pub struct Recovered {
    /// For [`Node::new`](crate::Node::new). With term 0 if the log is empty: see [`Recovered::is_new`].
    pub state: State,
    /// For [`Log::new`](super::Log::new).
    pub tail: Tail,
    /// What the operator should hear about.
    pub notes: Vec<Note>,
    /// Set if the log begins behind a snapshot that the store does not cover: the process ended while it was being
    /// installed. The installation has to be finished, from the file that was complete before the log was told. `state` follows
    /// that snapshot and not the store.
    pub snapshot: Option<LogPosition>,
}

impl Recovered {
    /// Whether nothing has ever been written: a first start, to be [bootstrapped](State::bootstrap).
    pub fn is_new(&self) -> bool {
        self.tail.sequence == 0
    }
}

/// Where writing goes on.
#[derive(Debug, Default)]
pub struct Tail {
    pub(super) log_id: Option<u64>,
    pub(super) epoch: u64,
    pub(super) sequence: u64,
    pub(super) header_hash: u32,
    pub(super) last: LogPosition,
    pub(super) hard_state: HardState,
    /// The last batch holds something and no later one proves it.
    pub(super) unproven: bool,
    /// Full segments of the chain in order, and what is in each.
    pub(super) used: Vec<(SegmentInfo, Span)>,
    /// The segment being written, what is in it, and the offset of the next batch.
    pub(super) current: Option<(SegmentInfo, Span, u64)>,
    pub(super) free: Vec<SegmentInfo>,
}

/// The entries of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The first entry written to it; `None` without entries.
    pub first: Option<Index>,
    /// The highest index to which the log has reached in it.
    pub last: Index,
}

impl Span {
    /// A batch is added, whose first entry is `first` (0: none) and after which the log reaches up to `last`.
    pub fn add(&mut self, first: Index, last: Index) {
        self.first = self.first.or((first > Index(0)).then_some(first));
        self.last = self.last.max(last);
    }
}

/// Reads the log of `identity`. `applied` is what the last checkpoint of the store covers.
pub fn recover(
    reader: &dyn SegmentReader,
    identity: Identity,
    applied: LogPosition,
) -> Result<Recovered, RecoverError> {
    let mut scan = Scan::new(reader, identity)?;
    match begin(&mut scan, applied) {
        Some(header) => follow(scan, Chain::begin_at(header, applied), Vec::new()),
        None => without_chain(scan, applied),
    }
}

/// The newest head at which the log may begin. It must be readable, else nothing could be said about what is before it;
/// if none is, the oldest, where that will be found out.
fn begin(scan: &mut Scan<'_>, applied: LogPosition) -> Option<Header> {
    let mut heads = scan.heads.clone();
    heads.retain(|head| may_begin_at(head, applied));
    let readable = heads.iter().rev().find(|head| scan.read_entries(head, applied).is_some());
    readable.or(heads.first()).copied()
}

/// No head will do: the log is new, or its beginning is missing.
fn without_chain(mut scan: Scan<'_>, applied: LogPosition) -> Result<Recovered, RecoverError> {
    let place = scan.headless.first().or(scan.segments.first());
    let segment = place.map_or(SegmentId(1), |info| info.id);
    let search = Search { segment, offset: 0, except_there: false, sequence: 0, epoch: 0, applied };
    let later = scan.search(search);
    let evidence = Evidence {
        last: LogPosition::default(),
        applied,
        torn: None,
        later: later.first.as_ref(),
        restart: later.restart.as_ref(),
    };
    match (decide(&evidence), later.restart) {
        (Verdict::Restart, Some(begin)) => {
            let dropped = Note::Dropped { segment, offset: 0, sequence: begin.sequence };
            follow(scan, Chain::begin_at(begin, applied), vec![dropped])
        }
        (Verdict::Damage | Verdict::Restart, _) => Err(damage(segment, 0, &evidence)),
        (Verdict::End | Verdict::TornTail, _) => {
            let tail = Tail { free: scan.segments, ..Tail::default() };
            Ok(Recovered { state: State::default(), tail, notes: Vec::new(), snapshot: None })
        }
    }
}

/// Follows the chain to its end, and beyond a damaged part that the store covers.
fn follow(mut scan: Scan<'_>, mut chain: Chain, mut notes: Vec<Note>) -> Result<Recovered, RecoverError> {
    loop {
        let torn = follow_whole(&mut scan, &mut chain)?;
        let (segment, offset) = torn.map_or((chain.segment, chain.offset), |h| (h.segment, h.offset));
        let later = scan.search(Search {
            segment,
            offset,
            except_there: torn.is_some(),
            sequence: chain.sequence + 1,
            epoch: chain.epoch,
            applied: chain.applied,
        });
        let place = later.first.filter(|_| torn.is_none()).and_then(|later| broken_head(&chain, &later));
        let (segment, offset) = place.unwrap_or((segment, offset));
        let evidence = Evidence {
            last: chain.last,
            applied: chain.applied,
            torn: torn.as_ref(),
            later: later.first.as_ref(),
            restart: later.restart.as_ref(),
        };
        match (decide(&evidence), later.restart, torn) {
            (Verdict::Restart, Some(begin), _) => {
                notes.push(Note::Dropped { segment, offset, sequence: begin.sequence });
                chain = Chain::begin_at(begin, chain.applied);
            }
            (Verdict::Damage | Verdict::Restart, _, _) => return Err(damage(segment, offset, &evidence)),
            (Verdict::End | Verdict::TornTail, _, torn) => {
                if let Some(torn) = torn {
                    notes.push(Note::TornTail {
                        segment,
                        offset,
                        sequence: torn.sequence,
                        first: torn.first,
                    });
                    chain.give_up(&torn);
                }
                return finish(scan, chain, notes);
            }
        }
    }
}

/// Where the chain does not go on behind its last batch, the file to blame may be the one it should go on in: one whose head is
/// lost, or holds a batch of the right number and another history.
fn broken_head(chain: &Chain, later: &Header) -> Option<(SegmentId, u64)> {
    if later.sequence == chain.sequence + 1 {
        return Some((later.segment, later.offset));
    }
    (later.segment != chain.segment && later.offset > 0).then_some((later.segment, 0))
}

/// Follows the chain as long as its batches are whole. Gives the header of the one that is not, if there is one.
fn follow_whole(scan: &mut Scan<'_>, chain: &mut Chain) -> Result<Option<Header>, RecoverError> {
    while let Some(header) = next(scan, chain) {
        if planted::is("intact-tail-cut") && nothing_follows(scan, &header) {
            return Ok(Some(header));
        }
        match scan.read_entries(&header, chain.base) {
            Some(entries) => chain.accept(&header, entries)?,
            None => return Ok(Some(header)),
        }
    }
    Ok(None)
}

/// For a planted bug: whether a batch is the last one.
fn nothing_follows(scan: &mut Scan<'_>, header: &Header) -> bool {
    let behind = scan.batch_at(header.segment, header.offset + u64::from(header.len));
    let mut later = scan.heads.iter().copied().chain(behind);
    !header.marker && later.all(|other| other.sequence <= header.sequence)
}

/// The header that continues the chain: behind the last batch, or at a head. Where two do, the later epoch is right: the
/// other is a torn tail whose successor was too long for its place.
fn next(scan: &mut Scan<'_>, chain: &mut Chain) -> Option<Header> {
    if let Some(header) = chain.next.take() {
        return Some(header);
    }
    let behind = scan.batch_at(chain.segment, chain.offset);
    let candidates = scan.heads.iter().copied().chain(behind);
    candidates.filter(|header| chain.continued_by(header)).max_by_key(|header| header.epoch)
}

fn finish(scan: Scan<'_>, chain: Chain, notes: Vec<Note>) -> Result<Recovered, RecoverError> {
    if let Some((found, place)) = chain.at_applied
        && found.term != chain.applied.term
    {
        return Err(chain.damage(place, Proof::OtherTerm(found)));
    }
    let mut used: Vec<(SegmentInfo, Span)> =
        chain.used.iter().map(|&(id, span)| (scan.info(id), span)).collect();
    let in_use = |info: &SegmentInfo| chain.used.iter().any(|(id, _)| *id == info.id);
    let free = scan.segments.iter().filter(|info| !in_use(info)).copied().collect();
    let current = used.pop().map(|(info, span)| (info, span, chain.offset));
    let mut hard_state = chain.hard_state;
    hard_state.commit = hard_state.commit.max(chain.base.index);
    let tail = Tail {
        log_id: scan.log_id,
        epoch: chain.epoch,
        sequence: chain.sequence,
        header_hash: chain.header_hash,
        last: chain.last,
        hard_state,
        unproven: chain.begun && !chain.marker,
        used,
        current,
        free,
    };
    let snapshot = (chain.base != chain.applied).then_some(chain.base);
    let state = State { hard_state, entries: chain.entries, unwritten: false };
    Ok(Recovered { state, tail, notes, snapshot })
}

/// The log as far as it has been followed.
struct Chain {
    applied: LogPosition,
    /// The entries follow this: what the store has applied, or a snapshot beyond it.
    base: LogPosition,
    /// The batch to read next, if it was found already: where the chain begins.
    next: Option<Header>,
    begun: bool,
    segment: SegmentId,
    offset: u64,
    epoch: u64,
    sequence: u64,
    header_hash: u32,
    last: LogPosition,
    hard_state: HardState,
    marker: bool,
    entries: Vec<Entry>,
    /// The entry at the applied index, and the batch in which it was last seen.
    at_applied: Option<(LogPosition, (SegmentId, u64))>,
    used: Vec<(SegmentId, Span)>,
}

impl Chain {
    fn begin_at(header: Header, applied: LogPosition) -> Chain {
        Chain {
            applied,
            base: applied,
            next: Some(header),
            begun: false,
            segment: header.segment,
            offset: header.offset,
            epoch: header.epoch,
            sequence: header.sequence - 1,
            header_hash: header.previous,
            last: LogPosition::default(),
            hard_state: HardState::default(),
            marker: false,
            entries: Vec::new(),
            at_applied: None,
            used: Vec::new(),
        }
    }

    fn continued_by(&self, header: &Header) -> bool {
        if planted::is("recycled-block-taken-for-new")
            && (header.segment, header.offset) == (self.segment, self.offset)
        {
            return true;
        }
        header.sequence == self.sequence + 1
            && header.previous == self.header_hash
            && header.epoch >= self.epoch
    }

    /// Adds a batch whose records were read (or needn't be).
    fn accept(&mut self, header: &Header, entries: Vec<Entry>) -> Result<(), RecoverError> {
        let place = (header.segment, header.offset);
        if header.reset {
            self.entries.clear();
            self.at_applied = None;
            if header.last.index > self.base.index {
                self.base = header.last;
            }
        }
        if self.begun && header.first.index.0 > self.last.index.0 + 1 {
            // Never written by us: entries are consecutive.
            let proof = Proof::LaterBatch { sequence: header.sequence, segment: place.0, offset: place.1 };
            return Err(self.damage(place, proof));
        }
        if header.records > 0 {
            // They replace the end of the log from their first on; mostly there is nothing there.
            let keep = header.first.index.0.saturating_sub(self.base.index.0 + 1);
            self.entries.truncate(keep as usize);
        }
        let is_applied = |position: &LogPosition| position.index == self.applied.index;
        let seen = entries.iter().map(Entry::position).find(is_applied);
        if let Some(position) = seen.or(Some(header.last).filter(is_applied)) {
            self.at_applied = Some((position, place));
        }
        self.entries.extend(entries.into_iter().filter(|entry| entry.index > self.base.index));
        let begun = std::mem::replace(&mut self.begun, true);
        self.move_to(header.segment, header.offset + u64::from(header.len));
        self.epoch = header.epoch;
        self.sequence = match begun && planted::is("recycled-block-taken-for-new") {
            true => self.sequence + 1,
            false => header.sequence,
        };
        self.header_hash = record::header_hash(&header.encode());
        self.last = header.last;
        self.hard_state = header.hard_state;
        self.marker = header.marker;
        if let Some((_, span)) = self.used.last_mut() {
            span.add(header.first.index, header.last.index);
        }
        Ok(())
    }

    /// The next batch goes where the torn one is, so that its header does not survive, and has a later epoch in case it
    /// doesn't fit there.
    fn give_up(&mut self, torn: &Header) {
        self.move_to(torn.segment, torn.offset);
        self.epoch = self.epoch.max(torn.epoch);
    }

    fn move_to(&mut self, segment: SegmentId, offset: u64) {
        self.segment = segment;
        self.offset = offset;
        if self.used.last().is_none_or(|(id, _)| *id != segment) {
            self.used.push((segment, Span::default()));
        }
    }

    fn damage(&self, (segment, offset): (SegmentId, u64), proof: Proof) -> RecoverError {
        RecoverError::Damage(Damage { segment, offset, last: self.last, proof })
    }
}

fn damage(segment: SegmentId, offset: u64, evidence: &Evidence<'_>) -> RecoverError {
    let proof = match evidence.later {
        Some(later) => {
            Proof::LaterBatch { sequence: later.sequence, segment: later.segment, offset: later.offset }
        }
        None => Proof::Applied(evidence.applied),
    };
    RecoverError::Damage(Damage { segment, offset, last: evidence.last, proof })
}
