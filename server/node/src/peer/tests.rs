//! Two ends of a connection, their bytes passed on in any cut.

use super::snapshot::{End, Incoming, Next, OutOfOrder, Outgoing, Pace, SnapshotFrame};
use super::*;

use bytes::Bytes;
use consensus::peer::{Decoder, Frame};
use consensus::{Message, NodeId, PeerMessage};
use proptest::prelude::*;
use raft::eraftpb::{self, MessageType};

const CLUSTER: u64 = 0xc1;
const ME: NodeId = NodeId(2);
const VERSION: &str = "3.7.1";
const CONFIG: LaneConfig = LaneConfig {
    read_timeout: Duration::from_secs(5),
    send_bytes_limit: 1 << 20,
    stream_window: net::h2::limits::STREAM_WINDOW,
};

fn hello(lane: Lane) -> Hello {
    Hello {
        lane,
        cluster_id: CLUSTER,
        from: NodeId(1),
        to: ME,
        peer_urls: vec!["http://a:1".into(), "http://b:2".into()],
        server_version: Some("3.6.5".into()),
    }
}

fn request(id: u64, size: usize) -> PeerMessage {
    PeerMessage::Request { id, body: Bytes::from(vec![id as u8; size]) }
}

/// Both ends, and what they have told.
struct Pair {
    dialed: Dialed,
    accepted: Accepted,
    now: Duration,
    cut: usize,
    from_dialed: Vec<DialedEvent>,
    from_accepted: Vec<AcceptedEvent>,
}

impl Pair {
    fn new(hello: Hello, cut: usize) -> Pair {
        Pair::with(CONFIG, hello, cut)
    }

    fn with(config: LaneConfig, hello: Hello, cut: usize) -> Pair {
        let now = Duration::ZERO;
        Pair {
            dialed: Dialed::new(hello, config, now),
            accepted: Accepted::new((CLUSTER, ME), VERSION, config, now),
            now,
            cut,
            from_dialed: Vec::new(),
            from_accepted: Vec::new(),
        }
    }

    /// Passes bytes on until both are silent; a hello is accepted as `verdict` says.
    fn settle(&mut self, verdict: Result<(), Refusal>) {
        loop {
            let mut out = Vec::new();
            self.dialed.poll_transmit(self.now, &mut out, 1 << 20);
            out.chunks(self.cut).for_each(|piece| self.accepted.handle_bytes(self.now, piece));
            while let Some(event) = self.accepted.poll_event() {
                if let AcceptedEvent::Hello(hello) = &event {
                    self.accepted.accept(hello.lane, verdict);
                }
                self.from_accepted.push(event);
            }
            let mut back = Vec::new();
            self.accepted.poll_transmit(self.now, &mut back, 1 << 20);
            back.chunks(self.cut).for_each(|piece| self.dialed.handle_bytes(self.now, piece));
            self.from_dialed.extend(std::iter::from_fn(|| self.dialed.poll_event()));
            if out.is_empty() && back.is_empty() {
                return;
            }
        }
    }

    fn messages(&self) -> Vec<PeerMessage> {
        let frames = self.from_accepted.iter().filter_map(|event| match event {
            AcceptedEvent::Frame(frame) => Some(frame),
            _ => None,
        });
        frames.map(|frame| consensus::peer::decode(frame).expect("a message")).collect()
    }
}

#[test]
fn a_lane_opens_and_carries_messages_in_any_cut() {
    for cut in [1, 7, 100, 1 << 20] {
        let mut pair = Pair::new(hello(Lane::Bulk), cut);
        pair.settle(Ok(()));
        assert_eq!(pair.from_dialed, [DialedEvent::Open]);
        assert_eq!(pair.from_accepted, [AcceptedEvent::Hello(hello(Lane::Bulk))]);
        let sizes = [0, 100, 16_384, 40_000, 2 << 20];
        for (id, size) in sizes.into_iter().enumerate() {
            assert_eq!(pair.dialed.send(&request(id as u64, size)), Ok(()), "cut {cut}, size {size}");
            pair.settle(Ok(()));
        }
        let want: Vec<_> = sizes.into_iter().enumerate().map(|(id, size)| request(id as u64, size)).collect();
        assert_eq!(pair.messages(), want, "cut {cut}");
    }
}

#[test]
fn frames_of_any_size_go_through_windows_of_any_size_either_way() {
    for stream_window in [1, 2, 7, 100, 3000] {
        let mut pair = Pair::with(LaneConfig { stream_window, ..CONFIG }, hello(Lane::Bulk), 50);
        pair.settle(Ok(()));
        let sizes = [0, 1, 90, 700, 5000];
        for (id, size) in sizes.into_iter().enumerate() {
            assert_eq!(pair.dialed.send(&request(id as u64, size)), Ok(()));
            let answer = request(id as u64, size);
            let sent = pair.accepted.send_frame(size, |out| consensus::peer::encode(&answer, out));
            assert_eq!(sent, Ok(()));
            let mut out = Vec::new();
            pair.dialed.poll_transmit(pair.now, &mut out, 1 << 20);
            let window = stream_window as usize;
            assert!(out.len() <= 9 + window + 13, "a window of {window} bytes, {} were sent", out.len());
            pair.accepted.handle_bytes(pair.now, &out);
            pair.settle(Ok(()));
        }
        let want: Vec<_> = sizes.into_iter().enumerate().map(|(id, size)| request(id as u64, size)).collect();
        assert_eq!(pair.messages(), want, "window {stream_window}");
        let heard = pair.from_dialed.iter().filter(|event| matches!(event, DialedEvent::Frame(_))).count();
        assert_eq!(heard, sizes.len(), "window {stream_window}: {:?}", pair.from_dialed);
    }
}

#[test]
fn nothing_goes_out_before_the_answer() {
    let mut pair = Pair::new(hello(Lane::Vital), 100);
    assert_eq!(pair.dialed.send(&request(1, 1)), Err(Dropped::NotOpen));
    pair.settle(Ok(()));
    assert_eq!(pair.dialed.send(&request(1, 1)), Ok(()));
}

/// What is no version is not known, and no reason to refuse anybody.
#[test]
fn both_ends_hear_what_the_other_is() {
    let long = format!("3.7.1-{}", "x".repeat(100));
    for (said, heard) in [
        (Some("3.6.5"), Some("3.6.5")),
        (Some("v3.8.0-alpha"), Some("v3.8.0-alpha")),
        (Some("unknown"), None),
        (Some(long.as_str()), None),
        (None, None),
    ] {
        let hello = Hello { server_version: said.map(str::to_owned), ..hello(Lane::Vital) };
        let mut pair = Pair::new(hello.clone(), 10);
        assert_eq!(pair.dialed.server_version(), None, "nothing was said yet");
        pair.settle(Ok(()));
        assert_eq!(pair.dialed.server_version(), Some(VERSION));
        let want = Hello { server_version: heard.map(str::to_owned), ..hello };
        assert_eq!(pair.from_accepted, [AcceptedEvent::Hello(want)], "{said:?}");
    }
}

#[test]
fn ids_are_checked_before_anything_is_believed() {
    let good = hello(Lane::Bulk);
    let cases = [
        (Hello { cluster_id: 0xc2, ..good.clone() }, Ok(()), Refusal::Cluster),
        (Hello { server_version: Some("2.3.8".into()), ..good.clone() }, Ok(()), Refusal::Version),
        (Hello { to: NodeId(3), ..good.clone() }, Ok(()), Refusal::Member),
        (Hello { from: ME, ..good.clone() }, Ok(()), Refusal::Member),
        (Hello { from: NodeId(0), ..good.clone() }, Ok(()), Refusal::Member),
        (good.clone(), Err(Refusal::Removed), Refusal::Removed),
        (good.clone(), Err(Refusal::Busy), Refusal::Busy),
    ];
    for (hello, verdict, want) in cases {
        let mut pair = Pair::new(hello.clone(), 10);
        pair.settle(verdict);
        assert_eq!(pair.from_dialed, [DialedEvent::Refused(want)], "{hello:?}");
        let asked = pair.from_accepted.iter().any(|event| matches!(event, AcceptedEvent::Hello(_)));
        assert_eq!(asked, verdict.is_err(), "{hello:?}");
        assert_eq!(pair.dialed.send(&request(1, 1)), Err(Dropped::NotOpen));
    }
}

#[test]
fn a_stranger_cannot_tell_a_member_that_it_was_removed() {
    let cases = [
        (410, "removed member\n", true, Refusal::Removed),
        (410, "removed member\n", false, Refusal::Cluster),
        (412, "cluster ID mismatch\n", true, Refusal::Cluster),
        (412, "incompatible version\n", true, Refusal::Version),
        (412, "to field mismatch\n", true, Refusal::Member),
        (503, "", true, Refusal::Busy),
        (404, "404 page not found\n", false, Refusal::Request),
        (301, "", true, Refusal::Request),
    ];
    for (status, text, ours, want) in cases {
        assert_eq!(Refusal::of_answer(status, text.as_bytes(), ours), want, "{status} {text}");
    }
}

#[test]
fn a_full_lane_drops_and_never_more_than_it_must() {
    let mut pair = Pair::new(hello(Lane::Bulk), 1 << 20);
    pair.settle(Ok(()));
    // The first may be of any size; what follows waits behind it.
    assert_eq!(pair.dialed.send(&request(1, 3 << 20)), Ok(()));
    assert_eq!(pair.dialed.send(&request(2, 1)), Err(Dropped::Full));
    pair.settle(Ok(()));
    assert_eq!(pair.dialed.send(&request(3, 500 << 10)), Ok(()));
    assert_eq!(pair.dialed.send(&request(4, 500 << 10)), Ok(()));
    assert_eq!(pair.dialed.send(&request(5, 500 << 10)), Err(Dropped::Full));
    pair.settle(Ok(()));
    assert_eq!(pair.messages(), [request(1, 3 << 20), request(3, 500 << 10), request(4, 500 << 10)]);
}

#[test]
fn silence_ends_a_connection_on_both_sides() {
    let mut pair = Pair::new(hello(Lane::Vital), 100);
    pair.settle(Ok(()));
    // While bytes pass, pings keep it alive.
    for _ in 0..20 {
        pair.now += Duration::from_secs(1);
        pair.dialed.handle_timeout(pair.now);
        pair.accepted.handle_timeout(pair.now);
        pair.settle(Ok(()));
    }
    assert!(pair.dialed.is_open() && !pair.accepted.is_finished());
    // Then none do.
    for _ in 0..8 {
        pair.now += Duration::from_secs(1);
        pair.dialed.handle_timeout(pair.now);
        pair.accepted.handle_timeout(pair.now);
    }
    assert!(pair.dialed.is_finished() && pair.accepted.is_finished());
    let silent = DialedEvent::Closed("the peer was silent for too long");
    assert_eq!(pair.dialed.poll_event(), Some(silent));
}

#[test]
fn an_answer_that_does_not_come_ends_the_attempt() {
    let mut dialed = Dialed::new(hello(Lane::Vital), CONFIG, Duration::ZERO);
    assert!(dialed.next_timeout() <= Some(CONFIG.read_timeout));
    dialed.handle_timeout(CONFIG.read_timeout);
    assert!(dialed.is_finished());
}

#[test]
fn a_damaged_or_oversized_frame_ends_the_lane() {
    let broken = AcceptedEvent::Closed("a broken frame");
    let mut pair = Pair::new(hello(Lane::Bulk), 100);
    pair.settle(Ok(()));
    let damaged = |out: &mut Vec<u8>| {
        let at = out.len();
        consensus::peer::encode(&request(1, 10), out);
        out[at + 12] ^= 1;
    };
    pair.dialed.send_frame(30, damaged).unwrap();
    pair.settle(Ok(()));
    assert_eq!(pair.from_accepted.last(), Some(&broken));
    let mut pair = Pair::new(hello(Lane::Vital), 100);
    pair.settle(Ok(()));
    pair.dialed.send(&request(1, VITAL_FRAME_BYTES_MAX)).unwrap();
    pair.settle(Ok(()));
    assert_eq!(pair.from_accepted.last(), Some(&broken));
    assert!(pair.messages().is_empty());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..40) {
        let mut accepted = Accepted::new((CLUSTER, ME), VERSION, CONFIG, Duration::ZERO);
        let mut dialed = Dialed::new(hello(Lane::Bulk), CONFIG, Duration::ZERO);
        accepted.handle_bytes(Duration::ZERO, net::h2::PREFACE);
        for piece in bytes.chunks(cut) {
            accepted.handle_bytes(Duration::ZERO, piece);
            dialed.handle_bytes(Duration::ZERO, piece);
        }
        while let Some(event) = accepted.poll_event() {
            prop_assert!(!matches!(event, AcceptedEvent::Frame(_)), "a frame without a lane");
        }
        while let Some(event) = dialed.poll_event() {
            prop_assert!(!matches!(event, DialedEvent::Open | DialedEvent::Frame(_)), "{event:?} without an answer");
        }
    }

    #[test]
    fn hostile_snapshot_frames_never_panic(kind in 14u8..23, payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let frame = Frame { kind, payload: Bytes::from(payload) };
        if let Ok(decoded) = SnapshotFrame::decode(&frame) {
            prop_assert_eq!(framed(&decoded), frame);
        }
    }
}

// Snapshots.

fn snapshot_message() -> Message {
    let mut raft = eraftpb::Message::default();
    raft.set_msg_type(MessageType::MsgSnapshot);
    (raft.to, raft.from, raft.term) = (2, 1, 3);
    let mut snapshot = eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = 9;
    snapshot.mut_metadata().mut_conf_state().voters = vec![1, 2];
    raft.snapshot = Some(snapshot);
    Message { raft, data: Vec::new() }
}

fn framed(frame: &SnapshotFrame) -> Frame {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    let mut input = &bytes[..];
    let frame = Decoder::new(usize::MAX).next(&mut input).expect("sound").expect("whole");
    assert!(input.is_empty());
    frame
}

#[test]
fn snapshot_frames_are_those_of_the_table() {
    let u64s = |numbers: &[u64]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let message = Box::new(snapshot_message());
    let mut whole = Vec::new();
    consensus::peer::encode(&PeerMessage::Raft((*message).clone()), &mut whole);
    let end = End { chunks: 2, bytes: 5, digest: [0xab; 32] };
    let cases = [
        (SnapshotFrame::Begin { transfer: 7, bytes: 100, message }, 16, [u64s(&[7, 100]), whole].concat()),
        (SnapshotFrame::Chunk { number: 3, bytes: "abc".into() }, 17, [u64s(&[3]), b"abc".to_vec()].concat()),
        (SnapshotFrame::End(end), 18, [u64s(&[2, 5]), vec![0xab; 32]].concat()),
        (SnapshotFrame::Need(4), 19, u64s(&[4])),
        (SnapshotFrame::Done(true), 20, vec![1]),
        (SnapshotFrame::Done(false), 20, vec![0]),
    ];
    for (frame, kind, payload) in cases {
        let bytes = framed(&frame);
        assert_eq!((bytes.kind, &bytes.payload[..]), (kind, &payload[..]), "{frame:?}");
        assert_eq!(SnapshotFrame::decode(&bytes), Ok(frame));
    }
    let refused = [
        (16, vec![0; 16]),
        (17, u64s(&[1])),
        (17, vec![0; 9 + snapshot::CHUNK_BYTES_MAX]),
        (18, vec![0; 47]),
        (18, vec![0; 49]),
        (19, vec![0; 9]),
        (20, vec![2]),
        (20, vec![]),
        (21, vec![]),
    ];
    for (kind, payload) in refused {
        let length = payload.len();
        let frame = Frame { kind, payload: payload.into() };
        assert!(SnapshotFrame::decode(&frame).is_err(), "kind {kind}, {length} bytes");
    }
}

const PACE: Pace = Pace { bytes_per_second: 1000, unacknowledged_bytes_max: 30 };

fn outgoing() -> Outgoing {
    Outgoing::new(7, 0, snapshot_message(), PACE)
}

fn chunk(number: u64) -> Next {
    Next::Send(SnapshotFrame::Chunk { number, bytes: Bytes::from(vec![number as u8; 10]) })
}

#[test]
fn a_transfer_reads_no_further_than_it_may_resend_and_keeps_its_pace() {
    let mut out = outgoing();
    let at = Duration::from_millis;
    assert!(matches!(out.begin(), SnapshotFrame::Begin { transfer: 7, .. }));
    assert_eq!(out.next(at(0)), Next::Wait, "until the receiver has asked");
    out.handle(&SnapshotFrame::Need(0));
    for number in 0..3 {
        let now = at(10 * number);
        assert_eq!(out.next(now), Next::Read);
        out.push(Bytes::from(vec![number as u8; 10]));
        assert_eq!(out.next(now), chunk(number));
    }
    assert_eq!(out.next(at(20)), Next::Wait, "30 bytes are not acknowledged");
    out.handle(&SnapshotFrame::Need(1));
    assert_eq!(out.next(at(20)), Next::Read);
    out.push(Bytes::from(vec![3; 10]));
    assert_eq!(out.next(at(20)), Next::At(at(30)), "ten bytes at a thousand per second");
    assert_eq!(out.next(at(30)), chunk(3));
}

#[test]
fn a_transfer_resumes_where_the_receiver_says() {
    let mut out = outgoing();
    let late = Duration::from_secs(1);
    out.begin();
    out.handle(&SnapshotFrame::Need(0));
    for number in 0..3 {
        out.push(Bytes::from(vec![number; 10]));
    }
    for number in 0..3 {
        assert_eq!(out.next(late * (number as u32 + 1)), chunk(number));
    }
    out.push_end(30, [1; 32]);
    let end = SnapshotFrame::End(End { chunks: 3, bytes: 30, digest: [1; 32] });
    assert_eq!(out.next(late * 4), Next::Send(end.clone()));
    assert_eq!(out.next(late * 4), Next::Wait);
    // The connection breaks; chunk 2 and the end were lost.
    out.begin();
    assert_eq!(out.next(late * 5), Next::Wait);
    out.handle(&SnapshotFrame::Need(2));
    assert_eq!(out.next(late * 5), chunk(2));
    assert_eq!(out.next(late * 6), Next::Send(end));
    out.handle(&SnapshotFrame::Need(3));
    out.handle(&SnapshotFrame::Done(true));
    assert_eq!(out.next(late * 6), Next::Over(true));
}

#[test]
fn a_receiver_that_cannot_be_right_ends_the_transfer() {
    let cases: [(&str, &[SnapshotFrame]); 5] = [
        ("it has forgotten", &[SnapshotFrame::Need(1), SnapshotFrame::Need(0)]),
        ("it was never sent", &[SnapshotFrame::Need(2)]),
        ("done before the end", &[SnapshotFrame::Done(true)]),
        ("given up", &[SnapshotFrame::Done(false)]),
        ("not its to say", &[SnapshotFrame::Chunk { number: 0, bytes: Bytes::from_static(b"x") }]),
    ];
    for (why, frames) in cases {
        let mut out = outgoing();
        out.begin();
        out.handle(&SnapshotFrame::Need(0));
        out.push(Bytes::from(vec![0; 10]));
        assert_eq!(out.next(Duration::from_secs(1)), chunk(0));
        frames.iter().for_each(|frame| out.handle(frame));
        assert_eq!(out.next(Duration::from_secs(2)), Next::Over(false), "{why}");
    }
}

#[test]
fn a_receiver_takes_chunks_in_their_order_alone() {
    let mut incoming = Incoming::new(NodeId(1), 7, Box::new(snapshot_message()));
    let end = |chunks| End { chunks, bytes: 0, digest: [0; 32] };
    assert_eq!(incoming.handle_chunk(1), Err(OutOfOrder));
    assert_eq!(incoming.handle_chunk(0), Ok(()));
    assert_eq!(incoming.handle_chunk(0), Err(OutOfOrder));
    assert_eq!(incoming.handle_end(&end(2)), Err(OutOfOrder));
    assert_eq!(incoming.resume(), SnapshotFrame::Need(1));
    assert_eq!(incoming.handle_chunk(1), Ok(()));
    assert_eq!(incoming.handle_end(&end(2)), Ok(()));
    assert_eq!(incoming.handle_chunk(2), Err(OutOfOrder), "after the end");
    assert_eq!(incoming.resume(), SnapshotFrame::Need(2));
    assert_eq!(incoming.handle_end(&end(2)), Ok(()), "the answer to the first was lost");
}
