//! What real processes told their machines, replayed: a trace of any of them, known by what it begins with.
//!
//! Each machine has a format of its own, documented where it is written: the consensus node ([`consensus::trace`]), the raft core
//! around it ([`raft_core::trace`](crate::raft_core::trace)), the store core ([`store_core::trace`](crate::store_core::trace)). They
//! have their frames in common ([`consensus::trace::frames`]).

use consensus::trace as node;

use crate::raft_core::trace as raft;
use crate::store_core::trace as store;

pub(crate) mod bytes;

pub use consensus::trace::TraceError;

/// What a replay has compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// A consensus node.
    Node(node::Replayed),
    /// A raft core.
    Raft(raft::Replayed),
    /// A store core.
    Store(store::Replayed),
}

impl Replayed {
    /// Calls of the machine, and its outputs, all the same.
    pub fn calls_and_outputs(&self) -> (u64, u64) {
        match self {
            Replayed::Node(replayed) => (replayed.calls, replayed.outputs),
            Replayed::Raft(replayed) => (replayed.calls, replayed.outputs),
            Replayed::Store(replayed) => (replayed.calls, replayed.outputs),
        }
    }

    /// The trace ends in the middle of a frame, as one of a killed process may.
    pub fn is_torn(&self) -> bool {
        match self {
            Replayed::Node(replayed) => replayed.torn,
            Replayed::Raft(replayed) => replayed.torn,
            Replayed::Store(replayed) => replayed.torn,
        }
    }
}

/// Takes a trace in pieces and tells it to a machine of its kind.
#[derive(Default)]
pub struct Replay {
    magic: Vec<u8>,
    machine: Option<Machine>,
}

enum Machine {
    Node(Box<node::Replay>),
    Raft(Box<raft::Replay>),
    Store(Box<store::Replay>),
}

impl Replay {
    /// A whole trace.
    ///
    /// # Errors
    /// It is damaged, or the machine differs from the recorded one.
    ///
    /// # Panics
    /// As the machine, if what it is told breaks the rules of its inputs.
    pub fn all(trace: &[u8]) -> Result<Replayed, TraceError> {
        let mut replay = Replay::default();
        replay.push(trace)?;
        replay.finish()
    }

    /// The next bytes of a trace.
    ///
    /// # Errors
    /// See [`Replay::all`]; there is no going on.
    ///
    /// # Panics
    /// See [`Replay::all`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), TraceError> {
        if self.machine.is_none() {
            let size = bytes.len().min(node::MAGIC.len() - self.magic.len());
            self.magic.extend_from_slice(&bytes[..size]);
            bytes = &bytes[size..];
            if self.magic.len() < node::MAGIC.len() {
                return Ok(());
            }
            let mut machine = match &self.magic[..] {
                magic if magic == node::MAGIC => Machine::Node(Box::default()),
                magic if magic == raft::MAGIC => Machine::Raft(Box::default()),
                magic if magic == store::MAGIC => Machine::Store(Box::default()),
                _ => return Err(TraceError::NotATrace),
            };
            machine.push(&self.magic)?;
            self.machine = Some(machine);
        }
        self.machine.as_mut().map_or(Ok(()), |machine| machine.push(bytes))
    }

    /// The end of the trace.
    ///
    /// # Errors
    /// It has not even begun.
    pub fn finish(self) -> Result<Replayed, TraceError> {
        match self.machine.ok_or(TraceError::NotATrace)? {
            Machine::Node(replay) => replay.finish().map(Replayed::Node),
            Machine::Raft(replay) => replay.finish().map(Replayed::Raft),
            Machine::Store(replay) => replay.finish().map(Replayed::Store),
        }
    }
}

impl Machine {
    fn push(&mut self, bytes: &[u8]) -> Result<(), TraceError> {
        match self {
            Machine::Node(replay) => replay.push(bytes),
            Machine::Raft(replay) => replay.push(bytes),
            Machine::Store(replay) => replay.push(bytes),
        }
    }
}
