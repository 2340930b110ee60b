//! What is left in the end: sound trees, and on every member the model's state.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam::epoch;
use engine::{KeyValueHash, LeaseId, RangeOptions, View, tree};
use net::pb::etcdserverpb as pb;
use net::pb::mvccpb::KeyValue;
use node::api::Error;
use node::read;
use prost::Message;

use crate::check::{Failure, fail};
use crate::disk::Disk;
use crate::member::Member;
use crate::members::Members;
use crate::model::Model;

type Done = Result<(), Failure>;

/// The tree file as a starting process finds it: whole, and its bitmap right.
pub fn check_tree(number: usize, disk: &Disk) -> Done {
    match tree::verify(&*disk.tree.cache) {
        Ok(report) => match report.findings.first() {
            None => Ok(()),
            Some(finding) => fail("audit", format!("tree of member {number}: {finding}")),
        },
        Err(tree::OpenError::Empty { .. }) => Ok(()),
        Err(error) => fail("audit", format!("tree of member {number}: {error}")),
    }
}

/// All members hold the same, and it is what the log says.
pub fn check_state(members: &[&Member], model: &Model, membership: &Members) -> Done {
    let mut first = None;
    for member in members {
        let number = member.id().0;
        check_keys(number, &member.view(), model)?;
        check_leases(number, member, model)?;
        check_alarms(number, &member.view(), model)?;
        let hash = hash_kv(&member.view())?;
        let table = read::members(&member.view(), &epoch::pin());
        let told = (hash, table);
        check_members(number, &told.1, membership)?;
        match &first {
            None => first = Some(told),
            // Compactions that are still under way hash what is left of them.
            Some(other) if other.0.compact_revision != told.0.compact_revision || other.1 != told.1 => {
                return fail("convergence", format!("member {number}: {told:?}, another: {other:?}"));
            }
            Some(other) if other.0 != told.0 => {
                return fail(
                    "convergence",
                    format!("HashKV of member {number}: {told:?}, another: {other:?}"),
                );
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn check_members(
    number: usize,
    table: &Result<Vec<node::membership::Member>, Error>,
    membership: &Members,
) -> Done {
    let found = table.as_ref().map(|members| members.iter().map(|member| member.to_message()).collect());
    let expected = membership.table();
    match found == Ok(expected.clone()) {
        true => Ok(()),
        false => fail("membership", format!("member {number} has {found:?}, the log leads to {expected:?}")),
    }
}

fn check_keys(number: usize, view: &Arc<View>, model: &Model) -> Done {
    if (view.revision(), view.compact_revision()) != (model.revision, model.compact_revision) {
        return fail(
            "convergence",
            format!(
                "member {number} is at revision {} compacted {}, the log leads to {} compacted {}",
                view.revision(),
                view.compact_revision(),
                model.revision,
                model.compact_revision
            ),
        );
    }
    let all = Bytes::from_static(b"\0");
    let ask = pb::RangeRequest { key: all.clone(), range_end: all.clone(), ..Default::default() };
    let expected = model.range(&ask, model.revision).kvs;
    let found = list(view).map_err(|what| Failure { checker: "convergence", what })?;
    if let Some((found, expected)) = found.iter().zip(&expected).find(|(found, expected)| found != expected) {
        return fail(
            "convergence",
            format!("member {number} holds {found:?}, the log leads to {expected:?}"),
        );
    }
    if found.len() != expected.len() {
        let counts = (found.len(), expected.len());
        return fail("convergence", format!("member {number} holds {} keys, not {}", counts.0, counts.1));
    }
    Ok(())
}

fn list(view: &Arc<View>) -> Result<Vec<KeyValue>, String> {
    let guard = &epoch::pin();
    let all = Bytes::from_static(b"\0");
    let options = RangeOptions { key: all.clone(), range_end: all, ..Default::default() };
    let mut answer = view.range(guard, &options).map_err(|error| format!("{error:?}"))?;
    let mut bytes = Vec::new();
    while !answer.fill(guard, 1000, &mut bytes).map_err(|damage| damage.to_string())? {}
    // The rows stand as in a RangeResponse.
    let response = pb::RangeResponse::decode(&bytes[..]).map_err(|error| error.to_string())?;
    Ok(response.kvs)
}

fn check_leases(number: usize, member: &Member, model: &Model) -> Done {
    let store = member.store();
    let mut found = store.leases();
    found.sort();
    let expected: Vec<LeaseId> = model.leases.keys().map(|id| LeaseId(*id)).collect();
    if found != expected {
        return fail("convergence", format!("member {number} has leases {found:?}, the log {expected:?}"));
    }
    for (id, lease) in &model.leases {
        let keys = store
            .lease_keys(LeaseId(*id))
            .map_err(|damage| Failure { checker: "convergence", what: damage.to_string() })?;
        if !keys.iter().eq(&lease.keys) {
            return fail(
                "convergence",
                format!("member {number}: lease {id:x} holds {keys:?}, not {:?}", lease.keys),
            );
        }
    }
    Ok(())
}

fn check_alarms(number: usize, view: &Arc<View>, model: &Model) -> Done {
    let found: Vec<_> = view.alarms().iter().map(|alarm| (alarm.member, alarm.kind as i32)).collect();
    match found.iter().eq(&model.alarms) {
        true => Ok(()),
        false => fail(
            "convergence",
            format!("member {number} has alarms {found:?}, the log leads to {:?}", model.alarms),
        ),
    }
}

fn hash_kv(view: &Arc<View>) -> Result<KeyValueHash, Failure> {
    let guard = &epoch::pin();
    let failure = |what: String| Failure { checker: "convergence", what };
    let mut job = view.hash_kv(guard, 0).map_err(|error| failure(format!("HashKV: {error:?}")))?;
    loop {
        if let Some(done) = job.step(guard, 1000).map_err(|damage| failure(damage.to_string()))? {
            return Ok(done.hash);
        }
    }
}
