//! The agent's own metrics and traces: a real collector receives the values of `/metrics`, and an unreachable
//! one never delays occurrences.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../../tapio-delivery/tests/otlp/agent.rs"]
#[allow(dead_code, reason = "the tests of the sinks use the rest")]
mod agent;
#[path = "../../tapio-delivery/tests/otlp/collector.rs"]
#[allow(dead_code, reason = "the tests of the sinks use the rest")]
mod collector;
#[path = "../../tapio-delivery/tests/sinks/log.rs"]
#[allow(dead_code, reason = "the tests of the sinks use the rest")]
mod log;
#[path = "../../xtask/src/kube/program.rs"]
#[allow(dead_code, reason = "a part of it is the task's")]
mod program;
#[path = "../../tapio-delivery/tests/otlp/receiver.rs"]
#[allow(dead_code, reason = "the tests of the sinks use the rest")]
mod receiver;
#[path = "../../tapio-delivery/tests/sinks/serve.rs"]
mod serve;
#[path = "../../tapio-delivery/tests/sinks/agent.rs"]
#[allow(dead_code, reason = "the tests of the sinks use the rest")]
mod sinks;
#[path = "../../xtask/src/toolchain.rs"]
#[allow(dead_code, reason = "where the cache is")]
mod toolchain;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};
use tapio_agent::{agent::telemetry, config::Config, metrics::Metrics};
use tapio_delivery::telemetry::Telemetry;
use tapio_service::metrics::{Kind, samples};
use tokio::sync::Mutex;

use agent::{Agent, spike, until};
use collector::{Collector, collector_or_skip, flat};
use log::Log;
use receiver::Receiver;

/// The protocols, and whether they are gRPC.
const PROTOCOLS: [(&str, bool); 2] = [("grpc", true), ("http/protobuf", false)];

/// Spans go to the process's only provider, so the tests run one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

fn config(keys: &[(&str, &str)]) -> Config {
    let variables = keys.iter().map(|(name, value)| (name.into(), value.into()));
    Config::load(None, variables, &[]).unwrap_or_else(|error| panic!("{error}"))
}

fn start(keys: &[(&str, &str)], metrics: &Arc<Metrics>) -> Telemetry {
    let metrics = Arc::clone(metrics);
    let plan = telemetry(&config(keys), true).unwrap();
    plan.start(&Metrics::described(), move || metrics.render().unwrap()).unwrap()
}

/// Gives each kind of metric a value.
fn busy(metrics: &Metrics) {
    metrics.begin(&["network"], &["otlp"], true);
    metrics.anomalies("network", "network.rtt_spike", 3);
    metrics.program("network", "tcp_probe", 7, Duration::from_millis(1500));
    metrics.map_entries("network", "PATHS", 4);
    metrics.reported(2);
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// The data that a collector received, as (Resource, scope, metric or span).
fn reported(lines: &str, of: [&str; 3]) -> Vec<(Value, Value, Value)> {
    let mut all = Vec::new();
    for line in lines.lines() {
        let request: Value = serde_json::from_str(line).unwrap();
        for of_resource in list(&request, of[0]) {
            for of_scope in list(of_resource, of[1]) {
                let one =
                    |item: &Value| (of_resource["resource"].clone(), of_scope["scope"].clone(), item.clone());
                all.extend(list(of_scope, of[2]).map(one));
            }
        }
    }
    all
}

/// A number in the format of the metrics text.
fn number(point: &Value) -> String {
    match (&point["asInt"], &point["asDouble"]) {
        (Value::String(whole), _) => whole.clone(),
        (_, Value::Number(number)) => number.as_f64().unwrap().to_string(),
        _ => panic!("{point}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_has_the_numbers_of_the_metrics() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (protocol, _) in PROTOCOLS {
        let collector = collector_or_skip!("a_collector_has_the_numbers_of_the_metrics");
        let [(_, endpoint), _] = collector.keys(protocol);
        let metrics = Arc::new(Metrics::default());
        busy(&metrics);
        let telemetry = start(
            &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
                ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
                ("OTEL_RESOURCE_ATTRIBUTES", "team=a"),
                ("TAPIO_TELEMETRY_METRICS_ENABLED", "true"),
                ("TAPIO_NODE_NAME", "node-a"),
                ("TAPIO_CLUSTER", "prod"),
            ],
            &metrics,
        );
        telemetry.end().await;
        let lines = fs::read_to_string(collector.lines()).unwrap();
        let came = reported(&lines, ["resourceMetrics", "scopeMetrics", "metrics"]);

        let text = metrics.render().unwrap();
        let expected = samples(&text);
        let names: BTreeSet<_> = came.iter().map(|(.., metric)| metric["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected.keys().copied().collect(), "{protocol}");
        for (resource, scope, metric) in &came {
            let name = metric["name"].as_str().unwrap();
            let described = Metrics::described().into_iter().find(|one| one.name == name).unwrap();
            assert_eq!(metric["description"], described.help);
            let unit = metric["unit"].as_str().unwrap_or_default();
            let expected_unit = match name {
                "tapio_program_seconds" | "tapio_process_cpu_seconds" => "s",
                "tapio_process_resident_memory_bytes" => "By",
                _ => "",
            };
            assert_eq!(unit, expected_unit, "{name}");
            let points = match described.kind {
                Kind::Counter | Kind::FloatCounter => {
                    assert_eq!(metric["sum"]["isMonotonic"], true, "{name}");
                    // Cumulative.
                    assert_eq!(metric["sum"]["aggregationTemporality"], 2, "{name}");
                    &metric["sum"]
                }
                Kind::Gauge => &metric["gauge"],
            };
            let found: BTreeMap<_, _> =
                list(points, "dataPoints").map(|p| (flat(&p["attributes"]).to_string(), number(p))).collect();
            let labels = |labels: &[(&str, &str)]| {
                let pairs = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
                Value::Object(pairs.collect()).to_string()
            };
            // The text writes whole floating-point numbers with `.0`.
            let whole = |number: &str| number.strip_suffix(".0").unwrap_or(number).to_owned();
            let of_text: BTreeMap<_, _> =
                expected[name].iter().map(|s| (labels(&s.labels), whole(s.number))).collect();
            assert_eq!(found, of_text, "{name}");
            assert_eq!((&scope["name"], &scope["version"]), (&json!("tapio"), &json!("0.1.0")));
            let resource = flat(&resource["attributes"]);
            for (key, value) in [
                ("service.name", "tapio"),
                ("service.instance.id", "node-a"),
                ("k8s.node.name", "node-a"),
                ("k8s.cluster.name", "prod"),
                ("team", "a"),
                ("telemetry.sdk.language", "rust"),
            ] {
                assert_eq!(resource[key], value);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_a_span() {
    let _alone = ONE_AT_A_TIME.lock().await;
    for (protocol, is_grpc) in PROTOCOLS {
        let collector = collector_or_skip!("a_delivery_is_a_span");
        let [(_, endpoint), _] = collector.keys(protocol);
        let receiver = Receiver::start(is_grpc, None).await;
        let metrics = Arc::new(Metrics::default());
        let telemetry = start(
            &[
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("{endpoint}/v1/traces")),
                ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol),
                ("TAPIO_TELEMETRY_TRACES_ENABLED", "true"),
            ],
            &metrics,
        );
        let sink = format!("http://{}", receiver.address);
        let mut agent = Agent::new(&[("endpoint", &sink), ("protocol", protocol)]);
        // No other test sends this many.
        (0..17).for_each(|_| drop(agent.give(spike())));
        agent.settled().await;
        telemetry.end().await;
        let lines = fs::read_to_string(collector.lines()).unwrap();
        let spans = reported(&lines, ["resourceSpans", "scopeSpans", "spans"]);
        let (resource, scope, span) = spans
            .iter()
            .find(|(.., span)| flat(&span["attributes"])["tapio.occurrences"] == 17)
            .unwrap_or_else(|| panic!("{protocol}: {spans:?}"));
        assert_eq!(flat(&resource["attributes"])["service.name"], "tapio");
        assert_eq!(scope["name"], "tapio");
        assert_eq!((&span["name"], &span["kind"]), (&json!("deliver"), &json!(3)));
        assert_eq!(flat(&span["attributes"])["tapio.sink"], "otlp");
        let time = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") < time("endTimeUnixNano"));
    }
}

/// The exporter runs on other threads, so this test reads the log of all threads.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_is_reported_once_and_takes_nothing_away() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let log = Log::of_all_threads();
    for (protocol, is_grpc) in PROTOCOLS {
        let receiver = Receiver::start(is_grpc, None).await;
        // The port is bound but not listened on, so no other process gets it.
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        silent.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        let port = silent.local_addr().unwrap().as_socket().unwrap().port();
        let away = format!("http://127.0.0.1:{port}/");
        let metrics = Arc::new(Metrics::default());
        busy(&metrics);
        let telemetry = start(
            &[
                ("TAPIO_TELEMETRY_METRICS_ENDPOINT", &away),
                ("TAPIO_TELEMETRY_METRICS_PROTOCOL", protocol),
                ("TAPIO_TELEMETRY_METRICS_TIMEOUT", "100ms"),
                ("TAPIO_TELEMETRY_METRICS_ENABLED", "true"),
                ("TAPIO_TELEMETRY_INTERVAL", "1s"),
            ],
            &metrics,
        );
        let sink = format!("http://{}", receiver.address);
        let mut agent = Agent::new(&[("endpoint", &sink), ("protocol", protocol)]);
        agent.send(5);
        let ledger = agent.settled().await;
        assert_eq!((ledger.received, ledger.sent), (5, 5));
        let complaints = |level: &str| log.lines(&[level, &away, "telemetry is not taken"]);
        // A second one would come with the next attempt, which logs at debug level.
        until(|| complaints("DEBUG"), |again| *again > 0).await;
        telemetry.end().await;
        assert_eq!(complaints("WARN"), 1, "{log}");
        assert_eq!(log.lines(&["WARN", &away, "cannot be reached", "refused"]), 1, "{log}");
    }
}
