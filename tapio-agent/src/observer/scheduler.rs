//! Scheduler: what kube-scheduler says of itself in its metrics. There is no kernel program: the records are
//! [`Scrape`]s.
//!
//! Reports `scheduler.latency`, `scheduler.queue_depth`, `scheduler.unschedulable` and `scheduler.preemptions`. They are
//! about the scheduler, and so about no workload of this node.
//!
//! Counters are compared with those of the scrape before. Where a counter has fallen, or the scheduler says that it has
//! started since, that comparison is left out. A series that appears counts from 0, and one that is missing keeps its
//! last value.

mod message;
pub mod scrape;
mod settings;
mod unschedulable;

use std::collections::{BTreeMap, BTreeSet};

pub use settings::{Settings, Url};

use http::Uri;
use serde::{Deserialize, Serialize};
use tapio_common::{WHOLE_NODE, baseline::Baseline};
use tapio_occurrence::{Data, Outcome, Severity, Value};
use tapio_service::setting::{Switch, Wrong};

use self::{
    scrape::{Bucket, Reader, Scrape, UNKNOWN},
    settings::{LOCAL, Limits},
    unschedulable::{Lasting, Unschedulable},
};
use super::{
    Anomaly, Hook, Kind, Malformed, Observer, Target,
    gauge::{Gauge, normal},
};

/// The queue of pods that were tried and could not be placed, which `scheduler.unschedulable` is about.
const UNSCHEDULABLE_QUEUE: &str = "unschedulable";
/// Maximum number of plugins in a report.
const SHOWN_PLUGINS: usize = 5;
/// A comparison with a scrape that is older than this many intervals says nothing about one interval.
const MAX_INTERVALS: u64 = 2;
/// The start of a process is computed from the time of boot, which moves with the clock.
const SAME_START_MS: u64 = 5_000;

/// The scheduler observer.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    /// The last scrape, with the last value of each counter.
    last: Option<Scrape>,
    /// The scrape that the next mean duration starts from.
    from: Option<Scrape>,
    /// Pods that plugins had rejected by the last scrape without any pending pod. Before Kubernetes 1.36, pods that are
    /// deleted while they are unschedulable count for their plugins until the scheduler restarts.
    uncounted: BTreeMap<String, u64>,
    learned: Learned,
}

/// What is normal. The next agent restores it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Learned {
    latency: Gauge,
    queues: BTreeMap<String, Gauge>,
    unschedulable: Unschedulable,
    victims: Gauge,
}

impl Observer for Scheduler {
    const NAME: &'static str = "scheduler";
    const FIELDS: &'static [&'static str] = &[];
    const HOOKS: &'static [Hook] = &[];
    const KINDS: &'static [&'static Kind] = &[&LATENCY, &QUEUE_DEPTH, &UNSCHEDULABLE, &PREEMPTIONS];
    type Settings = Settings;

    fn check(settings: &Settings) -> Result<(), (&'static str, Wrong)> {
        settings.check()
    }

    fn new(settings: &Settings) -> Self {
        Self {
            limits: settings.limits(),
            last: None,
            from: None,
            uncounted: BTreeMap::new(),
            learned: Learned::default(),
        }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        Vec::new()
    }

    fn scrapes(settings: &Settings) -> Option<Target> {
        let given = settings.url.0.as_ref().map(|url| url.0.clone());
        Some(Target {
            what: "scheduler",
            is_given: given.is_some(),
            url: given.unwrap_or_else(|| Uri::from_static(LOCAL)),
            token: settings.token_file.file(),
            ca: settings.ca.file(),
            own: settings.cert.file().zip(settings.key.file()),
            insecure: settings.insecure_skip_verify == Switch::True,
            interval: settings.interval.get(),
            timeout: settings.timeout.get(),
            max_bytes: settings.max_body.get(),
            max_series: settings.max_series.get(),
            gives: "scheduler.latency, scheduler.queue_depth, scheduler.unschedulable, scheduler.preemptions",
            reader: || Box::new(Reader::default()),
        })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let mut scrape: Scrape =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        if scrape.header.cgroup_id != WHOLE_NODE {
            return Err(Malformed::Kind(0));
        }
        let last = self.last.take();
        let continues = continues(last.as_ref(), &mut scrape);
        self.last = Some(scrape);
        match last.filter(|_| continues) {
            Some(last) => {
                out.extend(self.latency(&scrape));
                out.extend(self.preemptions(&last, &scrape));
            }
            None => {
                self.from = Some(scrape);
                self.uncounted.clear();
            }
        }
        self.queue_depth(&scrape, out);
        out.extend(self.unschedulable(&scrape));
        Ok(())
    }

    fn snapshot(&self) -> Option<Vec<u8>> {
        // Serialising it cannot fail.
        serde_json::to_vec(&self.learned).ok()
    }

    fn restore(&mut self, snapshot: &[u8]) -> anyhow::Result<()> {
        self.learned = serde_json::from_slice(snapshot)?;
        Ok(())
    }
}

impl Scheduler {
    /// Judges the mean duration of the attempts since the last judgement.
    fn latency(&mut self, scrape: &Scrape) -> Option<Anomaly> {
        let from = self.from.get_or_insert(*scrape);
        let attempts = scrape.attempts.saturating_sub(from.attempts);
        if attempts < self.limits.min_attempts {
            return None;
        }
        let mean_us = scrape.attempts_us.saturating_sub(from.attempts_us) / attempts;
        let p99_us = percentile(&from.buckets, &scrape.buckets, attempts);
        let window_ns = scrape.header.time_ns.saturating_sub(from.header.time_ns);
        self.from = Some(*scrape);
        let before = self.learned.latency.judge(mean_us, scrape.header.time_ns, &self.limits.latency)??;
        let mut data = Data::from([("mean_us", mean_us.into())]);
        if let Some(p99_us) = p99_us {
            data.push("p99_us", p99_us);
        }
        data.push("attempts", attempts);
        data.push("window_ms", window_ns / 1_000_000);
        Some(anomaly(&LATENCY, scrape, data, mean_us, Some((&before, "us"))))
    }

    /// Judges the pods of each queue but the one of unschedulable pods.
    fn queue_depth(&mut self, scrape: &Scrape, out: &mut Vec<Anomaly>) {
        let queues: Vec<_> = scrape.queues().filter(|(queue, _)| queue != UNSCHEDULABLE_QUEUE).collect();
        let known: BTreeSet<&str> = queues.iter().map(|(queue, _)| queue.as_str()).collect();
        // Another version of the scheduler may have other queues.
        self.learned.queues.retain(|queue, _| known.contains(queue.as_str()));
        for (queue, pods) in &queues {
            let gauge = self.learned.queues.entry(queue.clone()).or_default();
            let Some(Some(before)) = gauge.judge(*pods, scrape.header.time_ns, &self.limits.queue) else {
                continue;
            };
            let data = Data::from([("queue", queue.clone().into()), ("pending_pods", (*pods).into())]);
            let anomaly = anomaly(&QUEUE_DEPTH, scrape, data, *pods, Some((&before, "pods")));
            // Another queue is no repeat.
            out.push(Anomaly { detail: crc32fast::hash(queue.as_bytes()), ..anomaly });
        }
    }

    /// Judges the pods that no node can take. The number is that of their queue. The plugins only explain it.
    fn unschedulable(&mut self, scrape: &Scrape) -> Option<Anomaly> {
        let pending = scrape.queues().fold(0_u64, |pending, (_, pods)| pending.saturating_add(pods));
        if pending == 0 {
            self.uncounted = scrape.plugins().collect();
        }
        let pods = scrape.queue(UNSCHEDULABLE_QUEUE)?;
        let now_ns = scrape.header.time_ns;
        let Lasting { since_ns, before } = self.learned.unschedulable.judge(pods, now_ns, &self.limits)?;
        let mut data = Data::from([
            ("unschedulable_pods", pods.into()),
            ("since_ms", (now_ns.saturating_sub(since_ns) / 1_000_000).into()),
        ]);
        let plugins: Vec<_> = scrape
            .plugins()
            .map(|(plugin, pods)| {
                let uncounted = self.uncounted.get(&plugin).copied().unwrap_or_default();
                (plugin, pods.saturating_sub(uncounted))
            })
            // More than there are pending: some of them are gone.
            .filter(|(_, pods)| (1..=pending).contains(pods))
            .take(SHOWN_PLUGINS)
            .map(|(plugin, pods)| Data::from([("plugin", plugin.into()), ("pods", pods.into())]))
            .collect();
        if !plugins.is_empty() {
            data.push("plugins", Value::List(plugins));
        }
        let baseline = (before.samples() > 0).then_some((&before, "pods"));
        Some(anomaly(&UNSCHEDULABLE, scrape, data, pods, baseline))
    }

    /// Judges the pods that were chosen to make room since the last scrape.
    fn preemptions(&mut self, last: &Scrape, scrape: &Scrape) -> Option<Anomaly> {
        let window_ns = scrape.header.time_ns.saturating_sub(last.header.time_ns);
        if window_ns > self.limits.interval_ns.saturating_mul(MAX_INTERVALS) {
            return None;
        }
        let victims = scrape.victims.saturating_sub(last.victims);
        let before = self.learned.victims.judge(victims, scrape.header.time_ns, &self.limits.victims)??;
        let data = Data::from([
            ("victim_pods", victims.into()),
            ("attempts", scrape.preemptions.saturating_sub(last.preemptions).into()),
            ("window_ms", (window_ns / 1_000_000).into()),
        ]);
        Some(anomaly(&PREEMPTIONS, scrape, data, victims, Some((&before, "pods"))))
    }
}

static LATENCY: Kind = Kind::new("scheduler.latency", Severity::Warning, Outcome::Success, message::latency);
static QUEUE_DEPTH: Kind =
    Kind::new("scheduler.queue_depth", Severity::Warning, Outcome::Unknown, message::queue_depth);
static UNSCHEDULABLE: Kind =
    Kind::new("scheduler.unschedulable", Severity::Warning, Outcome::Failure, message::unschedulable);
static PREEMPTIONS: Kind =
    Kind::new("scheduler.preemptions", Severity::Warning, Outcome::Unknown, message::preemptions);

/// Creates an anomaly of this value, with what is normal for it and its unit.
fn anomaly(
    kind: &'static Kind,
    scrape: &Scrape,
    data: Data,
    value: u64,
    before: Option<(&Baseline, &'static str)>,
) -> Anomaly {
    Anomaly {
        data,
        magnitude: value,
        baseline: before.map(|(baseline, unit)| normal(baseline, value, unit)),
        ..Anomaly::new(kind, &scrape.header)
    }
}

/// Sets counters that a scrape lacks to their last value, or to 0 if this process of the scheduler never had them.
/// Returns whether the counters continue those of the last scrape.
fn continues(last: Option<&Scrape>, scrape: &mut Scrape) -> bool {
    let last = last.filter(|last| last.started_ms.abs_diff(scrape.started_ms) < SAME_START_MS);
    let none = Scrape { attempts: 0, attempts_us: 0, preemptions: 0, victims: 0, ..Scrape::empty(0) };
    let before = last.unwrap_or(&none);
    if scrape.attempts == UNKNOWN {
        (scrape.attempts, scrape.attempts_us, scrape.buckets) =
            (before.attempts, before.attempts_us, before.buckets);
    }
    if scrape.preemptions == UNKNOWN {
        scrape.preemptions = before.preemptions;
    }
    if scrape.victims == UNKNOWN {
        scrape.victims = before.victims;
    }
    last.is_some_and(|last| {
        last.header.time_ns < scrape.header.time_ns
            && last.attempts <= scrape.attempts
            && last.attempts_us <= scrape.attempts_us
            && last.preemptions <= scrape.preemptions
            && last.victims <= scrape.victims
    })
}

/// Upper bound of the bucket that the 99th percentile is in; `None` if it is in the last one, which has no bound.
fn percentile(from: &[Bucket], to: &[Bucket], attempts: u64) -> Option<u64> {
    let rank = attempts - attempts / 100;
    let before = |le_us| from.iter().find(|bucket| bucket.le_us == le_us).map_or(0, |bucket| bucket.count);
    let bucket = to
        .iter()
        .filter(|bucket| bucket.le_us > 0)
        .find(|bucket| bucket.count.saturating_sub(before(bucket.le_us)) >= rank)?;
    Some(bucket.le_us).filter(|le_us| *le_us != UNKNOWN)
}

#[cfg(test)]
mod tests;
