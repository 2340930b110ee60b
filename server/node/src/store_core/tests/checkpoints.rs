//! When the tree is written, and who waits for it.

use super::*;

#[test]
fn a_checkpoint_begins_when_it_is_due_and_the_log_hears_when_it_is_durable() {
    let mut world = World::leading(settings());
    world.at(29.0);
    world.turn();
    assert!(world.checkpoint.is_none());
    world.at(30.0);
    world.turn();
    let covers = world.index;
    let data = world.put("k", 10);
    world.commit(vec![(None, data)]);
    world.turn();
    assert!(world.checkpointed().is_empty());
    world.end_checkpoint(Written::Durable);
    assert_eq!(world.checkpointed(), [covers]);
    world.at(59.0);
    world.turn();
    assert!(world.checkpoint.is_none());
    world.present.cramped = true;
    world.turn();
    world.end_checkpoint(Written::Durable);
    world.at(100.0);
    world.turn();
    assert!(world.checkpoint.is_none(), "nothing has changed");
    world.present.cramped = false;
    for _ in 0..6 {
        let data = world.put("k", 100_000);
        world.commit(vec![(None, data)]);
        world.turn();
    }
    assert!(world.checkpoint.is_some(), "half of what may have to be replayed");
}

/// They change pages, though no entry says so: written, they need not be done again after a restart, and what they free is free.
#[test]
fn slices_of_a_compaction_behind_a_checkpoint_are_written_as_well() {
    let mut world = World::leading(Settings { compaction_rows: 1, ..settings() });
    for _ in 0..10 {
        let data = world.put("k", 10);
        world.commit(vec![(None, data)]);
    }
    let revision = world.core.store().revision();
    let compact = propose::compact(&mut world.ids, revision);
    world.commit(vec![(None, compact.entry)]);
    world.at(30.0);
    world.turn();
    world.end_checkpoint(Written::Durable);
    assert_eq!(world.checkpointed(), [world.index]);
    assert!(world.core.has_slices(), "it has not been long enough");
    while world.core.has_slices() {
        world.turn();
    }
    assert!(world.checkpoint.is_none());
    world.at(60.0);
    world.turn();
    assert!(world.checkpoint.is_some());
    world.end_checkpoint(Written::Durable);
    world.at(90.0);
    world.turn();
    assert!(world.checkpoint.is_none(), "nothing has changed");
}

#[test]
fn a_checkpoint_without_room_raises_the_alarm_and_is_tried_again() {
    let mut world = World::leading(settings());
    world.at(30.0);
    world.turn();
    world.end_checkpoint(Written::NoRoom);
    let [(_, Command::Alarm(alarm))] = &world.proposed()[..] else { panic!("no alarm") };
    assert_eq!((alarm.member_id, alarm.alarm), (OWN, pb::AlarmType::Nospace as i32));
    world.at(34.0);
    world.turn();
    assert!(world.checkpoint.is_none());
    world.at(35.0);
    world.turn();
    world.end_checkpoint(Written::Durable);
    assert_eq!(world.checkpointed(), [world.index]);
    assert!(world.proposed().is_empty());
}

#[test]
fn while_the_heap_is_full_nothing_is_applied() {
    let mut world = World::leading(Settings { heap_limit_bytes: 64 << 10, ..settings() });
    for _ in 0..20 {
        let data = world.put("k", 9000);
        world.commit(vec![(None, data)]);
        world.turn();
        if !world.core.takes_entries() {
            break;
        }
    }
    assert!(world.core.is_full() && !world.core.takes_entries() && !world.core.has_slices());
    world.end_checkpoint(Written::Durable);
    world.turn();
    assert!(world.core.takes_entries());
}

#[test]
fn a_checkpoint_is_written_at_leisure_unless_something_waits_for_it() {
    let waits = |settings: Settings, change: &dyn Fn(&mut World)| {
        let mut world = World::leading(settings);
        world.at(30.0);
        world.turn();
        assert!(
            world.checkpoint.is_some() && !world.core.waits_for_checkpoint(),
            "it has become old, no more"
        );
        change(&mut world);
        world.turn();
        world.core.waits_for_checkpoint()
    };
    let put = |world: &mut World, size| {
        let data = world.put("k", size);
        world.commit(vec![(None, data)]);
    };
    assert!(!waits(settings(), &|world| put(world, 100_000)));
    assert!(waits(settings(), &|world| put(world, 800_000)), "much to replay");
    assert!(
        waits(Settings { heap_limit_bytes: 800_000, ..settings() }, &|world| put(world, 700_000)),
        "the heap"
    );
    assert!(waits(settings(), &|world| world.present.cramped = true), "the room it gives back");
    let query = Query::Defragment;
    assert!(waits(settings(), &|world| world.hear(ToStore::Query(QueryId { core: 0, number: 1 }, query))));
}

#[test]
fn a_defragment_is_answered_when_the_file_is_cut() {
    let mut world = World::leading(settings());
    world.at(30.0);
    world.turn(); // one is under way that began too early
    let ask = |number| ToStore::Query(QueryId { core: 0, number }, Query::Defragment);
    world.hear(ask(1));
    for durable in 0..3 {
        assert!(world.answers().is_empty(), "{durable}");
        world.turn();
        world.end_checkpoint(Written::Durable);
    }
    let cut = world.said.iter().any(|output| matches!(output, Output::Cut(bytes) if *bytes > 0));
    assert!(cut);
    world.turn();
    assert_eq!(world.answers(), [(1, Ok(-1))]);
    assert!(world.checkpoint.is_none());
    world.hear(ask(2));
    world.hear(ask(3));
    world.turn();
    world.end_checkpoint(Written::NoRoom);
    world.turn();
    assert_eq!(world.answers(), [(2, Err(Error::NoSpace)), (3, Err(Error::NoSpace))]);
}

/// Whoever asks again while one is under way doesn't make it begin anew: it comes to its end, and then another one begins.
#[test]
fn a_defragment_that_is_asked_for_again_and_again_comes_to_an_end() {
    let mut world = World::leading(settings());
    let ask = |number| ToStore::Query(QueryId { core: 0, number }, Query::Defragment);
    let mut answered = Vec::new();
    for number in 0..12 {
        world.turn();
        world.hear(ask(number));
        if world.checkpoint.is_some() {
            world.end_checkpoint(Written::Durable);
        }
        world.turn();
        answered.push(world.answers().into_iter().map(|(number, _)| number).collect::<Vec<_>>());
    }
    let answered: Vec<_> = answered.into_iter().filter(|numbers| !numbers.is_empty()).collect();
    assert_eq!(answered[..3], [vec![0], vec![1, 2], vec![3, 4]]);
    for _ in 0..3 {
        world.end_checkpoint(Written::Durable);
        world.turn();
    }
    assert_eq!(world.core.books_open(), 0);
}
