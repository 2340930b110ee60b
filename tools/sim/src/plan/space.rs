//! What the store core is asked and told that has to do with room: a small quota, a heap that is soon full, compactions and
//! checkpoints of leases by the server itself, and an operator who looks at alarms, takes them off and has files cut.

use serde::{Deserialize, Serialize};

use super::{FaultKind, OpKind, Plan};
use crate::queue::{MS, Time};
use crate::rng::Rng;

/// Worlds with a quota, of 1000.
const QUOTA_WORLDS: usize = 150;

/// Worlds in which an operator is about though there is no quota and no disk gets full, of 1000.
const TENDED_WORLDS: usize = 300;

/// Flags of the members that concern their stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags {
    /// `--quota-backend-bytes`
    pub quota: Option<u64>,
    /// `--ringd-heap-limit`
    pub heap_limit: Option<u64>,
    /// The feature gate `LeaseCheckpoint`: how often what is left of leases is written down.
    pub lease_checkpoint: Option<Time>,
    /// `--auto-compaction-retention` of the mode *periodic*.
    pub compact_period: Option<Time>,
}

/// No small limit of the heap where a step of a checkpoint takes longer than this on average.
const HEAP_LIMIT_STEP_MAX: Time = 5 * MS;

const TENDING: &[(usize, OpKind)] = &[(2, OpKind::Alarms), (4, OpKind::Disarm), (3, OpKind::Defragment)];

/// Draws them into a plan.
pub fn draw(plan: &mut Plan, rng: &mut Rng) {
    let config = &mut plan.config;
    config.store = Flags {
        quota: rng.permille(QUOTA_WORLDS).then(|| rng.pick(&[96, 128, 160, 256]) << 10),
        // Where a checkpoint takes long, one every few entries would be slower than what members propose by themselves.
        heap_limit: rng
            .permille(200)
            .then(|| rng.pick(&[64, 128, 256]) << 10)
            .filter(|_| config.checkpoint_step <= HEAP_LIMIT_STEP_MAX),
        lease_checkpoint: rng.permille(250).then(|| rng.pick(&[200, 1_000, 3_000]) * MS),
        compact_period: rng.permille(200).then(|| rng.pick(&[500, 2_000, 10_000]) * MS),
    };
    let is_full = plan.faults.iter().any(|fault| fault.kind == FaultKind::DiskFull);
    if !(is_full || config.store.quota.is_some() || rng.permille(TENDED_WORLDS)) {
        return;
    }
    plan.ask_now_and_then((6, 30), TENDING, rng);
}
