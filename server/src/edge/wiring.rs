//! All rings between the cores, made at once and handed out end by end.

use super::messages::{CheckpointDone, ForStore, FromLog, Order, ToClient, ToLog, ToRaft};
use super::ring::{Receiver, Sender, ring};
use super::{raft_core, store_core};
use crate::config::limits::{
    RING_CLIENT_TO_RAFT_MAX, RING_RAFT_TO_LOG_MAX, RING_RAFT_TO_STORE_MAX, RING_STORE_TO_CLIENT_MAX,
};

/// Connections and orders that may wait for a client core.
const RING_CONTROL_MAX: usize = 1024;

/// The rings. Each end leaves once.
pub struct Wiring {
    raft: Option<raft_core::Rings>,
    log: Option<(Receiver<ToLog>, Sender<FromLog>)>,
    store: Option<StoreEnds>,
    clients: Vec<Option<ClientEnds>>,
    /// From the acceptor to the client cores other than its own.
    pub accepted: Vec<Sender<Order>>,
}

struct StoreEnds {
    from_raft: Receiver<ForStore>,
    from_clients: Vec<Receiver<ForStore>>,
    to_raft: Sender<ToRaft>,
    to_clients: Vec<Sender<ToClient>>,
}

/// A client core's ends.
pub struct ClientEnds {
    /// Proposals.
    pub to_raft: Sender<ToRaft>,
    /// Queries.
    pub to_store: Sender<ForStore>,
    /// What comes in.
    pub incoming: Incoming,
    /// The main thread's way to this core.
    pub orders: Sender<Order>,
}

/// What comes to a client core.
pub struct Incoming {
    /// Versions, outcomes, answers. When this ring is closed the core ends.
    pub store: Receiver<ToClient>,
    /// Refusals, read indexes and what other members say, by way of the raft core.
    pub raft: Receiver<ToClient>,
    /// Orders of the main thread, connections from the acceptor.
    pub orders: Vec<Receiver<Order>>,
}

impl Wiring {
    /// Rings for `clients` client cores.
    pub fn new(clients: usize) -> Wiring {
        let (to_log, from_raft_to_log) = ring(RING_RAFT_TO_LOG_MAX);
        let (durable, from_log) = ring(RING_RAFT_TO_LOG_MAX);
        let (raft_to_store, from_raft) = ring(RING_RAFT_TO_STORE_MAX);
        let (store_to_raft, from_store) = ring(RING_RAFT_TO_STORE_MAX);
        let mut raft = raft_core::Rings {
            from_clients: Vec::new(),
            from_store,
            from_log,
            to_log,
            to_store: raft_to_store,
            to_clients: Vec::new(),
        };
        let mut store =
            StoreEnds { from_raft, from_clients: Vec::new(), to_raft: store_to_raft, to_clients: Vec::new() };
        let mut accepted = Vec::new();
        let mut ends = Vec::new();
        for number in 0..clients {
            let (to_raft, raft_from_client) = ring(RING_CLIENT_TO_RAFT_MAX);
            let (to_store, store_from_client) = ring(RING_CLIENT_TO_RAFT_MAX);
            let (store_to_client, client_from_store) = ring(RING_STORE_TO_CLIENT_MAX);
            let (raft_to_client, client_from_raft) = ring(RING_STORE_TO_CLIENT_MAX);
            let (orders, client_from_main) = ring(RING_CONTROL_MAX);
            raft.from_clients.push(raft_from_client);
            raft.to_clients.push(raft_to_client);
            store.from_clients.push(store_from_client);
            store.to_clients.push(store_to_client);
            let mut from_orders = vec![client_from_main];
            if number > 0 {
                let (sender, client_from_acceptor) = ring(RING_CONTROL_MAX);
                accepted.push(sender);
                from_orders.push(client_from_acceptor);
            }
            let incoming = Incoming { store: client_from_store, raft: client_from_raft, orders: from_orders };
            ends.push(Some(ClientEnds { to_raft, to_store, incoming, orders }));
        }
        Wiring {
            raft: Some(raft),
            log: Some((from_raft_to_log, durable)),
            store: Some(store),
            clients: ends,
            accepted,
        }
    }

    /// The raft core's ends.
    pub fn raft_rings(&mut self) -> raft_core::Rings {
        self.raft.take().expect("handed out once")
    }

    /// The log core's ends.
    pub fn log_rings(&mut self) -> (Receiver<ToLog>, Sender<FromLog>) {
        self.log.take().expect("handed out once")
    }

    /// The store core's ends; `from_background` brings finished checkpoints.
    pub fn store_rings(&mut self, from_background: Receiver<CheckpointDone>) -> store_core::Rings {
        let ends = self.store.take().expect("handed out once");
        store_core::Rings {
            from_raft: ends.from_raft,
            from_clients: ends.from_clients,
            from_background,
            to_raft: ends.to_raft,
            to_clients: ends.to_clients,
        }
    }

    /// A client core's ends.
    pub fn client_ends(&mut self, number: usize) -> ClientEnds {
        self.clients[number].take().expect("handed out once")
    }
}
