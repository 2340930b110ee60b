//! The machine alone: windows in both directions and settings that change under way.

use std::time::Duration;

use crate::h2::field::Field;
use crate::h2::frame::{encode_header, flag, kind};
use crate::h2::hpack::decoder::Decoder;
use crate::h2::hpack::encoder::Encoder;
use crate::h2::{
    Block, Config, Connection, ErrorCode, Head, Header, Indexing, PREFACE, Pull, Pulled, Received, Role,
    StreamKey, limits,
};

#[derive(Clone, Default)]
struct NoHead;

impl Head for NoHead {
    fn field(&mut self, _: Field, _: &[u8], _: &[u8]) {}
}

struct Zeroes;

impl Pull for Zeroes {
    fn pull(&mut self, _: StreamKey, max: usize, out: &mut Vec<u8>) -> Pulled {
        out.resize(out.len() + max, 0);
        Pulled::Some
    }
    fn aborted(&mut self, _: StreamKey, _: bool) {}
}

const NOW: Duration = Duration::from_secs(1);

struct World {
    server: Connection<NoHead, ()>,
    encoder: Encoder,
    heads: Vec<StreamKey>,
    resets: usize,
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&encode_header(payload.len(), kind, flags, stream), payload].concat()
}

impl World {
    fn new() -> World {
        let config = Config {
            role: Role::Server,
            max_concurrent_streams: u32::MAX,
            stream_window: limits::STREAM_WINDOW,
            keepalive_interval: Duration::ZERO,
            keepalive_timeout: Duration::ZERO,
            prepared: &[],
        };
        let mut world = World {
            server: Connection::new(config, NOW),
            encoder: Encoder::default(),
            heads: Vec::new(),
            resets: 0,
        };
        world.feed(PREFACE);
        world.feed(&frame(kind::SETTINGS, 0, 0, &[]));
        world.output();
        world
    }

    fn feed(&mut self, bytes: &[u8]) {
        let (heads, resets) = (&mut self.heads, &mut self.resets);
        self.server.handle_bytes(NOW, bytes, &mut |_, received| match received {
            Received::Head { key, .. } => heads.push(key),
            Received::Reset { .. } => *resets += 1,
            _ => {}
        });
    }

    fn open(&mut self, stream: u32) -> StreamKey {
        let mut block = Vec::new();
        let fields: [(&[u8], &[u8]); 3] = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")];
        self.encoder.encode(fields.map(|(name, value)| Header::new(name, value)), &mut block);
        self.feed(&frame(kind::HEADERS, flag::END_HEADERS, stream, &block));
        *self.heads.last().expect("a head")
    }

    fn settings(&mut self, id: u16, value: u32) {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        self.feed(&frame(kind::SETTINGS, 0, 0, &payload));
    }

    fn window_update(&mut self, stream: u32, increment: u32) {
        self.feed(&frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes()));
    }

    fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.server.poll_transmit(NOW, &mut out, 1 << 16, &mut Zeroes) {}
        out
    }

    /// Bytes of DATA that leave now.
    fn data_sent(&mut self) -> usize {
        let out = self.output();
        frames(&out).filter(|(kind, ..)| *kind == kind::DATA).map(|(.., payload)| payload.len()).sum()
    }
}

fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u32, &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk()?;
        let header = crate::h2::frame::FrameHeader::decode(header).expect("our own frames are good");
        let (payload, rest) = rest.split_at(header.length);
        bytes = rest;
        Some((header.kind, header.stream, payload))
    })
}

#[test]
fn a_stream_may_send_its_window_and_not_a_byte_more() {
    let mut world = World::new();
    world.open(1);
    let window = limits::STREAM_WINDOW as usize;
    for _ in 0..window / limits::FRAME_SIZE_MAX {
        world.feed(&frame(kind::DATA, 0, 1, &[0; limits::FRAME_SIZE_MAX]));
    }
    assert_eq!(world.server.error(), None);
    world.feed(&frame(kind::DATA, 0, 1, &[0]));
    assert_eq!(world.server.error().map(|e| e.code), Some(ErrorCode::FlowControl));
}

#[test]
fn what_is_consumed_may_be_sent_again_and_padding_counts_once() {
    let mut world = World::new();
    let key = world.open(1);
    let padded = [&[255u8][..], &[0; 1000], &[0; 255]].concat();
    let (mut sent, mut returned) = (0, 0);
    for _ in 0..10_000 {
        world.feed(&frame(kind::DATA, flag::PADDED, 1, &padded));
        world.server.consume(key, 1000);
        sent += padded.len();
        let out = world.output();
        let updates = frames(&out).filter(|(kind, stream, _)| *kind == kind::WINDOW_UPDATE && *stream == 1);
        returned += updates
            .map(|(.., payload)| u32::from_be_bytes(payload.try_into().expect("four bytes")) as usize)
            .sum::<usize>();
        assert!(returned <= sent && sent - returned < limits::STREAM_WINDOW as usize);
    }
    assert_eq!(world.server.error(), None);
}

#[test]
fn windows_hold_what_is_sent() {
    let mut world = World::new();
    let (a, b) = (world.open(1), world.open(3));
    world.server.send_pulled(a, [0; 5], 100_000_000);
    assert_eq!(world.data_sent(), 65_535, "the initial window of stream and connection");
    world.window_update(1, 1000);
    assert_eq!(world.data_sent(), 0, "the connection's window is used up");
    world.window_update(0, 500);
    assert_eq!(world.data_sent(), 500);
    world.window_update(0, 100_000);
    assert_eq!(world.data_sent(), 500, "the stream's window is used up");
    world.server.send_data(b, false, |out| out.resize(out.len() + 10_000, 1));
    assert_eq!(world.data_sent(), 10_000, "which does not hold the other stream");
}

#[test]
fn a_changed_initial_window_changes_all_streams_and_may_make_them_negative() {
    let mut world = World::new();
    let key = world.open(1);
    world.window_update(0, 10_000_000);
    world.server.send_pulled(key, [0; 5], 100_000_000);
    assert_eq!(world.data_sent(), 65_535);
    world.settings(4, 70_000);
    assert_eq!(world.data_sent(), 70_000 - 65_535);
    world.settings(4, 10); // RFC 9113 6.9.2: now at 10 - 70 000
    assert_eq!(world.data_sent(), 0);
    world.window_update(1, 70_000 - 10);
    assert_eq!(world.data_sent(), 0, "at 0");
    world.window_update(1, 7);
    assert_eq!(world.data_sent(), 7);
    world.settings(4, 1000);
    assert_eq!(world.data_sent(), 990);
    assert_eq!(world.server.error(), None);
}

#[test]
fn a_client_without_a_header_table_is_understood() {
    let mut world = World::new();
    let mut decoder = Decoder::default();
    let mut said = Vec::new();
    for (number, table) in [None, Some(0), None, Some(4096), None, Some(100)].into_iter().enumerate() {
        if let Some(size) = table {
            world.settings(1, size);
        }
        let key = world.open(1 + 2 * number as u32);
        let fields = vec![
            (":status".into(), "200".into(), Indexing::Without),
            ("content-type".into(), "application/grpc".into(), Indexing::Incremental),
        ];
        world.server.send_block(key, Block::Fields(fields), true);
        let out = world.output();
        let (.., block) = frames(&out).find(|(kind, ..)| *kind == kind::HEADERS).expect("a head");
        let mut fields = String::new();
        decoder
            .decode(block, |_, name, value| {
                fields += &format!("{} {};", String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            })
            .expect("decodable");
        said.push(fields);
        world.server.release(key);
    }
    assert!(said.iter().all(|fields| fields == ":status 200;content-type application/grpc;"), "{said:?}");
    assert_eq!(world.server.streams_len(), 0);
}

#[test]
fn refused_streams_leave_the_table_right() {
    let mut world = World::new();
    world.open(1);
    let mut block = Vec::new();
    world.encoder.encode([Header::new(b"connection", b"close"), Header::new(b"x-y", b"z")], &mut block);
    world.feed(&frame(kind::HEADERS, flag::END_HEADERS, 3, &block));
    world.open(5); // decodes only if the refused block went through the table
    assert_eq!((world.server.error(), world.heads.len(), world.resets), (None, 2, 0));
}
