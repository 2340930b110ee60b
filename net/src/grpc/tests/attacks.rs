//! A hostile or broken client, one table row per trick. Frames are made by hand here, because the client role refuses to
//! make such.

use std::time::Duration;

use super::*;
use crate::grpc::Method;
use crate::h2::frame::{FrameHeader, encode_header, flag, kind};
use crate::h2::hpack::decoder::Decoder;
use crate::h2::hpack::encoder::{Encoder, Header};
use crate::h2::{ErrorCode, PREFACE, limits};

pub struct Frame<'b> {
    pub kind: u8,
    pub stream: u32,
    pub payload: &'b [u8],
}

/// Cuts a server's output into frames.
pub fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let FrameHeader { length, kind, stream, .. } = FrameHeader::decode(header).unwrap();
        frames.push(Frame { kind, stream, payload: &rest[..length] });
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "the output ends with a whole frame");
    frames
}

/// Header blocks of a server's output: stream, `grpc-` status fields, `:status` ("" in trailers).
pub fn heads(bytes: &[u8]) -> Vec<(u32, String, String)> {
    let mut decoder = Decoder::default();
    let mut heads = Vec::new();
    for frame in frames(bytes).into_iter().filter(|f| f.kind == kind::HEADERS) {
        let (mut grpc, mut http) = (Vec::new(), String::new());
        decoder
            .decode(frame.payload, |_, name, value| {
                let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
                match &*name {
                    ":status" => http = value.into_owned(),
                    "grpc-status" | "grpc-message" => grpc.push(format!("{name}={value}")),
                    _ => {}
                }
            })
            .unwrap();
        heads.push((frame.stream, grpc.join(" "), http));
    }
    heads
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&encode_header(payload.len(), kind, flags, stream), payload].concat()
}

/// A server and a client that writes frames by hand.
pub struct Raw {
    pub server: Server,
    pub encoder: Encoder,
    pub now: Duration,
}

const FIELDS: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/etcdserverpb.KV/Put"),
    ("content-type", "application/grpc"),
];

impl Raw {
    pub fn new() -> Raw {
        let mut raw = Raw::bare();
        raw.feed(PREFACE);
        raw.feed(&frame(kind::SETTINGS, 0, 0, &[]));
        raw.feed(&frame(kind::SETTINGS, flag::ACK, 0, &[]));
        raw.output();
        raw
    }

    pub fn bare() -> Raw {
        let now = Duration::from_secs(1000);
        Raw { server: Server::new(Config::default(), now), encoder: Encoder::default(), now }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.server.handle_bytes(self.now, bytes);
    }

    pub fn output(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.server.poll_transmit(self.now, &mut out, 1 << 16, &mut ()) {}
        out
    }

    /// The block of a request; `fields` replace those of the same name, or come on top.
    pub fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        let mut list: Vec<(&str, &str)> = FIELDS
            .iter()
            .map(|&(name, value)| *fields.iter().find(|(n, _)| *n == name).unwrap_or(&(name, value)))
            .collect();
        list.extend(fields.iter().filter(|(n, _)| FIELDS.iter().all(|(name, _)| name != n)));
        let mut block = Vec::new();
        let headers = list.iter().map(|(n, v)| Header::new(n.as_bytes(), v.as_bytes()));
        self.encoder.encode(headers, &mut block);
        block
    }

    pub fn head(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let block = self.block(fields);
        self.feed(&frame(kind::HEADERS, flags | flag::END_HEADERS, stream, &block));
    }

    pub fn data(&mut self, stream: u32, flags: u8, payload: &[u8]) {
        self.feed(&frame(kind::DATA, flags, stream, payload));
    }

    pub fn request(&mut self, stream: u32, fields: &[(&str, &str)], data: &[u8]) {
        self.head(stream, 0, fields);
        self.data(stream, flag::END_STREAM, data);
    }

    pub fn verdict(&mut self) -> Verdict {
        let out = self.output();
        let code = |bytes: &[u8]| ErrorCode::from_wire(u32::from_be_bytes(bytes.try_into().unwrap()));
        let frames = frames(&out);
        let goaway = frames.iter().find(|f| f.kind == kind::GOAWAY && f.payload[4..8] != [0; 4]);
        let reset = frames.iter().find(|f| f.kind == kind::RST_STREAM);
        match (goaway, reset) {
            (Some(f), _) => Verdict::GoAway(code(&f.payload[4..8])),
            (None, Some(f)) => Verdict::Reset(f.stream, code(f.payload)),
            (None, None) => Verdict::Fine,
        }
    }
}

#[derive(Debug, PartialEq)]
pub enum Verdict {
    Fine,
    GoAway(ErrorCode),
    Reset(u32, ErrorCode),
}

use Verdict::{Fine, GoAway, Reset};

const PUT: &[u8] = b"\0\0\0\0\x01x";

fn check(name: &str, want: Verdict, attack: impl FnOnce(&mut Raw)) {
    let mut raw = Raw::new();
    attack(&mut raw);
    assert_eq!(raw.verdict(), want, "{name}: {:?}", raw.server.error());
    if let GoAway(_) = want {
        assert!(raw.server.is_finished(), "{name}");
        assert!(!raw.server.wants_read(), "{name}");
        raw.feed(PUT);
        assert!(raw.output().is_empty(), "{name}");
    } else {
        // The connection lives: another call is served.
        assert!(raw.server.wants_read(), "{name}");
        raw.request(0x1001, &[], PUT);
        let events: Vec<Event> = std::iter::from_fn(|| raw.server.poll_event()).collect();
        assert!(
            matches!(events.last(), Some(Event::Request { call, .. }) if call.0.id() == 0x1001),
            "{name}: {events:?} {:?}",
            raw.server.error()
        );
    }
}

fn priority(on: u32) -> [u8; 5] {
    let [a, b, c, d] = on.to_be_bytes();
    [a, b, c, d, 1]
}

#[test]
fn frames_on_the_wrong_stream_or_of_the_wrong_size() {
    use ErrorCode::{FrameSize, Protocol, StreamClosed};
    type Row = (&'static str, u8, u8, u32, &'static [u8], ErrorCode);
    let cases: [Row; 25] = [
        ("DATA on stream 0", kind::DATA, 0, 0, b"x", Protocol),
        ("DATA on an idle stream", kind::DATA, 0, 7, b"x", Protocol),
        ("DATA with too much padding", kind::DATA, flag::PADDED, 1, b"\x05abc", Protocol),
        ("DATA padded, but empty", kind::DATA, flag::PADDED, 1, b"", FrameSize),
        ("HEADERS on stream 0", kind::HEADERS, 4, 0, b"", Protocol),
        ("HEADERS on an even stream", kind::HEADERS, 4, 2, b"", Protocol),
        ("HEADERS with too short a priority", kind::HEADERS, 0x24, 3, b"abc", FrameSize),
        ("HEADERS depending on itself", kind::HEADERS, 0x24, 3, b"\0\0\0\x03\x10\x82", Protocol),
        ("PRIORITY on stream 0", kind::PRIORITY, 0, 0, b"\0\0\0\x01\0", Protocol),
        ("PRIORITY of the wrong length", kind::PRIORITY, 0, 1, b"\0\0\0\x02", FrameSize),
        ("RST_STREAM on stream 0", kind::RST_STREAM, 0, 0, b"\0\0\0\x08", Protocol),
        ("RST_STREAM on an idle stream", kind::RST_STREAM, 0, 7, b"\0\0\0\x08", Protocol),
        ("RST_STREAM of the wrong length", kind::RST_STREAM, 0, 1, b"\0\0\0", FrameSize),
        ("SETTINGS on a stream", kind::SETTINGS, 0, 1, b"", Protocol),
        ("SETTINGS of the wrong length", kind::SETTINGS, 0, 0, b"\0\x01\0\0\0", FrameSize),
        ("SETTINGS ack with payload", kind::SETTINGS, 1, 0, b"\0\x01\0\0\0\0", FrameSize),
        ("PUSH_PROMISE", kind::PUSH_PROMISE, 4, 1, b"\0\0\0\x02", Protocol),
        ("PING on a stream", kind::PING, 0, 1, b"12345678", Protocol),
        ("PING of the wrong length", kind::PING, 0, 0, b"1234567", FrameSize),
        ("GOAWAY on a stream", kind::GOAWAY, 0, 1, b"\0\0\0\0\0\0\0\0", Protocol),
        ("GOAWAY too short", kind::GOAWAY, 0, 0, b"\0\0\0\0", FrameSize),
        ("WINDOW_UPDATE on an idle stream", kind::WINDOW_UPDATE, 0, 7, b"\0\0\0\x01", Protocol),
        ("WINDOW_UPDATE of the wrong length", kind::WINDOW_UPDATE, 0, 0, b"\0\0\x01", FrameSize),
        ("CONTINUATION without HEADERS", kind::CONTINUATION, 4, 1, b"", Protocol),
        ("DATA after END_STREAM", kind::DATA, 0, 3, b"x", StreamClosed),
    ];
    for (name, kind, flags, stream, payload, code) in cases {
        check(name, GoAway(code), |raw| {
            raw.head(1, 0, &[]);
            if stream == 3 && kind == kind::DATA {
                raw.request(3, &[], PUT);
            }
            raw.feed(&frame(kind, flags, stream, payload));
        });
    }
}

#[test]
fn oversized_frames_are_refused_by_their_header() {
    for kind in 0..=255u8 {
        let mut raw = Raw::new();
        raw.feed(&encode_header_unchecked(16_385, kind, 0, 1));
        assert_eq!(raw.verdict(), GoAway(ErrorCode::FrameSize), "{kind}");
    }
}

fn encode_header_unchecked(length: u32, kind: u8, flags: u8, stream: u32) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes
}

#[test]
fn unknown_frame_types_are_skipped_whatever_their_flags() {
    check("unknown types", Fine, |raw| {
        for kind in 10..=255u8 {
            for (flags, stream) in [(0, 0), (0xff, 1), (0xff, 0x7fff_ffff)] {
                raw.feed(&frame(kind, flags, stream, b"anything"));
            }
        }
    });
}

#[test]
fn streams_are_closed_idle_or_misnumbered() {
    use ErrorCode::*;
    check("a smaller id that was never used", GoAway(Protocol), |raw| {
        raw.request(5, &[], PUT);
        raw.head(3, flag::END_STREAM, &[]);
    });
    check("HEADERS on a stream that has ended", GoAway(StreamClosed), |raw| {
        raw.request(1, &[], PUT);
        let call = request_of(&raw.server.poll_event().unwrap()).0;
        raw.server.reply_raw(call, b"");
        raw.head(1, flag::END_STREAM, &[]);
    });
    check("HEADERS after END_STREAM", GoAway(StreamClosed), |raw| {
        raw.request(1, &[], PUT);
        raw.head(1, flag::END_STREAM, &[]);
    });
    check("DATA after RST_STREAM", GoAway(StreamClosed), |raw| {
        raw.head(1, 0, &[]);
        raw.feed(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        raw.data(1, 0, b"x");
    });
    check("RST_STREAM and WINDOW_UPDATE on a stream that has ended", Fine, |raw| {
        raw.request(1, &[], PUT);
        let call = request_of(&raw.server.poll_event().unwrap()).0;
        raw.server.reply_raw(call, b"");
        raw.output();
        raw.feed(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
        raw.feed(&frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 8]));
    });
    check("frames on a stream that we have just reset", Fine, |raw| {
        raw.head(1, 0, &[("connection", "close")]);
        raw.output();
        raw.data(1, 0, b"x");
        raw.head(1, flag::END_STREAM, &[]);
        raw.feed(&frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    });
    check("the same long after", GoAway(StreamClosed), |raw| {
        raw.head(1, 0, &[("connection", "close")]);
        raw.output();
        raw.now += Duration::from_secs(11);
        raw.data(1, 0, b"x");
    });
    check("stream ids near their end", Fine, |raw| {
        raw.request(limits::STREAM_ID_DRAIN - 1, &[], PUT);
        raw.server = Raw::new().server;
        raw.encoder = Encoder::default();
    });
    let mut raw = Raw::new();
    raw.request(limits::STREAM_ID_DRAIN + 1, &[], PUT);
    let out = raw.output();
    let goaway = frames(&out).into_iter().find(|f| f.kind == kind::GOAWAY).unwrap();
    assert_eq!(goaway.payload, [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
}

#[test]
fn header_blocks_that_do_not_end() {
    use ErrorCode::*;
    let cont = |flags, payload: &[u8]| frame(kind::CONTINUATION, flags, 1, payload);
    check("a block in nine parts", Fine, |raw| {
        let block = raw.block(&[]);
        raw.feed(&frame(kind::HEADERS, 0, 1, &block[..1]));
        for part in block[1..8].chunks(1) {
            raw.feed(&cont(0, part));
        }
        raw.feed(&cont(flag::END_HEADERS, &block[8..]));
    });
    check("nine CONTINUATION frames", GoAway(EnhanceYourCalm), |raw| {
        raw.feed(&frame(kind::HEADERS, 0, 1, b"\x82"));
        (0..9).for_each(|_| raw.feed(&cont(0, b"\x82")));
    });
    check("64 KiB and a byte", GoAway(EnhanceYourCalm), |raw| {
        raw.feed(&frame(kind::HEADERS, 0, 1, &[0; 16_384]));
        (0..3).for_each(|_| raw.feed(&cont(0, &[0; 16_384])));
        raw.feed(&cont(0, b"x"));
    });
    check("another frame in between", GoAway(Protocol), |raw| {
        raw.feed(&frame(kind::HEADERS, 0, 1, b"\x82"));
        raw.feed(&frame(kind::PING, 0, 0, &[0; 8]));
    });
    check("CONTINUATION of another stream", GoAway(Protocol), |raw| {
        raw.feed(&frame(kind::HEADERS, 0, 1, b"\x82"));
        raw.feed(&frame(kind::CONTINUATION, 4, 3, b"\x82"));
    });
    check("not complete in time", GoAway(EnhanceYourCalm), |raw| {
        raw.feed(&frame(kind::HEADERS, 0, 1, b"\x82"));
        raw.now = raw.server.next_timeout().unwrap();
        raw.server.handle_timeout(raw.now);
    });
}

#[test]
fn header_lists_that_are_bombs_or_malformed() {
    use ErrorCode::*;
    check("broken compression", GoAway(Compression), |raw| {
        raw.feed(&frame(kind::HEADERS, 5, 1, b"\x80"));
    });
    check("an indexed bomb", GoAway(EnhanceYourCalm), |raw| {
        let mut block = raw.block(&[("bomb", &"v".repeat(4000))]);
        block.extend([0xbe; 1000]);
        raw.feed(&frame(kind::HEADERS, 5, 1, &block));
    });
    check("a trailer bomb", GoAway(EnhanceYourCalm), |raw| {
        raw.head(1, 0, &[]);
        let mut block = Vec::new();
        raw.encoder.encode([Header::new(b"bomb", &[b'v'; 4000])], &mut block);
        block.extend([0xbe; 1000]);
        raw.feed(&frame(kind::HEADERS, 5, 1, &block));
    });
    for (name, fields) in [
        ("no method", vec![(":method", "")]),
        ("no path", vec![(":path", "")]),
        ("connection field", vec![("connection", "close")]),
        ("upper case", vec![("Token", "x")]),
        ("te", vec![("te", "gzip")]),
        ("CONNECT", vec![(":method", "CONNECT")]),
        ("two authorities", vec![(":authority", "a"), (":authority", "b")]),
        ("two hosts", vec![("host", "a"), ("host", "b")]),
        ("pseudo field at the end", vec![(":authority", "a")]),
    ] {
        check(name, Reset(1, Protocol), |raw| raw.request(1, &fields, PUT));
    }
    check("no authority and no host", Fine, |raw| raw.request(1, &[], PUT));
    check("content-length and no data", Reset(1, Protocol), |raw| {
        raw.head(1, flag::END_STREAM, &[("content-length", "6")]);
    });
    check("less data than content-length", Reset(1, Protocol), |raw| {
        raw.request(1, &[("content-length", "7")], PUT);
    });
    check("more data than content-length", Reset(1, Protocol), |raw| {
        raw.request(1, &[("content-length", "5")], PUT);
    });
    check("content-length that is right", Fine, |raw| {
        raw.head(1, 0, &[("content-length", "6")]);
        raw.data(1, 0, &PUT[..3]);
        raw.data(1, flag::END_STREAM, &PUT[3..]);
    });
    check("trailers without END_STREAM", Reset(1, Protocol), |raw| {
        raw.head(1, 0, &[]);
        raw.head(1, 0, &[]);
    });
    check("pseudo fields in trailers", Reset(1, Protocol), |raw| {
        raw.head(1, 0, &[]);
        raw.head(1, flag::END_STREAM, &[]);
    });
}

#[test]
fn flow_control_is_enforced() {
    use ErrorCode::*;
    let window = |stream, increment: u32| frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    check("an increment of 0", GoAway(Protocol), |raw| raw.feed(&window(0, 0)));
    check("an increment of 0 on a stream", GoAway(Protocol), |raw| {
        raw.head(1, 0, &[]);
        raw.feed(&window(1, 0));
    });
    check("the connection's window overflows", GoAway(FlowControl), |raw| {
        raw.feed(&window(0, (1 << 31) - 1))
    });
    check("a stream's window overflows", GoAway(FlowControl), |raw| {
        raw.head(1, 0, &[]);
        raw.feed(&window(1, (1 << 31) - 1));
    });
    check("DATA for a call that is answered already", Reset(1, NoError), |raw| {
        raw.head(1, 0, &[]);
        for _ in 0..100 {
            raw.data(1, 0, &[0; 16_384]); // many empty messages: "more than one" ends the call
        }
    });
}

#[test]
fn windows_are_given_back_exactly_once() {
    let mut raw = Raw::new();
    let (mut sent, mut returned) = (0u64, 0u64);
    for n in 0..2000u32 {
        let stream = 1 + 2 * n;
        raw.head(stream, 0, &[]);
        // Padded, on streams that end, that are reset and that are refused: every byte counts once.
        let mut payload = vec![9];
        payload.extend_from_slice(b"\0\0\0\x20\0");
        payload.resize(8192 + 6 + 9, 0);
        match n % 3 {
            0 => raw.data(stream, flag::PADDED | flag::END_STREAM, &payload),
            1 => raw.data(stream, flag::PADDED, &payload),
            _ => {
                raw.data(stream, flag::PADDED, &payload);
                if n % 100 == 2 {
                    raw.feed(&frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]));
                }
            }
        }
        sent += payload.len() as u64;
        let out = raw.output();
        for f in frames(&out).iter().filter(|f| f.kind == kind::WINDOW_UPDATE && f.stream == 0) {
            returned += u64::from(u32::from_be_bytes(f.payload.try_into().unwrap()));
        }
        assert!(raw.server.error().is_none(), "{n}: {:?}", raw.server.error());
        assert!(sent - returned < u64::from(limits::CONNECTION_WINDOW) / 2 + 8300);
        raw.now += Duration::from_millis(10);
    }
    assert!(returned > 13 << 20 && returned <= sent);
}

#[test]
fn floods_end_the_connection() {
    use ErrorCode::EnhanceYourCalm;
    check("pings", GoAway(EnhanceYourCalm), |raw| {
        (0..4).for_each(|_| raw.feed(&frame(kind::PING, 0, 0, &[0; 8])));
    });
    check("settings", GoAway(EnhanceYourCalm), |raw| {
        (0..10).for_each(|_| raw.feed(&frame(kind::SETTINGS, 0, 0, &[])));
    });
    check("long settings", GoAway(EnhanceYourCalm), |raw| {
        raw.feed(&frame(kind::SETTINGS, 0, 0, &[0; 33 * 6]));
    });
    check("window updates", GoAway(EnhanceYourCalm), |raw| {
        (0..6).for_each(|_| raw.feed(&frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])));
    });
    check("priorities", GoAway(EnhanceYourCalm), |raw| {
        (0..101).for_each(|n| raw.feed(&frame(kind::PRIORITY, 0, 1 + 2 * n, &priority(0))));
    });
    check("a hundred priorities", Fine, |raw| {
        (0..100).for_each(|n| raw.feed(&frame(kind::PRIORITY, 0, 1 + 2 * n, &priority(0))));
    });
    check("empty DATA", GoAway(EnhanceYourCalm), |raw| {
        raw.head(1, 0, &[]);
        (0..11).for_each(|_| raw.data(1, 0, b""));
    });
    check("empty CONTINUATION counts as empty", Fine, |raw| {
        let block = raw.block(&[]);
        raw.feed(&frame(kind::HEADERS, 0, 1, &block));
        (0..7).for_each(|_| raw.feed(&frame(kind::CONTINUATION, 0, 1, b"")));
        raw.feed(&frame(kind::CONTINUATION, 4, 1, b""));
    });
    check("empty CONTINUATION again and again", GoAway(EnhanceYourCalm), |raw| {
        for stream in [1, 3] {
            let block = raw.block(&[]);
            raw.feed(&frame(kind::HEADERS, 0, stream, &block));
            (0..7).for_each(|_| raw.feed(&frame(kind::CONTINUATION, 0, stream, b"")));
            raw.feed(&frame(kind::CONTINUATION, 4, stream, b""));
        }
    });
    check("tiny DATA", GoAway(EnhanceYourCalm), |raw| {
        raw.head(1, 0, &[]);
        raw.data(1, 0, b"\0\0\0\x10\0");
        (0..101).for_each(|_| raw.data(1, 0, b"x"));
    });
    let mut raw = Raw::new();
    for n in 0..101 {
        raw.head(1 + 2 * n, flag::END_STREAM, &[("connection", "close")]);
    }
    let out = raw.output();
    let resets = frames(&out).iter().filter(|f| f.kind == kind::RST_STREAM).count();
    assert_eq!(resets, 100);
    assert_eq!(raw.server.error().map(|e| e.code), Some(EnhanceYourCalm));
}

#[test]
fn a_client_that_keeps_many_small_messages_flowing_is_no_attack() {
    let mut raw = Raw::new();
    raw.head(1, 0, &[(":path", "/etcdserverpb.Lease/LeaseKeepAlive")]);
    for n in 0..100_000 {
        raw.data(1, 0, PUT);
        while raw.server.poll_event().is_some() {}
        assert!(raw.server.error().is_none(), "{n}");
        raw.output();
    }
}

#[test]
fn rapid_reset_closes_its_connection_and_starts_no_work() {
    let mut raw = Raw::new();
    let mut started = 0;
    for n in 0..600 {
        raw.request(1 + 2 * n, &[], PUT);
        raw.feed(&frame(kind::RST_STREAM, 0, 1 + 2 * n, &[0, 0, 0, 8]));
        while let Some(event) = raw.server.poll_event() {
            started += usize::from(matches!(event, Event::Request { .. }));
        }
        if raw.server.error().is_some() {
            break;
        }
    }
    assert_eq!(raw.server.error().map(|e| e.code), Some(ErrorCode::EnhanceYourCalm));
    assert_eq!((started, raw.server.open_calls(), raw.server.held_bytes() < 100), (0, 0, true));
}

#[test]
fn work_of_reset_streams_counts_until_it_is_released() {
    let config = Config { max_concurrent_streams: 10, ..Config::default() };
    let mut raw = Raw::new();
    raw.server = Server::new(config, raw.now);
    raw.feed(PREFACE);
    raw.feed(&frame(kind::SETTINGS, 0, 0, &[]));
    raw.output();
    let mut started = Vec::new();
    for n in 0..20 {
        raw.request(1 + 2 * n, &[], PUT);
        while let Some(event) = raw.server.poll_event() {
            if let Event::Request { call, .. } = event {
                started.push(call);
            }
        }
        raw.feed(&frame(kind::RST_STREAM, 0, 1 + 2 * n, &[0, 0, 0, 8]));
    }
    assert_eq!(started.len(), 10, "the others were refused");
    started.iter().for_each(|call| raw.server.release(*call));
    raw.output();
    raw.request(101, &[], PUT);
    while let Some(event) = raw.server.poll_event() {
        assert!(matches!(event, Event::Canceled { .. } | Event::Request { .. }));
    }
    assert_eq!(raw.server.open_calls(), 1);
}

#[test]
fn nothing_is_waited_for_without_end() {
    let timeout = |raw: &mut Raw| {
        raw.now = raw.server.next_timeout().unwrap();
        raw.server.handle_timeout(raw.now);
        raw.now
    };
    let begin = Raw::bare().now;
    let mut silent = Raw::bare();
    assert_eq!(timeout(&mut silent) - begin, Duration::from_secs(10));
    assert!(silent.server.error().is_some());
    let mut slow = Raw::bare();
    slow.feed(&PREFACE[..10]);
    assert_eq!(timeout(&mut slow) - begin, Duration::from_secs(10));
    assert!(slow.server.error().is_some());
    let mut no_settings = Raw::bare();
    no_settings.feed(PREFACE);
    assert_eq!(timeout(&mut no_settings) - begin, Duration::from_secs(5));
    assert!(no_settings.server.error().is_some());
    let mut no_ack = Raw::bare();
    no_ack.feed(PREFACE);
    no_ack.feed(&frame(kind::SETTINGS, 0, 0, &[]));
    assert_eq!(timeout(&mut no_ack) - begin, Duration::from_secs(10));
    assert_eq!(no_ack.server.error().map(|e| e.code), Some(ErrorCode::SettingsTimeout));
    let mut wrong = Raw::bare();
    wrong.feed(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(wrong.verdict(), GoAway(ErrorCode::Protocol));
    let mut first = Raw::bare();
    first.feed(PREFACE);
    first.feed(&frame(kind::PING, 0, 0, &[0; 8]));
    assert_eq!(first.verdict(), GoAway(ErrorCode::Protocol));
}

#[test]
fn a_reader_that_takes_nothing_stops_our_reading() {
    let mut raw = Raw::new();
    // Each malformed request makes us say RST_STREAM; here the answers are never taken.
    for n in 0..99 {
        raw.head(1 + 2 * n, flag::END_STREAM, &[("connection", "close")]);
    }
    assert!(raw.server.wants_read());
    raw.head(999, flag::END_STREAM, &[("connection", "close")]);
    assert!(!raw.server.wants_read());
    raw.output();
    assert!(raw.server.wants_read());
}

#[test]
fn more_requests_than_may_execute_wait_unread() {
    let mut raw = Raw::new();
    let mut calls = Vec::new();
    let mut stream = 1;
    while raw.server.wants_read() {
        raw.request(stream, &[], PUT);
        calls.extend(std::iter::from_fn(|| raw.server.poll_event()));
        stream += 2;
    }
    assert_eq!(calls.len(), limits::EXECUTING_MAX);
    raw.request(stream, &[], PUT);
    assert_eq!(raw.server.poll_event(), None);
    raw.server.reply_raw(request_of(&calls[0]).0, b"");
    assert!(raw.server.poll_event().is_some());
}

#[test]
fn answers_that_nobody_takes_hold_back_further_requests() {
    let mut raw = Raw::new();
    let mut stream = 1;
    let mut answered = 0;
    for _ in 0..3000 {
        raw.request(stream, &[], PUT);
        stream += 2;
        while let Some(event) = raw.server.poll_event() {
            if let Event::Request { call, .. } = event {
                raw.server.reply_raw(call, &[7; 10_000]);
                answered += 1;
            }
        }
        raw.output(); // the socket takes everything, but there are only 64 KiB of window
    }
    let limit = limits::OUTPUT_BYTES_MAX / 10_000 + 10;
    assert!(answered <= limit, "{answered}");
    assert!(raw.server.held_bytes() < limits::OUTPUT_BYTES_MAX + limits::WAITING_BYTES_MAX + (1 << 20));
    assert!(raw.server.wants_read(), "the window update must be read");
    raw.feed(&frame(kind::WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()));
    raw.output();
    assert!(matches!(raw.server.poll_event(), Some(Event::Request { .. })));
}

#[test]
fn requests_that_never_end_are_bounded() {
    let mut raw = Raw::new();
    // 2 MiB announced on each stream, one byte missing; windows are given back as they are used.
    let mut piece = b"\0\0\x1f\xff\xff".to_vec();
    piece.resize(16_384, 0);
    let mut refused = 0;
    for stream in (1..200).step_by(2) {
        raw.head(stream, 0, &[]);
        for _ in 0..60 {
            raw.data(stream, 0, &piece);
            piece[..5].fill(0);
        }
        piece[..5].copy_from_slice(b"\0\0\x1f\xff\xff");
        refused += frames(&raw.output()).iter().filter(|f| f.kind == kind::HEADERS).count();
        assert!(raw.server.held_bytes() <= limits::ASSEMBLY_BYTES_MAX + 16_384);
        if raw.server.error().is_some() {
            break;
        }
    }
    assert!(refused > 0);
}

#[test]
fn http_level_refusals() {
    type Row<'r> = (&'r [(&'r str, &'r str)], &'r str, &'r str);
    let cases: [Row<'_>; 5] = [
        (&[(":method", "GET")], "405", "13"),
        (&[("content-type", "text/plain")], "415", "3"),
        (&[("grpc-timeout", "1y")], "400", "13"),
        (&[("x-bin", "*")], "400", "13"),
        (&[("grpc-encoding", "gzip")], "200", "12"),
    ];
    for (fields, http, grpc) in cases {
        let mut raw = Raw::new();
        raw.request(1, fields, PUT);
        let heads = heads(&raw.output());
        assert_eq!(heads.len(), 1, "{fields:?}");
        assert_eq!(heads[0].2, http, "{fields:?}");
        assert!(heads[0].1.starts_with(&format!("grpc-status={grpc} ")), "{fields:?} {heads:?}");
        assert_eq!((raw.server.open_calls(), raw.server.error()), (0, None));
    }
}

#[test]
fn broken_messages_are_answered_by_status() {
    type Row = (&'static str, &'static [&'static [u8]], &'static str);
    let cases: [Row; 8] = [
        ("no message", &[b""], "grpc-status=13 grpc-message=unexpected EOF"),
        ("half a prefix", &[b"\0\0"], "grpc-status=13 grpc-message=unexpected EOF"),
        ("half a message", &[b"\0\0\0\0\x05ab"], "grpc-status=13 grpc-message=unexpected EOF"),
        (
            "two messages",
            &[b"\0\0\0\0\x01a\0\0\0\0\x01b"],
            "grpc-status=13 grpc-message=more than one request message",
        ),
        (
            "a byte too many",
            &[b"\0\0\0\0\x01a", b"b"],
            "grpc-status=13 grpc-message=more than one request message",
        ),
        (
            "compressed",
            &[b"\x01\0\0\0\x01a"],
            "grpc-status=13 grpc-message=grpc: compressed flag set with identity or empty encoding",
        ),
        (
            "flag 2",
            &[b"\x02\0\0\0\x01a"],
            "grpc-status=13 grpc-message=grpc: received unexpected payload format 2",
        ),
        (
            "4 GiB",
            &[b"\0\xff\xff\xff\xff"],
            "grpc-status=8 grpc-message=grpc: received message larger than max (4294967295 vs. 2097152)",
        ),
    ];
    for (name, parts, want) in cases {
        let mut raw = Raw::new();
        raw.head(1, 0, &[]);
        for (number, part) in parts.iter().enumerate() {
            let end = if number + 1 == parts.len() { flag::END_STREAM } else { 0 };
            raw.data(1, end, part);
        }
        assert_eq!(raw.server.poll_event(), None, "{name}");
        assert_eq!(heads(&raw.output())[0].1, want, "{name}");
        assert_eq!((raw.server.open_calls(), raw.server.held_bytes()), (0, 0), "{name}");
    }
}

#[test]
fn a_request_may_end_with_an_empty_frame_or_trailers() {
    let mut raw = Raw::new();
    raw.head(1, 0, &[]);
    raw.data(1, 0, PUT);
    assert_eq!(raw.server.poll_event(), None);
    raw.data(1, flag::END_STREAM, b"");
    assert!(matches!(raw.server.poll_event(), Some(Event::Request { method: Method::KvPut, .. })));
    raw.head(3, 0, &[]);
    raw.data(3, 0, PUT);
    let mut block = Vec::new();
    raw.encoder.encode([Header::new(b"a", b"b")], &mut block);
    raw.feed(&frame(kind::HEADERS, 5, 3, &block));
    assert!(matches!(raw.server.poll_event(), Some(Event::Request { .. })));
}
