//! Clusters on a bad network with bad disks: stories first, then any schedule a seed makes.

use super::world::{Packets, World};
use super::*;
use crate::ConfChangeKind;

/// A world without faults, with a leader.
fn fair(seed: u64, count: u64) -> (World, NodeId) {
    let mut world = World::new(seed, count);
    world.calm();
    world.wait("a leader", |world| world.leader().is_some());
    let leader = world.leader().expect("there is one");
    (world, leader)
}

fn others(world: &World, leader: NodeId) -> Vec<NodeId> {
    world.alive().into_iter().filter(|id| *id != leader).collect()
}

fn put(world: &mut World, at: NodeId, count: usize) {
    for _ in 0..count {
        world.propose(at);
        world.settle();
    }
}

#[test]
fn proposals_at_any_member_are_committed_and_reads_at_any_member_see_them() {
    let (mut world, _) = fair(1, 3);
    for id in world.alive() {
        put(&mut world, id, 5);
        for reader in world.alive() {
            world.read(reader);
            world.settle();
        }
    }
    assert_eq!((world.history.read, world.history.forwarded), (9, 10));
    world.converge();
}

#[test]
fn a_peer_that_lags_is_served_from_the_log_on_disk() {
    let (mut world, leader) = fair(2, 3);
    let lags = others(&world, leader)[0];
    world.isolate(lags);
    put(&mut world, leader, 60);
    assert_eq!(world.history.fetched, 0);
    world.heal();
    world.wait("it catches up", |world| world.store(lags).applied == world.store(leader).applied);
    assert!(world.history.fetched >= 40, "{}", world.history.fetched);
    assert_eq!(world.history.installed, 0);
    world.converge();
}

#[test]
fn a_peer_that_lags_further_gets_a_snapshot_then_the_rest() {
    let (mut world, leader) = fair(3, 3);
    let lags = others(&world, leader)[0];
    world.isolate(lags);
    put(&mut world, leader, 60);
    world.checkpoint(leader);
    world.heal();
    put(&mut world, leader, 5);
    world.wait("it catches up", |world| world.store(lags).applied == world.store(leader).applied);
    assert_eq!(world.history.installed, 1);
    world.converge();
}

/// Nobody tells the leader that the first one has arrived, but its receiver.
#[test]
fn a_peer_that_lags_again_gets_another_snapshot() {
    let (mut world, leader) = fair(3, 3);
    world.receivers_speak = true;
    let lags = others(&world, leader)[0];
    for installed in 1..=3 {
        world.isolate(lags);
        put(&mut world, leader, 60);
        world.checkpoint(leader);
        world.heal();
        put(&mut world, leader, 5);
        world.wait("it catches up", |world| world.store(lags).applied == world.store(leader).applied);
        assert_eq!(world.history.installed, installed);
    }
    world.converge();
}

#[test]
fn a_crash_between_the_reset_of_the_log_and_the_new_store_is_finished_at_the_start() {
    let (mut world, leader) = fair(4, 3);
    let lags = others(&world, leader)[0];
    world.isolate(lags);
    put(&mut world, leader, 60);
    world.checkpoint(leader);
    world.heal();
    // Everything but the replacement of the store.
    for _ in 0..2000 {
        world.turn(leader, vec![Input::Tick]);
        world.deliver();
        for id in others(&world, lags) {
            world.complete(id);
            world.apply(id, 100);
        }
        world.complete(lags);
        let status = world.node(lags).status();
        if world.installing(lags).is_some_and(|ready| status.log_durable >= ready) {
            assert!(status.durable < status.log_durable, "nothing of it is acknowledged");
            world.crash(lags);
            world.start(lags);
            assert_eq!(world.history.finished_at_start, 1);
            world.converge();
            return;
        }
    }
    panic!("no snapshot was taken");
}

#[test]
fn a_member_joins_as_learner_and_is_promoted_and_the_leader_is_removed() {
    let (mut world, leader) = fair(5, 3);
    put(&mut world, leader, 5);
    let new = NodeId(4);
    world.change(leader, ConfChangeKind::AddLearnerNode, new);
    world.wait("the learner has it all", |world| world.store(new).applied == world.store(leader).applied);
    let learner = world.node(leader).peers().into_iter().find(|peer| peer.node == new).unwrap();
    assert!(learner.learner && learner.recent_active && learner.matched == world.store(leader).applied.index);
    world.read(new);
    put(&mut world, new, 1);
    assert_eq!(world.history.read, 1, "a learner forwards too");
    world.change(new, ConfChangeKind::AddNode, new);
    world.wait("it votes", |world| world.store(new).conf.voters.contains(&new));
    world.change(leader, ConfChangeKind::RemoveNode, leader);
    world.wait("another leads", |world| world.leader().is_some_and(|now| now != leader));
    let now = world.leader().unwrap();
    assert_eq!(world.store(now).conf.voters.len(), 3);
    put(&mut world, now, 3);
    world.converge();
}

#[test]
fn leadership_is_handed_over_when_asked() {
    for seed in 0..10 {
        let (mut world, leader) = fair(seed, 3);
        let rest = others(&world, leader);
        let to = Some(rest[seed as usize % 2]).filter(|_| seed < 5);
        put(&mut world, leader, 3);
        world.turn(leader, vec![Input::TransferLeader(to)]);
        world.settle();
        let now = world.leader().expect("no tick was needed");
        assert!(now != leader && to.is_none_or(|to| to == now), "{leader} gave {to:?} to {now}");
        put(&mut world, now, 1);
        world.converge();
    }
}

/// A follower also lets it pass while it has not applied a change of the configuration yet.
#[test]
fn a_leader_says_again_that_it_hands_over() {
    for seed in 0..5 {
        let (mut world, leader) = fair(seed, 3);
        let to = others(&world, leader)[0];
        put(&mut world, leader, 3);
        world.turn(leader, vec![Input::TransferLeader(Some(to))]);
        let lost = world.take_packets(|kind, _| kind == MessageType::MsgTimeoutNow);
        assert_eq!(lost.len(), 1);
        world.settle();
        assert_eq!(world.leader(), Some(leader));
        world.tick_all();
        world.tick_all();
        assert_eq!(world.leader(), Some(to), "long before an election timeout");
    }
}

#[test]
fn a_leader_whose_log_does_not_answer_hands_over_and_a_lone_voter_does_not() {
    for seed in 0..10 {
        let (mut world, leader) = fair(seed, 3);
        if seed % 2 == 1 {
            put(&mut world, leader, 1);
        }
        world.stall(leader);
        world.propose(leader);
        world.settle();
        for _ in 0..20 {
            world.tick_all();
        }
        let now = world.leader().expect("within two election timeouts");
        assert_ne!(now, leader);
        put(&mut world, now, 3);
        // The sick one follows, and its answers are no reason to lose office.
        for _ in 0..100 {
            world.tick_all();
        }
        assert_eq!(world.leader(), Some(now));
        world.converge();
    }
    let (mut world, leader) = fair(1, 1);
    world.stall(leader);
    for _ in 0..100 {
        world.tick_all();
    }
    assert_eq!(world.leader(), Some(leader));
}

#[test]
fn what_is_under_way_to_a_silent_peer_is_bounded_in_bytes() {
    let (mut world, leader) = fair(6, 3);
    put(&mut world, leader, 3);
    world.tick_all();
    // Nobody answers, and a lot is proposed.
    for _ in 0..100 {
        world.propose(leader);
    }
    let budget = 4000 + 1500 + 3000;
    for peer in others(&world, leader) {
        let bytes = world.under_way(leader, peer);
        assert!(bytes > 1000 && bytes <= budget, "{bytes} bytes to {peer}");
    }
    world.converge();
}

#[test]
fn a_member_with_a_damaged_log_heals_from_a_snapshot_and_until_then_elects_nobody_who_lacks_what_it_held() {
    let mut healed = 0;
    for seed in 0..20 {
        let (mut world, leader) = fair(seed, 3);
        let rest = others(&world, leader);
        put(&mut world, leader, 10);
        // The leader and one other have a write, the third has not; then the other's log is damaged and the leader is gone.
        world.isolate(rest[1]);
        put(&mut world, leader, 10);
        if !world.damage(rest[0]) {
            continue;
        }
        healed += 1;
        world.isolate(leader);
        world.part(rest[0], leader);
        world.join(rest[0], rest[1]);
        for _ in 0..60 {
            world.tick_all();
        }
        assert!(
            world.leader().is_none_or(|id| id == leader),
            "a majority that can't prove what was committed"
        );
        world.converge();
        assert_eq!(world.history.repaired, 1);
    }
    assert!(healed > 10);
}

#[test]
fn a_damaged_member_heals_while_nothing_is_written() {
    let mut healed = 0;
    for seed in 0..20 {
        let (mut world, leader) = fair(seed, 3);
        let damaged = others(&world, leader)[0];
        put(&mut world, leader, 10);
        world.tick_all();
        if !world.damage(damaged) {
            continue;
        }
        healed += 1;
        let last = world.history.committed();
        world.wait("the repair", |world| world.history.repaired == 1);
        assert_eq!((world.leader(), world.history.committed()), (Some(leader), last));
        world.converge();
        assert_eq!(world.history.installed, 0, "one snapshot is enough");
    }
    assert!(healed > 10);
}

#[test]
fn a_member_that_has_lost_its_newest_votes_helps_no_leader_that_is_one_no_more() {
    for seed in 0..10 {
        let (mut world, old) = fair(seed, 3);
        let rest = others(&world, old);
        put(&mut world, old, 10);
        world.tick_all();
        rest.iter().for_each(|id| world.checkpoint(*id));
        // The other two elect a leader and commit; the old one, for which time stands still, has not heard of that.
        world.isolate(old);
        world.wait_at(&rest, "a new leader", |world| world.leader().is_some_and(|id| id != old));
        let new = world.leader().expect("there is one");
        let damaged = rest.into_iter().find(|id| *id != new).expect("there are two");
        put(&mut world, new, 5);
        let committed = world.history.committed();
        // Of this the damaged one forgets all, and meets the old leader.
        world.isolate(new);
        world.join(old, damaged);
        let repaired = world.lose_tail(damaged);
        for _ in 0..8 {
            world.turn(old, vec![Input::Tick]);
            world.settle();
            put(&mut world, old, 2);
        }
        assert_eq!(world.history.committed(), committed);
        assert!(!repaired);
        // The whole members are a majority and go on.
        world.heal();
        world.wait("one leader", |world| world.node(old).status().role.role != Role::Leader);
        world.wait("a leader", |world| world.leader().is_some());
        let leader = world.leader().expect("there is one");
        put(&mut world, leader, 5);
        world.wait("commits", |world| world.history.committed() > committed);
    }
}

fn run(seed: u64, steps: u64) -> World {
    let count = [3, 3, 5, 1][seed as usize % 4];
    let mut world = World::new(seed, count);
    for _ in 0..steps {
        world.step();
    }
    world.converge();
    world
}

#[test]
fn any_schedule_keeps_what_was_promised_and_ends_in_agreement() {
    let mut seen = [0; 8];
    for seed in 0..250 {
        let history = run(seed, 8000).history;
        let counts = [
            history.read,
            history.installed,
            history.fetched,
            history.finished_at_start,
            history.lost_in_place,
            history.forwarded,
            history.changes,
            history.repaired,
        ];
        seen.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    // The schedules reach what they are for.
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

#[test]
fn the_same_seed_is_the_same_world() {
    for seed in 0..5 {
        let [one, two] = [run(seed, 2000), run(seed, 2000)];
        assert_eq!(one.describe(), two.describe());
    }
}

/// faults-and-attacks: the crate confirms a read by any heartbeat answer with its token, even one of an earlier use.
mod stale_reads {
    use super::*;
    use raft::storage::MemStorage;

    fn raft_message(kind: MessageType, from: u64, term: u64) -> RaftMessage {
        let mut message = RaftMessage { from, to: 1, term, ..Default::default() };
        message.set_msg_type(kind);
        message
    }

    fn contexts(messages: &[RaftMessage]) -> Vec<Vec<u8>> {
        let beats = messages.iter().filter(|message| message.get_msg_type() == MessageType::MsgHeartbeat);
        beats.map(|message| message.context.clone()).collect()
    }

    /// Member 1 leads, a follower reads, and member 3's answer is held back. Then 1 is cut off, another leader commits a
    /// write, a read begins at 1, and the old request and the old answer arrive.
    #[test]
    fn the_crate_used_plainly_confirms_a_stale_read() {
        let store = MemStorage::new_with_conf_state((vec![1, 2, 3], vec![]));
        let config = raft::Config { id: 1, check_quorum: true, pre_vote: true, ..Default::default() };
        let mut node = RawNode::new(&config, store, &silent_logger()).unwrap();
        let raft = &mut node.raft;
        raft.become_candidate();
        raft.become_leader();
        let term = raft.term;
        let last = raft.raft_log.last_index();
        raft.raft_log.persisted = last;
        for from in [2, 3] {
            let answer = raft_message(MessageType::MsgAppendResponse, from, term);
            raft.step(RaftMessage { index: last, ..answer }).unwrap();
        }
        assert!(raft.commit_to_current_term());
        let token = b"A".to_vec();
        let ask = |token: &[u8]| {
            let mut request = raft_message(MessageType::MsgReadIndex, 2, 0);
            request.entries = vec![Stub { data: token.to_vec(), ..Default::default() }];
            request
        };
        raft.msgs.clear();
        raft.step(ask(&token)).unwrap();
        assert_eq!(contexts(&raft.msgs), [token.clone(), token.clone()]);
        let answer = |from| RaftMessage {
            context: token.clone(),
            ..raft_message(MessageType::MsgHeartbeatResponse, from, term)
        };
        raft.step(answer(2)).unwrap();
        assert!(raft.msgs.iter().any(|message| message.get_msg_type() == MessageType::MsgReadIndexResp));
        // Cut off. Elsewhere a write is committed. Then:
        let mut own = raft_message(MessageType::MsgReadIndex, 0, 0);
        own.entries = vec![Stub { data: b"B".to_vec(), ..Default::default() }];
        raft.step(own).unwrap();
        raft.step(ask(&token)).unwrap();
        raft.step(answer(3)).unwrap();
        let confirmed: Vec<_> = raft.read_states.iter().map(|state| state.request_ctx.clone()).collect();
        assert_eq!(confirmed, [b"B".to_vec()], "this is why tokens are replaced");
    }

    #[test]
    fn a_node_does_not() {
        let (mut world, leader) = fair(7, 3);
        let [helper, late] = others(&world, leader)[..] else { panic!("three members") };
        put(&mut world, leader, 2);
        // The follower's read; the answer of the third member is held back, and a copy of the request.
        world.read(helper);
        let request = world.take_packets(|packet, _| packet == MessageType::MsgReadIndex);
        world.put_packets(&request);
        let mut held = Packets::default();
        while world.history.read == 0 {
            held.extend(
                world
                    .take_packets(|packet, from| packet == MessageType::MsgHeartbeatResponse && from == late),
            );
            assert!(world.deliver(), "confirmed by the other member");
        }
        assert_eq!(held.len(), 1);
        world.isolate(leader);
        world.wait_at(&[helper, late], "a new leader", |world| {
            world.leader().is_some_and(|now| now != leader)
        });
        let now = world.leader().unwrap();
        put(&mut world, now, 1);
        assert_eq!(world.node(leader).status().role.role, Role::Leader, "it still believes so");
        // The read that must not be confirmed: `World` would see that it misses the write.
        world.read(leader);
        world.heal();
        let waiting = world.take_packets(|_, _| true);
        world.put_packets(&request);
        world.put_packets(&held);
        while world.deliver() {
            assert_eq!(world.history.read, 1);
        }
        assert_eq!(world.node(leader).status().reads, 1, "it waits");
        world.put_packets(&waiting);
        world.converge();
    }
}
