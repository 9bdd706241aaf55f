//! How kubelet reacts to probes: it restarts a container, and kills a probe that takes too long.

use std::time::Duration;

use super::{of, start};
use crate::support::{Process, is_confidential, needs_a_kernel};

/// A container that ignores SIGTERM and has to be killed each time.
#[test]
fn a_container_that_is_stopped_again_and_again_is_reported_once_and_with_its_number() {
    needs_a_kernel!();
    let pod = super::container!();
    let containers = [pod.beside(), pod.beside(), pod.beside()];
    let tapio = start();
    let mut runtime = Process::start("runtime");
    for cgroup in &containers {
        let mut main = Process::start_as_init("deaf");
        main.enter(cgroup);
        runtime.kill(15, main.pid());
        std::thread::sleep(Duration::from_millis(100));
        runtime.kill(9, main.pid());
        main.await_death();
    }
    let is_one = |o: &crate::support::Occurrence| containers.iter().any(|cgroup| o.is_in(cgroup));
    let first = tapio.expect_one(is_one).is("container.killed").severe("warning");
    assert_eq!((first.count, first.container_id()), (1, Some(&*containers[0].container_id)));
    let ended = tapio.end();
    let reported: Vec<_> = ended.occurrences.iter().filter(|o| is_one(o)).map(|o| o.count).collect();
    assert_eq!(reported, [1, 2]);
}

/// A different command, and a different pod.
#[test]
fn what_is_stopped_in_other_pods_and_of_other_names_is_reported() {
    needs_a_kernel!();
    let (pod, other) = (super::container!(), super::container!());
    let beside = pod.beside();
    let tapio = start();
    let mut runtime = Process::start("runtime");
    for (cgroup, name) in [(&pod, "app"), (&beside, "sidecar"), (&other, "app")] {
        let mut main = Process::start_as_init(name);
        main.enter(cgroup);
        runtime.kill(9, main.pid());
        main.await_death();
        tapio.expect_one(of(cgroup)).is("container.killed").of(&main).severe("error");
    }
}

/// As by `kubectl exec`: a shell whose parent is outside, in the container's namespace and cgroup. What the container itself
/// kills is its own business.
#[test]
fn what_somebody_kills_who_entered_the_container_is_reported() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    let tapio = start();
    main.run("sleep 50 & kill -9 $!; wait");
    tapio.expect_none(of(&cgroup));

    main.run("sleep 50 &");
    let victim = main.await_descendant("sleep");
    let mut runtime = Process::start("runtime");
    runtime.enter(&cgroup);
    // All but itself and the first process of the namespace.
    runtime.run(&format!("nsenter --pid=/proc/{}/ns/pid sh -c 'kill -9 -1'", main.pid()));
    if is_confidential() {
        // Where it comes from takes a helper.
        return tapio.expect_none(of(&cgroup));
    }
    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").severe("error");
    let reported = reported.says("sender", "entered").says("signal", "SIGKILL");
    assert!(reported.is_of_pid(victim), "{reported:?}");
    assert!(reported.message().contains("sh["), "{reported:?}");
}

/// An exec through a runtime's shim: the process becomes the shim's child and is not the first process of the
/// container.
#[test]
fn a_command_that_its_runtime_kills_is_reported_as_a_probe() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let main = Process::start_as_init("main");
    main.enter(&cgroup);
    let tapio = start();
    for (by_runtime, kind) in [(true, "exec"), (false, "")] {
        let mut runtime = Process::start("runtime");
        runtime.adopt();
        let namespace = format!("/proc/{}/ns/pid", main.pid());
        runtime.run(&format!("nsenter --pid={namespace} sleep 50 & sleep 1; kill -9 $!; wait"));
        let probe = runtime.await_descendant("sleep");
        cgroup.add(probe);
        let mut other = Process::start("other");
        let killer = if by_runtime { &mut runtime } else { &mut other };
        killer.kill(9, probe);
        let reported = tapio.expect_one(|o| o.is_in(&cgroup) && o.is_of_pid(probe)).is("container.killed");
        let reported = reported.by(killer).says("started_by", kind).says("process_role", "child");
        assert_eq!(reported.message().contains("exec probe"), by_runtime, "{reported:?}");
        reported.severe(if by_runtime { "warning" } else { "error" });
    }
}
