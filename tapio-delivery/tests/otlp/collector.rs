//! A real OpenTelemetry Collector that writes its input to a file.

use std::{fs, net::TcpListener, path::PathBuf, process::Command, time::Duration};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{program::Program, toolchain};

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/otelcol/config.yaml");
const NAME: &str = "otelcol";

pub(crate) struct Collector {
    binary: PathBuf,
    directory: TempDir,
    grpc: u16,
    http: u16,
}

impl Collector {
    /// Starts one, or returns why it cannot.
    pub(crate) fn start() -> Result<Self, String> {
        let binary = match std::env::var_os("OTELCOL").filter(|value| !value.is_empty()) {
            Some(named) => PathBuf::from(named),
            None => toolchain::cache()?.join(NAME).join(NAME),
        };
        if !binary.is_file() {
            return Err(format!("there is no {}: run `cargo xtask otelcol build`", binary.display()));
        }
        let [grpc, http] = [(); 2].map(|()| {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            free.local_addr().unwrap().port()
        });
        let collector = Self { binary, directory: tempfile::tempdir().unwrap(), grpc, http };
        collector.resume();
        Ok(collector)
    }

    /// Restarts it on the same ports.
    pub(crate) fn resume(&self) {
        let mut command = Command::new(&self.binary);
        // A process is identified by its directory, which must appear in an argument.
        let config = self.directory.path().join("config.yaml");
        fs::copy(CONFIG, &config).unwrap();
        command.arg("--config").arg(config).env("OTLP_LINES", self.lines());
        command.env("OTLP_GRPC_PORT", self.grpc.to_string()).env("OTLP_HTTP_PORT", self.http.to_string());
        let program = self.program();
        program.start(command).unwrap();
        let listens = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        program.wait_until(Duration::from_secs(60), || listens(self.grpc) && listens(self.http)).unwrap();
    }

    pub(crate) fn stop(&self) {
        self.program().stop().unwrap();
    }

    /// Settings that send to it.
    pub(crate) fn keys(&self, protocol: &'static str) -> [(&'static str, String); 2] {
        let port = if protocol == "grpc" { self.grpc } else { self.http };
        [("endpoint", format!("http://127.0.0.1:{port}")), ("protocol", protocol.to_owned())]
    }

    /// The file with its output.
    pub(crate) fn lines(&self) -> PathBuf {
        self.directory.path().join("lines")
    }

    /// Everything received so far, as (Resource, scope, record).
    pub(crate) fn records(&self) -> Vec<(Value, Value, Value)> {
        let text = fs::read_to_string(self.lines()).unwrap_or_default();
        let mut records = Vec::new();
        // The last line may be incomplete.
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let request: Value = serde_json::from_str(line).unwrap();
            for logs in request["resourceLogs"].as_array().unwrap() {
                for scope in logs["scopeLogs"].as_array().unwrap() {
                    for record in scope["logRecords"].as_array().unwrap() {
                        records.push((logs["resource"].clone(), scope["scope"].clone(), record.clone()));
                    }
                }
            }
        }
        records
    }

    fn program(&self) -> Program {
        Program::new(NAME, self.directory.path())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Err(error) = self.program().stop() {
            eprintln!("{error:#}");
        }
    }
}

/// Starts a collector, or prints why the test cannot run here and ends it.
macro_rules! collector_or_skip {
    ($test:literal) => {
        match Collector::start() {
            Ok(collector) => collector,
            Err(reason) => {
                println!("SKIP {}: {reason}", $test);
                return;
            }
        }
    };
}

pub(crate) use collector_or_skip;

/// Attributes as a JSON object; a duplicate key is an error.
pub(crate) fn flat(attributes: &Value) -> Value {
    let mut object = Map::new();
    for pair in attributes.as_array().into_iter().flatten() {
        let before = object.insert(pair["key"].as_str().unwrap().to_owned(), plain(&pair["value"]));
        assert_eq!(before, None, "twice: {pair}");
    }
    Value::Object(object)
}

fn plain(value: &Value) -> Value {
    let Some((form, inner)) = value.as_object().unwrap().iter().next() else { return Value::Null };
    match form.as_str() {
        "intValue" => json!(inner.as_str().unwrap().parse::<i64>().unwrap()),
        "arrayValue" => inner["values"].as_array().unwrap().iter().map(plain).collect(),
        "stringValue" | "doubleValue" => inner.clone(),
        other => panic!("{other}"),
    }
}
