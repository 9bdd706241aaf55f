//! Compiles what the agent embeds.

use std::{error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    protos()
}

/// The gateway's protocol, without a `protoc` on the machine.
fn protos() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = protox::compile(["polku/v1/gateway.proto"], [root])?;
    // The server is for tests; what nothing calls does not reach the release binary.
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(files)?;
    Ok(())
}
