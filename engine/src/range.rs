//! Range: bounds, filters, sorting, counting, and answers spliced from stored bytes.
//!
//! An answer is made in two steps. *Planning* walks `keys` and learns which rows belong to it and
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
use crate::row::{self, BadRow, HistoryRow, KeyRowFront, KeyValue, push_varint, varint_len};
use crate::source::Source;
use crate::tree::{Damage, GROUP_ROWS, Table};
use crate::types::{RangeOptions, RangeOutcome, SortOrder, SortTarget};
use crate::view::View;

/// Rows whose places are looked up together, and so the most that an unsorted answer holds.
const CHUNK_ROWS: usize = 512;

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
        mut visit: impl FnMut(&[u8], &KeyRowFront<'_>, Located) -> Result<bool, Damage>,
    ) -> Result<(), Damage> {
        if let Bounds::One(key) = bounds {
            let Some(value) = self.source.get(Table::Keys, key)? else { return Ok(()) };
            let newest = KeyRowFront::decode(value).map_err(|bad| bad.of(Table::Keys))?;
            if let Some(located) = self.locate_front(&newest, at)? {
                visit(key, &newest, located)?;
            }
            return Ok(());
        }
        if bounds.is_empty() {
            return Ok(());
        }
        let mut rows = self.source.cursor(Table::Keys);
        let mut found = rows.seek(bounds.first())?;
        while found {
            let key = rows.key();
            if !bounds.reaches(key) {
                break;
            }
            let newest = KeyRowFront::decode(rows.value()?).map_err(|bad| bad.of(Table::Keys))?;
            if let Some(located) = self.locate_front(&newest, at)?
                && !visit(key, &newest, located)?
            {
                break;
            }
            found = rows.next()?;
        }
        Ok(())
    }

    /// How many keys are alive at revision `at`.
    pub fn count(&self, bounds: Bounds<'_>, at: i64) -> Result<i64, Damage> {
        let (from, to) = match bounds {
            Bounds::One(key) => {
                let Some(newest) = self.key_row(key)? else { return Ok(0) };
                return Ok(i64::from(self.locate(&newest, at)?.is_some()));
            }
            Bounds::From(from) => (from, None),
            Bounds::Between(from, to) => (from, Some(to)),
        };
        if bounds.is_empty() {
            return Ok(0);
        }
        let now = self.source.count(Table::Keys, from, to)? as i64;
        if at >= self.revision {
            return Ok(now);
        }
        let since = row::history_key(crate::Revision::start_of(at + 1));
        let changes = self.source.count(Table::History, &since, None)?;
        if changes as i64 <= now {
            self.count_back(bounds, at, now)
        } else {
            self.count_by_walking(bounds, at)
        }
    }

    /// Takes back, from the count now, what was created and deleted after `at`. Rows after the
    /// compact revision are all there, so nothing is missed.
    fn count_back(&self, bounds: Bounds<'_>, at: i64, now: i64) -> Result<i64, Damage> {
        let mut count = now;
        let mut rows = self.source.cursor(Table::History);
        let mut found = rows.seek(&row::history_key(crate::Revision::start_of(at + 1)))?;
        while found {
            let bad = |bad: BadRow| bad.of(Table::History);
            let row = HistoryRow::decode(rows.value()?).map_err(bad)?;
            if (row.created || row.deleted) && bounds.contains(row::key_of(row.kv).map_err(bad)?) {
                count += if row.deleted { 1 } else { -1 };
            }
            found = rows.next()?;
        }
        Ok(count)
    }

    fn count_by_walking(&self, bounds: Bounds<'_>, at: i64) -> Result<i64, Damage> {
        let mut count = 0;
        self.walk(bounds, at, |_, _, _| {
            count += 1;
            Ok(true)
        })?;
        Ok(count)
    }
}

/// How the rows of an answer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// As stored.
    Whole,
    /// Key, create revision, mod revision, version: etcd 3.7 answers these from its index, which
    /// knows no lease.
    Index,
    /// As stored, without the value: what etcd answers if it had to look at the values to sort.
    WithoutValue,
}

/// What planning found out.
struct Plan {
    at: i64,
    shape: Shape,
    count: i64,
    more: bool,
    rows: u64,
    /// Length of all rows with their tags and lengths.
    kvs_len: u64,
    /// The first rows, or all of them if `complete`.
    located: SmallVec<[Located; 1]>,
    complete: bool,
    /// With `complete` false: where the rows after `located` begin.
    next_key: Vec<u8>,
}

impl<'s, S: Source<'s>> State<S> {
    fn plan(&self, options: &RangeOptions) -> Result<Plan, RangeError> {
        let at = self.readable(options.revision)?;
        let bounds = Bounds::new(&options.key, &options.range_end);
        let mut plan = Plan {
            at,
            shape: shape(options),
            count: 0,
            more: false,
            rows: 0,
            kvs_len: 0,
            located: SmallVec::new(),
            complete: true,
            next_key: Vec::new(),
        };
        if options.count_only {
            plan.count = self.count(bounds, at)?;
        } else if is_sorted(options) || is_filtered(options) {
            self.plan_sorted(&mut plan, bounds, options)?;
        } else if options.sort_target != SortTarget::Key {
            self.plan_cut_then_sorted(&mut plan, bounds, options)?;
        } else {
            self.plan_in_key_order(&mut plan, bounds, options)?;
        }
        Ok(plan)
    }

    fn plan_in_key_order(
        &self,
        plan: &mut Plan,
        bounds: Bounds<'_>,
        options: &RangeOptions,
    ) -> Result<(), Damage> {
        let limit = if options.limit > 0 { options.limit as u64 } else { u64::MAX };
        self.walk(bounds, plan.at, |key, newest, located| {
            if plan.rows == limit {
                plan.more = true;
                return Ok(false);
            }
            if plan.located.len() < CHUNK_ROWS {
                plan.located.push(located);
            } else if plan.complete {
                plan.complete = false;
                plan.next_key.extend_from_slice(key);
            }
            let len = match plan.shape {
                Shape::Whole => located.kv_len as usize,
                _ => self.index_row(key, newest, located)?.encoded_len(),
            };
            plan.rows += 1;
            plan.kvs_len += framed_len(len);
            Ok(true)
        })?;
        plan.count = if plan.more { self.count(bounds, plan.at)? } else { plan.rows as i64 };
        Ok(())
    }

    /// etcd range.go: with a sort order or a revision filter everything is read, filtered, sorted,
    /// then cut. The count is of all keys in the range, filtered out or not.
    fn plan_sorted(&self, plan: &mut Plan, bounds: Bounds<'_>, options: &RangeOptions) -> Result<(), Damage> {
        self.walk(bounds, plan.at, |_, newest, located| {
            plan.count += 1;
            let created = if located.revision == newest.modified {
                newest.whole().map_err(|bad| bad.of(Table::Keys))?.create_revision
            } else {
                self.key_value(located)?.create_revision
            };
            if passes(options, located.revision.main, created) {
                plan.located.push(located);
            }
            Ok(true)
        })?;
        self.sort_and_cut(plan, options)
    }

    /// etcd range.go: a sort target with no order and no filter reads `limit + 1` rows in key
    /// order and sorts those.
    fn plan_cut_then_sorted(
        &self,
        plan: &mut Plan,
        bounds: Bounds<'_>,
        options: &RangeOptions,
    ) -> Result<(), Damage> {
        let most = if options.limit > 0 { (options.limit as usize).saturating_add(1) } else { usize::MAX };
        self.walk(bounds, plan.at, |_, _, located| {
            plan.located.push(located);
            Ok(plan.located.len() < most)
        })?;
        plan.count =
            if plan.located.len() == most { self.count(bounds, plan.at)? } else { plan.located.len() as i64 };
        self.sort_and_cut(plan, options)
    }

    fn sort_and_cut(&self, plan: &mut Plan, options: &RangeOptions) -> Result<(), Damage> {
        match options.sort_target {
            SortTarget::Key => {} // the walk was in key order
            SortTarget::Mod => plan.located.sort_by_key(|located| located.revision.main),
            SortTarget::Version => self.sort_by(plan, |kv| kv.version)?,
            SortTarget::Create => self.sort_by(plan, |kv| kv.create_revision)?,
            SortTarget::Value => self.sort_by(plan, |kv| kv.value)?,
        }
        if options.sort_order == SortOrder::Descend {
            plan.located.reverse();
        }
        if options.limit > 0 && plan.located.len() as u64 > options.limit as u64 {
            plan.located.truncate(options.limit as usize);
            plan.more = true;
        }
        plan.rows = plan.located.len() as u64;
        for &located in &plan.located {
            let len = match plan.shape {
                Shape::Whole => located.kv_len as usize,
                shape => reshaped(self.key_value(located)?, shape).encoded_len(),
            };
            plan.kvs_len += framed_len(len);
        }
        Ok(())
    }

    fn sort_by<K: Ord>(&self, plan: &mut Plan, key: impl Fn(&KeyValue<'s>) -> K) -> Result<(), Damage> {
        let mut keyed = Vec::with_capacity(plan.located.len());
        for &located in &plan.located {
            keyed.push((key(&self.key_value(located)?), located));
        }
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        plan.located = keyed.into_iter().map(|(_, located)| located).collect();
        Ok(())
    }

    /// The decoded row at a place.
    pub fn key_value(&self, located: Located) -> Result<KeyValue<'s>, Damage> {
        let row = self.live_row(located.revision)?;
        KeyValue::decode(row.kv).map_err(|bad| bad.of(Table::History))
    }

    /// A keys-only row. That of the newest revision needs no look into `history`.
    fn index_row<'k>(
        &self,
        key: &'k [u8],
        newest: &KeyRowFront<'_>,
        located: Located,
    ) -> Result<KeyValue<'k>, Damage> {
        let (create_revision, version) = if located.revision == newest.modified {
            let whole = newest.whole().map_err(|bad| bad.of(Table::Keys))?;
            (whole.create_revision, whole.version)
        } else {
            let kv = self.key_value(located)?;
            (kv.create_revision, kv.version)
        };
        let mod_revision = located.revision.main;
        Ok(KeyValue { key, create_revision, mod_revision, version, ..KeyValue::default() })
    }
}

fn shape(options: &RangeOptions) -> Shape {
    match (options.keys_only, options.sort_target) {
        (false, _) => Shape::Whole,
        (true, SortTarget::Value) => Shape::WithoutValue,
        (true, _) => Shape::Index,
    }
}

fn is_sorted(options: &RangeOptions) -> bool {
    match options.sort_order {
        SortOrder::None => false,
        SortOrder::Ascend => options.sort_target != SortTarget::Key,
        SortOrder::Descend => true,
    }
}

fn is_filtered(options: &RangeOptions) -> bool {
    options.min_mod_revision != 0
        || options.max_mod_revision != 0
        || options.min_create_revision != 0
        || options.max_create_revision != 0
}

fn passes(options: &RangeOptions, modified: i64, created: i64) -> bool {
    let within = |x: i64, min: i64, max: i64| (min == 0 || x >= min) && (max == 0 || x <= max);
    within(modified, options.min_mod_revision, options.max_mod_revision)
        && within(created, options.min_create_revision, options.max_create_revision)
}

fn reshaped(kv: KeyValue<'_>, shape: Shape) -> KeyValue<'_> {
    match shape {
        Shape::Whole => kv,
        Shape::Index => KeyValue { value: b"", lease: 0, ..kv },
        Shape::WithoutValue => KeyValue { value: b"", ..kv },
    }
}

/// Length of a row of `len` bytes with its tag and length.
fn framed_len(len: usize) -> u64 {
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
    pub(crate) fn new(view: Arc<View>, guard: &Guard, options: &RangeOptions) -> Result<Self, RangeError> {
        let plan = view.state(guard).plan(options)?;
        Ok(RangeAnswer {
            revision: view.revision(),
            count: plan.count,
            more: plan.more,
            kvs_len: plan.kvs_len,
            rest: Rest::new(options, plan),
            view,
        })
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
        let plan = self.plan(options)?;
        let (count, more) = (plan.count, plan.more);
        let mut kvs = Vec::with_capacity(plan.kvs_len as usize);
        Rest::new(options, plan).fill(self, usize::MAX, &mut kvs)?;
        Ok(RangeOutcome { revision: self.revision, kvs: kvs.into(), more, count })
    }
}
