//! What is compared: one row per kind of work, with the ratio to etcd that ringd is to reach.

use testkit::pb::{PutRequest, RangeRequest};

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is done.
    pub work: Work,
    /// Servers that form a cluster; the leader is what gets the load.
    pub members: usize,
    /// At most this CPU per operation, as a fraction of etcd's.
    pub cpu_at_most: Option<f64>,
    /// At least this rate, as a multiple of etcd's.
    pub rate_at_least: Option<f64>,
}

/// How a row is driven.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// h2load with the same put.
    Put { connections: usize, in_flight: usize },
    /// h2load with the same read.
    Read { read: Read, connections: usize, in_flight: usize },
    /// A put, then its events on so many watches, then the next put.
    Watch { connections: usize, watches: usize },
    /// Loads so many keys of 1 KiB; then memory, kill -9, restart.
    Memory { keys: usize },
    /// Starts on an empty data directory, then does nothing for a while.
    Idle,
}

/// Which read.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// One key of 256 B.
    Get { serializable: bool },
    /// A list of the 10 000 keys of 1 KiB, up to a limit (0: all).
    List { limit: i64 },
    /// How many keys there are.
    Count,
}

/// The number of keys lists are made of.
pub const LIST_KEYS: usize = 10_000;

/// What the keys of lists begin with.
pub const LIST_PREFIX: &str = "/registry/pods/";

/// The key that puts write and gets read.
pub const KEY: &str = "/registry/leases/kube-node-lease/ip-10-0-0-1";

const fn row(name: &'static str, work: Work, cpu_at_most: Option<f64>, rate_at_least: Option<f64>) -> Row {
    Row { name, work, members: 1, cpu_at_most, rate_at_least }
}

/// The same with a cluster of three, all on this machine.
const fn row_of_three(
    name: &'static str,
    work: Work,
    cpu_at_most: Option<f64>,
    rate_at_least: Option<f64>,
) -> Row {
    Row { members: 3, ..row(name, work, cpu_at_most, rate_at_least) }
}

const fn get(serializable: bool, connections: usize, in_flight: usize) -> Work {
    Work::Read { read: Read::Get { serializable }, connections, in_flight }
}

const fn list(limit: i64) -> Work {
    Work::Read { read: Read::List { limit }, connections: 8, in_flight: 1 }
}

/// Every row, in the order of the table.
pub const ROWS: [Row; 17] = [
    row("put-1", Work::Put { connections: 1, in_flight: 1 }, Some(1.0), Some(1.15)),
    row("put-10x10", Work::Put { connections: 10, in_flight: 10 }, Some(0.25), Some(3.0)),
    row("put-10x100", Work::Put { connections: 10, in_flight: 100 }, Some(0.125), Some(4.0)),
    row("get-1", get(false, 1, 1), Some(0.5), Some(1.2)),
    row("get-10x100", get(false, 10, 100), Some(0.1), Some(4.0)),
    row("get-serializable-10x100", get(true, 10, 100), Some(0.1), Some(4.0)),
    row("list-10000", list(0), Some(0.2), Some(3.0)),
    row("page-500", list(500), Some(1.0 / 6.0), Some(4.0)),
    row("count-10000", Work::Read { read: Read::Count, connections: 8, in_flight: 1 }, Some(0.05), None),
    row("watch-100", Work::Watch { connections: 1, watches: 100 }, Some(1.0 / 3.0), Some(1.3)),
    row("watch-100-apart", Work::Watch { connections: 100, watches: 100 }, None, None),
    row("memory-1m", Work::Memory { keys: 1_000_000 }, None, None),
    row("idle", Work::Idle, None, None),
    row_of_three("put-1-3m", Work::Put { connections: 1, in_flight: 1 }, Some(1.0), Some(1.1)),
    row_of_three("put-10x100-3m", Work::Put { connections: 10, in_flight: 100 }, Some(0.2), Some(3.0)),
    row_of_three("get-10x100-3m", get(false, 10, 100), Some(0.2), Some(2.0)),
    row_of_three("idle-3m", Work::Idle, None, None),
];

impl Read {
    /// The request that is sent over and over.
    pub fn request(self) -> RangeRequest {
        let listed = || RangeRequest {
            key: LIST_PREFIX.into(),
            range_end: prefix_end(LIST_PREFIX),
            ..Default::default()
        };
        match self {
            Read::Get { serializable } => {
                RangeRequest { key: KEY.into(), limit: 1, serializable, ..Default::default() }
            }
            Read::List { limit } => RangeRequest { limit, ..listed() },
            Read::Count => RangeRequest { count_only: true, ..listed() },
        }
    }

    /// How many rows the answer has, so that a wrong answer is not measured.
    pub fn rows(self) -> usize {
        match self {
            Read::Get { .. } => 1,
            Read::List { limit: 0 } => LIST_KEYS,
            Read::List { limit } => limit as usize,
            Read::Count => 0,
        }
    }
}

/// The put that is sent over and over: 256 bytes.
pub fn put() -> PutRequest {
    PutRequest { key: KEY.into(), value: value(0, 256), ..Default::default() }
}

/// The `i`th key of lists.
pub fn list_key(i: usize) -> Vec<u8> {
    format!("{LIST_PREFIX}ns-{:03}/pod-{i:07}", i % 100).into_bytes()
}

/// A value of `len` bytes that does not compress.
pub fn value(seed: usize, len: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The end of the range of all keys that begin with `prefix`.
pub fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("not the empty prefix") += 1;
    end
}
