//! Dealings with members that lag: entries read back from the log, snapshots in both directions.
//!
//! ```text
//! received ─▶ tree built beside the present one, durable ─▶ raft's message stepped
//!   ─▶ raft takes it: the log begins anew, durable ─▶ renamed over the old tree ─▶ store core
//! ```
//!
//! As in the server, each step is durable before the next begins.

use bytes::Bytes;
use consensus::log::Identity as LogIdentity;
use consensus::{Fetch, InstallSnapshot, LogPosition, NodeId, PeerMessage};
use crossbeam::epoch;
use engine::Store;
use engine::snapshot::{Export, Import};

use super::{CLUSTER, Done, ForStore, Member, ToRaft, node_id, node_number, stops};
use crate::disk::{Disk, TreeDisk};
use crate::env::{Env, NodeNumber, Wake};
use crate::network::Letter;

/// Bytes of a snapshot pushed at once: no multiple of anything.
const PUSH_BYTES: usize = 4099;

/// A received snapshot that is not installed yet.
#[derive(Default)]
pub(super) struct Receiving {
    /// Received whole, to be built.
    received: Option<(NodeNumber, Box<PeerMessage>, Bytes)>,
    /// Built; raft has its message.
    imported: Option<Store>,
    installing: Option<InstallSnapshot>,
    renaming: bool,
}

impl Receiving {
    /// Whether the log has begun anew and the tree has not followed.
    pub fn is_renaming(&self) -> bool {
        self.renaming
    }
}

impl Member {
    pub(super) fn fetch(&mut self, env: &mut Env, fetch: Fetch) {
        self.log.fetches.push_back(fetch);
        let after = env.takes(env.config.write);
        self.wake_after(env, after, Wake::Fetch);
    }

    /// The log core has read entries back.
    pub(super) fn fetched(&mut self, env: &mut Env, disk: &Disk) -> Done {
        let Some(fetch) = self.log.fetches.pop_front() else { return Ok(()) };
        let identity = LogIdentity { cluster: CLUSTER, member: node_id(self.number) };
        let fetcher = self.log.fetchers.entry(fetch.peer).or_default();
        let entries = fetcher.fetch(&disk.log.image(), identity, &fetch);
        self.tell(env, || {
            let found = entries.as_ref().map_or(0, Vec::len);
            format!("read {found} entries from {} for member {}", fetch.first, node_number(fetch.peer))
        });
        self.ask_raft(env, ToRaft::Fetched(fetch.peer, fetch.first, entries));
        Ok(())
    }

    /// Raft's message leaves, behind the whole snapshot.
    pub(super) fn send_snapshot(&mut self, env: &mut Env, to: NodeId, message: Box<PeerMessage>) -> Done {
        let Some(view) = self.raft.pinned.remove(&to) else { return Ok(()) };
        let mut export = Export::new(view);
        let mut bytes = Vec::new();
        loop {
            match export.fill(&epoch::pin(), PUSH_BYTES, &mut bytes) {
                Ok(true) => {}
                Ok(false) => break,
                Err(damage) => return stops(self.number, damage),
            }
        }
        self.tell(env, || format!("sends a snapshot of {} bytes to member {}", bytes.len(), node_number(to)));
        if !self.peers.knows(to) {
            self.ask_raft(env, ToRaft::SnapshotSent(node_number(to), false));
            return Ok(());
        }
        let letter = Letter { from: self.id(), to: node_number(to), message, snapshot: Some(bytes.into()) };
        env.send_snapshot(letter);
        Ok(())
    }

    /// A snapshot has arrived whole.
    pub fn receive_snapshot(
        &mut self,
        env: &mut Env,
        from: NodeNumber,
        message: Box<PeerMessage>,
        bytes: Bytes,
    ) {
        if self.receiving.installing.is_some() || self.receiving.renaming {
            // The present one replaces the very file that this would build. Raft asks again if it is still wanted.
            return;
        }
        self.receiving.received = Some((from, message, bytes));
        let after = env.schedule.exponential(4 * env.config.checkpoint_step);
        self.wake_after(env, after, Wake::Import);
    }

    /// A thread builds the tree of a received snapshot beside the present one.
    pub(super) fn import(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some((from, message, bytes)) = self.receiving.received.take() else { return Ok(()) };
        if self.receiving.installing.is_some() || self.receiving.renaming {
            return Ok(());
        }
        self.receiving.imported = None;
        let (tree, store) = build(&self.store_config, &bytes).or_else(|why| stops(self.number, why))?;
        disk.next_tree = Some(tree);
        self.receiving.imported = Some(store);
        self.ask_raft(env, ToRaft::Message(from, message));
        Ok(())
    }

    /// Raft has taken the snapshot.
    pub(super) fn install(&mut self, env: &mut Env, install: InstallSnapshot) -> Done {
        self.tell(env, || format!("installs the snapshot of entry {}", install.position.index));
        env.oracle.installs(self.number, install.position.index.0, install.position.term.0)?;
        self.raft.conf_at = install.position.index;
        self.receiving.installing = Some(install);
        Ok(())
    }

    /// Raft has not.
    pub(super) fn ignore_snapshot(&mut self, position: LogPosition) {
        let is_it = |store: &Store| store.applied().index == position.index.0;
        if self.receiving.installing.is_none() && self.receiving.imported.as_ref().is_some_and(is_it) {
            self.receiving.imported = None;
        }
    }

    /// Writes up to this Ready are durable: if the log begins anew with it, the tree follows.
    pub(super) fn log_durable(&mut self, env: &mut Env, ready: consensus::ReadyNumber) {
        let due = |install: &InstallSnapshot| install.ready <= ready;
        if self.receiving.installing.as_ref().is_some_and(due) && !self.receiving.renaming {
            self.receiving.renaming = true;
            let after = env.schedule.exponential(env.config.checkpoint_step);
            self.wake_after(env, after, Wake::Rename);
        }
    }

    /// The new tree takes the place of the old one.
    pub(super) fn rename(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        self.receiving.renaming = false;
        let (Some(install), Some(store)) = (self.receiving.installing.take(), self.receiving.imported.take())
        else {
            return stops(self.number, "there is no snapshot to install");
        };
        disk.tree = disk.next_tree.take().expect("it was built");
        // What a checkpoint still writes goes to the old file, which has no name any more.
        self.store.is_unlinked = true;
        if let Some(running) = &mut self.store.checkpoint {
            running.is_unlinked = true;
        }
        self.to_store(env, ForStore::Install(install.ready, Box::new(store)));
        Ok(())
    }
}

/// A durable tree of a snapshot, and its store.
pub(super) fn build(config: &engine::Config, bytes: &[u8]) -> Result<(TreeDisk, Store), String> {
    let mut tree = TreeDisk::default();
    let mut import = Import::new(config.clone(), tree.cache.clone());
    for part in bytes.chunks(PUSH_BYTES) {
        import.push(part).map_err(|error| error.to_string())?;
    }
    let mut store = import.finish().map_err(|error| error.to_string())?;
    store.publish().map_err(|damage| damage.to_string())?;
    write_out(&mut tree, &mut store);
    Ok((tree, store))
}

fn write_out(tree: &mut TreeDisk, store: &mut Store) {
    let Some(mut checkpoint) = store.tree_mut().begin_checkpoint() else { return };
    tree.grow_to_pages(checkpoint.file_pages());
    let mut pages = Vec::new();
    while let Some(first) = checkpoint.fill(&mut pages, 64 << 10) {
        tree.write(first, &pages);
        pages.clear();
    }
    tree.sync();
    let (slot, meta) = checkpoint.meta();
    tree.write(slot, &meta[..]);
    tree.sync();
    store.tree_mut().end_checkpoint(checkpoint);
}
