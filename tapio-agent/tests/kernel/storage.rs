//! The storage observer.

use std::time::{Duration, Instant};

use crate::support::{Process, Tapio, disk::Disk, needs_a_kernel, skip};

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
