//! Exporters for OpenTelemetry's SDK, for the agent's own metrics and traces. They send requests the same way
//! as the sink, so that protocol, headers, certificates and error logs are the same. Rationale:
//! docs/decisions/0017-own-telemetry.md.

use std::{
    error::Error,
    fmt,
    io::{self, Read as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use flate2::read::GzDecoder;
use http::{HeaderMap, Request, Response, StatusCode, header, response};
use hyper::body::Bytes;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::SpanData,
};
use tokio::{runtime::Handle, time::timeout};

use super::{
    Settings, Trouble, WORDS,
    answer::Answer,
    exchange::{Broken, Connection, Kind},
    target,
};
use crate::{
    About, causes,
    connection::{Target, Words},
};

const METRICS: Words = Words {
    what: "metrics by OTLP",
    no_path: "correct the path of the endpoint; that of a collector is /v1/metrics",
    no_service: "correct the endpoint, or give the collector a pipeline for metrics",
    ..WORDS
};
const TRACES: Words = Words {
    what: "traces by OTLP",
    no_path: "correct the path of the endpoint; that of a collector is /v1/traces",
    no_service: "correct the endpoint, or give the collector a pipeline for traces",
    ..WORDS
};

/// The destination of one signal.
#[derive(Debug)]
pub struct Way {
    target: Target,
    settings: Settings,
    headers: HeaderMap,
    /// The reason why the last export failed, because the SDK's exporters do not return it.
    trouble: Mutex<Option<Trouble>>,
}

/// An exporter that logs once when exports begin to fail, and once when they succeed again.
#[derive(Debug)]
pub struct Exported<E> {
    exporter: E,
    signal: &'static str,
    way: Arc<Way>,
    fails: AtomicBool,
}

/// The SDK's HTTP client. It sends requests like the sink, each over a new connection, because there is at
/// most one every few seconds. Of the SDK's request only the message is used: its headers and compression
/// come from the environment, and the agent's settings may differ.
#[derive(Debug)]
struct Poster {
    way: Arc<Way>,
    kind: Kind,
    /// The SDK exports on threads of its own, outside the runtime.
    runtime: Handle,
}

impl Way {
    /// Creates the exporter without connecting.
    ///
    /// # Errors
    /// There is no endpoint, a file for TLS cannot be used, or a header cannot be sent.
    pub fn new(settings: Settings) -> Result<Self, Trouble> {
        let target = target(&settings).ok_or_else(|| Trouble::bare("has no endpoint"))?;
        target.check()?;
        let headers = settings.headers.headers().map_err(|wrong| Trouble::bare(wrong.to_string()))?;
        Ok(Self { target, settings, headers, trouble: Mutex::default() })
    }

    /// The exporter for metrics. Call it within a tokio runtime, which makes the connections.
    ///
    /// # Errors
    /// OpenTelemetry's SDK rejects the settings.
    pub fn metric_exporter(mut self) -> Result<Exported<MetricExporter>, Trouble> {
        self.target.words = &METRICS;
        let way = Arc::new(self);
        let exporter = way.configured(Kind::Metrics, MetricExporter::builder().with_http()).build();
        way.exported("metrics", exporter)
    }

    /// The exporter for traces. Call it within a tokio runtime, which makes the connections.
    ///
    /// # Errors
    /// OpenTelemetry's SDK rejects the settings.
    pub fn span_exporter(mut self) -> Result<Exported<SpanExporter>, Trouble> {
        self.target.words = &TRACES;
        let way = Arc::new(self);
        let exporter = way.configured(Kind::Traces, SpanExporter::builder().with_http()).build();
        way.exported("traces", exporter)
    }

    fn exported<E>(
        self: Arc<Self>,
        signal: &'static str,
        exporter: Result<E, impl Error>,
    ) -> Result<Exported<E>, Trouble> {
        let exporter = exporter.map_err(|error| Trouble::bare(causes(&error)))?;
        Ok(Exported { exporter, signal, way: self, fails: AtomicBool::new(false) })
    }

    fn configured<B: WithExportConfig + WithHttpConfig>(self: &Arc<Self>, kind: Kind, builder: B) -> B {
        let client = Poster { way: Arc::clone(self), kind, runtime: Handle::current() };
        builder
            .with_http_client(client)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(format!("http://{}", self.target.authority))
            .with_timeout(self.settings.timeout.get())
    }

    async fn post(&self, kind: Kind, message: Bytes) -> Result<Answer, Trouble> {
        let mut connection = Connection::open(&self.target, &self.settings).await?;
        match connection.exchange(kind, &self.target, &self.settings, &self.headers, message).await {
            Ok(answer) => Ok(answer),
            Err(Broken(error)) => Err(self.target.diagnose(connection.link, error).await),
        }
    }

    fn note(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    fn noted(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (way, kind, within) = (Arc::clone(&self.way), self.kind, self.way.settings.timeout.get());
        let message = message(request)?;
        let posted =
            self.runtime.spawn(async move { timeout(within, way.post(kind, message)).await }).await?;
        let (trouble, response) = match posted.unwrap_or_else(|_| Err(Trouble::no_answer(within))) {
            Ok(Answer::Taken { rejected: 0, .. }) => (None, Response::builder()),
            Ok(Answer::Taken { warning, .. }) => (warning.map(Trouble::bare), refused()),
            Ok(Answer::Refused(why)) => (Some(why), refused()),
            Ok(Answer::Later { why, .. }) if why.about == About::Configuration => (Some(why), refused()),
            Ok(Answer::Later { why, after }) => (Some(why), later(after)),
            Err(why) => (Some(why), later(None)),
        };
        self.way.note(trouble);
        Ok(response.body(Bytes::new())?)
    }
}

/// A response that keeps the SDK from retrying.
fn refused() -> response::Builder {
    Response::builder().status(StatusCode::BAD_REQUEST)
}

/// A response after which the SDK may retry while there is time.
fn later(after: Option<Duration>) -> response::Builder {
    let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
    match after {
        Some(after) => response.header(header::RETRY_AFTER, after.as_secs()),
        None => response,
    }
}

/// The message of a request. The SDK compresses it if the environment says so.
fn message(request: Request<Bytes>) -> io::Result<Bytes> {
    let (head, body) = request.into_parts();
    if !head.headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(body);
    }
    let mut message = Vec::new();
    GzDecoder::new(&*body).read_to_end(&mut message)?;
    Ok(message.into())
}

impl<E> Exported<E> {
    /// Logs changes between success and failure, and between kinds of failure. An export after the agent's
    /// stop is no failure.
    fn tell(&self, done: OTelSdkResult) -> OTelSdkResult {
        let (signal, endpoint) = (self.signal, &self.way.target.endpoint);
        match &done {
            Ok(()) if self.fails.swap(false, Ordering::Relaxed) => {
                tracing::info!(signal, %endpoint, "the agent's own telemetry is taken again");
            }
            Ok(()) | Err(OTelSdkError::AlreadyShutdown) => {}
            Err(error) => {
                let noted = self.way.noted();
                let why: &dyn fmt::Display = match &noted {
                    Some(trouble) => trouble,
                    None => error,
                };
                if self.fails.swap(true, Ordering::Relaxed) {
                    tracing::debug!(signal, %endpoint, %why, "the agent's own telemetry is not taken");
                } else {
                    tracing::warn!(
                        signal, %endpoint, %why,
                        "the agent's own telemetry is not taken; nothing else depends on it, and it is tried again"
                    );
                }
            }
        }
        done
    }
}

impl PushMetricExporter for Exported<MetricExporter> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.tell(self.exporter.export(metrics).await)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Exported<SpanExporter> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.tell(self.exporter.export(batch).await)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &opentelemetry_sdk::Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
