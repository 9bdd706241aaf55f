//! Runs the observers as the agent does, and records their reports instead of sending them to sinks.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tapio_occurrence::Occurrence;
use tapio_service::{
    clock,
    setting::{Count, MS, Time},
};
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
    observer::{self, Anomaly, Built, Reads, Scope},
    pipeline::{self, Stage, fold::Fold},
    source::Lack,
};

/// Maximum time for a report. A spike takes two seconds, until it is clear whether it is a new level.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Capacity of the queues of anomalies and reports: more than a busy host has during a self-test.
const QUEUE: usize = 4096;

/// Observers with open sources.
pub(super) struct Attached(Vec<(Built, Sources)>);

/// Runs observers and records their reports.
#[derive(Debug)]
pub(super) struct Recorder {
    open: Vec<(&'static str, Sources)>,
    stages: JoinSet<()>,
    stop: watch::Sender<bool>,
    reports: mpsc::Receiver<Seen>,
    seen: Vec<Seen>,
}

/// A recorded occurrence.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) occurrence: Occurrence,
    /// Time from the event until it would have gone to the sinks.
    pub(super) after: Duration,
}

impl Attached {
    /// Opens the sources of the configured observers that have faults, with the default thresholds.
    ///
    /// # Errors
    /// No observer can observe anything.
    pub(super) fn new(config: &Config) -> anyhow::Result<Self> {
        let kernel = Kernel::open(config.proc_root.as_path())?.with_cgroups(config.cgroup_root.as_path());
        let opener = Opener { config, kernel: Ok(&kernel), past: Arc::default() };
        let mut settings = observer::Settings::default();
        // The self-test's children run outside of containers.
        settings.container.scope = Scope::All;
        // A report has to come soon.
        settings.storage.filesystems.interval = Time::of_ns(200 * MS);
        settings.health.interval = Time::of_ns(200 * MS);
        settings.health.second_slice = Time::of_ns(300 * MS);
        settings.health.min_samples = Count::of(2);
        settings.link.interval = Time::of_ns(500 * MS);
        let has_faults =
            |name| observer::FAULTS.iter().any(|(observer, faults)| *observer == name && !faults.is_empty());
        let open: Vec<_> = observer::build(config.observers.names(), &settings)
            .into_iter()
            .filter(|built| has_faults(built.name))
            .map(|mut built| {
                // Whatever it costs meanwhile.
                if let Some(Reads::Namespaces { share, .. }) = &mut built.reads {
                    *share = 1;
                }
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
    /// Starts the observers. Call it within the async runtime.
    ///
    /// # Errors
    /// A source cannot be polled.
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
                    // An error means that the recorder is gone, which also means stop.
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

    /// Returns the outcome for a fault that this part of the observer's sources cannot see; `None` if the part works.
    pub(super) fn obstacle(&self, observer: &str, part: &str) -> Option<Outcome> {
        let skipped =
            |reason: String, remedy: &str| Some(Outcome::Skipped { reason, remedy: remedy.to_owned() });
        let Some((_, sources)) = self.open.iter().find(|(name, _)| *name == observer) else {
            return skipped(format!("the observer {observer} is turned off"), "add it to --observer");
        };
        let parts = sources.parts();
        let Some(found) = parts.iter().find(|found| found.name == part) else {
            let why = sources.refused().map(|error| format!("{error:#}"));
            return Some(Outcome::Missed(why.unwrap_or_else(|| format!("{observer} has no {part}"))));
        };
        let absent = found.state.as_ref().err()?;
        match absent.lack {
            Lack::Unsupported | Lack::Missing | Lack::Inapplicable => skipped(
                format!("{part} is {}", absent.why),
                "run a kernel that allows it; tapio doctor says what is lost",
            ),
            Lack::Failed => Some(Outcome::Missed(format!("{part} {}", absent.why))),
        }
    }

    /// Waits for an occurrence. An earlier one counts, too.
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

    /// Stops the observers and returns all of their reports, including folded repeats.
    ///
    /// # Errors
    /// An observer crashed.
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

/// Whether this process sees the same pids as the kernel.
pub(super) fn sees_host_pids() -> bool {
    in_host_pid_namespace()
}

/// The second half of the pipeline.
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
