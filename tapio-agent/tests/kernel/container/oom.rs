//! OOM kills: the victim, the cgroup with the limit, and the memory in it.

use std::{fs, process::Command};

use super::{MIB, TOO_MUCH, container, of, start};
use crate::support::{Occurrence, Process, Tapio, is_confidential, needs_a_kernel, skip};

#[test]
fn a_child_that_takes_too_much_memory_is_an_oom_kill() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(40 * MIB);
    let tapio = start();
    let mut hog = Process::start("hog");
    hog.enter(&cgroup);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.oom_kill").of(&hog).by(&hog);
    let reported = reported.says("process_role", "child").in_container(&cgroup);
    has_full(&reported, 40 * MIB, 0);
    if !is_confidential() {
        reported.has("anon_bytes", 10 * MIB..41 * MIB);
    }
    reported.has("page_tables_bytes", 4096..MIB);
}

#[test]
fn the_first_process_of_a_container_that_takes_too_much_memory_is_an_oom_kill_and_no_exit() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(40 * MIB);
    let tapio = start();
    let mut hog = Process::start_as_init("main");
    hog.enter(&cgroup);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.oom_kill").of(&hog).by(&hog);
    has_full(&reported.says("process_role", "main"), 40 * MIB, 0);
}

#[test]
fn a_limit_of_the_pod_is_the_one_that_is_full() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(900 * MIB);
    cgroup.limit_pod(40 * MIB);
    let tapio = start();
    let mut hog = Process::start("hog");
    hog.enter(&cgroup);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.oom_kill").of(&hog);
    has_full(&reported, 40 * MIB, 1);
}

#[test]
fn those_that_are_killed_with_others_of_their_group_are_not_the_nodes() {
    needs_a_kernel!();
    let cgroup = container!();
    if let Err(reason) = cgroup.has("memory.oom.group") {
        skip!("{reason}");
    }
    cgroup.set("memory.oom.group", "1");
    cgroup.limit(60 * MIB);
    let tapio = start();
    let others = ["other-1", "other-2", "other-3"].map(Process::start);
    let mut hog = Process::start("hog");
    others.iter().chain([&hog]).for_each(|process| process.enter(&cgroup));
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    for victim in others.iter().chain([&hog]) {
        let reported = tapio.expect_one(|o| o.is_of(victim)).is("container.oom_kill").of(victim);
        has_full(&reported, 60 * MIB, 0);
    }
}

#[test]
fn who_asked_for_the_memory_need_not_be_the_victim() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(100 * MIB);
    let tapio = start();
    let mut victim = Process::start("victim");
    victim.enter(&cgroup);
    victim.begin_allocate(70 << 20);
    victim.end().unwrap();
    let mut trigger = Process::start("trigger");
    fs::write(format!("/proc/{}/oom_score_adj", victim.pid()), "1000").unwrap();
    // If memory is freed slowly, the trigger is the next victim. Protecting it takes a capability that root may
    // lack.
    let _ = fs::write(format!("/proc/{}/oom_score_adj", trigger.pid()), "-1000");
    trigger.enter(&cgroup);
    trigger.begin_allocate(50 << 20);
    victim.await_death();

    let reported = tapio
        .expect_one(|o| o.is_in(&cgroup) && o.is_of(&victim))
        .is("container.oom_kill")
        .of(&victim)
        .by(&trigger);
    assert_eq!(reported.number("oom_score_adj"), 1000);
    has_full(&reported, 100 * MIB, 0);
    let users = reported.list("users");
    if is_confidential() {
        return assert!(users.is_empty(), "of a group that is not known: {users:?}");
    }
    let Some(other) = users.iter().find(|user| user["pid"] == trigger.pid()) else {
        // It was the next victim, and held nothing any more.
        trigger.await_death();
        tapio.expect_one(|o| o.is_in(&cgroup) && o.is_of(&trigger)).is("container.oom_kill").of(&trigger);
        return;
    };
    assert_eq!(other["comm"], "trigger");
    assert!(other["rss_bytes"].as_u64().unwrap() > MIB, "{other}");
}

/// Usage and limit are absent together if lockdown forbids reading them.
#[track_caller]
pub(super) fn has_full(reported: &Occurrence, limit: u64, levels_up: u64) {
    if is_confidential() {
        return assert_eq!(reported.text("constraint"), "");
    }
    assert_eq!(reported.text("constraint"), "cgroup");
    assert_eq!(reported.number("limit_bytes"), limit);
    reported.has("usage_bytes", limit - 3 * MIB..limit + 1);
    assert_eq!(reported.number("levels_up"), levels_up);
}

/// Files in memory, left by a process that has exited.
#[test]
fn files_in_memory_that_fill_a_group_are_reported() {
    needs_a_kernel!();
    let files = match Tmpfs::mount() {
        Ok(files) => files,
        Err(reason) => skip!("{reason}"),
    };
    let cgroup = container!();
    cgroup.limit(100 * MIB);
    let tapio = start();
    let mut writer = Process::start("writer");
    writer.enter(&cgroup);
    let file = files.0.path().join("file");
    writer.begin_script(&format!("dd if=/dev/zero of={} bs=1048576 count=70 2>/dev/null", file.display()));
    writer.await_death();
    let mut hog = Process::start("hog");
    hog.enter(&cgroup);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    let reported = tapio.expect_one(of(&cgroup)).is("container.oom_kill").of(&hog);
    if is_confidential() {
        return assert!(
            !reported.has_data("cgroup_shmem_bytes"),
            "of a group that is not known: {reported:?}"
        );
    }
    reported.has("cgroup_shmem_bytes", 69 * MIB..72 * MIB);
    assert!(reported.message().contains("files in memory"), "{reported:?}");
}

/// The test's own tmpfs, unmounted on drop.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount() -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(directory.path()).status();
        match mounted {
            Ok(status) if status.success() => Ok(Self(directory)),
            other => Err(format!("no tmpfs can be mounted: {other:?}")),
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn what_a_group_held_before_is_reported() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(100 * MIB);
    let settings = "observer:\n  node:\n    interval: 1s\n";
    let tapio = Tapio::start_with(&["--observer=container,node"], settings);
    let mut hog = Process::start("hog");
    hog.enter(&cgroup);
    hog.grow_to(30 * MIB);
    tapio.expect_scans(1);
    hog.begin_allocate(TOO_MUCH);
    hog.await_death();

    let reported = tapio.expect_one(|o| o.is_in(&cgroup) && o.kind == "container.oom_kill");
    // The first sample may precede any allocation, and the last may already include more.
    let held: Vec<u64> =
        reported.list("before").iter().map(|look| look["held_bytes"].as_u64().unwrap()).collect();
    if is_confidential() {
        return assert!(held.is_empty(), "of a group that is not known: {held:?}");
    }
    assert!(held.iter().any(|held| (29 * MIB..60 * MIB).contains(held)), "{held:?}");
}

#[test]
fn twenty_oom_kills_at_once_are_all_counted() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit(30 * MIB);
    let tapio = start();
    let mut hogs: Vec<_> = (0..20).map(|_| Process::start("storm")).collect();
    for hog in &mut hogs {
        hog.enter(&cgroup);
    }
    for hog in &mut hogs {
        hog.begin_allocate(TOO_MUCH);
    }
    hogs.iter_mut().for_each(Process::await_death);

    tapio.expect_some(of(&cgroup));
    let ended = tapio.end();
    let reported: Vec<_> = ended.occurrences.iter().filter(|o| o.is_in(&cgroup)).collect();
    assert!(reported.iter().all(|o| o.kind == "container.oom_kill"), "{reported:?}");
    assert_eq!(reported.iter().map(|o| o.count).sum::<u64>(), 20, "{reported:?}");
    assert!(reported.len() <= 3, "{reported:?}");
}
