//! Tree nodes: slotted pages with sorted cells.
//!
//! After the common header (see `header`):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 18 | 2 | count of cells |
//! | 20 | 2 | heap: where the lowest cell starts, 4096 if there is none |
//! | 22 | 2 | dead: bytes above heap that belong to no cell |
//! | 24 | 8 | zero |
//! | 32 | 2 × count | offset of each cell, in the order of keys |
//!
//! A leaf's cell is `key size`, `value size` (2 bytes each), key, value. A branch's is `key size` (2), child id (4), child birth (8),
//! the child's weight (8: sum of the weights of all rows below it), key. In sizes:
//!
//! | bit | |
//! |---|---|
//! | 15 | the bytes are a reference to a run that holds the key or value: id (4), birth (8), length (4) |
//! | 14 | (value) the row's weight is 1 |
//! | 0–13 | bytes stored here |
//!
//! The key of a branch's first cell is empty: its child takes whatever is less than the second key. Each other key is greater than
//! all keys of the child before it, and not greater than any key of its own.

use std::cmp::Ordering;

use super::header::{
    self, Birth, HEADER_SIZE, KIND_BRANCH, KIND_LEAF, Page, Pointer, set_u16, set_u32, set_u64, u16_at,
    u32_at, u64_at,
};
use super::types::{Damage, Fault, PAGE_SIZE, PageId};

/// Bytes of a node for slots and cells.
pub(super) const CAPACITY: usize = PAGE_SIZE - HEADER_SIZE;
/// Bytes of a slot.
pub(super) const SLOT_SIZE: usize = 2;
/// The largest cell, slot included: half a node, so that a full node and one more cell always fit into two nodes.
pub(super) const CELL_SIZE_MAX: usize = CAPACITY / 2;
/// Longer keys are stored in runs. A branch then holds at least four.
pub(super) const INLINE_KEY_MAX: usize = 960;
/// A node has at most this level: with two children per branch more than all pages there can be.
pub(super) const LEVEL_MAX: u8 = 31;

const LEAF_CELL_HEAD: usize = 4;
const BRANCH_CELL_HEAD: usize = 22;
const RUN_REF_SIZE: usize = 16;
/// Size of a key of `history`: two big-endian words.
const NUMBER_SIZE: usize = 16;
const IN_RUN: u16 = 1 << 15;
const WEIGHT: u16 = 1 << 14;
const SIZE_MASK: u16 = WEIGHT - 1;

const _: () = assert!(4 * (BRANCH_CELL_HEAD + INLINE_KEY_MAX + SLOT_SIZE) <= CAPACITY);
const _: () = assert!(LEAF_CELL_HEAD + INLINE_KEY_MAX + RUN_REF_SIZE + SLOT_SIZE <= CELL_SIZE_MAX);
const _: () = assert!(CAPACITY <= SIZE_MASK as usize);

/// Where a key or value in a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRef {
    pub at: Pointer,
    pub len: u32,
}

impl RunRef {
    fn decode(bytes: &[u8]) -> RunRef {
        let at = Pointer { id: PageId(u32_at(bytes, 0)), birth: Birth(u64_at(bytes, 4)) };
        RunRef { at, len: u32_at(bytes, 12) }
    }

    fn encode(self) -> [u8; RUN_REF_SIZE] {
        let mut bytes = [0; RUN_REF_SIZE];
        set_u32(&mut bytes, 0, self.at.id.0);
        set_u64(&mut bytes, 4, self.at.birth.0);
        set_u32(&mut bytes, 12, self.len);
        bytes
    }
}

/// A key or value as a cell has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Inline(&'a [u8]),
    Run(RunRef),
}

impl Part<'_> {
    /// Bytes it takes in a cell.
    pub fn cell_bytes(self) -> usize {
        match self {
            Part::Inline(bytes) => bytes.len(),
            Part::Run(_) => RUN_REF_SIZE,
        }
    }

    pub fn run(self) -> Option<RunRef> {
        match self {
            Part::Inline(_) => None,
            Part::Run(run) => Some(run),
        }
    }
}

/// Reads keys and values that are in runs.
pub(super) trait Runs<'a> {
    fn run(&self, run: RunRef) -> Result<&'a [u8], Damage>;
}

/// A child of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub at: Pointer,
    pub weight: u64,
}

/// A node to read from.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    page: &'a Page,
}

impl<'a> Node<'a> {
    pub fn new(page: &'a Page) -> Node<'a> {
        Node { page }
    }

    pub fn page(self) -> &'a Page {
        self.page
    }

    #[inline]
    pub fn count(self) -> usize {
        usize::from(u16_at(self.page, 18))
    }

    #[inline]
    pub fn level(self) -> u8 {
        self.page[17]
    }

    #[inline]
    fn heap(self) -> usize {
        usize::from(u16_at(self.page, 20))
    }

    fn dead(self) -> usize {
        usize::from(u16_at(self.page, 22))
    }

    fn gap(self) -> usize {
        self.heap() - (HEADER_SIZE + SLOT_SIZE * self.count())
    }

    /// Bytes of slots and cells.
    pub fn used(self) -> usize {
        CAPACITY - self.gap() - self.dead()
    }

    #[inline]
    fn cell(self, index: usize) -> usize {
        usize::from(u16_at(self.page, HEADER_SIZE + SLOT_SIZE * index))
    }

    #[inline]
    fn cell_head(self) -> usize {
        if self.level() == 0 { LEAF_CELL_HEAD } else { BRANCH_CELL_HEAD }
    }

    fn cell_size(self, index: usize) -> usize {
        let cell = self.cell(index);
        let key = usize::from(u16_at(self.page, cell) & SIZE_MASK);
        if self.level() > 0 {
            return BRANCH_CELL_HEAD + key;
        }
        LEAF_CELL_HEAD + key + usize::from(u16_at(self.page, cell + 2) & SIZE_MASK)
    }

    #[inline]
    fn part(self, size: u16, start: usize) -> Part<'a> {
        let bytes = &self.page[start..start + usize::from(size & SIZE_MASK)];
        if size & IN_RUN == 0 { Part::Inline(bytes) } else { Part::Run(RunRef::decode(bytes)) }
    }

    #[inline]
    pub fn key(self, index: usize) -> Part<'a> {
        let cell = self.cell(index);
        self.part(u16_at(self.page, cell), cell + self.cell_head())
    }

    /// The first bytes of a cell.
    #[inline]
    pub fn cell_start(self, index: usize) -> *const u8 {
        self.page[self.cell(index)..].as_ptr()
    }

    /// A leaf's value.
    #[inline]
    pub fn value(self, index: usize) -> Part<'a> {
        let cell = self.cell(index);
        let key = usize::from(u16_at(self.page, cell) & SIZE_MASK);
        self.part(u16_at(self.page, cell + 2), cell + LEAF_CELL_HEAD + key)
    }

    /// A branch's child.
    #[inline]
    pub fn child(self, index: usize) -> Child {
        let cell = self.cell(index);
        let at =
            Pointer { id: PageId(u32_at(self.page, cell + 2)), birth: Birth(u64_at(self.page, cell + 6)) };
        Child { at, weight: u64_at(self.page, cell + 14) }
    }

    /// The weight of a row or child.
    #[inline]
    pub fn weight(self, index: usize) -> u64 {
        let cell = self.cell(index);
        if self.level() > 0 {
            return u64_at(self.page, cell + 14);
        }
        u64::from(u16_at(self.page, cell + 2) & WEIGHT != 0)
    }

    /// The sum of the first `end` weights.
    pub fn weight_before(self, end: usize) -> u64 {
        (0..end).fold(0, |sum: u64, index| sum.wrapping_add(self.weight(index)))
    }

    /// How the key of a cell compares to `key`.
    #[inline]
    pub fn compare<'r>(self, index: usize, key: &[u8], runs: &impl Runs<'r>) -> Result<Ordering, Damage> {
        self.compare_either(index, key, number_of(key), runs)
    }

    /// As `compare`; `number` is the key as a number if it is one.
    #[inline]
    fn compare_either<'r>(
        self,
        index: usize,
        key: &[u8],
        number: Option<u128>,
        runs: &impl Runs<'r>,
    ) -> Result<Ordering, Damage> {
        if let Some(number) = number
            && let Some(here) = self.number(index)
        {
            return Ok(here.cmp(&number));
        }
        Ok(match self.key(index) {
            Part::Inline(here) => here.cmp(key),
            Part::Run(run) => runs.run(run)?.cmp(key),
        })
    }

    /// The key of a cell as a number, if it has the size of a key of `history`: numbers compare in one step where bytes
    /// take a call.
    #[inline]
    pub fn number(self, index: usize) -> Option<u128> {
        let cell = self.cell(index);
        if usize::from(u16_at(self.page, cell)) != NUMBER_SIZE {
            return None; // another size, or in a run
        }
        let at = cell + self.cell_head();
        let bytes = &self.page[at..at + NUMBER_SIZE];
        Some(u128::from_be_bytes(bytes.try_into().expect("sixteen bytes")))
    }

    /// Where a leaf has `key` (`Ok`) or would have it (`Err`).
    #[inline]
    pub fn search<'r>(self, key: &[u8], runs: &impl Runs<'r>) -> Result<Result<usize, usize>, Damage> {
        self.search_from(0, key, runs)
    }

    /// Which child of a branch has `key`, if any has.
    #[inline]
    pub fn search_child<'r>(self, key: &[u8], runs: &impl Runs<'r>) -> Result<usize, Damage> {
        // The first key is empty and stands for "less than everything".
        Ok(match self.search_from(1, key, runs)? {
            Ok(index) => index,
            Err(index) => index - 1,
        })
    }

    /// As `search`, for keys that are mostly greater than all others.
    pub fn search_end<'r>(self, key: &[u8], runs: &impl Runs<'r>) -> Result<Result<usize, usize>, Damage> {
        let count = self.count();
        if count > 0 && self.compare(count - 1, key, runs)?.is_lt() {
            Ok(Err(count))
        } else {
            self.search(key, runs)
        }
    }

    /// As `search_child`, for keys that mostly belong to the last.
    pub fn search_child_end<'r>(self, key: &[u8], runs: &impl Runs<'r>) -> Result<usize, Damage> {
        let last = self.count() - 1;
        if last > 0 && self.compare(last, key, runs)?.is_le() {
            Ok(last)
        } else {
            self.search_child(key, runs)
        }
    }

    #[inline]
    fn search_from<'r>(
        self,
        from: usize,
        key: &[u8],
        runs: &impl Runs<'r>,
    ) -> Result<Result<usize, usize>, Damage> {
        let number = number_of(key);
        let (mut low, mut high) = (from, self.count().max(from));
        while low < high {
            let middle = (low + high) / 2;
            match self.compare_either(middle, key, number, runs)? {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// Whether `key` surely belongs to this node and to none beside it.
    pub fn surely_holds<'r>(self, key: &[u8], runs: &impl Runs<'r>) -> Result<bool, Damage> {
        let count = self.count();
        let first = usize::from(self.level() > 0);
        if count <= first {
            return Ok(false);
        }
        Ok(self.compare(first, key, runs)?.is_le() && self.compare(count - 1, key, runs)?.is_ge())
    }
}

/// A key as a number, if it has the size of a key of `history`.
#[inline]
fn number_of(key: &[u8]) -> Option<u128> {
    key.try_into().ok().map(u128::from_be_bytes)
}

/// A cell to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell<'a> {
    /// A row; an inline value comes in parts.
    Row { key: Part<'a>, value: Value<'a>, weight: bool },
    /// A child of a branch.
    Child { key: Part<'a>, child: Child },
}

/// A row's value to be written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Inline(&'a [&'a [u8]]),
    Whole(Part<'a>),
}

impl Value<'_> {
    fn cell_bytes(self) -> usize {
        match self {
            Value::Inline(parts) => parts.iter().map(|part| part.len()).sum(),
            Value::Whole(part) => part.cell_bytes(),
        }
    }
}

impl<'a> Cell<'a> {
    pub fn key(self) -> Part<'a> {
        match self {
            Cell::Row { key, .. } | Cell::Child { key, .. } => key,
        }
    }

    /// Bytes of the cell and its slot.
    pub fn size(self) -> usize {
        SLOT_SIZE
            + match self {
                Cell::Row { key, value, .. } => LEAF_CELL_HEAD + key.cell_bytes() + value.cell_bytes(),
                Cell::Child { key, .. } => BRANCH_CELL_HEAD + key.cell_bytes(),
            }
    }

    pub fn weight(self) -> u64 {
        match self {
            Cell::Row { weight, .. } => u64::from(weight),
            Cell::Child { child, .. } => child.weight,
        }
    }

    fn encode(self, cell: &mut [u8]) {
        match self {
            Cell::Row { key, value, weight } => {
                let key_size = put_part(cell, LEAF_CELL_HEAD, key);
                let start = LEAF_CELL_HEAD + key.cell_bytes();
                let mut value_size = match value {
                    Value::Whole(part) => put_part(cell, start, part),
                    Value::Inline(parts) => put_parts(cell, start, parts),
                };
                if weight {
                    value_size |= WEIGHT;
                }
                set_u16(cell, 0, key_size);
                set_u16(cell, 2, value_size);
            }
            Cell::Child { key, child } => {
                let key_size = put_part(cell, BRANCH_CELL_HEAD, key);
                set_u16(cell, 0, key_size);
                put_child(cell, child);
            }
        }
    }
}

/// Writes `part` at `start` and returns its size field.
fn put_part(cell: &mut [u8], start: usize, part: Part<'_>) -> u16 {
    match part {
        Part::Inline(bytes) => put_parts(cell, start, &[bytes]),
        Part::Run(run) => put_parts(cell, start, &[&run.encode()]) | IN_RUN,
    }
}

fn put_parts(cell: &mut [u8], start: usize, parts: &[&[u8]]) -> u16 {
    let mut end = start;
    for part in parts {
        cell[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    (end - start) as u16
}

fn put_child(cell: &mut [u8], child: Child) {
    set_u32(cell, 2, child.at.id.0);
    set_u64(cell, 6, child.at.birth.0);
    set_u64(cell, 14, child.weight);
}

/// Makes `page` an empty node. The bytes outside the header stay.
pub(super) fn init(page: &mut Page, at: Pointer, level: u8) {
    header::set_header(page, at, if level == 0 { KIND_LEAF } else { KIND_BRANCH }, level);
    clear(page);
}

fn clear(page: &mut Page) {
    set_u16(page, 18, 0);
    set_u16(page, 20, PAGE_SIZE as u16);
    set_u16(page, 22, 0);
}

/// Inserts `cell` before the cell `index`; false if it doesn't fit.
pub(super) fn insert(page: &mut Page, index: usize, cell: Cell<'_>) -> bool {
    let size = cell.size();
    let node = Node::new(page);
    if node.gap() < size {
        if node.gap() + node.dead() < size {
            return false;
        }
        defragment(page);
    }
    let node = Node::new(page);
    let (count, heap) = (node.count(), node.heap());
    let start = heap - (size - SLOT_SIZE);
    cell.encode(&mut page[start..heap]);
    let slot = HEADER_SIZE + SLOT_SIZE * index;
    page.copy_within(slot..HEADER_SIZE + SLOT_SIZE * count, slot + SLOT_SIZE);
    set_u16(page, slot, start as u16);
    set_u16(page, 18, count as u16 + 1);
    set_u16(page, 20, start as u16);
    true
}

/// Removes the cell `index`.
pub(super) fn remove(page: &mut Page, index: usize) {
    let node = Node::new(page);
    let (count, cell, size) = (node.count(), node.cell(index), node.cell_size(index));
    if cell == node.heap() {
        set_u16(page, 20, (cell + size) as u16);
    } else {
        let dead = node.dead() + size;
        set_u16(page, 22, dead as u16);
    }
    let slot = HEADER_SIZE + SLOT_SIZE * index;
    page.copy_within(slot + SLOT_SIZE..HEADER_SIZE + SLOT_SIZE * count, slot);
    set_u16(page, 18, count as u16 - 1);
    if count == 1 {
        clear(page);
    }
}

/// Moves the cells together. What was between them becomes zero.
fn defragment(page: &mut Page) {
    let old = *page;
    let old = Node::new(&old);
    page[HEADER_SIZE..].fill(0);
    let mut heap = PAGE_SIZE;
    for index in 0..old.count() {
        let (cell, size) = (old.cell(index), old.cell_size(index));
        heap -= size;
        page[heap..heap + size].copy_from_slice(&old.page[cell..cell + size]);
        set_u16(page, HEADER_SIZE + SLOT_SIZE * index, heap as u16);
    }
    set_u16(page, 20, heap as u16);
    set_u16(page, 22, 0);
}

/// Points the cell `index` of a branch to another child.
pub(super) fn set_child(page: &mut Page, index: usize, child: Child) {
    let cell = Node::new(page).cell(index);
    put_child(&mut page[cell..], child);
}

/// The inline value of the cell `index` of a leaf, to be changed in place.
pub(super) fn value_mut(page: &mut Page, index: usize) -> Option<&mut [u8]> {
    let node = Node::new(page);
    let cell = node.cell(index);
    let key = usize::from(u16_at(page, cell) & SIZE_MASK);
    let size = u16_at(page, cell + 2);
    let start = cell + LEAF_CELL_HEAD + key;
    (size & IN_RUN == 0).then(|| &mut page[start..start + usize::from(size & SIZE_MASK)])
}

/// Sets the weight of the row `index` of a leaf.
pub(super) fn set_row_weight(page: &mut Page, index: usize, weight: bool) {
    let cell = Node::new(page).cell(index);
    let size = u16_at(page, cell + 2) & !WEIGHT;
    set_u16(page, cell + 2, if weight { size | WEIGHT } else { size });
}

/// The cell `index`, to be written elsewhere.
pub(super) fn cell_of<'a>(node: Node<'a>, index: usize) -> Cell<'a> {
    let key = node.key(index);
    if node.level() > 0 {
        return Cell::Child { key, child: node.child(index) };
    }
    Cell::Row { key, value: Value::Whole(node.value(index)), weight: node.weight(index) == 1 }
}

/// Checks all that the accessors above rely on, so that they can't go out of bounds. Keys are not compared.
pub(super) fn check_structure(page: &Page) -> Result<(), Fault> {
    let node = Node::new(page);
    let (count, heap, level) = (node.count(), node.heap(), node.level());
    let slots_end = HEADER_SIZE + SLOT_SIZE * count;
    let sound = slots_end <= heap && heap <= PAGE_SIZE && level <= LEVEL_MAX && count > 0;
    if !sound {
        return Err(Fault::Structure);
    }
    let mut cells = 0;
    for index in 0..count {
        cells += check_cell(page, node, index, heap)?;
    }
    if heap + node.dead() + cells != PAGE_SIZE {
        return Err(Fault::Structure);
    }
    Ok(())
}

fn check_cell(page: &Page, node: Node<'_>, index: usize, heap: usize) -> Result<usize, Fault> {
    let cell = node.cell(index);
    if cell < heap || cell + node.cell_head() > PAGE_SIZE {
        return Err(Fault::Structure);
    }
    let size = node.cell_size(index);
    let key_size = u16_at(page, cell);
    let value_size = if node.level() == 0 { u16_at(page, cell + 2) } else { 0 };
    let is_ref = |size: u16| usize::from(size & SIZE_MASK) == RUN_REF_SIZE;
    let refs_are_whole = [key_size, value_size].into_iter().all(|size| size & IN_RUN == 0 || is_ref(size));
    if cell + size > PAGE_SIZE || !refs_are_whole || key_size & WEIGHT != 0 {
        return Err(Fault::Structure);
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn pointer(id: u32) -> Pointer {
        Pointer { id: PageId(id), birth: Birth::new(0x1234, 0x56) }
    }

    #[test]
    fn leaf_golden_bytes() {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, pointer(7), 0);
        let run = Part::Run(RunRef { at: pointer(9), len: 5000 });
        let row = |key, value, weight| Cell::Row { key: Part::Inline(key), value, weight };
        assert!(insert(&mut page, 0, row(b"b", Value::Whole(run), true)));
        assert!(insert(&mut page, 0, row(b"a", Value::Inline(&[b"in", b"line"]), false)));
        header::seal(&mut page);
        assert_eq!(
            hex(&page[4..36]),
            "070000005600000000003412020002 00e00f0000 0000000000000000 e00feb0f".replace(' ', "")
        );
        let cells =
            "0100 0600 61 696e6c696e65 0100 10c0 62 09000000 5600000000003412 88130000".replace(' ', "");
        assert_eq!(hex(&page[0xfe0..]), cells);
        assert!(page[36..0xfe0].iter().all(|byte| *byte == 0));
        assert_eq!(hex(&page[..4]), "e8e438b3");
        assert_eq!(check_structure(&page), Ok(()));
        let leaf = Node::new(&page);
        assert_eq!((leaf.key(1), leaf.value(1), leaf.weight(1)), (Part::Inline(b"b"), run, 1));
        assert_eq!(
            (leaf.key(0), leaf.value(0), leaf.weight(0)),
            (Part::Inline(b"a"), Part::Inline(b"inline"), 0)
        );
    }

    #[test]
    fn branch_golden_bytes() {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, pointer(7), 2);
        let child = |id, weight| Child { at: pointer(id), weight };
        assert!(insert(&mut page, 0, Cell::Child { key: Part::Inline(b""), child: child(8, 300) }));
        assert!(insert(&mut page, 1, Cell::Child { key: Part::Inline(b"m"), child: child(9, 2) }));
        header::seal(&mut page);
        assert_eq!(
            hex(&page[4..36]),
            "070000005600000000003412010202 00d30f0000 0000000000000000 ea0fd30f".replace(' ', "")
        );
        let cells = "0100 09000000 5600000000003412 0200000000000000 6d 0000 08000000 5600000000003412 2c01000000000000";
        assert_eq!(hex(&page[0xfd3..]), cells.replace(' ', ""));
        assert_eq!(hex(&page[..4]), "5cd05908");
        assert_eq!(check_structure(&page), Ok(()));
        let branch = Node::new(&page);
        assert_eq!(
            (branch.key(1), branch.child(1), branch.child(0)),
            (Part::Inline(b"m"), child(9, 2), child(8, 300))
        );
    }

    /// A node of random cells against a vector.
    #[test]
    fn cells_come_and_go_until_the_node_is_full_and_empty() {
        let mut page = [0; PAGE_SIZE];
        init(&mut page, pointer(7), 0);
        let (mut model, mut seed, mut full) = (Vec::<(Vec<u8>, Vec<u8>)>::new(), 3u64, 0);
        for step in 0..20_000u32 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (at, len) = ((seed >> 33) as usize, (seed >> 50) as usize % 400);
            let growing = step / 500 % 2 == 0;
            if model.is_empty() || (at % 3 == 0) != growing {
                let (key, value) = (step.to_be_bytes().to_vec(), vec![step as u8; len]);
                let index = at % (model.len() + 1);
                let cell =
                    Cell::Row { key: Part::Inline(&key), value: Value::Inline(&[&value]), weight: false };
                if insert(&mut page, index, cell) { model.insert(index, (key, value)) } else { full += 1 }
            } else {
                let index = at % model.len();
                remove(&mut page, index);
                model.remove(index);
            }
            let node = Node::new(&page);
            assert_eq!(node.count(), model.len());
            assert_eq!(
                node.used(),
                model.iter().map(|(key, value)| 6 + key.len() + value.len()).sum::<usize>()
            );
            for (index, (key, value)) in model.iter().enumerate() {
                assert_eq!(
                    (node.key(index), node.value(index)),
                    (Part::Inline(&key[..]), Part::Inline(&value[..]))
                );
            }
            assert!(model.is_empty() || check_structure(&page).is_ok());
        }
        assert!(full > 100, "{full} did not fit");
    }
}
