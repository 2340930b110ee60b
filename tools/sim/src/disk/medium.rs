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

use std::collections::BTreeMap;

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
            self.durable[number * SECTOR..][..SECTOR].copy_from_slice(sector);
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

    /// One bit of what is durable turns over. False: there is nothing but zeros where chance has looked.
    pub fn flip(&mut self, within: std::ops::Range<usize>, rng: &mut Rng) -> bool {
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

    /// fallocate or ftruncate.
    pub fn set_len(&mut self, len: usize) {
        self.pending.retain(|number, _| number * SECTOR < len);
        self.lengths.push(len);
    }

    /// fdatasync.
    pub fn sync(&mut self) {
        for len in self.lengths.drain(..) {
            self.durable.resize(len, 0);
        }
        for (number, versions) in std::mem::take(&mut self.pending) {
            let newest = versions.last().expect("a pending sector has a version");
            self.durable[number * SECTOR..][..SECTOR].copy_from_slice(&newest[..]);
        }
    }

    /// What a read shows as long as the machine runs.
    pub fn image(&self) -> Vec<u8> {
        let mut image = self.with_lengths(self.lengths.len());
        for (number, versions) in &self.pending {
            let newest = versions.last().expect("a pending sector has a version");
            image[number * SECTOR..][..SECTOR].copy_from_slice(&newest[..]);
        }
        image
    }

    /// The durable bytes after the first so many changes of the length.
    fn with_lengths(&self, changes: usize) -> Vec<u8> {
        let mut image = self.durable.clone();
        for len in &self.lengths[..changes] {
            image.resize(*len, 0);
        }
        image
    }

    /// The power fails. What is found afterwards is durable.
    pub fn cut_power(&mut self, rng: &mut Rng) {
        let fate = Fate::draw(rng, self.pending.len());
        let changes = match fate {
            Fate::AllKept => self.lengths.len(),
            Fate::AllLost => 0,
            _ => rng.below(self.lengths.len() + 1),
        };
        let mut image = self.with_lengths(changes);
        for (nth, (number, versions)) in self.pending.iter().enumerate() {
            let Some(sector) = image.get_mut(number * SECTOR..(number + 1) * SECTOR) else { continue };
            if fate.keeps(nth, rng) {
                let newest = versions.len() - 1;
                let version = if rng.permille(800) { newest } else { rng.below(versions.len()) };
                sector.copy_from_slice(&versions[version][..]);
            }
        }
        *self = Medium { durable: image, ..Medium::default() };
    }
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
}
