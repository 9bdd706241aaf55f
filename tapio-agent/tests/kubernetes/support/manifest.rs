//! The objects in `deploy`, and the Helm that renders the chart.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

use super::programs;

/// A file or directory of `deploy`.
pub(crate) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(name)
}

/// The documents of a YAML stream.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// `deploy/tapio.yaml`.
pub(crate) fn shipped() -> Vec<Value> {
    objects(&fs::read_to_string(deploy("tapio.yaml")).unwrap())
}

/// The only object of a kind.
pub(crate) fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "objects of the kind {kind}");
    found[0]
}

/// The real Helm, without the user's configuration.
pub(crate) struct Helm {
    program: PathBuf,
    directory: TempDir,
}

impl Helm {
    /// Finds Helm, or prints why the test cannot run here.
    pub(crate) fn or_skip(test: &str) -> Option<Self> {
        match programs(&["helm"]) {
            Ok(programs) => {
                Some(Self { program: programs.join("helm"), directory: tempfile::tempdir().unwrap() })
            }
            Err(reason) => {
                println!("SKIP {test}: {reason}");
                None
            }
        }
    }

    /// Returns its stdout, or its error output.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut helm = Command::new(&self.program);
        for what in ["CACHE", "CONFIG", "DATA"] {
            helm.env(format!("HELM_{what}_HOME"), self.directory.path().join(what));
        }
        let output = helm.args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// Renders the chart.
    pub(crate) fn template(&self, arguments: &[&str]) -> Result<String, String> {
        let chart = deploy("helm/tapio");
        let release = ["template", "tapio", chart.to_str().unwrap(), "--namespace=tapio"];
        self.run(&[&release, arguments].concat())
    }

    /// Writes these values to a file.
    pub(crate) fn values(&self, values: &Value) -> String {
        let file = self.directory.path().join("values.yaml");
        fs::write(&file, values.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }
}
