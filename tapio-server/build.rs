//! Compiles the protocol of the API, without a `protoc` on the machine.

use std::{env, error::Error, fs, path::Path};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo::rerun-if-changed={}", root.join("ahti").display());
    let files = protox::compile(["ahti/v1/ahti.proto"], [&root])?;
    // For clients that ask what there is.
    fs::write(Path::new(&env::var("OUT_DIR")?).join("ahti.binpb"), files.encode_to_vec())?;
    // The client is for tests; what nothing calls does not reach a release binary.
    tonic_prost_build::configure().build_client(true).build_server(true).compile_fds(files)?;
    Ok(())
}
