//! Looking up many rows: the wait for one's memory overlaps with that of the others.
//!
//! Rows of a list lie far apart in `history`, unless they were written in the order of their keys. Each is then on a page
//! that no cache holds, and waiting for it, row after row, costs more than copying the row. So a group of rows takes each
//! step together: the leaves of all are found first, in branches, which are few and near, and asked for; then, in each, the
//! cell where the row probably is; then its value; and the caller copies the values when the first have come.
//!
//! Where a row probably is: revisions are dense, so it is as far from the leaf's first cell as its revision is from the
//! branch's key for that leaf. Where compaction has torn holes, or transactions of several changes meet in one leaf, the
//! guess fails and the leaf is searched.

use std::cmp::Ordering;

use smallvec::SmallVec;

use super::frames::prefetch_line;
use super::header::Pointer;
use super::node::Node;
use super::read::{Pages, Root};
use super::types::Damage;

/// Rows that are looked up together: more than a core's outstanding loads, few enough for the nearest cache.
pub const GROUP_ROWS: usize = 16;

/// Bytes of a value that are asked for; its further lines the core fetches by itself once they are read one after the
/// other.
const PREFETCH_BYTES: usize = 256;
const LINE_BYTES: usize = 64;

/// Values of a group, in the order of its keys.
pub type Values<'a> = SmallVec<[&'a [u8]; GROUP_ROWS]>;

/// Looks up rows of one table by keys of 16 bytes, in groups. Rows that follow each other are found without a search.
pub struct Lookups<'a> {
    pages: Pages<'a>,
    root: Root,
    /// The lowest branch of the last descent, and the child it led to.
    branch: Option<(Node<'a>, usize)>,
    /// That child once more, if keys beside it in the branch bound it.
    bounded: Option<Bounded>,
}

/// A child of a branch that holds the keys from `first` up to `end`: rows that follow each other are told apart without
/// a look at the branch.
#[derive(Clone, Copy)]
struct Bounded {
    leaf: Pointer,
    first: u128,
    end: u128,
}

impl Bounded {
    /// `None` if the branch itself has no key, or none of this size, on one of the child's sides.
    fn of(branch: Node<'_>, index: usize) -> Option<Bounded> {
        if index == 0 || index + 1 >= branch.count() {
            return None;
        }
        let (first, end) = (branch.number(index)?, branch.number(index + 1)?);
        Some(Bounded { leaf: branch.child(index).at, first, end })
    }

    #[inline]
    fn place_of(self, key: u128) -> Option<Place> {
        let inside = self.first <= key && key < self.end;
        inside.then(|| Place { leaf: self.leaf, index: distance(self.first, key) })
    }
}

impl<'a> Lookups<'a> {
    pub(super) fn new(pages: Pages<'a>, root: Root) -> Lookups<'a> {
        Lookups { pages, root, branch: None, bounded: None }
    }

    /// The values of `keys`, at most [`GROUP_ROWS`]; `None` if one of them has no row.
    ///
    /// # Errors
    ///
    /// The damage of the first page on the way that is not what was written.
    pub fn group(&mut self, keys: &[[u8; 16]]) -> Result<Option<Values<'a>>, Damage> {
        if self.root.at.is_none() {
            return Ok(keys.is_empty().then(Values::new));
        }
        let mut places: SmallVec<[Place; GROUP_ROWS]> = SmallVec::new();
        for key in keys {
            let place = self.place_of(key)?;
            if places.last().is_none_or(|last| last.leaf != place.leaf) {
                self.pages.prefetch(place.leaf.id);
            }
            places.push(place);
        }
        for place in &mut places {
            let leaf = self.pages.node(place.leaf, 0)?;
            place.index = place.index.min(leaf.count() - 1);
            prefetch_line(leaf.cell_start(place.index));
        }
        let mut values = Values::new();
        for (key, place) in keys.iter().zip(&places) {
            let Some(value) = self.value(key, place)? else { return Ok(None) };
            for line in value[..value.len().min(PREFETCH_BYTES)].chunks(LINE_BYTES) {
                prefetch_line(line.as_ptr());
            }
            values.push(value);
        }
        Ok(Some(values))
    }

    #[inline]
    fn value(&self, key: &[u8], place: &Place) -> Result<Option<&'a [u8]>, Damage> {
        let leaf = self.pages.node(place.leaf, 0)?;
        let index = match leaf.compare(place.index, key, &self.pages)? {
            Ordering::Equal => Ok(place.index),
            _ => leaf.search(key, &self.pages)?,
        };
        index.ok().map(|index| self.pages.part(leaf.value(index))).transpose()
    }

    /// The leaf that has `key`, if any has, and where in it. The leaf is not touched.
    fn place_of(&mut self, key: &[u8; 16]) -> Result<Place, Damage> {
        let number = u128::from_be_bytes(*key);
        if let Some(place) = self.bounded.and_then(|bounded| bounded.place_of(number)) {
            return Ok(place);
        }
        if self.root.level == 0 {
            return Ok(Place { leaf: self.root.at, index: 0 });
        }
        if let Some((branch, index)) = self.branch
            && let Some(next) = Bounded::of(branch, index + 1)
            && let Some(place) = next.place_of(number)
        {
            (self.branch, self.bounded) = (Some((branch, index + 1)), Some(next));
            return Ok(place);
        }
        let (branch, index) = match self.branch {
            Some((branch, _)) if branch.surely_holds(key, &self.pages)? => {
                (branch, branch.search_child(key, &self.pages)?)
            }
            _ => self.descend(key)?,
        };
        (self.branch, self.bounded) = (Some((branch, index)), Bounded::of(branch, index));
        let distance = branch.number(index).map_or(0, |first| distance(first, number));
        Ok(Place { leaf: branch.child(index).at, index: distance })
    }

    fn descend(&self, key: &[u8]) -> Result<(Node<'a>, usize), Damage> {
        let mut node = self.pages.node(self.root.at, self.root.level)?;
        loop {
            let index = node.search_child(key, &self.pages)?;
            if node.level() == 1 {
                return Ok((node, index));
            }
            node = self.pages.child(node, index)?;
        }
    }
}

/// Where a row probably is.
#[derive(Clone, Copy)]
struct Place {
    leaf: Pointer,
    index: usize,
}

/// How many rows lie between two keys of `history`, if each revision is one change or both belong to one revision.
fn distance(first: u128, key: u128) -> usize {
    let (main, sub) = ((key >> 64) as u64, key as u64);
    let (first_main, first_sub) = ((first >> 64) as u64, first as u64);
    let rows =
        if main == first_main { sub.saturating_sub(first_sub) } else { main.saturating_sub(first_main) };
    usize::try_from(rows).unwrap_or(usize::MAX)
}
