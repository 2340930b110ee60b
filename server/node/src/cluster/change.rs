//! What a committed change of the membership does to the members table (etcd `ValidateConfigurationChange`,
//! `applyConfChange`).
//!
//! Only the entry and the store decide, so all members come to the same result. A change that is refused here becomes
//! none for Raft, and its entry counts as applied.
//!
//! # Removed ids
//!
//! A member that was removed must not come back under its id: it has voted under it. Each removed id is a row of the
//! store's meta table, in the same commit as the row that goes from `members`:
//!
//! ```text
//! name   removed_member/ ‖ id, 8 bytes big-endian
//! value  01
//! ```

use consensus::{ConfChange, ConfChangeKind};
use crossbeam::epoch::Guard;
use engine::{Store, View};
use net::pb::etcdserverpb as pb;

use super::Context;
use crate::answer::Answer;
use crate::api::Error;
use crate::apply::{Fatal, members};
use crate::membership::{InvalidMember, Member};

/// First bytes of the meta rows of removed ids.
const REMOVED: &[u8] = b"removed_member/";

fn removed_name(id: u64) -> Vec<u8> {
    [REMOVED, &id.to_be_bytes()].concat()
}

/// Whether the member `id` was removed from the cluster, as far as this store has applied.
///
/// # Errors
/// [`Fatal`] if the row cannot be read.
pub fn is_removed(store: &Store, id: u64) -> Result<bool, Fatal> {
    Ok(store.user_meta(&removed_name(id))?.is_some())
}

/// As [`is_removed`], for a published view.
///
/// # Errors
/// [`Error::Corrupt`] if the store is damaged.
pub fn is_removed_in(view: &View, guard: &Guard, id: u64) -> Result<bool, Error> {
    Ok(view.user_meta(guard, &removed_name(id)).map_err(|_| Error::Corrupt)?.is_some())
}

/// The ids of all members that were removed, ascending.
///
/// # Errors
/// [`Fatal`] if a row cannot be read.
pub fn removed_ids(store: &Store) -> Result<Vec<u64>, Fatal> {
    let rows = store.user_meta_below(REMOVED)?;
    rows.iter()
        .map(|(name, _)| match <[u8; 8]>::try_from(&name[..]) {
            Ok(id) => Ok(u64::from_be_bytes(id)),
            Err(_) => Err(InvalidMember("the name of a removed member's row".into()).into()),
        })
        .collect()
}

/// Changes the members table. The answer lists all members as they are afterwards.
///
/// # Errors
/// Outer: the store must not be used any more. Inner: the change is refused and nothing has changed.
pub(crate) fn apply(store: &mut Store, change: &ConfChange) -> Result<Result<Answer, Error>, Fatal> {
    let id = change.node.0;
    if is_removed(store, id)? {
        return Ok(Err(Error::MemberNotFound));
    }
    let members = members(store)?;
    let known = members.iter().find(|member| member.id == id);
    let context = match change.kind {
        ConfChangeKind::RemoveNode => None,
        _ => Some(own_context(change)?),
    };
    let done = match (change.kind, &context) {
        (ConfChangeKind::AddNode, Some(context)) if context.is_promote => promoted(known),
        (ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode, Some(context)) => {
            let is_learner = change.kind == ConfChangeKind::AddLearnerNode;
            added(known, &members, context, is_learner)
        }
        (ConfChangeKind::UpdateNode, Some(context)) => updated(known, &members, context),
        _ => return removed(store, id, &members),
    };
    match done {
        Ok(member) => {
            store.set_member(id, Some(&member.encode()))?;
            answer(store, change.kind, context.is_some_and(|context| context.is_promote), &member).map(Ok)
        }
        Err(error) => Ok(Err(error)),
    }
}

/// The context, which must be about the member that Raft is told of.
fn own_context(change: &ConfChange) -> Result<Context, Fatal> {
    let context = Context::decode(&change.context)?;
    if context.member.id != change.node.0 {
        let sentence =
            format!("the change is about {:x}, its context about {:x}", change.node.0, context.member.id);
        return Err(InvalidMember(sentence).into());
    }
    Ok(context)
}

fn added(
    known: Option<&Member>,
    members: &[Member],
    context: &Context,
    is_learner: bool,
) -> Result<Member, Error> {
    if known.is_some() {
        return Err(Error::MemberExists);
    }
    check_urls_free(members, &context.member)?;
    let learners = members.iter().filter(|member| member.is_learner).count() as u64;
    if is_learner && context.max_learners.is_some_and(|max| learners >= max) {
        return Err(Error::TooManyLearners);
    }
    Ok(Member { is_learner, ..context.member.clone() })
}

fn promoted(known: Option<&Member>) -> Result<Member, Error> {
    match known {
        None => Err(Error::MemberNotFound),
        Some(member) if !member.is_learner => Err(Error::MemberNotLearner),
        Some(member) => Ok(Member { is_learner: false, ..member.clone() }),
    }
}

/// Only the peer URLs: a learner stays one, a voter too.
fn updated(known: Option<&Member>, members: &[Member], context: &Context) -> Result<Member, Error> {
    let known = known.ok_or(Error::MemberNotFound)?;
    check_urls_free(members, &context.member)?;
    Ok(Member { peer_urls: context.member.peer_urls.clone(), ..known.clone() })
}

fn removed(store: &mut Store, id: u64, members: &[Member]) -> Result<Result<Answer, Error>, Fatal> {
    let Some(known) = members.iter().find(|member| member.id == id) else {
        return Ok(Err(Error::MemberNotFound));
    };
    // Raft can't be left without a voter.
    if !known.is_learner && members.iter().filter(|member| !member.is_learner).count() == 1 {
        return Ok(Err(Error::NotEnoughStartedMembers));
    }
    store.set_member(id, None)?;
    store.set_user_meta(&removed_name(id), &[1])?;
    answer(store, ConfChangeKind::RemoveNode, false, known).map(Ok)
}

fn check_urls_free(members: &[Member], member: &Member) -> Result<(), Error> {
    let others = members.iter().filter(|other| other.id != member.id);
    let taken = others.flat_map(|other| &other.peer_urls).any(|url| member.peer_urls.contains(url));
    if taken { Err(Error::PeerUrlExists) } else { Ok(()) }
}

/// The message that the one who asked gets. All of them but that of MemberAdd have the same fields.
fn answer(store: &Store, kind: ConfChangeKind, is_promote: bool, member: &Member) -> Result<Answer, Fatal> {
    let members = members(store)?.iter().map(Member::to_message).collect();
    let is_add = matches!(kind, ConfChangeKind::AddNode | ConfChangeKind::AddLearnerNode) && !is_promote;
    Ok(if is_add {
        let member = Some(member.to_message());
        Answer::of_message(0, &pb::MemberAddResponse { header: None, member, members })
    } else {
        Answer::of_message(0, &pb::MemberListResponse { header: None, members })
    })
}

#[cfg(test)]
mod tests;
