//! Snapshots: offered by a leader, taken by a follower.
//!
//! A leader: raft asks for one where a peer needs entries that the log on disk no longer has. The caller pins a version of the
//! store, raft makes its message for exactly that version, and the caller sends the message behind the whole store.
//!
//! A follower: the caller has the whole store on disk when it hands over the message. If raft takes it, then from this turn
//! on the node is where the snapshot ends: entries before it are gone, committed ones are not handed out any more, and
//! what the store still applies of them is not listened to. The rest of raft's world changes when all is durable: the log
//! begins anew (an append with `reset`), the store is replaced, `SnapshotInstalled` says so. Until then nothing that
//! depends on it is called durable, so nothing is acknowledged, and this member does not campaign: raft would look for
//! the entries between its applied index and the snapshot, and panic without them.

use std::collections::BTreeMap;

use super::*;
use crate::cache::from_raft_conf;

/// A snapshot for a peer, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// The caller was asked to pin one.
    Asked,
    /// Raft has it and has not sent its message yet.
    Pinned,
    /// The message has left.
    Sent,
}

/// Both sides.
#[derive(Default)]
pub(super) struct Snapshots {
    offers: BTreeMap<NodeId, Offer>,
    /// The one that is being installed.
    pub installing: Option<(ReadyNumber, LogPosition)>,
    /// The last one that was taken: nothing up to here is applied from the log any more.
    pub taken: Index,
}

impl Snapshots {
    /// Those offered to peers, and the one that is being installed.
    pub fn len(&self) -> usize {
        self.offers.len() + usize::from(self.installing.is_some())
    }
}

impl Node {
    /// Ends a turn: asks for what raft wants, and gives back what nobody needs.
    pub(super) fn offer_snapshots(&mut self, out: &mut Vec<Output>) {
        let wanted = self.raft.mut_store().take_wanted();
        if wanted.is_empty() && self.snapshots.offers.is_empty() {
            return;
        }
        let raft = &self.raft.raft;
        let first = self.raft.store().first();
        let progress = |peer: &NodeId| raft.prs().get(peer.0).filter(|_| raft.state == StateRole::Leader);
        let asks = raft::INVALID_INDEX;
        let behind = |peer: &NodeId| {
            progress(peer).is_some_and(|p| p.next_idx < first.0 || p.pending_request_snapshot != asks)
        };
        let needs = |peer: &NodeId, offer: &Offer| match offer {
            Offer::Asked | Offer::Pinned => behind(peer),
            // Also if its receiver has said by itself that it has it: the next one is another offer.
            Offer::Sent => progress(peer).is_some_and(|p| p.state == ProgressState::Snapshot),
        };
        let mut offers = std::mem::take(&mut self.snapshots.offers);
        let mut unwanted = Vec::new();
        offers.retain(|peer, offer| {
            let needs = needs(peer, offer);
            unwanted.extend((!needs).then_some(*peer));
            needs
        });
        for peer in wanted.into_iter().filter(behind) {
            offers.entry(peer).or_insert_with(|| {
                out.push(Output::SnapshotWanted(peer));
                Offer::Asked
            });
        }
        self.snapshots.offers = offers;
        for peer in unwanted {
            self.raft.mut_store().unpin(peer);
            out.push(Output::SnapshotUnwanted(peer));
        }
    }

    pub(super) fn snapshot_pinned(
        &mut self,
        peer: NodeId,
        position: LogPosition,
        conf: &ConfState,
        out: &mut Vec<Output>,
    ) {
        let asked = self.snapshots.offers.get(&peer) == Some(&Offer::Asked);
        // A peer under repair has lost what it acknowledged: the snapshot has to cover all that is counted on.
        let reaches = |progress: &raft::Progress| {
            progress.matched.max(progress.pending_request_snapshot) <= position.index.0
        };
        if !asked || !self.raft.raft.prs().get(peer.0).is_some_and(reaches) {
            self.snapshots.offers.remove(&peer);
            out.push(Output::SnapshotUnwanted(peer));
            return;
        }
        self.snapshots.offers.insert(peer, Offer::Pinned);
        self.raft.mut_store().pin(peer, position, conf);
        self.send_append(peer);
    }

    pub(super) fn snapshot_unpinned(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        if self.snapshots.offers.get(&peer).is_some_and(|offer| *offer != Offer::Sent) {
            self.snapshots.offers.remove(&peer);
            self.raft.mut_store().unpin(peer);
            out.push(Output::SnapshotUnwanted(peer));
        }
    }

    /// raft's message with a snapshot is leaving.
    pub(super) fn snapshot_leaves(&mut self, peer: NodeId) {
        self.raft.mut_store().unpin(peer);
        self.snapshots.offers.insert(peer, Offer::Sent);
    }

    pub(super) fn snapshot_sent(&mut self, peer: NodeId, ok: bool) {
        if self.snapshots.offers.get(&peer) != Some(&Offer::Sent) {
            return;
        }
        self.snapshots.offers.remove(&peer);
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.raft.report_snapshot(peer.0, status);
    }

    /// A message with a snapshot, which the caller holds.
    pub(super) fn receive_snapshot(&mut self, message: RaftMessage, out: &mut Vec<Output>) {
        let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
        let Some((index, term)) = metadata.map(|metadata| (metadata.index, metadata.term)) else { return };
        let busy = self.snapshots.installing.is_some() || self.raft.snap().is_some();
        if !busy {
            // What raft refuses shows below.
            let _ = self.raft.step(message);
        }
        let taken = self.raft.snap().is_some_and(|snapshot| snapshot.get_metadata().index == index);
        if busy || !taken {
            out.push(Output::SnapshotIgnored(LogPosition::new(index, term)));
        }
    }

    /// raft has taken the snapshot of this Ready. Gives its position, behind which the log begins anew.
    pub(super) fn take_snapshot(&mut self, ready: &Ready, out: &mut Vec<Output>) -> Option<LogPosition> {
        let metadata = ready.snapshot().metadata.as_ref().filter(|metadata| metadata.index > 0)?;
        let mut position = LogPosition::new(metadata.index, metadata.term);
        if planted::is("snapshot-with-old-term") {
            position.term = self.raft.store().last().term;
        }
        self.snapshots.installing = Some((ReadyNumber(ready.number()), position));
        self.snapshots.taken = position.index;
        self.conf_applied = position.index;
        self.held_commits.clear(); // it covers them
        self.raft.mut_store().reset(position);
        self.note_replaced();
        self.drop_lost(position, DropReason::OutcomeUnknown, out);
        Some(position)
    }

    /// What the caller has to do about the snapshot of this Ready, after its append.
    pub(super) fn install(&self, ready: &Ready, position: LogPosition) -> Output {
        let conf = from_raft_conf(ready.snapshot().get_metadata().get_conf_state());
        let number = ReadyNumber(ready.number());
        Output::InstallSnapshot(InstallSnapshot {
            ready: number,
            position,
            conf,
            hard_state: self.hard_state,
        })
    }

    pub(super) fn snapshot_installed(&mut self, ready: ReadyNumber, out: &mut Vec<Output>) {
        let (number, position) = self.snapshots.installing.take().expect("a snapshot is being installed");
        assert_eq!(number, ready, "another snapshot is being installed");
        assert!(self.log_durable >= ready, "the store is replaced after the log");
        self.settle_durable(out);
        self.raft.advance_apply_to(position.index.0);
    }
}
