//! Who waits for a compaction, and for what.

use super::*;

/// Commits a physical compaction at the newest revision as the call of this number, after as many writes of one key.
fn compact(world: &mut World, writes: usize, number: u64) {
    for _ in 0..writes {
        let data = world.put("k", 10);
        world.commit(vec![(None, data)]);
    }
    let revision = world.core.store().revision();
    let request = pb::CompactionRequest { revision, physical: true };
    let data = propose::encode(world.ids.next_id(), field::COMPACTION, &request.encode_to_vec(), &[]);
    world.commit(vec![(Some(client_id(0, number)), data)]);
}

/// What client core 0 was told of its proposals since the last look: those that are waited for, and those with an outcome.
fn told(world: &mut World) -> (Vec<u64>, Vec<u64>) {
    let (mut waits, mut done) = (Vec::new(), Vec::new());
    for output in world.said.drain(..) {
        match output {
            Output::Client(0, ToClient::Compacting(id)) => waits.push(number_of(id)),
            Output::Client(0, ToClient::Outcomes(all)) => {
                assert!(all.iter().all(|(_, result)| result.is_ok()));
                done.extend(all.iter().map(|(id, _)| number_of(*id)));
            }
            _ => {}
        }
    }
    (waits, done)
}

#[test]
fn a_physical_compaction_is_waited_for_from_when_it_is_applied_until_the_rows_are_gone() {
    let mut world = World::leading(Settings { compaction_rows: 1, ..settings() });
    compact(&mut world, 10, 7);
    world.turn();
    assert_eq!(told(&mut world), (vec![7], vec![]));
    while world.core.store().finished_compact_revision() < 11 {
        assert_eq!(told(&mut world), (vec![], vec![]));
        world.turn();
    }
    assert_eq!(told(&mut world), (vec![], vec![7]));
    assert_eq!(world.core.books_open(), 0);
}

#[test]
fn what_a_peer_has_compacted_is_not_waited_for_any_more_once_its_store_is_installed() {
    let mut world = World::leading(Settings { compaction_rows: 1, ..settings() });
    compact(&mut world, 10, 7);
    world.turn();
    let mut peer = World::leading(settings());
    compact(&mut peer, 20, 1);
    while peer.core.has_slices() {
        peer.turn();
    }
    peer.at(30.0);
    peer.turn();
    peer.end_checkpoint(Written::Durable);
    assert_eq!(told(&mut world), (vec![7], vec![]));
    let store = Store::open(config(), peer.file.clone()).expect("a checkpoint");
    world.step(Input::Install(ReadyNumber(9), Box::new(store)));
    world.turn();
    while world.core.has_slices() {
        world.turn();
    }
    assert_eq!(told(&mut world), (vec![], vec![7]));
    assert_eq!(world.core.books_open(), 0);
}
