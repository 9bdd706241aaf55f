//! `cargo xtask otelcol`: builds an OpenTelemetry Collector that the tests send to, from `xtask/otelcol`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{go, machine};

/// `otelcol build`
pub(crate) fn task(arguments: &[String]) -> Result<()> {
    match arguments {
        [word] if word == "build" => {
            println!("{}", build()?.display());
            Ok(())
        }
        _ => bail!("otelcol takes one thing: build"),
    }
}

/// Builds the collector for tests/otlp. A machine without it skips those tests with a message.
pub(crate) fn for_tests() -> Result<()> {
    match build() {
        Err(error) if !go::is_there() => {
            eprintln!("skipped: {error:#}");
            Ok(())
        }
        built => built.map(drop),
    }
}

/// Go detects by itself what has to be rebuilt.
fn build() -> Result<PathBuf> {
    let program = match env::var_os("OTELCOL").filter(|value| !value.is_empty()) {
        Some(named) => std::path::absolute(PathBuf::from(named)).context("OTELCOL is no path")?,
        None => machine::tool_root("otelcol")?.join("otelcol"),
    };
    if go::is_there() {
        go::build(Path::new("otelcol"), ".", None, &program)?;
    } else if !program.is_file() {
        bail!("{}, or set OTELCOL to one that is there", go::missing_for(&program));
    }
    Ok(program)
}
