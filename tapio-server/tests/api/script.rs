//! Scripts in Python.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::toolchain;

/// The interpreter with the clients, as `cargo xtask setup --ci` brings it.
pub(crate) fn interpreter() -> Result<PathBuf, String> {
    let path = toolchain::cache()?.join(crate::python::DIRECTORY).join(crate::python::PROGRAM);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!("there is no {}: run `cargo xtask setup --ci`", path.display())),
    }
}

/// The interpreter, or the reason why the test cannot run here, which ends it.
macro_rules! python {
    ($test:literal) => {
        match $crate::script::interpreter() {
            Ok(python) => python,
            Err(reason) => return println!("SKIP {}: {reason}", $test),
        }
    };
}
pub(crate) use python;

/// Runs the interpreter, and returns what it printed.
pub(crate) fn run<A: AsRef<OsStr>>(
    python: &Path,
    arguments: impl IntoIterator<Item = A>,
    in_directory: &Path,
) -> String {
    let output = Command::new(python).args(arguments).current_dir(in_directory).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The last line of what a script printed, as JSON.
pub(crate) fn last(text: &str) -> Value {
    serde_json::from_str(text.trim_end().lines().last().unwrap()).unwrap()
}
