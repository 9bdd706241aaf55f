//! The agent's own state: `/livez`, `/readyz`, `/status`, `/metrics`, and the log's last line.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use tapio_common::Counts;
use tapio_delivery::{Sinks, stdout::StatusLine};
use tapio_service::admin;

use super::{
    heartbeat::{self, Accounts},
    open::Sources,
    snapshots::Snapshots,
};
use crate::{
    config::Config,
    enrich::kubernetes::Health,
    metrics::{AnomalyLedger, Metrics},
    snapshot::Writer,
    source::{Absent, Lack, Source},
};

/// State that the agent's tasks share.
pub(super) struct Shared {
    started: Instant,
    node: Arc<str>,
    observed: Vec<Observed>,
    pub(super) metrics: Arc<Metrics>,
    sinks: Sinks,
    kubernetes: Option<Arc<Health>>,
    pub(super) snapshots: Snapshots,
}

/// One observer with its state.
pub(super) struct Observed {
    name: &'static str,
    /// Empty if the observer could not be started.
    sources: Sources,
    /// Why it does not run, if it does not. Otherwise its state is that of its sources.
    failed: Mutex<Option<String>>,
}

/// The state of an observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Every part works.
    Running,
    /// Every part that this machine supports works. Names the unsupported parts, with the reasons.
    RunningWithout(String),
    /// Some parts do not work that should.
    Degraded(String),
    /// This machine supports none of its parts.
    Unsupported(String),
    /// This machine has nothing that it could observe. Its label is that of `Unsupported`.
    Inapplicable(String),
    /// It should work, but does not.
    Failed(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::RunningWithout(what) => write!(f, "running(without {what})"),
            Self::Degraded(what) => write!(f, "degraded({what})"),
            Self::Unsupported(why) | Self::Inapplicable(why) => write!(f, "unsupported({why})"),
            Self::Failed(why) => write!(f, "failed({why})"),
        }
    }
}

impl State {
    const LABELS: [&str; 4] = ["running", "degraded", "unsupported", "failed"];

    /// The reason for a state other than `running`, or for parts that this machine lacks.
    fn missing(&self) -> Option<&str> {
        match self {
            Self::Running => None,
            Self::RunningWithout(what) | Self::Degraded(what) => Some(what),
            Self::Unsupported(why) | Self::Inapplicable(why) | Self::Failed(why) => Some(why),
        }
    }

    /// Its label, one of [`Self::LABELS`].
    const fn label(&self) -> &'static str {
        match self {
            Self::Running | Self::RunningWithout(_) => "running",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) | Self::Inapplicable(_) => "unsupported",
            Self::Failed(_) => "failed",
        }
    }

    /// Derives the state from the parts of the sources.
    fn of(sources: &Sources) -> Self {
        // Ignores parts whose absence only delays occurrences.
        let parts: Vec<_> = sources.parts().into_iter().filter(|part| !part.gives.is_empty()).collect();
        let absent: Vec<_> =
            parts.iter().filter_map(|part| Some((part.name, part.state.as_ref().err()?))).collect();
        let lacks = |lack: Lack| absent.iter().filter(|(_, absent)| absent.lack == lack).count();
        let problems = absent.iter().map(|(name, Absent { why, .. })| format!("{name}: {why}"));
        let degraded = sources.iter().filter_map(|source| source.degraded().map(str::to_owned));
        let refused = sources.refused().map(|error| format!("{error:#}"));
        let problems: Vec<String> = problems.chain(degraded).chain(refused).collect();
        let what = problems.join("; ");
        let all = absent.len() == parts.len();
        match problems.len() {
            0 => Self::Running,
            _ if all && lacks(Lack::Failed) > 0 => Self::Failed(what),
            count if all && count == lacks(Lack::Inapplicable) => Self::Inapplicable(what),
            _ if all => Self::Unsupported(what),
            count if count == lacks(Lack::Unsupported) => Self::RunningWithout(what),
            _ => Self::Degraded(what),
        }
    }
}

impl Observed {
    /// An observer that runs.
    pub(super) fn new(name: &'static str, sources: Sources) -> Self {
        Self { name, sources, failed: Mutex::default() }
    }

    /// An observer whose sources could not be opened.
    pub(super) fn failed(name: &'static str, error: &anyhow::Error) -> Self {
        Self { name, sources: Sources::default(), failed: Mutex::new(Some(format!("{error:#}"))) }
    }

    fn state(&self) -> State {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.map_or_else(|| State::of(&self.sources), State::Failed)
    }

    /// The counts of each program; `None` if they cannot be read.
    fn counts(&self) -> Option<Vec<(&'static str, Counts)>> {
        self.sources
            .counts()
            .inspect_err(|error| tracing::warn!(observer = self.name, %error, "the counts cannot be read"))
            .ok()
    }

    fn total(&self) -> Option<Counts> {
        let mut total = Counts::default();
        self.counts()?.iter().for_each(|(_, counts)| total.add(counts));
        Some(total)
    }
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        observed: Vec<Observed>,
        metrics: Arc<Metrics>,
        sinks: Sinks,
        kubernetes: Option<Arc<Health>>,
        snapshots: Snapshots,
    ) -> Self {
        let observers: Vec<_> = observed.iter().map(|observed| observed.name).collect();
        let names: Vec<_> = sinks.status().iter().map(|status| status.sink).collect();
        metrics.begin(&observers, &names, kubernetes.is_some());
        Self { started: Instant::now(), node: config.node(), observed, metrics, sinks, kubernetes, snapshots }
    }

    /// Sets why an observer does not run; `None` if it runs again.
    pub(super) fn set_failed(&self, at: usize, why: Option<String>) {
        if let Some(observed) = self.observed.get(at) {
            *observed.failed.lock().unwrap_or_else(PoisonError::into_inner) = why;
        }
    }

    /// Logs the state of each observer at the start.
    pub(super) fn report(&self) {
        for observed in &self.observed {
            match observed.state() {
                state @ (State::Running | State::RunningWithout(_) | State::Inapplicable(_)) => {
                    tracing::info!(observer = observed.name, "{state}");
                }
                state => tracing::warn!(observer = observed.name, "{state}"),
            }
        }
    }

    /// Stops all sources: detaches the programs.
    pub(super) fn close(&self) {
        self.observed.iter().for_each(|observed| observed.sources.close());
    }

    /// The sources of all observers.
    pub(super) fn sources(&self) -> impl Iterator<Item = &dyn Source> {
        self.observed.iter().flat_map(|observed| observed.sources.iter())
    }

    /// Writes the learned state of the kernel programs, and counts the entries.
    pub(super) fn snapshot(&self, to: &mut Writer<impl io::Write>) -> anyhow::Result<()> {
        for Observed { name, sources, .. } in &self.observed {
            for source in sources.iter() {
                for (map, entries) in source.snapshot(&mut |map, piece| to.put(name, map, piece))? {
                    self.metrics.map_entries(name, map, entries as u64);
                }
            }
        }
        Ok(())
    }

    /// Logs the final ledger.
    pub(super) fn log_ledger(&self) {
        tracing::info!(ledger = %self.ledger(), "stopped");
    }

    /// The accounts of this moment.
    pub(super) fn accounts(&self) -> Accounts {
        let observers: Vec<heartbeat::Observed> = self
            .observed
            .iter()
            .map(|observed| {
                let state = observed.state();
                let missing = state.missing().map(str::to_owned);
                let (state, counts) = (state.label(), observed.total());
                heartbeat::Observed { name: observed.name, state, missing, counts }
            })
            .collect();
        let (anomalies, dropped) = (self.metrics.anomaly_ledger(), self.metrics.losses());
        Accounts { observers, anomalies, dropped, sinks: self.sinks.status() }
    }

    pub(super) fn status_line(&self) -> StatusLine {
        let mut total = Counts::default();
        self.observed.iter().filter_map(Observed::total).for_each(|counts| total.add(&counts));
        StatusLine { seen: total.seen, keys: total.keys, kept: total.emitted, sent: self.sinks.sent() }
    }

    /// The ledger: readings per observer and program, anomalies, and occurrences per sink, each by result.
    fn ledger(&self) -> Value {
        let observers: serde_json::Map<_, _> = self
            .observed
            .iter()
            .map(|observed| {
                let mut programs: serde_json::Map<_, _> = observed
                    .counts()
                    .into_iter()
                    .flatten()
                    .map(|(name, c)| (name.to_owned(), counts(&c)))
                    .collect();
                for (name, missed) in observed.sources.iter().flat_map(Source::missed) {
                    programs.entry(name).and_modify(|counts| counts["missed"] = missed.into());
                }
                (observed.name.to_owned(), Value::Object(programs))
            })
            .collect();
        let AnomalyLedger { judged, reported, expected, dropped, out_of_scope, waiting } =
            self.metrics.anomaly_ledger();
        let dropped: BTreeMap<_, _> = dropped.into_iter().filter(|(_, count)| *count > 0).collect();
        let anomalies = json!({
            "judged": judged,
            "reported": reported,
            "expected": expected,
            "dropped": dropped,
            "out_of_scope": out_of_scope,
            "waiting": waiting,
        });
        json!({ "programs": observers, "anomalies": anomalies, "sinks": self.sinks.status() })
    }

    /// Copies the kernel's counts, and the states of observers, sinks and Kubernetes, into the metrics.
    fn collect(&self) {
        if let Some(health) = &self.kubernetes {
            self.metrics.kubernetes_state(&Health::LABELS, health.label());
        }
        let totals: Vec<_> = self.observed.iter().map(|observed| (observed.name, observed.total())).collect();
        // If counts cannot be read, the metric keeps its value: a counter never decreases.
        for (name, total) in &totals {
            total.iter().for_each(|total| self.metrics.readings(name, total));
        }
        if let Some(failed) = totals.iter().map(|(_, total)| Some(total.as_ref()?.failed)).sum() {
            self.metrics.ring_full(failed);
        }
        self.metrics.process();
        for observed in &self.observed {
            self.metrics.observer_state(observed.name, &State::LABELS, observed.state().label());
            for source in observed.sources.iter() {
                for (program, time) in source.run_times() {
                    self.metrics.program(observed.name, program, time.runs, time.total);
                }
                for (program, missed) in source.missed() {
                    self.metrics.program_missed(observed.name, program, missed);
                }
            }
        }
        self.sinks.measure();
    }
}

impl admin::State for Shared {
    fn ready(&self) -> Result<(), String> {
        let failed: Vec<_> = self
            .observed
            .iter()
            .filter_map(|o| match o.state() {
                State::Failed(why) => Some(format!("{}: {why}", o.name)),
                _ => None,
            })
            .collect();
        if !failed.is_empty() && failed.len() == self.observed.len() {
            return Err(format!("no observer runs: {}", failed.join("; ")));
        }
        self.kubernetes.as_ref().map_or(Ok(()), |kubernetes| kubernetes.synced_once())
    }

    fn alive(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let observers: serde_json::Map<_, _> = self
            .observed
            .iter()
            .map(|observed| {
                let mut status = json!({ "state": observed.state().to_string() });
                for source in observed.sources.iter() {
                    let parts = source.parts().into_iter().map(|part| {
                        let state = part.state.unwrap_or_else(|absent| absent.why);
                        (part.name.to_owned(), Value::from(state))
                    });
                    status[source.of()] = Value::Object(parts.collect());
                }
                (observed.name.to_owned(), status)
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": &*self.node,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "observers": observers,
            "kubernetes": self.kubernetes.as_ref().map_or_else(|| "none".into(), |health| health.status()),
            "snapshot": self.snapshots.status(),
            "ledger": self.ledger(),
        })
    }

    fn metrics(&self) -> String {
        self.collect();
        self.metrics.render().unwrap_or_else(|error| format!("# {error}\n"))
    }
}

fn counts(counts: &Counts) -> Value {
    json!({
        "seen": counts.seen,
        "learning": counts.learning,
        "normal": counts.normal,
        "suppressed": counts.suppressed,
        "emitted": counts.emitted,
        "failed": counts.failed,
    })
}
