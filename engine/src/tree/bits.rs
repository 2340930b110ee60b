//! A set of page ids as bits, with the searches that allocation needs.

/// A growing bit set over page ids. Bits beyond its end are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<u64>,
    /// One bit per word of `words`: set if that word is all ones.
    full: Vec<u64>,
    count: u32,
}

impl Bits {
    /// From the stored form: bit `i` of byte `j` stands for page `8 * j + i`.
    pub fn from_bytes(bytes: &[u8]) -> Bits {
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let mut bits = Bits::default();
        for (at, word) in bytes.chunks(8).map(word).enumerate() {
            bits.set_word(at, word);
        }
        bits
    }

    /// The stored form, `len` bytes long. Nothing may be set beyond.
    pub fn write_bytes(&self, out: &mut [u8]) {
        out.fill(0);
        for (chunk, word) in out.chunks_mut(8).zip(&self.words) {
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }

    /// How many are set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// One more than the highest that is set, 0 if none is.
    pub fn end(&self) -> u32 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |at| at as u32 * 64 + 64 - self.words[at].leading_zeros())
    }

    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub fn insert(&mut self, id: u32) {
        assert!(!self.contains(id), "page {id} is set already");
        let at = id as usize / 64;
        let word = self.words.get(at).copied().unwrap_or(0) | 1 << (id % 64);
        self.set_word(at, word);
    }

    pub fn remove(&mut self, id: u32) {
        assert!(self.contains(id), "page {id} is not set");
        let at = id as usize / 64;
        let word = self.words[at] & !(1 << (id % 64));
        self.set_word(at, word);
    }

    fn set_word(&mut self, at: usize, word: u64) {
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
            self.full.resize(at / 64 + 1, 0);
        }
        self.count = self.count - self.words[at].count_ones() + word.count_ones();
        self.words[at] = word;
        let mask = 1 << (at % 64);
        if word == !0 {
            self.full[at / 64] |= mask;
        } else {
            self.full[at / 64] &= !mask;
        }
    }

    /// The first at or after `from` that is not set.
    pub fn next_clear(&self, from: u32) -> u32 {
        let at = from as usize / 64;
        let Some(word) = self.words.get(at) else { return from };
        let clear = !word & (!0 << (from % 64));
        if clear != 0 {
            return at as u32 * 64 + clear.trailing_zeros();
        }
        let at = self.next_not_full(at + 1);
        let word = self.words.get(at).copied().unwrap_or(0);
        at as u32 * 64 + word.trailing_ones()
    }

    fn next_not_full(&self, from: usize) -> usize {
        let mut at = from / 64;
        let Some(word) = self.full.get(at) else { return from };
        let mut clear = !word & (!0 << (from % 64));
        while clear == 0 {
            at += 1;
            match self.full.get(at) {
                Some(word) => clear = !word,
                None => return at * 64,
            }
        }
        at * 64 + clear.trailing_zeros() as usize
    }

    /// The first at or after `from` that is set, but not beyond `limit`.
    pub fn next_set(&self, from: u32, limit: u32) -> u32 {
        let mut at = from as usize / 64;
        let mut mask = !0 << (from % 64);
        while (at as u32) * 64 < limit {
            let Some(word) = self.words.get(at) else { return limit };
            let set = word & mask;
            if set != 0 {
                return (at as u32 * 64 + set.trailing_zeros()).min(limit);
            }
            mask = !0;
            at += 1;
        }
        limit
    }

    /// All that are set in both, in order.
    pub fn both<'a>(&'a self, other: &'a Bits) -> impl Iterator<Item = u32> + 'a {
        let words = self.words.iter().zip(&other.words).enumerate();
        words.flat_map(|(at, (a, b))| ones(at, a & b))
    }

    /// All that are set in `self` but not in `other`, in order.
    pub fn without<'a>(&'a self, other: &'a Bits) -> impl Iterator<Item = u32> + 'a {
        let words = self.words.iter().enumerate();
        words.flat_map(|(at, word)| ones(at, word & !other.words.get(at).copied().unwrap_or(0)))
    }
}

fn ones(at: usize, mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(at as u32 * 64 + bit)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Bits;

    proptest! {
        #[test]
        fn bits_are_a_set(toggles in prop::collection::vec(0u32..9000, 0..400), filled in 0u32..9000, from in 0u32..9100) {
            let (mut bits, mut set) = (Bits::default(), BTreeSet::new());
            for id in (0..filled).chain(toggles) {
                if set.insert(id) { bits.insert(id) } else { set.remove(&id); bits.remove(id) }
            }
            prop_assert_eq!(bits.count() as usize, set.len());
            prop_assert_eq!(bits.end(), set.last().map_or(0, |last| last + 1));
            prop_assert_eq!(bits.next_clear(from), (from..).find(|id| !set.contains(id)).unwrap());
            prop_assert_eq!(bits.next_set(from, from + 500), set.range(from..from + 500).next().copied().unwrap_or(from + 500));
            prop_assert_eq!(bits.without(&Bits::default()).collect::<BTreeSet<_>>(), set.clone());
            let mut bytes = vec![0; 9000 / 8 + 1];
            bits.write_bytes(&mut bytes);
            let back = Bits::from_bytes(&bytes);
            prop_assert_eq!(back.both(&bits).collect::<BTreeSet<_>>(), set);
            prop_assert_eq!(back.count(), bits.count());
        }
    }
}
