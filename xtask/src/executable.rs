//! The test and bench executables that cargo builds, so that each can run as the user it needs.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::machine;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    /// The package's directory. cargo runs the executable there too.
    pub(crate) directory: PathBuf,
    /// The target's name: `kernel` for `tests/kernel`.
    pub(crate) target: String,
    /// cargo's word for it: `lib`, `bin`, `test`, `bench`.
    pub(crate) kind: String,
    pub(crate) path: PathBuf,
}

impl Executable {
    /// The name for a table: the package and the target.
    pub(crate) fn name(&self) -> String {
        let package = self.directory.file_name().unwrap_or_default().to_string_lossy();
        match self.kind.as_str() {
            "test" | "bench" => format!("{package} {}", self.target),
            kind => format!("{package} {kind} unit"),
        }
    }
}

/// Builds and lists the executables that this `cargo test` or `cargo bench` would run.
pub(crate) fn build(mut cargo: Command) -> Result<Vec<Executable>> {
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut found = Vec::new();
    for line in BufReader::new(output).lines() {
        found.extend(artifact(&line.context("cannot read what cargo says")?));
    }
    if !child.wait().context("cannot wait for cargo")?.success() {
        bail!("`{}` does not compile", machine::line_of(&cargo));
    }
    Ok(found)
}

/// The executable in this line of cargo's JSON, if it is a test or a bench.
fn artifact(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let kind = target["kind"][0].as_str()?;
    if message["profile"]["test"] != Value::Bool(true) && kind != "bench" {
        return None;
    }
    Some(Executable {
        directory: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
        target: target["name"].as_str()?.to_owned(),
        kind: kind.to_owned(),
        path: message["executable"].as_str()?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_found_and_a_plain_binary_is_not() {
        let line = |test: bool| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/tapio-agent/Cargo.toml",
                "target":{{"kind":["test"],"name":"kernel"}},"profile":{{"test":{test}}},
                "executable":"/w/target/kernel-1"}}"#
            )
        };
        assert_eq!(artifact(&line(true)).map(|found| found.name()).as_deref(), Some("tapio-agent kernel"));
        assert_eq!(artifact(&line(false)), None);
        assert_eq!(artifact(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
