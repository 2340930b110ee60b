//! Stories that were recorded and are changed afterwards: a replay tells.

use consensus::peer::{FrameError, encode_frame};
use consensus::trace::TraceError;
use consensus::trace::testing::{
    comes_back, difference, hex, notices_changes, only, replays_in_any_cut, rewritten,
};

use super::*;
use crate::store_core::trace::{
    KIND_CALL_FIRST, KIND_PAGES, KIND_START, KIND_STORE, MAGIC, OtherCore, encode_input, encode_message,
    take_message,
};

fn messages() -> Vec<ToStore> {
    let entry = |index, kind, proposal: Option<u64>, data: &'static str| Committed {
        entry: Entry {
            index: Index(index),
            term: Term(3),
            kind,
            data: data.into(),
            proposal: proposal.map(ProposalId),
        },
        command: None,
    };
    let entries = vec![
        entry(8, EntryKind::Normal, Some(5), "ab"),
        entry(9, EntryKind::ConfChange, None, "cd"),
        entry(10, EntryKind::Normal, None, ""),
    ];
    let id = QueryId { core: 1, number: 7 };
    let (keep_alive, leases) = (Query::KeepAlive { lease: -5 }, Query::Leases);
    let time_to_live = |keys| Query::TimeToLive { lease: 5, keys };
    vec![
        ToStore::Commit(entries),
        ToStore::Leadership { leads: true, term: Term(4), leader: Some(OTHER) },
        ToStore::Leadership { leads: false, term: Term(4), leader: None },
        ToStore::Versions(vec![Some("3.7.1".to_owned()), None]),
        ToStore::Dropped(ProposalId(6)),
        ToStore::Query(id, keep_alive),
        ToStore::Query(id, time_to_live(false)),
        ToStore::Query(id, time_to_live(true)),
        ToStore::Query(id, leases),
        ToStore::Query(id, Query::Defragment),
        ToStore::PeerRequest(OTHER, 8, "body".into()),
        ToStore::PeerResponse(ProposalId(9), "body".into()),
        ToStore::ReadIndex(ReadId(10), Some(Index(11))),
        ToStore::ReadIndex(ReadId(10), None),
        ToStore::PinSnapshot(OTHER),
        ToStore::NoSpace,
    ]
}

#[test]
fn every_message_comes_back_as_it_was_written() {
    let mut kinds = std::collections::BTreeSet::new();
    for message in messages() {
        let mut bytes = Vec::new();
        let kind = encode_message(&message, &mut bytes);
        kinds.insert(kind);
        // These end with bytes of any number.
        let open_end = matches!(message, ToStore::PeerRequest(..) | ToStore::PeerResponse(..));
        comes_back(kind, &bytes, open_end, |reader, again| {
            take_message(kind, reader).map(|(back, _)| encode_message(&back, again))
        });
    }
    assert_eq!(kinds, (KIND_CALL_FIRST + 1..=42).collect());
}

#[test]
fn the_bytes_are_those_of_the_table() {
    let mut all = messages();
    let checkpoint_index = all.len();
    let wants: [(usize, u8, &str); 5] = [
        (
            0,
            33,
            "03000000 \
             0800000000000000 0300000000000000 01 01 0500000000000000 02000000 6162 \
             0900000000000000 0300000000000000 02 00 02000000 6364 \
             0a00000000000000 0300000000000000 01 00 00000000",
        ),
        (1, 34, "01 0400000000000000 01 0d00000000000000"),
        (3, 35, "02000000 01 05000000 332e372e31 00"),
        (7, 37, "0100000000000000 0700000000000000 03 0500000000000000"),
        (12, 40, "0a00000000000000 01 0b00000000000000"),
    ];
    assert!(wants.iter().all(|(at, ..)| *at < checkpoint_index));
    for (at, kind, want) in wants.into_iter().rev() {
        let mut bytes = Vec::new();
        assert_eq!(encode_input(&Input::Message(all.remove(at)), &mut bytes), kind);
        assert_eq!(hex(&bytes), want.replace(' ', ""), "message {at}");
    }
    let inputs = [(Input::Start, 32), (Input::EndTurn, 45), (Input::BeginCheckpoint, 46)];
    for (input, want) in inputs.into_iter().chain([(Input::Tick, 47), (Input::AutoCompact, 48)]) {
        let mut bytes = Vec::new();
        assert_eq!((encode_input(&input, &mut bytes), bytes.len()), (want, 0));
    }
    // The start of an empty store: magic, settings, store, and the first call, in which a version is published.
    let trace = World::new(settings()).core.take();
    assert_eq!(hex(&trace), include_str!("golden.hex").split_whitespace().collect::<String>());
}

/// Writes, a lease, a compaction, a checkpoint, a snapshot for a peer; somebody reads an older version for a while.
fn life() -> Vec<u8> {
    let mut world = World::leading(settings());
    world.present.alone = true;
    world.grant(5, 10);
    let mut reader = None;
    for number in 0..30 {
        let writes = [("a", 3), ("b", 6000), ("c", 300)];
        let writes = writes.map(|(key, size)| (Some(client_id(0, number)), world.put(key, size)));
        world.commit(writes.to_vec());
        world.at(3.0 * number as f64);
        world.turn();
        match number {
            5 => reader = Some(world.core.store().tree().published()),
            12 => reader = None,
            _ => {}
        }
        if world.checkpoint.is_some() {
            world.end_checkpoint(Written::Durable);
        }
        world.said.clear();
    }
    assert!(reader.is_none());
    world.keep_alive(1, 5);
    let compact = propose::compact(&mut world.ids, 30);
    world.commit(vec![(None, compact.entry)]);
    while world.core.has_slices() {
        world.turn();
    }
    world.hear(ToStore::PinSnapshot(OTHER));
    world.hear(ToStore::Query(QueryId { core: 0, number: 2 }, Query::Defragment));
    for _ in 0..2 {
        world.turn();
        world.end_checkpoint(Written::Durable);
    }
    world.step(Input::Tick);
    world.core.take()
}

#[test]
fn a_recorded_life_replays_in_any_cut() {
    let trace = life();
    let whole = replays_in_any_cut::<OtherCore>(&trace);
    assert!(whole.calls > 100 && whole.outputs > 100 && whole.checkpoints > 3 && !whole.torn, "{whole:?}");
    let cut = Replay::all(&trace[..trace.len() - 1]).unwrap();
    assert!(cut.torn && cut.calls == whole.calls - 1, "{cut:?}");
}

#[test]
fn a_changed_byte_is_noticed_wherever_it_is() {
    let trace = life();
    notices_changes::<OtherCore>(&trace, (0..trace.len()).step_by(trace.len() / 200), &[2]);
}

/// Where the versions that have readers are in a call.
fn versions_at(payload: &[u8]) -> usize {
    12 + u32::from_le_bytes(payload[..4].try_into().unwrap()) as usize
}

#[test]
fn an_output_that_was_not_given_is_named() {
    let trace = life();
    let mut commits = 0;
    let other = rewritten::<OtherCore>(&trace, |kind, payload| {
        let text = payload.windows(8).position(|bytes| bytes == b"outcomes");
        if let (45, Some(at), 0) = (kind, text, commits) {
            commits += 1;
            payload[at] = b'O';
        }
    });
    let (_, input, recorded, replayed) = difference::<OtherCore>(&other);
    assert!(input.starts_with("end of the turn") && recorded.contains("Outcomes"), "{input} {recorded}");
    assert!(replayed.contains("outcomes"), "{replayed}");
}

#[test]
fn another_entry_brings_about_something_else() {
    let trace = life();
    let mut commits = 0;
    let other = rewritten::<OtherCore>(&trace, |kind, payload| {
        commits += u32::from(kind == 33);
        if kind == 33 && commits == 8 {
            *payload.last_mut().unwrap() ^= 1; // in the value of a Put
        }
    });
    // Not its number, its length or its revision differ, but the event that it is.
    let (_, input, recorded, replayed) = difference::<OtherCore>(&other);
    assert!(input.starts_with("end of the turn"), "{input}");
    assert!(recorded.contains("events, crc") && recorded.lines().last() == replayed.lines().last());
}

#[test]
fn whose_pages_are_still_read_is_part_of_what_goes_in() {
    let trace = life();
    let mut pinned = 0;
    let other = rewritten::<OtherCore>(&trace, |kind, payload| {
        if kind >= KIND_CALL_FIRST {
            let at = versions_at(payload);
            let count = u32::from_le_bytes(payload[at..at + 4].try_into().unwrap()) as usize;
            pinned += count;
            payload.drain(at + 4..at + 4 + 8 * count);
            payload[at..at + 4].fill(0);
        }
    });
    assert!(pinned >= 6, "{pinned}");
    let (_, _, recorded, replayed) = difference::<OtherCore>(&other);
    assert_ne!(recorded.lines().last(), replayed.lines().last(), "other pages are free");
}

/// What a proposer had decoded is not written down: if it says something else than the entry, the replay finds out.
#[test]
fn a_decoded_command_that_is_not_what_the_entry_says_is_noticed() {
    for (ttl, same) in [(10, true), (11, false)] {
        let mut world = World::leading(settings());
        let request = pb::LeaseGrantRequest { id: 5, ttl: 10 };
        let data = propose::encode(world.ids.next_id(), field::LEASE_GRANT, &request.encode_to_vec(), &[]);
        let entry = world.entry(Some(client_id(0, 1)), data);
        let command = Some(Command::LeaseGrant { id: 5, ttl });
        world.hear(ToStore::Commit(vec![Committed { entry, command }]));
        world.turn();
        let replayed = Replay::all(&world.core.take());
        assert_eq!(replayed.is_ok(), same, "{replayed:?}");
    }
}

#[test]
fn what_is_not_a_trace_is_refused() {
    let trace = life();
    let frames = |kinds: &[u8]| only::<OtherCore>(&trace, kinds);
    let mut of_none = frames(&[KIND_START]);
    encode_frame(KIND_PAGES, &mut of_none, |out| out.extend_from_slice(&[0; 8]));
    let twice = [frames(&[KIND_START]), frames(&[KIND_START]).split_off(MAGIC.len())].concat();
    let cases: [(&str, Vec<u8>, TraceError); 6] = [
        ("nothing", Vec::new(), TraceError::NotATrace),
        ("a node's", consensus::trace::MAGIC.to_vec(), TraceError::NotATrace),
        ("no start", frames(&[KIND_STORE]), TraceError::Frame(0, FrameError::Kind(KIND_STORE))),
        ("no store", frames(&[KIND_START, 32]), TraceError::Frame(1, FrameError::Kind(32))),
        ("two starts", twice, TraceError::Frame(1, FrameError::Kind(KIND_START))),
        ("pages of none", of_none, TraceError::Frame(1, FrameError::Kind(KIND_PAGES))),
    ];
    for (name, bytes, want) in cases {
        assert_eq!(Replay::all(&bytes), Err(want), "{name}");
    }
}
