//! Several servers as one cluster, judged from outside.
//!
//! As in the end-to-end tests of one server, `RINGD_TEST_SERVER=etcd` runs the same tests against the real etcd.

mod ask;
mod basics;
mod catch_up;
mod cycles;
mod force_new;
mod full_disk;
mod idle;
mod leases;
mod loss;
mod membership;
mod metrics;
mod partitions;
mod repair;
mod tls;
#[cfg(feature = "failpoints")]
mod traces;
mod versions;

use testkit::{Cluster, Program, ServerOptions};

/// The server these tests judge.
fn program() -> Program {
    Program::under_test(env!("CARGO_BIN_EXE_ringd"))
}

/// Options of one member of it.
fn options(program: Program) -> ServerOptions {
    let options = ServerOptions::new(program.clone());
    match program {
        // Tests share the machine's CPUs; bound executors would queue behind each other.
        Program::Ringd(_) => options.arg("--ringd-placement=unpinned"),
        Program::Etcd(_) => options,
    }
}

/// A fresh cluster of three.
fn three() -> Cluster {
    Cluster::start(options(program()), 3)
}

/// Whether this is `tools/check --nightly`, with time for long runs.
fn long_runs() -> bool {
    std::env::var_os("RINGD_NIGHTLY").is_some()
}

/// A seed, which `RINGD_TEST_SEED` repeats as far as processes and networks let it, and draws below a bound.
fn chance() -> (u64, impl FnMut(u64) -> u64) {
    let given = std::env::var("RINGD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    let mut chance = testkit::history::Chance::new(seed);
    (seed, move |bound| chance.below(bound))
}
