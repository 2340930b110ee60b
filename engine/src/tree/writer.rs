//! Changing the tree.
//!
//! A change descends to its leaf, makes the path its own (pages of earlier batches are copied, pages of this batch changed where they
//! are) and then changes the leaf. Weights along the path are kept with every change.
//!
//! A full node splits in two: in the middle by bytes, but at the right edge of a table the new cell goes alone to the right, so that appends
//! (all of `history`) leave full pages behind. After a removal a node thinner than `THIN` is merged with a neighbour if the result leaves some room.

use smallvec::SmallVec;

use super::Tree;
use super::header::{Page, Pointer, run_pages};
use super::node::{self, CAPACITY, CELL_SIZE_MAX, Cell, Child, INLINE_KEY_MAX, Node, Part, RunRef, Value};
use super::read::Root;
use super::space::Freed;
use super::types::{Damage, Table};

/// The longest key or value, in bytes: far above any request.
pub const LENGTH_MAX: usize = 1 << 30;

/// Nodes with fewer bytes in use look for a neighbour to merge with.
const THIN: usize = CAPACITY * 3 / 8;
/// A merged node has at most this many in use, lest it split again at once.
const MERGED_MAX: usize = CAPACITY * 7 / 8;

/// A node on the way from the root to a leaf, and which child or row of it.
#[derive(Clone, Copy, Debug)]
struct Step {
    at: Pointer,
    level: u8,
    index: usize,
}

type Path = SmallVec<[Step; 6]>;

/// A key between two nodes, owned while the nodes change.
enum Separator {
    Bytes(SmallVec<[u8; 64]>),
    Run(RunRef),
}

impl Separator {
    fn of(part: Part<'_>) -> Separator {
        match part {
            Part::Inline(bytes) => Separator::Bytes(bytes.into()),
            Part::Run(run) => Separator::Run(run),
        }
    }

    fn part(&self) -> Part<'_> {
        match self {
            Separator::Bytes(bytes) => Part::Inline(bytes),
            Separator::Run(run) => Part::Run(*run),
        }
    }
}

impl Tree {
    /// Sets `key` to the concatenation of `value`. Keys and values may be up to [`LENGTH_MAX`] bytes long; what doesn't fit into half
    /// a page is stored as a run of pages, contiguous in memory and in the file.
    ///
    /// # Errors
    ///
    /// Damage of a page on the way. Here and in `remove` and `update` the unpublished state is then undefined and must not be
    /// published: the process should stop.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[&[u8]]) -> Result<(), Damage> {
        let done = self.put_row(table, key, value);
        self.note(done)
    }

    /// Removes `key`; false if it was not there.
    pub fn remove(&mut self, table: Table, key: &[u8]) -> Result<bool, Damage> {
        let done = self.remove_row(table, key);
        self.note(done)
    }

    /// Lets `change` overwrite the value of `key` in place; false if the key is not there.
    pub fn update(
        &mut self,
        table: Table,
        key: &[u8],
        change: impl FnOnce(&mut [u8]),
    ) -> Result<bool, Damage> {
        let done = self.update_row(table, key, change);
        self.note(done)
    }

    fn note<T>(&mut self, done: Result<T, Damage>) -> Result<T, Damage> {
        self.broken |= done.is_err();
        done
    }

    fn put_row(&mut self, table: Table, key: &[u8], value: &[&[u8]]) -> Result<(), Damage> {
        let value_len: usize = value.iter().map(|part| part.len()).sum();
        assert!(key.len() <= LENGTH_MAX && value_len <= LENGTH_MAX, "a key or value above LENGTH_MAX");
        self.changed = true;
        let weight = table.weight(value.iter().find_map(|part| part.first()).copied());
        if self.roots[table as usize].at.is_none() {
            let leaf = self.make_node(0);
            self.roots[table as usize] = Root { at: leaf, level: 0, weight: 0 };
        }
        let (path, found) = self.find_own(table, key)?;
        let leaf = *path.last().expect("a path ends at a leaf");
        if found {
            return self.replace_value(table, &path, leaf, value, value_len, weight);
        }
        self.add_weight(table, &path, i64::from(weight));
        let key =
            if key.len() > INLINE_KEY_MAX { Part::Run(self.make_run(&[key])) } else { Part::Inline(key) };
        let value = self.value_to_store(key, value, value_len);
        self.insert(table, &path, leaf.index, Cell::Row { key, value, weight })
    }

    fn replace_value(
        &mut self,
        table: Table,
        path: &[Step],
        leaf: Step,
        value: &[&[u8]],
        value_len: usize,
        weight: bool,
    ) -> Result<(), Damage> {
        let page = self.frames.page_mut(leaf.at.id);
        let node = Node::new(page);
        let weight_before = node.weight(leaf.index);
        let (key, old) = (Separator::of(node.key(leaf.index)), node.value(leaf.index).run());
        let mut in_place = false;
        if let Some(bytes) = node::value_mut(page, leaf.index).filter(|bytes| bytes.len() == value_len) {
            copy_parts(value, bytes);
            in_place = true;
            node::set_row_weight(page, leaf.index, weight);
        }
        self.add_weight(table, path, i64::from(weight) - weight_before as i64);
        if in_place {
            return Ok(());
        }
        node::remove(self.frames.page_mut(leaf.at.id), leaf.index);
        if let Some(run) = old {
            self.free_run(run);
        }
        let value = self.value_to_store(key.part(), value, value_len);
        self.insert(table, path, leaf.index, Cell::Row { key: key.part(), value, weight })
    }

    fn value_to_store<'v>(&mut self, key: Part<'_>, value: &'v [&'v [u8]], value_len: usize) -> Value<'v> {
        let head = Cell::Row { key, value: Value::Inline(&[]), weight: false }.size();
        if head + value_len <= CELL_SIZE_MAX {
            return Value::Inline(value);
        }
        Value::Whole(Part::Run(self.make_run(value)))
    }

    fn update_row(
        &mut self,
        table: Table,
        key: &[u8],
        change: impl FnOnce(&mut [u8]),
    ) -> Result<bool, Damage> {
        if self.roots[table as usize].at.is_none() {
            return Ok(false);
        }
        let (mut path, found) = self.find(table, key)?;
        if !found {
            return Ok(false);
        }
        self.changed = true;
        self.own(table, &mut path)?;
        let leaf = *path.last().expect("a path ends at a leaf");
        let page = self.frames.page_mut(leaf.at.id);
        let weight_before = Node::new(page).weight(leaf.index);
        if let Some(value) = node::value_mut(page, leaf.index) {
            change(value);
            let weight = table.weight(value.first().copied());
            node::set_row_weight(page, leaf.index, weight);
            self.add_weight(table, &path, i64::from(weight) - weight_before as i64);
            return Ok(true);
        }
        let mut value = self.reader().get(table, key)?.expect("found above").to_vec();
        change(&mut value);
        self.put_row(table, key, &[&value])?;
        Ok(true)
    }

    fn remove_row(&mut self, table: Table, key: &[u8]) -> Result<bool, Damage> {
        if self.roots[table as usize].at.is_none() {
            return Ok(false);
        }
        let (mut path, found) = self.find(table, key)?;
        if !found {
            return Ok(false);
        }
        self.changed = true;
        self.own(table, &mut path)?;
        let leaf = *path.last().expect("a path ends at a leaf");
        let page = self.frames.page_mut(leaf.at.id);
        let node = Node::new(page);
        let weight = node.weight(leaf.index);
        let runs = [node.key(leaf.index).run(), node.value(leaf.index).run()];
        node::remove(page, leaf.index);
        runs.into_iter().flatten().for_each(|run| self.free_run(run));
        self.add_weight(table, &path, -(weight as i64));
        self.rebalance(table, &path)?;
        Ok(true)
    }

    /// The way to the leaf that has `key`, or would; whether it has. The table must not be empty.
    fn find(&self, table: Table, key: &[u8]) -> Result<(Path, bool), Damage> {
        let pages = self.reader().pages;
        let root = self.roots[table as usize];
        let (mut at, mut level, mut path) = (root.at, root.level, Path::new());
        while level > 0 {
            let node = pages.node(at, level)?;
            let index = node.search_child(key, &pages)?;
            path.push(Step { at, level, index });
            at = node.child(index).at;
            level -= 1;
        }
        let found = pages.node(at, 0)?.search(key, &pages)?;
        let (Ok(index) | Err(index)) = found;
        path.push(Step { at, level: 0, index });
        Ok((path, found.is_ok()))
    }

    /// As `find`, making each node on the way one of the present batch before searching it: a copy reads the page from front to back, and
    /// the search then finds it in the cache.
    fn find_own(&mut self, table: Table, key: &[u8]) -> Result<(Path, bool), Damage> {
        let Root { mut at, mut level, .. } = self.roots[table as usize];
        let mut path = Path::new();
        loop {
            if at.birth != self.frames.birth() {
                at = self.copy_node(at, level)?;
                match path.last() {
                    None => self.roots[table as usize].at = at,
                    Some(parent) => self.point(*parent, parent.index, at),
                }
            }
            let pages = self.reader().pages;
            let node = pages.node(at, level)?;
            if level == 0 {
                let found = if table == Table::History {
                    node.search_end(key, &pages)?
                } else {
                    node.search(key, &pages)?
                };
                let (Ok(index) | Err(index)) = found;
                path.push(Step { at, level, index });
                return Ok((path, found.is_ok()));
            }
            let index = if table == Table::History {
                node.search_child_end(key, &pages)?
            } else {
                node.search_child(key, &pages)?
            };
            path.push(Step { at, level, index });
            at = node.child(index).at;
            level -= 1;
        }
    }

    /// Makes all nodes of the path nodes of the present batch.
    fn own(&mut self, table: Table, path: &mut Path) -> Result<(), Damage> {
        for depth in 0..path.len() {
            if path[depth].at.birth == self.frames.birth() {
                continue;
            }
            let new = self.copy_node(path[depth].at, path[depth].level)?;
            path[depth].at = new;
            match depth.checked_sub(1).map(|above| path[above]) {
                None => self.roots[table as usize].at = new,
                Some(parent) => self.point(parent, parent.index, new),
            }
        }
        Ok(())
    }

    fn point(&mut self, parent: Step, index: usize, to: Pointer) {
        let page = self.frames.page_mut(parent.at.id);
        let weight = Node::new(page).weight(index);
        node::set_child(page, index, Child { at: to, weight });
    }

    fn add_weight(&mut self, table: Table, path: &[Step], delta: i64) {
        if delta == 0 {
            return;
        }
        let root = &mut self.roots[table as usize];
        root.weight = root.weight.wrapping_add_signed(delta);
        for step in &path[..path.len() - 1] {
            let page = self.frames.page_mut(step.at.id);
            let child = Node::new(page).child(step.index);
            let weight = child.weight.wrapping_add_signed(delta);
            node::set_child(page, step.index, Child { weight, ..child });
        }
    }

    /// Inserts `cell` before the cell `index` of the last node of `path`, and splits as far up as needed.
    fn insert(&mut self, table: Table, path: &[Step], index: usize, cell: Cell<'_>) -> Result<(), Damage> {
        let (here, above) = path.split_last().expect("a path has a node");
        if node::insert(self.frames.page_mut(here.at.id), index, cell) {
            return Ok(());
        }
        let old: Page = *self.frames.page_mut(here.at.id);
        let cells = Cells { node: Node::new(&old), index, cell };
        let at_edge = index == cells.node.count() && self.is_right_edge(above);
        let split = if at_edge { index } else { cells.middle() };
        let separator = self.separator(&cells, split)?;
        let left =
            if at_edge { cells.node.weight_before(index) } else { self.fill(here.at.id, &cells, 0..split) };
        let right_at = self.make_node(here.level);
        let right = self.fill(right_at.id, &cells, split..cells.count());
        let right = Cell::Child { key: separator.part(), child: Child { at: right_at, weight: right } };
        let left = Child { at: here.at, weight: left };
        if let Some(parent) = above.last() {
            node::set_child(self.frames.page_mut(parent.at.id), parent.index, left);
            return self.insert(table, above, parent.index + 1, right);
        }
        let root = self.make_node(here.level + 1);
        let page = self.frames.page_mut(root.id);
        let fits = node::insert(page, 0, Cell::Child { key: Part::Inline(&[]), child: left })
            && node::insert(page, 1, right);
        assert!(fits, "an empty branch holds two children");
        self.roots[table as usize].at = root;
        self.roots[table as usize].level = here.level + 1;
        Ok(())
    }

    fn is_right_edge(&mut self, above: &[Step]) -> bool {
        above.iter().all(|step| step.index + 1 == Node::new(self.frames.page_mut(step.at.id)).count())
    }

    /// Makes the node hold just the cells of `range`; returns the sum of their weights.
    fn fill(&mut self, id: super::PageId, cells: &Cells<'_>, range: std::ops::Range<usize>) -> u64 {
        let page = self.frames.page_mut(id);
        let at = Pointer { id, birth: super::header::birth(page) };
        page.fill(0);
        node::init(page, at, cells.node.level());
        let mut weight = 0;
        for (at, index) in range.enumerate() {
            let mut cell = cells.at(index);
            if let (0, Cell::Child { key, .. }) = (at, &mut cell) {
                *key = Part::Inline(&[]); // it has gone up, or was empty before
            }
            assert!(node::insert(page, at, cell), "half a node's cells fit into a node");
            weight += cell.weight();
        }
        weight
    }

    /// The key that goes up: above the last one left of `split`, not above the first one right of it.
    fn separator(&mut self, cells: &Cells<'_>, split: usize) -> Result<Separator, Damage> {
        let right = cells.at(split);
        if let Cell::Child { key, .. } = right {
            return Ok(Separator::of(key));
        }
        let pages = self.reader().pages;
        let left = cells.at(split - 1).key();
        let (left, right) = (pages.part(left)?, pages.part(right.key())?);
        let common = left.iter().zip(right).take_while(|(left, right)| left == right).count();
        let bytes: SmallVec<[u8; 64]> = right[..common + 1].into();
        Ok(if bytes.len() > INLINE_KEY_MAX {
            Separator::Run(self.make_run(&[&bytes]))
        } else {
            Separator::Bytes(bytes)
        })
    }

    /// After a removal from the last node of `path`: drops it if empty, merges it if thin, and so on upwards.
    fn rebalance(&mut self, table: Table, path: &[Step]) -> Result<(), Damage> {
        let (here, above) = path.split_last().expect("a path has a node");
        let node = Node::new(self.frames.page_mut(here.at.id));
        let (count, used) = (node.count(), node.used());
        let Some(parent) = above.last() else {
            self.shrink_root(table, here, count);
            return Ok(());
        };
        if count == 0 {
            self.free_node(here.at);
            self.remove_child(parent, parent.index);
        } else if used >= THIN || !self.merge(parent)? {
            return Ok(());
        }
        self.rebalance(table, above)
    }

    fn shrink_root(&mut self, table: Table, root: &Step, count: usize) {
        if count == 0 {
            self.free_node(root.at);
            self.roots[table as usize] = Root::default();
        } else if count == 1 && root.level > 0 {
            let child = Node::new(self.frames.page_mut(root.at.id)).child(0);
            self.free_node(root.at);
            self.roots[table as usize] = Root { at: child.at, level: root.level - 1, weight: child.weight };
        }
    }

    /// Removes the child `index` and frees its separator; the one that is first then loses its own.
    fn remove_child(&mut self, parent: &Step, index: usize) {
        let page = self.frames.page_mut(parent.at.id);
        let mut runs = [Node::new(page).key(index).run(), None];
        node::remove(page, index);
        if index == 0 && Node::new(page).count() > 0 {
            let first = Node::new(page);
            let child = first.child(0);
            runs[1] = first.key(0).run();
            node::remove(page, 0);
            let fits = node::insert(page, 0, Cell::Child { key: Part::Inline(&[]), child });
            assert!(fits, "a cell fits where a longer one was");
        }
        runs.into_iter().flatten().for_each(|run| self.free_run(run));
    }

    /// Merges the child that `parent` stands on with a neighbour; false if none is thin enough.
    fn merge(&mut self, parent: &Step) -> Result<bool, Damage> {
        let page: Page = *self.frames.page_mut(parent.at.id);
        let branch = Node::new(&page);
        let after = (parent.index + 1 < branch.count()).then_some(parent.index);
        let before = parent.index.checked_sub(1);
        for left in [after, before].into_iter().flatten() {
            if self.merge_pair(parent, branch, left)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn merge_pair(&mut self, parent: &Step, branch: Node<'_>, left: usize) -> Result<bool, Damage> {
        let (level, separator) = (branch.level() - 1, branch.key(left + 1));
        let (left_child, right_child) = (branch.child(left), branch.child(left + 1));
        let pages = self.reader().pages;
        let left_used = pages.node(left_child.at, level)?.used();
        let right = pages.node(right_child.at, level)?;
        let pulled_down = if level > 0 { separator.cell_bytes() } else { 0 };
        if left_used + right.used() + pulled_down > MERGED_MAX {
            return Ok(false);
        }
        let right_page: Page = *right.page();
        let left_at = if left_child.at.birth == self.frames.birth() {
            left_child.at
        } else {
            self.copy_node(left_child.at, level)?
        };
        self.append(left_at, Node::new(&right_page), separator);
        self.free_node(right_child.at);
        if level == 0 {
            separator.run().into_iter().for_each(|run| self.free_run(run));
        }
        let page = self.frames.page_mut(parent.at.id);
        node::remove(page, left + 1);
        let weight = left_child.weight.wrapping_add(right_child.weight);
        node::set_child(page, left, Child { at: left_at, weight });
        Ok(true)
    }

    /// Appends the cells of `right` to the node `left`. `separator` is the key between them.
    fn append(&mut self, left: Pointer, right: Node<'_>, separator: Part<'_>) {
        let page = self.frames.page_mut(left.id);
        for index in 0..right.count() {
            let mut cell = node::cell_of(right, index);
            if let (0, Cell::Child { key, .. }) = (index, &mut cell) {
                *key = separator;
            }
            let end = Node::new(page).count();
            assert!(node::insert(page, end, cell), "the nodes to merge fit into one");
        }
    }

    fn make_node(&mut self, level: u8) -> Pointer {
        let id = self.space.take_page();
        self.frames.make_node(id, level)
    }

    /// A copy of a node of an earlier batch, which leaves the tree.
    fn copy_node(&mut self, from: Pointer, level: u8) -> Result<Pointer, Damage> {
        let id = self.space.take_page();
        let copy = self.frames.copy_node(from, level, id)?;
        self.free_node(from);
        Ok(copy)
    }

    fn make_run(&mut self, parts: &[&[u8]]) -> RunRef {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let pages = run_pages(u32::try_from(len).expect("bounded by LENGTH_MAX"));
        let id = self.space.take_run(pages);
        let (at, len) = self.frames.make_run(id, parts);
        RunRef { at, len }
    }

    fn free_run(&mut self, run: RunRef) {
        self.free_pages(run.at, run_pages(run.len));
    }

    fn free_node(&mut self, at: Pointer) {
        self.free_pages(at, 1);
    }

    fn free_pages(&mut self, at: Pointer, pages: u32) {
        let freed = Freed { first: at.id, pages, born: at.birth.sequence() };
        if self.space.leave(freed, self.frames.birth().sequence()) {
            self.frames.free(at.id);
        }
    }
}

/// The cells of a node and one more, before the cell `index`.
struct Cells<'a> {
    node: Node<'a>,
    index: usize,
    cell: Cell<'a>,
}

impl<'a> Cells<'a> {
    fn count(&self) -> usize {
        self.node.count() + 1
    }

    fn at(&self, index: usize) -> Cell<'a> {
        match index.cmp(&self.index) {
            std::cmp::Ordering::Less => node::cell_of(self.node, index),
            std::cmp::Ordering::Equal => self.cell,
            std::cmp::Ordering::Greater => node::cell_of(self.node, index - 1),
        }
    }

    /// Where to split so that both sides fit: no cell is larger than half a node, so the left side, which is ended as soon as it has
    /// half of all bytes, has at most one cell more than that.
    fn middle(&self) -> usize {
        let total: usize = (0..self.count()).map(|index| self.at(index).size()).sum();
        let mut left = 0;
        for index in 0..self.count() {
            let size = self.at(index).size();
            if left + size > CAPACITY || (left > 0 && left + size / 2 > total / 2) {
                return index;
            }
            left += size;
        }
        unreachable!("a node that is full and a cell more don't fit into a node");
    }
}

fn copy_parts(parts: &[&[u8]], out: &mut [u8]) {
    let mut rest = out;
    for part in parts {
        let (here, after) = rest.split_at_mut(part.len());
        here.copy_from_slice(part);
        rest = after;
    }
}
