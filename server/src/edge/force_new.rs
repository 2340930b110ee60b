//! `--force-new-cluster`: what a restart found becomes the log of a cluster of one; and how one ends that was removed.
//!
//! The rules are those of `node::cluster::force_new`. The changed log is written as that of a first start is: in one
//! append before anything else, and nothing of it counts until that is durable.

use consensus::LogPosition;
use consensus::log::State;
use engine::Store;
use node::cluster::force_new;
use node::{Identity, apply};

use super::boot::tree_damaged;
use crate::config::Config;
use crate::sys::{Fatal, FatalReason};

/// Removes every other member.
///
/// # Errors
/// This member is no member, or the store or the log can't be read.
pub fn rewrite(
    config: &Config,
    store: &Store,
    identity: Identity,
    applied: LogPosition,
    state: State,
) -> Result<State, Fatal> {
    let members = apply::members(store).map_err(|error| unreadable(config, &error))?;
    let before = state.clone();
    let State { mut hard_state, mut entries, .. } = state;
    force_new::rewrite(identity.member_id, &members, applied.index, &mut hard_state, &mut entries).map_err(
        |refused| {
            let reason = match refused {
                force_new::Refused::NotAMember => FatalReason::MemberRemoved,
                force_new::Refused::Invalid(_) => FatalReason::LogDamaged,
            };
            Fatal::new(reason, refused.to_string())
        },
    )?;
    if entries == before.entries {
        tracing::info!("--force-new-cluster: this member is the only one already");
        return Ok(before);
    }
    tracing::warn!(
        entries = entries.len(),
        commit = hard_state.commit.0,
        "forcing restart member: all others leave the cluster"
    );
    Ok(State { hard_state, entries, unwritten: true })
}

/// How a member ends that hears from a peer that it was removed.
pub fn removed(identity: Identity) -> Fatal {
    let sentence = format!(
        "the member {:x} has been permanently removed from the cluster {:x}: to have it again, delete its data \
         directory and add it as a new member",
        identity.member_id, identity.cluster_id
    );
    Fatal::new(FatalReason::MemberRemoved, sentence)
}

fn unreadable(config: &Config, error: &apply::Fatal) -> Fatal {
    tree_damaged(config, &format!("cannot read the members: {error}"))
}
