//! LeaseTimeToLive: what was granted, how much of it is left, and which keys are attached.
//!
//! The leader answers, behind a read index. So there is a place in the log, between what was answered before the question and
//! what is committed by the answer, at which there is no such lease, or it has been granted so much and holds exactly these keys.
//!
//! What is left follows from the moment at which the leader gave the lease all of its time last, and from how fast its clock
//! runs. It is no less than the fastest clock leaves since the newest request that was answered before the question was put
//! (grant or keep-alive, whoever has led since). It is no more than the slowest clock leaves since any leader began its time
//! anew: when it applied the grant, renewed the lease, or became leader, who adds an election timeout to all leases. What a
//! checkpoint has written down is less than what was granted; so it needs no rule of its own.

use net::pb::etcdserverpb as pb;
use prost::Message;
use rustc_hash::FxHashMap;

use super::answers::{Asked, Told, malformed};
use super::{Failure, Oracle, fail};
use crate::model::Lease;
use crate::plan::Config;
use crate::queue::{S, Time};

/// A lease at a place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    ttl: i64,
    keys: u64,
    /// When the entry that granted it was known to be committed.
    granted: Time,
}

/// When a question was put and answered.
#[derive(Clone, Copy)]
struct Span {
    asked: Time,
    answered: Time,
    /// When the newest request was made that was answered before, and that gave the lease its time.
    lives_since: Option<Time>,
}

/// See the module's header.
pub struct LeaseTimes {
    /// Of the slowest and the fastest clock, in thousandths.
    rates: (u64, u64),
    /// What a new leader adds.
    election: Time,
    /// What each lease has been from which index on; `None`: there was none of this number.
    states: FxHashMap<i64, Vec<(u64, Option<State>)>>,
    /// Which lease an entry has granted.
    granted: FxHashMap<u64, i64>,
    /// When a leader last gave a lease its time, but for what a new one does.
    begun: FxHashMap<i64, Time>,
    /// When a member last began to time all leases.
    promoted: Option<Time>,
}

impl LeaseTimes {
    /// No lease.
    pub fn new(config: &Config) -> LeaseTimes {
        let rates = || config.clock_rates.iter().copied();
        LeaseTimes {
            rates: (rates().min().unwrap_or(1000), rates().max().unwrap_or(1000)),
            election: config.election(),
            states: FxHashMap::default(),
            granted: FxHashMap::default(),
            begun: FxHashMap::default(),
            promoted: None,
        }
    }

    /// From this index on a lease is this.
    pub fn changed(&mut self, now: Time, index: u64, id: i64, lease: Option<&Lease>) {
        let states = self.states.entry(id).or_default();
        let before = states.last().and_then(|(_, state)| *state);
        if lease.is_some() && before.is_none() {
            self.granted.insert(index, id);
        }
        let granted = before.map_or(now, |state| state.granted);
        let state = lease.map(|lease| State { ttl: lease.ttl, keys: hash(lease.keys.iter()), granted });
        if before != state {
            states.push((index, state));
        }
    }

    /// A member that times leases has applied this entry.
    pub fn applied(&mut self, now: Time, index: u64) {
        if let Some(lease) = self.granted.get(&index) {
            self.begun.insert(*lease, now);
        }
    }

    /// The leader has renewed a lease.
    pub fn renewed(&mut self, now: Time, lease: i64) {
        self.begun.insert(lease, now);
    }

    /// A member begins to time leases. (No world has the thousand leases from which on it would spread them.)
    pub fn promoted(&mut self, now: Time) {
        self.promoted = Some(now);
    }

    /// What a lease was at places from `first` to `last`, each with its first place there.
    fn states(&self, id: i64, (first, last): (u64, u64)) -> impl Iterator<Item = (u64, Option<State>)> {
        let states = self.states.get(&id).map_or(&[][..], |states| states);
        let at = states.partition_point(|(index, _)| *index <= first);
        let before = at.checked_sub(1).and_then(|before| states[before].1);
        let later = states[at..].iter().copied().take_while(move |(index, _)| *index <= last);
        std::iter::once((first, before)).chain(later)
    }

    /// Seconds that may be left of it, at least and at most.
    fn left(&self, id: i64, state: State, span: Span) -> (i64, i64) {
        let ttl = state.ttl as u64 * S;
        let since = state.granted.max(span.lives_since.unwrap_or(0));
        let least = ttl.saturating_sub(span.answered.saturating_sub(since) * self.rates.1 / 1000);
        let ran = |since: Time| span.asked.saturating_sub(since) * self.rates.0 / 1000;
        let of_begun = self.begun.get(&id).map_or(0, |begun| ttl.saturating_sub(ran(*begun)));
        let of_leader =
            self.promoted.map_or(0, |promoted| (ttl + self.election).saturating_sub(ran(promoted)));
        ((least / S) as i64, (of_begun.max(of_leader) / S) as i64)
    }

    /// Whether this may be said of a lease that is this.
    fn fits(&self, state: Option<State>, told: &pb::LeaseTimeToLiveResponse, keys: bool, span: Span) -> bool {
        let Some(state) = state else {
            return (told.ttl, told.granted_ttl) == (-1, 0) && told.keys.is_empty();
        };
        let (least, most) = self.left(told.id, state, span);
        let holds = if keys { hash(told.keys.iter()) == state.keys } else { told.keys.is_empty() };
        holds && told.granted_ttl == state.ttl && (least..=most).contains(&told.ttl)
    }
}

/// Of keys in any order, each once.
fn hash<'k>(keys: impl Iterator<Item = &'k bytes::Bytes>) -> u64 {
    keys.fold(0, |sum: u64, key| {
        let of = key.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
        });
        sum.wrapping_add((of ^ of >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9))
    })
}

impl Oracle {
    /// See the module's header.
    pub(super) fn left(
        &mut self,
        now: Time,
        asked: &Asked,
        result: Told<'_>,
    ) -> Result<Option<i64>, Failure> {
        let Ok(bytes) = result else { return Ok(None) };
        let ask = pb::LeaseTimeToLiveRequest::decode(asked.message.clone()).expect("as it was encoded");
        let found = pb::LeaseTimeToLiveResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        let revision = found.header.as_ref().map_or(0, |header| header.revision);
        if found.id != ask.id || revision > self.model.revision {
            let newest = self.model.revision;
            return fail("lease", format!("asked {ask:?} at revision {newest}, told {found:?}"));
        }
        let span = Span { asked: asked.at, answered: now, lives_since: asked.lives_since };
        let places = (asked.floor, self.log.len() as u64);
        let times = &self.lease_times;
        let place =
            times.states(ask.id, places).find(|(_, state)| times.fits(*state, &found, ask.keys, span));
        let Some((place, _)) = place else {
            let could: Vec<_> = times
                .states(ask.id, places)
                .map(|(at, state)| (at, state, state.map(|state| times.left(ask.id, state, span))))
                .collect();
            let (first, last) = places;
            return fail("lease", format!("at entries {first}..={last} it was {could:?}, told {found:?}"));
        };
        self.answers.floor = self.answers.floor.max(place);
        Ok(Some(revision))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::plan::Plan;

    fn times() -> LeaseTimes {
        let mut config = Plan::draw_for(0, Some(3)).config;
        config.clock_rates = vec![800, 1000, 1200];
        (config.tick, config.election_ticks) = (S / 10, 10);
        LeaseTimes::new(&config)
    }

    fn lease(ttl: i64, keys: &[&'static str]) -> Lease {
        Lease { ttl, keys: keys.iter().map(|key| Bytes::from(*key)).collect() }
    }

    /// Lease 7 of 20 s: granted by entry 3, which the leader applies at second 10; a key comes at entry 5; it goes at 8.
    fn known() -> LeaseTimes {
        let mut times = times();
        times.promoted(S);
        times.changed(10 * S, 3, 7, Some(&lease(20, &[])));
        times.applied(10 * S, 3);
        times.changed(11 * S, 5, 7, Some(&lease(20, &["a"])));
        times.changed(40 * S, 8, 7, None);
        times
    }

    #[test]
    fn what_is_said_of_a_lease_must_have_been_so_at_one_place() {
        let times = known();
        let span = Span { asked: 15 * S, answered: 16 * S, lives_since: None };
        let told = |ttl, granted_ttl, keys: &[&'static str]| pb::LeaseTimeToLiveResponse {
            id: 7,
            ttl,
            granted_ttl,
            keys: keys.iter().map(|key| Bytes::from(*key)).collect(),
            ..Default::default()
        };
        let place = |places, told: &pb::LeaseTimeToLiveResponse, keys| {
            times.states(7, places).find(|(_, state)| times.fits(*state, told, keys, span)).map(|(at, _)| at)
        };
        // what is told, whether keys were asked for, between which entries, where it was so first
        let cases = [
            (told(14, 20, &[]), true, (0, 9), Some(3)),
            (told(14, 20, &[]), true, (4, 9), Some(4)),
            (told(14, 20, &[]), true, (5, 9), None),
            (told(14, 20, &["a"]), true, (4, 9), Some(5)),
            (told(14, 20, &["a"]), true, (8, 9), None),
            (told(14, 20, &["a", "a"]), true, (0, 9), None),
            (told(14, 20, &["b"]), true, (0, 9), None),
            (told(14, 20, &["a"]), false, (0, 9), None),
            (told(14, 20, &[]), false, (5, 9), Some(5)),
            (told(14, 19, &["a"]), true, (0, 9), None),
            (told(-1, 0, &[]), true, (0, 9), Some(0)),
            (told(-1, 0, &[]), true, (3, 7), None),
            (told(-1, 0, &[]), true, (3, 8), Some(8)),
            (told(-1, 20, &[]), true, (8, 8), None),
            (told(-1, 0, &["a"]), true, (8, 8), None),
        ];
        for (told, keys, places, want) in cases {
            assert_eq!(place(places, &told, keys), want, "{told:?} of {places:?}");
        }
    }

    #[test]
    fn what_is_left_is_bounded_by_the_slowest_and_the_fastest_clock() {
        let state = State { ttl: 20, keys: 0, granted: 10 * S };
        let at = |asked, answered, lives_since| Span { asked, answered, lives_since };
        let mut times = known();
        // Six seconds at the most, at 1.2; five at the least, at 0.8.
        assert_eq!(times.left(7, state, at(15 * S, 16 * S, None)), (12, 16));
        assert_eq!(times.left(7, state, at(15 * S, 16 * S, Some(14 * S))), (17, 16), "nobody has renewed it");
        times.renewed(14 * S, 7);
        assert_eq!(times.left(7, state, at(15 * S, 16 * S, Some(14 * S))), (17, 19));
        assert_eq!(times.left(7, state, at(60 * S, 61 * S, Some(14 * S))), (0, 0));
        times.promoted(15 * S);
        assert_eq!(
            times.left(7, state, at(15 * S, 16 * S, Some(14 * S))),
            (17, 21),
            "with an election timeout"
        );
    }
}
