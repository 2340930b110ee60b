//! One flipped bit in each region of the log and of the tree file of a stopped server. What is damaged is never served,
//! and what may have been acknowledged is never dropped without a word: the server either has everything, or refuses
//! with the file, the offset and what to do.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consensus::log::record::Header;
pub use engine::tree::PAGE_SIZE;
use engine::tree::verify;
use ringd::edge::tree_file::TreeFile;
use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{PutRequest, RangeRequest, WatchCreateRequest, WatchRequest};
use testkit::{Client, Server};

use crate::{directory, options};

const LOG_DAMAGED: i32 = 20;
pub const TREE_DAMAGED: i32 = 21;

/// Revision to key and value: the whole history.
pub type History = BTreeMap<i64, (Vec<u8>, Vec<u8>)>;

/// How a start on damaged files ends.
#[derive(Debug)]
pub enum Outcome {
    /// It ended with this code and this log.
    Refused(i32, String),
    /// It served all of this.
    Served(Box<History>),
}

pub async fn put(client: &mut Client, history: &mut History, key: String, value: Vec<u8>) {
    let put = PutRequest { key: key.clone().into(), value: value.clone(), ..Default::default() };
    let answer = client.kv.put(put).await.expect("a put").into_inner();
    history.insert(answer.header.expect("a header").revision, (key.into_bytes(), value));
}

/// Everything the server has: all events since the first revision, and the present rows, which must agree.
async fn read_all(server: &Server, events: usize) -> Result<History, String> {
    let mut client = Client::connect(server.url()).await.map_err(|error| error.to_string())?;
    let all = RangeRequest { key: vec![0], range_end: vec![0], ..Default::default() };
    let rows = client.kv.range(all).await.map_err(|status| status.to_string())?.into_inner();
    let mut watch = client.open_watch();
    let create =
        WatchCreateRequest { key: vec![0], range_end: vec![0], start_revision: 1, ..Default::default() };
    watch.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
    let mut history = History::new();
    while history.len() < events {
        match tokio::time::timeout(Duration::from_secs(5), watch.next()).await {
            Ok(Ok(Some(answer))) => {
                for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                    history.insert(kv.mod_revision, (kv.key, kv.value));
                }
            }
            Ok(Ok(None)) => return Err("the watch ended".to_owned()),
            Ok(Err(status)) => return Err(status.to_string()),
            Err(_) => break, // fewer than expected: the caller sees it
        }
    }
    for kv in rows.kvs {
        let of_history = history.get(&kv.mod_revision);
        assert!(of_history == Some(&(kv.key, kv.value)), "a row that differs from the event that made it");
    }
    Ok(history)
}

/// Starts on what is there and reads everything.
pub async fn start_and_read(server: &mut Server, events: usize) -> Outcome {
    server.restart_unready();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.log().contains("ready to serve client requests") {
        if let Some(status) = server.exited() {
            return Outcome::Refused(status.code().unwrap_or(-1), server.log());
        }
        assert!(Instant::now() < deadline, "neither serves nor ends:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    match read_all(server, events).await {
        Ok(history) => Outcome::Served(Box::new(history)),
        Err(why) => {
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline {
                if let Some(status) = server.exited() {
                    return Outcome::Refused(status.code().unwrap_or(-1), server.log());
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            panic!("a read failed ({why}), and the server goes on:\n{}", server.log());
        }
    }
}

pub fn flip(file: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).expect("the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte there");
    file.write_all_at(&[byte[0] ^ 0x10], offset).expect("a changed byte");
}

/// What may follow a flip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    /// Nothing reads it, or something else says the same.
    ServeAll,
    /// Nothing else has it.
    Refuse,
    /// Either is right: it depends on what is read.
    Either,
}

/// A stopped server with its files.
struct Victim {
    server: Server,
    history: History,
    _dir: tempfile::TempDir,
}

impl Victim {
    /// Damages `file` at `offset`, looks at what becomes of it, and repairs it. True: it was refused.
    async fn damage(&mut self, file: &Path, offset: u64, region: &str, must: Must, codes: &[i32]) -> bool {
        flip(file, offset);
        let what = format!("{region}: a flip in {} at {offset}", file.display());
        let before = snapshot(self.server.data_dir());
        let outcome = start_and_read(&mut self.server, self.history.len()).await;
        self.server.kill();
        let refused = match outcome {
            Outcome::Served(history) => {
                assert_ne!(must, Must::Refuse, "{what}: it serves");
                let lost = self.history.keys().filter(|revision| !history.contains_key(revision)).count();
                assert!(*history == self.history, "{what}: {lost} of {} events lost", self.history.len());
                false
            }
            Outcome::Refused(code, log) => {
                assert_ne!(must, Must::ServeAll, "{what}: exit {code}\n{log}");
                assert!(codes.contains(&code), "{what}: exit {code}\n{log}");
                let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
                let last = log.lines().last().unwrap_or("");
                assert!(last.contains(name) && last.contains("offset"), "{what}: file and offset: {log}");
                assert!(last.contains("restore") || last.contains("backup"), "{what}: what to do: {log}");
                true
            }
        };
        restore(self.server.data_dir(), &before);
        flip(file, offset);
        refused
    }
}

/// The files of the log and the tree.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let log = fs::read_dir(data_dir.join("log")).expect("the log's directory");
    let segments = log.map(|entry| entry.expect("an entry").path());
    segments.chain([data_dir.join("tree")]).collect()
}

/// Path and contents of those files, so that one damage does not follow from another.
fn snapshot(data_dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let contents = |path: PathBuf| {
        let bytes = trimmed(fs::read(&path).expect("a file"));
        (path, bytes)
    };
    files(data_dir).into_iter().map(contents).collect()
}

/// Without the zeros at its end.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    bytes.truncate(end);
    bytes
}

fn restore(data_dir: &Path, before: &[(PathBuf, Vec<u8>)]) {
    for path in files(data_dir) {
        if before.iter().all(|(known, _)| *known != path) {
            fs::remove_file(path).expect("a file that was made since");
        }
    }
    for (path, bytes) in before {
        let length = fs::metadata(path).expect("a file").len();
        let file = OpenOptions::new().write(true).open(path).expect("a file");
        file.set_len(bytes.len() as u64).expect("cut");
        file.write_all_at(bytes, 0).expect("written back");
        file.set_len(length).expect("zeros behind it");
    }
}

/// The segment with the first batch, and where its batches are: offset and length.
pub fn batches(server: &Server) -> (PathBuf, Vec<(u64, u64)>) {
    let mut segments: Vec<PathBuf> = fs::read_dir(server.data_dir().join("log"))
        .expect("the log's directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
        .collect();
    segments.sort();
    let segment = segments.remove(0);
    let bytes = fs::read(&segment).expect("a segment");
    let (mut found, mut at) = (Vec::new(), 0);
    while let Ok(header) = Header::decode(&bytes[at..]) {
        found.push((at as u64, u64::from(header.len)));
        at += header.len as usize;
    }
    (segment, found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_each_region_of_the_log() {
    let dir = directory();
    let mut server = options(dir.path()).start();
    let mut client = server.client().await;
    let mut history = History::new();
    for i in 0..120 {
        put(&mut client, &mut history, format!("k{:02}", i % 50), vec![b'v'; 5_000]).await;
    }
    // Longer than the log takes to mark its last batch as durable.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    let (segment, batches) = batches(&server);
    assert!(batches.len() > 60, "{} batches", batches.len());
    let mut victim = Victim { server, history, _dir: dir };
    let (first, middle) = (batches[0], batches[batches.len() / 2]);
    let (marker, last) = (batches[batches.len() - 1], batches[batches.len() - 2]);
    let end = marker.0 + marker.1;
    let refuse = [
        ("the magic of the first batch", first.0),
        ("the checksum of the first header", first.0 + 157),
        ("the records of the first batch", first.0 + 170),
        ("the length in a middle header", middle.0 + 81),
        ("the chain in a middle header", middle.0 + 149),
        ("a record header in the middle", middle.0 + 168),
        ("a value in the middle", middle.0 + 3_000),
        ("the second block of a batch in the middle", middle.0 + 4_200),
        ("the header of the last batch", last.0 + 100),
        ("the records of the last batch", last.0 + 400),
    ];
    for (region, offset) in refuse {
        victim.damage(&segment, offset, region, Must::Refuse, &[LOG_DAMAGED]).await;
    }
    let serve = [
        ("the padding of a batch in the middle", middle.0 + middle.1 - 1),
        ("the header of the marker", marker.0 + 50),
        ("the padding of the marker", marker.0 + 2_000),
        ("behind the end", end + 10),
        ("far behind the end", end + 500_000),
    ];
    for (region, offset) in serve {
        victim.damage(&segment, offset, region, Must::ServeAll, &[]).await;
    }
    let Outcome::Served(history) = start_and_read(&mut victim.server, victim.history.len()).await else {
        panic!("the repaired log is refused:\n{}", victim.server.log());
    };
    assert!(*history == victim.history, "the repaired log holds all");
}

/// A page of the tree file by the kind in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Branch = 1,
    Leaf = 2,
    Run = 3,
}

pub struct Tree {
    bytes: Vec<u8>,
    /// Slot of the newest meta.
    pub newest: usize,
    bitmap: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

impl Tree {
    pub fn read(path: &Path) -> Tree {
        let bytes = fs::read(path).expect("the tree file");
        let checkpoint = |slot: usize| u32_at(&bytes, slot * PAGE_SIZE + 64);
        let newest = usize::from(checkpoint(1) > checkpoint(0));
        let bitmap = u32_at(&bytes, newest * PAGE_SIZE + 84);
        Tree { newest, bitmap, bytes }
    }

    /// Whether the newest checkpoint reaches this page.
    fn is_live(&self, page: usize) -> bool {
        let bits = &self.bytes[self.bitmap * PAGE_SIZE + 32..];
        bits[page / 8] & (1 << (page % 8)) != 0
    }

    pub fn live_pages(&self, kind: Kind) -> Vec<usize> {
        let is_whole = |page: usize| {
            let header = &self.bytes[page * PAGE_SIZE..];
            u32_at(header, 4) == page && header[16] == kind as u8
        };
        let pages = (2..self.bytes.len() / PAGE_SIZE).filter(|page| self.is_live(*page) && is_whole(*page));
        let pages: Vec<usize> = pages.collect();
        assert!(pages.len() >= 3, "{} pages of kind {kind:?}", pages.len());
        pages
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_each_region_of_the_tree() {
    let dir = directory();
    let mut server = options(dir.path()).start();
    let mut client = server.client().await;
    let mut history = History::new();
    let path = server.data_dir().join("tree");
    let mut i = 0;
    // Until both metas are written, and the log does not reach down to the first checkpoint any more.
    while metas(&path) < 3 {
        let value = if i % 40 == 0 { 30_000 } else { 900 };
        put(&mut client, &mut history, format!("k{:04}", (i * 7) % 1000), vec![(i % 251) as u8; value]).await;
        i += 1;
        assert!(i < 50_000, "no third checkpoint after {i} puts");
    }
    server.kill();
    let tree = Tree::read(&path);
    let at = |page: usize, offset: usize| (page * PAGE_SIZE + offset) as u64;
    let mut victim = Victim { server, history, _dir: dir };
    let mut found = Vec::new();
    let codes = [TREE_DAMAGED];
    for kind in [Kind::Branch, Kind::Leaf, Kind::Run] {
        let pages = tree.live_pages(kind);
        let chosen = [pages[0], pages[pages.len() / 2], pages[pages.len() - 1]];
        let mut refused = 0;
        for (page, offset) in chosen.into_iter().zip([5, 700, 4_000]) {
            let region = format!("{kind:?} page {page}");
            assert_found(victim.server.data_dir(), &path, at(page, offset), &region);
            refused += u32::from(victim.damage(&path, at(page, offset), &region, Must::Either, &codes).await);
        }
        found.push((kind, refused));
    }
    println!("refused of 3 each: {found:?}");
    assert!(found.iter().all(|(_, refused)| *refused > 0), "reads find damage of each kind: {found:?}");
    assert_found(victim.server.data_dir(), &path, at(tree.bitmap, 60), "the bitmap");
    victim.damage(&path, at(tree.bitmap, 60), "the bitmap", Must::Refuse, &codes).await;
    for slot in [tree.newest, 1 - tree.newest] {
        assert_found(victim.server.data_dir(), &path, at(slot, 100), "a meta");
        let region = format!("meta {slot}, the newest is {}", tree.newest);
        victim.damage(&path, at(slot, 100), &region, Must::Either, &codes).await;
    }
    let free = (2..tree.bytes.len() / PAGE_SIZE).rfind(|page| !tree.is_live(*page)).expect("a free page");
    victim.damage(&path, at(free, 123), "a free page", Must::ServeAll, &[]).await;
    // Both metas: nothing says any more what there was. The log still goes back to the beginning, so it may say all.
    flip(&path, at(1 - tree.newest, 100));
    let codes = [LOG_DAMAGED, TREE_DAMAGED];
    victim.damage(&path, at(tree.newest, 100), "both metas", Must::Either, &codes).await;
    flip(&path, at(1 - tree.newest, 100));
    without_the_beginning_of_the_log(victim).await;
}

/// Once the log's first segment was used again, nothing but the tree file has what came first.
async fn without_the_beginning_of_the_log(mut victim: Victim) {
    let path = victim.server.data_dir().join("tree");
    victim.server.restart();
    let mut client = victim.server.client().await;
    let (segment, before) = batches(&victim.server);
    let first = |segment: &Path| fs::read(segment).map(|bytes| bytes[..4096].to_vec()).expect("a segment");
    let (first_before, mut puts) = (first(&segment), 0);
    while first(&segment) == first_before {
        let put = PutRequest { key: "big".into(), value: vec![1; 1_000_000], ..Default::default() };
        client.kv.put(put).await.expect("a put");
        puts += 1;
        assert!(puts < 300, "{} batches in {}: not used again", before.len(), segment.display());
    }
    victim.server.kill();
    for slot in [0, 1] {
        flip(&path, slot * PAGE_SIZE as u64 + 100);
    }
    match start_and_read(&mut victim.server, victim.history.len()).await {
        Outcome::Refused(TREE_DAMAGED, log) => {
            let last = log.lines().last().unwrap_or("");
            for text in ["/tree ", "offset", "restore"] {
                assert!(last.contains(text), "{text}: {last}");
            }
        }
        other => panic!("both metas damaged, and the log does not go back: {other:?}"),
    }
}

/// Number of the newest checkpoint in the file.
fn metas(path: &Path) -> usize {
    let Ok(bytes) = fs::File::open(path).and_then(|file| {
        let mut bytes = vec![0; 2 * PAGE_SIZE];
        file.read_exact_at(&mut bytes, 0).map(|()| bytes)
    }) else {
        return 0; // not that long yet
    };
    u32_at(&bytes, 64).max(u32_at(&bytes, PAGE_SIZE + 64))
}

/// `store check` finds this flip, wherever reads go.
fn assert_found(data_dir: &Path, path: &Path, offset: u64, region: &str) {
    flip(path, offset);
    let (tree, _) = TreeFile::open(data_dir).expect("the tree file");
    let found = match verify(&*tree) {
        Ok(report) => report.finding_count > 0,
        Err(_) => true,
    };
    flip(path, offset);
    assert!(found, "{region}: a flip at {offset} is not found by a check of the file");
}
