//! What leaves, and in which order.
//!
//! 1. `ready`: control frames, and short answers that fitted into all windows when they were made.
//! 2. Streams whose queue is short, one frame each in turn.
//! 3. Streams with bulk data, one frame each in turn; at least one frame per call from each of these two lanes, so that a
//!    steady flow of short answers does not starve a list.
//!
//! Bulk data need not exist anywhere: [`Pull`] is asked for the next bytes when there is room for them, and they are
//! written straight behind the frame header in the caller's output.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::h2::connection::{Connection, Role};
use crate::h2::error::ErrorCode;
use crate::h2::frame::{self, HEADER_SIZE, flag, kind};
use crate::h2::head::Head;
use crate::h2::limits::*;
use crate::h2::stream::{Block, Item, Place, Stream, StreamKey};

/// Where pulled bytes come from.
pub trait Pull {
    /// Appends at most `max` bytes of the stream's body to `out`.
    fn pull(&mut self, key: StreamKey, max: usize, out: &mut Vec<u8>) -> Pulled;
    /// The body of this stream cannot be completed. `untouched`: no byte of its message has left, and it was taken out
    /// of the queue; else the stream was reset.
    fn aborted(&mut self, key: StreamKey, untouched: bool);
}

/// What [`Pull::pull`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It appended some, or (having none at hand) nothing.
    Some,
    /// It appended the last ones.
    Done,
    /// It cannot go on.
    Abort,
}

/// Streams with output, by size and by whether only the connection's window holds them.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    short: Lane,
    bulk: Lane,
    /// Streams whose queue is not empty.
    pub streams: usize,
}

#[derive(Debug, Default)]
struct Lane {
    runnable: VecDeque<StreamKey>,
    blocked: VecDeque<StreamKey>, // by the connection's window
}

impl Lane {
    fn pop(&mut self, window_is_open: bool) -> Option<StreamKey> {
        match self.runnable.pop_front() {
            None if window_is_open => self.blocked.pop_front(),
            key => key,
        }
    }

    fn is_runnable(&self, window_is_open: bool) -> bool {
        !self.runnable.is_empty() || window_is_open && !self.blocked.is_empty()
    }
}

/// How far a stream got in its turn.
enum Turn {
    /// It wrote a frame and has more.
    More,
    /// Its queue is empty, or it is gone.
    Done,
    /// The connection's window is used up.
    ConnectionWindow,
    /// Its own window is used up.
    StreamWindow,
    /// Its body has no bytes at hand.
    Idle,
}

/// The body cannot go on.
struct Aborted;

/// A frame that is being filled.
struct Filling {
    at: usize,
    room: usize,
    /// Where in the output the current message began, if that is in this frame.
    message_at: Option<usize>,
}

impl<H: Head, S: Default> Connection<H, S> {
    /// Something could be transmitted now.
    pub fn has_output(&self) -> bool {
        !self.ready.is_empty() || self.is_runnable()
    }

    /// Bytes held for output: written answers and queues, without what is pulled.
    pub fn output_bytes(&self) -> usize {
        self.ready.len() + self.held_bytes
    }

    /// DATA frames sent so far.
    pub fn data_frames_sent(&self) -> u64 {
        self.budgets.data_frames_sent()
    }

    /// Frames in the output that the peer made us send.
    pub fn control_frames_waiting(&self) -> usize {
        self.control_frames
    }

    /// Bytes of a stream that were not yet appended to an output, those to be pulled included.
    pub fn queued_bytes(&self, key: StreamKey) -> u64 {
        self.streams.get(key).map_or(0, |s| s.queued)
    }

    /// Appends frames to `out` until about `limit` bytes were added (`ready` always leaves whole). True: more could be
    /// sent now.
    pub fn poll_transmit(
        &mut self,
        now: Duration,
        out: &mut Vec<u8>,
        limit: usize,
        pull: &mut impl Pull,
    ) -> bool {
        self.now = now;
        let start = out.len();
        self.take_ready(out);
        let mut idle = Vec::new();
        // When the limit is reached, each lane may still have one turn, if it had none.
        let (mut short_turn, mut bulk_turn) = (true, true);
        loop {
            let full = out.len() - start >= limit;
            let open = self.send_window > 0;
            let schedule = &mut self.schedule;
            let mut next = if !full || short_turn { schedule.short.pop(open) } else { None };
            short_turn &= next.is_none();
            if next.is_none() && (!full || bulk_turn) {
                next = schedule.bulk.pop(open);
                bulk_turn &= next.is_none();
            }
            let Some(key) = next else { break };
            match self.transmit_stream(key, out, pull) {
                Turn::Done => {}
                Turn::More => self.lane(key).runnable.push_back(key),
                Turn::ConnectionWindow => self.lane(key).blocked.push_back(key),
                Turn::StreamWindow => {
                    if let Some(stream) = self.streams.get_mut(key) {
                        stream.place = Place::Window;
                    }
                }
                Turn::Idle => idle.push(key),
            }
        }
        let more = self.is_runnable();
        for key in idle {
            self.lane(key).runnable.push_back(key);
        }
        // Frames may have been made meanwhile: resets of aborted bodies.
        self.take_ready(out);
        more
    }

    fn is_runnable(&self) -> bool {
        let open = self.send_window > 0;
        self.schedule.short.is_runnable(open) || self.schedule.bulk.is_runnable(open)
    }

    fn take_ready(&mut self, out: &mut Vec<u8>) {
        if self.ready.is_empty() {
            return;
        }
        out.extend_from_slice(&self.ready);
        self.control_frames = 0;
        self.ready.clear();
        if self.ready.capacity() > READY_BYTES_KEPT {
            self.ready = Vec::new();
        }
    }

    /// The lane for a stream by what it has queued.
    fn lane(&mut self, key: StreamKey) -> &mut Lane {
        let short = self.streams.get(key).is_none_or(|s| s.queued <= SHORT_ANSWER_BYTES as u64);
        if short { &mut self.schedule.short } else { &mut self.schedule.bulk }
    }

    /// Puts a stream with output into its lane, unless it is in one.
    pub(crate) fn schedule(&mut self, key: StreamKey) {
        self.lane(key).runnable.push_back(key);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.place = Place::Lane;
        }
    }

    /// The peer has enlarged the windows of all streams.
    pub(crate) fn wake_window_blocked(&mut self) {
        let initial = i64::from(self.peer.initial_window);
        let wakes = |s: &Stream<S>| s.place == Place::Window && s.send_delta + initial > 0;
        let keys: Vec<StreamKey> =
            self.streams.iter().filter(|(_, s)| wakes(s)).map(|(key, _)| key).collect();
        for key in keys {
            self.schedule(key);
        }
    }

    fn enqueue(&mut self, key: StreamKey, item: Item) {
        self.enqueue_all(key, [item]);
    }

    fn enqueue_all<const N: usize>(&mut self, key: StreamKey, items: [Item; N]) {
        self.begin_stall_checks();
        let now = self.now;
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.queue.is_empty() {
            stream.progress = now;
            self.schedule.streams += 1;
        }
        for item in items {
            let (held, size) = item.sizes();
            stream.queued += size;
            self.held_bytes += held;
            stream.queue.push_back(item);
        }
        if stream.place == Place::Nowhere {
            self.schedule(key);
        }
    }

    /// Sends a header block, after what the stream has queued. `end`: it is the last thing.
    #[inline]
    pub fn send_block(&mut self, key: StreamKey, block: Block, end: bool) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.send_open {
            return;
        }
        if !stream.queue.is_empty() || self.ready.len() >= READY_BYTES_MAX {
            return self.enqueue(key, Item::Block { block, end });
        }
        let mut ready = std::mem::take(&mut self.ready);
        self.write_block(key, &block, end, &mut ready);
        self.ready = ready;
        if end {
            self.finish_sending(key);
        }
    }

    /// Sends the bytes that `write` appends, as DATA. They are written in place if everything admits that. `end`: they
    /// are the last thing (client role).
    #[inline]
    pub fn send_data(&mut self, key: StreamKey, end: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if !stream.send_open {
            return;
        }
        if stream.queue.is_empty() && self.ready.len() < READY_BYTES_MAX {
            let window = (stream.send_delta + i64::from(self.peer.initial_window)).min(self.send_window);
            let flags = if end { flag::END_STREAM } else { 0 };
            let at = frame::begin_frame(&mut self.ready, kind::DATA, flags, key.id());
            write(&mut self.ready);
            let size = self.ready.len() - at - HEADER_SIZE;
            if size <= FRAME_SIZE_MAX && size as i64 <= window {
                frame::end_frame(&mut self.ready, at);
                stream.send_delta -= size as i64;
                self.send_window -= size as i64;
                self.budgets.count_data_sent();
                if end {
                    self.finish_sending(key);
                }
                return;
            }
            let bytes = Bytes::copy_from_slice(&self.ready[at + HEADER_SIZE..]);
            self.ready.truncate(at);
            self.enqueue(key, Item::Bytes { bytes, at: 0 });
        } else {
            let mut bytes = Vec::new();
            write(&mut bytes);
            self.enqueue(key, Item::Bytes { bytes: Bytes::from(bytes), at: 0 });
        }
        if end {
            self.enqueue(key, Item::End);
        }
    }

    /// Sends five bytes and then `length` bytes that will be pulled.
    pub fn send_pulled(&mut self, key: StreamKey, prefix: [u8; 5], length: u64) {
        let prefix = Item::Prefix { bytes: prefix, at: 0 };
        match length {
            _ if !self.is_open(key) => {}
            0 => self.enqueue(key, prefix),
            left => self.enqueue_all(key, [prefix, Item::Pulled { left }]),
        }
    }

    /// Ends our half of the stream without trailers (client role).
    pub fn send_end(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        if !stream.send_open {
            return;
        }
        if !stream.queue.is_empty() {
            return self.enqueue(key, Item::End);
        }
        self.ready.extend_from_slice(&frame::encode_header(0, kind::DATA, flag::END_STREAM, key.id()));
        self.finish_sending(key);
    }

    /// Resets a stream and drops what it has queued. It stays until it is released.
    pub fn reset(&mut self, key: StreamKey, code: ErrorCode) {
        if self.streams.get(key).is_some_and(|s| !s.is_dead()) {
            frame::rst_stream(&mut self.ready, key.id(), code);
            self.remember_reset(key.id());
            self.kill(key);
        }
    }

    /// Makes a stream dead on the wire, without a frame.
    pub(crate) fn kill(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.recv_open = false;
        stream.send_open = false;
        if !stream.queue.is_empty() {
            self.schedule.streams -= 1;
        }
        let held: usize = stream.queue.drain(..).map(|item| item.sizes().0).sum();
        self.held_bytes -= held;
        stream.queued = 0;
    }

    // Our last frame of the stream is written. A server that answers before the request's end says that the rest is not
    // wanted (RFC 9113 8.1).
    fn finish_sending(&mut self, key: StreamKey) {
        let server = self.config.role == Role::Server;
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.send_open = false;
        if server && stream.recv_open {
            stream.recv_open = false;
            frame::rst_stream(&mut self.ready, key.id(), ErrorCode::NoError);
            self.remember_reset(key.id());
        }
        self.bury(key);
    }

    fn write_block(&mut self, key: StreamKey, block: &Block, end: bool, out: &mut Vec<u8>) {
        let flags = if end { flag::END_STREAM } else { 0 };
        let at = frame::begin_frame(out, kind::HEADERS, flags, key.id());
        match block {
            Block::Prepared(number) => self.prepared[*number].encode(&mut self.encoder, out),
            Block::Fields(fields) => self.encoder.encode(Block::headers(fields), out),
        }
        frame::end_block(out, at, key.id());
        if let Some(stream) = self.streams.get_mut(key) {
            stream.head_sent = true;
        }
    }

    // One turn of one stream: at most one DATA frame, with the header blocks before and after it.
    fn transmit_stream(&mut self, key: StreamKey, out: &mut Vec<u8>, pull: &mut impl Pull) -> Turn {
        let mut data_written = false;
        loop {
            let Some(stream) = self.streams.get_mut(key) else { return Turn::Done };
            match stream.queue.front() {
                None => {
                    if stream.place != Place::Nowhere {
                        stream.place = Place::Nowhere;
                        self.queue_ran_empty(key);
                    }
                    return Turn::Done;
                }
                Some(Item::Block { .. }) => {
                    let Some(Item::Block { block, end }) = stream.queue.pop_front() else {
                        return Turn::Done;
                    };
                    stream.progress = self.now;
                    self.write_block(key, &block, end, out);
                    if end {
                        return self.end_turn_of_stream(key, out);
                    }
                }
                Some(_) if data_written => return Turn::More,
                Some(Item::End) => {
                    out.extend_from_slice(&frame::encode_header(0, kind::DATA, flag::END_STREAM, key.id()));
                    return self.end_turn_of_stream(key, out);
                }
                Some(_) => match self.transmit_data(key, out, pull) {
                    Turn::More => data_written = true,
                    other => return other,
                },
            }
        }
    }

    fn queue_ran_empty(&mut self, key: StreamKey) {
        // A stream that was killed has been taken out of the count already.
        if self.streams.get(key).is_some_and(|s| s.send_open) {
            self.schedule.streams -= 1;
        }
    }

    fn end_turn_of_stream(&mut self, key: StreamKey, out: &mut Vec<u8>) -> Turn {
        if let Some(stream) = self.streams.get_mut(key) {
            debug_assert!(
                stream.queue.iter().all(|item| matches!(item, Item::End)),
                "nothing follows the end"
            );
            stream.queue.clear();
            stream.place = Place::Nowhere;
            self.schedule.streams -= 1;
        }
        self.finish_sending(key);
        self.take_ready(out);
        Turn::Done
    }

    fn transmit_data(&mut self, key: StreamKey, out: &mut Vec<u8>, pull: &mut impl Pull) -> Turn {
        let initial = i64::from(self.peer.initial_window);
        let Some(stream) = self.streams.get_mut(key) else { return Turn::Done };
        let window = stream.send_delta + initial;
        if window <= 0 {
            return Turn::StreamWindow;
        }
        if self.send_window <= 0 {
            return Turn::ConnectionWindow;
        }
        let room = (FRAME_SIZE_MAX as i64).min(window).min(self.send_window) as usize;
        let at = frame::begin_frame(out, kind::DATA, 0, key.id());
        let mut filling = Filling { at, room, message_at: None };
        if fill(stream, key, &mut filling, &mut self.held_bytes, out, pull).is_err() {
            return self.abort(key, filling, out, pull);
        }
        let size = out.len() - at - HEADER_SIZE;
        if size == 0 {
            out.truncate(at);
            return Turn::Idle;
        }
        frame::end_frame(out, at);
        stream.send_delta -= size as i64;
        stream.progress = self.now;
        self.send_window -= size as i64;
        self.budgets.count_data_sent();
        if matches!(stream.queue.front(), Some(Item::End)) {
            out[at + 4] |= flag::END_STREAM;
            return self.end_turn_of_stream(key, out);
        }
        Turn::More
    }

    fn abort(&mut self, key: StreamKey, filling: Filling, out: &mut Vec<u8>, pull: &mut impl Pull) -> Turn {
        let untouched = filling.message_at.is_some();
        out.truncate(filling.message_at.unwrap_or(filling.at));
        let size = out.len().saturating_sub(filling.at + HEADER_SIZE);
        if size > 0 {
            frame::end_frame(out, filling.at); // messages before this one
            self.send_window -= size as i64;
            self.budgets.count_data_sent();
        } else {
            out.truncate(filling.at);
        }
        if !untouched {
            self.reset(key, ErrorCode::Internal);
        } else if let Some(stream) = self.streams.get_mut(key) {
            stream.send_delta -= size as i64;
            let held: usize = stream.queue.drain(..).map(|item| item.sizes().0).sum();
            self.held_bytes -= held;
            stream.queued = 0;
            stream.place = Place::Nowhere;
            self.schedule.streams -= 1;
        }
        pull.aborted(key, untouched);
        Turn::Done
    }
}

/// Scratch of `ready` kept when it is empty.
const READY_BYTES_KEPT: usize = 256 << 10;

impl Item {
    /// Bytes held in memory, and bytes to be sent as DATA.
    fn sizes(&self) -> (usize, u64) {
        match self {
            Item::Block { .. } | Item::End => (0, 0),
            Item::Bytes { bytes, at } => (bytes.len() - at, (bytes.len() - at) as u64),
            Item::Prefix { at, .. } => (0, 5 - *at as u64),
            Item::Pulled { left, .. } => (0, *left),
        }
    }
}

// Fills one frame from the queue's items until it is full or a header block is next. Whole items leave the queue.
fn fill<S>(
    stream: &mut Stream<S>,
    key: StreamKey,
    filling: &mut Filling,
    held_bytes: &mut usize,
    out: &mut Vec<u8>,
    pull: &mut impl Pull,
) -> Result<(), Aborted> {
    while filling.room > 0 {
        let before = out.len();
        let (done, idle) = match stream.queue.front_mut() {
            None | Some(Item::Block { .. } | Item::End) => break,
            Some(Item::Bytes { bytes, at }) => {
                let size = filling.room.min(bytes.len() - *at);
                out.extend_from_slice(&bytes[*at..*at + size]);
                *at += size;
                *held_bytes -= size;
                filling.message_at = None;
                (*at == bytes.len(), false)
            }
            Some(Item::Prefix { bytes, at }) => {
                let size = filling.room.min(bytes.len() - *at);
                filling.message_at = (*at == 0).then_some(before);
                out.extend_from_slice(&bytes[*at..*at + size]);
                *at += size;
                (*at == bytes.len(), false)
            }
            Some(Item::Pulled { left }) => {
                let max = (filling.room as u64).min(*left) as usize;
                let result = pull.pull(key, max, out);
                let size = out.len() - before;
                assert!(size <= max, "a body gave {size} bytes where {max} were asked");
                *left -= size as u64;
                // Too short a body breaks its message as surely as one that gives up.
                if result == Pulled::Abort || result == Pulled::Done && *left > 0 {
                    return Err(Aborted);
                }
                (*left == 0, size == 0 && *left > 0)
            }
        };
        let size = out.len() - before;
        filling.room -= size;
        stream.queued -= size as u64;
        if done {
            stream.queue.pop_front();
        }
        if idle {
            break;
        }
    }
    Ok(())
}
