//! The ringd server.
fn main() {}
