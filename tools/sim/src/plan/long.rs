//! Worlds that live long: minutes instead of seconds, with as many operations and faults as in others.
//!
//! Most worlds are so full that nothing ever rests: whatever goes wrong is over, or hidden by the next fault, within seconds. Here
//! the same happens on ten to twenty times the time, evenly or in bursts with silence between them, so that leases of a minute,
//! progress notices, checkpoints of a cluster that is idle, and clocks that drift apart have their turn. Some faults last
//! accordingly longer.

use super::{Config, FaultKind, Plan};
use crate::queue::{S, Time};
use crate::rng::Rng;

/// Ticks of the safety phase, at most: what is idle is not free.
const TICKS_MAX: Time = 12_000;

/// How moments of a short plan become moments of a long one.
#[derive(Clone, Copy)]
struct Stretch {
    short: Time,
    long: Time,
    /// Parts with silence between them; 0: everything is further apart.
    bursts: Time,
}

impl Stretch {
    fn moment(self, at: Time) -> Time {
        let (short, long) = (u128::from(self.short), u128::from(self.long));
        if self.bursts == 0 {
            return (u128::from(at) * long / short) as Time;
        }
        let part = self.short / self.bursts;
        let number = (at / part.max(1)).min(self.bursts - 1);
        number * (self.long / self.bursts) + (at - number * part)
    }
}

/// Makes a long plan of one that was drawn short.
pub fn stretch(plan: &mut Plan, rng: &mut Rng) {
    let short = plan.config.safety;
    let times = rng.between(10, 20) as Time;
    let long = (short * times).min(TICKS_MAX * plan.config.tick).max(short);
    let mut how = || Stretch { short, long, bursts: rng.pick(&[0, 2, 3, 6]) };
    let (load, trouble) = (how(), how());
    plan.ops.iter_mut().for_each(|op| op.at = load.moment(op.at));
    for fault in &mut plan.faults {
        fault.at = trouble.moment(fault.at);
        fault.lasts *= if rng.permille(300) { long / short } else { 1 };
        if fault.kind == FaultKind::Clog {
            // What is held back arrives when it ends, and what is sent behind it no sooner, also if all faults end before.
            fault.lasts = fault.lasts.min(long.saturating_sub(fault.at));
        }
    }
    plan.config = config(&plan.config, long, rng);
}

/// What has its time takes longer, too, in a part of the worlds.
fn config(config: &Config, safety: Time, rng: &mut Rng) -> Config {
    Config {
        safety,
        long: true,
        ttl_scale: rng.pick(&[1, 5, 15, 30]),
        progress: rng.pick(&[config.progress, 10 * S, 60 * S]),
        checkpoint: config.checkpoint * rng.pick(&[1, 20]),
        ..config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_keep_their_order_and_bursts_their_pace() {
        for bursts in [0, 2, 3, 6] {
            let stretch = Stretch { short: 1000, long: 12_000, bursts };
            let moments: Vec<Time> = (0..1000).map(|at| stretch.moment(at)).collect();
            assert!(moments.is_sorted() && moments[999] < 12_000, "{bursts}: {moments:?}");
            let steps = moments.windows(2).filter(|two| two[1] - two[0] > 12).count();
            assert_eq!(steps as Time, bursts.saturating_sub(1), "silences between {bursts} bursts");
        }
    }

    #[test]
    fn a_long_world_has_what_its_short_one_had() {
        let mut long = 0;
        for seed in 0..200 {
            let plan = Plan::draw(seed);
            if !plan.config.long {
                continue;
            }
            long += 1;
            assert!(plan.ops.is_sorted_by_key(|op| op.at) && plan.faults.is_sorted_by_key(|fault| fault.at));
            assert!(plan.ops.iter().all(|op| op.at < plan.config.safety), "seed {seed}");
            assert!(plan.config.safety / plan.config.tick <= TICKS_MAX, "seed {seed}");
        }
        assert!((30..90).contains(&long), "{long} of 200 worlds");
    }
}
