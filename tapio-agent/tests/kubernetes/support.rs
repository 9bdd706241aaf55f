//! A cluster of objects, and an agent's identity on one of its nodes.

#[path = "../../../xtask/src/kube/apiserver.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod apiserver;
#[path = "../../../xtask/src/kube/certificate.rs"]
mod certificate;
mod cluster;
mod gate;
mod node;
#[path = "../../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "../../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{fmt::Debug, time::Duration};

pub(crate) use cluster::{Cluster, PodKind, Shape};
pub(crate) use gate::{Answer, Gate};
pub(crate) use node::Agent;

/// Says that a test cannot run here, and why, and ends it.
macro_rules! cluster_or_skip {
    ($test:literal) => {
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

/// Waits for a condition, and says what was there instead if it never comes.
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
