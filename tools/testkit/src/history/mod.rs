//! Histories: what clients asked of a cluster under faults, what they were told, and whether that can have been one store.
//!
//! A [`Trial`] drives a cluster from outside: clients that read and write a few shared keys through all members, and a
//! witness per member that watches everything. When it is asked, it compares all of that with the events that the
//! cluster gives for its whole past ([`judge`]).

mod judge;
mod load;
mod trial;
mod witness;

pub use judge::{Verdict, judge};
pub use load::Chance;
pub use trial::Trial;

use std::time::Instant;

/// A key as a read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The revision that wrote it.
    pub mod_revision: i64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that made it.
    pub revision: i64,
    /// The key.
    pub key: String,
    /// What was put; `None`: it was deleted.
    pub value: Option<String>,
}

/// What a client asks. No two writes of a trial write the same value, so that an event names its writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A Put.
    Put {
        /// Where.
        key: String,
        /// What.
        value: String,
    },
    /// A Txn: if the key has this mod revision (0: it is not there), put, otherwise read it.
    Swap {
        /// Where.
        key: String,
        /// The mod revision it must have.
        expected: i64,
        /// What.
        value: String,
    },
    /// A Txn without a condition: delete a key, and put a value that tells this deletion from others to `mark`.
    Delete {
        /// What goes.
        key: String,
        /// Where the value is put.
        mark: String,
        /// The value.
        value: String,
    },
    /// A Range of one key (`end` empty) or of the keys from `key` to before `end`.
    Read {
        /// The first key.
        key: String,
        /// Where it ends.
        end: String,
        /// Whether the member answers from its own state.
        serializable: bool,
    },
}

impl Ask {
    /// The value it writes, if it writes.
    pub fn value(&self) -> Option<&str> {
        match self {
            Ask::Put { value, .. } | Ask::Swap { value, .. } | Ask::Delete { value, .. } => Some(value),
            Ask::Read { .. } => None,
        }
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was written, in this revision.
    Written(i64),
    /// The swap's condition did not hold: the revision, and the key as it was.
    NotSwapped(i64, Option<Row>),
    /// What was there in this revision.
    Read(i64, Vec<Row>),
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Op {
    /// The client, which makes one call after the other.
    pub client: usize,
    /// The member that was asked, by its number.
    pub member: usize,
    /// The question.
    pub ask: Ask,
    /// When it was sent, or a little earlier.
    pub invoked: Instant,
    /// The answer and when it was there, or a little later. `None`: there is none, or an error. A write may then have happened,
    /// may still happen, or never.
    pub told: Option<(Instant, Told)>,
}
