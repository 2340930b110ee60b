//! A position in a table, and the ways to move it.
//!
//! The cursor keeps the path from the root to its leaf. A seek first climbs from the leaf to the lowest node that surely
//! holds the key and descends from there, so that nearby seeks (the rows of a list, written one after the other) stay in
//! one leaf; `next` is an increment but for one row per leaf.

use smallvec::SmallVec;

use super::header::Pointer;
use super::node::{Node, Part};
use super::read::{Pages, Root};
use super::types::Damage;

#[derive(Clone, Copy)]
struct Step<'a> {
    node: Node<'a>,
    index: usize,
}

/// A position in a table. It stands on a row, or nowhere: at first, and after a move that found none.
#[derive(Clone)]
pub struct Cursor<'a> {
    pages: Pages<'a>,
    root: Root,
    /// From the root down to a leaf; after a failed move perhaps not so far.
    path: SmallVec<[Step<'a>; 6]>,
    /// The leaf and the index of the row in it, if it stands on one. The path's last index is kept up only on leaving the leaf.
    leaf: Option<Step<'a>>,
    /// The key, where it is in a run.
    long_key: Option<&'a [u8]>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(pages: Pages<'a>, root: Root) -> Cursor<'a> {
        Cursor { pages, root, path: SmallVec::new(), leaf: None, long_key: None }
    }

    /// Moves to the first row at or after `key`; false if there is none.
    pub fn seek(&mut self, key: &[u8]) -> Result<bool, Damage> {
        // Rows of a list were often written one after the other.
        if let Some(Step { node, index }) = self.leaf
            && index + 1 < node.count()
            && node.compare(index + 1, key, &self.pages)?.is_eq()
        {
            return self.stand(node, index + 1);
        }
        if !self.descend_to(key)? {
            return Ok(false);
        }
        let node = self.last_node();
        let (Ok(index) | Err(index)) = node.search(key, &self.pages)?;
        if index < node.count() { self.stand(node, index) } else { self.next_leaf() }
    }

    /// Moves to the last row at or before `key`; false if there is none.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, Damage> {
        if !self.descend_to(key)? {
            return Ok(false);
        }
        let node = self.last_node();
        match node.search(key, &self.pages)? {
            Ok(index) => self.stand(node, index),
            Err(0) => self.prev_leaf(),
            Err(index) => self.stand(node, index - 1),
        }
    }

    /// Moves to the first row; false if the table is empty.
    pub fn seek_first(&mut self) -> Result<bool, Damage> {
        self.leave();
        self.path.clear();
        if self.root.at.is_none() {
            return Ok(false);
        }
        self.enter(self.root.at, self.root.level, |_| 0)?;
        self.stand(self.last_node(), 0)
    }

    /// Moves to the last row; false if the table is empty.
    pub fn seek_last(&mut self) -> Result<bool, Damage> {
        self.leave();
        self.path.clear();
        if self.root.at.is_none() {
            return Ok(false);
        }
        self.enter(self.root.at, self.root.level, |node| node.count() - 1)?;
        let node = self.last_node();
        self.stand(node, node.count() - 1)
    }

    /// Moves to the next row; false if there is none.
    #[allow(clippy::should_implement_trait)] // it can fail, and the row is read from the cursor
    #[inline]
    pub fn next(&mut self) -> Result<bool, Damage> {
        match self.leaf {
            Some(Step { node, index }) if index + 1 < node.count() => self.stand(node, index + 1),
            Some(_) => self.next_leaf(),
            None => Ok(false),
        }
    }

    /// Moves to the row before; false if there is none.
    #[inline]
    pub fn prev(&mut self) -> Result<bool, Damage> {
        match self.leaf {
            Some(Step { node, index }) if index > 0 => self.stand(node, index - 1),
            Some(_) => self.prev_leaf(),
            None => Ok(false),
        }
    }

    /// Whether it stands on a row.
    #[inline]
    pub fn is_valid(&self) -> bool {
        self.leaf.is_some()
    }

    /// The row's key.
    ///
    /// # Panics
    ///
    /// If the cursor stands nowhere.
    #[inline]
    pub fn key(&self) -> &'a [u8] {
        let Step { node, index } = self.leaf.expect("the cursor stands on a row");
        match node.key(index) {
            Part::Inline(key) => key,
            Part::Run(_) => self.long_key.expect("read when the cursor moved here"),
        }
    }

    /// The row's value. Only now are the pages of a long value touched.
    ///
    /// # Panics
    ///
    /// If the cursor stands nowhere.
    #[inline]
    pub fn value(&self) -> Result<&'a [u8], Damage> {
        let Step { node, index } = self.leaf.expect("the cursor stands on a row");
        self.pages.part(node.value(index))
    }

    /// The length of the row's value in bytes, without touching it.
    ///
    /// # Panics
    ///
    /// If the cursor stands nowhere.
    pub fn value_len(&self) -> usize {
        let Step { node, index } = self.leaf.expect("the cursor stands on a row");
        match node.value(index) {
            Part::Inline(value) => value.len(),
            Part::Run(run) => run.len as usize,
        }
    }

    fn last_node(&self) -> Node<'a> {
        self.path.last().expect("the path leads to a leaf").node
    }

    fn leave(&mut self) {
        self.leaf = None;
        self.long_key = None;
    }

    #[inline]
    fn stand(&mut self, node: Node<'a>, index: usize) -> Result<bool, Damage> {
        self.leaf = None;
        if let key @ Part::Run(_) = node.key(index) {
            self.long_key = Some(self.pages.part(key)?);
        }
        self.leaf = Some(Step { node, index });
        Ok(true)
    }

    /// Extends the path from `at` down to a leaf.
    fn enter(&mut self, at: Pointer, level: u8, choose: impl Fn(Node<'a>) -> usize) -> Result<(), Damage> {
        let mut node = self.pages.node(at, level)?;
        while node.level() > 0 {
            let index = choose(node);
            self.path.push(Step { node, index });
            node = self.pages.child(node, index)?;
        }
        self.path.push(Step { node, index: 0 });
        Ok(())
    }

    /// Sets the path to the leaf that has `key`, if any has; false if the table is empty.
    fn descend_to(&mut self, key: &[u8]) -> Result<bool, Damage> {
        self.leave();
        if self.root.at.is_none() {
            return Ok(false);
        }
        // After a failed move the path may end above the leaves; its nodes are good to start from nevertheless.
        while let Some(step) = self.path.last() {
            if step.node.surely_holds(key, &self.pages)? {
                break;
            }
            self.path.pop();
        }
        let mut node = match self.path.pop() {
            Some(step) => step.node,
            None => self.pages.node(self.root.at, self.root.level)?,
        };
        while node.level() > 0 {
            let index = node.search_child(key, &self.pages)?;
            self.path.push(Step { node, index });
            node = self.pages.child(node, index)?;
        }
        self.path.push(Step { node, index: 0 });
        Ok(true)
    }

    #[cold]
    fn next_leaf(&mut self) -> Result<bool, Damage> {
        self.leave();
        self.path.pop();
        while let Some(step) = self.path.last_mut() {
            if step.index + 1 < step.node.count() {
                step.index += 1;
                let child = step.node.child(step.index).at;
                let level = step.node.level() - 1;
                self.enter(child, level, |_| 0)?;
                return self.stand(self.last_node(), 0);
            }
            self.path.pop();
        }
        Ok(false)
    }

    #[cold]
    fn prev_leaf(&mut self) -> Result<bool, Damage> {
        self.leave();
        self.path.pop();
        while let Some(step) = self.path.last_mut() {
            if step.index > 0 {
                step.index -= 1;
                let child = step.node.child(step.index).at;
                let level = step.node.level() - 1;
                self.enter(child, level, |node| node.count() - 1)?;
                let node = self.last_node();
                return self.stand(node, node.count() - 1);
            }
            self.path.pop();
        }
        Ok(false)
    }
}
