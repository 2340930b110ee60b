//! ringctl.
fn main() {}
