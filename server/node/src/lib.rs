//! One member of a cluster as pure code: what a call means, what goes into the log, what a committed entry does, how
//! reads and watches are answered.
//!
//! It joins [`net`] (bytes and calls), [`consensus`] (entries) and [`engine`] (the store), which know nothing of each
//! other, and knows no socket, clock, thread or file itself: the server's edge and a simulator drive the same code. The
//! present is an argument, a `Duration` since the process began.
//!
//! In reading order, the way of a request:

/// From a call to what it asks for, with every check and error text.
pub mod api;

/// Protobuf messages to the engine's types.
mod convert;

/// From a checked request to a Raft entry and back.
pub mod propose;

/// What a committed entry does to the store.
pub mod apply;

/// Answers as bytes, header first.
pub mod answer;

/// What a published view answers.
pub mod read;

/// Leases where they are timed: keep-alives, time to live, expiry.
pub mod lease;

/// Compaction by the server itself.
pub mod auto_compact;

/// Requests as a line of the log shows them.
pub mod describe;
/// Streams that ask for a leader.
pub mod leader;
/// URLs of members.
pub mod url;

/// The members table.
pub mod membership;

/// Changes of the membership: rules, effects.
pub mod cluster;
/// Connections to the other members.
pub mod peer;

/// What members ask each other on behalf of their clients.
pub mod forward;

/// What the cores of a member say to each other.
pub mod cores;

/// Calls of clients, from their request to their answer.
pub mod calls;
/// The core that owns the store.
pub mod store_core;

/// What is decided between clients, log, store and peers.
pub mod raft_core;

/// What real processes told these machines, replayed.
pub mod trace;

/// Watchers and how events reach them.
pub mod watch_hub;

pub use answer::{Answer, Identity};

#[cfg(test)]
mod testing;
