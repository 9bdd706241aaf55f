//! Process deaths: cause, container and killer. Each is reported once.

mod clock;
mod crash;
mod limits;
mod node_oom;
mod odd;
mod oom;
mod probe;
mod reuse;
mod sandbox;
mod storm;
mod thread;

use std::{process::Command, time::Duration};

use crate::support::{Cgroup, Occurrence, Process, Tapio, is_confidential, needs_a_kernel};

const MIB: u64 = 1 << 20;
/// More memory than any limit here allows.
const TOO_MUCH: usize = 200 << 20;

/// Creates a container, or ends the test if that is impossible.
macro_rules! container {
    () => {
        match crate::support::Cgroup::with_memory() {
            Ok(cgroup) => cgroup,
            Err(reason) => crate::support::skip!("{reason}"),
        }
    };
}

use container;

fn start() -> Tapio {
    Tapio::start_observer("container")
}

/// Selects all occurrences of a container.
fn of(cgroup: &Cgroup) -> impl Fn(&Occurrence) -> bool {
    |occurrence| occurrence.is_in(cgroup)
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// The expected text, or an empty one if lockdown forbids reading it.
fn readable(text: &str) -> &str {
    if is_confidential() { "" } else { text }
}

/// A process of the container runtime that has forked but cannot execute the container's command.
#[test]
fn a_command_that_is_never_executed_is_reported_as_that() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    // The first child of that shell is the first process of the namespace, and a subshell in parentheses
    // executes nothing.
    let forks = |name: &str, how: &str| {
        format!("unshare --pid sh -c '(printf %s \"{name}\" >/proc/self/comm; {how}); :'")
    };
    let mut runtime = Process::start("runtime");
    runtime.enter(&cgroup);
    runtime.begin_script(&forks("runc:[2:INIT]", "exit 1"));
    runtime.await_death();
    let reported = tapio.expect_one(of(&cgroup)).is("container.exit_error").says("executed", "never");
    assert_eq!((reported.comm(), reported.number("status")), ("runc:[2:INIT]", 1));

    // Other processes that only fork, and a process with such a name that did execute.
    let cgroup = container!();
    let mut forks_only = Process::start("sandboxes");
    forks_only.enter(&cgroup);
    forks_only.begin_script(&forks("bwrap", "exit 1"));
    forks_only.await_death();
    tapio.expect_one(of(&cgroup)).is("container.exit_error").says("executed", "");

    let cgroup = container!();
    let mut main = Process::start_as_init("runc:[2:INIT]");
    main.enter(&cgroup);
    main.die("exit 1");
    tapio.expect_one(of(&cgroup)).is("container.exit_error").of(&main).says("executed", "");
}

#[test]
fn a_kill_from_the_host_says_who_sent_it() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    let mut killer = Process::start("killer");
    killer.kill(9, main.pid());
    main.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").of(&main).by(&killer).actor_in(None);
    reported.says("signal", "SIGKILL").says("process_role", "main").says("asked_signal", "");
}

#[test]
fn a_kill_from_another_container_says_which() {
    needs_a_kernel!();
    let cgroup = container!();
    let other = container!();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    let mut killer = Process::start("killer");
    killer.enter(&other);
    // With cgroup v1 the agent knows the container by its process, whose start time has the resolution of a
    // tick.
    std::thread::sleep(Duration::from_millis(50));
    killer.kill(9, child.pid());
    child.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").of(&child).by(&killer);
    reported.actor_in(Some(&other)).says("process_role", "child");
}

#[test]
fn what_a_container_does_to_itself_is_its_own() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    let mut supervisor = Process::start("supervisor");
    supervisor.enter(&cgroup);
    std::thread::sleep(Duration::from_millis(50));
    supervisor.kill(9, child.pid());
    child.await_death();

    tapio.expect_none(of(&cgroup));
}

#[test]
fn a_clean_stop_is_nothing() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    for ending in ["exit 0", "exit 143", "exit $((128 + 15))"] {
        let mut main = Process::start_as_init("main");
        main.enter(&cgroup);
        main.begin_script(&format!("trap '{ending}' TERM; echo '=> ok'; while :; do sleep 0.05; done"));
        main.await_line("ok");
        kill("TERM", main.pid());
        main.await_death();
    }
    // Without a handler, and not pid 1.
    let mut child = Process::start("child");
    child.enter(&cgroup);
    kill("TERM", child.pid());
    child.await_death();

    tapio.expect_none(of(&cgroup));
}

#[test]
fn a_stop_that_had_to_be_forced_is_a_warning() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    // As pid 1 without a handler, it ignores SIGTERM.
    let mut main = Process::start_as_init("deaf");
    main.enter(&cgroup);
    let mut runtime = Process::start("runtime");
    runtime.kill(15, main.pid());
    std::thread::sleep(Duration::from_millis(300));
    runtime.kill(9, main.pid());
    main.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").of(&main).by(&runtime);
    let reported = reported.says("asked_signal", "SIGTERM").severe("warning");
    reported.has("asked_ms", 290..5_000);
}

#[test]
fn who_ends_with_the_first_process_is_no_news() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script("sleep 50 & sleep 50 & echo '=> ok'; wait");
    main.await_line("ok");
    let mut killer = Process::start("killer");
    killer.kill(9, main.pid());
    main.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.killed").by(&killer);
    reported.says("process_role", "main").of_pid(main.pid());
}

#[test]
fn a_status_of_the_first_process_is_reported() {
    needs_a_kernel!();
    for (status, meaning) in [(1, ""), (127, "the command was not found"), (137, "128 + SIGKILL")] {
        let cgroup = container!();
        let tapio = start();
        let mut main = Process::start_as_init("main");
        main.enter(&cgroup);
        main.die(&format!("exit {status}"));

        let reported = tapio.expect_one(of(&cgroup)).is("container.exit_error").of(&main).by_nobody();
        assert_eq!(reported.says("meaning", meaning).number("status"), status);
    }
}

#[test]
fn a_child_that_is_killed_is_reported_and_not_again_as_the_status_of_its_parents() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script("echo '=> ok'; (sleep 50; exit $?); exit $?");
    main.await_line("ok");
    let child = main.await_descendant("sleep");
    let mut killer = Process::start("killer");
    killer.kill(9, child);
    main.await_death();

    tapio.expect_one(of(&cgroup)).is("container.killed").by(&killer).of_pid(child);
}

#[test]
fn what_a_process_does_to_itself_is_its_own() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    child.begin_script("kill -KILL $$");
    child.await_death();

    tapio.expect_none(of(&cgroup));
}

#[test]
fn a_child_that_is_killed_from_within_is_reported_as_the_status_of_the_first_process() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script("sleep 50 & kill -9 $!; wait $!; exit $?");
    main.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.exit_error").of(&main);
    assert_eq!(reported.number("status"), 137);
}

#[test]
fn ends_in_good_order_and_of_children_are_nothing() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.die("exit 0");
    let mut child = Process::start("child");
    child.enter(&cgroup);
    child.die("exit 1");
    // A closed pipe, an alarm, a closed terminal, Ctrl-C.
    for signal in ["PIPE", "ALRM", "HUP", "INT"] {
        let mut child = Process::start("child");
        child.enter(&cgroup);
        child.begin_script(&format!("kill -{signal} $$"));
        child.await_death();
    }

    tapio.expect_none(of(&cgroup));
}

#[test]
fn many_short_processes_are_nothing_and_all_are_counted() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    let loops = "i=0; while [ $i -lt 1000 ]; do (exit 1) & (exit 0); wait; i=$((i + 1)); done";
    main.begin_script(&format!("{loops}; exit 0"));
    main.await_death();

    tapio.expect_none(of(&cgroup));
    let ended = tapio.end();
    for (program, counts) in &ended.programs {
        assert_eq!(counts.seen, counts.accounted(), "{program}: {counts:?}");
    }
    let exits = ended.programs.iter().find(|(program, _)| program == "sched_process_exit").unwrap();
    assert!(
        exits.1.normal + ended.missed >= 2_000,
        "{exits:?} and {} that the kernel left out",
        ended.missed
    );
}

#[test]
fn a_process_of_the_host_is_out_of_scope_unless_all_are_meant() {
    needs_a_kernel!();
    // If no container cgroup is visible, an ended process may have been in one, and is reported.
    drop(container!());
    let tapio = start();
    let mut aborts = Process::start("on-the-host");
    let pid = aborts.pid();
    aborts.die("abort");
    tapio.expect_none(|o| o.is_of(&aborts));
    drop(tapio);

    let all = "observer:\n  container:\n    scope: all\n";
    let tapio = Tapio::start_with(&["--observer=container"], all);
    let mut aborts = Process::start("on-the-host");
    assert_ne!(aborts.pid(), pid);
    aborts.die("abort");
    tapio.expect_one(|o| o.is_of(&aborts)).is("container.crash").of(&aborts);
}
