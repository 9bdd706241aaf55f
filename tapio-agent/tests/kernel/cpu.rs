//! The CPU observer: containers that wait for a CPU.

use std::{thread, time::Duration};

use crate::support::{Cgroup, Process, Tapio, Version, needs_a_kernel, skip};

/// Short windows, so that a test learns within seconds. Emulated CPUs get through less in each.
const CONFIGURATION: &str = "observer: {cpu: {window: 250ms, min_samples: 12}}\n";
/// Time in which a cgroup is learned, with some to spare.
const LEARNING: Duration = Duration::from_millis(250 * 16);
/// Time in which a level would be reported, and then learned.
const LASTING: Duration = Duration::from_millis(250 * 10);
/// More than there are CPUs.
const HOGS: usize = 4;

macro_rules! container {
    () => {
        match Cgroup::container(Version::Any).and_then(|cgroup| cgroup.is_of_two().map(|()| cgroup)) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

fn observed() -> Tapio {
    Tapio::start_with(&["--observer=cpu"], CONFIGURATION)
}

/// A process that computes for 2 ms, and sleeps for 4 ms, as a service does that has requests.
fn service(cgroup: &Cgroup) -> Process {
    let mut process = Process::start("serves");
    process.enter(cgroup);
    process.slice(2_000, 4_000);
    process
}

/// Lets a process do nothing but compute, in more threads than there are CPUs.
fn hog(process: &mut Process) {
    process.burn(HOGS, 60_000, 0);
}

#[test]
fn a_hog_in_another_container_is_reported_once() {
    needs_a_kernel!();
    let (waiting, running) = (container!(), container!());
    let _serves = service(&waiting);
    let mut hogs = Process::start("hogs");
    hogs.enter(&running);
    let tapio = observed();
    thread::sleep(LEARNING);
    tapio.expect_none(|o| o.is_in(&waiting));
    hog(&mut hogs);

    let reported = tapio.expect_one(|o| o.is_in(&waiting)).of_observer("cpu", "scheduling_delay").of_no_process();
    reported.has("waited_per_second_us", 200_000..2_000_000);
    reported.has("since_ms", 700..2_500);
    reported.has("longest_us", 1_000..2_000_000);
    assert!(reported.baseline("mean") < 100_000.0, "{reported:?}");
    assert_eq!(reported.noisy_neighbour(), Some(&*running.container_id), "{reported:?}");
    reported.has("noisy_neighbour_percent", 50..101);
    thread::sleep(LASTING);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert_eq!(counts.seen, counts.accounted());
    assert_eq!(ended.occurrences.iter().filter(|o| o.is_in(&waiting)).count(), 1, "{:#?}", ended.occurrences);
    // It waits for its own threads.
    assert!(!ended.occurrences.iter().any(|o| o.is_in(&running)), "{:#?}", ended.occurrences);
}

#[test]
fn a_quota_is_nobody_elses_doing() {
    needs_a_kernel!();
    let cgroup = container!();
    if let Err(reason) = cgroup.is_limitable() {
        skip!("{reason}");
    }
    // Others are there all the time, so that somebody runs right before each wait for the quota ends.
    let other = container!();
    let mut hogs = Process::start("hogs");
    hogs.enter(&other);
    hog(&mut hogs);
    let mut process = Process::start("computes");
    process.enter(&cgroup);
    process.burn(2, 10, 40);
    let tapio = observed();
    thread::sleep(LEARNING);
    cgroup.limit_cpu(20_000, 100_000);
    process.burn(2, 1_000, 0);
    thread::sleep(LASTING);
    tapio.expect_none(|o| o.is_in(&cgroup));
}

#[test]
fn what_was_always_so_is_nothing() {
    needs_a_kernel!();
    let (waiting, running) = (container!(), container!());
    let mut hogs = Process::start("hogs");
    hogs.enter(&running);
    hog(&mut hogs);
    let _serves = service(&waiting);
    let tapio = observed();
    thread::sleep(LEARNING + LASTING);
    tapio.expect_none(|o| o.is_in(&waiting) || o.is_in(&running));
}

#[test]
fn own_threads_and_nice_ones_are_nothing() {
    needs_a_kernel!();
    let (building, running) = (container!(), container!());
    let mut builds = Process::start("builds");
    builds.enter(&building);
    builds.burn(1, 2, 40);
    let mut batch = Process::start("batch");
    batch.enter(&running);
    batch.run(&format!("chrt --batch --all-tasks --pid 0 {0} && renice --pid {0} --priority 19", batch.pid()));
    batch.burn(1, 2, 40);
    let tapio = observed();
    thread::sleep(LEARNING);
    // A build begins, beside a job that gives way.
    hog(&mut builds);
    hog(&mut batch);
    thread::sleep(LASTING);
    tapio.expect_none(|o| o.is_in(&running));
}
