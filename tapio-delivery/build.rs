//! Compiles the gateway's protocol, without a `protoc` on the machine.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo::rerun-if-changed={}", root.display());
    let files = protox::compile(["polku/v1/gateway.proto"], [&root])?;
    // The server is for others; what nothing calls does not reach a release binary.
    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .extern_path(".polku.event.v1", "::tapio_occurrence::event::v1")
        .compile_fds(files)?;
    Ok(())
}
