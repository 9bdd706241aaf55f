use std::{convert::Infallible, env, process::Command};

use futures_util::stream;
use http::HeaderValue;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tapio_service::setting::Node as _;
use tokio::{net::TcpListener, sync::mpsc};

use super::*;

/// Starts a gRPC or HTTP/1 receiver that accepts everything. Returns its address and the requests received.
async fn receiver(is_grpc: bool) -> (String, mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (came, all) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let service = service_fn(move |request: Request<Incoming>| {
            let came = came.clone();
            async move {
                let (head, body) = request.into_parts();
                came.send((head, body.collect().await.unwrap().to_bytes())).unwrap();
                let (form, frames) = if is_grpc {
                    let trailers = [("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))];
                    let empty = Frame::data(Bytes::from_static(&[0; 5]));
                    ("application/grpc", vec![empty, Frame::trailers(HeaderMap::from_iter(trailers))])
                } else {
                    ("application/x-protobuf", Vec::new())
                };
                let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
                Response::builder().header(header::CONTENT_TYPE, form).body(body)
            }
        });
        let io = TokioIo::new(tcp);
        // The other side decides how the connection ends.
        let _ = if is_grpc {
            http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
        } else {
            http1::Builder::new().serve_connection(io, service).await
        };
    });
    (url, all)
}

#[tokio::test]
async fn requests_are_as_the_agent_was_told() {
    for (protocol, is_grpc) in [("grpc", true), ("http/protobuf", false)] {
        for compression in ["none", "gzip"] {
            let (url, mut came) = receiver(is_grpc).await;
            let mut settings = Settings::default();
            for (key, text) in [
                ("endpoint", format!("{url}/in/v1/metrics?k=v").as_str()),
                ("protocol", protocol),
                ("compression", compression),
                ("headers", "tenant=a"),
            ] {
                settings.assign(key, text).unwrap();
            }
            let exporter = Way::new(settings).unwrap().metric_exporter().unwrap();
            exporter.export(&ResourceMetrics::default()).await.unwrap();

            let (head, body) = came.recv().await.unwrap();
            let (service, encoding, sent) = if is_grpc {
                let service = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
                assert_eq!(body[0] == 1, compression == "gzip");
                (service, "grpc-encoding", &body[5..])
            } else {
                assert_eq!(head.headers[header::CONTENT_TYPE], "application/x-protobuf");
                ("/in/v1/metrics?k=v", "content-encoding", &body[..])
            };
            let is_gzip = |bytes: &[u8]| bytes.starts_with(&[0x1f, 0x8b]);
            let mut message = sent.to_vec();
            if compression == "gzip" {
                message.clear();
                GzDecoder::new(sent).read_to_end(&mut message).unwrap();
            }
            assert_eq!((is_gzip(sent), is_gzip(&message)), (compression == "gzip", false), "{protocol}");
            assert_eq!(head.uri.path_and_query().unwrap(), service);
            assert_eq!(head.headers["tenant"], "a");
            assert!(!head.headers.contains_key("api-key"), "{:?}", head.headers);
            let encoded = head.headers.get(encoding).map(HeaderValue::as_bytes);
            assert_eq!(encoded, (compression == "gzip").then_some(&b"gzip"[..]), "{protocol}");
        }
    }
}

/// The SDK reads the environment of its process, so this test runs in another process.
#[test]
fn what_the_sdk_finds_in_the_environment_goes_nowhere() {
    let mut other = Command::new(env::current_exe().unwrap());
    other.args(["--exact", "otlp::export::tests::requests_are_as_the_agent_was_told"]);
    other.env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret,content-type=text/plain");
    other.env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");
    let done = other.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn what_is_not_taken_is_reported_without_the_query() {
    // The port is bound but not listened on, so that no other process gets it.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let closed = silent.local_addr().unwrap().as_socket().unwrap();
    let mut settings = Settings::default();
    settings.assign("endpoint", &format!("http://{closed}/v1/metrics?token=secret")).unwrap();
    settings.assign("timeout", "100ms").unwrap();
    let exporter = Way::new(settings).unwrap().metric_exporter().unwrap();
    exporter.export(&ResourceMetrics::default()).await.unwrap_err();
    assert!(exporter.way.noted().unwrap().what.starts_with("cannot be reached"));
    assert_eq!(exporter.way.target.endpoint, format!("http://{closed}/v1/metrics"));
}
