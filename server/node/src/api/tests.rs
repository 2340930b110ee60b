//! The order of checks, the errors, and what is passed on: table tests after the reference of etcd 3.7.

use net::pb::etcdserverpb as pb;
use pb::request_op::Request as OpRequest;

use super::*;
use crate::propose::Command;

fn run(space: Space, method: Method, message: Vec<u8>) -> Result<Request, Refusal> {
    let mut ids = IdGenerator::new(7, 1_700_000_000_000, 0, 1);
    let mut context = Context { limits: Limits::default(), space, ids: &mut ids };
    decode(&mut context, method, &message.into())
}

fn error(method: Method, message: &impl Message) -> Option<Error> {
    refused(run(Space::UNLIMITED, method, message.encode_to_vec()))
}

fn refused(result: Result<Request, Refusal>) -> Option<Error> {
    match result {
        Ok(_) => None,
        Err(Refusal::Error(error)) => Some(error),
        Err(other) => panic!("{other:?}"),
    }
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: text(key), ..Default::default() }
}

fn put(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest { key: text(key), value: text(value), ..Default::default() }
}

fn op(request: OpRequest) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn puts(count: usize) -> Vec<pb::RequestOp> {
    (0..count).map(|i| op(OpRequest::RequestPut(put(&format!("k{i}"), "v")))).collect()
}

fn txn(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest { success, ..Default::default() }
}

fn nested(txn: pb::TxnRequest) -> pb::RequestOp {
    op(OpRequest::RequestTxn(txn))
}

#[test]
fn range_checks_key_then_sort() {
    let cases = [
        (get("k"), None),
        (get(""), Some(Error::EmptyKey)),
        (pb::RangeRequest { sort_order: 3, ..get("") }, Some(Error::EmptyKey)),
        (pb::RangeRequest { sort_order: 3, ..get("k") }, Some(Error::InvalidSortOption)),
        (pb::RangeRequest { sort_target: 5, ..get("k") }, Some(Error::InvalidSortOption)),
        (pb::RangeRequest { sort_target: -1, ..get("k") }, Some(Error::InvalidSortOption)),
        (pb::RangeRequest { limit: -1, revision: -1, min_mod_revision: -1, ..get("k") }, None),
    ];
    for (request, want) in cases {
        assert_eq!(error(Method::KvRange, &request), want, "{request:?}");
    }
}

#[test]
fn put_checks_key_then_value_then_lease() {
    let ignoring = |value: &str, lease| pb::PutRequest {
        ignore_value: true,
        ignore_lease: true,
        lease,
        ..put("k", value)
    };
    let cases = [
        (put("k", ""), None),
        (put("", "v"), Some(Error::EmptyKey)),
        (ignoring("v", 1), Some(Error::ValueProvided)),
        (ignoring("", 1), Some(Error::LeaseProvided)),
        (ignoring("", 0), None),
        (pb::PutRequest { key: text(""), ..ignoring("v", 1) }, Some(Error::EmptyKey)),
    ];
    for (request, want) in cases {
        assert_eq!(error(Method::KvPut, &request), want, "{request:?}");
    }
    assert_eq!(error(Method::KvDeleteRange, &pb::DeleteRangeRequest::default()), Some(Error::EmptyKey));
}

#[test]
fn txn_counts_the_longest_list_and_gives_the_rest_to_nested_ones() {
    let compare = |key: &str| pb::Compare { key: text(key), ..Default::default() };
    let none = pb::RequestOp { request: None };
    let cases: Vec<(&str, pb::TxnRequest, Option<Error>)> = vec![
        ("empty", txn(vec![]), None),
        ("128 puts", txn(puts(128)), None),
        ("129 puts", txn(puts(129)), Some(Error::TooManyOps)),
        (
            "129 in failure",
            pb::TxnRequest { failure: puts(129), ..Default::default() },
            Some(Error::TooManyOps),
        ),
        (
            "129 compares",
            pb::TxnRequest { compare: vec![compare("k"); 129], ..Default::default() },
            Some(Error::TooManyOps),
        ),
        (
            "each list its own 128",
            pb::TxnRequest { compare: vec![compare("k"); 128], success: puts(128), failure: puts(128) },
            None,
        ),
        ("nested within budget", txn(vec![nested(txn(puts(127)))]), None),
        ("nested over budget", txn(vec![nested(txn(puts(128)))]), Some(Error::TooManyOps)),
        ("two levels", txn(vec![nested(txn(vec![nested(txn(puts(127)))]))]), Some(Error::TooManyOps)),
        (
            "compare without key",
            pb::TxnRequest { compare: vec![compare("")], success: vec![none.clone()], ..Default::default() },
            Some(Error::EmptyKey),
        ),
        ("operation without request", txn(vec![none.clone()]), Some(Error::KeyNotFound)),
        ("put without key", txn(vec![op(OpRequest::RequestPut(put("", "v"))), none]), Some(Error::EmptyKey)),
        (
            "bad sort inside",
            txn(vec![op(OpRequest::RequestRange(pb::RangeRequest { sort_order: 9, ..get("k") }))]),
            Some(Error::InvalidSortOption),
        ),
        ("same key twice", txn([puts(1), puts(1)].concat()), Some(Error::DuplicateKey)),
        (
            "same key twice, and an error before",
            txn([puts(1), puts(1), vec![op(OpRequest::RequestRange(get("")))]].concat()),
            Some(Error::EmptyKey),
        ),
    ];
    for (what, request, want) in cases {
        assert_eq!(error(Method::KvTxn, &request), want, "{what}");
    }
}

#[test]
fn txns_of_ranges_alone_are_reads() {
    let range = |serializable| op(OpRequest::RequestRange(pb::RangeRequest { serializable, ..get("k") }));
    let cases: Vec<(&str, pb::TxnRequest, Option<bool>)> = vec![
        ("empty", txn(vec![]), Some(false)),
        ("linearizable", txn(vec![range(false)]), Some(true)),
        ("serializable", txn(vec![range(true)]), Some(false)),
        (
            "mixed",
            pb::TxnRequest { success: vec![range(true)], failure: vec![range(false)], ..Default::default() },
            Some(true),
        ),
        ("nested reads are a write", txn(vec![nested(txn(vec![range(true)]))]), None),
        ("a put in the branch not taken", pb::TxnRequest { failure: puts(1), ..Default::default() }, None),
    ];
    for (what, request, want) in cases {
        let got = match run(Space::UNLIMITED, Method::KvTxn, request.encode_to_vec()) {
            Ok(Request::TxnRead { linearizable, .. }) => Some(linearizable),
            Ok(Request::Write(_)) => None,
            other => panic!("{what}: {other:?}"),
        };
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn serializable_ranges_need_no_barrier() {
    for serializable in [false, true] {
        let request = pb::RangeRequest { serializable, ..get("k") };
        let got = run(Space::UNLIMITED, Method::KvRange, request.encode_to_vec());
        assert!(matches!(got, Ok(Request::Range { linearizable, .. }) if linearizable != serializable));
    }
}

#[test]
fn the_quota_comes_before_the_message_and_the_size_after() {
    let full = Space { used: 1000, quota: Some(1000) };
    let nearly = Space { used: 1000, quota: Some(1000 + 256 + 3) };
    let grant = pb::LeaseGrantRequest { ttl: 5, id: 1 };
    let read = txn(vec![op(OpRequest::RequestRange(get("k")))]);
    let delete = pb::DeleteRangeRequest { key: text("k"), ..Default::default() };
    type Case = (&'static str, Space, Method, Vec<u8>, Option<Error>);
    let cases: Vec<Case> = vec![
        ("put", full, Method::KvPut, put("k", "v").encode_to_vec(), Some(Error::NoSpace)),
        ("put without key", full, Method::KvPut, put("", "v").encode_to_vec(), Some(Error::NoSpace)),
        ("put that fits", nearly, Method::KvPut, put("k", "v").encode_to_vec(), None),
        (
            "put that just does not",
            nearly,
            Method::KvPut,
            put("k", "vv").encode_to_vec(),
            Some(Error::NoSpace),
        ),
        ("txn", full, Method::KvTxn, txn(puts(1)).encode_to_vec(), Some(Error::NoSpace)),
        ("reading txn", full, Method::KvTxn, read.encode_to_vec(), None),
        ("grant", full, Method::LeaseGrant, grant.encode_to_vec(), Some(Error::NoSpace)),
        ("delete", full, Method::KvDeleteRange, delete.encode_to_vec(), None),
        ("revoke", full, Method::LeaseRevoke, vec![], None),
        ("compact", full, Method::KvCompact, vec![], None),
        (
            "no quota",
            Space { used: u64::MAX, quota: None },
            Method::KvPut,
            put("k", "v").encode_to_vec(),
            None,
        ),
    ];
    for (what, space, method, message, want) in cases {
        assert_eq!(refused(run(space, method, message)), want, "{what}");
    }
}

#[test]
fn entries_over_the_limit_are_refused_by_their_whole_size() {
    let overhead = |size: usize| {
        let message = put("k", &"v".repeat(size)).encode_to_vec();
        match run(Space::UNLIMITED, Method::KvPut, message) {
            Ok(Request::Write(write)) => Ok(write.entry.len()),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal),
        }
    };
    let limit = Limits::default().request_bytes_max;
    let fits = limit - 64;
    let entry = overhead(fits).expect("below the limit");
    let largest = fits + (limit - entry);
    assert_eq!(overhead(largest).expect("at the limit"), limit);
    assert_eq!(overhead(largest + 1), Err(Error::RequestTooLarge.into()));
}

#[test]
fn the_entry_holds_the_clients_bytes() {
    // An unknown field (number 15) travels along.
    let mut message = put("k", "v").encode_to_vec();
    message.extend_from_slice(&[0x78, 1]);
    let Ok(Request::Write(write)) = run(Space::UNLIMITED, Method::KvPut, message.clone()) else { panic!() };
    assert!(write.entry.ends_with(&message));
    let replayed = crate::propose::decode(&write.entry).expect("our own entry");
    assert!(
        matches!((&write.command, &replayed), (Command::Put(a), Command::Put(b)) if a.key == b.key && a.value == b.value)
    );
}

#[test]
fn every_unary_message_is_decoded_and_garbage_refused() {
    for &method in Method::ALL {
        let streams = matches!(method, Method::Watch | Method::LeaseKeepAlive);
        let result = run(Space::UNLIMITED, method, vec![]);
        let served = !matches!(result, Err(Refusal::Unimplemented(_)));
        assert_eq!(served, is_served(method) && !streams, "{method:?}");
        if served {
            // field 1, length 5, one byte
            assert_eq!(
                refused(run(Space::UNLIMITED, method, vec![0x0a, 5, 0])),
                Some(Error::Malformed),
                "{method:?}"
            );
        }
    }
    let refusal = run(Space::UNLIMITED, Method::AuthEnable, vec![]).unwrap_err();
    assert_eq!(
        refusal.status(),
        Status::new(Code::Unimplemented, "unknown method AuthEnable for service etcdserverpb.Auth")
    );
    assert_eq!(watch::decode(&text("\u{a}")), Err(Error::Malformed));
    assert_eq!(watch::decode(&Bytes::new()), Ok(None));
    assert_eq!(lease::decode_keep_alive(&Bytes::from_static(&[8, 77])), Ok(77));
}

#[test]
fn deep_nesting_is_an_error_not_an_overflow() {
    let mut deep = txn(vec![]);
    for _ in 0..2000 {
        deep = txn(vec![nested(deep)]);
    }
    assert_eq!(error(Method::KvTxn, &deep), Some(Error::Malformed));
}

#[test]
fn leases_without_an_id_get_one() {
    let grant = |id| {
        let message = pb::LeaseGrantRequest { ttl: 5, id }.encode_to_vec();
        match run(Space::UNLIMITED, Method::LeaseGrant, message) {
            Ok(Request::Write(write)) => match (write.command, crate::propose::decode(&write.entry)) {
                (Command::LeaseGrant { id: a, ttl: 5 }, Ok(Command::LeaseGrant { id: b, ttl: 5 })) => (a, b),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(grant(99), (99, 99));
    assert_eq!(grant(-5), (-5, -5));
    let (local, replayed) = grant(0);
    assert!(local > 0 && local == replayed);
}

#[test]
fn health_knows_the_empty_service_alone() {
    use net::pb::healthpb::health_check_response::ServingStatus;
    assert_eq!(health::check("").map(|r| r.status()), Ok(ServingStatus::Serving));
    assert_eq!(health::check("etcdserverpb.KV"), Err(Error::UnknownService));
    assert_eq!(health::watch("").status(), ServingStatus::Serving);
    assert_eq!(health::watch("x").status(), ServingStatus::ServiceUnknown);
    assert_eq!(health::list().statuses.keys().collect::<Vec<_>>(), [""]);
}

#[test]
fn changes_of_the_membership_have_urls_that_can_be_dialled() {
    use crate::cluster::Change;
    let list = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
    let change = |method, message: Vec<u8>| match run(Space::UNLIMITED, method, message) {
        Ok(Request::ConfChange(change)) => Ok(change),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err(refusal),
    };
    let bad = Err(Refusal::Error(Error::BadMemberUrls));
    let cases = [
        (vec!["http://b:1", "http://a:1"], Ok(list(&["http://a:1", "http://b:1"]))),
        (vec!["unix://x"], Ok(list(&["unix://x"]))),
        (vec![], bad.clone()),
        (vec![""], bad.clone()),
        (vec!["a:1"], bad.clone()),
        (vec!["http://a"], bad.clone()),
        (vec!["http://a:1/path"], bad.clone()),
        (vec!["http://a:1", "ftp://b:1"], bad),
    ];
    for (urls, want) in cases {
        for is_learner in [false, true] {
            let request = pb::MemberAddRequest { peer_ur_ls: list(&urls), is_learner };
            let want = want.clone().map(|peer_urls| Change::Add { peer_urls, is_learner });
            assert_eq!(change(Method::MemberAdd, request.encode_to_vec()), want, "{urls:?}");
        }
        let request = pb::MemberUpdateRequest { id: 7, peer_ur_ls: list(&urls) };
        let want = want.map(|_| Change::Update { id: 7, peer_urls: list(&urls) });
        assert_eq!(change(Method::MemberUpdate, request.encode_to_vec()), want, "{urls:?}");
    }
    let id = u64::MAX;
    let remove = pb::MemberRemoveRequest { id }.encode_to_vec();
    assert_eq!(change(Method::MemberRemove, remove), Ok(Change::Remove { id }));
    let promote = pb::MemberPromoteRequest { id }.encode_to_vec();
    assert_eq!(change(Method::MemberPromote, promote), Ok(Change::Promote { id }));
    let request = pb::MoveLeaderRequest { target_id: id }.encode_to_vec();
    let moved = run(Space::UNLIMITED, Method::MaintenanceMoveLeader, request);
    assert!(matches!(moved, Ok(Request::MoveLeader { target }) if target == id));
}

#[test]
fn a_learner_serves_status_snapshots_and_local_ranges() {
    let range = |serializable| Bytes::from(pb::RangeRequest { serializable, ..get("k") }.encode_to_vec());
    for &method in Method::ALL {
        let want =
            matches!(method, Method::KvRange | Method::MaintenanceStatus | Method::MaintenanceSnapshot);
        assert_eq!(learner_serves(method, &range(true)), want, "{method:?}");
    }
    assert!(!learner_serves(Method::KvRange, &range(false)));
    assert!(!learner_serves(Method::KvRange, &text("\u{7f}")), "what can't be read is no local range");
}
