//! CPU per proposal through `Node` and `Log`, without I/O: `cargo run --release -p consensus --example proposal_cost`.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use consensus::log::{
    Identity, Log, LogConfig, ReadError, SegmentId, SegmentInfo, SegmentReader, State, recover,
};
use consensus::{
    ConfChange, ConfState, Config, EntryKind, Input, LogPosition, Node, NodeId, Output, ProposalId,
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

fn main() {
    println!("ns per proposal of 300 bytes, node alone / node and log");
    for batch in [1, 10, 100, 1000] {
        let total = 200_000.min(batch * 50_000);
        let per = |with_log| run(batch, total, 300, with_log).as_nanos() as u64 / total;
        println!("batch {batch:5}: {:6} / {:6}", per(false), per(true));
    }
}
