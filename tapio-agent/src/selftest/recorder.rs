//! The observers as the agent runs them, with all that they report kept here instead of sent to sinks.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tapio_occurrence::Occurrence;
use tapio_service::clock;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::Outcome;
use crate::{
    config::Config,
    enrich::{Identity, cgroups::in_host_pid_namespace},
    kernel::{Kernel, Loaded},
    metrics::Metrics,
    observer::{self, Anomaly, Built, Scope},
    pipeline::{self, Source, Stage, fold::Fold},
};

/// Anomalies that wait to be named; more than a busy host has in the time.
const QUEUE: usize = 4096;

/// Observers whose programs are in the kernel.
pub(super) struct Attached {
    loaded: Vec<(Built, Loaded)>,
    refused: Vec<(&'static str, anyhow::Error)>,
}

/// What they report.
#[derive(Debug)]
pub(super) struct Recorder {
    loaded: Vec<(&'static str, Loaded)>,
    refused: Vec<(&'static str, anyhow::Error)>,
    stages: JoinSet<()>,
    stop: watch::Sender<bool>,
    reports: mpsc::Receiver<Seen>,
    seen: Vec<Seen>,
}

/// An occurrence.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) occurrence: Occurrence,
    /// From when it happened to when it would have gone to the sinks.
    pub(super) after: Duration,
}

impl Attached {
    /// Attaches the observers that the configuration names, with the default thresholds.
    ///
    /// # Errors
    /// None of them can observe anything.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let kernel = Kernel::open(config.proc_root.as_path())?;
        let mut this = Self { loaded: Vec::new(), refused: Vec::new() };
        let mut settings = observer::Settings::default();
        // The children are in no container.
        settings.container.scope = Scope::All;
        for built in observer::build(config.observers.names(), &settings) {
            // What is read from files alone has no hook that could be broken.
            if built.hooks().is_empty() {
                continue;
            }
            match kernel.load(&built.object()?) {
                Ok(loaded) => this.loaded.push((built, loaded)),
                Err(error) => this.refused.push((built.name, error)),
            }
        }
        match this.refused.pop() {
            Some((_, error)) if this.loaded.is_empty() => return Err(error),
            refused => this.refused.extend(refused),
        }
        Ok(this)
    }
}

impl Recorder {
    /// Runs them. Within a runtime.
    ///
    /// # Errors
    /// A ring cannot be waited for.
    pub(super) fn start(config: &Config, attached: Attached) -> anyhow::Result<Self> {
        let metrics = Arc::new(Metrics::default());
        let (anomalies, queue) = mpsc::channel(QUEUE);
        let (reported, reports) = mpsc::channel(QUEUE);
        let (stop, stopped) = watch::channel(false);
        let mut stages = JoinSet::new();
        let mut loaded = Vec::new();
        for (built, mut programs) in attached.loaded {
            let mut source = Source { ring: Some(programs.events()?), reader: None };
            loaded.push((built.name, programs));
            let stage = Stage::new(built.name, anomalies.clone(), &metrics);
            let mut fold = Fold::new(config.fold.window.as_ns(), config.fold.max_window.as_ns());
            let mut stopped = stopped.clone();
            stages.spawn(async move {
                let stop = async move {
                    // An error means that the recorder is gone: stopped as well.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                let ended =
                    stage.run(&mut source, built.judge().as_mut(), &mut fold, &mut Vec::new(), stop).await;
                if let Err(error) = ended {
                    tracing::error!(observer = built.name, %error, "the ring cannot be waited for");
                }
            });
        }
        stages.spawn(report(queue, Identity::new(config), metrics, reported));
        Ok(Self { loaded, refused: attached.refused, stages, stop, reports, seen: Vec::new() })
    }

    /// Why a kernel program of an observer cannot report anything, if that is so.
    pub(super) fn hindrance(&self, observer: &str, program: &str) -> Option<Outcome> {
        let skipped =
            |reason: String, remedy: &str| Some(Outcome::Skipped { reason, remedy: remedy.to_owned() });
        if let Some((_, error)) = self.refused.iter().find(|(name, _)| *name == observer) {
            return Some(Outcome::Missed(format!("{error:#}")));
        }
        let Some((_, loaded)) = self.loaded.iter().find(|(name, _)| *name == observer) else {
            return skipped(format!("the observer {observer} is not chosen"), "name it in --observer");
        };
        let hook = loaded.hooks.iter().find(|hook| hook.hook.program == program)?;
        match hook.state.as_ref().err()? {
            error if error.is_unsupported() => skipped(
                format!("{program} is {error}"),
                "run a kernel that allows it; tapio doctor says what is lost",
            ),
            error => Some(Outcome::Missed(format!("{program} {error}"))),
        }
    }

    /// Waits for an occurrence; one that came before counts, too.
    pub(super) async fn wait(&mut self, within: Duration, is_it: impl Fn(&Seen) -> bool) -> Option<&Seen> {
        let deadline = Instant::now() + within;
        let mut at = 0;
        loop {
            if let Some(found) = self.seen[at..].iter().position(&is_it) {
                return self.seen.get(at + found);
            }
            at = self.seen.len();
            let next = timeout_at(deadline, self.reports.recv()).await.ok()??;
            self.seen.push(next);
        }
    }

    /// Stops them and gives all that they reported, with the repeats that they kept.
    ///
    /// # Errors
    /// One of them crashed.
    pub(super) async fn end(mut self) -> anyhow::Result<Vec<Seen>> {
        self.loaded.iter().for_each(|(_, loaded)| loaded.detach());
        self.stop.send_replace(true);
        while let Some(seen) = self.reports.recv().await {
            self.seen.push(seen);
        }
        while let Some(ended) = self.stages.join_next().await {
            ended.context("an observer crashed")?;
        }
        Ok(self.seen)
    }
}

/// Whether the pids that the kernel tells are those that this process sees.
pub(super) fn sees_host_pids() -> bool {
    in_host_pid_namespace()
}

/// The pipeline's second half.
async fn report(
    mut queue: mpsc::Receiver<Anomaly>,
    mut identity: Identity,
    metrics: Arc<Metrics>,
    reported: mpsc::Sender<Seen>,
) {
    while let Some(mut anomaly) = queue.recv().await {
        let happened_ns = anomaly.time_ns;
        identity.find_all(&mut anomaly).await;
        let Some(occurrence) = pipeline::name(anomaly, &identity, &metrics) else { continue };
        let after = Duration::from_nanos(clock::boot_ns().saturating_sub(happened_ns));
        if reported.send(Seen { occurrence, after }).await.is_err() {
            return;
        }
    }
}
