//! The health observer: containers that have used up what they may have.

use std::{path::Path, time::Duration};

use crate::support::{Cgroup, Process, Tapio, Version, filesystem::Filesystem, needs_a_kernel, skip};

/// Looks often, and learns fast.
const CONFIGURATION: &str =
    "observer: {health: {slice: 100ms, interval: 200ms, second_slice: 300ms, min_samples: 4}}\n";
/// Time allowed from a fault until it is reported.
const REPORTED: Duration = Duration::from_secs(20);

fn observed() -> Tapio {
    let tapio = Tapio::start_with(&["--observer=health"], CONFIGURATION);
    learned(&tapio, 5);
    tapio
}

/// Waits for so many slices.
fn learned(tapio: &Tapio, slices: u32) {
    tapio.expect_log("system calls looked at", &format!("\"slices\":{slices},"));
}

fn start_in(cgroup: &Cgroup, comm: &str) -> Process {
    let process = Process::start(comm);
    process.enter(cgroup);
    process
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

macro_rules! container {
    () => {
        match Cgroup::container(Version::Any).and_then(|cgroup| cgroup.is_of_two().map(|()| cgroup)) {
            Ok(cgroup) => cgroup,
            Err(reason) => skip!("{reason}"),
        }
    };
}

macro_rules! in_memory {
    () => {
        match Filesystem::in_memory(1) {
            Ok(filesystem) => filesystem,
            Err(reason) => skip!("{reason}"),
        }
    };
}

#[test]
fn a_container_that_writes_to_a_full_file_system_is_reported_once() {
    needs_a_kernel!();
    let (cgroup, memory) = (container!(), in_memory!());
    let mut writer = start_in(&cgroup, "writer");
    let tapio = observed();
    writer.exhaust("append", text(&memory.path().join("file")));
    let reported = tapio.expect_one_within(REPORTED, |o| o.is_in(&cgroup));
    let reported = reported.of_observer("health", "resource_exhausted").of(&writer);
    assert_eq!(
        [reported.text("error"), reported.text("system_call"), reported.text("resource")],
        ["ENOSPC", "write", "file_system"]
    );
    reported.has("failures", 2..1_000);
    assert!(reported.baseline("mean") < 1.0);
}

#[test]
fn what_is_used_up_is_named_with_its_limit() {
    needs_a_kernel!();
    let [files, memory, reads] = [container!(), container!(), container!()];
    let image = in_memory!();
    image.remount("ro");
    let mut opens = start_in(&files, "opens");
    let mut allocates = start_in(&memory, "allocates");
    let mut creates = start_in(&reads, "creates");
    let tapio = observed();
    opens.exhaust("files", "64");
    allocates.exhaust("memory", "900000000");
    creates.exhaust("create", text(&image.path().join("file")));
    let expect = |cgroup: &Cgroup, error: &str, resource: &str| {
        let reported = tapio.expect_within(REPORTED, |o| o.is_in(cgroup));
        assert_eq!([reported.text("error"), reported.text("resource")], [error, resource], "{reported:?}");
        reported
    };
    let of_files = expect(&files, "EMFILE", "open_files").of(&opens);
    of_files.has("limit_files", 64..65);
    let of_memory = expect(&memory, "ENOMEM", "memory").of(&allocates);
    of_memory.has("limit_bytes", 900_000_000..900_000_001);
    of_memory.has("used_bytes", 1 << 20..900_000_000);
    expect(&reads, "EROFS", "read_only_file_system").of(&creates);
}

#[test]
fn a_container_without_a_thread_left_is_reported_with_its_limit() {
    needs_a_kernel!();
    let cgroup = container!();
    if let Err(reason) = cgroup.has_threads() {
        skip!("{reason}");
    }
    let mut starts = start_in(&cgroup, "starts");
    let tapio = observed();
    starts.exhaust("threads", "-");
    // Those that it has stay.
    cgroup.set("pids.max", "2");
    let reported = tapio.expect_within(REPORTED, |o| o.is_in(&cgroup));
    let reported = reported.of_observer("health", "resource_exhausted").of(&starts);
    assert_eq!([reported.text("error"), reported.text("resource")], ["EAGAIN", "threads"]);
    reported.has("limit_threads", 2..3);
    reported.has("used_threads", 2..10);
}

#[test]
fn what_fails_all_day_and_what_succeeds_are_nothing() {
    needs_a_kernel!();
    let [fails, works] = [container!(), container!()];
    let (image, memory) = (in_memory!(), in_memory!());
    image.remount("ro");
    let (mut creates, mut writes) = (start_in(&fails, "creates"), start_in(&works, "writes"));
    creates.exhaust("create", text(&image.path().join("file")));
    writes.exhaust("create", text(&memory.path().join("file")));
    let tapio = observed();
    learned(&tapio, 9);
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert_eq!(counts.seen, counts.accounted());
    assert!(counts.normal > 20, "{counts:?}");
    let of = |cgroup| ended.occurrences.iter().filter(|o| o.is_in(cgroup)).count();
    assert_eq!([of(&fails), of(&works)], [0; 2], "{:#?}", ended.occurrences);
}
