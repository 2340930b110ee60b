//! Random work against ordered maps: the safe twin of the page table and everything above it.
//!
//! Every state the tree can be asked for is compared row by row: the writer's, each pinned version (however much was
//! written, checkpointed and reclaimed since), and what a crash at any point of a checkpoint leaves behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Checkpoint, Cursor, Reader, Snapshot, Table, Tree, verify};
use super::support::{CONFIG, TestFile, writes};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
type Model = BTreeMap<Table, Rows>;

const TABLES: [Table; 2] = [Table::History, Table::Keys];

#[derive(Clone, Debug)]
enum Op {
    Put { table: usize, key: Vec<u8>, value: Vec<u8> },
    Append { count: usize, len: usize },
    Remove { table: usize, key: Vec<u8> },
    RemoveRange { table: usize, from: Vec<u8>, count: usize },
    Update { table: usize, key: Vec<u8>, byte: u8 },
    Publish { keep: bool },
    Unpin(prop::sample::Index),
    Begin,
    End,
    Abandon,
    Crash { seed: u64, meta: bool },
    Reopen,
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    let short = prop::collection::vec(b'a'..=b'e', 0..5);
    // Separators of these are as long: few to a branch, many levels, and beyond the limit in runs.
    let long = (0..60u8, prop_oneof![4 => Just(900usize), 1 => Just(1000), 1 => Just(6000)]).prop_map(
        |(tail, len)| {
            let mut key = vec![b'c'; len];
            key.push(tail);
            key
        },
    );
    prop_oneof![2 => short, 1 => long]
}

fn values() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![6 => 0usize..40, 4 => 200usize..1200, 1 => 1900usize..2200, 1 => 4000usize..20_000];
    (len, any::<u8>()).prop_map(|(len, byte)| (0..len).map(|at| byte.wrapping_add(at as u8)).collect())
}

fn ops() -> impl Strategy<Value = Op> {
    let table = || 0..TABLES.len();
    prop_oneof![
        30 => (table(), keys(), values()).prop_map(|(table, key, value)| Op::Put { table, key, value }),
        3 => (1usize..60, 0usize..300).prop_map(|(count, len)| Op::Append { count, len }),
        8 => (table(), keys()).prop_map(|(table, key)| Op::Remove { table, key }),
        3 => (table(), keys(), 0usize..80).prop_map(|(table, from, count)| Op::RemoveRange { table, from, count }),
        4 => (table(), keys(), any::<u8>()).prop_map(|(table, key, byte)| Op::Update { table, key, byte }),
        8 => any::<bool>().prop_map(|keep| Op::Publish { keep }),
        4 => any::<prop::sample::Index>().prop_map(Op::Unpin),
        3 => Just(Op::Begin),
        3 => Just(Op::End),
        1 => Just(Op::Abandon),
        1 => (any::<u64>(), any::<bool>()).prop_map(|(seed, meta)| Op::Crash { seed, meta }),
        1 => Just(Op::Reopen),
    ]
}

/// The tree under test, and what it must look like.
struct World {
    file: Arc<TestFile>,
    tree: Tree,
    now: Model,
    published: Model,
    pinned: Vec<(Snapshot, Model)>,
    /// The state in the file.
    durable: Model,
    running: Option<(Checkpoint, Model)>,
    appended: u64,
    starts: u16,
}

impl World {
    fn new() -> World {
        let file = TestFile::new();
        let mut tree = Tree::create(CONFIG, file.clone());
        assert!(file.checkpoint(&mut tree));
        let model: Model = TABLES.map(|table| (table, Rows::new())).into();
        World {
            file,
            tree,
            now: model.clone(),
            published: model.clone(),
            pinned: Vec::new(),
            durable: model,
            running: None,
            appended: 0,
            starts: 0,
        }
    }

    fn rows(&mut self, table: usize) -> &mut Rows {
        self.now.get_mut(&TABLES[table]).unwrap()
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Put { table, key, value } => self.put(table, key, value),
            Op::Append { count, len } => (0..count).for_each(|_| self.append(len)),
            Op::Remove { table, key } => self.remove(table, &key),
            Op::RemoveRange { table, from, count } => {
                let keys: Vec<_> =
                    self.rows(table).range(from..).take(count).map(|(key, _)| key.clone()).collect();
                keys.iter().for_each(|key| self.remove(table, key));
            }
            Op::Update { table, key, byte } => {
                let there = self.tree.update(TABLES[table], &key, |value| value.fill(byte)).unwrap();
                let row = self.rows(table).get_mut(&key);
                assert_eq!(there, row.is_some());
                row.into_iter().for_each(|value| value.fill(byte));
            }
            Op::Publish { keep } => {
                let snapshot = self.tree.publish();
                self.published = self.now.clone();
                if keep {
                    self.pinned.push((snapshot, self.now.clone()));
                }
            }
            Op::Unpin(which) => {
                if !self.pinned.is_empty() {
                    self.pinned.swap_remove(which.index(self.pinned.len()));
                }
                self.tree.reclaim();
            }
            Op::Begin => self.begin(),
            Op::End => self.end(),
            Op::Abandon => {
                if let Some((checkpoint, _)) = self.running.take() {
                    self.tree.abandon_checkpoint(checkpoint);
                }
            }
            Op::Crash { seed, meta } => self.crash(seed, meta),
            Op::Reopen => {
                let image = self.file.bytes();
                let durable = self.durable.clone();
                self.open(image, &[durable]);
            }
        }
    }

    fn put(&mut self, table: usize, key: Vec<u8>, value: Vec<u8>) {
        let (left, right) = value.split_at(value.len() / 3);
        self.tree.put(TABLES[table], &key, &[left, &[], right]).unwrap();
        self.rows(table).insert(key, value);
    }

    fn append(&mut self, len: usize) {
        self.appended += 1;
        let key = [b"z".as_slice(), &self.appended.to_be_bytes()].concat();
        self.put(0, key, vec![self.appended as u8; len]);
    }

    fn remove(&mut self, table: usize, key: &[u8]) {
        let there = self.tree.remove(TABLES[table], key).unwrap();
        assert_eq!(there, self.rows(table).remove(key).is_some());
    }

    fn begin(&mut self) {
        if self.running.is_none() {
            self.tree.publish();
            self.published = self.now.clone();
            self.running = self.tree.begin_checkpoint().map(|checkpoint| (checkpoint, self.now.clone()));
        }
    }

    fn end(&mut self) {
        if let Some((mut checkpoint, state)) = self.running.take() {
            self.file.write(&mut checkpoint);
            self.tree.end_checkpoint(checkpoint);
            self.durable = state;
            let report = verify(&*self.file).unwrap();
            assert_eq!(report.findings, []);
        }
    }

    /// A crash in the middle of a checkpoint's writes: any subset of the unsynced sectors is lost.
    fn crash(&mut self, mut seed: u64, in_meta: bool) {
        let mut image = self.file.bytes();
        self.begin();
        let mut possible = vec![self.durable.clone()];
        if let Some((mut checkpoint, state)) = self.running.take() {
            let mut lose = || {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                seed >> 62 == 0
            };
            for (page, bytes) in writes(&mut checkpoint) {
                write_some(&mut image, page.offset() as usize, &bytes, || !in_meta && lose());
            }
            if in_meta {
                let (page, bytes) = checkpoint.meta();
                write_some(&mut image, page.offset() as usize, &bytes, &mut lose);
                possible.push(state);
            }
        }
        self.open(image, &possible);
    }

    /// The process ends, another opens what is in the file.
    fn open(&mut self, image: Vec<u8>, possible: &[Model]) {
        self.pinned.clear();
        self.running = None;
        self.starts += 1;
        self.file = TestFile::with(&image);
        self.tree =
            Tree::open(super::super::Config { nonce: self.starts, ..CONFIG }, self.file.clone()).unwrap();
        let found = read_all(self.tree.reader());
        assert!(possible.contains(&found), "the file opened to a state that never was to be durable");
        self.now = found.clone();
        self.published = found.clone();
        self.durable = found;
    }

    fn check(&self) {
        check_reader(self.tree.reader(), &self.now);
        let guard = crossbeam::epoch::pin();
        for (snapshot, state) in &self.pinned {
            check_reader(snapshot.reader(&guard), state);
        }
        self.tree.check();
    }
}

/// Writes the sectors that are not lost.
fn write_some(image: &mut Vec<u8>, offset: usize, bytes: &[u8], mut lose: impl FnMut() -> bool) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    for (at, sector) in bytes.chunks(512).enumerate() {
        if !lose() {
            image[offset + at * 512..][..sector.len()].copy_from_slice(sector);
        }
    }
}

fn read_all(reader: Reader<'_>) -> Model {
    let rows = |table| {
        let (mut cursor, mut rows) = (reader.cursor(table), Rows::new());
        let mut more = cursor.seek_first().unwrap();
        while more {
            rows.insert(cursor.key().to_vec(), cursor.value().unwrap().to_vec());
            more = cursor.next().unwrap();
        }
        rows
    };
    TABLES.map(|table| (table, rows(table))).into()
}

fn check_reader(reader: Reader<'_>, state: &Model) {
    for (table, rows) in state {
        check_forward(&mut reader.cursor(*table), rows);
        check_backward(&mut reader.cursor(*table), rows);
        check_seeks(reader, *table, rows);
    }
}

fn check_forward(cursor: &mut Cursor<'_>, rows: &Rows) {
    let mut more = cursor.seek_first().unwrap();
    for (key, value) in rows {
        assert!(
            more && cursor.key() == key
                && cursor.value().unwrap() == value
                && cursor.value_len() == value.len()
        );
        more = cursor.next().unwrap();
    }
    assert!(!more && !cursor.is_valid());
}

fn check_backward(cursor: &mut Cursor<'_>, rows: &Rows) {
    let mut more = cursor.seek_last().unwrap();
    for (key, value) in rows.iter().rev() {
        assert!(more && cursor.key() == key && cursor.value().unwrap() == value);
        more = cursor.prev().unwrap();
    }
    assert!(!more && !cursor.is_valid());
}

/// Probes at, before and after every tenth key, in an order that goes back and forth.
fn check_seeks(reader: Reader<'_>, table: Table, rows: &Rows) {
    let mut cursor = reader.cursor(table);
    let mut probes: Vec<Vec<u8>> = vec![vec![], vec![0xff]];
    for key in rows.keys().step_by(10) {
        probes.push(key.clone());
        probes.push([key.as_slice(), &[0]].concat());
        probes.insert(probes.len() / 2, key[..key.len().saturating_sub(1)].to_vec());
    }
    let weighs = |value: &Vec<u8>| table != Table::Keys || value.first().is_some_and(|byte| byte & 1 == 1);
    for probe in &probes {
        assert_eq!(reader.get(table, probe).unwrap(), rows.get(probe).map(Vec::as_slice));
        let at = cursor.seek(probe).unwrap().then(|| cursor.key());
        assert_eq!(at, rows.range(probe.clone()..).next().map(|(key, _)| key.as_slice()));
        let at = cursor.seek_for_prev(probe).unwrap().then(|| cursor.key());
        assert_eq!(at, rows.range(..=probe.clone()).next_back().map(|(key, _)| key.as_slice()));
        let count = rows.range(probe.clone()..).filter(|(_, value)| weighs(value)).count();
        assert_eq!(reader.count(table, probe, None).unwrap(), count as u64);
        let until = probes[probes.len() / 3].clone();
        if *probe <= until {
            let count = rows.range(probe.clone()..until.clone()).filter(|(_, value)| weighs(value)).count();
            assert_eq!(reader.count(table, probe, Some(&until)).unwrap(), count as u64);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn tree_is_an_ordered_map_with_versions(ops in prop::collection::vec(ops(), 1..300)) {
        let mut world = World::new();
        for (at, op) in ops.into_iter().enumerate() {
            world.run(op);
            world.tree.check();
            if at % 16 == 0 {
                world.check();
            }
        }
        world.check();
        world.begin();
        world.end();
    }
}
