//! The agent: builds the stages, supervises the tasks, and drains everything when it stops.
//!
//! It attaches the programs before it starts the async runtime, so that it can drop capabilities while there is only one
//! thread.

mod edges;
mod heartbeat;
pub(crate) mod open;
mod snapshots;
mod status;

use std::{
    future::pending,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::FutureExt as _;
use tapio_delivery::{
    Sinks, Trouble, otlp, polku,
    stdout::{StatusLine, Stdout},
    telemetry,
};
use tapio_kube::Access;
use tapio_service::{
    admin::{Admin, State as _},
    crash,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use self::{
    open::Opened,
    snapshots::Snapshots,
    status::{Observed, Shared},
};
use crate::{
    config::{Config, Output},
    enrich::{Identity, kubernetes::Kubernetes},
    metrics::Metrics,
    observer::{Built, Judge},
    pipeline::{self, Stage, fold::Fold},
    privileges,
    source::Records,
};

/// Capacity of the queue of anomalies that wait for names.
const ENRICH_QUEUE: usize = 4096;
/// How long a crashed observer waits before it restarts: from the first value, doubling up to the second.
const RESTART: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// After a run of this length, a crashed observer waits as after its first crash.
const RAN_WELL: Duration = Duration::from_secs(300);
/// Interval between updates of the terminal's status line.
const STATUS_LINE: Duration = Duration::from_secs(1);

/// Attaches the configured observers and runs until a signal stops it or its last sink has ended.
///
/// # Errors
/// Nothing can be observed, an address cannot be bound, or a required task failed. The error is one sentence with the
/// remedy.
pub fn run(config: Config) -> anyhow::Result<()> {
    let admin = config.listen.0.map(|listen| Admin::bind(listen.0)).transpose()?;
    let access = Access::find(config.kubernetes)?;
    let remote = Remote::new(&config, access.is_some())?;
    let (snapshots, snapshot) = Snapshots::open(&config)?;
    let opened = Opened::new(&config, snapshot)?;
    let left = privileges::drop_to_needed()?;
    tracing::debug!(capabilities = left.join(" "), "attached; the other capabilities are dropped");

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("threads cannot be started")?;
    let done = runtime.block_on(observe(config, admin, access, remote, snapshots, opened));
    // A stuck reader of standard output blocks a thread, but must not block the exit.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Runs the attached observers until the agent stops, then drains everything.
async fn observe(
    config: Config,
    admin: Option<Admin>,
    access: Option<Access>,
    Remote { polku, otlp, telemetry }: Remote,
    snapshots: Snapshots,
    Opened { running, refused, past }: Opened,
) -> anyhow::Result<()> {
    let mut stop_signals = [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let metrics = Arc::new(Metrics::default());
    let (status_line, status_lines) = watch::channel(StatusLine::default());
    let sinks = sinks(&config, polku, otlp, &metrics, status_lines);
    let (stop, stopped) = watch::channel(false);
    let (anomalies, queue) = mpsc::channel(ENRICH_QUEUE);

    let mut stages = JoinSet::new();
    let mut observed = Vec::new();
    let mut supervised = Vec::new();
    for (built, mut sources) in running {
        let records = sources.records()?;
        observed.push(Observed::new(built.name, sources));
        supervised.push((built, records));
    }
    observed.extend(refused.into_iter().map(|(name, error)| Observed::failed(name, &error)));
    let kubernetes = access.map(|access| Kubernetes::start(access, &config, &metrics));
    let health = kubernetes.as_ref().map(Kubernetes::health);
    let shared =
        Arc::new(Shared::new(&config, observed, Arc::clone(&metrics), sinks.clone(), health, snapshots));
    let of_edges = Identity::new(&config).with(kubernetes.clone());
    let identity = Identity::new(&config).with_past(past).with(kubernetes);
    let counted = Arc::clone(&shared);
    let telemetry = telemetry.start(&Metrics::described(), move || counted.metrics())?;

    for (at, (built, records)) in supervised.into_iter().enumerate() {
        let stage = Stage::new(built.name, anomalies.clone(), &metrics)
            .contributing_to(Arc::clone(&shared.snapshots.contributions));
        let fold = Fold::new(config.fold.window.as_ns(), config.fold.max_window.as_ns());
        let supervisor =
            Supervisor { stage, built, shared: Arc::clone(&shared), at, stopped: stopped.clone() };
        stages.spawn(supervisor.run(records, fold));
    }
    drop(anomalies);
    let (counted, to, contributions) =
        (Arc::clone(&metrics), sinks.clone(), Arc::clone(&shared.snapshots.contributions));
    // The agent cannot work without these tasks.
    let (fatal, mut fatal_errors) = mpsc::channel(2);
    let report = fatal.clone();
    let deliver = tokio::spawn(async move {
        let send = |occurrence| to.send(Arc::new(occurrence));
        let deliver = pipeline::deliver(queue, identity, &counted, &contributions, send);
        if let Err(panic) = AssertUnwindSafe(deliver).catch_unwind().await {
            let why = format!("the task that names occurrences crashed: {}", crash::said(panic.as_ref()));
            // It fails if the agent is stopping already.
            let _ = report.try_send(anyhow::anyhow!(why));
        }
    });
    if let Some(admin) = admin {
        let mut stopped = stopped.clone();
        let shutdown = async move {
            // An error means that the sender is gone, which also means stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let serve = admin.serve(Arc::clone(&shared), shutdown);
        tokio::spawn(async move {
            if let Err(error) = serve.await {
                let _ = fatal.try_send(error);
            }
        });
    }
    tokio::spawn(show_status(status_line, Arc::clone(&shared)));
    let beating = config.heartbeat.0.filter(|_| sinks.reach_programs()).map(|interval| {
        let (end, ended) = oneshot::channel::<()>();
        let stop = async move {
            // An error means that the other end is gone: ended as well.
            let _ = ended.await;
        };
        let (sender, shared) = (heartbeat::Sender::new(&config), Arc::clone(&shared));
        let run = heartbeat::run(move || shared.accounts(), sinks.clone(), sender, interval.get(), stop);
        (tokio::spawn(run), end)
    });
    let edges = config.edges.0.filter(|_| sinks.reach_programs()).map(|interval| {
        tokio::spawn(edges::run(Arc::clone(&shared), of_edges, sinks.clone(), interval.get()))
    });
    let snapshotting = tokio::spawn(Snapshots::run(Arc::clone(&shared)));
    shared.report();
    tracing::info!("ready");

    let mut failed = None;
    let [terminate, interrupt] = &mut stop_signals;
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM".to_owned(),
        _ = interrupt.recv() => "SIGINT".to_owned(),
        why = sinks.ended() => format!("no sink is left: {why}"),
        Some(error) = fatal_errors.recv() => {
            failed = Some(error);
            "a required task failed".to_owned()
        }
    };
    tracing::info!(why, "stopping");
    let hurried = second_signal(stop_signals);

    // Stop from the kernel outwards: no new events arrive while the pending ones are delivered.
    shared.close();
    stop.send_replace(true);
    snapshotting.abort();
    if let Some(edges) = edges {
        edges.abort();
    }
    while stages.join_next().await.is_some() {}
    // `fatal_errors` holds the error if it crashed.
    let _ = deliver.await;
    if let Some((beating, end)) = beating {
        // The last heartbeat has everything that was reported, and is queued before the sinks drain. A crash has already
        // been logged.
        drop(end);
        let _ = beating.await;
    }
    // Saving runs beside the drain: a hanging disk must not block delivery.
    let within = Duration::from_nanos(config.drain.as_ns());
    let saved = tokio::time::timeout(within, Snapshots::save(&shared));
    let impatient = hurried.clone();
    let saved = async move {
        tokio::select! {
            saved = saved => saved.is_ok(),
            () = is_true(impatient) => true,
        }
    };
    if let (false, _) = tokio::join!(saved, sinks.drain_until(within, is_true(hurried.clone()))) {
        tracing::warn!("the state snapshot could not be written in time: the disk of `state_dir` hangs");
    }
    tokio::select! {
        () = telemetry.end() => {}
        () = is_true(hurried) => {}
    }
    shared.log_ledger();
    failed.or_else(|| fatal_errors.try_recv().ok()).map_or(Ok(()), Err)
}

/// Returns a flag that becomes true with the next signal: a second signal means to stop without waiting.
fn second_signal([mut terminate, mut interrupt]: [Signal; 2]) -> watch::Receiver<bool> {
    let (hurry, hurried) = watch::channel(false);
    tokio::spawn(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::warn!(
            signal,
            "second signal: stopping without waiting for sinks; what is left is spooled, or dropped and counted"
        );
        hurry.send_replace(true);
        // Keeps the sender alive as long as there are receivers.
        hurry.closed().await;
    });
    hurried
}

/// Completes when the flag is true. Never completes if the sender is gone before.
async fn is_true(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        pending::<()>().await;
    }
}

/// Remote sinks and telemetry, not started yet. Their files are read before there are other threads.
struct Remote {
    polku: Option<polku::Polku>,
    otlp: Option<otlp::Otlp>,
    /// The agent's own metrics and traces.
    telemetry: telemetry::Plan,
}

/// Plans the export of the agent's own metrics and traces.
///
/// # Errors
/// A file for TLS cannot be used.
pub fn telemetry(config: &Config, in_kubernetes: bool) -> anyhow::Result<telemetry::Plan> {
    let node = config.node();
    let known = [
        ("service.name", Some("tapio")),
        ("service.version", Some(env!("CARGO_PKG_VERSION"))),
        ("service.instance.id", Some(&*node)),
        ("host.name", Some(&*node)),
        ("k8s.node.name", Some(&*node).filter(|_| in_kubernetes)),
        ("k8s.cluster.name", config.cluster.get()),
    ];
    telemetry::Plan::new(&config.telemetry, &config.otlp, &known)
}

impl Remote {
    fn new(config: &Config, in_kubernetes: bool) -> anyhow::Result<Self> {
        let of = |sink: &'static str| move |trouble: Trouble| anyhow::anyhow!("{sink}: {trouble}");
        let cluster = config.cluster.get().map(Into::into);
        Ok(Self {
            polku: polku::Polku::new(&config.polku, cluster, polku::Timings::default())
                .map_err(of("POLKU"))?,
            otlp: otlp::Otlp::new(&config.otlp, in_kubernetes).map_err(of("OTLP"))?,
            telemetry: telemetry(config, in_kubernetes)?,
        })
    }
}

/// Creates the configured sinks.
fn sinks(
    config: &Config,
    polku: Option<polku::Polku>,
    otlp: Option<otlp::Otlp>,
    metrics: &Arc<Metrics>,
    status_lines: watch::Receiver<StatusLine>,
) -> Sinks {
    let mut sinks = Sinks::new(Arc::clone(metrics.delivery()), config.queue.get() as usize);
    if let Some(cap) = config.spool.0 {
        sinks = sinks.spooling(config.state_dir.as_path(), cap.get());
    }
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    match config.output(terminal) {
        Output::Pretty => sinks.add(Stdout::pretty(status_lines)),
        Output::Json => sinks.add(Stdout::json()),
        Output::Auto | Output::None => {}
    }
    if let Some(polku) = polku {
        sinks.add(polku);
    }
    if let Some(otlp) = otlp {
        sinks.add(otlp);
    }
    sinks
}

/// Keeps one observer's stage running.
struct Supervisor {
    stage: Stage,
    built: Built,
    shared: Arc<Shared>,
    /// Index of the observer in [`Shared`].
    at: usize,
    stopped: watch::Receiver<bool>,
}

impl Supervisor {
    /// Runs the stage until the agent stops. A judge that panics is replaced by one without state. The ring, the
    /// programs and the other observers keep running.
    async fn run(self, mut records: Vec<Box<dyn Records>>, mut fold: Fold) {
        let mut pauses = Pauses::default();
        let mut is_first = true;
        loop {
            let mut judge = self.built.judge();
            // Restored only once: the restored state may have caused the crash.
            if mem::take(&mut is_first) {
                self.stage.restore(judge.as_mut());
            }
            let mut stopped = self.stopped.clone();
            let stop = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let (began, mut judged) = (Instant::now(), Vec::new());
            let stage = self.stage.run(&mut records, judge.as_mut(), &mut fold, &mut judged, stop);
            let why = match AssertUnwindSafe(stage).catch_unwind().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    tracing::error!(observer = self.built.name, %error, "the ring cannot be waited for");
                    return self.shared.set_failed(self.at, Some(error.to_string()));
                }
                Err(panic) => crash::said(panic.as_ref()),
            };
            let pause = pauses.after(began.elapsed());
            tracing::error!(observer = self.built.name, why, restart_in = ?pause, "the observer crashed");
            // The record that caused the crash is not judged again: it would cause another crash. Anomalies that were
            // judged or pending are only counted, since they may be wrong.
            let judged: u64 = judged.iter().map(|anomaly| anomaly.count).sum();
            let lost = self.stage.under_judgement() + judged + left_in(judge.as_mut());
            self.shared.metrics.dropped("record", "crash", lost);
            self.shared.set_failed(self.at, Some(why));
            let stopping =
                tokio::time::timeout(pause, self.stopped.clone().wait_for(|stop| *stop)).await.is_ok();
            self.shared.set_failed(self.at, None);
            self.shared.metrics.restarted(self.built.name);
            if stopping {
                tracing::debug!(observer = self.built.name, "runs once more, for what is left in its ring");
            }
        }
    }
}

/// Counts the anomalies that were pending in a crashed judge. Counting may panic again.
fn left_in(judge: &mut dyn Judge) -> u64 {
    let counted = catch_unwind(AssertUnwindSafe(|| judge.pending())).unwrap_or_default();
    let mut held = Vec::new();
    let _ = catch_unwind(AssertUnwindSafe(|| judge.tick(u64::MAX, &mut held)));
    counted.max(held.iter().map(|anomaly| anomaly.count).sum())
}

/// The back-off of an observer that crashes repeatedly.
struct Pauses {
    next: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: RESTART[0] }
    }
}

impl Pauses {
    /// Returns the pause after a crash, given how long the observer ran before it.
    fn after(&mut self, ran: Duration) -> Duration {
        let pause = if ran >= RAN_WELL { RESTART[0] } else { self.next };
        self.next = (pause * 2).min(RESTART[1]);
        pause
    }
}

/// Updates the terminal's status line until the agent ends.
async fn show_status(status_line: watch::Sender<StatusLine>, shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(STATUS_LINE);
    // Closed from the start if no sink shows it.
    while !status_line.is_closed() {
        tick.tick().await;
        status_line.send_replace(shared.status_line());
    }
}

#[cfg(test)]
mod tests;
