//! The CPU observer: containers that wait for a CPU.

use std::{thread, time::Duration};

use crate::support::{Cgroup, Process, Tapio, Version, guest, needs_a_kernel, skip};

/// Short windows, so that a test learns within seconds. On an emulated CPU a short one has hardly any slices.
fn window() -> Duration {
    Duration::from_millis(if guest::is_one() { 1_000 } else { 200 })
}

macro_rules! container {
    () => {
        match Cgroup::container(Version::Any).and_then(|cgroup| cgroup.is_of_two().map(|()| cgroup)) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

fn observed() -> Tapio {
    let window = window().as_millis();
    let configuration = format!("observer: {{cpu: {{window: {window}ms, min_samples: 4}}}}\n");
    Tapio::start_with(&["--observer=cpu"], &configuration)
}

/// All on the same CPU, so that others are left to the agent, and to whoever else runs here.
fn start_in(cgroup: &Cgroup, comm: &str) -> Process {
    let mut process = Process::start(comm);
    process.enter(cgroup);
    process.be_on(0);
    process
}

/// Lets each of four threads compute for 1 ms and sleep for 20 ms by turns, as a service does that has requests.
fn serve(process: &mut Process) {
    process.slices(4, 1_000, 20_000);
}

/// Whether this process, and so those that it starts, asked to have others run first.
fn is_nice() -> bool {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let numbers: Vec<i32> =
        stat.rsplit(')').next().unwrap().split_whitespace().flat_map(str::parse).collect();
    // Without the state, which is a letter: fields 19 and 41 of proc(5).
    numbers[15] > 0 || numbers[37] != 0
}

macro_rules! needs_not_to_be_nice {
    () => {
        needs_a_kernel!();
        if is_nice() {
            skip!("the tests run at a low priority, so that nobody here may mind to wait");
        }
    };
}

/// Lets two threads do nothing but compute.
fn hog(process: &mut Process) {
    process.burn(2, 60_000, 0);
}

#[test]
fn a_hog_in_another_container_is_reported_once_and_only_of_who_is_not_nice() {
    needs_not_to_be_nice!();
    let (waiting, nice, running) = (container!(), container!(), container!());
    // Otherwise older kernels let who was asleep run at once, and nobody waits.
    for cgroup in [&waiting, &nice, &running] {
        if let Err(reason) = cgroup.is_limitable() {
            skip!("{reason}");
        }
    }
    [&waiting, &nice].into_iter().for_each(Cgroup::weigh_little);
    let (mut serves, mut gives_way) = (start_in(&waiting, "serves"), start_in(&nice, "gives-way"));
    gives_way.be_nice();
    serve(&mut serves);
    serve(&mut gives_way);
    let mut hogs = start_in(&running, "hogs");
    let tapio = observed();
    // Who need not wait is looked at a few times a second, and each look ends a window.
    thread::sleep(window() * 20);
    hog(&mut hogs);

    let reported = tapio.expect_within(window() * 100, |o| o.is_in(&waiting));
    let reported = reported.of_observer("cpu", "scheduling_delay").of_no_process();
    reported.has("waited_per_second_us", 200_000..10_000_000);
    let window_ms = window().as_millis() as u64;
    reported.has("since_ms", window_ms * 5 / 2..window_ms * 10);
    reported.has("longest_us", 1_000..5_000_000);
    assert_eq!(reported.noisy_neighbour(), Some(&*running.container_id), "{reported:?}");
    reported.has("noisy_neighbour_percent", 50..101);
    // Until it would have been learned.
    thread::sleep(window() * 10);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert_eq!(counts.seen, counts.accounted());
    let of = |cgroup| ended.occurrences.iter().filter(|o| o.is_in(cgroup)).count();
    // The hog waits for its own threads.
    assert_eq!([of(&waiting), of(&nice), of(&running)], [1, 0, 0], "{:#?}", ended.occurrences);
}

#[test]
fn a_hog_is_named_where_many_wait_who_run_one_after_the_other() {
    needs_not_to_be_nice!();
    if guest::is_one() {
        skip!("an emulated CPU is busy with those that are to wait");
    }
    let running = container!();
    let waiting = [container!(), container!(), container!(), container!(), container!()];
    for cgroup in waiting.iter().chain([&running]) {
        if let Err(reason) = cgroup.is_limitable() {
            skip!("{reason}");
        }
    }
    // Each runs for a moment, so that who ran right before is mostly another one that had to wait.
    let serve = |cgroup| {
        let mut serves = start_in(cgroup, "serves");
        serves.slices(4, 200, 5_000);
        serves
    };
    let _serving: Vec<_> = waiting.iter().map(serve).collect();
    let mut hogs = start_in(&running, "hogs");
    let tapio = observed();
    thread::sleep(window() * 12);
    hogs.burn(32, 60_000, 0);
    for cgroup in &waiting {
        let reported = tapio.expect_within(window() * 100, |o| o.is_in(cgroup));
        let reported = reported.of_observer("cpu", "scheduling_delay");
        assert_eq!(reported.noisy_neighbour(), Some(&*running.container_id), "{reported:?}");
    }
}

#[test]
fn a_quota_and_a_node_that_is_always_busy_are_nothing() {
    needs_not_to_be_nice!();
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
    thread::sleep(window() * 12);
    limited.limit_cpu(10_000, 100_000);
    thread::sleep(window() * 10);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert!(counts.normal >= 10, "{counts:?}");
    let of = |cgroup| ended.occurrences.iter().filter(|o| o.is_in(cgroup)).count();
    assert_eq!([of(&limited), of(&waiting), of(&running)], [0; 3], "{:#?}", ended.occurrences);
}
