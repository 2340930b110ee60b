//! Leases: grants, renewals, expiry.
//!
//! What is granted is state: rows of `leases` and `lease_keys`, changed by applied requests alone.
//! When a lease runs out is not: only the member that leads times leases, on its own monotonic
//! clock, and what it finds expired it proposes to revoke. A new leader gives every lease its full
//! time again, plus an election timeout for the keep-alives that went to the old one. So a lease
//! never ends early, and may live longer.
//!
//! Where leases are checkpointed (etcd's feature gate LeaseCheckpoint), the leader has what is left
//! of long ones written down from time to time, and a new leader gives them that instead. A
//! keep-alive must then undo the checkpoint before it is answered, and one that is on its way too:
//! whoever leads next would else go by what was left before. (etcd forgets the latter.)

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxBuildHasher;

use crate::error::TxnError;
use crate::row::{self, BadRow, KeyRow, LeaseRow};
use crate::source::Source;
use crate::store::Store;
use crate::tree::{Damage, Table};
use crate::types::{LeaseId, LeaseStatus};
use crate::view::View;
use crate::write::Changes;

/// Longest TTL that is granted, in seconds. etcd lessor.go: MaxLeaseTTL.
pub const LEASE_TTL_S_MAX: i64 = 9_000_000_000;

/// How often what is left of a lease is written down, and of which: those with more than this.
/// etcd lessor.go: defaultLeaseCheckpointInterval.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// The most leases of which one entry says what is left. etcd lessor.go: maxLeaseCheckpointBatchSize.
pub const CHECKPOINTS_PER_ENTRY_MAX: usize = 1000;

/// How long after a lease was reported expired it is reported again, if it still exists.
/// etcd lessor.go: defaultExpiredleaseRetryInterval.
pub const EXPIRED_RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// etcd lessor.go: leaseRevokeRate, and three quarters of it: how many expiries per second a new
/// leader plans for.
const REVOKE_PER_S: usize = 1000;
const EXPIRIES_PER_S: u32 = 750;

/// What came of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It lives `ttl` seconds from now.
    Renewed {
        /// The granted TTL.
        ttl: i64,
    },
    /// There is no such lease.
    NotFound,
    /// It has run out and waits to be revoked: the answer must wait for that, too.
    Expired,
    /// What was left of it has been written down, or is about to be: a checkpoint of 0 must be
    /// applied first, then it can be renewed.
    Checkpointed,
    /// This member does not time leases: the leader must be asked.
    NotPrimary,
}

/// What is left of a lease, to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The lease.
    pub lease: LeaseId,
    /// Index of the entry that granted it: one that has its number later is not meant.
    pub granted_at: u64,
    /// Seconds, rounded up; 0: it has its full time again.
    pub remaining_ttl: i64,
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: i64,
    remaining_ttl: i64,
    granted_at: u64,
    /// When it runs out; meaningless on a member that does not lead.
    expiry: Duration,
    /// When it is due in `queue`: its expiry, or later if it has been reported already.
    due: Duration,
    /// When it is due in `checkpoints`.
    checkpoint_due: Option<Duration>,
    /// A checkpoint of it may be on its way.
    checkpointing: bool,
}

impl Lease {
    /// What a new leader gives it.
    fn full_again(&self) -> Duration {
        if planted::is("new-leader-gives-no-time") { Duration::ZERO } else { self.full() }
    }

    fn full(&self) -> Duration {
        let ttl = if self.remaining_ttl > 0 { self.remaining_ttl } else { self.ttl };
        Duration::from_secs(ttl.max(0) as u64)
    }
}

/// All leases in memory, and the order in which they run out.
#[derive(Default)]
pub(crate) struct Lessor {
    leases: HashMap<LeaseId, Lease, FxBuildHasher>,
    /// Of a leader: every lease by when it is due.
    queue: BTreeSet<(Duration, LeaseId)>,
    /// Of a leader: leases by when what is left of them is to be written down.
    checkpoints: BTreeSet<(Duration, LeaseId)>,
    /// How often leases are checkpointed, if they are.
    checkpointed: Option<Duration>,
    primary: bool,
}

impl Lessor {
    pub fn contains(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    fn insert(&mut self, now: Duration, id: LeaseId, row: LeaseRow) {
        let LeaseRow { ttl, remaining_ttl, granted_at } = row;
        let (expiry, due, checkpoint_due, checkpointing) = (now, now, None, false);
        let lease = Lease { ttl, remaining_ttl, granted_at, expiry, due, checkpoint_due, checkpointing };
        self.leases.insert(id, lease);
        if self.primary {
            self.schedule(id, now + lease.full());
            self.schedule_checkpoint(now, id);
        }
    }

    fn remove(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.queue.remove(&(lease.due, id));
            if let Some(due) = lease.checkpoint_due {
                self.checkpoints.remove(&(due, id));
            }
        }
    }

    /// Only long leases: of the others a new leader gives little more than is left.
    fn schedule_checkpoint(&mut self, now: Duration, id: LeaseId) {
        let lease = self.leases.get_mut(&id).expect("only known leases are scheduled");
        if let Some(due) = lease.checkpoint_due.take() {
            self.checkpoints.remove(&(due, id));
        }
        if let Some(every) = self.checkpointed
            && self.primary
            && lease.full() > every
        {
            let due = now + every;
            lease.checkpoint_due = Some(due);
            self.checkpoints.insert((due, id));
        }
    }

    fn checkpoints_due(&mut self, now: Duration, limit: usize) -> Vec<Checkpoint> {
        let mut all = Vec::new();
        while let Some(&(due, id)) = self.checkpoints.first()
            && due <= now
            && all.len() < limit
        {
            self.schedule_checkpoint(now, id); // also if this one gets lost
            let lease = self.leases.get_mut(&id).expect("the queue holds known leases");
            let left = lease.expiry.saturating_sub(now);
            let remaining_ttl = left.as_secs() as i64 + i64::from(left.subsec_nanos() > 0);
            // One that has run out is revoked; one that was just renewed has all of its time.
            if (1..lease.ttl).contains(&remaining_ttl) {
                lease.checkpointing = true;
                all.push(Checkpoint { lease: id, granted_at: lease.granted_at, remaining_ttl });
            }
        }
        all
    }

    fn schedule(&mut self, id: LeaseId, expiry: Duration) {
        let lease = self.leases.get_mut(&id).expect("only known leases are scheduled");
        self.queue.remove(&(lease.due, id));
        lease.expiry = expiry;
        lease.due = expiry;
        self.queue.insert((expiry, id));
    }

    fn promote(&mut self, now: Duration, extend: Duration) {
        self.stop();
        self.primary = true;
        let mut order: Vec<(Duration, LeaseId)> =
            self.leases.iter().map(|(&id, lease)| (lease.full_again() + extend, id)).collect();
        order.sort_unstable();
        let spread = order.len() >= REVOKE_PER_S;
        let mut window = Window::new(order.first().map_or(Duration::ZERO, |&(first, _)| first));
        for (remaining, id) in order {
            let delay = if spread { window.delay(remaining) } else { Duration::ZERO };
            self.schedule(id, now + remaining + delay);
            self.schedule_checkpoint(now, id);
        }
    }

    fn stop(&mut self) {
        self.primary = false;
        self.queue.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            (lease.checkpoint_due, lease.checkpointing) = (None, false);
        }
    }

    fn renew(&mut self, now: Duration, id: LeaseId) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        match self.leases.get(&id).copied() {
            None => Renewal::NotFound,
            Some(lease) if lease.expiry <= now => Renewal::Expired,
            Some(lease) if lease.remaining_ttl > 0 || lease.checkpointing => Renewal::Checkpointed,
            Some(lease) => {
                self.schedule(id, now + lease.full());
                Renewal::Renewed { ttl: lease.ttl }
            }
        }
    }

    fn expired(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        let due: Vec<_> =
            self.queue.iter().take_while(|&&(due, _)| due <= now).take(limit).copied().collect();
        let mut ids = Vec::with_capacity(due.len());
        for (due, id) in due {
            self.queue.remove(&(due, id));
            let lease = self.leases.get_mut(&id).expect("the queue holds known leases");
            lease.due = now + EXPIRED_RETRY_INTERVAL;
            self.queue.insert((lease.due, id));
            ids.push(id);
        }
        ids
    }
}

/// Spreads the expiries that follow a change of leader. etcd lessor.go, Promote: leases that run
/// out within the same second beyond what can be revoked in it are put off.
struct Window {
    base: Duration,
    end: Duration,
    expiries: u32,
}

impl Window {
    fn new(first: Duration) -> Window {
        Window { base: first, end: first + Duration::from_secs(1), expiries: 0 }
    }

    fn delay(&mut self, remaining: Duration) -> Duration {
        if remaining > self.end {
            *self = Window::new(remaining);
            self.expiries = 1;
            return Duration::ZERO;
        }
        self.expiries += 1;
        if self.expiries <= EXPIRIES_PER_S {
            return Duration::ZERO;
        }
        let rate = Duration::from_secs(1) * self.expiries / EXPIRIES_PER_S;
        let delay = rate.saturating_sub(remaining.saturating_sub(self.base));
        self.end = self.base + delay;
        delay
    }
}

impl Store {
    /// Applies a LeaseGrant; answers the granted TTL in seconds. `now` is when, for its expiry if
    /// this member leads. Its entry is taken to be the next one after what has been applied.
    pub fn lease_grant(&mut self, now: Duration, lease: LeaseId, ttl: i64) -> Result<i64, TxnError> {
        if lease == LeaseId::NONE {
            return Err(TxnError::LeaseNotFound { lease });
        }
        if ttl > LEASE_TTL_S_MAX {
            return Err(TxnError::LeaseTtlTooLarge { ttl });
        }
        if self.lessor.contains(lease) {
            return Err(TxnError::LeaseExists { lease });
        }
        let ttl = ttl.max(self.config.lease_ttl_s_min);
        let row = LeaseRow { ttl, remaining_ttl: 0, granted_at: self.applied().index + 1 };
        self.tree.put(Table::Leases, &row::lease_key(lease), &[row.encode().as_ref()])?;
        self.lessor.insert(now, lease, row);
        Ok(row.ttl)
    }

    /// Applies a LeaseRevoke: deletes the attached keys in ascending order, in one revision if
    /// there are any. Answers the header revision.
    pub fn lease_revoke(&mut self, lease: LeaseId) -> Result<i64, TxnError> {
        if !self.lessor.contains(lease) {
            return Err(TxnError::LeaseNotFound { lease });
        }
        let mut changes = Changes::after(self.revision);
        for key in self.lease_keys(lease)? {
            let row = self.state().key_row(&key)?;
            let attached = row.filter(|row| row.live && row.lease == lease);
            let attached: KeyRow = attached.ok_or(BadRow.of(Table::LeaseKeys))?;
            self.write_tombstone(&mut changes, &key, &attached)?;
        }
        self.tree.remove(Table::Leases, &row::lease_key(lease))?;
        self.lessor.remove(lease);
        self.revision = changes.end();
        Ok(self.revision)
    }

    /// Renews a lease on the member that leads.
    pub fn lease_renew(&mut self, now: Duration, lease: LeaseId) -> Renewal {
        self.lessor.renew(now, lease)
    }

    /// Whether there is such a lease, expired or not.
    pub fn lease_exists(&self, lease: LeaseId) -> bool {
        self.lessor.contains(lease)
    }

    /// Index of the entry that granted this lease; `None` if there is no such lease. A number may be granted again after
    /// its lease has ended; the index then tells one from the other.
    pub fn lease_granted_at(&self, lease: LeaseId) -> Option<u64> {
        self.lessor.leases.get(&lease).map(|lease| lease.granted_at)
    }

    /// What is left of a lease; `None` if there is no such lease.
    pub fn lease_status(&self, now: Duration, lease: LeaseId) -> Option<LeaseStatus> {
        let found = self.lessor.leases.get(&lease)?;
        let left = match planted::is("time-to-live-stands-still") {
            true => found.full(),
            false => found.expiry.saturating_sub(now),
        };
        let ttl = if self.lessor.primary { left.as_secs() as i64 } else { found.ttl };
        Some(LeaseStatus { granted_ttl: found.ttl, ttl })
    }

    /// The keys attached to a lease, ascending.
    pub fn lease_keys(&self, lease: LeaseId) -> Result<Vec<Bytes>, Damage> {
        attached_keys(&self.tree, lease)
    }

    /// All leases; those that run out first come first on the member that leads.
    pub fn leases(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.lessor.leases.iter().map(|(&id, lease)| (lease.expiry, id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// This member leads from now on: every lease gets its time again, plus `extend`.
    pub fn lease_promote(&mut self, now: Duration, extend: Duration) {
        self.lessor.promote(now, extend);
    }

    /// This member leads no more: it stops timing leases.
    pub fn lease_demote(&mut self) {
        self.lessor.stop();
    }

    /// How often what is left of leases that are longer than that is written down, if it is at all
    /// ([`CHECKPOINT_INTERVAL`]), from the next [`Store::lease_promote`] on.
    pub fn lease_checkpointing(&mut self, every: Option<Duration>) {
        self.lessor.checkpointed = every;
    }

    /// At most `limit` leases of which it is time to write down what is left, for the caller to
    /// propose.
    pub fn lease_checkpoints_due(&mut self, now: Duration, limit: usize) -> Vec<Checkpoint> {
        self.lessor.checkpoints_due(now, limit)
    }

    /// Applies a checkpoint. Nothing happens to a lease that is gone or was granted by another
    /// entry.
    ///
    /// # Errors
    /// The tree is damaged.
    pub fn lease_checkpoint(&mut self, now: Duration, checkpoint: Checkpoint) -> Result<(), Damage> {
        let Checkpoint { lease: id, granted_at, remaining_ttl } = checkpoint;
        let Some(lease) = self.lessor.leases.get_mut(&id) else { return Ok(()) };
        if lease.granted_at != granted_at {
            return Ok(());
        }
        let row = LeaseRow { ttl: lease.ttl, remaining_ttl: remaining_ttl.clamp(0, lease.ttl), granted_at };
        (lease.remaining_ttl, lease.checkpointing) = (row.remaining_ttl, false);
        self.tree.put(Table::Leases, &row::lease_key(id), &[row.encode().as_ref()])?;
        self.lessor.schedule_checkpoint(now, id);
        Ok(())
    }

    /// At most `limit` leases that have run out, for the caller to propose their revocation. One
    /// that is still there after [`EXPIRED_RETRY_INTERVAL`] is answered again.
    pub fn expired_leases(&mut self, now: Duration, limit: usize) -> Vec<LeaseId> {
        self.lessor.expired(now, limit)
    }

    /// When [`Store::expired_leases`] has its next answer; `None` if no lease is timed.
    pub fn next_lease_expiry(&self) -> Option<Duration> {
        self.lessor.queue.first().map(|&(due, _)| due)
    }

    pub(crate) fn load_leases(&mut self) -> Result<(), Damage> {
        let bad = |bad: BadRow| bad.of(Table::Leases);
        let mut rows = self.tree.cursor(Table::Leases);
        let mut found = rows.seek_first()?;
        while found {
            let (id, _) = row::decode_lease_key(rows.key()).map_err(bad)?;
            self.lessor.insert(Duration::ZERO, id, LeaseRow::decode(rows.value()?).map_err(bad)?);
            found = rows.next()?;
        }
        Ok(())
    }
}

impl View {
    /// The keys attached to a lease, ascending.
    pub fn lease_keys(&self, guard: &crossbeam::epoch::Guard, lease: LeaseId) -> Result<Vec<Bytes>, Damage> {
        attached_keys(self.state(guard).source, lease)
    }
}

fn attached_keys<'s>(source: impl Source<'s>, lease: LeaseId) -> Result<Vec<Bytes>, Damage> {
    let prefix = row::lease_key(lease);
    let mut keys = Vec::new();
    let mut rows = source.cursor(Table::LeaseKeys);
    let mut found = rows.seek(&prefix)?;
    while found {
        let Some(key) = rows.key().strip_prefix(&prefix) else { break };
        keys.push(Bytes::copy_from_slice(key));
        found = rows.next()?;
    }
    Ok(keys)
}
