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
    agent::open::{Opener, Sources},
    config::Config,
    enrich::{Identity, cgroups::in_host_pid_namespace},
    kernel::Kernel,
    metrics::Metrics,
    observer::{self, Anomaly, Built, Scope},
    pipeline::{self, Stage, fold::Fold},
    source::Lack,
};

/// How long a report may take; a spike waits for two seconds, to see whether it is a new level.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Anomalies that wait to be named; more than a busy host has in the time.
const QUEUE: usize = 4096;

/// Observers whose sources are open.
pub(super) struct Attached(Vec<(Built, Sources)>);

/// What they report.
#[derive(Debug)]
pub(super) struct Recorder {
    open: Vec<(&'static str, Sources)>,
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
    /// Opens the sources of those observers that the configuration names and that have faults, with the default thresholds.
    ///
    /// # Errors
    /// None of them can observe anything.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let kernel = Kernel::open(config.proc_root.as_path())?.with_cgroups(config.cgroup_root.as_path());
        let opener = Opener { config, kernel: Ok(&kernel), past: Arc::default() };
        let mut settings = observer::Settings::default();
        // The children are in no container.
        settings.container.scope = Scope::All;
        let has_faults =
            |name| observer::FAULTS.iter().any(|(observer, faults)| *observer == name && !faults.is_empty());
        let open: Vec<_> = observer::build(config.observers.names(), &settings)
            .into_iter()
            .filter(|built| has_faults(built.name))
            .map(|built| {
                let sources = opener.open(&built);
                (built, sources)
            })
            .collect();
        let refused = open.iter().find_map(|(_, sources)| sources.refused());
        match refused {
            Some(error) if !open.iter().any(|(_, sources)| sources.observes()) => {
                Err(anyhow::anyhow!("{error:#}"))
            }
            _ => Ok(Self(open)),
        }
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
        let mut open = Vec::new();
        for (built, mut sources) in attached.0 {
            let mut records = sources.records()?;
            open.push((built.name, sources));
            let stage = Stage::new(built.name, anomalies.clone(), &metrics);
            let mut fold = Fold::new(config.fold.window.as_ns(), config.fold.max_window.as_ns());
            let mut stopped = stopped.clone();
            stages.spawn(async move {
                let stop = async move {
                    // An error means that the recorder is gone: stopped as well.
                    let _ = stopped.wait_for(|stop| *stop).await;
                };
                let ended =
                    stage.run(&mut records, built.judge().as_mut(), &mut fold, &mut Vec::new(), stop).await;
                if let Err(error) = ended {
                    tracing::error!(observer = built.name, %error, "the ring cannot be waited for");
                }
            });
        }
        stages.spawn(report(queue, Identity::new(config), metrics, reported));
        Ok(Self { open, stages, stop, reports, seen: Vec::new() })
    }

    /// Why a part of an observer's sources cannot see anything, if that is so.
    pub(super) fn hindrance(&self, observer: &str, part: &str) -> Option<Outcome> {
        let skipped =
            |reason: String, remedy: &str| Some(Outcome::Skipped { reason, remedy: remedy.to_owned() });
        let Some((_, sources)) = self.open.iter().find(|(name, _)| *name == observer) else {
            return skipped(format!("the observer {observer} is not chosen"), "name it in --observer");
        };
        let parts = sources.parts();
        let Some(found) = parts.iter().find(|found| found.name == part) else {
            let why = sources.refused().map(|error| format!("{error:#}"));
            return Some(Outcome::Missed(why.unwrap_or_else(|| format!("{observer} has no {part}"))));
        };
        let absent = found.state.as_ref().err()?;
        match absent.lack {
            Lack::Unsupported | Lack::Missing => skipped(
                format!("{part} is {}", absent.why),
                "run a kernel that allows it; tapio doctor says what is lost",
            ),
            Lack::Failed => Some(Outcome::Missed(format!("{part} {}", absent.why))),
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
        self.open.iter().for_each(|(_, sources)| sources.close());
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
