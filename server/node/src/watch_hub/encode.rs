//! Watch responses as bytes. Events are encoded once per batch and shared by all watchers that want them alike; of a batch
//! that is too large for that only the lengths are kept.
//!
//! ```text
//! 0a <len> header   10 <watch_id>   18 01 created   20 01 canceled   28 <compact_revision>
//! 32 <len> cancel_reason   38 01 fragment   5a <len> event …
//! event: [08 01 DELETE]  12 <len> kv  [1a <len> prev_kv]
//! ```

use std::ops::Range;

use crossbeam::epoch::Guard;
use engine::tree::Damage;
use engine::{Event, EventKind, Revision, View};
use net::pb::etcdserverpb::ResponseHeader;

use crate::answer::{field_len, put_bytes, put_header, put_int, put_tag};

/// Tag of `WatchResponse.events`, field 11, length-delimited.
const EVENTS_TAG: u8 = 11 << 3 | 2;

/// Encoded bytes that a batch holds. What is beyond is sent from the store: see [`super::large`].
pub(super) const HELD_BYTES_MAX: usize = 1 << 20;

/// Events of a batch, encoded when somebody wants them.
#[derive(Default)]
pub(super) struct Batch {
    /// `5a <len> event`, one after another, of those that are held.
    bytes: Vec<u8>,
    events: Vec<Encoded>,
    /// Bytes of all, held or not.
    size: usize,
}

/// An event, without and with its previous row.
struct Encoded {
    revision: Revision,
    plain: Bytes,
    with_prev: Option<Bytes>,
}

/// Where an encoded event stands in `Batch::bytes`, if it is held.
#[derive(Clone)]
struct Bytes {
    len: usize,
    held: Option<Range<usize>>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.events.clear();
        self.size = 0;
    }

    /// Events in it; the number of the next one.
    pub fn len(&self) -> u32 {
        self.events.len() as u32
    }

    /// Bytes of its events, held or not.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds an event; with `prev_from` also with its previous row, for watchers whose history begins there.
    pub fn push(
        &mut self,
        view: &View,
        guard: &Guard,
        event: &Event<'_>,
        prev_from: Option<i64>,
    ) -> Result<(), Damage> {
        let plain = self.encode(event, None);
        let with_prev = match prev_from {
            None => None,
            Some(first) => Some(match view.prev_kv_from(guard, event, first)? {
                Some(prev) => self.encode(event, Some(prev)),
                None => plain.clone(),
            }),
        };
        self.events.push(Encoded { revision: event.revision, plain, with_prev });
        Ok(())
    }

    /// The event with its tag and length; `None` if it is not held.
    pub fn event(&self, at: u32, prev_kv: bool) -> Option<&[u8]> {
        self.bytes_of(at, prev_kv).held.clone().map(|range| &self.bytes[range])
    }

    /// How long that is.
    pub fn event_len(&self, at: u32, prev_kv: bool) -> usize {
        self.bytes_of(at, prev_kv).len
    }

    /// Where the event is in history.
    pub fn revision(&self, at: u32) -> Revision {
        self.events[at as usize].revision
    }

    fn bytes_of(&self, at: u32, prev_kv: bool) -> &Bytes {
        let encoded = &self.events[at as usize];
        match (&encoded.with_prev, prev_kv) {
            (Some(bytes), true) => bytes,
            _ => &encoded.plain,
        }
    }

    fn encode(&mut self, event: &Event<'_>, prev_kv: Option<&[u8]>) -> Bytes {
        let len = event_len(event, prev_kv);
        self.size += len;
        let start = self.bytes.len();
        if start + len > HELD_BYTES_MAX {
            return Bytes { len, held: None };
        }
        encode_event(event, prev_kv, |part| self.bytes.extend_from_slice(part));
        Bytes { len, held: Some(start..self.bytes.len()) }
    }
}

/// Bytes of `Event` between its tag and length and its end.
fn payload_len(event: &Event<'_>, prev_kv: Option<&[u8]>) -> usize {
    let kind_len = if event.kind == EventKind::Delete { 2 } else { 0 };
    kind_len + field_len(event.kv_len()) + prev_kv.map_or(0, |prev| field_len(prev.len()))
}

/// Bytes of an event with its tag and length.
pub(super) fn event_len(event: &Event<'_>, prev_kv: Option<&[u8]>) -> usize {
    field_len(payload_len(event, prev_kv))
}

/// Gives an event with its tag and length in parts; rows are given where they are stored.
pub(super) fn encode_event(event: &Event<'_>, prev_kv: Option<&[u8]>, mut give: impl FnMut(&[u8])) {
    let mut small = Vec::with_capacity(32);
    small.push(EVENTS_TAG);
    prost::encoding::encode_varint(payload_len(event, prev_kv) as u64, &mut small);
    if event.kind == EventKind::Delete {
        small.extend_from_slice(&[0x08, 1]);
    }
    put_tag(2, event.kv_len(), &mut small);
    match event.stored_kv() {
        Some(row) => {
            give(&small);
            give(row);
            small.clear();
        }
        None => event.encode_kv(&mut small),
    }
    if let Some(prev) = prev_kv {
        put_tag(3, prev.len(), &mut small);
        give(&small);
        give(prev);
    } else {
        give(&small);
    }
}

/// The fields of a response before its events.
#[derive(Default)]
pub(super) struct Head<'a> {
    pub header: ResponseHeader,
    pub watch_id: i64,
    pub created: bool,
    pub canceled: bool,
    pub compact_revision: i64,
    pub cancel_reason: &'a str,
    pub fragment: bool,
}

impl Head<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_header(&self.header, out);
        put_int(2, self.watch_id, out);
        for (field, set) in [(3, self.created), (4, self.canceled)] {
            put_int(field, i64::from(set), out);
        }
        put_int(5, self.compact_revision, out);
        if !self.cancel_reason.is_empty() {
            put_bytes(6, self.cancel_reason.as_bytes(), out);
        }
        put_int(7, i64::from(self.fragment), out);
    }
}

/// Splits a response: how many of the events (by their lengths) go into the next part, at least one. etcd
/// `sendFragments`: a part takes events as long as it stays below `limit`.
pub(super) fn fragment_len(head_len: usize, events: impl Iterator<Item = usize>, limit: usize) -> usize {
    let mut size = head_len;
    let mut count = 0;
    for len in events {
        size += len;
        if count > 0 && size >= limit {
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use net::pb::etcdserverpb as pb;
    use prost::Message;

    use super::*;

    #[test]
    fn a_head_is_a_watch_response_without_events() {
        let header = ResponseHeader { cluster_id: 1, member_id: 2, revision: 3, raft_term: 4 };
        let heads = [
            Head { header, created: true, ..Default::default() },
            Head { header, watch_id: 5, canceled: true, compact_revision: 900, ..Default::default() },
            Head {
                header,
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: "why",
                ..Default::default()
            },
            Head { header, watch_id: 7, fragment: true, ..Default::default() },
        ];
        for head in heads {
            let mut out = Vec::new();
            head.encode(&mut out);
            let want = pb::WatchResponse {
                header: Some(header),
                watch_id: head.watch_id,
                created: head.created,
                canceled: head.canceled,
                compact_revision: head.compact_revision,
                cancel_reason: head.cancel_reason.to_owned(),
                fragment: head.fragment,
                events: vec![],
            };
            assert_eq!(pb::WatchResponse::decode(&out[..]).unwrap(), want);
            assert_eq!(out, want.encode_to_vec());
        }
    }

    #[test]
    fn parts_stay_below_the_limit_but_hold_an_event() {
        let cases: [(&[usize], usize, usize); 5] = [
            (&[10, 10, 10], 100, 3),
            (&[10, 10, 10], 30, 2),
            (&[10, 10, 10], 25, 1),
            (&[1000, 10], 25, 1),
            (&[10], 5, 1),
        ];
        for (lens, limit, want) in cases {
            assert_eq!(fragment_len(5, lens.iter().copied(), limit), want, "{lens:?} {limit}");
        }
    }
}
