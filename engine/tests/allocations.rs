//! What a list costs in allocations, counted.

mod common;

use common::{put, range, store};
use crossbeam::epoch;
use engine::RangeOptions;

#[global_allocator]
static ALLOCATOR: counted::Allocator = counted::Allocator;

#[test]
fn a_list_allocates_no_more_for_more_rows() {
    let mut store = store();
    for number in 0..20_000 {
        store.put(&put(&format!("key-{number:06}"), "a value of some length")).unwrap();
    }
    for number in (0..20_000).step_by(3) {
        store.put(&put(&format!("key-{number:06}"), "another value")).unwrap();
    }
    let view = store.publish().unwrap();
    let mut out = Vec::with_capacity(1 << 16);
    let mut cost = |options: &RangeOptions| {
        let (allocations, bytes) = (counted::allocations(), counted::bytes());
        let mut answer = view.range(&epoch::pin(), options).unwrap();
        let (rows, mut filled) = (answer.rows(), 0);
        loop {
            out.clear();
            let done = answer.fill(&epoch::pin(), 1 << 14, &mut out).unwrap();
            filled += out.len() as u64;
            if done {
                break;
            }
        }
        assert_eq!(filled, answer.kvs_len());
        (rows, counted::allocations() - allocations, counted::bytes() - bytes)
    };
    let all = range("key", "kez");
    cost(&all); // the first use of a thread allocates for the epoch's bookkeeping
    for keys_only in [false, true] {
        for revision in [0, view.revision() - 100] {
            let with = |limit| RangeOptions { limit, keys_only, revision, ..all.clone() };
            let (rows, few, few_bytes) = cost(&with(1000));
            assert_eq!(rows, 1000);
            let (rows, many, many_bytes) = cost(&with(0));
            assert_eq!(rows, 20_000);
            assert!(many <= few + 1, "keys_only={keys_only} revision={revision}: {few} and {many}");
            assert!(many < 20 && many_bytes <= few_bytes + 100 && many_bytes < 40_000, "{many} {many_bytes}");
        }
    }
    let (rows, allocations, _) = cost(&range("key-000007", ""));
    assert_eq!((rows, allocations), (1, 0), "a get allocates nothing");
}
