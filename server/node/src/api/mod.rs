//! From a call to what it asks for: decode once, check everything that can be checked without the store.
//!
//! This lies in the `node` crate, not beside the server's edge as the map first had it, so that tests and a simulator
//! can link it without glommio.
//!
//! The order of checks is etcd's and clients can see it: quota, then the message's own rules, then the size of the Raft
//! entry. What needs the store (leases, revisions, compares) is checked when the request is applied or read.
//!
//! One file per service: [`kv`], [`watch`], [`lease`], [`cluster`], [`maintenance`], [`health`]; [`http`] answers the
//! HTTP/1.1 paths; [`error`] holds every error text.

pub mod error;

pub mod kv;

/// Put against delete inside one transaction.
mod txn_overlap;

pub mod watch;

pub mod lease;

pub mod cluster;

pub mod maintenance;

pub mod health;

pub mod http;

pub use error::Error;

use bytes::Bytes;
use engine::{RangeOptions, Txn};
use net::grpc::{Code, Method, Status};
use prost::Message;

use crate::cluster::Change;
use crate::propose::{IdGenerator, Write};

/// Flags that decide what is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `--max-request-bytes`: the largest Raft entry, in bytes.
    pub request_bytes_max: usize,
    /// `--max-txn-ops`: the most operations of one list of a transaction.
    pub txn_ops_max: usize,
}

impl Default for Limits {
    /// etcd's defaults: 1.5 MiB and 128.
    fn default() -> Limits {
        Limits { request_bytes_max: 1_572_864, txn_ops_max: 128 }
    }
}

/// How full the store is, as this member last saw it.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// Bytes in allocated pages.
    pub used: u64,
    /// `--quota-backend-bytes`; `None` when the flag is negative.
    pub quota: Option<u64>,
}

impl Space {
    /// Without any limit.
    pub const UNLIMITED: Space = Space { used: 0, quota: None };

    /// Whether a request of this cost may be proposed. etcd `quota.go`: what costs nothing always may, so that deletes
    /// and compactions can make room.
    pub fn admits(&self, cost: u64) -> bool {
        cost == 0 || self.quota.is_none_or(|quota| self.used.saturating_add(cost) < quota)
    }
}

/// What a call asks for, checked. The variants say who answers.
#[derive(Clone, Debug)]
pub enum Request {
    /// A view answers: [`crate::read::range`].
    Range {
        /// What to read.
        options: RangeOptions,
        /// Only after a read-index barrier.
        linearizable: bool,
    },
    /// A view answers: [`crate::read::txn`].
    TxnRead {
        /// Nothing but ranges in either list.
        txn: Txn,
        /// Only after a read-index barrier.
        linearizable: bool,
    },
    /// The log, then [`crate::apply`].
    Write(Write),
    /// A view answers: [`crate::read::hash_kv`].
    HashKv {
        /// 0 is the current one.
        revision: i64,
    },
    /// A view answers: [`crate::read::hash`].
    Hash,
    /// The store core answers: [`crate::lease::time_to_live`].
    LeaseTimeToLive {
        /// The lease.
        id: i64,
        /// With the attached keys.
        keys: bool,
    },
    /// The store core answers: [`crate::lease::leases`].
    LeaseLeases,
    /// A view answers: [`crate::read::member_list`].
    MemberList {
        /// Only after a read-index barrier.
        linearizable: bool,
    },
    /// The rules of [`crate::cluster::rules`], then the log, then [`crate::apply`]. Of a promotion the leader decides.
    ConfChange(Change),
    /// The leader hands leadership over, if [`crate::cluster::rules::check_transfer`] allows it. The answer is an
    /// empty message, once the other leads.
    MoveLeader {
        /// To whom.
        target: u64,
    },
    /// Answered by [`maintenance::status`].
    Status,
    /// The store core trims its file; the answer is an empty message.
    Defragment,
    /// Answered at once by [`health::check`].
    HealthCheck {
        /// The service asked for.
        service: String,
    },
    /// A stream whose first message [`health::watch`] gives.
    HealthWatch {
        /// The service asked for.
        service: String,
    },
    /// Answered at once by [`health::list`].
    HealthList,
}

/// What the checks need to know.
pub struct Context<'a> {
    /// Limits by flags.
    pub limits: Limits,
    /// How full the store is.
    pub space: Space,
    /// Where IDs of entries and leases come from.
    pub ids: &'a mut IdGenerator,
}

/// Decodes and checks the one message of a unary or server-stream call.
///
/// `Watch` and `LeaseKeepAlive` have many messages: see [`watch::decode`] and [`lease::decode_keep_alive`].
///
/// # Errors
/// A [`Refusal`]; when it is [`Error::NoSpace`] the caller also proposes this member's NOSPACE alarm
/// ([`crate::propose::raise_alarm`]), if it is not active yet.
pub fn decode(context: &mut Context<'_>, method: Method, message: &Bytes) -> Result<Request, Refusal> {
    Ok(match method {
        Method::KvRange => kv::range(parse(message)?)?,
        Method::KvPut => kv::put(context, message)?,
        Method::KvDeleteRange => kv::delete_range(context, message)?,
        Method::KvTxn => kv::txn(context, message)?,
        Method::KvCompact => kv::compact(context, message)?,
        Method::LeaseGrant => lease::grant(context, message)?,
        Method::LeaseRevoke => lease::revoke(context, message)?,
        Method::LeaseTimeToLive => lease::time_to_live(parse(message)?),
        Method::LeaseLeases => lease::leases(parse(message)?),
        Method::MemberList => cluster::member_list(parse(message)?),
        Method::MemberAdd => cluster::member_add(parse(message)?)?,
        Method::MemberRemove => cluster::member_remove(parse(message)?),
        Method::MemberUpdate => cluster::member_update(parse(message)?)?,
        Method::MemberPromote => cluster::member_promote(parse(message)?),
        Method::MaintenanceMoveLeader => maintenance::move_leader(parse(message)?),
        Method::MaintenanceStatus => maintenance::decode_status(parse(message)?),
        Method::MaintenanceAlarm => maintenance::alarm(context, message)?,
        Method::MaintenanceHash => maintenance::hash(parse(message)?),
        Method::MaintenanceHashKv => maintenance::hash_kv(parse(message)?),
        Method::MaintenanceDefragment => maintenance::defragment(parse(message)?),
        Method::HealthCheck => health::decode_check(parse(message)?),
        Method::HealthWatch => health::decode_watch(parse(message)?),
        Method::HealthList => health::decode_list(parse(message)?),
        _ => return Err(Refusal::Unimplemented(method)),
    })
}

/// Whether this server serves `method` at all; the others answer UNIMPLEMENTED before a message is read.
pub fn is_served(method: Method) -> bool {
    use Method::*;
    matches!(
        method,
        KvRange
            | KvPut
            | KvDeleteRange
            | KvTxn
            | KvCompact
            | Watch
            | LeaseGrant
            | LeaseRevoke
            | LeaseKeepAlive
            | LeaseTimeToLive
            | LeaseLeases
            | MemberAdd
            | MemberRemove
            | MemberUpdate
            | MemberList
            | MemberPromote
            | MaintenanceMoveLeader
            | MaintenanceStatus
            | MaintenanceAlarm
            | MaintenanceHash
            | MaintenanceHashKv
            | MaintenanceDefragment
            | HealthCheck
            | HealthWatch
            | HealthList
    )
}

/// Whether a learner serves this call; `message` is the request of a unary one. All others are refused with
/// [`Error::NotSupportedForLearner`], before anything else is looked at (etcd `interceptor.go`).
pub fn learner_serves(method: Method, message: &Bytes) -> bool {
    match method {
        Method::MaintenanceStatus | Method::MaintenanceSnapshot => true,
        Method::KvRange => {
            parse::<net::pb::etcdserverpb::RangeRequest>(message).is_ok_and(|range| range.serializable)
        }
        _ => false,
    }
}

/// Why [`decode`] refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// By one of etcd's errors.
    Error(Error),
    /// This server does not serve the method.
    Unimplemented(Method),
}

impl Refusal {
    /// The status that ends the call. An unserved method is answered as grpc-go answers an unknown one, because
    /// clients tell "this server is too old for that" by the code.
    pub fn status(self) -> Status {
        match self {
            Refusal::Error(error) => error.status(),
            Refusal::Unimplemented(method) => {
                let (service, rpc) = method.names();
                Status::new(Code::Unimplemented, format!("unknown method {rpc} for service {service}"))
            }
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal::Error(error)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        refusal.status()
    }
}

/// Decodes a message, sharing its bytes.
pub(crate) fn parse<M: Message + Default>(message: &Bytes) -> Result<M, Error> {
    M::decode(message.clone()).map_err(|_| Error::Malformed)
}

impl Context<'_> {
    /// Wraps a checked command and the client's message (with `suffix` behind it) into an entry.
    pub(crate) fn write(
        &mut self,
        field: u32,
        message: &[u8],
        suffix: &[u8],
        command: crate::propose::Command,
    ) -> Result<Request, Error> {
        let id = self.ids.next_id();
        let entry = crate::propose::encode(id, field, message, suffix);
        if entry.len() > self.limits.request_bytes_max {
            return Err(Error::RequestTooLarge);
        }
        Ok(Request::Write(Write { command, entry, id }))
    }
}

#[cfg(test)]
mod tests;
