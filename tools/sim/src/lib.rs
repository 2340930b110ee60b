//! ringsim: whole clusters on virtual disks, networks and clocks, from one number.
//!
//! A seed is a world: how many members, how bad their disks and network, what clients ask, what goes wrong and when. The
//! members are production's machines with simulated surroundings, one thread runs everything, and a second run of the same
//! seed does exactly the same. README.md says how to use it and what it has found.
//!
//! Reading order:

// `to_store` sends to the store core; nothing is converted.
#![allow(clippy::wrong_self_convention)]

/// Chance, split by domains.
pub use medium::rng;

/// Virtual time.
pub mod queue;

/// A run, written down before it begins.
pub mod plan;

/// Sectors that a power cut keeps or loses.
pub mod disk;

/// Letters between members.
pub mod network;

/// Their bytes.
pub mod wire;

/// What surrounds the members.
pub mod env;

/// A member: production's machines, wired as the server's edge wires them.
pub mod member;

/// Clients that read and write.
pub mod client;

/// Clients that watch.
pub mod watcher;

/// The store as simply as it can be said.
pub mod model;

/// The membership as simply as it can be said.
pub mod members;

/// What must hold.
pub mod check;

/// What must hold in the end.
pub mod audit;

/// The world and its phases.
pub mod world;

/// Lives that are told to other machines.
pub mod replayed;

/// What happened, for readers.
pub mod story;

/// Runs of one plan and of many.
pub mod runner;

/// Failing plans made small.
pub mod shrink;

/// Mistakes that can be switched on.
pub mod bugs;
