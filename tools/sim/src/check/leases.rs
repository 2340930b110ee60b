//! Leases: none ends before its time, none that is gone is kept alive.
//!
//! A lease's time begins anew with every keep-alive that was answered; the member may have renewed it at any moment after
//! the request was made. Its clock may run faster than true time, by what the plan says, and no more.
//!
//! An expiry is of one grant, which it names: one that is granted again under the same number lives on.

use net::pb::etcdserverpb as pb;
use rustc_hash::FxHashMap;

use super::{Failure, fail};
use crate::model::Model;
use crate::queue::{S, Time};

/// See the module's header.
pub struct Leases {
    clock_rate_max: u64,
    /// Since when each lease lives at least, by its newest answered request.
    since: FxHashMap<i64, Time>,
    /// Index of the entry that ended it.
    ended: FxHashMap<i64, u64>,
    /// Index of the entry that granted each number last.
    granted: FxHashMap<i64, u64>,
    /// Leases that ended because their time was over.
    pub expired: u64,
}

impl Leases {
    /// No lease. `clock_rate_max` is that of the fastest clock, in thousandths.
    pub fn new(clock_rate_max: u64) -> Leases {
        Leases {
            clock_rate_max,
            since: FxHashMap::default(),
            ended: FxHashMap::default(),
            granted: FxHashMap::default(),
            expired: 0,
        }
    }

    /// Since when it lives at least, by its newest answered request.
    pub fn since(&self, lease: i64) -> Option<Time> {
        self.since.get(&lease).copied()
    }

    /// Where in the log a lease ended, if it did.
    pub fn ended_at(&self, lease: i64) -> Option<u64> {
        self.ended.get(&lease).copied()
    }

    /// Whether the expiry of the grant at this index is about a lease that is gone, while another has its number.
    pub fn is_of_another(&self, lease: i64, granted_at: u64) -> bool {
        self.granted.get(&lease).is_some_and(|at| *at != granted_at)
    }

    /// A grant or a keep-alive that was asked at `asked` is answered.
    pub fn alive(&mut self, lease: i64, asked: Time) {
        let since = self.since.entry(lease).or_insert(asked);
        *since = (*since).max(asked);
    }

    /// An entry is about to be applied. A revocation that no client has asked for is an expiry.
    pub fn before_entry(
        &mut self,
        now: Time,
        index: u64,
        request: &pb::InternalRaftRequest,
        model: &Model,
        expires: bool,
    ) -> Result<(), Failure> {
        if let Some(grant) = &request.lease_grant
            && !model.leases.contains_key(&grant.id)
        {
            self.granted.insert(grant.id, index);
        }
        let Some(revoke) = &request.lease_revoke else { return Ok(()) };
        if model.leases.contains_key(&revoke.id) {
            self.ended.insert(revoke.id, index);
            self.expired += u64::from(expires);
        }
        let (Some(lease), Some(since)) = (model.leases.get(&revoke.id), self.since.get(&revoke.id)) else {
            return Ok(());
        };
        let lives = lease.ttl as u64 * S / self.clock_rate_max * 1000;
        if expires && now < since + lives {
            return fail(
                "lease",
                format!(
                    "lease {:x} of {} s was renewed at {:.3} s and expires at {:.3} s",
                    revoke.id,
                    lease.ttl,
                    *since as f64 / 1e9,
                    now as f64 / 1e9
                ),
            );
        }
        Ok(())
    }
}
