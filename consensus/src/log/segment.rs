//! Segments as recovery reads them.

use std::ops::Range;

use super::BLOCK;

/// A segment's place in the ring and part of the identity of each batch in it. Numbers are given once and never reused;
/// the file behind a number is recycled, its number stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// `00000001.seg`
    pub fn file_name(self) -> String {
        format!("{:08x}.seg", self.0)
    }

    /// The inverse of [`SegmentId::file_name`]; `None` for files of other kinds.
    pub fn from_file_name(name: &str) -> Option<SegmentId> {
        let digits = name.strip_suffix(".seg")?;
        let id = SegmentId(u32::from_str_radix(digits, 16).ok()?);
        (id.file_name() == name).then_some(id)
    }
}

/// A segment that exists, prepared in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Which.
    pub id: SegmentId,
    /// Its length in bytes, a multiple of [`BLOCK`].
    pub size: u64,
}

/// The medium could not give these bytes (EIO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadError;

/// What recovery needs from the edge.
pub trait SegmentReader {
    /// All segments, in any order.
    fn segments(&self) -> Vec<SegmentInfo>;
    /// Fills `buf` from `offset`; both are multiples of [`BLOCK`] and lie within the segment. An error says nothing about
    /// which part is unreadable; recovery asks again in halves to find out.
    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;
}

/// Reads a span, in halves where the medium refuses, down to single blocks. Unreadable blocks come back as zeros and
/// are listed as offsets within `buf`.
pub(super) fn read_span(
    reader: &dyn SegmentReader,
    segment: SegmentId,
    offset: u64,
    buf: &mut [u8],
) -> Vec<Range<usize>> {
    let mut unreadable = Vec::new();
    read_halves(reader, segment, offset, buf, 0, &mut unreadable);
    unreadable
}

fn read_halves(
    reader: &dyn SegmentReader,
    segment: SegmentId,
    offset: u64,
    buf: &mut [u8],
    at: usize,
    unreadable: &mut Vec<Range<usize>>,
) {
    let len = buf.len();
    if len == 0 || reader.read(segment, offset, buf).is_ok() {
        return;
    }
    if len <= BLOCK {
        buf.fill(0);
        unreadable.push(at..at + len);
        return;
    }
    let half = (len / BLOCK / 2) * BLOCK;
    let (left, right) = buf.split_at_mut(half);
    read_halves(reader, segment, offset, left, at, unreadable);
    read_halves(reader, segment, offset + half as u64, right, at + half, unreadable);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    struct Sick {
        blocks: usize,
        bad: Vec<usize>,
        reads: Cell<usize>,
    }

    impl SegmentReader for Sick {
        fn segments(&self) -> Vec<SegmentInfo> {
            vec![SegmentInfo { id: SegmentId(1), size: (self.blocks * BLOCK) as u64 }]
        }

        fn read(&self, _: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            self.reads.set(self.reads.get() + 1);
            let first = offset as usize / BLOCK;
            let blocks = first..first + buf.len() / BLOCK;
            buf.fill(0xaa); // an error may leave anything behind
            if self.bad.iter().any(|block| blocks.contains(block)) {
                return Err(ReadError);
            }
            for (block, bytes) in blocks.zip(buf.chunks_mut(BLOCK)) {
                bytes.fill(block as u8 + 1);
            }
            Ok(())
        }
    }

    #[test]
    fn unreadable_blocks_are_found_and_the_others_kept() {
        for bad in [vec![], vec![0], vec![6], vec![2, 3], vec![0, 1, 2, 3, 4, 5, 6]] {
            let sick = Sick { blocks: 7, bad: bad.clone(), reads: Cell::new(0) };
            let mut buf = vec![0; 7 * BLOCK];
            let unreadable = read_span(&sick, SegmentId(1), 0, &mut buf);
            let found: Vec<usize> = unreadable.iter().map(|range| range.start / BLOCK).collect();
            assert_eq!(found, bad);
            for (block, bytes) in buf.chunks(BLOCK).enumerate() {
                let want = if bad.contains(&block) { 0 } else { block as u8 + 1 };
                assert!(bytes.iter().all(|&byte| byte == want), "bad={bad:?} block={block}");
            }
            assert!(sick.reads.get() <= 2 * 7, "each block is asked for a bounded number of times");
        }
    }

    #[test]
    fn file_names_are_their_own_inverse() {
        let cases = [
            ("00000001.seg", Some(1)),
            ("ffffffff.seg", Some(u32::MAX)),
            ("1.seg", None),
            ("0000000G.seg", None),
            ("+0000001.seg", None),
            ("00000001.seg.tmp", None),
        ];
        for (name, id) in cases {
            assert_eq!(SegmentId::from_file_name(name), id.map(SegmentId), "{name}");
        }
    }
}
