//! Memory and CPU time of containers: real limits, real growth, real throttling.

use std::time::{Duration, Instant};

use crate::support::{Cgroup, Process, Tapio, Version, guest, needs_a_kernel, skip};

/// Scans often, so that learning and durations are short.
const CONFIGURATION: &str = "observer: {node: {interval: 1s}}\n";
const MIB: u64 = 1 << 20;
/// Time allowed from a fault until it is reported: a few scans, which are many seconds apart on an emulated CPU,
/// because they may use one part in 200 of it.
const REPORTED: Duration = Duration::from_secs(60);

/// A container in all hierarchies, with memory and CPU time that can be limited.
fn container() -> Result<Cgroup, String> {
    Cgroup::container(Version::Any).and_then(|cgroup| cgroup.is_limitable().map(|()| cgroup))
}

macro_rules! container {
    () => {
        match container() {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

fn observed() -> Tapio {
    Tapio::start_with(&["--observer=node"], CONFIGURATION)
}

/// Waits until a baseline is learned: 16 samples, each over at least two seconds or ten periods of a quota, which are up
/// to two scans.
fn learn(tapio: &Tapio) {
    let start = Instant::now();
    tapio.expect_scans(20);
    if start.elapsed() < Duration::from_secs(50) {
        tapio.expect_scans(16);
    }
}

#[test]
fn a_leak_is_predicted_half_a_minute_before_its_end_and_a_heap_that_is_collected_is_not() {
    needs_a_kernel!();
    let (leaking, collected) = (container!(), container!());
    for cgroup in [&leaking, &collected] {
        cgroup.limit_memory(128 * MIB);
    }
    let tapio = observed();
    // Scans, which may use 1/200 of a CPU, are up to 20 seconds apart on an emulated one.
    let slower = if guest::is_one() { 2 } else { 1 };
    let mut leak = Process::start("leaks");
    leak.enter(&leaking);
    leak.grow(1024 / slower, 1024 * MIB);
    let mut heap = Process::start("collects");
    heap.enter(&collected);
    // All of 64 MiB, every 16 seconds.
    heap.grow(4096, 64 * MIB);

    let patience = Duration::from_secs(150 * slower);
    let reported = tapio.expect_within(patience, |o| o.is_in(&leaking) && o.kind == "node.oom_predicted");
    let start = Instant::now();
    let reported = reported.of_observer("node", "oom_predicted").of_no_process().in_container(&leaking);
    let left = reported.number("left_seconds");
    reported.has("limit_bytes", 128 * MIB..128 * MIB + 1);
    assert!(leak.lives());
    while leak.lives() {
        assert!(start.elapsed() < Duration::from_secs(200 * slower), "it was to end in {left} s");
        std::thread::sleep(Duration::from_millis(100));
    }
    let came = start.elapsed().as_secs();
    assert!(came >= 30, "predicted {came} s before it ended");
    assert!(came.abs_diff(left) <= left / 3, "after {came} s, and {left} s were said");
    tapio.expect_none(|o| o.is_in(&collected));
    tapio.expect_none(|o| o.is_in(&leaking) && o.kind != "node.oom_predicted");
}

#[test]
fn memory_near_its_limit_is_reported_and_a_cache_is_not() {
    needs_a_kernel!();
    let (full, caching) = (container!(), container!());
    for cgroup in [&full, &caching] {
        cgroup.limit_memory(64 * MIB);
    }
    let mut reader = Process::start("reads-files");
    reader.enter(&caching);
    let cached = reader.fill_cache(96 * MIB);
    let tapio = observed();
    let mut process = Process::start("is-full");
    process.enter(&full);
    process.grow_to(56 * MIB);

    let reported = tapio.expect_within(REPORTED, |o| o.is_in(&full));
    let reported = reported.of_observer("node", "memory_pressure").in_container(&full);
    reported.has("held_bytes", 54 * MIB..62 * MIB);
    tapio.expect_none(|o| o.is_in(&caching));
    drop(tapio);
    if let Err(reason) = cached {
        skip!("{reason}");
    }
}

#[test]
fn what_was_reported_is_not_reported_again_after_a_kill() {
    needs_a_kernel!();
    let cgroup = container!();
    cgroup.limit_memory(64 * MIB);
    let state = tempfile::tempdir().unwrap();
    let start = || {
        let arguments = ["--observer=node", &format!("--state-dir={}", state.path().display())];
        Tapio::start_with(&arguments, &format!("{CONFIGURATION}snapshot: 1s\n"))
    };
    let tapio = start();
    let mut process = Process::start("is-full");
    process.enter(&cgroup);
    process.grow_to(56 * MIB);
    tapio.expect_one_within(REPORTED, |o| o.is_in(&cgroup)).of_observer("node", "memory_pressure");
    // Time for the agent to record it and write it.
    std::thread::sleep(Duration::from_secs(4));
    // Dropping it kills the agent without a chance to write.
    drop(tapio);

    let tapio = start();
    tapio.expect_log("state snapshot restored", "");
    tapio.expect_scans(3);
    tapio.expect_none(|o| o.is_in(&cgroup));
    drop(tapio);
    std::fs::remove_file(state.path().join("snapshot")).unwrap();
    start().expect_one_within(REPORTED, |o| o.is_in(&cgroup)).of_observer("node", "memory_pressure");
}

/// By the container's own quota, and by its pod's.
#[test]
fn throttling_by_a_quota_is_reported_with_limit_and_demand() {
    needs_a_kernel!();
    let (limited, in_pod) = (container!(), container!());
    limited.limit_cpu(30_000, 100_000);
    in_pod.limit_pod_cpu(30_000, 100_000);
    let tapio = observed();
    let [mut own, mut pods] = [Process::start("computes"), Process::start("in-a-pod")];
    for (process, cgroup) in [(&mut own, &limited), (&mut pods, &in_pod)] {
        process.enter(cgroup);
        // A tenth of a CPU, long enough to be learned.
        process.burn(1, 10, 90);
    }
    // No longer, because the tests that run beside this one would take this load for a noisy neighbour.
    learn(&tapio);
    for (process, cgroup) in [(&mut own, &limited), (&mut pods, &in_pod)] {
        tapio.expect_none(|o| o.is_in(cgroup));
        process.burn(1, 1000, 0);
    }

    for cgroup in [&limited, &in_pod] {
        let reported = tapio.expect_within(REPORTED, |o| o.is_in(cgroup));
        let reported = reported.of_observer("node", "cpu_throttled").in_container(cgroup);
        reported.has("limit_millicores", 300..301);
        reported.has("throttled_percent", 10..101);
        // It can use only the CPU time that others leave.
        reported.has("wanted_millicores", 200..4000);
        assert!(reported.baseline("mean") < 300.0);
        assert_eq!(reported.has_data("ancestor"), std::ptr::eq(cgroup, &in_pod));
        if reported.has_data("ancestor") {
            assert_eq!(reported.number("levels_up"), 1);
            assert!(reported.text("ancestor").starts_with("pod"));
        }
    }
}

/// Of two containers that come while the agent runs, one may use less than it wants. Nobody knows how they were before.
#[test]
fn throttling_since_the_start_is_reported_of_a_container_that_is_new() {
    needs_a_kernel!();
    let tapio = observed();
    tapio.expect_scans(1);
    // What comes before may be older than the agent.
    std::thread::sleep(Duration::from_secs(62));
    let (short, enough) = (container!(), container!());
    short.limit_cpu(5_000, 100_000);
    enough.limit_cpu(80_000, 100_000);
    let [mut waits, mut runs] = [Process::start("is-short"), Process::start("has-enough")];
    // Who waits between two bursts is not throttled meanwhile.
    for (process, cgroup, [run_ms, wait_ms]) in
        [(&mut waits, &short, [1000, 0]), (&mut runs, &enough, [10, 90])]
    {
        process.enter(cgroup);
        process.burn(1, run_ms, wait_ms);
    }
    let reported = tapio.expect_one_within(Duration::from_secs(60) + REPORTED, |o| o.is_in(&short));
    let reported = reported.of_observer("node", "cpu_throttled").in_container(&short).of_no_process();
    reported.has("throttled_percent", 80..101);
    reported.has("window_ms", 60_000..120_000);
    reported.has("limit_millicores", 50..51);
    reported.has("wanted_millicores", 51..4_000);
    assert!(reported.message().contains("since it started"), "{}", reported.message());
    tapio.expect_none(|o| o.is_in(&enough));
}

#[test]
fn waiting_for_memory_is_reported() {
    needs_a_kernel!();
    let cgroup = container!();
    if let Err(reason) = cgroup.has("memory.high").and_then(|()| cgroup.has("memory.pressure")) {
        skip!("{reason}");
    }
    let tapio = observed();
    let mut process = Process::start("waits");
    process.enter(&cgroup);
    process.grow(1024, 16 * MIB);
    learn(&tapio);
    tapio.expect_none(|o| o.is_in(&cgroup));
    // The kernel throttles processes that allocate above it.
    cgroup.set("memory.high", &(4 * MIB).to_string());

    let reported = tapio.expect_within(REPORTED, |o| o.is_in(&cgroup));
    let reported = reported.of_observer("node", "memory_pressure").in_container(&cgroup);
    reported.has("some_percent", 10..101);
}

#[test]
fn waiting_for_a_disk_is_reported() {
    needs_a_kernel!();
    let cgroup = container!();
    if let Err(reason) = cgroup.has("io.pressure") {
        skip!("{reason}");
    }
    let tapio = observed();
    let mut process = Process::start("writes");
    process.enter(&cgroup);
    learn(&tapio);
    tapio.expect_none(|o| o.is_in(&cgroup));
    if let Err(reason) = process.write_through() {
        skip!("{reason}");
    }

    let reported = tapio.expect_within(REPORTED, |o| o.is_in(&cgroup));
    let reported = reported.of_observer("node", "io_pressure").in_container(&cgroup);
    reported.has("some_percent", 20..101);
}
