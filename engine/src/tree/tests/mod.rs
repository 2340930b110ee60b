//! The tree as a whole.

mod support;

mod faults;
mod model;
mod versions;
