//! Compiles the event that gateways exchange, without a `protoc` on the machine.

use std::{env, error::Error, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../proto");
    println!("cargo::rerun-if-changed={}", root.join("polku/event").display());
    let files = protox::compile(["polku/event/v1/event.proto"], [&root])?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
