//! Transactions: compares, pre-checks, execution.
//!
//! etcd txn.go, three passes. First all compares of all levels are evaluated against the state
//! before the transaction; nested ones, too, which surprises. They fix the path. Then everything on
//! the path that can be refused is checked, against that same state, so that a refusal leaves
//! nothing applied. Then the path is executed, each operation seeing the ones before it, and cannot
//! fail any more.
//!
//! Not here: the limits on operations and the duplicate-key rule. They need the request alone, so
//! they are checked before it is proposed.

use crate::error::TxnError;
use crate::history::State;
use crate::lease::Lessor;
use crate::range::Bounds;
use crate::row::{KeyRow, KeyValue};
use crate::source::Source;
use crate::store::Store;
use crate::tree::{Damage, Table, Tree};
use crate::types::{
    Compare, CompareResult, CompareTarget, DeleteOutcome, Op, OpOutcome, PutOutcome, RangeOptions, Txn,
    TxnOutcome,
};
use crate::write::Changes;

/// For each transaction on the path in the order met, whether its compares held.
type Path = Vec<bool>;

impl Store {
    /// Applies a Txn.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        let before = self.state();
        let mut path = Path::new();
        before.choose_path(txn, &mut path)?;
        before.check_txn(&self.lessor, txn, &mut path.iter().copied())?;
        let mut changes = Changes::after(self.revision);
        let mut outcome = self.execute(&mut changes, txn, &mut path.iter().copied())?;
        self.revision = changes.end();
        outcome.revision = self.revision;
        Ok(outcome)
    }

    fn execute(
        &mut self,
        changes: &mut Changes,
        txn: &Txn,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<TxnOutcome, TxnError> {
        let (succeeded, ops) = branch(txn, path);
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Range(range) => OpOutcome::Range(self.state_within(changes).range(range)?),
                Op::Put(put) => {
                    let prev_kv = self.write_put(changes, put)?;
                    OpOutcome::Put(PutOutcome { revision: changes.end(), prev_kv })
                }
                Op::Delete(delete) => {
                    let (deleted, prev_kvs) = self.write_delete(changes, delete)?;
                    OpOutcome::Delete(DeleteOutcome { revision: changes.end(), deleted, prev_kvs })
                }
                Op::Txn(nested) => OpOutcome::Txn(self.execute(changes, nested, path)?),
            });
        }
        Ok(TxnOutcome { revision: 0, succeeded, responses })
    }

    /// The state as the next operation of a transaction sees it.
    fn state_within(&self, changes: &Changes) -> State<&Tree> {
        State { revision: changes.end(), ..self.state() }
    }
}

fn branch<'t>(txn: &'t Txn, path: &mut impl Iterator<Item = bool>) -> (bool, &'t [Op]) {
    let succeeded = path.next().expect("choose_path met the same transactions in the same order");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

impl<'s, S: Source<'s>> State<S> {
    /// Answers a read-only transaction. See [`Txn::is_read_only`].
    pub fn read_txn(&self, txn: &Txn) -> Result<TxnOutcome, TxnError> {
        let succeeded = self.all_hold(&txn.compare)?;
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let ranges = || {
            ops.iter().map(|op| match op {
                Op::Range(range) => range,
                _ => unreachable!("the caller asked is_read_only"),
            })
        };
        ranges().try_for_each(|range| self.check_range(range))?;
        let mut responses = Vec::with_capacity(ops.len());
        for range in ranges() {
            responses.push(OpOutcome::Range(self.range(range)?));
        }
        Ok(TxnOutcome { revision: self.revision, succeeded, responses })
    }

    fn choose_path(&self, txn: &Txn, path: &mut Path) -> Result<(), Damage> {
        let succeeded = self.all_hold(&txn.compare)?;
        path.push(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Op::Txn(nested) = op {
                self.choose_path(nested, path)?;
            }
        }
        Ok(())
    }

    fn check_txn(
        &self,
        lessor: &Lessor,
        txn: &Txn,
        path: &mut impl Iterator<Item = bool>,
    ) -> Result<(), TxnError> {
        for op in branch(txn, path).1 {
            match op {
                Op::Range(range) => self.check_range(range)?,
                Op::Put(put) => self.check_put(lessor, put)?,
                Op::Delete(_) => {}
                Op::Txn(nested) => self.check_txn(lessor, nested, path)?,
            }
        }
        Ok(())
    }

    /// etcd range.go, checkRange: unlike in a plain Range, a negative revision is not "newest" but
    /// older than all.
    fn check_range(&self, range: &RangeOptions) -> Result<(), TxnError> {
        if range.revision == 0 {
            Ok(())
        } else if range.revision > self.revision {
            Err(TxnError::FutureRevision { revision: self.revision })
        } else if range.revision < self.compact_revision {
            Err(TxnError::Compacted { compact_revision: self.compact_revision })
        } else {
            Ok(())
        }
    }

    fn all_hold(&self, compares: &[Compare]) -> Result<bool, Damage> {
        for compare in compares {
            if !self.holds(compare)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every key of the range must satisfy the condition. Without any key a comparison of values
    /// fails, and the others see zeros.
    fn holds(&self, compare: &Compare) -> Result<bool, Damage> {
        let mut any = false;
        let mut holds = true;
        let bounds = Bounds::new(&compare.key, &compare.range_end);
        self.walk(bounds, self.revision, |_, row, _| {
            any = true;
            let row = row.whole().map_err(|bad| bad.of(Table::Keys))?;
            holds = self.row_satisfies(compare, &row)?;
            Ok(holds)
        })?;
        if any {
            return Ok(holds);
        }
        let value_given = matches!(compare.target, CompareTarget::Value(_));
        Ok(!value_given && satisfies(compare, &KeyRow::default(), b""))
    }

    fn row_satisfies(&self, compare: &Compare, row: &KeyRow) -> Result<bool, Damage> {
        let value = match compare.target {
            CompareTarget::Value(_) => {
                let kv = self.live_row(row.modified)?.kv;
                KeyValue::decode(kv).map_err(|bad| bad.of(Table::History))?.value
            }
            _ => b"",
        };
        Ok(satisfies(compare, row, value))
    }
}

fn satisfies(compare: &Compare, row: &KeyRow, value: &[u8]) -> bool {
    let order = match &compare.target {
        CompareTarget::Version(given) => row.version.cmp(given),
        CompareTarget::Create(given) => row.create_revision.cmp(given),
        CompareTarget::Mod(given) => row.modified.main.cmp(given),
        CompareTarget::Lease(given) => row.lease.0.cmp(given),
        CompareTarget::Value(given) => value.cmp(given),
        CompareTarget::Unknown => std::cmp::Ordering::Equal,
    };
    match compare.result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Unknown => true,
    }
}
