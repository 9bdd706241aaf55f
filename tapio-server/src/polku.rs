//! Role POLKU: receives facts from agents (`polku.v1.Gateway`), and acknowledges what is in the journal. Receives what
//! applications send by OTLP, too, and concludes signals from it.
//!
//! Hostile input is bounded: connections, streams, messages, batches, fields, memory. What each limit is, and what an
//! Ack means: docs/server.md.

mod accept;
mod agents;
mod batch;
mod check;
mod gateway;
pub mod otlp;
mod settings;
mod signal;
mod stream;
mod token;

use std::{net::SocketAddr, sync::Arc, time::Instant};

use http::HeaderMap;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tonic::Status;

pub use settings::Settings;
pub(crate) use signal::Sizes;

use self::{
    accept::{Listener, Serve},
    agents::Agents,
    gateway::Gateway,
    otlp::Otlp,
    token::Tokens,
};
use crate::{
    journal::Journal,
    metrics::Metrics,
    role::{Context, Started, State},
    route::{self, Routes},
    tls::Tls,
};

/// The origin of its facts, in metrics and in the ledger.
const ORIGIN: &str = "polku";

/// State that all streams share.
struct Shared {
    settings: Settings,
    address: SocketAddr,
    journal: Journal,
    metrics: Arc<Metrics>,
    agents: Agents,
    tokens: Option<Tokens>,
    is_tls: bool,
    /// Places for streams, for other calls and for connections, and bytes of memory for events.
    streams: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    memory_bytes: usize,
    /// The receiver for OpenTelemetry, if it is on.
    otlp: Option<Otlp>,
    started: Instant,
    stopped: watch::Receiver<bool>,
}

/// The role, with the sinks that follow the journal.
struct Running {
    shared: Arc<Shared>,
    routes: Routes,
}

/// Starts the role.
///
/// # Errors
/// The address cannot be bound, or a file for TLS or of tokens cannot be used.
pub(crate) fn start(context: &Context) -> anyhow::Result<Started> {
    let settings = context.config.polku.clone();
    let tls = settings.tls(&[b"h2"]).map(Tls::new).transpose()?;
    let tokens = settings.token_file.file().map(Tokens::new).transpose()?;
    if tokens.is_some() && tls.is_none() {
        tracing::warn!("polku.token_file without polku.cert: tokens can be read on the network");
    }
    let listener = Listener::bind(settings.listen.0, "polku.listen")?;
    let cluster = context.config.cluster.get().map(Into::into);
    let (otlp, receiver) = Otlp::bind(&context.config.otlp, &settings, cluster)?.unzip();
    let streams = settings.streams.get() as usize;
    // A request for memory has 32 bits.
    let memory_bytes =
        usize::try_from(settings.memory.get()).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        address: listener.address(),
        journal: context.journal.of(ORIGIN),
        metrics: Arc::clone(&context.metrics),
        agents: Agents::new(),
        tokens,
        is_tls: tls.is_some(),
        streams: Arc::new(Semaphore::new(streams)),
        calls: Arc::new(Semaphore::new(gateway::CALLS)),
        connections: accept::places(accept::most_connections(streams)),
        memory: Arc::new(Semaphore::new(memory_bytes)),
        memory_bytes,
        otlp,
        started: Instant::now(),
        stopped: context.stopped.clone(),
        settings,
    });
    shared.metrics.begin_gateway();
    let mut sinks = JoinSet::new();
    let routes = route::start(context, &mut sinks)?;
    tracing::info!(address = %shared.address, access = shared.access(), "POLKU listens");
    if let Some(otlp) = &shared.otlp {
        shared.metrics.begin_otlp();
        tracing::info!(addresses = %otlp.addresses(), access = shared.access(), "POLKU listens for OTLP");
    }
    let state = Arc::new(Running { shared: Arc::clone(&shared), routes });
    let run = async move {
        let serve = Serve {
            service: Gateway::server(&shared),
            calls: Arc::clone(&shared.calls),
            connections: Arc::clone(&shared.connections),
            http1: false,
            refuse: Status::into_http,
        };
        let receiving = async {
            if let Some(receiver) = receiver {
                receiver.serve(Arc::clone(&shared)).await;
            }
        };
        tokio::select! {
            _ = async { tokio::join!(listener.serve(Arc::clone(&shared), tls, serve), receiving) } => {}
            ended = failed(&mut sinks) => return Err(ended),
        }
        // Streams may outlive their connections: they wait for what they have received.
        let all = u32::try_from(streams).unwrap_or(u32::MAX);
        let _ = shared.streams.acquire_many(all).await;
        while sinks.join_next().await.is_some() {}
        Ok(())
    };
    Ok(Started { run: Box::pin(run), state })
}

impl Shared {
    /// Whether a call with these headers is admitted.
    fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        tokens.admit(headers).inspect_err(|_| self.metrics.turned_away("token"))
    }

    /// The size of received events that wait to be written.
    fn waiting_bytes(&self) -> u64 {
        self.memory_bytes.saturating_sub(self.memory.available_permits()) as u64
    }

    fn open_streams(&self) -> usize {
        (self.settings.streams.get() as usize).saturating_sub(self.streams.available_permits())
    }

    fn open_connections(&self) -> usize {
        let most = accept::most_connections(self.settings.streams.get() as usize);
        most.saturating_sub(self.connections.available_permits())
    }

    /// How clients prove who they are.
    const fn access(&self) -> &'static str {
        match (self.is_tls, self.settings.client_ca.0.is_some(), self.tokens.is_some()) {
            (false, _, false) => "plain, for everyone",
            (false, _, true) => "plain, with a token",
            (true, false, false) => "TLS, for everyone",
            (true, false, true) => "TLS, with a token",
            (true, true, false) => "mTLS",
            (true, true, true) => "mTLS, with a token",
        }
    }
}

/// The first error of a sink's task. They end only when the server stops.
async fn failed(sinks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    loop {
        match sinks.join_next().await {
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => return error,
            Some(Err(error)) => return anyhow::anyhow!("a sink crashed: {error}"),
            None => std::future::pending().await,
        }
    }
}

impl State for Running {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let Self { shared, routes } = self;
        json!({
            "listen": shared.address.to_string(),
            "access": shared.access(),
            "streams": shared.open_streams(),
            "connections": shared.open_connections(),
            "waiting_bytes": shared.waiting_bytes(),
            "agents": shared.agents.status(),
            "otlp": shared.otlp.as_ref().map(Otlp::addresses),
            "sinks": routes.status(),
        })
    }

    fn measure(&self) {
        let Self { shared, routes } = self;
        let (streams, connections) = (shared.open_streams(), shared.open_connections());
        shared.metrics.gateway(streams, connections, shared.waiting_bytes(), shared.agents.len());
        if let Some(sizes) = shared.otlp.as_ref().map(Otlp::sizes) {
            shared.metrics.otlp_sizes(&sizes);
        }
        routes.measure();
    }
}
