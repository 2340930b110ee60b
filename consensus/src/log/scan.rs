//! Finding batches in segments.

use bytes::Bytes;

use super::record::{self, HEADER_LEN, Header, NoHeader};
use super::ring::segment_blocks;
use super::segment::read_span;
use super::verdict::may_begin_at;
use super::{BLOCK, Damage, Identity, Proof, RecoverError, SegmentId, SegmentInfo, SegmentReader};
use crate::{Entry, LogPosition};

/// Bytes read at once. Whole batches are read whole, however long.
const WINDOW: usize = 1 << 20;

/// All segments, what is at their heads, and a window on what is being read.
pub(super) struct Scan<'a> {
    reader: &'a dyn SegmentReader,
    identity: Identity,
    pub segments: Vec<SegmentInfo>,
    pub log_id: Option<u64>,
    /// Batches at the head of a segment, by sequence.
    pub heads: Vec<Header>,
    /// Segments that begin with something else, not with zeros.
    pub headless: Vec<SegmentInfo>,
    window: Window,
}

/// Bytes of a segment, and which blocks of them the medium refused.
struct Window {
    segment: SegmentId,
    offset: u64,
    bytes: Bytes,
    unreadable: Vec<std::ops::Range<usize>>,
}

/// How far each other segment is searched for a second batch whose first was lost whole: further than a batch is long, but for
/// one that holds a single large entry.
const PROBE: u64 = 2 << 20;

/// Where to look for later batches, and for which.
#[derive(Clone, Copy)]
pub(super) struct Search {
    pub segment: SegmentId,
    pub offset: u64,
    /// Not the one there: it is known to be torn.
    pub except_there: bool,
    /// With at least this number.
    pub sequence: u64,
    /// Of at least this epoch.
    pub epoch: u64,
    pub applied: LogPosition,
}

/// What was found: the first such batch, and the newest at which the log may begin.
#[derive(Default)]
pub(super) struct Later {
    pub first: Option<Header>,
    pub restart: Option<Header>,
}

impl<'a> Scan<'a> {
    pub fn new(reader: &'a dyn SegmentReader, identity: Identity) -> Result<Scan<'a>, RecoverError> {
        let mut segments = reader.segments();
        segments.sort_by_key(|info| info.id);
        let window = Window { segment: SegmentId(0), offset: 0, bytes: Bytes::new(), unreadable: Vec::new() };
        let mut scan = Scan {
            reader,
            identity,
            segments: Vec::new(),
            log_id: None,
            heads: Vec::new(),
            headless: Vec::new(),
            window,
        };
        for info in segments {
            scan.add(info)?;
        }
        // By sequence. Of two with the same one, the later epoch's is right: the other is the torn tail of an earlier run,
        // whose successor was too long for its place.
        scan.heads.sort_by_key(|head| (head.sequence, std::cmp::Reverse(head.epoch)));
        scan.heads.dedup_by_key(|head| head.sequence);
        Ok(scan)
    }

    /// Looks at a segment's head, where no client's value can ever lie.
    fn add(&mut self, info: SegmentInfo) -> Result<(), RecoverError> {
        // Segments become visible when they are complete.
        if info.size < BLOCK as u64 || !info.size.is_multiple_of(BLOCK as u64) {
            return Err(wrong_length(info, 0));
        }
        self.segments.push(info);
        let mut block = vec![0; BLOCK];
        if !read_span(self.reader, info.id, 0, &mut block).is_empty() {
            self.headless.push(info);
            return Ok(());
        }
        let header = match Header::decode(&block) {
            Ok(header) if header.identity != self.identity => {
                return Err(RecoverError::Foreign { segment: info.id, found: header.identity });
            }
            Ok(header) if header.segment == info.id && header.segment_blocks != segment_blocks(info.size) => {
                return Err(wrong_length(info, u64::from(header.segment_blocks) * BLOCK as u64));
            }
            Ok(header) => header,
            Err(NoHeader::Version(version)) => {
                return Err(RecoverError::Version { segment: info.id, offset: 0, version });
            }
            Err(NoHeader::Invalid) => {
                if block.iter().any(|&byte| byte != 0) {
                    self.headless.push(info);
                }
                return Ok(());
            }
        };
        match self.is_ours(&header, info, 0) {
            true => self.heads.push(header),
            false => self.headless.push(info),
        }
        Ok(())
    }

    /// Whether an intact header is one of this log, and where it says it is. A misdirected write is not.
    fn is_ours(&mut self, header: &Header, info: SegmentInfo, offset: u64) -> bool {
        let len = u64::from(header.len);
        header.is_plausible()
            && header.identity == self.identity
            && (header.segment, header.offset) == (info.id, offset)
            && header.segment_blocks == segment_blocks(info.size)
            && len == record::batch_len(header.records_len as usize) as u64
            && len <= info.size - offset
            && *self.log_id.get_or_insert(header.log_id) == header.log_id
    }

    /// The batch that begins at this place, as far as its header tells.
    pub fn batch_at(&mut self, segment: SegmentId, offset: u64) -> Option<Header> {
        let info = self.info(segment);
        if offset >= info.size {
            return None;
        }
        let block = self.bytes(info, offset, BLOCK)?;
        let header = Header::decode(&block).ok()?;
        self.is_ours(&header, info, offset).then_some(header)
    }

    /// The entries of a batch; `None` if they can't be read. Those that the store has are not looked at.
    pub fn read_entries(&mut self, header: &Header, applied: LogPosition) -> Option<Vec<Entry>> {
        if header.records == 0 || header.last.index <= applied.index {
            return Some(Vec::new());
        }
        let batch = self.bytes(self.info(header.segment), header.offset, header.len as usize)?;
        let records = batch.slice(HEADER_LEN..HEADER_LEN + header.records_len as usize);
        record::decode_records(header, records).ok()
    }

    /// Looks through the rest of a segment, all headless ones, and the heads and beginnings of the others.
    pub fn search(&mut self, search: Search) -> Later {
        let mut later = Later::default();
        for head in &self.heads {
            later.consider(head, &search);
        }
        for info in self.segments.clone() {
            let (from, to) = match info.id == search.segment {
                true => (search.offset, info.size),
                false if self.is_headless(info.id) => (0, info.size),
                false => (0, info.size.min(PROBE)),
            };
            for offset in (from..to).step_by(BLOCK) {
                if let Some(header) = self.batch_at(info.id, offset) {
                    later.consider(&header, &search);
                }
            }
        }
        later
    }

    /// Bytes of a segment; `None` if the medium refuses any of them. They share the window.
    fn bytes(&mut self, info: SegmentInfo, offset: u64, len: usize) -> Option<Bytes> {
        let inside = self.window.segment == info.id
            && self.window.offset <= offset
            && offset + len as u64 <= self.window.offset + self.window.bytes.len() as u64;
        if !inside {
            let wanted = len.max(WINDOW).min((info.size - offset) as usize);
            let mut bytes = vec![0; wanted];
            let unreadable = read_span(self.reader, info.id, offset, &mut bytes);
            self.window = Window { segment: info.id, offset, bytes: Bytes::from(bytes), unreadable };
        }
        let from = (offset - self.window.offset) as usize;
        let bytes = self.window.bytes.slice(from..from + len);
        let refused = self.window.unreadable.iter().any(|r| r.start < from + len && from < r.end);
        (!refused).then_some(bytes)
    }

    /// Whether a segment begins with something that is neither a batch nor zeros.
    pub fn is_headless(&self, id: SegmentId) -> bool {
        self.headless.iter().any(|info| info.id == id)
    }

    pub fn info(&self, id: SegmentId) -> SegmentInfo {
        let at = self.segments.binary_search_by_key(&id, |info| info.id);
        self.segments[at.expect("batches were found in segments that exist")]
    }
}

impl Later {
    fn consider(&mut self, header: &Header, search: &Search) {
        let there = (header.segment, header.offset) == (search.segment, search.offset);
        let torn = there && search.except_there;
        if torn || header.sequence < search.sequence || header.epoch < search.epoch {
            return;
        }
        if self.first.is_none_or(|first| header.sequence < first.sequence) {
            self.first = Some(*header);
        }
        let newer = self.restart.is_none_or(|restart| header.sequence > restart.sequence);
        if newer && may_begin_at(header, search.applied) {
            self.restart = Some(*header);
        }
    }
}

fn wrong_length(info: SegmentInfo, expected: u64) -> RecoverError {
    let proof = Proof::FileLength { expected, found: info.size };
    RecoverError::Damage(Damage { segment: info.id, offset: 0, last: LogPosition::default(), proof })
}
