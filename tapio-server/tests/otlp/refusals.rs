//! What the receiver refuses, and how it says so.

use std::{io::Write as _, net::TcpStream};

use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::ExportTraceServiceResponse,
    },
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data},
    resource::v1::Resource,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use tempfile::tempdir;
use tonic::{Code, Request};

use crate::sender::{Receiver, answer, now_ns, of, pair, rejected, request, span};

const PROTOBUF: &str = "content-type: application/x-protobuf";
const JSON: &str = "content-type: application/json";
const GZIP: &str = "content-encoding: gzip";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One valid span, and others of another hour, without ids, and of nobody.
fn mixed() -> opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest {
    let hour = 3_600_000_000_000;
    let ahead = Span { end_time_unix_nano: now_ns() + hour, ..span(SpanKind::Server, false) };
    let late = Span {
        start_time_unix_nano: now_ns() - hour,
        end_time_unix_nano: now_ns() - hour,
        ..span(SpanKind::Server, false)
    };
    let nameless = Span { trace_id: Vec::new(), ..span(SpanKind::Server, false) };
    let huge = Span {
        attributes: vec![pair("server.address", &"x".repeat(3 << 20))],
        ..span(SpanKind::Client, false)
    };
    let mut all = request(of("payments"), vec![span(SpanKind::Server, false), ahead, late, nameless, huge]);
    let nobody = request(Resource::default(), vec![span(SpanKind::Server, false)]);
    all.resource_spans.extend(nobody.resource_spans);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_success_says_what_was_refused_and_why() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let of_grpc = receiver.client().await.export(mixed()).await.unwrap().into_inner();
    let (status, _, body) = receiver.post("/v1/traces", &[PROTOBUF, GZIP], &gzip(&mixed().encode_to_vec()));
    assert_eq!(status, 200);
    let of_http = ExportTraceServiceResponse::decode(&*body).unwrap();
    for response in [of_grpc, of_http] {
        let (count, why) = rejected(&response);
        assert_eq!(count, 5, "{why}");
        for part in [
            "2: the time differs by more than 2 min",
            "1: trace_id or span_id",
            "1: the resource has none",
            "1: a name has more",
        ] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
    let (status, _, body) = receiver.post("/v1/traces", &[JSON], &serde_json::to_vec(&mixed()).unwrap());
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &json["partialSuccess"]["rejectedSpans"]), (200, &"5".into()), "{json}");
    assert_eq!(receiver.metric(r#"tapio_otlp_refused_total{reason="time"}"#), 6);
    assert_eq!(receiver.metric("tapio_otlp_entities"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_that_signals_do_not_need_are_counted_and_not_refused() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let gauge = Gauge { data_points: vec![NumberDataPoint::default(); 7] };
    let metric =
        Metric { name: "jvm.memory.used".to_owned(), data: Some(Data::Gauge(gauge)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let part = ResourceMetrics {
        resource: Some(of("payments")),
        scope_metrics: vec![scope],
        ..ResourceMetrics::default()
    };
    let body = ExportMetricsServiceRequest { resource_metrics: vec![part] }.encode_to_vec();
    let (status, _, body) = receiver.post("/v1/metrics", &[PROTOBUF], &body);
    let response = ExportMetricsServiceResponse::decode(&*body).unwrap();
    assert_eq!((status, response.partial_success), (200, None));
    assert_eq!(receiver.metric(r#"tapio_otlp_unused_total{reason="metric"}"#), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_not_valid() {
    let directory = tempdir().unwrap();
    let receiver = Receiver::start(directory.path(), &[]);
    let valid = request(of("a"), vec![span(SpanKind::Server, false)]).encode_to_vec();
    let large = vec![0; (4 << 20) + 1];
    let bomb = gzip(&vec![0; 64 << 20]);
    // Empty spans: two bytes each.
    let many = request(of("a"), vec![Span::default(); 1_000_000]).encode_to_vec();
    for (path, headers, body, status, says) in [
        ("/v1/traces", &[PROTOBUF][..], &b"\xff\xff garbage"[..], 400, "is not protobuf"),
        ("/v1/logs", &[JSON], b"{\"resourceLogs\": 7}", 400, "is not a request of OTLP"),
        ("/v1/traces", &[PROTOBUF, GZIP], &valid, 400, "is not gzip"),
        ("/v1/traces", &[PROTOBUF], &large, 413, "larger than 4 MiB"),
        ("/v1/traces", &[PROTOBUF, GZIP], &bomb, 413, "larger than 4 MiB"),
        ("/v1/traces", &[PROTOBUF], &many, 413, "too many small parts"),
        ("/v1/traces", &["content-type: text/plain"], &valid, 415, "content type"),
        ("/v1/traces", &[], &valid, 415, "content type"),
        ("/v1/traces", &[PROTOBUF, "content-encoding: zstd"], &valid, 415, "content encoding"),
        ("/v1/profiles", &[PROTOBUF], &valid, 404, "/v1/traces"),
        ("/v1/traces", &[PROTOBUF], &valid, 200, ""),
    ] {
        let (found, head, body) = receiver.post(path, headers, body);
        let text = String::from_utf8_lossy(&body);
        assert!(found == status && text.contains(says), "{path} {headers:?}: {head} {text}");
        if status != 200 && headers.first() == Some(&PROTOBUF) {
            tonic_types::Status::decode(&*body).unwrap();
        }
    }
    let mut stream = TcpStream::connect(receiver.http).unwrap();
    stream.write_all(b"GET /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let (status, head, _) = answer(&mut stream);
    assert!(status == 405 && head.contains("allow: post"), "{head}");

    let mut client = receiver.client().await;
    let refused =
        client.export(request(of("a"), vec![Span { name: "x".repeat(5 << 20), ..Span::default() }])).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(tonic_types::StatusExt::get_details_retry_info(&refused).is_none(), "it would be sent again");
    let refused = client.export(request(of("a"), vec![Span::default(); 500_000])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(receiver.server.resident_bytes() < 400 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_and_with_too_many_requests_at_once() {
    let directory = tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    std::fs::write(&tokens, "0123456789abcdef\n").unwrap();
    let receiver = Receiver::start(directory.path(), &[&format!("--polku-token-file={}", tokens.display())]);
    let valid = request(of("a"), vec![span(SpanKind::Server, false)]);
    let (status, head, _) = receiver.post("/v1/traces", &[PROTOBUF], &valid.encode_to_vec());
    assert!(status == 401 && head.contains("www-authenticate: bearer"), "{head}");
    let refused = receiver.client().await.export(valid.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    const TOKEN: &str = "authorization: Bearer 0123456789abcdef";
    assert_eq!(receiver.post("/v1/traces", &[PROTOBUF, TOKEN], &valid.encode_to_vec()).0, 200);

    // Requests whose bodies do not come, more than have a place.
    let slow = || {
        let mut stream = TcpStream::connect(receiver.http).unwrap();
        let head = format!(
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\n{PROTOBUF}\r\n{TOKEN}\r\ncontent-length: 9\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut held = Vec::new();
    let (status, head, _) = crate::support::wait_until(
        || {
            // The valid one may take a place, too.
            held.extend(std::iter::repeat_with(slow).take(16));
            receiver.post("/v1/traces", &[PROTOBUF, TOKEN], &valid.encode_to_vec())
        },
        |(status, ..)| *status != 200,
    );
    assert!(status == 503 && head.contains("retry-after: 5"), "{head}");
    let mut with_token = Request::new(valid.clone());
    with_token.metadata_mut().insert("authorization", "Bearer 0123456789abcdef".parse().unwrap());
    let refused = receiver.client().await.export(with_token).await.unwrap_err();
    let after = tonic_types::StatusExt::get_details_retry_info(&refused).and_then(|info| info.retry_delay);
    assert_eq!((refused.code(), after), (Code::Unavailable, Some(std::time::Duration::from_secs(5))));
    // They are not waited for.
    let (status, ..) = answer(&mut held[0]);
    assert_eq!(status, 408);
    assert_eq!(receiver.post("/v1/traces", &[PROTOBUF, TOKEN], &valid.encode_to_vec()).0, 200);
}
