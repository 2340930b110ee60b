//! What this crate's tests share: a store without a file, and short names.

use std::sync::Arc;

use bytes::Bytes;
use engine::tree::{Map, PageId};
use engine::{Config, DeleteOptions, LeaseId, PutOptions, RangeOptions, Store};

use crate::answer::Identity;

/// A file that was never checkpointed to.
struct NoFile;

impl Map for NoFile {
    fn pages(&self, _: PageId, _: u32) -> Option<&[u8]> {
        None
    }
}

pub const WHO: Identity = Identity { cluster_id: 11, member_id: 12 };

pub fn store() -> Store {
    Store::create(Config { tree: Default::default(), lease_ttl_s_min: 2 }, Arc::new(NoFile))
}

pub fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutOptions {
    PutOptions { key: text(key), value: text(value), ..Default::default() }
}

pub fn put_leased(key: &str, value: &str, lease: i64) -> PutOptions {
    PutOptions { lease: LeaseId(lease), ..put(key, value) }
}

pub fn delete(key: &str, range_end: &str) -> DeleteOptions {
    DeleteOptions { key: text(key), range_end: text(range_end), prev_kv: false }
}

pub fn range(key: &str, range_end: &str) -> RangeOptions {
    RangeOptions { key: text(key), range_end: text(range_end), ..Default::default() }
}
