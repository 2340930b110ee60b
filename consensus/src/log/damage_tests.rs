//! Damage: never served, never silently dropped.

use bytes::Bytes;
use proptest::prelude::*;

use crate::log::record::{HEADER_LEN, Header, NoHeader};
use crate::log::{BLOCK, Damage, Identity, Note, Proof, RecoverError, SegmentId, recover};
use crate::testing::{Disk, IDENTITY, Member, SECTOR, Store, small_log};
use crate::{Append, Entry, EntryKind, HardState, Index, LogPosition, NodeId, ReadyNumber, Term};

/// A log over three segments, its last batch proven by a marker, and what it holds.
fn proven_log() -> (Disk, Vec<Entry>) {
    let mut member = Member::new(small_log());
    for id in 0..30 {
        member.put(id, vec![id as u8; 500 + 100 * id as usize]);
        member.settle();
    }
    member.idle();
    let disk = member.kill();
    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.notes, []);
    assert!(disk.segments.len() >= 3);
    (disk, recovered.state.entries)
}

/// All batches, in order.
fn batches(disk: &Disk) -> Vec<Header> {
    let mut headers: Vec<Header> = disk
        .segments
        .values()
        .flat_map(|file| file.chunks(BLOCK).filter_map(|block| Header::decode(block).ok()))
        .collect();
    headers.sort_by_key(|header| header.sequence);
    headers
}

fn damage_of(result: Result<crate::log::Recovered, RecoverError>) -> Damage {
    match result {
        Err(RecoverError::Damage(damage)) => damage,
        Err(other) => panic!("not damage: {other}"),
        Ok(found) => panic!("not damage: read up to {:?}, {:?}", found.tail.last, found.notes),
    }
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_damage() {
    let (disk, entries) = proven_log();
    let batches = batches(&disk);
    let marker = *batches.last().unwrap();
    assert!(marker.marker);
    let mut refused = 0;
    for (&id, file) in &disk.segments {
        for at in (0..file.len()).filter(|at| at % BLOCK < HEADER_LEN || at % 61 == 0) {
            let mut disk = disk.clone();
            disk.file(id)[at] ^= 1 << (at % 8);
            let hit = batches.iter().find(|header| {
                let used = header.offset..header.offset + HEADER_LEN as u64 + u64::from(header.records_len);
                header.segment == id && used.contains(&(at as u64))
            });
            let result = recover(&disk, IDENTITY, LogPosition::default());
            match hit {
                Some(header) if header.sequence < marker.sequence => {
                    let damage = damage_of(result);
                    assert_eq!((damage.segment, damage.offset), (id, header.offset), "byte {at}");
                    refused += 1;
                }
                // Padding, unused blocks, the marker that nothing proves: nothing is missing.
                _ => assert_eq!(result.unwrap().state.entries, entries, "byte {at} of {id:?}"),
            }
        }
    }
    assert!(refused > 3000, "{refused}");
}

#[test]
fn an_unreadable_sector_is_judged_like_a_flipped_bit() {
    let (disk, entries) = proven_log();
    let batches = batches(&disk);
    let proven = batches[10];
    let mut sick = disk.clone();
    sick.unreadable = vec![(proven.segment, proven.offset)];
    let damage = damage_of(recover(&sick, IDENTITY, LogPosition::default()));
    assert_eq!((damage.segment, damage.offset), (proven.segment, proven.offset));
    assert_eq!(damage.last, batches[9].last);
    let proof = Proof::LaterBatch {
        sequence: batches[11].sequence,
        segment: batches[11].segment,
        offset: batches[11].offset,
    };
    assert_eq!(damage.proof, proof);

    let marker = batches.last().unwrap();
    let mut sick = disk.clone();
    sick.unreadable = vec![(marker.segment, marker.offset)];
    let recovered = recover(&sick, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.state.entries, entries);
}

#[test]
fn a_lost_write_is_damage_or_covered() {
    // Segments are recycled, so what a lost write leaves behind are zeros, or valid batches of earlier.
    let mut member = Member::new(small_log());
    let mut checkpoint = Store::default();
    let mut writes = Vec::new();
    for id in 0..120 {
        member.put(id, vec![id as u8; 2000 + 30 * id as usize]);
        let (plan, _) = member.disk.in_flight.clone().unwrap();
        let before = member.disk.segments[&plan.segment][plan.offset as usize..][..plan.len].to_vec();
        member.settle();
        writes.push((plan, before, member.store.applied.index));
        if id == 99 {
            checkpoint = member.checkpoint();
        } else if id < 99 {
            member.checkpoint();
        }
    }
    member.idle();
    let disk = member.kill();
    let whole = recover(&disk, IDENTITY, checkpoint.applied).unwrap();
    let (mut heads, mut stale) = (0, 0);
    for (plan, before, index) in writes.split_off(100) {
        heads += usize::from(plan.offset == 0);
        stale += usize::from(before.iter().any(|&byte| byte != 0));
        let mut disk = disk.clone();
        disk.file(plan.segment)[plan.offset as usize..][..plan.len].copy_from_slice(&before);
        let damage = damage_of(recover(&disk, IDENTITY, checkpoint.applied));
        assert_eq!((damage.segment, damage.offset), (plan.segment, plan.offset), "entry {index}");
        assert_eq!(damage.last.index.0, index.0 - 1);
    }
    assert!(heads >= 3 && stale >= 5, "heads={heads} stale={stale}: not what this is about");
    assert_eq!(whole.state.entries.len(), 20);
}

#[test]
fn the_store_proves_what_no_batch_does() {
    let mut member = Member::new(small_log());
    member.put(1, "applied, checkpointed, not yet marked");
    member.settle();
    let checkpoint = member.checkpoint();
    let last = batches(&member.disk).pop().unwrap();
    let mut disk = member.kill();
    disk.file(last.segment)[last.offset as usize + 5] ^= 1;
    // Without the checkpoint it could be a torn tail: it was proven by nothing.
    let without = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(without.tail.last, LogPosition::new(2, 2));
    let damage = damage_of(recover(&disk, IDENTITY, checkpoint.applied));
    assert_eq!(damage.proof, Proof::Applied(checkpoint.applied));
    assert_eq!((damage.segment, damage.offset), (last.segment, last.offset));
    let text = damage.to_string();
    for part in [&last.segment.file_name(), "offset", "applied entry 3", "snapshot"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

#[test]
fn damage_that_the_store_covers_is_skipped() {
    let (disk, entries) = proven_log();
    let batches = batches(&disk);
    let applied = entries[20].position();
    for victim in &batches[..batches.len() - 1] {
        let mut disk = disk.clone();
        disk.file(victim.segment)[victim.offset as usize..][..SECTOR].fill(0xa5);
        let result = recover(&disk, IDENTITY, applied);
        if victim.last.index > applied.index {
            assert_eq!(damage_of(result).offset, victim.offset, "batch {}", victim.sequence);
            continue;
        }
        let recovered = result.unwrap_or_else(|error| panic!("batch {}: {error}", victim.sequence));
        assert_eq!(recovered.state.entries, entries[21..], "batch {}", victim.sequence);
        assert!(recovered.notes.iter().all(|note| matches!(note, Note::Dropped { .. })));
    }
}

#[test]
fn a_cut_file_is_damage() {
    let (disk, entries) = proven_log();
    for id in disk.segments.keys() {
        let is_used = disk.segments[id].iter().any(|&byte| byte != 0);
        for len in (0..disk.segments[id].len()).step_by(BLOCK / 2) {
            let mut disk = disk.clone();
            disk.file(*id).truncate(len);
            let result = recover(&disk, IDENTITY, LogPosition::default());
            if is_used || len % BLOCK != 0 || len == 0 {
                let damage = damage_of(result);
                assert!(matches!(damage.proof, Proof::FileLength { found, .. } if found == len as u64));
                assert_eq!(damage.segment, *id);
            } else {
                assert_eq!(result.unwrap().state.entries, entries);
            }
        }
    }
}

#[test]
fn a_missing_segment_is_damage() {
    let (disk, _) = proven_log();
    let last = batches(&disk).last().unwrap().segment;
    for id in disk.segments.keys().copied() {
        let mut disk = disk.clone();
        let file = disk.segments.remove(&id).unwrap();
        if file.iter().all(|&byte| byte == 0) || id == last {
            continue; // nothing was in it, or (the last one) nothing tells but the store
        }
        damage_of(recover(&disk, IDENTITY, LogPosition::default()));
    }
}

#[test]
fn another_members_log_is_refused_and_so_is_a_newer_version() {
    let (disk, _) = proven_log();
    for identity in [Identity { cluster: 0xbad, ..IDENTITY }, Identity { member: NodeId(8), ..IDENTITY }] {
        let error = recover(&disk, identity, LogPosition::default()).unwrap_err();
        assert_eq!(error, RecoverError::Foreign { segment: SegmentId(1), found: IDENTITY });
        assert!(error.to_string().contains("00000001.seg belongs to member 7 of cluster c1"), "{error}");
    }
    let mut newer = disk.clone();
    let head = &mut newer.file(SegmentId(2))[..HEADER_LEN];
    head[8] = 2;
    let crc = crc32fast::hash(&head[..HEADER_LEN - 4]);
    head[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
    let error = recover(&newer, IDENTITY, LogPosition::default()).unwrap_err();
    assert_eq!(error, RecoverError::Version { segment: SegmentId(2), offset: 0, version: 2 });
}

#[test]
fn a_term_that_contradicts_the_store_is_damage() {
    let (disk, entries) = proven_log();
    let applied = LogPosition { term: crate::Term(9), ..entries[15].position() };
    let damage = damage_of(recover(&disk, IDENTITY, applied));
    assert_eq!(damage.proof, Proof::OtherTerm(entries[15].position()));
}

#[test]
fn a_clients_value_never_looks_like_a_batch() {
    // A value full of what an outsider could guess: everything but the log id.
    let (disk, _) = proven_log();
    let real = *batches(&disk).last().unwrap();
    let mut member = Member::start(disk, Store::default(), small_log()).unwrap();
    member.settle();
    let mut forged = Vec::new();
    for kind in 0..3 {
        let mut header = Header { log_id: 0, epoch: 99, sequence: real.sequence + 50, ..real };
        if kind == 1 {
            header.identity.member = NodeId(8);
        }
        let mut block = header.encode().to_vec();
        if kind == 2 {
            block[8] = 77;
            let crc = crc32fast::hash(&block[..HEADER_LEN - 4]);
            block[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(Header::decode(&block), Err(NoHeader::Version(77)));
        }
        block.resize(BLOCK, 0);
        forged.push(block);
    }
    // Each block of the batch begins with one of them, wherever the batch goes.
    let room = [&vec![0x11; BLOCK - HEADER_LEN - 16][..], &forged.concat()[..]].concat();
    member.put(1, room);
    // The forged headers name no place, so let them name the one where they will be.
    let (plan, mut bytes) = member.disk.in_flight.clone().unwrap();
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate().skip(1) {
        let mut header = match Header::decode(block) {
            Ok(header) => header,
            Err(_) => continue,
        };
        header.segment = plan.segment;
        header.segment_blocks = (member.disk.segments[&plan.segment].len() / BLOCK) as u32;
        header.offset = plan.offset + (number * BLOCK) as u64;
        block[..HEADER_LEN].copy_from_slice(&header.encode());
    }
    member.disk.in_flight = Some((plan, bytes));
    let disk = member.crash(|number| number > 0); // the real header is lost
    let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
    assert_eq!(recovered.notes, []);
}

#[derive(Clone, Debug)]
enum Fault {
    Bytes(usize, Vec<u8>),
    CopyBlock(usize, usize),
    Cut(usize),
    Unreadable(usize),
    /// Header fields set to anything, with a checksum that holds.
    Header(usize, [u64; 6]),
}

fn fault() -> impl Strategy<Value = Fault> {
    let number = prop_oneof![Just(0), Just(1), Just(u64::MAX), 0u64..40, any::<u64>()];
    prop_oneof![
        (any::<usize>(), proptest::collection::vec(any::<u8>(), 1..600))
            .prop_map(|(at, bytes)| Fault::Bytes(at, bytes)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Fault::CopyBlock(from, to)),
        any::<usize>().prop_map(Fault::Cut),
        any::<usize>().prop_map(Fault::Unreadable),
        (any::<usize>(), proptest::array::uniform6(number))
            .prop_map(|(at, fields)| Fault::Header(at, fields)),
    ]
}

fn inflict(disk: &mut Disk, fault: &Fault) {
    let blocks: Vec<(SegmentId, usize)> = disk
        .segments
        .iter()
        .flat_map(|(&id, file)| (0..file.len() / BLOCK).map(move |block| (id, block * BLOCK)))
        .collect();
    if blocks.is_empty() {
        return;
    }
    let pick = |at: usize| blocks[at % blocks.len()];
    match fault {
        Fault::Bytes(at, bytes) => {
            let (id, offset) = pick(*at);
            disk.file(id)[offset + at % 3000..][..bytes.len()].copy_from_slice(bytes);
        }
        Fault::CopyBlock(from, to) => {
            let ((from, from_at), (to, to_at)) = (pick(*from), pick(*to));
            let block = disk.segments[&from][from_at..][..BLOCK].to_vec();
            disk.file(to)[to_at..][..BLOCK].copy_from_slice(&block);
        }
        Fault::Cut(at) => {
            let (id, offset) = pick(*at);
            disk.file(id).truncate(offset + at % 2);
        }
        Fault::Unreadable(at) => {
            let (id, offset) = pick(*at);
            disk.unreadable.push((id, offset as u64));
        }
        Fault::Header(at, fields) => {
            let (id, offset) = pick(*at);
            let block = &mut disk.file(id)[offset..][..BLOCK];
            let Ok(mut header) = Header::decode(block) else { return };
            let [sequence, first, last, epoch, len, which] = *fields;
            match which % 4 {
                0 => header.sequence = sequence,
                1 => (header.first.index, header.last.index) = (Index(first), Index(last)),
                2 => (header.epoch, header.hard_state.commit) = (epoch, Index(last)),
                _ => {
                    (header.len, header.records_len, header.records) = (len as u32, first as u32, last as u32)
                }
            }
            block[..HEADER_LEN].copy_from_slice(&header.encode());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Any number of faults at once: no panic, and what is found is a log, of entries that were written.
    #[test]
    fn any_damage_is_refused_or_leaves_a_log(
        faults in proptest::collection::vec(fault(), 1..6),
        applied in 0usize..32,
    ) {
        let (mut disk, entries) = CACHE.with(Clone::clone);
        faults.iter().for_each(|fault| inflict(&mut disk, fault));
        let applied = applied.checked_sub(1).map_or(LogPosition::default(), |at| entries[at].position());
        if let Ok(recovered) = recover(&disk, IDENTITY, applied) {
            for (entry, index) in recovered.state.entries.iter().zip(applied.index.0 + 1..) {
                prop_assert_eq!(entry, &entries[index as usize - 1]);
            }
            prop_assert!(recovered.tail.last.index >= applied.index);
        }
    }

    /// One fault, in a log that is proven to its end: all of it, or refusal.
    #[test]
    fn one_damaged_block_of_a_proven_log_is_refused_or_harmless(at in any::<usize>(), bytes in proptest::collection::vec(any::<u8>(), 1..600)) {
        let (mut disk, entries) = CACHE.with(Clone::clone);
        inflict(&mut disk, &Fault::Bytes(at, bytes));
        match recover(&disk, IDENTITY, LogPosition::default()) {
            Ok(recovered) => prop_assert_eq!(recovered.state.entries, entries),
            Err(error) => prop_assert!(matches!(error, RecoverError::Damage(_))),
        }
    }

    /// Segments of anything at all.
    #[test]
    fn arbitrary_segments_never_panic(
        files in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9000), 0..4),
    ) {
        let mut disk = Disk::default();
        for (id, mut file) in (1..).zip(files) {
            let whole = file.len() / BLOCK * BLOCK;
            if id % 2 == 0 {
                file.truncate(whole);
            }
            disk.segments.insert(SegmentId(id), file);
        }
        if let Ok(recovered) = recover(&disk, IDENTITY, LogPosition::default()) {
            prop_assert!(recovered.is_new());
        }
    }
}

thread_local! {
    static CACHE: (Disk, Vec<Entry>) = proven_log();
}

#[test]
fn a_batch_of_another_history_does_not_continue_the_chain() {
    // The same member, twice from the same state, as if its disk had been copied: batches with equal numbers and places.
    let (disk, _) = proven_log();
    let history = |value: &'static str| {
        let mut member = Member::start(disk.clone(), Store::default(), small_log()).unwrap();
        member.settle();
        for id in 0..3 {
            member.put(id, value);
            member.settle();
        }
        member.kill()
    };
    let (mut ours, other) = (history("ours"), history("other"));
    let all = batches(&ours);
    let [.., middle, last] = &all[..] else { panic!("there are many") };
    let at = last.offset as usize;
    let foreign = other.segments[&last.segment][at..][..BLOCK].to_vec();
    assert_eq!(Header::decode(&foreign).unwrap().sequence, last.sequence);
    ours.file(last.segment)[at..][..BLOCK].copy_from_slice(&foreign);
    let damage = damage_of(recover(&ours, IDENTITY, LogPosition::default()));
    assert_eq!((damage.last, damage.offset), (middle.last, last.offset));
}

#[test]
fn a_header_that_lies_about_everything_is_not_believed() {
    let (disk, entries) = proven_log();
    let marker = *batches(&disk).last().unwrap();
    let next = Header {
        sequence: marker.sequence + 1,
        offset: marker.offset + u64::from(marker.len),
        marker: false,
        previous: crate::log::record::header_hash(&marker.encode()),
        ..marker
    };
    let lies = [
        Header { len: u32::MAX, ..next },
        Header { records_len: u32::MAX, len: 0, ..next },
        Header { records: u32::MAX, first: LogPosition::new(33, 2), last: LogPosition::new(33, 2), ..next },
        Header {
            records: 1,
            first: LogPosition::new(u64::MAX, 2),
            last: LogPosition::new(u64::MAX, 2),
            ..next
        },
        Header { epoch: 0, ..next },
        Header { offset: 0, ..next },
        Header { segment: SegmentId(9), ..next },
    ];
    for lie in lies {
        let mut disk = disk.clone();
        let at = next.offset as usize;
        disk.file(next.segment)[at..at + HEADER_LEN].copy_from_slice(&lie.encode());
        let recovered = recover(&disk, IDENTITY, LogPosition::default()).unwrap();
        assert_eq!(recovered.state.entries, entries, "{lie:?}");
        assert_eq!(recovered.tail.sequence, marker.sequence, "{lie:?}");
    }
}

/// A log that a snapshot has reset at 500, with `after` entries behind it.
fn reset_log(after: u64) -> Disk {
    let mut member = Member::new(small_log());
    for id in 0..40 {
        member.put(id, vec![id as u8; 1500]);
        member.settle();
    }
    let hard_state = HardState { term: Term(9), vote: NodeId(0), commit: Index(500) };
    let entry = |index| Entry {
        index: Index(index),
        term: Term(9),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![index as u8; 1500]),
        proposal: None,
    };
    let reset = Some(LogPosition::new(500, 8));
    let entries = (501..=500 + after).map(entry).collect();
    member.log.append(Append { ready: ReadyNumber(1000), hard_state, entries, reset });
    while !member.log.is_idle() {
        member.prepare_segments();
        member.submit();
        member.disk.complete();
        member.log.written(std::time::Duration::ZERO);
    }
    member.disk
}

#[test]
fn a_reset_log_follows_the_snapshot_whether_or_not_the_store_has_it() {
    for after in [0, 1, 40] {
        let disk = reset_log(after);
        // The process ended before the store was replaced: the old store, or an empty one.
        for applied in [LogPosition::new(0, 0), LogPosition::new(20, 2)] {
            let recovered = recover(&disk, IDENTITY, applied).unwrap();
            assert_eq!(recovered.snapshot, Some(LogPosition::new(500, 8)));
            let indexes = recovered.state.entries.iter().map(|entry| entry.index.0);
            assert!(indexes.eq(501..=500 + after));
            assert_eq!(recovered.state.hard_state.commit, Index(500));
            assert!(!recovered.is_new());
        }
        // It has been replaced, and has applied some of what follows.
        for (index, term) in [(500, 8), (501, 9)].into_iter().take(after as usize + 1) {
            let recovered = recover(&disk, IDENTITY, LogPosition::new(index, term)).unwrap();
            assert_eq!(recovered.snapshot, None);
            let indexes = recovered.state.entries.iter().map(|entry| entry.index.0);
            assert!(indexes.eq(index + 1..=500 + after));
        }
        // A store of another history is noticed.
        let wrong = recover(&disk, IDENTITY, LogPosition::new(500, 7));
        assert!(matches!(wrong, Err(RecoverError::Damage(_))), "{wrong:?}");
    }
}

#[test]
fn a_torn_reset_leaves_the_old_log() {
    let mut member = Member::new(small_log());
    member.put(1, "old");
    member.settle();
    let last = member.store.applied;
    let hard_state = HardState { term: Term(9), vote: NodeId(0), commit: Index(500) };
    let reset = Some(LogPosition::new(500, 8));
    member.log.append(Append { ready: ReadyNumber(1000), hard_state, entries: vec![], reset });
    member.prepare_segments();
    member.submit();
    assert!(member.disk.in_flight.is_some());
    let recovered = recover(&member.crash(|_| false), IDENTITY, last).unwrap();
    assert_eq!((recovered.snapshot, recovered.tail.last), (None, last));
}
