//! Requests as a line of the log shows them: in the look of etcd's `raft_internal_stringer.go`, keys in full, values by
//! their size alone.

use std::fmt::Write as _;

use bytes::Bytes;
use engine::RangeOptions;
use net::pb::etcdserverpb::{
    Compare, InternalRaftRequest, PutRequest, RequestOp, TxnRequest, compare, request_op,
};
use prost::Message;

/// Operations of a txn that are shown; the rest is counted.
const OPS_SHOWN: usize = 8;

/// What a Raft entry asks for. Bytes that are no request are described as such.
pub fn entry(data: &Bytes) -> String {
    let Ok(request) = InternalRaftRequest::decode(data.clone()) else {
        return format!("{} bytes that are no request", data.len());
    };
    let mut out = String::new();
    if let Some(header) = &request.header {
        let _ = write!(out, "header:<ID:{} > ", header.id);
    }
    let r = &request;
    let _ = if let Some(put) = &r.put {
        write!(out, "put:<{}>", put_fields(put))
    } else if let Some(delete) = &r.delete_range {
        write!(out, "delete_range:<{}>", key_range(&delete.key, &delete.range_end))
    } else if let Some(txn) = &r.txn {
        write!(out, "txn:<{}>", txn_fields(txn))
    } else if let Some(compaction) = &r.compaction {
        write!(out, "compaction:<revision:{} physical:{}>", compaction.revision, compaction.physical)
    } else if let Some(grant) = &r.lease_grant {
        write!(out, "lease_grant:<ttl:{}-second id:{:016x}>", grant.ttl, grant.id)
    } else if let Some(revoke) = &r.lease_revoke {
        write!(out, "lease_revoke:<id:{:016x}>", revoke.id)
    } else if let Some(checkpoint) = &r.lease_checkpoint {
        write!(out, "lease_checkpoint:<{} leases>", checkpoint.checkpoints.len())
    } else if let Some(alarm) = &r.alarm {
        write!(out, "alarm:<action:{} memberID:{} alarm:{}>", alarm.action, alarm.member_id, alarm.alarm)
    } else {
        write!(out, "{} bytes", data.len())
    };
    out
}

/// What a Range asks for, defaults left out.
pub fn range(options: &RangeOptions) -> String {
    let mut out = key_range(&options.key, &options.range_end);
    for (name, value) in [
        ("limit", options.limit),
        ("revision", options.revision),
        ("min_mod_revision", options.min_mod_revision),
        ("max_mod_revision", options.max_mod_revision),
        ("min_create_revision", options.min_create_revision),
        ("max_create_revision", options.max_create_revision),
    ] {
        if value != 0 {
            let _ = write!(out, " {name}:{value}");
        }
    }
    for (name, set) in [("keys_only", options.keys_only), ("count_only", options.count_only)] {
        if set {
            let _ = write!(out, " {name}:true");
        }
    }
    out
}

fn put_fields(put: &PutRequest) -> String {
    let mut out = format!("key:{} value_size:{}", quoted(&put.key), put.value.len());
    if put.lease != 0 {
        let _ = write!(out, " lease:{}", put.lease);
    }
    out
}

fn txn_fields(txn: &TxnRequest) -> String {
    let ops = |ops: &[RequestOp]| list(ops, op_fields);
    format!(
        "compare:<{}> success:<{}> failure:<{}>",
        list(&txn.compare, compare_fields),
        ops(&txn.success),
        ops(&txn.failure)
    )
}

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = items.iter().take(OPS_SHOWN).map(show).collect();
    if items.len() > OPS_SHOWN {
        shown.push(format!("and {} more", items.len() - OPS_SHOWN));
    }
    shown.join(" ")
}

fn compare_fields(compare: &Compare) -> String {
    let target = match &compare.target_union {
        Some(compare::TargetUnion::Version(version)) => format!("version:{version}"),
        Some(compare::TargetUnion::CreateRevision(revision)) => format!("create_revision:{revision}"),
        Some(compare::TargetUnion::ModRevision(revision)) => format!("mod_revision:{revision}"),
        Some(compare::TargetUnion::Value(value)) => format!("value_size:{}", value.len()),
        Some(compare::TargetUnion::Lease(lease)) => format!("lease:{lease}"),
        None => String::new(),
    };
    format!("target:{:?} {} {target}", compare.target(), key_range(&compare.key, &compare.range_end))
}

fn op_fields(op: &RequestOp) -> String {
    match &op.request {
        Some(request_op::Request::RequestRange(range)) => {
            format!("request_range:<{}>", key_range(&range.key, &range.range_end))
        }
        Some(request_op::Request::RequestPut(put)) => format!("request_put:<{}>", put_fields(put)),
        Some(request_op::Request::RequestDeleteRange(delete)) => {
            format!("request_delete_range:<{}>", key_range(&delete.key, &delete.range_end))
        }
        // Deeper ones would make the line as deep as the request.
        Some(request_op::Request::RequestTxn(_)) => "request_txn:<…>".into(),
        None => String::new(),
    }
}

fn key_range(key: &[u8], end: &[u8]) -> String {
    match end {
        [] => format!("key:{}", quoted(key)),
        end => format!("key:{} range_end:{}", quoted(key), quoted(end)),
    }
}

fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use net::pb::etcdserverpb as pb;

    use super::*;
    use crate::propose::{self, IdGenerator, field};

    #[test]
    fn entries_look_like_etcds() {
        let put = PutRequest { key: "k\n".into(), value: "secret".into(), lease: 7, ..Default::default() };
        let txn = TxnRequest {
            compare: vec![Compare {
                key: "a".into(),
                target_union: Some(compare::TargetUnion::Value("secret".into())),
                target: compare::CompareTarget::Value as i32,
                ..Default::default()
            }],
            success: vec![RequestOp { request: Some(request_op::Request::RequestPut(put.clone())) }; 10],
            failure: vec![RequestOp {
                request: Some(request_op::Request::RequestRange(pb::RangeRequest {
                    key: "a".into(),
                    range_end: "b".into(),
                    ..Default::default()
                })),
            }],
        };
        let revoke = pb::LeaseRevokeRequest { id: 255 };
        let cases = [
            (field::PUT, put.encode_to_vec(), "put:<key:\"k\\n\" value_size:6 lease:7>"),
            (field::LEASE_REVOKE, revoke.encode_to_vec(), "lease_revoke:<id:00000000000000ff>"),
        ];
        for (number, message, want) in cases {
            let data = propose::encode(5, number, &message, &[]);
            assert_eq!(entry(&data), format!("header:<ID:5 > {want}"));
        }
        let line = entry(&propose::encode(5, field::TXN, &txn.encode_to_vec(), &[]));
        for want in [
            "compare:<target:Value key:\"a\" value_size:6>",
            "value_size:6 lease:7> and 2 more>",
            "failure:<request_range:<key:\"a\" range_end:\"b\">>",
        ] {
            assert!(line.contains(want), "no {want} in {line}");
        }
        assert!(!line.contains("secret"), "{line}");
        let own = propose::compact(&mut IdGenerator::new(1, 2, 0, 1), 9);
        assert!(entry(&own.entry).ends_with("compaction:<revision:9 physical:false>"));
        assert_eq!(entry(&Bytes::from_static(b"\xff")), "1 bytes that are no request");
    }

    #[test]
    fn ranges_leave_defaults_out() {
        let options = RangeOptions { key: "a".into(), ..Default::default() };
        assert_eq!(range(&options), "key:\"a\"");
        let options =
            RangeOptions { range_end: Bytes::from_static(b"\0"), limit: 5, keys_only: true, ..options };
        assert_eq!(range(&options), "key:\"a\" range_end:\"\\x00\" limit:5 keys_only:true");
    }
}
