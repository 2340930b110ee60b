//! One file as a disk keeps it: what is durable, and every sector written since the last sync.
//!
//! ```text
//!   write ──► pending: all versions of each sector, all lengths ──sync──► durable
//!                │
//!                └─ power cut: each sector is as before, or as one of its versions; the length is one of the lengths
//! ```
//!
//! A sector of 512 bytes is written whole or not at all. Nothing else is promised: not the order of sectors, not that a
//! later write follows an earlier one, not that the length goes with the contents. Where the length falls back, what was
//! beyond it is gone.
//!
//! A disk may also lie ([`Lie`]): about a write that it said was durable, or by a bit that turns over. What each sector held
//! before its last durable write is kept for that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use crate::rng::Rng;

/// Bytes that a disk writes whole or not at all.
pub const SECTOR: usize = 512;

type Sector = [u8; SECTOR];

/// See the module's header.
#[derive(Clone, Default)]
pub struct Medium {
    durable: Vec<u8>,
    /// By number of the sector: what was written to it since it was durable, oldest first.
    pending: BTreeMap<usize, Vec<Sector>>,
    /// Lengths since the last sync, oldest first.
    lengths: Vec<usize>,
    /// By number of the sector: what it held before what is durable in it now was written.
    before: BTreeMap<usize, Box<Sector>>,
}

/// Sectors in a block: what programs write at least.
const BLOCK_SECTORS: usize = 8;

/// How a disk lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// One bit of what is durable turns over.
    Flip,
    /// A write, or a sector or a block of one, that was reported durable never was: what was there before still is.
    Lost,
    /// A block went to another place: it is there, and where it belongs is what was before.
    Misdirected,
}

/// How a power cut treats the sectors that were not synced.
#[derive(Clone, Copy, Debug)]
enum Fate {
    AllLost,
    AllKept,
    /// Each for itself, kept in so many out of 1000.
    Each(usize),
    AllButOne(usize),
    OnlyOne(usize),
}

impl Fate {
    fn draw(rng: &mut Rng, sectors: usize) -> Fate {
        let one = rng.below(sectors.max(1));
        let each = rng.between(50, 950);
        rng.weighted(&[
            (2, Fate::AllLost),
            (2, Fate::AllKept),
            (4, Fate::Each(each)),
            (2, Fate::AllButOne(one)),
            (2, Fate::OnlyOne(one)),
        ])
    }

    fn keeps(self, number: usize, rng: &mut Rng) -> bool {
        match self {
            Fate::AllLost => false,
            Fate::AllKept => true,
            Fate::Each(permille) => rng.permille(permille),
            Fate::AllButOne(one) => number != one,
            Fate::OnlyOne(one) => number == one,
        }
    }
}

impl Medium {
    /// A file that was written with zeros and synced.
    pub fn zeros(len: usize) -> Medium {
        Medium { durable: vec![0; len], ..Medium::default() }
    }

    /// Bytes, as a running machine sees it.
    pub fn len(&self) -> usize {
        self.lengths.last().copied().unwrap_or(self.durable.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether all is durable.
    pub fn is_synced(&self) -> bool {
        self.pending.is_empty() && self.lengths.is_empty()
    }

    /// A write to the page cache or the device's cache. It lies within the file.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        for (number, sector) in sectors(at, bytes, self.len()) {
            self.pending.entry(number).or_default().push(*sector);
        }
    }

    /// A write with O_DIRECT and O_DSYNC whose completion was seen.
    pub fn write_through(&mut self, at: usize, bytes: &[u8]) {
        for (number, sector) in sectors(at, bytes, self.durable.len()) {
            self.pending.remove(&number);
            make_durable(&mut self.durable, &mut self.before, number, sector);
        }
    }

    /// Of a write whose completion nobody saw, some sectors have arrived.
    pub fn write_torn(&mut self, at: usize, bytes: &[u8], rng: &mut Rng) {
        let fate = Fate::draw(rng, bytes.len() / SECTOR);
        for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            if fate.keeps(number, rng) {
                self.write(at + number * SECTOR, sector);
            }
        }
    }

    /// The disk lies about something within these bytes. False: there is nothing to lie about where chance has looked.
    pub fn lie(&mut self, lie: Lie, within: Range<usize>, rng: &mut Rng) -> bool {
        match lie {
            Lie::Flip => self.flip(within, rng),
            Lie::Lost => self.pick_written(&within, rng).is_some_and(|at| {
                let lost = match rng.below(3) {
                    0 => at..at + 1,
                    1 => block_of(at),
                    _ => self.write_around(at),
                };
                self.lose(lost, &within)
            }),
            Lie::Misdirected => self.misdirect(&within, rng),
        }
    }

    fn flip(&mut self, within: Range<usize>, rng: &mut Rng) -> bool {
        for _ in 0..32 {
            let sector = within.start / SECTOR + rng.below(((within.end - within.start) / SECTOR).max(1));
            let Some(bytes) = self.durable.get_mut(sector * SECTOR..(sector + 1) * SECTOR) else {
                return false;
            };
            if bytes.iter().any(|byte| *byte != 0) {
                bytes[rng.below(SECTOR)] ^= 1 << rng.below(8);
                return true;
            }
        }
        false
    }

    /// A sector that was written.
    fn pick_written(&self, within: &Range<usize>, rng: &mut Rng) -> Option<usize> {
        let sectors = within.start.div_ceil(SECTOR)..within.end / SECTOR;
        let count = self.before.range(sectors.clone()).count();
        let nth = rng.below(count.max(1));
        self.before.range(sectors).nth(nth).map(|(at, _)| *at)
    }

    /// All sectors without a gap that were written, up to 64: about what one write may have been.
    fn write_around(&self, at: usize) -> Range<usize> {
        let first = (0..32).take_while(|back| at >= *back && self.before.contains_key(&(at - back))).count();
        let last = (0..32).take_while(|on| self.before.contains_key(&(at + on))).count();
        at + 1 - first..at + last
    }

    /// These sectors hold what they held before. False: that is the same.
    fn lose(&mut self, lost: Range<usize>, within: &Range<usize>) -> bool {
        let mut changed = false;
        for at in lost.filter(|at| within.contains(&(at * SECTOR))) {
            let Some(sector) = self.durable.get_mut(at * SECTOR..(at + 1) * SECTOR) else { continue };
            if let Some(before) = self.before.remove(&at) {
                changed |= sector != &before[..];
                sector.copy_from_slice(&before[..]);
            }
        }
        changed
    }

    fn misdirect(&mut self, within: &Range<usize>, rng: &mut Rng) -> bool {
        let Some(at) = self.pick_written(within, rng) else { return false };
        let block = block_of(at);
        let bytes = block.start * SECTOR..block.end * SECTOR;
        let blocks = (within.end - within.start) / (BLOCK_SECTORS * SECTOR);
        let to = within.start.next_multiple_of(BLOCK_SECTORS * SECTOR)
            + rng.below(blocks.max(1)) * BLOCK_SECTORS * SECTOR;
        let fits = bytes.end <= self.durable.len() && to + bytes.len() <= within.end.min(self.durable.len());
        if !fits || to == bytes.start {
            return false;
        }
        let written = self.durable[bytes].to_vec();
        let lost = self.lose(block, within);
        let place = &mut self.durable[to..to + written.len()];
        let overwrites = *place != written[..];
        place.copy_from_slice(&written);
        lost || overwrites
    }

    /// fallocate or ftruncate.
    pub fn set_len(&mut self, len: usize) {
        self.pending.retain(|number, _| number * SECTOR < len);
        self.before.retain(|number, _| number * SECTOR < len);
        self.lengths.push(len);
    }

    /// fdatasync.
    pub fn sync(&mut self) {
        for len in self.lengths.drain(..) {
            self.durable.resize(len, 0);
        }
        for (number, versions) in std::mem::take(&mut self.pending) {
            let newest = versions.last().expect("a pending sector has a version");
            make_durable(&mut self.durable, &mut self.before, number, newest);
        }
    }

    /// What a read shows as long as the machine runs.
    pub fn image(&self) -> Cow<'_, [u8]> {
        if self.is_synced() {
            return Cow::Borrowed(&self.durable);
        }
        let mut image = self.durable.clone();
        self.lengths.iter().for_each(|len| image.resize(*len, 0));
        for (number, versions) in &self.pending {
            let newest = versions.last().expect("a pending sector has a version");
            image[number * SECTOR..][..SECTOR].copy_from_slice(&newest[..]);
        }
        Cow::Owned(image)
    }

    /// The power fails. What is found afterwards is durable.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        let fate = Fate::draw(rng, self.pending.len());
        let changes = match fate {
            Fate::AllKept => self.lengths.len(),
            Fate::AllLost => 0,
            _ => rng.below(self.lengths.len() + 1),
        };
        let mut image = std::mem::take(&mut self.durable);
        self.lengths[..changes].iter().for_each(|len| image.resize(*len, 0));
        let mut before = std::mem::take(&mut self.before);
        for (nth, (number, versions)) in self.pending.iter().enumerate() {
            let Some(sector) = image.get_mut(number * SECTOR..(number + 1) * SECTOR) else { continue };
            if fate.keeps(nth, rng) {
                let newest = versions.len() - 1;
                before.remove(number);
                let version = if rng.permille(800) { newest } else { rng.below(versions.len()) };
                sector.copy_from_slice(&versions[version][..]);
            }
        }
        *self = Medium { durable: image, before, ..Medium::default() };
    }
}

fn make_durable(
    durable: &mut [u8],
    before: &mut BTreeMap<usize, Box<Sector>>,
    number: usize,
    sector: &Sector,
) {
    let place = &mut durable[number * SECTOR..][..SECTOR];
    before.entry(number).or_insert_with(|| Box::new([0; SECTOR])).copy_from_slice(place);
    place.copy_from_slice(sector);
}

/// The sectors of the block that this one is in.
fn block_of(sector: usize) -> Range<usize> {
    let first = sector / BLOCK_SECTORS * BLOCK_SECTORS;
    first..first + BLOCK_SECTORS
}

/// Whole sectors with their numbers, within a file of `len` bytes.
fn sectors(at: usize, bytes: &[u8], len: usize) -> impl Iterator<Item = (usize, &Sector)> {
    assert!(at.is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR), "whole sectors are written");
    assert!(at + bytes.len() <= len, "{at}+{} is beyond the file's {len} bytes", bytes.len());
    bytes
        .chunks_exact(SECTOR)
        .enumerate()
        .map(move |(nth, bytes)| (at / SECTOR + nth, bytes.try_into().expect("a chunk is a sector")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(byte: u8) -> Vec<u8> {
        vec![byte; SECTOR]
    }

    #[test]
    fn what_was_synced_stays_and_what_was_not_is_any_of_its_versions() {
        let mut seen = BTreeMap::new();
        for seed in 0..200 {
            let mut medium = Medium::zeros(2 * SECTOR);
            medium.write(0, &sector(1));
            medium.sync();
            medium.write(0, &sector(2));
            medium.write(0, &sector(3));
            medium.set_len(3 * SECTOR);
            medium.write(2 * SECTOR, &sector(4));
            assert_eq!(medium.image(), [sector(3), sector(0), sector(4)].concat());
            medium.cut_power(&mut Rng::new(seed));
            assert!(medium.is_synced());
            let image = medium.image();
            assert_eq!(image[SECTOR..2 * SECTOR], sector(0));
            let last = image.get(2 * SECTOR).copied();
            *seen.entry((image[0], last)).or_insert(0) += 1;
        }
        // old, newer and newest contents; the file short, grown and empty, grown and written
        let mut all = Vec::new();
        for first in [1, 2, 3] {
            all.extend([None, Some(0), Some(4)].map(|last| (first, last)));
        }
        assert_eq!(seen.keys().copied().collect::<Vec<_>>(), all);
    }

    #[test]
    fn a_write_through_is_durable_alone() {
        let mut medium = Medium::zeros(2 * SECTOR);
        medium.write(0, &[sector(1), sector(1)].concat());
        medium.write_through(SECTOR, &sector(2));
        let lost = (0..100).any(|seed| {
            let mut medium = medium.clone();
            medium.cut_power(&mut Rng::new(seed));
            assert_eq!(medium.image()[SECTOR], 2);
            medium.image()[0] == 0
        });
        assert!(lost);
    }

    #[test]
    fn what_was_cut_off_reads_as_zeros_when_the_file_grows_again() {
        let mut medium = Medium::zeros(0);
        medium.set_len(2 * SECTOR);
        medium.write(SECTOR, &sector(7));
        medium.sync();
        medium.set_len(SECTOR);
        medium.set_len(2 * SECTOR);
        assert_eq!(medium.image()[SECTOR], 0);
        medium.sync();
        assert_eq!((medium.len(), medium.image()[SECTOR]), (2 * SECTOR, 0));
    }

    #[test]
    fn what_a_misdirected_write_has_overwritten_is_a_lie_though_it_wrote_nothing_new() {
        let bytes = BLOCK_SECTORS * SECTOR;
        let mut lies = 0;
        for seed in 0..100 {
            let mut medium = Medium::zeros(2 * bytes);
            medium.write_through(0, &vec![1; bytes]);
            medium.write_through(0, &vec![1; bytes]); // as before: to lose this changes nothing
            let told = medium.image().into_owned();
            let lied = medium.lie(Lie::Misdirected, 0..2 * bytes, &mut Rng::new(seed));
            assert_eq!(lied, medium.image() != told);
            lies += usize::from(lied);
        }
        assert!(lies > 0);
    }

    #[test]
    fn a_lie_is_about_what_was_durable_and_within_its_bounds() {
        let block = |byte: u8| vec![byte; BLOCK_SECTORS * SECTOR];
        let bytes = BLOCK_SECTORS * SECTOR;
        let mut seen = BTreeMap::new();
        for seed in 0..300 {
            let rng = &mut Rng::new(seed);
            for lie in [Lie::Flip, Lie::Lost, Lie::Misdirected] {
                let mut medium = Medium::zeros(4 * bytes);
                medium.write_through(0, &[block(1), block(1), block(1)].concat());
                medium.write(bytes, &[block(2), block(2)].concat());
                medium.sync();
                medium.cut_power(rng);
                let told = medium.image().into_owned();
                let lied = medium.lie(lie, bytes..3 * bytes, rng);
                let image = medium.image();
                assert_eq!(lied, image != told, "{lie:?}");
                assert_eq!((&image[..bytes], &image[3 * bytes..]), (&told[..bytes], &told[3 * bytes..]));
                let changed = image.iter().zip(&told).filter(|(now, told)| now != told).count();
                seen.entry(format!("{lie:?}"))
                    .or_insert_with(std::collections::BTreeSet::new)
                    .insert(changed);
                if lie == Lie::Lost {
                    assert!(image.iter().zip(&told).all(|(now, told)| now == told || *now == 1));
                }
            }
        }
        // A bit; a sector, a block, all of the write; a block that was and is full of the same goes nowhere.
        assert_eq!(seen["Flip"], [1].into());
        assert_eq!(seen["Lost"], [SECTOR, bytes, 2 * bytes].into());
        assert_eq!(seen["Misdirected"], [0, bytes].into());
    }

    #[test]
    fn a_misdirected_block_is_where_it_does_not_belong() {
        let bytes = BLOCK_SECTORS * SECTOR;
        let mut medium = Medium::zeros(2 * bytes);
        medium.write_through(0, &vec![7; bytes]);
        let lied = (0..20).any(|seed| medium.lie(Lie::Misdirected, 0..2 * bytes, &mut Rng::new(seed)));
        assert!(lied);
        assert_eq!(medium.image(), [vec![0; bytes], vec![7; bytes]].concat());
    }

    #[test]
    fn nothing_is_lied_about_where_nothing_was_written() {
        for lie in [Lie::Flip, Lie::Lost, Lie::Misdirected] {
            let mut medium = Medium::zeros(8 * SECTOR);
            medium.write(0, &sector(1));
            assert!(!medium.lie(lie, SECTOR..8 * SECTOR, &mut Rng::new(1)), "{lie:?}");
            assert!(!medium.lie(lie, 0..8 * SECTOR, &mut Rng::new(1)), "{lie:?}: it is not durable");
        }
    }
}
