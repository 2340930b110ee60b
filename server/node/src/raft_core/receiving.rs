//! A snapshot on its way in.
//!
//! ```text
//! received ─▶ store built beside the present one ─▶ raft's message stepped
//!   ─▶ raft takes it: the log begins anew (log core, durable) ─▶ renamed over the old store ─▶ store core
//! ```
//!
//! Each step is durable before the next begins. A process that ends in between finds at its start either the old log, and
//! throws the new store away, or the new log, and renames it.
//!
//! There is one place for the next store. A second snapshot that came meanwhile would take the place of the first under its
//! feet, so it is refused; its sender finds out and sends another one if that is still wanted.

use consensus::{Index, InstallSnapshot, ReadyNumber};

/// How far the snapshot has come.
pub(super) enum Receiving<T> {
    /// There is none.
    Nothing,
    /// Its store is being built.
    Importing,
    /// Raft was given its message. What it makes of it shows at the end of the turn, unless the node is still about to write
    /// the very first entries.
    Given { index: Index, store: T },
    /// Raft has taken it: the log is being made to begin anew.
    Log { install: InstallSnapshot, store: T },
    /// It is being renamed.
    Renaming { ready: ReadyNumber, store: T },
}

impl<T> Receiving<T> {
    /// Whether another one may be built.
    pub fn is_free(&self) -> bool {
        matches!(self, Receiving::Nothing)
    }

    /// Whether its store is being built.
    pub fn is_importing(&self) -> bool {
        matches!(self, Receiving::Importing)
    }

    /// Raft has taken a snapshot.
    ///
    /// # Panics
    /// If it was given none: its message is stepped with its store at hand only.
    pub fn taken(&mut self, install: InstallSnapshot) {
        match std::mem::replace(self, Receiving::Nothing) {
            Receiving::Given { index, store } if index == install.position.index => {
                *self = Receiving::Log { install, store };
            }
            _ => panic!("raft has taken a snapshot of {} that nobody holds", install.position.index),
        }
    }

    /// Raft has refused the snapshot of this index. It may say so of a second one that is equal to the one it has taken.
    pub fn refused(&mut self, refused: Index) -> Option<T> {
        match std::mem::replace(self, Receiving::Nothing) {
            Receiving::Given { index, store } if index == refused => Some(store),
            other => {
                *self = other;
                None
            }
        }
    }

    /// A turn has ended without a word about what was given in it, so raft has not taken it.
    pub fn ignored(&mut self) -> Option<T> {
        match std::mem::replace(self, Receiving::Nothing) {
            Receiving::Given { store, .. } => Some(store),
            other => {
                *self = other;
                None
            }
        }
    }

    /// The log is durable up to this Ready: whether the store is to follow, and under which number.
    pub fn durable(&mut self, durable: ReadyNumber) -> Option<ReadyNumber> {
        match std::mem::replace(self, Receiving::Nothing) {
            Receiving::Log { install, store } if install.ready <= durable => {
                let ready = install.ready;
                *self = Receiving::Renaming { ready, store };
                Some(ready)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// The store has its final name.
    pub fn renamed(&mut self, renamed: ReadyNumber) -> Option<T> {
        match std::mem::replace(self, Receiving::Nothing) {
            Receiving::Renaming { ready, store } if ready == renamed => Some(store),
            other => {
                *self = other;
                None
            }
        }
    }
}
