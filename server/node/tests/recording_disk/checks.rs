//! What is compared with the model, and how it is read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::epoch;
use engine::row::KeyValue;
use engine::tree::{self, Map, OpenError, PageId};
use engine::{KeyValueHash, LeaseId, RangeOptions, Store, View};
use node::api::Space;
use node::{apply, read};

use crate::model::{Kv, Kvs, Model, State};
use crate::world::store_config;
use medium::rng::Rng;

/// Fails with a sentence unless both are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let cut = |value: T| format!("{value:?}").chars().take(600).collect::<String>();
    Err(format!("{what}: found {}, expected {}", cut(found), cut(expected)))
}

/// A file that was never checkpointed to.
struct NoFile;

impl Map for NoFile {
    fn pages(&self, _: PageId, _: u32) -> Option<&[u8]> {
        None
    }
}

/// The model's log applied to a store that never saw a disk, a checkpoint or a slice of a compaction.
pub struct Replay {
    store: Store,
}

impl Replay {
    pub fn new() -> Replay {
        Replay { store: Store::create(store_config(0), Arc::new(NoFile)) }
    }

    /// Goes on, or begins anew, up to entry `index`.
    fn view_at(&mut self, model: &Model, index: u64) -> Result<Arc<View>, String> {
        if self.store.applied().index > index {
            *self = Replay::new();
        }
        let from = self.store.applied().index as usize;
        for entry in &model.entries[from..index as usize] {
            apply::apply(&mut self.store, Duration::ZERO, Space::UNLIMITED, entry, None)
                .map_err(|fatal| fatal.to_string())?;
        }
        self.store.publish().map_err(|damage| damage.to_string())
    }

    /// The log is about to lose its end: what was replayed of it does not count any more.
    pub fn forget(&mut self) {
        *self = Replay::new();
    }
}

/// The tree file as a starting process finds it: whole, and its bitmap right.
pub fn check_file(map: &dyn Map) -> Result<(), String> {
    match tree::verify(map) {
        Ok(report) => match report.findings.first() {
            None => Ok(()),
            Some(finding) => Err(format!("the tree file: {finding}")),
        },
        Err(OpenError::Empty { .. }) => Ok(()),
        Err(error) => Err(format!("the tree file: {error}")),
    }
}

/// What a published version shows is the model's state after the entry it says it has applied.
pub fn check_view(view: &Arc<View>, model: &Model, rng: &mut Rng) -> Result<(), String> {
    let index = view.applied().index;
    let state = state_at(model, index)?;
    same("revision", view.revision(), state.revision)?;
    same("compact revision", view.compact_revision(), state.compact_revision)?;
    same("keys", list(view, 0)?, (*state.kvs).clone())?;
    let first = state.compact_revision.max(1);
    let revision = first + rng.below((state.revision - first + 1) as usize) as i64;
    let at = format!("keys at revision {revision} of {}, entry {index}", state.revision);
    same(&at, list(view, revision)?, model.kvs_at(revision, index).clone())?;
    check_attached(view, state)?;
    let guard = &epoch::pin();
    let members = read::members(view, guard).map_err(|error| error.text())?;
    same("member", members.into_iter().map(|member| member.name).next(), state.member.clone())?;
    let version = read::cluster_version(view, guard).map_err(|error| error.text())?;
    same("cluster version", version, state.cluster_version.clone())
}

/// The same for what only the store itself tells: leases. And HashKV, now and at an older revision, is that of a replay.
pub fn check_store(
    store: &Store,
    view: &Arc<View>,
    model: &Model,
    replay: &mut Replay,
    rng: &mut Rng,
) -> Result<(), String> {
    check_view(view, model, rng)?;
    let state = state_at(model, view.applied().index)?;
    let mut leases = store.leases();
    leases.sort();
    let granted =
        |lease: &LeaseId| store.lease_status(Duration::ZERO, *lease).map(|status| status.granted_ttl);
    let found: Vec<_> = leases.iter().map(|lease| (lease.0, granted(lease))).collect();
    same("leases", found, state.leases.iter().map(|(id, ttl)| (*id, Some(*ttl))).collect())?;

    let other = replay.view_at(model, view.applied().index)?;
    same("HashKV", hash_kv(view, 0)?, hash_kv(&other, 0)?)?;
    // At a compact revision a member may answer with the hash that the compaction left.
    let later = (state.revision - state.compact_revision.max(0)) as usize;
    if later > 0 {
        let revision = state.revision - rng.below(later) as i64;
        same("HashKV at a revision", hash_kv(view, revision)?, hash_kv(&other, revision)?)?;
    }
    Ok(())
}

fn state_at(model: &Model, index: u64) -> Result<&State, String> {
    model.state(index).ok_or_else(|| format!("entry {index} is applied, the log ends at {}", model.last()))
}

fn check_attached(view: &View, state: &State) -> Result<(), String> {
    let guard = &epoch::pin();
    for lease in state.leases.keys() {
        let found = view.lease_keys(guard, LeaseId(*lease)).map_err(|damage| damage.to_string())?;
        let attached = state.kvs.iter().filter(|(_, kv)| kv.lease == *lease).map(|(key, _)| key.clone());
        same("keys of a lease", found, attached.collect())?;
    }
    Ok(())
}

fn hash_kv(view: &Arc<View>, revision: i64) -> Result<KeyValueHash, String> {
    let guard = &epoch::pin();
    let mut job =
        view.hash_kv(guard, revision).map_err(|error| format!("HashKV at {revision}: {error:?}"))?;
    loop {
        if let Some(done) = job.step(guard, 100).map_err(|damage| damage.to_string())? {
            return Ok(done.hash);
        }
    }
}

/// All keys; revision 0 is the newest.
fn list(view: &Arc<View>, revision: i64) -> Result<Kvs, String> {
    let guard = &epoch::pin();
    let all = Bytes::from_static(&[0]);
    let options = RangeOptions { key: all.clone(), range_end: all, revision, ..Default::default() };
    let mut answer = view.range(guard, &options).map_err(|error| format!("list at {revision}: {error:?}"))?;
    let mut bytes = Vec::new();
    while !answer.fill(guard, 1000, &mut bytes).map_err(|damage| damage.to_string())? {}
    let kvs = rows(&bytes)?;
    same("count", answer.count(), kvs.len() as i64)?;
    Ok(kvs)
}

/// `RangeResponse.kvs`.
fn rows(bytes: &[u8]) -> Result<Kvs, String> {
    let mut kvs = Kvs::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (row, tail) = field(rest).ok_or("a list that is cut off")?;
        let kv = KeyValue::decode(row).map_err(|_| "a row that is no KeyValue")?;
        let value = Kv {
            value: Bytes::copy_from_slice(kv.value),
            create: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
            lease: kv.lease,
        };
        if kvs.insert(Bytes::copy_from_slice(kv.key), value).is_some() {
            return Err("a key is listed twice".to_owned());
        }
        rest = tail;
    }
    Ok(kvs)
}

/// A field 2 of varint length, and what follows it.
fn field(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&0x12, mut rest) = bytes.split_first()? else { return None };
    let (mut len, mut shift) = (0, 0);
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        len |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            return rest.split_at_checked(len);
        }
    }
}
