//! The store as simply as it can be said: every version of every key, for ever, and what each entry of the log answers.
//!
//! It reads committed entries as the protocol's messages and shares no code with the engine, with raft or with a member.
//! Checkers ask it what a member should have answered.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use net::pb::etcdserverpb as pb;
use net::pb::mvccpb::{Event, KeyValue, event::EventType};
use node::api::Error;
use pb::alarm_request::AlarmAction;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::request_op::Request as Ask;
use pb::response_op::Response as Told;
use prost::Message;

const NOSPACE: i32 = pb::AlarmType::Nospace as i32;

/// What the proposer of an entry is told, without the header's ids; headers inside a transaction are left out.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    /// A Put.
    Put(pb::PutResponse),
    /// A DeleteRange.
    Delete(pb::DeleteRangeResponse),
    /// A Txn.
    Txn(pb::TxnResponse),
    /// A LeaseGrant.
    Grant(pb::LeaseGrantResponse),
    /// A change of the membership: who was added, and all members.
    Members(Option<pb::Member>, Vec<pb::Member>),
    /// Alarms: those that were asked for, raised or disarmed.
    Alarms(Vec<pb::AlarmMember>),
    /// Nothing but a header.
    Bare,
}

/// The answer to an entry: what, and the header's revision.
pub type Answer = Result<(i64, Answered), Error>;

/// A change of one key.
#[derive(Clone, Debug)]
pub struct Change {
    /// The revision that made it.
    pub main: i64,
    /// The event as a watch with `prev_kv` shows it.
    pub event: Event,
}

/// A lease.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// As granted, in seconds.
    pub ttl: i64,
    /// What is attached to it.
    pub keys: BTreeSet<Bytes>,
}

/// See the module's header.
#[derive(Default)]
pub struct Model {
    /// The newest revision.
    pub revision: i64,
    /// Where history begins for clients; -1 if never compacted.
    pub compact_revision: i64,
    /// Versions of each key by the revision that made them; `None` is a tombstone.
    keys: BTreeMap<Bytes, Vec<(i64, Option<KeyValue>)>>,
    /// Every change in the order of events.
    pub changes: Vec<Change>,
    /// Leases by id.
    pub leases: BTreeMap<i64, Lease>,
    /// Raised alarms: of which member, of which type.
    pub alarms: BTreeSet<(u64, i32)>,
    lease_ttl_min: i64,
    /// Leases that have come, gone or got other keys since these were taken.
    touched: BTreeSet<i64>,
    /// Whether the entry being applied has changed something.
    changed: bool,
}

impl Model {
    /// The empty store.
    pub fn new(lease_ttl_min: i64) -> Model {
        Model { revision: 1, compact_revision: -1, lease_ttl_min, ..Model::default() }
    }

    /// Applies a committed request. `None`: it is none of a client's.
    pub fn apply(&mut self, request: &pb::InternalRaftRequest) -> Option<Answer> {
        self.changed = false;
        if takes_space(request) && self.alarms.iter().any(|alarm| alarm.1 == NOSPACE) {
            return Some(Err(Error::NoSpace));
        }
        let answer = if let Some(put) = &request.put {
            self.check_put(put).map(|()| Answered::Put(self.put(put)))
        } else if let Some(delete) = &request.delete_range {
            Ok(Answered::Delete(self.delete(delete)))
        } else if let Some(txn) = &request.txn {
            self.txn(txn).map(Answered::Txn)
        } else if let Some(compaction) = &request.compaction {
            self.compact(compaction.revision).map(|()| Answered::Bare)
        } else if let Some(grant) = &request.lease_grant {
            self.grant(grant).map(Answered::Grant)
        } else if let Some(revoke) = &request.lease_revoke {
            self.revoke(revoke.id).map(|()| Answered::Bare)
        } else if let Some(alarm) = &request.alarm {
            Ok(Answered::Alarms(self.alarm(alarm)))
        } else {
            return None;
        };
        self.revision += i64::from(std::mem::take(&mut self.changed));
        Some(answer.map(|told| (self.revision, told)))
    }

    /// Leases that have come, gone or got other keys since this was asked last.
    pub fn take_touched(&mut self) -> BTreeSet<i64> {
        std::mem::take(&mut self.touched)
    }

    /// The revision as the next operation sees it.
    fn seen(&self) -> i64 {
        self.revision + i64::from(self.changed)
    }

    fn newest(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    fn record(&mut self, key: &Bytes, kv: Option<KeyValue>) {
        self.changed = true;
        let main = self.revision + 1;
        let prev_kv = self.newest(key).cloned();
        let (before, after) = (lease_of(prev_kv.as_ref()), lease_of(kv.as_ref()));
        if let Some(lease) = self.leases.get_mut(&before) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.leases.get_mut(&after) {
            lease.keys.insert(key.clone());
        }
        self.touched.extend([before, after].into_iter().filter(|lease| *lease != 0));
        let shown = kv.clone().unwrap_or_else(|| KeyValue {
            key: key.clone(),
            mod_revision: main,
            ..KeyValue::default()
        });
        let kind = if kv.is_some() { EventType::Put } else { EventType::Delete };
        let event = Event { r#type: kind as i32, kv: Some(shown), prev_kv };
        self.changes.push(Change { main, event });
        self.keys.entry(key.clone()).or_default().push((main, kv));
    }

    fn check_put(&self, put: &pb::PutRequest) -> Result<(), Error> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err(Error::LeaseNotFound);
        }
        match put.ignore_value || put.ignore_lease {
            true if self.newest(&put.key).is_none() => Err(Error::KeyNotFound),
            _ => Ok(()),
        }
    }

    fn put(&mut self, put: &pb::PutRequest) -> pb::PutResponse {
        let before = self.newest(&put.key).cloned();
        let main = self.revision + 1;
        let mut kv = before.clone().unwrap_or_else(|| KeyValue {
            key: put.key.clone(),
            create_revision: main,
            ..KeyValue::default()
        });
        kv.mod_revision = main;
        kv.version += 1;
        if !put.ignore_value {
            kv.value = put.value.clone();
        }
        if !put.ignore_lease {
            kv.lease = put.lease;
        }
        self.record(&put.key, Some(kv));
        pb::PutResponse { header: None, prev_kv: before.filter(|_| put.prev_kv) }
    }

    fn delete(&mut self, delete: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let goes: Vec<KeyValue> =
            self.keys_at(&delete.key, &delete.range_end, self.seen()).into_iter().cloned().collect();
        for kv in &goes {
            self.record(&kv.key, None);
        }
        let deleted = goes.len() as i64;
        let prev_kvs = if delete.prev_kv { goes } else { Vec::new() };
        pb::DeleteRangeResponse { header: None, deleted, prev_kvs }
    }

    fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compact_revision {
            return Err(Error::Compacted);
        }
        if revision > self.revision {
            return Err(Error::FutureRevision);
        }
        self.compact_revision = revision;
        Ok(())
    }

    fn grant(&mut self, grant: &pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Error> {
        if self.leases.contains_key(&grant.id) {
            return Err(Error::LeaseExists);
        }
        let ttl = grant.ttl.max(self.lease_ttl_min);
        self.leases.insert(grant.id, Lease { ttl, keys: BTreeSet::new() });
        self.touched.insert(grant.id);
        Ok(pb::LeaseGrantResponse { id: grant.id, ttl, ..Default::default() })
    }

    fn revoke(&mut self, id: i64) -> Result<(), Error> {
        let lease = self.leases.remove(&id).ok_or(Error::LeaseNotFound)?;
        lease.keys.iter().for_each(|key| self.record(key, None));
        self.touched.insert(id);
        Ok(())
    }

    fn alarm(&mut self, ask: &pb::AlarmRequest) -> Vec<pb::AlarmMember> {
        let alarm = (ask.member_id, ask.alarm);
        let shown = match ask.action() {
            AlarmAction::Get => {
                self.alarms.iter().copied().filter(|(_, of)| [0, *of].contains(&ask.alarm)).collect()
            }
            AlarmAction::Activate => {
                self.alarms.insert(alarm);
                vec![alarm]
            }
            AlarmAction::Deactivate if self.alarms.remove(&alarm) => vec![alarm],
            AlarmAction::Deactivate => Vec::new(),
        };
        shown.into_iter().map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm }).collect()
    }

    /// The live keys of a range at a revision, by key.
    fn keys_at(&self, key: &Bytes, range_end: &Bytes, revision: i64) -> Vec<&KeyValue> {
        let all = self.keys.range(key.clone()..);
        let within = all.take_while(|(at, _)| match &range_end[..] {
            b"" => *at == key,
            b"\0" => true,
            end => &at[..] < end,
        });
        within
            .filter_map(|(_, versions)| {
                let upto = versions.partition_point(|(main, _)| *main <= revision);
                versions[..upto].last()?.1.as_ref()
            })
            .collect()
    }

    /// What a Range answers whose header says `seen`, if nothing had been compacted.
    pub fn range(&self, ask: &pb::RangeRequest, seen: i64) -> pb::RangeResponse {
        let at = if ask.revision <= 0 { seen } else { ask.revision };
        let mut kvs: Vec<KeyValue> =
            self.keys_at(&ask.key, &ask.range_end, at).into_iter().cloned().collect();
        let count = kvs.len() as i64;
        if ask.count_only {
            return pb::RangeResponse { count, ..Default::default() };
        }
        use pb::range_request::{SortOrder, SortTarget};
        match ask.sort_target() {
            SortTarget::Key => {}
            SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
            SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
            SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
            SortTarget::Value => kvs.sort_by_key(|kv| kv.value.clone()),
        }
        if ask.sort_order() == SortOrder::Descend {
            kvs.reverse();
        }
        let limit = if ask.limit > 0 { ask.limit as usize } else { usize::MAX };
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        pb::RangeResponse { header: None, kvs, more, count }
    }

    /// What HashKV says of a revision in a store that was compacted at another: etcd's CRC-32C over the word `key` and the
    /// rows of its history that a compaction leaves. `None`: no key would be left, and then the hash depends on how far
    /// the compaction has come.
    pub fn hash_kv(&self, revision: i64, compact_revision: i64) -> Option<u32> {
        let last = self.changes.partition_point(|change| change.main <= revision);
        let of = |change: &'_ Change| change.event.kv.clone().expect("every event shows a key");
        let is_tombstone = |change: &Change| change.event.r#type() == EventType::Delete;
        // The newest change of each key up to the revision, but for tombstones.
        let kept = |main: i64, key: &Bytes| {
            let versions = &self.keys[key];
            let upto = versions.partition_point(|(at, _)| *at <= revision);
            versions[..upto].last().is_some_and(|(at, kv)| *at == main && kv.is_some())
        };
        let any_kept = self.keys.values().any(|versions| {
            let upto = versions.partition_point(|(at, _)| *at <= revision);
            versions[..upto].last().is_some_and(|(_, kv)| kv.is_some())
        });
        if !any_kept && self.changes.first().is_some_and(|change| change.main <= compact_revision) {
            return None;
        }
        let mut hash = crc32c::crc32c(b"key");
        let mut before = (0, 0);
        for change in &self.changes[..last] {
            let main = change.main;
            let sub = if main == before.0 { before.1 + 1 } else { 0 };
            before = (main, sub);
            let (kv, gone) = (of(change), is_tombstone(change));
            if main <= compact_revision && !kept(main, &kv.key) || gone && main == compact_revision {
                continue;
            }
            let mut row = [&main.to_be_bytes()[..], b"_", &i64::to_be_bytes(sub)].concat();
            let kv = if gone {
                row.push(b't');
                KeyValue { key: kv.key, ..KeyValue::default() }
            } else {
                kv
            };
            hash = crc32c::crc32c_append(crc32c::crc32c_append(hash, &row), &kv.encode_to_vec());
        }
        Some(hash)
    }

    fn txn(&mut self, txn: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
        // All compares of all levels look at the state before.
        let mut path = Vec::new();
        self.choose(txn, &mut path);
        self.check_txn(txn, &mut path.iter().copied())?;
        Ok(self.execute(txn, &mut path.iter().copied()))
    }

    fn choose(&self, txn: &pb::TxnRequest, path: &mut Vec<bool>) {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in if succeeded { &txn.success } else { &txn.failure } {
            if let Some(Ask::RequestTxn(nested)) = &op.request {
                self.choose(nested, path);
            }
        }
    }

    fn check_txn(&self, txn: &pb::TxnRequest, path: &mut impl Iterator<Item = bool>) -> Result<(), Error> {
        for op in branch(txn, path).1 {
            match op.request.as_ref() {
                Some(Ask::RequestPut(put)) => self.check_put(put)?,
                Some(Ask::RequestTxn(nested)) => self.check_txn(nested, path)?,
                Some(Ask::RequestRange(range)) => self.check_range(range.revision)?,
                Some(Ask::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn check_range(&self, revision: i64) -> Result<(), Error> {
        match revision {
            0 => Ok(()),
            future if future > self.revision => Err(Error::FutureRevision),
            past if past < self.compact_revision => Err(Error::Compacted),
            _ => Ok(()),
        }
    }

    fn execute(&mut self, txn: &pb::TxnRequest, path: &mut impl Iterator<Item = bool>) -> pb::TxnResponse {
        let (succeeded, ops) = branch(txn, path);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref() {
                Some(Ask::RequestPut(put)) => Told::ResponsePut(self.put(put)),
                Some(Ask::RequestDeleteRange(delete)) => Told::ResponseDeleteRange(self.delete(delete)),
                Some(Ask::RequestRange(range)) => Told::ResponseRange(self.range(range, self.seen())),
                Some(Ask::RequestTxn(nested)) => Told::ResponseTxn(self.execute(nested, path)),
                None => continue,
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: None, succeeded, responses }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let kvs = self.keys_at(&compare.key, &compare.range_end, self.revision);
        if kvs.is_empty() {
            return compare.target() != CompareTarget::Value && satisfies(compare, &KeyValue::default());
        }
        kvs.into_iter().all(|kv| satisfies(compare, kv))
    }

    /// The changes of a range from a revision on, in the order of events.
    pub fn changes_from<'m>(
        &'m self,
        key: &'m Bytes,
        range_end: &'m Bytes,
        from: i64,
    ) -> impl Iterator<Item = &'m Change> {
        let first = self.changes.partition_point(|change| change.main < from);
        self.changes[first..].iter().filter(move |change| {
            let at = &change.event.kv.as_ref().expect("every event shows a key").key;
            match &range_end[..] {
                b"" => at == key,
                b"\0" => at >= key,
                end => at >= key && &at[..] < end,
            }
        })
    }
}

/// The lease that a key is attached to, 0 if to none.
fn lease_of(kv: Option<&KeyValue>) -> i64 {
    kv.map_or(0, |kv| kv.lease)
}

/// Whether an alarm for lack of space refuses it: it may put something, or grants a lease.
fn takes_space(request: &pb::InternalRaftRequest) -> bool {
    request.put.is_some() || request.lease_grant.is_some() || request.txn.as_ref().is_some_and(may_put)
}

fn may_put(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Ask::RequestPut(_)) => true,
        Some(Ask::RequestTxn(nested)) => may_put(nested),
        _ => false,
    })
}

fn branch<'t>(txn: &'t pb::TxnRequest, path: &mut impl Iterator<Item = bool>) -> (bool, &'t [pb::RequestOp]) {
    let succeeded = path.next().expect("the path was chosen in the same order");
    (succeeded, if succeeded { &txn.success } else { &txn.failure })
}

fn satisfies(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target_union {
        Some(TargetUnion::Version(given)) => kv.version.cmp(given),
        Some(TargetUnion::CreateRevision(given)) => kv.create_revision.cmp(given),
        Some(TargetUnion::ModRevision(given)) => kv.mod_revision.cmp(given),
        Some(TargetUnion::Lease(given)) => kv.lease.cmp(given),
        Some(TargetUnion::Value(given)) => kv.value.cmp(given),
        None => std::cmp::Ordering::Equal,
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
        CompareResult::NotEqual => order.is_ne(),
    }
}
