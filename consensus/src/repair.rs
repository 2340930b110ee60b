//! A member whose log is damaged: it votes where that is safe, until a snapshot makes it whole.
//!
//! Such a member has acknowledged entries that it can't produce any more. Others may count on them: an entry that it and the
//! leader held was committed. If it began anew with what is left, or with nothing, it could help to elect a leader
//! without that entry. So it keeps, durably, what it has promised: the newest term, its vote in that term, and the
//! *floor*, the end of the log that it may have acknowledged. It runs no raft node (raft would panic at the next commit);
//! this [`Voter`] answers in its place:
//!
//! - It never campaigns.
//! - It grants a vote or a pre-vote only to a candidate whose log reaches the floor, which is what it would have done with
//!   its log whole.
//! - It answers heartbeats, in a durable term: that this member has promised nobody else a newer term is still true, so a
//!   leader may count it for its office and for reads.
//! - It accepts no entries. To an append it answers that it wants a snapshot: one that ends at or beyond the floor, in the
//!   order of (term, index), and at or beyond what the leader counts on. A leader that takes it for complete appends nothing
//!   while nothing is written; so now and then a heartbeat is answered with the same wish.
//! - With that snapshot on disk, and its position reported to the log by a reset, it is an ordinary member again.
//!
//! While a majority is in this state nobody can be elected, and nothing is lost by waiting: that is the halt which is
//! wanted, as no majority can prove what was committed. Of two voters one is no minority: if its
//! floor lies beyond what the other knows to be committed, that one has to commit more before any snapshot is enough, and
//! commits nothing alone.
//!
//! # Without its newest votes a member is not repaired
//!
//! Where the store has applied more than the newest intact header of the log knows ([`Survey::is_whole`]), headers are
//! lost, and with them terms, a vote and acknowledged entries, nobody knows how many. No promise can be made of the rest:
//!
//! - Not voting is not enough. Say that this member has followed X in term 8, that the two have committed entries, and that
//!   its disk now knows of term 5 only. A leader of term 7 who has not heard of X would be answered: that confirms its
//!   reads, its snapshot covers the floor that is left, and what this member then stores for it would be committed in the
//!   place of X's entries.
//! - To count the term of the leader whose snapshot is taken as one voted in closes the terms up to that one. The lost vote
//!   may be in a later term, whose candidate may still count it together with a vote that this member gives to another.
//! - Were a majority of the others to say, after the damage, that they follow a leader, then nobody had been elected with
//!   this member's help in a later term, and nothing acknowledged in one. But a candidate of a later term may be the member
//!   that was not asked, and the vote that it holds may still elect it.
//!
//! So such a member gets no [`Promise`]. It is removed and added again: the new member has promised nothing to anybody.

use raft::eraftpb::{Message as RaftMessage, MessageType};

use crate::log::Survey;
use crate::node::is_sound;
use crate::{ConfState, Envelope, HardState, Index, Lane, LogPosition, Message, NodeId, PeerMessage, Term};

/// What a member under repair must not forget.
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0 | 8 | magic `RINGDREP` |
/// | 8 | 4 | format version, 1 |
/// | 12 | 4 | 1; a member that had promised not to vote wrote 0, which is refused |
/// | 16 | 8 | cluster id |
/// | 24 | 8 | member id |
/// | 32 | 8 | term |
/// | 40 | 8 | vote in that term; 0 for nobody |
/// | 48 | 8 | floor: index |
/// | 56 | 8 | floor: term |
/// | 64 | 4 | CRC-32 of bytes 0 to 63 |
///
/// All numbers are little-endian. It is replaced whole: written to a file of another name, synced, renamed, the directory
/// synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Whose.
    pub identity: crate::log::Identity,
    /// The newest term, and the vote in it.
    pub term: Term,
    /// See `term`; zero for nobody.
    pub vote: NodeId,
    /// The end of the log that may have been acknowledged.
    pub floor: LogPosition,
}

/// Length of a [`Promise`] in bytes.
pub const PROMISE_LEN: usize = 68;

const MAGIC: [u8; 8] = *b"RINGDREP";
const VERSION: u32 = 1;
const KNOWS_ITS_VOTE: u32 = 1;

/// The bytes are no promise, or not of a version that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidPromise;

impl Promise {
    /// What a damaged log and the store say. `applied` is what the store has applied in its last checkpoint. `None` where
    /// the log doesn't tell the newest term and the vote in it: such a member can't be repaired.
    pub fn of(identity: crate::log::Identity, survey: &Survey, applied: LogPosition) -> Option<Promise> {
        if !survey.is_whole(applied) {
            return None;
        }
        let HardState { term, vote, .. } = survey.hard_state;
        let by_term = |position: &LogPosition| (position.term, position.index);
        let floor = [survey.last, applied].into_iter().max_by_key(by_term).expect("there are two");
        Some(Promise { identity, term: term.max(floor.term), vote, floor })
    }

    /// The bytes of the file.
    pub fn encode(&self) -> [u8; PROMISE_LEN] {
        let mut out = [0; PROMISE_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&KNOWS_ITS_VOTE.to_le_bytes());
        let crate::log::Identity { cluster, member } = self.identity;
        let LogPosition { index, term } = self.floor;
        let numbers = [cluster, member.0, self.term.0, self.vote.0, index.0, term.0];
        for (to, number) in out[16..64].chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&out[..64]);
        out[64..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<Promise, InvalidPromise> {
        let bytes: &[u8; PROMISE_LEN] = bytes.try_into().map_err(|_| InvalidPromise)?;
        let short = |at: usize| {
            let bytes: [u8; 4] = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes)
        };
        let wide = |at: usize| {
            let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let sound = bytes.starts_with(&MAGIC)
            && short(8) == VERSION
            && short(12) == KNOWS_ITS_VOTE
            && short(64) == crc32fast::hash(&bytes[..64]);
        if !sound {
            return Err(InvalidPromise);
        }
        Ok(Promise {
            identity: crate::log::Identity { cluster: wide(16), member: NodeId(wide(24)) },
            term: Term(wide(32)),
            vote: NodeId(wide(40)),
            floor: LogPosition::new(wide(48), wide(56)),
        })
    }
}

/// What can happen to a voter.
#[derive(Clone, Debug)]
pub enum VoterInput {
    /// A tick of the clock has passed.
    Tick,
    /// A peer has said something. A message with a snapshot comes when the snapshot is whole and durable.
    Receive(NodeId, Box<PeerMessage>),
    /// The last [`VoterOutput::Persist`], and all before it, are durable.
    Durable,
    /// A snapshot of a peer is here and is being made durable, which may take long: no other is asked for. `Receive` with its
    /// message ends this, or `SnapshotUnusable`.
    SnapshotArrived,
    /// The snapshot that had arrived is of no use.
    SnapshotUnusable,
}

/// What a voter asks of the world.
#[derive(Clone, Debug, PartialEq)]
pub enum VoterOutput {
    /// Make this durable, in place of what was there.
    Persist(Promise),
    /// To a peer.
    Send(Envelope),
    /// This snapshot ends the repair. Write `hard_state` and a reset at `position` to an empty log, replace the store, then
    /// forget the promise, and start a [`Node`](crate::Node) from that. The voter says nothing more.
    Install {
        /// What the snapshot covers.
        position: LogPosition,
        /// The members as of there.
        conf: ConfState,
        /// What the new log begins with.
        hard_state: HardState,
    },
    /// This snapshot is older than what has been acknowledged.
    SnapshotIgnored(LogPosition),
}

/// Stands in for a node.
#[derive(Debug)]
pub struct Voter {
    promise: Promise,
    election_ticks: usize,
    /// The leader of the term, and the ticks since it was heard.
    leader: Option<(NodeId, usize)>,
    /// A snapshot must reach at least up to here, as a leader has said that this member holds it. The floor is no such index:
    /// a snapshot of a later term covers it wherever it ends, for what lay beyond was never committed.
    wanted: Index,
    /// Ticks since the leader of the term was asked for a snapshot; `None` if it was not.
    asked: Option<usize>,
    /// Whether a snapshot is being made durable.
    importing: bool,
    /// Whether the promise is on its way to disk, and what waits for it.
    unwritten: usize,
    held: Vec<RaftMessage>,
    done: bool,
}

impl Voter {
    /// Goes on from a durable promise. `election_ticks` is [`Config::election_ticks`](crate::Config::election_ticks).
    pub fn new(promise: Promise, election_ticks: usize) -> Voter {
        Voter {
            promise,
            election_ticks,
            leader: None,
            wanted: Index(1),
            asked: None,
            importing: false,
            unwritten: 0,
            held: Vec::new(),
            done: false,
        }
    }

    /// What has been promised so far.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// Takes one event.
    pub fn step(&mut self, input: VoterInput, out: &mut Vec<VoterOutput>) {
        if self.done {
            return;
        }
        match input {
            VoterInput::Tick => {
                if let Some((_, ticks)) = &mut self.leader {
                    *ticks += 1;
                }
                self.asked = self.asked.map(|ticks| ticks + 1);
            }
            VoterInput::SnapshotArrived => self.importing = true,
            VoterInput::SnapshotUnusable => (self.importing, self.asked) = (false, Some(0)),
            VoterInput::Durable => {
                self.unwritten = self.unwritten.saturating_sub(1);
                self.send_held(out);
            }
            VoterInput::Receive(from, message) => {
                self.importing &= message.lane() != Lane::Snapshot; // whatever becomes of it
                if let PeerMessage::Raft(Message { raft, .. }) = *message
                    && raft.from == from.0
                    && raft.to == self.promise.identity.member.0
                    && is_sound(&raft)
                {
                    self.receive(raft, out);
                    self.send_held(out);
                }
            }
        }
    }

    fn receive(&mut self, message: RaftMessage, out: &mut Vec<VoterOutput>) {
        use MessageType::*;
        let kind = message.get_msg_type();
        let of_leader = matches!(kind, MsgAppend | MsgHeartbeat | MsgSnapshot);
        if of_leader && message.term < self.promise.term.0 {
            // It has been deposed and may not know.
            self.answer(&message, MsgAppendResponse, |_| {});
            return;
        }
        if of_leader {
            self.move_to(Term(message.term), out);
            self.leader = Some((NodeId(message.from), 0));
        }
        match kind {
            MsgRequestPreVote => self.receive_pre_vote(&message),
            MsgRequestVote => self.receive_vote(&message, out),
            MsgHeartbeat => {
                self.wanted = self.wanted.max(Index(message.commit));
                let context = message.context.clone();
                self.answer(&message, MsgHeartbeatResponse, |answer| answer.context = context);
                // Not with each: a wish that comes after the snapshot has left asks for another.
                if self.asked.is_none_or(|ticks| ticks >= self.election_ticks) {
                    // The leader takes a wish below what it counts on for an old one.
                    self.ask_for_snapshot(&message, LogPosition::new(message.commit, 0));
                }
            }
            MsgAppend => {
                self.ask_for_snapshot(&message, LogPosition::new(message.index, message.log_term));
            }
            MsgSnapshot => self.receive_snapshot(&message, out),
            _ => {}
        }
    }

    fn receive_pre_vote(&mut self, message: &RaftMessage) {
        if self.hears_a_leader() {
            return;
        }
        let grant = message.term > self.promise.term.0 && self.reaches_floor(message);
        let term = if grant { message.term } else { self.promise.term.0 };
        self.answer(message, MessageType::MsgRequestPreVoteResponse, |answer| {
            (answer.term, answer.reject) = (term, !grant);
        });
    }

    fn receive_vote(&mut self, message: &RaftMessage, out: &mut Vec<VoterOutput>) {
        // raft's mark of a candidate whom the leader itself has asked to stand.
        let is_transfer = message.context == b"CampaignTransfer";
        if message.term < self.promise.term.0 || self.hears_a_leader() && !is_transfer {
            return;
        }
        self.move_to(Term(message.term), out);
        let from = NodeId(message.from);
        let free = self.promise.vote == from || self.promise.vote == NodeId(0) && self.leader.is_none();
        let grant = free && self.reaches_floor(message);
        if grant && self.promise.vote != from {
            self.promise.vote = from;
            self.persist(out);
        }
        self.answer(message, MessageType::MsgRequestVoteResponse, |answer| answer.reject = !grant);
    }

    /// Whether a leader was heard within an election timeout: then no election is listened to, as raft does it.
    fn hears_a_leader(&self) -> bool {
        self.leader.is_some_and(|(_, ticks)| ticks < self.election_ticks)
    }

    /// Whether a candidate's log holds all that this member may have acknowledged.
    fn reaches_floor(&self, candidate: &RaftMessage) -> bool {
        let floor = self.promise.floor;
        let reaches = (candidate.log_term, candidate.index) >= (floor.term.0, floor.index.0);
        reaches || planted::is("repair-votes-below-floor")
    }

    /// Entries have no place here; with this answer raft's leader turns to a snapshot.
    fn ask_for_snapshot(&mut self, leader: &RaftMessage, refused: LogPosition) {
        if self.importing {
            return;
        }
        self.asked = Some(0);
        let wanted = self.wanted.0;
        let (index, log_term) = (refused.index.0, refused.term.0);
        self.answer(leader, MessageType::MsgAppendResponse, |answer| {
            (answer.index, answer.reject, answer.reject_hint) = (index, true, index);
            (answer.log_term, answer.request_snapshot) = (log_term, wanted);
        });
    }

    fn receive_snapshot(&mut self, message: &RaftMessage, out: &mut Vec<VoterOutput>) {
        let metadata = message.get_snapshot().get_metadata();
        let position = LogPosition::new(metadata.index, metadata.term);
        let floor = self.promise.floor;
        let reaches =
            position.index >= self.wanted && (position.term, position.index) >= (floor.term, floor.index);
        if !reaches {
            self.asked = Some(0);
            out.push(VoterOutput::SnapshotIgnored(position));
            return;
        }
        let Promise { term, vote, .. } = self.promise;
        let hard_state = HardState { term, vote, commit: position.index };
        let conf = crate::cache::from_raft_conf(metadata.get_conf_state());
        self.done = true;
        self.held.clear();
        out.push(VoterOutput::Install { position, conf, hard_state });
    }

    fn move_to(&mut self, term: Term, out: &mut Vec<VoterOutput>) {
        if term > self.promise.term {
            (self.promise.term, self.promise.vote) = (term, NodeId(0));
            (self.leader, self.asked) = (None, None);
            self.persist(out);
        }
    }

    fn persist(&mut self, out: &mut Vec<VoterOutput>) {
        self.unwritten += 1;
        out.push(VoterOutput::Persist(self.promise));
    }

    fn answer(&mut self, to: &RaftMessage, kind: MessageType, fill: impl FnOnce(&mut RaftMessage)) {
        let (from, term) = (self.promise.identity.member.0, self.promise.term.0);
        let mut answer = RaftMessage { from, to: to.from, term, ..Default::default() };
        answer.set_msg_type(kind);
        fill(&mut answer);
        // What is said twice while the disk is busy needs to be heard once.
        self.held.retain(|held| (held.to, held.msg_type) != (answer.to, answer.msg_type));
        self.held.push(answer);
    }

    /// Everything said reveals a term, and waits until that is durable.
    fn send_held(&mut self, out: &mut Vec<VoterOutput>) {
        if self.unwritten == 0 {
            let held = std::mem::take(&mut self.held);
            out.extend(held.into_iter().map(|raft| VoterOutput::Send(Envelope::raft(raft, Vec::new()))));
        }
    }
}

#[cfg(test)]
mod tests;
