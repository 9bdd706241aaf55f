//! Every self-metric, one documented line each. Label sets are closed: no label carries an address or a name
//! that comes from outside.

mod labels;
mod process;
mod samples;

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tapio_common::Counts;

use labels::{
    Asked, Drop, OfMap, OfObserver, OfProgram, OfSink, OfType, Reading, StateOf, StateOfKubernetes,
    StateOfSink, Unnamed,
};
use process::Usage;
use samples::Typed;
pub use samples::{Described, Kind, Sample, samples};

/// Declares the metrics, each with its help text, and registers them under `tapio_`.
macro_rules! metrics {
    ($($name:ident: $kind:ty = $help:literal,)*) => {
        /// The agent's counters and gauges; made once, shared by reference.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            /// The sum of `anomalies`, of which the parts cannot be listed.
            judged: AtomicU64,
            $($name: $kind,)*
        }

        impl Default for Metrics {
            fn default() -> Self {
                let mut registry = Registry::with_prefix("tapio");
                $(let $name = <$kind>::default();
                registry.register(stringify!($name), $help, $name.clone());)*
                Self { registry, judged: AtomicU64::default(), $($name,)* }
            }
        }

        impl Metrics {
            /// All that there may be; one without samples is not in the text.
            pub const DESCRIBED: &[Described] = &[$(Described {
                name: concat!("tapio_", stringify!($name)),
                help: $help,
                kind: <$kind>::KIND,
            },)*];
        }
    };
}

metrics! {
    readings: Family<Reading, Counter> = "Readings that kernel programs took, by what became of them",
    events: Family<OfObserver, Counter> = "Events read from the rings, and looks at files",
    anomalies: Family<OfType, Counter> = "Anomalies judged, those that the kernel held back included",
    folded: Family<OfObserver, Counter> = "Anomalies that wait for, or went out in, a follow-up",
    told: Counter = "Anomalies that the occurrences given to sinks stand for",
    out_of_scope: Counter = "Anomalies outside of the scope that the settings name, which are not reported",
    usual: Counter = "Anomalies at a pace that is usual for their workload, in no occurrence",
    dropped: Family<Drop, Counter> = "What was lost, by hop and reason",
    unattributed: Counter = "Occurrences without an owner",
    kubernetes_state: Family<StateOfKubernetes, Gauge> = "1 for how it is with the API server",
    kubernetes_objects: Counter = "Pods of this node that the watch brought, with each change",
    kubernetes_requests: Family<Asked, Counter> = "Questions for peers, by what was asked for and found",
    unnamed: Family<Unnamed, Counter> = "Names that an occurrence went out without, though they may have come",
    sink_state: Family<StateOfSink, Gauge> = "1 for the state that a sink is in",
    sink_given: Family<OfSink, Counter> = "Occurrences given to a sink",
    sink_recovered: Family<OfSink, Counter> = "Occurrences that an earlier run left in a sink's spool",
    sink_sent: Family<OfSink, Counter> = "Occurrences that a sink took",
    sink_retried: Family<OfSink, Counter> = "Batches sent again",
    sink_rejected: Family<OfSink, Counter> = "Occurrences that a sink refused for good",
    sink_in_flight: Family<OfSink, Gauge> = "Occurrences on the way without an answer",
    sink_queued: Family<OfSink, Gauge> = "Occurrences in memory alone, on the way or waiting",
    spool_records: Family<OfSink, Gauge> = "Occurrences in a sink's spool",
    spool_bytes: Family<OfSink, Gauge> = "Room that they take on disk, about",
    spool_failures: Family<OfSink, Counter> = "Times that a sink's spool could not be read or written",
    spool_set_aside: Family<OfSink, Counter> = "Damaged spools that were set aside",
    observer_state: Family<StateOf, Gauge> = "1 for the state that an observer is in",
    program_runs: Family<OfProgram, Counter> = "Runs of a kernel program, while bpf_stats are on",
    program_seconds: Family<OfProgram, Counter<f64, AtomicU64>> = "Time of those runs",
    program_missed: Family<OfProgram, Counter> = "Runs of a kernel program that the kernel left out, as one was under way",
    map_entries: Family<OfMap, Gauge> = "Entries of a kernel map when what was learned was written last",
    process_cpu_seconds: Counter<f64, AtomicU64> = "Time that the agent was on a processor",
    process_resident_memory_bytes: Gauge = "Memory of the agent, without the kernel's maps",
    restarts: Family<OfObserver, Counter> = "Times that an observer crashed and was started again",
}

/// Why sinks drop.
const SINK_REASONS: [&str; 8] = [
    "queue_full",
    "unacknowledged",
    "closed",
    "shutdown",
    "spool_full",
    "spool_damaged",
    "spool_malformed",
    "spool_lost",
];

/// What became of anomalies: judged = told + usual + dropped + out of scope + waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnomalyLedger {
    /// Judged, each repeat and those that the kernel held back included.
    pub judged: u64,
    /// Those that occurrences given to sinks stand for.
    pub told: u64,
    /// Those at a pace that is usual.
    pub usual: u64,
    /// Lost before they had a name, by reason.
    pub dropped: [(&'static str, u64); 1],
    /// Not to be told, as their names showed: nothing is lost by it.
    pub out_of_scope: u64,
    /// In a window of repeats, or on the way to their name. None when the agent has stopped.
    pub waiting: u64,
}

impl Metrics {
    /// Has what may go wrong begin at 0: where a line comes with the first loss, no increase is seen.
    pub fn begin(&self, observers: &[&'static str], sinks: &[&'static str], kubernetes: bool) {
        for (hop, reason) in [("record", "malformed"), ("record", "crash"), ("enrich", "queue_full")] {
            self.dropped(hop, reason, 0);
        }
        for observer in observers {
            self.folded(observer, 0);
            self.restarts.get_or_create(&OfObserver { observer }).inc_by(0);
        }
        for sink in sinks {
            for reason in SINK_REASONS {
                self.dropped(sink, reason, 0);
            }
            for counter in
                [&self.spool_failures, &self.spool_set_aside, &self.sink_recovered, &self.sink_retried]
            {
                counter.get_or_create(&OfSink { sink }).inc_by(0);
            }
            self.sent(sink, 0);
            self.rejected(sink, 0);
        }
        if !kubernetes {
            return;
        }
        for resource in ["pods", "services", "nodes"] {
            for result in ["found", "none", "failed"] {
                self.kubernetes_requests.get_or_create(&Asked { resource, result }).inc_by(0);
            }
        }
        for (name, reasons) in [("workload", &["late", "full"][..]), ("peer", &["late", "limited", "full"])] {
            for reason in reasons {
                self.unnamed.get_or_create(&Unnamed { name, reason }).inc_by(0);
            }
        }
    }

    /// Counts the events read from an observer's ring.
    #[must_use]
    pub fn events(&self, observer: &'static str) -> Counter {
        self.events.get_or_create_owned(&OfObserver { observer })
    }

    /// `count` anomalies of one type.
    pub fn anomalies(&self, observer: &'static str, kind: &'static str, count: u64) {
        self.anomalies.get_or_create(&OfType { observer, r#type: kind }).inc_by(count);
        self.judged.fetch_add(count, Ordering::Relaxed);
    }

    /// Sinks were given an occurrence that stands for `count` anomalies.
    pub fn told(&self, count: u64) {
        self.told.inc_by(count);
    }

    /// `count` anomalies are of nobody that the settings mean.
    pub fn out_of_scope(&self, count: u64) {
        self.out_of_scope.inc_by(count);
    }

    /// `count` anomalies came at a pace that is usual.
    pub fn usual(&self, count: u64) {
        self.usual.inc_by(count);
    }

    /// What became of all anomalies so far.
    #[must_use]
    pub fn anomaly_ledger(&self) -> AnomalyLedger {
        // Whatever is counted meanwhile is in what waits, never less than nothing.
        let (told, usual) = (self.told.get(), self.usual.get());
        let out_of_scope = self.out_of_scope.get();
        let dropped = ["queue_full"]
            .map(|reason| (reason, self.dropped.get_or_create(&Drop { hop: "enrich", reason }).get()));
        let judged = self.judged.load(Ordering::Relaxed);
        let gone = told + usual + out_of_scope + dropped.iter().map(|(_, count)| count).sum::<u64>();
        AnomalyLedger { judged, told, usual, dropped, out_of_scope, waiting: judged.saturating_sub(gone) }
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

    /// How many a sink was given so far, and of what it has how many are on the way, and in memory alone.
    pub fn sink(&self, sink: &'static str, given: u64, in_flight: u64, queued: u64) {
        set(&self.sink_given.get_or_create(&OfSink { sink }), given);
        self.sink_in_flight.get_or_create(&OfSink { sink }).set(gauge(in_flight));
        self.sink_queued.get_or_create(&OfSink { sink }).set(gauge(queued));
    }

    /// What a sink's spool has.
    pub fn spool(&self, sink: &'static str, records: u64, bytes: u64) {
        self.spool_records.get_or_create(&OfSink { sink }).set(gauge(records));
        self.spool_bytes.get_or_create(&OfSink { sink }).set(gauge(bytes));
    }

    /// `count` occurrences that an earlier run left in a sink's spool.
    pub fn recovered(&self, sink: &'static str, count: u64) {
        self.sink_recovered.get_or_create(&OfSink { sink }).inc_by(count);
    }

    /// A sink's spool could not be read or written.
    pub fn spool_failed(&self, sink: &'static str) {
        self.spool_failures.get_or_create(&OfSink { sink }).inc();
    }

    /// A damaged spool was set aside.
    pub fn spool_set_aside(&self, sink: &'static str) {
        self.spool_set_aside.get_or_create(&OfSink { sink }).inc();
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
    }

    /// Events that no ring had room for, of all observers, from the beginning.
    pub fn ring_full(&self, count: u64) {
        set(&self.dropped.get_or_create(&Drop { hop: "ring", reason: "full" }), count);
    }

    /// How many entries a map of an observer's programs has.
    pub fn map_entries(&self, observer: &'static str, map: &'static str, entries: u64) {
        self.map_entries.get_or_create(&OfMap { observer, map }).set(gauge(entries));
    }

    /// What the agent itself takes.
    pub fn process(&self) {
        let Usage { cpu, resident_bytes } = process::usage();
        self.process_cpu_seconds.inner().store(cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        if let Some(bytes) = resident_bytes {
            self.process_resident_memory_bytes.set(gauge(bytes));
        }
    }

    /// The one state that an observer is in.
    pub fn observer_state(&self, observer: &'static str, states: &[&'static str], current: &'static str) {
        for state in states {
            let labels = StateOf { observer, state };
            self.observer_state.get_or_create(&labels).set(i64::from(*state == current));
        }
    }

    /// The one state that a sink is in.
    pub fn sink_state(&self, sink: &'static str, states: &[&'static str], current: &'static str) {
        for state in states {
            self.sink_state.get_or_create(&StateOfSink { sink, state }).set(i64::from(*state == current));
        }
    }

    /// How it is with the API server.
    pub fn kubernetes_state(&self, states: &[&'static str], current: &'static str) {
        for state in states {
            let labels = StateOfKubernetes { state };
            self.kubernetes_state.get_or_create(&labels).set(i64::from(*state == current));
        }
    }

    /// What the kernel measured of a program, from its beginning.
    pub fn program(&self, observer: &'static str, program: &'static str, runs: u64, total: Duration) {
        set(&self.program_runs.get_or_create(&OfProgram { observer, program }), runs);
        let seconds = self.program_seconds.get_or_create(&OfProgram { observer, program });
        seconds.inner().store(total.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// How many runs of a program the kernel left out, from its beginning.
    pub fn program_missed(&self, observer: &'static str, program: &'static str, missed: u64) {
        set(&self.program_missed.get_or_create(&OfProgram { observer, program }), missed);
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

/// The same text in the format that Prometheus had before OpenMetrics: there a counter is called as its samples are, and
/// there is no end.
#[must_use]
pub fn classic(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                text.extend(["# ", kind, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A counter that is counted elsewhere.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_one_name_are_told_apart_by_their_observer() {
        let metrics = Metrics::default();
        for (observer, runs) in [("network", 7), ("node", 9)] {
            metrics.program(observer, "sched_switch", runs, Duration::from_secs(runs));
            metrics.program_missed(observer, "sched_switch", runs);
        }
        let text = metrics.render().unwrap();
        for (observer, count) in [("network", "7"), ("node", "9")] {
            for (name, number) in [("runs", count), ("missed", count)] {
                let line = format!(
                    "tapio_program_{name}_total{{observer=\"{observer}\",program=\"sched_switch\"}} {number}\n"
                );
                assert!(text.contains(&line), "{line}: {text}");
            }
        }
        assert_eq!(text.matches("tapio_program_seconds_total{").count(), 2, "{text}");
    }

    #[test]
    fn what_is_out_of_scope_is_not_lost_and_the_ledger_sums() {
        let metrics = Metrics::default();
        metrics.anomalies("container", "container.oom_kill", 10);
        metrics.told(4);
        metrics.out_of_scope(3);
        metrics.dropped("enrich", "queue_full", 2);
        let expected = AnomalyLedger {
            judged: 10,
            told: 4,
            usual: 0,
            dropped: [("queue_full", 2)],
            out_of_scope: 3,
            waiting: 1,
        };
        assert_eq!(metrics.anomaly_ledger(), expected);
        let text = metrics.render().unwrap();
        assert!(text.contains("tapio_out_of_scope_total 3\n"), "{text}");
        assert!(!text.contains("reason=\"out_of_scope\""), "{text}");
    }

    #[test]
    fn the_old_format_names_counters_as_their_samples() {
        let metrics = Metrics::default();
        metrics.begin(&["network"], &[], false);
        metrics.observer_state("network", &["running"], "running");
        let text = classic(&metrics.render().unwrap());
        for line in [
            "# HELP tapio_dropped_total What was lost, by hop and reason.\n# TYPE tapio_dropped_total counter\n",
            "\ntapio_dropped_total{hop=\"record\",reason=\"crash\"} 0\n",
            "\n# TYPE tapio_observer_state gauge\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(!text.contains("EOF") && !text.contains("total_total"), "{text}");
    }
}
