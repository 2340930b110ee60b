//! Compiles `proto/*.proto` to Rust with `protox` and `prost-build`; no `protoc` has to be installed.
//!
//! `bytes` fields become `bytes::Bytes`: decoding a request from a `Bytes` shares its buffer, so keys and values
//! are never copied on the way in.

use std::error::Error;

/// Every schema; imports are found through the same list.
const PROTOS: [&str; 9] = [
    "kv.proto",
    "auth.proto",
    "membership.proto",
    "rpc.proto",
    "raft_internal.proto",
    "lease.proto",
    "v3lock.proto",
    "v3election.proto",
    "health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(PROTOS, ["proto"])?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]).compile_fds(files)?;
    Ok(())
}
