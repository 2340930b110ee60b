//! Proposals on their way to another member that leads, kept until it is known what became of them.
//!
//! What a connection that breaks had not delivered is the end of what was sent on it. A leader takes a forward only if its
//! sequence is higher than all before ([`Forward`]), so everything that is still open is sent again, in the same order and
//! with the same sequences, on the next connection: what it has it leaves, what it lacks it takes. A message behind one that
//! could not be sent waits for that one.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::{Forward, PeerMessage};

/// Forwards to one member, in the order of their sequences.
pub struct Forwards {
    kept: VecDeque<Kept>,
    /// So many of `kept` were sent on the present connection.
    sent: usize,
    bytes: usize,
    bytes_max: usize,
}

struct Kept {
    since: Duration,
    bytes: usize,
    message: PeerMessage,
}

impl Forwards {
    /// None yet; so many bytes of proposals are kept, or one forward that is larger.
    pub fn new(bytes_max: usize) -> Forwards {
        Forwards { kept: VecDeque::new(), sent: 0, bytes: 0, bytes_max }
    }

    /// One more at `now`. At the bound it is not kept, and so lost.
    pub fn push(&mut self, now: Duration, forward: &Forward) {
        let bytes = forward.proposals.iter().map(|(_, _, data)| data.len()).sum();
        if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
            return;
        }
        self.bytes += bytes;
        self.kept.push_back(Kept { since: now, bytes, message: PeerMessage::Forward(forward.clone()) });
    }

    /// There is a new connection: all is to be sent on it.
    pub fn start_over(&mut self) {
        self.sent = 0;
    }

    /// Sends what was not sent yet, as long as `send` takes it.
    ///
    /// # Errors
    /// That of the first which it did not take.
    pub fn send<E>(&mut self, mut send: impl FnMut(&PeerMessage) -> Result<(), E>) -> Result<(), E> {
        while let Some(next) = self.kept.get(self.sent) {
            send(&next.message)?;
            self.sent += 1;
        }
        Ok(())
    }

    /// Forgets what is no more open, and what came before `then`: nobody waits for that. Only the oldest are looked at,
    /// because they commit in their order.
    pub fn forget(&mut self, then: Duration, open: impl Fn(&Forward) -> bool) {
        while let Some(oldest) = self.kept.front() {
            let PeerMessage::Forward(forward) = &oldest.message else { return };
            if oldest.since >= then && open(forward) {
                return;
            }
            self.bytes -= oldest.bytes;
            self.kept.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use consensus::{EntryKind, ProposalId, Term};

    use super::*;

    const BYTES_MAX: usize = 1000;

    fn forward(sequence: u64, len: usize) -> Forward {
        let proposal = (ProposalId(sequence), EntryKind::Normal, Bytes::from(vec![0; len]));
        Forward { term: Term(3), boot_nonce: 1, sequence, proposals: vec![proposal] }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Sends as many as `room` allows: their sequences.
    fn sent(forwards: &mut Forwards, room: usize) -> Vec<u64> {
        let mut sent = Vec::new();
        let _ = forwards.send(|message| {
            let PeerMessage::Forward(forward) = message else { panic!("only forwards are kept") };
            if sent.len() == room {
                return Err(());
            }
            sent.push(forward.sequence);
            Ok(())
        });
        sent
    }

    #[test]
    fn all_that_is_open_goes_again_in_order_on_the_next_connection() {
        let mut forwards = Forwards::new(BYTES_MAX);
        for sequence in 1..=4 {
            forwards.push(at(sequence), &forward(sequence, 10));
        }
        assert_eq!(sent(&mut forwards, 2), [1, 2]);
        assert_eq!(sent(&mut forwards, 0), [0; 0]);
        forwards.push(at(5), &forward(5, 10));
        assert_eq!(sent(&mut forwards, 9), [3, 4, 5], "behind what could not be sent");
        assert_eq!(sent(&mut forwards, 9), [0; 0], "once on one connection");
        forwards.forget(at(0), |forward| forward.sequence > 2);
        forwards.start_over();
        assert_eq!(sent(&mut forwards, 9), [3, 4, 5]);
        forwards.forget(at(4), |_| true);
        forwards.start_over();
        assert_eq!(sent(&mut forwards, 9), [4, 5], "nobody waits for an older one");
    }

    #[test]
    fn what_is_forgotten_before_it_was_sent_moves_nothing_else() {
        let mut forwards = Forwards::new(BYTES_MAX);
        for sequence in 1..=3 {
            forwards.push(at(sequence), &forward(sequence, 10));
        }
        assert_eq!(sent(&mut forwards, 1), [1]);
        forwards.forget(at(0), |forward| forward.sequence > 2);
        assert_eq!(sent(&mut forwards, 9), [3]);
    }

    #[test]
    fn the_bound_is_of_bytes_and_lets_one_large_forward_in() {
        let mut forwards = Forwards::new(BYTES_MAX);
        forwards.push(at(1), &forward(1, BYTES_MAX));
        forwards.push(at(1), &forward(2, 1));
        assert_eq!(sent(&mut forwards, 9), [1]);
        forwards.forget(at(0), |_| false);
        forwards.push(at(1), &forward(3, 1));
        assert_eq!(sent(&mut forwards, 9), [3]);
    }
}
