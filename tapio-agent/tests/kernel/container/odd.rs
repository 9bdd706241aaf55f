//! Unusual cgroups and names: deep, odd, removed. Every statement in the report is right, or absent.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt as _};

use super::{MIB, TOO_MUCH, of, oom::has_full, start};
use crate::support::{Cgroup, Occurrence, Process, needs_a_kernel};

/// Names of nested cgroups.
fn levels(count: usize) -> impl Iterator<Item = &'static OsStr> {
    std::iter::repeat_n(OsStr::new("d"), count)
}

#[test]
fn a_process_a_hundred_groups_deep_is_its_containers() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let deep = cgroup.nested(levels(100)).unwrap();
    let tapio = start();
    let mut child = Process::start("deep");
    deep.take(&child);
    child.die("abort");

    tapio.expect_one(|o| o.is_of(&child)).is("container.crash").of(&child).in_container(&cgroup);
}

/// The report if the OOM cgroup is this many levels above the victim's.
fn killed_below(full: &Cgroup, many: usize) -> Occurrence {
    full.limit(40 * MIB);
    let inner = full.nested(levels(many)).unwrap();
    inner.keep_memory();
    let tapio = start();
    let mut hog = Process::start("hog");
    inner.take(&hog);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();
    tapio.expect_one(of(full)).is("container.oom_kill").of(&hog).by(&hog)
}

#[test]
fn a_limit_some_groups_above_is_the_one_that_is_full() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let reported = killed_below(&cgroup, 3);
    has_full(&reported, 40 * MIB, 3);
}

/// The kernel program searches this many levels.
#[test]
fn a_limit_too_far_above_is_not_taken_for_the_nodes() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let reported = killed_below(&cgroup, 40);
    assert_eq!(reported.text("constraint"), "", "{reported:?}");
    assert!(!reported.has_data("limit_bytes"), "{reported:?}");
}

#[test]
fn groups_with_odd_names_are_their_containers() {
    needs_a_kernel!();
    let names: &[&[u8]] = &[
        b"\xff\xfe\x80",
        b"tab\tand \"quotes\" and \\",
        b"\x1b[31mred",
        b"..service",
        b"x (deleted)",
        b"kubepods-podnone.slice",
        b"cri-containerd-0123.scope",
        b"0::",
    ];
    for name in names {
        let cgroup = super::container!();
        let odd = cgroup.nested([OsStr::from_bytes(name)]).unwrap();
        let tapio = start();
        let mut child = Process::start("in-an-odd-group");
        odd.take(&child);
        child.die("abort");

        tapio.expect_one(|o| o.is_of(&child)).is("container.crash").of(&child).in_container(&cgroup);
    }
}

/// A newline in a name must not break the lines of `/proc/PID/cgroup`.
#[test]
fn the_kernel_makes_no_group_with_a_line_break_in_its_name() {
    needs_a_kernel!();
    let cgroup = super::container!();
    let refused = cgroup.nested([OsStr::new("a\nb.service")]).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{refused}");
}

#[test]
fn odd_command_names_are_reported_as_well_as_can_be() {
    needs_a_kernel!();
    for comm in [
        &b"two\nlines"[..],
        b"\xff\xfe\x80",
        b"\"},{\"pid\":1",
        b"\x1b[31m\x07",
        b") S 1 (",
        b" ",
        b"\xe2\x82",
    ] {
        let cgroup = super::container!();
        let tapio = start();
        let mut child = Process::start("child");
        child.enter(&cgroup);
        child.call_itself(comm);
        let mut killer = Process::start("killer");
        killer.call_itself(comm);
        killer.kill(9, child.pid());
        child.await_death();

        // Both names are compared.
        tapio.expect_one(of(&cgroup)).is("container.killed").of(&child).by(&killer).actor_in(None);
    }
}

/// A cgroup created after the agent's scan, and removed as soon as it is empty.
#[test]
fn a_group_that_is_gone_is_its_containers_or_no_ones() {
    needs_a_kernel!();
    let tapio = start();
    let mut gone = Vec::new();
    for _ in 0..5 {
        let cgroup = super::container!();
        let mut child = Process::start("short-lived");
        child.enter(&cgroup);
        child.die("abort");
        let id = cgroup.container_id.clone();
        drop(cgroup);
        gone.push((child, id));
    }
    for (child, id) in &gone {
        let reported = tapio.expect_one(|o| o.is_of(child)).is("container.crash");
        assert!(!reported.has_workload() || reported.container_id() == Some(id.as_str()), "{reported:?}");
    }
}
