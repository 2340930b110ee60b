//! What threads and sockets of the server do for members that lag: entries are read back from the log, a store becomes the
//! bytes of a snapshot, and these a store. When, `node::raft_core` decides.

use bytes::Bytes;
use consensus::log::Identity as LogIdentity;
use consensus::{Fetch, Index, Message, NodeId, PeerMessage, ReadyNumber};
use crossbeam::epoch;
use engine::Store;
use engine::snapshot::{Export, Import};
use node::cores::{FromLog, PinnedSnapshot};
use node::raft_core::Input;

use super::{CLUSTER, Done, Member, node_id, node_number, stops};
use crate::disk::{Disk, TreeDisk};
use crate::env::{Env, NodeNumber, Wake};
use crate::network::Letter;

/// Bytes of a snapshot pushed at once: no multiple of anything.
const PUSH_BYTES: usize = 4099;

/// What the background thread does with a received snapshot.
#[derive(Default)]
pub(super) struct SnapshotFiles {
    /// To be built into a store.
    importing: Option<(NodeId, Box<Message>, Bytes)>,
    /// To be renamed.
    renaming: Option<ReadyNumber>,
}

impl SnapshotFiles {
    /// Whether one is being built or renamed.
    pub fn is_busy(&self) -> bool {
        self.importing.is_some() || self.renaming.is_some()
    }

    /// Whether the log has begun anew and the tree has not followed.
    pub fn is_renaming(&self) -> bool {
        self.renaming.is_some()
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
        self.tell_raft(env, Input::Log(FromLog::Fetched(fetch.peer, fetch.first, entries)));
        Ok(())
    }

    /// Raft's message leaves, behind the whole snapshot.
    pub(super) fn send_snapshot(&mut self, env: &mut Env, message: Message, pinned: PinnedSnapshot) -> Done {
        let to = pinned.peer;
        let mut export = Export::new(pinned.view);
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
            self.tell_raft(env, Input::SnapshotSent(to, false));
            return Ok(());
        }
        let message = Box::new(PeerMessage::Raft(message));
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
        received: Bytes,
    ) {
        if let PeerMessage::Raft(message) = *message {
            let (from, message) = (node_id(from), Box::new(message));
            self.tell_raft(env, Input::SnapshotReceived { from, message, received });
        }
    }

    pub(super) fn begin_import(&mut self, env: &mut Env, from: NodeId, message: Box<Message>, bytes: Bytes) {
        self.snapshot.importing = Some((from, message, bytes));
        let after = env.schedule.exponential(4 * env.config.checkpoint_step);
        self.wake_after(env, after, Wake::Import);
    }

    /// A thread builds the tree of a received snapshot beside the present one.
    pub(super) fn import(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some((from, message, bytes)) = self.snapshot.importing.take() else { return Ok(()) };
        if !disk.has_room(bytes.len()) {
            self.tell(env, || "has no room for the store of a snapshot".to_owned());
            self.tell_raft(env, Input::ImportFailed);
            return Ok(());
        }
        let (tree, store) = build(&self.store_config, &bytes).or_else(|why| stops(self.number, why))?;
        disk.next_tree = Some(tree);
        let (index, store) = (Index(store.applied().index), Box::new(store));
        self.tell_raft(env, Input::Imported { from, message, index, store });
        Ok(())
    }

    /// Writes up to this Ready are durable: the tree follows the log.
    pub(super) fn begin_rename(&mut self, env: &mut Env, ready: ReadyNumber) {
        self.snapshot.renaming = Some(ready);
        let after = env.schedule.exponential(env.config.checkpoint_step);
        self.wake_after(env, after, Wake::Rename);
    }

    /// The new tree takes the place of the old one.
    pub(super) fn rename(&mut self, env: &mut Env, disk: &mut Disk) -> Done {
        let Some(ready) = self.snapshot.renaming.take() else { return Ok(()) };
        let Some(tree) = disk.next_tree.take() else {
            return stops(self.number, "there is no tree of a snapshot");
        };
        // The store that is to be replaced goes on with its file, which has no name any more.
        self.store.unlinked = Some(std::mem::replace(&mut disk.tree, tree));
        self.tell_raft(env, Input::Renamed(ready));
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
