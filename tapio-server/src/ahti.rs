//! AHTI: follows the journal, and explains what is in it.
//!
//! The engine is made anew from the journal at each start, so that nothing but the journal has to survive. Facts are taken
//! in the order in which they were accepted.

mod api;
mod auth;
mod export;
mod follow;
mod grpc;
mod inner;
mod mcp;
mod metrics;
mod pages;
mod past;
mod settings;

use std::{
    net::TcpListener,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tapio_ahti::{
    Engine, Limits, Rules,
    answer::Answer,
    incident::{Incident, Name},
};
use tapio_service::{clock, setting::Listen};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

pub use self::{api::paths, grpc::proto, settings::Settings};
use self::{
    api::{
        events::{Latest, MAX_STREAMS},
        serve,
    },
    auth::Auth,
    metrics::{Behind, Metrics},
};
use crate::{
    journal::Journal,
    notify::{self, Alerts, Ask, Targets},
    role::{self, Context, Started},
    tls::Tls,
};

/// The engine, shared by who feeds it and who asks it.
pub(crate) struct Ahti {
    engine: Mutex<Engine>,
    /// What it explains by, for another one.
    rules: Rules,
    /// One answer as of another time is made at once.
    past: Arc<Semaphore>,
    journal: Journal,
    /// The same, for what people say of answers.
    feedback: Journal,
    metrics: Metrics,
    /// The sequence number of the last fact that the engine took.
    taken: AtomicU64,
    /// When all facts had been taken that there were then, in nanoseconds of the clock since boot.
    caught_up_boot_ns: AtomicU64,
    /// Facts of the journal that are no occurrences, which the engine does not take.
    opaque: AtomicU64,
    /// Whether everything that was in the journal at the start has been taken.
    is_restored: AtomicBool,
    /// Who is told of incidents.
    targets: Targets,
    /// Alerts that came from an Alertmanager.
    alerts: Arc<Alerts>,
    /// What the streams of events say.
    latest: watch::Sender<Latest>,
    /// How many of them there may still be.
    streams: Arc<Semaphore>,
    /// Whether the server stops.
    stopped: watch::Receiver<bool>,
}

impl Ahti {
    /// The engine. Nobody waits for anything while it is locked.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All incidents, the newest first.
    fn incidents(&self) -> Vec<Incident> {
        tokio::task::block_in_place(|| self.engine().incidents().into_iter().cloned().collect())
    }

    /// Answers why an object fails; nothing is known while not all facts have been taken.
    fn ask(self: &Arc<Self>) -> Ask {
        let ahti = Arc::clone(self);
        Arc::new(move |of: &Name| match ahti.is_restored.load(Ordering::Relaxed) {
            true => ahti.engine().why(Some(&of.kind), of.namespace.as_deref(), &of.name),
            false => Answer::default(),
        })
    }

    fn behind(&self) -> Behind {
        let journal = self.journal.status();
        let taken = self.taken.load(Ordering::Relaxed);
        // Sequence numbers have gaps where a damaged file was replaced.
        let facts = journal.newest.saturating_sub(taken).min(journal.facts);
        let since_ns = clock::boot_ns().saturating_sub(self.caught_up_boot_ns.load(Ordering::Relaxed));
        let time = if facts == 0 { Duration::ZERO } else { Duration::from_nanos(since_ns) };
        Behind { facts, time }
    }
}

/// Starts the role.
///
/// # Errors
/// A rule file is wrong, the address of the API cannot be bound, its certificate cannot be used, or there is no cluster whose
/// users may ask.
pub(crate) fn start(context: &Context) -> anyhow::Result<Started> {
    let settings = &context.config.ahti;
    let rules = settings.rules()?;
    let (incidents, now) = watch::channel(None);
    let mut tellers = JoinSet::new();
    let targets = notify::start(context, &now, &mut tellers)?;
    let alerts = Arc::new(Alerts::open(context)?);
    let ahti = Arc::new(Ahti {
        engine: Mutex::new(Engine::new(rules.clone(), Limits::default())),
        rules,
        past: Arc::new(Semaphore::new(1)),
        journal: context.journal.clone(),
        feedback: context.journal.of("feedback"),
        metrics: context.metrics.of_role(Metrics::registered),
        taken: AtomicU64::new(0),
        caught_up_boot_ns: AtomicU64::new(clock::boot_ns()),
        opaque: AtomicU64::new(0),
        is_restored: AtomicBool::new(false),
        targets,
        alerts: Arc::clone(&alerts),
        latest: watch::Sender::default(),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        stopped: context.stopped.clone(),
    });
    let auth = Auth::of(settings)?;
    alerts.start(&ahti.ask(), &context.stopped, &mut tellers)?;
    if !tellers.is_empty() {
        let (watched, stopped) = (Arc::clone(&ahti), context.stopped.clone());
        let look = move || watched.is_restored.load(Ordering::Relaxed).then(|| watched.incidents());
        tellers.spawn(notify::watch(look, incidents, stopped));
    }
    let listener = listener(settings)?;
    let (followed, stopped) = (Arc::clone(&ahti), context.stopped.clone());
    let served = Arc::clone(&ahti);
    let cluster = context.config.cluster.get().unwrap_or_default().to_owned();
    let run = async move {
        let serving = listener.map(|(listener, tls)| {
            tokio::spawn(serve::serve(listener, tls, served, auth, cluster, stopped.clone()))
        });
        follow::follow(&followed, stopped).await?;
        // What is being told is told to its end, so that nothing is told again after a restart.
        while tellers.join_next().await.is_some() {}
        match serving {
            Some(serving) => serving.await.context("the API crashed")?,
            None => Ok(()),
        }
    };
    Ok(Started { run: Box::pin(run), state: ahti })
}

/// The socket of the API, and its certificate.
fn listener(settings: &Settings) -> anyhow::Result<Option<(TcpListener, Option<Tls>)>> {
    let Some(Listen(address)) = settings.api.0 else { return Ok(None) };
    let tls = settings.tls().map(Tls::new).transpose()?;
    let listener = serve::bind(address)?;
    let access = match (&tls, settings.auth) {
        (Some(_), settings::Auth::Kubernetes) => "TLS, with a token",
        (Some(_), settings::Auth::None) => "TLS, for everyone",
        (None, settings::Auth::Kubernetes) => "plain, with a token",
        (None, settings::Auth::None) => "plain, for everyone",
    };
    tracing::info!(%address, access, "AHTI listens");
    if tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "ahti.api without ahti.cert: tokens can be read on the network, unless a proxy before it ends TLS"
        );
    }
    Ok(Some((listener, tls)))
}

impl role::State for Ahti {
    /// While the engine takes what was in the journal at the start, agents can send; only answers have to wait.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let behind = self.behind();
        let (stock, ledger) = {
            let engine = self.engine();
            (engine.stock(), engine.ledger())
        };
        let incidents = stock.incidents.iter().map(
            |((status, certainty), count)| json!({ "status": status, "certainty": certainty, "count": count }),
        );
        json!({
            "restored": self.is_restored.load(Ordering::Relaxed),
            "taken": self.taken.load(Ordering::Relaxed),
            "behind": { "facts": behind.facts, "seconds": behind.time.as_secs() },
            "opaque": self.opaque.load(Ordering::Relaxed),
            "entities": stock.entities,
            "versions": stock.versions,
            "connections": stock.connections,
            "findings": stock.findings,
            "incidents": incidents.collect::<Value>(),
            "rules": stock.rules,
            "ledger": ledger,
            "notify": self.targets.status(),
        })
    }

    fn measure(&self) {
        let behind = self.behind();
        let (stock, ledger) = {
            let engine = self.engine();
            (engine.stock(), engine.ledger())
        };
        let opaque = self.opaque.load(Ordering::Relaxed);
        self.metrics.set(&stock, &ledger, opaque, behind, self.is_restored.load(Ordering::Relaxed));
    }
}
