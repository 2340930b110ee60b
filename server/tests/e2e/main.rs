//! A running server, judged from outside.
//!
//! Every test starts a server of its own. `RINGD_TEST_SERVER=etcd` runs the same tests against the real etcd, which is
//! how they are proved to ask the right thing; tests of what only ringd has say so and return early there.

mod attacks;
mod compaction;
mod crash;
mod damage;
mod differential;
mod edge;
mod errors;
mod etcdctl;
mod kubernetes;
mod lease;
mod listeners;
mod metrics;
mod process;
mod tls;
mod watch;
mod watch_differential;

use testkit::{Program, Server, ServerOptions};

/// The server these tests judge.
fn program() -> Program {
    Program::under_test(env!("CARGO_BIN_EXE_ringd"))
}

/// A fresh server with the defaults.
fn start() -> Server {
    options().start()
}

/// A fresh server, still to be configured.
fn options() -> ServerOptions {
    let options = ServerOptions::new(program());
    match program() {
        // Tests share the machine's CPUs; bound executors would queue behind each other.
        Program::Ringd(_) => options.arg("--ringd-placement=unpinned"),
        Program::Etcd(_) => options,
    }
}

/// Whether this is `tools/check --nightly`, with time for long runs.
fn long_runs() -> bool {
    std::env::var_os("RINGD_NIGHTLY").is_some()
}
