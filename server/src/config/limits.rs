//! The bound of every queue, batch and cache, by name.
//!
//! A queue without a bound is a place where one slow part takes the memory of all others. Each bound here has a test of
//! what happens at it, beside the code it guards; a full queue stops reading from the sockets that feed it. Relations
//! between bounds are checked when this file is compiled.

/// Largest `--max-request-bytes`. Above it one request could fill a whole log segment.
pub const REQUEST_BYTES_MAX: u64 = 32 << 20;

/// What gRPC may add to a request's bytes before they are refused, as in etcd (`grpcOverheadBytes`).
pub const GRPC_OVERHEAD_BYTES: u32 = 512 << 10;

/// Smallest `--ringd-heap-limit`: below it checkpoints would follow each other without a pause.
pub const HEAP_BYTES_MIN: u64 = 8 << 20;

/// Entries proposed and not yet applied; beyond, the answer is etcd's `too many requests`. etcd allows a gap of 5 000
/// between commit and apply.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 65_536;

/// Bytes proposed and not yet applied; beyond, the answer is etcd's `too many requests`.
pub const PROPOSALS_IN_FLIGHT_BYTES_MAX: usize = 64 << 20;

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

/// Bytes of one write to the log: all that has queued, up to this.
pub const LOG_BATCH_BYTES_MAX: usize = 4 << 20;

/// Bytes of log since the last checkpoint; reaching it forces one.
pub const LOG_SINCE_CHECKPOINT_BYTES_MAX: u64 = 256 << 20;

/// Bytes of answers that wait for one connection's socket; beyond, its requests aren't read.
pub const CONNECTION_OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Bytes of one read from a socket.
pub const CONNECTION_READ_BYTES: usize = 64 << 10;

/// Client connections in all; beyond, accepting pauses. Each needs a descriptor.
pub const CONNECTIONS_MAX: usize = 32_768;

/// A reader of a large answer who takes nothing for so long is cut off, for its pins' sake.
pub const READER_STALL_SECONDS_MAX: u64 = 60;

/// Lines that wait for one log output; beyond, lines are dropped and counted.
pub const LOG_LINES_MAX: usize = 4_096;

/// Bytes of one log line; longer ones are cut.
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// How long an exit waits for log lines to reach their outputs.
pub const LOG_FLUSH_MILLIS_MAX: u64 = 200;

/// Locked memory that the rings of one executor need; `RLIMIT_MEMLOCK` must hold it for all executors on kernels that
/// count it.
pub const MEMLOCK_BYTES_PER_EXECUTOR: u64 = 512 << 10;

/// A request must fit in one batch's share of the proposals, and a batch must hold the largest request of the default.
const _: () = assert!(PROPOSALS_IN_FLIGHT_BYTES_MAX as u64 >= 2 * REQUEST_BYTES_MAX);
const _: () = assert!(LOG_BATCH_BYTES_MAX >= 2 * 1_572_864);
const _: () = assert!(LOG_LINE_BYTES_MAX >= 4096);
