//! The process dies at a named failpoint under load, again and again on the same data; each time all that was
//! acknowledged is there, and the tree file is whole.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use engine::tree::{OpenError, verify};
use ringd::edge::tree_file::TreeFile;

use crate::load::Known;
use crate::{directory, options};

/// SIGKILL
const KILLED: i32 = 9;

/// One server's life after the other: each dies at its point; what follows it must know everything.
async fn die_at(points: &[&str]) {
    let dir = directory();
    let mut known = Known::new();
    for point in points {
        println!("{point}");
        let mut server = options(dir.path()).env("RINGD_FAILPOINTS", point).spawn();
        let before = known.acknowledged();
        let status = known.load_until_death(&mut server).await;
        assert_eq!(status.signal(), Some(KILLED), "{point}: {status}");
        println!("  {} acknowledged", known.acknowledged() - before);
        assert_whole_tree(dir.path());
        let mut server = options(dir.path()).start();
        known.check(&server).await;
        server.kill();
    }
    assert!(known.acknowledged() > 50 * points.len() as u64, "that was no load: {}", known.acknowledged());
}

/// What `ringctl store check` looks at: every page that is reachable, and that no other is allocated.
fn assert_whole_tree(dir: &Path) {
    let (tree, _) = TreeFile::open(&dir.join("data")).expect("the tree file");
    match verify(&*tree) {
        Ok(report) => assert_eq!(report.finding_count, 0, "{:?}", report.findings),
        Err(OpenError::Empty { torn: None }) => {} // no checkpoint was completed yet
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_a_log_write() {
    die_at(&[
        "log-before-submit=40",
        "log-after-submit=40",
        "log-after-completion=40",
        "log-after-report=40",
        "log-before-submit=333",
        "log-after-submit=333",
        "log-after-completion=333",
        "log-after-report=333",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn around_applying() {
    die_at(&[
        "commit-before-apply=30",
        "apply-before-publish=60",
        "publish-before-answer=60",
        "commit-before-apply=400",
        "apply-before-publish=500",
        "publish-before-answer=500",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_each_phase_of_a_checkpoint() {
    let phases = [
        "before-pages",
        "between-pages",
        "before-sync",
        "before-meta",
        "before-meta-sync",
        "after-meta-sync",
        "after-end",
    ];
    // The first one that there is, then one after others: both metas are in use and pages are used again.
    let firsts = phases.iter().map(|phase| format!("checkpoint-{phase}=1"));
    let later = phases.iter().map(|phase| format!("checkpoint-{phase}=3"));
    let points: Vec<String> = firsts.chain(later).collect();
    die_at(&points.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_segment_is_made() {
    // The first is made before the server serves, the second right then, the third when the first is full. Only a log
    // that is new needs them so soon.
    for point in ["segment-before-sync=3", "segment-before-rename=3", "segment-after-rename=3"] {
        die_at(&[point]).await;
    }
}
