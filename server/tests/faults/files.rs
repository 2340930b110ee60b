//! Files of a stopped server that are gone or too short: what was acknowledged comes back from the other file, or the
//! server refuses. It never begins anew as if nothing had been.

use std::fs::{self, OpenOptions};
use std::path::Path;

use crate::flips::{History, Outcome, batches, put, start_and_read};
use crate::{directory, options};

type Damage = fn(&Path);

fn remove(path: &Path) {
    fs::remove_file(path).expect("a file to remove");
}

fn halve(path: &Path) {
    let length = fs::metadata(path).expect("a file").len();
    cut(path, length / 2);
}

fn empty(path: &Path) {
    cut(path, 0);
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).expect("a file").set_len(length).expect("cut");
}

/// A server that wrote `puts` values of 5 kB, killed; its first segment or its tree file damaged; started again.
async fn after(puts: usize, of_the_log: bool, damage: Damage) -> (Outcome, History) {
    let dir = directory();
    let mut server = options(dir.path()).start();
    let mut client = server.client().await;
    let mut history = History::new();
    for i in 0..puts {
        put(&mut client, &mut history, format!("k{:02}", i % 50), vec![b'v'; 5_000]).await;
    }
    // Longer than the log takes to mark its last batch as durable.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    server.kill();
    let (segment, _) = batches(&server);
    damage(&if of_the_log { segment } else { server.data_dir().join("tree") });
    let outcome = start_and_read(&mut server, history.len()).await;
    server.kill();
    (outcome, history)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_gone_or_short() {
    let damages: [(&str, Damage); 3] = [("removed", remove), ("halved", halve), ("emptied", empty)];
    // Without a checkpoint nothing but the log has anything; with one the log has the rest.
    for puts in [60, 700] {
        for (what, damage) in damages {
            match after(puts, true, damage).await.0 {
                Outcome::Refused(20, log) => {
                    assert!(log.contains(".seg") && log.contains("restore"), "{what}: {log}");
                }
                other => panic!("a segment was {what} after {puts} puts: {other:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_file_that_is_gone_or_short() {
    let damages: [(&str, Damage); 3] = [("removed", remove), ("halved", halve), ("emptied", empty)];
    for (what, damage) in damages {
        // The log goes back to the beginning still: it may say all, and if it does, then all.
        match after(700, false, damage).await {
            (Outcome::Served(there), history) => assert!(*there == history, "{what}: {} events", there.len()),
            (Outcome::Refused(code, log), _) => assert!(matches!(code, 20 | 21), "{what}: {code}\n{log}"),
        }
    }
}
