//! The id of a process that was sent a signal, used again for another: what was done to the first is not the second's.
//!
//! Which id comes next is the whole machine's, hence in a guest.

use std::{fs, path::Path};

use super::{kill, of, start};
use crate::support::{Cgroup, Process, Tapio, needs_a_guest, skip};

const NEXT: &str = "/proc/sys/kernel/ns_last_pid";
/// Others may be faster.
const ATTEMPTS: usize = 8;

/// A process that was asked to end by another one, and ended well.
fn asked() -> Process {
    // So that ids before it are free afterwards, for what starts a main process.
    let _before = Process::start("before");
    let mut process = Process::start("first");
    process.begin_script("trap 'exit 0' TERM; echo '=> ok'; while :; do sleep 0.05; done");
    process.await_line("ok");
    kill("TERM", process.pid());
    process.await_death();
    process
}

/// Starts one under the id of one that was asked to end. What it takes to start it may need an id, too: that one then
/// has to be the only one that is free among so many before. Who takes the id in between may keep it for good, like a
/// thread of the kernel: then it is another's turn.
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

/// 128 + SIGTERM, and nobody asked for it.
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

/// By a signal whose senders are not kept.
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
