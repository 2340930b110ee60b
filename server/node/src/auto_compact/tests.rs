//! A fake clock, and a store whose revision grows by a fixed number per minute.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// One world: what is proposed in each step, as (minute, revision).
struct World {
    compactor: Compactor,
    revision_per_minute: i64,
}

impl World {
    fn new(retention: Retention, revision_per_minute: i64) -> World {
        let mut compactor = Compactor::new(retention, Duration::ZERO, 1);
        compactor.lead(true);
        World { compactor, revision_per_minute }
    }

    fn revision(&self, now: Duration) -> i64 {
        1 + (now.as_secs_f64() / 60.0 * self.revision_per_minute as f64).round() as i64
    }

    /// Steps until `until`; each proposal ends at once, with what `outcome` says of it.
    fn run(&mut self, until: Duration, mut outcome: impl FnMut(i64) -> bool) -> Vec<(u64, i64)> {
        let mut proposed = Vec::new();
        while let Some(now) = self.compactor.next_timeout().filter(|&due| due <= until) {
            let revision = self.revision(now);
            if let Some(wanted) = self.compactor.step(now, revision) {
                proposed.push((now.as_secs() / 60, wanted));
                assert_eq!(self.compactor.next_timeout(), None, "one at a time");
                assert_eq!(self.compactor.step(now + MINUTE, revision), None, "one at a time");
                self.compactor.finished(now, revision, outcome(wanted));
            }
        }
        proposed
    }
}

#[test]
fn a_period_keeps_what_is_younger() {
    // As in etcd a step looks before it notes, so the window reaches back a period and a tenth.
    // period in minutes, revisions per minute, (minute, revision) of the first compactions
    type Case = (u32, i64, &'static [(u64, i64)]);
    let cases: &[Case] = &[
        // A tenth of an hour is 6 minutes: after 60 the window reaches back to the start.
        (60, 10, &[(60, 1), (120, 541), (180, 1141)]),
        // A longer period waits once for the whole of it, then an hour each time.
        (120, 10, &[(120, 1), (180, 541), (240, 1141)]),
        (10, 60, &[(10, 1), (20, 541), (30, 1141)]),
        // Nothing is written: revision 1 is compacted once, and never again.
        (10, 0, &[(10, 1)]),
    ];
    for &(period, per_minute, want) in cases {
        let mut world = World::new(Retention::Period(MINUTE * period), per_minute);
        let got = world.run(want.last().expect("some").0 as u32 * MINUTE, |_| true);
        assert_eq!(got, want, "{period} min");
    }
}

#[test]
fn a_period_of_a_second_works_in_tenths() {
    let mut world = World::new(Retention::Period(Duration::from_secs(1)), 60);
    let mut times = Vec::new();
    while times.len() < 3 {
        let now = world.compactor.next_timeout().expect("idle");
        let revision = world.revision(now);
        if let Some(wanted) = world.compactor.step(now, revision) {
            times.push((now.as_millis(), wanted));
            world.compactor.finished(now, revision, true);
        }
    }
    assert_eq!(times, [(1000, 1), (2000, 2), (3000, 3)]);
}

#[test]
fn a_number_of_revisions_is_kept_every_five_minutes() {
    let mut world = World::new(Retention::Revisions(100), 30);
    // 151 at minute 5, 301 at 10
    assert_eq!(world.run(10 * MINUTE, |_| true), [(5, 51), (10, 201)]);
    let mut young = World::new(Retention::Revisions(100), 10);
    assert_eq!(young.run(10 * MINUTE, |_| true), [(10, 1)], "51 revisions are not too many");
    let mut still = World::new(Retention::Revisions(100), 0);
    assert_eq!(still.run(60 * MINUTE, |_| true), []);
}

#[test]
fn a_revision_is_not_compacted_twice() {
    let mut world = World::new(Retention::Revisions(100), 100);
    assert_eq!(world.run(5 * MINUTE, |_| true), [(5, 401)]);
    world.revision_per_minute = 50; // revision 501 at minute 10, as at minute 5
    assert_eq!(world.run(10 * MINUTE, |_| true), []);
}

#[test]
fn what_failed_is_tried_at_the_next_step() {
    let mut world = World::new(Retention::Revisions(100), 100);
    assert_eq!(world.run(10 * MINUTE, |_| false), [(5, 401), (10, 901)]);
    // A tenth of the period later, not a whole one; the window moves on once it is full.
    let mut failures = 2;
    let mut world = World::new(Retention::Period(10 * MINUTE), 10);
    let got = world.run(25 * MINUTE, |_| {
        failures -= 1;
        failures < 0
    });
    assert_eq!(got, [(10, 1), (11, 1), (12, 11), (22, 111)]);
}

#[test]
fn who_does_not_lead_watches_and_waits() {
    let mut world = World::new(Retention::Period(10 * MINUTE), 10);
    world.compactor.lead(false);
    assert_eq!(world.run(25 * MINUTE, |_| true), []);
    world.compactor.lead(true);
    // The window was kept, so there is no new wait for a period.
    assert_eq!(world.run(26 * MINUTE, |_| true), [(26, 151)]);
}

#[test]
fn the_window_is_bounded_and_steps_are_not_too_short() {
    let mut world = World::new(Retention::Period(Duration::from_nanos(1)), 60);
    world.run(Duration::from_secs(5), |_| true);
    assert_eq!(world.compactor.window.len(), 1);
    assert_eq!(world.compactor.interval(), STEP_MIN);
    let mut world = World::new(Retention::Period(Duration::from_secs(100 * 3600)), 1);
    world.run(Duration::from_secs(200 * 3600), |_| true);
    assert_eq!(world.compactor.window.len(), 1001);
}

#[test]
fn an_end_nobody_waits_for_changes_nothing() {
    let mut compactor = Compactor::new(Retention::Revisions(1), Duration::ZERO, 1);
    let next = compactor.next_timeout();
    compactor.finished(MINUTE, 5, true);
    assert_eq!(compactor.next_timeout(), next);
}
