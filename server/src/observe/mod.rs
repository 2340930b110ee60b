//! What an operator sees: log lines as etcd writes them, and metrics under etcd's names.
//!
//! Both are fed from cores that must never wait: a log line goes into a bounded queue or is dropped and counted, a
//! metric is one relaxed store into memory that only its own core writes.

pub mod journal;
pub mod logs;
pub mod metrics;
pub mod rotation;
