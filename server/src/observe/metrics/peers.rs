//! What is counted per peer, under etcd's names and labels (`To`, `From`; `Local` and `Remote`).
//!
//! One thread counts: the raft core's, on which all connections to peers run. The cells of a peer stay when it is removed,
//! as in etcd, so that a counter never goes back.

use std::sync::{Mutex, PoisonError};

use super::cell::{Counter, Gauge, Histogram};
use super::families::{ROUND_TRIP, SNAPSHOT};
use crate::config::limits::PEERS_COUNTED_MAX;

/// What is counted of one peer.
#[derive(Debug)]
pub struct PeerCells {
    /// Its member id; 0: of all those beyond the bound.
    pub id: u64,
    /// It belongs to the cluster.
    pub known: Gauge,
    /// Both of its standing lanes are up.
    pub active: Gauge,
    /// So often one of them was lost.
    pub disconnected: Counter,
    /// Bytes for it, before TLS.
    pub sent_bytes: Counter,
    /// Bytes of it, after TLS.
    pub received_bytes: Counter,
    /// Messages that were dropped.
    pub sent_failures: Counter,
    /// Connections of it that ended with an error, and frames that could not be taken.
    pub received_failures: Counter,
    /// From an HTTP/2 PING to its acknowledgement.
    pub round_trip: Histogram,
    /// Snapshots to it.
    pub snapshot_sent: Transfers,
    /// Snapshots from it.
    pub snapshot_received: Transfers,
}

/// What is counted of snapshots in one direction.
#[derive(Debug)]
pub struct Transfers {
    /// Under way.
    pub inflight: Gauge,
    /// Completed.
    pub success: Counter,
    /// Given up.
    pub failures: Counter,
    /// Of those that were completed.
    pub duration: Histogram,
}

impl Transfers {
    const fn new() -> Transfers {
        Transfers {
            inflight: Gauge::new(),
            success: Counter::new(),
            failures: Counter::new(),
            duration: Histogram::new(SNAPSHOT.bounds),
        }
    }
}

impl PeerCells {
    pub(super) const fn new(id: u64) -> PeerCells {
        PeerCells {
            id,
            known: Gauge::new(),
            active: Gauge::new(),
            disconnected: Counter::new(),
            sent_bytes: Counter::new(),
            received_bytes: Counter::new(),
            sent_failures: Counter::new(),
            received_failures: Counter::new(),
            round_trip: Histogram::new(ROUND_TRIP.bounds),
            snapshot_sent: Transfers::new(),
            snapshot_received: Transfers::new(),
        }
    }
}

static PEERS: Mutex<Vec<&'static PeerCells>> = Mutex::new(Vec::new());

/// Of those beyond [`PEERS_COUNTED_MAX`].
static OTHERS: PeerCells = PeerCells::new(0);

/// The cells of this member. Takes a lock: once per peer, not per message.
pub fn peer(id: u64) -> &'static PeerCells {
    let mut peers = PEERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = peers.iter().find(|cells| cells.id == id) {
        return known;
    }
    if peers.len() >= PEERS_COUNTED_MAX {
        return &OTHERS;
    }
    let cells: &'static PeerCells = Box::leak(Box::new(PeerCells::new(id)));
    peers.push(cells);
    cells
}

/// All of them.
pub(super) fn all() -> Vec<&'static PeerCells> {
    PEERS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_peer_has_cells_of_its_own_up_to_the_bound() {
        for id in 1..=PEERS_COUNTED_MAX as u64 + 5 {
            peer(id << 32).sent_failures.inc();
        }
        assert!(all().len() <= PEERS_COUNTED_MAX);
        assert_eq!(peer(1 << 32).sent_failures.value(), 1);
        assert!(OTHERS.sent_failures.value() >= 5);
    }
}
