//! The message of each anomaly: one sentence for people.

use std::fmt::Write as _;

use tapio_occurrence::{Data, Occurrence, Value};

use crate::observer::duration::{Micros, Seconds};

pub(super) fn latency(o: &Occurrence) -> String {
    let within = o
        .data
        .number("p99_us")
        .map_or_else(String::new, |us| format!(", 99 % of them at most {}", Micros(us)));
    format!(
        "kube-scheduler: placing a pod took {} on average{within}, normally {}: {} attempts in {}",
        Micros(number(o, "mean_us")),
        Micros(normally(o)),
        number(o, "attempts"),
        Window(o),
    )
}

pub(super) fn queue_depth(o: &Occurrence) -> String {
    let queue = o.data.text("queue").unwrap_or_default();
    format!(
        "kube-scheduler: {} in the queue `{queue}`, normally {}",
        Pods(number(o, "pending_pods")),
        normally(o)
    )
}

pub(super) fn unschedulable(o: &Occurrence) -> String {
    let pods = number(o, "unschedulable_pods");
    let mut text =
        format!("kube-scheduler: {} {} unschedulable", Pods(pods), if pods == 1 { "is" } else { "are" });
    if let Some(Value::List(plugins)) = o.data.get("plugins") {
        for (at, plugin) in plugins.iter().enumerate() {
            let name = plugin.text("plugin").unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{name} ({})", if at == 0 { ": " } else { ", " }, plugin_pods(plugin));
        }
    }
    let _ = write!(text, "; some have been for {}", Seconds(number(o, "since_ms") / 1000));
    if normally(o) > 0 {
        let _ = write!(text, ", normally {}", normally(o));
    }
    text
}

pub(super) fn preemptions(o: &Occurrence) -> String {
    format!(
        "kube-scheduler chose {} to be evicted in {}, to make room for pods of higher priority; normally {}",
        Pods(number(o, "victim_pods")),
        Window(o),
        normally(o),
    )
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

fn plugin_pods(plugin: &Data) -> u64 {
    plugin.number("pods").unwrap_or_default()
}

fn normally(o: &Occurrence) -> u64 {
    o.baseline.as_ref().map_or(0, |normal| normal.mean)
}

/// `1 pod`, `12 pods`
struct Pods(u64);

impl std::fmt::Display for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pod{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

/// `15 seconds`
struct Window<'a>(&'a Occurrence);

impl std::fmt::Display for Window<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Seconds((number(self.0, "window_ms") + 500) / 1000).fmt(f)
    }
}
