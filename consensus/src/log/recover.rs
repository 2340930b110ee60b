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
//! that the store does not have), and the rest of the last segment, which must hold no later batch. A segment whose head
//! is neither a batch nor zeros is searched in full for one.
//!
//! A complete last batch whose completion nobody saw may still sit in the device's cache, so before a node acts on what
//! was found, every segment has to be synced (fdatasync) once.

use std::fmt;

use bytes::Bytes;

use super::record::{self, HEADER_LEN, Header, NoHeader};
use super::segment::read_span;
use super::verdict::{Evidence, Verdict, decide, may_begin_at};
use super::{BLOCK, Identity, SegmentId, SegmentInfo, SegmentReader, State};
use crate::{Entry, HardState, Index, LogPosition};

/// Bytes read at once while searching.
const WINDOW: usize = 1 << 20;

/// What a log holds.
#[derive(Debug)]
pub struct Recovered {
    /// For [`Node::new`](crate::Node::new). With term 0 if the log is empty: see [`Recovered::is_new`].
    pub state: State,
    /// For [`Log::new`](super::Log::new).
    pub tail: Tail,
    /// What the operator should hear about.
    pub notes: Vec<Note>,
}

impl Recovered {
    /// Whether nothing has ever been written: a first start, to be [bootstrapped](State::bootstrap).
    pub fn is_new(&self) -> bool {
        self.tail.log_id.is_none()
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
    /// Full segments of the chain in order, each with the highest index in it.
    pub(super) used: Vec<(SegmentInfo, Index)>,
    /// The segment being written, the highest index in it, and the offset of the next batch.
    pub(super) current: Option<(SegmentInfo, Index, u64)>,
    pub(super) free: Vec<SegmentInfo>,
}

/// Something found that did not stop recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A batch was begun and not completed; nobody was told about it. It will be overwritten.
    TornTail {
        /// Where it is.
        segment: SegmentId,
        /// Where it is.
        offset: u64,
        /// Its sequence number.
        sequence: u64,
        /// The entries it held: the first, or index 0 if none.
        first: LogPosition,
    },
    /// Damage, wholly within what the store has checkpointed. The log begins behind it.
    Dropped {
        /// Where it begins.
        segment: SegmentId,
        /// Where it begins.
        offset: u64,
        /// The first batch kept.
        sequence: u64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::TornTail { segment, offset, sequence, first } => write!(
                f,
                "the last batch of the log was not completed and is discarded: file {} offset {offset}, \
                 batch {sequence}, first entry {} of term {}",
                segment.file_name(),
                first.index,
                first.term,
            ),
            Note::Dropped { segment, offset, sequence } => write!(
                f,
                "a damaged part of the log is skipped, the store covers it: file {} offset {offset}; \
                 the log begins at batch {sequence}",
                segment.file_name(),
            ),
        }
    }
}

/// Why a log can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoverError {
    /// Something that may have been acknowledged is not readable.
    Damage(Damage),
    /// The log is of another member or cluster.
    Foreign {
        /// Where that was seen.
        segment: SegmentId,
        /// Whose it is.
        found: Identity,
    },
    /// The log was written by a newer version.
    Version {
        /// Where that was seen.
        segment: SegmentId,
        /// Where that was seen.
        offset: u64,
        /// Its format version.
        version: u16,
    },
}

/// Where a log is damaged, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub segment: SegmentId,
    /// Where in it the log can't be read on.
    pub offset: u64,
    /// The end of what can be read.
    pub last: LogPosition,
    /// How it is known that more was durable.
    pub proof: Proof,
}

/// How it is known that more was durable than can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A later batch exists.
    LaterBatch {
        /// Its number.
        sequence: u64,
        /// Where it is.
        segment: SegmentId,
        /// Where it is.
        offset: u64,
    },
    /// The store has applied this.
    Applied(LogPosition),
    /// The entry at the store's applied index has this other term in the log.
    OtherTerm(LogPosition),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Damage(damage) => damage.fmt(f),
            RecoverError::Foreign { segment, found } => write!(
                f,
                "file {} belongs to member {:x} of cluster {:x}: this is another member's log; use that member's own \
                 data directory",
                segment.file_name(),
                found.member.0,
                found.cluster,
            ),
            RecoverError::Version { segment, offset, version } => write!(
                f,
                "file {} offset {offset} has log format version {version}, newer than this program's {}; start the \
                 version that wrote it",
                segment.file_name(),
                record::VERSION,
            ),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { segment, offset, last, proof } = self;
        write!(
            f,
            "the log is damaged in file {} at offset {offset}: it can be read up to entry {}, but ",
            segment.file_name(),
            last.index
        )?;
        match proof {
            Proof::LaterBatch { sequence, segment, offset } => {
                write!(
                    f,
                    "batch {sequence} in file {} at offset {offset} proves that more was durable",
                    segment.file_name()
                )?;
            }
            Proof::Applied(applied) => write!(f, "the store has applied entry {}", applied.index)?,
            Proof::OtherTerm(found) => {
                write!(
                    f,
                    "entry {} is of term {} there and of another term in the store",
                    found.index, found.term
                )?;
            }
        }
        f.write_str(
            ". Acknowledged writes may be lost, so this member refuses to start. Check the disk, then restore the data \
             directory from a snapshot, or remove the member and add it again",
        )
    }
}

impl std::error::Error for RecoverError {}

/// Reads the log of `identity`. `applied` is what the last checkpoint of the store covers.
pub fn recover(
    reader: &dyn SegmentReader,
    identity: Identity,
    applied: LogPosition,
) -> Result<Recovered, RecoverError> {
    let scan = Scan::new(reader, identity)?;
    let Some(begin) = scan.begin(applied) else { return scan.without_chain(applied) };
    scan.follow(Chain::begin_at(begin, applied), Vec::new())
}

/// All segments and what is at their heads.
struct Scan<'a> {
    reader: &'a dyn SegmentReader,
    identity: Identity,
    segments: Vec<SegmentInfo>,
    log_id: Option<u64>,
    /// Batches at the head of a segment, by sequence.
    heads: Vec<Header>,
    /// Segments that begin with something else, not with zeros.
    headless: Vec<SegmentInfo>,
}

/// The log as far as it has been followed.
struct Chain {
    applied: LogPosition,
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
    used: Vec<(SegmentId, Index)>,
}

/// What a block begins with.
enum Found {
    Batch(Header),
    Zeros,
    Other,
}

impl<'a> Scan<'a> {
    fn new(reader: &'a dyn SegmentReader, identity: Identity) -> Result<Scan<'a>, RecoverError> {
        let mut segments = reader.segments();
        segments.retain(|info| info.size >= BLOCK as u64);
        segments.sort_by_key(|info| info.id);
        let (heads, headless) = (Vec::new(), Vec::new());
        let mut scan = Scan { reader, identity, segments, log_id: None, heads, headless };
        for info in scan.segments.clone() {
            match scan.found_at(info, 0)? {
                Found::Batch(header) => scan.heads.push(header),
                Found::Zeros => {}
                Found::Other => scan.headless.push(info),
            }
        }
        scan.sort_heads();
        Ok(scan)
    }

    /// By sequence. Of two with the same one, the later epoch's: the other is the torn tail of an earlier run, whose
    /// successor was too long for its place.
    fn sort_heads(&mut self) {
        self.heads.sort_by_key(|head| (head.sequence, std::cmp::Reverse(head.epoch)));
        self.heads.dedup_by_key(|head| head.sequence);
    }

    fn found_at(&mut self, info: SegmentInfo, offset: u64) -> Result<Found, RecoverError> {
        let mut block = vec![0; BLOCK];
        let unreadable = read_span(self.reader, info.id, offset, &mut block);
        if !unreadable.is_empty() {
            return Ok(Found::Other);
        }
        self.classify(info, offset, &block)
    }

    fn classify(&mut self, info: SegmentInfo, offset: u64, block: &[u8]) -> Result<Found, RecoverError> {
        let header = match Header::decode(block) {
            Ok(header) => header,
            Err(NoHeader::Version(version)) => {
                return Err(RecoverError::Version { segment: info.id, offset, version });
            }
            Err(NoHeader::Invalid) if block.iter().all(|&byte| byte == 0) => return Ok(Found::Zeros),
            Err(NoHeader::Invalid) => return Ok(Found::Other),
        };
        // A misdirected write, or lengths that can't be: as good as damaged.
        let len = u64::from(header.len);
        let in_place = (header.segment, header.offset) == (info.id, offset)
            && len == record::batch_len(header.records_len as usize) as u64
            && len <= info.size - offset;
        if !in_place {
            return Ok(Found::Other);
        }
        if header.identity != self.identity {
            return Err(RecoverError::Foreign { segment: info.id, found: header.identity });
        }
        if *self.log_id.get_or_insert(header.log_id) != header.log_id {
            return Ok(Found::Other);
        }
        Ok(Found::Batch(header))
    }

    /// The newest head at which the log may begin.
    fn begin(&self, applied: LogPosition) -> Option<Header> {
        self.heads.iter().rev().find(|head| may_begin_at(head, applied)).copied()
    }

    /// No head will do: the log is new, or its beginning is missing.
    fn without_chain(mut self, applied: LogPosition) -> Result<Recovered, RecoverError> {
        let place = self.headless.first().or(self.segments.first());
        let segment = place.map_or(SegmentId(1), |info| info.id);
        let (later, restart) = self.search(segment, 0, 0, 0, applied)?;
        let last = LogPosition::default();
        let evidence =
            Evidence { last, applied, torn: None, later: later.as_ref(), restart: restart.as_ref() };
        match (decide(&evidence), restart) {
            (Verdict::Restart, Some(begin)) => {
                let dropped = Note::Dropped { segment, offset: 0, sequence: begin.sequence };
                self.follow(Chain::begin_at(begin, applied), vec![dropped])
            }
            (Verdict::Damage, _) => Err(damage(segment, 0, &evidence)),
            _ => {
                let tail = Tail { free: self.segments, ..Tail::default() };
                Ok(Recovered { state: State::default(), tail, notes: Vec::new() })
            }
        }
    }

    fn follow(mut self, mut chain: Chain, mut notes: Vec<Note>) -> Result<Recovered, RecoverError> {
        loop {
            let next = self.next(&mut chain)?;
            let torn = match next {
                Some(header) => match self.read_batch(&header, &chain) {
                    Some(entries) => {
                        chain.accept(&header, entries)?;
                        continue;
                    }
                    None => Some(header),
                },
                None => None,
            };
            let (segment, offset) = torn.map_or((chain.segment, chain.offset), |h| (h.segment, h.offset));
            let (later, restart) =
                self.search(segment, offset, chain.sequence + 1, chain.epoch, chain.applied)?;
            let evidence = Evidence {
                last: chain.last,
                applied: chain.applied,
                torn: torn.as_ref(),
                later: later.as_ref(),
                restart: restart.as_ref(),
            };
            match (decide(&evidence), restart, torn) {
                (Verdict::Restart, Some(begin), _) => {
                    notes.push(Note::Dropped { segment, offset, sequence: begin.sequence });
                    chain = Chain::begin_at(begin, chain.applied);
                }
                (Verdict::Damage, _, _) => return Err(damage(segment, offset, &evidence)),
                (_, _, Some(torn)) => {
                    notes.push(Note::TornTail {
                        segment,
                        offset,
                        sequence: torn.sequence,
                        first: torn.first,
                    });
                    // Its place is where the next batch goes, so that its header does not survive.
                    chain.move_to(segment, offset);
                    return Ok(self.finish(chain, notes));
                }
                _ => return Ok(self.finish(chain, notes)),
            }
        }
    }

    /// The header that continues the chain. Where two do, the later epoch is right: see `sort_heads`.
    fn next(&mut self, chain: &mut Chain) -> Result<Option<Header>, RecoverError> {
        if let Some(header) = chain.next.take() {
            return Ok(Some(header));
        }
        let info = self.info(chain.segment);
        let behind = if chain.offset < info.size { Some(self.found_at(info, chain.offset)?) } else { None };
        let behind = match behind {
            Some(Found::Batch(header)) if chain.continued_by(&header) => Some(header),
            _ => None,
        };
        let heads = self.heads.iter().filter(|head| chain.continued_by(head)).copied();
        Ok(heads.chain(behind).max_by_key(|header| header.epoch))
    }

    /// The entries of a batch; `None` if they can't be read. Those that the store has are not looked at.
    fn read_batch(&self, header: &Header, chain: &Chain) -> Option<Vec<Entry>> {
        if header.records == 0 || header.last.index <= chain.applied.index {
            return Some(Vec::new());
        }
        let mut bytes = vec![0; header.len as usize];
        let unreadable = read_span(self.reader, header.segment, header.offset, &mut bytes);
        // The header was read before; if it reads differently now, the medium is not to be trusted.
        if !unreadable.is_empty() || Header::decode(&bytes).as_ref() != Ok(header) {
            return None;
        }
        let records = Bytes::from(bytes).slice(HEADER_LEN..HEADER_LEN + header.records_len as usize);
        record::decode_records(header, records).ok()
    }

    /// Looks for batches numbered `sequence` or later, of `epoch` or later, that are not the one at `offset` of `segment`:
    /// the first of them, and the newest at which the log may begin.
    fn search(
        &mut self,
        segment: SegmentId,
        offset: u64,
        sequence: u64,
        epoch: u64,
        applied: LogPosition,
    ) -> Result<(Option<Header>, Option<Header>), RecoverError> {
        let mut later: Option<Header> = None;
        let mut restart: Option<Header> = None;
        let mut consider = |header: &Header| {
            let here = (header.segment, header.offset) == (segment, offset);
            if here || header.sequence < sequence || header.epoch < epoch {
                return;
            }
            if later.is_none_or(|later| header.sequence < later.sequence) {
                later = Some(*header);
            }
            let newer = restart.is_none_or(|restart| header.sequence > restart.sequence);
            if newer && may_begin_at(header, applied) {
                restart = Some(*header);
            }
        };
        self.heads.iter().for_each(&mut consider);
        let mut places: Vec<(SegmentInfo, u64)> = Vec::new();
        places.extend(self.segments.iter().filter(|info| info.id == segment).map(|info| (*info, offset)));
        places.extend(self.headless.iter().filter(|info| info.id != segment).map(|info| (*info, 0)));
        for (info, from) in places {
            self.search_segment(info, from, &mut consider)?;
        }
        Ok((later, restart))
    }

    fn search_segment(
        &mut self,
        info: SegmentInfo,
        from: u64,
        consider: &mut dyn FnMut(&Header),
    ) -> Result<(), RecoverError> {
        let mut window = vec![0; WINDOW];
        let mut offset = from;
        while offset < info.size {
            let len = WINDOW.min((info.size - offset) as usize);
            read_span(self.reader, info.id, offset, &mut window[..len]);
            for (block, at) in window[..len].chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
                if let Found::Batch(header) = self.classify(info, at, block)? {
                    consider(&header);
                }
            }
            offset += len as u64;
        }
        Ok(())
    }

    fn info(&self, id: SegmentId) -> SegmentInfo {
        let at = self.segments.binary_search_by_key(&id, |info| info.id);
        self.segments[at.expect("batches were found in segments that exist")]
    }

    fn finish(self, chain: Chain, notes: Vec<Note>) -> Recovered {
        let mut used: Vec<(SegmentInfo, Index)> =
            chain.used.iter().map(|&(id, last)| (self.info(id), last)).collect();
        let in_use = |info: &SegmentInfo| chain.used.iter().any(|(id, _)| *id == info.id);
        let free = self.segments.iter().filter(|info| !in_use(info)).copied().collect();
        let current = used.pop().map(|(info, last)| (info, last, chain.offset));
        let mut hard_state = chain.hard_state;
        hard_state.commit = hard_state.commit.max(chain.applied.index);
        let tail = Tail {
            log_id: self.log_id,
            epoch: chain.epoch,
            sequence: chain.sequence,
            header_hash: chain.header_hash,
            last: chain.last,
            hard_state,
            unproven: !chain.marker,
            used,
            current,
            free,
        };
        Recovered { state: State { hard_state, entries: chain.entries, unwritten: false }, tail, notes }
    }
}

impl Chain {
    fn begin_at(header: Header, applied: LogPosition) -> Chain {
        Chain {
            applied,
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
            used: Vec::new(),
        }
    }

    fn continued_by(&self, header: &Header) -> bool {
        header.sequence == self.sequence + 1
            && header.previous == self.header_hash
            && header.epoch >= self.epoch
    }

    /// Adds a batch whose records were read (or needn't be).
    fn accept(&mut self, header: &Header, entries: Vec<Entry>) -> Result<(), RecoverError> {
        let gap = self.begun && header.first.index.0 > self.last.index.0 + 1;
        if gap {
            let proof = Proof::LaterBatch {
                sequence: header.sequence,
                segment: header.segment,
                offset: header.offset,
            };
            return Err(self.damage(header, proof));
        }
        self.check_applied_term(header, &entries)?;
        if let Some(first) = entries.iter().map(|entry| entry.index).find(|&index| index > self.applied.index)
        {
            let keep = first.0.saturating_sub(self.applied.index.0 + 1);
            self.entries.truncate(keep as usize);
        }
        let unapplied = entries.into_iter().filter(|entry| entry.index > self.applied.index);
        self.entries.extend(unapplied);
        self.begun = true;
        self.move_to(header.segment, header.offset + u64::from(header.len));
        self.epoch = header.epoch;
        self.sequence = header.sequence;
        self.header_hash = record::header_hash(&header.encode());
        self.last = header.last;
        self.hard_state = header.hard_state;
        self.marker = header.marker;
        if let Some((_, last)) = self.used.last_mut() {
            *last = (*last).max(header.last.index);
        }
        Ok(())
    }

    /// The entry that the store applied last must be the one in the log.
    fn check_applied_term(&self, header: &Header, entries: &[Entry]) -> Result<(), RecoverError> {
        let here = |position: &LogPosition| position.index == self.applied.index;
        let in_records = entries.iter().map(Entry::position).find(here);
        let Some(found) = in_records.or(Some(header.last).filter(here)) else { return Ok(()) };
        if found.term == self.applied.term || found.index == Index(0) {
            return Ok(());
        }
        Err(self.damage(header, Proof::OtherTerm(found)))
    }

    fn damage(&self, header: &Header, proof: Proof) -> RecoverError {
        let (segment, offset) = (header.segment, header.offset);
        RecoverError::Damage(Damage { segment, offset, last: self.last, proof })
    }

    fn move_to(&mut self, segment: SegmentId, offset: u64) {
        self.segment = segment;
        self.offset = offset;
        if self.used.last().is_none_or(|(id, _)| *id != segment) {
            self.used.push((segment, Index(0)));
        }
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
