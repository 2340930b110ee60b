//! Where the process meets the operating system, apart from the executors: what may stop a start, and how it ends.
//!
//! Part of the edge in what it does (files, signals, system calls), but it needs no executor and runs before there is
//! one. In the order of a start: `machine` (what CPUs are ours), `probe` (does this kernel let us work), `data_dir`
//! (lock, ownership, identity), `notify` and `signals` (ready, stop), `process` (what `/proc` says of us), `fatal` (why
//! it ends).

pub mod data_dir;
pub mod fatal;
pub mod identity;
pub mod machine;
pub mod notify;
pub mod probe;
pub mod process;
pub mod signals;

pub use data_dir::DataDir;
pub use fatal::{Fatal, FatalReason};
pub use identity::Identity;

/// Says why, in the log if there is one, and ends the process with the reason's code. Nothing is unwound: whatever was
/// not acknowledged by now never will be.
pub fn exit(fatal: &Fatal) -> ! {
    crate::observe::logs::say_fatal(fatal);
    notify::stopping();
    std::process::exit(i32::from(fatal.reason.exit_code()))
}
