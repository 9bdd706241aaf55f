//! OTLP: sends occurrences as logs to an OpenTelemetry Collector or another OTLP receiver, by gRPC or as
//! protobuf over HTTP, at least once.
//!
//! A delivery is one request of at most [`REQUEST_BYTES`]. Records that the receiver refuses for good are
//! counted as rejected and not sent again. After a temporary failure they are, when the receiver asks for it,
//! or else after the queue's back-off. A connection is made when one is needed, and then reused.

mod answer;
mod attributes;
mod endpoint;
mod exchange;
#[cfg(feature = "telemetry")]
mod export;
mod pairs;
mod read;
mod record;
mod request;
mod resource;
mod settings;
mod signals;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use hyper::body::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message as _;
use tapio_occurrence::Occurrence;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::field::display;

use super::{
    About, Batching, Destination, Failure, Receipt, Trouble, Verdict,
    connection::{Files, Target, Words},
    sizing::{Sent, Sizing},
};
use answer::Answer;
use exchange::{Broken, Connection, Kind};
use resource::ResourceContext;

pub use endpoint::Endpoint;
#[cfg(feature = "telemetry")]
pub use export::{Exported, Way};
pub use pairs::Pairs;
pub use read::occurrence;
pub use request::REQUEST_BYTES;
pub use settings::{Compression, PREFIX, Protocol, Settings, VARIABLES, Variable};
pub use signals::{Enabled, OWN_VARIABLES, Signal, Telemetry};
pub use tapio_service::setting::Switch;

/// The most occurrences per request, as in OpenTelemetry's own exporters.
const REQUEST_RECORDS: usize = 512;
/// How long an occurrence waits for a fuller batch.
const AGE: Duration = Duration::from_millis(100);

const WORDS: Words = Words {
    what: "logs by OTLP",
    endpoint: "--otlp=URL, key `otlp.endpoint`",
    authorities: "key `otlp.certificate`, or OTEL_EXPORTER_OTLP_CERTIFICATE",
    ca: "otlp.certificate",
    certificate: "otlp.client_certificate",
    key: "otlp.client_key",
    http1_only: "set the protocol to http/protobuf (key `otlp.protocol`), take the port of gRPC (usually 4317), or let the \
                 proxy pass HTTP/2",
    http2_only: "set the protocol to grpc (key `otlp.protocol`), or take the port of http/protobuf (usually 4318)",
    no_access: "correct the headers: key `otlp.headers`, or OTEL_EXPORTER_OTLP_HEADERS",
    no_path: "correct the path of the endpoint; that of a collector is /v1/logs",
    no_service: "correct the endpoint, or give the collector a pipeline for logs",
    too_large: "let it, and proxies before it, take requests of 1 MiB",
};

/// An OTLP receiver as a destination.
#[derive(Debug)]
pub struct Otlp {
    settings: Settings,
    target: Target,
    headers: HeaderMap,
    resource_context: ResourceContext,
    connection: Option<Connection>,
    sizing: Sizing,
    /// When the receiver accepts the next request.
    not_before: Option<Instant>,
    /// The last warning logged.
    said: Option<String>,
}

impl Otlp {
    /// Creates the destination without connecting; `None` if no endpoint is set. `in_kubernetes`: the node's
    /// name is that of a Kubernetes Node.
    ///
    /// # Errors
    /// A file for TLS cannot be used, or a header cannot be sent.
    pub fn new(settings: &Settings, in_kubernetes: bool) -> Result<Option<Self>, Trouble> {
        let Some(target) = target(settings) else { return Ok(None) };
        target.check()?;
        Ok(Some(Self {
            headers: settings.headers.headers().map_err(|wrong| Trouble::bare(wrong.to_string()))?,
            resource_context: ResourceContext::new(settings, in_kubernetes),
            settings: settings.clone(),
            target,
            connection: None,
            sizing: Sizing::new(REQUEST_RECORDS, REQUEST_BYTES),
            not_before: None,
            said: None,
        }))
    }

    /// Sends an empty request, which shows whether the receiver would accept data.
    ///
    /// # Errors
    /// The receiver cannot be reached in time, or refuses.
    pub async fn ask(mut self, within: Duration) -> Result<(), Trouble> {
        let nothing = ExportLogsServiceRequest::default();
        match timeout(within, self.exchange(&nothing)).await.map_err(|_| Trouble::no_answer(within))?? {
            Answer::Taken { .. } => Ok(()),
            Answer::Later { why, .. } | Answer::Refused(why) => Err(why),
        }
    }

    /// Sends a request, over a new connection unless there is a working one. A reused connection may close
    /// just as it is used; then the request is sent once more.
    async fn exchange(&mut self, request: &ExportLogsServiceRequest) -> Result<Answer, Trouble> {
        let mut kept = self.connection.take().filter(|kept| !kept.is_closed());
        let encoded = Bytes::from(request.encode_to_vec());
        loop {
            let is_kept = kept.is_some();
            let mut connection = match kept.take() {
                Some(kept) => kept,
                None => Connection::open(&self.target, &self.settings).await?,
            };
            let (target, settings, headers) = (&self.target, &self.settings, &self.headers);
            let sent = connection.exchange(Kind::Logs, target, settings, headers, encoded.clone()).await;
            match sent {
                Ok(answer) => {
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                Err(Broken(_)) if is_kept => {}
                Err(Broken(error)) => {
                    return Err(self.target.diagnose(connection.link, error).await);
                }
            }
        }
    }

    /// Logs a warning, but not the same one twice in a row. `one` is the occurrence that it is about, if only
    /// one.
    fn complain(&mut self, what: String, rejected: usize, one: Option<&Occurrence>) {
        let endpoint = self.target.endpoint.as_str();
        let (id, kind) = (one.map(|one| display(one.id)), one.map(|one| &*one.kind));
        let outcome =
            if rejected > 0 { "occurrences refused for good" } else { "occurrences taken with a warning" };
        if self.said.as_ref() == Some(&what) {
            tracing::debug!(sink = Self::NAME, endpoint, rejected, id, kind, what, "{outcome}");
        } else {
            tracing::warn!(
                sink = Self::NAME,
                endpoint,
                rejected,
                id,
                kind,
                what,
                "{outcome}; more of the same are logged at debug level"
            );
            self.said = Some(what);
        }
    }

    /// A failure after which the batch is retained.
    fn retry(&self, why: Trouble) -> Failure {
        let why = why.of(&self.target.endpoint);
        match why.about {
            About::Configuration => Failure::Hold(why),
            About::Passing | About::Content | About::Size => Failure::Retry(why.to_string()),
        }
    }
}

impl Destination for Otlp {
    const NAME: &'static str = "otlp";

    fn batching(&self) -> Batching {
        Batching { count: REQUEST_RECORDS, age: AGE }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
            self.not_before = None;
        }
        if self.connection.as_ref().is_some_and(|kept| !kept.is_closed()) {
            return Ok(());
        }
        let opened = Connection::open(&self.target, &self.settings).await;
        self.connection = Some(opened.map_err(|why| self.retry(why))?);
        Ok(())
    }

    async fn deliver(&mut self, batch: &[Arc<Occurrence>]) -> Result<Receipt, Failure> {
        let Some(first) = batch.first() else { return Ok(Receipt::default()) };
        let event_name = self.settings.event_name == Switch::True;
        let within = self.settings.timeout.get();
        loop {
            let most = batch.len().min(self.sizing.count());
            let (request, count) =
                request::pack(&batch[..most], &self.resource_context, event_name, self.sizing.bytes());
            if count == 0 {
                self.complain("an occurrence is larger than a request may be".to_owned(), 1, Some(first));
                return Ok(Receipt { verdicts: vec![Verdict::Refused], slow: false });
            }
            if let Some(pause) = self.sizing.pause() {
                sleep(pause).await;
            }
            let answer = match timeout(within, self.exchange(&request)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(why)) => return Err(self.retry(why)),
                Err(_) => return Err(self.retry(Trouble::no_answer(within))),
            };
            let rejected = match answer {
                Answer::Later { why, after } => {
                    self.not_before = after.map(|after| Instant::now() + after);
                    return Err(self.retry(why));
                }
                Answer::Refused(why) => {
                    let sent = Sent { messages: 1, count, bytes: request.encoded_len() };
                    if !self.sizing.refused(why.about, sent) {
                        tracing::debug!(sink = Self::NAME, count, %why, "refused; less is sent at once");
                        continue;
                    }
                    self.complain(why.to_string(), count, Some(first));
                    count
                }
                Answer::Taken { rejected, warning } => {
                    self.sizing.taken(count);
                    let rejected = rejected.min(count);
                    if let Some(warning) = warning {
                        self.complain(warning, rejected, None);
                    }
                    rejected
                }
            };
            // The receiver does not say which ones it rejected, so only the counts are right.
            let mut verdicts = vec![Verdict::Taken; count - rejected];
            verdicts.resize(count, Verdict::Refused);
            return Ok(Receipt { verdicts, slow: false });
        }
    }
}

/// The connection target; `None` if the sink is off.
fn target(settings: &Settings) -> Option<Target> {
    let endpoint = settings.endpoint.0.as_ref()?;
    let tls = endpoint.is_tls().unwrap_or(settings.insecure == Switch::False);
    let own = settings.client_certificate.file().zip(settings.client_key.file());
    Some(Target {
        endpoint: endpoint.to_string(),
        host: endpoint.host().to_owned(),
        port: endpoint.port(tls),
        authority: endpoint.authority(),
        path: endpoint.path().to_owned(),
        tls: tls.then(|| Files { authorities: settings.certificate.file(), own }),
        // Headers are set as such.
        token: None,
        within: settings.timeout.get(),
        keep_alive: None,
        words: &WORDS,
    })
}

#[cfg(test)]
mod tests;
