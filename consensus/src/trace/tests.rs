use bytes::Bytes;

use super::testing::{difference, hex, notices_changes, parts, replays_in_any_cut, rewritten, trace_of};
use super::*;
use crate::message::{Message, PeerMessage};
use crate::peer::{FrameError, Reader};
use crate::{ConfChange, ConfChangeKind, EntryKind, Index, NodeId, ProposalId, ReadId, ReadyNumber};

fn config() -> Config {
    Config { cache_bytes_limit: 1000, ..Config::new(NodeId(1), 7, 9) }
}

fn recorded() -> Recorded {
    let members = [(NodeId(1), Bytes::from("{}"))];
    Recorded::new(config(), State::bootstrap(&members), LogPosition::default(), ConfState::default())
}

/// A turn that finds all durable and applied that the turn before has asked for.
fn turn(node: &mut Recorded, inputs: Vec<Input>, out: &mut Vec<Output>) {
    let mut settled = Vec::new();
    for output in std::mem::take(out) {
        match output {
            Output::Append(append) => settled.push(Input::Durable(append.ready)),
            Output::Commit(entries) => {
                for entry in entries {
                    if entry.kind == EntryKind::ConfChange {
                        let change = ConfChange::decode(&entry.data).expect("as it was proposed");
                        settled.push(Input::ApplyConfChange(entry.index, Some(change)));
                    }
                    settled.push(Input::Applied(entry.index));
                }
            }
            _ => {}
        }
    }
    for input in settled.into_iter().chain(inputs) {
        node.step(input, out);
    }
    node.flush(out);
}

/// A lone voter from its bootstrap to a committed proposal.
fn short_life() -> Vec<u8> {
    let (mut node, mut out) = (recorded(), Vec::new());
    for _ in 0..6 {
        turn(&mut node, vec![Input::Tick], &mut out);
    }
    turn(
        &mut node,
        vec![Input::Propose(ProposalId(5), "value".into()), Input::ReadIndex(ReadId(6))],
        &mut out,
    );
    for _ in 0..2 {
        turn(&mut node, Vec::new(), &mut out);
    }
    assert_eq!(node.status().applied, Index(3));
    node.take()
}

fn entries() -> Vec<Entry> {
    let entry = |index, kind, data: &'static str| Entry {
        index: Index(index),
        term: crate::Term(3),
        kind,
        data: data.into(),
        proposal: None,
    };
    vec![entry(8, EntryKind::Normal, "ab"), entry(9, EntryKind::ConfChange, "")]
}

fn inputs() -> Vec<Input> {
    let change =
        ConfChange { id: 4, kind: ConfChangeKind::AddLearnerNode, node: NodeId(9), context: "{}".into() };
    let mut raft = raft::eraftpb::Message::default();
    raft.set_msg_type(raft::eraftpb::MessageType::MsgHeartbeat);
    (raft.to, raft.from, raft.term) = (1, 2, 3);
    let message = PeerMessage::Raft(Message { raft, data: Vec::new() });
    let conf = ConfState { voters: vec![NodeId(1), NodeId(2)], learners: vec![NodeId(3)] };
    vec![
        Input::Tick,
        Input::Campaign,
        Input::Receive(NodeId(2), Box::new(message)),
        Input::Propose(ProposalId(1), "abc".into()),
        Input::ProposeConfChange(ProposalId(2), change.clone()),
        Input::ApplyConfChange(Index(3), Some(change)),
        Input::ApplyConfChange(Index(3), None),
        Input::ReadIndex(ReadId(4)),
        Input::Durable(ReadyNumber(5)),
        Input::Applied(Index(6)),
        Input::LogStartsAt(Index(7)),
        Input::Fetched(NodeId(2), Index(8), Some(entries())),
        Input::Fetched(NodeId(2), Index(8), None),
        Input::SnapshotPinned { peer: NodeId(2), position: LogPosition::new(9, 3), conf },
        Input::SnapshotSent(NodeId(2), true),
        Input::SnapshotInstalled(ReadyNumber(10)),
        Input::TransferLeader(Some(NodeId(2))),
        Input::TransferLeader(None),
        Input::Unreachable(NodeId(2)),
        Input::LogStalled(true),
        Input::SnapshotUnpinned(NodeId(2)),
    ]
}

/// An input of this kind, whose bytes are all of `payload`.
fn input_of(kind: u8, payload: &[u8]) -> Result<Option<Input>, FrameError> {
    let mut reader = Reader::new(Bytes::copy_from_slice(payload));
    let input = replay::take_input(kind, &mut reader)?;
    reader.end().map(|()| input)
}

#[test]
fn every_input_comes_back_as_it_was_written() {
    let mut kinds = std::collections::BTreeSet::new();
    for input in inputs() {
        let mut bytes = Vec::new();
        let kind = encode_input(&input, &mut bytes);
        kinds.insert(kind);
        let back = input_of(kind, &bytes).unwrap().expect("not a flush");
        assert_eq!(format!("{back:?}"), format!("{input:?}"));
        bytes.push(0);
        let longer = input_of(kind, &bytes);
        let open_end = matches!(input, Input::Propose(..));
        assert_eq!(longer.is_err(), !open_end, "{input:?} with a byte more");
    }
    assert_eq!(kinds, (KIND_FLUSH + 1..=50).collect());
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let cases: [(&str, Input, u8, &str); 4] = [
        ("propose", Input::Propose(ProposalId(0x0102), "abc".into()), 36, "0201000000000000 616263"),
        ("durable", Input::Durable(ReadyNumber(5)), 40, "0500000000000000"),
        (
            "fetched",
            Input::Fetched(NodeId(2), Index(8), Some(entries())),
            43,
            "0200000000000000 0800000000000000 01 02000000 \
             0800000000000000 0300000000000000 01 02000000 6162 \
             0900000000000000 0300000000000000 02 00000000",
        ),
        ("transfer", Input::TransferLeader(Some(NodeId(2))), 47, "01 0200000000000000"),
    ];
    for (name, input, kind, want) in cases {
        let mut bytes = Vec::new();
        assert_eq!(encode_input(&input, &mut bytes), kind, "{name}");
        assert_eq!(hex(&bytes), want.replace(' ', ""), "{name}");
    }
    // The start of a lone voter: magic, frame, configuration, state; and the first flush with its one output.
    let mut node = recorded();
    node.flush(&mut Vec::new());
    assert_eq!(hex(&node.take()), include_str!("golden.hex").split_whitespace().collect::<String>());
}

#[test]
fn a_recorded_life_replays_in_any_cut() {
    let trace = short_life();
    let whole = replays_in_any_cut::<OtherNode>(&trace);
    assert!(whole.calls >= 14 && whole.outputs >= 6 && !whole.torn, "{whole:?}");
    assert_eq!(whole.committed, Index(3));
}

#[test]
fn a_trace_may_end_anywhere() {
    let trace = short_life();
    let (mut torn, mut whole) = (0, 0);
    for size in 0..trace.len() {
        match Replay::all(&trace[..size]) {
            Ok(replayed) if replayed.torn => torn += 1,
            Ok(_) => whole += 1,
            Err(error) => assert_eq!(error, TraceError::NotATrace, "{size} bytes"),
        }
    }
    assert!(whole >= 14 && torn > whole, "{whole} {torn}");
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let trace = short_life();
    notices_changes::<OtherNode>(&trace, 0..trace.len(), &[0, 7]);
}

#[test]
fn an_input_or_an_output_that_differs_is_named() {
    let trace = short_life();
    // Another value is proposed than the recorded node was told.
    let other = rewritten::<OtherNode>(&trace, |kind, payload| {
        if kind == 36 {
            *payload.last_mut().unwrap() ^= 1;
        }
    });
    let (call, input, recorded, replayed) = difference::<OtherNode>(&other);
    assert!(call > 10 && input == "flush", "{call} {input}");
    assert!(recorded.contains("append ") && replayed.contains("append "));
    // An output that the node never gave, in each call that gave one.
    let mut noticed = 0;
    let whole = parts::<OtherNode>(&trace);
    for number in 2..whole.len() {
        let mut other = whole.clone();
        let payload = &mut other[number].1;
        if payload[0] > 0 && payload[1] == 0 {
            let last = 3 + payload[0] as usize; // short texts only: the length's first byte is all of it
            payload[last - 1] ^= 1;
            let (call, ..) = difference::<OtherNode>(&trace_of::<OtherNode>(&other));
            assert_eq!(call, number as u64 - 1);
            noticed += 1;
        }
    }
    assert!(noticed >= 5, "{noticed}");
}

#[test]
fn what_is_not_a_trace_is_refused() {
    let trace = short_life();
    let mut later = trace.clone();
    later[6] = 2;
    let start_twice = [&trace[..], &trace[MAGIC.len()..]].concat();
    let mut no_start = parts::<OtherNode>(&trace);
    no_start.iter_mut().for_each(|(kind, _)| *kind = KIND_FLUSH);
    let cases: [(&str, Vec<u8>); 5] = [
        ("nothing", Vec::new()),
        ("something else", b"RINGDLOG".to_vec()),
        ("another version", later),
        ("a second start", start_twice),
        ("no start", trace_of::<OtherNode>(&no_start)),
    ];
    for (name, bytes) in cases {
        let refused = matches!(Replay::all(&bytes), Err(TraceError::NotATrace | TraceError::Frame(..)));
        assert!(refused, "{name}");
    }
}
