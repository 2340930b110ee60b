//! ringd as a process: what it says when it starts, how it ends, what it has open.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::pb::{PutRequest, RangeRequest};
use testkit::{Program, process, scratch_dir};

use crate::{options, program, start};

/// open(2): as fdinfo shows them on this machine.
const O_DIRECT: u32 = libc::O_DIRECT as u32;
const O_DSYNC: u32 = libc::O_DSYNC as u32;

fn put(i: usize) -> PutRequest {
    PutRequest { key: format!("k{i}").into(), value: "v".into(), ..Default::default() }
}

#[tokio::test]
async fn the_log_is_written_past_the_page_cache() {
    let server = start();
    if !server.is_ringd() {
        return; // etcd's log is buffered
    }
    let mut client = server.client().await;
    client.kv.put(put(0)).await.unwrap();
    let files = process::open_files(server.pid()).unwrap();
    let direct: Vec<_> = files.iter().filter(|file| file.flags & O_DIRECT != 0).collect();
    assert!(!direct.is_empty(), "no file with O_DIRECT among {files:#?}");
    for file in direct {
        assert_eq!(file.flags & O_DSYNC, O_DSYNC, "{file:?} has O_DIRECT without O_DSYNC");
        assert!(file.path.starts_with(server.data_dir()), "{file:?} lies outside of the data directory");
    }
}

#[tokio::test]
async fn sigterm_and_sigint_end_it_within_a_second() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = start();
        let mut client = server.client().await;
        client.kv.put(put(0)).await.unwrap();
        let mut watch = client.open_watch();
        watch.send(testkit::pb::WatchRequest {
            request_union: Some(testkit::pb::watch_request::RequestUnion::CreateRequest(
                testkit::pb::WatchCreateRequest { key: "k".into(), ..Default::default() },
            )),
        });
        assert!(watch.expect().await.created);
        let started = Instant::now();
        server.signal(signal);
        let status = server.wait_exit(Duration::from_secs(30)); // etcd waits for its watches
        let took = started.elapsed();
        if program().is_ringd() {
            assert_eq!(status.code(), Some(0), "{signal:?}: {status}\n{}", server.log());
            assert!(
                took < Duration::from_secs(1),
                "{signal:?}: {took:?}, with a client and a watch connected"
            );
        }
    }
}

/// What is in flight when the signal comes is answered: either the put is acknowledged, or it was refused.
#[tokio::test]
async fn what_is_in_flight_at_a_sigterm_is_answered_and_kept() {
    let mut server = start();
    let client = server.client().await;
    let mut tasks = Vec::new();
    for writer in 0..20 {
        let mut client = client.clone();
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for i in 0.. {
                match client.kv.put(put(writer * 1_000_000 + i)).await {
                    Ok(_) => acknowledged.push(writer * 1_000_000 + i),
                    Err(_) => return acknowledged,
                }
            }
            unreachable!("the server stops")
        }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (status, _) = server.terminate();
    if server.is_ringd() {
        assert_eq!(status.code(), Some(0), "{}", server.log());
    }
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    assert!(acknowledged.len() > 20, "{} puts were no load", acknowledged.len());
    server.restart();
    let mut client = server.client().await;
    let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let found = client.kv.range(all).await.unwrap().into_inner();
    let keys: std::collections::BTreeSet<Vec<u8>> = found.kvs.into_iter().map(|kv| kv.key).collect();
    for i in acknowledged {
        assert!(keys.contains(&put(i).key), "k{i} was acknowledged");
    }
}

/// The code and the sentence with which ringd refuses to start.
fn refusal(server: &mut testkit::Server) -> (i32, String) {
    let status = server.wait_exit(Duration::from_secs(10));
    (status.code().expect("an exit, not a signal"), server.log())
}

#[test]
fn a_second_process_on_the_same_data_directory_is_refused() {
    let server = start();
    if !server.is_ringd() {
        return;
    }
    let mut second = options().data_dir(server.data_dir()).spawn();
    let (code, log) = refusal(&mut second);
    assert_eq!(code, 12, "{log}");
    assert!(log.contains(&server.data_dir().display().to_string()), "names the directory: {log}");
}

#[test]
fn a_taken_port_is_refused() {
    let Program::Ringd(ringd) = program() else { return };
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    let output = Command::new(ringd)
        .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
        .arg(format!("--data-dir={}", dir.path().join("data").display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(16), "{text}");
    assert!(text.contains(&other.local_addr().unwrap().to_string()), "names the address: {text}");
}

#[test]
fn a_data_directory_of_something_else_is_refused() {
    if !program().is_ringd() {
        return;
    }
    let dir = tempfile::tempdir_in(scratch_dir()).unwrap();
    std::fs::create_dir_all(dir.path().join("member/snap")).unwrap();
    std::fs::write(dir.path().join("member/snap/db"), "an etcd lived here").unwrap();
    let mut server = options().data_dir(dir.path()).spawn();
    let (code, log) = refusal(&mut server);
    assert_eq!(code, 11, "{log}");
    assert!(dir.path().join("member/snap/db").exists(), "and left as it was");
}

#[test]
fn a_tmpfs_is_refused() {
    if !program().is_ringd() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a tmpfs");
    let mut server = options().data_dir(&dir.path().join("data")).spawn();
    let (code, log) = refusal(&mut server);
    assert_eq!(code, 13, "{log}");
}

/// An empty start takes at most 200 ms on an idle machine; tests share theirs, so the bound here is wider and the
/// figure is printed.
#[test]
fn an_empty_start_is_quick() {
    let server = start();
    println!("ready after {:?}", server.ready_after());
    assert!(server.ready_after() < Duration::from_secs(3), "{:?}", server.ready_after());
}

#[test]
fn idle_it_uses_next_to_nothing() {
    let server = start();
    std::thread::sleep(Duration::from_secs(1));
    let (cpu, since) = (process::cpu_time(server.pid()).unwrap(), Instant::now());
    std::thread::sleep(Duration::from_secs(4));
    let used = process::cpu_time(server.pid()).unwrap() - cpu;
    let percent = used.as_secs_f64() / since.elapsed().as_secs_f64() * 100.0;
    println!("idle: {percent:.2} % of a core");
    assert!(percent < 3.0, "idle, it uses {percent:.2} % of a core (a debug build on a busy machine)");
}

#[test]
fn version_names_both() {
    let Program::Ringd(path) = program() else { return };
    let output = Command::new(path).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("ringd Version: "), "{text}");
    assert_eq!(lines.next(), Some("etcd Version: 3.7.1"), "{text}");
    assert!(output.status.success());
}
