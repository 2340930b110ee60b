//! Stories of one core: what it is told, what it asks for. Its log and store do at once what they are asked.

use std::sync::Arc;

use bytes::Bytes;
use consensus::log::State;
use consensus::trace::encode_start;
use consensus::{ConfState, HardState, LogPosition, Message, ReadyNumber, Term};
use engine::View;
use raft::eraftpb::{Entry as RaftEntry, Message as RaftMessage, MessageType};

use super::trace::{Recorded, Replay};
use super::*;
use crate::cores::{client_id, store_id};
use crate::propose::Command;
use crate::testing;

mod trace;

const OWN: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

/// What a member has applied when its story begins.
const APPLIED: LogPosition = LogPosition::new(10, 1);

struct Surroundings;

impl Shell for Surroundings {
    type Node = Node;
    type Received = &'static str;
    type Store = &'static str;
}

/// Recorded, and replayed when it is over.
struct Story {
    core: Recorded<Surroundings>,
    now: Duration,
    applied: Index,
    /// The log does nothing until it is told to.
    log_waits: bool,
    appended: ReadyNumber,
    view: Arc<View>,
}

impl Drop for Story {
    fn drop(&mut self) {
        let trace = self.core.take();
        if !std::thread::panicking() && !trace.is_empty() {
            let replayed = Replay::all(&trace).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(replayed.committed, self.core.node().status().committed);
        }
    }
}

impl Story {
    fn new(voters: &[u64], learners: &[u64]) -> Story {
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let conf = ConfState { voters: ids(voters), learners: ids(learners) };
        let hard_state = HardState { term: Term(1), vote: NodeId(0), commit: APPLIED.index };
        let state = State { hard_state, ..State::default() };
        let node_config = consensus::Config::new(OWN, 1, 1);
        let start = encode_start(&node_config, &state, APPLIED, &conf);
        let node = Node::new(node_config, state, APPLIED, conf);
        let members = voters.iter().chain(learners);
        let members = members.map(|id| Member { id: *id, ..Member::default() }).collect();
        let config = Config {
            own: OWN,
            election_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(7),
            orphan_bytes_max: 1000,
            conf_changes_open_max: 8,
        };
        let mut story = Story {
            core: Recorded::new(node, Some(&start), config, members, Vec::new()),
            now: Duration::from_secs(100),
            applied: APPLIED.index,
            log_waits: false,
            appended: ReadyNumber(0),
            view: testing::store().publish().unwrap(),
        };
        story.turn([Input::Log(FromLog::StartsAt(Index(APPLIED.index.0 + 1)))]);
        story
    }

    /// A leader, the only voter, with a learner that has nothing.
    fn leader() -> Story {
        let story = Story::new(&[1], &[2]);
        assert!(story.core.leads);
        story
    }

    /// A follower of three, whose leader is the peer.
    fn follower() -> Story {
        let mut story = Story::new(&[1, 2, 3], &[]);
        story.hears(MessageType::MsgHeartbeat, |_| {});
        story
    }

    /// One turn, and those that its appends and commits bring about: all that came out but for these, as lines.
    fn turn(&mut self, inputs: impl IntoIterator<Item = Input<Surroundings>>) -> Vec<String> {
        let mut out = Vec::new();
        for input in inputs {
            self.core.handle(self.now, input, &mut out);
        }
        self.end_turn(out)
    }

    fn end_turn(&mut self, mut out: Vec<Output<Surroundings>>) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            self.core.applied(self.applied);
            self.core.end_turn(self.now, &mut out);
            let mut again = false;
            for output in std::mem::take(&mut out) {
                match &output {
                    Output::Log(ToLog::Append(append)) => {
                        self.appended = append.ready;
                        again |= !self.log_waits;
                    }
                    Output::Store(ToStore::Commit(batch)) => {
                        self.applied = batch.last().unwrap().entry.index;
                        again = true;
                    }
                    _ => {}
                }
                lines.extend(line(&output));
            }
            if !again {
                return lines;
            }
            if !self.log_waits {
                self.core.handle(self.now, Input::Log(FromLog::Durable(self.appended)), &mut out);
            }
        }
    }

    fn tick(&mut self, seconds: f64) -> Vec<String> {
        self.now += Duration::from_secs_f64(seconds);
        let mut out = Vec::new();
        self.core.tick(self.now, Duration::ZERO, &mut out);
        self.end_turn(out)
    }

    /// The peer says this, in the present term or, if there is no leader, a new one.
    fn hears(&mut self, kind: MessageType, with: impl FnOnce(&mut RaftMessage)) -> Vec<String> {
        let message = Box::new(PeerMessage::Raft(self.said(kind, with)));
        self.turn([Input::Message(PEER, message)])
    }

    fn said(&self, kind: MessageType, with: impl FnOnce(&mut RaftMessage)) -> Message {
        let term = self.core.node().status().role.term.0;
        let mut raft = RaftMessage {
            from: PEER.0,
            to: OWN.0,
            term: if self.core.leader.is_none() { term + 1 } else { term },
            ..Default::default()
        };
        raft.set_msg_type(kind);
        with(&mut raft);
        let data = raft.entries.iter().map(|_| Bytes::from_static(b"x")).collect();
        Message { raft, data: if kind == MessageType::MsgAppend { data } else { Vec::new() } }
    }

    /// The peer lacks everything.
    fn peer_has_nothing(&mut self) -> Vec<String> {
        self.hears(MessageType::MsgAppendResponse, |message| {
            (message.reject, message.index, message.reject_hint) = (true, APPLIED.index.0, 0);
        })
    }

    fn pinned(&self) -> Input<Surroundings> {
        let position = LogPosition { index: self.applied, term: self.core.node().status().role.term };
        let conf = self.core.node().conf_state();
        let pinned = PinnedSnapshot { peer: PEER, position, conf, view: self.view.clone() };
        Input::Core(ToRaft::SnapshotPinned(Box::new(pinned)))
    }

    /// raft's message with a snapshot of this index.
    fn snapshot(&self, index: u64) -> Box<Message> {
        Box::new(self.said(MessageType::MsgSnapshot, |message| {
            let metadata = message.mut_snapshot().mut_metadata();
            (metadata.index, metadata.term) = (index, 1);
            metadata.mut_conf_state().voters = vec![1, 2, 3];
        }))
    }

    fn receives(&mut self, index: u64, received: &'static str) -> Vec<String> {
        let message = self.snapshot(index);
        self.turn([Input::SnapshotReceived { from: PEER, message, received }])
    }

    fn imported(&mut self, index: u64, store: &'static str) -> Vec<String> {
        let message = self.snapshot(index);
        self.turn([Input::Imported { from: PEER, message, index: Index(index), store }])
    }

    fn proposes(&mut self, number: u64, len: usize) -> Vec<String> {
        self.turn([proposal(number, len)])
    }
}

fn proposal(number: u64, len: usize) -> Input<Surroundings> {
    let entry = crate::propose::encode(number, 4, &vec![b'x'; len], &[]);
    let write = Write { command: Command::Nothing, entry, id: number };
    Input::Core(ToRaft::Propose(client_id(0, number), write))
}

/// What tests look at: not what raft says to keep its peers going.
fn line(output: &Output<Surroundings>) -> Option<String> {
    Some(match output {
        Output::Log(ToLog::Append(append)) => {
            format!("log begins anew behind {}", append.reset?.index)
        }
        Output::Log(ToLog::Checkpointed(index)) => format!("log up to {index} is free"),
        Output::Log(ToLog::Fetch(fetch)) => format!("fetch from {}", fetch.first),
        Output::Store(ToStore::PinSnapshot(peer)) => format!("pin for {peer}"),
        Output::Store(ToStore::PeerRequest(peer, id, _)) => format!("store is asked {id} by {peer}"),
        Output::Store(ToStore::PeerResponse(id, _)) => format!("store is answered {}", id.0 & 0xffff),
        Output::Store(ToStore::Dropped(_)) => "store core's proposal dropped".to_owned(),
        Output::Client(core, ToClient::Dropped(id, reason)) => {
            format!("client {core}: {} dropped, {reason:?}", id.0 & 0xffff)
        }
        Output::Client(core, ToClient::Transferred(id)) => format!("client {core}: {} leads", id.0 & 0xffff),
        Output::Client(core, ToClient::PeerRequest(peer, id, _)) => {
            format!("client {core} is asked {id} by {peer}")
        }
        Output::Client(core, ToClient::PeerResponse(id, _)) => {
            format!("client {core} is answered {}", id.0 & 0xffff)
        }
        Output::Send(envelope) => match &*envelope.message {
            PeerMessage::Forward(forward) => {
                format!("forward {} to {}", forward.proposals.len(), envelope.to)
            }
            PeerMessage::Request { id, .. } => format!("ask {} under {}", envelope.to, id & 0xffff),
            PeerMessage::Response { id, .. } => format!("answer {} under {id}", envelope.to),
            PeerMessage::Raft(message) if message.raft.get_msg_type() == MessageType::MsgTimeoutNow => {
                format!("{} is to campaign", envelope.to)
            }
            _ => return None,
        },
        Output::SendSnapshot { pinned, .. } => format!("snapshot to {}", pinned.peer),
        Output::CancelSnapshot(peer) => format!("no snapshot to {peer}"),
        Output::Members => "members".to_owned(),
        Output::Import { received, .. } => format!("import {received}"),
        Output::Discard(received) => format!("discard {received}"),
        Output::Unneeded(store) => format!("{store} is not needed"),
        Output::Rename(_) => "rename".to_owned(),
        Output::Install { store, .. } => format!("install {store}"),
        Output::LogStalled(stalled) => format!("log stalled: {stalled}"),
        Output::Fatal(fatal) => fatal.to_string(),
        _ => return None,
    })
}

const NOTHING: [&str; 0] = [];

#[test]
fn proposals_wait_for_a_leader_in_order_and_not_for_ever() {
    let mut story = Story::new(&[1, 2, 3], &[]);
    assert_eq!(story.proposes(1, 400), NOTHING);
    assert_eq!(story.proposes(2, 400), NOTHING);
    assert_eq!(story.proposes(3, 400), ["client 0: 3 dropped, TooManyRequests"]);
    assert_eq!(story.core.proposals_open(), 2);
    assert_eq!(story.hears(MessageType::MsgHeartbeat, |_| {}), ["forward 2 to 2"]);
    assert_eq!(story.proposes(4, 400), ["forward 1 to 2"], "the bound is of those that wait");
    assert_eq!(story.tick(13.9), NOTHING);
    let forgotten = ["1", "2", "4"].map(|id| format!("client 0: {id} dropped, OutcomeUnknown"));
    assert_eq!(story.tick(0.2), forgotten, "after twice a request's time");

    let mut story = Story::new(&[1, 2, 3], &[]);
    story.proposes(1, 10);
    assert_eq!(story.tick(6.9), NOTHING);
    assert_eq!(story.tick(0.2), ["client 0: 1 dropped, NoLeader"]);
    assert_eq!(story.core.proposals_open(), 0);
}

/// A leader that stood still finds its successor's word and a client's in one turn.
#[test]
fn a_proposal_in_the_turn_in_which_a_leader_is_deposed_is_the_next_ones_and_not_kept_for_ever() {
    let mut story = Story::follower();
    story.hears(MessageType::MsgTimeoutNow, |_| {});
    story.hears(MessageType::MsgRequestVoteResponse, |message| message.term -= 1);
    assert!(story.core.leads);
    let deposed = story.said(MessageType::MsgHeartbeat, |message| message.term += 1);
    let deposed = Input::Message(PEER, Box::new(PeerMessage::Raft(deposed)));
    assert_eq!(story.turn([deposed, proposal(1, 10)]), ["forward 1 to 2"]);
    assert_eq!(story.core.proposals_open(), 1);
    assert_eq!(story.tick(14.1), ["client 0: 1 dropped, OutcomeUnknown"]);
    assert_eq!(story.core.proposals_open(), 0);
}

#[test]
fn what_a_proposer_had_decoded_comes_back_with_its_entry() {
    let mut story = Story::leader();
    let id = client_id(3, 77);
    let entry = crate::propose::encode(5, 4, b"put", &[]);
    let write = Write { command: Command::Nothing, entry, id: 5 };
    let mut out = Vec::new();
    story.core.handle(story.now, Input::Core(ToRaft::Propose(id, write)), &mut out);
    story.core.end_turn(story.now, &mut out);
    let Some(Output::Log(ToLog::Append(append))) = out.pop().filter(|_| out.len() < 2) else {
        panic!("an append")
    };
    story.core.handle(story.now, Input::Log(FromLog::Durable(append.ready)), &mut out);
    story.core.end_turn(story.now, &mut out);
    let committed = out.iter().find_map(|output| match output {
        Output::Store(ToStore::Commit(batch)) => batch.first(),
        _ => None,
    });
    let committed = committed.expect("a lone voter commits what is durable");
    assert_eq!(committed.entry.proposal, Some(id));
    assert!(matches!(committed.command, Some(Command::Nothing)));
    assert_eq!(story.core.proposals_open(), 0);
}

#[test]
fn a_snapshot_pinned_for_a_peer_that_dies_is_given_up() {
    let mut story = Story::leader();
    assert_eq!(story.peer_has_nothing(), ["pin for 2"]);
    for _ in 0..30 {
        story.tick(0.1); // raft takes it for dead
    }
    let pinned = story.pinned();
    assert_eq!(story.turn([pinned]), NOTHING, "it is not sent to the dead");
    assert_eq!(Arc::strong_count(&story.view), 2);
    assert_eq!(story.tick(9.9), NOTHING);
    assert_eq!(Arc::strong_count(&story.view), 2);
    assert_eq!(story.tick(0.2), ["no snapshot to 2"]);
    assert_eq!(Arc::strong_count(&story.view), 1, "its pages are free");
    assert_eq!(story.core.books_open(), 0);
    // It comes back.
    assert_eq!(story.hears(MessageType::MsgHeartbeatResponse, |_| {}), ["pin for 2"]);
    let pinned = story.pinned();
    assert_eq!(story.turn([pinned]), ["snapshot to 2"]);
}

#[test]
fn a_leader_that_steps_down_holds_no_snapshot() {
    let mut story = Story::leader();
    assert_eq!(story.peer_has_nothing(), ["pin for 2"]);
    for _ in 0..30 {
        story.tick(0.1);
    }
    let pinned = story.pinned();
    story.turn([pinned]);
    let term = story.core.node().status().role.term.0 + 1;
    let lines = story.hears(MessageType::MsgAppend, |message| message.term = term);
    assert_eq!(lines, ["no snapshot to 2"]);
    assert_eq!((Arc::strong_count(&story.view), story.core.books_open()), (1, 0));
}

/// Raft would find the peer still behind and send another one.
#[test]
fn raft_hears_of_a_snapshots_arrival_when_the_peer_has_had_time_to_install_it() {
    let mut story = Story::leader();
    assert_eq!(story.peer_has_nothing(), ["pin for 2"]);
    let pinned = story.pinned();
    assert_eq!(story.turn([pinned]), ["snapshot to 2"]);
    story.now += Duration::from_secs(3);
    assert_eq!(story.turn([Input::SnapshotSent(PEER, true)]), NOTHING);
    for _ in 0..110 {
        assert_eq!(story.tick(0.1), NOTHING);
        story.hears(MessageType::MsgHeartbeatResponse, |_| {});
    }
    let busy = |story: &Story| story.core.node().peers()[0].snapshot;
    assert!(busy(&story), "four times as long as it was on its way");
    for _ in 0..11 {
        story.tick(0.1);
        story.hears(MessageType::MsgHeartbeatResponse, |_| {});
    }
    assert!(!busy(&story), "and now raft looks");

    // After a repair the peer starts over; then it is looked at once.
    let mut story = Story::leader();
    assert_eq!(story.peer_has_nothing(), ["pin for 2"]);
    let pinned = story.pinned();
    story.turn([pinned, Input::SnapshotSent(PEER, true)]);
    assert!(busy(&story));
    story.turn([Input::Reachable(PEER)]);
    assert!(!busy(&story));
}

#[test]
fn the_log_is_kept_for_a_peer_behind_a_snapshot() {
    let mut story = Story::leader();
    assert_eq!(story.peer_has_nothing(), ["pin for 2"]);
    let pinned = story.pinned();
    story.turn([pinned]);
    let from = story.applied.0;
    for number in 1..=5 {
        story.proposes(number, 10);
    }
    let free = story.turn([Input::Core(ToRaft::Checkpointed(story.applied))]);
    assert_eq!(free, [format!("log up to {from} is free")]);
    assert_eq!(story.tick(0.1), NOTHING);
    story.hears(MessageType::MsgAppendResponse, |message| message.index = from + 5);
    assert_eq!(story.tick(0.1), [format!("log up to {} is free", from + 5)]);
}

#[test]
fn a_snapshot_is_taken_step_by_step_and_a_second_one_is_refused_meanwhile() {
    let mut story = Story::follower();
    story.log_waits = true;
    assert_eq!(story.receives(50, "file"), ["import file"]);
    assert_eq!(story.receives(50, "another"), ["discard another"]);
    let behind = story.hears(MessageType::MsgAppend, |message| {
        (message.index, message.log_term) = (50, 1);
        message.entries = vec![RaftEntry { index: 51, term: 1, ..Default::default() }];
    });
    assert_eq!(behind, NOTHING);
    assert_eq!(story.core.node().status().last.index, APPLIED.index);
    assert_eq!(story.imported(50, "store"), ["log begins anew behind 50"]);
    assert_eq!(story.receives(60, "third"), ["discard third"]);
    let ready = story.appended;
    let durable = |ready| [Input::Log(FromLog::Durable(ready))];
    assert_eq!(story.turn(durable(ReadyNumber(ready.0 - 1))), NOTHING);
    assert_eq!(story.turn(durable(ready)), ["rename"]);
    assert_eq!(story.receives(60, "third"), ["discard third"]);
    assert_eq!(story.turn([Input::Renamed(ready)]), ["install store"]);
    assert!(story.core.node().takes_snapshot(), "the store core has the word");
    story.turn([Input::Core(ToRaft::SnapshotInstalled(ready))]);
    assert!(!story.core.node().takes_snapshot());
    assert_eq!(story.receives(60, "third"), ["import third"]);
}

#[test]
fn a_snapshot_that_raft_does_not_take_leaves_nothing() {
    let mut story = Story::follower();
    assert_eq!(story.receives(5, "old"), ["import old"]);
    assert_eq!(story.imported(5, "old store"), ["old store is not needed"]);
    assert_eq!(story.receives(50, "file"), ["import file"]);
    // Not for this member: the node does not even look at it.
    let mut message = story.snapshot(50);
    message.raft.to = 3;
    let imported = Input::Imported { from: PEER, message, index: Index(50), store: "stray" };
    assert_eq!(story.turn([imported]), ["stray is not needed"]);
    assert_eq!(story.core.books_open(), 0);
}

/// As on a full disk.
#[test]
fn after_a_failed_import_the_next_snapshot_is_taken() {
    let mut story = Story::follower();
    assert_eq!(story.receives(50, "file"), ["import file"]);
    assert_eq!(story.turn([Input::ImportFailed]), NOTHING);
    assert_eq!(story.core.node().status().last.index, APPLIED.index, "raft has not heard of it");
    assert_eq!(story.receives(50, "again"), ["import again"]);
    assert_eq!(story.imported(50, "store")[..2], ["log begins anew behind 50", "rename"]);
}

/// The snapshot lane alone brings one, behind the store. Without a store the log must not begin anew.
#[test]
fn a_snapshots_message_by_itself_is_not_listened_to() {
    let mut story = Story::follower();
    let message = Box::new(PeerMessage::Raft(*story.snapshot(50)));
    assert_eq!(story.turn([Input::Message(PEER, message)]), NOTHING);
    assert!(!story.core.node().takes_snapshot());
    assert_eq!(story.core.node().status().last.index, APPLIED.index);
}

#[test]
fn who_asked_for_another_leader_hears_of_it_and_waits_for_a_requests_time() {
    let mut story = Story::follower();
    let asks = |number, to| Input::Core(ToRaft::TransferLeader(client_id(1, number), NodeId(to)));
    story.turn([asks(7, 3), asks(8, 1)]);
    assert_eq!(story.core.books_open(), 2);
    let term = story.core.node().status().role.term.0 + 1;
    let lines = story.turn([Input::Message(
        NodeId(3),
        Box::new(PeerMessage::Raft(story.said(MessageType::MsgHeartbeat, |message| {
            (message.from, message.term) = (3, term);
        }))),
    )]);
    assert_eq!(lines, ["client 1: 7 leads"]);
    assert_eq!(story.core.books_open(), 0, "another one won");
    story.turn([asks(9, 1)]);
    story.tick(6.9);
    assert_eq!(story.core.books_open(), 1);
    story.tick(0.1);
    assert_eq!(story.core.books_open(), 0);
}

#[test]
fn questions_of_members_go_to_the_core_that_answers_them() {
    let mut story = Story::follower();
    let lease = Request::KeepAlive { lease: 5 }.encode();
    let promote = Request::Promote { member: 3 }.encode();
    let asked =
        |id, body: &Bytes| Input::Message(PEER, Box::new(PeerMessage::Request { id, body: body.clone() }));
    let answered = |id: ProposalId| {
        Input::Message(PEER, Box::new(PeerMessage::Response { id: id.0, body: Bytes::new() }))
    };
    let told = story.turn([
        asked(4, &lease),
        asked(5, &promote),
        answered(client_id(2, 6)),
        answered(store_id(7)),
        Input::Core(ToRaft::PeerRequest(PEER, client_id(0, 8), promote.clone())),
        Input::Core(ToRaft::PeerResponse(PEER, 9, Bytes::new())),
        Input::Core(ToRaft::PeerRequest(OWN, client_id(0, 10), promote.clone())),
        Input::Core(ToRaft::PeerResponse(OWN, client_id(0, 11).0, Bytes::new())),
    ]);
    let want = [
        "store is asked 4 by 2",
        "client 0 is asked 5 by 2",
        "client 2 is answered 6",
        "store is answered 7",
        "ask 2 under 8",
        "answer 2 under 9",
        "client 0 is asked 10 by 1",
        "client 0 is answered 11",
    ];
    assert_eq!(told, want);
}

#[test]
fn members_are_told_once_all_are_known_with_whom_it_began() {
    let mut story = Story::follower();
    let members = |ids: &[u64]| ids.iter().map(|id| Member { id: *id, ..Member::default() }).collect();
    let told = |ids, removed: &[u64]| {
        Input::Core(ToRaft::Members(members(ids), removed.iter().copied().map(NodeId).collect()))
    };
    assert_eq!(story.turn([told(&[1, 2], &[])]), NOTHING, "the log has not come to the third");
    assert_eq!(story.core.members().len(), 3);
    assert_eq!(story.turn([told(&[1, 2], &[3])]), ["members"]);
    assert_eq!((story.core.members().len(), story.core.removed()), (2, &[NodeId(3)][..]));
    assert_eq!(story.turn([told(&[1, 2, 4], &[3])]), ["members"]);
}

#[test]
fn a_leader_whose_log_does_not_answer_hands_over_once() {
    let mut story = Story::leader();
    let mut stalled = |waits: f64| {
        let mut out = Vec::new();
        story.core.tick(story.now, Duration::from_secs_f64(waits), &mut out);
        story.end_turn(out)
    };
    assert_eq!(stalled(1.9), NOTHING);
    assert_eq!(stalled(2.0), ["log stalled: true"]);
    assert_eq!(stalled(2.1), NOTHING);
    assert_eq!(stalled(0.0), ["log stalled: false"]);
}

#[test]
fn the_leader_looks_at_the_versions_of_its_members() {
    let mut story = Story::leader();
    let look = |story: &mut Story, known: bool| {
        let version = |_| known.then(|| "3.7.1".to_owned());
        match story.core.look_at_versions(story.now, version) {
            Some(ToStore::Versions(versions)) => Some(versions.into_iter().flatten().count()),
            _ => None,
        }
    };
    assert_eq!(look(&mut story, false), None);
    assert_eq!(look(&mut story, true), Some(2));
    assert_eq!(look(&mut story, true), None, "nothing new");
    story.now += Duration::from_secs(4);
    assert_eq!(look(&mut story, false), Some(0));
    let mut follower = Story::follower();
    assert_eq!(look(&mut follower, true), None);
}
