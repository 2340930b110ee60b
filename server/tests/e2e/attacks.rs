//! Input that no honest client sends, and clients that take and never give: an error or back-pressure, the server alive,
//! its memory bounded, everybody else served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{PutRequest, RangeRequest, WatchCreateRequest, WatchRequest};
use testkit::{Client, Server, process};

use crate::{long_runs, options, start};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(SocketAddr::from((server.address(), 2379))).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a client says first.
pub(crate) fn preface() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

/// Sends as much as is taken and reads until the server closes or falls silent.
fn send_and_drain(mut stream: TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut sink = [0; 4096];
    while matches!(stream.read(&mut sink), Ok(count) if count > 0) {}
}

pub(crate) async fn assert_serves(server: &Server) {
    let mut client = server.client().await;
    let put = PutRequest { key: "alive".into(), value: "v".into(), ..Default::default() };
    client.kv.put(put).await.expect("other clients are served");
}

fn anonymous(server: &Server) -> u64 {
    process::memory(server.pid()).unwrap().anonymous
}

#[tokio::test]
async fn garbage_half_frames_and_oversized_frames() {
    let server = start();
    let settings = frame(4, 0, 0, &[]);
    let with_preface = |rest: &[u8]| [PREFACE, &settings, rest].concat();
    let random: Vec<u8> = (0..100_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let inputs: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("random bytes", random.clone()),
        ("half a preface", PREFACE[..10].to_vec()),
        ("a preface that goes wrong", [&PREFACE[..20], b"garbage".as_slice()].concat()),
        ("random frames", with_preface(&random)),
        ("half a frame header", with_preface(&[0, 0, 9, 1])),
        ("half a frame", with_preface(&frame(1, 4, 1, &[0; 100])[..50])),
        ("a frame of 16 MiB announced", with_preface(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])),
        ("HEADERS on stream 0", with_preface(&frame(1, 5, 0, &[0x83]))),
        ("HEADERS on an even stream", with_preface(&frame(1, 5, 2, &[0x83]))),
        ("DATA on an idle stream", with_preface(&frame(0, 1, 1, b"x"))),
        ("broken HPACK", with_preface(&frame(1, 5, 1, &[0xff; 40]))),
        ("CONTINUATION out of nowhere", with_preface(&frame(9, 4, 1, &[0x83]))),
        ("WINDOW_UPDATE of 0", with_preface(&frame(8, 0, 0, &[0; 4]))),
        ("PUSH_PROMISE", with_preface(&frame(5, 4, 1, &[0, 0, 0, 2, 0x83]))),
        ("SETTINGS of a wrong length", with_preface(&frame(4, 0, 0, &[1, 2, 3]))),
        ("PING of a wrong length", with_preface(&frame(6, 0, 0, &[1, 2, 3]))),
        ("an HTTP/1 request without end", b"GET /health HTTP/1.1\r\nx: ".to_vec()),
        ("a header of 1 MB", [b"GET / HTTP/1.1\r\nx: ".as_slice(), &vec![b'y'; 1_000_000]].concat()),
        ("a TLS ClientHello", [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].to_vec()),
    ];
    for (what, bytes) in inputs {
        send_and_drain(connect(&server), &bytes);
        assert!(TcpStream::connect(SocketAddr::from((server.address(), 2379))).is_ok(), "after {what}");
    }
    assert_serves(&server).await;
}

/// Each of these never ends by itself: the server must stop reading or close, and must not grow.
#[tokio::test]
async fn input_that_never_ends() {
    let server = start();
    assert_serves(&server).await;
    let before = anonymous(&server);
    let settings = frame(4, 0, 0, &[]);
    let endless: Vec<(&str, Vec<u8>)> = vec![
        ("PINGs", frame(6, 0, 0, &[0; 8])),
        ("SETTINGS", frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])),
        ("CONTINUATION", frame(9, 0, 1, &[0; 100])),
        ("empty DATA", frame(0, 0, 1, &[])),
        ("PRIORITY", frame(2, 0, 3, &[0, 0, 0, 1, 0])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
    ];
    for (what, unit) in endless {
        let mut stream = connect(&server);
        stream.set_nonblocking(true).unwrap();
        let mut start = [PREFACE, &settings].concat();
        if what == "CONTINUATION" {
            start.extend(frame(1, 0, 1, &[0x83])); // HEADERS without END_HEADERS
        }
        stream.write_all(&start).unwrap();
        let chunk: Vec<u8> = unit.iter().copied().cycle().take(unit.len() * 1000).collect();
        let (started, mut sent) = (Instant::now(), 0_usize);
        // Never reads, so that what the server wants to say piles up too.
        while started.elapsed() < Duration::from_millis(1500) && sent < 64 << 20 {
            match stream.write(&chunk[sent % unit.len()..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => break, // closed
            }
        }
        let grown = anonymous(&server).saturating_sub(before);
        assert!(grown < 16 << 20, "{what}: {sent} bytes sent, the server has grown by {grown}");
    }
    assert_serves(&server).await;
}

/// A list of 100 MB whose reader stalls costs at most 8 MiB, and the others are served.
#[tokio::test]
async fn a_stalled_reader_of_a_big_list_costs_little() {
    let server = start();
    let mut client = server.client().await;
    for i in 0..100 {
        let put = PutRequest {
            key: format!("big/{i:03}").into(),
            value: vec![b'v'; 1_000_000],
            ..Default::default()
        };
        client.kv.put(put).await.unwrap();
    }
    let list = RangeRequest { key: "big/".into(), range_end: "big0".into(), ..Default::default() };
    // Warm up: what a list costs once stays with the server.
    assert_eq!(client.kv.range(list.clone()).await.unwrap().into_inner().kvs.len(), 100);
    wait_for_checkpoint(&server).await;
    let before = anonymous(&server);
    let mut stalled = Vec::new();
    for _ in 0..4 {
        stalled.push(stalled_list(&server, &list));
    }
    for _ in 0..20 {
        assert_serves(&server).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = anonymous(&server).saturating_sub(before);
    if server.is_ringd() {
        assert!(grown <= 4 * (8 << 20), "4 stalled readers of 100 MB cost {} KiB", grown >> 10);
    }
    println!("4 stalled readers of 100 MB: {} KiB", grown >> 10);
    drop(stalled);
}

/// ringd keeps changed pages in memory until a checkpoint; that is not what is measured here.
async fn wait_for_checkpoint(server: &Server) {
    if !server.is_ringd() {
        return;
    }
    let mut last = u64::MAX;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = anonymous(server);
        if now + (1 << 20) > last {
            return;
        }
        last = now;
    }
}

/// Asks for a list with the widest windows HTTP/2 has, and reads nothing.
fn stalled_list(server: &Server, list: &RangeRequest) -> TcpStream {
    use prost::Message;
    let mut stream = connect(server);
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]));
    bytes.extend(frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes()));
    bytes.extend(frame(1, 4, 1, &headers(server, "/etcdserverpb.KV/Range")));
    let mut body = vec![0];
    body.extend((list.encoded_len() as u32).to_be_bytes());
    body.extend(list.encode_to_vec());
    bytes.extend(frame(0, 1, 1, &body));
    stream.write_all(&bytes).unwrap();
    stream
}

pub(crate) fn headers(server: &Server, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let authority = format!("{}:2379", server.address());
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", &authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    for (name, value) in fields {
        block.push(0); // a literal, not indexed
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A client that opens watch after watch. The server may refuse at some point; it must not fall over.
#[tokio::test]
async fn a_client_with_very_many_watches() {
    let watches = if long_runs() { 100_000 } else { 20_000 };
    let server = options().start();
    let client = server.client().await;
    let before = anonymous(&server);
    let mut stream = client.open_watch();
    let mut created = 0;
    for batch in 0..watches / 1000 {
        for i in 0..1000 {
            let create = WatchCreateRequest { key: format!("k{batch}/{i}").into(), ..Default::default() };
            stream.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        }
        for _ in 0..1000 {
            let answer = stream.expect().await;
            assert!(answer.created, "{answer:?}");
            created += i32::from(!answer.canceled);
        }
    }
    let each = anonymous(&server).saturating_sub(before) / watches as u64;
    println!("{created} of {watches} watches, {each} B each");
    assert!(created > 0);
    assert!(each < 4096, "{each} bytes for each watch");
    assert_serves(&server).await;
    let mut other: Client = server.client().await;
    let put = PutRequest { key: "k3/500".into(), value: "v".into(), ..Default::default() };
    other.kv.put(put).await.unwrap();
    let event = stream.expect().await;
    assert_eq!(event.events.len(), 1, "the watch on that key has its event");
}

/// Connections that come and go without a word.
#[tokio::test]
async fn a_storm_of_connections() {
    let server = start();
    assert_serves(&server).await;
    let before = anonymous(&server);
    for _ in 0..20 {
        let burst: Vec<TcpStream> = (0..100).map(|_| connect(&server)).collect();
        drop(burst);
    }
    assert_serves(&server).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let grown = anonymous(&server).saturating_sub(before);
    assert!(grown < 32 << 20, "2000 connections that are gone have left {grown} bytes");
}

#[tokio::test]
async fn http_1_on_the_same_port() {
    let server = start();
    let get = |path: &str| {
        let mut stream = connect(&server);
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let health = get("/health");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    assert!(health.contains("{\"health\":\"true\""), "{health}");
    assert!(get("/version").contains("\"etcdserver\":\"3.7.1\""));
    for path in ["/livez", "/readyz"] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ok"), "{path}: {answer}");
    }
    let metrics = get("/metrics");
    for name in [
        "etcd_server_has_leader 1",
        "etcd_disk_wal_fsync_duration_seconds_bucket",
        "etcd_mvcc_db_total_size_in_bytes",
    ] {
        assert!(metrics.contains(name), "{name} in /metrics");
    }
    assert!(get("/nothing").starts_with("HTTP/1.1 404"));
}
