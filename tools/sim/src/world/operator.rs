//! The operator of a cluster without room, who does what etcd's documentation says: compact, defragment, take alarms off.
//!
//! When faults end, disks have room again, but a small quota stays as it is. Where the data that is left is far below it, the
//! operator's way must lead to writes that succeed: the history is compacted up to the newest revision, each member's file is
//! defragmented, and the alarms are taken off. Where only deletions help, all keys are deleted first. Members whose quota can't
//! hold a store at all get a larger one instead, for which they start anew.
//!
//! The operator sees the size of a store, too: a last write may fill it, and no alarm is raised before the next one. That is
//! looked at only where keys or history take the room. What was deleted and compacted must give it back by itself.

use bytes::Bytes;
use net::grpc::Method;
use net::pb::etcdserverpb as pb;
use node::api::Error;
use prost::Message;

use super::{Done, PROBES, World};
use crate::check::fail;
use crate::env::NodeNumber;
use crate::member::Member;
use crate::model::Model;

/// Bytes of a page of the tree.
const PAGE_BYTES: u64 = 4096;

/// Pages of a store without keys: two metas, a bitmap, a leaf of each table that has rows.
const PAGES_OF_NOTHING: u64 = 7;

/// How many times its live pages a store may take when little has been written since its file was defragmented: those of the
/// two versions that the metas describe, of the present one, and of one that a reader or a checkpoint holds.
const VERSIONS_HELD: u64 = 4;

/// Writes that must find room in the end have less than this.
const PROBE_BYTES: u64 = 1024;

/// What the operator does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    /// Nothing, as long as no alarm is raised and there is room.
    #[default]
    Rest,
    Delete,
    Compact,
    Defragment(NodeNumber),
    Disarm,
}

/// See the module's header.
#[derive(Default)]
pub(super) struct Operator {
    step: Step,
    /// The request under way, or one that was given up.
    op: Option<u64>,
    /// How often all of it was done.
    pub(super) rounds: u64,
}

/// Bytes that a store of these keys and values takes at most, compacted and defragmented.
fn bytes_of(rows: impl Iterator<Item = usize>) -> u64 {
    // A small row is in a leaf of the history and one of the keys, each of which is at least three eighths full; a large one has
    // pages of its own.
    let page = PAGE_BYTES as usize;
    let bytes = |row: usize| if row > page / 4 { (row.div_ceil(page) + 1) * page } else { (row + 150) * 3 };
    let rows: u64 = rows.map(|row| bytes(row) as u64).sum();
    VERSIONS_HELD * (rows + PAGES_OF_NOTHING * PAGE_BYTES)
}

/// Whether the present data is far below this quota; if `deleted`, whether a store without any would be.
fn is_little(model: &Model, quota: u64, deleted: bool) -> bool {
    let all = Bytes::from_static(b"\0");
    let ask = pb::RangeRequest { key: all.clone(), range_end: all, ..Default::default() };
    let kvs = if deleted { Vec::new() } else { model.range(&ask, model.revision).kvs };
    bytes_of(kvs.iter().map(|kv| 2 * kv.key.len() + kv.value.len())) < quota
}

impl World {
    /// Whether the operator's way can lead to room, when the faults end; if not, members get a larger quota.
    pub(super) fn keeps_quota(&self) -> bool {
        self.env.config.store.quota.is_some_and(|quota| is_little(&self.env.oracle.model, quota, true))
    }

    /// The operator's next request, if there is something to do and the client that stands for the operator is free.
    pub(super) fn operate(&mut self) {
        if self.clients[0].busy.is_some() {
            return;
        }
        loop {
            let model = &self.env.oracle.model;
            let (alarm, revision, compacted) =
                (model.alarms.first().copied(), model.revision, model.compact_revision);
            let own = self.clients[0].member;
            let quota = self.env.config.store.quota;
            let (to, method, message) = match self.operator.step {
                Step::Rest if alarm.is_none() && !self.must_make_room() => return,
                Step::Rest => {
                    self.operator.step = match quota {
                        None => Step::Disarm,
                        Some(quota) if is_little(model, quota, false) => Step::Compact,
                        Some(_) => Step::Delete,
                    };
                    continue;
                }
                Step::Delete => {
                    let all = Bytes::from_static(b"\0");
                    let request =
                        pb::DeleteRangeRequest { key: all.clone(), range_end: all, ..Default::default() };
                    (own, Method::KvDeleteRange, request.encode_to_vec())
                }
                Step::Compact if compacted >= revision => {
                    (self.operator.step, self.operator.op) = (Step::Defragment(0), None);
                    continue;
                }
                Step::Compact => {
                    let request = pb::CompactionRequest { revision, physical: true };
                    (own, Method::KvCompact, request.encode_to_vec())
                }
                Step::Defragment(number) if number == self.hosts.len() => {
                    self.operator.step = Step::Disarm;
                    continue;
                }
                Step::Defragment(number) if self.is_defragmented(number) => {
                    (self.operator.step, self.operator.op) = (Step::Defragment(number + 1), None);
                    continue;
                }
                Step::Defragment(number) => (number, Method::MaintenanceDefragment, Vec::new()),
                Step::Disarm => {
                    let Some((member_id, alarm)) = alarm else {
                        self.operator.step = Step::Rest;
                        self.operator.rounds += u64::from(quota.is_some());
                        return;
                    };
                    let action = pb::alarm_request::AlarmAction::Deactivate as i32;
                    let request = pb::AlarmRequest { action, member_id, alarm };
                    (own, Method::MaintenanceAlarm, request.encode_to_vec())
                }
            };
            self.operator.op = Some(self.ask_at(0, to, method, message.into()));
            return;
        }
    }

    /// Whether there is nothing to do at this host: no member runs there, or one that was asked before, whose answer took longer than
    /// anybody waits, and that has room again.
    fn is_defragmented(&self, number: NodeNumber) -> bool {
        let has_room = |member: &Member| {
            let quota = self.env.config.store.quota;
            self.operator.op.is_some() && quota.is_none_or(|quota| member.used() + PROBE_BYTES < quota)
        };
        self.hosts[number].member.as_ref().is_none_or(has_room)
    }

    /// Whether this was the operator's request; what comes next, now that it is answered.
    pub(super) fn operator_answered(&mut self, op: u64, result: &Result<Bytes, Error>) -> bool {
        if self.operator.op != Some(op) {
            return false;
        }
        self.operator.op = None;
        self.operator.step = match (self.operator.step, result) {
            (Step::Delete, Ok(_)) => Step::Compact,
            (Step::Compact, Ok(_) | Err(Error::Compacted)) => Step::Defragment(0),
            // etcd defragments no learner, either.
            (Step::Defragment(number), Ok(_) | Err(Error::NotSupportedForLearner)) => {
                Step::Defragment(number + 1)
            }
            (step, _) => step,
        };
        true
    }

    /// Members have room for a write, and none of them finds that it has not.
    pub(super) fn check_room(&self) -> Done {
        if !self.env.oracle.model.alarms.is_empty() {
            return fail(
                "liveness",
                format!("an alarm stays, though there is room: {:?}", self.operator.step),
            );
        }
        match self.full_member() {
            Some((member, quota)) => {
                fail("liveness", format!("member {} uses {} bytes of {quota}", member.id().0, member.used()))
            }
            None => Ok(()),
        }
    }

    /// Whether a member has no room for another write, and it is keys or history that take it.
    fn must_make_room(&self) -> bool {
        let Some((_, quota)) = self.full_member() else { return false };
        let model = &self.env.oracle.model;
        let probes = (self.clients.len() * PROBES) as i64; // they write a little, whatever was compacted before
        model.revision > model.compact_revision + probes || !is_little(model, quota, false)
    }

    /// A member that has no room for another write, and its quota.
    fn full_member(&self) -> Option<(&Member, u64)> {
        let quota = self.env.config.store.quota?;
        let mut members = self.hosts.iter().filter_map(|host| host.member.as_ref());
        let full = members.find(|member| member.serves_writes() && member.used() + PROBE_BYTES >= quota)?;
        Some((full, quota))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rows_share_pages_and_large_ones_have_their_own() {
        assert_eq!(bytes_of([].into_iter()), 4 * 7 * 4096);
        assert_eq!(bytes_of([10, 1000].into_iter()) - bytes_of([].into_iter()), 4 * (160 + 1150) * 3);
        assert_eq!(bytes_of([9000].into_iter()) - bytes_of([].into_iter()), 4 * 4 * 4096);
    }
}
