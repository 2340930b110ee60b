//! Read index: linearizable reads that write nothing to the log (Raft thesis, 6.4).
//!
//! A read must take the commit index of a leader that is confirmed *after* the read arrived. So reads wait here until
//! an attempt starts; one that arrives while an attempt is under way shares the next one, never the running one.
//!
//! Each attempt carries a token that is never used again. raft matches answers to reads by these bytes alone and confirms
//! every earlier read with the matched one, so with a repeated token a late heartbeat answer of the first use would
//! confirm reads that began after newer writes. So:
//!
//! - A follower's token is (member id, boot nonce, counter), and it travels no further than the leader.
//! - The leader steps a token of its own, (term, counter), which no other leader and no other attempt can have. Reads of its
//!   own and of its followers share it if they waited when the attempt began; the answers go out under the
//!   followers' tokens.
//! - A follower's token that is not newer than the last one from the same process is a duplicate, and dropped.
//!
//! raft drops a read silently when there is no leader to ask, or when the leader has committed nothing in its own term. The
//! first is prevented by waiting, the second by the leader's waiting; and messages get lost. So an attempt has a
//! deadline and is retried under a new token.

use std::collections::BTreeMap;

use crate::{NodeId, ReadId, Term};

/// Length of a follower's token in bytes.
const TOKEN_LEN: usize = 24;

/// A follower's token.
pub(crate) type Token = [u8; TOKEN_LEN];

/// Who waits for a read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiter {
    /// A read of this member.
    Own(ReadId),
    /// A follower's attempt.
    Peer(NodeId, Token),
}

/// Reads without an answer.
pub(crate) struct Reads {
    node: NodeId,
    boot_nonce: u64,
    counter: u64,
    waiting: Vec<Waiter>,
    attempt: Option<Attempt>,
    /// The last token of each peer: boot nonce and counter.
    seen: BTreeMap<NodeId, (u64, u64)>,
}

struct Attempt {
    token: Vec<u8>,
    waiters: Vec<Waiter>,
    age_ticks: u32,
}

impl Reads {
    pub fn new(node: NodeId, boot_nonce: u64) -> Reads {
        let (waiting, attempt, seen) = (Vec::new(), None, BTreeMap::new());
        Reads { node, boot_nonce, counter: 0, waiting, attempt, seen }
    }

    /// A read has arrived.
    pub fn push(&mut self, read: ReadId) {
        self.waiting.push(Waiter::Own(read));
    }

    /// A member asks this leader. Only its newest attempt counts; a duplicate of an earlier one is dropped.
    pub fn push_peer(&mut self, from: NodeId, token: &[u8]) {
        let Ok(token) = Token::try_from(token) else { return };
        let number = |at: usize| {
            let bytes: [u8; 8] = token[at..at + 8].try_into().expect("eight bytes of a token");
            u64::from_be_bytes(bytes)
        };
        let (member, nonce, counter) = (number(0), number(8), number(16));
        let seen = self.seen.get(&from).is_some_and(|&last| last.0 == nonce && counter <= last.1);
        if member != from.0 || seen {
            return;
        }
        self.seen.insert(from, (nonce, counter));
        self.waiting.retain(|waiter| !matches!(waiter, Waiter::Peer(peer, _) if *peer == from));
        self.waiting.push(Waiter::Peer(from, token));
    }

    /// Reads without an answer.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.attempt.as_ref().map_or(0, |attempt| attempt.waiters.len())
    }

    /// Starts an attempt for all that wait, unless one is under way or nobody waits. Gives its token: a leader's is made of
    /// the term that it leads.
    pub fn start(&mut self, leads: Option<Term>) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.attempt.is_some() {
            return None;
        }
        if !planted::is("read-token-reused") {
            self.counter += 1;
        }
        let token = match leads {
            Some(term) => [term.0, self.counter].map(u64::to_be_bytes).concat(),
            None => [self.node.0, self.boot_nonce, self.counter].map(u64::to_be_bytes).concat(),
        };
        let waiters = std::mem::take(&mut self.waiting);
        self.attempt = Some(Attempt { token: token.clone(), waiters, age_ticks: 0 });
        Some(token)
    }

    /// An attempt was confirmed. Gives those who waited; none if the token is not that of the running attempt.
    pub fn confirmed(&mut self, token: &[u8]) -> Vec<Waiter> {
        let attempt = self.attempt.take_if(|attempt| attempt.token == token);
        attempt.map(|attempt| attempt.waiters).unwrap_or_default()
    }

    /// One tick has passed. An attempt as old as `ticks_max` is given up; its own reads wait for the next. (Peers have
    /// deadlines of their own.)
    pub fn tick(&mut self, ticks_max: u32) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.age_ticks += 1;
        if let Some(attempt) = self.attempt.take_if(|attempt| attempt.age_ticks >= ticks_max) {
            let own = attempt.waiters.into_iter().filter(|waiter| matches!(waiter, Waiter::Own(_)));
            self.waiting.splice(..0, own);
        }
    }

    /// The leader is lost, and no other is known: whoever asked it waits for the next one, and asks that under a new token.
    /// (etcd v3_server.go: only a new leader fails reads; without one they wait until their time is over.)
    pub fn retreat(&mut self) {
        let asked = self.fail_attempt();
        self.waiting.splice(..0, asked.into_iter().map(Waiter::Own));
    }

    /// Another member leads: whoever asked the old one learns nothing from it. Gives the own reads that fail; those of
    /// peers are forgotten, they see the change themselves.
    pub fn fail_attempt(&mut self) -> Vec<ReadId> {
        self.waiting.retain(|waiter| matches!(waiter, Waiter::Own(_)));
        let waiters = self.attempt.take().map(|attempt| attempt.waiters).unwrap_or_default();
        let own = waiters.into_iter().filter_map(|waiter| match waiter {
            Waiter::Own(read) => Some(read),
            Waiter::Peer(..) => None,
        });
        own.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads() -> Reads {
        Reads::new(NodeId(1), 77)
    }

    fn own(ids: impl IntoIterator<Item = u64>) -> Vec<Waiter> {
        ids.into_iter().map(|id| Waiter::Own(ReadId(id))).collect()
    }

    #[test]
    fn a_read_never_shares_an_attempt_that_began_before_it() {
        let mut reads = reads();
        reads.push(ReadId(1));
        let first = reads.start(None).unwrap();
        reads.push(ReadId(2));
        assert_eq!(reads.start(None), None, "one at a time");
        assert_eq!(reads.confirmed(&first), own([1]));
        let second = reads.start(None).unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.confirmed(&first), [], "a late answer to the first token confirms nobody");
        assert_eq!(reads.confirmed(&second), own([2]));
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn an_attempt_given_up_is_retried_under_a_new_token_in_order() {
        let mut reads = reads();
        reads.push(ReadId(1));
        let first = reads.start(None).unwrap();
        reads.push(ReadId(2));
        reads.tick(2);
        assert_eq!(reads.start(None), None);
        reads.tick(2);
        let second = reads.start(None).unwrap();
        assert_eq!(reads.confirmed(&first), []);
        assert_eq!(reads.confirmed(&second), own([1, 2]));
    }

    #[test]
    fn reads_outlive_the_leader_they_asked_but_not_its_replacement() {
        let mut reads = reads();
        let mut peer = Reads::new(NodeId(2), 9);
        peer.push(ReadId(1));
        reads.push_peer(NodeId(2), &peer.start(None).unwrap());
        reads.push(ReadId(1));
        let first = reads.start(Some(Term(5))).unwrap();
        reads.push(ReadId(2));
        reads.retreat();
        assert_eq!(reads.confirmed(&first), [], "what the lost leader says comes too late");
        let second = reads.start(None).unwrap();
        assert_ne!(first, second);
        reads.push(ReadId(3));
        assert_eq!(reads.fail_attempt(), [ReadId(1), ReadId(2)], "the peer sees the change itself");
        let third = reads.start(None).unwrap();
        assert_eq!(reads.confirmed(&third), own([3]), "it had asked nobody yet");
    }

    #[test]
    fn tokens_of_two_boots_members_and_terms_differ() {
        let token = |node, nonce, leads| {
            let mut reads = Reads::new(NodeId(node), nonce);
            reads.push(ReadId(1));
            reads.start(leads).unwrap()
        };
        let all = [
            token(1, 1, None),
            token(1, 2, None),
            token(2, 1, None),
            token(1, 1, Some(Term(5))),
            token(1, 1, Some(Term(6))),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != one), "{one:?}");
        }
    }

    #[test]
    fn a_leader_takes_each_attempt_of_a_peer_once_and_answers_it_with_its_own() {
        let mut follower = Reads::new(NodeId(2), 9);
        let mut attempt = || {
            follower.fail_attempt();
            follower.push(ReadId(1));
            follower.start(None).unwrap()
        };
        let (first, second) = (attempt(), attempt());
        let mut leader = reads();
        leader.push(ReadId(7));
        leader.push_peer(NodeId(2), &first);
        leader.push_peer(NodeId(2), &second);
        leader.push_peer(NodeId(2), &second);
        leader.push_peer(NodeId(2), &first);
        leader.push_peer(NodeId(3), &second);
        leader.push_peer(NodeId(2), b"short");
        assert_eq!(leader.len(), 2, "the newest of member 2, beside the own read");
        let token = leader.start(Some(Term(5))).unwrap();
        assert!(token != first && token != second);
        let newest = Waiter::Peer(NodeId(2), second.clone().try_into().unwrap());
        assert_eq!(leader.confirmed(&token), [Waiter::Own(ReadId(7)), newest]);
        // A copy that comes late starts nothing.
        leader.push_peer(NodeId(2), &second);
        assert_eq!(leader.len(), 0);
        assert_eq!(leader.start(Some(Term(5))), None);
    }
}
