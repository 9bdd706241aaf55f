//! The agent's own metrics, with one line of help each. Label sets are closed: no label carries an address or
//! a name from outside.

mod labels;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tapio_common::Counts;
use tapio_service::metrics::{
    Described, gauge, metrics,
    process::{self, Usage},
    render, set,
};

use labels::{Asked, OfMap, OfObserver, OfProgram, OfType, Reading, StateOf, StateOfKubernetes, Unresolved};

/// The agent's counters and gauges. There is one instance, shared by reference.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// The sum of `anomalies`, which cannot be computed because the family's label sets cannot be listed.
    judged: AtomicU64,
    own: Own,
    delivery: Arc<tapio_delivery::Metrics>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tapio");
        let own = Own::registered(&mut registry);
        let delivery = Arc::new(tapio_delivery::Metrics::registered(&mut registry));
        Self { registry, judged: AtomicU64::default(), own, delivery }
    }
}

metrics! {
    /// Metrics that only the agent has; the sinks have their own.
    struct Own {
        readings: Family<Reading, Counter> = "Readings that kernel programs took, by what became of them",
        events: Family<OfObserver, Counter> = "Events read from the rings, and looks at files",
        anomalies: Family<OfType, Counter> = "Anomalies judged, those that the kernel suppressed included",
        folded: Family<OfObserver, Counter> = "Anomalies that wait for, or went out in, a follow-up",
        reported: Counter = "Anomalies that the occurrences given to sinks stand for",
        out_of_scope: Counter = "Anomalies outside of the scope that the settings name, which are not reported",
        expected: Counter = "Anomalies at a pace that is expected for their workload, in no occurrence",
        unattributed: Counter = "Occurrences without an owner",
        kubernetes_state: Family<StateOfKubernetes, Gauge> = "1 for how it is with the API server",
        kubernetes_objects: Counter = "Pods of this node that the watch brought, with each change",
        kubernetes_requests: Family<Asked, Counter> = "Questions for peers, by what was asked for and found",
        unresolved: Family<Unresolved, Counter> = "Names that an occurrence went out without, though they may have come",
        observer_state: Family<StateOf, Gauge> = "1 for the state that an observer is in",
        program_runs: Family<OfProgram, Counter> = "Runs of a kernel program, while bpf_stats are on",
        program_seconds: Family<OfProgram, Counter<f64, AtomicU64>> = "Time of those runs",
        program_missed: Family<OfProgram, Counter> = "Runs of a kernel program that the kernel left out, as one was under way",
        map_entries: Family<OfMap, Gauge> = "Entries of a kernel map at the last state snapshot",
        process_cpu_seconds: Counter<f64, AtomicU64> = "Time that the agent was on a CPU",
        process_resident_memory_bytes: Gauge = "Memory of the agent, without the kernel's maps",
        restarts: Family<OfObserver, Counter> = "Times that an observer crashed and was started again",
    }
}

/// The outcome of anomalies: judged = reported + expected + dropped + out of scope + waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnomalyLedger {
    /// Anomalies judged, including each repeat and those that the kernel suppressed.
    pub judged: u64,
    /// Anomalies represented by occurrences given to sinks.
    pub reported: u64,
    /// Anomalies at an expected rate.
    pub expected: u64,
    /// Anomalies lost before their names were resolved, by reason.
    pub dropped: [(&'static str, u64); 1],
    /// Anomalies that the settings do not ask for, as their names showed. Nothing is lost.
    pub out_of_scope: u64,
    /// Anomalies in a fold window, or waiting for names. 0 once the agent has stopped.
    pub waiting: u64,
}

/// Hops and reasons of losses before the sinks; a full ring is counted in the kernel.
const LOSSES: [(&str, &str); 3] = [("record", "malformed"), ("record", "crash"), ("enrich", "queue_full")];

impl Metrics {
    /// Creates the series of possible failures with 0. If a series appeared only with its first loss,
    /// Prometheus would see no increase.
    pub fn begin(&self, observers: &[&'static str], sinks: &[&'static str], kubernetes: bool) {
        for (hop, reason) in LOSSES {
            self.dropped(hop, reason, 0);
        }
        for observer in observers {
            self.folded(observer, 0);
            self.own.restarts.get_or_create(&OfObserver { observer }).inc_by(0);
        }
        self.delivery.begin(sinks);
        if !kubernetes {
            return;
        }
        for resource in ["pods", "services", "nodes"] {
            for result in ["found", "none", "failed"] {
                self.own.kubernetes_requests.get_or_create(&Asked { resource, result }).inc_by(0);
            }
        }
        for (name, reasons) in [("workload", &["late", "full"][..]), ("peer", &["late", "limited", "full"])] {
            for reason in reasons {
                self.own.unresolved.get_or_create(&Unresolved { name, reason }).inc_by(0);
            }
        }
    }

    /// Losses before the sinks so far, by hop and reason.
    #[must_use]
    pub fn losses(&self) -> Vec<(&'static str, &'static str, u64)> {
        LOSSES.map(|(hop, reason)| (hop, reason, self.delivery.dropped_so_far(hop, reason))).into()
    }

    /// The metrics of the sinks.
    #[must_use]
    pub fn delivery(&self) -> &Arc<tapio_delivery::Metrics> {
        &self.delivery
    }

    /// Every metric that may be exposed.
    #[must_use]
    pub fn described() -> Vec<Described> {
        [Own::DESCRIBED, tapio_delivery::Metrics::DESCRIBED].concat()
    }

    /// Counts `count` lost anomalies. `hop` is `ring`, `record` or `enrich`.
    pub fn dropped(&self, hop: &'static str, reason: &'static str, count: u64) {
        self.delivery.dropped(hop, reason, count);
    }

    /// Counts the events read from an observer's ring.
    #[must_use]
    pub fn events(&self, observer: &'static str) -> Counter {
        self.own.events.get_or_create_owned(&OfObserver { observer })
    }

    /// Counts `count` anomalies of one type.
    pub fn anomalies(&self, observer: &'static str, kind: &'static str, count: u64) {
        self.own.anomalies.get_or_create(&OfType { observer, r#type: kind }).inc_by(count);
        self.judged.fetch_add(count, Ordering::Relaxed);
    }

    /// Counts an occurrence given to the sinks, which stands for `count` anomalies.
    pub fn reported(&self, count: u64) {
        self.own.reported.inc_by(count);
    }

    /// Counts `count` anomalies whose owner is out of the scope that the settings ask for.
    pub fn out_of_scope(&self, count: u64) {
        self.own.out_of_scope.inc_by(count);
    }

    /// Counts `count` anomalies that came at an expected rate.
    pub fn expected(&self, count: u64) {
        self.own.expected.inc_by(count);
    }

    /// The outcome of all anomalies so far.
    #[must_use]
    pub fn anomaly_ledger(&self) -> AnomalyLedger {
        // Reads the outcomes before the total: anomalies counted in between add to `waiting`, which is never
        // negative.
        let (reported, expected) = (self.own.reported.get(), self.own.expected.get());
        let out_of_scope = self.own.out_of_scope.get();
        let dropped = ["queue_full"].map(|reason| (reason, self.delivery.dropped_so_far("enrich", reason)));
        let judged = self.judged.load(Ordering::Relaxed);
        let gone = reported + expected + out_of_scope + dropped.iter().map(|(_, count)| count).sum::<u64>();
        AnomalyLedger {
            judged,
            reported,
            expected,
            dropped,
            out_of_scope,
            waiting: judged.saturating_sub(gone),
        }
    }

    /// Counts `count` anomalies that a follow-up will report.
    pub fn folded(&self, observer: &'static str, count: u64) {
        self.own.folded.get_or_create(&OfObserver { observer }).inc_by(count);
    }

    /// Counts an occurrence whose owner is not known.
    pub fn unattributed(&self) {
        self.own.unattributed.inc();
    }

    /// Counts a pod received from the watch.
    pub fn kubernetes_object(&self) {
        self.own.kubernetes_objects.inc();
    }

    /// Counts an answer to a query for a peer among `pods`, `services` or `nodes`.
    pub fn kubernetes_answer(&self, resource: &'static str, found: bool) {
        let result = if found { "found" } else { "none" };
        self.own.kubernetes_requests.get_or_create(&Asked { resource, result }).inc();
    }

    /// Counts a query for a peer that was not answered.
    pub fn kubernetes_failed(&self, resource: &'static str) {
        self.own.kubernetes_requests.get_or_create(&Asked { resource, result: "failed" }).inc();
    }

    /// Counts an occurrence sent without the name of its `workload` or `peer`. The reason is `late`,
    /// `limited` (more queries than the rate limit allows) or `full` (too many occurrences waited).
    pub fn unresolved(&self, name: &'static str, reason: &'static str) {
        self.own.unresolved.get_or_create(&Unresolved { name, reason }).inc();
    }

    /// Counts the restart of an observer that crashed.
    pub fn restarted(&self, observer: &'static str) {
        self.own.restarts.get_or_create(&OfObserver { observer }).inc();
    }

    /// Sets the totals that the kernel programs have counted since they were loaded.
    pub fn readings(&self, observer: &'static str, counts: &Counts) {
        let results = [
            ("learning", counts.learning),
            ("normal", counts.normal),
            ("suppressed", counts.suppressed),
            ("emitted", counts.emitted),
            ("failed", counts.failed),
        ];
        for (result, count) in results {
            set(&self.own.readings.get_or_create(&Reading { observer, result }), count);
        }
    }

    /// Sets the total of events for which no ring had room, over all observers.
    pub fn ring_full(&self, count: u64) {
        self.delivery.dropped_in_all("ring", "full", count);
    }

    /// Sets the number of entries in a map of an observer's programs.
    pub fn map_entries(&self, observer: &'static str, map: &'static str, entries: u64) {
        self.own.map_entries.get_or_create(&OfMap { observer, map }).set(gauge(entries));
    }

    /// Sets the resources that the agent itself uses.
    pub fn process(&self) {
        let Usage { cpu, resident_bytes } = process::usage();
        self.own.process_cpu_seconds.inner().store(cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        if let Some(bytes) = resident_bytes {
            self.own.process_resident_memory_bytes.set(gauge(bytes));
        }
    }

    /// Sets the one state that an observer is in.
    pub fn observer_state(&self, observer: &'static str, states: &[&'static str], current: &'static str) {
        for state in states {
            let labels = StateOf { observer, state };
            self.own.observer_state.get_or_create(&labels).set(i64::from(*state == current));
        }
    }

    /// Sets the state of the connection to the API server.
    pub fn kubernetes_state(&self, states: &[&'static str], current: &'static str) {
        for state in states {
            let labels = StateOfKubernetes { state };
            self.own.kubernetes_state.get_or_create(&labels).set(i64::from(*state == current));
        }
    }

    /// Sets the run count and run time that the kernel has measured for a program since it was loaded.
    pub fn program(&self, observer: &'static str, program: &'static str, runs: u64, total: Duration) {
        set(&self.own.program_runs.get_or_create(&OfProgram { observer, program }), runs);
        let seconds = self.own.program_seconds.get_or_create(&OfProgram { observer, program });
        seconds.inner().store(total.as_secs_f64().to_bits(), Ordering::Relaxed);
    }

    /// Sets the number of runs of a program that the kernel has skipped since it was loaded.
    pub fn program_missed(&self, observer: &'static str, program: &'static str, missed: u64) {
        set(&self.own.program_missed.get_or_create(&OfProgram { observer, program }), missed);
    }

    /// Renders all metrics in the text format of OpenMetrics.
    ///
    /// # Errors
    /// Never in practice, because writing to a `String` does not fail.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        render(&self.registry)
    }
}

#[cfg(test)]
mod tests {
    use tapio_service::metrics::{Kind, Sample, classic, samples};

    use super::*;

    #[test]
    fn programs_of_one_name_are_distinguished_by_their_observer() {
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
        metrics.reported(4);
        metrics.out_of_scope(3);
        metrics.dropped("enrich", "queue_full", 2);
        let expected = AnomalyLedger {
            judged: 10,
            reported: 4,
            expected: 0,
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

    #[test]
    fn every_number_of_the_text_is_found() {
        let metrics = Metrics::default();
        metrics.begin(&["network"], &["otlp"], true);
        metrics.anomalies("network", "network.rtt_spike", 3);
        metrics.program("network", "tcp_probe", 7, Duration::from_millis(1500));
        metrics.reported(2);
        let text = metrics.render().unwrap();
        let found = samples(&text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(found.values().map(Vec::len).sum::<usize>(), lines);
        let one = |name: &str, labels, number| assert_eq!(found[name], [Sample { labels, number }]);
        one("tapio_anomalies", vec![("observer", "network"), ("type", "network.rtt_spike")], "3");
        one("tapio_program_seconds", vec![("observer", "network"), ("program", "tcp_probe")], "1.5");
        one("tapio_reported", vec![], "2");
        let known = |name: &str| Metrics::described().iter().any(|one| one.name == name);
        assert!(found.keys().all(|name| known(name)), "{:?}", found.keys());
    }

    #[test]
    fn each_is_described_by_its_type() {
        let kind = |name: &str| Metrics::described().iter().find(|one| one.name == name).unwrap().kind;
        assert_eq!(kind("tapio_program_seconds"), Kind::FloatCounter);
        assert_eq!(kind("tapio_reported"), Kind::Counter);
        assert_eq!(kind("tapio_readings"), Kind::Counter);
        assert_eq!(kind("tapio_spool_bytes"), Kind::Gauge);
    }
}
