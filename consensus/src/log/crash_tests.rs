//! Power cuts: whatever sectors of the write in flight arrived, everything acknowledged is there after the restart.

use bytes::Bytes;
use proptest::prelude::*;

use std::time::Duration;

use crate::log::{Log, Note, Proof, RecoverError, Tail, WritePlan, recover};
use crate::testing::{Disk, IDENTITY, Member, Store, small_log};
use crate::{Append, Entry, EntryKind, HardState, Index, LogPosition, ProposalId, ReadyNumber, Role, Term};

#[derive(Clone, Debug)]
enum Op {
    /// Propose so many entries of this length in one turn.
    Put(usize, usize),
    /// The write in flight completes, if there is one.
    Complete,
    Idle,
    Checkpoint,
    /// Power cut; sector number i of the write in flight arrives if the bit i mod 64 is set.
    Crash(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1usize..4, prop_oneof![8 => 0usize..600, 2 => 600usize..9000, 1 => 9000usize..31000])
            .prop_map(|(count, len)| Op::Put(count, len)),
        6 => Just(Op::Complete),
        1 => Just(Op::Idle),
        1 => Just(Op::Checkpoint),
        2 => prop_oneof![Just(0), Just(u64::MAX), Just(!1), Just(1), any::<u64>()].prop_map(Op::Crash),
    ]
}

/// A run over any number of lives of the process.
struct Story {
    member: Option<Member>,
    checkpoint: Store,
    proposed: Vec<Bytes>,
    acked: Vec<(ProposalId, Index)>,
}

impl Story {
    fn begin() -> Story {
        let member = Some(Member::start(Disk::default(), Store::default(), small_log()).unwrap());
        Story { member, checkpoint: Store::default(), proposed: Vec::new(), acked: Vec::new() }
    }

    fn run(&mut self, op: Op) {
        let mut member = self.member.take().expect("there is always one");
        match op {
            Op::Put(count, len) => {
                for _ in 0..count {
                    let id = self.proposed.len() as u64;
                    let data = Bytes::from([&id.to_le_bytes()[..], &vec![id as u8; len]].concat());
                    self.proposed.push(data.clone());
                    member.put(id, data);
                }
            }
            Op::Complete if member.disk.in_flight.is_some() => member.complete(),
            Op::Complete => member.turn([]),
            Op::Idle => member.idle(),
            Op::Checkpoint => self.checkpoint = member.checkpoint(),
            Op::Crash(sectors) => {
                self.acked.append(&mut member.acked);
                let disk = member.crash(|number| sectors >> (number % 64) & 1 == 1);
                member = Member::start(disk, self.checkpoint.clone(), small_log())
                    .unwrap_or_else(|error| panic!("a power cut is not damage: {error}"));
            }
        }
        self.member = Some(member);
    }

    /// After a last power cut: what was acknowledged is there, what was not may be, in the order of proposals.
    fn audit(mut self) {
        self.run(Op::Crash(0x5555_5555_5555_5555));
        let mut member = self.member.take().expect("there is always one");
        member.settle();
        assert_eq!(member.node.status().role.role, Role::Leader);
        let data = &member.store.data;
        for (proposal, index) in &self.acked {
            let at = data.binary_search_by_key(index, |(index, _)| *index);
            let found = at.map(|at| &data[at].1);
            assert_eq!(found, Ok(&self.proposed[proposal.0 as usize]), "{proposal:?} at {index:?}");
        }
        let ids: Vec<u64> =
            data.iter().map(|(_, data)| u64::from_le_bytes(data[..8].try_into().unwrap())).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice: {ids:?}");
        for (id, (_, data)) in ids.iter().zip(data) {
            assert_eq!(data, &self.proposed[*id as usize], "as proposed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn no_acknowledged_write_is_lost(ops in proptest::collection::vec(op(), 1..80)) {
        let mut story = Story::begin();
        ops.into_iter().for_each(|op| story.run(op));
        story.audit();
    }
}

#[test]
fn a_torn_batch_is_named_and_its_place_used_again() {
    let mut member = Member::new(small_log());
    member.idle();
    for id in 0..4 {
        member.put(id, vec![id as u8; 1500]); // the first is in flight alone, the others queue
    }
    member.complete();
    assert_eq!(member.acked.len(), 1);
    let (plan, _) = member.disk.in_flight.clone().unwrap();
    let sequence = member.log.sequence() + 1;
    let disk = member.crash(|number| number != 3); // all but one sector in the middle
    let mut member = Member::start(disk, Store::default(), small_log()).unwrap();
    let torn = Note::TornTail {
        segment: plan.segment,
        offset: plan.offset,
        sequence,
        first: LogPosition::new(4, 2),
    };
    assert_eq!(member.notes, [torn]);
    member.turn([]); // the election
    let (again, _) = member.disk.in_flight.clone().unwrap();
    assert_eq!((again.segment, again.offset), (plan.segment, plan.offset));
    member.settle();
    assert_eq!(member.store.data.len(), 1);
}

#[test]
fn a_complete_batch_that_nobody_acknowledged_is_kept() {
    let mut member = Member::new(small_log());
    member.put(1, "complete");
    let disk = member.crash(|_| true);
    let mut member = Member::start(disk, Store::default(), small_log()).unwrap();
    assert_eq!(member.notes, []);
    member.settle();
    assert_eq!(member.store.data.len(), 1);
}

fn entry(index: u64, term: u64, len: usize) -> Entry {
    let data = Bytes::from(vec![term as u8; len]);
    Entry { index: Index(index), term: Term(term), kind: EntryKind::Normal, data, proposal: None }
}

fn write(disk: &mut Disk, log: &mut Log, entries: &[Entry]) -> WritePlan {
    while let Some(new) = log.segment_wanted() {
        disk.segments.insert(new.id, vec![0; new.size as usize]);
        log.segment_ready(new.id, new.size);
    }
    let term = entries.last().map_or(Term(0), |entry| entry.term);
    let hard_state = HardState { term, ..HardState::default() };
    log.append(Append { ready: ReadyNumber(1), hard_state, entries: entries.to_vec(), reset: None });
    let plan = log.poll_write().unwrap();
    let mut buf = vec![0; plan.len];
    log.encode(&plan, &mut buf);
    disk.in_flight = Some((plan, buf));
    disk.complete();
    log.written(Duration::ZERO);
    plan
}

#[test]
fn what_a_new_leader_replaced_does_not_come_back() {
    let mut disk = Disk::default();
    let mut log = Log::new(small_log(), IDENTITY, Tail::default());
    let old: Vec<Entry> = (1..=6).map(|index| entry(index, 1, 10)).collect();
    let new: Vec<Entry> = (3..=4).map(|index| entry(index, 2, 20)).collect();
    write(&mut disk, &mut log, &old);
    write(&mut disk, &mut log, &new);
    let want = [&old[..2], &new].concat();
    // Also where the store has all that the new leader wrote, and its batch needn't be read.
    for applied in 0..=4 {
        let position = if applied == 0 { LogPosition::default() } else { want[applied - 1].position() };
        let recovered = recover(&disk, IDENTITY, position).unwrap();
        assert_eq!(recovered.state.entries, want[applied..], "applied={applied}");
        assert_eq!(recovered.tail.last, LogPosition::new(4, 2));
    }
    // A store that has applied what was replaced is not of this log.
    let error = recover(&disk, IDENTITY, old[3].position()).unwrap_err();
    let RecoverError::Damage(damage) = error else { panic!("{error}") };
    assert_eq!(damage.proof, Proof::OtherTerm(LogPosition::new(4, 2)));
}

#[test]
fn a_batch_too_long_for_a_torn_ones_place_goes_elsewhere_and_is_found() {
    let mut member = Member::new(small_log());
    // Fill the segment of 16 KiB up to its last block, then tear the batch in that.
    member.put(0, vec![0; 3000]);
    member.settle();
    member.put(1, vec![1; 600]);
    let (torn, _) = member.disk.in_flight.clone().unwrap();
    let end = (torn.offset + torn.len as u64) as usize;
    assert_eq!(end, member.disk.segments[&torn.segment].len(), "the last block");
    let mut disk = member.crash(|number| number == 0); // the header arrives, the records don't all

    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.notes.len(), 1);
    let mut log = Log::new(small_log(), IDENTITY, recovered.tail);
    let entry = entry(4, 3, 8000);
    let plan = write(&mut disk, &mut log, std::slice::from_ref(&entry));
    assert_ne!(plan.segment, torn.segment);

    // Two batches of one number now; the torn one is still where it was.
    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.notes, []);
    assert_eq!(recovered.state.entries.last(), Some(&entry));
    assert_eq!(recovered.state.hard_state.term, Term(3));
}

#[test]
fn a_torn_head_gives_way_to_the_longer_batch_of_the_next_run() {
    let mut disk = Disk::default();
    let mut log = Log::new(small_log(), IDENTITY, Tail::default());
    let torn = write(&mut disk, &mut log, &[entry(1, 1, 12_000)]);
    assert_eq!(torn.offset, 0);
    disk.file(torn.segment)[5000] ^= 1; // its records did not arrive

    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert!(recovered.is_new());
    let mut log = Log::new(small_log(), IDENTITY, recovered.tail);
    let longer = entry(1, 2, 18_000); // than the first segment
    let plan = write(&mut disk, &mut log, std::slice::from_ref(&longer));
    assert!(plan.segment != torn.segment && plan.offset == 0);

    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.notes, []);
    assert_eq!(recovered.state.entries, [longer]);
}

#[test]
fn segments_are_recycled_and_their_stale_batches_never_read() {
    let mut member = Member::new(small_log());
    let mut checkpoint = Store::default();
    for id in 0..400 {
        member.put(id, vec![id as u8; 700]);
        member.settle();
        if id % 10 == 9 {
            checkpoint = member.checkpoint();
        }
    }
    assert!(member.disk.segments.len() <= 6, "{} segments", member.disk.segments.len());
    let want = member.store.data.clone();
    let mut disk = member.kill();
    for _ in 0..3 {
        let mut member = Member::start(disk, checkpoint.clone(), small_log()).unwrap();
        assert_eq!(member.notes, []);
        member.settle();
        assert_eq!(member.store.data, want);
        disk = member.kill();
    }
}
