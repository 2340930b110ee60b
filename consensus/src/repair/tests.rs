//! What a voter grants, and what it writes before it speaks.

use super::*;
use crate::log::Identity;
use raft::eraftpb::{ConfState as RaftConf, Snapshot, SnapshotMetadata};

const ME: NodeId = NodeId(1);
const IDENTITY: Identity = Identity { cluster: 0x0102030405060708, member: ME };

fn promise() -> Promise {
    let floor = LogPosition::new(40, 4);
    Promise { identity: IDENTITY, term: Term(5), vote: NodeId(0), floor }
}

fn message(kind: MessageType, from: u64, term: u64, log: (u64, u64)) -> RaftMessage {
    let (index, log_term) = log;
    let mut message = RaftMessage { from, to: ME.0, term, index, log_term, ..Default::default() };
    message.set_msg_type(kind);
    message
}

/// What it does, and what it says once that is durable.
fn hear(voter: &mut Voter, raft: RaftMessage) -> (Vec<Promise>, Vec<RaftMessage>) {
    let mut out = Vec::new();
    let from = NodeId(raft.from);
    let message = Box::new(PeerMessage::Raft(Message { raft, data: vec![] }));
    voter.step(VoterInput::Receive(from, message), &mut out);
    let mut promises = Vec::new();
    for output in std::mem::take(&mut out) {
        match output {
            VoterOutput::Persist(promise) => {
                assert!(out.is_empty(), "nothing is said before it is written");
                promises.push(promise);
            }
            other => out.push(other),
        }
    }
    assert!(promises.is_empty() || out.is_empty(), "nothing is said before it is written: {out:?}");
    for _ in &promises {
        voter.step(VoterInput::Durable, &mut out);
    }
    let said = out.into_iter().map(|output| match output {
        VoterOutput::Send(Envelope { message, .. }) => match *message {
            PeerMessage::Raft(message) => message.raft,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    });
    (promises, said.collect())
}

#[test]
fn votes_go_to_logs_that_reach_the_floor_once_a_term() {
    use MessageType::*;
    // Candidate, term, (index, term) of its last entry, granted?
    let cases = [
        (2, 6, (40, 4), true),
        (3, 6, (90, 4), false), // it has voted
        (2, 6, (40, 4), true),  // it said so before
        (3, 7, (39, 4), false), // short of the floor by an entry
        (3, 7, (99, 3), false), // by a term
        (3, 7, (1, 5), true),
        (2, 4, (90, 9), false), // an old term
    ];
    let mut voter = Voter::new(promise(), 10);
    for (from, term, log, want) in cases {
        let before = voter.promise();
        let (written, said) = hear(&mut voter, message(MsgRequestVote, from, term, log));
        let granted = said.iter().any(|answer| !answer.reject && answer.term == term);
        assert_eq!(granted, want, "{from} in {term} with {log:?}");
        assert_eq!(voter.promise() != before, !written.is_empty());
        if granted {
            assert_eq!((voter.promise().term.0, voter.promise().vote.0), (term, from));
        }
        let pre = message(MsgRequestPreVote, from, voter.promise().term.0 + 1, log);
        let (written, said) = hear(&mut voter, pre);
        assert_eq!((written.len(), said[0].reject), (0, (log.1, log.0) < (4, 40)), "{log:?}");
    }
}

#[test]
fn a_leader_is_answered_in_its_term_and_no_rival_is_listened_to_meanwhile() {
    use MessageType::*;
    let mut voter = Voter::new(promise(), 10);
    let mut beat = message(MsgHeartbeat, 2, 6, (0, 0));
    beat.context = b"token".to_vec();
    let (written, said) = hear(&mut voter, beat.clone());
    assert_eq!(written, [Promise { term: Term(6), ..promise() }]);
    let [answer, _wish] = &said[..] else { panic!("{said:?}") };
    assert_eq!(
        (answer.get_msg_type(), answer.term, &answer.context),
        (MsgHeartbeatResponse, 6, &beat.context)
    );
    let rival = message(MsgRequestVote, 3, 7, (99, 6));
    assert_eq!(hear(&mut voter, rival.clone()), (vec![], vec![]));
    for _ in 0..10 {
        voter.step(VoterInput::Tick, &mut Vec::new());
    }
    assert!(!hear(&mut voter, rival).1[0].reject);
    // The old leader learns that it is one.
    let (_, said) = hear(&mut voter, beat);
    assert_eq!((said[0].get_msg_type(), said[0].term), (MsgAppendResponse, 7));
}

#[test]
fn a_leader_without_anything_to_append_is_asked_for_a_snapshot_once_an_election_timeout() {
    use MessageType::*;
    let mut voter = Voter::new(promise(), 10);
    let beat = |term| RaftMessage { commit: 44, ..message(MsgHeartbeat, 2, term, (0, 0)) };
    // Of the wishes: what is refused, without a term that would make the leader look for a conflict; and what is wanted.
    let wishes = |said: Vec<RaftMessage>| -> Vec<_> {
        assert_eq!(said[0].get_msg_type(), MsgHeartbeatResponse);
        let wish = |answer: &RaftMessage| {
            assert_eq!((answer.get_msg_type(), answer.reject), (MsgAppendResponse, true));
            (answer.index, answer.reject_hint, answer.log_term, answer.request_snapshot)
        };
        said[1..].iter().map(wish).collect()
    };
    let wait = |voter: &mut Voter, ticks| {
        (0..ticks).for_each(|_| voter.step(VoterInput::Tick, &mut Vec::new()));
    };
    let asked = vec![(44, 44, 0, 44)];
    assert_eq!(wishes(hear(&mut voter, beat(6)).1), asked);
    wait(&mut voter, 9);
    assert_eq!(wishes(hear(&mut voter, beat(6)).1), []);
    wait(&mut voter, 1);
    assert_eq!(wishes(hear(&mut voter, beat(6)).1), asked);
    assert_eq!(wishes(hear(&mut voter, beat(7)).1), asked, "a new leader was not asked yet");
    // An append was answered with the wish.
    wait(&mut voter, 10);
    assert_eq!(hear(&mut voter, message(MsgAppend, 2, 7, (50, 7))).1[0].request_snapshot, 44);
    assert_eq!(wishes(hear(&mut voter, beat(7)).1), []);
    // Nothing is asked for while what was sent is made durable.
    wait(&mut voter, 10);
    voter.step(VoterInput::SnapshotArrived, &mut Vec::new());
    assert_eq!(wishes(hear(&mut voter, beat(7)).1), []);
    assert_eq!(hear(&mut voter, message(MsgAppend, 2, 7, (50, 7))).1, []);
    voter.step(VoterInput::SnapshotUnusable, &mut Vec::new());
    wait(&mut voter, 10);
    assert_eq!(wishes(hear(&mut voter, beat(7)).1), asked);
    // What has arrived may be of a leader who is none any more.
    wait(&mut voter, 10);
    voter.step(VoterInput::SnapshotArrived, &mut Vec::new());
    let mut old = message(MsgSnapshot, 3, 6, (0, 0));
    let conf = RaftConf { voters: vec![1, 2, 3], ..Default::default() };
    let metadata = SnapshotMetadata { index: 50, term: 6, conf_state: Some(conf) };
    old.snapshot = Some(Snapshot { metadata: Some(metadata), ..Default::default() });
    hear(&mut voter, old);
    assert_eq!(wishes(hear(&mut voter, beat(7)).1), asked);
}

#[test]
fn entries_are_answered_with_a_wish_and_only_a_snapshot_beyond_all_promises_ends_it() {
    use MessageType::*;
    let mut voter = Voter::new(promise(), 10);
    let mut beat = message(MsgHeartbeat, 2, 6, (0, 0));
    beat.commit = 44; // the leader counts on more than the floor
    hear(&mut voter, beat);
    let (_, said) = hear(&mut voter, message(MsgAppend, 2, 6, (50, 6)));
    assert_eq!((said[0].reject, said[0].index, said[0].request_snapshot), (true, 50, 44));
    for (position, taken) in [((43, 6), false), ((44, 3), false), ((44, 6), true)] {
        let conf = RaftConf { voters: vec![1, 2, 3], ..Default::default() };
        let metadata = SnapshotMetadata { index: position.0, term: position.1, conf_state: Some(conf) };
        let mut raft = message(MsgSnapshot, 2, 6, (0, 0));
        raft.snapshot = Some(Snapshot { metadata: Some(metadata), ..Default::default() });
        let mut out = Vec::new();
        let message = Box::new(PeerMessage::Raft(Message { raft, data: vec![] }));
        voter.step(VoterInput::Receive(NodeId(2), message), &mut out);
        let position = LogPosition::new(position.0, position.1);
        let want = match taken {
            false => VoterOutput::SnapshotIgnored(position),
            true => VoterOutput::Install {
                position,
                conf: ConfState { voters: vec![NodeId(1), NodeId(2), NodeId(3)], learners: vec![] },
                hard_state: HardState { term: Term(6), vote: NodeId(0), commit: Index(44) },
            },
        };
        assert_eq!(out, [want]);
    }
}

#[test]
fn golden_bytes_of_version_1() {
    let promise = Promise { vote: NodeId(0x31), ..promise() };
    let bytes = promise.encode();
    let want = [
        &b"RINGDREP\x01\0\0\0\x01\0\0\0"[..],
        &[8, 7, 6, 5, 4, 3, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0],
        &[5, 0, 0, 0, 0, 0, 0, 0, 0x31, 0, 0, 0, 0, 0, 0, 0],
        &[40, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0],
    ];
    assert_eq!(bytes[..64], want.concat());
    assert_eq!(bytes[64..], crc32fast::hash(&want.concat()).to_le_bytes());
    assert_eq!(Promise::decode(&bytes), Ok(promise));
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes;
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Promise::decode(&bytes), Err(InvalidPromise), "bit {bit}");
    }
    assert_eq!(Promise::decode(&bytes[..67]), Err(InvalidPromise));
    let mut unknown_vote = bytes;
    unknown_vote[12] = 0;
    let crc = crc32fast::hash(&unknown_vote[..64]);
    unknown_vote[64..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Promise::decode(&unknown_vote), Err(InvalidPromise));
}

#[test]
fn the_floor_is_the_end_of_a_log_that_still_tells_the_vote() {
    let survey = |index, term| Survey {
        hard_state: HardState { term: Term(7), vote: NodeId(3), commit: Index(0) },
        last: LogPosition::new(index, term),
    };
    let of = |survey, applied| Promise::of(IDENTITY, &survey, applied);
    let whole = of(survey(50, 6), LogPosition::new(40, 5)).expect("the vote is known");
    assert_eq!(whole.floor, LogPosition::new(50, 6));
    assert_eq!((whole.term, whole.vote), (Term(7), NodeId(3)));
    // The newest header is lost, and with it how this member has voted.
    assert_eq!(of(survey(30, 6), LogPosition::new(40, 8)), None);
    assert_eq!(of(Survey::default(), LogPosition::default()), None);
}
