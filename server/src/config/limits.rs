//! The bound of every queue, batch and cache, by name.
//!
//! A queue without a bound is a place where one slow part takes the memory of all others. Each bound here has a test of
//! what happens at it, beside the code it guards; a full queue stops reading from the sockets that feed it. Relations
//! between bounds are checked when this file is compiled.
//!
//! What the pure crates bound they name themselves, because they know nothing of this file: connections, streams, headers
//! and calls in `net::h2::limits` and `net::grpc`, batches and entries in `consensus::log`, cursors in the watch hub.

use std::time::Duration;

/// Largest `--max-request-bytes`. Above it one request could fill a whole log segment.
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// Smallest `--ringd-heap-limit`: below it checkpoints would follow each other without a pause.
pub const HEAP_BYTES_MIN: u64 = 8 << 20;

/// Bytes proposed and not yet applied; beyond, the answer is etcd's `too many requests`.
pub const PROPOSALS_IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

/// Changes of the membership that wait for their turn. People make them, so there are few.
pub const CONF_CHANGES_OPEN_MAX: usize = 64;

/// The rings between executors. Each has one sender and one receiver; what is counted is what the receiver finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Proposals and reads to confirm.
    ClientToRaft,
    /// Committed entries.
    RaftToStore,
    /// Outcomes and published snapshots.
    StoreToClient,
    /// Records to write, and what is durable.
    RaftToLog,
}

impl Queue {
    /// All, in the order of a write.
    pub const ALL: [Queue; 4] =
        [Queue::ClientToRaft, Queue::RaftToStore, Queue::StoreToClient, Queue::RaftToLog];

    /// Name as metric label.
    pub fn name(self) -> &'static str {
        match self {
            Queue::ClientToRaft => "client-to-raft",
            Queue::RaftToStore => "raft-to-store",
            Queue::StoreToClient => "store-to-client",
            Queue::RaftToLog => "raft-to-log",
        }
    }

    /// Items that it holds at most.
    pub fn limit(self) -> usize {
        match self {
            Queue::ClientToRaft => RING_CLIENT_TO_RAFT_MAX,
            Queue::RaftToStore => RING_RAFT_TO_STORE_MAX,
            Queue::StoreToClient => RING_STORE_TO_CLIENT_MAX,
            Queue::RaftToLog => RING_RAFT_TO_LOG_MAX,
        }
    }
}

/// Messages in the ring from one client core to the raft core.
pub const RING_CLIENT_TO_RAFT_MAX: usize = 16_384;

/// Messages in the ring from the raft core to the store core.
pub const RING_RAFT_TO_STORE_MAX: usize = 16_384;

/// Messages in the ring from the store core to one client core.
pub const RING_STORE_TO_CLIENT_MAX: usize = 16_384;

/// Messages in the ring between the raft core and the log core.
pub const RING_RAFT_TO_LOG_MAX: usize = 4_096;

/// Bytes of log since the last checkpoint; reaching it forces one.
pub const LOG_SINCE_CHECKPOINT_BYTES_MAX: u64 = 256 << 20;

/// Bytes per second that the scrub reads of the tree file: little enough to go unnoticed beside everything else.
pub const SCRUB_BYTES_PER_SECOND_MAX: u64 = 16 << 20;

/// Descriptors kept for files and rings; what the limit of open files leaves beyond is for connections unless
/// `--ringd-max-connections` says otherwise. etcd's figure (`reservedInternalFDNum`).
pub const DESCRIPTORS_RESERVED: u64 = 150;

/// TLS handshakes in progress, in all client cores together; beyond, the oldest are dropped.
pub const HANDSHAKES_MAX: usize = 1024;

/// Connections accepted in a row before other work of the core goes on.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Smallest `--ringd-connection-memory`. That flag is the bound of what all connections together may hold in requests not
/// yet complete and in answers not yet sent: from there on nothing is read from those that hold much.
pub const CONNECTION_BYTES_MIN: u64 = 4 << 20;

/// What a connection may hold in any case, as long as it is less than an equal share.
pub const CONNECTION_BYTES_SMALL: usize = 64 << 10;

/// How long connections may hold too much before those that hold the most are closed, one at a time.
pub const CONNECTION_BYTES_PATIENCE_MILLIS: u64 = 1000;

/// Connections on the peer port and to peers in all; beyond, the oldest that is no lane is closed.
pub const PEER_CONNECTIONS_MAX: usize = 256;

/// Senders that this member has not heard of yet and lets in all the same, because they may lead.
pub const PEER_REMOTES_MAX: usize = 16;

/// Addresses whose last rejection on the peer port is kept so that it is not logged again at each attempt.
pub const PEER_REJECTIONS_TOLD_MAX: usize = 64;

/// Peers that have metrics of their own, removed ones included; what is counted beyond is not shown.
pub const PEERS_COUNTED_MAX: usize = 64;

/// Look-ups of the names of those who dial; beyond, a certificate that needs one is refused.
pub const PEER_NAME_CHECKS_MAX: usize = 16;

/// Bytes of vital messages that may wait for one peer's socket; beyond, they are dropped: an old heartbeat is worth nothing.
pub const PEER_VITAL_SEND_BYTES_MAX: usize = 256 << 10;

/// Bytes of entries and requests that may wait for one peer's socket; beyond, they are dropped and raft probes. More than
/// raft ever has under way to one peer.
pub const PEER_BULK_SEND_BYTES_MAX: usize = 16 << 20;

/// Bytes of a snapshot that may wait for its socket.
pub const PEER_SNAPSHOT_SEND_BYTES_MAX: usize = 8 << 20;

/// Bytes of a snapshot that were read and not acknowledged by the receiver: so many are sent again at most.
pub const PEER_SNAPSHOT_UNACKNOWLEDGED_BYTES_MAX: usize = 4 << 20;

/// Chunks of a snapshot that are read before they can be sent.
pub const PEER_SNAPSHOT_CHUNKS_AHEAD_MAX: usize = 2;

/// Bytes of a snapshot that one peer is sent per second: a fraction of what a disk and a network of our kind can do.
pub const PEER_SNAPSHOT_BYTES_PER_SECOND: u64 = 64 << 20;

/// Bytes of messages that one peer's connection has brought and the raft core has not taken; beyond, its socket is not read.
pub const PEER_BACKLOG_BYTES_MAX: usize = 8 << 20;

/// Bytes of a page that a peer is asked for at start.
pub const PEER_PAGE_BYTES_MAX: usize = 1 << 20;

/// Applied entries kept in memory for peers that lag a little; further back they are read from the log.
pub const PEER_CACHE_BYTES: usize = 16 << 20;

/// Bytes gathered for one peer's socket at a time.
pub const PEER_OUTPUT_BYTES_MAX: usize = 128 << 10;
/// Warnings about slow calls that one turn of a client core logs; the rest is counted in one line.
pub const SLOW_CALLS_PER_TURN_MAX: usize = 64;

/// How long one write to the Raft log may take; a device that is silent for longer ends the process.
pub const LOG_STALL_MAX: Duration = Duration::from_secs(20);

/// Lines that wait for one log output; beyond, lines are dropped and counted.
pub const LOG_LINES_MAX: usize = 4_096;

/// Bytes of one log line; longer ones are cut.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// How long an exit waits for log lines to reach their outputs.
pub const LOG_FLUSH_MILLIS_MAX: u64 = 200;

// The largest request must fit in one entry of the log, and two of them in what may be under way.
const _: () = assert!(REQUEST_BYTES_MAX <= consensus::log::ENTRY_BYTES_MAX as u64);
const _: () = assert!(PROPOSALS_IN_FLIGHT_BYTES_MAX as u64 >= 2 * REQUEST_BYTES_MAX);
const _: () = assert!(LOG_LINE_BYTES_MAX >= 4096);

// The last chunk may be read when one byte is missing to the bound.
const _: () = assert!(
    PEER_SNAPSHOT_UNACKNOWLEDGED_BYTES_MAX + 2 * node::peer::snapshot::CHUNK_BYTES_MAX
        <= PEER_SNAPSHOT_SEND_BYTES_MAX
);

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    fn sources(dir: &Path, out: &mut String) {
        for entry in fs::read_dir(dir).expect("a folder of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, out);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("limits.rs")
            {
                out.push_str(&fs::read_to_string(&path).expect("a source file"));
            }
        }
    }

    #[test]
    fn every_bound_here_bounds_something() {
        let mut code = String::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut code);
        let names = include_str!("limits.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
        let unused: Vec<&str> = names.filter(|name| !code.contains(name)).collect();
        assert_eq!(unused, [""; 0], "use them where they bound, or remove them");
    }
}
