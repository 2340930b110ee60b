//! The scrub: verifies every page of the file that the present version reaches, a slice at a time, read or not.
//!
//! A page is verified when it is first touched. One that nobody reads may rot for months, until the other copies have
//! rotted too; so somebody walks all of them now and then. Each slice pins the version that is newest when it begins, so
//! a pass of hours keeps no pages from being reused. It goes on at the key where the one before stopped:
//! what was written in between was written by us, and is verified by the next pass at the latest.
//!
//! Pages with a heap frame are passed over: their bytes in the file are not what counts. The metas and the bitmap are not
//! tree pages; see [`check_metas`].

use crossbeam::epoch;

use super::Snapshot;
use super::header::Pointer;
use super::meta;
use super::node::{Node, Part};
use super::read::Pages;
use super::types::{Damage, Map, OpenError, Table};

/// A pass over all tables, and where it stands.
#[derive(Debug, Default)]
pub struct Scrub {
    /// Number of the table, in the order of `Table::ALL`.
    table: usize,
    /// Everything of it below this key is done.
    from: Vec<u8>,
}

/// What a slice did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Pages whose checksum was verified. Branches on the way to where the slice begins are verified again.
    pub pages: u64,
    /// Nothing is left: the pass is over.
    pub finished: bool,
}

/// How a walk ended.
enum Walked {
    All,
    /// The slice is over; `Scrub::from` says where the next one begins.
    Pause,
}

impl Scrub {
    /// Verifies about `pages` pages, at least one row's. The last row's value may be more.
    ///
    /// # Errors
    ///
    /// The damage of the first page that is not what was written.
    pub fn step(&mut self, snapshot: &Snapshot, pages: u64) -> Result<Slice, Damage> {
        let guard = epoch::pin();
        let reader = snapshot.reader(&guard);
        let mut walk = Walk { pages: reader.pages, verified: 0, limit: pages, resume: None };
        while let Some(table) = Table::ALL.get(self.table) {
            let root = &reader.roots[*table as usize];
            if !root.at.is_none()
                && let Walked::Pause = walk.node(root.at, root.level, &self.from)?
            {
                self.from = walk.resume.take().unwrap_or_default();
                return Ok(Slice { pages: walk.verified, finished: false });
            }
            self.table += 1;
            self.from.clear();
        }
        Ok(Slice { pages: walk.verified, finished: true })
    }
}

struct Walk<'g> {
    pages: Pages<'g>,
    verified: u64,
    limit: u64,
    resume: Option<Vec<u8>>,
}

impl<'g> Walk<'g> {
    fn node(&mut self, at: Pointer, level: u8, from: &[u8]) -> Result<Walked, Damage> {
        let (node, verified) = self.pages.verify_node(at, level)?;
        self.verified += u64::from(verified);
        if level == 0 { self.rows(node, from) } else { self.children(node, from) }
    }

    fn children(&mut self, node: Node<'g>, from: &[u8]) -> Result<Walked, Damage> {
        let start = node.search_child(from, &self.pages)?;
        for index in start..node.count() {
            self.part(node.key(index))?;
            if index > start && self.verified >= self.limit {
                return self.pause(node.key(index));
            }
            let from = if index == start { from } else { &[] };
            if let Walked::Pause = self.node(node.child(index).at, node.level() - 1, from)? {
                return Ok(Walked::Pause);
            }
        }
        Ok(Walked::All)
    }

    fn rows(&mut self, node: Node<'g>, from: &[u8]) -> Result<Walked, Damage> {
        let (Ok(start) | Err(start)) = node.search(from, &self.pages)?;
        for index in start..node.count() {
            if index > start && self.verified >= self.limit {
                return self.pause(node.key(index));
            }
            self.part(node.key(index))?;
            self.part(node.value(index))?;
        }
        Ok(Walked::All)
    }

    fn part(&mut self, part: Part<'g>) -> Result<(), Damage> {
        if let Part::Run(run) = part {
            self.verified += self.pages.verify_run(run)?;
        }
        Ok(())
    }

    fn pause(&mut self, at: Part<'g>) -> Result<Walked, Damage> {
        self.resume = Some(self.pages.part(at)?.to_vec());
        Ok(Walked::Pause)
    }
}

/// Verifies what a start reads first: the newest meta and its bitmap. Returns the pages verified. The other meta must be
/// whole too, or damaged as it was when the file was opened (`known`: a torn one stays until the next checkpoint).
///
/// # Errors
///
/// What is damaged. The caller makes sure that no checkpoint is being written meanwhile.
pub fn check_metas(map: &dyn Map, known: Option<Damage>) -> Result<u64, Damage> {
    let metas = match meta::read_metas(map) {
        Ok(metas) => metas,
        Err(OpenError::Empty { torn: None }) => return Ok(0),
        Err(OpenError::Empty { torn: Some(damage) } | OpenError::Damage(damage)) => return Err(damage),
        // Ours when it was opened, and nobody but us writes it: these bytes are not what was written.
        Err(OpenError::Foreign { .. } | OpenError::Version { .. }) => {
            return Err(Damage::new(super::PageId(0), super::Fault::Structure));
        }
    };
    match metas.bad {
        Some(damage) if Some(damage) != known => return Err(damage),
        _ => {}
    }
    meta::read_bitmap(map, &metas.newest)?;
    Ok(2 + u64::from(metas.newest.bitmap_pages))
}
