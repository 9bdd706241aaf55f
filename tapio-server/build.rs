//! Compiles the protocol of the API, without a `protoc` on the machine.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo::rerun-if-changed={}", root.join("ahti").display());
    let files = protox::compile(["ahti/v1/ahti.proto"], [&root])?;
    // The client is for tests; what nothing calls does not reach a release binary.
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(files)?;
    Ok(())
}
