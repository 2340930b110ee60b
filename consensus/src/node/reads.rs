//! Linearizable reads: from a node's waiting reads to raft, and from raft's answers to the readers.

use super::*;
use crate::read_index::Waiter;

impl Node {
    /// A follower asks this member, as it takes it for the leader.
    pub(super) fn receive_read_index(&mut self, from: NodeId, message: &RaftMessage) {
        let raft = &self.raft.raft;
        let member = raft.prs().get(from.0).is_some();
        if let ([entry], true, StateRole::Leader) = (&message.entries[..], member, raft.state) {
            self.reads.push_peer(from, &entry.data);
        }
    }

    /// Begins an attempt for all that wait, if there is somebody to ask.
    pub(super) fn start_reads(&mut self) {
        let raft = &self.raft.raft;
        let (can_ask, leads) = match raft.state {
            StateRole::Leader => (raft.commit_to_current_term(), Some(Term(raft.term))),
            _ => (raft.leader_id != raft::INVALID_ID, None),
        };
        if can_ask && let Some(token) = self.reads.start(leads) {
            self.raft.read_index(token);
        }
    }

    /// raft has confirmed the attempt of `token`.
    pub(super) fn answer_reads(&mut self, token: &[u8], index: Index, out: &mut Vec<Output>) {
        for waiter in self.reads.confirmed(token) {
            let (peer, token) = match waiter {
                Waiter::Own(read) => {
                    out.push(Output::ReadReady(read, index));
                    continue;
                }
                Waiter::Peer(peer, token) => (peer, token),
            };
            let entry = Stub { data: token.to_vec(), ..Default::default() };
            let mut answer = RaftMessage {
                to: peer.0,
                from: self.config.id.0,
                term: self.raft.raft.term,
                index: index.0,
                entries: vec![entry],
                ..Default::default()
            };
            answer.set_msg_type(MessageType::MsgReadIndexResp);
            self.hold(Promise::Term, Envelope::raft(answer, Vec::new()), out);
        }
    }
}
