//! CPU per proposal through `Node` and `Log`, and of a recovery, without I/O:
//! `cargo run --release -p consensus --example proposal_cost`.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use consensus::log::{
    Identity, Log, LogConfig, ReadError, SegmentId, SegmentInfo, SegmentReader, State, recover,
};
use consensus::{
    Append, ConfChange, ConfState, Config, Entry, EntryKind, HardState, Index, Input, LogPosition, Node,
    NodeId, Output, ProposalId, ReadyNumber, Term,
};

struct Empty;

impl SegmentReader for Empty {
    fn segments(&self) -> Vec<SegmentInfo> {
        Vec::new()
    }
    fn read(&self, _: SegmentId, _: u64, _: &mut [u8]) -> Result<(), ReadError> {
        Err(ReadError)
    }
}

/// Turns of `batch` proposals of `len` bytes until `total` are committed; with or without the log's encoding.
fn run(batch: u64, total: u64, len: usize, with_log: bool) -> Duration {
    let member = NodeId(7);
    let identity = Identity { cluster: 1, member };
    let tail = recover(&Empty, identity, LogPosition::default()).expect("nothing is sound").tail;
    let state = State::bootstrap(&[(member, Bytes::from_static(b"{}"))]);
    let mut node = Node::new(Config::new(member, 1, 1), state, LogPosition::default(), ConfState::default());
    let mut log = Log::new(LogConfig::new(1), identity, tail);
    let mut buf = vec![0; 4 << 20];
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    let (mut proposed, mut committed) = (0, 0);
    let mut started = None;
    let template = vec![7u8; len * batch as usize];
    let mut spent = Duration::ZERO;
    while committed < total {
        for input in inputs.drain(..) {
            node.step(input, &mut outputs);
        }
        node.flush(&mut outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Append(append) if with_log => log.append(append),
                Output::Append(append) => inputs.push(Input::Durable(append.ready)),
                Output::Commit(entries) => {
                    let last = entries.last().map(|entry| entry.index);
                    for entry in &entries {
                        if entry.kind == EntryKind::ConfChange {
                            let change = ConfChange::decode(&entry.data).expect("as proposed");
                            inputs.push(Input::ApplyConfChange(entry.index, Some(change)));
                        }
                        committed += u64::from(entry.proposal.is_some());
                    }
                    inputs.extend(last.map(Input::Applied));
                    drop(entries);
                }
                Output::ProposalDropped(_, reason) => panic!("{reason:?}"),
                _ => {}
            }
        }
        while let Some(new) = log.segment_wanted() {
            log.segment_ready(new.id, new.size);
        }
        if let Some(plan) = log.poll_write() {
            log.encode(&plan, &mut buf[..plan.len]);
            inputs.extend(log.written(Duration::ZERO).map(Input::Durable));
            log.checkpointed(node.status().applied);
        }
        if inputs.is_empty() && proposed < total {
            let now = started.get_or_insert_with(Instant::now).elapsed();
            // What the caller does is not ours: one allocation per turn, sliced.
            let mut arena = BytesMut::from(&template[..]);
            for _ in 0..batch {
                inputs.push(Input::Propose(ProposalId(proposed), arena.split_to(len).freeze()));
                proposed += 1;
            }
            spent += started.expect("set above").elapsed() - now;
        }
    }
    started.expect("it has run").elapsed() - spent
}

/// Segments in memory.
#[derive(Default)]
struct Memory(std::collections::BTreeMap<SegmentId, Vec<u8>>);

impl SegmentReader for Memory {
    fn segments(&self) -> Vec<SegmentInfo> {
        self.0.iter().map(|(&id, file)| SegmentInfo { id, size: file.len() as u64 }).collect()
    }
    fn read(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        buf.copy_from_slice(&self.0[&segment][offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// Fills a log of about 256 MiB with batches of so many entries of 300 bytes, then reads it back.
fn recover_256_mib(batch: u64) -> (u64, Duration) {
    let identity = Identity { cluster: 1, member: NodeId(7) };
    let mut disk = Memory::default();
    let tail = recover(&disk, identity, LogPosition::default()).expect("nothing is sound").tail;
    let mut log = Log::new(LogConfig::new(1), identity, tail);
    let data = Bytes::from(vec![7; 300]);
    let mut last = 0;
    while log.retained_bytes() < 256 << 20 {
        while let Some(new) = log.segment_wanted() {
            disk.0.insert(new.id, vec![0; new.size as usize]);
            log.segment_ready(new.id, new.size);
        }
        let entries = (last + 1..=last + batch).map(|index| Entry {
            index: Index(index),
            term: Term(1),
            kind: EntryKind::Normal,
            data: data.clone(),
            proposal: None,
        });
        let entries = entries.collect();
        last += batch;
        let hard_state = HardState { term: Term(1), vote: NodeId(7), commit: Index(last) };
        log.append(Append { ready: ReadyNumber(last), hard_state, entries, reset: None });
        let plan = log.poll_write().expect("segments are ready");
        let file = disk.0.get_mut(&plan.segment).expect("it was made");
        log.encode(&plan, &mut file[plan.offset as usize..][..plan.len]);
        log.written(Duration::ZERO);
    }
    let started = Instant::now();
    let recovered = recover(&disk, identity, LogPosition::default()).expect("it is sound");
    let took = started.elapsed();
    assert_eq!(recovered.state.entries.len() as u64, last);
    (last, took)
}

fn main() {
    println!("ns per proposal of 300 bytes, node alone / node and log");
    for batch in [1, 10, 100, 1000] {
        let total = 200_000.min(batch * 50_000);
        let per = |with_log| run(batch, total, 300, with_log).as_nanos() as u64 / total;
        println!("batch {batch:5}: {:6} / {:6}", per(false), per(true));
    }
    for batch in [1, 100, 1000] {
        let (entries, took) = recover_256_mib(batch);
        println!("recover 256 MiB, batches of {batch}: {entries} entries in {} ms", took.as_millis());
    }
}
