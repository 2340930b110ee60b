//! A failing plan made small: what is left out was not needed for the failure.
//!
//! Operations and faults are data, so leaving one out shifts none of the others. What counts as the same failure is that
//! the same checker sees it.

use std::time::{Duration, Instant};

use crate::check::Failure;
use crate::plan::Plan;
use crate::queue::{MS, Time};
use crate::runner::run;

/// A smaller plan that fails alike, as far as `patience` goes; and how it fails.
pub fn shrink(plan: &Plan, checker: &str, patience: Duration) -> (Plan, Time, Failure) {
    let end = Instant::now() + patience;
    let mut best = Shrinker { checker, end, plan: plan.clone(), failure: None };
    let first = run(plan).failure.expect("a plan that fails");
    best.failure = Some(first);
    best.cut();
    best.simplify();
    for _ in 0..3 {
        let before = best.plan.ops.len() + best.plan.faults.len();
        best.drop_clients();
        best.drop_from(|plan| plan.faults.len(), |plan, range| drop(plan.faults.drain(range)));
        best.drop_from(|plan| plan.ops.len(), |plan, range| drop(plan.ops.drain(range)));
        best.cut();
        if best.plan.ops.len() + best.plan.faults.len() == before {
            break;
        }
    }
    let (at, failure) = best.failure.expect("it was set");
    (best.plan, at, failure)
}

struct Shrinker<'a> {
    checker: &'a str,
    end: Instant,
    plan: Plan,
    failure: Option<(Time, Failure)>,
}

impl Shrinker<'_> {
    /// Takes a smaller plan if it fails alike.
    fn try_plan(&mut self, plan: Plan) -> bool {
        if Instant::now() > self.end {
            return false;
        }
        match run(&plan).failure {
            Some((at, failure)) if failure.checker == self.checker => {
                self.plan = plan;
                self.failure = Some((at, failure));
                true
            }
            _ => false,
        }
    }

    /// Nothing after the failure.
    fn cut(&mut self) {
        let Some((at, _)) = self.failure else { return };
        if at < self.plan.config.safety {
            let mut plan = self.plan.clone();
            plan.config.safety = at + MS;
            plan.ops.retain(|op| op.at <= at);
            plan.faults.retain(|fault| fault.at <= at);
            self.try_plan(plan);
        }
    }

    /// A better world.
    fn simplify(&mut self) {
        let better: [fn(&mut Plan); 6] = [
            |plan| plan.config.loss = 0,
            |plan| plan.config.duplicates = 0,
            |plan| plan.config.replays = 0,
            |plan| plan.config.reorder = false,
            |plan| plan.config.slow_writes = 0,
            |plan| plan.config.slow_handovers = 0,
        ];
        for change in better {
            let mut plan = self.plan.clone();
            change(&mut plan);
            self.try_plan(plan);
        }
    }

    fn drop_clients(&mut self) {
        for client in 0..self.plan.config.clients.max(self.plan.config.watchers) {
            for watches in [false, true] {
                let mut plan = self.plan.clone();
                plan.ops.retain(|op| op.client != client || op.kind.is_watch() != watches);
                if plan.ops.len() < self.plan.ops.len() {
                    self.try_plan(plan);
                }
            }
        }
    }

    /// Leaves out pieces, half of it first, then smaller ones.
    fn drop_from(&mut self, len: fn(&Plan) -> usize, drop: fn(&mut Plan, std::ops::Range<usize>)) {
        let mut piece = len(&self.plan).div_ceil(2);
        while piece > 0 {
            let mut at = 0;
            while at < len(&self.plan) {
                let mut plan = self.plan.clone();
                let to = (at + piece).min(len(&plan));
                drop(&mut plan, at..to);
                if !self.try_plan(plan) {
                    at = to;
                }
            }
            if piece == 1 || Instant::now() > self.end {
                return;
            }
            piece = piece.div_ceil(2);
        }
    }
}
