//! `tapio-server`.
fn main() {}
