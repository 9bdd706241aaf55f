//! A pod's sandbox. The runtime kills its first process whenever a pod ends.

use std::{fs, time::Duration};

use super::{of, start};
use crate::support::{Process, needs_a_kernel, skip};

#[test]
fn the_end_of_a_sandbox_is_nothing() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let tapio = start();
    let mut pause = Process::start_as_init("pause");
    pause.enter(&cgroup);
    let mut runtime = Process::start("runtime");
    runtime.kill(9, pause.pid());
    pause.await_death();

    tapio.expect_none(|o| o.is_in(&cgroup) || o.is_of(&pause));
}

/// The runtime removes the cgroup before the agent can look up its owner.
#[test]
fn the_end_of_a_sandbox_whose_group_is_gone_is_nothing() {
    needs_a_kernel!();
    let tapio = start();
    let cgroup = super::container!();
    let mut pause = Process::start_as_init("pause");
    pause.enter(&cgroup);
    let mut runtime = Process::start("runtime");
    runtime.kill(9, pause.pid());
    pause.await_death();
    let id = cgroup.container_id.clone();
    drop(cgroup);

    tapio.expect_none(|o| o.is_of(&pause) || o.container_id() == Some(&id));
}

/// The agent recognises a sandbox by its oom_score_adj, whatever its name, also in the host's pid namespace.
#[test]
fn a_sandbox_is_known_by_its_score() {
    needs_a_kernel!();
    let tapio = start();
    for (score, is_init) in [(-998, true), (-998, false), (-997, true)] {
        let cgroup = super::container!();
        let mut main = if is_init { Process::start_as_init("main") } else { Process::start("main") };
        if let Err(error) = fs::write(format!("/proc/{}/oom_score_adj", main.pid()), score.to_string()) {
            skip!("a score of {score} cannot be set: {error}");
        }
        main.enter(&cgroup);
        let mut runtime = Process::start("runtime");
        runtime.kill(9, main.pid());
        main.await_death();
        if score == -998 {
            tapio.expect_none(of(&cgroup));
        } else {
            tapio.expect_one(of(&cgroup)).is("container.killed").of(&main).by(&runtime);
        }
    }
}

#[test]
fn a_container_that_is_named_pause_and_crashes_or_has_to_be_killed_is_reported() {
    needs_a_kernel!();
    let tapio = start();
    let cgroup = super::container!();
    let mut crashes = Process::start_as_init("pause");
    crashes.enter(&cgroup);
    crashes.die("abort");
    tapio.expect_one(of(&cgroup)).is("container.crash");

    let cgroup = super::container!();
    let mut fails = Process::start_as_init("pause");
    fails.enter(&cgroup);
    fails.die("exit 3");
    tapio.expect_one(of(&cgroup)).is("container.exit_error").of(&fails);

    // The pause process ends when asked to.
    let cgroup = super::container!();
    let mut deaf = Process::start_as_init("pause");
    deaf.enter(&cgroup);
    let mut runtime = Process::start("runtime");
    runtime.kill(15, deaf.pid());
    std::thread::sleep(Duration::from_millis(100));
    runtime.kill(9, deaf.pid());
    deaf.await_death();
    tapio.expect_one(of(&cgroup)).is("container.killed").of(&deaf).severe("warning");
}
