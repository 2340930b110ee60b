//! All I/O: glommio executors, sockets, files, timers, threads. The only place in the project that has any.
//!
//! Each file is a loop dull enough to check by eye: take an event, let a pure machine step, start what it asks for.
//! Deciding happens in `net`, `consensus`, `engine` and `node`.

/// Threads that may block.
pub mod background;
/// The present, monotonic.
pub mod clock;
/// Places where a test makes the process die.
pub mod failpoint;
/// What the cores say to each other.
pub mod messages;
/// Bounded queues between cores.
pub mod ring;
/// What all cores may look at.
pub mod shared;
/// All rings, made at once.
pub mod wiring;

/// Entries read back for peers that lag.
pub mod fetches;
/// The log core.
pub mod log_core;
/// The raft core.
pub mod raft_core;
/// Segment files: read back at start.
pub mod segment_files;
/// Segment files: made and opened for writing.
pub mod segments;

/// Connections to the other members.
pub mod peers;
/// A damaged member, healed by its peers.
pub mod repair;
/// The raft core's dealings with other members.
pub mod replication;
/// Snapshots as files.
pub mod snapshot_files;
/// What the raft node is told, for a replay.
pub mod trace;

/// How the tree is written.
pub mod checkpoint;
/// The tree file, verified now and then.
pub mod scrub;
/// The store core's thread.
pub mod store_core;
/// The tree file and its map.
pub mod tree_file;
/// Large writes that leave the disk to others in between.
pub mod writeback;

/// Answers of calls, into connections.
pub mod answers;
/// Calls that have state.
pub mod calls;
/// Certificates, read again when they change.
pub mod certificates;
/// A client core: its connections.
pub mod client_core;
/// One connection: protocol machine and poll loop.
pub mod connection;
/// Listening sockets.
pub mod listen;
/// HTTP/1.1 pages.
pub mod pages;
/// Events of connections.
pub mod requests;
/// Warnings about slow work.
pub mod slow;
/// The bytes of one connection.
pub mod transport;
/// Turns of connections with much output.
pub mod turnstile;
/// Watch streams.
pub mod watches;

/// From configuration to running executors.
pub mod boot;
/// What a start needs to know of other members.
pub mod boot_cluster;
/// Threads by the placement plan.
pub mod executors;
/// Starting over as the only member; staying out once removed.
pub mod force_new;
/// The very first start: who the others are.
pub mod join;
/// What the scheduler is asked for.
pub mod priority;
