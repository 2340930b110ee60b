//! Linearizable reads of one core that wait: first for an index, then until the published version covers it.
//!
//! One question to the raft core is open at a time. A read that arrives meanwhile waits for the next question, because
//! an answer holds only for reads that began before it was asked for. Answers of one core never go back, so reads become
//! due in the order of their questions; where a new leader's index is lower than an older one, the order is kept anyway.

use std::collections::VecDeque;

use consensus::Index;
use rustc_hash::FxHashMap;

/// See the module's header. `T` is the read.
#[derive(Debug)]
pub struct LinearReads<T> {
    open: FxHashMap<u64, T>,
    /// Not asked for yet.
    unasked: Vec<u64>,
    /// The open question and the reads that wait for its answer.
    asked: Option<(u64, Vec<u64>)>,
    /// Which index each must see, ascending.
    confirmed: VecDeque<(Index, u64)>,
}

impl<T> Default for LinearReads<T> {
    fn default() -> Self {
        let (open, unasked) = (FxHashMap::default(), Vec::new());
        LinearReads { open, unasked, asked: None, confirmed: VecDeque::new() }
    }
}

impl<T> LinearReads<T> {
    /// A read has arrived under a number of the caller's that is not open. `index` is given where it is known without
    /// asking.
    pub fn push(&mut self, number: u64, read: T, index: Option<Index>) {
        self.open.insert(number, read);
        match index {
            Some(index) => self.insert(index, number),
            None => self.unasked.push(number),
        }
    }

    fn insert(&mut self, index: Index, number: u64) {
        let at = self.confirmed.partition_point(|(other, _)| *other <= index);
        self.confirmed.insert(at, (index, number));
    }

    /// Opens a question for all reads that have arrived since the last one, under a number of the caller's choice;
    /// `None` while one is open or nobody waits.
    pub fn ask(&mut self, number: impl FnOnce() -> u64) -> Option<u64> {
        if self.asked.is_some() || self.unasked.is_empty() {
            return None;
        }
        let question = number();
        self.asked = Some((question, std::mem::take(&mut self.unasked)));
        Some(question)
    }

    /// The question could not be put: its reads wait for the next.
    pub fn take_back(&mut self) {
        if let Some((_, mut reads)) = self.asked.take() {
            reads.append(&mut self.unasked);
            self.unasked = reads;
        }
    }

    /// The question's answer. That of another question is ignored.
    pub fn confirm(&mut self, question: u64, index: Index) {
        for number in self.answered(question) {
            if self.open.contains_key(&number) {
                self.insert(index, number);
            }
        }
    }

    /// The question got no answer and never will: gives its reads, which fail.
    pub fn fail(&mut self, question: u64) -> Vec<T> {
        let numbers = self.answered(question);
        numbers.iter().filter_map(|number| self.open.remove(number)).collect()
    }

    fn answered(&mut self, question: u64) -> Vec<u64> {
        match self.asked.take() {
            Some((asked, reads)) if asked == question => reads,
            other => {
                self.asked = other;
                Vec::new()
            }
        }
    }

    /// The next read that a version up to `applied` may answer.
    pub fn pop_covered(&mut self, applied: Index) -> Option<T> {
        loop {
            let (index, number) = *self.confirmed.front()?;
            // Reads that were given up leave their place behind.
            if index > applied && self.open.contains_key(&number) {
                return None;
            }
            self.confirmed.pop_front();
            if let Some(read) = self.open.remove(&number) {
                return Some(read);
            }
        }
    }

    /// Whether the read of this number waits.
    pub fn is_open(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    /// Whether the read of this number waits for an index, not for the version that covers it. Looks at all of them: for
    /// those whose deadline has passed.
    pub fn awaits_index(&self, number: u64) -> bool {
        let asked = self.asked.as_ref().is_some_and(|(_, reads)| reads.contains(&number));
        self.open.contains_key(&number) && (asked || self.unasked.contains(&number))
    }

    /// Gives up a read (its deadline has passed).
    pub fn remove(&mut self, number: u64) -> Option<T> {
        self.open.remove(&number)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_takes_the_answer_to_a_question_asked_after_it_came() {
        let mut reads = LinearReads::default();
        reads.push(1, "first", None);
        assert_eq!(reads.ask(|| 100), Some(100));
        reads.push(2, "second", None);
        assert_eq!(reads.ask(|| 101), None, "one question at a time");
        reads.confirm(100, Index(7));
        assert_eq!(reads.pop_covered(Index(6)), None);
        assert_eq!(reads.pop_covered(Index(7)), Some("first"));
        assert_eq!(reads.pop_covered(Index(7)), None, "the second has no index yet");
        assert_eq!(reads.ask(|| 101), Some(101));
        reads.confirm(100, Index(1));
        assert_eq!(reads.pop_covered(Index(9)), None, "an answer to an old question confirms nobody");
        reads.confirm(101, Index(9));
        assert_eq!(reads.pop_covered(Index(9)), Some("second"));
        assert!(reads.is_empty());
    }

    #[test]
    fn known_indexes_and_asked_ones_become_due_in_the_order_of_indexes() {
        let mut reads = LinearReads::default();
        reads.push(1, 'a', None);
        reads.ask(|| 100);
        reads.push(2, 'b', Some(Index(5)));
        reads.confirm(100, Index(3));
        assert_eq!(reads.pop_covered(Index(4)), Some('a'));
        assert_eq!(reads.pop_covered(Index(4)), None);
        assert_eq!(reads.pop_covered(Index(5)), Some('b'));
    }

    #[test]
    fn what_fails_or_is_given_up_is_given_back_once() {
        let mut reads = LinearReads::default();
        reads.push(1, 'a', None);
        reads.push(2, 'b', None);
        assert!(reads.awaits_index(1));
        reads.ask(|| 100);
        assert!(reads.awaits_index(1) && !reads.awaits_index(7));
        assert_eq!(reads.remove(1), Some('a'));
        assert!(!reads.awaits_index(1));
        assert_eq!(reads.remove(1), None);
        assert_eq!(reads.fail(99), []);
        assert_eq!(reads.fail(100), ['b']);
        reads.push(3, 'c', Some(Index(1)));
        reads.push(4, 'd', Some(Index(2)));
        reads.remove(3);
        assert_eq!(reads.pop_covered(Index(0)), None);
        assert_eq!(reads.pop_covered(Index(2)), Some('d'));
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn a_question_that_could_not_be_put_is_put_again_with_all_reads() {
        let mut reads = LinearReads::default();
        reads.push(1, 'a', None);
        reads.ask(|| 100);
        reads.push(2, 'b', None);
        reads.take_back();
        assert_eq!(reads.ask(|| 101), Some(101));
        reads.confirm(101, Index(1));
        assert_eq!((reads.pop_covered(Index(1)), reads.pop_covered(Index(1))), (Some('a'), Some('b')));
    }
}
