//! `Log`: which bytes are written where, and when.
//!
//! ```text
//!   append() ──► queue ──► batch ──► poll_write() + encode() ──► the edge writes ──► written()
//!                            │
//!            segments:   [used][used][current ·····][free][free]
//!                          │ checkpointed(): its entries are in the store for good
//!                          └──────────────────────────► free
//! ```
//!
//! - One write at a time. So when a batch is built, all before it are durable, and its header says so.
//! - A batch that doesn't fit the rest of the current segment opens the next one. Without a next one the write waits;
//!   that is the back-pressure of a full disk.
//! - A segment is freed when a checkpoint of the store covers its entries. Each batch repeats the hard state and
//!   the end of the log, so nothing else in it is ever needed again.
//! - A snapshot resets the log: one batch without entries at the head of a fresh segment. When it is durable, all segments
//!   before it are free.
//! - The last batch before a pause is proven by nothing. So some 40 ms later a marker follows, one block without
//!   content, whose only purpose is that a damaged last batch can't be mistaken for a torn one.

use std::collections::VecDeque;
use std::time::Duration;

use super::record::{self, Header};
use super::recover::{Span, Tail};
use super::{BLOCK, ENTRY_BYTES_MAX, Identity, SegmentId, SegmentInfo};
use crate::{Append, Entry, HardState, Index, LogPosition, ReadyNumber};

/// Sizes and times of the ring.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Size of the first segment of a new log, in bytes: small, so that it can be prepared while the process starts.
    pub first_segment_size: u64,
    /// Size of all others.
    pub segment_size: u64,
    /// A batch takes entries up to this many bytes, or one that is larger.
    pub batch_bytes_max: usize,
    /// Free segments to keep ready beside the current one.
    pub spare_segments: usize,
    /// How long after the last batch its marker is due. Below the 50 ms in which it must be written.
    pub marker_delay: Duration,
    /// Random, at least when the log is made: it becomes the log id.
    pub nonce: u64,
}

impl LogConfig {
    /// The product's values.
    pub fn new(nonce: u64) -> LogConfig {
        LogConfig {
            first_segment_size: 4 << 20,
            segment_size: 64 << 20,
            batch_bytes_max: 1 << 20,
            spare_segments: 1,
            marker_delay: Duration::from_millis(40),
            nonce,
        }
    }
}

/// A write to do: from an aligned buffer, with O_DIRECT and O_DSYNC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritePlan {
    /// Where.
    pub segment: SegmentId,
    /// Where in it, a multiple of [`BLOCK`].
    pub offset: u64,
    /// How much, a multiple of [`BLOCK`].
    pub len: usize,
}

/// A segment to prepare: a file of this size, every block of it written, file and directory synced, visible under its
/// name only when that is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSegment {
    /// Its number.
    pub id: SegmentId,
    /// Its length in bytes.
    pub size: u64,
}

/// The writing side of the log.
pub struct Log {
    config: LogConfig,
    identity: Identity,
    log_id: u64,
    epoch: u64,
    sequence: u64,
    header_hash: u32,
    /// What the log says once everything before the queue is written.
    last: LogPosition,
    hard_state: HardState,
    queue: VecDeque<Append>,
    queue_bytes: usize,
    batch: Option<Batch>,
    used: VecDeque<UsedSegment>,
    current: Option<CurrentSegment>,
    free: Vec<SegmentInfo>,
    preparing: usize,
    segment_next: u32,
    marker: Marker,
}

/// What goes into the next write, or is in it.
struct Batch {
    entries: Vec<Entry>,
    records_len: usize,
    /// The last Ready that is complete with this batch.
    ready: Option<ReadyNumber>,
    hard_state: HardState,
    last: LogPosition,
    marker: bool,
    reset: bool,
    place: Option<WritePlan>,
    /// Set by `encode`.
    header_hash: Option<u32>,
}

struct UsedSegment {
    info: SegmentInfo,
    span: Span,
}

struct CurrentSegment {
    used: UsedSegment,
    offset: u64,
}

/// Whether the last batch is proven durable by a later one.
enum Marker {
    Proven,
    DueAt(Duration),
    Due,
}

impl Log {
    /// Goes on after `tail`, which [`recover`](super::recover()) has found.
    ///
    /// # Panics
    ///
    /// If the sizes contradict each other.
    pub fn new(config: LogConfig, identity: Identity, tail: Tail) -> Log {
        for size in [config.first_segment_size, config.segment_size] {
            assert!(size > 0 && size % BLOCK as u64 == 0, "segments are whole blocks");
        }
        let segment_next = tail.segments().map(|info| info.id.0 + 1).max().unwrap_or(1);
        let used = |(info, span): (SegmentInfo, Span)| UsedSegment { info, span };
        let marker = if tail.unproven { Marker::DueAt(Duration::ZERO) } else { Marker::Proven };
        Log {
            config,
            identity,
            log_id: tail.log_id.unwrap_or(config.nonce),
            epoch: tail.epoch + 1,
            sequence: tail.sequence,
            header_hash: tail.header_hash,
            last: tail.last,
            hard_state: tail.hard_state,
            queue: VecDeque::new(),
            queue_bytes: 0,
            batch: None,
            used: tail.used.into_iter().map(used).collect(),
            current: tail
                .current
                .map(|(info, span, offset)| CurrentSegment { used: used((info, span)), offset }),
            free: tail.free,
            preparing: 0,
            segment_next,
            marker,
        }
    }

    /// Queues an append. Appends become durable in order.
    ///
    /// # Panics
    ///
    /// If an entry is larger than [`ENTRY_BYTES_MAX`] or than a segment.
    pub fn append(&mut self, append: Append) {
        let room = self.config.segment_size;
        for entry in &append.entries {
            let len = record::record_len(entry);
            self.queue_bytes += len;
            let fits = entry.data.len() <= ENTRY_BYTES_MAX && record::batch_len(len) as u64 <= room;
            assert!(fits, "entry {} of {} bytes fits into no segment", entry.index, entry.data.len());
        }
        self.queue.push_back(append);
    }

    /// The write to do now, with all that has queued; `None` while one is in flight, or nothing is queued, or no segment
    /// is free. To be followed by [`Log::encode`], then by [`Log::written`] once it is durable.
    pub fn poll_write(&mut self) -> Option<WritePlan> {
        if self.batch.as_ref().is_some_and(|batch| batch.place.is_some()) {
            return None;
        }
        if self.batch.is_none() {
            self.batch = self.build_batch();
        }
        let records_len = self.batch.as_ref()?.records_len;
        let place = self.place(record::batch_len(records_len))?;
        self.batch.as_mut()?.place = Some(place);
        Some(place)
    }

    /// Fills `buf`, which has the length of the plan, with the bytes to write.
    pub fn encode(&mut self, plan: &WritePlan, buf: &mut [u8]) {
        let batch = self.batch.as_mut().filter(|batch| batch.place == Some(*plan));
        let batch = batch.expect("the plan is that of the write in flight");
        let mut header = Header {
            identity: self.identity,
            log_id: self.log_id,
            epoch: self.epoch,
            sequence: self.sequence + 1,
            durable_through: self.sequence,
            segment: plan.segment,
            segment_blocks: segment_blocks(
                self.current.as_ref().expect("it was placed there").used.info.size,
            ),
            offset: plan.offset,
            len: 0,
            records_len: 0,
            records: 0,
            first: batch.entries.first().map_or(LogPosition::default(), Entry::position),
            last: batch.last,
            hard_state: batch.hard_state,
            previous: self.header_hash,
            records_crc: 0,
            marker: batch.marker,
            reset: batch.reset,
        };
        batch.header_hash = Some(record::encode_batch(&mut header, &batch.entries, buf));
    }

    /// Entries of the write in flight; 0 if there is none.
    pub fn batch_entries(&self) -> usize {
        self.batch.as_ref().map_or(0, |batch| batch.entries.len())
    }

    /// The write in flight is durable. Gives the last Ready that is complete now, if the write completed one.
    ///
    /// # Panics
    ///
    /// If no encoded write is in flight.
    pub fn written(&mut self, now: Duration) -> Option<ReadyNumber> {
        let batch = self.batch.take().expect("a write is in flight");
        self.header_hash = batch.header_hash.expect("the write was encoded");
        self.sequence += 1;
        self.last = batch.last;
        self.hard_state = batch.hard_state;
        if batch.reset {
            self.free.extend(self.used.drain(..).map(|segment| segment.info));
        }
        self.marker = match (batch.marker, self.queue.is_empty()) {
            (false, true) => Marker::DueAt(now + self.config.marker_delay),
            _ => Marker::Proven, // by itself, or by the batch that follows at once
        };
        batch.ready
    }

    /// When [`Log::handle_timeout`] wants to be called.
    pub fn next_timeout(&self) -> Option<Duration> {
        match self.marker {
            Marker::DueAt(at) if self.is_idle() => Some(at),
            _ => None,
        }
    }

    /// Time has passed; [`Log::poll_write`] may have a marker to write.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.next_timeout().is_some_and(|at| at <= now) {
            self.marker = Marker::Due;
        }
    }

    /// A checkpoint of the store covers all entries up to `index`: segments that hold no later one are free.
    pub fn checkpointed(&mut self, index: Index) {
        while self.used.front().is_some_and(|segment| segment.span.last <= index) {
            let segment = self.used.pop_front().expect("it was there");
            self.free.push(segment.info);
        }
    }

    /// A segment to prepare, on another thread; the caller answers with `segment_ready` or `segment_failed`. Ask until
    /// it is `None`.
    pub fn segment_wanted(&mut self) -> Option<NewSegment> {
        let enough = self.free.len() + self.preparing >= self.free_segments_wanted();
        // Recycled, it counts as a spare; a batch that is longer needs another one all the same.
        let stuck = self.is_stuck() && self.preparing == 0;
        if enough && !stuck {
            return None;
        }
        let first = self.segment_next == 1;
        let id = SegmentId(self.segment_next);
        self.segment_next += 1;
        self.preparing += 1;
        let size = if first { self.config.first_segment_size } else { self.config.segment_size };
        Some(NewSegment { id, size })
    }

    /// Whether there are as many free segments as there should be: new ones, or such that a checkpoint has given back.
    pub fn has_spares(&self) -> bool {
        self.free.len() >= self.free_segments_wanted() && !self.is_stuck()
    }

    /// A first small segment that is still free is the current one to be.
    fn free_segments_wanted(&self) -> usize {
        self.config.spare_segments + usize::from(self.current.is_none())
    }

    /// A wanted segment is prepared and durable under its name.
    pub fn segment_ready(&mut self, id: SegmentId, size: u64) {
        self.preparing -= 1;
        self.free.push(SegmentInfo { id, size });
    }

    /// A wanted segment could not be made (no space). It is wanted again at once, under a new number; the caller decides
    /// when to ask.
    pub fn segment_failed(&mut self) {
        self.preparing -= 1;
    }

    /// The first entry that can still be read back: all from here on are in the segments. One beyond the end if there is none.
    pub fn first_index(&self) -> Index {
        let current = self.current.iter().map(|current| &current.used);
        let first = self.used.iter().chain(current).find_map(|segment| segment.span.first);
        first.unwrap_or(Index(self.last.index.0 + 1))
    }

    /// Whether a batch waits for a free segment.
    pub fn is_stuck(&self) -> bool {
        self.batch.as_ref().is_some_and(|batch| batch.place.is_none())
    }

    /// Whether nothing is queued or in flight.
    pub fn is_idle(&self) -> bool {
        self.batch.is_none() && self.queue.is_empty()
    }

    /// Bytes of records waiting for a write.
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes
    }

    /// Batches written over the life of the log.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes in segments that hold entries the store has not checkpointed, including the current one's.
    pub fn retained_bytes(&self) -> u64 {
        let used: u64 = self.used.iter().map(|segment| segment.info.size).sum();
        used + self.current.as_ref().map_or(0, |current| current.offset)
    }

    /// Takes from the queue what fits into one batch, at least one entry.
    fn build_batch(&mut self) -> Option<Batch> {
        let mut batch = Batch {
            entries: Vec::new(),
            records_len: 0,
            ready: None,
            hard_state: self.hard_state,
            last: self.last,
            marker: matches!(self.marker, Marker::Due) && self.queue.is_empty(),
            reset: false,
            place: None,
            header_hash: None,
        };
        if self.queue.is_empty() && !batch.marker {
            return None;
        }
        while let Some(append) = self.queue.front_mut().filter(|append| batch.can_take(append)) {
            let complete = batch.take(append, self.config.batch_bytes_max);
            batch.hard_state = append.hard_state;
            if !complete {
                break;
            }
            batch.ready = Some(append.ready);
            self.queue.pop_front();
        }
        self.queue_bytes -= batch.records_len;
        if planted::is("vote-not-persisted") {
            batch.hard_state.vote = crate::NodeId(0);
        }
        // The hint must not point beyond the log, which it would where an append is split.
        let commit = &mut batch.hard_state.commit;
        *commit = (*commit).min(batch.last.index);
        Some(batch)
    }

    /// Finds room of `len` bytes and takes it.
    fn place(&mut self, len: usize) -> Option<WritePlan> {
        let len_bytes = len as u64;
        let reset = self.batch.as_ref().is_some_and(|batch| batch.reset);
        let fits = |current: &CurrentSegment| {
            current.offset + len_bytes <= current.used.info.size && (!reset || current.offset == 0)
        };
        if !self.current.as_ref().is_some_and(fits) {
            let at = self.free.iter().position(|info| info.size >= len_bytes)?;
            let info = self.free.remove(at);
            let used = UsedSegment { info, span: Span::default() };
            let full = self.current.replace(CurrentSegment { used, offset: 0 });
            self.used.extend(full.map(|full| full.used));
        }
        let batch = self.batch.as_ref();
        let first = batch.and_then(|batch| batch.entries.first()).map_or(Index(0), |entry| entry.index);
        let last = batch.map_or(Index(0), |batch| batch.last.index);
        let current = self.current.as_mut()?;
        let plan = WritePlan { segment: current.used.info.id, offset: current.offset, len };
        current.offset += len_bytes;
        current.used.span.add(first, last);
        Some(plan)
    }
}

impl Batch {
    /// Whether this batch can hold anything of `append`. Not if its entries replace an end of the log that this very batch
    /// writes, and a reset takes a batch of its own. (Then its hard state must not be in this batch either: its commit speaks of
    /// the log after it.)
    fn can_take(&self, append: &Append) -> bool {
        match (append.reset, append.entries.first()) {
            (Some(_), _) => !self.reset && self.ready.is_none() && self.entries.is_empty(),
            (None, None) => true,
            (None, Some(first)) => {
                !self.reset && (self.entries.is_empty() || first.index.0 == self.last.index.0 + 1)
            }
        }
    }

    /// Moves entries of `append` into the batch. False if some are left.
    fn take(&mut self, append: &mut Append, bytes_max: usize) -> bool {
        if let Some(position) = append.reset.take() {
            (self.reset, self.last) = (true, position);
            return append.entries.is_empty();
        }
        let mut count = 0;
        for entry in &append.entries {
            let len = record::record_len(entry);
            let empty = self.entries.is_empty() && count == 0;
            if !empty && self.records_len + len > bytes_max {
                break;
            }
            self.records_len += len;
            self.last = entry.position();
            count += 1;
        }
        if count == append.entries.len() {
            self.move_all(append);
            return true;
        }
        self.entries.extend(append.entries.drain(..count));
        false
    }

    fn move_all(&mut self, append: &mut Append) {
        if self.entries.is_empty() {
            self.entries = std::mem::take(&mut append.entries);
        } else {
            self.entries.append(&mut append.entries);
        }
    }
}

/// A segment's size as headers give it.
pub(super) fn segment_blocks(size: u64) -> u32 {
    u32::try_from(size / BLOCK as u64).expect("segments are smaller than 16 TiB")
}

impl Tail {
    fn segments(&self) -> impl Iterator<Item = &SegmentInfo> {
        let used = self.used.iter().map(|(info, _)| info);
        let current = self.current.iter().map(|(info, _, _)| info);
        used.chain(current).chain(&self.free)
    }
}

#[cfg(test)]
mod tests;
