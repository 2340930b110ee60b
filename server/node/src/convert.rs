//! Protobuf messages to the engine's request types. Keys and values are moved, never copied.

use engine::{
    Compare, CompareResult, CompareTarget, DeleteOptions, LeaseId, Op, PutOptions, RangeOptions, SortOrder,
    SortTarget, Txn,
};
use net::pb::etcdserverpb as pb;
use pb::compare::TargetUnion;
use pb::request_op::Request;

/// A Range request. Unknown sort numbers are refused before this; here they mean the default.
pub fn range(r: pb::RangeRequest) -> RangeOptions {
    RangeOptions {
        sort_order: match r.sort_order() {
            pb::range_request::SortOrder::None => SortOrder::None,
            pb::range_request::SortOrder::Ascend => SortOrder::Ascend,
            pb::range_request::SortOrder::Descend => SortOrder::Descend,
        },
        sort_target: match r.sort_target() {
            pb::range_request::SortTarget::Key => SortTarget::Key,
            pb::range_request::SortTarget::Version => SortTarget::Version,
            pb::range_request::SortTarget::Create => SortTarget::Create,
            pb::range_request::SortTarget::Mod => SortTarget::Mod,
            pb::range_request::SortTarget::Value => SortTarget::Value,
        },
        key: r.key,
        range_end: r.range_end,
        limit: r.limit,
        revision: r.revision,
        keys_only: r.keys_only,
        count_only: r.count_only,
        min_mod_revision: r.min_mod_revision,
        max_mod_revision: r.max_mod_revision,
        min_create_revision: r.min_create_revision,
        max_create_revision: r.max_create_revision,
    }
}

/// A Put request.
pub fn put(r: pb::PutRequest) -> PutOptions {
    PutOptions {
        key: r.key,
        value: r.value,
        lease: LeaseId(r.lease),
        prev_kv: r.prev_kv,
        ignore_value: r.ignore_value,
        ignore_lease: r.ignore_lease,
    }
}

/// A DeleteRange request.
pub fn delete(r: pb::DeleteRangeRequest) -> DeleteOptions {
    DeleteOptions { key: r.key, range_end: r.range_end, prev_kv: r.prev_kv }
}

/// A Txn request. Operations without a request are refused before this and dropped here.
pub fn txn(r: pb::TxnRequest) -> Txn {
    Txn {
        compare: r.compare.into_iter().map(compare).collect(),
        success: r.success.into_iter().filter_map(op).collect(),
        failure: r.failure.into_iter().filter_map(op).collect(),
    }
}

fn op(r: pb::RequestOp) -> Option<Op> {
    Some(match r.request? {
        Request::RequestRange(r) => Op::Range(range(r)),
        Request::RequestPut(r) => Op::Put(put(r)),
        Request::RequestDeleteRange(r) => Op::Delete(delete(r)),
        Request::RequestTxn(r) => Op::Txn(txn(r)),
    })
}

fn compare(r: pb::Compare) -> Compare {
    let result = match pb::compare::CompareResult::try_from(r.result) {
        Ok(pb::compare::CompareResult::Equal) => CompareResult::Equal,
        Ok(pb::compare::CompareResult::Greater) => CompareResult::Greater,
        Ok(pb::compare::CompareResult::Less) => CompareResult::Less,
        Ok(pb::compare::CompareResult::NotEqual) => CompareResult::NotEqual,
        Err(_) => CompareResult::Unknown,
    };
    let given = r.target_union;
    // etcd apply: the given side counts only if it is of the target's kind, else 0 or empty.
    let number = |pick: fn(&TargetUnion) -> Option<i64>| given.as_ref().and_then(pick).unwrap_or(0);
    let target = match pb::compare::CompareTarget::try_from(r.target) {
        Ok(pb::compare::CompareTarget::Version) => {
            CompareTarget::Version(number(|g| if let TargetUnion::Version(v) = g { Some(*v) } else { None }))
        }
        Ok(pb::compare::CompareTarget::Create) => CompareTarget::Create(number(|g| {
            if let TargetUnion::CreateRevision(v) = g { Some(*v) } else { None }
        })),
        Ok(pb::compare::CompareTarget::Mod) => {
            CompareTarget::Mod(number(|g| if let TargetUnion::ModRevision(v) = g { Some(*v) } else { None }))
        }
        Ok(pb::compare::CompareTarget::Lease) => {
            CompareTarget::Lease(number(|g| if let TargetUnion::Lease(v) = g { Some(*v) } else { None }))
        }
        Ok(pb::compare::CompareTarget::Value) => CompareTarget::Value(match given {
            Some(TargetUnion::Value(value)) => value,
            _ => Default::default(),
        }),
        Err(_) => CompareTarget::Unknown,
    };
    Compare { result, target, key: r.key, range_end: r.range_end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compare_without_its_own_given_side_compares_with_nothing() {
        use pb::compare::CompareTarget as T;
        let cases = [
            (T::Version, Some(TargetUnion::Version(3)), CompareTarget::Version(3)),
            (T::Version, None, CompareTarget::Version(0)),
            (T::Version, Some(TargetUnion::ModRevision(3)), CompareTarget::Version(0)),
            (T::Mod, Some(TargetUnion::ModRevision(4)), CompareTarget::Mod(4)),
            (T::Create, Some(TargetUnion::CreateRevision(5)), CompareTarget::Create(5)),
            (T::Lease, Some(TargetUnion::Lease(6)), CompareTarget::Lease(6)),
            (T::Value, Some(TargetUnion::Value("v".into())), CompareTarget::Value("v".into())),
            (T::Value, Some(TargetUnion::Lease(6)), CompareTarget::Value("".into())),
        ];
        for (target, given, want) in cases {
            let request =
                pb::Compare { target: target as i32, target_union: given.clone(), ..Default::default() };
            assert_eq!(compare(request).target, want, "{target:?} {given:?}");
        }
        let odd = compare(pb::Compare { result: 9, target: 9, ..Default::default() });
        assert_eq!((odd.result, odd.target), (CompareResult::Unknown, CompareTarget::Unknown));
    }
}
