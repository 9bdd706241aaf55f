//! What the agent tells of itself: `/livez`, `/readyz`, `/status`, `/metrics`, and the log's last line.

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

use super::snapshots::Snapshots;
use crate::{
    cgroupfs::Files,
    config::Config,
    enrich::kubernetes::Health,
    kernel::{HookState, Loaded},
    metrics::{AnomalyLedger, Metrics},
    snapshot::Writer,
};

/// What the tasks share.
pub(super) struct Shared {
    started: Instant,
    node: Arc<str>,
    observed: Vec<Observed>,
    pub(super) metrics: Arc<Metrics>,
    sinks: Sinks,
    kubernetes: Option<Arc<Health>>,
    pub(super) snapshots: Snapshots,
}

/// One observer.
pub(super) struct Observed {
    name: &'static str,
    /// Nothing where its programs could not be loaded.
    parts: Parts,
    state: Mutex<State>,
}

/// What an observer works with.
#[derive(Default)]
pub(super) struct Parts {
    /// Its programs.
    pub(super) loaded: Option<Loaded>,
    /// The files that are read for it.
    pub(super) files: Option<Files>,
    /// Why it has no programs where it should have, and is left with the files.
    pub(super) unloaded: Option<String>,
}

/// How an observer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All of it works.
    Running,
    /// All of it works that this machine has something for; what it has nothing for, and why.
    RunningWithout(String),
    /// Some of it does not work that could.
    Degraded(String),
    /// This kernel has nothing for it.
    Unsupported(String),
    /// It should work and does not.
    Failed(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::RunningWithout(what) => write!(f, "running(without {what})"),
            Self::Degraded(what) => write!(f, "degraded({what})"),
            Self::Unsupported(why) => write!(f, "unsupported({why})"),
            Self::Failed(why) => write!(f, "failed({why})"),
        }
    }
}

impl State {
    const LABELS: [&str; 4] = ["running", "degraded", "unsupported", "failed"];

    /// The one of [`Self::LABELS`] that it is.
    const fn label(&self) -> &'static str {
        match self {
            Self::Running | Self::RunningWithout(_) => "running",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) => "unsupported",
            Self::Failed(_) => "failed",
        }
    }

    /// As its hooks and its knowledge are.
    fn of(Parts { loaded, files, unloaded }: &Parts) -> Self {
        let hooks = loaded.iter().flat_map(|loaded| &loaded.hooks);
        let is_unsupported = |h: &&HookState| matches!(&h.state, Err(error) if error.is_unsupported());
        let unsupported = hooks.clone().filter(is_unsupported).count();
        let all_unsupported = unsupported == hooks.clone().count();
        let hooks = hooks.map(|h| h.state.clone().map_err(|error| format!("{}: {error}", h.hook.program)));
        // What takes nothing away but time is worth no word here.
        let files = files.iter().flat_map(|files| &files.parts).filter(|part| !part.gives.is_empty());
        let files = files.map(|part| match &part.state {
            Ok(_) => Ok(()),
            Err(absent) => Err(format!("{}: {}", part.name, absent.why)),
        });
        let states: Vec<Result<(), String>> = hooks.chain(files).collect();
        let all = states.iter().all(Result::is_err);
        let degraded = loaded.iter().filter_map(|loaded| loaded.degraded.clone()).chain(unloaded.clone());
        let problems = states.into_iter().filter_map(Result::err);
        let problems: Vec<String> = problems.chain(degraded).collect();
        let what = problems.join("; ");
        match (problems.len(), all, all_unsupported) {
            (0, ..) => Self::Running,
            (_, true, true) => Self::Unsupported(what),
            (_, true, false) => Self::Failed(what),
            (count, ..) if count == unsupported => Self::RunningWithout(what),
            _ => Self::Degraded(what),
        }
    }
}

impl Parts {
    /// Whether there is anything at all in them.
    pub(super) fn observes(&self) -> bool {
        let mut files = self.files.iter().flat_map(|files| &files.parts);
        self.loaded.is_some() || files.any(|part| part.state.is_ok() && !part.gives.is_empty())
    }
}

impl Observed {
    /// One that runs.
    pub(super) fn new(name: &'static str, parts: Parts) -> Self {
        let state = Mutex::new(State::of(&parts));
        Self { name, parts, state }
    }

    /// One whose programs could not be loaded.
    pub(super) fn failed(name: &'static str, error: &anyhow::Error) -> Self {
        Self { name, parts: Parts::default(), state: Mutex::new(State::Failed(format!("{error:#}"))) }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counts of each program; `None` where they cannot be read.
    fn counts(&self) -> Option<Vec<(&'static str, Counts)>> {
        let Some(loaded) = &self.parts.loaded else { return Some(Vec::new()) };
        match loaded.counts.read() {
            Ok(counts) => Some(loaded.hooks.iter().map(|h| h.hook.program).zip(counts).collect()),
            Err(error) => {
                tracing::warn!(observer = self.name, %error, "the counts cannot be read");
                None
            }
        }
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

    pub(super) fn set(&self, at: usize, state: State) {
        if let Some(observed) = self.observed.get(at) {
            *observed.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// A crashed observer runs again.
    pub(super) fn restarted(&self, at: usize) {
        if let Some(observed) = self.observed.get(at) {
            self.set(at, State::of(&observed.parts));
        }
    }

    /// Says at the start what works and what does not.
    pub(super) fn report(&self) {
        for observed in &self.observed {
            match observed.state() {
                state @ (State::Running | State::RunningWithout(_)) => {
                    tracing::info!(observer = observed.name, "{state}");
                }
                state => tracing::warn!(observer = observed.name, "{state}"),
            }
        }
    }

    /// Takes all programs off their hooks.
    pub(super) fn detach(&self) {
        self.observed.iter().filter_map(|observed| observed.parts.loaded.as_ref()).for_each(Loaded::detach);
    }

    /// Writes what the kernel programs have learned, and counts it.
    pub(super) fn snapshot(&self, to: &mut Writer<impl io::Write>) -> anyhow::Result<()> {
        for Observed { name, parts, .. } in &self.observed {
            let Some(loaded) = &parts.loaded else { continue };
            for (map, entries) in loaded.snapshot(to)? {
                self.metrics.map_entries(name, map, entries as u64);
            }
        }
        Ok(())
    }

    /// The accounts, when all is done.
    pub(super) fn farewell(&self) {
        tracing::info!(ledger = %self.ledger(), "stopped");
    }

    pub(super) fn status_line(&self) -> StatusLine {
        let mut total = Counts::default();
        self.observed.iter().filter_map(Observed::total).for_each(|counts| total.add(&counts));
        StatusLine { seen: total.seen, keys: total.keys, kept: total.emitted, sent: self.sinks.sent() }
    }

    /// What became of all readings, per observer and program, of all anomalies, and of all occurrences, per sink.
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
                for (name, missed) in observed.parts.loaded.iter().flat_map(Loaded::missed) {
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

    /// Brings what the kernel counts, and how all is, into the metrics.
    fn collect(&self) {
        if let Some(health) = &self.kubernetes {
            self.metrics.kubernetes_state(&Health::LABELS, health.label());
        }
        let totals: Vec<_> = self.observed.iter().map(|observed| (observed.name, observed.total())).collect();
        // What cannot be read now stays as it was: a counter does not go back.
        for (name, total) in &totals {
            total.iter().for_each(|total| self.metrics.readings(name, total));
        }
        if let Some(failed) = totals.iter().map(|(_, total)| Some(total.as_ref()?.failed)).sum() {
            self.metrics.ring_full(failed);
        }
        self.metrics.process();
        for observed in &self.observed {
            self.metrics.observer_state(observed.name, &State::LABELS, observed.state().label());
            let run_times = observed.parts.loaded.iter().flat_map(Loaded::run_times);
            run_times.for_each(|(program, time)| {
                self.metrics.program(observed.name, program, time.runs, time.total);
            });
            let missed = observed.parts.loaded.iter().flat_map(Loaded::missed);
            missed.for_each(|(program, missed)| {
                self.metrics.program_missed(observed.name, program, missed);
            });
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
                let hooks: serde_json::Map<_, _> = observed
                    .parts
                    .loaded
                    .iter()
                    .flat_map(|loaded| &loaded.hooks)
                    .map(|h| {
                        let state =
                            h.state.as_ref().map_or_else(ToString::to_string, |()| "attached".to_owned());
                        (h.hook.program.to_owned(), state.into())
                    })
                    .collect();
                let mut status = json!({ "state": observed.state().to_string(), "hooks": hooks });
                if let Some((program, what)) = observed.parts.loaded.as_ref().and_then(Loaded::counting) {
                    status["counters"] = json!({ program: what });
                }
                if let Some(files) = &observed.parts.files {
                    let parts = files.parts.iter().map(|part| {
                        let state =
                            part.state.as_ref().map_or_else(|absent| absent.why.clone(), Clone::clone);
                        (part.name.to_owned(), Value::from(state))
                    });
                    status["files"] = Value::Object(parts.collect());
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
