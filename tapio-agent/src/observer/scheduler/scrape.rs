//! One scrape of kube-scheduler as a record, and the text that it is read from.
//!
//! The families, in Kubernetes 1.20 to 1.36: `scheduler_pending_pods` (queue `gated` since 1.26, others may follow),
//! `scheduler_unschedulable_pods` (since 1.24), `scheduler_scheduling_attempt_duration_seconds` (since 1.23; before,
//! and beside it until 1.26, `scheduler_e2e_scheduling_duration_seconds`), `scheduler_preemption_attempts_total` and
//! `scheduler_preemption_victims`. `process_start_time_seconds` is Prometheus's own.

use std::collections::BTreeMap;

use bytemuck::{Pod, Zeroable};
use nom_openmetrics::{Sample, parser::family};
use tapio_common::{Event, Header, WHOLE_NODE};
use tapio_service::setting::shown;

use crate::observer::Read;

/// A number that the scheduler does not serve, or not yet. Nothing is concluded from it.
pub const UNKNOWN: u64 = u64::MAX;
/// Maximum number of buckets. kube-scheduler has 16.
pub const MAX_BUCKETS: usize = 24;
/// Maximum number of queues. kube-scheduler has up to 6.
pub const MAX_QUEUES: usize = 8;
/// Maximum number of plugins. More than these would not be read.
pub const MAX_PLUGINS: usize = 32;
/// Maximum length of a name, in bytes.
pub const MAX_NAME: usize = 56;
/// Maximum number of names that are read per family, before the greatest are chosen.
const MAX_NAMES: usize = 1000;
/// The plugin that holds back pods until their scheduling gates are removed. They wait on purpose, and are counted in
/// the queue `gated`.
const GATES: &str = "SchedulingGates";

/// The numbers of one scrape. Counters are sums since the scheduler started; any number may be [`UNKNOWN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Scrape {
    /// When it was scraped. About the node as a whole.
    pub header: Header,
    /// When the scheduler's process started, milliseconds since 1970 UTC by its own clock; 0 if it does not say.
    pub started_ms: u64,
    /// Attempts that placed a pod.
    pub attempts: u64,
    /// Duration of these attempts, in microseconds.
    pub attempts_us: u64,
    /// Attempts to make room by preemption.
    pub preemptions: u64,
    /// Pods that were chosen to make room.
    pub victims: u64,
    /// Histogram of the durations.
    pub buckets: [Bucket; MAX_BUCKETS],
    /// Pending pods by queue.
    pub queues: [Pods; MAX_QUEUES],
    /// Unschedulable pods by the plugin that rejected them, the most first. A pod counts for each plugin that did.
    pub plugins: [Pods; MAX_PLUGINS],
}

/// One bucket of a histogram.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Bucket {
    /// Upper bound in microseconds; [`UNKNOWN`] for the last bucket, which has none; 0 for an unused entry.
    pub le_us: u64,
    /// Attempts that took at most this long.
    pub count: u64,
}

/// A number of pods.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Pods {
    /// Name of the queue or plugin, padded with zeros; all zeros for an unused entry.
    pub name: [u8; MAX_NAME],
    /// How many.
    pub pods: u64,
}

impl Event for Scrape {
    fn header(&self) -> &Header {
        &self.header
    }
}

impl Scrape {
    /// A scrape without any number.
    #[must_use]
    pub fn empty(time_ns: u64) -> Self {
        let header = Header { time_ns, cgroup_id: WHOLE_NODE, pid: 0, suppressed: 0, comm: [0; 16].into() };
        Self {
            header,
            attempts: UNKNOWN,
            attempts_us: UNKNOWN,
            preemptions: UNKNOWN,
            victims: UNKNOWN,
            ..Self::zeroed()
        }
    }

    /// Pods in this queue; `None` if the scheduler has no such queue.
    pub(super) fn queue(&self, name: &str) -> Option<u64> {
        self.queues().find(|(known, _)| known == name).map(|(_, pods)| pods)
    }

    /// The queues with a name.
    pub(super) fn queues(&self) -> impl Iterator<Item = (String, u64)> {
        named(&self.queues)
    }

    /// The plugins with a name, the most pods first.
    pub(super) fn plugins(&self) -> impl Iterator<Item = (String, u64)> {
        named(&self.plugins)
    }
}

impl Pods {
    /// A name that is too long is cut off.
    #[must_use]
    pub fn new(name: &str, pods: u64) -> Self {
        let mut padded = [0; MAX_NAME];
        let end = name.floor_char_boundary(MAX_NAME);
        padded[..end].copy_from_slice(&name.as_bytes()[..end]);
        Self { name: padded, pods }
    }
}

fn named(all: &[Pods]) -> impl Iterator<Item = (String, u64)> {
    all.iter().filter(|pods| pods.name[0] != 0).map(|Pods { name, pods }| {
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME);
        (String::from_utf8_lossy(&name[..end]).into_owned(), *pods)
    })
}

/// Reads one answer.
#[derive(Debug, Default)]
pub(super) struct Reader {
    started_s: f64,
    /// The attempts by their name since 1.23, and by the older one.
    attempts: [Histogram; 2],
    preemptions: Option<f64>,
    victims: Option<f64>,
    queues: BTreeMap<String, f64>,
    plugins: BTreeMap<String, f64>,
}

/// Sums over profiles.
#[derive(Debug, Default)]
struct Histogram {
    count: Option<f64>,
    seconds: f64,
    /// By upper bound in microseconds.
    buckets: BTreeMap<u64, f64>,
}

impl Read for Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        let part = |family: &str| name.strip_prefix(family);
        let attempts =
            ["scheduler_scheduling_attempt_duration_seconds", "scheduler_e2e_scheduling_duration_seconds"]
                .iter()
                .zip(&mut self.attempts)
                .find_map(|(family, histogram)| Some((histogram, part(family)?)));
        if let Some((histogram, part)) = attempts {
            let mut text = String::new();
            let sample = sample(line, &mut text)?;
            if label(&sample, "result").is_none_or(|result| result == "scheduled") {
                histogram.add(part, &sample)?;
            }
            return Ok(());
        }
        let mut text = String::new();
        match name {
            "process_start_time_seconds" => self.started_s = sample(line, &mut text)?.number(),
            "scheduler_preemption_attempts_total" => {
                self.preemptions = Some(sample(line, &mut text)?.number())
            }
            "scheduler_preemption_victims_sum" => self.victims = Some(sample(line, &mut text)?.number()),
            "scheduler_pending_pods" => add(&mut self.queues, &sample(line, &mut text)?, "queue"),
            "scheduler_unschedulable_pods" => add(&mut self.plugins, &sample(line, &mut text)?, "plugin"),
            _ => {}
        }
        Ok(())
    }

    fn record(&mut self, now_ns: u64) -> Result<Vec<u8>, String> {
        if self.queues.is_empty()
            && self.preemptions.is_none()
            && self.attempts.iter().all(|a| a.count.is_none())
        {
            return Err("it has no metrics of kube-scheduler".to_owned());
        }
        let mut scrape = Scrape::empty(now_ns);
        scrape.started_ms = whole(self.started_s * 1e3);
        if let Some(Histogram { count: Some(count), seconds, buckets }) =
            self.attempts.iter().find(|attempts| attempts.count.is_some())
        {
            (scrape.attempts, scrape.attempts_us) = (whole(*count), whole(seconds * 1e6));
            for (entry, (le_us, count)) in scrape.buckets.iter_mut().zip(buckets) {
                *entry = Bucket { le_us: *le_us, count: whole(*count) };
            }
        }
        scrape.preemptions = self.preemptions.map_or(UNKNOWN, whole);
        scrape.victims = self.victims.map_or(UNKNOWN, whole);
        self.plugins.remove(GATES);
        greatest(&self.queues, &mut scrape.queues);
        greatest(&self.plugins, &mut scrape.plugins);
        Ok(bytemuck::bytes_of(&scrape).to_vec())
    }
}

impl Histogram {
    /// Adds a sample of this part of the histogram.
    fn add(&mut self, part: &str, sample: &Sample<'_>) -> Result<(), String> {
        match part {
            "_count" => *self.count.get_or_insert_default() += sample.number(),
            "_sum" => self.seconds += sample.number(),
            "_bucket" => {
                let le = label(sample, "le").unwrap_or_default();
                let seconds: f64 = le.parse().map_err(|_| format!("le=\"{le}\" is not a number"))?;
                let le_us = if seconds.is_finite() { whole(seconds * 1e6) } else { UNKNOWN };
                if le_us > 0 && (self.buckets.len() < MAX_BUCKETS || self.buckets.contains_key(&le_us)) {
                    *self.buckets.entry(le_us).or_default() += sample.number();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Parses a line, which `text` then holds with its end.
fn sample<'a>(line: &str, text: &'a mut String) -> Result<Sample<'a>, String> {
    let wrong = || format!("it is not in the text format of Prometheus: {}", shown(line));
    // The parser accepts infinite values and writes to standard error then. None of ours can be infinite.
    let value = line.rsplit(' ').next().unwrap_or_default();
    if !value.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err(wrong());
    }
    *text = format!("{}\n", line.trim_end());
    match family(text) {
        Ok(("", mut family)) if family.samples.len() == 1 => family.samples.pop().ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn label<'a>(sample: &'a Sample<'_>, name: &str) -> Option<&'a str> {
    sample.labels().iter().find(|label| label.name == name).map(|label| label.value.as_str())
}

/// Adds a gauge to those of its name.
fn add(to: &mut BTreeMap<String, f64>, sample: &Sample<'_>, by: &str) {
    let Some(name) = label(sample, by).filter(|name| !name.is_empty()) else { return };
    if to.len() < MAX_NAMES || to.contains_key(name) {
        *to.entry(name.to_owned()).or_default() += sample.number();
    }
}

/// Copies those with most pods, the most first.
fn greatest(from: &BTreeMap<String, f64>, to: &mut [Pods]) {
    let mut all: Vec<_> = from.iter().map(|(name, pods)| Pods::new(name, whole(*pods))).collect();
    all.sort_by_key(|pods| std::cmp::Reverse(pods.pods));
    to.iter_mut().zip(all).for_each(|(entry, pods)| *entry = pods);
}

/// The nearest whole number; 0 for a negative one, which some versions have for a moment.
const fn whole(number: f64) -> u64 {
    // Saturates.
    let number = number.round() as u64;
    if number == UNKNOWN { UNKNOWN - 1 } else { number }
}

#[cfg(test)]
mod tests;
