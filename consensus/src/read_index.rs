//! Read index: linearizable reads that write nothing to the log (Raft thesis, 6.4).
//!
//! A read must take the commit index of a leader that is confirmed *after* the read arrived. So reads wait here until
//! an attempt starts; one that arrives while an attempt is under way shares the next one, never the running one.
//!
//! Each attempt carries a token that is never used again: (member id, boot nonce, counter). raft matches answers to
//! reads by these bytes alone and confirms every earlier read with the matched one, so with a repeated token a late
//! heartbeat answer of the first use would confirm reads that began after newer writes.
//!
//! raft drops a read silently when there is no leader to ask, or when the leader has committed nothing in its own term.
//! The first is prevented here by waiting; for the second an attempt has a deadline and is retried under a new token.

use crate::{NodeId, ReadId};

/// Length of a token in bytes.
const TOKEN_LEN: usize = 24;

/// Reads without an answer.
pub(crate) struct Reads {
    node: NodeId,
    boot_nonce: u64,
    counter: u64,
    waiting: Vec<ReadId>,
    attempt: Option<Attempt>,
}

struct Attempt {
    counter: u64,
    reads: Vec<ReadId>,
    age_ticks: u32,
}

impl Reads {
    pub fn new(node: NodeId, boot_nonce: u64) -> Reads {
        Reads { node, boot_nonce, counter: 0, waiting: Vec::new(), attempt: None }
    }

    /// A read has arrived.
    pub fn push(&mut self, read: ReadId) {
        self.waiting.push(read);
    }

    /// Reads without an answer.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.attempt.as_ref().map_or(0, |attempt| attempt.reads.len())
    }

    /// Starts an attempt for all that wait, unless one is under way or nobody waits. Gives its token.
    pub fn start(&mut self) -> Option<Vec<u8>> {
        if self.waiting.is_empty() || self.attempt.is_some() {
            return None;
        }
        self.counter += 1;
        let reads = std::mem::take(&mut self.waiting);
        self.attempt = Some(Attempt { counter: self.counter, reads, age_ticks: 0 });
        Some(self.token(self.counter).to_vec())
    }

    /// An attempt was confirmed. Gives its reads; none if the token is not that of the running attempt.
    pub fn confirmed(&mut self, token: &[u8]) -> Vec<ReadId> {
        match &self.attempt {
            Some(attempt) if token == self.token(attempt.counter) => {
                self.attempt.take().map(|attempt| attempt.reads).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// One tick has passed. An attempt as old as `ticks_max` is given up; its reads wait for the next.
    pub fn tick(&mut self, ticks_max: u32) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.age_ticks += 1;
        if attempt.age_ticks >= ticks_max {
            let mut reads = self.attempt.take().map(|attempt| attempt.reads).unwrap_or_default();
            reads.append(&mut self.waiting);
            self.waiting = reads;
        }
    }

    /// The leader has changed: whoever asked the old one learns nothing from it. Gives the reads that fail.
    pub fn fail_attempt(&mut self) -> Vec<ReadId> {
        self.attempt.take().map(|attempt| attempt.reads).unwrap_or_default()
    }

    fn token(&self, counter: u64) -> [u8; TOKEN_LEN] {
        let mut token = [0; TOKEN_LEN];
        token[..8].copy_from_slice(&self.node.0.to_be_bytes());
        token[8..16].copy_from_slice(&self.boot_nonce.to_be_bytes());
        token[16..].copy_from_slice(&counter.to_be_bytes());
        token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads() -> Reads {
        Reads::new(NodeId(1), 77)
    }

    #[test]
    fn a_read_never_shares_an_attempt_that_began_before_it() {
        let mut reads = reads();
        reads.push(ReadId(1));
        let first = reads.start().unwrap();
        reads.push(ReadId(2));
        assert_eq!(reads.start(), None, "one at a time");
        assert_eq!(reads.confirmed(&first), [ReadId(1)]);
        let second = reads.start().unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.confirmed(&first), [], "a late answer to the first token confirms nobody");
        assert_eq!(reads.confirmed(&second), [ReadId(2)]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn an_attempt_given_up_is_retried_under_a_new_token_in_order() {
        let mut reads = reads();
        reads.push(ReadId(1));
        let first = reads.start().unwrap();
        reads.push(ReadId(2));
        reads.tick(2);
        assert_eq!(reads.start(), None);
        reads.tick(2);
        let second = reads.start().unwrap();
        assert_eq!(reads.confirmed(&first), []);
        assert_eq!(reads.confirmed(&second), [ReadId(1), ReadId(2)]);
    }

    #[test]
    fn tokens_of_two_boots_and_two_members_differ() {
        let token = |node, nonce| {
            let mut reads = Reads::new(NodeId(node), nonce);
            reads.push(ReadId(1));
            reads.start().unwrap()
        };
        assert_ne!(token(1, 1), token(1, 2));
        assert_ne!(token(1, 1), token(2, 1));
    }
}
