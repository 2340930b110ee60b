//! What bounds the memory and the file of a store under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use testkit::pb::request_op::Request;
use testkit::pb::watch_request::RequestUnion;
use testkit::pb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, StatusRequest, TxnRequest,
    WatchCreateRequest, WatchRequest,
};
use testkit::{Client, Server};
use tonic::Code;

use crate::scrub::metric;
use crate::{directory, options};

const HEAP_LIMIT: u64 = 8 << 20;

fn put(key: String, size: usize) -> PutRequest {
    PutRequest { key: key.into(), value: vec![b'v'; size], ..Default::default() }
}

/// Puts `keys` in transactions of a hundred; returns the last revision.
async fn put_all(client: &mut Client, keys: impl Iterator<Item = u32>) -> i64 {
    let keys: Vec<u32> = keys.collect();
    let mut revision = 0;
    for keys in keys.chunks(100) {
        let op = |key: &u32| RequestOp { request: Some(Request::RequestPut(put(format!("k{key:06}"), 500))) };
        let txn = TxnRequest { success: keys.iter().map(op).collect(), ..Default::default() };
        let answer = client.kv.txn(txn).await.expect("a txn").into_inner();
        revision = answer.header.expect("a header").revision;
    }
    revision
}

/// Highest value of the gauge until `over`.
fn highest(server: &Server, name: &str, over: &AtomicBool) -> u64 {
    let mut highest = 0;
    while !over.load(Ordering::Relaxed) {
        highest = highest.max(metric(server, name));
    }
    highest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_waits_for_the_checkpoint_when_the_heap_is_full() {
    let dir = directory();
    let server = options(dir.path()).start();
    let mut client = server.client().await;
    put_all(&mut client, 0..40_000).await;
    // Every other row of the first pass is dead then, so that every page of it changes and none goes.
    let revision = put_all(&mut client, (0..40_000).step_by(2)).await;
    let before = metric(&server, "ringd_checkpoint_pages_total");
    let over = Arc::new(AtomicBool::new(false));
    let compaction = {
        let over = over.clone();
        tokio::spawn(async move {
            let compact = CompactionRequest { revision, physical: true };
            let result = client.kv.compact(compact).await;
            over.store(true, Ordering::Relaxed);
            result.map(|_| ())
        })
    };
    let highest = tokio::task::block_in_place(|| highest(&server, "ringd_tree_heap_bytes", &over));
    compaction.await.expect("no panic").expect("compacted");
    let written = metric(&server, "ringd_checkpoint_pages_total") - before;
    println!("{highest} bytes of heap frames at most, {written} frames written");
    assert!(written > 2 * HEAP_LIMIT / 4096 / 2, "more than the heap holds was changed: {written}");
    // What one slice may add: its rows' pages and the paths to them.
    assert!(highest <= HEAP_LIMIT + (2 << 20), "{highest} bytes of heap frames");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_is_passed_by_no_more_than_what_was_under_way() {
    const QUOTA: u64 = 16 << 20;
    const WRITERS: u64 = 64;
    const SIZE: u64 = 50_000;
    let dir = directory();
    let server = options(dir.path()).arg(format!("--quota-backend-bytes={QUOTA}")).start();
    let accepted = Arc::new(AtomicU64::new(0));
    let writers = (0..WRITERS).map(|writer| {
        let (url, accepted) = (server.url().to_owned(), accepted.clone());
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await.expect("a connection");
            for i in 0.. {
                match client.kv.put(put(format!("{writer}-{i}"), SIZE as usize)).await {
                    Ok(_) => drop(accepted.fetch_add(1, Ordering::Relaxed)),
                    Err(status) => {
                        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                        return;
                    }
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("no panic");
    }
    let status = server.client().await.maintenance.status(StatusRequest {}).await.expect("a status");
    let size = status.into_inner().db_size as u64;
    // The last put of each writer may have been under way; pages of the tree's branches and of checkpoints' bitmaps.
    let under_way = WRITERS * (SIZE + 2 * 4096);
    println!("{size} bytes, {} puts", accepted.load(Ordering::Relaxed));
    assert!(size <= QUOTA + under_way + (1 << 20), "{size} bytes of a quota of {QUOTA}");
    assert!(accepted.load(Ordering::Relaxed) * SIZE > QUOTA / 2, "most of the quota can be used");
}

/// A deletion of 14 MB with its previous rows, for thirty watchers of whom one reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_watchers_of_a_huge_revision_cost_no_copies_of_it() {
    const ROWS: usize = 20;
    const SIZE: usize = 700_000;
    let dir = directory();
    let server = options(dir.path()).start();
    let mut client = server.client().await;
    let mut watches = Vec::new();
    for _ in 0..30 {
        let connection = server.client().await;
        let mut watch = connection.open_watch();
        let create = WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            prev_kv: true,
            ..Default::default()
        };
        watch.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) });
        assert!(watch.expect().await.created);
        watches.push((connection, watch));
    }
    for i in 0..ROWS {
        client.kv.put(put(format!("k{i:02}"), SIZE)).await.expect("a put");
        for (_, watch) in &mut watches {
            assert_eq!(watch.expect().await.events.len(), 1);
        }
    }
    let anonymous = || testkit::process::memory(server.pid()).expect("it runs").anonymous;
    let before = anonymous();
    let delete = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    client.kv.delete_range(delete).await.expect("deleted");
    // The others have been served as far as they take it when one has everything.
    let events = watches[29].1.expect().await.events;
    let grown = anonymous().saturating_sub(before);
    assert_eq!(events.len(), ROWS);
    for (i, event) in events.iter().enumerate() {
        let prev = event.prev_kv.as_ref().expect("the row before");
        assert_eq!((&prev.key[..], prev.value.len()), (format!("k{i:02}").as_bytes(), SIZE));
    }
    println!("{grown} bytes more");
    assert!(grown < (ROWS * SIZE) as u64 * 3, "{grown} bytes for thirty watchers");
    // A slow one gets all of it when it reads at last.
    let late = watches[3].1.expect().await.events;
    assert_eq!(late, events);
}
