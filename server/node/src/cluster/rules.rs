//! Whether a change may be proposed: etcd's strict reconfiguration check.
//!
//! A change of the membership can cost the quorum: a voter that never starts counts from the moment it is added. So a
//! change is refused if the quorum of the resulting set would not be there. With quorum(n) = n / 2 + 1, "started" = has
//! published its name, "connected" = is this member, or the link to it has been up for 5 s without a break:
//!
//! | change | refused: not enough started members | refused: unhealthy cluster |
//! |---|---|---|
//! | add voter | started voters < quorum(voters + 1), unless 1 of 1 has started | connected voters < quorum(voters + 1), unless there is 1 voter |
//! | add learner | never | as a voter |
//! | promote | started voters + 1 < quorum(voters + 1) | never (the learner must have caught up) |
//! | remove voter v | started voters without v < quorum(voters − 1) | the link to v is up, or v is this member, and connected voters − 1 < quorum(voters − 1) |
//! | remove learner, update | never | never |
//!
//! (etcd `server.go`, `mayAddMember` and its likes; `cluster.go`, `IsReadyTo…`.) `--strict-reconfig-check=false` skips
//! all of it but the last row of ours: the last voter is never removed, which makes an etcd panic.

use std::time::Duration;

use consensus::{ConfChange, ConfChangeKind, NodeId};

use super::{Change, Context, added_member_id};
use crate::api::Error;
use crate::membership::Member;

/// A link must have been up for longer than this (etcd `HealthInterval`).
pub const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A learner may be promoted if it has so much of the leader's log, in percent (etcd `readyPercentThreshold`).
pub const LEARNER_READY_PERCENT: u64 = 90;

/// What flags say about changes.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// `--strict-reconfig-check`
    pub strict_reconfig_check: bool,
    /// `--max-learners`
    pub max_learners: usize,
}

/// What this member sees when a change is asked of it.
pub struct Situation<'a> {
    /// Its id.
    pub own: u64,
    /// All members, itself included.
    pub members: &'a [Member],
    /// For how long the link to another member has been up without a break; `None`: it is down.
    pub active_for: &'a dyn Fn(u64) -> Option<Duration>,
    /// Of a leader: up to which index each member's log is known to match, itself included. `None`: it doesn't lead.
    pub matched: Option<&'a dyn Fn(u64) -> Option<u64>>,
}

/// The conf change that does what is asked for; `request` is the ID under which its answer is found. Max-learners,
/// duplicate URLs and unknown members are found out when it is applied.
///
/// # Errors
/// [`Error::NotEnoughStartedMembers`], [`Error::Unhealthy`]; of a promotion also [`Error::NotLeader`] (the leader must
/// be asked), [`Error::MemberNotFound`], [`Error::LearnerNotReady`].
pub fn propose(
    change: Change,
    request: u64,
    unix_s: u64,
    rules: Rules,
    situation: &Situation<'_>,
) -> Result<ConfChange, Error> {
    check(&change, rules, situation)?;
    let (kind, context) = match change {
        Change::Add { peer_urls, is_learner } => {
            let id = added_member_id(&peer_urls, unix_s);
            let kind = if is_learner { ConfChangeKind::AddLearnerNode } else { ConfChangeKind::AddNode };
            let max_learners = is_learner.then_some(rules.max_learners as u64);
            let member = Member { id, peer_urls, is_learner, ..Member::default() };
            (kind, Context { member, max_learners, ..Context::default() })
        }
        Change::Remove { id } => {
            let kind = ConfChangeKind::RemoveNode;
            return Ok(ConfChange { id: request, kind, node: NodeId(id), context: Default::default() });
        }
        Change::Update { id, peer_urls } => {
            let member = Member { id, peer_urls, ..Member::default() };
            (ConfChangeKind::UpdateNode, Context { member, ..Context::default() })
        }
        Change::Promote { id } => {
            let member = Member { id, ..Member::default() };
            (ConfChangeKind::AddNode, Context { member, is_promote: true, ..Context::default() })
        }
    };
    Ok(ConfChange { id: request, kind, node: NodeId(context.member.id), context: context.encode() })
}

fn check(change: &Change, rules: Rules, situation: &Situation<'_>) -> Result<(), Error> {
    if let Change::Promote { id } = change {
        check_learner_ready(*id, situation)?;
    }
    if let Change::Remove { id } = change
        && situation.is_last_voter(*id)
    {
        return Err(Error::NotEnoughStartedMembers);
    }
    if !rules.strict_reconfig_check {
        return Ok(());
    }
    match change {
        Change::Add { is_learner, .. } => check_add(*is_learner, situation),
        Change::Remove { id } => check_remove(*id, situation),
        Change::Update { .. } => Ok(()),
        Change::Promote { .. } => {
            let (voters, started) = (situation.voters().count(), situation.started(None));
            enough_started(started + 1, voters + 1)
        }
    }
}

fn check_add(is_learner: bool, situation: &Situation<'_>) -> Result<(), Error> {
    let voters = situation.voters().count();
    let started = situation.started(None);
    if !is_learner && (started, voters) != (1, 1) {
        enough_started(started, voters + 1)?;
    }
    if voters != 1 && situation.connected() < quorum(voters + 1) {
        return Err(Error::Unhealthy);
    }
    Ok(())
}

fn check_remove(id: u64, situation: &Situation<'_>) -> Result<(), Error> {
    if situation.members.iter().any(|member| member.id == id && member.is_learner) {
        return Ok(());
    }
    let others = situation.voters().filter(|voter| voter.id != id).count();
    enough_started(situation.started(Some(id)), others)?;
    // One that is down is no part of the quorum that works now.
    if id != situation.own && (situation.active_for)(id).is_none() {
        return Ok(());
    }
    let voters = situation.voters().count();
    if situation.connected() < 1 + quorum(voters.saturating_sub(1)) {
        return Err(Error::Unhealthy);
    }
    Ok(())
}

fn check_learner_ready(id: u64, situation: &Situation<'_>) -> Result<(), Error> {
    let matched = situation.matched.ok_or(Error::NotLeader)?;
    let of_learner = matched(id).ok_or(Error::MemberNotFound)?;
    let of_leader = matched(situation.own).unwrap_or(0);
    let ready = u128::from(of_learner) * 100 >= u128::from(of_leader) * u128::from(LEARNER_READY_PERCENT);
    if ready { Ok(()) } else { Err(Error::LearnerNotReady) }
}

fn enough_started(started: usize, voters: usize) -> Result<(), Error> {
    if started < quorum(voters) { Err(Error::NotEnoughStartedMembers) } else { Ok(()) }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl Situation<'_> {
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    fn started(&self, without: Option<u64>) -> usize {
        self.voters().filter(|voter| Some(voter.id) != without && !voter.name.is_empty()).count()
    }

    fn connected(&self) -> usize {
        let is_connected = |voter: &&Member| {
            voter.id == self.own || (self.active_for)(voter.id).is_some_and(|up| up > HEALTH_INTERVAL)
        };
        self.voters().filter(is_connected).count()
    }

    fn is_last_voter(&self, id: u64) -> bool {
        let mut voters = self.voters();
        voters.next().is_some_and(|voter| voter.id == id) && voters.next().is_none()
    }
}

/// Whether this member may hand leadership to `target` (etcd `MoveLeader`).
///
/// # Errors
/// [`Error::NotLeader`], [`Error::BadLeaderTransferee`]
pub fn check_transfer(own: u64, leader: u64, members: &[Member], target: u64) -> Result<(), Error> {
    if own != leader {
        return Err(Error::NotLeader);
    }
    match members.iter().find(|member| member.id == target) {
        Some(member) if !member.is_learner => Ok(()),
        _ => Err(Error::BadLeaderTransferee),
    }
}

#[cfg(test)]
mod tests;
