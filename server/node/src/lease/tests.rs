//! Renewing, waiting for a revocation, counting down, and what is revoked when.

use prost::Message;

use super::*;
use crate::testing::{WHO, put_leased, store};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A store that leads since second 0, with leases of these ids and TTLs.
fn leading(leases: &[(i64, i64)]) -> Store {
    let mut store = store();
    store.lease_promote(Duration::ZERO, Duration::ZERO);
    for &(id, ttl) in leases {
        store.lease_grant(Duration::ZERO, LeaseId(id), ttl).unwrap();
    }
    store
}

#[test]
fn answers_keep_the_order_of_their_requests() {
    let mut stream = InOrder::default();
    let numbers: Vec<u64> = [7, 8, 9].map(|lease| stream.begin(lease)).to_vec();
    stream.complete(numbers[2], Ok(30));
    stream.complete(numbers[0], Ok(10));
    assert_eq!(stream.poll(), Some(Ok((7, 10))));
    assert_eq!(stream.poll(), None);
    stream.complete(numbers[1], Ok(0));
    stream.complete(numbers[1], Ok(99)); // a second answer changes nothing
    assert_eq!(stream.poll(), Some(Ok((8, 0))));
    assert_eq!(stream.poll(), Some(Ok((9, 30))));
    assert!(stream.is_idle());
    stream.complete(numbers[0], Ok(1));
    stream.complete(99, Ok(1));
    assert_eq!(stream.poll(), None);
    let next = stream.begin(5);
    assert_eq!(next, 3);
    stream.complete(next, Err(Error::NotPrimary));
    assert_eq!(stream.poll(), Some(Err(Error::NotPrimary)));
}

#[test]
fn a_stream_with_many_open_requests_is_full() {
    let mut stream = InOrder::default();
    let last = (0..KEEP_ALIVES_IN_FLIGHT_MAX).map(|_| stream.begin(1)).last().unwrap();
    assert!(stream.is_full());
    (0..=last).for_each(|number| stream.complete(number, Ok(1)));
    assert!(stream.poll().is_some() && !stream.is_full());
}

#[test]
fn a_lease_lives_as_long_as_it_is_renewed() {
    let mut store = leading(&[(7, 10)]);
    let mut renewals = Renewals::default();
    for second in [9, 18, 27] {
        assert_eq!(renewals.renew(&mut store, at(second), 7, "a"), Some(("a", Ok(10))), "second {second}");
    }
    assert_eq!(renewals.renew(&mut store, at(28), 8, "b"), Some(("b", Ok(0))));
    assert_eq!(renewals.renew(&mut store, at(37), 7, "c"), None, "run out, not yet revoked");
    assert_eq!(renewals.waiting_count(), 1);
}

#[test]
fn a_renewal_after_the_end_waits_for_the_revocation() {
    let mut store = leading(&[(7, 10), (8, 10)]);
    let mut renewals = Renewals::default();
    for (lease, who) in [(7, 1), (8, 2), (7, 3)] {
        assert_eq!(renewals.renew(&mut store, at(20), lease, who), None);
    }
    store.lease_revoke(LeaseId(7)).unwrap();
    assert_eq!(renewals.revoked(7).collect::<Vec<_>>(), [(1, Ok(0)), (3, Ok(0))]);
    assert_eq!(renewals.revoked(7).count(), 0);
    assert_eq!(renewals.renew(&mut store, at(20), 7, 4), Some((4, Ok(0))));
    store.lease_demote();
    assert_eq!(renewals.demoted().collect::<Vec<_>>(), [(2, Err(Error::NotPrimary))]);
    assert_eq!(renewals.renew(&mut store, at(20), 8, 5), Some((5, Err(Error::NotPrimary))));
    assert_eq!(renewals.waiting_count(), 0);
}

/// The lease has a checkpoint, so a keep-alive waits until another one has taken that back.
#[test]
fn a_renewal_waits_until_its_checkpoint_is_taken_back() {
    let mut store = leading(&[(7, 1000), (8, 1000)]);
    let left = |lease, remaining_ttl| Checkpoint { lease: LeaseId(lease), granted_at: 1, remaining_ttl };
    for lease in [7, 8] {
        store.lease_checkpoint(at(1), left(lease, 400)).unwrap();
    }
    let mut renewals = Renewals::default();
    assert_eq!(renewals.take_clears(&store), []);
    for (lease, who) in [(7, 1), (8, 2), (7, 3)] {
        assert_eq!(renewals.renew(&mut store, at(2), lease, who), None);
    }
    assert_eq!(renewals.take_clears(&store), [left(7, 0), left(8, 0)], "once, however many wait");
    assert_eq!(renewals.take_clears(&store), []);
    renewals.clear_again();
    assert_eq!(renewals.take_clears(&store), [left(7, 0), left(8, 0)], "if it was lost");
    // One that was on its way is applied first, and they wait on.
    store.lease_checkpoint(at(3), left(7, 300)).unwrap();
    assert_eq!(renewals.checkpointed(&mut store, at(3), 7), []);
    assert_eq!(renewals.take_clears(&store), [left(7, 0)]);
    store.lease_checkpoint(at(4), left(7, 0)).unwrap();
    assert_eq!(renewals.checkpointed(&mut store, at(4), 7), [(1, Ok(1000)), (3, Ok(1000))]);
    assert_eq!(renewals.checkpointed(&mut store, at(4), 7), []);
    assert_eq!(renewals.waiting_count(), 1);
    store.lease_revoke(LeaseId(8)).unwrap();
    assert_eq!(renewals.revoked(8).collect::<Vec<_>>(), [(2, Ok(0))]);
    renewals.clear_again();
    assert_eq!(renewals.take_clears(&store), []);

    store.lease_checkpoint(at(5), left(7, 100)).unwrap();
    assert_eq!(renewals.renew(&mut store, at(6), 7, 4), None);
    store.lease_demote();
    assert_eq!(renewals.demoted().collect::<Vec<_>>(), [(4, Err(Error::NotPrimary))]);
    assert_eq!(renewals.take_clears(&store), []);
    assert_eq!(renewals.waiting_count(), 0);
}

#[test]
fn those_who_left_are_not_answered() {
    let mut store = leading(&[(7, 10)]);
    let mut renewals = Renewals::default();
    for who in 0..4 {
        assert!(renewals.renew(&mut store, at(20), 7, who).is_none());
    }
    renewals.retain(|who| who % 2 == 0);
    assert_eq!(renewals.revoked(7).map(|(who, _)| who).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn time_to_live_counts_whole_seconds_and_lists_keys() {
    let mut store = leading(&[(7, 10)]);
    for key in ["b", "a"] {
        store.put(&put_leased(key, "v", 7)).unwrap();
    }
    let ask = |now, lease, keys| {
        let answer = time_to_live(&store, now, lease, keys).unwrap();
        let mut out = Vec::new();
        answer.encode(&WHO, 9, &mut out);
        let response = pb::LeaseTimeToLiveResponse::decode(&out[..]).unwrap();
        assert_eq!(response.header, Some(WHO.header(3, 9)));
        let mut keys = response.keys;
        keys.sort();
        (response.id, response.ttl, response.granted_ttl, keys)
    };
    let none: Vec<Bytes> = vec![];
    assert_eq!(ask(at(0), 7, false), (7, 10, 10, none.clone()));
    assert_eq!(ask(Duration::from_millis(3001), 7, true), (7, 6, 10, vec!["a".into(), "b".into()]));
    assert_eq!(ask(at(60), 7, false), (7, 0, 10, none.clone()));
    assert_eq!(ask(at(0), 8, true), (8, -1, 0, none));
}

#[test]
fn leases_are_listed_by_what_is_left() {
    let store = leading(&[(1, 30), (2, 10), (3, 20)]);
    let response = pb::LeaseLeasesResponse::decode(leases(&store).body).unwrap();
    assert_eq!(response.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn expired_leases_are_revoked_a_few_at_a_time() {
    let all: Vec<(i64, i64)> = (1..=40).map(|id| (id, 10)).collect();
    let mut store = leading(&all);
    let mut expiry = Expiry::default();
    assert_eq!(expiry.poll(&mut store, at(9), at(9)), []);
    assert_eq!(expiry.next_timeout(), at(9) + EXPIRY_INTERVAL);
    assert_eq!(expiry.poll(&mut store, at(9) + EXPIRY_INTERVAL / 2, at(9) + EXPIRY_INTERVAL / 2), []);
    let first = expiry.poll(&mut store, at(10), at(10));
    assert_eq!(first.len(), REVOKES_IN_FLIGHT_MAX);
    assert_eq!(expiry.poll(&mut store, at(10), at(10)), [], "as many in flight as may");
    assert_eq!(expiry.next_timeout(), at(10) + EXPIRY_INTERVAL, "no timer that is always due");
    for &lease in &first {
        store.lease_revoke(LeaseId(lease.lease)).unwrap();
        expiry.revoked();
    }
    let second = expiry.poll(&mut store, at(10), at(10));
    assert_eq!(second.len(), REVOKES_IN_FLIGHT_MAX);
    assert!(second.iter().all(|lease| !first.contains(lease)));
    second.iter().for_each(|_| expiry.revoked());
    let third = expiry.poll(&mut store, at(10), at(10));
    assert_eq!(third.len(), 40 - 2 * REVOKES_IN_FLIGHT_MAX);
    // The second lot was lost on the way: it comes again.
    third.iter().for_each(|_| expiry.revoked());
    let again = expiry.poll(&mut store, at(20), at(20));
    assert_eq!(again.len(), REVOKES_IN_FLIGHT_MAX);
}

#[test]
fn a_leader_that_was_cut_off_judges_only_what_ran_out_before() {
    let mut store = store();
    store.lease_promote(at(0), Duration::ZERO);
    for (lease, ttl) in [(1, 5), (2, 9)] {
        store.lease_grant(at(0), LeaseId(lease), ttl).unwrap();
    }
    let mut expiry = Expiry::default();
    // It is 20 s, and the last it heard of a quorum was at 7 s.
    let numbers = |all: Vec<Expired>| all.iter().map(|expired| expired.lease).collect::<Vec<_>>();
    assert_eq!(numbers(expiry.poll(&mut store, at(20), at(7))), [1]);
    assert_eq!(
        numbers(expiry.poll(&mut store, at(21), at(21))),
        [2, 1],
        "the first was not revoked within 3 s"
    );
}
