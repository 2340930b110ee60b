//! Conf changes into a store: what is refused, what the table holds afterwards, what the answer says.

use bytes::Bytes;
use consensus::NodeId;
use prost::Message;

use super::*;
use crate::testing::{WHO, store};

fn member(id: u64, url: &str) -> Member {
    Member { id, peer_urls: vec![url.to_owned()], ..Member::default() }
}

fn learner(id: u64, url: &str, max: u64) -> Context {
    let member = Member { is_learner: true, ..member(id, url) };
    Context { member, max_learners: Some(max), ..Context::default() }
}

fn promotion(id: u64) -> Context {
    Context { member: Member { id, ..Member::default() }, is_promote: true, ..Context::default() }
}

fn plain(member: Member) -> Context {
    Context { member, ..Context::default() }
}

fn change(kind: ConfChangeKind, id: u64, context: &Context) -> ConfChange {
    ConfChange { id: 9, kind, node: NodeId(id), context: context.encode() }
}

fn remove(id: u64) -> ConfChange {
    ConfChange { id: 9, kind: ConfChangeKind::RemoveNode, node: NodeId(id), context: Bytes::new() }
}

/// A store with voters 1 and 2 and learner 3.
fn three() -> Store {
    let mut store = store();
    for entry in [
        change(ConfChangeKind::AddNode, 1, &plain(Member { name: "one".into(), ..member(1, "http://1:1") })),
        change(ConfChangeKind::AddNode, 2, &plain(member(2, "http://2:1"))),
        change(ConfChangeKind::AddLearnerNode, 3, &learner(3, "http://3:1", 1)),
    ] {
        apply(&mut store, &entry).expect("readable").expect("valid");
    }
    store
}

fn decode<M: Message + Default>(answer: &Answer) -> M {
    let mut out = Vec::new();
    answer.encode(&WHO, 3, &mut out);
    M::decode(&out[..]).expect("a message")
}

#[test]
fn what_is_no_longer_valid_is_refused_and_changes_nothing() {
    use ConfChangeKind::*;
    let cases = [
        (change(AddNode, 1, &plain(member(1, "http://9:1"))), Error::MemberExists),
        (change(AddLearnerNode, 1, &learner(1, "http://9:1", 9)), Error::MemberExists),
        (change(AddNode, 9, &plain(member(9, "http://2:1"))), Error::PeerUrlExists),
        (change(AddLearnerNode, 9, &learner(9, "http://9:1", 1)), Error::TooManyLearners),
        (change(AddLearnerNode, 9, &learner(9, "http://3:1", 9)), Error::PeerUrlExists),
        (remove(9), Error::MemberNotFound),
        (change(UpdateNode, 9, &plain(member(9, "http://9:1"))), Error::MemberNotFound),
        (change(UpdateNode, 1, &plain(member(1, "http://2:1"))), Error::PeerUrlExists),
        (change(AddNode, 9, &promotion(9)), Error::MemberNotFound),
        (change(AddNode, 1, &promotion(1)), Error::MemberNotLearner),
    ];
    let mut store = three();
    let before = members(&store).unwrap();
    for (change, want) in cases {
        assert_eq!(apply(&mut store, &change).unwrap(), Err(want), "{change:?}");
        assert_eq!(members(&store).unwrap(), before, "{change:?}");
    }
}

#[test]
fn answers_list_all_members_after_the_change() {
    use ConfChangeKind::*;
    let mut store = three();
    let answer = apply(&mut store, &change(AddNode, 4, &plain(member(4, "http://4:1")))).unwrap().unwrap();
    let added: pb::MemberAddResponse = decode(&answer);
    assert_eq!(added.member, Some(member(4, "http://4:1").to_message()));
    assert_eq!(added.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let header = added.header.expect("always there");
    assert_eq!((header.cluster_id, header.member_id, header.revision, header.raft_term), (11, 12, 0, 3));

    let answer = apply(&mut store, &change(AddNode, 3, &promotion(3))).unwrap().unwrap();
    let promoted: pb::MemberPromoteResponse = decode(&answer);
    assert_eq!(promoted.members.len(), 4);
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    assert_eq!(promoted.members[2].peer_ur_ls, ["http://3:1"], "a promotion carries no URLs and keeps them");

    let update = Member { is_learner: true, name: "liar".into(), ..member(1, "http://1:9") };
    let answer = apply(&mut store, &change(UpdateNode, 1, &plain(update))).unwrap().unwrap();
    let updated: pb::MemberUpdateResponse = decode(&answer);
    let want =
        pb::Member { id: 1, name: "one".into(), peer_ur_ls: vec!["http://1:9".into()], ..Default::default() };
    assert_eq!(updated.members[0], want, "only the peer URLs change");

    let answer = apply(&mut store, &remove(2)).unwrap().unwrap();
    let removed: pb::MemberRemoveResponse = decode(&answer);
    assert_eq!(removed.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 3, 4]);
}

#[test]
fn a_removed_member_never_comes_back_under_its_id() {
    use ConfChangeKind::*;
    let mut store = three();
    assert!(!is_removed(&store, 2).unwrap());
    apply(&mut store, &remove(2)).unwrap().unwrap();
    // golden: the name in the meta table
    assert_eq!(store.user_meta(b"removed_member/\0\0\0\0\0\0\0\x02").unwrap().as_deref(), Some(&[1][..]));
    for change in [
        change(AddNode, 2, &plain(member(2, "http://2:1"))),
        change(AddLearnerNode, 2, &learner(2, "http://2:1", 9)),
        change(AddNode, 2, &promotion(2)),
        change(UpdateNode, 2, &plain(member(2, "http://2:1"))),
        remove(2),
    ] {
        assert_eq!(apply(&mut store, &change).unwrap(), Err(Error::MemberNotFound), "{change:?}");
    }
    apply(&mut store, &remove(3)).unwrap().unwrap();
    assert_eq!(removed_ids(&store).unwrap(), [2, 3]);
    // Its URL is free again, under another id.
    apply(&mut store, &change(AddNode, 5, &plain(member(5, "http://2:1")))).unwrap().unwrap();
    let view = store.publish().unwrap();
    let guard = crossbeam::epoch::pin();
    assert_eq!(is_removed_in(&view, &guard, 2), Ok(true));
    assert_eq!(is_removed_in(&view, &guard, 5), Ok(false));
}

#[test]
fn the_last_voter_stays() {
    let mut store = three();
    apply(&mut store, &remove(1)).unwrap().unwrap();
    assert_eq!(apply(&mut store, &remove(2)).unwrap(), Err(Error::NotEnoughStartedMembers));
    apply(&mut store, &remove(3)).unwrap().unwrap();
    assert_eq!(members(&store).unwrap().len(), 1);
}

#[test]
fn a_context_about_somebody_else_stops_the_store() {
    let mut store = three();
    let mixed =
        ConfChange { node: NodeId(9), ..change(ConfChangeKind::AddNode, 8, &plain(member(8, "http://8:1"))) };
    assert!(matches!(apply(&mut store, &mixed), Err(Fatal::Member(_))));
    let garbage = ConfChange { context: Bytes::from_static(b"{"), ..mixed };
    assert!(matches!(apply(&mut store, &garbage), Err(Fatal::Member(_))));
}
