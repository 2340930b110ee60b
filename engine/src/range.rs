//! Range: bounds, and answers spliced from stored bytes.
//!
//! An answer is made in two steps. *Planning* (`plan`) walks `keys` and learns which rows belong to it and
//! how long they are, so the message's length is known before a value is touched. *Filling* walks
//! again, in pieces as large as the connection takes, and copies each row's stored bytes behind a
//! tag and a length. Between two pieces the answer holds a pin on its view, the next key, and the
//! places of a few hundred rows at most, so its memory does not grow with the list.
//!
//! Sorted and filtered ranges are the exception: the places of all their rows (24 bytes each) are
//! kept, never their values.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam::epoch::Guard;
use smallvec::SmallVec;

use crate::error::RangeError;
use crate::history::{Located, State};
use crate::plan::{Plan, Planner, Shape, is_filtered, is_sorted};
use crate::row::{HistoryRow, KeyRowFront, KeyValue, push_varint, varint_len};
use crate::source::Source;
use crate::tree::{Damage, GROUP_ROWS, Table};
use crate::types::{RangeOptions, RangeOutcome, SortTarget};
use crate::view::View;

/// Rows whose places are looked up together, and so the most that an unsorted answer holds.
pub(crate) const CHUNK_ROWS: usize = 512;

/// Tag of field 2, length-delimited: `RangeResponse.kvs`, and `Event.kv`.
const KVS_TAG: u8 = 0x12;

/// Which keys are asked for. etcd: an empty end means the one key, one zero byte means "to the end".
#[derive(Clone, Copy)]
pub(crate) enum Bounds<'a> {
    One(&'a [u8]),
    From(&'a [u8]),
    Between(&'a [u8], &'a [u8]),
}

impl<'a> Bounds<'a> {
    pub fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Bounds::One(key),
            [0] => Bounds::From(key),
            end => Bounds::Between(key, end),
        }
    }

    pub fn first(&self) -> &'a [u8] {
        match *self {
            Bounds::One(key) | Bounds::From(key) | Bounds::Between(key, _) => key,
        }
    }

    /// Whether a key that is not less than the first one belongs.
    #[inline]
    pub fn reaches(&self, key: &[u8]) -> bool {
        match *self {
            Bounds::One(only) => key == only,
            Bounds::From(_) => true,
            Bounds::Between(_, end) => key < end,
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        key >= self.first() && self.reaches(key)
    }

    fn is_empty(&self) -> bool {
        matches!(*self, Bounds::Between(first, end) if end <= first)
    }
}

impl<'s, S: Source<'s>> State<S> {
    /// The revision to read at for a request that names `revision`.
    pub fn readable(&self, revision: i64) -> Result<i64, RangeError> {
        if revision > self.revision {
            return Err(RangeError::FutureRevision { revision: self.revision });
        }
        let at = if revision <= 0 { self.revision } else { revision };
        if at < self.compact_revision {
            return Err(RangeError::Compacted { compact_revision: self.compact_revision });
        }
        Ok(at)
    }

    /// Calls `visit` with every live row in key order until it answers false.
    pub fn walk(
        &self,
        bounds: Bounds<'_>,
        at: i64,
        visit: impl FnMut(&[u8], &KeyRowFront<'_>, Located) -> Result<bool, Damage>,
    ) -> Result<(), Damage> {
        self.walk_slice(bounds, at, &mut { usize::MAX }, visit).map(drop)
    }

    /// As [`State::walk`], but looks at no more than `budget` rows, dead ones included, and lessens it by those it
    /// did look at. Returns the key to go on from, if it did not come to an end.
    pub fn walk_slice(
        &self,
        bounds: Bounds<'_>,
        at: i64,
        budget: &mut usize,
        mut visit: impl FnMut(&[u8], &KeyRowFront<'_>, Located) -> Result<bool, Damage>,
    ) -> Result<Option<Vec<u8>>, Damage> {
        if let Bounds::One(key) = bounds {
            let Some(value) = self.source.get(Table::Keys, key)? else { return Ok(None) };
            let newest = KeyRowFront::decode(value).map_err(|bad| bad.of(Table::Keys))?;
            if let Some(located) = self.locate_front(&newest, at)? {
                visit(key, &newest, located)?;
            }
            return Ok(None);
        }
        if bounds.is_empty() {
            return Ok(None);
        }
        let mut rows = self.source.cursor(Table::Keys);
        let mut found = rows.seek(bounds.first())?;
        while found {
            let key = rows.key();
            if !bounds.reaches(key) {
                break;
            }
            if *budget == 0 {
                return Ok(Some(key.to_vec()));
            }
            *budget -= 1;
            let newest = KeyRowFront::decode(rows.value()?).map_err(|bad| bad.of(Table::Keys))?;
            if let Some(located) = self.locate_front(&newest, at)?
                && !visit(key, &newest, located)?
            {
                break;
            }
            found = rows.next()?;
        }
        Ok(None)
    }
}

pub(crate) fn reshaped(kv: KeyValue<'_>, shape: Shape) -> KeyValue<'_> {
    match shape {
        Shape::Whole => kv,
        Shape::Index => KeyValue { value: b"", lease: 0, ..kv },
        Shape::WithoutValue => KeyValue { value: b"", ..kv },
    }
}

/// Length of a row of `len` bytes with its tag and length.
pub(crate) fn framed_len(len: usize) -> u64 {
    (1 + varint_len(len as u64) + len) as u64
}

#[inline]
fn push_framed(out: &mut Vec<u8>, kv: &[u8]) {
    out.push(KVS_TAG);
    push_varint(out, kv.len() as u64);
    out.extend_from_slice(kv);
}

fn push_reshaped(out: &mut Vec<u8>, kv: &KeyValue<'_>) {
    out.push(KVS_TAG);
    push_varint(out, kv.encoded_len() as u64);
    kv.encode(out);
}

/// What is left of an answer to fill.
struct Rest {
    range_end: Bytes,
    at: i64,
    shape: Shape,
    /// Rows not filled yet.
    rows: u64,
    located: SmallVec<[Located; 1]>,
    /// How many of `located` are filled.
    position: usize,
    complete: bool,
    next_key: Vec<u8>,
    /// The buffer of the former `next_key`, to be used again.
    spare: Vec<u8>,
}

impl Rest {
    fn new(options: &RangeOptions, plan: Plan) -> Rest {
        // an index-shaped answer in key order is filled from `keys` alone
        let from_keys = plan.shape == Shape::Index && !is_sorted(options) && !is_filtered(options);
        let by_key = from_keys && options.sort_target == SortTarget::Key && plan.rows > 0;
        Rest {
            range_end: options.range_end.clone(),
            at: plan.at,
            shape: plan.shape,
            rows: plan.rows,
            located: if by_key { SmallVec::new() } else { plan.located },
            position: 0,
            complete: plan.complete && !by_key,
            next_key: if by_key { options.key.to_vec() } else { plan.next_key },
            spare: Vec::new(),
        }
    }

    /// Appends whole rows until `out` has grown by `max` bytes or more, or nothing is left.
    fn fill<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        let full = out.len().saturating_add(max);
        while self.rows > 0 && out.len() < full {
            if self.position < self.located.len() {
                self.fill_located(state, full, out)?;
            } else if self.complete {
                break;
            } else if self.shape == Shape::Index {
                self.fill_from_keys(state, full, out)?;
            } else {
                self.locate_more(state)?;
            }
        }
        Ok(())
    }

    fn fill_located<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        full: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        if let [only] = self.located[..] {
            let row = state.live_row(only.revision)?; // a get: no group pays for one row
            return self.push_row(row, out);
        }
        let mut rows = state.live_rows();
        while self.position < self.located.len() && out.len() < full {
            let group = group_of(&self.located[self.position..], full - out.len());
            for value in rows.group(group)? {
                let row = HistoryRow::decode(value).map_err(|bad| bad.of(Table::History))?;
                self.push_row(row, out)?;
            }
        }
        Ok(())
    }

    #[inline]
    fn push_row(&mut self, row: HistoryRow<'_>, out: &mut Vec<u8>) -> Result<(), Damage> {
        match self.shape {
            Shape::Whole => push_framed(out, row.kv),
            shape => {
                let kv = KeyValue::decode(row.kv).map_err(|bad| bad.of(Table::History))?;
                push_reshaped(out, &reshaped(kv, shape));
            }
        }
        self.position += 1;
        self.rows -= 1;
        Ok(())
    }

    fn locate_more<'s, S: Source<'s>>(&mut self, state: &State<S>) -> Result<(), Damage> {
        let most = self.rows.min(CHUNK_ROWS as u64) as usize;
        let (from, mut next) = (std::mem::take(&mut self.next_key), std::mem::take(&mut self.spare));
        next.clear();
        self.located.clear();
        self.position = 0;
        self.complete = true;
        state.walk(Bounds::new(&from, &self.range_end), self.at, |key, _, located| {
            if self.located.len() == most {
                next.extend_from_slice(key);
                self.complete = false;
                return Ok(false);
            }
            self.located.push(located);
            Ok(true)
        })?;
        (self.next_key, self.spare) = (next, from);
        Ok(())
    }

    fn fill_from_keys<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        full: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Damage> {
        let (from, mut next) = (std::mem::take(&mut self.next_key), std::mem::take(&mut self.spare));
        next.clear();
        let mut left = self.rows;
        self.complete = true;
        state.walk(Bounds::new(&from, &self.range_end), self.at, |key, newest, located| {
            if left == 0 || out.len() >= full {
                next.extend_from_slice(key);
                self.complete = false;
                return Ok(false);
            }
            push_reshaped(out, &state.index_row(key, newest, located)?);
            left -= 1;
            Ok(true)
        })?;
        self.rows = left;
        (self.next_key, self.spare) = (next, from);
        Ok(())
    }
}

/// The first rows of `located` that are looked up together: those that fill `room` bytes, if there are not too many.
fn group_of(located: &[Located], room: usize) -> &[Located] {
    let mut len = 0;
    let fills = |located: &Located| {
        len += framed_len(located.kv_len as usize);
        len >= room as u64
    };
    let rows = located.iter().take(GROUP_ROWS).position(fills).map_or(GROUP_ROWS, |last| last + 1);
    &located[..rows.min(located.len())]
}

/// The answer to a Range, its rows still in the tree. It pins its view until it is dropped.
pub struct RangeAnswer {
    view: Arc<View>,
    revision: i64,
    count: i64,
    more: bool,
    kvs_len: u64,
    rest: Rest,
}

impl RangeAnswer {
    pub(crate) fn new(view: Arc<View>, options: &RangeOptions, plan: Plan) -> Self {
        RangeAnswer {
            revision: view.revision(),
            count: plan.count,
            more: plan.more,
            kvs_len: plan.kvs_len,
            rest: Rest::new(options, plan),
            view,
        }
    }

    /// Header revision: the view's, whatever revision was asked for.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Keys in the range at the revision read, whatever limit and filters say.
    pub fn count(&self) -> i64 {
        self.count
    }

    /// Whether the limit cut the answer.
    pub fn more(&self) -> bool {
        self.more
    }

    /// Rows that are still to be filled.
    pub fn rows(&self) -> u64 {
        self.rest.rows
    }

    /// Bytes that all calls of [`RangeAnswer::fill`] append together.
    pub fn kvs_len(&self) -> u64 {
        self.kvs_len
    }

    /// Appends the next rows as they stand in a `RangeResponse`, each with the tag of `kvs` and its
    /// length. Stops after the row that brings the appended bytes to `max` or more, so it may
    /// exceed `max` by one row. True when all rows are out.
    pub fn fill(&mut self, guard: &Guard, max: usize, out: &mut Vec<u8>) -> Result<bool, Damage> {
        self.rest.fill(&self.view.state(guard), max, out)?;
        Ok(self.rest.rows == 0)
    }
}

impl<'s, S: Source<'s>> State<S> {
    /// A whole answer at once, for ranges inside transactions.
    pub fn range(&self, options: &RangeOptions) -> Result<RangeOutcome, RangeError> {
        let mut planner = Planner::new(self, options)?;
        while !planner.step(self, options, usize::MAX)? {}
        let plan = planner.into_plan();
        let (count, more) = (plan.count, plan.more);
        let mut kvs = Vec::with_capacity(plan.kvs_len as usize);
        Rest::new(options, plan).fill(self, usize::MAX, &mut kvs)?;
        Ok(RangeOutcome { revision: self.revision, kvs: kvs.into(), more, count })
    }
}
