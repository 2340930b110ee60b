//! What a request costs against the quota. etcd quota.go.

use crate::types::{Op, PutOptions, Txn};

/// What a put costs beside its key and value: kvOverhead.
const PUT_OVERHEAD: u64 = 256;

/// What a lease costs: leaseOverhead.
pub const LEASE_GRANT_COST: u64 = 64;

/// Cost of a put in bytes.
pub fn put_cost(put: &PutOptions) -> u64 {
    PUT_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

/// Cost of a transaction in bytes: of its dearer branch, nested ones included. Zero if it puts nothing.
pub fn txn_cost(txn: &Txn) -> u64 {
    ops_cost(&txn.success).max(ops_cost(&txn.failure))
}

fn ops_cost(ops: &[Op]) -> u64 {
    ops.iter()
        .map(|op| match op {
            Op::Put(put) => put_cost(put),
            Op::Txn(nested) => txn_cost(nested),
            Op::Range(_) | Op::Delete(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_txn_costs_its_dearer_branch() {
        let put = |size: usize| {
            Op::Put(PutOptions { key: "k".into(), value: Bytes::from(vec![0; size]), ..Default::default() })
        };
        let txn = |success, failure| Txn { compare: vec![], success, failure };
        let cases = [
            (txn(vec![], vec![]), 0),
            (txn(vec![Op::Range(Default::default()), Op::Delete(Default::default())], vec![]), 0),
            (txn(vec![put(10), put(20)], vec![put(5)]), 2 * 257 + 30),
            (txn(vec![put(1)], vec![put(1000)]), 257 + 1000),
            (txn(vec![Op::Txn(txn(vec![put(3)], vec![put(7)])), put(2)], vec![]), 2 * 257 + 9),
        ];
        for (txn, want) in cases {
            assert_eq!(txn_cost(&txn), want, "{txn:?}");
        }
    }
}
