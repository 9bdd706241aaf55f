//! Processes with threads of other names: every report uses the process's name.

use super::{MIB, TOO_MUCH, of, start};
use crate::support::{Process, is_confidential, needs_a_kernel};

#[test]
fn a_fault_of_a_thread_is_its_processs() {
    needs_a_kernel!();
    let tapio = start();
    for is_init in [false, true] {
        let cgroup = super::container!();
        let mut child = if is_init { Process::start_as_init("checkout") } else { Process::start("checkout") };
        child.enter(&cgroup);
        child.die("in_thread pool-1-thread-3 abort");
        tapio.expect_one(of(&cgroup)).is("container.crash").of(&child);
    }
}

#[test]
fn memory_that_a_thread_asks_for_is_its_processs() {
    needs_a_kernel!();
    let cgroup = super::container!();
    cgroup.limit(40 * MIB);
    let tapio = start();
    let mut hog = Process::start("hog");
    hog.enter(&cgroup);
    hog.die(&format!("in_thread tokio-rt-worker allocate {TOO_MUCH}"));
    tapio.expect_one(of(&cgroup)).is("container.oom_kill").of(&hog).by(&hog);
}

#[test]
fn a_kill_by_a_thread_is_its_processs() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    let mut killer = Process::start("killer");
    killer.kill_in_thread("worker-7", 9, child.pid());
    child.await_death();
    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").of(&child);
    if is_confidential() {
        return assert_eq!(reported.actor_comm(), "worker-7");
    }
    reported.by(&killer);
}
