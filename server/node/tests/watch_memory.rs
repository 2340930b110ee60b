//! What slow watchers cost when one revision is huge: counted by the allocator itself.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::epoch;
use engine::tree::{Identity as TreeIdentity, Map, PageId};
use engine::{DeleteOptions, PutOptions, Store};
use net::grpc::Fill;
use net::pb::etcdserverpb::WatchCreateRequest;
use net::pb::etcdserverpb::watch_request::RequestUnion;
use node::Identity;
use node::watch_hub::{Config, Hub, LargeResponse, Sink, StreamId};

#[global_allocator]
static ALLOCATOR: counted::Allocator = counted::Allocator;

const ROWS: usize = 128;
const ROW_BYTES: usize = 3 << 19; // 1.5 MiB
const WATCHERS: u64 = 50;

/// There is no file: everything is in heap frames.
struct NoFile;

impl Map for NoFile {
    fn pages(&self, _: PageId, _: u32) -> Option<&[u8]> {
        None
    }
}

/// Streams whose clients take nothing.
#[derive(Default)]
struct Slow {
    small_bytes: usize,
    large: Vec<LargeResponse>,
}

impl Sink for Slow {
    fn send(&mut self, _: StreamId, message: &[u8]) {
        self.small_bytes += message.len();
    }

    fn send_large(&mut self, _: StreamId, response: LargeResponse) {
        self.large.push(response);
    }

    fn queued_bytes(&self, _: StreamId) -> usize {
        0
    }
}

#[test]
fn a_revision_of_192_mib_costs_no_copy_per_watcher() {
    let config = engine::Config {
        tree: engine::tree::Config { identity: TreeIdentity { cluster: 1, member: 2 }, nonce: 0 },
        lease_ttl_s_min: 1,
    };
    let mut store = Store::create(config, Arc::new(NoFile));
    for i in 0..ROWS {
        let value = vec![i as u8; ROW_BYTES].into();
        let put = PutOptions { key: format!("k{i:03}").into(), value, ..Default::default() };
        store.put(&put).expect("a put");
    }
    let identity = Identity { cluster_id: 1, member_id: 2 };
    let mut hub = Hub::new(Config::new(identity, 1), store.publish().expect("a version"), 1);
    let mut slow = Slow::default();
    for stream in (0..WATCHERS).map(StreamId) {
        hub.open(Duration::ZERO, stream);
        let create = WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            prev_kv: true,
            ..Default::default()
        };
        hub.handle(stream, RequestUnion::CreateRequest(create), &mut slow);
    }
    while hub.advance(&epoch::pin(), &mut slow).expect("whole") {}
    let delete = DeleteOptions { key: "k".into(), range_end: "l".into(), ..Default::default() };
    store.delete_range(&delete).expect("deleted");
    hub.set_view(store.publish().expect("a version"), 1);

    let before = counted::begin_peak();
    while hub.advance(&epoch::pin(), &mut slow).expect("whole") {}
    assert_eq!(slow.large.len(), WATCHERS as usize);
    let mut out = Vec::new();
    for response in &mut slow.large {
        assert!(response.message_len() > (ROWS * ROW_BYTES) as u64);
        out.clear();
        assert_eq!(response.fill(&epoch::pin(), 16 << 10, &mut out), Fill::Wrote(16 << 10));
    }
    let cost = counted::peak() - before;
    println!("{cost} bytes for {WATCHERS} watchers of {} bytes each", slow.large[0].message_len());
    assert!(cost < 3 << 20, "{cost} bytes");

    // One of them takes it all at last.
    let (mut left, mut done) = (slow.large[0].message_len() - (16 << 10), false);
    while !done {
        out.clear();
        let fill = slow.large[0].fill(&epoch::pin(), 64 << 10, &mut out);
        done = matches!(fill, Fill::Done(_));
        left -= out.len() as u64;
    }
    assert_eq!(left, 0);
    assert!(counted::peak() - before < 3 << 20);
}
