//! Members on a network that loses, repeats, delays and reorders, with disks that stall and power that fails: all from one
//! seed. For tests of this crate; the simulator of the whole product is another crate.
//!
//! After every step what must never happen has not: two leaders of a term, two entries at one index, a proposal committed
//! twice or after it was called dropped, a read older than what was committed when it began.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::log::{Fetcher, Identity, Log, Survey, recover};
use crate::repair::{Promise, Voter, VoterInput, VoterOutput};
use crate::testing::{Disk, Store, small_log};
use crate::trace::{Recorded, Replay};
use crate::{ConfChangeKind, ReadId};

mod damage;
mod packets;

use damage::Repair;
pub(super) use packets::Packets;

/// Random numbers from a seed.
pub(super) struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % bound.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len() as u64) as usize;
        from.get(at).copied()
    }
}

/// How often what happens, per thousand steps; drawn for each world, so that worlds differ.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub tick: u64,
    pub propose: u64,
    pub read: u64,
    pub complete: u64,
    pub apply: u64,
    pub checkpoint: u64,
    pub crash: u64,
    pub cut: u64,
    pub heal: u64,
    pub transfer: u64,
    pub membership: u64,
    pub stall: u64,
    pub damage: u64,
    /// Of messages, in percent.
    pub lost: u64,
    pub repeated: u64,
}

impl Weather {
    pub fn draw(rng: &mut Rng) -> Weather {
        let mut up_to = |bound: u64| rng.below(4) * rng.below(bound + 1) / 3;
        Weather {
            tick: 60 + up_to(120),
            propose: 20 + up_to(60),
            read: 10 + up_to(40),
            complete: 60 + up_to(300),
            apply: 60 + up_to(300),
            checkpoint: up_to(30),
            crash: up_to(6),
            cut: up_to(10),
            heal: 5 + up_to(20),
            transfer: up_to(5),
            membership: up_to(10),
            stall: up_to(4),
            damage: up_to(3),
            lost: up_to(20),
            repeated: up_to(20),
        }
    }
}

#[derive(Clone)]
struct Packet {
    from: NodeId,
    to: NodeId,
    message: Box<PeerMessage>,
    snapshot: Option<Store>,
}

/// A machine: what survives the power, and the process on it.
pub(super) struct Machine {
    pub disk: Disk,
    checkpoint: Store,
    files: BTreeMap<LogPosition, Store>,
    starts: u64,
    founder: bool,
    pub life: Option<Life>,
    /// Runs in place of a life while the log is damaged.
    pub repair: Option<Repair>,
    /// Its promise, as it is on disk.
    promise: Option<Vec<u8>>,
}

pub(super) struct Life {
    pub node: Recorded,
    /// All that it was told and has said.
    trace: Vec<u8>,
    log: Log,
    pub store: Store,
    unapplied: VecDeque<Entry>,
    installing: Option<InstallSnapshot>,
    fetches: Vec<Fetch>,
    fetchers: BTreeMap<NodeId, Fetcher>,
    pins: BTreeMap<NodeId, Store>,
    /// What the log was last said to begin with.
    log_first: Index,
    stalled: bool,
    /// As raft has said last, since the store was asked last.
    raft_conf: Option<ConfState>,
}

impl Life {
    /// A node is a function of its inputs: told the same, another one answers the same.
    fn check_replay(&mut self) {
        self.trace.append(&mut self.node.take());
        match Replay::all(&self.trace) {
            Ok(replayed) => assert!(replayed.calls > 0 && !replayed.torn, "{replayed:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What must hold in the end, and what has happened.
#[derive(Default)]
pub(super) struct History {
    /// Who has led a term, and in which life.
    leaders: BTreeMap<Term, (NodeId, u64)>,
    committed: BTreeMap<Index, (Term, EntryKind, Bytes)>,
    /// Proposals by their data, and where they were committed.
    placed: BTreeMap<u64, Index>,
    dropped: BTreeSet<u64>,
    /// Reads without an answer, and what was committed when they began.
    reads: BTreeMap<ReadId, Index>,
    pub read: u64,
    pub installed: u64,
    pub fetched: u64,
    pub finished_at_start: u64,
    pub lost_in_place: u64,
    pub forwarded: u64,
    pub changes: u64,
    pub repaired: u64,
}

pub(super) struct World {
    pub receivers_speak: bool, // that a snapshot has arrived; else the world says it
    pub rng: Rng,
    pub weather: Weather,
    pub machines: BTreeMap<NodeId, Machine>,
    net: Vec<Packet>,
    cut: BTreeSet<(NodeId, NodeId)>,
    founders: Vec<NodeId>,
    proposals: u64,
    pub history: History,
}

fn payload(data: &[u8]) -> Option<u64> {
    data.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

impl World {
    pub fn new(seed: u64, count: u64) -> World {
        let mut rng = Rng(seed);
        let weather = Weather::draw(&mut rng);
        let founders: Vec<NodeId> = (1..=count).map(NodeId).collect();
        let mut world = World {
            rng,
            receivers_speak: false,
            weather,
            machines: BTreeMap::new(),
            net: Vec::new(),
            cut: BTreeSet::new(),
            founders: founders.clone(),
            proposals: 0,
            history: History::default(),
        };
        for id in founders {
            world.found(id, true);
        }
        world
    }

    fn found(&mut self, id: NodeId, founder: bool) {
        let machine = Machine {
            disk: Disk::default(),
            checkpoint: Store::default(),
            files: BTreeMap::new(),
            starts: 0,
            founder,
            life: None,
            repair: None,
            promise: None,
        };
        self.machines.insert(id, machine);
        self.start(id);
    }

    /// What a process does at its start.
    pub fn start(&mut self, id: NodeId) {
        let machine = self.machines.get_mut(&id).expect("it exists");
        machine.starts += 1;
        let identity = Identity { cluster: 1, member: id };
        if let Some(bytes) = &machine.promise {
            let promise = Promise::decode(bytes).expect("as it was written");
            machine.repair = Some(Repair { voter: Voter::new(promise, 10), writes: VecDeque::new() });
            return;
        }
        let recovered = recover(&machine.disk, identity, machine.checkpoint.applied)
            .unwrap_or_else(|error| panic!("a power cut is not damage: {error}"));
        if let Some(position) = recovered.snapshot {
            // The process ended between the reset of the log and the replacement of the store.
            self.history.finished_at_start += 1;
            machine.checkpoint = machine.files[&position].clone();
        }
        let (is_new, tail) = (recovered.is_new(), recovered.tail);
        let state = match is_new && machine.founder {
            true => {
                let members: Vec<_> = self.founders.iter().map(|id| (*id, Bytes::from("{}"))).collect();
                State::bootstrap(&members)
            }
            false => recovered.state,
        };
        let config = Config {
            append_bytes: 1500,
            cache_bytes_limit: 2000,
            peer_bytes_in_flight: 4000,
            fetch_bytes: 3000,
            entry_bytes_max: 8000,
            proposal_bytes_limit: 40_000,
            ..Config::new(id, id.0 * 1000 + machine.starts, machine.starts)
        };
        let store = machine.checkpoint.clone();
        let log = Log::new(small_log(), identity, tail);
        let node = Recorded::new(config, state, store.applied, store.conf.clone());
        let log_first = log.first_index();
        machine.life = Some(Life {
            node,
            trace: Vec::new(),
            log,
            store,
            unapplied: VecDeque::new(),
            installing: None,
            fetches: Vec::new(),
            fetchers: BTreeMap::new(),
            pins: BTreeMap::new(),
            log_first,
            stalled: false,
            raft_conf: None,
        });
        self.turn(id, vec![]);
    }

    /// The power fails.
    pub fn crash(&mut self, id: NodeId) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        if let Some(mut life) = machine.life.take() {
            life.check_replay();
        }
        machine.repair = None;
        let sectors = mix(self.rng.below(u64::MAX));
        machine.disk.crash(|number| sectors >> (number % 64) & 1 == 1);
    }

    pub fn alive(&self) -> Vec<NodeId> {
        self.machines.iter().filter(|(_, machine)| machine.life.is_some()).map(|(id, _)| *id).collect()
    }

    pub fn life(&mut self, id: NodeId) -> Option<&mut Life> {
        self.machines.get_mut(&id)?.life.as_mut()
    }

    pub fn node(&self, id: NodeId) -> &Node {
        &self.machines[&id].life.as_ref().expect("it is up").node
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leaders = self.alive().into_iter().filter(|id| self.node(*id).status().role.role == Role::Leader);
        leaders.max_by_key(|id| self.node(*id).status().role.term)
    }

    pub fn turn(&mut self, id: NodeId, inputs: Vec<Input>) {
        let Some(life) = self.life(id) else { return };
        let mut out = Vec::new();
        for input in inputs {
            life.node.step(input, &mut out);
        }
        life.node.flush(&mut out);
        for output in out {
            self.start_output(id, output);
        }
        self.submit(id);
    }

    fn submit(&mut self, id: NodeId) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(life) = &mut machine.life else { return };
        while let Some(wanted) = life.log.segment_wanted() {
            machine.disk.segments.insert(wanted.id, vec![0; wanted.size as usize]);
            life.log.segment_ready(wanted.id, wanted.size);
        }
        if let Some(plan) = life.log.poll_write() {
            let mut buf = vec![0; plan.len];
            life.log.encode(&plan, &mut buf);
            machine.disk.in_flight = Some((plan, buf));
        }
    }

    fn start_output(&mut self, id: NodeId, output: Output) {
        let life = self.machines.get_mut(&id).and_then(|machine| machine.life.as_mut()).expect("it is up");
        match output {
            Output::Append(append) => life.log.append(append),
            Output::Send(envelope) => self.send(id, envelope),
            Output::Commit(entries) => {
                life.unapplied.extend(entries.iter().cloned());
                self.check_committed(entries);
            }
            Output::ReadReady(read, index) => {
                let floor = self.history.reads.remove(&read).expect("asked once, answered once");
                assert!(
                    index >= floor,
                    "{read:?} at {id} sees {index}, {floor} was committed before it began"
                );
                self.history.read += 1;
            }
            Output::ReadDropped(read) => {
                self.history.reads.remove(&read).expect("asked once, answered once");
            }
            Output::ProposalDropped(_, DropReason::OutcomeUnknown) => {}
            Output::ProposalDropped(proposal, reason) => {
                self.history.lost_in_place += u64::from(reason == DropReason::LeaderChanged);
                self.history.dropped.insert(proposal.0);
                let placed = self.history.placed.get(&proposal.0);
                assert_eq!(placed, None, "{proposal:?} was called {reason:?}");
            }
            Output::Role(_) | Output::SingleVoter(_) => {}
            Output::ConfState(conf) => life.raft_conf = Some(conf),
            Output::Fetch(fetch) => life.fetches.push(fetch),
            Output::SnapshotWanted(peer) => {
                let store = life.store.clone();
                let (position, conf) = (store.applied, store.conf.clone());
                life.pins.insert(peer, store);
                self.turn(id, vec![Input::SnapshotPinned { peer, position, conf }]);
            }
            Output::SnapshotUnwanted(peer) => drop(life.pins.remove(&peer)),
            Output::InstallSnapshot(install) => {
                assert_eq!(life.installing, None, "one at a time");
                life.installing = Some(install);
            }
            Output::SnapshotIgnored(position) => {
                if life.installing.as_ref().is_none_or(|install| install.position != position) {
                    self.machines.get_mut(&id).expect("it is up").files.remove(&position);
                }
            }
            Output::AcknowledgedLost { .. } => panic!("{id}: {output:?}"),
        }
    }

    fn send(&mut self, from: NodeId, envelope: Envelope) {
        let Envelope { to, message } = envelope;
        let mut snapshot = None;
        if message.lane() == crate::Lane::Snapshot {
            snapshot = self.life(from).and_then(|life| life.pins.remove(&to));
            assert!(snapshot.is_some(), "a message of a snapshot that nobody holds");
        }
        if let PeerMessage::Raft(Message { raft, .. }) = &*message
            && matches!(raft.get_msg_type(), MessageType::MsgAppend | MessageType::MsgHeartbeat)
        {
            // A lone voter may lead a term twice if nobody has heard of the first time.
            let this = (from, self.machines[&from].starts);
            let leader = *self.history.leaders.entry(Term(raft.term)).or_insert(this);
            assert_eq!(leader, this, "two leaders of term {}", raft.term);
        }
        self.history.forwarded += u64::from(matches!(*message, PeerMessage::Forward(_)));
        self.net.push(Packet { from, to, message, snapshot });
    }

    fn check_committed(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Entry { index, term, kind, data, proposal } = entry;
            if let (EntryKind::Normal, Some(id)) = (kind, payload(&data)) {
                let first = *self.history.placed.entry(id).or_insert(index);
                assert_eq!(first, index, "proposal {id} is committed twice");
                assert!(!self.history.dropped.contains(&id), "proposal {id} was called dropped");
                assert!(proposal.is_none_or(|proposal| proposal.0 == id));
            }
            let this = (term, kind, data);
            let known = self.history.committed.entry(index).or_insert_with(|| this.clone());
            assert_eq!(*known, this, "two entries at {index}");
        }
    }

    /// Delivers one packet of the network, or loses it, or keeps a copy for later.
    pub fn deliver(&mut self) -> bool {
        if self.net.is_empty() {
            return false;
        }
        let at = self.rng.below(self.net.len() as u64) as usize;
        let Packet { from, to, message, snapshot } = self.net.swap_remove(at);
        let is_snapshot = snapshot.is_some();
        if !is_snapshot && self.rng.chance(self.weather.repeated) {
            self.net.push(Packet { from, to, message: message.clone(), snapshot: None });
        }
        let up =
            self.machines.get(&to).is_some_and(|machine| machine.life.is_some() || machine.repair.is_some());
        let arrives = up && !self.cut.contains(&(from, to)) && !self.rng.chance(self.weather.lost);
        if arrives {
            if let (Some(store), Some(machine)) = (snapshot, self.machines.get_mut(&to)) {
                machine.files.insert(store.applied, store);
            }
            match self.machines[&to].repair.is_some() {
                true => self.turn_voter(to, VoterInput::Receive(from, message)),
                false => self.turn(to, vec![Input::Receive(from, message)]),
            }
        } else if self.rng.chance(30) {
            self.turn(from, vec![Input::Unreachable(to)]);
        }
        if is_snapshot && !(arrives && self.receivers_speak) {
            self.turn(from, vec![Input::SnapshotSent(to, arrives)]);
        }
        true
    }

    /// The write in flight completes.
    pub fn complete(&mut self, id: NodeId) -> bool {
        let Some(machine) = self.machines.get_mut(&id) else { return false };
        if let Some(promise) = machine.repair.as_mut().and_then(|repair| repair.writes.pop_front()) {
            machine.promise = Some(promise.encode().to_vec());
            self.turn_voter(id, VoterInput::Durable);
            return true;
        }
        let (Some(life), true) = (&mut machine.life, machine.disk.in_flight.is_some()) else { return false };
        if life.stalled {
            return false;
        }
        machine.disk.complete();
        let durable = life.log.written(Duration::ZERO);
        self.turn(id, durable.map(Input::Durable).into_iter().collect());
        true
    }

    /// The store applies up to `count` entries, or is replaced if that is due; then a fetch is answered.
    pub fn apply(&mut self, id: NodeId, count: usize) -> bool {
        let Some(machine) = self.machines.get_mut(&id) else { return false };
        let Some(life) = &mut machine.life else { return false };
        let mut inputs = Vec::new();
        if let Some(fetch) = life.fetches.pop() {
            let fetcher = life.fetchers.entry(fetch.peer).or_default();
            let entries = fetcher.fetch(&machine.disk, Identity { cluster: 1, member: id }, &fetch);
            self.history.fetched += entries.as_ref().map_or(0, |entries| entries.len() as u64);
            inputs.push(Input::Fetched(fetch.peer, fetch.first, entries));
        }
        let status = life.node.status();
        let ready = |install: &mut InstallSnapshot| status.log_durable >= install.ready;
        if let Some(install) = life.installing.take_if(ready) {
            life.unapplied.retain(|entry| entry.index > install.position.index);
            life.store = machine.files[&install.position].clone();
            assert_eq!((life.store.applied, &life.store.conf), (install.position, &install.conf));
            machine.checkpoint = life.store.clone();
            self.history.installed += 1;
            inputs.push(Input::SnapshotInstalled(install.ready));
        }
        for _ in 0..if life.installing.is_none() { count } else { 0 } {
            let Some(entry) = life.unapplied.pop_front() else { break };
            assert_eq!(entry.index.0, life.store.applied.index.0 + 1, "each entry once, in order");
            if entry.kind == EntryKind::ConfChange {
                let change = ConfChange::decode(&entry.data).expect("as proposed");
                let change = Some(change).filter(|change| is_allowed(&life.store.conf, change));
                change.iter().for_each(|change| life.store.conf.apply(change));
                self.history.changes += u64::from(change.is_some());
                inputs.push(Input::ApplyConfChange(entry.index, change));
            } else if !entry.data.is_empty() {
                life.store.data.push((entry.index, entry.data.clone()));
            }
            life.store.applied = entry.position();
            inputs.push(Input::Applied(entry.index));
        }
        let any = !inputs.is_empty();
        let conf = life.store.conf.clone();
        self.turn(id, inputs);
        let said = self.life(id).and_then(|life| life.raft_conf.take());
        assert!(said.is_none_or(|said| said == conf), "raft and the store disagree on the members");
        any
    }

    /// The store writes a checkpoint; the log forgets what it covers.
    pub fn checkpoint(&mut self, id: NodeId) {
        let Some(machine) = self.machines.get_mut(&id) else { return };
        let Some(life) = machine.life.as_mut().filter(|life| life.installing.is_none()) else { return };
        machine.checkpoint = life.store.clone();
        life.log.checkpointed(life.store.applied.index);
        let first = life.log.first_index();
        if first > life.log_first {
            life.log_first = first;
            self.turn(id, vec![Input::LogStartsAt(first)]);
        }
    }

    pub fn propose(&mut self, id: NodeId) -> u64 {
        self.proposals += 1;
        let number = self.proposals;
        let len = self.rng.below(300) * if self.rng.chance(5) { 10 } else { 1 };
        let data = [&number.to_le_bytes()[..], &vec![number as u8; len as usize]].concat();
        self.turn(id, vec![Input::Propose(ProposalId(number), data.into())]);
        number
    }

    pub fn read(&mut self, id: NodeId) {
        self.proposals += 1;
        let read = ReadId(self.proposals);
        let floor = self.history.committed.last_key_value().map_or(Index(0), |(index, _)| *index);
        self.history.reads.insert(read, floor);
        self.turn(id, vec![Input::ReadIndex(read)]);
    }

    pub fn change(&mut self, at: NodeId, kind: ConfChangeKind, node: NodeId) {
        self.proposals += 1;
        let change = ConfChange { id: self.proposals, kind, node, context: Bytes::new() };
        let is_new = !self.machines.contains_key(&node);
        self.turn(at, vec![Input::ProposeConfChange(ProposalId(self.proposals), change)]);
        if is_new {
            self.found(node, false);
        }
    }

    fn change_at_random(&mut self, at: NodeId) {
        let conf = self.machines[&at].life.as_ref().expect("it is up").store.conf.clone();
        let (voters, learners) = (conf.voters.len(), conf.learners.len());
        let next = NodeId(self.machines.keys().last().map_or(1, |id| id.0 + 1));
        match self.rng.below(4) {
            0 if voters + learners < 5 => self.change(at, ConfChangeKind::AddLearnerNode, next),
            1 if voters + learners < 5 && voters > 1 => self.change(at, ConfChangeKind::AddNode, next),
            2 => {
                let learner = self.rng.pick(&conf.learners);
                learner.into_iter().for_each(|learner| self.change(at, ConfChangeKind::AddNode, learner));
            }
            _ if voters > if self.are_whole() { 1 } else { 3 } => {
                let all = [&conf.voters[..], &conf.learners].concat();
                let gone = self.rng.pick(&all).expect("there is a voter");
                self.change(at, ConfChangeKind::RemoveNode, gone);
            }
            _ => {}
        }
    }

    /// One thing happens.
    pub fn step(&mut self) {
        let w = self.weather;
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        let id = self.rng.pick(&ids).expect("there are members");
        let up = self.machines[&id].life.is_some();
        let runs = up || self.machines[&id].repair.is_some();
        let mut dice = self.rng.below(1000);
        let mut is = |weight: u64| {
            let hit = dice < weight;
            dice -= if hit { 0 } else { weight };
            hit
        };
        if is(w.tick) {
            self.turn(id, vec![Input::Tick]);
            self.turn_voter(id, VoterInput::Tick);
        } else if is(w.propose) {
            self.propose(id);
        } else if is(w.read) && up {
            self.read(id);
        } else if is(w.complete) && runs {
            self.complete(id);
        } else if is(w.apply) {
            let count = 1 + self.rng.below(20) as usize;
            self.apply(id, count);
        } else if is(w.checkpoint) {
            self.checkpoint(id);
        } else if is(w.crash) {
            if runs { self.crash(id) } else { self.start(id) }
        } else if is(w.cut) {
            if let Some(other) = self.rng.pick(&ids) {
                self.cut.insert((id, other));
                if self.rng.chance(60) {
                    self.cut.insert((other, id));
                }
            }
        } else if is(w.heal) {
            self.cut.clear();
            if !runs {
                self.start(id);
            }
        } else if is(w.transfer) {
            let some = self.rng.chance(50);
            let to = self.rng.pick(&ids).filter(|_| some);
            self.turn(id, vec![Input::TransferLeader(to)]);
        } else if is(w.membership) && up {
            self.change_at_random(id);
        } else if is(w.stall) {
            if let Some(life) = self.life(id) {
                life.stalled = !life.stalled;
                let stalled = life.stalled;
                self.turn(id, vec![Input::LogStalled(stalled)]);
            }
        } else if is(w.damage) && up && self.may_be_damaged(id) {
            self.damage(id);
        } else {
            self.deliver();
        }
    }

    /// All faults end: everybody is up and hears everybody.
    pub fn calm(&mut self) {
        self.weather = Weather::default();
        self.cut.clear();
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        for id in ids {
            if self.machines[&id].life.is_none() && self.machines[&id].repair.is_none() {
                self.start(id);
            }
            let Some(life) = self.life(id) else { continue };
            if std::mem::take(&mut life.stalled) {
                self.turn(id, vec![Input::LogStalled(false)]);
            }
        }
    }

    /// Everything that is under way gets done; no time passes.
    pub fn settle(&mut self) {
        loop {
            let mut any = false;
            while self.deliver() {
                any = true;
            }
            let ids: Vec<NodeId> = self.machines.keys().copied().collect();
            for id in ids {
                any |= self.complete(id);
                any |= self.apply(id, usize::MAX);
            }
            if !any {
                return;
            }
        }
    }

    /// From now on `id` and `other` don't hear each other.
    pub fn part(&mut self, id: NodeId, other: NodeId) {
        self.cut.extend([(id, other), (other, id)]);
    }

    /// They hear nothing of the others.
    pub fn isolate(&mut self, id: NodeId) {
        let others: Vec<NodeId> = self.machines.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.part(id, other));
    }

    /// They hear each other again.
    pub fn join(&mut self, id: NodeId, other: NodeId) {
        self.cut.retain(|pair| *pair != (id, other) && *pair != (other, id));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// The log device of `id` stops answering, and it is told.
    pub fn stall(&mut self, id: NodeId) {
        self.life(id).expect("it is up").stalled = true;
        self.turn(id, vec![Input::LogStalled(true)]);
    }

    /// The Ready of the snapshot that is being installed.
    pub fn installing(&self, id: NodeId) -> Option<ReadyNumber> {
        self.machines[&id].life.as_ref()?.installing.as_ref().map(|install| install.ready)
    }

    pub fn store(&self, id: NodeId) -> &Store {
        &self.machines[&id].life.as_ref().expect("it is up").store
    }

    /// Time passes until this holds.
    pub fn wait(&mut self, what: &str, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..200 {
            if done(self) {
                return;
            }
            self.tick_all();
        }
        panic!("{what}: {}", self.describe());
    }

    /// As `wait`, with time passing for some only.
    pub fn wait_at(&mut self, ids: &[NodeId], what: &str, done: impl Fn(&World) -> bool) {
        for _ in 0..200 {
            if done(self) {
                return;
            }
            ids.iter().for_each(|id| self.turn(*id, vec![Input::Tick]));
            self.settle();
        }
        panic!("{what}: {}", self.describe());
    }

    pub fn tick_all(&mut self) {
        let ids: Vec<NodeId> = self.machines.keys().copied().collect();
        for id in ids {
            self.turn(id, vec![Input::Tick]);
            self.turn_voter(id, VoterInput::Tick);
        }
        self.settle();
    }

    /// After `calm`: a leader is found, a proposal at every member is committed, and all members hold the same.
    pub fn converge(&mut self) {
        self.calm();
        let mut rounds = 0..400;
        let mut wait = |world: &mut World, what: &str, done: &mut dyn FnMut(&mut World) -> bool| {
            while !done(world) {
                assert!(rounds.next().is_some(), "{what}: {}", world.describe());
                world.tick_all();
            }
        };
        wait(self, "a leader of its own term", &mut |world| world.members().is_some());
        for number in 0..3 {
            let mut proposal = 0;
            wait(self, "a commit", &mut |world| {
                let members = world.members().unwrap_or_default();
                if !world.history.placed.contains_key(&proposal) && !members.is_empty() {
                    let up: Vec<NodeId> =
                        members.into_iter().filter(|id| world.alive().contains(id)).collect();
                    proposal = world.propose(up[number % up.len()]);
                    world.settle();
                }
                world.history.placed.contains_key(&proposal)
            });
        }
        wait(self, "equal stores", &mut |world| {
            let Some(members) = world.members() else { return false };
            if members.iter().any(|id| world.machines[id].life.is_none()) {
                return false; // under repair
            }
            let stores: Vec<&Store> = members
                .iter()
                .map(|id| &world.machines[id].life.as_ref().expect("all are up").store)
                .collect();
            stores.windows(2).all(|pair| pair[0] == pair[1])
        });
        let members = self.members().expect("there is a leader");
        let placed: Vec<u64> = self.history.placed.keys().copied().collect();
        let store = &self.machines[&members[0]].life.as_ref().expect("all are up").store;
        let mut held: Vec<u64> = store.data.iter().filter_map(|(_, data)| payload(data)).collect();
        held.sort_unstable();
        assert_eq!(held, placed, "what was committed is there, once");
        for machine in self.machines.values_mut() {
            machine.life.iter_mut().for_each(Life::check_replay);
        }
    }

    /// The members according to a leader who has committed in its term.
    fn members(&self) -> Option<Vec<NodeId>> {
        let leader = self.leader()?;
        let life = self.machines[&leader].life.as_ref()?;
        let conf = &life.store.conf;
        let able = life.store.applied.term == life.node.status().role.term;
        able.then(|| [&conf.voters[..], &conf.learners].concat())
    }

    pub fn describe(&self) -> String {
        let line = |id: &NodeId| {
            let life = self.machines[id].life.as_ref().expect("it is up");
            let status = life.node.status();
            format!(
                "\n{id}: {status:?} {:?} store {:?} {:?}",
                life.node.peers(),
                life.store.applied,
                life.store.conf
            )
        };
        self.alive().iter().map(line).collect()
    }
}

/// The rules of the membership as far as raft needs them.
fn is_allowed(conf: &ConfState, change: &ConfChange) -> bool {
    let (voter, learner) = (conf.voters.contains(&change.node), conf.learners.contains(&change.node));
    match change.kind {
        ConfChangeKind::AddNode => !voter,
        ConfChangeKind::AddLearnerNode => !voter && !learner,
        ConfChangeKind::RemoveNode => learner || voter && conf.voters.len() > 1,
        ConfChangeKind::UpdateNode => true,
    }
}
