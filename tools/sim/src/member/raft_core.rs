//! The raft core's turn: feeds `consensus::Node` and starts what it asks for.

use consensus::{DropReason, Entry, EntryKind, Index, Input, Lane, Output, PeerMessage, ProposalId, Role};
use node::cores::{Committed, ToStore, client_of};
use node::propose::Command;

use super::store_core::SERVER_VERSION;
use super::{Appended, Done, ForStore, LOST, Member, ToClient, ToRaft, node_id, node_number, note_votes};
use crate::env::{Env, Wake};
use crate::network::Letter;

impl Member {
    pub(super) fn raft_turn(&mut self, env: &mut Env) -> Done {
        // Read first: then the outcome of every configuration change up to there is in the inbox.
        let applied = Index(self.shared.applied);
        let mut outputs = Vec::new();
        for message in std::mem::take(&mut self.raft.inbox) {
            self.to_raft(env, message, &mut outputs)?;
        }
        if applied > self.raft.applied {
            self.raft.applied = applied;
            self.raft.node.step(Input::Applied(applied), &mut outputs);
        }
        self.raft.node.flush(&mut outputs);
        outputs.into_iter().try_for_each(|output| self.start_output(env, output))
    }

    fn to_raft(&mut self, env: &mut Env, message: ToRaft, outputs: &mut Vec<Output>) -> Done {
        let input = match message {
            ToRaft::Message(from, message) => match *message {
                message @ (PeerMessage::Request { .. } | PeerMessage::Response { .. }) => {
                    self.route(env, node_id(from), message);
                    return Ok(());
                }
                message => Input::Receive(node_id(from), Box::new(message)),
            },
            ToRaft::Propose(id, write) => {
                if self.raft.node.status().role.role == Role::Leader {
                    self.raft.commands.insert(id, (write.command, write.id));
                } else {
                    self.raft.forwarded.insert(self.now(env), write.id, id, write.command);
                    self.raft.forwarded_ids.insert(id, write.id);
                }
                Input::Propose(id, write.entry)
            }
            ToRaft::ReadIndex(read) => Input::ReadIndex(read),
            ToRaft::Durable(ready) => Input::Durable(ready),
            ToRaft::ConfChange(index, change) => {
                self.raft.conf_at = self.raft.conf_at.max(index);
                Input::ApplyConfChange(index, change)
            }
            ToRaft::ProposeConfChange(id, change) => {
                let now = self.now(env);
                self.raft.conf_changes.proposed(now, id, &change);
                if self.raft.node.status().role.role != Role::Leader {
                    self.raft.forwarded.insert(now, change.id, id, Command::Nothing);
                }
                Input::ProposeConfChange(id, change)
            }
            ToRaft::TransferLeader(id, to) => {
                self.raft.transfers.push((id, to));
                Input::TransferLeader(Some(to))
            }
            ToRaft::Members(members, removed) => {
                self.peers.set_members(members, &removed);
                return Ok(());
            }
            ToRaft::ToPeer(to, message) => return self.send_to_peer(env, to, message),
            ToRaft::LogStartsAt(index) => Input::LogStartsAt(index),
            ToRaft::Fetched(peer, first, entries) => Input::Fetched(peer, first, entries),
            ToRaft::SnapshotPinned { peer, position, conf, view } => {
                self.raft.pinned.insert(peer, view);
                Input::SnapshotPinned { peer, position, conf }
            }
            ToRaft::SnapshotInstalled(ready) => Input::SnapshotInstalled(ready),
            ToRaft::SnapshotSent(to, ok) => Input::SnapshotSent(node_id(to), ok),
            ToRaft::Unreachable(to) => Input::Unreachable(node_id(to)),
            ToRaft::LogStalled(stalled) => Input::LogStalled(stalled),
            ToRaft::Checkpointed(index) => {
                self.log.log.checkpointed(index);
                self.wake(env, Wake::Log);
                let first = self.log.log.first_index();
                if first <= self.log.first_index {
                    return Ok(());
                }
                self.log.first_index = first;
                Input::LogStartsAt(first)
            }
        };
        self.raft.node.step(input, outputs);
        Ok(())
    }

    pub(super) fn tick(&mut self, env: &mut Env) -> Done {
        self.schedule_tick(env);
        let mut outputs = Vec::new();
        self.watch_log(env);
        self.tend_peers(env)?;
        self.raft.node.step(Input::Tick, &mut outputs);
        outputs.into_iter().try_for_each(|output| self.start_output(env, output))?;
        self.raft_turn(env)
    }

    /// A leader whose disk does not answer for two election timeouts hands over.
    fn watch_log(&mut self, env: &mut Env) {
        let waited = self.log.writing_since.map_or(0, |since| env.queue.now() - since);
        let stalled = waited >= 2 * env.config.election();
        if stalled != self.log.is_stalled {
            self.log.is_stalled = stalled;
            self.ask_raft(env, ToRaft::LogStalled(stalled));
        }
    }

    /// Due times are start + n × interval; those that are over are skipped, for a burst of ticks would look like silence
    /// of the leader.
    pub(super) fn schedule_tick(&mut self, env: &mut Env) {
        let interval = env.true_span(self.number, std::time::Duration::from_nanos(env.config.tick)).max(1);
        let since = env.queue.now() - self.booted;
        self.tick_due = (self.tick_due + 1).max(since / interval + 1);
        let at = self.booted + self.tick_due * interval;
        env.queue.at(at, crate::env::Event::Wake(self.number, self.life, Wake::Tick));
    }

    fn start_output(&mut self, env: &mut Env, output: Output) -> Done {
        match output {
            Output::Append(append) => {
                let places = append.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect();
                let (ready, hard_state, reset) = (append.ready, append.hard_state, append.reset);
                if reset.is_some() {
                    env.oracle.raft.resets(self.number);
                }
                self.log.appends.push_back(Appended { ready, places, hard_state, reset });
                self.log.log.append(append);
                self.wake(env, Wake::Log);
            }
            Output::Commit(entries) => self.commit(env, entries)?,
            Output::SingleVoter(index) => self.shared.single_voter = index,
            Output::ProposalDropped(id, reason) => self.dropped(env, id, reason)?,
            Output::Role(change) => {
                self.shared.term = change.term.0;
                self.shared.leader = change.leader.map_or(0, |leader| leader.0);
                let leader = change.role == Role::Leader;
                if leader {
                    env.oracle.leads(self.number, change.term.0, self.raft.conf_at.0)?;
                }
                self.tell(env, || {
                    format!("{:?} in term {}, leader {:?}", change.role, change.term, change.leader)
                });
                self.led_by(env, change.leader);
                let (leads, term, leader) = (leader, change.term, change.leader);
                self.tell_store(env, ToStore::Leadership { leads, term, leader });
                if leads {
                    let known = Some(SERVER_VERSION.to_owned());
                    self.tell_store(env, ToStore::Versions(vec![known]));
                }
            }
            Output::ReadReady(read, index) => match client_of(ProposalId(read.0)) {
                Some(_) => self.to_client(env, ToClient::ReadIndex(read, Some(index))),
                None => self.tell_store(env, ToStore::ReadIndex(read, Some(index))),
            },
            Output::ReadDropped(read) => match client_of(ProposalId(read.0)) {
                Some(_) => self.to_client(env, ToClient::ReadIndex(read, None)),
                None => self.tell_store(env, ToStore::ReadIndex(read, None)),
            },
            Output::Send(envelope) if envelope.message.lane() == Lane::Snapshot => {
                self.send_snapshot(env, envelope.to, envelope.message)?;
            }
            Output::Send(envelope) => self.send(env, envelope.to, envelope.message)?,
            Output::Fetch(fetch) => self.fetch(env, fetch),
            Output::SnapshotWanted(peer) => self.tell_store(env, ToStore::PinSnapshot(peer)),
            Output::SnapshotUnwanted(peer) => drop(self.raft.pinned.remove(&peer)),
            Output::InstallSnapshot(install) => self.install(env, install)?,
            Output::SnapshotIgnored(position) => self.ignore_snapshot(position),
            Output::AcknowledgedLost { acknowledged, last } => {
                let what = format!("entry {acknowledged} was acknowledged, the log ends at {last:?}");
                return crate::check::fail(LOST, what);
            }
            Output::ConfState(_) => {}
        }
        Ok(())
    }

    pub(super) fn send(&mut self, env: &mut Env, to: consensus::NodeId, message: Box<PeerMessage>) -> Done {
        note_votes(env, self.number, &message)?;
        if self.peers.knows(to) {
            env.send(Letter { from: self.id(), to: node_number(to), message, snapshot: None });
        }
        Ok(())
    }

    fn commit(&mut self, env: &mut Env, entries: Vec<Entry>) -> Done {
        env.oracle.committed(env.queue.now(), self.number, &entries)?;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            let (first, last) = (first.index.0, last.index.0);
            self.shared.commit = last;
            env.trace(last << 8 | self.number as u64);
            self.tell(env, || format!("commits {first}..={last}"));
        }
        let batch = entries.into_iter().map(|mut entry| {
            if let Some((command, _)) = entry.proposal.and_then(|id| self.raft.commands.remove(&id)) {
                return Committed { entry, command: Some(command) };
            }
            let own = self.raft.forwarded.take(&entry);
            if let Some((id, _)) = &own {
                self.raft.forwarded_ids.remove(id);
                entry.proposal = Some(*id);
            }
            let is_change = entry.kind == EntryKind::ConfChange;
            if let (Some(id), true) = (entry.proposal, is_change) {
                self.raft.conf_changes.over(id);
            }
            Committed { entry, command: own.map(|(_, command)| command).filter(|_| !is_change) }
        });
        let batch = batch.collect();
        self.tell_store(env, ToStore::Commit(batch));
        Ok(())
    }

    fn dropped(&mut self, env: &mut Env, id: ProposalId, reason: DropReason) -> Done {
        if reason == DropReason::ConfChangePending && self.raft.conf_changes.refused(id) {
            return Ok(());
        }
        self.raft.conf_changes.over(id);
        let kept = self.raft.commands.remove(&id).map(|(_, entry)| entry);
        let entry = kept.or_else(|| self.raft.forwarded_ids.remove(&id));
        if let (Some(entry), true) = (entry, reason != DropReason::OutcomeUnknown) {
            env.oracle.raft.dropped(entry);
        }
        match client_of(id) {
            Some(_) => self.to_client(env, ToClient::Dropped(id, reason)),
            None => self.tell_store(env, ToStore::Dropped(id)),
        }
        Ok(())
    }

    pub(super) fn tell_store(&mut self, env: &mut Env, message: ToStore) {
        self.to_store(env, ForStore::Core(message));
    }

    pub(super) fn to_client(&mut self, env: &mut Env, message: ToClient) {
        self.client.inbox.push_back(message);
        self.wake(env, Wake::Client);
    }

    pub(super) fn ask_raft(&mut self, env: &mut Env, message: ToRaft) {
        self.raft.inbox.push_back(message);
        self.wake(env, Wake::Raft);
    }

    pub(super) fn tell(&self, env: &mut Env, what: impl FnOnce() -> String) {
        let (now, number, life) = (env.queue.now(), self.number, self.life);
        env.story.tell(now, || format!("member {number}.{life}"), what);
    }
}
