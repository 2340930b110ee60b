//! Agreement on one order of entries, and the log that makes them durable.
//!
//! Two machines that know nothing of each other, of files, clocks or sockets:
//!
//! ```text
//!   proposals, ticks, messages ──► Node ──► Append ──► Log ──► one aligned write ──► disk
//!                                   ▲                   │
//!                                   └──── Durable ◄─────┘ written()
//!                                   │
//!                                   └──► Commit, ReadReady, Send
//! ```
//!
//! [`Node`] wraps the `raft` crate and turns inputs into outputs. [`log::Log`] packs what a node wants appended into
//! batches of 4 KiB blocks and says where they go; [`log::recover`] reads them back after a crash and decides whether
//! a bad block is a torn tail or damage. The module [`driver`] shows how an edge drives both, and its test does it.
//!
//! Absent on purpose: what entries mean (the `node` crate), who the members are (`engine`), and every kind of I/O.

mod types;

mod bootstrap;
mod cache;
pub mod conf_change;
pub mod driver;
pub mod log;
mod message;
mod node;
pub mod peer;
mod read_index;
pub mod repair;
#[cfg(test)]
mod testing;
pub mod trace;

pub use conf_change::{ConfChange, ConfChangeKind};
pub use message::{Envelope, Forward, ForwardRefused, Lane, Message, PeerMessage};
pub use node::{
    Append, Config, DropReason, Fetch, Input, InstallSnapshot, Node, Output, PeerStatus, Role, RoleChange,
    Status,
};
pub use types::*;
