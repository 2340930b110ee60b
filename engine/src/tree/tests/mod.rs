//! The tree as a whole.

mod support;

mod model;
