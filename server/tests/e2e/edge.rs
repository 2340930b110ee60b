//! The edge of the server: how many connections there may be, what they may hold, and what becomes of too many.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::SockRef;
use testkit::pb::PutRequest;
use testkit::{Server, process};

use crate::attacks::{assert_serves, connect, frame, headers, preface};
use crate::tls::Certificates;
use crate::{options, program, start};

/// Whether the server has closed this connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Waits until `done`.
fn eventually(what: &str, patience: Duration, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < patience, "{what}: not after {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// One HTTP/1.1 request for `/health`; `None` if it is not answered within a second.
fn health(server: &Server) -> Option<String> {
    get(server, "/health")
}

fn get(server: &Server, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(SocketAddr::from((server.address(), 2379))).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// Thousands of connections that come and go, many of them reset before the server has looked at them, while one client
/// writes: every write is answered, and soon.
#[tokio::test]
async fn a_storm_of_connections_leaves_others_served() {
    let server = start();
    let address = SocketAddr::from((server.address(), 2379));
    let over = Arc::new(AtomicBool::new(false));
    let storms: Vec<_> = (0..2)
        .map(|storm| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut opened = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    let Ok(mut stream) = TcpStream::connect(address) else { continue };
                    opened += 1;
                    match (opened + storm) % 3 {
                        // Closing with a linger of nothing is a reset.
                        0 => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
                        1 => drop(stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
                        _ => {}
                    }
                }
                opened
            })
        })
        .collect();
    let mut client = server.client().await;
    let (started, mut puts, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while started.elapsed() < Duration::from_secs(5) {
        let sent = Instant::now();
        let put = PutRequest { key: "k".into(), value: vec![b'v'; 100], ..Default::default() };
        client.kv.put(put).await.expect("the client is served");
        slowest = slowest.max(sent.elapsed());
        puts += 1;
    }
    over.store(true, Ordering::Relaxed);
    let opened: u64 = storms.into_iter().map(|storm| storm.join().unwrap()).sum();
    println!("{opened} connections came and went; {puts} puts, the slowest after {slowest:?}");
    assert!(opened > 2000, "{opened} are no storm");
    assert!(puts > 20 && slowest < Duration::from_secs(2), "{puts} puts, the slowest after {slowest:?}");
    assert_serves(&server).await;
    let open = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    eventually("the descriptors are given back", Duration::from_secs(15), || open() < 100);
}

/// Out of descriptors: those that are connected are served, nothing spins, and new ones come in when there is room.
#[tokio::test]
async fn no_descriptor_left() {
    let server = start();
    if !server.is_ringd() {
        return;
    }
    let mut client = server.client().await;
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    client.kv.put(put.clone()).await.unwrap();
    // Not being able to open a segment that is made would end it.
    eventually("its log has a spare segment", Duration::from_secs(20), || {
        get(&server, "/metrics").is_some_and(|text| text.contains("\nringd_log_segments 2\n"))
    });
    let pid = Pid::from_raw(server.pid() as i32).unwrap();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(60), maximum: Some(60) }).unwrap();
    let crowd: Vec<TcpStream> = (0..200).map(|_| connect(&server)).collect();
    eventually("it says so", Duration::from_secs(5), || {
        server.log().contains("cannot accept client connections")
    });
    assert!(server.log().contains("os error 24"), "{}", server.log());
    assert_eq!(health(&server), None, "there is no room for one more");
    let cpu = process::cpu_time(server.pid()).unwrap();
    for _ in 0..10 {
        client.kv.put(put.clone()).await.expect("who is connected is served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let spent = process::cpu_time(server.pid()).unwrap() - cpu;
    assert!(spent < Duration::from_millis(300), "{spent:?} of CPU in a second of waiting");
    drop(crowd);
    eventually("new ones come in", Duration::from_secs(15), || {
        health(&server).is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    });
    eventually("it says that, too", Duration::from_secs(5), || {
        health(&server);
        server.log().contains("client connections are accepted again")
    });
    assert_eq!(
        server.log().matches("cannot accept client connections").count(),
        1,
        "once, not at each attempt"
    );
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    if !program().is_ringd() {
        return;
    }
    let server = options().arg("--ringd-max-connections=20").start();
    let mut client = server.client().await;
    let mut crowd: Vec<TcpStream> = (0..30).map(|_| connect(&server)).collect();
    assert_eq!(health(&server), None, "it waits");
    let put = PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
    client.kv.put(put).await.expect("who is connected is served");
    crowd.clear();
    eventually("new ones come in", Duration::from_secs(10), || health(&server).is_some());
}

fn with_tls() -> (Server, Certificates) {
    let certificates = Certificates::new();
    let server = certificates.server().start();
    (server, certificates)
}

fn served_over_tls(server: &Server) -> bool {
    let args = ["--command-timeout=5s", "--insecure-skip-tls-verify", "put", "k", "v"];
    server.etcdctl(&args).output().expect("etcdctl runs").status.success()
}

/// Handshakes that don't go on: the oldest make room, each costs little, and none lasts longer than ten seconds.
#[test]
fn handshakes_that_are_never_finished() {
    if !program().is_ringd() {
        return; // etcd has no bound here
    }
    let (server, _certificates) = with_tls();
    assert!(served_over_tls(&server));
    let anonymous = || process::memory(server.pid()).unwrap().anonymous;
    let (before, started) = (anonymous(), Instant::now());
    // A ClientHello of 512 bytes announced, of which nothing or a little comes.
    let mut silent: Vec<TcpStream> = (0..1000).map(|_| connect(&server)).collect();
    for stream in silent.iter_mut().step_by(2) {
        stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    let each = anonymous().saturating_sub(before) / 1000;
    println!("a handshake that has not begun costs {each} bytes");
    assert!(each < 16 << 10, "{each} bytes each");
    silent.extend((0..100).map(|_| connect(&server)));
    eventually("the oldest make room", Duration::from_secs(5), || silent[..70].iter_mut().all(is_closed));
    assert!(!silent[200..].iter_mut().any(is_closed), "the younger ones have their time");
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "this machine is too slow to tell the deadline from the bound"
    );
    assert!(served_over_tls(&server), "an honest client gets through");
    eventually("ten seconds are enough for any", Duration::from_secs(15), || {
        silent.iter_mut().all(is_closed)
    });
    assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Requests that are never completed fill what connections may hold: the largest are closed, everybody else is served.
#[tokio::test]
async fn connections_that_hold_too_much() {
    if !program().is_ringd() {
        return;
    }
    let server = options().arg("--ringd-connection-memory=8388608").start();
    assert_serves(&server).await;
    let before = process::memory(server.pid()).unwrap().anonymous;
    let started = Instant::now();
    let mut attackers: Vec<TcpStream> = (0..150)
        .map(|_| {
            let mut stream = connect(&server);
            stream.set_nonblocking(true).unwrap();
            // 1.4 MB announced; the last byte never comes.
            let mut bytes = preface();
            bytes.extend(frame(1, 4, 1, &headers(&server, "/etcdserverpb.KV/Put")));
            bytes.extend(frame(0, 0, 1, &[&[0_u8][..], &1_400_000_u32.to_be_bytes(), &[0; 16_000]].concat()));
            for _ in 0..60 {
                bytes.extend(frame(0, 0, 1, &[0; 16_000]));
            }
            let mut rest = &bytes[..];
            let patience = Instant::now();
            while !rest.is_empty() && patience.elapsed() < Duration::from_millis(20) {
                match stream.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => break, // closed
                }
            }
            stream
        })
        .collect();
    let mut client = server.client().await;
    let mut closed = 0;
    while closed < 5 && started.elapsed() < Duration::from_secs(30) {
        let put = PutRequest { key: "k".into(), value: vec![b'v'; 1000], ..Default::default() };
        client.kv.put(put).await.expect("who holds little is served");
        closed = attackers.iter_mut().filter_map(|stream| is_closed(stream).then_some(())).count();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = process::memory(server.pid()).unwrap().anonymous.saturating_sub(before);
    println!("{closed} closed, {} KiB more memory", grown >> 10);
    assert!(server.log().contains("all together hold too much"), "{}", server.log());
    assert!(closed >= 5, "only {closed} of them were closed");
    // They sent 150 MB; the allocator keeps some of what growing buffers leave behind.
    assert!(grown < 48 << 20, "the server has grown by {grown}");
    assert_serves(&server).await;
}

/// `unix://` and `unixs://`: HTTP and gRPC as on a port; the name is gone after the end.
#[test]
fn unix_sockets() {
    let dir = tempfile::TempDir::new_in(testkit::scratch_dir()).unwrap();
    let (plain, tls) = (dir.path().join("plain.sock"), dir.path().join("tls.sock"));
    let certificates = Certificates::new();
    let urls = format!("unix://{},unixs://{}", plain.display(), tls.display());
    let mut server = options()
        .arg(format!("--listen-client-urls={urls}"))
        .arg(format!("--advertise-client-urls={urls}"))
        .arg(format!("--cert-file={}", certificates.path("server.crt").display()))
        .arg(format!("--key-file={}", certificates.path("server.key").display()))
        .start();
    let mut stream = UnixStream::connect(&plain).expect("it listens");
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for url in [format!("unix://{}", plain.display()), format!("unixs://{}", tls.display())] {
        for command in [&["put", "k", "v"][..], &["get", "k", "--print-value-only"]] {
            let mut etcdctl = std::process::Command::new(&testkit::oracle().etcdctl);
            etcdctl.args(["--command-timeout=5s", "--endpoints", &url]);
            if url.starts_with("unixs") {
                etcdctl.arg("--insecure-skip-tls-verify"); // which asks for TLS, too
            }
            etcdctl.args(command);
            let output = etcdctl.output().expect("etcdctl runs");
            assert!(
                output.status.success(),
                "{url} {command:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    let (status, _) = server.terminate();
    assert_eq!(status.code(), program().is_ringd().then_some(0));
    assert!(!plain.exists() && !tls.exists(), "the names are gone");
    server.restart();
}
