//! What the agent tells of itself: `/livez`, `/readyz`, `/status`, `/metrics`, and the log's last line.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Value, json};
use tapio_common::Counts;

use crate::{
    admin,
    config::Config,
    kernel::Loaded,
    metrics::Metrics,
    sink::{Sinks, stdout::Pulse},
};

/// What the tasks share.
pub(super) struct Shared {
    started: Instant,
    node: Arc<str>,
    observed: Vec<Observed>,
    pub(super) metrics: Arc<Metrics>,
    sinks: Sinks,
}

/// One observer.
pub(super) struct Observed {
    name: &'static str,
    /// `None` where its programs could not be loaded.
    loaded: Option<Loaded>,
    state: Mutex<State>,
}

/// How an observer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All of it works.
    Running,
    /// Some of it does not.
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
            Self::Running => "running",
            Self::Degraded(_) => "degraded",
            Self::Unsupported(_) => "unsupported",
            Self::Failed(_) => "failed",
        }
    }

    /// As its hooks and its knowledge are.
    fn of(loaded: &Loaded) -> Self {
        let problems: Vec<_> = loaded
            .hooks
            .iter()
            .filter_map(|h| h.state.as_ref().err().map(|error| format!("{}: {error}", h.hook.program)))
            .collect();
        let all = problems.len() == loaded.hooks.len();
        let unsupported =
            loaded.hooks.iter().all(|h| matches!(&h.state, Err(error) if error.is_unsupported()));
        let what = problems.into_iter().chain(loaded.degraded.clone()).collect::<Vec<_>>().join("; ");
        match (what.is_empty(), all, unsupported) {
            (true, ..) => Self::Running,
            (_, true, true) => Self::Unsupported(what),
            (_, true, false) => Self::Failed(what),
            _ => Self::Degraded(what),
        }
    }
}

impl Observed {
    /// One whose programs are loaded.
    pub(super) fn new(name: &'static str, loaded: Loaded) -> Self {
        let state = Mutex::new(State::of(&loaded));
        Self { name, loaded: Some(loaded), state }
    }

    /// One whose programs could not be loaded.
    pub(super) fn failed(name: &'static str, error: &anyhow::Error) -> Self {
        Self { name, loaded: None, state: Mutex::new(State::Failed(format!("{error:#}"))) }
    }

    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counts of each program; none where they cannot be read.
    fn counts(&self) -> Vec<(&'static str, Counts)> {
        let Some(loaded) = &self.loaded else { return Vec::new() };
        match loaded.counts.read() {
            Ok(counts) => loaded.hooks.iter().map(|h| h.hook.program).zip(counts).collect(),
            Err(error) => {
                tracing::warn!(observer = self.name, %error, "the counts cannot be read");
                Vec::new()
            }
        }
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.counts().iter().for_each(|(_, counts)| total.add(counts));
        total
    }
}

impl Shared {
    pub(super) fn new(config: &Config, observed: Vec<Observed>, metrics: Arc<Metrics>, sinks: Sinks) -> Self {
        Self { started: Instant::now(), node: config.node(), observed, metrics, sinks }
    }

    pub(super) fn set(&self, at: usize, state: State) {
        if let Some(observed) = self.observed.get(at) {
            *observed.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// A crashed observer runs again.
    pub(super) fn restarted(&self, at: usize) {
        if let Some(loaded) = self.observed.get(at).and_then(|observed| observed.loaded.as_ref()) {
            self.set(at, State::of(loaded));
        }
    }

    /// Says at the start what works and what does not.
    pub(super) fn report(&self) {
        for observed in &self.observed {
            match observed.state() {
                State::Running => tracing::info!(observer = observed.name, "running"),
                state => tracing::warn!(observer = observed.name, "{state}"),
            }
        }
    }

    /// Takes all programs off their hooks.
    pub(super) fn detach(&self) {
        self.observed.iter().filter_map(|observed| observed.loaded.as_ref()).for_each(Loaded::detach);
    }

    /// The accounts, when all is done.
    pub(super) fn farewell(&self) {
        tracing::info!(ledger = %self.ledger(), "stopped");
    }

    pub(super) fn pulse(&self) -> Pulse {
        let mut total = Counts::default();
        self.observed.iter().for_each(|observed| total.add(&observed.total()));
        Pulse { seen: total.seen, keys: total.keys, kept: total.emitted, sent: self.sinks.sent() }
    }

    /// What became of all readings, per observer and program, and of all occurrences, per sink.
    fn ledger(&self) -> Value {
        let observers: serde_json::Map<_, _> = self
            .observed
            .iter()
            .map(|observed| {
                let programs: serde_json::Map<_, _> =
                    observed.counts().into_iter().map(|(name, c)| (name.to_owned(), counts(&c))).collect();
                (observed.name.to_owned(), Value::Object(programs))
            })
            .collect();
        json!({ "programs": observers, "sinks": self.sinks.status() })
    }

    /// Brings what the kernel counts into the metrics.
    fn collect(&self) {
        for observed in &self.observed {
            self.metrics.readings(observed.name, &observed.total());
            self.metrics.observer_state(observed.name, &State::LABELS, observed.state().label());
            let run_times = observed.loaded.iter().flat_map(Loaded::run_times);
            run_times.for_each(|(program, time)| self.metrics.program(program, time.runs, time.total));
        }
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
        Ok(())
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
                    .loaded
                    .iter()
                    .flat_map(|loaded| &loaded.hooks)
                    .map(|h| {
                        let state =
                            h.state.as_ref().map_or_else(ToString::to_string, |()| "attached".to_owned());
                        (h.hook.program.to_owned(), state.into())
                    })
                    .collect();
                let status = json!({ "state": observed.state().to_string(), "hooks": hooks });
                (observed.name.to_owned(), status)
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": &*self.node,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "observers": observers,
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
        "held_back": counts.held_back,
        "emitted": counts.emitted,
        "failed": counts.failed,
    })
}
