//! Which bytes go where, without a disk.

use bytes::Bytes;

use super::*;
use crate::NodeId;
use crate::log::record::HEADER_LEN;
use crate::testing::{IDENTITY, small_log};
use crate::{EntryKind, HardState, Term};

fn new_log(config: LogConfig) -> Log {
    let mut log = Log::new(config, IDENTITY, Tail::default());
    prepare(&mut log);
    log
}

fn prepare(log: &mut Log) -> Vec<NewSegment> {
    let wanted: Vec<NewSegment> = std::iter::from_fn(|| log.segment_wanted()).collect();
    wanted.iter().for_each(|new| log.segment_ready(new.id, new.size));
    wanted
}

/// Entries `first..` of these lengths, as one append numbered `ready`.
fn append(ready: u64, first: u64, term: u64, lens: &[usize]) -> Append {
    let entries = lens.iter().zip(first..).map(|(&len, index)| Entry {
        index: Index(index),
        term: Term(term),
        kind: EntryKind::Normal,
        data: Bytes::from(vec![index as u8; len]),
        proposal: None,
    });
    let last = first + lens.len() as u64 - 1;
    let hard_state = HardState { term: Term(term), vote: NodeId(7), commit: Index(last) };
    Append { ready: ReadyNumber(ready), hard_state, entries: entries.collect(), reset: None }
}

/// Does the next write; gives its place, its header and the Ready it completes.
fn write(log: &mut Log) -> Option<(WritePlan, Header, Option<u64>)> {
    let plan = log.poll_write()?;
    assert_eq!(log.poll_write(), None, "one write at a time");
    let mut buf = vec![0xee; plan.len];
    log.encode(&plan, &mut buf);
    let header = Header::decode(&buf).unwrap();
    let ready = log.written(Duration::from_secs(1)).map(|ready| ready.0);
    Some((plan, header, ready))
}

#[test]
fn one_write_carries_all_that_queued_meanwhile() {
    let mut log = new_log(small_log());
    log.append(append(1, 1, 1, &[10]));
    let plan = log.poll_write().expect("an idle device gets one request at once");
    for ready in 2..=50 {
        log.append(append(ready, ready, 1, &[10]));
        assert_eq!(log.poll_write(), None);
    }
    let mut buf = vec![0; plan.len];
    log.encode(&plan, &mut buf);
    assert_eq!(log.written(Duration::ZERO), Some(ReadyNumber(1)));
    let (_, header, ready) = write(&mut log).unwrap();
    assert_eq!((header.records, ready), (49, Some(50)));
    assert_eq!(header.last, LogPosition::new(50, 1));
    assert!(log.is_idle());
    assert_eq!((log.queued_bytes(), write(&mut log)), (0, None));
}

#[test]
fn batches_end_where_they_must() {
    // Lengths of the entries of each append; then (records, Ready completed) of each batch, at most 8 KiB.
    type Case<'a> = (&'a [&'a [usize]], &'a [(u32, Option<u64>)]);
    let cases: [Case<'_>; 6] = [
        (&[&[100, 100], &[100]], &[(3, Some(2))]),
        // An append without entries is a vote.
        (&[&[], &[100]], &[(1, Some(2))]),
        // Split: a Ready is complete with its last entry.
        (&[&[3000, 3000, 3000]], &[(2, None), (1, Some(1))]),
        (&[&[3000], &[3000, 3000]], &[(2, Some(1)), (1, Some(2))]),
        // One that is larger than a batch goes alone.
        (&[&[10], &[20_000], &[10]], &[(1, Some(1)), (1, Some(2)), (1, Some(3))]),
        (&[&[8000], &[8000]], &[(1, Some(1)), (1, Some(2))]),
    ];
    for (appends, want) in cases {
        let mut log = new_log(small_log());
        let mut first = 1;
        for (lens, ready) in appends.iter().zip(1..) {
            log.append(append(ready, first, 1, lens));
            first += lens.len() as u64;
        }
        let mut got = Vec::new();
        while let Some((_, header, ready)) = write(&mut log) {
            assert!(header.hard_state.commit <= header.last.index, "the hint never points beyond the log");
            got.push((header.records, ready));
            prepare(&mut log);
        }
        assert_eq!(got, want, "{appends:?}");
    }
}

#[test]
fn a_replaced_end_goes_into_a_batch_of_its_own() {
    let mut log = new_log(small_log());
    log.append(append(1, 1, 1, &[10, 10, 10]));
    log.append(append(2, 2, 2, &[10]));
    log.append(append(3, 3, 2, &[10]));
    let spans =
        std::iter::from_fn(|| write(&mut log)).map(|(_, header, ready)| (header.first, header.last, ready));
    let at = LogPosition::new;
    assert_eq!(spans.collect::<Vec<_>>(), [(at(1, 1), at(3, 1), Some(1)), (at(2, 2), at(3, 2), Some(3))]);
}

#[test]
fn the_chain_is_unbroken_over_segments() {
    let mut log = new_log(small_log());
    let mut previous: Option<(WritePlan, Header)> = None;
    for index in 1..=40 {
        log.append(append(index, index, 1, &[3000 + 100 * index as usize]));
        let (plan, header, _) = write(&mut log).unwrap();
        prepare(&mut log);
        assert_eq!((header.segment, header.offset), (plan.segment, plan.offset));
        assert_eq!(header.len as usize, plan.len);
        assert_eq!(header.durable_through, header.sequence - 1);
        assert_eq!(plan.offset % BLOCK as u64, 0);
        let size = u64::from(header.segment_blocks) * BLOCK as u64;
        assert!(plan.offset + plan.len as u64 <= size);
        if let Some((before, before_header)) = previous {
            assert_eq!(header.sequence, before_header.sequence + 1);
            assert_eq!(header.previous, record::header_hash(&before_header.encode()));
            let behind = before.offset + before.len as u64;
            assert!(plan.segment != before.segment && plan.offset == 0 || plan.offset == behind);
        }
        previous = Some((plan, header));
    }
}

#[test]
fn segments_are_wanted_in_advance_and_freed_by_checkpoints() {
    let config = small_log();
    let mut log = Log::new(config, IDENTITY, Tail::default());
    let wanted = prepare(&mut log);
    let sizes: Vec<(u32, u64)> = wanted.iter().map(|new| (new.id.0, new.size)).collect();
    assert_eq!(sizes, [(1, 16 << 10), (2, 32 << 10)], "a small one that serves at once, and its successor");
    for index in 1..=16 {
        log.append(append(index, index, 1, &[3500]));
        write(&mut log).unwrap();
        prepare(&mut log);
    }
    // Entries 1 to 4 in segment 1, 5 to 12 in segment 2, 13 to 16 in segment 3, and 4 is spare.
    assert_eq!(log.segment_next, 5);
    assert_eq!(log.retained_bytes(), (16 + 32 + 16) << 10);
    log.checkpointed(Index(11));
    assert_eq!(log.retained_bytes(), (32 + 16) << 10, "segment 1 is free, segment 2 holds entry 12");
    log.checkpointed(Index(16));
    assert_eq!(log.retained_bytes(), 16 << 10, "the current one is never freed");
    // No new ones are needed for as long as checkpoints come.
    for index in 17..=200 {
        log.append(append(index, index, 1, &[3500]));
        write(&mut log).unwrap();
        log.checkpointed(Index(index - 2));
        assert_eq!(log.segment_wanted(), None);
    }
}

#[test]
fn without_a_free_segment_the_write_waits() {
    let mut log = Log::new(small_log(), IDENTITY, Tail::default());
    let first = log.segment_wanted().unwrap();
    let second = log.segment_wanted().unwrap();
    assert_eq!(log.segment_wanted(), None, "both are being prepared");
    log.append(append(1, 1, 1, &[10]));
    assert_eq!(log.poll_write(), None);
    assert!(log.is_stuck());
    log.segment_ready(first.id, first.size);
    assert!(write(&mut log).is_some() && !log.is_stuck());
    log.segment_failed(); // no space for the second
    log.append(append(2, 2, 1, &[20_000]));
    assert_eq!(log.poll_write(), None);
    assert!(log.is_stuck());
    let third = log.segment_wanted().unwrap();
    assert_eq!(third.id.0, second.id.0 + 1);
    log.append(append(3, 3, 1, &[10]));
    log.segment_ready(third.id, third.size);
    let (plan, header, ready) = write(&mut log).unwrap();
    assert_eq!((plan.segment, header.records, ready), (third.id, 1, Some(2)));
    assert_eq!(write(&mut log).unwrap().2, Some(3));
}

/// Whoever refuses writes because no segment could be made must see that it may take them again: none will be asked for.
#[test]
fn a_segment_that_a_checkpoint_gives_back_is_a_spare() {
    let mut log = new_log(small_log());
    for index in 1..=5 {
        log.append(append(index, index, 1, &[3500])); // 1 to 4 fill the first segment
        write(&mut log).unwrap();
    }
    assert!(log.segment_wanted().is_some() && !log.has_spares(), "it is being prepared");
    log.segment_failed();
    assert!(!log.has_spares());
    log.checkpointed(Index(4));
    assert!(log.has_spares());
    assert_eq!(log.segment_wanted(), None);
}

#[test]
fn a_batch_longer_than_the_recycled_first_segment_gets_one_that_fits() {
    let mut log = new_log(small_log());
    for index in 1..=5 {
        log.append(append(index, index, 1, &[3500])); // 1 to 4 fill the first segment
        write(&mut log).unwrap();
    }
    log.checkpointed(Index(4));
    assert_eq!(prepare(&mut log), [], "the first segment is free again and counts as the spare");
    log.append(append(6, 6, 1, &[30_000]));
    assert_eq!(log.poll_write(), None);
    assert!(log.is_stuck());
    let wanted = prepare(&mut log);
    assert_eq!(wanted.len(), 1);
    let (plan, _, ready) = write(&mut log).unwrap();
    assert_eq!((plan.segment, ready), (wanted[0].id, Some(6)));
}

#[test]
fn a_pause_is_marked_once() {
    let config = small_log();
    let mut log = new_log(config);
    assert_eq!(log.next_timeout(), None, "nothing to prove");
    log.append(append(1, 1, 1, &[10]));
    let (_, header, _) = write(&mut log).unwrap();
    assert!(!header.marker);
    let due = Duration::from_secs(1) + config.marker_delay;
    assert_eq!(log.next_timeout(), Some(due));
    log.handle_timeout(due - Duration::from_millis(1));
    assert_eq!(write(&mut log), None, "too early");
    // Whatever comes in between proves the last batch as well.
    log.append(append(2, 2, 1, &[10]));
    assert_eq!(log.next_timeout(), None);
    log.handle_timeout(due);
    assert!(!write(&mut log).unwrap().1.marker);
    log.handle_timeout(due);
    let (plan, header, ready) = write(&mut log).unwrap();
    assert!(header.marker && header.records == 0);
    assert_eq!((plan.len, ready), (BLOCK, None));
    assert_eq!((header.last, header.hard_state.vote), (LogPosition::new(2, 1), NodeId(7)));
    assert_eq!(log.next_timeout(), None, "a marker needs no marker");
}

#[test]
fn an_append_that_comes_while_the_marker_is_due_takes_its_place() {
    let mut log = new_log(small_log());
    log.append(append(1, 1, 1, &[10]));
    write(&mut log).unwrap();
    log.handle_timeout(Duration::from_secs(9));
    log.append(append(2, 2, 1, &[10]));
    let (_, header, ready) = write(&mut log).unwrap();
    assert!(!header.marker);
    assert_eq!(ready, Some(2));
    assert_eq!(write(&mut log), None);
}

#[test]
#[should_panic(expected = "fits into no segment")]
fn an_entry_that_fits_into_no_segment_is_a_bug_of_the_caller() {
    new_log(small_log()).append(append(1, 1, 1, &[(32 << 10) - HEADER_LEN - 15]));
}

#[test]
fn the_longest_entry_fits_the_products_segments() {
    let config = LogConfig::new(1);
    let len = record::batch_len(ENTRY_BYTES_MAX + record::RECORD_HEADER_LEN);
    assert!(len as u64 <= config.segment_size);
    assert!(config.first_segment_size < config.segment_size);
}

#[test]
fn a_reset_is_alone_at_a_head_and_frees_what_is_before() {
    let config = LogConfig { first_segment_size: 16 << 10, segment_size: 16 << 10, ..LogConfig::new(7) };
    let mut log = Log::new(config, IDENTITY, Tail::default());
    for first in 1..=6 {
        prepare(&mut log);
        log.append(append(first, first, 1, &[3000]));
        write(&mut log).unwrap();
    }
    let used = log.retained_bytes();
    assert!(used > 16 << 10);
    prepare(&mut log);
    // Entries behind the snapshot come with it, and others queue before and after.
    log.append(append(7, 7, 1, &[10]));
    let position = LogPosition::new(100, 3);
    let hard_state = HardState { term: Term(3), vote: NodeId(0), commit: Index(100) };
    let entries = append(8, 101, 3, &[10, 10]).entries;
    log.append(Append { ready: ReadyNumber(8), hard_state, entries, reset: Some(position) });
    log.append(append(9, 103, 3, &[10]));
    let (_, header, ready) = write(&mut log).unwrap();
    assert_eq!((ready, header.last.index, header.reset), (Some(7), Index(7), false));
    assert!(header.hard_state.commit <= Index(7), "a commit of the log to come says nothing about this one");
    prepare(&mut log);
    let (_, header, ready) = write(&mut log).unwrap();
    assert_eq!((ready, header.last, header.reset), (None, position, true), "the Ready is not complete");
    assert_eq!((header.offset, header.records, header.hard_state.commit), (0, 0, Index(100)));
    assert_eq!(log.first_index(), Index(101));
    assert_eq!(log.retained_bytes(), 4096, "all before is free");
    let (_, header, ready) = write(&mut log).unwrap();
    assert_eq!((ready, header.first, header.reset), (Some(9), LogPosition::new(101, 3), false));
}

#[test]
fn a_batch_does_not_carry_the_commit_of_entries_that_replace_its_own() {
    let mut log = Log::new(LogConfig::new(7), IDENTITY, Tail::default());
    prepare(&mut log);
    let hard_state = HardState { term: Term(1), vote: NodeId(0), commit: Index(0) };
    log.append(Append { hard_state, ..append(1, 1, 1, &[10, 10, 10]) });
    let hard_state = HardState { term: Term(2), vote: NodeId(0), commit: Index(2) };
    log.append(Append { hard_state, ..append(2, 2, 2, &[10]) });
    let (_, header, _) = write(&mut log).unwrap();
    // Entry 2 of term 1 is in this batch; that of term 2 is committed.
    assert_eq!((header.last, header.hard_state.commit), (LogPosition::new(3, 1), Index(0)));
    let (_, header, _) = write(&mut log).unwrap();
    assert_eq!((header.last, header.hard_state.commit), (LogPosition::new(2, 2), Index(2)));
}
