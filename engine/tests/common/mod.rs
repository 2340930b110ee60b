//! What the engine's tests share.
#![allow(dead_code)] // each test binary uses a part

pub mod model;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam::epoch;
use engine::tree::{Map, PAGE_SIZE, PageId, Tree};
use engine::{
    Compare, CompareResult, CompareTarget, Config, DeleteOptions, LeaseId, Op, PutOptions, RangeOptions,
    Store, Txn, View,
};

/// A file that was never checkpointed to.
pub struct NoFile;

impl Map for NoFile {
    fn pages(&self, _first: PageId, _count: u32) -> Option<&[u8]> {
        None
    }
}

pub fn config() -> Config {
    Config { tree: Default::default(), lease_ttl_s_min: 2 }
}

pub fn store() -> Store {
    Store::create(config(), Arc::new(NoFile))
}

pub fn put(key: &str, value: &str) -> PutOptions {
    PutOptions { key: bytes(key), value: bytes(value), ..Default::default() }
}

pub fn delete(key: &str) -> DeleteOptions {
    DeleteOptions { key: bytes(key), ..Default::default() }
}

pub fn range(key: &str, range_end: &str) -> RangeOptions {
    RangeOptions { key: bytes(key), range_end: bytes(range_end), ..Default::default() }
}

pub fn txn(compare: Vec<Compare>, success: Vec<Op>, failure: Vec<Op>) -> Txn {
    Txn { compare, success, failure }
}

pub fn compare(key: &str, target: CompareTarget, result: CompareResult) -> Compare {
    Compare { key: bytes(key), range_end: Bytes::new(), target, result }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn with_lease(put: PutOptions, lease: i64) -> PutOptions {
    PutOptions { lease: LeaseId(lease), ..put }
}

/// Everything a Range answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub revision: i64,
    pub count: i64,
    pub more: bool,
    /// Encoded `KeyValue`s.
    pub kvs: Vec<Vec<u8>>,
}

impl Answer {
    /// Rows as `key=value@mod`, in order.
    pub fn brief(&self) -> String {
        let rows = self.kvs.iter().map(|kv| {
            let kv = engine::row::KeyValue::decode(kv).unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            format!("{}={}@{}", text(kv.key), text(kv.value), kv.mod_revision)
        });
        rows.collect::<Vec<_>>().join(" ")
    }
}

/// Reads a range through a view, filling in pieces of `piece` bytes.
pub fn read(view: &Arc<View>, options: &RangeOptions, piece: usize) -> Result<Answer, engine::RangeError> {
    let mut answer = view.range(&epoch::pin(), options)?;
    let mut out = Vec::new();
    while !answer.fill(&epoch::pin(), piece, &mut out).unwrap() {}
    assert_eq!(out.len() as u64, answer.kvs_len(), "the length was told before: {options:?}");
    let (revision, count, more) = (answer.revision(), answer.count(), answer.more());
    Ok(Answer { revision, count, more, kvs: split_kvs(&out) })
}

/// Cuts `RangeResponse.kvs` into its rows.
pub fn split_kvs(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rows = Vec::new();
    while let Some((&tag, rest)) = bytes.split_first() {
        assert_eq!(tag, 0x12);
        let (mut len, mut shift, mut at) = (0usize, 0, 0);
        loop {
            len |= usize::from(rest[at] & 0x7f) << shift;
            shift += 7;
            at += 1;
            if rest[at - 1] < 0x80 {
                break;
            }
        }
        rows.push(rest[at..at + len].to_vec());
        bytes = &rest[at + len..];
    }
    rows
}

/// A file in memory that a map shows and checkpoints are written to.
pub struct Disk {
    file: tempfile::NamedTempFile,
    map: Arc<Mapped>,
}

struct Mapped(memmap2::Mmap);

impl Map for Mapped {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let start = usize::try_from(first.offset()).ok()?;
        self.0.get(start..start.checked_add(count as usize * PAGE_SIZE)?)
    }
}

impl Disk {
    /// An empty file, as long as it will ever be here.
    pub fn new() -> Disk {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        // SAFETY: the file is this process's alone and is never shortened; pages change only by checkpoints.
        let map = unsafe { memmap2::Mmap::map(file.as_file()) }.unwrap();
        Disk { file, map: Arc::new(Mapped(map)) }
    }

    /// The same bytes in another file.
    pub fn copy(&self) -> Disk {
        let copy = Disk::new();
        copy.file.as_file().write_all_at(&self.map.0, 0).unwrap();
        copy
    }

    pub fn map(&self) -> Arc<dyn Map> {
        self.map.clone()
    }

    /// Publishes and writes one whole checkpoint.
    pub fn checkpoint(&self, store: &mut Store) {
        store.publish().unwrap();
        self.write_checkpoint(store);
    }

    /// Writes a checkpoint of what was published last.
    pub fn write_checkpoint(&self, store: &mut Store) {
        self.checkpoint_tree(store.tree_mut());
    }

    /// Writes a checkpoint of a tree's last published version.
    pub fn checkpoint_tree(&self, tree: &mut Tree) {
        let Some(mut checkpoint) = tree.begin_checkpoint() else { return };
        let mut pages = vec![];
        while let Some(at) = checkpoint.fill(&mut pages, 1 << 20) {
            self.file.as_file().write_all_at(&pages, at.offset()).unwrap();
            pages.clear();
        }
        let (at, meta) = checkpoint.meta();
        self.file.as_file().write_all_at(&meta[..], at.offset()).unwrap();
        tree.end_checkpoint(checkpoint);
    }
}
