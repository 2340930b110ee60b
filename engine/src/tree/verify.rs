//! `store check`: reads every page the newest meta reaches, and compares what is reached with the stored bitmap.
//!
//! It needs no tree and changes nothing. Unlike a reader it goes on after damage, so that one pass names all of it.

use super::bits::Bits;
use super::header::{self, KIND_RUN, Page, Pointer};
use super::meta::{self, Meta};
use super::node::{self, Node, Part, RunRef};
use super::types::{Damage, Fault, Map, OpenError, PageId, Table};

/// Findings kept in a report; the rest is only counted.
const FINDINGS_MAX: usize = 1000;

/// What a check has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of the checkpoint that was read.
    pub checkpoint: u64,
    /// Whose file it is.
    pub identity: super::Identity,
    /// Pages that the newest meta reaches, metas and bitmap included.
    pub pages: u64,
    /// Rows of each table, in the order of `Table::ALL`.
    pub rows: [u64; Table::COUNT],
    /// The first thousand findings, in the order of the walk.
    pub findings: Vec<Finding>,
    /// How many there were in all.
    pub finding_count: u64,
}

/// Something that is not as it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The other meta page is not whole: torn by a crash, or damaged. What the newest reaches is not concerned.
    OtherMeta(Damage),
    /// A page whose contents are not what was written. What lies below it was not checked.
    Damage(Damage),
    /// Keys that are out of order within the page, or beyond the bounds set by its parent.
    Order(PageId),
    /// The sum of weights below the page is not what its parent says.
    Weight(PageId),
    /// A page that two places claim.
    Twice(PageId),
    /// A page in use that the bitmap calls free.
    Unmarked(PageId),
    /// A page that the bitmap calls in use and nothing reaches. (After damage: what lay below it.)
    Leaked(PageId),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (page, what) = match self {
            Finding::OtherMeta(damage) => return write!(f, "the other meta: {damage}"),
            Finding::Damage(damage) => return damage.fmt(f),
            Finding::Order(page) => (page, "has keys out of order"),
            Finding::Weight(page) => (page, "has not the weight its parent says"),
            Finding::Twice(page) => (page, "is used twice"),
            Finding::Unmarked(page) => (page, "is in use but free in the bitmap"),
            Finding::Leaked(page) => (page, "is not free in the bitmap, but nothing reaches it"),
        };
        write!(f, "page {} at offset {} {what}", page.0, page.offset())
    }
}

/// Checks the whole file behind `map`. An error means that there is nothing to walk: no whole meta.
pub fn verify(map: &dyn Map) -> Result<Report, OpenError> {
    let metas = meta::read_metas(map)?;
    let newest = metas.newest;
    let report = Report { checkpoint: newest.checkpoint, identity: newest.identity, ..Report::default() };
    let mut walk = Walk { map, pages: newest.pages, reached: Bits::default(), report };
    if let Some(damage) = metas.bad {
        walk.find(Finding::OtherMeta(damage));
    }
    walk.claim(PageId(0), 2);
    walk.claim(newest.bitmap, newest.bitmap_pages);
    for table in Table::ALL {
        let root = newest.roots[table as usize];
        if root.at.is_none() {
            continue;
        }
        let weight = walk.node(table, root.at, root.level, (None, None));
        if weight.is_some_and(|weight| weight != root.weight) {
            walk.find(Finding::Weight(root.at.id));
        }
    }
    walk.compare_bitmap(&newest);
    walk.report.pages = u64::from(walk.reached.count());
    Ok(walk.report)
}

struct Walk<'m> {
    map: &'m dyn Map,
    pages: u32,
    reached: Bits,
    report: Report,
}

/// The least key that a node may have, and the one that all its keys must be less than.
type Bounds<'b> = (Option<&'b [u8]>, Option<&'b [u8]>);

impl<'m> Walk<'m> {
    fn find(&mut self, finding: Finding) {
        self.report.finding_count += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            self.report.findings.push(finding);
        }
    }

    /// Notes that pages are in use; false if that can't be.
    fn claim(&mut self, first: PageId, count: u32) -> bool {
        let Some(end) = first.0.checked_add(count).filter(|end| *end <= self.pages) else {
            self.find(Finding::Damage(Damage::new(first, Fault::BeyondFile)));
            return false;
        };
        let mut once = true;
        for id in first.0..end {
            if self.reached.contains(id) {
                self.find(Finding::Twice(PageId(id)));
                once = false;
            } else {
                self.reached.insert(id);
            }
        }
        once
    }

    /// Walks a node and all below; returns the sum of weights, unless it can't be known.
    fn node(&mut self, table: Table, at: Pointer, level: u8, bounds: Bounds<'_>) -> Option<u64> {
        if !self.claim(at.id, 1) {
            return None;
        }
        let page = match self.read_node(at, level) {
            Ok(page) => page,
            Err(damage) => {
                self.find(Finding::Damage(damage));
                return None;
            }
        };
        let node = Node::new(page);
        let keys = self.keys(node);
        self.check_order(at.id, level, &keys, bounds);
        if level > 0 { self.children(table, node, &keys, bounds) } else { self.rows(table, at.id, node) }
    }

    fn children(
        &mut self,
        table: Table,
        node: Node<'m>,
        keys: &[Option<&'m [u8]>],
        bounds: Bounds<'_>,
    ) -> Option<u64> {
        let mut sum = Some(0u64);
        for index in 0..node.count() {
            let child = node.child(index);
            let lower = if index == 0 { bounds.0 } else { keys[index] };
            let upper = keys.get(index + 1).copied().unwrap_or(bounds.1);
            let weight = self.node(table, child.at, node.level() - 1, (lower, upper));
            if weight.is_some_and(|weight| weight != child.weight) {
                self.find(Finding::Weight(child.at.id));
            }
            sum = sum.zip(weight).map(|(sum, weight)| sum.wrapping_add(weight));
        }
        sum
    }

    fn rows(&mut self, table: Table, page: PageId, node: Node<'m>) -> Option<u64> {
        self.report.rows[table as usize] += node.count() as u64;
        for index in 0..node.count() {
            let first = match node.value(index) {
                Part::Inline(value) => value.first(),
                Part::Run(run) => match self.run(run) {
                    Some(value) => value.first(),
                    None => continue,
                },
            };
            if u64::from(table.weight(first.copied())) != node.weight(index) {
                self.find(Finding::Weight(page));
            }
        }
        Some(node.weight_before(node.count()))
    }

    /// The node's keys; none where it is in a damaged run.
    fn keys(&mut self, node: Node<'m>) -> Vec<Option<&'m [u8]>> {
        let keys = (0..node.count()).map(|index| node.key(index)).collect::<Vec<_>>();
        let key = |part| match part {
            Part::Inline(key) => Some(key),
            Part::Run(run) => self.run(run),
        };
        keys.into_iter().map(key).collect()
    }

    fn check_order(&mut self, page: PageId, level: u8, keys: &[Option<&[u8]>], bounds: Bounds<'_>) {
        let first = usize::from(level > 0);
        let known: Vec<&[u8]> = keys.iter().skip(first).flatten().copied().collect();
        let ascending = known.is_sorted_by(|a, b| a < b);
        let above = bounds.0.is_none_or(|lower| known.first().is_none_or(|key| *key >= lower));
        let below = bounds.1.is_none_or(|upper| known.last().is_none_or(|key| *key < upper));
        let first_is_empty = level == 0 || keys.first().is_some_and(|key| key.is_some_and(<[u8]>::is_empty));
        if !(ascending && above && below && first_is_empty) {
            self.find(Finding::Order(page));
        }
    }

    fn read_node(&self, at: Pointer, level: u8) -> Result<&'m Page, Damage> {
        let bytes = self.map.pages(at.id, 1).ok_or(Damage::new(at.id, Fault::BeyondFile))?;
        header::check_sealed(bytes, at, header::node_kind(level))?;
        let page: &Page = bytes.try_into().map_err(|_| Damage::new(at.id, Fault::BeyondFile))?;
        node::check_structure(page).map_err(|fault| Damage::new(at.id, fault))?;
        Ok(page)
    }

    fn run(&mut self, run: RunRef) -> Option<&'m [u8]> {
        if !self.claim(run.at.id, header::run_pages(run.len)) {
            return None;
        }
        let read = self.read_run(run);
        read.map_err(|damage| self.find(Finding::Damage(damage))).ok()
    }

    fn read_run(&self, run: RunRef) -> Result<&'m [u8], Damage> {
        let pages = self.map.pages(run.at.id, header::run_pages(run.len));
        let bytes = pages.ok_or(Damage::new(run.at.id, Fault::BeyondFile))?;
        header::check_sealed(bytes, run.at, u16::from_le_bytes([KIND_RUN, 0]))?;
        if header::u32_at(bytes, 20) != run.len {
            return Err(Damage::new(run.at.id, Fault::Structure));
        }
        Ok(&bytes[header::HEADER_SIZE..header::HEADER_SIZE + run.len as usize])
    }

    fn compare_bitmap(&mut self, meta: &Meta) {
        let live = match meta::read_bitmap(self.map, meta) {
            Ok(live) => live,
            Err(damage) => return self.find(Finding::Damage(damage)),
        };
        let unmarked: Vec<u32> = self.reached.without(&live).collect();
        let leaked: Vec<u32> = live.without(&self.reached).collect();
        unmarked.into_iter().for_each(|id| self.find(Finding::Unmarked(PageId(id))));
        leaked.into_iter().for_each(|id| self.find(Finding::Leaked(PageId(id))));
    }
}
