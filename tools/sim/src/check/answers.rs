//! Strict serializability by the order of revisions, and the exact content of every answer.
//!
//! The committed log is the order. Each success must be the model's answer at its place, and time must not contradict
//! the order: what was answered before a request was made lies before what it is answered. That is linear in the number
//! of requests, because every answer names its revision. A request without an answer, or with an unknown outcome, has
//! happened if its entry is in the log, and there is nothing to check.

use bytes::Bytes;
use consensus::NodeId;
use net::grpc::Method;
use net::pb::etcdserverpb as pb;
use node::api::Error;
use prost::Message;
use rustc_hash::FxHashMap;

use super::{Failure, Oracle, fail};
use crate::member::node_number;
use crate::model::Answered;
use crate::queue::Time;

/// An answer: the message, or why there is none.
pub(super) type Told<'r> = &'r Result<Bytes, Error>;

/// A request under way.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Whose.
    pub client: usize,
    /// What.
    pub method: Method,
    /// The message.
    pub message: Bytes,
    /// When.
    pub at: Time,
    /// A read that may see an older state.
    pub serializable: bool,
    /// Every answer to come must show the state after this index, or a later one.
    pub(super) floor: u64,
    /// Since when the lease lives at least that is asked about, as far as anybody has been told.
    pub(super) lives_since: Option<Time>,
}

/// See the module's header.
#[derive(Default)]
pub struct Answers {
    open: FxHashMap<u64, Asked>,
    /// IDs of the entries that a request became: one, but for those that another member makes entries of.
    entries: FxHashMap<u64, Vec<u64>>,
    /// Requests that a member has passed on, by the number that it and this life of it have given them.
    passed_on: FxHashMap<(usize, u64), u64>,
    /// What has been answered lies at or before this index.
    pub(super) floor: u64,
    /// Newest revision that a connection (member, its life, client) has seen.
    seen: FxHashMap<(usize, u32, usize), i64>,
    /// Answers checked.
    pub checked: u64,
}

impl Answers {
    /// A member has made an entry of it.
    pub fn becomes(&mut self, op: u64, id: u64) {
        self.entries.entry(op).or_default().push(id);
    }

    /// A member asks another one to make an entry of it.
    pub fn passes_on(&mut self, op: u64, from: usize, number: u64) {
        self.passed_on.insert((from, number), op);
    }

    /// A member has made an entry of what another one has passed on.
    pub fn becomes_for(&mut self, from: usize, number: u64, id: u64) {
        if let Some(op) = self.passed_on.get(&(from, number)) {
            self.becomes(*op, id);
        }
    }

    /// Nobody waits for it any more.
    pub fn give_up(&mut self, op: u64) {
        self.open.remove(&op);
    }

    /// Requests without an answer.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }
}

impl Oracle {
    /// A request is made.
    pub fn asked(&mut self, op: u64, client: usize, method: Method, message: Bytes, at: Time) {
        let serializable = method == Method::KvRange
            && pb::RangeRequest::decode(message.clone()).is_ok_and(|r| r.serializable);
        let lives_since = match method {
            Method::LeaseTimeToLive => pb::LeaseTimeToLiveRequest::decode(message.clone())
                .ok()
                .and_then(|request| self.leases.since(request.id)),
            _ => None,
        };
        let floor = self.answers.floor;
        self.answers.open.insert(op, Asked { client, method, message, at, serializable, floor, lives_since });
    }

    /// A member (in its life) answers a request. Gives the header's revision, if the answer has one.
    pub fn answered(
        &mut self,
        now: Time,
        from: (usize, u32),
        op: u64,
        result: &Result<Bytes, Error>,
    ) -> Result<Option<i64>, Failure> {
        let Some(asked) = self.answers.open.remove(&op) else { return Ok(None) };
        self.answers.checked += 1;
        self.seen.no_space += u64::from(matches!(result, Err(Error::NoSpace)));
        let what = || format!("{:?} of client {} to member {}", asked.method, asked.client, from.0);
        let revision = match asked.method {
            Method::KvRange => self.range(&asked, result),
            Method::LeaseKeepAlive => self.kept_alive(&asked, result).map(|()| None),
            Method::LeaseTimeToLive => self.left(now, &asked, result),
            Method::MaintenanceDefragment => self.defragmented(result).map(|()| None),
            Method::MaintenanceStatus => self.status(result),
            Method::MaintenanceHashKv => self.hashed(&asked, result),
            Method::LeaseLeases => self.leased((from.0, from.1, asked.client), result).map(|()| None),
            Method::MemberList => self.listed(&asked, result).map(|()| None),
            Method::MaintenanceMoveLeader => self.moved(&asked, result).map(|()| None),
            _ => self.written(op, &asked, result),
        };
        let revision = revision
            .map_err(|failure| Failure { what: format!("{}: {}", what(), failure.what), ..failure })?;
        if let Some(revision) = revision {
            let seen = self.answers.seen.entry((from.0, from.1, asked.client)).or_insert(0);
            if revision < *seen {
                return fail("session", format!("{}: revision {revision} after {seen}", what()));
            }
            *seen = revision;
        }
        Ok(revision)
    }

    fn written(
        &mut self,
        op: u64,
        asked: &Asked,
        result: &Result<Bytes, Error>,
    ) -> Result<Option<i64>, Failure> {
        let ids = self.answers.entries.get(&op).map_or(&[][..], |ids| ids);
        let indexes: Vec<u64> = ids.iter().filter_map(|id| self.by_id.get(id).copied()).collect();
        // Of several entries that one request became, the answer is that of one.
        let fits = |index: &&u64| {
            self.log[**index as usize - 1].answer.as_ref().map(Result::is_ok) == Some(result.is_ok())
        };
        let Some(index) = indexes.iter().find(fits).or(indexes.first()).copied() else {
            return match result {
                Ok(_) => fail("durability", "is answered though nobody has committed it"),
                Err(_) => Ok(None),
            };
        };
        let expected = self.log[index as usize - 1].answer.as_ref().expect("it was a request");
        match (result, expected) {
            (Err(found), Err(expected)) if found == expected => {}
            // Unknown to the client, and nothing to be said against it.
            (Err(found), _) if is_unknown(*found) => return Ok(None),
            (Ok(bytes), Ok((revision, told))) => {
                let (header, found) = decode(asked.method, bytes)?;
                if header != *revision {
                    return fail(
                        "serializability",
                        format!("entry {index} made revision {revision}, it is told {header}"),
                    );
                }
                if found != *told {
                    return fail(
                        "serializability",
                        format!("entry {index}: expected {told:?}, told {found:?}"),
                    );
                }
            }
            (found, expected) => {
                let found = found.as_ref().map(|bytes| decode(asked.method, bytes));
                return fail(
                    "serializability",
                    format!("entry {index}: expected {expected:?}, told {found:?}"),
                );
            }
        }
        if index <= asked.floor {
            return fail(
                "real-time",
                format!("entry {index}, though entry {} was answered before it was asked", asked.floor),
            );
        }
        self.answers.floor = self.answers.floor.max(index);
        if let (Ok((revision, told)), Ok(_)) = (expected, result) {
            if let Answered::Grant(grant) = told {
                self.leases.alive(grant.id, asked.at);
            }
            return Ok(Some(*revision).filter(|_| !matches!(told, Answered::Members(..))));
        }
        Ok(None)
    }

    /// It says nothing but that it is done.
    fn defragmented(&self, result: &Result<Bytes, Error>) -> Result<(), Failure> {
        match result {
            Ok(bytes) if !bytes.is_empty() => fail("serializability", "a Defragment says something"),
            _ => Ok(()),
        }
    }

    fn listed(&mut self, asked: &Asked, result: &Result<Bytes, Error>) -> Result<(), Failure> {
        let Ok(bytes) = result else { return Ok(()) };
        let ask = pb::MemberListRequest::decode(asked.message.clone()).expect("as it was encoded");
        let found = pb::MemberListResponse::decode(bytes.clone()).map_err(|_| malformed())?.members;
        let floor = if ask.linearizable { asked.floor } else { 0 };
        let Some(first) = self.members.first_with(&found, floor) else {
            return fail("membership", format!("after entry {floor} the members were never {found:?}"));
        };
        if ask.linearizable {
            self.answers.floor = self.answers.floor.max(first);
        }
        Ok(())
    }

    fn moved(&self, asked: &Asked, result: &Result<Bytes, Error>) -> Result<(), Failure> {
        let ask = pb::MoveLeaderRequest::decode(asked.message.clone()).expect("as it was encoded");
        let target = node_number(NodeId(ask.target_id));
        match result {
            Ok(_) if !self.raft.has_led(target) => {
                fail("raft", format!("leadership has moved to member {target}, which has never led"))
            }
            _ => Ok(()),
        }
    }

    fn range(&mut self, asked: &Asked, result: &Result<Bytes, Error>) -> Result<Option<i64>, Failure> {
        let ask = pb::RangeRequest::decode(asked.message.clone()).expect("as it was encoded");
        let floor = if asked.serializable { 0 } else { asked.floor };
        let newest = (self.model.revision, self.model.compact_revision);
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(Error::Compacted) if newest.1 > ask.revision => return Ok(None),
            Err(Error::FutureRevision) if self.at(floor).0 < ask.revision => return Ok(None),
            Err(error @ (Error::Compacted | Error::FutureRevision)) => {
                return fail("serializability", format!("revision {} is {error:?}", ask.revision));
            }
            Err(_) => return Ok(None),
        };
        let mut found = pb::RangeResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        let seen = found.header.take().map_or(0, |header| header.revision);
        if seen > newest.0 {
            return fail("durability", format!("revision {seen} is read, {} is committed", newest.0));
        }
        let (oldest, first) = (self.at(floor).0, self.first_index_of(seen));
        if seen < oldest {
            return fail("real-time", format!("revision {seen} is read after {oldest} was seen"));
        }
        if ask.revision > 0 && self.at(first.max(floor)).1 > ask.revision {
            return fail("serializability", format!("revision {} is read though compacted", ask.revision));
        }
        let expected = self.model.range(&ask, seen);
        if found != expected {
            return fail(
                "serializability",
                format!(
                    "range at revision {} of {seen}: expected {expected:?}, told {found:?}",
                    ask.revision
                ),
            );
        }
        if !asked.serializable {
            self.answers.floor = self.answers.floor.max(first.min(self.log.len() as u64));
        }
        Ok(Some(seen))
    }

    fn kept_alive(&mut self, asked: &Asked, result: &Result<Bytes, Error>) -> Result<(), Failure> {
        let Ok(bytes) = result else { return Ok(()) };
        let found = pb::LeaseKeepAliveResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        if found.ttl <= 0 {
            return Ok(());
        }
        // The lease must exist in some state that the answer may show: at the floor of the request, or later.
        let existed =
            |lease: &i64| self.model.leases.contains_key(lease) || self.revoked_after(*lease, asked.floor);
        if !existed(&found.id) {
            return fail("lease", format!("lease {:x} is kept alive though it is gone", found.id));
        }
        self.leases.alive(found.id, asked.at);
        Ok(())
    }

    fn revoked_after(&self, lease: i64, floor: u64) -> bool {
        self.leases.ended_at(lease).is_some_and(|index| index > floor)
    }
}

pub(super) fn malformed() -> Failure {
    Failure { checker: "serializability", what: "the answer is no message of its type".to_owned() }
}

/// Errors after which a client can't know whether its write happened.
fn is_unknown(error: Error) -> bool {
    !matches!(
        error,
        Error::LeaseNotFound
            | Error::LeaseExists
            | Error::KeyNotFound
            | Error::Compacted
            | Error::FutureRevision
            | Error::EmptyKey
            | Error::DuplicateKey
            | Error::MemberExists
            | Error::PeerUrlExists
            | Error::MemberNotLearner
            | Error::TooManyLearners
    )
}

/// The header's revision and the rest of an answer, without the headers inside a transaction.
fn decode(method: Method, bytes: &Bytes) -> Result<(i64, Answered), Failure> {
    fn parse<M: Message + Default>(bytes: &Bytes) -> Result<M, Failure> {
        M::decode(bytes.clone()).map_err(|_| malformed())
    }
    let revision = |header: Option<pb::ResponseHeader>| header.map_or(0, |header| header.revision);
    Ok(match method {
        Method::KvPut => {
            let mut put: pb::PutResponse = parse(bytes)?;
            (revision(put.header.take()), Answered::Put(put))
        }
        Method::KvDeleteRange => {
            let mut delete: pb::DeleteRangeResponse = parse(bytes)?;
            (revision(delete.header.take()), Answered::Delete(delete))
        }
        Method::KvTxn => {
            let mut txn: pb::TxnResponse = parse(bytes)?;
            let header = txn.header.take();
            strip(&mut txn);
            (revision(header), Answered::Txn(txn))
        }
        Method::LeaseGrant => {
            let mut grant: pb::LeaseGrantResponse = parse(bytes)?;
            (revision(grant.header.take()), Answered::Grant(grant))
        }
        Method::MemberAdd => {
            let added: pb::MemberAddResponse = parse(bytes)?;
            (revision(added.header), Answered::Members(added.member, added.members))
        }
        Method::MemberRemove | Method::MemberUpdate | Method::MemberPromote => {
            let list: pb::MemberListResponse = parse(bytes)?;
            (revision(list.header), Answered::Members(None, list.members))
        }
        Method::MaintenanceAlarm => {
            let told: pb::AlarmResponse = parse(bytes)?;
            (revision(told.header), Answered::Alarms(told.alarms))
        }
        _ => (revision(parse::<pb::CompactionResponse>(bytes)?.header), Answered::Bare),
    })
}

fn strip(txn: &mut pb::TxnResponse) {
    use pb::response_op::Response;
    for op in &mut txn.responses {
        match &mut op.response {
            Some(Response::ResponseRange(range)) => range.header = None,
            Some(Response::ResponsePut(put)) => put.header = None,
            Some(Response::ResponseDeleteRange(delete)) => delete.header = None,
            Some(Response::ResponseTxn(nested)) => {
                nested.header = None;
                strip(nested);
            }
            None => {}
        }
    }
}
