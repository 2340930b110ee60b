//! Leases: none ends before its time, none that is gone is kept alive.
//!
//! A lease's time begins anew with every keep-alive that was answered; the member may have renewed it at any moment after
//! the request was made. Its clock may run faster than true time, by what the plan says, and no more.
//!
//! A lease is known by its number alone, here as in etcd. One that is granted again under the number of one whose expiry is
//! on its way is ended by that expiry; within a while after such a grant nothing is said.

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
    /// How often each number was granted, and when last.
    granted: FxHashMap<i64, (u32, Time)>,
}

/// How long an expiry may be on its way.
const AGAIN: Time = 3 * S;

impl Leases {
    /// No lease. `clock_rate_max` is that of the fastest clock, in thousandths.
    pub fn new(clock_rate_max: u64) -> Leases {
        Leases {
            clock_rate_max,
            since: FxHashMap::default(),
            ended: FxHashMap::default(),
            granted: FxHashMap::default(),
        }
    }

    /// Where in the log a lease ended, if it did.
    pub fn ended_at(&self, lease: i64) -> Option<u64> {
        self.ended.get(&lease).copied()
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
            let granted = self.granted.entry(grant.id).or_insert((0, 0));
            *granted = (granted.0 + 1, now);
        }
        let Some(revoke) = &request.lease_revoke else { return Ok(()) };
        if model.leases.contains_key(&revoke.id) {
            self.ended.insert(revoke.id, index);
        }
        let (Some(lease), Some(since)) = (model.leases.get(&revoke.id), self.since.get(&revoke.id)) else {
            return Ok(());
        };
        // The number was another lease's a moment ago.
        let again = self.granted.get(&revoke.id).is_some_and(|(count, at)| *count > 1 && now < at + AGAIN);
        let lives = lease.ttl as u64 * S / self.clock_rate_max * 1000;
        if expires && !again && now < since + lives {
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
