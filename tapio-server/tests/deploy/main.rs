//! The manifests of the server: they say the same as the agents' and as the settings, ask for little, and an API
//! server accepts them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../../xtask/src/kube/apiserver.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod apiserver;
#[path = "../../../xtask/src/kube/certificate.rs"]
mod certificate;
mod chart;
mod forms;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
mod shipped;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// A file or directory of `deploy`.
fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(name)
}

/// The documents of a YAML stream.
fn objects(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// The documents of a file of `deploy`.
fn file(name: &str) -> Vec<Value> {
    objects(&fs::read_to_string(deploy(name)).unwrap())
}

/// The only object of a kind.
fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "objects of the kind {kind}");
    found[0]
}

/// An object by kind and name.
fn named<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let is = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// What the manifest applies.
fn server() -> Vec<Value> {
    file("server/tapio-server.yaml")
}
