//! Exporters of OpenTelemetry's SDK, for the agent's own metrics and traces. They connect as the sink does, so that
//! certificates and what is told of trouble are the same. Why: docs/decisions/0017-own-telemetry.md.

use std::{
    error::Error,
    fmt, io, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::{
    error::{OTelSdkError, OTelSdkResult},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::SpanData,
};
use tokio::{runtime::Handle, time::timeout};
use tonic::{metadata::MetadataMap, transport};
use tower::service_fn;

use super::{
    Compression, Protocol, Settings, Trouble,
    exchange::{Broken, read},
    target,
};
use crate::sink::{
    causes,
    connection::{AGENT, Target},
};

/// Where a signal goes, and how.
#[derive(Debug)]
pub struct Way {
    target: Target,
    settings: Settings,
    headers: HeaderMap,
    /// Why there was no connection the last time; the exporters do not tell.
    trouble: Mutex<Option<Trouble>>,
}

/// An exporter that says once that nothing is taken, and once that it is again.
#[derive(Debug)]
pub struct Exported<E> {
    exporter: E,
    signal: &'static str,
    way: Arc<Way>,
    fails: AtomicBool,
}

/// Posts requests, each over a connection of its own: there is one in some seconds, or less.
#[derive(Debug)]
struct Poster {
    way: Arc<Way>,
    /// The SDK exports on threads of its own.
    runtime: Handle,
}

impl Way {
    /// Not connected yet.
    ///
    /// # Errors
    /// There is no endpoint, a file that TLS needs cannot be used, or a header cannot be sent.
    pub fn new(settings: Settings) -> Result<Self, Trouble> {
        let target = target(&settings).ok_or_else(|| Trouble::bare("has no endpoint"))?;
        target.check()?;
        let headers = settings.headers.headers().map_err(|wrong| Trouble::bare(wrong.to_string()))?;
        Ok(Self { target, settings, headers, trouble: Mutex::default() })
    }

    /// For metrics. Called within a tokio runtime, which makes the connections.
    ///
    /// # Errors
    /// What was set is not to OpenTelemetry's liking.
    pub fn metric_exporter(self) -> Result<Exported<MetricExporter>, Trouble> {
        let (way, new) = (Arc::new(self), MetricExporter::builder);
        let exporter = match way.settings.protocol {
            Protocol::Grpc => way.by_grpc(new().with_tonic())?.build(),
            Protocol::HttpProtobuf => way.by_http(new().with_http()).build(),
        };
        way.exported("metrics", exporter)
    }

    /// For traces. Called within a tokio runtime, which makes the connections.
    ///
    /// # Errors
    /// What was set is not to OpenTelemetry's liking.
    pub fn span_exporter(self) -> Result<Exported<SpanExporter>, Trouble> {
        let (way, new) = (Arc::new(self), SpanExporter::builder);
        let exporter = match way.settings.protocol {
            Protocol::Grpc => way.by_grpc(new().with_tonic())?.build(),
            Protocol::HttpProtobuf => way.by_http(new().with_http()).build(),
        };
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

    fn by_http<B: WithExportConfig + WithHttpConfig>(self: &Arc<Self>, builder: B) -> B {
        let client = Poster { way: Arc::clone(self), runtime: Handle::current() };
        let builder = builder
            .with_http_client(client)
            .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
            .with_endpoint(&self.target.endpoint)
            .with_timeout(self.settings.timeout.get());
        match self.settings.compression {
            Compression::None => builder,
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        }
    }

    fn by_grpc<B: WithExportConfig + WithTonicConfig>(self: &Arc<Self>, builder: B) -> Result<B, Trouble> {
        let headers = self.headers.clone();
        let channel = self.channel().map_err(|error| Trouble::bare(causes(&error)))?;
        let builder = builder
            .with_channel(channel)
            .with_interceptor(move |mut request: tonic::Request<()>| {
                let mut all = mem::take(request.metadata_mut()).into_headers();
                all.extend(headers.clone());
                *request.metadata_mut() = MetadataMap::from_headers(all);
                Ok(request)
            })
            .with_timeout(self.settings.timeout.get());
        Ok(match self.settings.compression {
            Compression::None => builder,
            Compression::Gzip => builder.with_compression(opentelemetry_otlp::Compression::Gzip),
        })
    }

    /// Connects when there is something to send, and anew when a connection has ended.
    fn channel(self: &Arc<Self>) -> Result<transport::Channel, transport::Error> {
        let way = Arc::clone(self);
        let connect = service_fn(move |_: Uri| {
            let way = Arc::clone(&way);
            async move {
                let stream = way.target.for_grpc().await;
                way.note(stream.as_ref().err());
                stream.map_err(|trouble| io::Error::other(trouble.to_string()))
            }
        });
        // TLS is in the stream: to the channel it is none.
        let endpoint = transport::Endpoint::from_shared(format!("http://{}", self.target.authority))?;
        let within = self.settings.timeout.get();
        let endpoint = endpoint.user_agent(AGENT)?.timeout(within).connect_timeout(within);
        Ok(endpoint.connect_with_connector_lazy(connect))
    }

    async fn post(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Trouble> {
        let (mut sender, link) = self.target.http1().await?;
        let (mut head, body) = request.into_parts();
        let bare = |error: &dyn Error| Trouble::bare(causes(error));
        head.uri = self.target.path.parse().map_err(|error: http::uri::InvalidUri| bare(&error))?;
        let host = HeaderValue::from_str(&self.target.authority).map_err(|error| bare(&error))?;
        head.headers.insert(header::HOST, host);
        head.headers.insert(header::USER_AGENT, HeaderValue::from_static(AGENT));
        head.headers.extend(self.headers.clone());
        match read(&mut sender, Request::from_parts(head, Full::new(body))).await {
            Ok((head, body)) => Ok(Response::from_parts(head, body)),
            Err(Broken(error)) => Err(self.target.diagnose(link, error).await),
        }
    }

    fn note(&self, trouble: Option<&Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble.cloned();
    }

    fn noted(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[tonic::async_trait]
impl HttpClient for Poster {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (way, within) = (Arc::clone(&self.way), self.way.settings.timeout.get());
        let posted = self.runtime.spawn(async move { timeout(within, way.post(request)).await }).await?;
        let posted = posted.unwrap_or_else(|_| Err(Trouble::no_answer(within)));
        self.way.note(posted.as_ref().err());
        posted.map_err(|trouble| trouble.to_string().into())
    }
}

impl<E> Exported<E> {
    /// Not twice in a row of the same kind. That the agent has stopped to export is no failure.
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
