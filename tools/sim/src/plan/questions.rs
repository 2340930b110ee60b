//! What clients ask now and then beside their load: what a member says of itself, of its history and of its leases. And how
//! long a call may wait, which in production is longer than most worlds last, and how often there is no room for what it asks.

use super::{OpKind, Plan};
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
    let patience = rng.permille(IMPATIENT_WORLDS).then(|| rng.between(1, 6) as u64 * config.election() / 2);
    // Where an entry goes out only after the one before is acknowledged, clients bring more than there is time for, and what is given
    // up on is in the way of what comes after it.
    config.request_timeout = patience.filter(|_| config.tiny.is_none_or(|tiny| tiny.in_flight > 1));
    if !rng.permille(ASKING_WORLDS) {
        return;
    }
    plan.ask_now_and_then((8, 60), QUESTIONS, rng);
}

/// How often a client core finds no room for a question.
pub fn no_room(rng: &mut Rng) -> usize {
    if rng.permille(SHORT_RINGS) { rng.pick(&[10, 50, 200]) } else { 0 }
}
