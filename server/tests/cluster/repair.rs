//! A member whose disk has lied is healed by the others, and serves nothing until then.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use testkit::Program;

use crate::ask::{assert_same, others, put};
use crate::{program, three};

/// Values of this length in the log show where its payload is.
const VALUE: &str = "a value that is found again in the file of the log by what it says";

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
        let at = at + what.len() / 2;
        let file = OpenOptions::new().write(true).open(path).expect("a file of the member");
        file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("write");
        file.sync_all().expect("sync");
        return;
    }
    panic!("{what:?} stands in none of {files:?}");
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
    cluster.member(damaged).kill();
    let dir = cluster.member(damaged).data_dir().to_owned();
    flip_in(&files_below(&dir.join("log"), |name| name.ends_with(".seg")), VALUE);
    put(&mut cluster.client(whole).await, "meanwhile", "1").await.expect("two of three");

    cluster.member(damaged).restart();
    assert_same(&cluster, &[0, 1, 2]).await;
    assert!(dir.join("log.damaged").is_dir(), "the damaged log is put aside");
    assert!(!dir.join("repair").exists(), "the promise is kept and forgotten");
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
    cluster.member(damaged).kill();
    let dir = cluster.member(damaged).data_dir().to_owned();
    flip_in(&files_below(&dir.join("log"), |name| name.ends_with(".seg")), VALUE);
    // Nothing is written, so the leader has nothing for it.
    cluster.member(damaged).restart();
    assert!(dir.join("log.damaged").is_dir(), "the damaged log is put aside");
    assert_eq!(assert_same(&cluster, &[0, 1, 2]).await, revision);
}
