//! A cluster of objects, and PORTTI with the role that it is shipped with.

#[path = "../../../xtask/src/kube/apiserver.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod apiserver;
#[path = "../../../xtask/src/kube/certificate.rs"]
mod certificate;
#[path = "../../../tapio-agent/tests/kubernetes/support/cluster.rs"]
#[allow(dead_code, reason = "a part of it is the agent's")]
mod cluster;
#[path = "../../../tapio-agent/tests/kubernetes/support/manifest.rs"]
#[allow(dead_code, reason = "a part of it is the agent's")]
mod manifest;
mod portti;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::path::PathBuf;

pub(crate) use cluster::Cluster;
pub(crate) use manifest::{deploy, objects};
pub(crate) use portti::{Portti, Told};

/// The directory of these programs, or an error that names a missing one.
pub(crate) fn programs(names: &[&str]) -> Result<PathBuf, String> {
    let directory = match std::env::var_os("KUBEBUILDER_ASSETS").filter(|value| !value.is_empty()) {
        Some(named) => PathBuf::from(named),
        None => toolchain::cache()?.join("kube"),
    };
    match names.iter().find(|name| !directory.join(name).is_file()) {
        Some(missing) => {
            Err(format!("there is no {missing} in {}: run `cargo xtask kube build`", directory.display()))
        }
        None => Ok(directory),
    }
}

/// Starts a cluster, or prints why the test cannot run here and ends it.
macro_rules! cluster_or_skip {
    ($test:expr) => {
        match $crate::support::Cluster::start().await {
            Ok(cluster) => cluster,
            Err(reason) => {
                println!("SKIP {}: {reason}", $test);
                return;
            }
        }
    };
}
pub(crate) use cluster_or_skip;
