//! From spans to an answer.

use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tapio_ahti::correlate::Correlation;
use tempfile::tempdir;

use crate::{
    collector::{Collector, collector_or_skip},
    sender::{Receiver, call, of, request},
    support::{journaled, wait_until},
};

/// Calls of checkout to payments for some windows. Returns the last trace.
async fn calls(receiver: &Receiver, windows: u64, failed: bool) -> String {
    let mut client = receiver.client().await;
    let mut last = Vec::new();
    for nth in 0..windows * 4 {
        let (callers, called): (Vec<Span>, Vec<Span>) = (0..12).map(|_| call(failed)).unzip();
        last.clone_from(&called[0].trace_id);
        client.export(request(of("checkout"), callers)).await.unwrap();
        if nth % 2 == 0 {
            client.export(request(of("payments"), called)).await.unwrap();
        } else {
            let body = request(of("payments"), called).encode_to_vec();
            let answer = receiver.post("/v1/traces", &["content-type: application/x-protobuf"], &body);
            assert_eq!((answer.0, answer.2), (200, Vec::new()));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    last.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_burst_is_an_incident_and_a_trace_leads_to_it() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &["--cluster=prod"]);
    let healthy = calls(&receiver, 22, false).await;
    let found = |path: &str| receiver.server.answer(path).1;
    assert!(!found("/api/v1/findings").contains("signal."), "{}", found("/api/v1/findings"));
    let empty: Correlation =
        serde_json::from_str(&found(&format!("/api/v1/correlate?trace_id={healthy}"))).unwrap();
    assert!(empty.nothing.is_some_and(|nothing| nothing.contains("keeps at most 5 exemplars")));

    calls(&receiver, 5, true).await;
    let findings = wait_until(
        || found("/api/v1/findings"),
        |findings| findings.matches(r#""type":"signal.errors""#).count() == 2,
    );
    assert!(findings.contains("http calls of checkout (shop) to payments failed"), "{findings}");
    let facts: Vec<_> = receiver.server.answer("/api/v1/export").1.lines().map(ToOwned::to_owned).collect();
    let fact = facts.iter().find(|fact| fact.contains("signal.errors")).unwrap();
    let fact: serde_json::Value = serde_json::from_str(fact).unwrap();
    let trace_id = fact["data"]["traces"][0]["trace_id"].as_str().unwrap();
    let found: Correlation =
        serde_json::from_str(&found(&format!("/api/v1/correlate?trace_id={trace_id}"))).unwrap();
    assert!(!found.signals.is_empty(), "{found:#?}");
    assert_eq!(found.passed, ["Deployment shop/checkout", "Deployment shop/payments"], "{found:#?}");
    assert_eq!((fact["cluster"].as_str(), fact["source"].as_str()), (Some("prod"), Some("otlp")));

    // Nothing but signals is kept, and the ledger balances.
    receiver.server.stop();
    let kinds: Vec<_> =
        journaled(directory.path()).await.into_iter().map(|(_, event)| event.event_type).collect();
    assert!(kinds.len() < 30 && kinds.iter().all(|kind| kind.starts_with("signal.")), "{kinds:?}");
}

/// What a collector writes down is JSON of OTLP as other programs make it.
#[tokio::test(flavor = "multi_thread")]
async fn json_of_a_real_collector() {
    let collector = collector_or_skip!("json_of_a_real_collector");
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let endpoint = collector.keys("grpc")[0].1.clone();
    let channel = tonic::transport::Channel::from_shared(endpoint).unwrap().connect().await.unwrap();
    let mut client =
        opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient::new(
            channel,
        );
    let spans: Vec<Span> = (0..100).map(|nth| call(nth % 2 == 0).1).collect();
    client.export(request(of("payments"), spans)).await.unwrap();
    let lines = wait_until(
        || std::fs::read_to_string(collector.lines()).unwrap_or_default(),
        |lines| lines.ends_with('\n'),
    );
    for line in lines.lines() {
        let (status, head, body) =
            receiver.post("/v1/traces", &["content-type: application/json; charset=utf-8"], line.as_bytes());
        assert_eq!((status, &*body), (200, &b"{}"[..]), "{head} {}", String::from_utf8_lossy(&body));
        assert!(head.contains("content-type: application/json"));
    }
    assert_eq!(receiver.metric(r#"tapio_otlp_received_total{part="spans"}"#), 100);
    assert_eq!(receiver.metric(r#"tapio_otlp_refused_total{reason="time"}"#), 0);
    assert_eq!(receiver.metric("tapio_otlp_entities"), 1);
}
