//! Reading one version: the writer's own or a pinned snapshot's.

use std::marker::PhantomData;

use crossbeam::epoch::{self, Guard};

use super::cursor::Cursor;
use super::frames::PageTable;
use super::header::Pointer;
use super::lookups::Lookups;
use super::node::{Node, Part, RunRef, Runs};
use super::types::{Damage, Fault, PageId, Table};

/// Where a table begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Root {
    /// "Nothing" if the table is empty.
    pub at: Pointer,
    pub level: u8,
    /// The sum of all weights.
    pub weight: u64,
}

pub(super) type Roots = [Root; Table::COUNT];

/// Pages and runs that stay readable for `'a`.
#[derive(Clone, Copy)]
pub(super) struct Pages<'a> {
    table: &'a PageTable,
    // What `'a` stands for: the pin and the guard, or the borrow of the tree.
    held: PhantomData<&'a ()>,
}

impl<'a> Pages<'a> {
    /// # Safety
    ///
    /// For all of `'a`, whatever will be read must be reachable from a pinned version and an epoch guard of the default
    /// collector be held; or the tree that owns the table must be borrowed.
    pub unsafe fn new(table: &'a PageTable) -> Pages<'a> {
        Pages { table, held: PhantomData }
    }

    #[inline]
    pub fn node(&self, at: Pointer, level: u8) -> Result<Node<'a>, Damage> {
        // SAFETY: promised to `new` for all of `'a`.
        unsafe { self.table.node(at, level) }.map(Node::new)
    }

    /// As `node`, but verifies the page anew if it is in the map; says whether it was.
    pub fn verify_node(&self, at: Pointer, level: u8) -> Result<(Node<'a>, bool), Damage> {
        // SAFETY: promised to `new` for all of `'a`.
        unsafe { self.table.verify_node(at, level) }.map(|(page, verified)| (Node::new(page), verified))
    }

    /// Verifies a run anew if it is in the map; gives the number of pages verified.
    pub fn verify_run(&self, run: RunRef) -> Result<u64, Damage> {
        // SAFETY: promised to `new` for all of `'a`.
        unsafe { self.table.verify_run(run.at, run.len) }
    }

    /// The child `index` of a branch, and where it is.
    #[inline]
    pub fn child(&self, branch: Node<'a>, index: usize) -> Result<Node<'a>, Damage> {
        self.node(branch.child(index).at, branch.level() - 1)
    }

    #[inline]
    pub fn prefetch(&self, id: PageId) {
        self.table.prefetch(id);
    }

    #[inline]
    pub fn part(&self, part: Part<'a>) -> Result<&'a [u8], Damage> {
        match part {
            Part::Inline(bytes) => Ok(bytes),
            Part::Run(run) => self.run(run),
        }
    }
}

impl<'a> Runs<'a> for Pages<'a> {
    fn run(&self, run: RunRef) -> Result<&'a [u8], Damage> {
        // SAFETY: promised to `new` for all of `'a`.
        unsafe { self.table.run(run.at, run.len) }
    }
}

/// Reads of one version. What it returns lives as long as the pin and the epoch guard it was made from, so never
/// across an await.
#[derive(Clone, Copy)]
pub struct Reader<'g> {
    pub(super) pages: Pages<'g>,
    pub(super) roots: &'g Roots,
}

impl<'g> Reader<'g> {
    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// Here and in all reads: the damage of the first page that is not what was written.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<&'g [u8]>, Damage> {
        let root = &self.roots[table as usize];
        if root.at.is_none() {
            return Ok(None);
        }
        let mut node = self.pages.node(root.at, root.level)?;
        while node.level() > 0 {
            node = self.pages.child(node, node.search_child(key, &self.pages)?)?;
        }
        match node.search(key, &self.pages)? {
            Ok(index) => self.pages.part(node.value(index)).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// A cursor that stands nowhere yet.
    pub fn cursor(&self, table: Table) -> Cursor<'g> {
        Cursor::new(self.pages, self.roots[table as usize])
    }

    /// For looking up many rows whose keys have 16 bytes.
    pub fn lookups(&self, table: Table) -> Lookups<'g> {
        Lookups::new(self.pages, self.roots[table as usize])
    }

    /// The sum of weights of the rows in `[from, to)`, or from `from` on. Of `Keys` a row weighs bit 0 of its
    /// value's first byte, of other tables 1. Costs two descents, however many rows there are.
    pub fn count(&self, table: Table, from: &[u8], to: Option<&[u8]>) -> Result<u64, Damage> {
        let root = &self.roots[table as usize];
        if root.at.is_none() || to.is_some_and(|to| to <= from) {
            return Ok(0);
        }
        let before = self.weight_before(root, from)?;
        let until = match to {
            Some(to) => self.weight_before(root, to)?,
            None => root.weight,
        };
        Ok(until.saturating_sub(before))
    }

    fn weight_before(&self, root: &Root, key: &[u8]) -> Result<u64, Damage> {
        let mut node = self.pages.node(root.at, root.level)?;
        let mut sum = 0u64;
        while node.level() > 0 {
            let index = node.search_child(key, &self.pages)?;
            sum = sum.wrapping_add(node.weight_before(index));
            node = self.pages.child(node, index)?;
        }
        let (Ok(index) | Err(index)) = node.search(key, &self.pages)?;
        Ok(sum.wrapping_add(node.weight_before(index)))
    }

    /// The damage to report for the row `key` whose page is whole but whose value is no row of its table.
    pub fn bad_row(&self, table: Table, key: &[u8]) -> Damage {
        let page = self.leaf_of(table, key).unwrap_or_else(|damage| damage.page);
        Damage::new(page, Fault::Row)
    }

    fn leaf_of(&self, table: Table, key: &[u8]) -> Result<PageId, Damage> {
        let root = &self.roots[table as usize];
        let (mut at, mut level) = (root.at, root.level);
        while level > 0 {
            let node = self.pages.node(at, level)?;
            at = node.child(node.search_child(key, &self.pages)?).at;
            level -= 1;
        }
        Ok(at.id)
    }
}

/// Guards of another collector would not keep our frames.
pub(super) fn check_guard(guard: &Guard) {
    assert!(
        guard.collector() == Some(epoch::default_collector()),
        "a guard of crossbeam's default collector is needed"
    );
}
