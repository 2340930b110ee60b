//! Stories that were recorded and are changed afterwards: a replay tells.

use consensus::peer::FrameError;
use consensus::trace::TraceError;
use consensus::trace::testing::{
    comes_back, difference, hex, notices_changes, only, replays_in_any_cut, rewritten,
};
use consensus::{ConfChange, ConfChangeKind, EntryKind};

use super::*;
use crate::raft_core::trace::{KIND_INPUT_FIRST, KIND_START, MAGIC, OtherCore, encode_input, take_input};

fn messages() -> Vec<ToRaft> {
    let change = ConfChange {
        id: 4,
        kind: ConfChangeKind::AddLearnerNode,
        node: NodeId(9),
        context: Bytes::from_static(b"{}"),
    };
    let member = Member { id: 5, peer_urls: vec!["http://a".to_owned()], ..Member::default() };
    let entry = crate::propose::encode(7, 4, b"", &[]);
    let position = LogPosition::new(9, 3);
    let conf = ConfState { voters: vec![OWN, PEER], learners: vec![NodeId(3)] };
    let view = testing::store().publish().unwrap();
    vec![
        ToRaft::Propose(client_id(1, 2), Write { command: Command::Nothing, entry, id: 7 }),
        ToRaft::Read(ReadId(3)),
        ToRaft::Checkpointed(Index(4)),
        ToRaft::ConfChange(Index(5), Some(change.clone())),
        ToRaft::ConfChange(Index(5), None),
        ToRaft::ProposeConfChange(ProposalId(6), change),
        ToRaft::TransferLeader(ProposalId(7), PEER),
        ToRaft::HandOver,
        ToRaft::Members(vec![member], vec![NodeId(8)]),
        ToRaft::ClusterVersion("3.7.0".to_owned()),
        ToRaft::PeerRequest(PEER, ProposalId(9), "body".into()),
        ToRaft::PeerResponse(PEER, 10, "body".into()),
        ToRaft::SnapshotPinned(Box::new(PinnedSnapshot { peer: PEER, position, conf, view })),
        ToRaft::SnapshotInstalled(ReadyNumber(11)),
    ]
}

fn inputs() -> Vec<Input<Surroundings>> {
    let mut raft = RaftMessage::default();
    raft.set_msg_type(MessageType::MsgHeartbeat);
    (raft.to, raft.from, raft.term) = (1, 2, 3);
    let message = Message { raft, data: Vec::new() };
    let boxed = || Box::new(message.clone());
    let entry =
        Entry { index: Index(8), term: Term(3), kind: EntryKind::Normal, data: "ab".into(), proposal: None };
    let others: Vec<Input<Surroundings>> = vec![
        Input::Log(FromLog::Durable(ReadyNumber(1))),
        Input::Log(FromLog::Fetched(PEER, Index(8), Some(vec![entry]))),
        Input::Log(FromLog::Fetched(PEER, Index(8), None)),
        Input::Log(FromLog::StartsAt(Index(2))),
        Input::Message(PEER, Box::new(PeerMessage::Raft(message.clone()))),
        Input::Reachable(PEER),
        Input::Unreachable(PEER),
        Input::SnapshotSent(PEER, true),
        Input::SnapshotReceived { from: PEER, message: boxed(), received: "file" },
        Input::Imported { from: PEER, message: boxed(), index: Index(9), store: "store" },
        Input::ImportFailed,
        Input::Renamed(ReadyNumber(3)),
    ];
    messages().into_iter().map(Input::Core).chain(others).collect()
}

#[test]
fn every_input_comes_back_as_it_was_written() {
    let mut kinds = std::collections::BTreeSet::new();
    for input in inputs() {
        let mut bytes = Vec::new();
        let kind = encode_input(&input, &mut bytes);
        kinds.insert(kind);
        // These end with bytes of any number.
        let open_end = matches!(
            input,
            Input::Core(
                ToRaft::Propose(..)
                    | ToRaft::PeerRequest(..)
                    | ToRaft::PeerResponse(..)
                    | ToRaft::ClusterVersion(_)
            )
        );
        comes_back(kind, &bytes, open_end, |reader, again| {
            take_input(kind, reader).map(|(back, _)| encode_input(&back, again))
        });
    }
    assert_eq!(kinds, (KIND_INPUT_FIRST..=59).collect());
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let wants = [
        (37, "0300000000000000"),
        (41, "0700000000000000 0200000000000000"),
        (44, "332e372e30"),
        (
            47,
            "0200000000000000 0900000000000000 0300000000000000 \
             02000000 0100000000000000 0200000000000000 01000000 0300000000000000",
        ),
        (51, "0200000000000000"),
        (55, "0200000000000000 01"),
    ];
    let all: Vec<(u8, String)> = inputs()
        .iter()
        .map(|input| {
            let mut bytes = Vec::new();
            (encode_input(input, &mut bytes), hex(&bytes))
        })
        .collect();
    for (kind, want) in wants {
        let (_, bytes) = all.iter().find(|(of, _)| *of == kind).expect("one of each kind");
        assert_eq!(*bytes, want.replace(' ', ""), "kind {kind}");
    }
    // The start of a member of three, that of its node, and its first calls, which are without an effect.
    let trace = Story::new(&[1, 2], &[3]).core.take();
    assert_eq!(hex(&trace), include_str!("golden.hex").split_whitespace().collect::<String>());
}

/// A leader with a learner behind a snapshot, which takes proposals and looks at its members' versions.
fn life() -> Vec<u8> {
    let mut story = Story::leader();
    story.peer_has_nothing();
    let pinned = story.pinned();
    story.turn([pinned]);
    for number in 0..20 {
        story.proposes(number, 10);
        story.tick(0.1);
        story.core.look_at_versions(story.now, |member| (member == OWN).then(|| "3.7.1".to_owned()));
    }
    story.turn([Input::SnapshotSent(PEER, true), Input::Core(ToRaft::Checkpointed(Index(12)))]);
    story.core.take()
}

#[test]
fn a_recorded_life_replays_in_any_cut() {
    let trace = life();
    let whole = replays_in_any_cut::<OtherCore>(&trace);
    assert!(whole.calls > 100 && whole.outputs > 60 && !whole.torn, "{whole:?}");
    let cut = Replay::all(&trace[..trace.len() - 1]).unwrap();
    assert!(cut.torn && cut.calls == whole.calls - 1, "{cut:?}");
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let trace = life();
    notices_changes::<OtherCore>(&trace, (0..trace.len()).step_by(1 + trace.len() / 2000), &[2]);
}

#[test]
fn another_input_or_another_output_is_named() {
    let trace = life();
    // kind of the call that is changed; in which call it shows
    let cases = [(36, "end of the turn"), (33, "tick"), (32, "end of the turn")];
    for (of, shows) in cases {
        let mut changed = false;
        let other = rewritten::<OtherCore>(&trace, |kind, payload| {
            let text = u32::from_le_bytes(payload[..4].try_into().unwrap()) as usize;
            let at = match kind {
                36 => Some(payload.len() - 1),                                   // in the value
                33 => Some(4),                                                   // the first letter
                32 => payload[..text].windows(6).position(|at| at == b"append"), // of an output
                _ => None,
            };
            if let (true, false, Some(at)) = (kind == of, changed, at) {
                changed = true;
                payload[at] ^= 1;
            }
        });
        let (_, input, ..) = difference::<OtherCore>(&other);
        assert!(input.starts_with(shows), "{of}: {input}");
    }
}

#[test]
fn what_is_not_a_trace_is_refused() {
    let trace = life();
    let frames = |kinds: &[u8]| only::<OtherCore>(&trace, kinds);
    let twice = [frames(&[KIND_START]), frames(&[KIND_START]).split_off(MAGIC.len())].concat();
    let cases: [(&str, Vec<u8>, TraceError); 6] = [
        ("nothing", Vec::new(), TraceError::NotATrace),
        ("a node's", consensus::trace::MAGIC.to_vec(), TraceError::NotATrace),
        ("no start", frames(&[16]), TraceError::Frame(0, FrameError::Kind(16))),
        ("no node", frames(&[KIND_START, 32]), TraceError::Frame(1, FrameError::Kind(32))),
        ("two starts", twice, TraceError::Frame(1, FrameError::Kind(KIND_START))),
        ("neither start", frames(&[32]), TraceError::Frame(0, FrameError::Kind(32))),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(Replay::all(&bytes), Err(want), "{name}");
    }
}
