//! Which files of a stopped server are there, and what a start makes of it: it serves all that was acknowledged, or it
//! refuses and names file and remedy, again at the next try. Only a directory without anything begins anew.

use std::fs;
use std::path::Path;

use testkit::Server;
use testkit::pb::PutRequest;

use crate::flips::{History, Outcome, batches, put, start_and_read};
use crate::{directory, options};

const FOREIGN: i32 = 11;
const LOG: i32 = 20;
const TREE: i32 = 21;

/// What is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    /// The file `identity`.
    Identity,
    /// The folder `log` with all in it.
    Log,
    /// All files in the folder `log`.
    Segments,
    /// The file `tree`.
    Tree,
    /// What is in the file `tree`.
    TreeBytes,
}

use Gone::{Identity, Log, Segments, Tree, TreeBytes};

impl Gone {
    fn name(self) -> &'static str {
        match self {
            Identity => "identity",
            Log | Segments => "log",
            Tree | TreeBytes => "tree",
        }
    }

    fn remove(self, data: &Path, aside: &Path) {
        let path = data.join(self.name());
        fs::rename(&path, aside.join(self.name())).expect("it was there");
        match self {
            Segments => fs::create_dir(path).expect("an empty folder"),
            TreeBytes => fs::write(path, "").expect("an empty file"),
            Identity | Log | Tree => {}
        }
    }

    fn bring_back(self, data: &Path, aside: &Path) {
        let path = data.join(self.name());
        if path.is_dir() {
            fs::remove_dir_all(&path).expect("a folder");
        }
        fs::rename(aside.join(self.name()), path).expect("it was put aside");
    }
}

/// What a start must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// Everything is served.
    Serve,
    /// It ends with this code, and its sentence has these words.
    Refuse(i32, &'static [&'static str]),
    /// A new member begins.
    BeginAnew,
}

use Must::{BeginAnew, Refuse, Serve};

/// How long a server had lived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// No checkpoint was made: only the log has anything.
    Young,
    /// The first segment of the log was used again: only the tree has what came first.
    Old,
}

const NO_LOG: &[&str] = &["/log", "identity", "--wal-dir", "restore"];
const NO_TREE: &[&str] = &["/tree ", "restore"];

#[rustfmt::skip] // a table
const CASES: &[(&[Gone], Must, Must)] = &[
    // what is gone            of a young one                              of an old one
    (&[],                      Serve,                                      Serve),
    (&[Log],                   Refuse(LOG, NO_LOG),                        Refuse(LOG, NO_LOG)),
    (&[Segments],              Refuse(LOG, NO_LOG),                        Refuse(LOG, NO_LOG)),
    (&[Tree],                  Serve,                                      Refuse(TREE, NO_TREE)),
    (&[TreeBytes],             Serve,                                      Refuse(TREE, NO_TREE)),
    (&[Tree, Log],             Refuse(LOG, NO_LOG),                        Refuse(LOG, NO_LOG)),
    (&[Identity],              Refuse(FOREIGN, &["\"identity\"", "restore"]), Refuse(FOREIGN, &["\"identity\"", "restore"])),
    (&[Identity, Tree],        Refuse(FOREIGN, &["a log", "restore"]),     Refuse(FOREIGN, &["a log", "restore"])),
    (&[Identity, Log],         Refuse(FOREIGN, &["\"tree\"", "restore"]),  Refuse(FOREIGN, &["\"tree\"", "restore"])),
    (&[Identity, Tree, Segments], BeginAnew,                               BeginAnew),
];

async fn young(server: &Server) -> History {
    let (mut client, mut history) = (server.client().await, History::new());
    for i in 0..20 {
        put(&mut client, &mut history, format!("k{i}"), vec![b'v'; 500]).await;
    }
    history
}

/// Writes until the log's first segment is used again.
async fn old(server: &Server) -> History {
    let mut history = young(server).await;
    let mut client = server.client().await;
    let (segment, _) = batches(server);
    let first = || fs::read(&segment).map(|bytes| bytes[..4096].to_vec()).expect("a segment");
    let first_before = first();
    while first() == first_before {
        assert!(history.len() < 400, "{} not used again", segment.display());
        let request = PutRequest { key: "big".into(), value: vec![1; 1_000_000], ..Default::default() };
        let answer = client.kv.put(request.clone()).await.expect("a put").into_inner();
        history.insert(answer.header.expect("a header").revision, (request.key, request.value));
    }
    // Longer than the log takes to mark its last batch as durable.
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    history
}

async fn check(age: Age) {
    let dir = directory();
    let mut server = options(dir.path()).start();
    let history = match age {
        Age::Young => young(&server).await,
        Age::Old => old(&server).await,
    };
    server.kill();
    let (data, aside) = (server.data_dir().to_path_buf(), dir.path().join("aside"));
    fs::create_dir(&aside).expect("a folder");
    for (gone, of_young, of_old) in CASES {
        let what = format!("{age:?}, without {gone:?}");
        println!("{what}");
        gone.iter().for_each(|gone| gone.remove(&data, &aside));
        let must = if age == Age::Young { *of_young } else { *of_old };
        // A refusal must not make the next start think better of it.
        let tries = if matches!(must, Refuse(..)) { 2 } else { 1 };
        for _ in 0..tries {
            let expected = if must == BeginAnew { 0 } else { history.len() };
            let outcome = start_and_read(&mut server, expected).await;
            server.kill();
            judge(&what, must, outcome, &history);
        }
        gone.iter().for_each(|gone| gone.bring_back(&data, &aside));
    }
}

fn judge(what: &str, must: Must, outcome: Outcome, history: &History) {
    match (must, outcome) {
        (Serve, Outcome::Served(there)) => assert!(*there == *history, "{what}: {} events", there.len()),
        (BeginAnew, Outcome::Served(there)) => assert!(there.is_empty(), "{what}: {} events", there.len()),
        (Refuse(code, words), Outcome::Refused(found, log)) => {
            let last = log.lines().last().unwrap_or("").replace("\\\"", "\"");
            assert_eq!(found, code, "{what}: {last}");
            for word in words {
                assert!(last.contains(word), "{what}: no {word} in {last}");
            }
        }
        (must, outcome) => panic!("{what}: {must:?} expected: {outcome:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_that_never_made_a_checkpoint() {
    check(Age::Young).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_server_whose_log_no_longer_has_its_beginning() {
    check(Age::Old).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_wal_dir_than_the_one_the_log_was_begun_in() {
    let dir = directory();
    let mut server = options(dir.path()).start();
    let history = young(&server).await;
    server.kill();
    let wal = dir.path().join("elsewhere");
    let mut server = options(dir.path()).arg(format!("--wal-dir={}", wal.display())).spawn();
    let status = server.wait_exit(std::time::Duration::from_secs(10));
    assert_eq!(status.code(), Some(LOG), "{}", server.log());
    assert!(server.log().contains("elsewhere"), "{}", server.log());
    let mut server = options(dir.path()).spawn();
    judge("its own", Serve, start_and_read(&mut server, history.len()).await, &history);
}

/// A start may die between any two steps of beginning a log, and the next one goes on.
#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_that_dies_can_be_repeated() {
    let points = [
        "segment-before-sync",
        "segment-before-rename",
        "segment-after-rename",
        "log-before-begun",
        "log-after-begun",
        "log-before-submit",
    ];
    for point in points {
        let dir = directory();
        let mut server = options(dir.path()).env("RINGD_FAILPOINTS", &format!("{point}=1")).spawn();
        server.wait_exit(std::time::Duration::from_secs(10));
        assert!(!server.log().contains("ready to serve client requests"), "{point}");
        // The same server again: with another peer URL it would be another member.
        server.remove_env("RINGD_FAILPOINTS");
        server.restart();
        let history = young(&server).await;
        server.kill();
        judge(point, Serve, start_and_read(&mut server, history.len()).await, &history);
    }
}
