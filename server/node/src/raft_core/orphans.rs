//! Proposals that came while no leader was known. They wait for the next one, as etcd's do; after the time of a request
//! nobody waits for them any more.

use std::collections::VecDeque;
use std::time::Duration;

use consensus::ProposalId;

use crate::propose::Write;

/// See the module's header.
pub(super) struct Orphans {
    waiting: VecDeque<(Duration, ProposalId, Write)>,
    bytes: usize,
    bytes_max: usize,
}

impl Orphans {
    /// None yet; so many bytes of entries may wait, or one entry that is larger.
    pub fn new(bytes_max: usize) -> Orphans {
        Orphans { waiting: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// One more at `now`. Given back where there is no room for it.
    ///
    /// # Errors
    /// The bound is reached.
    pub fn push(&mut self, now: Duration, id: ProposalId, write: Write) -> Result<(), Write> {
        let bytes = write.entry.len();
        if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
            return Err(write);
        }
        self.bytes += bytes;
        self.waiting.push_back((now, id, write));
        Ok(())
    }

    /// The oldest, now that there is a leader.
    pub fn pop(&mut self) -> Option<(ProposalId, Write)> {
        let (_, id, write) = self.waiting.pop_front()?;
        self.bytes -= write.entry.len();
        Some((id, write))
    }

    /// Forgets what came before `then`; gives its names.
    pub fn forget_before(&mut self, then: Duration) -> Vec<ProposalId> {
        let mut forgotten = Vec::new();
        while self.waiting.front().is_some_and(|(since, ..)| *since < then) {
            forgotten.extend(self.pop().map(|(id, _)| id));
        }
        forgotten
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::propose::Command;

    const BYTES_MAX: usize = 1000;

    fn write(id: u64, len: usize) -> Write {
        Write { command: Command::Nothing, entry: Bytes::from(vec![0; len]), id }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn they_wait_in_order_and_not_for_ever() {
        let mut orphans = Orphans::new(BYTES_MAX);
        for id in 1..=3 {
            orphans.push(at(id), ProposalId(id), write(id, 10)).unwrap();
        }
        assert_eq!(orphans.forget_before(at(2)), [ProposalId(1)]);
        assert_eq!(orphans.pop().map(|(id, write)| (id.0, write.id)), Some((2, 2)));
        assert_eq!(orphans.len(), 1);
    }

    #[test]
    fn the_bound_is_of_bytes_and_lets_one_large_write_in() {
        let mut orphans = Orphans::new(BYTES_MAX);
        let large = 2 * BYTES_MAX;
        orphans.push(at(1), ProposalId(1), write(1, large)).unwrap();
        assert_eq!(orphans.push(at(1), ProposalId(2), write(2, 1)).map_err(|write| write.id), Err(2));
        orphans.pop();
        orphans.push(at(1), ProposalId(2), write(2, 1)).unwrap();
        assert!(!orphans.is_empty());
    }
}
