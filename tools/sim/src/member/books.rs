//! How much a member remembers of what is under way.

use super::Member;

/// What a member remembers of things that others wait for, or that it waits for. All of it goes when everything is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// The consensus node: reads, proposals, messages, snapshots.
    pub node: usize,
    /// Bytes of entries that are not applied.
    pub unapplied_bytes: usize,
    /// The raft core: snapshots for peers and from them, transfers.
    pub raft: usize,
    /// Proposals whose outcome is not known.
    pub proposals: usize,
    /// The log: appends, reads, segments being prepared.
    pub log: usize,
    /// The store core: questions, answers, own proposals.
    pub store: usize,
    /// Calls of clients, and questions of other members.
    pub calls: usize,
    /// Reads that go on, and snapshots on their way to the disk.
    pub reads: usize,
}

impl Books {
    /// Everything but bytes.
    pub fn open(&self) -> usize {
        self.node + self.raft + self.proposals + self.log + self.store + self.calls + self.reads
    }
}

impl Member {
    /// What it remembers now.
    pub fn books(&self) -> Books {
        let node = self.raft.core.node();
        let log = &self.log;
        Books {
            node: node.books_open(),
            unapplied_bytes: node.status().unapplied_bytes,
            raft: self.raft.core.books_open(),
            proposals: self.raft.core.proposals_open(),
            log: log.appends.len() + log.fetches.len() + log.preparing.len(),
            store: self.store.core.books_open(),
            calls: self.client.calls().len(),
            reads: self.client.reads_open() + usize::from(self.snapshot.is_busy()),
        }
    }

    /// Streams and watchers that are open.
    pub fn watching(&self) -> (usize, usize) {
        let figures = self.client.hub.figures();
        (figures.streams, figures.watchers)
    }
}
