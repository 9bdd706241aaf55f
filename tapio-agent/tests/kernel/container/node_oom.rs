//! A machine that is out of memory, with no cgroup limit reached.

use std::fs;

use super::start;
use crate::support::{Process, is_confidential, needs_a_guest};

/// A rate in KiB/s that no machine sustains and no guest has memory for.
const FAST_KIB: u64 = 4 << 20;
const MORE_THAN_ALL: u64 = 1 << 40;

#[test]
fn a_node_without_memory_is_the_nodes_and_no_groups() {
    needs_a_guest!();
    let cgroup = super::container!();
    // Otherwise the kernel kills whichever task asks for memory.
    assert_eq!(fs::read_to_string("/proc/sys/vm/oom_kill_allocating_task").unwrap().trim(), "0");
    let tapio = start();
    let mut filler = Process::start("filler");
    fs::write(format!("/proc/{}/oom_score_adj", filler.pid()), "1000").unwrap();
    filler.enter(&cgroup);
    let before = oom_kills();
    filler.grow(FAST_KIB, MORE_THAN_ALL);
    filler.await_death();

    // Match any OOM kill, not just the filler's: the filler must be the only victim.
    let reported = tapio.expect_one(|o| o.kind == "container.oom_kill" || o.is_in(&cgroup));
    let reported =
        reported.is("container.oom_kill").of(&filler).in_container(&cgroup).says("process_role", "child");
    assert_eq!(oom_kills() - before, 1);
    assert_eq!(reported.number("oom_score_adj"), 1000);
    // With cgroup v1 the cause may have been a limit of memory and swap together.
    let is_said = !is_confidential() && cgroup.has("memory.max").is_ok();
    assert_eq!(reported.text("constraint"), if is_said { "node" } else { "" });
    for number in ["usage_bytes", "limit_bytes", "levels_up"] {
        assert!(!reported.has_data(number), "{reported:?}");
    }
}

/// OOM kills since boot.
fn oom_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap();
    let number = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
    number.parse().unwrap()
}
