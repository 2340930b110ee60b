//! A member whose disk has lied is healed by the others, and serves nothing until then.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consensus::log::BLOCK;
use engine::tree::PAGE_SIZE;
use testkit::pb::{DefragmentRequest, HashKvRequest};
use testkit::{Cluster, Program, SmallDisk, scratch_dir};

use crate::ask::{assert_same, others, put};
use crate::{options, program, three};

/// Values of this length in the log show where its payload is.
const VALUE: &str = "a value that is found again in the file of the log by what it says";

/// How a process ends whose log is damaged and whose tree is.
const LOG_DAMAGED: i32 = 20;
const TREE_DAMAGED: i32 = 21;

fn files_below(dir: &Path, matches: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory of the member");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(&matches))
        .collect();
    files.sort();
    files
}

/// Flips a bit in the middle of the first place where `what` stands in one of the files.
fn flip_in(files: &[PathBuf], what: &str) {
    for path in files {
        let bytes = fs::read(path).expect("a file of the member");
        let Some(at) = bytes.windows(what.len()).position(|window| window == what.as_bytes()) else {
            continue;
        };
        return flip_at(path, at + what.len() / 2);
    }
    panic!("{what:?} stands in none of {files:?}");
}

fn flip_at(path: &Path, at: usize) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file of the member");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).expect("a byte there");
    file.write_all_at(&[byte[0] ^ 1], at as u64).expect("write");
    file.sync_all().expect("sync");
}

fn segments(log_dir: &Path) -> Vec<PathBuf> {
    files_below(log_dir, |name| name.ends_with(".seg"))
}

/// Kills a member and turns a bit over in an entry of its log; gives its log's directory.
fn stop_and_damage_log(cluster: &mut Cluster, member: usize) -> PathBuf {
    cluster.member(member).kill();
    let log_dir = cluster.member(member).data_dir().join("log");
    flip_in(&segments(&log_dir), VALUE);
    log_dir
}

/// What the damaged log was is still there, beside the new one.
fn assert_put_aside(log_dir: &Path) {
    let aside = log_dir.join("damaged");
    assert!(!segments(&aside).is_empty(), "{aside:?} holds the damaged log");
    assert!(!segments(log_dir).is_empty(), "{log_dir:?} holds the new one");
}

#[tokio::test]
async fn a_damaged_log_is_replaced_by_a_snapshot_of_the_others() {
    if matches!(program(), Program::Etcd(_)) {
        return; // it refuses to start
    }
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [damaged, whole] = others(leader);
    for n in 0..200 {
        put(&mut cluster.client(leader).await, &format!("k/{n:03}"), VALUE).await.expect("three of three");
    }
    assert_same(&cluster, &[0, 1, 2]).await;
    let log_dir = stop_and_damage_log(&mut cluster, damaged);
    put(&mut cluster.client(whole).await, "meanwhile", "1").await.expect("two of three");

    cluster.member(damaged).restart();
    assert_same(&cluster, &[0, 1, 2]).await;
    assert_put_aside(&log_dir);
    let promise = cluster.member(damaged).data_dir().join("repair");
    assert!(!promise.exists(), "the promise is kept and forgotten");
    put(&mut cluster.client(damaged).await, "after", "1").await.expect("three of three");

    // It votes and stores again: without it the other two would be one.
    cluster.member(whole).kill();
    put(&mut cluster.client(damaged).await, "alone", "no").await.expect("two of three");
    cluster.member(damaged).kill();
    cluster.member(damaged).restart();
    put(&mut cluster.client(damaged).await, "again", "1").await.expect("two of three");
    assert_same(&cluster, &[leader, damaged]).await;
}

#[tokio::test]
async fn a_damaged_member_of_an_idle_cluster_is_healed() {
    if matches!(program(), Program::Etcd(_)) {
        return; // it refuses to start
    }
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [damaged, _] = others(leader);
    for n in 0..20 {
        put(&mut cluster.client(leader).await, &format!("k/{n:03}"), VALUE).await.expect("three of three");
    }
    let revision = assert_same(&cluster, &[0, 1, 2]).await;
    let log_dir = stop_and_damage_log(&mut cluster, damaged);
    // Nothing is written, so the leader has nothing for it.
    cluster.member(damaged).restart();
    assert_put_aside(&log_dir);
    assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision);
}

/// Neither a mount point nor the data directory can be given another name.
#[tokio::test]
async fn a_damaged_log_is_replaced_wherever_it_is() {
    if !program().is_ringd() {
        return; // etcd refuses to start
    }
    let device = SmallDisk::new(512);
    let own = tempfile::tempdir_in(scratch_dir()).expect("a directory");
    let wal_dir = |dir: &Path| format!("--wal-dir={}", dir.display());
    let on_device = options(program()).arg(wal_dir(&device.path()));
    let in_data_dir = options(program()).data_dir(own.path()).arg(wal_dir(own.path()));
    let mut cluster = Cluster::spawn_each(vec![options(program()), on_device, in_data_dir], None);
    (0..3).for_each(|i| cluster.member(i).wait_ready());
    let mut revision = 0;
    for (damaged, log_dir) in [(1, device.path()), (2, own.path().to_owned())] {
        // Twice: what an earlier repair has put aside is in nobody's way.
        for _ in 0..2 {
            for n in 0..20 {
                let put = put(&mut cluster.client(0).await, &format!("k/{n:03}"), VALUE).await;
                revision = put.expect("three of three");
            }
            assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision);
            cluster.member(damaged).kill();
            flip_in(&segments(&log_dir), VALUE);
            cluster.member(damaged).restart();
            assert_put_aside(&log_dir);
            assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision);
        }
    }
}

/// Starts a member as its supervisor would, again if it ends because of damage, until it serves and has read everything.
async fn supervise(cluster: &mut Cluster, member: usize) {
    for _ in 0..4 {
        cluster.member(member).restart_unready();
        let deadline = Instant::now() + Duration::from_secs(30);
        let ended = loop {
            if let Some(status) = cluster.member(member).exited() {
                break status;
            }
            let server = &cluster.members()[member];
            if server.log().contains("ready to serve client requests") {
                match cluster.client(member).await.maintenance.hash_kv(HashKvRequest { revision: 0 }).await {
                    Ok(_) => return,
                    Err(_) => break cluster.member(member).wait_exit(Duration::from_secs(10)),
                }
            }
            assert!(Instant::now() < deadline, "neither serves nor ends:\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert_eq!(ended.code(), Some(TREE_DAMAGED), "{}", cluster.members()[member].log());
    }
    panic!("every start ends alike:\n{}", cluster.members()[member].log());
}

#[tokio::test]
async fn whichever_page_of_the_tree_is_damaged_the_member_is_healed() {
    if matches!(program(), Program::Etcd(_)) {
        return; // it refuses to start
    }
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [damaged, _] = others(leader);
    for n in 0..20 {
        put(&mut cluster.client(leader).await, &format!("k/{n:03}"), VALUE).await.expect("three of three");
    }
    let dir = cluster.member(damaged).data_dir().to_owned();
    let (mut repaired, mut page) = (0, 0);
    loop {
        let revision = assert_same(&cluster, &[0, 1, 2]).await;
        // A checkpoint, so that what is damaged is what is read.
        let mut client = cluster.client(damaged).await;
        client.maintenance.defragment(DefragmentRequest {}).await.expect("a checkpoint");
        cluster.member(damaged).kill();
        let tree = fs::read(dir.join("tree")).expect("a tree");
        let Some(bytes) = tree.get(page * PAGE_SIZE..(page + 1) * PAGE_SIZE) else { break };
        if bytes.iter().any(|byte| *byte != 0) {
            flip_at(&dir.join("tree"), page * PAGE_SIZE + 9);
        }
        supervise(&mut cluster, damaged).await;
        assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision, "page {page}");
        let aside = dir.join("log/damaged");
        if aside.exists() {
            repaired += 1;
            fs::remove_dir_all(aside).expect("it is ours");
        }
        page += 1;
    }
    println!("{repaired} of {page} pages were repaired by a snapshot");
    assert!(repaired > 0, "{repaired} of {page} pages");
}

#[tokio::test]
async fn a_member_whose_newest_votes_are_lost_is_not_repaired_and_says_what_to_do() {
    if matches!(program(), Program::Etcd(_)) {
        return; // it has no such log
    }
    let mut cluster = three();
    let leader = cluster.leader(&[0, 1, 2]).await;
    let [damaged, whole] = others(leader);
    for n in 0..20 {
        put(&mut cluster.client(leader).await, &format!("k/{n:03}"), VALUE).await.expect("three of three");
    }
    assert_same(&cluster, &[0, 1, 2]).await;
    let mut client = cluster.client(damaged).await;
    client.maintenance.defragment(DefragmentRequest {}).await.expect("a checkpoint");
    cluster.member(damaged).kill();
    // All of the log from its first value on is gone; the tree has more.
    let dir = cluster.member(damaged).data_dir().to_owned();
    for path in files_below(&dir.join("log"), |name| name.ends_with(".seg")) {
        let mut bytes = fs::read(&path).expect("a segment");
        let found = bytes.windows(VALUE.len()).position(|window| window == VALUE.as_bytes());
        if let Some(at) = found {
            bytes[at / BLOCK * BLOCK..].fill(0);
            fs::write(&path, bytes).expect("write");
        }
    }
    for _ in 0..2 {
        cluster.member(damaged).restart_unready();
        let status = cluster.member(damaged).wait_exit(Duration::from_secs(20));
        let log = cluster.member(damaged).log();
        assert_eq!(status.code(), Some(LOG_DAMAGED), "{log}");
        let last = log.lines().last().unwrap_or("");
        assert!(last.contains("offset") && last.contains("how this member has voted"), "{log}");
        assert!(last.contains("remove the member and add it again"), "{log}");
        assert!(!dir.join("repair").exists(), "no promise is made");
    }
    put(&mut cluster.client(whole).await, "after", "1").await.expect("two of three");
}
