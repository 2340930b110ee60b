//! May one transaction put the same key twice, or put a key that it also deletes? No, and it is refused before it is
//! proposed (etcd `v3rpc/key.go`, `checkIntervals`).
//!
//! Of each list of operations we compute the set of keys it may put and the union of intervals it may delete, nested
//! transactions included, both of their branches. Three facts are etcd's and surprise:
//! - the same key may be put in both branches of one nested transaction, since only one of them runs;
//! - a nested delete that overlaps an *earlier* sibling's nested put is not seen;
//! - a delete whose range_end is not behind its key counts as none; that includes "from key on" (one zero byte), which
//!   does delete. A key may so be deleted and put, in either order, within one revision (seen on etcd 3.7.1).

use std::collections::{BTreeMap, HashSet};

use net::pb::etcdserverpb as pb;
use pb::request_op::Request;

use super::Error;

/// Disjoint, non-empty intervals: start to end.
#[derive(Default)]
struct Intervals(BTreeMap<Vec<u8>, Vec<u8>>);

impl Intervals {
    fn contains(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)));
        before.last().is_some_and(|(_, end)| key < end.as_slice())
    }

    /// Adds [start, end), merging what overlaps or touches.
    fn insert(&mut self, start: &[u8], end: &[u8]) {
        let (mut start, mut end) = (start.to_vec(), end.to_vec());
        while let Some((s, e)) = self.0.range(..=end.clone()).next_back().map(|(s, e)| (s.clone(), e.clone()))
        {
            if e < start {
                break;
            }
            self.0.remove(&s);
            start = start.min(s);
            end = end.max(e);
        }
        self.0.insert(start, end);
    }

    fn add(&mut self, delete: &pb::DeleteRangeRequest) {
        if delete.range_end.is_empty() {
            let mut end = delete.key.to_vec();
            end.push(0);
            self.insert(&delete.key, &end);
        } else if delete.key < delete.range_end {
            self.insert(&delete.key, &delete.range_end);
        }
    }

    fn union(&mut self, other: Intervals) {
        for (start, end) in other.0 {
            self.insert(&start, &end);
        }
    }
}

#[derive(Default)]
struct Writes<'a> {
    puts: HashSet<&'a [u8]>,
    deletes: Intervals,
}

/// Refuses a list of operations that puts a key twice or puts a key that it deletes.
pub(super) fn check(ops: &[pb::RequestOp]) -> Result<(), Error> {
    collect(ops).map(drop)
}

fn collect(ops: &[pb::RequestOp]) -> Result<Writes<'_>, Error> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.add(delete);
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            add_nested(&mut all, collect(&txn.success)?, collect(&txn.failure)?)?;
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (all.deletes.contains(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(Error::DuplicateKey);
        }
    }
    Ok(all)
}

fn add_nested<'a>(all: &mut Writes<'a>, then: Writes<'a>, otherwise: Writes<'a>) -> Result<(), Error> {
    for key in then.puts.union(&otherwise.puts) {
        if all.deletes.contains(key) || !all.puts.insert(key) {
            return Err(Error::DuplicateKey);
        }
    }
    all.deletes.union(then.deletes);
    all.deletes.union(otherwise.deletes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> pb::RequestOp {
        pb::RequestOp { request: Some(request) }
    }

    fn put(key: &str) -> pb::RequestOp {
        op(Request::RequestPut(pb::PutRequest { key: key.to_owned().into(), ..Default::default() }))
    }

    fn del(key: &str, end: &str) -> pb::RequestOp {
        op(Request::RequestDeleteRange(pb::DeleteRangeRequest {
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
            prev_kv: false,
        }))
    }

    fn get(key: &str) -> pb::RequestOp {
        op(Request::RequestRange(pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }))
    }

    fn txn(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        op(Request::RequestTxn(pb::TxnRequest { compare: vec![], success, failure }))
    }

    #[test]
    fn which_lists_write_a_key_twice() {
        let cases: Vec<(&str, Vec<pb::RequestOp>, bool)> = vec![
            ("two keys", vec![put("a"), put("b")], true),
            ("same key", vec![put("a"), put("a")], false),
            ("put then delete", vec![put("a"), del("a", "")], false),
            ("delete then put", vec![del("a", ""), put("a")], false),
            ("delete a range with the key", vec![put("b"), del("a", "c")], false),
            ("delete up to the key", vec![put("b"), del("a", "b")], true),
            ("deletes overlap", vec![del("a", "c"), del("b", "d")], true),
            ("put after merged deletes", vec![del("b", "d"), del("a", "c"), put("c")], false),
            ("put beside merged deletes", vec![del("b", "d"), del("a", "c"), put("d")], true),
            ("from key on", vec![del("a", "\0"), put("b")], true),
            ("from key on, that key", vec![del("a", "\0"), put("a")], true),
            ("that key, then from key on", vec![put("a"), del("a", "\0")], true),
            ("an end before the key", vec![del("c", "b"), put("c")], true),
            ("an end at the key", vec![del("c", "c"), put("c")], true),
            ("from key on inside a nested txn", vec![txn(vec![del("c", "\0")], vec![]), put("c")], true),
            ("reads never conflict", vec![put("a"), get("a"), get("a")], true),
            ("both branches of a nested txn", vec![txn(vec![put("a")], vec![put("a")])], true),
            ("same key in siblings", vec![txn(vec![put("a")], vec![]), txn(vec![], vec![put("a")])], false),
            ("nested and own", vec![txn(vec![put("a")], vec![]), put("a")], false),
            ("nested put, own delete", vec![txn(vec![], vec![put("a")]), del("a", "")], false),
            ("nested delete, own put", vec![txn(vec![], vec![del("a", "b")]), put("a")], false),
            (
                "earlier nested delete, put",
                vec![txn(vec![del("a", "")], vec![]), txn(vec![put("a")], vec![])],
                false,
            ),
            (
                "nested put, later nested delete",
                vec![txn(vec![put("a")], vec![]), txn(vec![del("a", "")], vec![])],
                true,
            ),
            ("conflict inside the nested", vec![txn(vec![put("a"), put("a")], vec![])], false),
            ("two levels down", vec![txn(vec![txn(vec![put("a")], vec![])], vec![]), put("a")], false),
        ];
        for (what, ops, allowed) in cases {
            let want = if allowed { Ok(()) } else { Err(Error::DuplicateKey) };
            assert_eq!(check(&ops), want, "{what}");
        }
    }

    #[test]
    fn intervals_stay_disjoint_and_cover_what_was_added() {
        let spans = [("d", "f"), ("a", "b"), ("b", "c"), ("e", "g"), ("x", "z"), ("m", "n"), ("c", "d")];
        let mut intervals = Intervals::default();
        for (i, (start, end)) in spans.iter().enumerate() {
            intervals.insert(start.as_bytes(), end.as_bytes());
            for key in "abcdefghmnwxyz".split("").filter(|k| !k.is_empty()) {
                let want = spans[..=i].iter().any(|(s, e)| *s <= key && key < *e);
                assert_eq!(intervals.contains(key.as_bytes()), want, "key={key} after {i}");
            }
        }
        assert_eq!(intervals.0.len(), 3);
    }
}
