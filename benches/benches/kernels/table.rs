//! The tree beside LMDB (through `heed`): the same rows, the same operations, the same random numbers, in one process.
//!
//! Two tables as the store has them: `history` (revision, 16 B → row of 256 B) and `keys` (user key of 35 B → 24 B with
//! the revision). 200 000 keys, loaded in key order, with revisions in another order, so that both tables are touched in
//! random places. Sizes are far below the memory: everything is in the page cache, nobody waits for a disk.
//!
//! - *get*: the key's row in `keys`, then its row in `history`. One snapshot, one read transaction for all gets.
//! - *scan*: 10 000 rows of `history` from a random one on.
//! - *update*: 100 random keys, both tables each, then commit.
//!
//! LMDB commits without syncs (`MDB_NOSYNC`) and without `MDB_WRITEMAP`: changed pages go to the page cache with
//! `pwrite`, which is what the tree's checkpoint does. The server's tree commits into memory (`publish`) and is written
//! by a checkpoint every now and then, because the log holds what is newer; LMDB writes at each commit. So the tree has
//! two updates here: as the server does it, and with a checkpoint (not synced either) after each batch, which is like for
//! like. The tree checks a checksum for each page it reads from the file the first time; LMDB has none.

use std::fs::File;
use std::hint::black_box;
use std::ops::Bound;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use crossbeam::epoch;
use engine::tree::{Map, PAGE_SIZE, PageId, Table, Tree};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, PutFlags};
use memmap2::Mmap;
use tempfile::TempDir;

const KEYS: u64 = 200_000;
const VALUE_SIZE: usize = 256;
const BATCH: u64 = 100;
const SCAN_ROWS: u64 = 10_000;
/// Room for the rows, for what is free and for half-full pages; the files stay sparse.
const FILE_SIZE: usize = 1 << 30;

fn user_key(number: u64) -> String {
    format!("/registry/pods/default/pod-{number:08}")
}

/// The revision of a key: a permutation of the numbers below `KEYS` (the factor is prime, and no divisor of it).
fn revision(number: u64) -> u64 {
    number * 123_457 % KEYS
}

fn history_key(revision: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key
}

/// Flags (bit 0: the key is alive), then the revision.
fn keys_value(number: u64) -> [u8; 24] {
    let mut value = [1; 24];
    value[8..].copy_from_slice(&history_key(revision(number)));
    value
}

fn history_value(seed: u64) -> [u8; VALUE_SIZE] {
    let mut value = [b'x'; VALUE_SIZE];
    value[..8].copy_from_slice(&seed.to_le_bytes());
    value
}

/// Xorshift: the same numbers for both.
struct Random(u64);

impl Random {
    fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

struct FileMap {
    file: File,
    map: Mmap,
}

impl Map for FileMap {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let start = usize::try_from(first.offset()).ok()?;
        self.map.get(start..start + count as usize * PAGE_SIZE)
    }
}

struct TreeFile {
    tree: Tree,
    file: Arc<FileMap>,
    buffer: Vec<u8>,
}

impl TreeFile {
    fn load(dir: &TempDir) -> TreeFile {
        let path = dir.path().join("tree");
        let file = File::options().read(true).write(true).create_new(true).open(path).expect("a new file");
        file.set_len(FILE_SIZE as u64).expect("a sparse file");
        // SAFETY: nobody else has the file, it is never cut, and pages that the tree still reads are not written by its
        // checkpoints (the contract of `Map`).
        let map = unsafe { Mmap::map(&file) }.expect("address space");
        let file = Arc::new(FileMap { file, map });
        let tree = Tree::create(Default::default(), file.clone());
        let mut loaded = TreeFile { tree, file, buffer: Vec::new() };
        for number in 0..KEYS {
            loaded.put(Table::Keys, user_key(number).as_bytes(), &keys_value(number));
            loaded.put(Table::History, &history_key(number), &history_value(number));
        }
        loaded.publish();
        loaded.checkpoint();
        loaded
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.tree.put(table, key, &[value]).expect("no damage");
    }

    fn publish(&mut self) {
        self.tree.publish();
        self.tree.reclaim();
        epoch::pin().flush();
    }

    /// As the server does it, without the syncs.
    fn checkpoint(&mut self) {
        let mut checkpoint = self.tree.begin_checkpoint().expect("something has changed");
        assert!(checkpoint.file_pages() as usize <= FILE_SIZE / PAGE_SIZE, "the tree outgrew its file");
        while let Some(page) = checkpoint.fill(&mut self.buffer, 1 << 20) {
            self.file.file.write_all_at(&self.buffer, page.offset()).expect("room in the file");
            self.buffer.clear();
        }
        let (page, meta) = checkpoint.meta();
        self.file.file.write_all_at(&meta[..], page.offset()).expect("room in the file");
        self.tree.end_checkpoint(checkpoint);
    }

    fn update(&mut self, random: &mut Random) {
        for _ in 0..BATCH {
            let number = random.below(KEYS);
            self.put(Table::History, &history_key(revision(number)), &history_value(random.0));
            self.put(Table::Keys, user_key(number).as_bytes(), &keys_value(number));
        }
        self.publish();
    }
}

type Rows = Database<'static, Bytes, Bytes>;

struct Lmdb {
    env: Env,
    history: Rows,
    keys: Rows,
}

impl Lmdb {
    fn load(dir: &TempDir) -> heed::Result<Lmdb> {
        let mut options = EnvOpenOptions::new();
        options.map_size(FILE_SIZE).max_dbs(2);
        // SAFETY: the files are new, nobody else has them, and after a crash they are not used again.
        let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(dir.path())? };
        let made = env.create_databases_and_commit(env.write_txn()?, |open, txn| {
            let history = open.create_database::<Bytes, Bytes>(txn, Some("history"))?;
            let keys = open.create_database::<Bytes, Bytes>(txn, Some("keys"))?;
            heed::Result::Ok(CommitOrAbort::<_, ()>::Commit((history, keys)))
        });
        let (history, keys) = made?.unwrap_commit();
        let mut txn = env.write_txn()?;
        // In order, so that its pages are full.
        for number in 0..KEYS {
            let (flags, key) = (PutFlags::APPEND, user_key(number));
            keys.put_with_flags(&mut txn, flags, key.as_bytes(), &keys_value(number))?;
            history.put_with_flags(&mut txn, flags, &history_key(number), &history_value(number))?;
        }
        txn.commit()?;
        Ok(Lmdb { env, history, keys })
    }

    fn update(&mut self, random: &mut Random) -> heed::Result<()> {
        let mut txn = self.env.write_txn()?;
        for _ in 0..BATCH {
            let number = random.below(KEYS);
            let value = history_value(random.0);
            self.history.put(&mut txn, &history_key(revision(number)), &value)?;
            self.keys.put(&mut txn, user_key(number).as_bytes(), &keys_value(number))?;
        }
        txn.commit()
    }
}

fn get(criterion: &mut Criterion, tree: &mut TreeFile, lmdb: &Lmdb) {
    let mut group = criterion.benchmark_group("table: random get");
    let snapshot = tree.tree.publish();
    let guard = epoch::pin();
    let reader = snapshot.reader(&guard);
    let mut random = Random::new();
    group.bench_function("tree", |bench| {
        bench.iter(|| {
            let key = user_key(random.below(KEYS));
            let found = reader.get(Table::Keys, key.as_bytes()).expect("no damage").expect("a key");
            let row = reader.get(Table::History, &found[8..]).expect("no damage").expect("a row");
            assert_eq!(row.len(), VALUE_SIZE);
            black_box(row[0])
        });
    });
    let txn = lmdb.env.read_txn().expect("a reader's slot");
    let mut random = Random::new();
    group.bench_function("LMDB", |bench| {
        bench.iter(|| {
            let key = user_key(random.below(KEYS));
            let found = lmdb.keys.get(&txn, key.as_bytes()).expect("no error").expect("a key");
            let row = lmdb.history.get(&txn, &found[8..]).expect("no error").expect("a row");
            assert_eq!(row.len(), VALUE_SIZE);
            black_box(row[0])
        });
    });
    group.finish();
}

fn scan(criterion: &mut Criterion, tree: &mut TreeFile, lmdb: &Lmdb) {
    let mut group = criterion.benchmark_group("table: scan of 10 000 rows");
    group.throughput(Throughput::Elements(SCAN_ROWS));
    let snapshot = tree.tree.publish();
    let guard = epoch::pin();
    let reader = snapshot.reader(&guard);
    let mut random = Random::new();
    group.bench_function("tree", |bench| {
        bench.iter(|| {
            let start = random.below(KEYS - SCAN_ROWS);
            let mut cursor = reader.cursor(Table::History);
            let mut valid = cursor.seek(&history_key(start)).expect("no damage");
            let (mut rows, mut sum) = (0, 0);
            while valid && rows < SCAN_ROWS {
                sum += cursor.key().len() as u64 + u64::from(cursor.value().expect("no damage")[0]);
                rows += 1;
                valid = cursor.next().expect("no damage");
            }
            assert_eq!(rows, SCAN_ROWS);
            sum
        });
    });
    let txn = lmdb.env.read_txn().expect("a reader's slot");
    let mut random = Random::new();
    group.bench_function("LMDB", |bench| {
        bench.iter(|| {
            let start = history_key(random.below(KEYS - SCAN_ROWS));
            let range: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(&start), Bound::Unbounded);
            let (mut rows, mut sum) = (0, 0);
            for row in lmdb.history.range(&txn, &range).expect("no error").take(SCAN_ROWS as usize) {
                let (key, value) = row.expect("no error");
                sum += key.len() as u64 + u64::from(value[0]);
                rows += 1;
            }
            assert_eq!(rows, SCAN_ROWS);
            sum
        });
    });
    group.finish();
}

fn update(criterion: &mut Criterion, tree: &mut TreeFile, lmdb: &mut Lmdb) {
    let mut group = criterion.benchmark_group("table: update of 100 random keys in both tables");
    group.throughput(Throughput::Elements(BATCH));
    let mut random = Random::new();
    group.bench_function("tree, published", |bench| bench.iter(|| tree.update(&mut random)));
    tree.checkpoint();
    group.bench_function("tree, published and written", |bench| {
        bench.iter(|| {
            tree.update(&mut random);
            tree.checkpoint();
        });
    });
    let mut random = Random::new();
    group.bench_function("LMDB, committed and written", |bench| {
        bench.iter(|| lmdb.update(&mut random).expect("room in the file"));
    });
    group.finish();
}

/// Time per get, per scan and per batch; criterion's `elem` are rows of the scan and keys of the batch.
pub fn table(criterion: &mut Criterion) {
    let (tree_dir, lmdb_dir) = (tempfile::tempdir().expect("a place"), tempfile::tempdir().expect("a place"));
    let mut tree = TreeFile::load(&tree_dir);
    let mut lmdb = Lmdb::load(&lmdb_dir).expect("a new environment");
    get(criterion, &mut tree, &lmdb);
    scan(criterion, &mut tree, &lmdb);
    update(criterion, &mut tree, &mut lmdb);
}
