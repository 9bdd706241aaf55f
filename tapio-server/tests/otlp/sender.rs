//! A server with the receiver, and clients that send what a test wants.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind},
};
use tonic::{codec::CompressionEncoding, transport::Channel};

use crate::support::{PROGRAM, Server, free_address};

/// A server with both addresses, and windows of a second.
pub(crate) struct Receiver {
    pub(crate) server: Server,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Receiver {
    pub(crate) fn start(directory: &Path, flags: &[&str]) -> Self {
        let (grpc, http) = (free_address(), free_address());
        let own = [
            "--roles=polku,ahti".to_owned(),
            format!("--otlp-listen-grpc={grpc}"),
            format!("--otlp-listen-http={http}"),
        ];
        let flags: Vec<&str> = own.iter().map(String::as_str).chain(flags.iter().copied()).collect();
        let mut command = Command::new(PROGRAM);
        command.env("TAPIO_SERVER_OTLP_WINDOW", "1s");
        Self { server: Server::start_as(command, free_address(), directory, &flags), grpc, http }
    }

    pub(crate) async fn client(&self) -> TraceServiceClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        TraceServiceClient::new(channel).send_compressed(CompressionEncoding::Gzip)
    }

    /// Sends a request by HTTP. Returns the status, the head and the body of the answer.
    pub(crate) fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has heard enough may close the connection.
        let _ = stream.write_all(body);
        answer(&mut stream)
    }

    /// What the metrics say.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.server.get("/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
    }
}

pub(crate) fn answer(stream: &mut TcpStream) -> (u16, String, Vec<u8>) {
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer") + 4;
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_ascii_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, all[end..].to_vec())
}

pub(crate) fn pair(key: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

pub(crate) fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

pub(crate) fn of(deployment: &str) -> Resource {
    let attributes = vec![
        pair("service.name", deployment),
        pair("k8s.namespace.name", "shop"),
        pair("k8s.deployment.name", deployment),
        pair("k8s.pod.name", &format!("{deployment}-1")),
    ];
    Resource { attributes, ..Resource::default() }
}

pub(crate) fn request(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    let part = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![part] }
}

/// A call of a millisecond that has just ended.
pub(crate) fn span(kind: SpanKind, failed: bool) -> Span {
    let now_ns = now_ns();
    Span {
        trace_id: fastrand::u128(1..).to_be_bytes().to_vec(),
        span_id: fastrand::u64(1..).to_be_bytes().to_vec(),
        kind: kind.into(),
        start_time_unix_nano: now_ns - 1_000_000,
        end_time_unix_nano: now_ns,
        attributes: vec![pair("http.request.method", "GET")],
        status: Some(Status { code: if failed { 2 } else { 0 }, ..Status::default() }),
        ..Span::default()
    }
}

/// A caller's span and that of whom it calls.
pub(crate) fn call(failed: bool) -> (Span, Span) {
    let mut client = span(SpanKind::Client, failed);
    client.attributes.push(pair("server.address", "payments"));
    let mut server = span(SpanKind::Server, failed);
    (server.trace_id, server.parent_span_id) = (client.trace_id.clone(), client.span_id.clone());
    (client, server)
}

pub(crate) fn rejected(response: &ExportTraceServiceResponse) -> (i64, String) {
    let partial = response.partial_success.clone().unwrap_or_default();
    (partial.rejected_spans, partial.error_message)
}
