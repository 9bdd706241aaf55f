//! Spans a second that the receiver for OTLP takes on one core: by gRPC and by HTTP, as protobuf and as JSON. The server is a
//! process of its own, so that its CPU time is not the client's.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind},
};
use prost::Message as _;
use tonic::transport::Channel;

const ROUNDS: usize = 3;
const REQUESTS: usize = 200;
/// Spans of a request, as in OpenTelemetry's own exporters.
const SPANS: usize = 512;
/// Services that send.
const SERVICES: usize = 50;

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut least = [f64::INFINITY; 3];
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let directory = tempfile::tempdir()?;
        let server = Server::start(directory.path())?;
        let requests = requests()?;
        bytes = requests.iter().map(ExportTraceServiceRequest::encoded_len).sum::<usize>() / REQUESTS / SPANS;
        for (way, least) in least.iter_mut().enumerate() {
            let cpu = server.metric("tapio_process_cpu_seconds_total")?;
            match way {
                0 => runtime.block_on(by_grpc(server.grpc, &requests))?,
                1 => by_http(
                    server.http,
                    "application/x-protobuf",
                    requests.iter().map(|one| Ok(one.encode_to_vec())),
                )?,
                _ => by_http(
                    server.http,
                    "application/json",
                    requests.iter().map(|one| Ok(serde_json::to_vec(one)?)),
                )?,
            }
            *least = least.min(server.metric("tapio_process_cpu_seconds_total")? - cpu);
        }
        let received = server.metric("tapio_otlp_received_total{part=\"spans\"}")?;
        anyhow::ensure!(received == (3 * REQUESTS * SPANS) as f64, "{received} spans were received");
        let refused = server.metric("tapio_otlp_refused_total{reason=\"time\"}")?;
        anyhow::ensure!(refused == 0.0, "{refused} spans were refused");
    }
    println!("otlp_span_bytes {bytes} bytes");
    for (name, cpu) in ["grpc", "http", "json"].into_iter().zip(least) {
        println!("otlp_{name}_spans_per_core {:.0} spans/s", (REQUESTS * SPANS) as f64 / cpu);
    }
    Ok(())
}

fn pair(key: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Calls between services: clients' spans and those of whom they call, with the attributes that instrumentations set.
fn requests() -> anyhow::Result<Vec<ExportTraceServiceRequest>> {
    let now_ns = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let mut parents: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut request = |nth: usize| {
        let is_client = nth.is_multiple_of(2);
        let service = format!("service-{}", (nth + usize::from(!is_client)) % SERVICES);
        let mut span = |_| {
            let ids = |bytes: usize| (0..bytes).map(|_| fastrand::u8(1..)).collect::<Vec<u8>>();
            let (trace_id, parent_span_id) =
                if is_client { (ids(16), Vec::new()) } else { parents.pop().unwrap_or_default() };
            let span_id = ids(8);
            if is_client {
                parents.push((trace_id.clone(), span_id.clone()));
            }
            let common = [
                ("http.request.method", "POST"),
                ("http.route", "/api/v1/orders/{id}"),
                ("url.path", "/api/v1/orders/8127"),
                ("url.scheme", "http"),
                ("server.address", "orders.shop.svc.cluster.local"),
                ("server.port", "8080"),
                ("network.protocol.version", "1.1"),
                ("user_agent.original", "Go-http-client/1.1"),
                ("network.peer.address", "10.1.7.19"),
            ];
            Span {
                trace_id,
                span_id,
                parent_span_id,
                name: "POST /api/v1/orders/{id}".to_owned(),
                kind: if is_client { SpanKind::Client } else { SpanKind::Server }.into(),
                start_time_unix_nano: now_ns - 3_000_000,
                end_time_unix_nano: now_ns,
                attributes: common.iter().map(|(key, text)| pair(key, text)).collect(),
                status: Some(Status::default()),
                ..Span::default()
            }
        };
        let spans = (0..SPANS).map(&mut span).collect();
        let attributes = vec![
            pair("service.name", &service),
            pair("k8s.namespace.name", "shop"),
            pair("k8s.deployment.name", &service),
            pair("k8s.pod.name", &format!("{service}-7d9f-x2x")),
            pair("telemetry.sdk.language", "go"),
        ];
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource = Some(Resource { attributes, ..Resource::default() });
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
        }
    };
    Ok((0..REQUESTS).map(&mut request).collect())
}

async fn by_grpc(address: SocketAddr, requests: &[ExportTraceServiceRequest]) -> anyhow::Result<()> {
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = TraceServiceClient::new(channel);
    for request in requests {
        let answer = client.export(request.clone()).await?.into_inner();
        anyhow::ensure!(answer.partial_success.is_none(), "{answer:?}");
    }
    Ok(())
}

fn by_http(
    address: SocketAddr,
    kind: &str,
    bodies: impl Iterator<Item = anyhow::Result<Vec<u8>>>,
) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let mut answers = BufReader::new(stream.try_clone()?);
    for body in bodies {
        let body = body?;
        write!(
            stream,
            "POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(&body)?;
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            anyhow::ensure!(answers.read_line(&mut head)? > 0, "the server closed the connection: {head}");
        }
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        for line in head.to_ascii_lowercase().lines() {
            length = line.strip_prefix("content-length: ").map_or(Ok(length), str::parse)?;
        }
        answers.read_exact(&mut vec![0; length])?;
    }
    Ok(())
}

/// A server, killed on drop.
struct Server {
    child: Child,
    admin: SocketAddr,
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Server {
    fn start(directory: &Path) -> anyhow::Result<Self> {
        let free = || std::net::TcpListener::bind("127.0.0.1:0")?.local_addr();
        let (polku, admin, grpc, http) = (free()?, free()?, free()?, free()?);
        let child = Command::new(env!("CARGO_BIN_EXE_tapio-server"))
            .arg(format!("--state-dir={}", directory.join("state").display()))
            .arg(format!("--polku-listen={polku}"))
            .arg(format!("--otlp-listen-grpc={grpc}"))
            .arg(format!("--otlp-listen-http={http}"))
            .arg(format!("--listen={admin}"))
            .arg("--roles=polku")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut server = Self { child, admin, grpc, http };
        let log = BufReader::new(server.child.stderr.take().context("no pipe")?);
        let mut lines = log.lines();
        let is_ready = lines.by_ref().map_while(Result::ok).any(|line| line.ends_with(" ready"));
        anyhow::ensure!(is_ready, "the server did not start");
        // So that it never waits for a reader of its log.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// A number in its metrics.
    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut stream = TcpStream::connect(self.admin)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(number.with_context(|| format!("no {name}"))?.parse()?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
