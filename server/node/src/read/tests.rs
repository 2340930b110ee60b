//! Answers from a view, decoded and compared; lists in pieces of every size.

use crossbeam::epoch;
use engine::{Op, Store};
use prost::Message;

use super::*;
use crate::testing::{WHO, put, range, store};

fn filled(keys: usize, value_len: usize) -> Store {
    let mut store = store();
    for i in 0..keys {
        store.put(&put(&format!("k{i:04}"), &"v".repeat(value_len + i % 7))).unwrap();
    }
    store
}

fn whole(view: &Arc<View>, options: &RangeOptions) -> pb::RangeResponse {
    let guard = epoch::pin();
    let reply = range_reply(view, options);
    let len = reply.message_len();
    let mut out = Vec::new();
    reply.encode(&guard, &mut out).unwrap();
    assert_eq!(out.len() as u64, len);
    pb::RangeResponse::decode(&out[..]).unwrap()
}

fn range_reply(view: &Arc<View>, options: &RangeOptions) -> RangeReply {
    planned(view, options, usize::MAX).0
}

/// The reply, and in how many steps of `rows` rows it was planned.
fn planned(view: &Arc<View>, options: &RangeOptions, rows: usize) -> (RangeReply, usize) {
    let mut plan = super::range(view, &epoch::pin(), options, rows).map_err(Error::text).unwrap();
    for steps in 1.. {
        match plan {
            Planned::Done(answer) => return (RangeReply::new(answer, &WHO, 9), steps),
            Planned::More(job) => plan = range_step(job, &epoch::pin(), rows).map_err(Error::text).unwrap(),
        }
    }
    unreachable!("a plan is made some day")
}

#[test]
fn a_range_is_planned_in_bounded_steps_and_answers_the_same() {
    let mut store = filled(60, 3);
    let tombs = |i: usize| engine::DeleteOptions { key: format!("k{i:04}").into(), ..Default::default() };
    let before = store.revision();
    (0..60).filter(|i| i % 3 == 0).for_each(|i| drop(store.delete_range(&tombs(i)).unwrap()));
    (0..60).filter(|i| i % 4 == 0).for_each(|i| drop(store.put(&put(&format!("k{i:04}"), "b")).unwrap()));
    let view = store.publish().unwrap();
    let all = || range("k", "l");
    use engine::{SortOrder, SortTarget};
    // what, rows that must be looked at: keys of the range, and changes after the revision where they are counted
    let cases = [
        (all(), 60),
        (range("k0007", "k0031"), 24),
        (RangeOptions { limit: 9, ..all() }, 9),
        (RangeOptions { keys_only: true, ..all() }, 60),
        (RangeOptions { count_only: true, ..all() }, 0),
        (RangeOptions { revision: before, ..all() }, 60),
        (RangeOptions { revision: before, limit: 9, ..all() }, 9 + 35),
        (RangeOptions { revision: before, count_only: true, ..all() }, 35),
        (RangeOptions { revision: 9, count_only: true, ..all() }, 60),
        (RangeOptions { min_mod_revision: 20, ..all() }, 60),
        (RangeOptions { sort_order: SortOrder::Descend, limit: 5, ..all() }, 60),
        (RangeOptions { sort_target: SortTarget::Mod, limit: 5, ..all() }, 5),
        (RangeOptions { sort_target: SortTarget::Mod, limit: 5, revision: before, ..all() }, 5 + 35),
    ];
    for (options, looked_at) in cases {
        let want = whole(&view, &options);
        assert_eq!(planned(&view, &options, usize::MAX).1, 1, "{options:?}");
        for rows in [1, 2, 7, 59, 60, 61] {
            let (reply, steps) = planned(&view, &options, rows);
            let mut out = Vec::new();
            reply.encode(&epoch::pin(), &mut out).unwrap();
            assert_eq!(pb::RangeResponse::decode(&out[..]).unwrap(), want, "{options:?} by {rows}");
            assert!(steps * rows >= looked_at, "{options:?}: {steps} steps of {rows}");
        }
    }
}

#[test]
fn a_plan_goes_on_in_the_version_it_began_with() {
    let mut store = filled(50, 10);
    let view = store.publish().unwrap();
    let want = whole(&view, &range("k", "l"));
    let Planned::More(mut job) =
        super::range(&view, &epoch::pin(), &range("k", "l"), 7).map_err(Error::text).unwrap()
    else {
        panic!("50 rows are more than 7")
    };
    drop(view);
    let reply = loop {
        store.put(&put("k0049", "changed")).unwrap();
        store.put(&put("k9", "new")).unwrap();
        store.publish().unwrap();
        store.tree_mut().reclaim();
        match range_step(job, &epoch::pin(), 7).map_err(Error::text).unwrap() {
            Planned::More(more) => job = more,
            Planned::Done(answer) => break RangeReply::new(answer, &WHO, 9),
        }
    };
    let mut out = Vec::new();
    reply.encode(&epoch::pin(), &mut out).unwrap();
    assert_eq!(pb::RangeResponse::decode(&out[..]).unwrap(), want);
}

#[test]
fn a_range_answer_has_header_rows_more_and_count() {
    let mut store = filled(5, 3);
    let view = store.publish().unwrap();
    let cases = [
        (RangeOptions { limit: 2, ..range("k", "l") }, 2, true, 5),
        (range("k0003", ""), 1, false, 1),
        (range("x", ""), 0, false, 0),
        (RangeOptions { count_only: true, ..range("k", "l") }, 0, false, 5),
        (RangeOptions { revision: 3, ..range("k", "l") }, 2, false, 2),
    ];
    for (options, rows, more, count) in cases {
        let response = whole(&view, &options);
        assert_eq!(response.header, Some(WHO.header(6, 9)), "the store's revision, whatever was asked");
        assert_eq!((response.kvs.len(), response.more, response.count), (rows, more, count), "{options:?}");
    }
    let kv = &whole(&view, &range("k0003", "")).kvs[0];
    assert_eq!((&kv.key[..], &kv.value[..]), (&b"k0003"[..], &b"vvvvvv"[..]));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (5, 5, 1, 0));
}

#[test]
fn a_list_is_the_same_in_pieces_of_any_size() {
    let mut store = filled(60, 40);
    let view = store.publish().unwrap();
    let options = range("k", "l");
    let mut want = Vec::new();
    range_reply(&view, &options).encode(&epoch::pin(), &mut want).unwrap();
    for max in [1, 7, 64, 100, 1000, want.len() - 1, want.len(), want.len() + 1] {
        let mut reply = range_reply(&view, &options);
        let mut got = b"before".to_vec();
        loop {
            let start = got.len();
            match reply.fill(&epoch::pin(), max, &mut got) {
                Fill::Wrote(size) => {
                    assert!(size == got.len() - start && (1..=max).contains(&size), "max={max}")
                }
                Fill::Done(size) => {
                    assert!(size == got.len() - start && size <= max);
                    break;
                }
                Fill::Abort(status) => panic!("{status:?}"),
            }
        }
        assert_eq!(got[6..], want, "max={max}");
    }
}

#[test]
fn a_list_reads_the_version_it_began_with() {
    let mut store = filled(50, 100);
    let view = store.publish().unwrap();
    let want = whole(&view, &range("k", "l"));
    let mut reply = range_reply(&view, &range("k", "l"));
    let mut out = Vec::new();
    reply.fill(&epoch::pin(), 500, &mut out);
    drop(view);
    for i in 0..50 {
        store.put(&put(&format!("k{i:04}"), "changed")).unwrap();
    }
    store.compact(store.revision()).unwrap();
    while store.compact_slice(100).unwrap() != engine::compact::Progress::Idle {
        store.publish().unwrap();
    }
    while !matches!(reply.fill(&epoch::pin(), 500, &mut out), Fill::Done(_)) {}
    assert_eq!(pb::RangeResponse::decode(&out[..]).unwrap(), want);
}

#[test]
fn revisions_out_of_reach_are_errors() {
    let mut store = filled(5, 3);
    store.compact(4).unwrap();
    let view = store.publish().unwrap();
    let guard = epoch::pin();
    let cases =
        [(3, Some(Error::Compacted)), (4, None), (6, None), (7, Some(Error::FutureRevision)), (-1, None)];
    for (revision, want) in cases {
        let options = RangeOptions { revision, ..range("k", "l") };
        assert_eq!(super::range(&view, &guard, &options, usize::MAX).err(), want, "revision {revision}");
        let txn = Txn { success: vec![Op::Range(options)], ..Default::default() };
        // etcd: in a txn any revision below the compact revision is compacted, also a negative one.
        let want = if revision == -1 { Some(Error::Compacted) } else { want };
        assert_eq!(super::txn(&view, &guard, &txn).err(), want, "txn, revision {revision}");
        if revision >= 0 {
            assert_eq!(hash_kv(&view, &guard, revision).err(), want, "hash, revision {revision}");
        }
    }
}

#[test]
fn a_reading_txn_answers_like_a_writing_one() {
    let mut store = filled(3, 3);
    let view = store.publish().unwrap();
    let txn =
        Txn { success: vec![Op::Range(RangeOptions { limit: 1, ..range("k", "l") })], ..Default::default() };
    let answer = super::txn(&view, &epoch::pin(), &txn).unwrap();
    let mut out = Vec::new();
    answer.encode(&WHO, 9, &mut out);
    let response = pb::TxnResponse::decode(&out[..]).unwrap();
    assert_eq!(response.header, Some(WHO.header(4, 9)));
    let Some(pb::response_op::Response::ResponseRange(range)) = &response.responses[0].response else {
        panic!()
    };
    assert_eq!((range.kvs.len(), range.more, range.count), (1, true, 3));
    let inner = range.header.expect("operations have headers of their own");
    assert_eq!((inner.cluster_id, inner.member_id, inner.revision, inner.raft_term), (0, 0, 4, 0));
}

#[test]
fn hashes_have_headers_and_revisions() {
    let mut store = filled(5, 3);
    let view = store.publish().unwrap();
    let guard = epoch::pin();
    let mut job = hash_kv(&view, &guard, 0).map_err(Error::text).unwrap();
    let answer = loop {
        if let Some(answer) = hash_kv_step(&mut job, &guard, 2).unwrap() {
            break answer;
        }
    };
    let response = pb::HashKvResponse::decode(answer.body.clone()).unwrap();
    assert_eq!((answer.revision, response.hash_revision, response.compact_revision), (6, 6, -1));
    assert_ne!(response.hash, 0);
    let all = hash(&view, &guard).unwrap();
    assert_eq!(all.revision, 6);
    assert_ne!(pb::HashResponse::decode(all.body).unwrap().hash, 0);
}

#[test]
fn the_member_list_is_ordered_and_has_no_revision() {
    let mut store = store();
    for id in [9, 3] {
        let member =
            Member { id, peer_urls: vec![format!("http://{id}")], name: "n".into(), ..Default::default() };
        store.set_member(id, Some(&member.encode())).unwrap();
    }
    store.set_user_meta(crate::apply::CLUSTER_VERSION, b"3.7.0").unwrap();
    let view = store.publish().unwrap();
    let guard = epoch::pin();
    let answer = member_list(&view, &guard).unwrap();
    let response = pb::MemberListResponse::decode(answer.body).unwrap();
    assert_eq!(answer.revision, 0);
    assert_eq!(response.members.iter().map(|m| m.id).collect::<Vec<_>>(), [3, 9]);
    assert_eq!(response.members[0].peer_ur_ls, ["http://3"]);
    assert_eq!(cluster_version(&view, &guard).unwrap().as_deref(), Some("3.7.0"));
    store.set_member(4, Some(b"{")).unwrap();
    let view = store.publish().unwrap();
    assert_eq!(member_list(&view, &guard).err(), Some(Error::Corrupt));
}
