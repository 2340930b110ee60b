//! A bit rots in a page that nobody reads: the scrub of the running server finds it, and nothing is served any more.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use testkit::Server;

use crate::flips::{History, Kind, PAGE_SIZE, TREE_DAMAGED, Tree, flip, put};
use crate::{directory, options};

/// The value of a metric without labels.
pub fn metric(server: &Server, name: &str) -> u64 {
    let mut stream = TcpStream::connect((server.address(), 2379)).expect("the server listens");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().expect("a number") as u64
}

fn wait_for_pass(server: &Server, passes: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while metric(server, "ringd_scrub_passes_total") < passes {
        assert!(Instant::now() < deadline, "no pass is finished:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_a_flip_in_a_cold_page() {
    let dir = directory();
    let mut server = options(dir.path()).arg("--ringd-scrub-interval=300ms").start();
    let (mut client, mut history) = (server.client().await, History::new());
    for i in 0..1000 {
        put(&mut client, &mut history, format!("k{i:04}"), vec![b'v'; 8_000]).await;
    }
    let path = server.data_dir().join("tree");
    let deadline = Instant::now() + Duration::from_secs(20);
    while metric(&server, "ringd_checkpoint_pages_total") < 300 {
        assert!(Instant::now() < deadline, "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    // One whole pass of what is in the file now.
    let before = metric(&server, "ringd_scrub_passes_total");
    wait_for_pass(&server, before + 2);
    let unix =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let finished = metric(&server, "ringd_scrub_last_finished_timestamp_seconds");
    assert!(unix.abs_diff(finished) < 30, "finished at {finished}, now {unix}");
    assert!(metric(&server, "ringd_scrub_pages_total") > 600);

    let tree = Tree::read(&path);
    let page = tree.live_pages(Kind::Run)[100];
    flip(&path, (page * PAGE_SIZE + 2000) as u64);
    let status = server.wait_exit(Duration::from_secs(20));
    let log = server.log();
    assert_eq!(status.code(), Some(TREE_DAMAGED), "{log}");
    let last = log.lines().last().unwrap_or("");
    let words =
        ["the scrub", "/tree ", &format!("page {page} "), &format!("{}", page * PAGE_SIZE), "restore"];
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_a_flip_in_the_newest_meta() {
    let dir = directory();
    let mut server = options(dir.path()).arg("--ringd-scrub-interval=300ms").start();
    let (mut client, mut history) = (server.client().await, History::new());
    for i in 0..1000 {
        put(&mut client, &mut history, format!("k{i:04}"), vec![b'v'; 8_000]).await;
    }
    server.kill(); // a start makes no checkpoint for a while
    server.restart();
    wait_for_pass(&server, 1);
    let path = server.data_dir().join("tree");
    let newest = Tree::read(&path).newest;
    flip(&path, (newest * PAGE_SIZE + 200) as u64);
    let status = server.wait_exit(Duration::from_secs(20));
    let log = server.log();
    assert_eq!(status.code(), Some(TREE_DAMAGED), "{log}");
    assert!(log.lines().last().unwrap_or("").contains(&format!("page {newest} ")), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn never_runs_if_it_is_switched_off() {
    let dir = directory();
    let server = options(dir.path()).arg("--ringd-scrub-interval=0s").start();
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(metric(&server, "ringd_scrub_passes_total"), 0);
    assert_eq!(metric(&server, "ringd_scrub_last_finished_timestamp_seconds"), 0);
}
