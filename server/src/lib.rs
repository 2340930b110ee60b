//! The parts of the ringd server that need no executor, so that tests can link them.
//!
//! In reading order; the binary (`main.rs`) joins them with the edge.

pub mod bootstrap;
pub mod config;
pub mod edge;
pub mod observe;
pub mod placement;
pub mod sys;
