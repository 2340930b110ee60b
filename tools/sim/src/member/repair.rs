//! A member whose log or tree is damaged, as the server's `repair` wires it: it stands by as a voter until a snapshot of its
//! peers takes the place of both, and serves nothing.

use std::time::Duration;

use bytes::Bytes;
use consensus::log::{Identity as LogIdentity, Log, LogConfig, SegmentReader, Survey, Tail};
use consensus::repair::{Promise, Voter, VoterInput, VoterOutput};
use consensus::{Append, HardState, LogPosition, NodeId, PeerMessage, ReadyNumber};
use engine::Store;

use super::boot::{first_members, members_of, position, store_config};
use super::peers::Peers;
use super::replication::build;
use super::{CLUSTER, Done, node_id, node_number, note_votes, stops};
use crate::check::Failure;
use crate::disk::{Disk, LogDisk};
use crate::env::{Env, Event, NodeNumber, Wake};
use crate::network::Letter;
use crate::queue::Time;

/// The steps in which a snapshot takes the place of what was damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Log,
    Tree,
    Forget,
}

/// A member under repair.
pub struct Healing {
    number: NodeNumber,
    life: u32,
    booted: Time,
    nonce: u64,
    ticks: u64,
    voter: Voter,
    peers: Peers,
    store: engine::Config,
    importing: Option<(NodeNumber, Box<PeerMessage>, Bytes)>,
    installing: Option<(LogPosition, HardState, Step)>,
}

impl Healing {
    /// Whether a member has to be repaired, as an earlier process or this one has found: `why` is how opening it failed.
    ///
    /// # Errors
    /// `why`, where repair is not possible: the member is alone, has no log left, or one that does not tell how it has voted.
    pub fn begin(
        env: &mut Env,
        disk: &mut Disk,
        (number, life): (NodeNumber, u32),
        nonce: u64,
        why: Option<Failure>,
    ) -> Result<Option<Healing>, Failure> {
        if disk.promise.is_none() && !disk.is_tree_damaged && why.is_none() {
            return Ok(None);
        }
        let store = store_config(env, number, nonce);
        let (applied, members, removed) = look_at_tree(env, &store, disk, number);
        let removed: Vec<NodeId> = removed.into_iter().map(NodeId).collect();
        let identity = LogIdentity { cluster: CLUSTER, member: node_id(number) };
        let image = disk.log.image();
        let survey = Survey::take(&image, identity).ok().filter(|_| !image.segments().is_empty());
        let promise = match (&disk.promise, survey) {
            (Some(bytes), _) => match Promise::decode(bytes) {
                Ok(promise) => promise,
                Err(_) => return stops(number, "the promise is none"),
            },
            (None, survey) => {
                let promise = survey.filter(|_| members.len() > 1);
                match promise.and_then(|survey| Promise::of(identity, &survey, applied)) {
                    Some(promise) => promise,
                    None => return why.map_or(Ok(None), Err),
                }
            }
        };
        disk.promise = Some(promise.encode().to_vec());
        let patience = 3 * Duration::from_nanos(env.config.election());
        let healing = Healing {
            number,
            life,
            booted: env.queue.now(),
            nonce,
            ticks: 0,
            voter: Voter::new(promise, env.config.election_ticks),
            peers: Peers::new(node_id(number), members, &removed, patience),
            store,
            importing: None,
            installing: None,
        };
        healing.tell(env, || format!("is under repair: {promise:?}"));
        healing.schedule_tick(env);
        Ok(Some(healing))
    }

    fn tell(&self, env: &mut Env, what: impl FnOnce() -> String) {
        let (now, number, life) = (env.queue.now(), self.number, self.life);
        env.story.tell(now, || format!("member {number}.{life}"), what);
    }

    fn wake_after(&self, env: &mut Env, after: Time, wake: Wake) {
        env.queue.after(after, Event::Wake(self.number, self.life, wake));
    }

    fn schedule_tick(&self, env: &mut Env) {
        let interval = env.true_span(self.number, Duration::from_nanos(env.config.tick)).max(1);
        self.wake_after(env, interval, Wake::Tick);
    }

    /// Something of it has something to do. True: it is whole, and its process starts over.
    ///
    /// # Errors
    /// A checker has seen something.
    pub fn woken(&mut self, env: &mut Env, disk: &mut Disk, wake: Wake) -> Result<bool, Failure> {
        match wake {
            Wake::Tick => {
                self.schedule_tick(env);
                self.say_hello(env);
                self.step(env, disk, VoterInput::Tick)?;
            }
            Wake::Import => self.import(env, disk)?,
            Wake::Rename => return self.install(env, disk),
            _ => {}
        }
        Ok(false)
    }

    fn say_hello(&mut self, env: &mut Env) {
        self.ticks += 1;
        let is_due = self.ticks.is_multiple_of(env.config.election_ticks as u64);
        if !env.greets() {
            return;
        }
        for peer in self.peers.known() {
            let own = (self.number, self.life);
            if !env.keep_up(own, node_number(peer)) && is_due {
                env.hello(own, node_number(peer));
            }
        }
    }

    /// Whether something of this peer is listened to.
    pub fn judge(&mut self, from: NodeNumber) -> bool {
        self.peers.judge(node_id(from))
    }

    /// A letter of a peer arrives.
    ///
    /// # Errors
    /// A checker has seen something.
    pub fn receive(&mut self, env: &mut Env, disk: &mut Disk, letter: Letter) -> Done {
        match letter.snapshot {
            None => self.step(env, disk, VoterInput::Receive(node_id(letter.from.0), letter.message)),
            Some(_) if self.importing.is_some() || self.installing.is_some() => Ok(()),
            Some(bytes) => {
                self.importing = Some((letter.from.0, letter.message, bytes));
                let after = env.schedule.exponential(4 * env.config.checkpoint_step);
                self.wake_after(env, after, Wake::Import);
                self.step(env, disk, VoterInput::SnapshotArrived)
            }
        }
    }

    fn import(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some((from, message, bytes)) = self.importing.take() else { return Ok(()) };
        let (tree, _) = build(&self.store, &bytes).or_else(|why| stops(self.number, why))?;
        disk.next_tree = Some(tree);
        self.step(env, disk, VoterInput::Receive(node_id(from), message))
    }

    fn step(&mut self, env: &mut Env, disk: &mut Disk, input: VoterInput) -> Done {
        let mut outputs = Vec::new();
        self.voter.step(input, &mut outputs);
        while !outputs.is_empty() {
            for output in std::mem::take(&mut outputs) {
                match output {
                    VoterOutput::Persist(promise) => {
                        disk.promise = Some(promise.encode().to_vec());
                        self.voter.step(VoterInput::Durable, &mut outputs);
                    }
                    VoterOutput::Send(envelope) => {
                        note_votes(env, self.number, &envelope.message)?;
                        if self.peers.knows(envelope.to) {
                            let (from, to) = ((self.number, self.life), node_number(envelope.to));
                            env.send(Letter { from, to, message: envelope.message, snapshot: None });
                        }
                    }
                    VoterOutput::SnapshotIgnored(position) => {
                        self.tell(env, || format!("takes no snapshot of entry {}", position.index));
                    }
                    VoterOutput::Install { position, hard_state, .. } => {
                        self.installing = Some((position, hard_state, Step::Log));
                        self.install_step(env);
                    }
                }
            }
        }
        Ok(())
    }

    fn install_step(&self, env: &mut Env) {
        let after = env.takes(env.config.write);
        self.wake_after(env, after, Wake::Rename);
    }

    /// One step; the process may end between any two.
    fn install(&mut self, env: &mut Env, disk: &mut Disk) -> Result<bool, Failure> {
        let Some((position, hard_state, step)) = self.installing else { return Ok(false) };
        let next = match step {
            Step::Log => {
                disk.log = begin_log(env, self.number, self.nonce, position, hard_state)?;
                Step::Tree
            }
            Step::Tree => {
                let Some(tree) = disk.next_tree.take() else {
                    return stops(self.number, "no tree was built");
                };
                disk.tree = tree;
                Step::Forget
            }
            Step::Forget => {
                (disk.promise, disk.is_tree_damaged) = (None, false);
                self.tell(env, || format!("is repaired by the snapshot of entry {}", position.index));
                env.oracle.installs(self.number, position.index.0, position.term.0)?;
                env.oracle.snapshot_durable(self.number, position.index.0);
                env.oracle.raft.durable(self.number, &[], hard_state)?;
                return Ok(true);
            }
        };
        self.installing = Some((position, hard_state, next));
        self.install_step(env);
        Ok(false)
    }

    /// For a report: what it is doing.
    pub fn describe(&self, now: Time) -> String {
        format!("under repair for {} ms: {:?}", (now - self.booted) / 1_000_000, self.voter)
    }
}

/// What the tree still says, or the flags where it says nothing.
fn look_at_tree(
    env: &Env,
    settings: &engine::Config,
    disk: &Disk,
    number: NodeNumber,
) -> (LogPosition, Vec<node::membership::Member>, Vec<u64>) {
    let opened = (!disk.tree.is_empty()).then(|| Store::open(settings.clone(), disk.tree.cache.clone()).ok());
    let found = opened.flatten().and_then(|store| Some((position(&store), members_of(&store, number).ok()?)));
    match found {
        Some((applied, (members, removed))) if !members.is_empty() => (applied, members, removed),
        _ => (LogPosition::default(), first_members(env, number, Vec::new()), Vec::new()),
    }
}

/// A log that begins behind the snapshot, with what has been voted.
fn begin_log(
    env: &Env,
    number: NodeNumber,
    nonce: u64,
    position: LogPosition,
    hard_state: HardState,
) -> Result<LogDisk, Failure> {
    let identity = LogIdentity { cluster: CLUSTER, member: node_id(number) };
    let (first_segment_size, segment_size, batch_bytes_max) = env.config.log_sizes;
    let config = LogConfig { first_segment_size, segment_size, batch_bytes_max, ..LogConfig::new(nonce) };
    let mut disk = LogDisk::default();
    let mut log = Log::new(config, identity, Tail::default());
    let first = log.segment_wanted().expect("a new log wants its first segment");
    disk.name(&first);
    disk.sync_directory();
    log.segment_ready(first.id, first.size);
    let ready = ReadyNumber(1);
    log.append(Append { ready, hard_state, entries: Vec::new(), reset: Some(position) });
    while let Some(plan) = log.poll_write() {
        let mut bytes = vec![0; plan.len];
        log.encode(&plan, &mut bytes);
        disk.submit(plan, bytes);
        disk.complete();
        if log.written(Duration::ZERO) == Some(ready) {
            return Ok(disk);
        }
    }
    stops(number, "the new log's first write was not made")
}
