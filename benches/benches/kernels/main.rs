//! The kernels alone, on one thread, without sockets and without waiting for a disk: `cargo bench -p benches`.
//!
//! A kernel's time is what a request pays at least; `compare` (the program of this package) measures whole servers.
//! The engine above the tree has its benches in its own package: `cargo bench -p engine`.

mod log;
mod table;
mod wire;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Short times: all kernels together take less than a minute, and the medians hold within a few percent.
fn config() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(30)
}

criterion_group! {
    name = kernels;
    config = config();
    targets = wire::wire, log::log, table::table
}
criterion_main!(kernels);
