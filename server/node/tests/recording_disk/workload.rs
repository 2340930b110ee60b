//! What clients ask for: drawn at random, said as a client says it.

use bytes::Bytes;
use net::grpc::Method;
use net::pb::etcdserverpb as pb;
use node::api::{self, Limits, Request, Space};
use node::propose::{self, IdGenerator, Write};
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as OpRequest;
use prost::Message;

use crate::model::State;
use medium::rng::Rng;

/// Longest value: a run of several pages, and an entry that fills most of a segment. What is longer than the log allows is
/// refused, as where a transaction holds several.
const VALUE_BYTES_MAX: usize = 20 << 10;

const KEYS: usize = 48;
const LEASES: usize = 6;

/// One write. The lists of transactions hold puts and deletes of single keys, each key once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: Bytes,
        value: Bytes,
        lease: i64,
    },
    /// Of one key, or of all keys from it on up to `range_end`.
    Delete {
        key: Bytes,
        range_end: Bytes,
    },
    /// `success` if `key` exists, else `failure`.
    Txn {
        key: Bytes,
        success: Vec<Op>,
        failure: Vec<Op>,
    },
    Compact {
        revision: i64,
        physical: bool,
    },
    Grant {
        lease: i64,
        ttl: i64,
    },
    Revoke {
        lease: i64,
    },
    /// The member's own: its name.
    Attributes {
        name: String,
    },
    /// The member's own: the cluster version.
    ClusterVersion {
        version: String,
    },
}

impl Op {
    /// One at random. `newest` is the state that the log will lead to, as far as it is written down now.
    pub fn draw(rng: &mut Rng, newest: &State) -> Op {
        match rng.below(100) {
            0..50 => put(rng),
            50..62 => delete(rng),
            62..80 => txn(rng),
            80..87 => Op::Grant { lease: lease(rng), ttl: rng.between(1, 1000) as i64 },
            87..92 => Op::Revoke { lease: lease(rng) },
            _ => {
                // Now and then one that must be refused: compacted already, or in the future. Not 0: its hash would stay
                // behind as that of "the newest revision", as in etcd.
                let first = newest.compact_revision.max(1) as usize;
                let revision = rng.between(first, newest.revision as usize + 2) as i64;
                Op::Compact { revision, physical: rng.permille(300) }
            }
        }
    }

    /// The way of a request into the log: the client's message, decoded and checked.
    pub fn write(&self, ids: &mut IdGenerator, member: u64) -> Write {
        let (method, message) = match self {
            Op::Attributes { name } => {
                return propose::member_attributes_set(ids, member, name, &["http://x".to_owned()]);
            }
            Op::ClusterVersion { version } => return propose::cluster_version_set(ids, version),
            Op::Put { .. } => (Method::KvPut, self.put_request().encode_to_vec()),
            Op::Delete { .. } => (Method::KvDeleteRange, self.delete_request().encode_to_vec()),
            Op::Txn { key, success, failure } => {
                (Method::KvTxn, txn_request(key, success, failure).encode_to_vec())
            }
            Op::Compact { revision, physical } => {
                let request = pb::CompactionRequest { revision: *revision, physical: *physical };
                (Method::KvCompact, request.encode_to_vec())
            }
            Op::Grant { lease, ttl } => {
                let request = pb::LeaseGrantRequest { id: *lease, ttl: *ttl };
                (Method::LeaseGrant, request.encode_to_vec())
            }
            Op::Revoke { lease } => {
                (Method::LeaseRevoke, pb::LeaseRevokeRequest { id: *lease }.encode_to_vec())
            }
        };
        let mut context = api::Context { limits: Limits::default(), space: Space::UNLIMITED, ids };
        match api::decode(&mut context, method, &message.into()) {
            Ok(Request::Write(write)) => write,
            other => panic!("{self:?} is a write that may be proposed, not {other:?}"),
        }
    }

    fn put_request(&self) -> pb::PutRequest {
        let Op::Put { key, value, lease } = self else { unreachable!("asked of puts alone") };
        pb::PutRequest { key: key.clone(), value: value.clone(), lease: *lease, ..Default::default() }
    }

    fn delete_request(&self) -> pb::DeleteRangeRequest {
        let Op::Delete { key, range_end } = self else { unreachable!("asked of deletes alone") };
        pb::DeleteRangeRequest { key: key.clone(), range_end: range_end.clone(), ..Default::default() }
    }

    fn in_txn(&self) -> pb::RequestOp {
        let request = match self {
            Op::Put { .. } => OpRequest::RequestPut(self.put_request()),
            _ => OpRequest::RequestDeleteRange(self.delete_request()),
        };
        pb::RequestOp { request: Some(request) }
    }
}

fn txn_request(key: &Bytes, success: &[Op], failure: &[Op]) -> pb::TxnRequest {
    let exists = pb::Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    pb::TxnRequest {
        compare: vec![exists],
        success: success.iter().map(Op::in_txn).collect(),
        failure: failure.iter().map(Op::in_txn).collect(),
    }
}

fn put(rng: &mut Rng) -> Op {
    // mostly without; one that was never granted is refused
    let lease = if rng.permille(300) { lease(rng) } else { 0 };
    Op::Put { key: key(rng), value: value(rng), lease }
}

fn delete(rng: &mut Rng) -> Op {
    let (a, b) = (key(rng), key(rng));
    match rng.permille(300) {
        true => Op::Delete { key: a.clone().min(b.clone()), range_end: a.max(b) },
        false => Op::Delete { key: a, range_end: Bytes::new() },
    }
}

fn txn(rng: &mut Rng) -> Op {
    let list = |rng: &mut Rng| {
        let mut ops: Vec<Op> = Vec::new();
        for _ in 0..rng.below(5) {
            let op = match rng.permille(700) {
                true => put(rng),
                false => Op::Delete { key: key(rng), range_end: Bytes::new() },
            };
            if !ops.iter().any(|other| op_key(other) == op_key(&op)) {
                ops.push(op);
            }
        }
        ops
    };
    // Each list writes something, else it would be a read.
    let (mut success, mut failure) = (list(rng), list(rng));
    for ops in [&mut success, &mut failure] {
        if ops.is_empty() {
            ops.push(put(rng));
        }
    }
    Op::Txn { key: key(rng), success, failure }
}

fn op_key(op: &Op) -> &Bytes {
    match op {
        Op::Put { key, .. } | Op::Delete { key, .. } => key,
        other => unreachable!("no list holds {other:?}"),
    }
}

fn key(rng: &mut Rng) -> Bytes {
    // some long ones, so that branches split
    let number = rng.below(KEYS);
    let tail =
        if number.is_multiple_of(5) { "/a/rather/long/name".repeat(1 + number / 10) } else { String::new() };
    format!("key/{number:02}{tail}").into()
}

fn lease(rng: &mut Rng) -> i64 {
    rng.between(1, LEASES) as i64
}

fn value(rng: &mut Rng) -> Bytes {
    let len = match rng.below(100) {
        0..70 => rng.below(100),
        70..90 => rng.between(100, 2000),
        90..98 => rng.between(1900, 9000),
        _ => rng.between(9000, VALUE_BYTES_MAX),
    };
    let mut fill = Rng::new(rng.next());
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(fill.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}
