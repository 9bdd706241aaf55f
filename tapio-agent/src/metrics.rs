//! Every self-metric, one documented line each. Label sets are closed: no label carries an address or a name
//! that comes from outside.

use std::{sync::atomic::Ordering, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tapio_common::Counts;

/// Declares the metrics, each with its help text, and registers them under `tapio_`.
macro_rules! metrics {
    ($($name:ident: $kind:ty = $help:literal,)*) => {
        /// The agent's counters and gauges; made once, shared by reference.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $($name: $kind,)*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("tapio");
                $(let $name = <$kind>::default();
                registry.register(stringify!($name), $help, $name.clone());)*
                Self { registry, $($name,)* }
            }
        }
    };
}

metrics! {
    readings: Family<Reading, Counter> = "Readings that kernel programs took, by what became of them",
    events: Family<OfObserver, Counter> = "Events read from the rings, and looks at files",
    anomalies: Family<OfType, Counter> = "Anomalies judged, those that the kernel held back included",
    folded: Family<OfObserver, Counter> = "Anomalies that wait for, or went out in, a follow-up",
    dropped: Family<Drop, Counter> = "What was lost, by hop and reason",
    unattributed: Counter = "Occurrences without an owner",
    kubernetes_objects: Counter = "Pods of this node that the watch brought, with each change",
    kubernetes_requests: Family<Asked, Counter> = "Questions for peers, by what was asked for and found",
    unnamed: Family<Unnamed, Counter> = "Names that an occurrence went out without, though they may have come",
    sink_sent: Family<OfSink, Counter> = "Occurrences that a sink took",
    sink_retried: Family<OfSink, Counter> = "Batches sent again",
    sink_rejected: Family<OfSink, Counter> = "Occurrences that a sink refused for good",
    observer_state: Family<StateOf, Gauge> = "1 for the state that an observer is in",
    program_runs: Family<OfProgram, Counter> = "Runs of a kernel program, while bpf_stats are on",
    program_nanoseconds: Family<OfProgram, Counter> = "Time of those runs",
    restarts: Family<OfObserver, Counter> = "Times that an observer crashed and was started again",
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfObserver {
    observer: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reading {
    observer: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfType {
    observer: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Drop {
    hop: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Asked {
    resource: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Unnamed {
    name: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSink {
    sink: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateOf {
    observer: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfProgram {
    program: &'static str,
}

impl Metrics {
    /// Counts the events read from an observer's ring.
    #[must_use]
    pub fn events(&self, observer: &'static str) -> Counter {
        self.events.get_or_create_owned(&OfObserver { observer })
    }

    /// `count` anomalies of one type.
    pub fn anomalies(&self, observer: &'static str, kind: &'static str, count: u64) {
        self.anomalies.get_or_create(&OfType { observer, r#type: kind }).inc_by(count);
    }

    /// `count` anomalies that a follow-up will stand for.
    pub fn folded(&self, observer: &'static str, count: u64) {
        self.folded.get_or_create(&OfObserver { observer }).inc_by(count);
    }

    /// `count` lost. Hop is `ring`, `record`, `enrich` or a sink's name.
    pub fn dropped(&self, hop: &'static str, reason: &'static str, count: u64) {
        self.dropped.get_or_create(&Drop { hop, reason }).inc_by(count);
    }

    /// An occurrence whose owner is not known.
    pub fn unattributed(&self) {
        self.unattributed.inc();
    }

    /// The watch brought a pod.
    pub fn kubernetes_object(&self) {
        self.kubernetes_objects.inc();
    }

    /// A question for a peer among `pods`, `services` or `nodes` was answered.
    pub fn kubernetes_answer(&self, resource: &'static str, found: bool) {
        let result = if found { "found" } else { "none" };
        self.kubernetes_requests.get_or_create(&Asked { resource, result }).inc();
    }

    /// It was not.
    pub fn kubernetes_failed(&self, resource: &'static str) {
        self.kubernetes_requests.get_or_create(&Asked { resource, result: "failed" }).inc();
    }

    /// An occurrence goes out without the name of its `workload` or `peer`: it was `late`, there were more questions
    /// than may be asked (`limited`), or too many waited (`full`).
    pub fn unnamed(&self, name: &'static str, reason: &'static str) {
        self.unnamed.get_or_create(&Unnamed { name, reason }).inc();
    }

    /// `count` occurrences that a sink's destination took.
    pub fn sent(&self, sink: &'static str, count: u64) {
        self.sink_sent.get_or_create(&OfSink { sink }).inc_by(count);
    }

    /// A batch that is sent again.
    pub fn retried(&self, sink: &'static str) {
        self.sink_retried.get_or_create(&OfSink { sink }).inc();
    }

    /// `count` occurrences that a sink's destination refused for good.
    pub fn rejected(&self, sink: &'static str, count: u64) {
        self.sink_rejected.get_or_create(&OfSink { sink }).inc_by(count);
    }

    /// An observer that crashed runs again.
    pub fn restarted(&self, observer: &'static str) {
        self.restarts.get_or_create(&OfObserver { observer }).inc();
    }

    /// What the kernel counted, from its beginning.
    pub fn readings(&self, observer: &'static str, counts: &Counts) {
        let results = [
            ("learning", counts.learning),
            ("normal", counts.normal),
            ("held_back", counts.held_back),
            ("emitted", counts.emitted),
            ("failed", counts.failed),
        ];
        for (result, count) in results {
            set(&self.readings.get_or_create(&Reading { observer, result }), count);
        }
        set(&self.dropped.get_or_create(&Drop { hop: "ring", reason: "full" }), counts.failed);
    }

    /// The one state that an observer is in.
    pub fn observer_state(&self, observer: &'static str, states: &[&'static str], current: &'static str) {
        for state in states {
            let labels = StateOf { observer, state };
            self.observer_state.get_or_create(&labels).set(i64::from(*state == current));
        }
    }

    /// What the kernel measured of a program, from its beginning.
    pub fn program(&self, program: &'static str, runs: u64, total: Duration) {
        set(&self.program_runs.get_or_create(&OfProgram { program }), runs);
        let nanoseconds = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        set(&self.program_nanoseconds.get_or_create(&OfProgram { program }), nanoseconds);
    }

    /// All of them in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A counter that is counted elsewhere.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
