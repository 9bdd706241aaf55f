//! The storage observer.

use std::time::{Duration, Instant};

use crate::support::{Process, Tapio, disk::Disk, filesystem::Filesystem, needs_a_kernel, skip};

#[test]
fn a_disk_that_became_slow_is_reported_once() {
    needs_a_kernel!();
    let disk = match Disk::new(256, 64).and_then(Disk::above) {
        Ok(disk) => disk,
        Err(reason) => skip!("{reason}"),
    };
    let mut reader = Process::start("reader");
    let tapio = Tapio::start_observer("storage");
    // 16 readings of four reads teach the baseline, and five show the new level.
    disk.read(&mut reader, 0..100).unwrap();
    let limited = match disk.limit_reads(&reader, 15) {
        Ok(limited) => limited,
        Err(reason) => skip!("{reason}"),
    };
    let start = Instant::now();
    disk.read(&mut reader, 100..150).unwrap();
    let took = start.elapsed();
    drop(limited);
    if took < Duration::from_secs(2) {
        skip!("a loop device here does not read for whom it reads, so that a limit slows nothing down");
    }
    let reported = tapio.expect_one(|o| o.is_about(&disk)).of_observer("storage", "io_slow");
    reported.has("latency_us", 40_000..400_000);
    assert_eq!(reported.text("operation"), "read");
    assert!(reported.baseline("mean") < 20_000.0);
}

#[test]
fn a_write_that_the_disk_refuses_is_reported_once() {
    needs_a_kernel!();
    let disk = match Disk::new(64, 2) {
        Ok(disk) => disk,
        Err(reason) => skip!("{reason}"),
    };
    let mut writer = Process::start("writer");
    let tapio = Tapio::start_observer("storage");
    // There is memory for two of them.
    assert!(disk.write(&mut writer, 0..4).is_err());
    let reported = tapio.expect_one(|o| o.is_about(&disk)).of_observer("storage", "io_error");
    assert_eq!(reported.text("operation"), "write");
    // Before 5.16 a loop device does not say why.
    assert!(["ENOSPC", "EIO"].contains(&reported.text("error")));
    assert!(reported.message().contains(disk.name()), "{}", reported.message());
}

#[test]
fn a_disk_that_is_as_fast_as_ever_is_nothing() {
    needs_a_kernel!();
    let disk = match Disk::new(256, 64) {
        Ok(disk) => disk,
        Err(reason) => skip!("{reason}"),
    };
    let mut reader = Process::start("reader");
    let tapio = Tapio::start_observer("storage");
    disk.read(&mut reader, 0..250).unwrap();
    disk.write(&mut reader, 0..8).unwrap();
    let ended = tapio.end();
    let (_, counts) = &ended.programs[0];
    assert_eq!(counts.seen, counts.accounted());
    assert!(counts.seen >= 250 + 8 * 256, "{counts:?}");
    let reported: Vec<_> = ended.occurrences.iter().filter(|o| o.is_about(&disk)).collect();
    assert!(reported.is_empty(), "{reported:#?}");
}

/// An agent that looks often, and has looked once.
fn looking() -> Tapio {
    let often = "observer: {storage: {filesystems: {interval: 200ms}}}";
    let tapio = Tapio::start_with(&["--observer=storage"], often);
    tapio.expect_log("file systems scanned", "spent_us");
    tapio
}

#[test]
fn a_file_system_that_fills_is_reported_when_it_is_nearly_full_and_when_it_is() {
    needs_a_kernel!();
    let memory = match Filesystem::in_memory(32) {
        Ok(memory) => memory,
        Err(reason) => skip!("{reason}"),
    };
    let _second = memory.bind().unwrap();
    let tapio = looking();
    memory.fill(31);
    let nearly = tapio.expect_some(|o| o.is_on(&memory)).of_observer("storage", "filesystem_full");
    assert_eq!((nearly.text("state"), nearly.text("resource")), ("nearly_full", "bytes"));
    assert_eq!((nearly.text("device"), nearly.text("filesystem")), ("tapio-test", "tmpfs"));
    nearly.has("available_bytes", 1 << 19..2 << 20);
    memory.fill(2);
    let full = tapio.expect_one(|o| o.is_on(&memory) && o.text("state") == "full");
    full.has("used_bytes", 31 << 20..33 << 20);
    assert_eq!(tapio.end().occurrences.iter().filter(|o| o.is_on(&memory)).count(), 2);
}

#[test]
fn a_file_system_that_becomes_read_only_is_reported_once() {
    needs_a_kernel!();
    let (one, other, image) = match [8; 3].map(Filesystem::in_memory) {
        [Ok(one), Ok(other), Ok(image)] => (one, other, image),
        [Err(reason), ..] | [_, Err(reason), _] | [.., Err(reason)] => skip!("{reason}"),
    };
    image.remount("ro");
    let tapio = looking();
    // What is reported of the others says that this was seen.
    image.remount("rw");
    one.remount("ro");
    let reported = tapio.expect_some(|o| o.is_on(&one)).of_observer("storage", "filesystem_readonly");
    assert_eq!((reported.text("option"), reported.text("filesystem")), ("ro", "tmpfs"));
    image.remount("ro");
    other.remount("ro");
    tapio.expect_one(|o| o.is_on(&other));
    let all = tapio.end().occurrences;
    let of = |filesystem| all.iter().filter(|o| o.is_on(filesystem)).count();
    assert_eq!((of(&one), of(&other), of(&image)), (1, 1, 0));
}

#[test]
fn an_error_after_which_ext4_takes_no_more_writes_is_reported_once() {
    needs_a_kernel!();
    let ext4 = match Disk::new(16, 16).and_then(Filesystem::on) {
        Ok(ext4) => ext4,
        Err(reason) => skip!("{reason}"),
    };
    let tapio = looking();
    ext4.damage();
    let reported = tapio.expect_one(|o| o.is_on(&ext4)).of_observer("storage", "filesystem_readonly");
    assert_eq!(reported.text("filesystem"), "ext4");
    assert!(["ro", "emergency_ro"].contains(&reported.text("option")));
}
