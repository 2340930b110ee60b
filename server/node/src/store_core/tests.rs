//! What goes in and what must come out, told as stories of one core.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use consensus::{ConfChange, ConfChangeKind, Entry, EntryKind, ReadId};
use engine::tree::{Map, PAGE_SIZE, PageId};
use engine::{Alarm, AlarmKind};
use memmap2::{Mmap, MmapOptions};
use net::pb::etcdserverpb as pb;
use prost::Message;

use super::trace::{Recorded, Replay};
use super::*;
use crate::cores::{client_id, number_of, store_id};
use crate::forward::{Request, Response};
use crate::propose::{self, Command, field};

mod checkpoints;
mod compactions;
mod trace;

/// This member.
const OWN: u64 = 12;

/// Another one.
const OTHER: NodeId = NodeId(13);

/// Address space of a test's map, in bytes.
const MAP_BYTES: usize = 16 << 20;

/// A tree file in memory.
struct TreeFile {
    file: File,
    map: Mmap,
}

impl TreeFile {
    fn new() -> Arc<TreeFile> {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(MAP_BYTES as u64).expect("sparse");
        // SAFETY: the file is this test's alone, keeps its length, and changes only where no version that is read reaches.
        let map = unsafe { MmapOptions::new().len(MAP_BYTES).map(&file) }.expect("a map");
        Arc::new(TreeFile { file, map })
    }

    fn write(&self, checkpoint: &mut Checkpoint) {
        let mut bytes = Vec::new();
        while let Some(first) = checkpoint.fill(&mut bytes, 1 << 20) {
            self.put(first, &bytes);
            bytes.clear();
        }
        let (slot, meta) = checkpoint.meta();
        self.put(slot, &meta[..]);
    }

    fn put(&self, first: PageId, bytes: &[u8]) {
        self.file.write_all_at(bytes, u64::from(first.0) * PAGE_SIZE as u64).expect("within the file");
    }
}

impl Map for TreeFile {
    fn pages(&self, first: PageId, count: u32) -> Option<&[u8]> {
        let from = first.0 as usize * PAGE_SIZE;
        self.map.get(from..from + count as usize * PAGE_SIZE)
    }
}

fn new_store(file: &Arc<TreeFile>) -> Store {
    Store::create(config(), file.clone())
}

fn config() -> engine::Config {
    engine::Config { tree: Default::default(), lease_ttl_s_min: 2 }
}

fn settings() -> Settings {
    Settings {
        member: OWN,
        name: "m".to_owned(),
        client_urls: vec!["http://c".to_owned()],
        server_version: "3.7.1".to_owned(),
        client_cores: 2,
        election_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(7),
        quota: None,
        heap_limit_bytes: 1 << 30,
        log_bytes_max: 1 << 20,
        checkpoint_interval: Duration::from_secs(30),
        entries_per_publish: 100,
        compaction_rows: 100,
        lease_checkpoint: None,
        auto_compaction: None,
        nonce: 1000,
    }
}

/// The leases that were renewed, as whoever counts them hears it.
#[derive(Default)]
struct Renewed(Vec<i64>);

impl Observer for Renewed {
    fn lease_renewed(&mut self, lease: i64) {
        self.0.push(lease);
    }
}

/// A core and its surroundings. Each story is recorded, and replayed when it is over.
struct World {
    core: Recorded<Renewed>,
    file: Arc<TreeFile>,
    present: Present,
    index: u64,
    /// What was begun and is not over.
    checkpoint: Option<Box<Checkpoint>>,
    /// What it has said and nobody has looked at, without what is never looked at.
    said: Vec<Output>,
    ids: IdGenerator,
}

impl Drop for World {
    fn drop(&mut self) {
        let trace = self.core.take();
        if !std::thread::panicking() && !trace.is_empty() {
            let replayed = Replay::all(&trace).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(replayed.applied.0, self.core.store().applied().index);
        }
    }
}

impl World {
    fn new(settings: Settings) -> World {
        let file = TreeFile::new();
        let ids = IdGenerator::new(OWN, 0, 1, 2);
        let core =
            Recorded::new(new_store(&file), ids, settings, Present::default(), Renewed::default(), true);
        let (index, said) = (0, Vec::new());
        let ids = IdGenerator::new(OWN, 0, 0, 2);
        let mut world = World { core, file, present: Present::default(), index, checkpoint: None, said, ids };
        world.step(Input::Start);
        world
    }

    /// One that leads term 1 since its first entry, with the announcement applied.
    fn leading(settings: Settings) -> World {
        let mut world = World::new(settings);
        world.hear(ToStore::Leadership { leads: true, term: Term(1), leader: Some(NodeId(OWN)) });
        world.commit(vec![(None, Bytes::new())]);
        world.turn();
        assert!(world.core.times_leases());
        world.apply_proposals();
        world.said.clear();
        world
    }

    fn step(&mut self, input: Input) {
        self.core.step(self.present, input).expect("it goes on");
        self.said.extend(self.core.outputs());
    }

    fn hear(&mut self, message: ToStore) {
        self.step(Input::Message(message));
    }

    fn at(&mut self, seconds: f64) {
        self.present.now = Duration::from_secs_f64(seconds);
    }

    fn entry(&mut self, proposal: Option<ProposalId>, data: Bytes) -> Entry {
        self.index += 1;
        Entry { index: Index(self.index), term: Term(1), kind: EntryKind::Normal, data, proposal }
    }

    fn commit(&mut self, proposals: Vec<(Option<ProposalId>, Bytes)>) {
        let batch = proposals
            .into_iter()
            .map(|(id, data)| Committed { entry: self.entry(id, data), command: None })
            .collect();
        self.hear(ToStore::Commit(batch));
    }

    /// The end of a turn; what it begins is not over yet.
    fn turn(&mut self) {
        self.step(Input::EndTurn);
        self.step(Input::BeginCheckpoint);
        while let Some(at) = self.said.iter().position(|output| matches!(output, Output::BeginCheckpoint(..)))
        {
            let Output::BeginCheckpoint(checkpoint, _) = self.said.remove(at) else { unreachable!() };
            assert!(self.checkpoint.replace(checkpoint).is_none(), "one at a time");
        }
    }

    fn end_checkpoint(&mut self, written: Written) {
        let mut checkpoint = self.checkpoint.take().expect("one is under way");
        if written == Written::Durable {
            self.file.write(&mut checkpoint);
        }
        self.step(Input::CheckpointDone(checkpoint, written));
    }

    /// What it has proposed since the last look.
    fn proposed(&mut self) -> Vec<(ProposalId, Command)> {
        let mut found = Vec::new();
        self.said.retain(|output| match output {
            Output::Raft(ToRaft::Propose(id, write)) => {
                found.push((*id, propose::decode(&write.entry).expect("what it proposes")));
                false
            }
            _ => true,
        });
        found
    }

    /// Commits all that it has proposed, until it proposes nothing more.
    fn apply_proposals(&mut self) {
        loop {
            let mut writes = Vec::new();
            self.said.retain(|output| match output {
                Output::Raft(ToRaft::Propose(id, write)) => {
                    writes.push((Some(*id), write.entry.clone()));
                    false
                }
                _ => true,
            });
            if writes.is_empty() {
                return;
            }
            self.commit(writes);
            self.turn();
        }
    }

    fn put(&mut self, key: &str, size: usize) -> Bytes {
        let request =
            pb::PutRequest { key: key.to_owned().into(), value: vec![7; size].into(), ..Default::default() };
        propose::encode(self.ids.next_id(), field::PUT, &request.encode_to_vec(), &[])
    }

    fn grant(&mut self, id: i64, ttl: i64) {
        let request = pb::LeaseGrantRequest { id, ttl };
        let data = propose::encode(self.ids.next_id(), field::LEASE_GRANT, &request.encode_to_vec(), &[]);
        self.commit(vec![(None, data)]);
        self.turn();
    }

    fn keep_alive(&mut self, number: u64, lease: i64) {
        self.hear(ToStore::Query(QueryId { core: 1, number }, Query::KeepAlive { lease }));
        self.turn();
    }

    /// Numbers and results of the answers given since the last look.
    fn answers(&mut self) -> Vec<(u64, Result<i64, Error>)> {
        let mut found = Vec::new();
        self.said.retain_mut(|output| {
            let Output::Client(core, ToClient::Answers(answers)) = output else { return true };
            for (id, answer) in answers.drain(..) {
                assert_eq!(id.core, *core);
                found.push((
                    id.number,
                    answer.map(|answer| match answer {
                        QueryAnswer::KeepAlive(ttl) => ttl,
                        QueryAnswer::TimeToLive(_) | QueryAnswer::Answer(_) => -1,
                    }),
                ));
            }
            false
        });
        found
    }

    /// Reads of the index asked for since the last look.
    fn reads(&mut self) -> Vec<ReadId> {
        let mut found = Vec::new();
        self.said.retain(|output| match output {
            Output::Raft(ToRaft::Read(id)) => {
                found.push(*id);
                false
            }
            _ => true,
        });
        found
    }

    /// What other members were asked since the last look.
    fn asked(&mut self) -> Vec<(NodeId, ProposalId, Request)> {
        let mut found = Vec::new();
        self.said.retain(|output| match output {
            Output::Raft(ToRaft::PeerRequest(to, id, body)) => {
                found.push((*to, *id, Request::decode(body).expect("a request")));
                false
            }
            _ => true,
        });
        found
    }

    fn checkpointed(&mut self) -> Vec<u64> {
        let covered = |output: &Output| match output {
            Output::Raft(ToRaft::Checkpointed(index)) => Some(index.0),
            _ => None,
        };
        let found = self.said.iter().filter_map(covered).collect();
        self.said.retain(|output| covered(output).is_none());
        found
    }
}

#[test]
fn a_turn_publishes_once_and_then_answers() {
    let mut world = World::leading(settings());
    let ids = [client_id(0, 1), client_id(1, 1), client_id(0, 2)];
    let writes = ids.iter().map(|id| (Some(*id), world.put("k", 3))).collect();
    world.commit(writes);
    assert!(world.said.is_empty(), "nobody hears of what is not published");
    world.turn();
    let said: Vec<_> = world
        .said
        .iter()
        .map(|output| match output {
            Output::Client(core, ToClient::Published(view)) => (*core, vec![view.applied().index]),
            Output::Client(core, ToClient::Outcomes(all)) => {
                assert!(all.iter().all(|(_, result)| result.is_ok()));
                (*core, all.iter().map(|(id, _)| number_of(*id)).collect())
            }
            _ => panic!("something else is said"),
        })
        .collect();
    let index = world.index;
    assert_eq!(said, [(0, vec![index]), (0, vec![1, 2]), (1, vec![index]), (1, vec![1])]);
    world.said.clear();
    world.turn();
    assert!(world.said.is_empty(), "nothing has changed");
}

#[test]
fn so_many_entries_and_then_a_version() {
    let mut world = World::new(Settings { entries_per_publish: 2, ..settings() });
    for (entries, takes) in [(1, true), (1, false)] {
        world.commit(vec![(None, Bytes::new()); entries]);
        assert_eq!(world.core.takes_entries(), takes);
    }
    world.turn();
    assert!(world.core.takes_entries());
}

#[test]
fn a_start_is_announced_until_it_is_heard() {
    let mut world = World::new(settings());
    world.step(Input::Tick);
    assert!(world.proposed().is_empty(), "there is nobody to propose to");
    world.hear(ToStore::Leadership { leads: false, term: Term(1), leader: Some(OTHER) });
    world.step(Input::Tick);
    let [(lost, Command::ClusterMemberAttrSet(said))] = &world.proposed()[..] else {
        panic!("no announcement")
    };
    assert_eq!(said.member_attributes.as_ref().unwrap().name, "m");
    world.hear(ToStore::Dropped(*lost));
    world.step(Input::Tick);
    let silent = world.proposed();
    assert_eq!(silent.len(), 1, "once more after a refusal");
    world.at(7.0);
    world.step(Input::Tick);
    assert!(world.proposed().is_empty());
    world.at(7.6);
    world.step(Input::Tick);
    assert!(!world.said.iter().any(|output| matches!(output, Output::Ready)));
    world.apply_proposals();
    assert!(world.said.iter().any(|output| matches!(output, Output::Ready)), "once more after a silence");
    world.at(70.0);
    world.step(Input::Tick);
    assert!(world.proposed().is_empty());
}

#[test]
fn the_leader_decides_the_clusters_version_and_an_older_server_ends() {
    let mut world = World::leading(settings());
    let known = |versions: &[&str]| versions.iter().map(|version| Some((*version).to_owned())).collect();
    world.hear(ToStore::Versions(known(&["3.7.1", "3.6.0"])));
    let decided = |world: &mut World| match &world.proposed()[..] {
        [(_, Command::ClusterVersionSet { version })] => Some(version.clone()),
        _ => None,
    };
    let version = decided(&mut world).expect("the oldest's");
    assert_eq!(version, "3.6.0");
    let write = propose::cluster_version_set(&mut world.ids, "3.6.0");
    world.commit(vec![(None, write.entry)]);
    let told = |output: &Output| matches!(output, Output::ClusterVersion(version) if version == "3.6.0");
    assert!(world.said.iter().any(told));
    world.hear(ToStore::Versions(known(&["3.7.1", "3.6.0"])));
    assert_eq!(decided(&mut world), None, "it is decided");
    let write = propose::cluster_version_set(&mut world.ids, "3.8.0");
    let batch = vec![Committed { entry: world.entry(None, write.entry), command: None }];
    let end = world.core.step(world.present, Input::Message(ToStore::Commit(batch)));
    assert!(matches!(end, Err(Fatal::Downgrade { own, cluster }) if own == "3.7.1" && cluster == "3.8.0"));
}

#[test]
fn a_member_that_was_removed_says_so_and_goes_on() {
    let mut world = World::leading(settings());
    let members = [(OWN, "http://own"), (OTHER.0, "http://other")];
    for (node, url) in members {
        let member = Member { id: node, peer_urls: vec![url.to_owned()], ..Member::default() };
        change_members(&mut world, ConfChangeKind::AddNode, node, member.encode().into());
    }
    world.said.clear();
    change_members(&mut world, ConfChangeKind::RemoveNode, OWN, Bytes::new());
    let index = world.index;
    let told =
        |output: &Output| matches!(output, Output::Raft(ToRaft::ConfChange(at, Some(_))) if at.0 == index);
    assert!(world.said.iter().any(told));
    let members = world.said.iter().find_map(|output| match output {
        Output::Raft(ToRaft::Members(members, removed)) => {
            Some((members.iter().map(|member| member.id).collect::<Vec<_>>(), removed.clone()))
        }
        _ => None,
    });
    assert_eq!(members, Some((vec![OTHER.0], vec![NodeId(OWN)])));
    assert!(world.said.iter().any(|output| matches!(output, Output::Removed)));
    world.at(60.0);
    world.step(Input::Tick);
    world.said.clear();
    world.step(Input::Start);
    assert!(world.said.iter().any(|output| matches!(output, Output::Removed)), "at its next start, too");
}

fn change_members(world: &mut World, kind: ConfChangeKind, node: u64, context: Bytes) {
    let change = ConfChange { id: world.ids.next_id(), kind, node: NodeId(node), context };
    let mut entry = world.entry(None, change.encode());
    entry.kind = EntryKind::ConfChange;
    world.hear(ToStore::Commit(vec![Committed { entry, command: None }]));
    world.turn();
}

#[test]
fn a_leader_among_others_answers_for_leases_when_it_knows_that_it_led_and_has_applied_so_far() {
    let mut world = World::leading(settings());
    world.grant(5, 10);
    world.said.clear();
    world.keep_alive(1, 5);
    world.keep_alive(2, 5); // after the question was put: it needs the next one
    let [first] = world.reads()[..] else { panic!("one question") };
    assert!(world.answers().is_empty());
    world.hear(ToStore::ReadIndex(first, Some(Index(world.index + 1))));
    world.turn();
    assert!(world.answers().is_empty(), "not applied yet");
    world.commit(vec![(None, Bytes::new())]);
    world.turn();
    assert_eq!(world.answers(), [(1, Ok(10))]);
    let [second] = world.reads()[..] else { panic!("the next question") };
    world.hear(ToStore::ReadIndex(second, Some(Index(world.index))));
    world.turn();
    assert_eq!(world.answers(), [(2, Ok(10))]);
    world.present.alone = true;
    world.keep_alive(3, 5);
    assert_eq!((world.answers(), world.reads().len()), (vec![(3, Ok(10))], 0), "the only voter knows");
}

#[test]
fn a_keep_alive_that_waits_until_a_checkpoint_is_taken_back_counts_as_a_renewal() {
    let mut world = World::leading(Settings { lease_checkpoint: Some(Duration::from_secs(5)), ..settings() });
    world.present.alone = true;
    world.grant(5, 20);
    world.at(6.0);
    world.step(Input::Tick);
    world.apply_proposals();
    world.keep_alive(1, 5);
    assert!(world.answers().is_empty() && world.core.observer.0.is_empty());
    world.apply_proposals();
    assert_eq!((world.answers(), &world.core.observer.0[..]), (vec![(1, Ok(20))], &[5][..]));
    world.keep_alive(2, 5);
    assert_eq!((world.answers(), &world.core.observer.0[..]), (vec![(2, Ok(20))], &[5, 5][..]));
}

#[test]
fn a_question_goes_to_whoever_leads_and_again_when_it_is_lost() {
    let mut world = World::new(settings());
    world.keep_alive(1, 5);
    assert!(world.asked().is_empty(), "nobody leads");
    world.hear(ToStore::Leadership { leads: false, term: Term(1), leader: Some(OTHER) });
    world.step(Input::Tick);
    let [(to, id, Request::KeepAlive { lease: 5 })] = world.asked()[..] else { panic!("no question") };
    assert_eq!((to, id), (OTHER, store_id(number_of(id))));
    assert!(number_of(id) > 1000, "behind the nonce");
    world.at(0.9);
    world.step(Input::Tick);
    assert!(world.asked().is_empty());
    world.at(1.0);
    world.step(Input::Tick);
    assert_eq!(world.asked().len(), 1, "once more");
    // An answer to a question of the process before, which counted from another nonce.
    let answer = |ttl| Response::KeptAlive(ttl).encode();
    world.hear(ToStore::PeerResponse(store_id(1), answer(99)));
    world.turn();
    assert!(world.answers().is_empty());
    world.hear(ToStore::PeerResponse(id, Response::Refused(Error::NotPrimary).encode()));
    world.step(Input::Tick);
    assert_eq!(world.asked().len(), 1, "it doesn't lead, or doesn't know it yet");
    world.hear(ToStore::PeerResponse(id, answer(10)));
    world.turn();
    assert_eq!(world.answers(), [(1, Ok(10))]);
    world.hear(ToStore::PeerResponse(id, answer(10)));
    world.turn();
    assert!(world.answers().is_empty(), "one answer each");
    // Nobody waits longer than a request may take.
    world.keep_alive(2, 5);
    world.said.clear();
    world.at(8.0);
    world.step(Input::Tick);
    assert!(world.asked().is_empty());
}

#[test]
fn a_question_of_another_member_is_answered_by_who_leads() {
    let ask = ToStore::PeerRequest(OTHER, 77, Request::KeepAlive { lease: 5 }.encode());
    let answer = |world: &mut World| {
        let found = world.said.iter().find_map(|output| match output {
            Output::Raft(ToRaft::PeerResponse(OTHER, 77, body)) => Some(Response::decode(body).unwrap()),
            _ => None,
        });
        world.said.clear();
        found
    };
    let mut world = World::new(settings());
    world.hear(ask);
    assert_eq!(answer(&mut world), Some(Response::Refused(Error::NotPrimary)));
    let mut world = World::leading(settings());
    world.grant(5, 10);
    for (led, want) in [(true, Response::KeptAlive(10)), (false, Response::Refused(Error::NotPrimary))] {
        world.hear(ToStore::PeerRequest(OTHER, 77, Request::KeepAlive { lease: 5 }.encode()));
        let [read] = world.reads()[..] else { panic!("no question") };
        world.hear(ToStore::ReadIndex(read, led.then_some(Index(world.index))));
        assert_eq!(answer(&mut world), Some(want));
    }
}

#[test]
fn a_lease_is_revoked_when_it_had_run_out_while_this_member_led() {
    let mut world = World::leading(settings());
    world.grant(5, 10);
    world.said.clear();
    let revoked = |world: &mut World| match &world.proposed()[..] {
        [] => false,
        [(_, Command::LeaseExpire { id: 5, term: 1, .. })] => true,
        other => panic!("{other:?}"),
    };
    world.at(8.5);
    world.step(Input::Tick);
    assert_eq!(world.reads().len(), 0, "it is not near its end");
    world.at(9.5);
    world.step(Input::Tick);
    let [read] = world.reads()[..] else { panic!("nobody was asked") };
    world.at(10.5); // the answer is of before the lease ran out
    world.hear(ToStore::ReadIndex(read, Some(Index(world.index))));
    world.step(Input::Tick);
    assert!(!revoked(&mut world));
    let [read] = world.reads()[..] else { panic!("nobody was asked again") };
    world.at(11.0);
    world.hear(ToStore::ReadIndex(read, Some(Index(world.index))));
    world.step(Input::Tick);
    assert!(revoked(&mut world));
    world.step(Input::Tick);
    assert!(!revoked(&mut world), "it is under way");
}

#[test]
fn beyond_the_quota_a_write_stands_and_the_alarm_is_raised_once() {
    let mut world = World::leading(Settings { quota: Some(1), ..settings() });
    let writes = [1, 2].map(|number| (Some(client_id(0, number)), world.put("k", 1)));
    world.commit(writes.to_vec());
    world.turn();
    let outcomes: Vec<_> = world
        .said
        .iter()
        .filter_map(|output| match output {
            Output::Client(0, ToClient::Outcomes(all)) => {
                Some(all.iter().map(|one| one.1.is_ok()).collect::<Vec<_>>())
            }
            _ => None,
        })
        .collect();
    assert_eq!(outcomes, [[false, false]]);
    assert_eq!(world.core.store().revision(), 3);
    let raised =
        world.said.iter().filter(|output| matches!(output, Output::Raft(ToRaft::Propose(..)))).count();
    assert_eq!(raised, 1);
    world.hear(ToStore::NoSpace);
    assert_eq!(world.proposed().len(), 1, "it is under way");
    let write = propose::raise_alarm(&mut world.ids, OWN, pb::AlarmType::Nospace);
    world.commit(vec![(None, write.entry)]);
    assert_eq!(world.core.store().alarms(None), [Alarm { member: OWN, kind: AlarmKind::NoSpace }]);
    let data = world.put("k", 1);
    world.commit(vec![(None, data)]);
    world.hear(ToStore::NoSpace);
    assert_eq!((world.core.store().revision(), world.proposed().len()), (3, 0));
}

#[test]
fn a_store_of_a_peer_takes_over_when_no_checkpoint_of_the_old_one_is_under_way() {
    let mut world = World::leading(settings());
    world.at(30.0);
    world.turn();
    let file = TreeFile::new();
    let mut store = new_store(&file);
    store.set_applied(500, 3);
    store.publish().unwrap();
    let mut checkpoint = store.tree_mut().begin_checkpoint().expect("something has changed");
    file.write(&mut checkpoint);
    store.tree_mut().end_checkpoint(checkpoint);
    world.said.clear();
    world.step(Input::Install(ReadyNumber(9), Box::new(store)));
    world.turn();
    assert!(world.said.is_empty());
    world.end_checkpoint(Written::Durable);
    world.said.clear();
    world.turn();
    let said: Vec<_> = world
        .said
        .iter()
        .filter_map(|output| match output {
            Output::Installed => Some("installed".to_owned()),
            Output::Raft(ToRaft::SnapshotInstalled(ready)) => Some(format!("ready {}", ready.0)),
            Output::Raft(ToRaft::Checkpointed(index)) => Some(format!("covers {index}")),
            Output::Raft(ToRaft::Members(..)) => Some("members".to_owned()),
            Output::Client(core, ToClient::Published(view)) => {
                Some(format!("{core}: {}", view.applied().index))
            }
            _ => None,
        })
        .collect();
    assert_eq!(said, ["installed", "ready 9", "covers 500", "members", "0: 500", "1: 500"]);
    assert_eq!(world.core.published(), Index(500));
    assert_eq!(
        Replay::all(&world.core.take()).map(|replayed| (replayed.installed, replayed.applied)),
        Ok((1, Index(500)))
    );
}

#[test]
fn a_snapshot_is_pinned_at_what_is_applied() {
    let mut world = World::leading(settings());
    world.commit(vec![(None, Bytes::new())]); // not published yet
    world.hear(ToStore::PinSnapshot(OTHER));
    let pinned = world.said.iter().find_map(|output| match output {
        Output::Raft(ToRaft::SnapshotPinned(pinned)) => Some(pinned),
        _ => None,
    });
    let pinned = pinned.expect("it is pinned");
    assert_eq!((pinned.peer, pinned.position.index), (OTHER, Index(world.index)));
    assert_eq!(pinned.view.applied().index, world.index);
}

#[test]
fn the_server_compacts_by_itself_while_it_leads() {
    let kept = Retention::Revisions(1);
    let mut world = World::leading(Settings { auto_compaction: Some(kept), ..settings() });
    for _ in 0..3 {
        let data = world.put("k", 1);
        world.commit(vec![(None, data)]);
    }
    world.turn();
    let due = world.core.auto_compaction_due().flatten().expect("a step is due");
    world.present.now = due;
    world.step(Input::AutoCompact);
    let [(id, Command::Compact { revision: 3, physical: false })] = world.proposed()[..] else {
        panic!("none")
    };
    assert_eq!(world.core.auto_compaction_due(), Some(None), "it is under way");
    world.hear(ToStore::Dropped(id));
    assert!(world.core.auto_compaction_due().flatten() > Some(due));
}
