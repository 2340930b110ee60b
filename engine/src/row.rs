//! Row formats of all tables but those of other crates' making.
//!
//! | table | key | value |
//! |---|---|---|
//! | `history` | main u64 BE, sub u64 BE | flags u8, varint previous main, varint previous sub, encoded `mvccpb.KeyValue` |
//! | `keys` | the user's key | flags u8, then varints: row length, main, sub, create revision, version, previous main, previous sub, lease |
//! | `leases` | lease id u64 BE | varint granted TTL in seconds, varint remaining TTL (0: not checkpointed), varint index of the entry that granted it (absent: 0) |
//! | `lease_keys` | lease id u64 BE, the user's key | empty |
//! | `meta` | see the constants [`META_APPLIED`] and on | see there |
//!
//! **history** has one row per change, in the order of events. Flag bit 0: the row is a tombstone;
//! bit 1: the put created its key. "Previous" is the same key's row before this one, puts and
//! tombstones alike, 0.0 if there was none; compaction removes rows from the old end, so a link
//! that leads nowhere means "no older row". The `KeyValue` is encoded as etcd stores it (HashKV
//! hashes these very bytes): fields ascending by number, zero and empty ones left out; of a
//! tombstone it holds the key alone.
//!
//! **keys** has one row per key that has a row in history. It describes the newest one. Flag bit 0:
//! the key is alive (the tree counts these by branch). Row length is the length of that `KeyValue`,
//! so that a Range answer's length is known before any history row is touched. Of a tombstone, row
//! length, create revision, version and lease are 0.
//!
//! Varints are protobuf's. `i64`s are cast to `u64` first, as protobuf's `int64` does.

use crate::types::{LeaseId, Revision};

/// `meta`: index u64 BE and term u64 BE of the last applied log entry.
pub const META_APPLIED: &[u8] = b"applied";
/// `meta`: the current revision, i64 BE.
pub const META_REVISION: &[u8] = b"revision";
/// `meta`: scheduled and finished compact revision, i64 BE each; -1: never compacted.
pub const META_COMPACT: &[u8] = b"compact";
/// `meta`: prefix of alarms; then the member's id u64 BE and the kind u8 (1 NOSPACE, 2 CORRUPT). Empty value.
pub const META_ALARM: &[u8] = b"alarm/";
/// `meta`: prefix of what belongs to the layers above: cluster version, membership and such.
pub const META_USER: &[u8] = b"user/";

const DELETED: u8 = 1;
const CREATED: u8 = 2;
const LIVE: u8 = 1;

/// Bytes that are not a row of the kind asked for: the tree's checksums held, so they were written so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRow;

/// Key of a `history` row.
pub fn history_key(revision: Revision) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&(revision.main as u64).to_be_bytes());
    key[8..].copy_from_slice(&(revision.sub as u64).to_be_bytes());
    key
}

/// The revision in a `history` key.
pub fn decode_history_key(key: &[u8]) -> Result<Revision, BadRow> {
    let (main, sub) = two_u64(key)?;
    Ok(Revision { main: main as i64, sub: sub as i64 })
}

fn two_u64(bytes: &[u8]) -> Result<(u64, u64), BadRow> {
    let bytes: &[u8; 16] = bytes.try_into().map_err(|_| BadRow)?;
    let (first, second) = bytes.split_at(8);
    let word = |half: &[u8]| u64::from_be_bytes(half.try_into().expect("half of 16 bytes"));
    Ok((word(first), word(second)))
}

/// A `history` row, borrowed from its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRow<'a> {
    /// The key was deleted.
    pub deleted: bool,
    /// The put created the key: it did not exist just before.
    pub created: bool,
    /// The same key's row before this one.
    pub previous: Option<Revision>,
    /// The encoded `mvccpb.KeyValue`.
    pub kv: &'a [u8],
}

impl<'a> HistoryRow<'a> {
    /// Reads a `history` value.
    pub fn decode(value: &'a [u8]) -> Result<Self, BadRow> {
        let mut input = Input(value);
        let flags = input.byte()?;
        let previous = input.link()?;
        Ok(HistoryRow { deleted: flags & DELETED != 0, created: flags & CREATED != 0, previous, kv: input.0 })
    }
}

/// A `keys` row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyRow {
    /// The key exists; else its newest row is a tombstone.
    pub live: bool,
    /// Length of the newest row's encoded `mvccpb.KeyValue`.
    pub kv_len: u32,
    /// Revision of the newest row.
    pub modified: Revision,
    /// Revision that created the key.
    pub create_revision: i64,
    /// Puts since then.
    pub version: i64,
    /// The key's row before the newest one.
    pub previous: Option<Revision>,
    /// Attached lease.
    pub lease: LeaseId,
}

/// The front of a `keys` row, which is all that most rows of a list are asked for.
#[derive(Clone, Copy, Debug)]
pub struct KeyRowFront<'a> {
    /// As in [`KeyRow`].
    pub live: bool,
    /// As in [`KeyRow`].
    pub kv_len: u32,
    /// As in [`KeyRow`].
    pub modified: Revision,
    value: &'a [u8],
}

impl<'a> KeyRowFront<'a> {
    /// Reads the front of a `keys` value.
    #[inline]
    pub fn decode(value: &'a [u8]) -> Result<Self, BadRow> {
        let mut input = Input(value);
        let live = input.byte()? & LIVE != 0;
        let kv_len = u32::try_from(input.varint()?).map_err(|_| BadRow)?;
        let modified = Revision { main: input.varint()? as i64, sub: input.varint()? as i64 };
        Ok(KeyRowFront { live, kv_len, modified, value })
    }

    /// Reads the rest, too.
    pub fn whole(&self) -> Result<KeyRow, BadRow> {
        KeyRow::decode(self.value)
    }
}

impl KeyRow {
    /// Reads a `keys` value.
    #[inline]
    pub fn decode(value: &[u8]) -> Result<Self, BadRow> {
        let mut input = Input(value);
        let flags = input.byte()?;
        let kv_len = u32::try_from(input.varint()?).map_err(|_| BadRow)?;
        let modified = Revision { main: input.varint()? as i64, sub: input.varint()? as i64 };
        let create_revision = input.varint()? as i64;
        let version = input.varint()? as i64;
        let previous = input.link()?;
        let lease = LeaseId(input.varint()? as i64);
        Ok(KeyRow { live: flags & LIVE != 0, kv_len, modified, create_revision, version, previous, lease })
    }

    /// Writes a `keys` value.
    pub fn encode(&self) -> Short<80> {
        let mut out = Short::new();
        out.push(if self.live { LIVE } else { 0 });
        out.varint(u64::from(self.kv_len));
        out.varint(self.modified.main as u64);
        out.varint(self.modified.sub as u64);
        out.varint(self.create_revision as u64);
        out.varint(self.version as u64);
        out.link(self.previous);
        out.varint(self.lease.0 as u64);
        out
    }
}

/// A `mvccpb.KeyValue`, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyValue<'a> {
    /// Field 1.
    pub key: &'a [u8],
    /// Field 2.
    pub create_revision: i64,
    /// Field 3.
    pub mod_revision: i64,
    /// Field 4.
    pub version: i64,
    /// Field 5.
    pub value: &'a [u8],
    /// Field 6.
    pub lease: i64,
}

impl<'a> KeyValue<'a> {
    /// Reads what [`HistoryValue`] and [`KeyValue::encode`] write: known fields only, ascending.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadRow> {
        let mut kv = KeyValue::default();
        let mut input = Input(bytes);
        let mut last = 0;
        while !input.0.is_empty() {
            let tag = input.byte()?;
            if tag <= last {
                return Err(BadRow);
            }
            last = tag;
            match tag {
                0x0a => kv.key = input.bytes()?,
                0x10 => kv.create_revision = input.varint()? as i64,
                0x18 => kv.mod_revision = input.varint()? as i64,
                0x20 => kv.version = input.varint()? as i64,
                0x2a => kv.value = input.bytes()?,
                0x30 => kv.lease = input.varint()? as i64,
                _ => return Err(BadRow),
            }
        }
        Ok(kv)
    }

    /// Length of the encoding.
    pub fn encoded_len(&self) -> usize {
        bytes_len(self.key)
            + scalar_len(self.create_revision)
            + scalar_len(self.mod_revision)
            + scalar_len(self.version)
            + bytes_len(self.value)
            + scalar_len(self.lease)
    }

    /// Appends the encoding.
    pub fn encode(&self, out: &mut Vec<u8>) {
        push_bytes(out, 0x0a, self.key);
        push_scalar(out, 0x10, self.create_revision);
        push_scalar(out, 0x18, self.mod_revision);
        push_scalar(out, 0x20, self.version);
        push_bytes(out, 0x2a, self.value);
        push_scalar(out, 0x30, self.lease);
    }

    /// A `history` value that makes `self` a row: all of it but key and value bytes themselves, which
    /// stay where they are. A tombstone's `KeyValue` must hold the key alone.
    pub fn as_history(&self, deleted: bool, created: bool, previous: Option<Revision>) -> HistoryValue {
        debug_assert!(!deleted || *self == KeyValue { key: self.key, ..KeyValue::default() });
        let mut head = Short::new();
        head.push(if deleted { DELETED } else { 0 } | if created { CREATED } else { 0 });
        head.link(previous);
        let mut key_tag = Short::new();
        key_tag.bytes_tag(0x0a, self.key);
        let mut middle = Short::new();
        middle.scalar(0x10, self.create_revision);
        middle.scalar(0x18, self.mod_revision);
        middle.scalar(0x20, self.version);
        middle.bytes_tag(0x2a, self.value);
        let mut tail = Short::new();
        tail.scalar(0x30, self.lease);
        HistoryValue { head, key_tag, middle, tail }
    }
}

/// A `history` value in parts, so that the user's key and value are copied once, into the page.
pub struct HistoryValue {
    head: Short<24>,
    key_tag: Short<12>,
    middle: Short<48>,
    tail: Short<12>,
}

impl HistoryValue {
    /// The parts in order. `kv` is the one this was made from.
    pub fn parts<'p>(&'p self, kv: &KeyValue<'p>) -> [&'p [u8]; 6] {
        [
            self.head.as_ref(),
            self.key_tag.as_ref(),
            kv.key,
            self.middle.as_ref(),
            kv.value,
            self.tail.as_ref(),
        ]
    }
}

/// The key in an encoded `KeyValue`, without decoding the rest. A left-out key is an empty one.
pub fn key_of(kv: &[u8]) -> Result<&[u8], BadRow> {
    match kv.split_first() {
        Some((0x0a, rest)) => Input(rest).bytes(),
        _ => Ok(&[]),
    }
}

/// Key of a `leases` row, and prefix of a lease's `lease_keys` rows.
pub fn lease_key(lease: LeaseId) -> [u8; 8] {
    (lease.0 as u64).to_be_bytes()
}

/// The lease at the front of a `leases` or `lease_keys` key, and what follows it.
pub fn decode_lease_key(key: &[u8]) -> Result<(LeaseId, &[u8]), BadRow> {
    let (id, rest) = key.split_first_chunk::<8>().ok_or(BadRow)?;
    Ok((LeaseId(u64::from_be_bytes(*id) as i64), rest))
}

/// A `leases` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Granted time to live in seconds.
    pub ttl: i64,
    /// Checkpointed remaining time in seconds, 0 if none.
    pub remaining_ttl: i64,
    /// Index of the entry that granted it, which tells it from others of the same number. 0 in rows that were written
    /// before this was noted; these end after `remaining_ttl`.
    pub granted_at: u64,
}

impl LeaseRow {
    /// Reads a `leases` value.
    pub fn decode(value: &[u8]) -> Result<Self, BadRow> {
        let mut input = Input(value);
        let (ttl, remaining_ttl) = (input.varint()? as i64, input.varint()? as i64);
        let granted_at = if input.0.is_empty() { 0 } else { input.varint()? };
        if input.0.is_empty() { Ok(LeaseRow { ttl, remaining_ttl, granted_at }) } else { Err(BadRow) }
    }

    /// Writes a `leases` value.
    pub fn encode(&self) -> Short<30> {
        let mut out = Short::new();
        out.varint(self.ttl as u64);
        out.varint(self.remaining_ttl as u64);
        out.varint(self.granted_at);
        out
    }
}

/// Value of the [`META_APPLIED`] and [`META_COMPACT`] rows.
pub fn encode_pair(first: u64, second: u64) -> [u8; 16] {
    history_key(Revision { main: first as i64, sub: second as i64 })
}

/// Reads what [`encode_pair`] wrote.
pub fn decode_pair(value: &[u8]) -> Result<(u64, u64), BadRow> {
    two_u64(value)
}

/// Length of `value` as a varint.
#[inline]
pub fn varint_len(value: u64) -> usize {
    // 7 bits per byte, and zero takes one byte as well
    (70 - (value | 1).leading_zeros() as usize) / 7
}

/// Appends `value` as a varint.
#[inline]
pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn push_scalar(out: &mut Vec<u8>, tag: u8, value: i64) {
    if value != 0 {
        out.push(tag);
        push_varint(out, value as u64);
    }
}

fn push_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(tag);
        push_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn scalar_len(value: i64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value as u64) }
}

fn bytes_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + varint_len(bytes.len() as u64) + bytes.len() }
}

/// A short byte string on the stack.
#[derive(Clone, Copy)]
pub struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    fn new() -> Self {
        Short { bytes: [0; N], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn link(&mut self, revision: Option<Revision>) {
        let Revision { main, sub } = revision.unwrap_or_default();
        self.varint(main as u64);
        self.varint(sub as u64);
    }

    fn scalar(&mut self, tag: u8, value: i64) {
        if value != 0 {
            self.push(tag);
            self.varint(value as u64);
        }
    }

    fn bytes_tag(&mut self, tag: u8, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.push(tag);
            self.varint(bytes.len() as u64);
        }
    }
}

impl<const N: usize> AsRef<[u8]> for Short<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    #[inline]
    fn byte(&mut self) -> Result<u8, BadRow> {
        let (&byte, rest) = self.0.split_first().ok_or(BadRow)?;
        self.0 = rest;
        Ok(byte)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, BadRow> {
        let first = self.byte()?;
        if first < 0x80 { Ok(u64::from(first)) } else { self.varint_rest(first) }
    }

    fn varint_rest(&mut self, first: u8) -> Result<u64, BadRow> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(BadRow);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadRow)
    }

    #[inline]
    fn link(&mut self) -> Result<Option<Revision>, BadRow> {
        let revision = Revision { main: self.varint()? as i64, sub: self.varint()? as i64 };
        Ok((revision.main != 0).then_some(revision))
    }

    fn bytes(&mut self) -> Result<&'a [u8], BadRow> {
        let len = usize::try_from(self.varint()?).map_err(|_| BadRow)?;
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(BadRow)?;
        self.0 = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rev(main: i64, sub: i64) -> Revision {
        Revision { main, sub }
    }

    #[test]
    fn golden_bytes_of_every_row() {
        let kv = KeyValue {
            key: b"foo",
            create_revision: 2,
            mod_revision: 300,
            version: 4,
            value: b"bar",
            lease: 7,
        };
        let put = kv.as_history(false, false, Some(rev(299, 1))).parts(&kv).concat();
        assert_eq!(put, b"\x00\xab\x02\x01\x0a\x03foo\x10\x02\x18\xac\x02\x20\x04\x2a\x03bar\x30\x07");
        let gone = KeyValue { key: b"foo", ..KeyValue::default() };
        let tombstone = gone.as_history(true, false, Some(rev(2, 0))).parts(&gone).concat();
        assert_eq!(tombstone, b"\x01\x02\x00\x0a\x03foo");
        let first =
            KeyValue { key: b"k", create_revision: 2, mod_revision: 2, version: 1, ..KeyValue::default() };
        assert_eq!(
            first.as_history(false, true, None).parts(&first).concat(),
            b"\x02\x00\x00\x0a\x01k\x10\x02\x18\x02\x20\x01"
        );
        assert_eq!(history_key(rev(258, 1)), *b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x01");

        let row = KeyRow {
            live: true,
            kv_len: 20,
            modified: rev(300, 0),
            create_revision: 2,
            version: 4,
            previous: Some(rev(299, 1)),
            lease: LeaseId(7),
        };
        assert_eq!(row.encode().as_ref(), b"\x01\x14\xac\x02\x00\x02\x04\xab\x02\x01\x07");
        let dead = KeyRow { modified: rev(9, 2), previous: Some(rev(8, 0)), ..KeyRow::default() };
        assert_eq!(dead.encode().as_ref(), b"\x00\x00\x09\x02\x00\x00\x08\x00\x00");

        assert_eq!(lease_key(LeaseId(-2)), [255, 255, 255, 255, 255, 255, 255, 254]);
        let lease = LeaseRow { ttl: 300, remaining_ttl: 0, granted_at: 129 };
        assert_eq!(lease.encode().as_ref(), b"\xac\x02\x00\x81\x01");
        assert_eq!(LeaseRow::decode(b"\xac\x02\x00\x81\x01"), Ok(lease));
        assert_eq!(LeaseRow::decode(b"\xac\x02\x00"), Ok(LeaseRow { granted_at: 0, ..lease }));
        assert_eq!(encode_pair(5, 6), *b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x06");
    }

    #[test]
    fn rows_read_back_as_written() {
        for lease in [0, 1, -1, i64::MAX] {
            for (main, sub) in [(1, 0), (127, 128), (i64::MAX, i64::MAX)] {
                let kv = KeyValue {
                    key: b"key",
                    create_revision: main,
                    mod_revision: main,
                    version: sub,
                    value: &[7; 300],
                    lease,
                };
                let mut bytes = Vec::new();
                kv.encode(&mut bytes);
                assert_eq!(KeyValue::decode(&bytes), Ok(kv));
                assert_eq!(key_of(&bytes), Ok(kv.key));
                assert_eq!(bytes.len(), kv.encoded_len());

                let value = kv.as_history(false, true, Some(rev(main, sub))).parts(&kv).concat();
                let row = HistoryRow::decode(&value).unwrap();
                assert_eq!(
                    row,
                    HistoryRow { deleted: false, created: true, previous: Some(rev(main, sub)), kv: &bytes }
                );
                assert_eq!(decode_history_key(&history_key(rev(main, sub))), Ok(rev(main, sub)));

                let row = KeyRow {
                    live: lease != 0,
                    kv_len: u32::MAX,
                    modified: rev(main, sub),
                    create_revision: main,
                    version: sub,
                    previous: (lease != 1).then_some(rev(main, sub)),
                    lease: LeaseId(lease),
                };
                assert_eq!(KeyRow::decode(row.encode().as_ref()), Ok(row));
            }
            assert_eq!(decode_lease_key(&lease_key(LeaseId(lease))), Ok((LeaseId(lease), &b""[..])));
        }
    }

    #[test]
    fn foreign_bytes_are_refused_without_a_panic() {
        for bytes in [&b""[..], b"\x00", b"\x00\x80", b"\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00"] {
            assert_eq!(HistoryRow::decode(bytes), Err(BadRow), "{bytes:?}");
            assert_eq!(KeyRow::decode(bytes), Err(BadRow), "{bytes:?}");
        }
        for bytes in [
            &b"\x0a"[..],
            b"\x0a\x05abc",
            b"\x18\x01\x10\x01",
            b"\x38\x01",
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        ] {
            assert_eq!(KeyValue::decode(bytes), Err(BadRow), "{bytes:?}");
        }
        assert_eq!(key_of(b"\x0a\x05abc"), Err(BadRow));
        assert_eq!(decode_history_key(b"short"), Err(BadRow));
        assert_eq!(decode_lease_key(b"short"), Err(BadRow));
        assert_eq!(LeaseRow::decode(b"\x01\x00\x00\x00"), Err(BadRow));
    }

    #[test]
    fn varint_len_is_the_length_written() {
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) - 1, u64::MAX] {
                let mut out = Vec::new();
                push_varint(&mut out, value);
                assert_eq!(out.len(), varint_len(value), "{value}");
            }
        }
    }
}
