//! The receiver for OpenTelemetry: gRPC and HTTP.
//!
//! Spans, metrics and log records are counted, and become signals; none of them is kept. A success means that the signals that
//! they led to are in the journal or still in the current window, which SIGKILL loses. Log records that are occurrences of
//! agents become facts as they are: of them a success means that they are in the journal.

mod decode;
mod grpc;
mod http;
mod response;
mod settings;

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};
use serde_json::{Value, json};
use tapio_occurrence::{
    Occurrence,
    event::{event, v1::Event},
};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

pub use self::settings::Settings;
use self::{
    decode::{Form, Kind, Request, Unreadable, decode},
    response::Partial,
};
use super::{
    ORIGIN, Shared,
    accept::{Listener, Serve, places},
    check::check,
    signal::{self, Signals, Taken},
};
use crate::{journal::Outcome, tls::Tls};

/// Most bytes of a request, also after it is decompressed.
const BODY_BYTES: usize = 4 << 20;
/// Requests at once: each may have that many bytes in memory.
const CALLS: usize = 16;
/// Requests that are decoded at once: each may take [`decode::DECODED_BYTES`].
const DECODED: usize = 2;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// When a client may try again, in seconds.
const RETRY_AFTER: u64 = 5;
/// Connections at once.
const CONNECTIONS: usize = 512;
/// The longest window: the time of day may be set back.
const MAX_WINDOW_NS: u64 = 60_000_000_000;
/// Signals that wait for the journal.
const MAX_WAITING: usize = 4_096;

/// The state of the receiver.
pub(super) struct Otlp {
    signals: Mutex<Signals>,
    decoding: Semaphore,
    calls: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

/// The sockets, until they are served.
pub(super) struct Listeners {
    grpc: Option<(Listener, Option<Tls>)>,
    http: Option<(Listener, Option<Tls>)>,
}

/// Why a request is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    /// It never will be.
    Malformed(String),
    /// It never will be, as it is.
    TooLarge(String),
    /// It may be, later.
    Unwritten(String),
}

impl Otlp {
    /// Binds the addresses; `None` if there are none.
    ///
    /// # Errors
    /// An address cannot be bound, or a file for TLS cannot be used.
    pub(super) fn bind(
        settings: &Settings,
        polku: &super::Settings,
        cluster: Option<Arc<str>>,
    ) -> anyhow::Result<Option<(Self, Listeners)>> {
        if settings.listen_grpc.0.is_none() && settings.listen_http.0.is_none() {
            return Ok(None);
        }
        let tls = |alpn: &'static [&'static [u8]]| polku.tls(alpn).map(Tls::new).transpose();
        let grpc = settings
            .listen_grpc
            .0
            .map(|listen| anyhow::Ok((Listener::bind(listen.0, "otlp.listen_grpc")?, tls(&[b"h2"])?)));
        let http = settings.listen_http.0.map(|listen| {
            anyhow::Ok((Listener::bind(listen.0, "otlp.listen_http")?, tls(&[b"h2", b"http/1.1"])?))
        });
        let listeners = Listeners { grpc: grpc.transpose()?, http: http.transpose()? };
        let address =
            |listener: &Option<(Listener, _)>| listener.as_ref().map(|(listener, _)| listener.address());
        let otlp = Self {
            signals: Mutex::new(Signals::new(cluster, window_ns(settings), now_ns())),
            decoding: Semaphore::new(DECODED),
            calls: places(CALLS),
            connections: places(CONNECTIONS),
            grpc: address(&listeners.grpc),
            http: address(&listeners.http),
        };
        Ok(Some((otlp, listeners)))
    }

    fn signals(&self) -> MutexGuard<'_, Signals> {
        self.signals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The addresses, for the log and for `/status`.
    pub(super) fn addresses(&self) -> Value {
        json!({ "grpc": self.grpc.map(|at| at.to_string()), "http": self.http.map(|at| at.to_string()) })
    }

    /// How much is kept.
    pub(super) fn sizes(&self) -> signal::Sizes {
        self.signals().sizes()
    }
}

impl Listeners {
    /// Serves until the server stops, and ends the windows meanwhile.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        let Some(otlp) = &shared.otlp else { return };
        let of = |http1| (Arc::clone(&otlp.calls), Arc::clone(&otlp.connections), http1);
        let grpc = async {
            let Some((listener, tls)) = self.grpc else { return };
            let (calls, connections, http1) = of(false);
            let refuse = |status| grpc::again(status).into_http();
            let service = grpc::Service(Arc::clone(&shared));
            listener
                .serve(Arc::clone(&shared), tls, Serve { service, calls, connections, http1, refuse })
                .await;
        };
        let http = async {
            let Some((listener, tls)) = self.http else { return };
            let (calls, connections, http1) = of(true);
            let refuse = |status| http::refuse(&status);
            let service = http::Service(Arc::clone(&shared));
            listener
                .serve(Arc::clone(&shared), tls, Serve { service, calls, connections, http1, refuse })
                .await;
        };
        let (done, ended) = watch::channel(false);
        let serving = async {
            tokio::join!(grpc, http);
            // The last requests are in the last window.
            done.send_replace(true);
        };
        tokio::join!(serving, shared.end_windows(ended));
    }
}

impl Shared {
    /// Takes a request.
    async fn export(&self, kind: Kind, form: Form, body: &[u8]) -> Result<Partial, Failure> {
        let Some(otlp) = &self.otlp else { return Err(Failure::Unwritten("the receiver is off".to_owned())) };
        let stopping = |_| Failure::Unwritten("the server is stopping: send it again".to_owned());
        let place = otlp.decoding.acquire().await.map_err(stopping)?;
        let counted = tokio::task::block_in_place(|| count(otlp, kind, form, body));
        drop(place);
        let (mut taken, occurrences, mut whys) = counted.map_err(|unreadable| {
            self.metrics.otlp_unreadable();
            match unreadable {
                Unreadable::Malformed(what) => Failure::Malformed(what),
                Unreadable::TooLarge(what) => Failure::TooLarge(what),
            }
        })?;
        if !occurrences.is_empty() {
            self.write(&occurrences, &mut taken, &mut whys).await?;
        }
        self.metrics.otlp(kind.name(), taken.received, &taken.refused, &taken.unused);
        let rejected: u64 = taken.refused.values().sum();
        whys.extend(taken.refused.iter().map(|(reason, count)| format!("{count}: {}", why(reason))));
        Ok(Partial { rejected: i64::try_from(rejected).unwrap_or(i64::MAX), message: whys.join("; ") })
    }

    /// Writes occurrences to the journal.
    async fn write(
        &self,
        all: &[Occurrence],
        taken: &mut Taken,
        whys: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut events: Vec<Event> = all.iter().map(event).collect();
        events.retain(|event| match check(event) {
            Ok(()) => true,
            Err(refusal) => {
                self.metrics.refused(ORIGIN, refusal.reason, 1);
                *taken.refused.entry("occurrence").or_default() += 1;
                whys.truncate(MAX_WHYS);
                whys.push(refusal.of(&event.id).message);
                false
            }
        });
        self.agents.hear(&events);
        let unwritten = |why: crate::journal::Trouble| {
            Failure::Unwritten(format!("the journal cannot be written: {why}; send this request again"))
        };
        let outcomes = self.journal.append(&events).await.map_err(unwritten)?;
        let unfit = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_))).count();
        if unfit > 0 {
            *taken.refused.entry("occurrence").or_default() += unfit as u64;
        }
        Ok(())
    }

    /// Ends windows, and writes what they say, until everything is served.
    async fn end_windows(&self, mut ended: watch::Receiver<bool>) {
        let Some(otlp) = &self.otlp else { return };
        let mut waiting: VecDeque<Event> = VecDeque::new();
        loop {
            let due_ns = otlp.signals().due_ns().saturating_sub(now_ns()).min(MAX_WINDOW_NS);
            let is_last = tokio::select! {
                () = sleep(Duration::from_nanos(due_ns)) => false,
                // An error means that nothing is served any more.
                _ = ended.wait_for(|ended| *ended) => true,
            };
            match tokio::task::block_in_place(|| otlp.signals().close(now_ns())) {
                Ok(facts) => waiting.extend(facts.iter().map(event)),
                Err(error) => tracing::error!(%error, "otlp: a signal cannot be written"),
            }
            let too_many = waiting.len().saturating_sub(MAX_WAITING);
            if too_many > 0 {
                self.metrics.otlp_signals_dropped(too_many as u64);
                waiting.drain(..too_many);
            }
            if !waiting.is_empty() {
                match self.journal.append(waiting.make_contiguous()).await {
                    Ok(_) => waiting.clear(),
                    Err(error) => {
                        tracing::debug!(%error, signals = waiting.len(), "otlp: signals wait for the journal")
                    }
                }
            }
            if is_last {
                self.metrics.otlp_signals_dropped(waiting.len() as u64);
                return;
            }
        }
    }
}

/// Texts of single refusals in an answer.
const MAX_WHYS: usize = 4;

type Counted = (Taken, Vec<Occurrence>, Vec<String>);

fn count(otlp: &Otlp, kind: Kind, form: Form, body: &[u8]) -> Result<Counted, Unreadable> {
    let request = decode(kind, form, body)?;
    let (mut taken, mut occurrences, mut whys) = (Taken::default(), Vec::new(), Vec::new());
    let now_ns = now_ns();
    match &request {
        Request::Traces(request) => otlp.signals().spans(&request.resource_spans, now_ns, &mut taken),
        Request::Metrics(request) => otlp.signals().metrics(&request.resource_metrics, now_ns, &mut taken),
        Request::Logs(request) => {
            for part in &request.resource_logs {
                let others = read_occurrences(part, &mut occurrences, &mut taken, &mut whys);
                if !others.is_empty() {
                    otlp.signals().logs(part.resource.as_ref(), others.into_iter(), now_ns, &mut taken);
                }
            }
        }
    }
    Ok((taken, occurrences, whys))
}

/// Reads the records that are occurrences. Returns the others.
fn read_occurrences<'a>(
    part: &'a ResourceLogs,
    occurrences: &mut Vec<Occurrence>,
    taken: &mut Taken,
    whys: &mut Vec<String>,
) -> Vec<&'a LogRecord> {
    let resource = part.resource.as_ref().map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let mut others = Vec::new();
    for record in signal::records(part) {
        match tapio_delivery::otlp::occurrence(resource, record) {
            None => others.push(record),
            Some(Ok(occurrence)) => {
                taken.received += 1;
                occurrences.push(occurrence);
            }
            Some(Err(why)) => {
                taken.received += 1;
                *taken.refused.entry("occurrence").or_default() += 1;
                whys.truncate(MAX_WHYS);
                whys.push(why);
            }
        }
    }
    others
}

/// What a reason of refusal means, and what to do.
fn why(reason: &str) -> &'static str {
    match reason {
        "time" => "the time differs by more than 2 min from this server's: check the clock, or send sooner",
        "id" => "trace_id or span_id is not valid",
        "resource" => {
            "the resource has none of k8s.deployment.name and its like, k8s.pod.name, service.name: set service.name"
        }
        "name" => "a name has more than 253 bytes",
        "buckets" => "the buckets of a histogram are not valid, or more than 256",
        "occurrence" => "an occurrence of Tapio that cannot be taken",
        _ => "too many different ones are known already: see `Bounds` of OTLP in docs/server.md",
    }
}

impl Kind {
    /// What its parts are called.
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "points",
            Self::Logs => "records",
        }
    }
}

fn window_ns(settings: &Settings) -> u64 {
    u64::try_from(settings.window.get().as_nanos()).unwrap_or(MAX_WINDOW_NS)
}

/// The time of day.
fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// All reasons of refusals and of not using something, for metrics that begin with 0.
pub(crate) const REFUSED: [&str; 9] =
    ["buckets", "entities", "id", "name", "occurrence", "resource", "series", "streams", "time"];
pub(crate) const UNUSED: [&str; 4] = ["first", "form", "internal", "metric"];
pub(crate) const PARTS: [&str; 3] = ["spans", "points", "records"];

/// The parts by what became of them, for metrics.
pub(crate) type Reasons = BTreeMap<&'static str, u64>;
