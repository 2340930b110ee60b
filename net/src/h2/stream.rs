//! Streams of a connection: their state, and where they are kept.
//!
//! ```text
//!            head received / sent
//!   (none) ───────────────────────► open ──END_STREAM both ways, or RST──► dead on the wire
//!                                                                            │ released by the application
//!                                                                            ▼
//!                                                                          (none)
//! ```
//!
//! A stream's place is given back only when its *work* has ended (`held` is false) and not already when the peer resets
//! it; else a peer could start work without bound (CVE-2023-44487).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::h2::hpack::encoder::{Header, Indexing};

/// A stream: its HTTP/2 id and the place of its state. Ids are never reused on a connection, so a key whose stream is
/// gone finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    pub(crate) id: u32,
    pub(crate) slot: u32,
}

impl StreamKey {
    /// The key as one number.
    pub fn to_u64(self) -> u64 {
        u64::from(self.id) << 32 | u64::from(self.slot)
    }

    /// Undoes [`StreamKey::to_u64`].
    pub fn from_u64(number: u64) -> StreamKey {
        StreamKey { id: (number >> 32) as u32, slot: number as u32 }
    }

    /// The stream's HTTP/2 id.
    pub fn id(self) -> u32 {
        self.id
    }
}

/// A header block to be sent.
#[derive(Clone, Debug)]
pub enum Block {
    /// One of the blocks that the connection was made with, by its index.
    Prepared(usize),
    /// Any other.
    Fields(Vec<OwnedHeader>),
}

/// A field to be sent: name in lower case, value, and how it may be compressed.
pub type OwnedHeader = (Cow<'static, str>, Cow<'static, str>, Indexing);

impl Block {
    pub(crate) fn headers<'a>(fields: &'a [OwnedHeader]) -> impl Iterator<Item = Header<'a>> {
        let header = |(name, value, indexing): &'a OwnedHeader| Header {
            name: name.as_bytes(),
            value: value.as_bytes(),
            indexing: *indexing,
        };
        fields.iter().map(header)
    }
}

/// What a stream still has to send, in order.
#[derive(Debug)]
pub(crate) enum Item {
    Block { block: Block, end: bool },
    Bytes { bytes: Bytes, at: usize },
    Prefix { bytes: [u8; 5], at: usize },
    Pulled { left: u64 },
    End,
}

/// Which list of the schedule a stream with output is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In none: it has nothing to send.
    Nowhere,
    /// In a lane.
    Lane,
    /// In none: its own window is used up.
    Window,
}

#[derive(Debug)]
pub(crate) struct Stream<S> {
    pub id: u32,
    /// The peer may still send.
    pub recv_open: bool,
    /// We may still send.
    pub send_open: bool,
    /// The head of the response has come (client role).
    pub head_received: bool,
    /// A header block of ours has left, so a status can no longer be sent alone.
    pub head_sent: bool,
    /// The application has not released it.
    pub held: bool,
    /// It may be blocked for any time (a watch), without being reset.
    pub patient: bool,
    /// What the peer may still send.
    pub recv_window: i64,
    /// What was received and consumed, and not yet given back.
    pub recv_unacked: u32,
    /// What is missing to the content-length.
    pub content_left: Option<u64>,
    /// Window for sending, relative to the peer's SETTINGS_INITIAL_WINDOW_SIZE, so that a change of it costs nothing.
    pub send_delta: i64,
    pub queue: VecDeque<Item>,
    /// Bytes in the queue, those to be pulled included.
    pub queued: u64,
    pub place: Place,
    /// When the queue last shrank, or was begun.
    pub progress: Duration,
    pub app: S,
}

impl<S> Stream<S> {
    /// Nothing can happen on the wire any more.
    pub fn is_dead(&self) -> bool {
        !self.recv_open && !self.send_open
    }
}

/// All streams of a connection, open and not yet released.
#[derive(Debug)]
pub(crate) struct Streams<S> {
    slots: Vec<Stream<S>>,
    free: Vec<u32>,
    by_id: FxHashMap<u32, u32>,
    last: StreamKey,
}

/// `id` of a free slot.
const FREE: u32 = 0;

impl<S: Default> Streams<S> {
    pub fn new() -> Streams<S> {
        Streams {
            slots: Vec::new(),
            free: Vec::new(),
            by_id: FxHashMap::default(),
            last: StreamKey { id: FREE, slot: 0 },
        }
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn insert(&mut self, id: u32, recv_window: i64, now: Duration) -> StreamKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Stream::empty());
            self.slots.len() as u32 - 1
        });
        let stream = &mut self.slots[slot as usize];
        debug_assert_eq!(stream.id, FREE);
        stream.id = id;
        stream.recv_open = true;
        stream.send_open = true;
        stream.head_received = false;
        stream.head_sent = false;
        stream.held = true;
        stream.patient = false;
        stream.recv_window = recv_window;
        stream.recv_unacked = 0;
        stream.content_left = None;
        stream.send_delta = 0;
        stream.place = Place::Nowhere;
        stream.progress = now;
        self.by_id.insert(id, slot);
        self.last = StreamKey { id, slot };
        self.last
    }

    #[inline]
    pub fn key(&mut self, id: u32) -> Option<StreamKey> {
        if self.last.id == id && id != FREE {
            return Some(self.last);
        }
        let slot = *self.by_id.get(&id)?;
        self.last = StreamKey { id, slot };
        Some(self.last)
    }

    #[inline]
    pub fn get(&self, key: StreamKey) -> Option<&Stream<S>> {
        self.slots.get(key.slot as usize).filter(|s| s.id == key.id && key.id != FREE)
    }

    #[inline]
    pub fn get_mut(&mut self, key: StreamKey) -> Option<&mut Stream<S>> {
        self.slots.get_mut(key.slot as usize).filter(|s| s.id == key.id && key.id != FREE)
    }

    pub fn remove(&mut self, key: StreamKey) {
        let Some(stream) = self.get_mut(key) else { return };
        stream.id = FREE;
        stream.queue.clear();
        if stream.queue.capacity() > 16 {
            stream.queue = VecDeque::new();
        }
        stream.app = S::default();
        self.by_id.remove(&key.id);
        self.free.push(key.slot);
        if self.last == key {
            self.last.id = FREE;
        }
    }

    /// The streams, by their slots.
    pub fn iter(&self) -> impl Iterator<Item = (StreamKey, &Stream<S>)> {
        let key = |(slot, s): (usize, _)| (slot as u32, s);
        self.slots
            .iter()
            .enumerate()
            .map(key)
            .filter(|(_, s): &(u32, &Stream<S>)| s.id != FREE)
            .map(|(slot, s)| (StreamKey { id: s.id, slot }, s))
    }
}

impl<S: Default> Stream<S> {
    fn empty() -> Stream<S> {
        Stream {
            id: FREE,
            recv_open: false,
            send_open: false,
            head_received: false,
            head_sent: false,
            held: false,
            patient: false,
            recv_window: 0,
            recv_unacked: 0,
            content_left: None,
            send_delta: 0,
            queue: VecDeque::new(),
            queued: 0,
            place: Place::Nowhere,
            progress: Duration::ZERO,
            app: S::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_its_stream_and_no_later_one() {
        let mut streams = Streams::<u8>::new();
        let a = streams.insert(1, 0, Duration::ZERO);
        streams.get_mut(a).unwrap().app = 7;
        assert_eq!(streams.key(1), Some(a));
        assert_eq!(StreamKey::from_u64(a.to_u64()), a);
        streams.remove(a);
        assert_eq!((streams.key(1), streams.len()), (None, 0));
        let b = streams.insert(3, 0, Duration::ZERO);
        assert_eq!(b.slot, a.slot);
        assert!(streams.get(a).is_none());
        assert_eq!(streams.get(b).unwrap().app, 0);
        assert!(streams.get(StreamKey::from_u64(0)).is_none());
    }
}
