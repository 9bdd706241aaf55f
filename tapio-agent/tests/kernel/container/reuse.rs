//! A reused pid: the record of a signal to the first process must not apply to the second one.
//!
//! The next pid is chosen for the whole machine, so these tests run in a guest.

use std::{fs, path::Path};

use super::{kill, of, start};
use crate::support::{Cgroup, Process, Tapio, needs_a_guest, skip};

const NEXT: &str = "/proc/sys/kernel/ns_last_pid";
/// Other processes may take the pid first.
const ATTEMPTS: usize = 8;

/// A process that another one asked to end, and that exited normally.
fn asked() -> Process {
    // This frees earlier ids afterwards, for the process that starts a main process.
    let _before = Process::start("before");
    let mut process = Process::start("first");
    process.begin_script("trap 'exit 0' TERM; echo '=> ok'; while :; do sleep 0.05; done");
    process.await_line("ok");
    kill("TERM", process.pid());
    process.await_death();
    process
}

/// Starts a process under the pid of one that was asked to end. Starting it may take a pid too; then the
/// wanted pid has to be the only free one among several before it, so the attempts vary. If another process
/// takes the pid in between it may keep it for good, like a kernel thread; then the next attempt uses another
/// pid.
fn under_the_id_of_one_asked(start: impl Fn() -> Process) -> Process {
    for _ in 0..ATTEMPTS {
        let pid = asked().pid();
        for before in (0..8).cycle().take(64) {
            fs::write(NEXT, (pid - 1 - before).to_string()).unwrap();
            let process = start();
            if process.pid() == pid {
                return process;
            }
        }
    }
    panic!("no id came again");
}

macro_rules! needs_ids {
    () => {
        needs_a_guest!();
        if !Path::new(NEXT).exists() {
            skip!("this kernel has no {NEXT}");
        }
    };
}

#[track_caller]
fn reported_for(tapio: &Tapio, cgroup: &Cgroup) -> crate::support::Occurrence {
    let reported = tapio.expect_one(of(cgroup)).says("asked_signal", "");
    assert!(!reported.has_data("asked_ms"), "{reported:?}");
    reported
}

/// Exit code 128 + SIGTERM, though nobody sent that signal.
#[test]
fn a_status_is_not_what_the_one_before_was_asked_for() {
    needs_ids!();
    let cgroup = super::container!();
    let tapio = start();
    let mut main = under_the_id_of_one_asked(|| Process::start_as_init("main"));
    main.enter(&cgroup);
    main.die("exit 143");

    let reported = reported_for(&tapio, &cgroup).is("container.exit_error").of(&main).by_nobody();
    assert_eq!(reported.number("status"), 143);
}

#[test]
fn a_kill_is_not_a_stop_of_the_one_before() {
    needs_ids!();
    let cgroup = super::container!();
    let tapio = start();
    let mut main = under_the_id_of_one_asked(|| Process::start_as_init("main"));
    main.enter(&cgroup);
    let mut killer = Process::start("killer");
    killer.kill(9, main.pid());
    main.await_death();

    reported_for(&tapio, &cgroup).is("container.killed").of(&main).by(&killer).severe("error");
}

/// Ended by a signal whose senders the agent does not record.
#[test]
fn an_unknown_killer_is_not_that_of_the_one_before() {
    const SIGPROF: u32 = 27;
    needs_ids!();
    let cgroup = super::container!();
    let tapio = start();
    let mut child = under_the_id_of_one_asked(|| Process::start("child"));
    child.enter(&cgroup);
    let mut killer = Process::start("killer");
    killer.kill(SIGPROF, child.pid());
    child.await_death();

    reported_for(&tapio, &cgroup).is("container.killed").of(&child).by_nobody().says("signal", "SIGPROF");
}
