//! How an edge drives a [`Node`](crate::Node) and a [`Log`](crate::log::Log) together.
