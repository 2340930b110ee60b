//! The raft core's shell: an inbox, the simulator's clock, network and disk around [`node::raft_core`], which decides
//! everything, as in the server. Checkers are told what comes by.

use std::time::Duration;

use bytes::Bytes;
use consensus::{
    Append, DropReason, Envelope, Index, Node, NodeId, PeerMessage, ProposalId, Role, RoleChange,
};
use engine::Store;
use node::cores::{Committed, FromLog, ToClient, ToLog, ToRaft, ToStore};
use node::raft_core::{Fatal, Input, Output, Shell};

use super::store_core::SERVER_VERSION;
use super::{Appended, Done, ForStore, LOST, Member, node_id, node_number, note_votes};
use crate::check::Failure;
use crate::env::{Env, Wake};
use crate::network::Letter;

/// A log device that takes longer for a write ends the process, as the server's main thread does it.
const LOG_STALL_MAX: Duration = Duration::from_secs(20);

/// What the raft core is made with here.
pub(super) struct Surroundings;

impl Shell for Surroundings {
    type Node = Node;
    type Received = Bytes;
    type Store = Box<Store>;
}

impl Member {
    pub(super) fn raft_turn(&mut self, env: &mut Env) -> Done {
        self.raft_turn_after(env, Vec::new())
    }

    /// A turn that begins with what a tick has brought about.
    fn raft_turn_after(&mut self, env: &mut Env, mut outputs: Vec<Output<Surroundings>>) -> Done {
        let now = self.now(env);
        // Read first: then the outcome of every configuration change up to there is in the inbox.
        let applied = Index(self.shared.applied);
        for input in std::mem::take(&mut self.raft.inbox) {
            self.note_input(&input);
            self.raft.core.handle(now, input, &mut outputs);
        }
        self.raft.core.applied(applied);
        self.raft.core.end_turn(now, &mut outputs);
        let mut leads_anew = false;
        for output in outputs {
            leads_anew |= matches!(&output, Output::Role(change) if change.role == Role::Leader);
            self.start_output(env, output)?;
        }
        if leads_anew {
            self.look_at_versions(env);
        }
        Ok(())
    }

    fn note_input(&mut self, input: &Input<Surroundings>) {
        match input {
            Input::Core(ToRaft::Propose(id, write)) => drop(self.raft.requests.insert(*id, write.id)),
            Input::Core(ToRaft::ConfChange(index, _)) => {
                self.raft.conf_at = self.raft.conf_at.max(*index);
            }
            _ => {}
        }
    }

    pub(super) fn tick(&mut self, env: &mut Env) -> Done {
        self.schedule_tick(env);
        let now = self.now(env);
        let waited = self.log.writing_since.map_or(0, |since| env.queue.now() - since);
        let log_waits = env.local_span(self.number, waited);
        if log_waits > LOG_STALL_MAX {
            let what = "the log device does not answer".to_owned();
            return Err(Failure { checker: "write-error", what });
        }
        let mut outputs = Vec::new();
        self.raft.core.tick(now, log_waits, &mut outputs);
        self.raft_turn_after(env, outputs)?;
        self.look_at_versions(env);
        self.forward_again(env);
        self.tend_peers(env)
    }

    fn look_at_versions(&mut self, env: &mut Env) {
        let (now, own) = (self.now(env), node_id(self.number));
        let peers = &self.peers;
        let greets = env.greets(); // elsewhere nobody says hello
        let version_of = |member| {
            let is_known = !greets || member == own || peers.active_for(member, now).is_some();
            is_known.then(|| SERVER_VERSION.to_owned())
        };
        if let Some(versions) = self.raft.core.look_at_versions(now, version_of) {
            self.tell_store(env, versions);
        }
    }

    /// Due times are start + n × interval; those that are over are skipped, for a burst of ticks would look like silence
    /// of the leader.
    pub(super) fn schedule_tick(&mut self, env: &mut Env) {
        let interval = env.true_span(self.number, Duration::from_nanos(env.config.tick)).max(1);
        let since = env.queue.now() - self.booted;
        self.tick_due = (self.tick_due + 1).max(since / interval + 1);
        let at = self.booted + self.tick_due * interval;
        env.queue.at(at, crate::env::Event::Wake(self.number, self.life, Wake::Tick));
    }

    fn start_output(&mut self, env: &mut Env, output: Output<Surroundings>) -> Done {
        match output {
            Output::Log(ToLog::Append(append)) => self.append(env, append)?,
            Output::Log(ToLog::Checkpointed(index)) => self.release_log(env, index),
            Output::Log(ToLog::Fetch(fetch)) => self.fetch(env, fetch),
            Output::Store(message) => self.start_for_store(env, message)?,
            Output::Client(_, message) => self.start_for_client(env, message),
            Output::Send(Envelope { to, message }) => self.send(env, to, message)?,
            Output::SendSnapshot { message, pinned } => self.send_snapshot(env, *message, *pinned)?,
            Output::Members => {
                self.peers.set_members(self.raft.core.members().to_vec(), self.raft.core.removed());
                for peer in self.peers.removed() {
                    env.part(self.number, node_number(peer));
                }
            }
            Output::Import { from, message, received } => self.begin_import(env, from, message, received),
            Output::Rename(ready) => self.begin_rename(env, ready),
            Output::Install { ready, store } => self.to_store(env, ForStore::Install(ready, store)),
            Output::Role(change) => self.role_changed(env, change)?,
            Output::SingleVoter(index) => self.shared.single_voter = index,
            Output::LogStalled(stalled) => {
                self.tell(env, || format!("its log device does not answer: {stalled}"));
            }
            Output::Fatal(fatal @ Fatal::AcknowledgedLost { .. }) => {
                return crate::check::fail(LOST, fatal.to_string());
            }
            // A snapshot on its way is not stopped, nothing is told at the peer port, and of what is not wanted only memory is
            // left.
            Output::CancelSnapshot(_)
            | Output::ClusterVersion(_)
            | Output::Discard(_)
            | Output::Unneeded(_) => {}
        }
        Ok(())
    }

    fn append(&mut self, env: &mut Env, append: Append) -> Done {
        let places = append.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect();
        let (ready, hard_state, reset) = (append.ready, append.hard_state, append.reset);
        if let Some(position) = reset {
            self.tell(env, || format!("takes the snapshot of entry {}", position.index));
            env.oracle.raft.resets(self.number);
            env.oracle.installs(self.number, position.index.0, position.term.0)?;
            self.raft.conf_at = position.index;
        }
        self.log.appends.push_back(Appended { ready, places, hard_state, reset });
        self.log.log.append(append);
        self.wake(env, Wake::Log);
        Ok(())
    }

    fn release_log(&mut self, env: &mut Env, index: Index) {
        self.log.log.checkpointed(index);
        self.wake(env, Wake::Log);
        let first = self.log.log.first_index();
        if first > self.log.first_index {
            self.log.first_index = first;
            self.tell_raft(env, Input::Log(FromLog::StartsAt(first)));
        }
    }

    fn role_changed(&mut self, env: &mut Env, change: RoleChange) -> Done {
        self.shared.term = change.term.0;
        self.shared.leader = change.leader.map_or(0, |leader| leader.0);
        if change.role == Role::Leader {
            env.oracle.leads(self.number, change.term.0, self.raft.conf_at.0)?;
        }
        self.tell(env, || format!("{:?} in term {}, leader {:?}", change.role, change.term, change.leader));
        Ok(())
    }

    pub(super) fn send(&mut self, env: &mut Env, to: NodeId, message: Box<PeerMessage>) -> Done {
        note_votes(env, self.number, &message)?;
        if let PeerMessage::Forward(forward) = &*message {
            let now = self.now(env);
            self.peers.forward(to, now, forward);
            self.send_forwards(env, to);
        } else if self.peers.knows(to) {
            env.send(Letter { from: self.id(), to: node_number(to), message, snapshot: None });
        }
        Ok(())
    }

    pub(super) fn send_forwards(&mut self, env: &mut Env, to: NodeId) {
        let from = self.id();
        self.peers.send_forwards(to, |message| {
            let message = Box::new(message.clone());
            env.send(Letter { from, to: node_number(to), message, snapshot: None })
        });
    }

    /// Once in an election timeout all connections are new: what was forwarded and may be lost is forwarded again. Where there
    /// are connections, that happens when there is one again.
    fn forward_again(&mut self, env: &mut Env) {
        let (now, core) = (self.now(env), &self.raft.core);
        self.peers.forget_forwards(core.forwards_since(now), |forward| core.wants_again(forward));
        self.ticks += 1;
        let are_new = self.ticks.is_multiple_of(env.config.election_ticks as u64);
        let are_there = env.config.http2.is_some();
        for peer in self.peers.known() {
            if are_new && !are_there {
                self.peers.reconnected(peer);
            }
            if are_new || are_there {
                self.send_forwards(env, peer);
            }
        }
    }

    fn start_for_store(&mut self, env: &mut Env, message: ToStore) -> Done {
        match &message {
            ToStore::Commit(batch) => self.commit(env, batch)?,
            ToStore::Dropped(id) => drop(self.raft.requests.remove(id)),
            _ => {}
        }
        self.tell_store(env, message);
        Ok(())
    }

    fn commit(&mut self, env: &mut Env, batch: &[Committed]) -> Done {
        let now = env.queue.now();
        env.oracle.committed(now, self.number, batch.iter().map(|committed| &committed.entry))?;
        if let (Some(first), Some(last)) = (batch.first(), batch.last()) {
            let (first, last) = (first.entry.index.0, last.entry.index.0);
            self.shared.commit = last;
            env.trace(last << 8 | self.number as u64);
            self.tell(env, || format!("commits {first}..={last}"));
        }
        for id in batch.iter().filter_map(|committed| committed.entry.proposal) {
            self.raft.requests.remove(&id);
        }
        Ok(())
    }

    fn start_for_client(&mut self, env: &mut Env, message: ToClient) {
        if let ToClient::Dropped(id, reason) = &message {
            self.note_dropped(env, *id, *reason);
        }
        self.to_client(env, message);
    }

    /// What was refused must never commit.
    fn note_dropped(&mut self, env: &mut Env, id: ProposalId, reason: DropReason) {
        let request = self.raft.requests.remove(&id);
        if let Some(request) = request.filter(|_| reason != DropReason::OutcomeUnknown) {
            env.oracle.raft.dropped(request);
        }
    }

    pub(super) fn tell_store(&mut self, env: &mut Env, message: ToStore) {
        self.to_store(env, ForStore::Core(message));
    }

    pub(super) fn to_client(&mut self, env: &mut Env, message: ToClient) {
        self.client.inbox.push_back(message);
        self.wake(env, Wake::Client);
    }

    pub(super) fn ask_raft(&mut self, env: &mut Env, message: ToRaft) {
        self.tell_raft(env, Input::Core(message));
    }

    pub(super) fn tell_raft(&mut self, env: &mut Env, input: Input<Surroundings>) {
        self.raft.inbox.push_back(input);
        self.wake(env, Wake::Raft);
    }

    pub(super) fn tell(&self, env: &mut Env, what: impl FnOnce() -> String) {
        let (now, number, life) = (env.queue.now(), self.number, self.life);
        env.story.tell(now, || format!("member {number}.{life}"), what);
    }
}
