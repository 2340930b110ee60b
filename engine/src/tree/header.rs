//! What every page begins with, and the checksum over it.
//!
//! All integers in the file are little-endian. The first 32 bytes of a page:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 (IEEE) of all that follows, to the end of the page (of a run: to the end of its last page) |
//! | 4 | 4 | its own id |
//! | 8 | 8 | birth: the batch that made it (see [`Birth`]) |
//! | 16 | 1 | kind: 1 branch, 2 leaf, 3 run, 4 bitmap, 5 meta |
//! | 17 | 1 | level: 0 for leaves and all that is no node, else one more than its children's |
//! | 18 | 14 | by kind: see `node`, `meta`; of a run, the length of its contents in bytes at 20 (4 bytes) |
//!
//! A pointer to a page is its (id, birth). Together with the header it shows every way a page can be wrong: flipped bits
//! and torn writes by the checksum, misdirected writes by the id, lost writes by the birth, because an id is
//! never used twice in one batch for different contents on disk. Unlike a checksum kept by the parent this lets
//! pages be sealed in any order, after they were published, on another thread.

use super::types::{Damage, Fault, PAGE_SIZE, PageId};

/// A page's bytes.
pub(super) type Page = [u8; PAGE_SIZE];

/// Bytes before the contents proper.
pub(super) const HEADER_SIZE: usize = 32;

pub(super) const KIND_BRANCH: u8 = 1;
pub(super) const KIND_LEAF: u8 = 2;
pub(super) const KIND_RUN: u8 = 3;
pub(super) const KIND_BITMAP: u8 = 4;
pub(super) const KIND_META: u8 = 5;

const SEQUENCE_BITS: u32 = 48;

/// When a page was made: the start's nonce in the upper 16 bits, the batch's sequence number in the lower 48.
///
/// Sequence numbers grow by one per published batch and go on from the newest meta after a restart; the nonce keeps apart the batches
/// of a process that crashed before its next checkpoint and those of its successor, which have the same numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Birth(pub u64);

impl Birth {
    pub fn new(nonce: u16, sequence: u64) -> Birth {
        assert!(sequence >> SEQUENCE_BITS == 0, "batch {sequence} is beyond 48 bits");
        Birth(u64::from(nonce) << SEQUENCE_BITS | sequence)
    }

    pub fn sequence(self) -> u64 {
        self.0 & ((1 << SEQUENCE_BITS) - 1)
    }
}

/// Points to a page or to the first page of a run. Id 0 (a meta) is never pointed to and stands for "nothing".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointer {
    pub id: PageId,
    pub birth: Birth,
}

impl Pointer {
    pub fn is_none(self) -> bool {
        self.id == PageId(0)
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(super) fn set_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn set_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn set_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// Writes all of the header but the checksum.
pub(super) fn set_header(page: &mut [u8], at: Pointer, kind: u8, level: u8) {
    page[..HEADER_SIZE].fill(0);
    set_u32(page, 4, at.id.0);
    set_birth(page, at.birth);
    page[16] = kind;
    page[17] = level;
}

pub(super) fn set_id(page: &mut [u8], id: PageId) {
    set_u32(page, 4, id.0);
}

pub(super) fn set_birth(page: &mut [u8], birth: Birth) {
    set_u64(page, 8, birth.0);
}

pub(super) fn birth(page: &[u8]) -> Birth {
    Birth(u64_at(page, 8))
}

/// Kind and level as one number, to be compared at once.
pub(super) fn kind_and_level(page: &[u8]) -> u16 {
    u16_at(page, 16)
}

/// What `kind_and_level` must be of a tree node.
pub(super) fn node_kind(level: u8) -> u16 {
    let kind = if level == 0 { KIND_LEAF } else { KIND_BRANCH };
    u16::from_le_bytes([kind, level])
}

/// Pages that a run with `len` bytes of contents takes.
pub(super) fn run_pages(len: u32) -> u32 {
    (HEADER_SIZE as u64 + u64::from(len)).div_ceil(PAGE_SIZE as u64) as u32
}

/// Computes and stores the checksum of a page or run: the last thing before it is written.
pub(super) fn seal(bytes: &mut [u8]) {
    let checksum = crc32fast::hash(&bytes[4..]);
    set_u32(bytes, 0, checksum);
}

/// Checks a whole page or run as read from the file.
pub(super) fn check_sealed(bytes: &[u8], at: Pointer, kind_level: u16) -> Result<(), Damage> {
    let fault = if u32_at(bytes, 0) != crc32fast::hash(&bytes[4..]) {
        Fault::Checksum
    } else if u32_at(bytes, 4) != at.id.0 {
        Fault::WrongPage
    } else if birth(bytes) != at.birth {
        Fault::WrongBirth
    } else if kind_and_level(bytes) != kind_level {
        Fault::WrongKind
    } else {
        return Ok(());
    };
    Err(Damage::new(at.id, fault))
}
