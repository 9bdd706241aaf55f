//! Heartbeats as a collector gets them: one at the start, one now and then, one at the end.

use std::{thread, time::Duration};

use crate::support::{Collector, Process, Record, Tapio, needs_a_kernel};

const HEARTBEAT: &str = "tapio.heartbeat";

#[test]
fn a_collector_gets_one_at_the_start_one_now_and_then_and_one_at_the_end() {
    needs_a_kernel!();
    let collector = Collector::start();
    let arguments = [&*collector.argument(), "--observer=network"];
    let configuration = "heartbeat: 5s\nobserver: {network: {cooldown: 100ms}}\n";
    let tapio = Tapio::start_with(&arguments, &format!("{configuration}{}", Collector::SETTINGS));
    let mut heartbeats = vec![collector.next(HEARTBEAT), collector.next(HEARTBEAT)];
    // The repeats wait in a window of the fold, and are reported as the agent stops.
    let mut client = Process::start("to-nobody");
    for _ in 0..3 {
        assert_eq!(client.connect(([127, 0, 0, 1], 4631).into()).unwrap_err(), "ECONNREFUSED");
        thread::sleep(Duration::from_millis(300));
    }
    let ended = tapio.end();
    heartbeats.extend(collector.arrived(HEARTBEAT));
    let phases: Vec<_> = heartbeats.iter().map(|record| record.text("tapio.data.phase").unwrap()).collect();
    assert_eq!(phases.first().map(String::as_str), Some("start"));
    assert_eq!(phases.last().map(String::as_str), Some("stop"));
    assert!(phases[1..phases.len() - 1].iter().all(|phase| phase == "run"), "{phases:?}");
    assert!(phases.len() >= 3, "{phases:?}");
    let largest = heartbeats.iter().map(Record::bytes).max().unwrap();
    println!("a heartbeat: {largest} bytes");
    assert!(largest < 2048, "{largest} bytes");
    let reported: i64 = heartbeats.iter().map(|record| record.number("tapio.data.reported").unwrap()).sum();
    assert_eq!(reported as u64, ended.occurrences.iter().map(|reported| reported.count).sum::<u64>());
    assert!(reported >= 3);
    for record in &heartbeats {
        assert_eq!(record.text("tapio.data.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(record.text("tapio.data.boot_id").is_some_and(|id| id.len() == 36));
    }
    assert!(ended.occurrences.iter().all(|reported| reported.kind != HEARTBEAT), "people are not shown them");
    assert!(ended.sink("otlp")["sent"].as_u64() >= Some(phases.len() as u64), "{}", ended.sinks);
}
