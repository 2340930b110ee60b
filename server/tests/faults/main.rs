//! Faults at certain moments: death at each named failpoint, I/O errors, full disks, flipped bits in each region of the
//! files. `cargo test -p ringd --features failpoints --test faults`; what needs no failpoint runs without the feature.

mod bounds;
#[cfg(feature = "failpoints")]
mod errors;
#[cfg(feature = "failpoints")]
mod exits;
mod files;
mod flips;
#[cfg(feature = "failpoints")]
mod kills;
#[cfg(feature = "failpoints")]
mod load;
mod missing;
mod scrub;
mod space;

use std::path::Path;

use testkit::{Program, ServerOptions};

/// A server on `dir`, which outlives it. The smallest heap there is, so that checkpoints fall into the time under load.
fn options(dir: &Path) -> ServerOptions {
    ServerOptions::new(Program::Ringd(env!("CARGO_BIN_EXE_ringd").into()))
        .arg("--ringd-placement=unpinned")
        .arg("--ringd-heap-limit=8388608")
        .data_dir(&dir.join("data"))
}

/// A directory for the data of one test's servers.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(testkit::scratch_dir()).expect("the target directory is writable")
}
