//! One life of the process: the loop that the server's edge runs, with chance in place of the scheduler.
//!
//! Each [`Life::step`] is one thing that some core, the disk or the background thread does; a crash can come between any
//! two. The order of what belongs together (write, completion, Durable, Commit, apply, publish, answer; pages, sync, meta,
//! sync, end) is the edge's, and the places where a [`Fault`] breaks it are marked by its name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use consensus::log::{Log, NewSegment};
use consensus::{Entry, Index, Input, Node, Output, ProposalId, ReadyNumber};
use engine::compact::Progress;
use engine::tree::Checkpoint;
use engine::{Store, View};
use node::api::Space;
use node::apply::{self, Effect};
use node::propose::{Command, IdGenerator};

use crate::checks::{Replay, check_store, check_view, same};
use crate::disk::Disk;
use crate::fault::Fault;
use crate::model::Model;
use crate::workload::Op;
use crate::world::{Counters, MEMBER};
use medium::rng::Rng;

/// What outlives the process, and who watches.
pub struct Outside<'w> {
    pub disk: &'w mut Disk,
    pub model: &'w mut Model,
    pub replay: &'w mut Replay,
    pub rng: &'w mut Rng,
    pub counters: &'w mut Counters,
    pub fault: Fault,
}

/// How likely each kind of step is; drawn anew for each life, so that lives differ.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    propose: usize,
    turn: usize,
    submit: usize,
    complete: usize,
    segment: usize,
    apply: usize,
    checkpoint: usize,
    look: usize,
    time: usize,
}

impl Weights {
    pub fn draw(rng: &mut Rng) -> Weights {
        // A process may end before its background thread ever comes to a checkpoint or a segment.
        let mut background = || rng.weighted(&[(2, 0), (2, 1), (4, 4), (4, 10), (2, 40)]);
        let (checkpoint, segment) = (background(), background());
        let mut weight = || rng.weighted(&[(1, 1), (3, 4), (4, 10), (1, 40)]);
        Weights {
            propose: weight(),
            turn: weight(),
            submit: weight(),
            complete: weight(),
            segment,
            apply: weight(),
            checkpoint,
            look: 1,
            time: 1,
        }
    }

    /// The background thread does nothing, so that nothing is synced but the log's writes.
    pub fn without_background(self) -> Weights {
        Weights { checkpoint: 0, segment: 0, ..self }
    }

    /// Nothing new is asked for; what was, gets done.
    pub fn settling() -> Weights {
        Weights {
            propose: 0,
            turn: 1,
            submit: 1,
            complete: 1,
            segment: 1,
            apply: 1,
            checkpoint: 1,
            look: 0,
            time: 0,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Propose,
    Turn,
    Submit,
    Complete,
    Segment,
    Apply,
    Checkpoint,
    Look,
    Time,
}

/// Where a running checkpoint stands: the next thing to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Grow,
    Pages,
    Sync,
    Meta,
    MetaSync,
    End,
}

struct Running {
    checkpoint: Box<Checkpoint>,
    /// What it covers.
    index: u64,
    phase: Phase,
    /// Steps that the sync under way still takes.
    stall: usize,
}

pub struct Life {
    node: Node,
    log: Log,
    store: Store,
    view: Arc<View>,
    ids: IdGenerator,
    now: Duration,
    inputs: Vec<Input>,
    /// What the proposer keeps beside its entry.
    commands: VecDeque<(ProposalId, Command)>,
    proposals: u64,
    committed: VecDeque<Entry>,
    /// The last entry of each append that is not durable yet.
    appends: VecDeque<(ReadyNumber, u64)>,
    preparing: VecDeque<(NewSegment, bool)>,
    checkpoint: Option<Running>,
    /// Versions that slow readers hold.
    pinned: Vec<Arc<View>>,
    /// Whether this life has made itself known.
    announced: bool,
    weights: Weights,
}

type Done = Result<(), String>;

impl Life {
    pub fn new(node: Node, log: Log, mut store: Store, nonce: u64, weights: Weights) -> Result<Life, String> {
        let view = store.publish().map_err(|damage| damage.to_string())?;
        Ok(Life {
            node,
            log,
            store,
            view,
            ids: IdGenerator::new(MEMBER, nonce, 0, 1),
            now: Duration::ZERO,
            inputs: Vec::new(),
            commands: VecDeque::new(),
            proposals: nonce << 20,
            committed: VecDeque::new(),
            appends: VecDeque::new(),
            preparing: VecDeque::new(),
            checkpoint: None,
            pinned: Vec::new(),
            announced: false,
            weights,
        })
    }

    pub fn set_weights(&mut self, weights: Weights) {
        self.weights = weights;
    }

    pub fn without_background(&mut self) {
        self.weights = self.weights.without_background();
    }

    /// Where a crash now would hit a checkpoint.
    pub fn checkpoint_phase(&self) -> Option<Phase> {
        self.checkpoint.as_ref().map(|running| running.phase)
    }

    /// How often, out of 1000, this is a good moment for a crash: something is written that is not durable yet, and much
    /// depends on the order.
    pub fn delicacy_permille(&self) -> usize {
        let is_named = self.preparing.front().is_some_and(|(_, is_named)| *is_named);
        match &self.checkpoint {
            Some(running) if running.stall > 0 => 3, // for the others to get far meanwhile
            Some(running) if running.phase == Phase::MetaSync => 60,
            Some(running) if running.phase >= Phase::Sync => 20,
            _ if is_named => 20,
            _ => 0,
        }
    }

    /// Does one thing. False: there was nothing to do.
    pub fn step(&mut self, out: &mut Outside<'_>) -> Result<bool, String> {
        let weights = self.weights;
        let on = |weight: usize, possible: bool| if possible { weight } else { 0 };
        let open = self.commands.len();
        if let Some(running) = &mut self.checkpoint {
            running.stall = running.stall.saturating_sub(1);
        }
        let steps = [
            (on(weights.propose, open < 40), Step::Propose),
            (on(weights.turn, !self.inputs.is_empty()), Step::Turn),
            (on(weights.submit, !out.disk.log.is_writing() && !self.log.is_idle()), Step::Submit),
            (on(weights.complete, out.disk.log.is_writing()), Step::Complete),
            (on(weights.segment, !self.preparing.is_empty()), Step::Segment),
            (on(weights.apply, !self.committed.is_empty()), Step::Apply),
            (on(weights.checkpoint, self.may_checkpoint()), Step::Checkpoint),
            (weights.look, Step::Look),
            (weights.time, Step::Time),
        ];
        if steps.iter().all(|(weight, _)| *weight == 0) {
            return Ok(self.checkpoint.is_some()); // its sync takes a while
        }
        match out.rng.weighted(&steps) {
            Step::Propose => self.propose(out),
            Step::Turn => self.turn(out)?,
            Step::Submit => self.submit(out),
            Step::Complete => self.complete(out),
            Step::Segment => self.prepare(out),
            Step::Apply => self.apply(out)?,
            Step::Checkpoint => self.advance_checkpoint(out)?,
            Step::Look => self.look(out)?,
            Step::Time => self.pass_time(out),
        }
        Ok(true)
    }

    fn propose(&mut self, out: &mut Outside<'_>) {
        for _ in 0..out.rng.between(1, 5) {
            let op = Op::draw(out.rng, out.model.newest());
            self.propose_op(op, out);
        }
    }

    fn propose_op(&mut self, op: Op, out: &mut Outside<'_>) {
        self.proposals += 1;
        let id = ProposalId(self.proposals);
        let write = op.write(&mut self.ids, MEMBER);
        out.model.propose(id, op);
        self.commands.push_back((id, write.command));
        self.inputs.push(Input::Propose(id, write.entry));
    }

    /// The raft core's turn.
    pub fn turn(&mut self, out: &mut Outside<'_>) -> Done {
        let mut outputs = Vec::new();
        for input in std::mem::take(&mut self.inputs) {
            self.node.step(input, &mut outputs);
        }
        self.node.flush(&mut outputs);
        for output in outputs {
            match output {
                Output::Append(append) => {
                    out.model.append(&append.entries)?;
                    if out.fault == Fault::DurableBeforeWritten {
                        self.inputs.push(Input::Durable(append.ready));
                    }
                    self.appends.push_back((append.ready, out.model.last()));
                    self.log.append(append);
                }
                Output::Commit(entries) => self.committed.extend(entries),
                Output::ProposalDropped(id, _) => self.commands.retain(|(other, _)| *other != id),
                Output::SingleVoter(_) | Output::Role(_) | Output::ConfState(_) => {}
                Output::ReadReady(..) | Output::ReadDropped(_) => {}
                other => return Err(format!("one member has nobody to talk to: {other:?}")),
            }
        }
        Ok(())
    }

    fn submit(&mut self, out: &mut Outside<'_>) {
        self.want_segments();
        let Some(plan) = self.log.poll_write() else { return };
        let mut bytes = vec![0xee; plan.len]; // whatever the buffer held before
        self.log.encode(&plan, &mut bytes);
        out.disk.log.submit(plan, bytes);
    }

    fn complete(&mut self, out: &mut Outside<'_>) {
        out.disk.log.complete(out.fault != Fault::LogWritesAreNotSynced);
        let Some(ready) = self.log.written(self.now) else { return };
        while let Some((_, last)) = self.appends.pop_front_if(|(number, _)| *number <= ready) {
            out.model.durable = out.model.durable.max(last);
        }
        if out.fault != Fault::DurableBeforeWritten {
            self.inputs.push(Input::Durable(ready));
        }
    }

    fn want_segments(&mut self) {
        while let Some(new) = self.log.segment_wanted() {
            self.preparing.push_back((new, false));
        }
    }

    /// The background thread: written under another name and synced, renamed, directory synced.
    fn prepare(&mut self, out: &mut Outside<'_>) {
        let (new, is_named) = self.preparing.pop_front().expect("one is being prepared");
        if !is_named {
            out.disk.log.name(&new);
            if out.fault != Fault::SegmentUsedBeforeItsNameIsDurable {
                return self.preparing.push_front((new, true));
            }
        } else {
            out.disk.log.sync_directory();
        }
        out.counters.segments += 1;
        self.log.segment_ready(new.id, new.size);
    }

    /// The store core's turn: apply, publish, answer.
    fn apply(&mut self, out: &mut Outside<'_>) -> Done {
        let mut answers = Vec::new();
        for _ in 0..out.rng.between(1, 30) {
            let Some(entry) = self.committed.pop_front() else { break };
            let command = entry.proposal.and_then(|id| self.take_command(id));
            let applied = apply::apply(&mut self.store, self.now, Space::UNLIMITED, &entry, command)
                .map_err(|fatal| fatal.to_string())?
                .ok_or_else(|| format!("entry {} was handed out twice", entry.index))?;
            if let Effect::ConfChange(change) = applied.effect {
                self.inputs.push(Input::ApplyConfChange(applied.index, change));
            }
            if applied.proposal.is_some() {
                answers.push((applied.index.0, applied.result));
            }
        }
        if out.rng.permille(600) {
            self.compact(out)?;
        }
        self.publish()?;
        for (index, answer) in answers {
            let state = out.model.state(index).ok_or("an entry that was never appended is applied")?;
            let told = answer.ok().map(|answer| answer.revision);
            same(&format!("answer to entry {index}"), told, state.answer)?;
            out.model.acknowledged = index;
            out.counters.acknowledged += 1;
        }
        same("revision after a turn", Some(self.view.revision()), self.expected_revision(out))?;
        if self.view.applied().index > out.model.durable && out.fault == Fault::None {
            return Err(format!("{} applied, {} durable", self.view.applied().index, out.model.durable));
        }
        self.inputs.push(Input::Applied(Index(self.view.applied().index)));
        self.announce(out);
        Ok(())
    }

    fn expected_revision(&self, out: &Outside<'_>) -> Option<i64> {
        out.model.state(self.view.applied().index).map(|state| state.revision)
    }

    /// Proposals commit in the order in which they were made; those in front were dropped.
    fn take_command(&mut self, id: ProposalId) -> Option<Command> {
        while let Some((front, command)) = self.commands.pop_front() {
            if front == id {
                return Some(command);
            }
        }
        None
    }

    /// As soon as this member leads and has applied an entry of its term.
    fn announce(&mut self, out: &mut Outside<'_>) {
        let status = self.node.status();
        if self.announced || self.store.applied().term != status.role.term.0 || status.role.leader.is_none() {
            return;
        }
        self.announced = true;
        self.propose_op(Op::Attributes { name: format!("life {}", out.counters.lives) }, out);
        if out.model.newest().cluster_version.is_none() {
            self.propose_op(Op::ClusterVersion { version: "3.7.0".to_owned() }, out);
        }
    }

    fn compact(&mut self, out: &mut Outside<'_>) -> Done {
        let rows = out.rng.between(1, 40);
        match self.store.compact_slice(rows).map_err(|damage| damage.to_string())? {
            Progress::Finished(_) => out.counters.compactions += 1,
            Progress::Idle | Progress::More => {}
        }
        Ok(())
    }

    fn publish(&mut self) -> Done {
        self.view = self.store.publish().map_err(|damage| damage.to_string())?;
        self.store.tree_mut().reclaim();
        Ok(())
    }

    fn may_checkpoint(&self) -> bool {
        match &self.checkpoint {
            Some(running) => running.stall == 0,
            None => self.weights.propose > 0,
        }
    }

    fn advance_checkpoint(&mut self, out: &mut Outside<'_>) -> Done {
        let Some(running) = &mut self.checkpoint else { return self.begin_checkpoint(out) };
        let checkpoint = &mut running.checkpoint;
        let tree = &mut out.disk.tree;
        let next = match running.phase {
            Phase::Grow => {
                tree.grow_to_pages(checkpoint.file_pages());
                Phase::Pages
            }
            // A full disk, which is found out before any sync.
            Phase::Pages if out.rng.permille(20) => return self.abandon_checkpoint(out),
            Phase::Pages => {
                let mut pages = Vec::new();
                match checkpoint.fill(&mut pages, out.rng.between(1, 16 << 10)) {
                    Some(first) => {
                        tree.write(first, &pages);
                        Phase::Pages
                    }
                    None => Phase::Sync,
                }
            }
            Phase::Sync => {
                if out.fault != Fault::MetaBeforePagesAreSynced {
                    tree.sync();
                }
                Phase::Meta
            }
            Phase::Meta => {
                let (slot, meta) = checkpoint.meta();
                tree.write(slot, &meta[..]);
                if out.fault == Fault::LogDroppedBeforeMetaIsSynced {
                    self.log.checkpointed(Index(running.index));
                }
                Phase::MetaSync
            }
            Phase::MetaSync => {
                tree.sync();
                Phase::End
            }
            Phase::End => return self.end_checkpoint(out),
        };
        let is_sync = matches!(next, Phase::Sync | Phase::MetaSync) && next != running.phase;
        if is_sync && out.rng.permille(300) {
            running.stall = out.rng.between(1, 400); // a slow disk; everything else goes on
        }
        running.phase = next;
        Ok(())
    }

    fn begin_checkpoint(&mut self, out: &mut Outside<'_>) -> Done {
        if out.rng.permille(100) {
            out.disk.tree.trim(self.store.tree_mut().trim() as usize);
        }
        let index = self.view.applied().index;
        if let Some(checkpoint) = self.store.tree_mut().begin_checkpoint() {
            self.checkpoint =
                Some(Running { checkpoint: Box::new(checkpoint), index, phase: Phase::Grow, stall: 0 });
            if out.fault == Fault::LogDroppedWhenCheckpointBegins {
                self.log.checkpointed(Index(index));
            }
        }
        Ok(())
    }

    fn abandon_checkpoint(&mut self, out: &mut Outside<'_>) -> Done {
        let running = self.checkpoint.take().expect("one is under way");
        self.store.tree_mut().abandon_checkpoint(*running.checkpoint);
        out.counters.abandoned += 1;
        Ok(())
    }

    fn end_checkpoint(&mut self, out: &mut Outside<'_>) -> Done {
        let running = self.checkpoint.take().expect("one is under way");
        self.store.tree_mut().end_checkpoint(*running.checkpoint);
        let covered = match out.fault {
            Fault::CheckpointIndexTakenAtItsEnd => self.view.applied().index,
            _ => running.index,
        };
        self.log.checkpointed(Index(covered));
        out.counters.checkpoints += 1;
        Ok(())
    }

    /// Somebody reads: now, or for long.
    fn look(&mut self, out: &mut Outside<'_>) -> Done {
        match out.rng.below(4) {
            0 => self.check(out),
            1 if self.pinned.len() < 3 => {
                self.pinned.push(self.view.clone());
                Ok(())
            }
            _ if self.pinned.is_empty() => Ok(()),
            2 => check_view(&self.pinned[0], out.model, out.rng),
            _ => {
                let view = self.pinned.swap_remove(0);
                check_view(&view, out.model, out.rng)
            }
        }
    }

    /// Everything that can be asked is as the model says.
    pub fn check(&mut self, out: &mut Outside<'_>) -> Done {
        out.counters.checks += 1;
        check_store(&self.store, &self.view, out.model, out.replay, out.rng)
    }

    fn pass_time(&mut self, out: &mut Outside<'_>) {
        self.now += Duration::from_millis(out.rng.between(1, 100) as u64);
        self.log.handle_timeout(self.now);
        self.inputs.push(Input::Tick);
        self.want_segments();
        // A marker is a write of its own, which nothing else announces.
        if self.log.is_idle() && !out.disk.log.is_writing() {
            self.submit(out);
        }
    }

    /// For a report: what it waits for.
    pub fn describe(&self) -> String {
        format!(
            "log stuck {} idle {} queued {} preparing {:?}, checkpoint {:?}, {} inputs, {} committed, {:?}",
            self.log.is_stuck(),
            self.log.is_idle(),
            self.log.queued_bytes(),
            self.preparing,
            self.checkpoint_phase(),
            self.inputs.len(),
            self.committed.len(),
            self.node.status(),
        )
    }

    /// Nothing is left to do and nothing was forgotten.
    pub fn check_settled(&self, out: &Outside<'_>) -> Done {
        same("applied in the end", self.view.applied().index, out.model.last())?;
        same("durable in the end", out.model.durable, out.model.last())?;
        same("proposals without an answer", self.commands.len(), 0)
    }
}
