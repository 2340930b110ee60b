//! What a member says of itself: Status, HashKV, LeaseLeases. None of them is linearizable; each is about some place in the
//! log, and must be right for it.

use consensus::NodeId;
use net::pb::etcdserverpb as pb;
use node::api::Error;
use prost::Message;
use rustc_hash::FxHashMap;

use super::{Failure, Oracle, fail};
use crate::check::answers::{Asked, Told, malformed};
use crate::member::node_number;

/// Which leases there were at each place of the log, as hashes of their numbers.
#[derive(Default)]
pub struct LeaseSets {
    /// From which index on it is which; before the first there is no lease.
    sets: Vec<(u64, u64)>,
    /// What a connection (member, its life, client) was told last is of this place or a later one.
    seen: FxHashMap<(usize, u32, usize), u64>,
}

impl LeaseSets {
    /// From this index on there are these.
    pub fn changed<'l>(&mut self, index: u64, leases: impl Iterator<Item = &'l i64>) {
        self.sets.push((index, hash(leases)));
    }

    /// The first place from `first` to `last` at which there were these.
    fn first_with(&self, set: u64, first: u64, last: u64) -> Option<u64> {
        let at = self.sets.partition_point(|(index, _)| *index <= first);
        let before = at.checked_sub(1).map_or(0, |before| self.sets[before].1);
        if before == set {
            return Some(first);
        }
        self.sets[at..]
            .iter()
            .take_while(|(index, _)| *index <= last)
            .find(|(_, of)| *of == set)
            .map(|(at, _)| *at)
    }
}

/// Of numbers in any order.
fn hash<'l>(leases: impl Iterator<Item = &'l i64>) -> u64 {
    leases.fold(0, |hash, lease| {
        let mixed = (*lease as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^ (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    })
}

impl Oracle {
    /// Its revision and its applied index belong together, nothing is applied that is not committed, and who is said to
    /// lead has led.
    pub(super) fn status(&self, result: Told<'_>) -> Result<Option<i64>, Failure> {
        let Ok(bytes) = result else { return Ok(None) };
        let found = pb::StatusResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        let revision = found.header.map_or(0, |header| header.revision);
        let (applied, last) = (found.raft_applied_index, self.log.len() as u64);
        if applied.max(found.raft_index) > last {
            let told = (applied, found.raft_index);
            return fail("durability", format!("entries {told:?} are applied and committed, {last} are"));
        }
        if self.at(applied).0 != revision {
            let expected = self.at(applied).0;
            return fail(
                "serializability",
                format!("revision {revision} at entry {applied}, which made {expected}"),
            );
        }
        if found.leader != 0 && !self.raft.has_led(node_number(NodeId(found.leader))) {
            return fail("raft", format!("{:x} is said to lead and never has", found.leader));
        }
        Ok(Some(revision))
    }

    /// It is that of the model's history, at the revision and the compact revision that the answer names.
    pub(super) fn hashed(&self, asked: &Asked, result: Told<'_>) -> Result<Option<i64>, Failure> {
        let ask = pb::HashKvRequest::decode(asked.message.clone()).expect("as it was encoded");
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(Error::Compacted) if self.model.compact_revision <= ask.revision => {
                return fail("serializability", format!("revision {} is compacted", ask.revision));
            }
            Err(_) => return Ok(None),
        };
        let found = pb::HashKvResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        let seen = found.header.as_ref().map_or(0, |header| header.revision);
        if seen > self.model.revision {
            let newest = self.model.revision;
            return fail("durability", format!("revision {seen} is hashed, {newest} is committed"));
        }
        let revision = if ask.revision > 0 { ask.revision } else { seen };
        if found.hash_revision != revision || revision > seen {
            return fail("serializability", format!("asked for {revision} of {seen}: {found:?}"));
        }
        if !self.was_compacted_at(found.compact_revision) {
            return fail("serializability", format!("the compact revision was never that: {found:?}"));
        }
        let expected = self.model.hash_kv(revision, found.compact_revision);
        if expected.is_some_and(|expected| expected != found.hash) {
            return fail("serializability", format!("expected {expected:?}, told {found:?}"));
        }
        Ok(Some(seen))
    }

    fn was_compacted_at(&self, revision: i64) -> bool {
        let at = self.log.partition_point(|entry| entry.compact_revision < revision);
        revision == -1 || self.log.get(at).is_some_and(|entry| entry.compact_revision == revision)
    }

    /// There were exactly these at some place with the answer's revision, and for one connection these places never go back.
    pub(super) fn leased(
        &mut self,
        connection: (usize, u32, usize),
        result: Told<'_>,
    ) -> Result<(), Failure> {
        let Ok(bytes) = result else { return Ok(()) };
        let found = pb::LeaseLeasesResponse::decode(bytes.clone()).map_err(|_| malformed())?;
        let revision = found.header.map_or(0, |header| header.revision);
        let last = self.log.partition_point(|entry| entry.revision <= revision) as u64;
        let first = if revision <= 1 { 0 } else { self.first_index_of(revision) };
        let seen = self.lease_sets.seen.entry(connection).or_insert(0);
        let first = first.max(*seen);
        let set = hash(found.leases.iter().map(|lease| &lease.id));
        match self.lease_sets.first_with(set, first, last) {
            Some(at) => {
                self.lease_sets.seen.insert(connection, at);
                Ok(())
            }
            None => {
                let leases: Vec<i64> = found.leases.iter().map(|lease| lease.id).collect();
                fail("lease", format!("at entries {first}..={last} the leases were never {leases:x?}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_leases_is_found_where_it_was() {
        let mut sets = LeaseSets::default();
        for (index, leases) in [(3, &[1][..]), (5, &[1, 2]), (8, &[2]), (9, &[])] {
            sets.changed(index, leases.iter());
        }
        let set = |leases: &[i64]| hash(leases.iter());
        // leases, between which entries, where first
        let cases = [
            (&[][..], 0, 2, Some(0)),
            (&[], 3, 8, None),
            (&[], 3, 9, Some(9)),
            (&[1], 0, 9, Some(3)),
            (&[1], 4, 9, Some(4)),
            (&[1], 5, 9, None),
            (&[2, 1], 0, 9, Some(5)),
            (&[2], 6, 7, None),
            (&[2], 6, 8, Some(8)),
            (&[3], 0, 9, None),
        ];
        for (leases, first, last, want) in cases {
            assert_eq!(sets.first_with(set(leases), first, last), want, "{leases:?} in {first}..={last}");
        }
    }
}
