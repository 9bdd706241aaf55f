//! The CPU observer: containers that wait for a CPU.

use std::{thread, time::Duration};

use crate::support::{Cgroup, Process, Tapio, Version, needs_a_kernel, skip};

/// Short windows, so that a test learns within seconds.
const CONFIGURATION: &str = "observer: {cpu: {window: 200ms, min_samples: 10}}\n";
const WINDOW: Duration = Duration::from_millis(200);

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

fn start_in(cgroup: &Cgroup, comm: &str) -> Process {
    let process = Process::start(comm);
    process.enter(cgroup);
    process
}

/// Lets a process compute for 2 ms and sleep for 4 ms by turns, as a service does that has requests.
fn serve(process: &mut Process) {
    process.slice(2_000, 4_000);
}

/// Lets a process do nothing but compute, in more threads than there are CPUs.
fn hog(process: &mut Process) {
    process.burn(2 * thread::available_parallelism().unwrap().get(), 60_000, 0);
}

#[test]
fn a_hog_in_another_container_is_reported_once_and_only_of_who_is_not_nice() {
    needs_a_kernel!();
    let (waiting, nice, running) = (container!(), container!(), container!());
    let (mut serves, mut gives_way) = (start_in(&waiting, "serves"), start_in(&nice, "gives-way"));
    gives_way.be_nice();
    serve(&mut serves);
    serve(&mut gives_way);
    let mut hogs = start_in(&running, "hogs");
    let tapio = observed();
    thread::sleep(WINDOW * 12);
    hog(&mut hogs);

    let reported = tapio.expect_within(Duration::from_secs(20), |o| o.is_in(&waiting));
    let reported = reported.of_observer("cpu", "scheduling_delay").of_no_process();
    reported.has("waited_per_second_us", 200_000..2_000_000);
    reported.has("since_ms", 500..3_000);
    reported.has("longest_us", 1_000..2_000_000);
    assert_eq!(reported.noisy_neighbour(), Some(&*running.container_id), "{reported:?}");
    reported.has("noisy_neighbour_percent", 50..101);
    // Until it would have been learned.
    thread::sleep(WINDOW * 10);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert_eq!(counts.seen, counts.accounted());
    let of = |cgroup| ended.occurrences.iter().filter(|o| o.is_in(cgroup)).count();
    // The hog waits for its own threads.
    assert_eq!([of(&waiting), of(&nice), of(&running)], [1, 0, 0], "{:#?}", ended.occurrences);
}

#[test]
fn a_quota_and_a_node_that_is_always_busy_are_nothing() {
    needs_a_kernel!();
    let (limited, waiting, running) = (container!(), container!(), container!());
    if let Err(reason) = limited.is_limitable() {
        skip!("{reason}");
    }
    let mut hogs = start_in(&running, "hogs");
    hog(&mut hogs);
    let (mut serves, mut computes) = (start_in(&waiting, "serves"), start_in(&limited, "computes"));
    serve(&mut serves);
    serve(&mut computes);
    let tapio = observed();
    thread::sleep(WINDOW * 12);
    limited.limit_cpu(10_000, 100_000);
    thread::sleep(WINDOW * 10);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert!(counts.normal >= 10, "{counts:?}");
    let of = |cgroup| ended.occurrences.iter().filter(|o| o.is_in(cgroup)).count();
    assert_eq!([of(&limited), of(&waiting), of(&running)], [0; 3], "{:#?}", ended.occurrences);
}
