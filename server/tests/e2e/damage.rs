//! Flipped bits in the files of a stopped server, and a disk without room: nothing wrong is ever served, nothing that was
//! acknowledged is silently dropped, and the refusal says where and what to do.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::pb::{AlarmRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use testkit::{Client, Server, SmallDisk};
use tonic::Code;

use crate::{long_runs, options, program};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

async fn put(client: &mut Client, key: String, value: Vec<u8>) -> Result<(), tonic::Status> {
    client.kv.put(PutRequest { key: key.into(), value, ..Default::default() }).await.map(|_| ())
}

async fn rows(client: &mut Client) -> Result<Rows, tonic::Status> {
    let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let answer = client.kv.range(all).await?.into_inner();
    Ok(answer.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect())
}

/// Offsets spread over the bytes of `file` that are not zero.
fn written_offsets(file: &Path, count: usize) -> Vec<u64> {
    let bytes = fs::read(file).unwrap();
    let written: Vec<u64> = (0..).zip(&bytes).filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    assert!(written.len() > count, "{} has {} written bytes", file.display(), written.len());
    (0..count).map(|i| written[i * (written.len() - 1) / (count - 1)]).collect()
}

fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
    file.sync_all().unwrap();
}

/// What became of a start on damaged files.
enum Outcome {
    /// It ended with this code.
    Refused(i32, String),
    /// It serves these rows.
    Served(Rows),
}

/// Starts on what is there and reads everything. A server may also find the damage when it reads.
async fn start_and_read(server: &mut Server) -> Outcome {
    server.restart_unready();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !server.log().contains("ready to serve client requests") {
        if let Some(status) = server.exited() {
            return Outcome::Refused(status.code().unwrap_or(-1), server.log());
        }
        assert!(std::time::Instant::now() < deadline, "neither serves nor ends:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let read = match Client::connect(server.url()).await {
        Ok(mut client) => rows(&mut client).await.map_err(|status| status.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match read {
        Ok(rows) => Outcome::Served(rows),
        Err(_) => {
            let status = server.wait_exit(Duration::from_secs(10));
            Outcome::Refused(status.code().unwrap_or(-1), server.log())
        }
    }
}

fn segment_files(server: &Server) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(server.data_dir().join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "seg"));
    files.sort();
    files
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_is_never_passed_over() {
    if !program().is_ringd() {
        return;
    }
    let mut server = options().start();
    let mut client = server.client().await;
    for i in 0..200 {
        put(&mut client, format!("k{i:03}"), vec![b'v'; 3000]).await.unwrap();
    }
    let expected = rows(&mut client).await.unwrap();
    // Longer than the log takes to mark its last batch as durable.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    let segment = segment_files(&server).remove(0);
    let copy = fs::read(&segment).unwrap();
    let mut refused = 0;
    let offsets = written_offsets(&segment, if long_runs() { 200 } else { 25 });
    for &offset in &offsets {
        flip(&segment, offset);
        match start_and_read(&mut server).await {
            Outcome::Refused(code, log) => {
                assert_eq!(code, 20, "a flip at {offset}: {log}");
                let name = segment.file_name().unwrap().to_str().unwrap();
                assert!(log.contains(name) && log.contains("offset"), "names file and offset: {log}");
                refused += 1;
            }
            Outcome::Served(rows) => {
                assert!(rows == expected, "a flip at {offset} changed what is served: {} rows", rows.len());
            }
        }
        server.kill();
        fs::write(&segment, &copy).unwrap();
    }
    println!("{refused} of {} flips in the log refused, the others changed nothing", offsets.len());
    assert!(
        refused * 2 > offsets.len(),
        "most of the log must not be passed over: {refused} of {}",
        offsets.len()
    );
    match start_and_read(&mut server).await {
        Outcome::Served(rows) => assert!(rows == expected, "the undamaged log holds all"),
        Outcome::Refused(code, log) => panic!("the undamaged log is refused with {code}: {log}"),
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_tree_is_never_served() {
    if !program().is_ringd() {
        return;
    }
    let mut server = options().arg("--ringd-heap-limit=8388608").start();
    let mut client = server.client().await;
    let tree = server.data_dir().join("tree");
    let mut i = 0;
    while fs::metadata(&tree).unwrap().len() < 12 << 20 {
        put(&mut client, format!("k{:04}", i % 2500), vec![b'a' + (i % 26) as u8; 5000]).await.unwrap();
        i += 1;
        assert!(i < 20_000, "no checkpoint after {i} puts of 5 KB");
    }
    tokio::time::sleep(Duration::from_secs(1)).await; // a checkpoint under way ends
    let expected = rows(&mut client).await.unwrap();
    server.kill();
    let copy = fs::read(&tree).unwrap();
    let (mut refused, offsets) = (0, written_offsets(&tree, if long_runs() { 200 } else { 15 }));
    for &offset in &offsets {
        flip(&tree, offset);
        match start_and_read(&mut server).await {
            Outcome::Refused(code, log) => {
                assert_eq!(code, 21, "a flip at {offset}: {log}");
                assert!(log.contains("tree") && log.contains("offset"), "names file and offset: {log}");
                refused += 1;
            }
            Outcome::Served(rows) => {
                assert!(rows == expected, "a flip at {offset} changed what is served: {} rows", rows.len());
            }
        }
        server.kill();
        fs::write(&tree, &copy).unwrap();
    }
    println!("{refused} of {} flips in the tree refused, the others changed nothing", offsets.len());
    assert!(refused > 0, "some flip must hit what is read");
}

#[tokio::test]
async fn a_full_disk_stops_puts_and_nothing_else() {
    if !program().is_ringd() {
        return; // etcd ends itself there
    }
    let disk = SmallDisk::new(400);
    let mut server = options().data_dir(&disk.path().join("data")).start();
    let mut client = server.client().await;
    let mut acknowledged = Rows::new();
    let refusal = loop {
        let (key, value) = (format!("k{:05}", acknowledged.len()), vec![b'v'; 100_000]);
        match put(&mut client, key.clone(), value.clone()).await {
            Ok(()) => drop(acknowledged.insert(key.into_bytes(), value)),
            Err(status) => break status,
        }
        assert!(acknowledged.len() < 5000, "500 MB fit on a disk of 400 MB");
    };
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
        "after {} puts: {}",
        acknowledged.len(),
        server.log()
    );
    assert_eq!(server.exited(), None, "the server lives");
    assert!(rows(&mut client).await.unwrap() == acknowledged, "reads go on and nothing is lost");
    let alarms = client.maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner().alarms;
    assert_eq!(alarms.len(), 1, "the alarm is raised: {alarms:?}");
    let first = acknowledged.keys().next().unwrap().clone();
    let delete = DeleteRangeRequest { key: first.clone(), ..Default::default() };
    assert_eq!(client.kv.delete_range(delete).await.expect("deletes go on").into_inner().deleted, 1);
    acknowledged.remove(&first);
    server.kill();
    server.restart();
    let mut client = server.client().await;
    assert!(rows(&mut client).await.unwrap() == acknowledged, "all is there after a kill -9 on a full disk");
    server.kill();
}
