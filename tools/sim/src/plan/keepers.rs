//! Worlds of leases: who keeps one alive, who ends it, and leaders that are cut off in between.
//!
//! A leader that was cut off believes for a while that it leads, and it has the lease that its successor has just let go. To
//! see what it answers takes a client that has nothing else to do there (one that writes would hang), a revocation at a
//! successor within the same moment, and many such moments. The general mixes come to it too rarely.

use super::{Config, Fault, FaultKind, Op, OpKind};
use crate::queue::US;
use crate::rng::Rng;

/// Whether a seed is such a world; one in ten of those with several members.
pub fn draws(config: &Config, rng: &mut Rng) -> bool {
    rng.permille(100) && config.members > 1
}

/// A keeper and a writer at each member.
pub fn config(config: Config) -> Config {
    Config { clients: 2 * config.members, fail_over: false, keepers: true, ..config }
}

/// The first client of each member keeps leases alive and does nothing else; the second grants and revokes them.
pub fn ops(config: &Config, rng: &mut Rng) -> Vec<Op> {
    let keeper = [(9, OpKind::KeepAlive), (1, OpKind::TimeToLive)];
    let writer = [(8, OpKind::Grant), (5, OpKind::Revoke), (3, OpKind::Put), (1, OpKind::Get)];
    let mut ops = Vec::new();
    for client in 0..config.clients {
        let keeps = client < config.members;
        let (mix, pace) = if keeps { (&keeper[..], config.tick / 8) } else { (&writer[..], config.tick / 4) };
        let mut at = rng.exponential(pace);
        while at < config.safety {
            ops.push(Op { at, client, kind: rng.weighted(mix), draw: rng.next() });
            at += rng.exponential(pace) + US;
        }
    }
    ops.sort_by_key(|op| op.at);
    ops
}

/// Members are cut off or stand still, one after the other, each for about as long as an election takes.
pub fn faults(config: &Config, rng: &mut Rng) -> Vec<Fault> {
    use FaultKind::*;
    let kinds = [(5, Isolate), (3, Pause), (2, Deaf), (2, Mute), (1, Kill)];
    let election = config.election();
    let mut faults = Vec::new();
    let mut at = rng.exponential(2 * election);
    while at < config.safety {
        faults.push(Fault {
            at,
            lasts: election + rng.exponential(2 * election),
            kind: rng.weighted(&kinds),
            node: rng.below(config.members),
            draw: rng.next(),
        });
        at += 2 * election + rng.exponential(3 * election);
    }
    faults
}
