//! Whichever member is asked, it is one store.

use testkit::pb::{
    CompactionRequest, Compare, DeleteRangeRequest, MoveLeaderRequest, PutRequest, RangeRequest, RequestOp,
    StatusRequest, TxnRequest, WatchCreateRequest, WatchRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    request_op::Request,
    watch_request::RequestUnion,
};
use testkit::{Client, Cluster, Duplex};
use tonic::Code;

use crate::ask::{assert_same, get, get_local, others, put};
use crate::three;

#[tokio::test]
async fn any_member_takes_writes_that_all_members_show() {
    let cluster = three();
    let mut clients = [cluster.client(0).await, cluster.client(1).await, cluster.client(2).await];
    let mut revision = 1;
    for round in 0..10 {
        for i in 0..3 {
            let (key, value) = (format!("k{i}"), format!("{round}"));
            let made = put(&mut clients[i], &key, &value).await.expect("three of three");
            assert_eq!(made, revision + 1, "one revision per put, whoever takes it");
            revision = made;
            // The member that answered has applied it; the others may not, but for a linearizable read they wait.
            let local = get_local(&mut clients[i], &key).await.expect("it serves");
            assert_eq!(local.as_ref(), Some(&value), "its own put, read at m{i}");
            for (at, client) in clients.iter_mut().enumerate() {
                let found = get(client, &key).await.expect("three of three");
                assert_eq!(found.as_ref(), Some(&value), "m{i}'s put, read at m{at}");
            }
        }
    }
    assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision);
    for client in &mut clients {
        for i in 0..3 {
            let found = get_local(client, &format!("k{i}")).await.expect("it serves");
            assert_eq!(found.as_deref(), Some("9"), "all have applied it");
        }
    }
}

fn create(key: &str, value: &str) -> TxnRequest {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    let read = RangeRequest { key: key.into(), ..Default::default() };
    let op = |request| RequestOp { request: Some(request) };
    TxnRequest {
        compare: vec![Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: key.into(),
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Default::default()
        }],
        success: vec![op(Request::RequestPut(put))],
        failure: vec![op(Request::RequestRange(read))],
    }
}

#[tokio::test]
async fn a_follower_takes_every_kind_of_write() {
    let cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [one, two] = others(leader);
    let (mut one, mut two) = (cluster.client(one).await, cluster.client(two).await);
    let created = one.kv.txn(create("t", "one")).await.expect("three of three").into_inner();
    assert!(created.succeeded);
    let refused = two.kv.txn(create("t", "two")).await.expect("three of three").into_inner();
    assert!(!refused.succeeded, "the other follower's txn came first: {refused:?}");
    put(&mut two, "u", "1").await.expect("three of three");
    let deleted = DeleteRangeRequest { key: "t".into(), prev_kv: true, ..Default::default() };
    let deleted = two.kv.delete_range(deleted).await.expect("three of three").into_inner();
    assert_eq!((deleted.deleted, &deleted.prev_kvs[0].value[..]), (1, &b"one"[..]));
    let revision = deleted.header.expect("a header").revision;
    one.kv.compact(CompactionRequest { revision, physical: true }).await.expect("three of three");
    for at in 0..3 {
        let mut client = cluster.client(at).await;
        let past = RangeRequest { key: "u".into(), revision: revision - 1, ..Default::default() };
        let status = client.kv.range(past).await.expect_err("compacted everywhere");
        assert_eq!(status.code(), Code::OutOfRange, "{status} at m{at}");
    }
    assert_same(&cluster, &[0, 1, 2]).await;
}

fn watch_all(client: &Client) -> Duplex<WatchRequest, testkit::pb::WatchResponse> {
    let watch = client.open_watch();
    let create =
        WatchCreateRequest { key: vec![0], range_end: vec![0], start_revision: 1, ..Default::default() };
    watch.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    watch
}

#[tokio::test]
async fn a_watch_on_any_member_shows_the_writes_of_all() {
    const PUTS: usize = 60;
    let cluster = three();
    let mut clients = [cluster.client(0).await, cluster.client(1).await, cluster.client(2).await];
    let mut watches: Vec<_> = clients.iter().map(watch_all).collect();
    let mut want = Vec::new();
    for n in 0..PUTS {
        let key = format!("w{}", n % 7);
        let revision = put(&mut clients[n % 3], &key, &n.to_string()).await.expect("three of three");
        want.push((revision, key, n.to_string()));
    }
    for (at, watch) in watches.iter_mut().enumerate() {
        let mut seen = Vec::new();
        while seen.len() < PUTS {
            for event in watch.expect().await.events {
                let kv = event.kv.expect("every event shows a key");
                let text = |bytes| String::from_utf8(bytes).expect("only text was put");
                seen.push((kv.mod_revision, text(kv.key), text(kv.value)));
            }
        }
        assert_eq!(seen, want, "the watch on m{at}");
    }
}

#[tokio::test]
async fn leadership_moves_on_demand_and_nothing_is_refused_for_long() {
    let cluster = three();
    let mut leader = cluster.leader(&[0, 1, 2]).await;
    for round in 0..4 {
        let target = others(leader)[round % 2];
        let target_id = id_of(&cluster, target).await;
        let mut client = cluster.client(leader).await;
        let answer = client.maintenance.move_leader(MoveLeaderRequest { target_id }).await;
        answer.unwrap_or_else(|status| panic!("round {round}, m{leader} to m{target}: {status}"));
        // Who answers the call has seen the new leader.
        assert_eq!(cluster.leader(&[0, 1, 2]).await, target, "round {round}");
        for at in 0..3 {
            put(&mut cluster.client(at).await, "k", &round.to_string()).await.expect("three of three");
        }
        leader = target;
    }
    let mut client = cluster.client(others(leader)[0]).await;
    let target_id = id_of(&cluster, leader).await;
    let status =
        client.maintenance.move_leader(MoveLeaderRequest { target_id }).await.expect_err("a follower");
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "etcdserver: not leader"));
    assert_same(&cluster, &[0, 1, 2]).await;
}

async fn id_of(cluster: &Cluster, at: usize) -> u64 {
    cluster.leader_and_id(at).await.expect("it serves").1
}

#[tokio::test]
async fn status_names_the_same_leader_and_term_everywhere() {
    let cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    put(&mut cluster.client(0).await, "k", "v").await.expect("three of three");
    assert_same(&cluster, &[0, 1, 2]).await;
    let mut seen = Vec::new();
    for at in 0..3 {
        let status = cluster.client(at).await.maintenance.status(StatusRequest {}).await;
        let status = status.expect("it serves").into_inner();
        let header = status.header.expect("a header");
        assert_eq!(header.member_id == status.leader, at == leader, "m{at} of leader m{leader}");
        assert!(!status.is_learner && status.errors.is_empty(), "{status:?}");
        seen.push((
            status.leader,
            status.raft_term,
            status.raft_applied_index,
            header.cluster_id,
            header.revision,
        ));
    }
    assert!(seen.iter().all(|it| *it == seen[0]), "{seen:x?}");
}
