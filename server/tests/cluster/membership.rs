//! Members come, go, and are told apart.

use std::fmt::Write;
use std::time::Duration;

use ringd::config::{ClusterId, MemberId};
use testkit::pb::{
    Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    MemberUpdateRequest, MoveLeaderRequest, PutRequest, RangeRequest, StatusRequest,
};
use testkit::{Client, Cluster, Program, within};
use tonic::{Response, Status};

use crate::metrics::scrape;
use crate::{options, program, three};

/// How long links must have been up before a change is allowed, and a second more.
const HEALTHY_AFTER: Duration = Duration::from_secs(6);

/// How long links may take until they are up.
const LINKS_PATIENCE: Duration = Duration::from_secs(30);

/// Links of this member that are up, by what it counts.
fn links(cluster: &Cluster, i: usize) -> usize {
    let text = scrape(&cluster.members()[i]);
    text.lines().filter(|line| line.starts_with("etcd_network_active_peers{") && line.ends_with(" 1")).count()
}

/// Waits until all links have been up for so long that changes are allowed.
///
/// A member is ready when it has heard of the leader. Its link to the other follower may come up later: whoever dialed it too early
/// waits for up to a second before the next attempt, and for longer on a busy machine.
async fn healthy(cluster: &Cluster) {
    let count = cluster.members().len();
    let all_are_up = async {
        while (0..count).any(|i| links(cluster, i) < count - 1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(LINKS_PATIENCE, all_are_up).await.expect("all links come up");
    tokio::time::sleep(HEALTHY_AFTER).await;
}

async fn members(client: &mut Client) -> Vec<Member> {
    let list = client.cluster.member_list(MemberListRequest { linearizable: true }).await;
    list.expect("a quorum is there").into_inner().members
}

async fn id_of(client: &mut Client, name: &str) -> u64 {
    let members = members(client).await;
    members.iter().find(|member| member.name == name).unwrap_or_else(|| panic!("{name} in {members:?}")).id
}

fn add(url: &str, is_learner: bool) -> MemberAddRequest {
    MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner }
}

#[tokio::test]
async fn the_list_is_that_of_etcd() {
    let cluster = three();
    let founders: Vec<MemberId> = cluster
        .members()
        .iter()
        .map(|member| MemberId::of_founder(&[member.peer_url()], "etcd-cluster"))
        .collect();
    let mut want: Vec<Member> = (0..3)
        .map(|i| Member {
            id: founders[i].0,
            name: format!("m{i}"),
            peer_ur_ls: vec![cluster.members()[i].peer_url()],
            client_ur_ls: vec![cluster.members()[i].url().to_owned()],
            is_learner: false,
        })
        .collect();
    want.sort_by_key(|member| member.id);
    for i in 0..3 {
        let mut client = cluster.client(i).await;
        for linearizable in [true, false] {
            let list = client.cluster.member_list(MemberListRequest { linearizable }).await;
            let list = list.expect("it serves").into_inner();
            if linearizable {
                assert_eq!(list.members, want, "from m{i}");
            }
            let header = list.header.expect("always there");
            assert_eq!((header.cluster_id, header.member_id), (ClusterId::of(&founders).0, founders[i].0));
            assert_eq!(header.revision, 0, "answers about members have none");
            assert!(header.raft_term >= 2);
        }
    }
}

#[tokio::test]
async fn a_member_is_added_joins_and_is_promoted() {
    let mut cluster = three();
    healthy(&cluster).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let mut client = cluster.client(leader).await;
    let put = |key: &str| PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
    client.kv.put(put("before")).await.expect("a quorum is there");
    let added = client.cluster.member_add(add(&cluster.next_peer_url(), true)).await.expect("healthy");
    let added = added.into_inner();
    let learner = added.member.expect("the new one");
    assert!(learner.is_learner && learner.name.is_empty() && learner.client_ur_ls.is_empty());
    assert_eq!(added.members.len(), 4);

    let i = cluster.spawn_joining(&[0, 1, 2], &[]);
    cluster.member(i).wait_ready();
    let mut new = cluster.client(i).await;
    // A learner serves local ranges and little else.
    let range = |serializable| RangeRequest { key: "before".into(), serializable, ..Default::default() };
    assert_eq!(new.kv.range(range(true)).await.expect("a local range").into_inner().count, 1);
    for refused in [
        new.kv.range(range(false)).await.map(drop),
        new.kv.put(put("x")).await.map(drop),
        new.cluster.member_list(MemberListRequest::default()).await.map(drop),
    ] {
        let status = refused.expect_err("a learner");
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "etcdserver: rpc not supported for learner");
    }
    // A follower asks the leader for it.
    let follower = (0..3).find(|&i| i != leader).expect("two of them");
    let mut at_follower = cluster.client(follower).await;
    let promote = MemberPromoteRequest { id: learner.id };
    let promoted = at_follower.cluster.member_promote(promote).await.expect("it has caught up").into_inner();
    assert!(promoted.members.iter().all(|member| !member.is_learner), "{promoted:?}");
    new.kv.put(put("after")).await.expect("a voter serves all");
    let list = members(&mut new).await;
    let itself = list.iter().find(|member| member.id == learner.id).expect("it is one of four");
    assert_eq!((itself.name.as_str(), list.len()), ("m3", 4));

    // It finds its way back without its flags' help.
    cluster.member(i).restart();
    let mut new = cluster.client(i).await;
    new.kv.put(put("again")).await.expect("a voter serves all");
}

#[tokio::test]
async fn a_removed_member_stops_and_stays_away() {
    let mut cluster = three();
    healthy(&cluster).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let removed = (0..3).find(|&i| i != leader).expect("two of them");
    let mut client = cluster.client(leader).await;
    let id = id_of(&mut client, &format!("m{removed}")).await;
    let answer =
        client.cluster.member_remove(MemberRemoveRequest { id }).await.expect("healthy").into_inner();
    assert_eq!(answer.members.len(), 2);
    assert!(answer.members.iter().all(|member| member.id != id));

    let is_ringd = program().is_ringd();
    let server = cluster.member(removed);
    let status = server.wait_exit(Duration::from_secs(20));
    if is_ringd {
        assert_eq!(status.code(), Some(27), "{}", server.log());
        assert!(server.log().contains("permanently removed"), "{}", server.log());
        for _ in 0..2 {
            server.restart_unready();
            assert_eq!(server.wait_exit(Duration::from_secs(20)).code(), Some(27), "{}", server.log());
        }
    }
    let put = PutRequest { key: "k".into(), ..Default::default() };
    client.kv.put(put).await.expect("two of two");
    let again = client.cluster.member_remove(MemberRemoveRequest { id }).await.expect_err("it is gone");
    assert_eq!((again.code(), again.message()), (tonic::Code::NotFound, "etcdserver: member not found"));
}

/// Its log knows a term and nothing else, so it can't know whom to ask but from its flags.
#[tokio::test]
async fn a_member_that_was_removed_before_it_had_anything_hears_of_it() {
    let mut cluster = three();
    if !program().is_ringd() {
        return; // etcd waits for ever
    }
    healthy(&cluster).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let mut client = cluster.client(leader).await;
    let added = client.cluster.member_add(add(&cluster.next_peer_url(), false)).await.expect("healthy");
    let id = added.into_inner().member.expect("the new one").id;
    let i = cluster.spawn_joining(&[0, 1, 2], &[("RINGD_FAILPOINTS", "log-after-completion=1")]);
    cluster.member(i).wait_exit(Duration::from_secs(20));
    client.cluster.member_remove(MemberRemoveRequest { id }).await.expect("three of four");

    let server = cluster.member(i);
    server.remove_env("RINGD_FAILPOINTS");
    server.restart_unready();
    assert_eq!(server.wait_exit(Duration::from_secs(20)).code(), Some(27), "{}", server.log());
    assert!(server.log().contains("permanently removed"), "{}", server.log());
}

#[tokio::test]
async fn a_member_whose_data_is_gone_is_refused() {
    let mut cluster = three();
    let id = id_of(&mut cluster.client(0).await, "m2").await;
    let server = cluster.member(2);
    server.kill();
    std::fs::remove_dir_all(server.data_dir()).expect("a directory of our own");
    server.restart_unready();
    let status = server.wait_exit(Duration::from_secs(30));
    assert_eq!(status.code(), Some(1), "{}", server.log());
    let sentence = format!("member {id:x} has already been bootstrapped");
    assert!(server.log().contains(&sentence), "{sentence}: {}", server.log());
}

/// What the script saw, one line per call.
#[derive(Default)]
struct Story {
    lines: String,
    /// Ids that differ from run to run, and what they are called here.
    names: Vec<(u64, String)>,
}

impl Story {
    fn outcome<T>(
        &mut self,
        what: &str,
        result: Result<Response<T>, Status>,
        members: impl Fn(&T) -> &[Member],
    ) -> Option<T> {
        match result {
            Ok(answer) => {
                let answer = answer.into_inner();
                let list: Vec<String> = members(&answer).iter().map(|member| self.show(member)).collect();
                let mut list = list;
                list.sort_unstable(); // by id, and ids differ
                writeln!(self.lines, "{what}: {}", list.join(" ")).expect("a string");
                Some(answer)
            }
            Err(status) => {
                writeln!(self.lines, "{what}: {:?} {}", status.code(), status.message()).expect("a string");
                None
            }
        }
    }

    fn show(&self, member: &Member) -> String {
        let known = self.names.iter().find(|(id, _)| *id == member.id);
        let name = known.map_or("new", |(_, name)| name.as_str());
        format!(
            "{name}[{} {} {} {}]",
            member.name,
            member.peer_ur_ls.len(),
            member.client_ur_ls.len(),
            member.is_learner
        )
    }
}

async fn term_of(client: &mut Client) -> u64 {
    client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner().raft_term
}

/// The same calls at the leader and at a follower of a cluster of three whose links are up.
async fn script(program: Program) -> String {
    // Who leads must go on to, also on a machine with much to do.
    let cluster = Cluster::start(options(program).arg("--election-timeout=5000"), 3);
    healthy(&cluster).await;
    let leader = cluster.leader(&[0, 1, 2]).await;
    let follower = (0..3).find(|&i| i != leader).expect("two of them");
    let (mut lead, mut follow) = (cluster.client(leader).await, cluster.client(follower).await);
    let term = term_of(&mut lead).await;
    let mut story = Story::default();
    for (i, name) in [(leader, "leader"), (follower, "follower"), (3 - leader - follower, "other")] {
        story.names.push((id_of(&mut lead, &format!("m{i}")).await, name.to_owned()));
    }
    // Names differ with who leads.
    let anonymous = |text: String| text.replace("[m0 ", "[m ").replace("[m1 ", "[m ").replace("[m2 ", "[m ");
    let id = |story: &Story, name: &str| story.names.iter().find(|(_, it)| it == name).expect("known").0;
    let leader_id = id(&story, "leader");
    let taken = cluster.members()[follower].peer_url();

    for url in ["", "127.0.0.1:1", "http://127.0.0.1", "http://127.0.0.1:1/x", "ftp://127.0.0.1:1"] {
        let answer = lead.cluster.member_add(add(url, false)).await;
        story.outcome(&format!("add {url:?}"), answer, |answer| &answer.members);
    }
    let answer = lead.cluster.member_add(MemberAddRequest::default()).await;
    story.outcome("add nothing", answer, |answer| &answer.members);
    for (what, client) in [("leader", &mut lead), ("follower", &mut follow)] {
        for is_learner in [false, true] {
            let answer = client.cluster.member_add(add(&taken, is_learner)).await;
            story.outcome(&format!("{what}: add taken, learner {is_learner}"), answer, |answer| {
                &answer.members
            });
        }
        let answer = client.cluster.member_remove(MemberRemoveRequest { id: 7 }).await;
        story.outcome(&format!("{what}: remove nobody"), answer, |answer| &answer.members);
        let update = |id, url: &str| MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
        let answer = client.cluster.member_update(update(7, "http://127.0.0.1:1")).await;
        story.outcome(&format!("{what}: update nobody"), answer, |answer| &answer.members);
        let answer = client.cluster.member_update(update(leader_id, &taken)).await;
        story.outcome(&format!("{what}: update to taken"), answer, |answer| &answer.members);
        let answer = client.cluster.member_promote(MemberPromoteRequest { id: 7 }).await;
        story.outcome(&format!("{what}: promote nobody"), answer, |answer| &answer.members);
        let answer = client.cluster.member_promote(MemberPromoteRequest { id: leader_id }).await;
        story.outcome(&format!("{what}: promote a voter"), answer, |answer| &answer.members);
        let answer = client.maintenance.move_leader(MoveLeaderRequest { target_id: 7 }).await;
        story.outcome(&format!("{what}: move to nobody"), answer, |_| &[]);
    }
    // A learner that never starts.
    let answer = follow.cluster.member_add(add("http://127.0.0.9:1", true)).await;
    let learner = story.outcome("add learner", answer, |answer| &answer.members);
    let learner = learner.and_then(|answer| answer.member).expect("healthy").id;
    story.names.push((learner, "learner".into()));
    let answer = follow.cluster.member_add(add("http://127.0.0.9:2", true)).await;
    story.outcome("add another learner", answer, |answer| &answer.members);
    let answer = lead.cluster.member_promote(MemberPromoteRequest { id: learner }).await;
    story.outcome("promote too early", answer, |answer| &answer.members);
    let answer = follow.cluster.member_promote(MemberPromoteRequest { id: learner }).await;
    story.outcome("follower: promote too early", answer, |answer| &answer.members);
    let answer = lead.maintenance.move_leader(MoveLeaderRequest { target_id: learner }).await;
    story.outcome("move to a learner", answer, |_| &[]);
    let update = MemberUpdateRequest { id: learner, peer_ur_ls: vec!["http://127.0.0.9:3".into()] };
    let answer = follow.cluster.member_update(update).await;
    story.outcome("update learner", answer, |answer| &answer.members);
    let answer = follow.cluster.member_remove(MemberRemoveRequest { id: learner }).await;
    story.outcome("remove learner", answer, |answer| &answer.members);
    let answer = follow.cluster.member_promote(MemberPromoteRequest { id: learner }).await;
    story.outcome("promote who was removed", answer, |answer| &answer.members);
    // A voter that never starts: 3 of 4 have, and a fifth would need 3 of 5.
    let answer = lead.cluster.member_add(add("http://127.0.0.9:4", false)).await;
    let voter = story.outcome("add voter", answer, |answer| &answer.members);
    let voter = voter.and_then(|answer| answer.member).expect("healthy").id;
    story.names.push((voter, "voter".into()));
    let answer = lead.cluster.member_add(add("http://127.0.0.9:5", false)).await;
    let second = story.outcome("add another voter", answer, |answer| &answer.members);
    let second = second.and_then(|answer| answer.member).expect("3 of 5 are up").id;
    story.names.push((second, "second".into()));
    let answer = lead.cluster.member_add(add("http://127.0.0.9:6", false)).await;
    story.outcome("add one too many", answer, |answer| &answer.members);
    let answer = lead.cluster.member_add(add("http://127.0.0.9:6", true)).await;
    story.outcome("add a learner to a weak cluster", answer, |answer| &answer.members);
    for name in ["follower", "leader"] {
        let id = id(&story, name);
        let answer = lead.cluster.member_remove(MemberRemoveRequest { id }).await;
        story.outcome(&format!("remove {name} of a weak cluster"), answer, |answer| &answer.members);
    }
    for name in ["second", "voter"] {
        let id = id(&story, name);
        let answer = follow.cluster.member_remove(MemberRemoveRequest { id }).await;
        story.outcome(&format!("remove {name}"), answer, |answer| &answer.members);
    }
    assert_eq!(term_of(&mut lead).await, term, "nobody else was elected meanwhile");
    let target = id(&story, "follower");
    let answer = follow.maintenance.move_leader(MoveLeaderRequest { target_id: target }).await;
    story.outcome("move, asked of a follower", answer, |_| &[]);
    let answer = lead.maintenance.move_leader(MoveLeaderRequest { target_id: target }).await;
    story.outcome("move", answer, |_| &[]);
    // Asked at once: on a machine with much to do, an election may bring back whom it brought before.
    let status = lead.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
    assert_eq!(status.leader, target);
    anonymous(story.lines)
}

#[tokio::test]
async fn changes_are_made_and_refused_as_etcd_does() {
    assert!(testkit::oracle().is_current, "the comparison needs etcd 3.7 (Go >= 1.26)");
    let want = script(Program::etcd()).await;
    println!("{want}");
    assert_eq!(script(program()).await, want);
}
