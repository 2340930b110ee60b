//! What clients ask, put together when its time has come.
//!
//! A client knows what it has been told: the newest revision, the keys it has seen, the leases it holds. Its operations
//! come from the plan; what they need to know about the moment comes from here.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use net::grpc::Method;
use net::pb::etcdserverpb as pb;
use node::api::Error;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Ask;
use prost::Message;

use crate::env::NodeNumber;
use crate::member::{node_id, peer_url};
use crate::plan::{Config, Op, OpKind};
use crate::rng::Rng;

/// Operations that may wait for a client; those beyond are left out.
const WAITING_MAX: usize = 8;

/// A client that reads and writes.
pub struct Client {
    /// Where it is connected.
    pub member: NodeNumber,
    /// The operation without an answer.
    pub busy: Option<u64>,
    /// Operations whose time has come.
    pub waiting: VecDeque<Op>,
    /// The newest revision it has seen.
    pub revision: i64,
    /// Mod revision of the keys it has seen.
    keys: BTreeMap<Bytes, i64>,
    /// Leases it holds.
    leases: Vec<i64>,
    /// Alarms that it has seen.
    alarms: Vec<pb::AlarmMember>,
    /// A list that is not at its end: where it goes on, at which revision.
    page: Option<(Bytes, i64)>,
    /// In the liveness phase: how many of its two requests, a write and a read, have succeeded.
    pub probed: usize,
    number: usize,
    values: u64,
}

impl Client {
    /// A client of a member.
    pub fn new(number: usize, member: NodeNumber) -> Client {
        Client {
            member,
            busy: None,
            waiting: VecDeque::new(),
            revision: 1,
            keys: BTreeMap::new(),
            leases: Vec::new(),
            alarms: Vec::new(),
            page: None,
            probed: 0,
            number,
            values: 0,
        }
    }

    /// Notes an operation of the plan.
    pub fn enqueue(&mut self, op: Op) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(op);
        }
    }

    /// A write, then a linearizable read, that say whether the cluster lives.
    pub fn probe(&mut self) -> (Method, Bytes) {
        let key = Bytes::from(format!("probe/{}", self.number));
        if self.probed > 0 {
            return (Method::KvRange, pb::RangeRequest { key, ..Default::default() }.encode_to_vec().into());
        }
        let value = self.value(&mut Rng::new(0));
        (Method::KvPut, pb::PutRequest { key, value, ..Default::default() }.encode_to_vec().into())
    }

    /// What the operation asks for now. `None`: there is nothing to ask (no lease to keep alive).
    pub fn request(&mut self, op: &Op, config: &Config) -> Option<(Method, Bytes)> {
        let rng = &mut Rng::new(op.draw);
        let message = match op.kind {
            OpKind::Put => (Method::KvPut, self.put(rng, config).encode_to_vec()),
            OpKind::Delete => (Method::KvDeleteRange, delete(rng, config).encode_to_vec()),
            OpKind::Cas => (Method::KvTxn, self.compare_and_swap(rng, config).encode_to_vec()),
            OpKind::Txn => (Method::KvTxn, self.txn(rng, config, 2).encode_to_vec()),
            OpKind::Get => (Method::KvRange, range(rng, config).encode_to_vec()),
            OpKind::Serializable => {
                let ask = pb::RangeRequest { serializable: true, ..range(rng, config) };
                (Method::KvRange, ask.encode_to_vec())
            }
            OpKind::Past => {
                let revision = (self.revision + 3 - rng.below(30) as i64).max(1);
                let serializable = rng.permille(300);
                let ask = pb::RangeRequest { revision, serializable, ..range(rng, config) };
                (Method::KvRange, ask.encode_to_vec())
            }
            OpKind::List => (Method::KvRange, self.list(rng).encode_to_vec()),
            OpKind::Compact => {
                let revision = (self.revision - rng.below(20) as i64).max(1);
                let request = pb::CompactionRequest { revision, physical: rng.permille(300) };
                (Method::KvCompact, request.encode_to_vec())
            }
            OpKind::Grant => {
                // Sometimes an id that others use, too.
                let id = if rng.permille(700) { rng.between(1, 4) as i64 } else { 0 };
                let ttl = rng.between(1, 4) as i64 * config.ttl_scale;
                (Method::LeaseGrant, pb::LeaseGrantRequest { ttl, id }.encode_to_vec())
            }
            OpKind::Revoke => {
                (Method::LeaseRevoke, pb::LeaseRevokeRequest { id: self.lease(rng)? }.encode_to_vec())
            }
            OpKind::KeepAlive => {
                (Method::LeaseKeepAlive, pb::LeaseKeepAliveRequest { id: self.lease(rng)? }.encode_to_vec())
            }
            OpKind::TimeToLive => {
                let request = pb::LeaseTimeToLiveRequest { id: self.lease(rng)?, keys: rng.permille(800) };
                (Method::LeaseTimeToLive, request.encode_to_vec())
            }
            OpKind::MoveLeader => {
                let target_id = node_id(rng.below(config.hosts())).0;
                (Method::MaintenanceMoveLeader, pb::MoveLeaderRequest { target_id }.encode_to_vec())
            }
            OpKind::MemberAdd | OpKind::LearnerAdd => {
                let is_learner = op.kind == OpKind::LearnerAdd;
                let peer_ur_ls = vec![peer_url(spare(rng, config))];
                (Method::MemberAdd, pb::MemberAddRequest { peer_ur_ls, is_learner }.encode_to_vec())
            }
            OpKind::MemberRemove => {
                let id = node_id(rng.below(config.hosts())).0;
                (Method::MemberRemove, pb::MemberRemoveRequest { id }.encode_to_vec())
            }
            OpKind::MemberUpdate => {
                let id = node_id(rng.below(config.hosts())).0;
                let other = rng.below(config.hosts());
                let url =
                    if rng.permille(300) { peer_url(other) } else { format!("http://10.0.1.{other}:2380") };
                (Method::MemberUpdate, pb::MemberUpdateRequest { id, peer_ur_ls: vec![url] }.encode_to_vec())
            }
            OpKind::MemberPromote => {
                let id = node_id(spare(rng, config)).0;
                (Method::MemberPromote, pb::MemberPromoteRequest { id }.encode_to_vec())
            }
            OpKind::MemberList => {
                let linearizable = rng.permille(700);
                (Method::MemberList, pb::MemberListRequest { linearizable }.encode_to_vec())
            }
            OpKind::Alarms => (Method::MaintenanceAlarm, pb::AlarmRequest::default().encode_to_vec()),
            OpKind::Disarm => {
                let disarm = |alarm: pb::AlarmMember| pb::AlarmRequest {
                    action: pb::alarm_request::AlarmAction::Deactivate as i32,
                    member_id: alarm.member_id,
                    alarm: alarm.alarm,
                };
                let request = self.alarms.pop().map(disarm).unwrap_or_default();
                (Method::MaintenanceAlarm, request.encode_to_vec())
            }
            OpKind::Defragment => (Method::MaintenanceDefragment, Vec::new()),
            OpKind::Status => (Method::MaintenanceStatus, Vec::new()),
            OpKind::HashKv => {
                let back = rng.below(30) as i64;
                let revision = if rng.permille(400) { 0 } else { (self.revision + 3 - back).max(1) };
                (Method::MaintenanceHashKv, pb::HashKvRequest { revision }.encode_to_vec())
            }
            OpKind::Leases => (Method::LeaseLeases, Vec::new()),
            OpKind::Watch | OpKind::CancelWatch | OpKind::Progress => return None,
        };
        Some((message.0, message.1.into()))
    }

    /// What it learns from an answer.
    pub fn learn(&mut self, method: Method, message: &Bytes, result: &Result<Bytes, Error>) {
        let Ok(bytes) = result else {
            self.page = None;
            return;
        };
        match method {
            Method::KvRange => {
                let Ok(found) = pb::RangeResponse::decode(bytes.clone()) else { return };
                let Ok(ask) = pb::RangeRequest::decode(message.clone()) else { return };
                let header = found.header.as_ref().map_or(0, |header| header.revision);
                self.revision = self.revision.max(header);
                if ask.revision == 0 {
                    for kv in &found.kvs {
                        self.keys.insert(kv.key.clone(), kv.mod_revision);
                    }
                }
                let at = if ask.revision > 0 { ask.revision } else { header };
                let next = |key: &Bytes| Bytes::from([&key[..], &[0]].concat());
                self.page = match found.kvs.last() {
                    Some(last) if found.more && ask.limit > 0 => Some((next(&last.key), at)),
                    _ => None,
                };
            }
            Method::MaintenanceAlarm => {
                let is_list = message.is_empty();
                if let (Ok(found), true) = (pb::AlarmResponse::decode(bytes.clone()), is_list) {
                    self.alarms = found.alarms;
                }
            }
            Method::LeaseGrant => {
                if let Ok(found) = pb::LeaseGrantResponse::decode(bytes.clone()) {
                    self.leases.push(found.id);
                }
            }
            Method::KvPut | Method::KvTxn | Method::KvDeleteRange => {
                // Field 1 of all of them is the header.
                if let Ok(found) = pb::PutResponse::decode(bytes.clone()) {
                    self.revision = self.revision.max(found.header.map_or(0, |header| header.revision));
                }
            }
            _ => {}
        }
    }

    fn value(&mut self, rng: &mut Rng) -> Bytes {
        self.values += 1;
        let mut value = format!("{}.{}", self.number, self.values).into_bytes();
        let pad = rng.weighted(&[(70, 0), (20, 100), (8, 2500), (2, 9000)]);
        value.resize(value.len() + pad, b'.');
        value.into()
    }

    fn lease(&self, rng: &mut Rng) -> Option<i64> {
        if rng.permille(300) {
            return Some(rng.between(1, 4) as i64);
        }
        (!self.leases.is_empty()).then(|| self.leases[rng.below(self.leases.len())])
    }

    fn put(&mut self, rng: &mut Rng, config: &Config) -> pb::PutRequest {
        let lease = if rng.permille(300) { self.lease(rng).unwrap_or(0) } else { 0 };
        let ignore_lease = lease == 0 && rng.permille(50);
        let ignore_value = rng.permille(50);
        let value = if ignore_value { Bytes::new() } else { self.value(rng) };
        let prev_kv = rng.permille(300);
        pb::PutRequest { key: key(rng, config), value, lease, prev_kv, ignore_value, ignore_lease }
    }

    /// Create, update or delete, as Kubernetes does; a refusal reads the key.
    fn compare_and_swap(&mut self, rng: &mut Rng, config: &Config) -> pb::TxnRequest {
        let key = key(rng, config);
        let seen = self.keys.get(&key).copied().unwrap_or(0);
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(seen)),
            ..Default::default()
        };
        let write = match seen > 0 && rng.permille(200) {
            true => {
                Ask::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone(), ..Default::default() })
            }
            false => {
                let value = self.value(rng);
                Ask::RequestPut(pb::PutRequest { key: key.clone(), value, ..Default::default() })
            }
        };
        // What it has seen is old as soon as this succeeds; it reads before it tries again.
        self.keys.remove(&key);
        let read = Ask::RequestRange(pb::RangeRequest { key, ..Default::default() });
        pb::TxnRequest { compare: vec![compare], success: vec![op(write)], failure: vec![op(read)] }
    }

    /// Several operations; each list writes something, else it would be a read.
    fn txn(&mut self, rng: &mut Rng, config: &Config, depth: usize) -> pb::TxnRequest {
        let compare = (0..rng.below(3)).map(|_| self.compare(rng, config)).collect();
        let mut lists = [self.ops(rng, config, depth), self.ops(rng, config, depth)];
        for list in &mut lists {
            if !list.iter().any(writes) {
                let key = Bytes::from(format!("txn/{}", self.number));
                list.push(op(Ask::RequestPut(pb::PutRequest {
                    key,
                    value: self.value(rng),
                    ..Default::default()
                })));
            }
        }
        let [success, failure] = lists;
        pb::TxnRequest { compare, success, failure }
    }

    fn ops(&mut self, rng: &mut Rng, config: &Config, depth: usize) -> Vec<pb::RequestOp> {
        let mut ops: Vec<pb::RequestOp> = Vec::new();
        let mut written: Vec<Bytes> = Vec::new();
        for _ in 0..rng.below(4) {
            let request = match rng.below(10) {
                0..5 => {
                    let put = self.put(rng, config);
                    if written.contains(&put.key) {
                        continue;
                    }
                    written.push(put.key.clone());
                    Ask::RequestPut(put)
                }
                5..7 => {
                    let key = key(rng, config);
                    if written.contains(&key) {
                        continue;
                    }
                    written.push(key.clone());
                    Ask::RequestDeleteRange(pb::DeleteRangeRequest {
                        key,
                        prev_kv: true,
                        ..Default::default()
                    })
                }
                7..9 => Ask::RequestRange(range(rng, config)),
                // A nested one only reads and writes keys of its own, for no key may be written twice.
                _ if depth > 0 => {
                    let key = Bytes::from(format!("nested/{}/{}", self.number, rng.below(100_000)));
                    if written.contains(&key) {
                        continue;
                    }
                    written.push(key.clone());
                    let put = pb::PutRequest { key, value: self.value(rng), ..Default::default() };
                    Ask::RequestTxn(pb::TxnRequest {
                        compare: vec![self.compare(rng, config)],
                        success: vec![op(Ask::RequestPut(put))],
                        failure: vec![op(Ask::RequestRange(range(rng, config)))],
                    })
                }
                _ => continue,
            };
            ops.push(op(request));
        }
        ops
    }

    fn compare(&self, rng: &mut Rng, config: &Config) -> pb::Compare {
        let key = key(rng, config);
        let seen = self.keys.get(&key).copied().unwrap_or(0);
        let (target, union) = match rng.below(4) {
            0 => (CompareTarget::Version, TargetUnion::Version(rng.below(3) as i64)),
            1 => (CompareTarget::Create, TargetUnion::CreateRevision(seen)),
            2 => (CompareTarget::Lease, TargetUnion::Lease(0)),
            _ => (CompareTarget::Mod, TargetUnion::ModRevision(seen)),
        };
        let result = rng.pick(&[
            CompareResult::Equal,
            CompareResult::Greater,
            CompareResult::Less,
            CompareResult::NotEqual,
        ]);
        pb::Compare {
            result: result as i32,
            target: target as i32,
            key,
            target_union: Some(union),
            ..Default::default()
        }
    }

    fn list(&mut self, rng: &mut Rng) -> pb::RangeRequest {
        let (from, revision) = self.page.take().unwrap_or((Bytes::from_static(b"\0"), 0));
        let limit = rng.between(1, 6) as i64;
        pb::RangeRequest {
            key: from,
            range_end: Bytes::from_static(b"\0"),
            limit,
            revision,
            ..Default::default()
        }
    }
}

/// A host on which no member runs in the beginning, if there is one.
fn spare(rng: &mut Rng, config: &Config) -> NodeNumber {
    rng.between(config.members.min(config.hosts() - 1), config.hosts() - 1)
}

fn op(request: Ask) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

fn writes(op: &pb::RequestOp) -> bool {
    !matches!(op.request, Some(Ask::RequestRange(_)) | None)
}

/// One of the few keys.
pub fn key(rng: &mut Rng, config: &Config) -> Bytes {
    let number = rng.below(config.keys);
    // Some are long, so that branches of the tree split.
    let tail = if number % 5 == 4 { "/a/rather/long/name".repeat(1 + number / 5) } else { String::new() };
    format!("key/{number:02}{tail}").into()
}

/// A key or a range of keys, `range_end` empty or behind it.
pub fn span(rng: &mut Rng, config: &Config) -> (Bytes, Bytes) {
    let first = key(rng, config);
    match rng.below(4) {
        0 | 1 => (first, Bytes::new()),
        2 => {
            let other = key(rng, config);
            let (from, to) = (first.clone().min(other.clone()), first.max(other));
            if from == to { (from, Bytes::new()) } else { (from, to) }
        }
        _ => (Bytes::from_static(b"key/"), Bytes::from_static(b"key0")),
    }
}

fn delete(rng: &mut Rng, config: &Config) -> pb::DeleteRangeRequest {
    let (key, range_end) =
        if rng.permille(250) { span(rng, config) } else { (key(rng, config), Bytes::new()) };
    pb::DeleteRangeRequest { key, range_end, prev_kv: rng.permille(400) }
}

fn range(rng: &mut Rng, config: &Config) -> pb::RangeRequest {
    let (key, range_end) = span(rng, config);
    let mut ask = pb::RangeRequest { key, range_end, ..Default::default() };
    match rng.below(10) {
        0 => ask.limit = rng.between(1, 4) as i64,
        1 => ask.count_only = true,
        2 => {
            ask.sort_order = rng.between(1, 2) as i32;
            ask.sort_target = rng.pick(&[0, 2, 3]); // versions and values may be equal
        }
        _ => {}
    }
    ask
}
