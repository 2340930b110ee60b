//! Several servers as one cluster, judged from outside.
//!
//! As in the end-to-end tests of one server, `RINGD_TEST_SERVER=etcd` runs the same tests against the real etcd.

mod ask;
mod basics;
mod force_new;
mod idle;
mod loss;
mod membership;

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
