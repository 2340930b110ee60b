//! The meta pages and the stored bitmap: what a checkpoint leaves to find everything else by.
//!
//! Pages 0 and 1 of the file are metas, written in turn: checkpoint number `g` writes page `g % 2`, after all its pages are synced, and
//! is complete when the meta is synced too. Of two whole metas the one with the higher number counts. A crash
//! before that leaves the other meta as it was, and all pages it reaches. Everything of a meta but zeros lies in its first 512 bytes, so a disk that
//! writes whole sectors can't tear it; where it is torn nevertheless, the checksum over the whole page shows it.
//!
//! After the header (see `header`; birth = the version described, level 0):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 32 | 8 | magic `ringtree` |
//! | 40 | 4 | format version: 1 |
//! | 44 | 4 | page size: 4096 |
//! | 48 | 8 | cluster id |
//! | 56 | 8 | member id |
//! | 64 | 8 | number of the checkpoint, from 1 on |
//! | 72 | 8 | sequence: the version described |
//! | 80 | 4 | pages: all that it reaches are below |
//! | 84 | 4 | first page of the bitmap |
//! | 88 | 4 | pages of the bitmap, in a row |
//! | 92 | 4 | zero |
//! | 96 | 7 × 24 | root of each table: id (4; 0 = empty table), level (1), zeros (3), birth (8), weight (8) |
//! | 264 | 3832 | zero |
//!
//! A bitmap page has the common header (kind 4; birth as the meta's) and 4064 bytes of bits, the lowest first: bit `i` of all is set if page `i` is used by
//! the version described (both metas and the bitmap itself included).
//!
//! Another layout gets another format version. Identity and version are checked before anything else is read.

use super::bits::Bits;
use super::header::{
    self, Birth, HEADER_SIZE, KIND_BITMAP, KIND_META, Page, Pointer, set_u32, set_u64, u32_at, u64_at,
};
use super::node::LEVEL_MAX;
use super::read::{Root, Roots};
use super::types::{Damage, Fault, Identity, Map, OpenError, PAGE_SIZE, PageId, Table};

const MAGIC: &[u8; 8] = b"ringtree";
const FORMAT_VERSION: u32 = 1;
const ROOTS: usize = 96;
const ROOT_SIZE: usize = 24;
const BITMAP_BYTES: usize = PAGE_SIZE - HEADER_SIZE;

/// What a meta page says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub identity: Identity,
    pub checkpoint: u64,
    pub birth: Birth,
    pub pages: u32,
    pub bitmap: PageId,
    pub bitmap_pages: u32,
    pub roots: Roots,
}

impl Meta {
    /// The page it is written to.
    pub fn slot(&self) -> PageId {
        PageId((self.checkpoint % 2) as u32)
    }

    pub fn version(&self) -> u64 {
        self.birth.sequence()
    }

    pub fn encode(&self) -> Page {
        let mut page = [0; PAGE_SIZE];
        header::set_header(&mut page, Pointer { id: self.slot(), birth: self.birth }, KIND_META, 0);
        page[32..40].copy_from_slice(MAGIC);
        set_u32(&mut page, 40, FORMAT_VERSION);
        set_u32(&mut page, 44, PAGE_SIZE as u32);
        set_u64(&mut page, 48, self.identity.cluster);
        set_u64(&mut page, 56, self.identity.member);
        set_u64(&mut page, 64, self.checkpoint);
        set_u64(&mut page, 72, self.version());
        set_u32(&mut page, 80, self.pages);
        set_u32(&mut page, 84, self.bitmap.0);
        set_u32(&mut page, 88, self.bitmap_pages);
        for (root, bytes) in self.roots.iter().zip(page[ROOTS..].chunks_exact_mut(ROOT_SIZE)) {
            set_u32(bytes, 0, root.at.id.0);
            bytes[4] = root.level;
            set_u64(bytes, 8, root.at.birth.0);
            set_u64(bytes, 16, root.weight);
        }
        header::seal(&mut page);
        page
    }

    fn decode(page: &[u8], slot: PageId) -> Result<Meta, OpenError> {
        let birth = header::birth(page);
        header::check_sealed(page, Pointer { id: slot, birth }, u16::from_le_bytes([KIND_META, 0]))?;
        let structure = OpenError::Damage(Damage::new(slot, Fault::Structure));
        if &page[32..40] != MAGIC || u32_at(page, 44) != PAGE_SIZE as u32 {
            return Err(structure);
        }
        if u32_at(page, 40) != FORMAT_VERSION {
            return Err(OpenError::Version { found: u32_at(page, 40) });
        }
        let mut roots = Roots::default();
        for (root, bytes) in roots.iter_mut().zip(page[ROOTS..].chunks_exact(ROOT_SIZE)) {
            let at = Pointer { id: PageId(u32_at(bytes, 0)), birth: Birth(u64_at(bytes, 8)) };
            *root = Root { at, level: bytes[4], weight: u64_at(bytes, 16) };
        }
        let meta = Meta {
            identity: Identity { cluster: u64_at(page, 48), member: u64_at(page, 56) },
            checkpoint: u64_at(page, 64),
            birth,
            pages: u32_at(page, 80),
            bitmap: PageId(u32_at(page, 84)),
            bitmap_pages: u32_at(page, 88),
            roots,
        };
        let sound = meta.slot() == slot
            && u64_at(page, 72) == meta.version()
            && meta.bitmap_pages == bitmap_pages(meta.pages)
            && meta.bitmap.0.checked_add(meta.bitmap_pages).is_some_and(|end| end <= meta.pages)
            && roots.iter().all(|root| root.level <= LEVEL_MAX && root.at.id.0 < meta.pages);
        if sound { Ok(meta) } else { Err(structure) }
    }
}

/// What is in the two meta pages.
#[derive(Debug)]
pub(super) struct Metas {
    /// The one that counts.
    pub newest: Meta,
    /// The one a crash or damage would go back to.
    pub older: Option<Meta>,
    /// The meta page that is neither whole nor empty: torn by a crash, or damaged later.
    pub bad: Option<Damage>,
}

/// Reads both metas.
pub(super) fn read_metas(map: &dyn Map) -> Result<Metas, OpenError> {
    let mut whole: Vec<Meta> = Vec::new();
    let mut bad = None;
    for slot in [PageId(0), PageId(1)] {
        let Some(page) = map.pages(slot, 1).filter(|page| page.iter().any(|byte| *byte != 0)) else {
            continue;
        };
        match Meta::decode(page, slot) {
            Ok(meta) => whole.push(meta),
            Err(OpenError::Damage(damage)) => bad = Some(damage),
            Err(error) => return Err(error),
        }
    }
    whole.sort_by_key(|meta| meta.checkpoint);
    let newest = whole.pop().ok_or(OpenError::Empty { torn: bad })?;
    if newest.pages > 0 && map.pages(PageId(newest.pages - 1), 1).is_none() {
        return Err(OpenError::Damage(Damage::new(PageId(newest.pages - 1), Fault::BeyondFile)));
    }
    Ok(Metas { newest, older: whole.pop(), bad })
}

/// Pages of a bitmap for a file of `pages` pages.
pub(super) fn bitmap_pages(pages: u32) -> u32 {
    pages.div_ceil(BITMAP_BYTES as u32 * 8)
}

/// The sealed bitmap pages of `live`, from page `first` on.
pub(super) fn encode_bitmap(live: &Bits, first: Pointer, pages: u32) -> Vec<u8> {
    let mut bits = vec![0; pages as usize * BITMAP_BYTES];
    live.write_bytes(&mut bits);
    let mut out = vec![0; pages as usize * PAGE_SIZE];
    for (at, (page, bits)) in out.chunks_mut(PAGE_SIZE).zip(bits.chunks(BITMAP_BYTES)).enumerate() {
        let id = PageId(first.id.0 + at as u32);
        header::set_header(page, Pointer { id, ..first }, KIND_BITMAP, 0);
        page[HEADER_SIZE..].copy_from_slice(bits);
        header::seal(page);
    }
    out
}

/// The bitmap a meta points to.
pub(super) fn read_bitmap(map: &dyn Map, meta: &Meta) -> Result<Bits, Damage> {
    let mut bytes = Vec::new();
    for at in 0..meta.bitmap_pages {
        let id = PageId(meta.bitmap.0 + at);
        let page = map.pages(id, 1).ok_or(Damage::new(id, Fault::BeyondFile))?;
        let expected = Pointer { id, birth: meta.birth };
        header::check_sealed(page, expected, u16::from_le_bytes([KIND_BITMAP, 0]))?;
        bytes.extend_from_slice(&page[HEADER_SIZE..]);
    }
    let live = Bits::from_bytes(&bytes);
    let own = [0, 1].into_iter().chain(meta.bitmap.0..meta.bitmap.0 + meta.bitmap_pages);
    if live.end() > meta.pages || !own.into_iter().all(|id| live.contains(id)) {
        return Err(Damage::new(meta.bitmap, Fault::Structure));
    }
    Ok(live)
}

/// Asserts that a root's table is in the order of `Table::ALL`.
const _: () = assert!(Table::COUNT * ROOT_SIZE + ROOTS <= 512);

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Meta {
        let mut roots = Roots::default();
        let at = |id, birth| Pointer { id: PageId(id), birth: Birth::new(0x1234, birth) };
        roots[Table::History as usize] = Root { at: at(7, 40), level: 2, weight: 1000 };
        roots[Table::Meta as usize] = Root { at: at(9, 42), level: 0, weight: 3 };
        Meta {
            identity: Identity { cluster: 0xcdf8_1818_18ca, member: 0x8e9e_05c5_2164 },
            checkpoint: 3,
            birth: Birth::new(0x1234, 42),
            pages: 12,
            bitmap: PageId(11),
            bitmap_pages: 1,
            roots,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn meta_page_golden_bytes() {
        let page = sample().encode();
        let golden = concat!(
            "CHECKSUM",
            "01000000",
            "2a00000000003412",
            "05000000",
            "000000000000000000000000", // header
            "72696e6774726565",
            "01000000",
            "00100000", // magic, version, page size
            "ca181818f8cd0000",
            "6421c5059e8e0000", // cluster, member
            "0300000000000000",
            "2a00000000000000", // checkpoint, sequence
            "0c000000",
            "0b000000",
            "01000000",
            "00000000", // pages, bitmap
            "07000000",
            "02000000",
            "2800000000003412",
            "e803000000000000", // history
        );
        let golden = golden.replace("CHECKSUM", &hex(&crc32fast::hash(&page[4..]).to_le_bytes()));
        assert_eq!(hex(&page[..ROOTS + ROOT_SIZE]), golden);
        assert_eq!(
            hex(&page[ROOTS + 6 * ROOT_SIZE..264]),
            "09000000000000002a000000000034120300000000000000"
        );
        assert!(
            page[ROOTS + ROOT_SIZE..ROOTS + 6 * ROOT_SIZE].iter().chain(&page[264..]).all(|byte| *byte == 0)
        );
        assert_eq!(hex(&page[..4]), "e8586fbc");
        assert_eq!(Meta::decode(&page, PageId(1)), Ok(sample()));
    }

    #[test]
    fn bitmap_page_golden_bytes() {
        let mut live = Bits::default();
        [0, 1, 2, 11, 32511].into_iter().for_each(|id| live.insert(id));
        let page = encode_bitmap(&live, Pointer { id: PageId(11), birth: Birth::new(0, 42) }, 1);
        assert_eq!(hex(&page[4..36]), "0b0000002a000000000000000400000000000000000000000000000007080000");
        assert_eq!(page[PAGE_SIZE - 1], 0x80);
        assert!(page[36..PAGE_SIZE - 1].iter().all(|byte| *byte == 0));
        assert_eq!(hex(&page[..4]), "b0738963");
    }

    #[test]
    fn every_bit_of_a_meta_page_counts() {
        let page = sample().encode();
        for bit in 0..PAGE_SIZE * 8 {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = Err(OpenError::Damage(Damage::new(PageId(1), Fault::Checksum)));
            assert_eq!(Meta::decode(&flipped, PageId(1)), refused, "bit {bit}");
        }
    }

    #[test]
    fn metas_that_contradict_themselves_are_refused() {
        let mut cases: Vec<(&str, Meta)> = vec![("whole", sample())];
        let mut case = |name, change: fn(&mut Meta)| {
            let mut meta = sample();
            change(&mut meta);
            cases.push((name, meta));
        };
        case("bitmap beyond the end", |meta| meta.bitmap = PageId(12));
        case("bitmap too small", |meta| (meta.pages, meta.bitmap_pages) = (40_000, 1));
        case("root beyond the end", |meta| meta.roots[0].at.id = PageId(12));
        case("root too high", |meta| meta.roots[0].level = LEVEL_MAX + 1);
        for (name, meta) in cases {
            let decoded = Meta::decode(&meta.encode(), PageId(1));
            let refused = Err(OpenError::Damage(Damage::new(PageId(1), Fault::Structure)));
            assert_eq!(decoded, if name == "whole" { Ok(meta) } else { refused }, "{name}");
        }
    }

    #[test]
    fn another_format_version_is_named() {
        let mut page = sample().encode();
        set_u32(&mut page, 40, 2);
        header::seal(&mut page);
        assert_eq!(Meta::decode(&page, PageId(1)), Err(OpenError::Version { found: 2 }));
    }
}
