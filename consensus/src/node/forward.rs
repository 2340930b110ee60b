//! Proposals: into the own log, or to the leader, and what became of them.
//!
//! A follower forwards what is proposed to it, as one [`Forward`] per turn, and forgets it: the entry has the request's id
//! in its bytes and is recognised when it commits. The edge may repeat a forward as it
//! is. raft's own forwarding is not used, because a repeated message would append its entries a second time.
//!
//! The leader takes a forward once. What it has taken in its term it remembers by (member, start of its process) and
//! sequence; a leader that restarts can't lead that term again, so nobody else needs to know. A refusal says that the
//! proposals will never be appended, so one is sent only for a forward that was certainly not taken before: one of a term
//! after this process began, whose sequence is new. Others are dropped in silence.
//!
//! An entry with a name (one proposed here) that another leader's entry replaces is not lost yet: a third leader may still
//! hold the first entry and commit it. Its name is kept until something is committed at its index, or an entry of a later term
//! before it: terms never go down in a log, so none that has the one can have the other.

use std::collections::{BTreeMap, VecDeque};

use super::*;
use crate::message::{Forward, ForwardRefused};

/// Starts of one member's process that are told apart in one term. Beyond, the one that was heard first is forgotten: by then
/// it is long over, and so are the connections on which it could have repeated something. (With 4 of them the simulator found
/// a repetition that came after five starts.)
const STARTS_MAX: usize = 64;

/// Proposals of this turn, and those already in raft that no Ready has shown yet.
#[derive(Default)]
pub(super) struct Queue {
    proposals: VecDeque<Proposal>,
    pub bytes: usize,
    conf_change: bool,
    stepped: VecDeque<Entry>,
}

impl Queue {
    /// Proposals that raft has not been given yet.
    pub fn len(&self) -> usize {
        self.proposals.len()
    }
}

struct Proposal {
    id: ProposalId,
    kind: EntryKind,
    data: Bytes,
    /// Who has forwarded it.
    origin: Option<Origin>,
}

/// One start of another member's process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Origin {
    node: NodeId,
    boot_nonce: u64,
}

/// Forwards of both directions.
pub(super) struct Forwards {
    /// The last one sent.
    sequence: u64,
    /// A forward of this term or an earlier one may have been taken by the process before this one.
    term_at_start: Term,
    /// The last sequence of each start of each member's process in this term, in the order in which they were heard first.
    term: Term,
    taken: BTreeMap<NodeId, VecDeque<(u64, u64)>>,
    /// Refusals of this turn.
    refused: BTreeMap<Origin, Vec<(ProposalId, DropReason)>>,
}

impl Forwards {
    pub fn new(term_at_start: Term) -> Forwards {
        let (taken, refused) = (BTreeMap::new(), BTreeMap::new());
        Forwards { sequence: 0, term_at_start, term: term_at_start, taken, refused }
    }

    /// Whether this forward was certainly never taken before. Then it counts as taken.
    fn take(&mut self, origin: Origin, forward: &Forward) -> bool {
        if forward.term <= self.term_at_start || forward.term < self.term {
            return false;
        }
        if forward.term > self.term {
            self.term = forward.term;
            self.taken.clear();
        }
        let starts = self.taken.entry(origin.node).or_default();
        match starts.iter_mut().find(|(boot_nonce, _)| *boot_nonce == origin.boot_nonce) {
            Some((_, last)) if forward.sequence <= *last && !planted::is("forward-taken-twice") => {
                return false;
            }
            Some((_, last)) => *last = forward.sequence,
            None => {
                starts.push_back((origin.boot_nonce, forward.sequence));
                if starts.len() > STARTS_MAX {
                    starts.pop_front();
                }
            }
        }
        true
    }
}

/// Where a proposal goes.
enum Path {
    Append,
    Forward(NodeId),
    Nowhere(DropReason),
}

impl Node {
    /// Takes a proposal of this member.
    pub(super) fn enqueue(&mut self, id: ProposalId, kind: EntryKind, data: Bytes, out: &mut Vec<Output>) {
        match self.refusal(kind, data.len()) {
            Some(reason) => out.push(Output::ProposalDropped(id, reason)),
            None => self.queue.push(Proposal { id, kind, data, origin: None }),
        }
    }

    pub(super) fn receive_forward(&mut self, from: NodeId, forward: Forward) {
        let origin = Origin { node: from, boot_nonce: forward.boot_nonce };
        if self.raft.raft.prs().get(from.0).is_none() || !self.forwards.take(origin, &forward) {
            return;
        }
        let not_here = match self.path() {
            Path::Append if self.raft.raft.term == forward.term.0 => None,
            Path::Append => Some(DropReason::LeaderChanged),
            Path::Forward(leader) => Some(DropReason::NotLeader(leader)),
            Path::Nowhere(reason) => Some(reason),
        };
        for (id, kind, data) in forward.proposals {
            match not_here.or_else(|| self.refusal(kind, data.len())) {
                Some(reason) => self.forwards.refused.entry(origin).or_default().push((id, reason)),
                None => self.queue.push(Proposal { id, kind, data, origin: Some(origin) }),
            }
        }
    }

    pub(super) fn receive_refusal(&mut self, refusal: ForwardRefused, out: &mut Vec<Output>) {
        if refusal.boot_nonce == self.config.boot_nonce {
            let refused = refusal.refused.into_iter();
            out.extend(refused.map(|(id, reason)| Output::ProposalDropped(id, reason)));
        }
    }

    fn refusal(&self, kind: EntryKind, len: usize) -> Option<DropReason> {
        let path = self.path();
        if let Path::Nowhere(reason) = path {
            return Some(reason);
        }
        if len > self.config.entry_bytes_max {
            return Some(DropReason::TooLarge);
        }
        let names = self.lost.len() * std::mem::size_of::<Entry>();
        let waiting = self.raft.store().unapplied_bytes() + self.queue.bytes + names;
        let cost = len + std::mem::size_of::<Entry>();
        if waiting > 0 && waiting + cost > self.config.proposal_bytes_limit {
            return Some(DropReason::TooManyRequests);
        }
        // Whether one is pending, only the leader can tell.
        let pending = self.queue.conf_change || matches!(path, Path::Append) && self.conf_change_is_pending();
        (kind == EntryKind::ConfChange && pending).then_some(DropReason::ConfChangePending)
    }

    /// raft would replace a second change by an empty entry without telling, so it never gets one.
    fn conf_change_is_pending(&self) -> bool {
        self.raft.store().first_conf_change().is_some() || self.raft.raft.has_pending_conf()
    }

    fn path(&self) -> Path {
        let raft = &self.raft.raft;
        match raft.state {
            StateRole::Leader if raft.lead_transferee.is_some() => Path::Nowhere(DropReason::LeaderTransfer),
            StateRole::Leader => Path::Append,
            _ if raft.leader_id == raft::INVALID_ID => Path::Nowhere(DropReason::NoLeader),
            _ => Path::Forward(NodeId(raft.leader_id)),
        }
    }

    /// Sends the queue where it belongs now; a message of the same turn may have changed that since it was filled.
    pub(super) fn propose_all(&mut self, out: &mut Vec<Output>) {
        while !self.queue.proposals.is_empty() {
            match self.path() {
                Path::Append => {
                    self.append_some(out);
                    self.drain(out);
                }
                Path::Forward(leader) => self.forward_all(leader, out),
                Path::Nowhere(reason) => {
                    for proposal in self.queue.take() {
                        self.drop_proposal(proposal.id, proposal.origin, reason, out);
                    }
                }
            }
        }
        for (origin, refused) in std::mem::take(&mut self.forwards.refused) {
            let message =
                PeerMessage::ForwardRefused(ForwardRefused { boot_nonce: origin.boot_nonce, refused });
            self.hold(Promise::Term, Envelope { to: origin.node, message: Box::new(message) }, out);
        }
    }

    /// Gives raft the next [`Config::append_bytes`] of the queue as one proposal.
    fn append_some(&mut self, out: &mut Vec<Output>) {
        let mut position = self.raft.store().last();
        position.term = Term(self.raft.raft.term);
        let mut stubs = Vec::with_capacity(self.queue.proposals.len());
        let mut bytes = 0;
        let mut pending = self.conf_change_is_pending();
        while bytes < self.config.append_bytes
            && let Some(proposal) = self.queue.pop()
        {
            let Proposal { id, kind, data, origin } = proposal;
            if kind == EntryKind::ConfChange && std::mem::replace(&mut pending, true) {
                self.drop_proposal(id, origin, DropReason::ConfChangePending, out);
                continue;
            }
            position.index.0 += 1;
            stubs.push(stub(kind, LogPosition::default()));
            let LogPosition { index, term } = position;
            let entry = Entry { index, term, kind, data, proposal: origin.is_none().then_some(id) };
            bytes += entry.cost_bytes();
            self.queue.stepped.push_back(entry);
        }
        if stubs.is_empty() {
            return;
        }
        let mut message = RaftMessage { from: self.config.id.0, entries: stubs, ..Default::default() };
        message.set_msg_type(MessageType::MsgPropose);
        // A leader is a member (it steps down when it is removed), has no transferee (see `path`) and no limit of bytes.
        self.raft.step(message).expect("raft appends what a leader proposes");
    }

    fn drop_proposal(
        &mut self,
        id: ProposalId,
        origin: Option<Origin>,
        reason: DropReason,
        out: &mut Vec<Output>,
    ) {
        match origin {
            None => out.push(Output::ProposalDropped(id, reason)),
            Some(origin) => self.forwards.refused.entry(origin).or_default().push((id, reason)),
        }
    }

    fn forward_all(&mut self, leader: NodeId, out: &mut Vec<Output>) {
        let mut proposals = Vec::new();
        let mut bytes = 0;
        for Proposal { id, kind, data, origin } in self.queue.take() {
            if origin.is_some() {
                self.drop_proposal(id, origin, DropReason::NotLeader(leader), out);
                continue;
            }
            bytes += data.len() + std::mem::size_of::<Entry>();
            proposals.push((id, kind, data));
            if bytes >= self.config.append_bytes {
                self.forward(leader, std::mem::take(&mut proposals), out);
                bytes = 0;
            }
        }
        if !proposals.is_empty() {
            self.forward(leader, proposals, out);
        }
    }

    fn forward(&mut self, to: NodeId, proposals: Vec<(ProposalId, EntryKind, Bytes)>, out: &mut Vec<Output>) {
        self.forwards.sequence += 1;
        let message = PeerMessage::Forward(Forward {
            term: Term(self.raft.raft.term),
            boot_nonce: self.config.boot_nonce,
            sequence: self.forwards.sequence,
            proposals,
        });
        self.hold(Promise::Term, Envelope { to, message: Box::new(message) }, out);
    }

    /// The whole entry for a stub that raft shows for the first time.
    pub(super) fn whole_entry(&mut self, stub: &Stub) -> Entry {
        let position = stub_position(stub);
        if self.queue.stepped.front().is_some_and(|entry| entry.position() == position) {
            return self.queue.stepped.pop_front().expect("it was there");
        }
        let kind = match stub.get_entry_type() {
            raft::eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            _ => EntryKind::ConfChange,
        };
        // Without bytes: the entry with which this leader opens its term.
        let data = self.received.get(&(stub.index, stub.term)).cloned().unwrap_or_default();
        let proposal = self.lost.remove(&position);
        Entry { index: position.index, term: position.term, kind, data, proposal }
    }

    /// Remembers the names of entries that have left the log.
    pub(super) fn note_replaced(&mut self) {
        let replaced = self.raft.mut_store().take_replaced();
        self.lost.extend(replaced);
    }

    /// Something is committed up to here: entries that were replaced there, or behind it in an earlier term, are lost for good; or, if
    /// a snapshot says so, nobody here knows.
    pub(super) fn drop_lost(&mut self, committed: LogPosition, reason: DropReason, out: &mut Vec<Output>) {
        self.lost.retain(|at, name| {
            let is_lost = at.index <= committed.index || at.term < committed.term;
            if is_lost {
                out.push(Output::ProposalDropped(*name, reason));
            }
            !is_lost
        });
    }
}

impl Queue {
    fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.cost_bytes();
        self.conf_change |= proposal.kind == EntryKind::ConfChange;
        self.proposals.push_back(proposal);
    }

    fn pop(&mut self) -> Option<Proposal> {
        let proposal = self.proposals.pop_front()?;
        self.bytes -= proposal.cost_bytes();
        self.conf_change &= !self.proposals.is_empty();
        Some(proposal)
    }

    fn take(&mut self) -> VecDeque<Proposal> {
        (self.bytes, self.conf_change) = (0, false);
        std::mem::take(&mut self.proposals)
    }
}

impl Proposal {
    fn cost_bytes(&self) -> usize {
        self.data.len() + std::mem::size_of::<Entry>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_forward_is_taken_once_however_often_members_start() {
        let forward = |term, boot_nonce, sequence| Forward {
            term: Term(term),
            boot_nonce,
            sequence,
            proposals: Vec::new(),
        };
        let origin = |node, boot_nonce| Origin { node: NodeId(node), boot_nonce };
        let mut forwards = Forwards::new(Term(4));
        // member, term, start of its process, sequence, taken
        let cases = [
            (1, 4, 7, 1, false), // the process before this one may have taken it
            (1, 5, 7, 1, true),
            (1, 5, 7, 2, true),
            (1, 5, 7, 1, false),
            (1, 5, 7, 2, false),
            (1, 5, 7, 3, true),
            (1, 5, 8, 1, true), // it has started anew
            (1, 5, 7, 3, false),
            (2, 5, 7, 3, true), // another member
        ];
        for case in cases {
            let (node, term, boot_nonce, sequence, taken) = case;
            let forward = forward(term, boot_nonce, sequence);
            assert_eq!(forwards.take(origin(node, boot_nonce), &forward), taken, "{case:?}");
        }
        // One member starts over and over; what the other repeats is still known.
        for boot_nonce in 100..1000 {
            assert!(forwards.take(origin(3, boot_nonce), &forward(5, boot_nonce, 1)));
            assert!(!forwards.take(origin(3, boot_nonce), &forward(5, boot_nonce, 1)));
        }
        assert!(!forwards.take(origin(2, 7), &forward(5, 7, 3)));
        assert_eq!(forwards.taken[&NodeId(3)].len(), STARTS_MAX);
        assert!(forwards.take(origin(1, 7), &forward(6, 7, 4)), "a new term");
        assert!(!forwards.take(origin(2, 7), &forward(5, 7, 9)), "an old one");
    }
}
