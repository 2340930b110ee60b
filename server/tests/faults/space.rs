//! No room: the quota is reached, or the file system is full. Puts are refused with etcd's words and the alarm is raised;
//! reads, deletes and compaction go on; when there is room again and the alarm is off, puts go on too.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::pb::{
    AlarmRequest, AlarmType, CompactionRequest, DefragmentRequest, DeleteRangeRequest, LeaseGrantRequest,
    PutRequest, RangeRequest, StatusRequest, alarm_request::AlarmAction,
};
use testkit::{Client, Server, SmallDisk, within};
use tonic::{Code, Status};

use crate::{directory, options};

/// Key to the number that fills its value.
type Rows = BTreeMap<String, u8>;

const VALUE_BYTES: usize = 200_000;

async fn put(client: &mut Client, key: &str, fill: u8) -> Result<i64, Status> {
    let put = PutRequest { key: key.into(), value: vec![fill; VALUE_BYTES], ..Default::default() };
    Ok(client.kv.put(put).await?.into_inner().header.expect("a header").revision)
}

async fn delete(client: &mut Client, key: &str) {
    let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
    let answer = client.kv.delete_range(delete).await.expect("deletes go on").into_inner();
    assert_eq!(answer.deleted, 1, "{key}");
}

/// All rows; each value must be whole. Also the revision.
async fn rows(client: &mut Client) -> (Rows, i64) {
    let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let answer = client.kv.range(all).await.expect("reads go on").into_inner();
    let row = |kv: testkit::pb::KeyValue| {
        assert!(kv.value.len() == VALUE_BYTES && kv.value.iter().all(|byte| *byte == kv.value[0]));
        (String::from_utf8(kv.key).expect("only text was put"), kv.value[0])
    };
    (answer.kvs.into_iter().map(row).collect(), answer.header.expect("a header").revision)
}

async fn alarms(client: &mut Client, action: AlarmAction) -> Vec<AlarmType> {
    let request = AlarmRequest { action: action.into(), alarm: AlarmType::Nospace.into(), member_id: 0 };
    let answer = client.maintenance.alarm(request).await.expect("alarms go on").into_inner();
    answer.alarms.iter().map(|alarm| alarm.alarm()).collect()
}

async fn disarm(client: &mut Client) {
    let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
    let member_id = status.header.expect("a header").member_id;
    let request =
        AlarmRequest { action: AlarmAction::Deactivate.into(), alarm: AlarmType::Nospace.into(), member_id };
    client.maintenance.alarm(request).await.expect("alarms go on");
    assert_eq!(alarms(client, AlarmAction::Get).await, [], "the alarm is off");
}

async fn compact(client: &mut Client, revision: i64) {
    client.kv.compact(CompactionRequest { revision, physical: true }).await.expect("compaction goes on");
}

fn assert_no_space(status: &Status) {
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
}

/// Puts until one is refused, and checks what must hold then.
async fn fill(client: &mut Client, key: impl Fn(usize) -> String, known: &mut Rows, puts_max: usize) {
    for i in 0..puts_max {
        let key = key(i);
        match put(client, &key, i as u8).await {
            Ok(_) => drop(known.insert(key, i as u8)),
            Err(status) => {
                assert_no_space(&status);
                // etcd: a put that met the quota only when it was applied stands, though it is refused.
                let (there, _) = rows(client).await;
                if there.get(&key) == Some(&(i as u8)) {
                    known.insert(key, i as u8);
                }
                return assert_refusing(client, known).await;
            }
        }
    }
    panic!("{puts_max} puts of {VALUE_BYTES} bytes were taken");
}

/// The alarm is raised and listed, what takes room is refused with etcd's words, the rest goes on.
async fn assert_refusing(client: &mut Client, known: &Rows) {
    for _ in 0..100 {
        if !alarms(client, AlarmAction::Get).await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await; // it goes through the log
    }
    assert_eq!(alarms(client, AlarmAction::Get).await, [AlarmType::Nospace]);
    assert_no_space(&put(client, "one more", 1).await.expect_err("refused"));
    let grant = client.lease.lease_grant(LeaseGrantRequest { id: 0, ttl: 60 }).await;
    assert_no_space(&grant.expect_err("a lease takes room too"));
    let (there, _) = rows(client).await;
    assert!(there == *known, "reads go on: {} rows of {}", there.len(), known.len());
}

/// etcd's way out: compact, defragment, disarm. Each must hold at once, without waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_and_the_way_out() {
    const QUOTA: i64 = 24 << 20;
    let dir = directory();
    let mut server = options(dir.path()).arg(format!("--quota-backend-bytes={QUOTA}")).start();
    let mut client = server.client().await;
    let mut known = Rows::new();
    for round in 0..3 {
        // Few keys and many revisions: what is live stays far below the quota.
        fill(&mut client, |i| format!("k{}", i % 10), &mut known, 1000).await;
        delete(&mut client, "k3").await;
        known.remove("k3");
        let (_, revision) = rows(&mut client).await;
        compact(&mut client, revision).await;
        client.maintenance.defragment(DefragmentRequest {}).await.expect("defragment goes on");
        disarm(&mut client).await;
        let status = client.maintenance.status(StatusRequest {}).await.expect("a status").into_inner();
        assert!(status.db_size < QUOTA / 2, "round {round}: {} bytes after all that", status.db_size);
        let revision = put(&mut client, "k3", 33).await.expect("there is room again");
        known.insert("k3".into(), 33);
        assert!(revision > 1);
    }
    // An alarm outlives a restart, and so does everything else.
    fill(&mut client, |i| format!("k{}", i % 10), &mut known, 1000).await;
    server.restart();
    assert_refusing(&mut server.client().await, &known).await;
    server.kill();
}

/// Something else's file that takes room.
fn ballast(path: &Path, mib: usize) -> PathBuf {
    let path = path.join("ballast");
    fs::write(&path, vec![1; mib << 20]).expect("room for the ballast");
    path
}

/// No room even for what a first start writes.
#[test]
fn a_first_start_on_a_full_file_system_is_refused() {
    let disk = SmallDisk::new(16);
    let mut ballast = File::create(disk.path().join("ballast")).expect("a file");
    let full = loop {
        if let Err(error) = std::io::Write::write_all(&mut ballast, &[1; 4096]) {
            break error;
        }
    };
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let mut server = options(&disk.path()).spawn();
    let status = server.wait_exit(std::time::Duration::from_secs(20));
    assert_eq!(status.code(), Some(25), "{}", server.log());
    assert!(server.log().contains("there is no room left"), "{}", server.log());
}

/// Full, live with it, restart in it, get room, go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_system_and_the_way_out() {
    let disk = SmallDisk::new(330);
    let ballast = ballast(&disk.path(), 60);
    let mut server = options(&disk.path()).start();
    let mut client = server.client().await;
    let mut known = Rows::new();
    fill(&mut client, |i| format!("k{i:04}"), &mut known, 2000).await;
    println!("{} puts until the disk was full", known.len());

    // Deletes and compaction, though nothing more can be written to the tree file.
    let victims: Vec<String> = known.keys().step_by(2).cloned().collect();
    for key in victims {
        delete(&mut client, &key).await;
        known.remove(&key);
    }
    let (there, revision) = rows(&mut client).await;
    assert!(there == known);
    compact(&mut client, revision).await;
    assert!(rows(&mut client).await.0 == known, "nothing is lost by a compaction on a full disk");

    server.kill();
    server.restart();
    let mut client = server.client().await;
    assert!(rows(&mut client).await.0 == known, "nothing is lost by a kill -9 on a full disk");

    fs::remove_file(ballast).expect("the ballast goes");
    go_on(&mut server, &mut known).await;
}

/// Segments of the log, without those that are being made.
fn segments(server: &Server) -> Vec<String> {
    let dir = fs::read_dir(server.data_dir().join("log")).expect("the log's directory");
    let names = dir.map(|entry| entry.expect("readable").file_name().into_string().expect("text"));
    let mut names: Vec<String> = names.filter(|name| !name.ends_with(".new")).collect();
    names.sort();
    names
}

/// Once the first segment of the log is used up there is no room for a third, and there never will be. But a checkpoint gives
/// the first one back, and no other is wanted then: puts are taken again, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_a_checkpoint_gives_back_ends_the_refusal() {
    /// Less than a segment, and more than all puts of this test take.
    const LEFT_MIB: u64 = 32;
    let disk = SmallDisk::new(160);
    let server = options(&disk.path()).start();
    let mut client = server.client().await;
    let second_is_made = async {
        while segments(&server).len() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(Duration::from_secs(20), second_is_made).await.expect("a second segment");
    let begun = segments(&server);
    let room = rustix::fs::statvfs(disk.path()).expect("a file system");
    let room_mib = (room.f_bavail * room.f_frsize) >> 20;
    ballast(&disk.path(), (room_mib - LEFT_MIB) as usize);

    let mut refused = None;
    for i in 0..60 {
        tokio::time::sleep(Duration::from_millis(20)).await; // a segment is made in the background
        refused = put(&mut client, &format!("k{i:02}"), i).await.err();
        if refused.is_some() {
            break;
        }
    }
    assert_no_space(&refused.expect("a put that is refused"));
    let mut taken = 0;
    for i in 0..100 {
        disarm(&mut client).await;
        match put(&mut client, "again", i).await {
            Ok(_) => taken += 1,
            Err(status) => assert_no_space(&status),
        }
        if taken == 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(taken, 10, "puts are taken again:\n{}", server.log());
    assert_eq!(segments(&server), begun, "no other segment was made");
}

/// There is room: with the alarm off, puts are taken again, before and after a restart.
async fn go_on(server: &mut Server, known: &mut Rows) {
    let mut client = server.client().await;
    client.maintenance.defragment(DefragmentRequest {}).await.expect("defragment goes on");
    disarm(&mut client).await;
    let mut taken = 0;
    for i in 0..200 {
        let key = format!("again{i:03}");
        match put(&mut client, &key, i).await {
            Ok(_) => {
                known.insert(key, i);
                taken += 1;
            }
            // The log asks for its next segment once a second.
            Err(status) => {
                assert_no_space(&status);
                tokio::time::sleep(Duration::from_millis(100)).await;
                disarm(&mut client).await;
            }
        }
    }
    assert!(taken > 100, "only {taken} of 200 puts were taken after room was made:\n{}", server.log());
    assert!(rows(&mut client).await.0 == *known);
    server.kill();
    server.restart();
    assert!(rows(&mut server.client().await).await.0 == *known, "all is there after it");
    server.kill();
}
