//! What members count of each other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::Server;

use crate::{program, three};

/// A ping goes out each third of the read timeout, which is 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server says at `/metrics`.
pub fn scrape(server: &Server) -> String {
    let mut socket = TcpStream::connect((server.address(), 2379)).expect("it serves");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket takes it");
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("it answers");
    body(&answer)
}

/// The body of an answer; etcd's comes in chunks, which end anywhere (RFC 9112, 7.1).
fn body(answer: &str) -> String {
    let (head, mut rest) = answer.split_once("\r\n\r\n").expect("a head");
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return rest.to_owned();
    }
    let mut body = String::new();
    loop {
        let (size, chunk) = rest.split_once("\r\n").expect("the size of a chunk");
        let size = usize::from_str_radix(size, 16).expect("in hexadecimal");
        if size == 0 {
            return body;
        }
        body.push_str(&chunk[..size]);
        rest = chunk[size..].strip_prefix("\r\n").expect("the end of a chunk");
    }
}

/// The value of one series.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a number")
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn peers_are_counted_by_id() {
    let mut cluster = three();
    if !program().is_ringd() {
        return;
    }
    let mut ids = Vec::new();
    for i in 0..3 {
        ids.push(cluster.leader_and_id(i).await.expect("it serves").1);
    }
    let leader = cluster.leader(&[0, 1, 2]).await;
    let gone = (leader + 1) % 3;
    for i in 0..3 {
        for other in (0..3).filter(|&other| other != i) {
            let (me, it, server) = (ids[i], ids[other], &cluster.members()[i]);
            let both = format!("{{Local=\"{me:x}\",Remote=\"{it:x}\"}}");
            until("both lanes are up", || {
                value(&scrape(server), &format!("etcd_network_active_peers{both}")) == 1.0
            })
            .await;
            until("a ping comes back", || {
                let name = format!("etcd_network_peer_round_trip_time_seconds_count{{To=\"{it:x}\"}}");
                value(&scrape(server), &name) >= 1.0
            })
            .await;
            let text = scrape(server);
            assert_eq!(value(&text, &format!("etcd_network_known_peers{both}")), 1.0);
            for (name, label) in [
                ("etcd_network_peer_sent_bytes_total", "To"),
                ("etcd_network_peer_received_bytes_total", "From"),
            ] {
                assert!(value(&text, &format!("{name}{{{label}=\"{it:x}\"}}")) > 100.0, "{name}: {text}");
            }
        }
    }
    let (me, it) = (ids[leader], ids[gone]);
    let failures = format!("etcd_network_peer_sent_failures_total{{To=\"{it:x}\"}}");
    let before = value(&scrape(&cluster.members()[leader]), &failures);
    cluster.member(gone).kill();
    let server = &cluster.members()[leader];
    let both = format!("{{Local=\"{me:x}\",Remote=\"{it:x}\"}}");
    until("it is missed", || {
        let text = scrape(server);
        value(&text, &format!("etcd_network_active_peers{both}")) == 0.0
            && value(&text, &format!("etcd_network_disconnected_peers_total{both}")) >= 1.0
            && value(&text, &failures) > before
    })
    .await;
    assert_eq!(
        value(&scrape(server), &format!("etcd_network_known_peers{both}")),
        1.0,
        "it is a member still"
    );
}
