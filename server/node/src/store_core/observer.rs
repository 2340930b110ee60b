//! What the owner of a store core may want to count, to time or to log.

use std::time::Duration;

use consensus::{Entry, Index};
use engine::Store;
use engine::compact::Progress;

use crate::Answer;
use crate::api::Error;
use crate::auto_compact::Retention;
use crate::propose::Command;

/// Hears of what happens, at the moment at which it does. Nothing depends on it.
pub trait Observer {
    /// Committed entries are about to be applied.
    fn batch_begins(&mut self) {}
    /// One of them is. `command`: what its proposer on this member had decoded, if it was proposed here.
    fn entry_begins(&mut self, _command: Option<&Command>) {}
    /// It has been applied; not told of one that had been before.
    fn entry_applied(&mut self, _entry: &Entry, _result: &Result<Answer, Error>) {}
    /// All of the batch are.
    fn batch_ends(&mut self) {}
    /// A version is about to be published.
    fn publish_begins(&mut self) {}
    /// It has been, and nobody has heard of it. `entries`: what was applied since the one before.
    fn published(&mut self, _store: &Store, _entries: usize) {}
    /// A slice of a compaction is about to be done.
    fn slice_begins(&mut self, _store: &Store) {}
    /// It has been.
    fn slice_ends(&mut self, _store: &Store, _progress: &Progress) {}
    /// A checkpoint is durable, and the store goes by it: what it covers, pages written, how long it took.
    fn checkpoint_written(&mut self, _covers: Index, _frames: usize, _took: Duration) {}
    /// There was no room for a checkpoint.
    fn checkpoint_failed(&mut self) {}
    /// A Defragment begins, and none was under way.
    fn defragment_begins(&mut self) {}
    /// It is over: how long it took, `None` if it was given up for lack of room (also where none was under way).
    fn defragment_ends(&mut self, _took: Option<Duration>) {}
    /// This lease was renewed.
    fn lease_renewed(&mut self, _lease: i64) {}
    /// A lease has run out, and its revocation is proposed.
    fn lease_expired(&mut self) {}
    /// The server compacts this revision by itself.
    fn compaction_starts(&mut self, _kept: Retention, _revision: i64) {}
    /// That is over.
    fn compaction_ends(&mut self, _kept: Retention, _revision: i64, _took: Duration, _error: Option<Error>) {}
    /// The leader proposes a version of the cluster in place of the one before.
    fn version_decided(&mut self, _before: Option<&str>, _version: &str) {}
    /// The store is another one, which came from a peer.
    fn installed(&mut self, _store: &Store) {}
}

/// Nobody wants to know.
impl Observer for () {}
