//! What clients ask now and then beside their load: what a member says of itself, of its history and of its leases. And how
//! long a call may wait, which in production is longer than most worlds last, and how often there is no room for what it asks.

use super::{Op, OpKind, Plan};
use crate::queue::US;
use crate::rng::Rng;

/// Worlds with such questions, of 1000.
const ASKING_WORLDS: usize = 600;

/// Worlds whose members give up on calls after some elections, of 1000.
const IMPATIENT_WORLDS: usize = 400;

/// Worlds whose rings between cores are full now and then, of 1000.
const SHORT_RINGS: usize = 250;

const QUESTIONS: &[(usize, OpKind)] = &[(3, OpKind::Status), (4, OpKind::HashKv), (3, OpKind::Leases)];

/// Draws them into a plan.
pub fn draw(plan: &mut Plan, rng: &mut Rng) {
    let config = &mut plan.config;
    config.request_timeout =
        rng.permille(IMPATIENT_WORLDS).then(|| rng.between(1, 6) as u64 * config.election() / 2);
    if !rng.permille(ASKING_WORLDS) {
        return;
    }
    let pace = config.safety / rng.between(8, 60) as u64;
    let mut at = rng.exponential(pace);
    while at < config.safety {
        let client = rng.below(config.clients);
        plan.ops.push(Op { at, client, kind: rng.weighted(QUESTIONS), draw: rng.next() });
        at += rng.exponential(pace) + US;
    }
    plan.ops.sort_by_key(|op| op.at);
}

/// How often a client core finds no room for a question.
pub fn no_room(rng: &mut Rng) -> usize {
    if rng.permille(SHORT_RINGS) { rng.pick(&[10, 50, 200]) } else { 0 }
}
