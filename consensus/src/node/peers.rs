//! What a leader does about each of its peers, beyond raft's own: how much is under way to it, entries for it that are only on
//! disk, and whom to hand over to.
//!
//! raft limits what is under way by counting messages. A message may carry a single small entry or [`Config::append_bytes`],
//! so while there is more for a peer than the budget has room for, the limit is set so that all further messages could be
//! full ones; otherwise it is a constant.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// Messages with entries under way to one peer, however small.
pub(super) const MESSAGES_IN_FLIGHT_MAX: usize = 256;

/// What a leader keeps about its peers.
#[derive(Default)]
pub(super) struct Peers {
    flights: BTreeMap<NodeId, Flight>,
    /// The first entry of the fetch under way for a peer.
    fetching: BTreeMap<NodeId, Index>,
}

/// Messages with entries on their way to a peer that is known to follow.
#[derive(Default)]
struct Flight {
    sizes: VecDeque<usize>,
    bytes: usize,
    constrained: bool,
}

impl Node {
    /// What a leader knows of the other members, by their ids; empty on any other.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let raft = &self.raft.raft;
        if raft.state != StateRole::Leader {
            return Vec::new();
        }
        let learners = raft.prs().conf().learners();
        let others = self.others().into_iter();
        let status = |peer: NodeId| {
            let progress = raft.prs().get(peer.0)?;
            Some(PeerStatus {
                node: peer,
                matched: Index(progress.matched),
                recent_active: progress.recent_active,
                learner: learners.contains(&peer.0),
                snapshot: progress.state == ProgressState::Snapshot,
            })
        };
        others.filter_map(status).collect()
    }

    /// All other members, ascending.
    fn others(&self) -> Vec<NodeId> {
        let ids = self.raft.raft.prs().iter().map(|(id, _)| NodeId(*id));
        let mut others: Vec<NodeId> = ids.filter(|id| *id != self.config.id).collect();
        others.sort_unstable();
        others
    }

    /// A message with entries leaves for `to`.
    pub(super) fn note_sent(&mut self, to: NodeId, bytes: usize) {
        let flight = self.peers.flights.entry(to).or_default();
        flight.sizes.push_back(bytes);
        flight.bytes += bytes;
    }

    /// Before raft sees an answer that may make room: it must not fill the room by count where bytes are short.
    pub(super) fn before_answer(&mut self, peer: NodeId) {
        if self.peers.flights.get(&peer).is_some_and(|flight| flight.constrained) {
            self.raft.raft.adjust_max_inflight_msgs(peer.0, 1);
        }
    }

    /// After it: room is filled here.
    pub(super) fn after_answer(&mut self, peer: NodeId) {
        if self.peers.flights.get(&peer).is_some_and(|flight| flight.constrained) {
            self.limit_flight(peer);
            self.fill(peer);
        }
    }

    /// Ends a leader's turn: bounds what is under way to each peer, and asks for what is only on disk.
    pub(super) fn tend_peers(&mut self, out: &mut Vec<Output>) {
        if self.raft.raft.state != StateRole::Leader {
            if !self.peers.flights.is_empty() || !self.peers.fetching.is_empty() {
                self.peers = Peers::default();
                self.raft.mut_store().retain_fetched(|_, _| false);
            }
            return;
        }
        let others = self.others();
        self.peers.flights.retain(|peer, _| others.binary_search(peer).is_ok());
        self.peers.fetching.retain(|peer, _| others.binary_search(peer).is_ok());
        for peer in others {
            self.limit_flight(peer);
            out.extend(self.fetch(peer).map(Output::Fetch));
        }
        let prs = self.raft.raft.prs();
        let next: BTreeMap<NodeId, u64> = prs.iter().map(|(id, pr)| (NodeId(*id), pr.next_idx)).collect();
        let needed = |peer: NodeId, last: Index| next.get(&peer).is_some_and(|next| *next <= last.0);
        self.raft.mut_store().retain_fetched(needed);
    }

    fn limit_flight(&mut self, peer: NodeId) {
        let Some(progress) = self.raft.raft.prs().get(peer.0) else { return };
        let count = match progress.state {
            ProgressState::Replicate => progress.ins.count(),
            _ => 0,
        };
        let next = Index(progress.next_idx);
        let flight = self.peers.flights.entry(peer).or_default();
        while flight.sizes.len() > count {
            flight.bytes -= flight.sizes.pop_front().unwrap_or_default();
        }
        let room = self.config.peer_bytes_in_flight.saturating_sub(flight.bytes);
        let full = room < self.config.append_bytes;
        flight.constrained = full || self.raft.store().exceeds(next, room);
        let messages = match flight.constrained {
            true => (count + room / self.config.append_bytes).clamp(1, MESSAGES_IN_FLIGHT_MAX),
            false => MESSAGES_IN_FLIGHT_MAX,
        };
        self.raft.raft.adjust_max_inflight_msgs(peer.0, messages);
    }

    /// Sends what there is room for.
    fn fill(&mut self, peer: NodeId) {
        let last = self.raft.store().last().index.0;
        let next = |node: &Node| {
            let progress = node.raft.raft.prs().get(peer.0)?;
            let open = progress.state == ProgressState::Replicate && !progress.is_paused();
            (open && progress.next_idx <= last).then_some(progress.next_idx)
        };
        while let Some(before) = next(self) {
            self.raft.raft.send_append(peer.0);
            if next(self) == Some(before) {
                return; // only on disk
            }
        }
    }

    /// Makes raft look at a peer again.
    pub(super) fn send_append(&mut self, peer: NodeId) {
        let raft = &mut self.raft.raft;
        if raft.state == StateRole::Leader && peer != self.config.id && raft.prs().get(peer.0).is_some() {
            raft.send_append(peer.0);
        }
    }

    /// What to read from disk for this peer, if it needs something and none is under way.
    fn fetch(&mut self, peer: NodeId) -> Option<Fetch> {
        let progress = self.raft.raft.prs().get(peer.0)?;
        let (first, last) = (Index(progress.next_idx), self.raft.store().before());
        let cache = self.raft.store();
        let needs = first <= last
            && first >= cache.first()
            && !progress.is_paused()
            && progress.recent_active
            && !cache.has_fetched(peer, first);
        if !needs || self.peers.fetching.contains_key(&peer) {
            return None;
        }
        self.peers.fetching.insert(peer, first);
        let terms = self.raft.store().terms(first, last);
        Some(Fetch { peer, first, last, bytes_max: self.config.fetch_bytes, terms })
    }

    /// The answer to a fetch.
    pub(super) fn fetched(&mut self, peer: NodeId, first: Index, entries: Option<Vec<Entry>>) {
        if self.peers.fetching.get(&peer) != Some(&first) {
            return; // of an earlier leadership
        }
        self.peers.fetching.remove(&peer);
        let found = entries.is_some_and(|entries| self.raft.mut_store().put_fetched(peer, first, entries));
        if !found {
            // The log has moved on, or can't be read: what is not in memory takes a snapshot.
            let cache = self.raft.mut_store();
            cache.log_starts_at(Index(cache.before().0 + 1));
        }
        self.send_append(peer);
        self.fill(peer);
    }

    /// Hands leadership to `to`, or to the voter that has most of the log among those that were heard of lately.
    pub(super) fn transfer(&mut self, to: Option<NodeId>) {
        let raft = &self.raft.raft;
        if raft.state != StateRole::Leader {
            return;
        }
        if let Some(to) = to.or_else(|| self.successor()) {
            self.raft.transfer_leader(to.0);
        }
    }

    /// Tells again whoever is to lead that it is to campaign. raft says it once, and says nothing more when that was lost or came
    /// while a change of the configuration was not applied there; after an election timeout it gives the transfer up.
    pub(super) fn repeat_transfer(&mut self) {
        let raft = &mut self.raft.raft;
        let Some(to) = raft.lead_transferee.filter(|_| raft.state == StateRole::Leader) else { return };
        let last = raft.raft_log.last_index();
        if raft.prs().get(to).is_some_and(|progress| progress.matched == last) {
            raft.send_timeout_now(to);
        }
    }

    fn successor(&self) -> Option<NodeId> {
        let peers = self.peers();
        let able = peers.iter().filter(|peer| !peer.learner && peer.recent_active);
        able.max_by_key(|peer| (peer.matched, std::cmp::Reverse(peer.node))).map(|peer| peer.node)
    }

    /// Gives leadership up.
    pub(super) fn step_down(&mut self) {
        let term = self.raft.raft.term;
        self.raft.raft.become_follower(term, raft::INVALID_ID);
        self.draw_election_timeout();
    }

    /// A leader that is no voter any more: raft would count on its own progress and panic without.
    pub(super) fn leave_office_if_removed(&mut self) {
        let raft = &self.raft.raft;
        if raft.state == StateRole::Leader && !raft.promotable() {
            if let Some(to) = self.successor() {
                self.raft.raft.send_timeout_now(to.0);
            }
            self.step_down();
        }
    }

    /// A tick of a leader whose log device does not answer: it looks for a successor for one election timeout, then it is
    /// none any more. True if it is a leader no longer.
    pub(super) fn hand_over_if_stalled(&mut self) -> bool {
        if self.stalled_ticks.is_none() || self.raft.raft.state != StateRole::Leader || self.alone() {
            return false;
        }
        let ticks = self.stalled_ticks.get_or_insert(0);
        *ticks += 1;
        if *ticks > self.config.election_ticks {
            self.step_down();
            return true;
        }
        if self.raft.raft.lead_transferee.is_none() {
            self.transfer(None);
        }
        false
    }
}
