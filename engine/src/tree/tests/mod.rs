//! The tree as a whole.

mod support;

mod faults;
mod lookups;
mod model;
mod scrub;
mod versions;
