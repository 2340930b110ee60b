//! What of a peer's messages raft is given.
//!
//! raft trusts its messages: numbers that contradict each other, or messages that a member only sends to itself, make it
//! panic or worse. A message that no honest member could send is dropped here, before raft sees it.

use raft::eraftpb::{EntryType, Message, MessageType, Snapshot};

/// Indexes and terms beyond are not believed; so no sum of them overflows.
const NUMBER_MAX: u64 = 1 << 62;

/// Whether the numbers of a message of another member are such as raft sends.
pub(crate) fn is_sound(message: &Message) -> bool {
    use MessageType::*;
    let numbers = [message.term, message.index, message.log_term, message.commit, message.reject_hint];
    if message.term == 0 || numbers.iter().any(|number| *number >= NUMBER_MAX) {
        return false; // without a term it would be taken for a local one
    }
    match message.get_msg_type() {
        MsgAppend => entries_are_sound(message),
        MsgSnapshot => message.snapshot.as_ref().is_some_and(|snapshot| is_sound_snapshot(snapshot, message)),
        // With a wish for a snapshot: see `repair`.
        MsgAppendResponse => message.request_snapshot < NUMBER_MAX,
        MsgReadIndexResp => message.entries.len() == 1,
        MsgHeartbeat
        | MsgHeartbeatResponse
        | MsgRequestVote
        | MsgRequestVoteResponse
        | MsgRequestPreVote
        | MsgRequestPreVoteResponse
        | MsgTimeoutNow => true,
        // Read indexes are handled without raft; the others never leave a member.
        _ => false,
    }
}

fn entries_are_sound(message: &Message) -> bool {
    let mut term = message.log_term;
    message.entries.iter().zip(message.index + 1..).all(|(entry, index)| {
        let follows = entry.index == index && term <= entry.term && entry.term <= message.term;
        term = entry.term;
        follows && entry.term > 0 && entry.get_entry_type() != EntryType::EntryConfChangeV2
    })
}

fn is_sound_snapshot(snapshot: &Snapshot, message: &Message) -> bool {
    let Some(metadata) = &snapshot.metadata else { return false };
    let Some(conf) = &metadata.conf_state else { return false };
    let single = conf.voters_outgoing.is_empty() && conf.learners_next.is_empty() && !conf.auto_leave;
    let mut members: Vec<u64> = conf.voters.iter().chain(&conf.learners).copied().collect();
    members.sort_unstable();
    let distinct = members.windows(2).all(|pair| pair[0] < pair[1]) && members.first() != Some(&0);
    let position = 0 < metadata.index
        && metadata.index < NUMBER_MAX
        && 0 < metadata.term
        && metadata.term <= message.term;
    position && single && distinct && !conf.voters.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::eraftpb::{ConfState, Entry, SnapshotMetadata};

    fn append(index: u64, log_term: u64, entries: &[(u64, u64)]) -> Message {
        let entries = entries.iter().map(|&(index, term)| Entry { index, term, ..Default::default() });
        let mut message =
            Message { term: 5, index, log_term, entries: entries.collect(), ..Default::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message
    }

    #[test]
    fn appends_are_consecutive_in_index_and_never_fall_in_term() {
        let cases = [
            (append(7, 3, &[]), true),
            (append(7, 3, &[(8, 3), (9, 5)]), true),
            (append(0, 0, &[(1, 1)]), true),
            (append(7, 3, &[(9, 3)]), false),
            (append(7, 3, &[(8, 2)]), false),
            (append(7, 3, &[(8, 4), (9, 3)]), false),
            (append(7, 3, &[(8, 6)]), false),
            (append(u64::MAX, 3, &[]), false),
            (append(0, 0, &[(1, 0)]), false),
            (Message { term: 0, ..append(7, 3, &[]) }, false),
        ];
        for (message, want) in cases {
            assert_eq!(is_sound(&message), want, "{message:?}");
        }
    }

    #[test]
    fn snapshots_name_distinct_members_and_a_position() {
        let snapshot = |index, term, voters: &[u64], learners: &[u64]| {
            let conf = ConfState { voters: voters.into(), learners: learners.into(), ..Default::default() };
            let metadata = SnapshotMetadata { index, term, conf_state: Some(conf) };
            let snapshot = Some(Snapshot { metadata: Some(metadata), ..Default::default() });
            let mut message = Message { term: 5, snapshot, ..Default::default() };
            message.set_msg_type(MessageType::MsgSnapshot);
            is_sound(&message)
        };
        assert!(snapshot(7, 5, &[3, 1], &[2]));
        assert!(!snapshot(0, 5, &[1], &[]));
        assert!(!snapshot(7, 0, &[1], &[]));
        assert!(!snapshot(7, 6, &[1], &[]));
        assert!(!snapshot(7, 5, &[], &[1]));
        assert!(!snapshot(7, 5, &[1, 2], &[2]));
        assert!(!snapshot(7, 5, &[0, 1], &[]));
    }

    #[test]
    fn what_members_say_to_themselves_is_not_taken_from_others() {
        use MessageType::*;
        for kind in [MsgHup, MsgBeat, MsgPropose, MsgUnreachable, MsgSnapStatus, MsgCheckQuorum] {
            let mut message = Message { term: 5, ..Default::default() };
            message.set_msg_type(kind);
            assert!(!is_sound(&message), "{kind:?}");
        }
    }
}
