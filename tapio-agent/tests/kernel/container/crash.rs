//! Faults and aborts, of child processes and of first processes, and how wrappers pass them on.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use super::{container, of, readable, start};
use crate::support::{Process, Program, is_confidential, needs_a_kernel};

/// The unmapped address that [`fault`] writes to.
const ADDRESS: &str = "0x40";

/// Instructions that write there: `movl $1, 0x40`, or `mov x0, #0x40; str w0, [x0]`.
const FAULT: &[u8] = if cfg!(target_arch = "x86_64") {
    &[0xc7, 0x04, 0x25, 0x40, 0, 0, 0, 1, 0, 0, 0]
} else {
    &[0x00, 0x08, 0x80, 0xd2, 0x00, 0x00, 0x00, 0xb9]
};

/// A program that writes to [`ADDRESS`].
fn fault() -> Program {
    Program::new("faults", FAULT).unwrap()
}

#[test]
fn a_fault_of_a_child_is_a_crash_with_its_address() {
    needs_a_kernel!();
    let cgroup = container!();
    let fault = fault();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    child.become_program(fault.path());
    child.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.crash").by_nobody();
    let reported = reported.says("signal", "SIGSEGV").says("code", readable("SEGV_MAPERR"));
    let reported = reported.says("address", readable(ADDRESS));
    reported.says("process_role", "child").of_pid(child.pid());
}

#[test]
fn a_fault_of_the_first_process_is_a_crash_and_no_exit() {
    needs_a_kernel!();
    let cgroup = container!();
    let fault = fault();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.become_program(fault.path());
    main.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.crash").says("address", readable(ADDRESS));
    reported.says("process_role", "main").of_pid(main.pid());
}

#[test]
fn an_abort_is_a_crash() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut child = Process::start("aborts");
    child.enter(&cgroup);
    child.die("abort");

    let reported = tapio.expect_one(of(&cgroup)).is("container.crash").of(&child).by_nobody();
    assert_eq!(reported.says("signal", "SIGABRT").text("address"), "");
}

/// The kernel drops the SIGABRT of a pid namespace's first process, so `abort` ends it in another way.
#[test]
fn an_abort_of_the_first_process_is_an_abort() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    // The C library decides.
    let instead = match main.die("abort").signal() {
        Some(5) => "SIGTRAP",
        Some(11) => "SIGSEGV",
        other => panic!("{other:?}"),
    };
    let reported = tapio.expect_one(of(&cgroup)).is("container.crash").of(&main).by_nobody();
    let reported = reported.says("signal", "SIGABRT").says("process_role", "main");
    reported.says("ended_with", instead);

    // `abort` exits with 127 if the process also handles the signal that would end it then.
    let cgroup = container!();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script("kill -ABRT $$; exit 127");
    main.await_death();
    let reported = tapio.expect_one(of(&cgroup)).is("container.crash").of(&main);
    reported.says("signal", "SIGABRT").says("ended_with", "status 127");

    // This one survived the abort.
    let cgroup = container!();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script("kill -ABRT $$; exit 3");
    main.await_death();
    assert_eq!(tapio.expect_one(of(&cgroup)).is("container.exit_error").number("status"), 3);
}

#[test]
fn a_segv_from_outside_is_no_crash() {
    needs_a_kernel!();
    let cgroup = container!();
    let tapio = start();
    let mut child = Process::start("child");
    child.enter(&cgroup);
    let mut killer = Process::start("killer");
    // The first of two signals is handled as in the Rust standard library: the handler finds no fault of its
    // own and lets the next signal end the process.
    killer.kill(11, child.pid());
    std::thread::sleep(Duration::from_millis(100));
    killer.kill_if_there(11, child.pid());
    child.await_death();

    tapio.expect_one(of(&cgroup)).is("container.killed").of(&child).by(&killer).says("signal", "SIGSEGV");
}

/// A wrapper that reports its child's death by killing itself with the same signal, and a wrapper around it.
#[test]
fn a_crash_that_wrappers_pass_on_is_reported_once_of_the_child() {
    needs_a_kernel!();
    let fault = fault();
    let tapio = start();
    let crash = fault.path().display();
    for wrapped in [format!("unshare -f {crash}; exit 0"), format!("unshare -f unshare -f {crash}; exit $?")]
    {
        let cgroup = container!();
        let mut main = Process::start_as_init("main");
        main.enter(&cgroup);
        main.begin_script(&wrapped);
        main.await_death();
        let reported = tapio.expect_one(of(&cgroup)).is("container.crash").says("signal", "SIGSEGV");
        assert!(reported.comm().starts_with("faults"), "{reported:?}");
    }
}

/// A process that crashes itself after its child crashed with the same signal.
#[test]
fn who_crashes_after_its_child_is_reported() {
    needs_a_kernel!();
    let (fault, other) = (fault(), Program::new("other", FAULT).unwrap());
    let cgroup = container!();
    let tapio = start();
    let mut main = Process::start_as_init("main");
    main.enter(&cgroup);
    main.begin_script(&format!("{}; exec {}", fault.path().display(), other.path().display()));
    main.await_death();

    if is_confidential() {
        // Lockdown hides whether this is a fault, so it may be one that a wrapper passes on.
        let reported = tapio.expect_one(of(&cgroup)).is("container.crash");
        return assert!(reported.comm().starts_with("faults"), "{reported:?}");
    }
    let reported = tapio.expect_one(|o| o.is_in(&cgroup) && o.comm().starts_with("other"));
    reported.is("container.crash").says("process_role", "main");
}
