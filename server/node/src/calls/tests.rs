//! Calls against a shell that writes down what it is told.

use consensus::ReadId;
use engine::{RangeOptions, Store};
use net::pb::etcdserverpb as pb;
use net::pb::healthpb;
use prost::Message;

use super::*;
use crate::api::Space;
use crate::cores::PeerFigures;
use crate::forward::{self, Response};
use crate::lease::KEEP_ALIVES_IN_FLIGHT_MAX;
use crate::membership::Member;
use crate::read::RangeReply;
use crate::testing::{WHO, put, store};

const TIMEOUT: Duration = Duration::from_secs(7);

struct World {
    leader: u64,
    is_learner: bool,
    is_full: bool,
    space: Space,
    read_index: Option<Index>,
    peers: Vec<PeerFigures>,
    to_raft: Vec<ToRaft>,
    to_store: Vec<(QueryId, Query)>,
    told: Vec<String>,
    long: Vec<LongRead<u32>>,
    out_of_space: usize,
    notes: Vec<Note>,
}

impl Facts for World {
    fn term(&self) -> u64 {
        9
    }
    fn leader(&self) -> u64 {
        self.leader
    }
    fn is_learner(&self) -> bool {
        self.is_learner
    }
    fn commit(&self) -> u64 {
        100
    }
    fn read_index(&self) -> Option<Index> {
        self.read_index
    }
    fn space(&self) -> Space {
        self.space
    }
    fn is_log_space_lost(&self) -> bool {
        false
    }
    fn peers(&self) -> Vec<PeerFigures> {
        self.peers.clone()
    }
    fn unix_s(&self) -> u64 {
        0
    }
}

impl Shell<u32> for World {
    type Facts = World;

    fn facts(&self) -> &World {
        self
    }
    fn to_raft(&mut self, message: ToRaft) -> Result<(), Full> {
        if self.is_full {
            return Err(Full);
        }
        self.to_raft.push(message);
        Ok(())
    }
    fn to_store(&mut self, message: ToStore) -> Result<(), Full> {
        match message {
            ToStore::NoSpace => self.out_of_space += 1,
            _ if self.is_full => return Err(Full),
            ToStore::Query(id, query) => self.to_store.push((id, query)),
            _ => panic!("nothing else is said to the store core"),
        }
        Ok(())
    }
    fn reply(&mut self, caller: &Caller<u32>, _: Option<&Bytes>, result: &Result<Answer, Error>) {
        self.told.push(match result {
            Ok(answer) => format!("{} revision {}", caller.who, answer.revision),
            Err(error) => format!("{} {error:?}", caller.who),
        });
    }
    fn range(&mut self, caller: &Caller<u32>, _: &RangeOptions, reply: RangeReply) {
        self.told.push(format!("{} {} keys", caller.who, reply.count()));
    }
    fn refuse(&mut self, caller: &Caller<u32>, refusal: Refusal) {
        self.told.push(match refusal {
            Refusal::Error(error) => format!("{} {error:?}", caller.who),
            Refusal::Unimplemented(_) => format!("{} unimplemented", caller.who),
        });
    }
    fn health(&mut self, caller: &Caller<u32>, _: &healthpb::HealthCheckResponse) {
        self.told.push(format!("{} health", caller.who));
    }
    fn kept_alive(&mut self, who: &u32, answer: &pb::LeaseKeepAliveResponse) {
        self.told.push(format!("{who} lease {} lives {} s", answer.id, answer.ttl));
    }
    fn end_stream(&mut self, who: &u32, error: Option<Error>) {
        self.told.push(format!("{who} ends {error:?}"));
    }
    fn begin(&mut self, read: LongRead<u32>) {
        self.long.push(read);
    }
    fn damaged(&mut self) {
        self.told.push("damaged".into());
    }
    fn note(&mut self, note: Note) {
        self.notes.push(note);
    }
}

/// A member that leads others.
fn world() -> World {
    World {
        leader: WHO.member_id,
        is_learner: false,
        is_full: false,
        space: Space::UNLIMITED,
        read_index: None,
        peers: Vec::new(),
        to_raft: Vec::new(),
        to_store: Vec::new(),
        told: Vec::new(),
        long: Vec::new(),
        out_of_space: 0,
        notes: Vec::new(),
    }
}

fn calls(store: &mut Store) -> Calls<u32> {
    let settings = Settings {
        core: 3,
        first_number: 1 << 40,
        identity: WHO,
        limits: Limits::default(),
        rules: Rules { strict_reconfig_check: false, max_learners: 1 },
        request_timeout: TIMEOUT,
        range_rows: 2,
        hash_rows: 2,
    };
    Calls::new(settings, IdGenerator::new(WHO.member_id, 0, 0, 1), store.publish().unwrap())
}

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn put_message() -> Bytes {
    pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }.encode_to_vec().into()
}

fn range_message(serializable: bool) -> Bytes {
    let ask = pb::RangeRequest { key: "k".into(), range_end: "l".into(), serializable, ..Default::default() };
    ask.encode_to_vec().into()
}

fn promote_message(id: u64) -> Bytes {
    pb::MemberPromoteRequest { id }.encode_to_vec().into()
}

impl World {
    fn take_told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.told)
    }

    fn proposal(&mut self) -> ProposalId {
        match self.to_raft.pop() {
            Some(ToRaft::Propose(id, _) | ToRaft::ProposeConfChange(id, _)) => id,
            _ => panic!("nothing was proposed"),
        }
    }

    fn read(&mut self) -> Option<ReadId> {
        match self.to_raft.pop() {
            Some(ToRaft::Read(id)) => Some(id),
            None => None,
            Some(_) => panic!("something else was asked"),
        }
    }

    /// Who was asked to promote whom, under which name.
    fn question(&mut self) -> Option<(NodeId, u64, ProposalId)> {
        match self.to_raft.pop()? {
            ToRaft::PeerRequest(to, id, body) => match forward::Request::decode(&body) {
                Ok(forward::Request::Promote { member }) => Some((to, member, id)),
                other => panic!("{other:?}"),
            },
            _ => panic!("something else was asked"),
        }
    }
}

#[test]
fn a_write_is_answered_with_its_outcome_or_with_why_there_is_none() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    // what comes of it, what the client is told
    type Comes = fn(ProposalId) -> ToClient;
    let cases: [(Comes, &str); 6] = [
        (|id| ToClient::Outcomes(vec![(id, Ok(Answer::bare(5)))]), "1 revision 5"),
        (|id| ToClient::Outcomes(vec![(id, Err(Error::LeaseNotFound))]), "1 LeaseNotFound"),
        (|id| ToClient::Dropped(id, DropReason::NoLeader), "1 NoLeader"),
        (|id| ToClient::Dropped(id, DropReason::LeaderChanged), "1 LeaderChanged"),
        (|id| ToClient::Dropped(id, DropReason::OutcomeUnknown), "1 TimeoutLeaderFailure"),
        (|id| ToClient::Dropped(id, DropReason::ConfChangePending), "1 Unhealthy"),
    ];
    for (comes, want) in cases {
        calls.call(at(0), 1, Method::KvPut, false, &put_message(), &mut world);
        assert_eq!(world.take_told(), [""; 0]);
        let id = world.proposal();
        assert_eq!(cores::client_of(id), Some(3));
        assert!(calls.awaits_writes());
        calls.handle(at(1), comes(id), &mut world);
        calls.handle(at(1), comes(id), &mut world); // once more, for nobody
        assert_eq!(world.take_told(), [want]);
        assert!(calls.is_empty() && !calls.awaits_writes());
    }
}

#[test]
fn what_is_not_served_now_is_refused_before_it_is_looked_at() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let learner = || World { is_learner: true, ..world() };
    let leaderless = || World { leader: 0, ..world() };
    let full = || World { is_full: true, ..world() };
    let used_up = || World { space: Space { used: 10, quota: Some(10) }, ..world() };
    let nonsense = || Bytes::from_static(b"\xff");
    let cases = [
        (learner(), Method::KvPut, false, put_message(), "1 NotSupportedForLearner"),
        (learner(), Method::KvRange, false, range_message(false), "1 NotSupportedForLearner"),
        (learner(), Method::KvRange, false, range_message(true), "1 0 keys"),
        (leaderless(), Method::KvRange, true, range_message(true), "1 NoLeader"),
        (leaderless(), Method::KvRange, false, range_message(true), "1 0 keys"),
        (world(), Method::AuthEnable, false, Bytes::new(), "1 unimplemented"),
        (world(), Method::KvPut, false, nonsense(), "1 Malformed"),
        (full(), Method::KvPut, false, put_message(), "1 TooManyRequests"),
        (full(), Method::LeaseLeases, false, Bytes::new(), "1 TooManyRequests"),
        (used_up(), Method::KvPut, false, put_message(), "1 NoSpace"),
    ];
    for (mut world, method, has_leader, message, want) in cases {
        calls.call(at(0), 1, method, has_leader, &message, &mut world);
        assert_eq!(world.take_told(), [want], "{method:?}");
        assert!(world.to_raft.is_empty() && world.to_store.is_empty(), "{method:?}");
        assert_eq!(world.out_of_space, usize::from(want == "1 NoSpace"), "the alarm is due");
        assert!(calls.is_empty());
    }
}

#[test]
fn a_linearizable_read_waits_for_an_index_and_for_the_version_that_covers_it() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    let get = |calls: &mut Calls<u32>, who, world: &mut World| {
        calls.call(at(0), who, Method::KvRange, false, &range_message(false), world);
    };
    get(&mut calls, 1, &mut world);
    get(&mut calls, 2, &mut world);
    calls.end_turn(&mut world);
    let asked = world.read().expect("one question for both");
    get(&mut calls, 3, &mut world);
    calls.end_turn(&mut world);
    assert_eq!(world.read(), None, "one question at a time");

    store.put(&put("k", "v")).unwrap();
    store.set_applied(7, 1);
    calls.handle(at(1), ToClient::ReadIndex(asked, Some(Index(7))), &mut world);
    assert_eq!(world.take_told(), [""; 0]);
    calls.handle(at(1), ToClient::Published(store.publish().unwrap()), &mut world);
    assert_eq!(world.take_told(), ["1 1 keys", "2 1 keys"]);

    world.is_full = true;
    calls.end_turn(&mut world);
    world.is_full = false;
    calls.end_turn(&mut world);
    let asked = world.read().expect("asked again where there was no room");
    calls.handle(at(2), ToClient::ReadIndex(asked, None), &mut world);
    assert_eq!(world.take_told(), ["3 LeaderChanged"]);
    assert_eq!(world.notes.last(), Some(&Note::ReadIndexFailed));

    world.read_index = Some(Index(7)); // the only voter
    get(&mut calls, 4, &mut world);
    assert_eq!(world.take_told(), ["4 1 keys"]);
    world.read_index = Some(Index(8));
    get(&mut calls, 5, &mut world);
    calls.end_turn(&mut world);
    assert!(world.take_told().is_empty() && world.read().is_none(), "it knows what to wait for");
    store.set_applied(8, 1);
    calls.handle(at(3), ToClient::Published(store.publish().unwrap()), &mut world);
    assert_eq!(world.take_told(), ["5 1 keys"]);
}

#[test]
fn long_reads_go_on_in_steps_and_keep_their_version() {
    let mut store = store();
    for key in ["k1", "k2", "k3", "k4", "k5"] {
        store.put(&put(key, "v")).unwrap();
    }
    let mut calls = calls(&mut store);
    let mut world = world();
    // how, and in how many steps of two rows (rows of history: a HashKV looks at them all)
    let cases = [
        (Method::KvRange, range_message(true), "1 5 keys"),
        (Method::MaintenanceHashKv, Bytes::new(), "1 revision 6"),
        (Method::MaintenanceHash, Bytes::new(), "1 revision 6"),
    ];
    for (method, message, want) in cases {
        calls.call(at(0), 1, method, false, &message, &mut world);
        assert_eq!(world.take_told(), [""; 0], "{method:?}");
        let mut read = world.long.pop();
        let mut steps = 0;
        while let Some(rest) = read {
            assert_eq!((rest.caller().who, rest.caller().method), (1, method));
            read = calls.go_on(rest, &mut world);
            steps += 1;
        }
        assert!(steps >= if method == Method::MaintenanceHash { 1 } else { 2 }, "{method:?}: {steps}");
        assert_eq!(world.take_told(), [want]);
    }
}

#[test]
fn keep_alives_are_answered_in_the_order_of_their_stream() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    let ask = |id| Bytes::from(pb::LeaseKeepAliveRequest { id }.encode_to_vec());
    let renewed = |id, ttl| ToClient::Answers(vec![(id, Ok(QueryAnswer::KeepAlive(ttl)))]);
    assert!(calls.open(at(0), 1, Method::LeaseKeepAlive, false, &mut world));
    for lease in [11, 12, 13] {
        calls.keep_alive(at(0), 1, &ask(lease), &mut world).unwrap();
    }
    let ids: Vec<QueryId> = world.to_store.drain(..).map(|(id, _)| id).collect();
    calls.handle(at(1), renewed(ids[1], 60), &mut world);
    assert_eq!(world.take_told(), [""; 0], "the first has no answer yet");
    calls.handle(at(1), renewed(ids[0], 30), &mut world);
    assert_eq!(world.take_told(), ["1 lease 11 lives 30 s", "1 lease 12 lives 60 s"]);
    calls.half_close(1, &mut world);
    assert_eq!(world.take_told(), [""; 0], "one answer is missing");
    calls.handle(at(1), renewed(ids[2], 0), &mut world);
    assert_eq!(world.take_told(), ["1 lease 13 lives 0 s", "1 ends None"]);
    assert!(calls.is_empty());

    // Errors come in their turn, too, and end the stream.
    assert!(calls.open(at(2), 2, Method::LeaseKeepAlive, false, &mut world));
    calls.keep_alive(at(2), 2, &ask(11), &mut world).unwrap();
    world.is_full = true;
    calls.keep_alive(at(2), 2, &ask(12), &mut world).unwrap();
    world.is_full = false;
    let (id, _) = world.to_store.pop().expect("of the first");
    calls.handle(at(3), renewed(id, 5), &mut world);
    assert_eq!(world.take_told(), ["2 lease 11 lives 5 s", "2 ends Some(TooManyRequests)"]);

    assert!(calls.open(at(4), 3, Method::LeaseKeepAlive, false, &mut world));
    assert_eq!(calls.keep_alive(at(4), 3, &Bytes::from_static(b"\xff"), &mut world), Err(Error::Malformed));
    assert!(calls.is_empty());
    world.is_learner = true;
    assert!(!calls.open(at(5), 4, Method::LeaseKeepAlive, false, &mut world));
    assert_eq!(world.take_told(), ["4 NotSupportedForLearner"]);
}

#[test]
fn a_keep_alive_stream_holds_a_bounded_number_of_requests() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    let ask = Bytes::from(pb::LeaseKeepAliveRequest { id: 1 }.encode_to_vec());
    assert!(calls.open(at(0), 1, Method::LeaseKeepAlive, false, &mut world));
    for _ in 0..KEEP_ALIVES_IN_FLIGHT_MAX {
        calls.keep_alive(at(0), 1, &ask, &mut world).unwrap();
    }
    assert_eq!(calls.keep_alive(at(0), 1, &ask, &mut world), Err(Error::TooManyRequests));
    assert_eq!(world.to_store.len(), KEEP_ALIVES_IN_FLIGHT_MAX);
    calls.keep_alive(at(0), 1, &ask, &mut world).unwrap(); // of a stream that has ended: for nobody
    let answers = world.to_store.drain(..).map(|(id, _)| (id, Ok(QueryAnswer::KeepAlive(5)))).collect();
    calls.handle(at(1), ToClient::Answers(answers), &mut world);
    assert!(calls.is_empty() && world.told.is_empty());
}

#[test]
fn a_call_whose_time_is_over_is_told_so() {
    let mut store = members_store(&[(WHO.member_id, false), (20, false), (30, true)]);
    let mut calls = calls(&mut store);
    let mut world = world();
    let lease = Bytes::from(pb::LeaseTimeToLiveRequest { id: 1, keys: false }.encode_to_vec());
    let transfer = Bytes::from(pb::MoveLeaderRequest { target_id: 20 }.encode_to_vec());
    calls.call(at(0), 1, Method::KvPut, false, &put_message(), &mut world);
    calls.call(at(0), 2, Method::KvRange, false, &range_message(false), &mut world);
    calls.call(at(0), 3, Method::LeaseTimeToLive, false, &lease, &mut world);
    calls.call(at(0), 4, Method::MaintenanceMoveLeader, false, &transfer, &mut world);
    assert!(calls.open(at(0), 5, Method::LeaseKeepAlive, false, &mut world));
    calls.keep_alive(at(0), 5, &Bytes::new(), &mut world).unwrap();
    world.leader = 20;
    calls.call(at(1), 6, Method::MemberPromote, false, &promote_message(30), &mut world);
    calls.tick(TIMEOUT - at(1), &mut world);
    assert_eq!(world.take_told(), [""; 0]);
    calls.tick(TIMEOUT, &mut world);
    let told = ["1 Timeout", "2 Timeout", "3 Timeout", "4 TimeoutLeaderTransfer", "5 ends Some(Timeout)"];
    assert_eq!(world.take_told(), told);
    assert!(world.notes.contains(&Note::ReadIndexSlow));
    world.leader = 0;
    calls.tick(TIMEOUT + at(1), &mut world);
    assert_eq!(world.take_told(), ["6 NoLeader"]);
    assert!(calls.is_empty());
}

/// A store with these members, some of them learners.
fn members_store(members: &[(u64, bool)]) -> Store {
    let mut store = store();
    for (id, is_learner) in members {
        let name = format!("m{id}");
        let member = Member { id: *id, name, is_learner: *is_learner, ..Member::default() };
        store.set_member(*id, Some(&member.encode())).unwrap();
    }
    store
}

/// Three members, of which this one asks and another leads; the fourth is a learner.
fn promoting() -> (Calls<u32>, World) {
    let mut store = members_store(&[(WHO.member_id, false), (20, false), (21, false), (30, true)]);
    let mut world = World { leader: 20, ..world() };
    let mut calls = calls(&mut store);
    calls.call(at(0), 1, Method::MemberPromote, false, &promote_message(30), &mut world);
    (calls, world)
}

fn answers(id: ProposalId, response: Response) -> ToClient {
    ToClient::PeerResponse(id, response.encode())
}

#[test]
fn the_leader_is_asked_for_a_promotion() {
    let cases = [
        (Response::Promoted(Bytes::new()), "1 revision 0"),
        (Response::Refused(Error::LearnerNotReady), "1 LearnerNotReady"),
        (Response::Refused(Error::TimeoutLeaderFailure), "1 TimeoutLeaderFailure"),
    ];
    for (response, want) in cases {
        let (mut calls, mut world) = promoting();
        let (to, member, id) = world.question().expect("at once");
        assert_eq!((to, member), (NodeId(20), 30));
        calls.handle(at(1), answers(id, response), &mut world);
        assert_eq!(world.take_told(), [want]);
        assert!(calls.is_empty());
    }
}

#[test]
fn a_promotion_is_asked_again_until_the_leader_has_answered() {
    // The question, or its answer, is lost.
    let (mut calls, mut world) = promoting();
    let (_, _, first) = world.question().expect("at once");
    calls.tick(at(999), &mut world);
    assert_eq!(world.question(), None, "it has a second for its answer");
    calls.tick(at(1000), &mut world);
    assert_eq!(world.question(), Some((NodeId(20), 30, first)), "the same question");
    // Another one leads.
    world.leader = 21;
    calls.tick(at(1100), &mut world);
    assert_eq!(world.question(), Some((NodeId(21), 30, first)));
    // It doesn't know it yet, or does no more.
    for error in [Error::NotLeader, Error::NoLeader, Error::LeaderChanged] {
        calls.handle(at(1150), answers(first, Response::Refused(error)), &mut world);
        assert_eq!(world.question(), None, "not at once: it would be asked in a loop");
        calls.tick(at(1200), &mut world);
        assert_eq!(world.question(), Some((NodeId(21), 30, first)), "{error:?}");
    }
    // There is none for a while.
    world.leader = 0;
    calls.tick(at(3000), &mut world);
    world.is_full = true;
    world.leader = 20;
    calls.tick(at(3100), &mut world);
    assert_eq!(world.question(), None, "no room");
    world.is_full = false;
    calls.tick(at(3200), &mut world);
    assert_eq!(world.question(), Some((NodeId(20), 30, first)));
    calls.handle(at(3300), answers(first, Response::Promoted(Bytes::new())), &mut world);
    assert_eq!(world.take_told(), ["1 revision 0"]);
    calls.handle(at(3301), answers(first, Response::Refused(Error::MemberNotLearner)), &mut world);
    calls.tick(at(9000), &mut world);
    assert!(calls.is_empty() && world.told.is_empty() && world.to_raft.is_empty());
}

#[test]
fn a_promotion_without_a_leader_waits_for_one_and_may_be_this_members_own_to_decide() {
    let mut store = members_store(&[(WHO.member_id, false), (20, false), (30, true)]);
    let mut calls = calls(&mut store);
    let mut world = World { leader: 0, ..world() };
    calls.call(at(0), 1, Method::MemberPromote, false, &promote_message(30), &mut world);
    calls.tick(at(250), &mut world);
    assert!(world.to_raft.is_empty() && world.told.is_empty());
    world.leader = WHO.member_id;
    world.peers = vec![PeerFigures { member: 30, active_for: Some(at(9)), matched: Some(Index(99)) }];
    calls.tick(at(500), &mut world);
    let id = world.proposal();
    calls.tick(at(2000), &mut world);
    assert!(world.to_raft.is_empty(), "proposed once");
    calls.handle(at(2100), ToClient::Outcomes(vec![(id, Ok(Answer::bare(0)))]), &mut world);
    assert_eq!(world.take_told(), ["1 revision 0"]);
    // And where its time is over after that.
    world.leader = 0;
    calls.call(at(3000), 2, Method::MemberPromote, false, &promote_message(30), &mut world);
    world.leader = WHO.member_id;
    calls.tick(at(3250), &mut world);
    assert!(matches!(world.to_raft.pop(), Some(ToRaft::ProposeConfChange(..))));
    calls.tick(at(3000) + TIMEOUT, &mut world);
    assert_eq!(world.take_told(), ["2 Timeout"]);
    assert!(calls.is_empty());
}

#[test]
fn what_another_member_asks_is_decided_by_the_leader_alone_and_begun_once() {
    let mut store = members_store(&[(WHO.member_id, false), (20, false), (30, true)]);
    let mut calls = calls(&mut store);
    let mut world = World { leader: 20, ..world() };
    let asks =
        |asked| ToClient::PeerRequest(NodeId(20), asked, forward::Request::Promote { member: 30 }.encode());
    let said = |world: &mut World| match world.to_raft.pop() {
        Some(ToRaft::PeerResponse(to, asked, body)) => (to.0, asked, Response::decode(&body).unwrap()),
        _ => panic!("nothing is said"),
    };
    calls.handle(at(0), asks(5), &mut world);
    assert_eq!(said(&mut world), (20, 5, Response::Refused(Error::NotLeader)));
    world.leader = WHO.member_id;
    calls.handle(at(1), asks(5), &mut world);
    assert_eq!(said(&mut world), (20, 5, Response::Refused(Error::LearnerNotReady)), "it has nothing yet");
    world.peers = vec![PeerFigures { member: 30, active_for: None, matched: Some(Index(95)) }];
    calls.handle(at(2), asks(5), &mut world);
    let id = world.proposal();
    calls.handle(at(3), asks(5), &mut world);
    assert!(world.to_raft.is_empty(), "it is being done");
    let outcome = ToClient::Outcomes(vec![(id, Ok(Answer::new(0, Bytes::from_static(b"fields"))))]);
    calls.handle(at(4), outcome, &mut world);
    assert_eq!(said(&mut world), (20, 5, Response::Promoted(Bytes::from_static(b"fields"))));
    // Nobody is told when its time is over: its own member does that.
    calls.handle(at(5), asks(6), &mut world);
    assert!(matches!(world.to_raft.pop(), Some(ToRaft::ProposeConfChange(..))));
    assert_eq!(calls.len(), 1);
    calls.tick(at(5) + TIMEOUT, &mut world);
    assert!(calls.is_empty() && world.to_raft.is_empty() && world.told.is_empty());
}

#[test]
fn leadership_moves_only_from_the_leader_to_a_voter() {
    let mut store = members_store(&[(WHO.member_id, false), (20, false), (30, true)]);
    let mut calls = calls(&mut store);
    let mut world = world();
    let transfer = |target_id| Bytes::from(pb::MoveLeaderRequest { target_id }.encode_to_vec());
    for (leader, target, want) in [
        (20, 20, "1 NotLeader"),
        (WHO.member_id, 30, "1 BadLeaderTransferee"),
        (WHO.member_id, 99, "1 BadLeaderTransferee"),
        (WHO.member_id, WHO.member_id, "1 revision 0"),
    ] {
        world.leader = leader;
        calls.call(at(0), 1, Method::MaintenanceMoveLeader, false, &transfer(target), &mut world);
        assert_eq!(world.take_told(), [want]);
    }
    calls.call(at(0), 1, Method::MaintenanceMoveLeader, false, &transfer(20), &mut world);
    let Some(ToRaft::TransferLeader(id, NodeId(20))) = world.to_raft.pop() else { panic!("not asked") };
    calls.handle(at(1), ToClient::Transferred(id), &mut world);
    assert_eq!(world.take_told(), ["1 revision 0"]);
}

/// It takes as long as the file is large.
#[test]
fn a_defragment_is_waited_for_however_long_it_takes() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    calls.call(at(0), 1, Method::MaintenanceDefragment, false, &Bytes::new(), &mut world);
    let (id, _) = world.to_store.pop().expect("asked");
    calls.tick(at(100_000), &mut world);
    assert_eq!(world.take_told(), [""; 0]);
    calls.handle(at(100_000), ToClient::Answers(vec![(id, Err(Error::NoSpace))]), &mut world);
    assert_eq!(world.take_told(), ["1 NoSpace"]);
    assert!(calls.is_empty());
}

/// Its entry may be lost; what it removes once it is applied takes as long as there are rows.
#[test]
fn a_physical_compaction_is_waited_for_however_long_it_takes_once_it_is_applied() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    let message = Bytes::from(pb::CompactionRequest { revision: 1, physical: true }.encode_to_vec());
    let compact = |calls: &mut Calls<u32>, world: &mut World| {
        calls.call(at(0), 1, Method::KvCompact, false, &message, world);
        world.proposal()
    };
    compact(&mut calls, &mut world);
    calls.tick(at(100_000), &mut world);
    assert_eq!(world.take_told(), ["1 Timeout"]);
    let id = compact(&mut calls, &mut world);
    calls.handle(at(1), ToClient::Compacting(id), &mut world);
    calls.tick(at(100_000), &mut world);
    assert_eq!(world.take_told(), [""; 0]);
    assert!(!calls.awaits_writes(), "a server that ends does not wait for it");
    calls.handle(at(100_000), ToClient::Outcomes(vec![(id, Ok(Answer::bare(5)))]), &mut world);
    assert_eq!(world.take_told(), ["1 revision 5"]);
    assert!(calls.is_empty());
    calls.handle(at(100_000), ToClient::Compacting(id), &mut world);
    assert!(calls.is_empty(), "for nobody");
}

#[test]
fn each_question_to_the_store_core_is_answered_once() {
    let mut store = store();
    let mut calls = calls(&mut store);
    let mut world = world();
    let lease = Bytes::from(pb::LeaseTimeToLiveRequest { id: 1, keys: false }.encode_to_vec());
    for (method, message, answer, want) in [
        (Method::LeaseTimeToLive, lease, Ok(QueryAnswer::TimeToLive(Bytes::new())), "1 revision 1"),
        (Method::LeaseLeases, Bytes::new(), Ok(QueryAnswer::Answer(Answer::bare(4))), "1 revision 4"),
        (Method::MaintenanceDefragment, Bytes::new(), Err(Error::Stopped), "1 Stopped"),
    ] {
        calls.call(at(0), 1, method, false, &message, &mut world);
        let (id, _) = world.to_store.pop().expect("asked");
        // An outcome under its number is none of its.
        calls.handle(
            at(1),
            ToClient::Dropped(cores::client_id(3, id.number), DropReason::NoLeader),
            &mut world,
        );
        assert_eq!(world.take_told(), [""; 0]);
        calls.handle(at(1), ToClient::Answers(vec![(id, answer)]), &mut world);
        assert_eq!(world.take_told(), [want]);
        assert!(calls.is_empty());
    }
}
