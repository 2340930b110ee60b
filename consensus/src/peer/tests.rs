use super::*;

use proptest::prelude::*;

fn raft(kind: MessageType) -> eraftpb::Message {
    let mut raft = eraftpb::Message::default();
    raft.set_msg_type(kind);
    (raft.to, raft.from, raft.term) = (2, 1, 3);
    raft
}

fn append() -> PeerMessage {
    let mut raft = raft(MessageType::MsgAppend);
    (raft.log_term, raft.index, raft.commit) = (2, 7, 6);
    for (index, kind) in [(8, 0), (9, 1)] {
        let mut entry = eraftpb::Entry::default();
        (entry.term, entry.index, entry.entry_type) = (3, index, kind);
        raft.entries.push(entry);
    }
    PeerMessage::Raft(Message { raft, data: vec!["ab".into(), "c".into()] })
}

fn read_index() -> PeerMessage {
    let mut raft = raft(MessageType::MsgReadIndex);
    raft.entries.push(eraftpb::Entry { data: b"token".to_vec(), ..Default::default() });
    PeerMessage::Raft(Message { raft, data: Vec::new() })
}

fn snapshot() -> PeerMessage {
    let mut raft = raft(MessageType::MsgSnapshot);
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (9, 3);
    metadata.mut_conf_state().voters = vec![1, 2];
    metadata.mut_conf_state().learners = vec![4];
    raft.snapshot = Some(snapshot);
    PeerMessage::Raft(Message { raft, data: Vec::new() })
}

fn forward() -> PeerMessage {
    PeerMessage::Forward(Forward {
        term: Term(3),
        boot_nonce: 0x0102_0304_0506_0708,
        sequence: 5,
        proposals: vec![
            (ProposalId(1), EntryKind::Normal, "x".into()),
            (ProposalId(2), EntryKind::ConfChange, "yz".into()),
        ],
    })
}

fn refused() -> PeerMessage {
    PeerMessage::ForwardRefused(ForwardRefused {
        boot_nonce: 8,
        refused: vec![
            (ProposalId(1), DropReason::NoLeader),
            (ProposalId(2), DropReason::NotLeader(NodeId(9))),
            (ProposalId(3), DropReason::LeaderTransfer),
            (ProposalId(4), DropReason::TooManyRequests),
            (ProposalId(5), DropReason::TooLarge),
            (ProposalId(6), DropReason::ConfChangePending),
            (ProposalId(7), DropReason::LeaderChanged),
            (ProposalId(8), DropReason::OutcomeUnknown),
        ],
    })
}

fn all() -> Vec<PeerMessage> {
    let mut heartbeat = raft(MessageType::MsgHeartbeatResponse);
    heartbeat.context = b"ctx".to_vec();
    heartbeat.reject = true;
    heartbeat.priority = -2;
    vec![
        PeerMessage::Raft(Message { raft: heartbeat, data: Vec::new() }),
        append(),
        read_index(),
        snapshot(),
        forward(),
        refused(),
        PeerMessage::Request { id: 6, body: "ask".into() },
        PeerMessage::Response { id: 6, body: Bytes::new() },
    ]
}

fn encoded(message: &PeerMessage) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    assert!(out.len() <= encoded_bytes_max(message), "{message:?}");
    out
}

fn decode_all(limit: usize, bytes: &[u8], cut: usize) -> Result<Vec<PeerMessage>, FrameError> {
    let mut decoder = Decoder::new(limit);
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(cut.max(1)) {
        while let Some(frame) = decoder.next(&mut piece)? {
            messages.push(decode(&frame)?);
        }
        assert!(piece.is_empty());
    }
    Ok(messages)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_those_of_the_tables() {
    let zeros = |count: usize| "00".repeat(count);
    let u64s = |numbers: &[u64]| numbers.iter().map(|n| hex(&n.to_le_bytes())).collect::<String>();
    // message, CRC-32 of length and of the rest by another implementation, kind and payload by hand
    let cases = [
        (
            append(),
            [0x09a9_41c8, 0x6c21_c920],
            format!(
                "01{}{}{}{}{}{}{}{}",
                "0300",                             // MsgAppend, no flags
                u64s(&[2, 1, 3, 2, 7, 6, 0, 0, 0]), // to … reject hint
                zeros(8),                           // priority
                zeros(4),                           // context
                "02000000",                         // entries
                u64s(&[3, 8]) + "00" + "02000000",  // normal, two bytes
                u64s(&[3, 9]) + "01" + "01000000",  // configuration change, one byte
                hex(b"abc"),
            ),
        ),
        (
            snapshot(),
            [0x947e_7971, 0x7601_0fa9],
            format!(
                "01{}{}{}{}{}{}{}{}{}",
                "0702", // MsgSnapshot; a snapshot follows
                u64s(&[2, 1, 3, 0, 0, 0, 0, 0, 0]),
                zeros(8),
                zeros(4),
                u64s(&[9, 3]),
                "02000000".to_owned() + &u64s(&[1, 2]), // voters
                "01000000".to_owned() + &u64s(&[4]),    // learners
                zeros(4),                               // data
                zeros(4),                               // entries
            ),
        ),
        (
            forward(),
            [0xbed2_c7d9, 0x6228_6aaf],
            format!(
                "02{}{}{}{}{}",
                u64s(&[3, 0x0102_0304_0506_0708, 5]),
                "02000000",
                u64s(&[1]) + "01" + "01000000",
                u64s(&[2]) + "02" + "02000000",
                hex(b"xyz"),
            ),
        ),
        (
            PeerMessage::ForwardRefused(ForwardRefused {
                boot_nonce: 8,
                refused: vec![(ProposalId(2), DropReason::NotLeader(NodeId(9)))],
            }),
            [0x9182_ffb0, 0x9026_fefb],
            format!("03{}{}{}{}{}", u64s(&[8]), "01000000", u64s(&[2]), "02", u64s(&[9])),
        ),
        (
            PeerMessage::Request { id: 6, body: "ask".into() },
            [0x6b92_60a4, 0x0701_04a1],
            format!("04{}{}", u64s(&[6]), hex(b"ask")),
        ),
        (
            PeerMessage::Response { id: 6, body: Bytes::new() },
            [0x5c4c_9096, 0x6af1_5866],
            format!("05{}", u64s(&[6])),
        ),
    ];
    for (message, checksums, body) in cases {
        let length = (body.len() as u32 / 2).to_le_bytes();
        let [of_length, of_rest] = checksums.map(|crc: u32| hex(&crc.to_le_bytes()));
        let want = format!("{}{of_length}{of_rest}{body}", hex(&length));
        assert_eq!(hex(&encoded(&message)), want, "{message:?}");
    }
}

#[test]
fn what_was_encoded_is_decoded_in_any_cut() {
    let messages = all();
    let bytes: Vec<u8> = messages.iter().flat_map(encoded).collect();
    for cut in [1, 2, 3, 7, 8, 9, 10, 64, 1000, bytes.len()] {
        assert_eq!(decode_all(FRAME_BYTES_MAX, &bytes, cut).as_ref(), Ok(&messages), "cut every {cut} bytes");
    }
}

#[test]
fn an_entry_shares_the_memory_of_its_frame() {
    let bytes = encoded(&append());
    let frame = Decoder::new(FRAME_BYTES_MAX).next(&mut &bytes[..]).unwrap().unwrap();
    let inside = frame.payload.as_ptr_range();
    let PeerMessage::Raft(message) = decode(&frame).unwrap() else { panic!("a raft message") };
    assert!(message.data.iter().all(|data| inside.contains(&data.as_ptr())));
    assert!(message.raft.entries.iter().all(|entry| entry.data.is_empty()));
}

#[test]
fn every_flipped_bit_and_every_cut_is_seen() {
    for message in all() {
        let bytes = encoded(&message);
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            let result = decode_all(FRAME_BYTES_MAX, &damaged, damaged.len());
            assert!(result.is_err(), "bit {at} of {message:?}: {result:?}");
            // A damaged header is seen before anything is waited for by what it says.
            let header = decode_all(FRAME_BYTES_MAX, &damaged[..HEADER_BYTES], 1);
            assert_eq!(header.is_err(), at < 64, "bit {at} of {message:?}: {header:?}");
        }
        for size in 0..bytes.len() {
            assert_eq!(decode_all(FRAME_BYTES_MAX, &bytes[..size], size), Ok(vec![]), "{size} bytes");
        }
    }
}

/// A header that promises so much.
fn header(length: u32) -> Vec<u8> {
    let length = length.to_le_bytes();
    [&length[..], &crc32fast::hash(&length).to_le_bytes(), &[0; 4]].concat()
}

#[test]
fn limits_are_checked_before_bytes_come() {
    let cases: [(usize, u32, bool); 5] = [
        (10, 0, false),
        (10, 1, true),
        (10, 10, true),
        (10, 11, false),
        (usize::MAX, FRAME_BYTES_MAX as u32 + 1, false),
    ];
    for (limit, length, taken) in cases {
        let header = header(length);
        let result = Decoder::new(limit).next(&mut &header[..]);
        let want = if taken { Ok(None) } else { Err(FrameError::Length(length)) };
        assert_eq!(result, want, "{length} of {limit}");
    }
}

#[test]
fn a_promised_length_allocates_nothing() {
    let mut decoder = Decoder::new(FRAME_BYTES_MAX);
    let bytes = [header(FRAME_BYTES_MAX as u32), vec![0; 10]].concat();
    assert_eq!(decoder.next(&mut &bytes[..]), Ok(None));
    assert!(decoder.body.capacity() <= GROWTH_BYTES, "{}", decoder.body.capacity());
    assert_eq!(decoder.next(&mut &vec![0; 200_000][..]), Ok(None));
    assert!(decoder.body.capacity() <= 400_100, "{}", decoder.body.capacity());
}

/// A frame with a right checksum around any kind and payload.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(kind, &mut out, |out| out.extend_from_slice(payload));
    out
}

#[test]
fn payloads_that_break_their_table_are_refused() {
    let body = |message: &PeerMessage| encoded(message)[HEADER_BYTES + 1..].to_vec();
    let changed = |message: &PeerMessage, at: usize, to: u8| {
        let mut body = body(message);
        body[at] = to;
        body
    };
    let huge = |prefix: usize| [vec![0; prefix], vec![0xff; 4]].concat();
    let longer = |message: &PeerMessage| [body(message), vec![0]].concat();
    let cases = [
        (0, vec![], FrameError::Kind(0)),
        (6, vec![], FrameError::Kind(6)),
        (KIND_FIRST_FOREIGN, vec![], FrameError::Kind(16)),
        (1, vec![], FrameError::Payload("type")),
        (1, changed(&append(), 0, 99), FrameError::Payload("type")),
        (1, changed(&append(), 0, MessageType::MsgHup as u8), FrameError::Payload("type")),
        (1, changed(&append(), 0, MessageType::MsgPropose as u8), FrameError::Payload("type")),
        (1, changed(&append(), 1, 8), FrameError::Payload("flags")),
        (1, changed(&append(), 86, 3), FrameError::Payload("entries")),
        (1, changed(&append(), 89, 0xff), FrameError::Payload("entries")),
        (1, changed(&append(), 106, 2), FrameError::Payload("entry")),
        (1, changed(&append(), 107, 9), FrameError::Payload("data")),
        (1, longer(&append()), FrameError::Payload("end")),
        (1, longer(&snapshot()), FrameError::Payload("end")),
        (2, huge(24), FrameError::Payload("proposals")),
        (2, changed(&forward(), 36, 3), FrameError::Payload("proposal")),
        (2, longer(&forward()), FrameError::Payload("end")),
        (3, huge(8), FrameError::Payload("refusals")),
        (3, changed(&refused(), 20, 9), FrameError::Payload("refusal")),
        (4, vec![0; 7], FrameError::Payload("id")),
        (5, vec![0; 7], FrameError::Payload("id")),
    ];
    for (kind, payload, want) in cases {
        let bytes = framed(kind, &payload);
        assert_eq!(
            decode_all(FRAME_BYTES_MAX, &bytes, bytes.len()),
            Err(want),
            "kind {kind}: {}",
            hex(&payload)
        );
    }
}

proptest! {
    #[test]
    fn hostile_payloads_never_panic(kind in 0u8..8, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = framed(kind, &payload);
        if let Ok(messages) = decode_all(FRAME_BYTES_MAX, &bytes, bytes.len()) {
            // What is accepted means exactly these bytes.
            prop_assert_eq!(encoded(&messages[0]), bytes);
        }
    }

    #[test]
    fn hostile_streams_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..50) {
        let _ = decode_all(1 << 16, &bytes, cut);
    }

    #[test]
    fn changed_messages_never_panic(
        which in 0usize..8,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let whole = encoded(&all()[which]);
        let (kind, mut payload) = (whole[HEADER_BYTES], whole[HEADER_BYTES + 1..].to_vec());
        for (at, to) in changes {
            let at = at.index(payload.len());
            payload[at] = to;
        }
        let bytes = framed(kind, &payload);
        if let Ok(messages) = decode_all(FRAME_BYTES_MAX, &bytes, bytes.len()) {
            prop_assert_eq!(messages.len(), 1);
        }
    }
}
