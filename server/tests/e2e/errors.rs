//! Every refusal that these services can give: code and text as etcd's, since clients compare them.

use testkit::Client;
use testkit::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use testkit::pb::request_op::Request;
use testkit::pb::{
    CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseRevokeRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use tonic::{Code, Status};

use crate::{options, start};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const NO_KEY: &str = "etcdserver: key is not provided";
const NO_SUCH_KEY: &str = "etcdserver: key not found";
const NO_LEASE: &str = "etcdserver: requested lease not found";
const TOO_MANY: &str = "etcdserver: too many operations in txn request";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str, what: &str) {
    match answer {
        Ok(answer) => panic!("{what}: answered {answer:?} instead of {code:?} {message:?}"),
        Err(status) => assert_eq!((status.code(), status.message()), (code, message), "{what}"),
    }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.into(), ..Default::default() }
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

fn delete(key: &str, end: &str) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put_op(key: &str) -> RequestOp {
    op(Request::RequestPut(put(key, "v")))
}

fn delete_op(key: &str, end: &str) -> RequestOp {
    op(Request::RequestDeleteRange(delete(key, end)))
}

fn txn_op(txn: TxnRequest) -> RequestOp {
    op(Request::RequestTxn(txn))
}

fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest { compare: Vec::new(), success, failure }
}

fn exists(key: &str) -> Compare {
    Compare {
        key: key.into(),
        target: CompareTarget::Version.into(),
        result: CompareResult::Greater.into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    }
}

/// A server with revision 11, compacted at 6, one lease (7), and "k" put.
async fn prepared(server: &testkit::Server) -> Client {
    let mut client = server.client().await;
    for i in 0..10 {
        client.kv.put(put("k", &i.to_string())).await.unwrap();
    }
    client.kv.compact(CompactionRequest { revision: 6, physical: true }).await.unwrap();
    client.lease.lease_grant(LeaseGrantRequest { id: 7, ttl: 600 }).await.unwrap();
    client
}

#[tokio::test]
async fn ranges() {
    let server = start();
    let mut client = prepared(&server).await;
    let cases = [
        ("empty key", range(""), Code::InvalidArgument, NO_KEY),
        ("future", RangeRequest { revision: 12, ..range("k") }, Code::OutOfRange, FUTURE),
        ("compacted", RangeRequest { revision: 5, ..range("k") }, Code::OutOfRange, COMPACTED),
        (
            "order",
            RangeRequest { sort_order: 9, ..range("k") },
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        (
            "target",
            RangeRequest { sort_target: 9, ..range("k") },
            Code::InvalidArgument,
            "etcdserver: invalid sort option",
        ),
        ("key before sort", RangeRequest { sort_order: 9, ..range("") }, Code::InvalidArgument, NO_KEY),
        ("absent key, future", RangeRequest { revision: 99, ..range("none") }, Code::OutOfRange, FUTURE),
        (
            "serializable",
            RangeRequest { revision: 12, serializable: true, ..range("k") },
            Code::OutOfRange,
            FUTURE,
        ),
    ];
    for (what, request, code, message) in cases {
        assert_refused(client.kv.range(request).await, code, message, what);
    }
    let at = |revision| RangeRequest { revision, ..range("k") };
    assert_eq!(
        client.kv.range(at(6)).await.unwrap().into_inner().kvs[0].value,
        b"4",
        "the compacted one itself"
    );
    assert_eq!(
        client.kv.range(at(-5)).await.unwrap().into_inner().kvs[0].value,
        b"9",
        "negative means latest"
    );
    let inverted = RangeRequest { range_end: "a".into(), ..range("k") };
    assert_eq!(client.kv.range(inverted).await.unwrap().into_inner().count, 0, "an inverted range is empty");
}

#[tokio::test]
async fn puts_and_deletes() {
    let server = start();
    let mut client = prepared(&server).await;
    let cases = [
        ("empty key", put("", "v"), Code::InvalidArgument, NO_KEY),
        ("unknown lease", PutRequest { lease: 8, ..put("k", "v") }, Code::NotFound, NO_LEASE),
        (
            "value given",
            PutRequest { ignore_value: true, ..put("k", "v") },
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            "lease given",
            PutRequest { ignore_lease: true, lease: 7, ..put("k", "v") },
            Code::InvalidArgument,
            "etcdserver: lease is provided",
        ),
        (
            "no value to keep",
            PutRequest { ignore_value: true, ..put("none", "") },
            Code::InvalidArgument,
            NO_SUCH_KEY,
        ),
        (
            "no lease to keep",
            PutRequest { ignore_lease: true, ..put("none", "v") },
            Code::InvalidArgument,
            NO_SUCH_KEY,
        ),
        (
            "value before lease",
            PutRequest { ignore_value: true, ignore_lease: true, lease: 7, ..put("k", "v") },
            Code::InvalidArgument,
            "etcdserver: value is provided",
        ),
        (
            "lease before key",
            PutRequest { ignore_value: true, lease: 8, ..put("none", "") },
            Code::NotFound,
            NO_LEASE,
        ),
    ];
    for (what, request, code, message) in cases {
        assert_refused(client.kv.put(request).await, code, message, what);
    }
    assert_refused(client.kv.delete_range(delete("", "")).await, Code::InvalidArgument, NO_KEY, "delete");
    let inverted = client.kv.delete_range(delete("k", "a")).await.unwrap().into_inner();
    assert_eq!(
        (inverted.deleted, inverted.header.unwrap().revision),
        (0, 11),
        "nothing of all this made a revision"
    );
}

#[tokio::test]
async fn transactions() {
    let server = start();
    let mut client = prepared(&server).await;
    let many = |n: usize| (0..n).map(|i| put_op(&format!("m{i}"))).collect::<Vec<_>>();
    let nested = |inner: TxnRequest| txn(vec![txn_op(inner)], vec![]);
    let invalid = Code::InvalidArgument;
    let cases = [
        ("129 successes", txn(many(129), vec![]), invalid, TOO_MANY),
        ("129 failures", txn(vec![], many(129)), invalid, TOO_MANY),
        (
            "129 compares",
            TxnRequest { compare: vec![exists("k"); 129], ..Default::default() },
            invalid,
            TOO_MANY,
        ),
        ("1 + 128 nested", nested(txn(many(128), vec![])), invalid, TOO_MANY),
        (
            "compare without key",
            TxnRequest { compare: vec![exists("")], ..Default::default() },
            invalid,
            NO_KEY,
        ),
        ("put without key", txn(vec![put_op("")], vec![]), invalid, NO_KEY),
        ("put without key in the other branch", txn(vec![], vec![put_op("")]), invalid, NO_KEY),
        ("op without request", txn(vec![RequestOp { request: None }], vec![]), invalid, NO_SUCH_KEY),
        ("put twice", txn(vec![put_op("a"), put_op("a")], vec![]), invalid, DUPLICATE),
        ("put twice in failure", txn(vec![], vec![put_op("a"), put_op("a")]), invalid, DUPLICATE),
        ("put and delete", txn(vec![put_op("a"), delete_op("a", "")], vec![]), invalid, DUPLICATE),
        ("delete range and put", txn(vec![delete_op("a", "c"), put_op("b")], vec![]), invalid, DUPLICATE),
        (
            "put and nested put",
            txn(vec![put_op("a"), txn_op(txn(vec![put_op("a")], vec![]))], vec![]),
            invalid,
            DUPLICATE,
        ),
        (
            "delete and nested put in failure",
            txn(vec![delete_op("a", ""), txn_op(txn(vec![], vec![put_op("a")]))], vec![]),
            invalid,
            DUPLICATE,
        ),
        (
            "future range inside",
            txn(
                vec![put_op("a"), op(Request::RequestRange(RangeRequest { revision: 99, ..range("k") }))],
                vec![],
            ),
            Code::OutOfRange,
            FUTURE,
        ),
        (
            "compacted range inside",
            txn(
                vec![put_op("a"), op(Request::RequestRange(RangeRequest { revision: 3, ..range("k") }))],
                vec![],
            ),
            Code::OutOfRange,
            COMPACTED,
        ),
        (
            "unknown lease inside",
            txn(
                vec![put_op("a"), op(Request::RequestPut(PutRequest { lease: 99, ..put("b", "v") }))],
                vec![],
            ),
            Code::NotFound,
            NO_LEASE,
        ),
        (
            "nothing to keep inside",
            txn(
                vec![put_op("a"), op(Request::RequestPut(PutRequest { ignore_value: true, ..put("b", "") }))],
                vec![],
            ),
            invalid,
            NO_SUCH_KEY,
        ),
        (
            "read-only with a future revision",
            txn(vec![op(Request::RequestRange(RangeRequest { revision: 99, ..range("k") }))], vec![]),
            Code::OutOfRange,
            FUTURE,
        ),
    ];
    for (what, request, code, message) in cases {
        assert_refused(client.kv.txn(request).await, code, message, what);
    }
    let fine = [
        ("128 successes and 128 failures", txn(many(128), many(128)), 12),
        ("the same key in both branches", txn(vec![put_op("a")], vec![put_op("a")]), 13),
        ("an inverted delete covers nothing", txn(vec![delete_op("c", "a"), put_op("c")], vec![]), 14),
        (
            "nor does, here, a delete from a key on",
            txn(vec![delete_op("c", "\0"), put_op("c"), put_op("d")], vec![]),
            15,
        ),
        ("deletes may overlap", txn(vec![delete_op("x", "z"), delete_op("y", "")], vec![]), 15),
        ("both branches of a nested one", nested(txn(vec![put_op("a")], vec![put_op("a")])), 16),
    ];
    for (what, request, revision) in fine {
        let answer = client.kv.txn(request).await.unwrap_or_else(|status| panic!("{what}: {status}"));
        assert_eq!(answer.into_inner().header.unwrap().revision, revision, "{what}");
    }
}

#[tokio::test]
async fn compactions_and_hashes() {
    let server = start();
    let mut client = prepared(&server).await;
    let compact = |revision| CompactionRequest { revision, physical: false };
    for (revision, message) in [(6, COMPACTED), (5, COMPACTED), (0, COMPACTED), (-1, COMPACTED), (12, FUTURE)]
    {
        let answer = client.kv.compact(compact(revision)).await;
        assert_refused(answer, Code::OutOfRange, message, &format!("compact at {revision}"));
    }
    for (revision, message) in [(5, COMPACTED), (12, FUTURE)] {
        let answer = client.maintenance.hash_kv(HashKvRequest { revision }).await;
        assert_refused(answer, Code::OutOfRange, message, &format!("hash at {revision}"));
    }
    client
        .maintenance
        .hash_kv(HashKvRequest { revision: 6 })
        .await
        .expect("the compacted revision itself has a hash");
}

#[tokio::test]
async fn leases() {
    let server = start();
    let mut client = prepared(&server).await;
    let grant = |id, ttl| LeaseGrantRequest { id, ttl };
    let used = client.lease.lease_grant(grant(7, 60)).await;
    assert_refused(used, Code::FailedPrecondition, "etcdserver: lease already exists", "grant of a used id");
    let long = client.lease.lease_grant(grant(0, 9_000_000_001)).await;
    assert_refused(long, Code::OutOfRange, "etcdserver: too large lease TTL", "grant");
    let unknown = client.lease.lease_revoke(LeaseRevokeRequest { id: 99 }).await;
    assert_refused(unknown, Code::NotFound, NO_LEASE, "revoke");
    let longest = client.lease.lease_grant(grant(0, 9_000_000_000)).await.unwrap().into_inner();
    assert_eq!(longest.ttl, 9_000_000_000);
    for ttl in [0, -5, 1] {
        let answer = client.lease.lease_grant(grant(0, ttl)).await.unwrap().into_inner();
        assert_eq!(answer.ttl, 2, "raised to the minimum of 1.5 election timeouts");
        assert!(answer.id > 0 && answer.error.is_empty());
    }
}

#[tokio::test]
async fn requests_over_the_size_limit() {
    let server = options().arg("--max-request-bytes=10000").start();
    let mut client = server.client().await;
    let put_of = |len: usize| put("k", &"v".repeat(len));
    client.kv.put(put_of(9_000)).await.expect("under the limit");
    let answer = client.kv.put(put_of(10_000)).await;
    assert_refused(
        answer,
        Code::InvalidArgument,
        "etcdserver: request is too large",
        "over --max-request-bytes",
    );
    // gRPC itself takes 512 KiB more than that; the text is grpc-go's, with the length of the message.
    match client.kv.put(put_of(600_000)).await {
        Ok(answer) => panic!("answered {answer:?}"),
        Err(status) => {
            assert_eq!(status.code(), Code::ResourceExhausted);
            let text = "grpc: received message larger than max (600007 vs. 534288)";
            assert_eq!(status.message(), text);
        }
    }
    let after = client.kv.put(put("k", "small")).await.expect("the connection lives on").into_inner();
    assert_eq!(after.header.unwrap().revision, 3);
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let server = start();
    let client = server.client().await;
    let cases = [
        ("/etcdserverpb.Nothing/Range", "unknown service etcdserverpb.Nothing"),
        ("/etcdserverpb.KV/Nothing", "unknown method Nothing for service etcdserverpb.KV"),
    ];
    for (path, message) in cases {
        let status = call_empty(&client, path).await.expect_err(path);
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, message), "{path}");
    }
    if server.is_ringd() {
        // What later work brings.
        for path in [
            "/etcdserverpb.KV/RangeStream",
            "/etcdserverpb.Auth/AuthEnable",
            "/etcdserverpb.Maintenance/Snapshot",
            "/etcdserverpb.Maintenance/Downgrade",
            "/v3lockpb.Lock/Lock",
            "/v3electionpb.Election/Campaign",
        ] {
            let status = call_empty(&client, path).await.expect_err(path);
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
        }
    }
}

/// Calls a method by its path with an empty message.
async fn call_empty(client: &Client, path: &'static str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.expect("connected");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    grpc.unary(tonic::Request::new(()), path, codec).await.map(|_| ())
}
