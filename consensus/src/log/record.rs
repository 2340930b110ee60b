//! The bytes of a batch.
//!
//! A batch is a header of 160 bytes, then one record per entry, then padding to a multiple of 4096. It begins at a
//! multiple of 4096 and lies in one segment. All numbers are little-endian.
//!
//! | offset | bytes | header |
//! |---|---|---|
//! | 0 | 8 | magic `RINGDLOG` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | length of the header, 160 |
//! | 12 | 4 | flags: bit 0 = marker, a batch written only to prove the one before it durable; bit 1 = reset, see below; other bits are zero |
//! | 16 | 8 | cluster id |
//! | 24 | 8 | member id |
//! | 32 | 8 | log id: drawn when the log was made. Clients never see it, so no value of theirs can look like a batch |
//! | 40 | 8 | epoch: counts the starts of the process that wrote something |
//! | 48 | 8 | sequence number: 1, 2, 3 … over the life of the log |
//! | 56 | 8 | durable-through: the last batch known to be durable when this one was built |
//! | 64 | 4 | segment |
//! | 68 | 4 | size of the segment in blocks of 4096 |
//! | 72 | 8 | offset in the segment |
//! | 80 | 4 | length of the batch, a multiple of 4096 |
//! | 84 | 4 | length of the records |
//! | 88 | 8 | index of the first entry in the batch; 0 if it holds none |
//! | 96 | 8 | term of that entry |
//! | 104 | 8 | index of the last entry of the log, once this batch is part of it |
//! | 112 | 8 | term of that entry |
//! | 120 | 8 | hard state: term |
//! | 128 | 8 | hard state: vote |
//! | 136 | 8 | hard state: commit |
//! | 144 | 4 | number of records |
//! | 148 | 4 | hash of the previous batch's header: the checksum in its bytes 156 to 159; 0 in the first |
//! | 152 | 4 | CRC-32 of the records |
//! | 156 | 4 | CRC-32 of bytes 0 to 155 |
//!
//! | offset | bytes | record |
//! |---|---|---|
//! | 0 | 8 | term |
//! | 8 | 4 | length of the data |
//! | 12 | 1 | kind: 1 normal, 2 configuration change |
//! | 13 | 3 | zero |
//! | 16 | … | data |
//!
//! Indexes of the records are consecutive from the header's first. If that first index is not beyond the end of the log
//! so far, the log's end is replaced from there: a new leader's entries win.
//!
//! *Reset.* A snapshot takes the place of the log: it begins anew behind the position that the header gives as the end of the
//! log. Such a batch has no records and is at the head of a segment, so that nothing before it is needed to find it.
//!
//! *Torn writes.* A batch may arrive in any subset of its sectors. The header is within one sector, so it is there or not;
//! the records have a checksum of their own, so the header still tells *what* was torn. Padding is covered by nothing and
//! read by nothing. *Stale blocks.* A recycled segment is full of valid old batches; sequence numbers only grow and each
//! header holds its own place and the hash of its predecessor, so none of them continues the chain.
//!
//! *Versions.* Magic, version and both checksums stay where they are in every future version, and a new version begins at the
//! head of a segment. There, a header whose checksum holds and whose version is not ours stops recovery with a message. (Only
//! there: elsewhere a block may be what is left of a client's value, which can look like anything.)

use bytes::{Buf, Bytes};

use super::{BLOCK, Identity, SegmentId};
use crate::{Entry, EntryKind, HardState, Index, LogPosition, NodeId, Term};

/// Length of a header in bytes.
pub const HEADER_LEN: usize = 160;
/// Length of what precedes each entry's data.
pub const RECORD_HEADER_LEN: usize = 16;
/// The version this code writes and reads.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"RINGDLOG";
const FLAG_MARKER: u32 = 1;
const FLAG_RESET: u32 = 2;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose log.
    pub identity: Identity,
    /// Drawn at random when the log was made.
    pub log_id: u64,
    /// Counts process starts.
    pub epoch: u64,
    /// Counts batches.
    pub sequence: u64,
    /// The last batch known to be durable when this one was built.
    pub durable_through: u64,
    /// Where it is.
    pub segment: SegmentId,
    /// Size of that segment in blocks.
    pub segment_blocks: u32,
    /// Where it is.
    pub offset: u64,
    /// Bytes of the whole batch.
    pub len: u32,
    /// Bytes of the records.
    pub records_len: u32,
    /// Number of records.
    pub records: u32,
    /// The first entry in it; zero without entries.
    pub first: LogPosition,
    /// The end of the log with this batch.
    pub last: LogPosition,
    /// The hard state with this batch.
    pub hard_state: HardState,
    /// Hash of the header before.
    pub previous: u32,
    /// Checksum of the records.
    pub records_crc: u32,
    /// Written only to prove its predecessor.
    pub marker: bool,
    /// The log begins anew, behind `last`.
    pub reset: bool,
}

/// Why a block does not begin with a header we can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// It is something else, or damaged.
    Invalid,
    /// A header, intact, of a format version that this code does not know.
    Version(u16),
}

/// The records of a batch are not what a valid header and checksum promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRecords;

/// Bytes of a batch that holds records of `records_len` bytes.
pub fn batch_len(records_len: usize) -> usize {
    (HEADER_LEN + records_len).next_multiple_of(BLOCK)
}

/// Bytes of an entry's record.
pub fn record_len(entry: &Entry) -> usize {
    RECORD_HEADER_LEN + entry.data.len()
}

/// The hash that the next header carries: the header's own checksum. (Not a checksum of all its bytes: with the checksum
/// among them that would be the same for every header.)
pub fn header_hash(header: &[u8; HEADER_LEN]) -> u32 {
    let [.., a, b, c, d] = *header;
    u32::from_le_bytes([a, b, c, d])
}

/// Writes a batch into `buf`, which is exactly as long as the batch: records, padding, then the header around them.
/// Fills in the fields of `header` that follow from the records. Gives the hash of the header.
///
/// # Panics
///
/// If `buf` has not the length that the entries need.
pub fn encode_batch(header: &mut Header, entries: &[Entry], buf: &mut [u8]) -> u32 {
    let mut at = HEADER_LEN;
    for entry in entries {
        at += encode_record(entry, &mut buf[at..]);
    }
    assert_eq!(buf.len(), batch_len(at - HEADER_LEN), "the buffer is as long as the batch");
    buf[at..].fill(0);
    header.len = u32::try_from(buf.len()).expect("a batch fits into a segment");
    header.records_len = (at - HEADER_LEN) as u32;
    header.records = entries.len() as u32;
    header.records_crc = crc32fast::hash(&buf[HEADER_LEN..at]);
    let bytes = header.encode();
    buf[..HEADER_LEN].copy_from_slice(&bytes);
    header_hash(&bytes)
}

fn encode_record(entry: &Entry, out: &mut [u8]) -> usize {
    let kind = match entry.kind {
        EntryKind::Normal => 1,
        EntryKind::ConfChange => 2,
    };
    let (header, rest) = out.split_at_mut(RECORD_HEADER_LEN);
    header[..8].copy_from_slice(&entry.term.0.to_le_bytes());
    header[8..12].copy_from_slice(&(entry.data.len() as u32).to_le_bytes());
    header[12..].copy_from_slice(&[kind, 0, 0, 0]);
    rest[..entry.data.len()].copy_from_slice(&entry.data);
    record_len(entry)
}

/// Reads the records that `header` describes. The entries share `records`.
pub fn decode_records(header: &Header, mut records: Bytes) -> Result<Vec<Entry>, InvalidRecords> {
    if records.len() != header.records_len as usize || crc32fast::hash(&records) != header.records_crc {
        return Err(InvalidRecords);
    }
    // The count is believed only as far as there are bytes for it.
    let capacity = (header.records as usize).min(records.len() / RECORD_HEADER_LEN);
    let mut entries = Vec::with_capacity(capacity);
    let mut index = header.first.index;
    while !records.is_empty() {
        entries.push(decode_record(&mut records, index)?);
        index.0 += 1;
    }
    let first = entries.first().map_or(LogPosition::default(), Entry::position);
    let last = entries.last().map_or(header.last, Entry::position);
    let as_promised =
        entries.len() == header.records as usize && first == header.first && last == header.last;
    if as_promised { Ok(entries) } else { Err(InvalidRecords) }
}

fn decode_record(records: &mut Bytes, index: Index) -> Result<Entry, InvalidRecords> {
    if records.len() < RECORD_HEADER_LEN {
        return Err(InvalidRecords);
    }
    let term = Term(records.get_u64_le());
    let len = records.get_u32_le() as usize;
    let kind = match records.get_u32_le() {
        1 => EntryKind::Normal,
        2 => EntryKind::ConfChange,
        _ => return Err(InvalidRecords),
    };
    if records.len() < len {
        return Err(InvalidRecords);
    }
    Ok(Entry { index, term, kind, data: records.split_to(len), proposal: None })
}

impl Header {
    /// The 160 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        put(&(HEADER_LEN as u16).to_le_bytes());
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        put(&(flag(self.marker, FLAG_MARKER) | flag(self.reset, FLAG_RESET)).to_le_bytes());
        for field in self.wide() {
            put(&field.to_le_bytes());
        }
        put(&self.len.to_le_bytes());
        put(&self.records_len.to_le_bytes());
        for field in self.positions() {
            put(&field.to_le_bytes());
        }
        put(&self.records.to_le_bytes());
        put(&self.previous.to_le_bytes());
        put(&self.records_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..HEADER_LEN - 4]);
        out[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Whether its numbers are such as we write. With this, no arithmetic on them overflows.
    pub fn is_plausible(&self) -> bool {
        let small = |number: u64| number < 1 << 62;
        let HardState { commit, .. } = self.hard_state;
        let no_records = self.records == 0;
        (1..1 << 62).contains(&self.sequence)
            && small(self.epoch)
            && [self.first.index, self.last.index, commit].iter().all(|index| small(index.0))
            && (self.first.index == Index(0)) == no_records
            && (no_records || self.first.index <= self.last.index)
            && (!self.reset || no_records && self.offset == 0 && self.last.index > Index(0))
    }

    fn wide(&self) -> [u64; 8] {
        let Identity { cluster, member } = self.identity;
        let segment = u64::from(self.segment.0) | u64::from(self.segment_blocks) << 32;
        let (epoch, sequence) = (self.epoch, self.sequence);
        [cluster, member.0, self.log_id, epoch, sequence, self.durable_through, segment, self.offset]
    }

    fn positions(&self) -> [u64; 7] {
        let HardState { term, vote, commit } = self.hard_state;
        let (first, last) = (self.first, self.last);
        [first.index.0, first.term.0, last.index.0, last.term.0, term.0, vote.0, commit.0]
    }

    /// Reads the beginning of a block. What it says about places and lengths is for the caller to check.
    pub fn decode(block: &[u8]) -> Result<Header, NoHeader> {
        let Some((bytes, _)) = block.split_at_checked(HEADER_LEN) else { return Err(NoHeader::Invalid) };
        let (covered, mut crc) = bytes.split_at(HEADER_LEN - 4);
        if !covered.starts_with(&MAGIC) || crc32fast::hash(covered) != crc.get_u32_le() {
            return Err(NoHeader::Invalid);
        }
        let mut from = &covered[MAGIC.len()..];
        let version = from.get_u16_le();
        if version != VERSION {
            return Err(NoHeader::Version(version));
        }
        let header_len = from.get_u16_le();
        let flags = from.get_u32_le();
        if usize::from(header_len) != HEADER_LEN || flags & !(FLAG_MARKER | FLAG_RESET) != 0 {
            return Err(NoHeader::Invalid);
        }
        let identity = Identity { cluster: from.get_u64_le(), member: NodeId(from.get_u64_le()) };
        let (log_id, epoch) = (from.get_u64_le(), from.get_u64_le());
        let (sequence, durable_through) = (from.get_u64_le(), from.get_u64_le());
        let (segment, segment_blocks) = (SegmentId(from.get_u32_le()), from.get_u32_le());
        let offset = from.get_u64_le();
        let (len, records_len) = (from.get_u32_le(), from.get_u32_le());
        let first = take_position(&mut from);
        let last = take_position(&mut from);
        let hard_state = HardState {
            term: Term(from.get_u64_le()),
            vote: NodeId(from.get_u64_le()),
            commit: Index(from.get_u64_le()),
        };
        let (records, previous, records_crc) = (from.get_u32_le(), from.get_u32_le(), from.get_u32_le());
        let (marker, reset) = (flags & FLAG_MARKER != 0, flags & FLAG_RESET != 0);
        Ok(Header {
            identity,
            log_id,
            epoch,
            sequence,
            durable_through,
            segment,
            segment_blocks,
            offset,
            len,
            records_len,
            records,
            first,
            last,
            hard_state,
            previous,
            records_crc,
            marker,
            reset,
        })
    }
}

fn take_position(from: &mut &[u8]) -> LogPosition {
    LogPosition { index: Index(from.get_u64_le()), term: Term(from.get_u64_le()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(index: u64, term: u64, kind: EntryKind, data: &'static [u8]) -> Entry {
        Entry { index: Index(index), term: Term(term), kind, data: Bytes::from_static(data), proposal: None }
    }

    fn header() -> Header {
        Header {
            identity: Identity { cluster: 0x0102030405060708, member: NodeId(0x1112131415161718) },
            log_id: 0x2122232425262728,
            epoch: 3,
            sequence: 9,
            durable_through: 8,
            segment: SegmentId(2),
            segment_blocks: 16384,
            offset: 8192,
            len: 0,
            records_len: 0,
            records: 0,
            first: LogPosition::new(41, 5),
            last: LogPosition::new(42, 6),
            hard_state: HardState { term: Term(6), vote: NodeId(0x1112131415161718), commit: Index(40) },
            previous: 0xdeadbeef,
            records_crc: 0,
            marker: false,
            reset: false,
        }
    }

    fn entries() -> [Entry; 2] {
        let change = &[8, 0, 16, 0, 24, 1];
        [entry(41, 5, EntryKind::Normal, b"hello"), entry(42, 6, EntryKind::ConfChange, change)]
    }

    /// Format version 1, byte by byte after the table above. It may not change; a new version gets its own.
    const GOLDEN: &str = "
        52494e47444c4f47 0100 a000 00000000
        0807060504030201 1817161514131211 2827262524232221
        0300000000000000 0900000000000000 0800000000000000
        02000000 00400000 0020000000000000
        00100000 2b000000
        2900000000000000 0500000000000000 2a00000000000000 0600000000000000
        0600000000000000 1817161514131211 2800000000000000
        02000000 efbeadde 63380262 67e60a3f
        0500000000000000 05000000 01000000 68656c6c6f
        0600000000000000 06000000 02000000 080010001801";

    fn golden() -> Vec<u8> {
        let digits: Vec<u8> = GOLDEN.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let mut batch: Vec<u8> = digits.chunks(2).map(byte).collect();
        batch.resize(BLOCK, 0);
        batch
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let mut header = header();
        let mut buf = vec![0xff; batch_len(0x2b)];
        let hash = encode_batch(&mut header, &entries(), &mut buf);
        let golden = golden();
        for (at, (got, want)) in buf.iter().zip(&golden).enumerate() {
            assert_eq!(got, want, "byte {at}\n{:02x?}", &buf[144..160]);
        }
        let decoded = Header::decode(&golden).unwrap();
        assert_eq!(decoded, header);
        assert_eq!(hash, crc32fast::hash(&golden[..HEADER_LEN - 4]));
        let records = Bytes::from(golden).slice(HEADER_LEN..HEADER_LEN + 0x2b);
        assert_eq!(decode_records(&decoded, records).unwrap(), entries());
    }

    #[test]
    fn a_reset_is_a_flag_of_a_batch_without_records_at_a_head() {
        let mut header = Header { offset: 0, first: LogPosition::default(), reset: true, ..header() };
        let mut buf = vec![0xff; batch_len(0)];
        encode_batch(&mut header, &[], &mut buf);
        assert_eq!(buf[12..16], [2, 0, 0, 0]);
        assert_eq!(Header::decode(&buf).unwrap(), header);
        assert!(header.is_plausible());
        assert!(!Header { offset: 4096, ..header }.is_plausible());
        assert!(!Header { last: LogPosition::default(), ..header }.is_plausible());
        assert!(!Header { first: LogPosition::new(41, 5), records: 1, ..header }.is_plausible());
    }

    #[test]
    fn every_flipped_bit_is_noticed_but_those_of_the_padding() {
        let golden = golden();
        let whole = |batch: &[u8]| {
            let header = Header::decode(batch).ok()?;
            let records = Bytes::copy_from_slice(batch).slice(HEADER_LEN..HEADER_LEN + 0x2b);
            decode_records(&header, records).ok()
        };
        assert_eq!(whole(&golden).unwrap(), entries());
        for bit in 0..(HEADER_LEN + 0x2b) * 8 {
            let mut batch = golden.clone();
            batch[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(whole(&batch), None, "bit {bit}");
            // Damaged records leave the header readable: it tells what is missing.
            assert_eq!(Header::decode(&batch).is_ok(), bit >= HEADER_LEN * 8, "bit {bit}");
        }
    }

    #[test]
    fn a_version_we_do_not_know_is_named_and_a_damaged_one_is_not() {
        let mut batch = golden();
        batch[8] = 2;
        assert_eq!(Header::decode(&batch), Err(NoHeader::Invalid));
        let crc = crc32fast::hash(&batch[..HEADER_LEN - 4]);
        batch[HEADER_LEN - 4..HEADER_LEN].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::decode(&batch), Err(NoHeader::Version(2)));
    }

    #[test]
    fn a_batch_takes_whole_blocks() {
        let cases = [
            (0, 4096),
            (4096 - HEADER_LEN, 4096),
            (4096 - HEADER_LEN + 1, 8192),
            (1 << 20, (1 << 20) + 4096),
        ];
        for (records_len, len) in cases {
            assert_eq!(batch_len(records_len), len, "{records_len}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(
            data in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..20),
            first in 1u64..1000,
        ) {
            let entries: Vec<Entry> = data.into_iter().zip(first..).map(|(data, index)| Entry {
                index: Index(index),
                term: Term(index / 7),
                kind: if data.len() % 2 == 0 { EntryKind::Normal } else { EntryKind::ConfChange },
                data: data.into(),
                proposal: None,
            }).collect();
            let mut header = header();
            header.first = entries.first().map_or(LogPosition::default(), Entry::position);
            header.last = entries.last().map_or(header.last, Entry::position);
            let records_len = entries.iter().map(record_len).sum();
            let mut buf = vec![0xff; batch_len(records_len)];
            encode_batch(&mut header, &entries, &mut buf);
            let decoded = Header::decode(&buf).unwrap();
            prop_assert_eq!(decoded, header);
            prop_assert!(decoded.is_plausible());
            let records = Bytes::from(buf).slice(HEADER_LEN..HEADER_LEN + records_len);
            prop_assert_eq!(decode_records(&decoded, records).unwrap(), entries);
        }

        /// Even where the checksum agrees, which a damaged batch's never does.
        #[test]
        fn any_records_decode_or_are_refused(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            records in 0u32..20,
        ) {
            let mut header = header();
            header.records_len = bytes.len() as u32;
            header.records = records;
            header.records_crc = crc32fast::hash(&bytes);
            if let Ok(entries) = decode_records(&header, Bytes::from(bytes)) {
                prop_assert_eq!(entries.len(), records as usize);
            }
        }
    }
}
