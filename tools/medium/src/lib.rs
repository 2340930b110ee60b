//! What a disk keeps and loses, by chance from a seed: for the simulator of clusters and for tests of one store.

/// Chance, split by domains.
pub mod rng;

mod medium;

pub use medium::{Lie, Medium, SECTOR};
