//! Planning a Range: which rows belong to the answer, and how long they are.
//!
//! A plan reads every `keys` row of its range, and a range may have millions. So it is made in slices: a [`Planner`] keeps
//! what it has found and the key to go on from, and between two slices its core serves others. All slices read the same
//! version. Two things are not sliced: sorting what was found, and ranges inside transactions, which are one step anyway.
//!
//! Counting at an older revision is part of it: the count now is known without a walk, and what was created and deleted
//! since is taken back from it; or, where that would be more, the range is walked.

use std::sync::Arc;

use crossbeam::epoch::Guard;
use smallvec::SmallVec;

use crate::error::RangeError;
use crate::history::{Located, State};
use crate::range::{Bounds, CHUNK_ROWS, RangeAnswer, framed_len, reshaped};
use crate::row::{self, BadRow, HistoryRow, KeyRowFront, KeyValue};
use crate::source::Source;
use crate::tree::{Damage, Table};
use crate::types::{RangeOptions, Revision, SortOrder, SortTarget};
use crate::view::View;

/// How the rows of an answer look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As stored.
    Whole,
    /// Key, create revision, mod revision, version: etcd 3.7 answers these from its index, which
    /// knows no lease.
    Index,
    /// As stored, without the value: what etcd answers if it had to look at the values to sort.
    WithoutValue,
}

/// What planning found out.
pub(crate) struct Plan {
    pub at: i64,
    pub shape: Shape,
    pub count: i64,
    pub more: bool,
    pub rows: u64,
    /// Length of all rows with their tags and lengths.
    pub kvs_len: u64,
    /// The first rows, or all of them if `complete`.
    pub located: SmallVec<[Located; 1]>,
    pub complete: bool,
    /// With `complete` false: where the rows after `located` begin.
    pub next_key: Vec<u8>,
}

/// What a plan still needs.
enum Work {
    /// The rows from this key on; from the first one if it is empty.
    Rows(Vec<u8>),
    /// To take back, from the count now, what `history` tells from this revision on.
    CountBack(Revision),
    /// To count the rows from this key on; from the first one if it is empty.
    Count(Vec<u8>),
    /// Nothing.
    Done,
}

/// A plan that is being made.
pub(crate) struct Planner {
    plan: Plan,
    work: Work,
}

impl Planner {
    /// Begins with a plan for `options`; all steps must be given the same state and options.
    pub fn new<'s, S: Source<'s>>(state: &State<S>, options: &RangeOptions) -> Result<Planner, RangeError> {
        let plan = Plan {
            at: state.readable(options.revision)?,
            shape: shape(options),
            count: 0,
            more: false,
            rows: 0,
            kvs_len: 0,
            located: SmallVec::new(),
            complete: true,
            next_key: Vec::new(),
        };
        let mut planner = Planner { plan, work: Work::Rows(Vec::new()) };
        if options.count_only {
            planner.begin_count(state, options)?;
        }
        Ok(planner)
    }

    /// Goes on by at most `rows` rows, but at least one. True when the plan is made.
    pub fn step<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        options: &RangeOptions,
        rows: usize,
    ) -> Result<bool, Damage> {
        let mut budget = rows.max(1);
        loop {
            match std::mem::replace(&mut self.work, Work::Done) {
                Work::Rows(from) => self.read_rows(state, options, &from, &mut budget)?,
                Work::CountBack(from) => self.count_back(state, options, from, &mut budget)?,
                Work::Count(from) => self.count_rows(state, options, &from, &mut budget)?,
                Work::Done => return Ok(true),
            }
            if budget == 0 && !matches!(self.work, Work::Done) {
                return Ok(false);
            }
        }
    }

    /// The plan, once a step has said that it is made.
    pub fn into_plan(self) -> Plan {
        debug_assert!(matches!(self.work, Work::Done), "a plan is used when it is made");
        self.plan
    }

    fn read_rows<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        options: &RangeOptions,
        from: &[u8],
        budget: &mut usize,
    ) -> Result<(), Damage> {
        let bounds = bounds_from(options, from);
        let sorted = is_sorted(options) || is_filtered(options);
        let cut = !sorted && options.sort_target != SortTarget::Key;
        let next = match (sorted, cut) {
            (true, _) => self.read_passing(state, bounds, options, budget)?,
            (_, true) => self.read_until_cut(state, bounds, options, budget)?,
            _ => self.read_in_key_order(state, bounds, options, budget)?,
        };
        if let Some(key) = next {
            self.work = Work::Rows(key);
            return Ok(());
        }
        let cut_short = match (sorted, cut) {
            (true, _) => false, // it counted what it read
            (_, true) => self.plan.located.len() == rows_until_cut(options),
            _ => self.plan.more,
        };
        match (cut_short, sorted, cut) {
            (true, ..) => self.begin_count(state, options)?,
            (_, _, true) => self.plan.count = self.plan.located.len() as i64,
            (_, false, _) => self.plan.count = self.plan.rows as i64,
            _ => {}
        }
        if sorted || cut { state.sort_and_cut(&mut self.plan, options) } else { Ok(()) }
    }

    fn read_in_key_order<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        bounds: Bounds<'_>,
        options: &RangeOptions,
        budget: &mut usize,
    ) -> Result<Option<Vec<u8>>, Damage> {
        let plan = &mut self.plan;
        let limit = if options.limit > 0 { options.limit as u64 } else { u64::MAX };
        state.walk_slice(bounds, plan.at, budget, |key, newest, located| {
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
                _ => state.index_row(key, newest, located)?.encoded_len(),
            };
            plan.rows += 1;
            plan.kvs_len += framed_len(len);
            Ok(true)
        })
    }

    /// etcd range.go: with a sort order or a revision filter everything is read, filtered, sorted,
    /// then cut. The count is of all keys in the range, filtered out or not.
    fn read_passing<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        bounds: Bounds<'_>,
        options: &RangeOptions,
        budget: &mut usize,
    ) -> Result<Option<Vec<u8>>, Damage> {
        let plan = &mut self.plan;
        state.walk_slice(bounds, plan.at, budget, |_, newest, located| {
            plan.count += 1;
            let created = if located.revision == newest.modified {
                newest.whole().map_err(|bad| bad.of(Table::Keys))?.create_revision
            } else {
                state.key_value(located)?.create_revision
            };
            if passes(options, located.revision.main, created) {
                plan.located.push(located);
            }
            Ok(true)
        })
    }

    /// etcd range.go: a sort target with no order and no filter reads `limit + 1` rows in key
    /// order and sorts those.
    fn read_until_cut<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        bounds: Bounds<'_>,
        options: &RangeOptions,
        budget: &mut usize,
    ) -> Result<Option<Vec<u8>>, Damage> {
        let (plan, most) = (&mut self.plan, rows_until_cut(options));
        state.walk_slice(bounds, plan.at, budget, |_, _, located| {
            plan.located.push(located);
            Ok(plan.located.len() < most)
        })
    }

    /// Decides how the keys alive at the revision are counted; of the newest revision they are at once.
    fn begin_count<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        options: &RangeOptions,
    ) -> Result<(), Damage> {
        self.plan.count = 0;
        let (from, to) = match Bounds::new(&options.key, &options.range_end) {
            Bounds::One(_) => {
                self.work = Work::Count(Vec::new());
                return Ok(());
            }
            Bounds::From(from) => (from, None),
            Bounds::Between(from, to) => (from, Some(to)),
        };
        let at = self.plan.at;
        let now = state.source.count(Table::Keys, from, to)? as i64;
        let since = Revision::start_of(at + 1);
        self.work = if at >= state.revision {
            self.plan.count = now;
            Work::Done
        } else if state.source.count(Table::History, &row::history_key(since), None)? as i64 <= now {
            self.plan.count = now;
            Work::CountBack(since)
        } else {
            Work::Count(Vec::new())
        };
        Ok(())
    }

    /// Takes back, from the count now, what was created and deleted after the revision. Rows after the
    /// compact revision are all there, so nothing is missed.
    fn count_back<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        options: &RangeOptions,
        from: Revision,
        budget: &mut usize,
    ) -> Result<(), Damage> {
        let bad = |bad: BadRow| bad.of(Table::History);
        let bounds = Bounds::new(&options.key, &options.range_end);
        let mut rows = state.source.cursor(Table::History);
        let mut found = rows.seek(&row::history_key(from))?;
        while found {
            if *budget == 0 {
                self.work = Work::CountBack(row::decode_history_key(rows.key()).map_err(bad)?);
                return Ok(());
            }
            *budget -= 1;
            let row = HistoryRow::decode(rows.value()?).map_err(bad)?;
            if (row.created || row.deleted) && bounds.contains(row::key_of(row.kv).map_err(bad)?) {
                self.plan.count += if row.deleted { 1 } else { -1 };
            }
            found = rows.next()?;
        }
        Ok(())
    }

    fn count_rows<'s, S: Source<'s>>(
        &mut self,
        state: &State<S>,
        options: &RangeOptions,
        from: &[u8],
        budget: &mut usize,
    ) -> Result<(), Damage> {
        let count = &mut self.plan.count;
        let next = state.walk_slice(bounds_from(options, from), self.plan.at, budget, |_, _, _| {
            *count += 1;
            Ok(true)
        })?;
        self.work = next.map_or(Work::Done, Work::Count);
        Ok(())
    }
}

/// What is left of the range from `from` on; all of it if that is empty.
fn bounds_from<'a>(options: &'a RangeOptions, from: &'a [u8]) -> Bounds<'a> {
    Bounds::new(if from.is_empty() { &options.key } else { from }, &options.range_end)
}

fn rows_until_cut(options: &RangeOptions) -> usize {
    if options.limit > 0 { (options.limit as usize).saturating_add(1) } else { usize::MAX }
}

impl<'s, S: Source<'s>> State<S> {
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
    pub fn index_row<'k>(
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

pub(crate) fn is_sorted(options: &RangeOptions) -> bool {
    match options.sort_order {
        SortOrder::None => false,
        SortOrder::Ascend => options.sort_target != SortTarget::Key,
        SortOrder::Descend => true,
    }
}

pub(crate) fn is_filtered(options: &RangeOptions) -> bool {
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

/// A plan of a published version that is being made; it pins the version.
pub struct RangeJob {
    view: Arc<View>,
    options: RangeOptions,
    planner: Planner,
}

/// How far planning has come.
pub enum Planned {
    /// The answer, ready to be filled.
    Done(RangeAnswer),
    /// More rows are to be read.
    More(Box<RangeJob>),
}

impl RangeJob {
    pub(crate) fn begin(
        view: &Arc<View>,
        guard: &Guard,
        options: &RangeOptions,
        rows: usize,
    ) -> Result<Planned, RangeError> {
        let state = view.state(guard);
        let mut planner = Planner::new(&state, options)?;
        if planner.step(&state, options, rows)? {
            return Ok(Planned::Done(RangeAnswer::new(view.clone(), options, planner.into_plan())));
        }
        Ok(Planned::More(Box::new(RangeJob { view: view.clone(), options: options.clone(), planner })))
    }

    /// Goes on by at most `rows` rows. The guard is new for each step.
    ///
    /// # Errors
    /// The damage of the first page on the way that is not what was written.
    pub fn step(mut self: Box<Self>, guard: &Guard, rows: usize) -> Result<Planned, Damage> {
        if !self.planner.step(&self.view.state(guard), &self.options, rows)? {
            return Ok(Planned::More(self));
        }
        let RangeJob { view, options, planner } = *self;
        Ok(Planned::Done(RangeAnswer::new(view, &options, planner.into_plan())))
    }
}
