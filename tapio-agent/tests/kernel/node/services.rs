//! Services of the node, as systemd has them: a cgroup that is gone when they have ended.

use std::time::Duration;

use crate::support::{Cgroup, Occurrence, Tapio, needs_a_kernel, skip};

/// Two scans and fifteen seconds; on an emulated CPU scans are many seconds apart.
const REPORTED: Duration = Duration::from_secs(90);

#[test]
fn one_that_ends_is_reported_once_and_one_that_is_restarted_is_not() {
    needs_a_kernel!();
    const STOPPED: &str = "cri-docker.service";
    const RESTARTED: &str = "snap.microk8s.daemon-kubelite.service";
    let (stopped, restarted) = match (Cgroup::unit(STOPPED), Cgroup::unit(RESTARTED)) {
        (Ok(stopped), Ok(restarted)) => (stopped, restarted),
        (Err(reason), _) | (_, Err(reason)) => skip!("{reason}"),
    };
    if let Err(reason) = stopped.is_limitable() {
        skip!("{reason}");
    }
    let tapio = Tapio::start_with(&["--observer=node"], "observer: {node: {interval: 1s}}\n");
    tapio.expect_scans(2);
    drop(stopped);
    drop(restarted);
    let _again = Cgroup::unit(RESTARTED);
    let is_of = |o: &Occurrence, unit| o.kind == "node.service_stopped" && o.text("unit") == unit;
    let reported = tapio.expect_one_within(REPORTED, |o| is_of(o, STOPPED)).of_no_process();
    assert!(!reported.has_workload());
    tapio.expect_none(|o| is_of(o, RESTARTED));
}
