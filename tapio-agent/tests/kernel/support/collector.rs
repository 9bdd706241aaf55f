//! A collector that takes logs by OTLP over HTTP.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::LogRecord,
};
use prost::Message as _;

/// Time allowed until a record arrives.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Collector {
    port: u16,
    records: mpsc::Receiver<Record>,
}

/// A record with the attributes of its resource.
#[derive(Debug)]
pub(crate) struct Record {
    record: LogRecord,
    resource: Vec<KeyValue>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (records, received) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let records = records.clone();
                thread::spawn(move || take(stream.unwrap(), &records));
            }
        });
        Self { port, records: received }
    }

    /// The agent's argument for it. It needs [`Self::SETTINGS`], too.
    pub(crate) fn argument(&self) -> String {
        format!("--otlp=http://127.0.0.1:{}", self.port)
    }

    pub(crate) const SETTINGS: &str = "otlp: {protocol: http/protobuf, compression: none}";

    /// Waits for the next record of this event name.
    #[track_caller]
    pub(crate) fn next(&self, name: &str) -> Record {
        loop {
            let record = self.records.recv_timeout(PATIENCE).unwrap();
            if record.record.event_name == name {
                return record;
            }
        }
    }

    /// The records of this event name that have arrived.
    pub(crate) fn arrived(&self, name: &str) -> Vec<Record> {
        self.records.try_iter().filter(|record| record.record.event_name == name).collect()
    }
}

/// Answers the requests of one connection.
fn take(stream: TcpStream, records: &mpsc::Sender<Record>) {
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
        for logs in request.resource_logs {
            let resource = logs.resource.unwrap_or_default().attributes;
            for record in logs.scope_logs.into_iter().flat_map(|logs| logs.log_records) {
                drop(records.send(Record { record, resource: resource.clone() }));
            }
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer.as_bytes()).unwrap();
    }
}

impl Record {
    /// Its size as sent, without its resource.
    pub(crate) fn bytes(&self) -> usize {
        self.record.encoded_len()
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        as_text(find(&self.record.attributes, key)?)
    }

    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        as_number(find(&self.record.attributes, key)?)
    }

    /// An attribute of its resource.
    pub(crate) fn resource(&self, key: &str) -> Option<String> {
        as_text(find(&self.resource, key)?)
    }

    /// An array of texts; `None` for those that are absent.
    pub(crate) fn texts(&self, key: &str) -> Vec<Option<String>> {
        self.array(key).into_iter().map(as_text).collect()
    }

    /// An array of numbers; `None` for those that are absent.
    pub(crate) fn numbers(&self, key: &str) -> Vec<Option<i64>> {
        self.array(key).into_iter().map(as_number).collect()
    }

    fn array(&self, key: &str) -> Vec<&AnyValue> {
        match find(&self.record.attributes, key).and_then(|value| value.value.as_ref()) {
            Some(any_value::Value::ArrayValue(array)) => array.values.iter().collect(),
            _ => Vec::new(),
        }
    }
}

fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()
}

fn as_text(value: &AnyValue) -> Option<String> {
    match value.value.as_ref()? {
        any_value::Value::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

fn as_number(value: &AnyValue) -> Option<i64> {
    match value.value.as_ref()? {
        any_value::Value::IntValue(number) => Some(*number),
        _ => None,
    }
}
