//! What a committed entry does to the store: the only way in which it changes.
//!
//! The state afterwards depends on the entry and the state before, on nothing else: no clock (a lease's time counts from
//! `now`, but when it ends is decided by an entry), no flag, no local resource. Only the *answer* may: etcd tells the
//! client "database space exceeded" for a write that went through while this member was over its quota.
//!
//! Order of checks (etcd `uber_applier.go`): corrupt alarm, NOSPACE alarm, then the store. Every entry moves the applied
//! index, refused ones too, and an entry at or below it (a replay after a checkpoint) is skipped whole.

use std::time::Duration;

use bytes::Bytes;
use consensus::{ConfChange, Entry, EntryKind, Index, ProposalId};
use engine::tree::Damage;
use engine::{Alarm, AlarmKind, LeaseId, Store, TxnError, quota};
use net::pb::etcdserverpb as pb;
use net::pb::membershippb;
use pb::alarm_request::AlarmAction;

use crate::answer::{self, Answer};
use crate::api::{Error, Space};
use crate::cluster;
use crate::membership::{InvalidMember, Member};
use crate::propose::{self, Command, EntryError};

/// Name under which the cluster version (`X.Y.0`) is kept in the store.
pub const CLUSTER_VERSION: &[u8] = b"cluster_version";

/// What an entry did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The entry's place.
    pub index: Index,
    /// Who waits for the answer here, if anybody does.
    pub proposal: Option<ProposalId>,
    /// The answer.
    pub result: Result<Answer, Error>,
    /// What else follows from it.
    pub effect: Effect,
}

/// What the caller has to do beyond answering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// This lease is gone: keep-alives that wait for that can be answered.
    LeaseRevoked(i64),
    /// What is left of these leases has been written down: keep-alives that wait for that can be tried again.
    LeasesCheckpointed(Vec<i64>),
    /// Answer only when the compaction has deleted its rows ([`engine::Store::compact_slice`] says so).
    AnswerWhenCompacted,
    /// This member ran over its quota: propose its NOSPACE alarm.
    RaiseNoSpace,
    /// A member has made its name and client URLs known.
    MemberPublished,
    /// The cluster has a version.
    ClusterVersion(String),
    /// Raft may take the change of membership into effect, or must be told that it is none.
    ConfChange(Option<ConfChange>),
}

/// Why the store cannot go on. The process stops: what is half applied must not be published.
#[derive(Debug)]
pub enum Fatal {
    /// The entry cannot be understood.
    Entry {
        /// Its place.
        index: Index,
        /// Why.
        error: EntryError,
    },
    /// A row or a conf change does not hold a member.
    Member(InvalidMember),
    /// The tree file is damaged.
    Damaged(Damage),
}

impl From<Damage> for Fatal {
    fn from(damage: Damage) -> Fatal {
        Fatal::Damaged(damage)
    }
}

impl From<InvalidMember> for Fatal {
    fn from(error: InvalidMember) -> Fatal {
        Fatal::Member(error)
    }
}

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fatal::Entry { index, error } => write!(f, "cannot apply entry {}: {error}", index.0),
            Fatal::Member(error) => write!(f, "cannot apply a change of membership: {error}"),
            Fatal::Damaged(damage) => write!(f, "the store is damaged: {damage}"),
        }
    }
}

impl std::error::Error for Fatal {}

/// Applies one committed entry at `now`. `command` is what the local proposer kept beside it; without it the entry's
/// bytes are decoded. `None`: the entry had been applied before.
///
/// # Errors
/// [`Fatal`]; the store must not be used any more.
pub fn apply(
    store: &mut Store,
    now: Duration,
    space: Space,
    entry: &Entry,
    command: Option<Command>,
) -> Result<Option<Applied>, Fatal> {
    if entry.index.0 <= store.applied().index && !planted::is("entry-applied-twice") {
        return Ok(None);
    }
    let (result, effect) = match entry.kind {
        EntryKind::ConfChange => apply_conf_change(store, entry)?,
        EntryKind::Normal => {
            let command = match command {
                Some(command) => command,
                None => propose::decode(&entry.data)
                    .map_err(|error| Fatal::Entry { index: entry.index, error })?,
            };
            match command {
                // Whoever leads now may have renewed it: its own clock decides.
                Command::LeaseExpire { term, .. }
                    if term != entry.term.0 && !planted::is("old-leader-revokes-leases") =>
                {
                    (Err(Error::NotPrimary), Effect::None)
                }
                Command::LeaseCheckpoint { term: Some(term), .. } if term != entry.term.0 => {
                    (Err(Error::NotPrimary), Effect::None)
                }
                command => apply_command(store, now, space, command)?,
            }
        }
    };
    store.set_applied(entry.index.0, entry.term.0);
    Ok(Some(Applied { index: entry.index, proposal: entry.proposal, result, effect }))
}

type Outcome = (Result<Answer, Error>, Effect);

fn apply_command(store: &mut Store, now: Duration, space: Space, command: Command) -> Result<Outcome, Fatal> {
    if let Some(error) = refused_by_alarm(store, &command) {
        return Ok((Err(error), Effect::None));
    }
    let over_quota = !space.admits(cost(&command));
    let (done, effect) = execute(store, now, command)?;
    let result = match done {
        Ok(answer) => Ok(answer),
        Err(TxnError::Damaged(damage)) => return Err(damage.into()),
        Err(error) => Err(Error::from(&error)),
    };
    // etcd quota.go: the write stands, the client hears of the quota, and the alarm follows.
    if over_quota && result.is_ok() {
        return Ok((Err(Error::NoSpace), Effect::RaiseNoSpace));
    }
    Ok((result, effect))
}

fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(put) => quota::put_cost(put),
        Command::Txn(txn) => quota::txn_cost(txn),
        Command::LeaseGrant { .. } => quota::LEASE_GRANT_COST,
        _ => 0,
    }
}

fn refused_by_alarm(store: &Store, command: &Command) -> Option<Error> {
    let changes_data = matches!(
        command,
        Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact { .. }
            | Command::LeaseGrant { .. }
            | Command::LeaseRevoke { .. }
            | Command::LeaseExpire { .. }
    );
    if changes_data && store.has_alarm(AlarmKind::Corrupt) {
        return Some(Error::Corrupt);
    }
    (cost(command) > 0 && store.has_alarm(AlarmKind::NoSpace)).then_some(Error::NoSpace)
}

fn execute(
    store: &mut Store,
    now: Duration,
    command: Command,
) -> Result<(Result<Answer, TxnError>, Effect), Fatal> {
    let mut effect = Effect::None;
    let result = match command {
        Command::Put(put) => store.put(&put).map(|done| Answer::new(done.revision, answer::put_body(&done))),
        Command::DeleteRange(delete) => {
            store.delete_range(&delete).map(|done| Answer::new(done.revision, answer::delete_body(&done)))
        }
        Command::Txn(txn) => store.txn(&txn).map(|done| Answer::new(done.revision, answer::txn_body(&done))),
        Command::Compact { revision, physical } => {
            if physical {
                effect = Effect::AnswerWhenCompacted;
            }
            store.compact(revision).map(|_| Answer::bare(store.revision()))
        }
        Command::LeaseGrant { id, ttl } => {
            let granted = store.lease_grant(now, LeaseId(id), ttl);
            granted.map(|ttl| {
                let message = pb::LeaseGrantResponse { id, ttl, ..Default::default() };
                Answer::of_message(store.revision(), &message)
            })
        }
        Command::LeaseExpire { id, granted_at: Some(granted_at), .. }
            if store.lease_granted_at(LeaseId(id)).is_some_and(|at| at != granted_at) =>
        {
            Err(TxnError::LeaseNotFound { lease: LeaseId(id) })
        }
        Command::LeaseRevoke { id } | Command::LeaseExpire { id, .. } => {
            effect = Effect::LeaseRevoked(id);
            store.lease_revoke(LeaseId(id)).map(Answer::bare)
        }
        Command::LeaseCheckpoint { checkpoints, .. } => {
            for &checkpoint in &checkpoints {
                store.lease_checkpoint(now, checkpoint)?;
            }
            effect = Effect::LeasesCheckpointed(checkpoints.iter().map(|one| one.lease.0).collect());
            Ok(Answer::bare(store.revision()))
        }
        Command::Alarm(request) => Ok(apply_alarm(store, &request)?),
        Command::ClusterVersionSet { version } => {
            store.set_user_meta(CLUSTER_VERSION, version.as_bytes())?;
            effect = Effect::ClusterVersion(version);
            Ok(Answer::bare(store.revision()))
        }
        Command::ClusterMemberAttrSet(request) => {
            set_attributes(store, request)?;
            effect = Effect::MemberPublished;
            Ok(Answer::bare(store.revision()))
        }
        Command::Nothing => Ok(Answer::bare(store.revision())),
    };
    Ok((result, effect))
}

fn apply_alarm(store: &mut Store, request: &pb::AlarmRequest) -> Result<Answer, Damage> {
    let kind = match pb::AlarmType::try_from(request.alarm) {
        Ok(pb::AlarmType::Nospace) => Some(AlarmKind::NoSpace),
        Ok(pb::AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
        Ok(pb::AlarmType::None) | Err(_) => None,
    };
    let asked = kind.map(|kind| Alarm { member: request.member_id, kind });
    let alarms = match (AlarmAction::try_from(request.action), asked) {
        (Ok(AlarmAction::Get), _) if kind.is_some() || request.alarm == 0 => store.alarms(kind),
        (Ok(AlarmAction::Activate), Some(alarm)) => {
            store.alarm_activate(alarm)?;
            vec![alarm]
        }
        (Ok(AlarmAction::Deactivate), Some(alarm)) if store.alarm_deactivate(alarm)? => vec![alarm],
        _ => Vec::new(),
    };
    let message = pb::AlarmResponse { header: None, alarms: alarms.iter().map(alarm_message).collect() };
    Ok(Answer::of_message(store.revision(), &message))
}

/// An alarm as the API shows it.
pub(crate) fn alarm_message(alarm: &Alarm) -> pb::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: alarm.member, alarm: kind as i32 }
}

/// A member that is not in the table (removed meanwhile) publishes nothing (etcd `cluster.go`, `UpdateAttributes`).
fn set_attributes(
    store: &mut Store,
    request: membershippb::ClusterMemberAttrSetRequest,
) -> Result<(), Fatal> {
    let Some(row) = store.member(request.member_id)? else { return Ok(()) };
    let mut member = Member::decode(&row)?;
    let attributes = request.member_attributes.unwrap_or_default();
    member.name = attributes.name;
    member.client_urls = attributes.client_urls;
    Ok(store.set_member(member.id, Some(&member.encode()))?)
}

/// Members appear and go by conf changes. One that breaks the rules becomes none: Raft is told so, and the entry counts
/// as applied.
fn apply_conf_change(store: &mut Store, entry: &Entry) -> Result<Outcome, Fatal> {
    let change = ConfChange::decode(&entry.data).map_err(|error| Fatal::Entry {
        index: entry.index,
        error: EntryError::Malformed(error.to_string()),
    })?;
    match cluster::change::apply(store, &change)? {
        Ok(answer) => Ok((Ok(answer), Effect::ConfChange(Some(change)))),
        Err(error) => Ok((Err(error), Effect::ConfChange(None))),
    }
}

/// The members in the store, by id.
///
/// # Errors
/// [`Fatal`] if a row cannot be read.
pub fn members(store: &Store) -> Result<Vec<Member>, Fatal> {
    store.members()?.iter().map(|(_, row)| Ok(Member::decode(row)?)).collect()
}

/// The cluster version (`X.Y.0`), if it has been set.
///
/// # Errors
/// [`Fatal`] if the row cannot be read.
pub fn cluster_version(store: &Store) -> Result<Option<String>, Fatal> {
    let row: Option<Bytes> = store.user_meta(CLUSTER_VERSION)?;
    Ok(row.map(|row| String::from_utf8_lossy(&row).into_owned()))
}

#[cfg(test)]
mod tests;
