//! Heartbeats as a collector gets them: one at the start, one now and then, one at the end.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest, common::v1::any_value, logs::v1::LogRecord,
};
use prost::Message as _;

use crate::support::{Process, Tapio, needs_a_kernel};

/// Takes logs by OTLP over HTTP, and hands on each record.
fn collector() -> (u16, mpsc::Receiver<LogRecord>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (records, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let records = records.clone();
            thread::spawn(move || take(stream.unwrap(), &records));
        }
    });
    (port, received)
}

/// Answers the requests of one connection.
fn take(stream: std::net::TcpStream, records: &mpsc::Sender<LogRecord>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or_default() == 0 {
                return;
            }
            let line = line.trim().to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        // The agent asks with an empty request whether somebody is there.
        let request = ExportLogsServiceRequest::decode(&*body).unwrap();
        for record in request.resource_logs.into_iter().flat_map(|logs| logs.scope_logs) {
            record.log_records.into_iter().for_each(|record| drop(records.send(record)));
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
    }
}

fn value(record: &LogRecord, key: &str) -> Option<any_value::Value> {
    record.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn text(record: &LogRecord, key: &str) -> Option<String> {
    match value(record, key)? {
        any_value::Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn number(record: &LogRecord, key: &str) -> Option<i64> {
    match value(record, key)? {
        any_value::Value::IntValue(number) => Some(number),
        _ => None,
    }
}

#[test]
fn a_collector_gets_one_at_the_start_one_now_and_then_and_one_at_the_end() {
    needs_a_kernel!();
    let (port, received) = collector();
    let endpoint = format!("--otlp=http://127.0.0.1:{port}");
    let arguments = [&*endpoint, "--observer=network"];
    let tapio = Tapio::start_with(
        &arguments,
        "heartbeat: 5s\nobserver: {network: {cooldown: 100ms}}\notlp: {protocol: http/protobuf, compression: none}",
    );
    let mut heartbeats = Vec::new();
    while heartbeats.len() < 2 {
        let record = received.recv_timeout(Duration::from_secs(20)).unwrap();
        if record.event_name == "tapio.heartbeat" {
            heartbeats.push(record);
        }
    }
    // The repeats wait in a window of the fold, and are reported as the agent stops.
    let mut client = Process::start("to-nobody");
    for _ in 0..3 {
        assert_eq!(client.connect(([127, 0, 0, 1], 4631).into()).unwrap_err(), "ECONNREFUSED");
        thread::sleep(Duration::from_millis(300));
    }
    let ended = tapio.end();
    heartbeats.extend(received.try_iter().filter(|record| record.event_name == "tapio.heartbeat"));
    let phases: Vec<_> = heartbeats.iter().map(|record| text(record, "tapio.data.phase").unwrap()).collect();
    assert_eq!(phases.first().map(String::as_str), Some("start"));
    assert_eq!(phases.last().map(String::as_str), Some("stop"));
    assert!(phases[1..phases.len() - 1].iter().all(|phase| phase == "run"), "{phases:?}");
    assert!(phases.len() >= 3, "{phases:?}");
    let largest = heartbeats.iter().map(LogRecord::encoded_len).max().unwrap();
    println!("a heartbeat: {largest} bytes");
    assert!(largest < 2048, "{largest} bytes");
    let reported: i64 = heartbeats.iter().map(|record| number(record, "tapio.data.reported").unwrap()).sum();
    assert_eq!(reported as u64, ended.occurrences.iter().map(|reported| reported.count).sum::<u64>());
    assert!(reported >= 3);
    for record in &heartbeats {
        assert_eq!(text(record, "tapio.data.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(text(record, "tapio.data.boot_id").is_some_and(|id| id.len() == 36));
    }
    assert!(
        ended.occurrences.iter().all(|reported| reported.kind != "tapio.heartbeat"),
        "people are not shown them"
    );
    assert!(ended.sink("otlp")["sent"].as_u64() >= Some(phases.len() as u64), "{}", ended.sinks);
}
