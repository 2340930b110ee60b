//! Entries into a store and out of the answers: what each command does, in which order it is refused.

use consensus::{ConfChangeKind, NodeId, Term};
use engine::lease::Checkpoint;
use engine::{Op, Txn};
use pb::alarm_request::AlarmAction;
use prost::Message;

use super::*;
use crate::lease::Expired;
use crate::propose::{IdGenerator, cluster_version_set, encode, field, member_attributes_set, raise_alarm};
use crate::testing::{WHO, delete, put, put_leased, store};

const NOW: Duration = Duration::from_secs(100);

struct World {
    store: Store,
    space: Space,
    ids: IdGenerator,
    index: u64,
}

impl World {
    fn new() -> World {
        World { store: store(), space: Space::UNLIMITED, ids: IdGenerator::new(1, 1, 0, 1), index: 0 }
    }

    fn entry(&mut self, kind: EntryKind, data: Bytes) -> Entry {
        self.index += 1;
        let proposal = Some(ProposalId(self.index));
        Entry { index: Index(self.index), term: Term(3), kind, data, proposal }
    }

    fn apply(&mut self, command: Command) -> Applied {
        let entry = self.entry(EntryKind::Normal, Bytes::new());
        let applied = apply(&mut self.store, NOW, self.space, &entry, Some(command)).unwrap();
        let applied = applied.expect("a new entry");
        assert_eq!((applied.index, applied.proposal), (entry.index, entry.proposal));
        assert_eq!((self.store.applied().index, self.store.applied().term), (self.index, 3));
        applied
    }

    /// The decoded answer.
    fn answer<M: Message + Default>(&mut self, command: Command) -> Result<M, Error> {
        self.apply(command).result.map(|answer| {
            let mut out = Vec::new();
            answer.encode(&WHO, 3, &mut out);
            M::decode(&out[..]).expect("a message")
        })
    }

    fn put(&mut self, key: &str, value: &str) -> Result<pb::PutResponse, Error> {
        self.answer(Command::Put(put(key, value)))
    }

    fn alarm(&mut self, action: AlarmAction, member_id: u64, alarm: i32) -> Vec<(u64, i32)> {
        let request = pb::AlarmRequest { action: action as i32, member_id, alarm };
        let response: pb::AlarmResponse = self.answer(Command::Alarm(request)).unwrap();
        response.alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
    }

    fn change(&mut self, kind: ConfChangeKind, node: u64, member: &Member) -> Applied {
        let change = ConfChange { id: 9, kind, node: NodeId(node), context: member.encode().into() };
        let entry = self.entry(EntryKind::ConfChange, change.encode());
        apply(&mut self.store, NOW, self.space, &entry, None).unwrap().expect("a new entry")
    }
}

fn txn_of(op: Op) -> Command {
    Command::Txn(Txn { success: vec![op], ..Default::default() })
}

fn revision(header: Option<pb::ResponseHeader>) -> i64 {
    let header = header.expect("every one of these answers has a header");
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (11, 12, 3));
    header.revision
}

#[test]
fn writes_answer_with_the_revision_they_made() {
    let mut w = World::new();
    assert_eq!(revision(w.put("a", "1").unwrap().header), 2);
    assert_eq!(revision(w.put("b", "1").unwrap().header), 3);
    let nothing: pb::DeleteRangeResponse = w.answer(Command::DeleteRange(delete("x", ""))).unwrap();
    assert_eq!((nothing.deleted, revision(nothing.header)), (0, 3));
    let both: pb::DeleteRangeResponse = w.answer(Command::DeleteRange(delete("a", "c"))).unwrap();
    assert_eq!((both.deleted, revision(both.header)), (2, 4));
    let txn: pb::TxnResponse = w.answer(txn_of(Op::Put(put("c", "1")))).unwrap();
    assert_eq!((txn.succeeded, revision(txn.header), txn.responses.len()), (true, 5, 1));
    let idle: pb::TxnResponse = w.answer(txn_of(Op::Delete(delete("x", "")))).unwrap();
    assert_eq!(revision(idle.header), 5);
    let compacted: pb::CompactionResponse =
        w.answer(Command::Compact { revision: 3, physical: false }).unwrap();
    assert_eq!(revision(compacted.header), 5);
}

#[test]
fn refused_requests_count_as_applied_and_change_nothing() {
    let mut w = World::new();
    w.put("a", "1").unwrap();
    let missing = engine::PutOptions { ignore_value: true, ..put("x", "") };
    let cases = [
        (Command::Put(put_leased("a", "2", 77)), Error::LeaseNotFound),
        (Command::Put(missing), Error::KeyNotFound),
        (Command::LeaseRevoke { id: 77 }, Error::LeaseNotFound),
        (Command::LeaseGrant { id: 5, ttl: 9_000_000_001 }, Error::LeaseTtlTooLarge),
        (Command::Compact { revision: 3, physical: false }, Error::FutureRevision),
        (Command::Compact { revision: -1, physical: false }, Error::Compacted),
        (txn_of(Op::Put(put_leased("a", "2", 77))), Error::LeaseNotFound),
    ];
    for (command, want) in cases {
        let what = format!("{command:?}");
        assert_eq!(w.apply(command).result, Err(want), "{what}");
        assert_eq!(w.store.revision(), 2, "{what}");
    }
}

#[test]
fn leases_are_granted_and_revoked_with_their_keys() {
    let mut w = World::new();
    let grant: pb::LeaseGrantResponse = w.answer(Command::LeaseGrant { id: 7, ttl: 1 }).unwrap();
    assert_eq!((grant.id, grant.ttl, grant.error.as_str(), revision(grant.header)), (7, 2, "", 1));
    assert_eq!(w.apply(Command::LeaseGrant { id: 7, ttl: 1 }).result, Err(Error::LeaseExists));
    for key in ["b", "a"] {
        w.apply(Command::Put(put_leased(key, "v", 7))).result.unwrap();
    }
    let applied = w.apply(Command::LeaseRevoke { id: 7 });
    assert_eq!(applied.effect, Effect::LeaseRevoked(7));
    assert_eq!(applied.result.unwrap(), Answer::bare(4));
    let again = w.apply(Command::LeaseRevoke { id: 7 });
    assert_eq!((again.result, again.effect), (Err(Error::LeaseNotFound), Effect::LeaseRevoked(7)));
}

#[test]
fn a_physical_compaction_answers_later() {
    let mut w = World::new();
    w.put("a", "1").unwrap();
    w.put("a", "2").unwrap();
    let logical = w.apply(Command::Compact { revision: 2, physical: false });
    assert_eq!((logical.result.is_ok(), logical.effect), (true, Effect::None));
    let physical = w.apply(Command::Compact { revision: 3, physical: true });
    assert_eq!((physical.result.is_ok(), physical.effect), (true, Effect::AnswerWhenCompacted));
    let refused = w.apply(Command::Compact { revision: 3, physical: true });
    assert_eq!(refused.result, Err(Error::Compacted));
}

#[test]
fn alarms_are_raised_listed_and_cleared() {
    let mut w = World::new();
    use AlarmAction::{Activate, Deactivate, Get};
    type Step = (AlarmAction, u64, i32, &'static [(u64, i32)]);
    let steps: [Step; 13] = [
        (Get, 0, 0, &[]),
        (Activate, 5, 0, &[]),
        (Activate, 5, 1, &[(5, 1)]),
        (Activate, 5, 1, &[(5, 1)]),
        (Activate, 4, 2, &[(4, 2)]),
        (Get, 0, 0, &[(4, 2), (5, 1)]),
        (Get, 99, 1, &[(5, 1)]),
        (Get, 0, 7, &[]),
        (Deactivate, 4, 1, &[]),
        (Deactivate, 5, 0, &[]),
        (Deactivate, 5, 1, &[(5, 1)]),
        (Deactivate, 5, 1, &[]),
        (Get, 0, 0, &[(4, 2)]),
    ];
    for (i, (action, member, alarm, want)) in steps.into_iter().enumerate() {
        assert_eq!(w.alarm(action, member, alarm), want, "step {i}");
    }
    let odd = pb::AlarmRequest { action: 9, member_id: 5, alarm: 1 };
    let response: pb::AlarmResponse = w.answer(Command::Alarm(odd)).unwrap();
    assert_eq!((response.alarms.len(), revision(response.header)), (0, 1));
}

/// Which commands an alarm refuses. Reading and making room always goes on under NOSPACE.
#[test]
fn alarms_refuse_writes() {
    let commands = || -> Vec<(&str, Command)> {
        vec![
            ("put", Command::Put(put("k", "v"))),
            ("delete", Command::DeleteRange(delete("k", ""))),
            ("txn that puts", txn_of(Op::Put(put("k", "v")))),
            (
                "txn that may put",
                Command::Txn(Txn { failure: vec![Op::Put(put("k", "v"))], ..Default::default() }),
            ),
            ("txn that deletes", txn_of(Op::Delete(delete("k", "")))),
            ("compact", Command::Compact { revision: 2, physical: false }),
            ("grant", Command::LeaseGrant { id: 9, ttl: 5 }),
            ("revoke", Command::LeaseRevoke { id: 8 }),
            ("alarm", Command::Alarm(pb::AlarmRequest::default())),
            ("nothing", Command::Nothing),
        ]
    };
    let no_space = ["put", "txn that puts", "txn that may put", "grant"];
    let corrupt_passes = ["alarm", "nothing"];
    for kind in [AlarmKind::NoSpace, AlarmKind::Corrupt] {
        for (what, command) in commands() {
            let mut w = World::new();
            w.put("k", "1").unwrap();
            w.put("k", "2").unwrap();
            w.apply(Command::LeaseGrant { id: 8, ttl: 5 }).result.unwrap();
            w.store.alarm_activate(Alarm { member: 3, kind }).unwrap();
            let want = match kind {
                AlarmKind::NoSpace => no_space.contains(&what).then_some(Error::NoSpace),
                AlarmKind::Corrupt => (!corrupt_passes.contains(&what)).then_some(Error::Corrupt),
            };
            assert_eq!(w.apply(command).result.err(), want, "{what} under {kind:?}");
        }
    }
}

#[test]
fn over_the_quota_a_write_goes_through_and_is_answered_with_an_error() {
    let mut w = World::new();
    w.space = Space { used: 1000, quota: Some(1000) };
    let applied = w.apply(Command::Put(put("k", "v")));
    assert_eq!((applied.result, applied.effect), (Err(Error::NoSpace), Effect::RaiseNoSpace));
    assert_eq!(w.store.revision(), 2);
    let delete = w.apply(Command::DeleteRange(delete("k", "")));
    assert_eq!((delete.result.is_ok(), delete.effect), (true, Effect::None));
    // A refusal of another kind stays what it is.
    assert_eq!(w.apply(Command::Put(put_leased("k", "v", 5))).result, Err(Error::LeaseNotFound));
}

#[test]
fn what_was_applied_is_skipped_on_replay() {
    let mut w = World::new();
    let data =
        encode(1, field::PUT, &pb::PutRequest { key: "k".into(), ..Default::default() }.encode_to_vec(), &[]);
    let entry = w.entry(EntryKind::Normal, data);
    for first in [true, false] {
        let applied = apply(&mut w.store, NOW, w.space, &entry, None).unwrap();
        assert_eq!(applied.is_some(), first);
        assert_eq!(w.store.revision(), 2);
    }
}

/// What the proposer applies from memory and the others from bytes leaves the same store.
#[test]
fn bytes_and_memory_say_the_same() {
    let (mut local, mut remote) = (World::new(), World::new());
    let mut ids = IdGenerator::new(1, 1, 0, 1);
    let writes = [
        raise_alarm(&mut ids, 7, pb::AlarmType::Nospace),
        crate::propose::lease_expired(&mut ids, Expired { lease: 9, granted_at: 1 }, 3),
        cluster_version_set(&mut ids, "3.7.0"),
    ];
    for write in writes {
        let mut entry = local.entry(EntryKind::Normal, write.entry);
        let here = apply(&mut local.store, NOW, local.space, &entry, Some(write.command)).unwrap().unwrap();
        entry.proposal = None;
        let there = apply(&mut remote.store, NOW, remote.space, &entry, None).unwrap().unwrap();
        assert_eq!((here.result, here.effect), (there.result, there.effect));
    }
    assert_eq!(local.store.alarms(None), remote.store.alarms(None));
    assert_eq!(cluster_version(&remote.store).unwrap().as_deref(), Some("3.7.0"));
}

#[test]
fn entries_nobody_understands_stop_the_member() {
    let mut w = World::new();
    let cases = [
        (EntryKind::Normal, Bytes::from_static(b"\x22\x05")),
        (EntryKind::Normal, Bytes::from_static(b"\xff")),
        (EntryKind::Normal, encode(1, 1100, b"", b"")),
        (EntryKind::ConfChange, Bytes::from_static(b"\xff")),
    ];
    for (kind, data) in cases {
        let entry = w.entry(kind, data.clone());
        let result = apply(&mut w.store, NOW, w.space, &entry, None);
        assert!(matches!(result, Err(Fatal::Entry { index, .. }) if index == entry.index), "{data:?}");
    }
    assert_eq!(w.store.applied().index, 0);
    let empty = w.entry(EntryKind::Normal, Bytes::new());
    assert!(apply(&mut w.store, NOW, w.space, &empty, None).unwrap().is_some());
}

#[test]
fn a_lease_that_an_earlier_leader_found_expired_lives_on() {
    let mut w = World::new();
    let _: pb::LeaseGrantResponse = w.answer(Command::LeaseGrant { id: 5, ttl: 60 }).unwrap();
    w.answer::<pb::PutResponse>(Command::Put(put_leased("k", "v", 5))).unwrap();
    // The entries of this world have term 3.
    let expired = Expired { lease: 5, granted_at: 1 };
    for (term, bytes) in [(2, true), (4, true), (2, false)] {
        let write = crate::propose::lease_expired(&mut w.ids, expired, term);
        let entry = w.entry(EntryKind::Normal, write.entry);
        let command = (!bytes).then_some(write.command);
        let applied = apply(&mut w.store, NOW, w.space, &entry, command).unwrap().expect("a new entry");
        assert_eq!((applied.result, applied.effect), (Err(Error::NotPrimary), Effect::None), "term {term}");
        assert!(w.store.lease_exists(LeaseId(5)), "term {term}");
    }
    let write = crate::propose::lease_expired(&mut w.ids, expired, 3);
    let entry = w.entry(EntryKind::Normal, write.entry);
    let applied = apply(&mut w.store, NOW, w.space, &entry, None).unwrap().expect("a new entry");
    assert_eq!((applied.result.unwrap().revision, applied.effect), (3, Effect::LeaseRevoked(5)));
    assert!(!w.store.lease_exists(LeaseId(5)));
}

/// An expiry on its way ends the lease that had run out, not one that has its number by now. In etcd it does.
#[test]
fn a_number_granted_again_outlives_the_expiry_of_its_predecessor() {
    let mut w = World::new();
    let _: pb::LeaseGrantResponse = w.answer(Command::LeaseGrant { id: 5, ttl: 60 }).unwrap(); // entry 1
    w.apply(Command::LeaseRevoke { id: 5 }).result.unwrap();
    let _: pb::LeaseGrantResponse = w.answer(Command::LeaseGrant { id: 5, ttl: 60 }).unwrap(); // entry 3
    assert_eq!(w.store.lease_granted_at(LeaseId(5)), Some(3));
    let mut expire = |granted_at, as_bytes: bool| {
        let write = crate::propose::lease_expired(&mut w.ids, Expired { lease: 5, granted_at }, 3);
        let entry = w.entry(EntryKind::Normal, write.entry);
        let command = (!as_bytes).then_some(write.command);
        let applied = apply(&mut w.store, NOW, w.space, &entry, command).unwrap().expect("a new entry");
        (applied.result.map(|answer| answer.revision), applied.effect, w.store.lease_exists(LeaseId(5)))
    };
    assert_eq!(expire(1, true), (Err(Error::LeaseNotFound), Effect::None, true));
    assert_eq!(expire(1, false), (Err(Error::LeaseNotFound), Effect::None, true));
    assert_eq!(expire(3, true), (Ok(1), Effect::LeaseRevoked(5), false));
    // Who waits for the end of one that is gone already must hear of it.
    assert_eq!(expire(3, true), (Err(Error::LeaseNotFound), Effect::LeaseRevoked(5), false));
}

/// What an earlier leader knew to be left may be less than what the present one has promised since.
#[test]
fn a_checkpoint_counts_in_its_own_term_alone() {
    let mut w = World::new();
    let _: pb::LeaseGrantResponse = w.answer(Command::LeaseGrant { id: 5, ttl: 600 }).unwrap();
    let left = Checkpoint { lease: LeaseId(5), granted_at: 1, remaining_ttl: 100 };
    let full = |w: &mut World| {
        w.store.lease_promote(NOW, Duration::ZERO);
        let ttl = w.store.lease_status(NOW, LeaseId(5)).unwrap().ttl;
        w.store.lease_demote();
        ttl
    };
    // The entries of this world have term 3.
    for (term, want) in [(2, 600), (4, 600), (3, 100)] {
        let write = crate::propose::lease_checkpoint(&mut w.ids, vec![left], term);
        let entry = w.entry(EntryKind::Normal, write.entry);
        let applied = apply(&mut w.store, NOW, w.space, &entry, None).unwrap().expect("a new entry");
        let effect = if term == 3 { Effect::LeasesCheckpointed(vec![5]) } else { Effect::None };
        assert_eq!((applied.result.is_ok(), applied.effect), (term == 3, effect), "term {term}");
        assert_eq!(full(&mut w), want, "term {term}");
    }
}

#[test]
fn members_come_and_go_and_publish_themselves() {
    let member = |id, url: &str| Member { id, peer_urls: vec![url.to_owned()], ..Default::default() };
    let mut w = World::new();
    let add = w.change(ConfChangeKind::AddNode, 5, &member(5, "http://a:2380"));
    assert!(matches!(add.effect, Effect::ConfChange(Some(change)) if change.node == NodeId(5)));
    assert_eq!(add.result.unwrap().revision, 0);
    use ConfChangeKind::*;
    let refused = [
        (AddNode, 5, member(5, "http://b:2380"), Error::MemberExists),
        (AddLearnerNode, 6, member(6, "http://a:2380"), Error::PeerUrlExists),
        (RemoveNode, 6, member(6, ""), Error::MemberNotFound),
        (UpdateNode, 6, member(6, "http://c:2380"), Error::MemberNotFound),
    ];
    for (kind, id, context, want) in refused {
        let applied = w.change(kind, id, &context);
        assert_eq!((applied.result, applied.effect), (Err(want), Effect::ConfChange(None)), "{kind:?}");
    }
    w.change(AddLearnerNode, 6, &member(6, "http://b:2380"));
    w.change(UpdateNode, 5, &member(5, "http://c:2380"));
    let write = member_attributes_set(&mut w.ids, 5, "five", &["http://a:2379".to_owned()]);
    w.apply(write.command).result.unwrap();
    let stranger = member_attributes_set(&mut w.ids, 99, "x", &[]);
    w.apply(stranger.command).result.unwrap();
    let want = [
        Member {
            name: "five".into(),
            client_urls: vec!["http://a:2379".into()],
            ..member(5, "http://c:2380")
        },
        Member { is_learner: true, ..member(6, "http://b:2380") },
    ];
    assert_eq!(members(&w.store).unwrap(), want);
    assert_eq!(crate::membership::voters_and_learners(&want), (vec![5], vec![6]));
    w.change(RemoveNode, 6, &member(6, ""));
    assert_eq!(members(&w.store).unwrap(), want[..1]);
}
