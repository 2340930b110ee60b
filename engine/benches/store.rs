//! The engine's kernels, all in memory: no checkpoint runs, so heap frames are read, not the map.
//!
//! `cargo bench -p engine` prints times per operation. The rows are 100 000 × 256 B under keys as Kubernetes has
//! them; "loaded" means written once in key order, "updated" means that each was then written again in random
//! order, so that neighbours in a list are far apart in history.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use crossbeam::epoch;
use engine::tree::{Map, PageId};
use engine::{Config, PutOptions, RangeOptions, Store, View};

const KEYS: usize = 100_000;
const VALUE_SIZE: usize = 256;
/// Puts that are published together.
const BATCH: usize = 100;

struct NoFile;

impl Map for NoFile {
    fn pages(&self, _first: PageId, _count: u32) -> Option<&[u8]> {
        None
    }
}

/// A store and what it needs to be driven: keys, a value, a seed.
struct Load {
    store: Store,
    keys: Vec<Bytes>,
    value: Bytes,
    seed: u64,
    unpublished: usize,
}

impl Load {
    fn new() -> Load {
        let store = Store::create(Config { tree: Default::default(), lease_ttl_s_min: 2 }, Arc::new(NoFile));
        let key = |number| Bytes::from(format!("/registry/pods/default/pod-{number:08}"));
        let keys = (0..KEYS).map(key).collect();
        let value = Bytes::from(vec![b'x'; VALUE_SIZE]);
        let mut load = Load { store, keys, value, seed: 0x9e37_79b9_7f4a_7c15, unpublished: 0 };
        (0..KEYS).for_each(|number| load.put(number));
        load
    }

    fn put(&mut self, number: usize) {
        let (key, value) = (self.keys[number].clone(), self.value.clone());
        self.store.put(&PutOptions { key, value, ..Default::default() }).expect("a put without conditions");
        self.unpublished += 1;
        if self.unpublished == BATCH {
            self.publish();
        }
    }

    fn publish(&mut self) -> Arc<View> {
        self.unpublished = 0;
        let view = self.store.publish().expect("no damage in memory");
        self.store.tree_mut().reclaim();
        view
    }

    /// Some number below `end`.
    fn draw(&mut self, end: usize) -> usize {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed % end as u64) as usize
    }

    /// Reads `limit` rows from some key on, in pieces as a connection would.
    fn list(&mut self, view: &Arc<View>, out: &mut Vec<u8>, limit: usize, options: &RangeOptions) {
        let first = self.draw(KEYS - limit);
        let key = self.keys[first].clone();
        let range_end = Bytes::from_static(&[0]);
        let options = RangeOptions { key, range_end, limit: limit as i64, ..options.clone() };
        let mut answer = view.range(&epoch::pin(), &options).expect("a readable revision");
        loop {
            out.clear();
            let done = answer.fill(&epoch::pin(), 1 << 16, out).expect("no damage in memory");
            black_box(&out);
            if done {
                break;
            }
        }
    }
}

fn reads(criterion: &mut Criterion, load: &mut Load, state: &str) {
    let view = load.publish();
    let mut out = Vec::with_capacity(1 << 17);
    criterion.bench_function(&format!("get, {state}"), |bench| {
        bench.iter(|| {
            let number = load.draw(KEYS);
            let options = RangeOptions { key: load.keys[number].clone(), ..Default::default() };
            let guard = epoch::pin();
            let mut answer = view.range(&guard, &options).expect("a readable revision");
            out.clear();
            assert!(answer.fill(&guard, usize::MAX, &mut out).expect("no damage in memory"));
        });
    });
    for limit in [500, 10_000] {
        for keys_only in [false, true] {
            let what = if keys_only { "keys" } else { "rows" };
            let options = RangeOptions { keys_only, ..Default::default() };
            criterion.bench_function(&format!("list of {limit} {what}, {state}"), |bench| {
                bench.iter(|| load.list(&view, &mut out, limit, &options));
            });
        }
    }
}

fn engine(criterion: &mut Criterion) {
    let mut load = Load::new();
    reads(criterion, &mut load, "loaded");
    for _ in 0..KEYS {
        let number = load.draw(KEYS);
        load.put(number);
    }
    reads(criterion, &mut load, "updated");

    let view = load.publish();
    let all = RangeOptions {
        key: load.keys[0].clone(),
        range_end: Bytes::from_static(&[0]),
        count_only: true,
        ..Default::default()
    };
    criterion.bench_function("count of all", |bench| {
        bench.iter(|| {
            let answer = view.range(&epoch::pin(), &all).expect("a readable revision");
            assert_eq!(answer.count(), KEYS as i64);
        });
    });
    drop(view);
    criterion.bench_function("put, same key", |bench| bench.iter(|| load.put(7)));
    criterion.bench_function("put, random key", |bench| {
        bench.iter(|| {
            let number = load.draw(KEYS);
            load.put(number);
        });
    });
}

criterion_group!(benches, engine);
criterion_main!(benches);
