//! Leases where they are timed, on the store core of the member that leads: keep-alives, time to live, expiry.
//!
//! A keep-alive of a lease that has run out, but whose revocation has not been applied yet, must wait for it: answering
//! "renewed" would revive a dead lease, answering "gone" would be wrong if leadership changes first (etcd `lessor.go`,
//! `Renew`). [`Renewals`] holds such keep-alives. On the client core [`InOrder`] keeps the answers of one stream in the
//! order of its requests, whichever of them has to wait.
//!
//! One of a lease of which a checkpoint says what is left waits, too, until another checkpoint has taken that back:
//! [`Renewals::take_clears`] says of which.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use engine::lease::{CHECKPOINTS_PER_ENTRY_MAX, Checkpoint, Renewal};
use engine::{LeaseId, Store};
use net::pb::etcdserverpb as pb;
use rustc_hash::FxHashMap;

use crate::answer::Answer;
use crate::api::Error;

/// How often expired leases are looked for (etcd `lessor.go`, `runLoop`).
pub const EXPIRY_INTERVAL: Duration = Duration::from_millis(500);

/// The most revocations proposed per [`EXPIRY_INTERVAL`]: half of etcd's 1 000 per second.
pub const EXPIRED_PER_INTERVAL_MAX: usize = 500;

/// The most revocations that are proposed and not yet applied (etcd `v3_server.go`, `maxPendingRevokes`).
pub const REVOKES_IN_FLIGHT_MAX: usize = 16;

/// Answer to one keep-alive: the granted TTL, 0 if there is no such lease.
pub type KeepAliveResult = Result<i64, Error>;

/// Keep-alives on the store core. `T` says whom to answer.
#[derive(Debug)]
pub struct Renewals<T> {
    /// Waiting for the lease's revocation, in the order they came.
    waiting: FxHashMap<LeaseId, Vec<T>>,
    /// Waiting until the lease's checkpoint is taken back.
    clearing: FxHashMap<LeaseId, Vec<T>>,
    /// Leases in `clearing` of which nobody has proposed that yet.
    clears: Vec<LeaseId>,
}

impl<T> Default for Renewals<T> {
    fn default() -> Self {
        Renewals { waiting: HashMap::default(), clearing: HashMap::default(), clears: Vec::new() }
    }
}

impl<T> Renewals<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.values().chain(self.clearing.values()).map(Vec::len).sum()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Renews a lease at `now`. `None`: the answer comes from [`Renewals::revoked`] or [`Renewals::demoted`].
    pub fn renew(
        &mut self,
        store: &mut Store,
        now: Duration,
        lease: i64,
        who: T,
    ) -> Option<(T, KeepAliveResult)> {
        let lease = LeaseId(lease);
        match store.lease_renew(now, lease) {
            Renewal::Renewed { ttl } => Some((who, Ok(ttl))),
            Renewal::NotFound => Some((who, Ok(0))),
            Renewal::NotPrimary => Some((who, Err(Error::NotPrimary))),
            Renewal::Expired => {
                self.waiting.entry(lease).or_default().push(who);
                None
            }
            Renewal::Checkpointed => {
                let waiting = self.clearing.entry(lease).or_default();
                if waiting.is_empty() {
                    self.clears.push(lease);
                }
                waiting.push(who);
                None
            }
        }
    }

    /// Checkpoints to propose, at most [`CHECKPOINTS_PER_ENTRY_MAX`]: their leases have all of their time again, so that
    /// they can be renewed.
    pub fn take_clears(&mut self, store: &Store) -> Vec<Checkpoint> {
        let count = self.clears.len().min(CHECKPOINTS_PER_ENTRY_MAX);
        let clear = |lease: LeaseId| {
            store.lease_granted_at(lease).map(|granted_at| Checkpoint { lease, granted_at, remaining_ttl: 0 })
        };
        self.clears.drain(..count).filter_map(clear).collect()
    }

    /// A proposal of what [`Renewals::take_clears`] gave may have been lost: it gives all that still wait again.
    pub fn clear_again(&mut self) {
        self.clears = self.clearing.keys().copied().collect();
        self.clears.sort_unstable();
    }

    /// A checkpoint of `lease` has been applied: tries those again who waited for it. Some may wait on.
    pub fn checkpointed(
        &mut self,
        store: &mut Store,
        now: Duration,
        lease: i64,
    ) -> Vec<(T, KeepAliveResult)> {
        let waited = self.clearing.remove(&LeaseId(lease)).unwrap_or_default();
        waited.into_iter().filter_map(|who| self.renew(store, now, lease, who)).collect()
    }

    /// The revocation of `lease` has been applied: answers those who waited for it.
    pub fn revoked(&mut self, lease: i64) -> impl Iterator<Item = (T, KeepAliveResult)> + use<T> {
        let clearing = self.clearing.remove(&LeaseId(lease));
        let waiting = self.waiting.remove(&LeaseId(lease));
        waiting.into_iter().chain(clearing).flatten().map(|who| (who, Ok(0)))
    }

    /// This member times leases no more: nobody here will revoke them.
    pub fn demoted(&mut self) -> impl Iterator<Item = (T, KeepAliveResult)> + use<T> {
        self.clears.clear();
        let clearing = std::mem::take(&mut self.clearing);
        let mut leases: Vec<_> = std::mem::take(&mut self.waiting).into_iter().chain(clearing).collect();
        leases.sort_unstable_by_key(|(lease, _)| *lease);
        leases.into_iter().flat_map(|(_, all)| all).map(|who| (who, Err(Error::NotPrimary)))
    }

    /// How many keep-alives wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.values().chain(self.clearing.values()).map(Vec::len).sum()
    }

    /// Forgets those that `keep` refuses (their streams are gone).
    pub fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        for waiting in [&mut self.waiting, &mut self.clearing] {
            waiting.retain(|_, all| {
                all.retain(&mut keep);
                !all.is_empty()
            });
        }
    }
}

/// The answers of one LeaseKeepAlive stream, in the order of its requests.
#[derive(Debug, Default)]
pub struct InOrder {
    /// Sequence number of the front of `slots`.
    first: u64,
    slots: VecDeque<Slot>,
}

#[derive(Debug)]
struct Slot {
    lease: i64,
    result: Option<KeepAliveResult>,
}

/// The most requests of one stream that may be unanswered; with one more it ends. A client has one stream for all of its leases,
/// and while there is no leader it asks for each of them again and again.
pub const KEEP_ALIVES_IN_FLIGHT_MAX: usize = 65_536;

impl InOrder {
    /// Notes a request; the number goes with it to the store core and back to [`InOrder::complete`].
    pub fn begin(&mut self, lease: i64) -> u64 {
        self.slots.push_back(Slot { lease, result: None });
        self.first + self.slots.len() as u64 - 1
    }

    /// Notes an answer. A number that is not open is ignored.
    pub fn complete(&mut self, number: u64, result: KeepAliveResult) {
        let index = number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
            slot.result.get_or_insert(result);
        }
    }

    /// The next answer whose turn it is: the lease and its TTL, or the error that ends the stream.
    pub fn poll(&mut self) -> Option<Result<(i64, i64), Error>> {
        let result = self.slots.front()?.result?;
        let slot = self.slots.pop_front()?;
        self.first += 1;
        Some(result.map(|ttl| (slot.lease, ttl)))
    }

    /// Whether every request has been answered, so that a half-closed stream can end with OK.
    pub fn is_idle(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether as many requests wait as may.
    pub fn is_full(&self) -> bool {
        self.slots.len() >= KEEP_ALIVES_IN_FLIGHT_MAX
    }
}

/// Answer to one keep-alive. `header` is that of the moment before the renewal.
pub fn keep_alive_response(header: pb::ResponseHeader, lease: i64, ttl: i64) -> pb::LeaseKeepAliveResponse {
    pb::LeaseKeepAliveResponse { header: Some(header), id: lease, ttl }
}

/// Answer to LeaseTimeToLive. An unknown lease is an answer with TTL -1, not an error.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn time_to_live(store: &Store, now: Duration, lease: i64, keys: bool) -> Result<Answer, Error> {
    let Some(status) = store.lease_status(now, LeaseId(lease)) else {
        let message = pb::LeaseTimeToLiveResponse { id: lease, ttl: -1, ..Default::default() };
        return Ok(Answer::of_message(store.revision(), &message));
    };
    let keys: Vec<Bytes> = match keys {
        true => store.lease_keys(LeaseId(lease)).map_err(|_| Error::Corrupt)?,
        false => Vec::new(),
    };
    let message = pb::LeaseTimeToLiveResponse {
        header: None,
        id: lease,
        ttl: status.ttl,
        granted_ttl: status.granted_ttl,
        keys,
    };
    Ok(Answer::of_message(store.revision(), &message))
}

/// Answer to LeaseLeases: those that run out first come first.
pub fn leases(store: &Store) -> Answer {
    let leases = store.leases().into_iter().map(|lease| pb::LeaseStatus { id: lease.0 }).collect();
    Answer::of_message(store.revision(), &pb::LeaseLeasesResponse { header: None, leases })
}

/// A lease that has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Its number.
    pub lease: i64,
    /// Index of the entry that granted it. Its number may be granted again before its revocation is applied: the
    /// revocation is for this one alone. (etcd has no such name and ends the new one.)
    pub granted_at: u64,
}

/// Which expired leases to propose for revocation now, and when to ask again.
#[derive(Debug, Default)]
pub struct Expiry {
    next: Duration,
    in_flight: usize,
    /// The last poll was cut short by [`REVOKES_IN_FLIGHT_MAX`].
    full: bool,
}

impl Expiry {
    /// The leases to revoke at `now`; each counts as in flight until [`Expiry::revoked`].
    ///
    /// `confirmed` is the last moment at which this member is known to have led: a member alone may pass `now`, one
    /// among others when the newest round began that a quorum has answered. A leader that was cut off or paused doesn't
    /// know of the keep-alives that its successor took, so what has run out since then is not its to judge.
    pub fn poll(&mut self, store: &mut Store, now: Duration, confirmed: Duration) -> Vec<Expired> {
        if now < self.next {
            return Vec::new();
        }
        let room = REVOKES_IN_FLIGHT_MAX.saturating_sub(self.in_flight);
        let expired = store.expired_leases(confirmed.min(now), room.min(EXPIRED_PER_INTERVAL_MAX));
        self.full = expired.len() == room;
        self.next = now + EXPIRY_INTERVAL;
        self.in_flight += expired.len();
        let named = |lease: LeaseId| {
            store.lease_granted_at(lease).map(|granted_at| Expired { lease: lease.0, granted_at })
        };
        expired.into_iter().filter_map(named).collect()
    }

    /// A revocation that [`Expiry::poll`] asked for was applied, refused or lost. If others wait for its place, the
    /// next poll is due at once.
    pub fn revoked(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if std::mem::take(&mut self.full) {
            self.next = Duration::ZERO;
        }
    }

    /// When to poll next.
    pub fn next_timeout(&self) -> Duration {
        self.next
    }
}

#[cfg(test)]
mod tests;
