//! Compiles the schemas of `net/proto` a second time, into a client of their own: what judges the server shares no
//! code with it.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../../net/proto");
    let protos = ["../../net/proto/rpc.proto", "../../net/proto/health.proto"];
    tonic_prost_build::configure().build_server(false).compile_protos(&protos, &["../../net/proto"])?;
    Ok(())
}
