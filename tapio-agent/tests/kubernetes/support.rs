//! A cluster of objects, and an agent's identity on one of its nodes.

#[path = "../../../xtask/src/kube/apiserver.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod apiserver;
#[path = "../../../xtask/src/kube/certificate.rs"]
mod certificate;
mod cluster;
mod gate;
mod manifest;
mod node;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{fmt::Debug, path::PathBuf, time::Duration};

pub(crate) use cluster::{Cluster, PodKind, Shape};
pub(crate) use gate::{Answer, Gate};
pub(crate) use manifest::{Helm, deploy, objects, one, shipped};
pub(crate) use node::Agent;

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

/// Waits for a condition. On failure it prints the last value.
pub(crate) async fn until<T: Debug>(mut look: impl AsyncFnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(150);
    loop {
        let now = look().await;
        if enough(&now) {
            return now;
        }
        assert!(tokio::time::Instant::now() < end, "still {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
