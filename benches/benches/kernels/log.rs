//! The Raft log without its disk: entries to the bytes of one write, with checksums.

use std::time::Duration;

use bytes::Bytes;
use consensus::log::{Identity, Log, LogConfig, ReadError, SegmentId, SegmentInfo, SegmentReader, recover};
use consensus::{Append, Entry, EntryKind, HardState, Index, LogPosition, NodeId, ReadyNumber, Term};
use criterion::{BatchSize, Criterion, Throughput};

const ENTRY_SIZE: usize = 300;

/// A disk on which there is nothing yet.
struct Empty;

impl SegmentReader for Empty {
    fn segments(&self) -> Vec<SegmentInfo> {
        Vec::new()
    }
    fn read(&self, _: SegmentId, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError)
    }
}

/// The next `batch` entries after `last`, each with bytes of its own.
fn next_append(last: &mut u64, batch: u64) -> Append {
    let mut bytes = Bytes::from(vec![7; ENTRY_SIZE * batch as usize]);
    let entries = (*last + 1..=*last + batch).map(|index| Entry {
        index: Index(index),
        term: Term(1),
        kind: EntryKind::Normal,
        data: bytes.split_to(ENTRY_SIZE),
        proposal: None,
    });
    let entries = entries.collect();
    *last += batch;
    let hard_state = HardState { term: Term(1), vote: NodeId(7), commit: Index(*last) };
    Append { ready: ReadyNumber(*last), hard_state, entries, reset: None }
}

/// From an append to the bytes of its write; the write is durable at once, and a checkpoint follows at once.
fn write(log: &mut Log, append: Append, buf: &mut [u8]) {
    let ready = append.ready;
    let last = append.hard_state.commit;
    log.append(append);
    while let Some(new) = log.segment_wanted() {
        log.segment_ready(new.id, new.size);
    }
    let plan = log.poll_write().expect("there is a segment");
    log.encode(&plan, &mut buf[..plan.len]);
    assert_eq!(log.written(Duration::ZERO), Some(ready), "one write takes it whole");
    log.checkpointed(last);
}

/// Time per write; criterion's `elem` are entries.
pub fn log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log: append and encode, 300 B");
    for batch in [1, 100] {
        let identity = Identity { cluster: 1, member: NodeId(7) };
        let tail = recover(&Empty, identity, LogPosition::default()).expect("nothing is sound").tail;
        let mut log = Log::new(LogConfig::new(1), identity, tail);
        let mut buf = vec![0; 1 << 20];
        let mut last = 0;
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} per write"), |bench| {
            bench.iter_batched(
                || next_append(&mut last, batch),
                |append| write(&mut log, append, &mut buf),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}
