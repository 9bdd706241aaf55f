//! Link: what the network drops below its connections.
//!
//! Judges the counters of each network namespace ([`Namespace`]), which are read from files: no program runs for a packet.
//! Reports `link.listen_overflow`, `link.conntrack_full` and `link.packet_drops`.
//!
//! A namespace is a pod's, or the node's. Which process of a pod dropped something is not known: the owner is the pod.

mod message;
mod namespace;
mod settings;

use std::{collections::HashMap, sync::Arc};

pub use namespace::{Namespace, Reason, UNKNOWN};
pub use settings::Settings;

use tapio_occurrence::{Data, Outcome, Severity};

use self::settings::Limits;
use super::{
    Anomaly, Hook, Kind, Malformed, Observer, Only, Reads,
    gauge::{self, Gauge},
};

static LISTEN_OVERFLOW: Kind =
    Kind::new("link.listen_overflow", Severity::Warning, Outcome::Failure, message::overflow);
static CONNTRACK_FULL: Kind =
    Kind::new("link.conntrack_full", Severity::Error, Outcome::Failure, message::full);
static PACKET_DROPS: Kind =
    Kind::new("link.packet_drops", Severity::Warning, Outcome::Failure, message::drops);

/// A namespace that no sample has shown for this long is forgotten.
const FORGET_NS: u64 = 15 * 60 * SECOND_NS;
/// How often such namespaces are removed.
const SWEEP_NS: u64 = 60 * SECOND_NS;
/// A rate over less is that of a burst.
const MIN_WINDOW_NS: u64 = SECOND_NS / 2;
/// Connections are tracked in a table that is full when a new one finds no place. Places become free between that and the
/// sample, so a table nearly full counts, too. Per cent.
const NEARLY_FULL: u128 = 90;
const SECOND_NS: u64 = 1_000_000_000;
const MINUTE_NS: u64 = 60 * SECOND_NS;

/// The link observer.
#[derive(Debug)]
pub struct Link {
    limits: Arc<Limits>,
    spaces: HashMap<u64, Space>,
    /// When vanished namespaces were last removed.
    swept_ns: u64,
}

/// The state of a namespace.
#[derive(Debug)]
struct Space {
    last: Namespace,
    drops: [Gauge; Reason::ALL.len()],
}

impl Observer for Link {
    const NAME: &'static str = "link";
    const FIELDS: &'static [&'static str] = &[];
    const HOOKS: &'static [Hook] = &[];
    const KINDS: &'static [&'static Kind] = &[&LISTEN_OVERFLOW, &CONNTRACK_FULL, &PACKET_DROPS];
    type Settings = Settings;

    fn new(settings: &Settings) -> Self {
        Self { limits: Arc::new(settings.limits()), spaces: HashMap::new(), swept_ns: 0 }
    }

    fn kernel_settings(_: &Settings) -> Vec<u8> {
        Vec::new()
    }

    fn reads(settings: &Settings) -> Option<Reads> {
        Some(Reads::Namespaces { interval: settings.interval.get() })
    }

    fn observe(&mut self, record: &[u8], out: &mut Vec<Anomaly>) -> Result<(), Malformed> {
        let now: Namespace =
            bytemuck::try_pod_read_unaligned(record).map_err(|_| Malformed::Size(record.len()))?;
        let limits = Arc::clone(&self.limits);
        let Some(space) = self.spaces.get_mut(&now.id) else {
            self.spaces.insert(now.id, Space { last: now, drops: Default::default() });
            return Ok(());
        };
        space.judge(&now, &limits, out);
        Ok(())
    }

    fn tick(&mut self, now_ns: u64, _: &mut Vec<Anomaly>) {
        self.spaces.retain(|_, space| now_ns.saturating_sub(space.last.header.time_ns) < FORGET_NS);
        self.swept_ns = now_ns;
    }

    fn wake_at(&self) -> Option<u64> {
        (!self.spaces.is_empty()).then(|| self.swept_ns.saturating_add(SWEEP_NS))
    }
}

impl Space {
    /// Compares a sample with the one before.
    fn judge(&mut self, now: &Namespace, limits: &Limits, out: &mut Vec<Anomaly>) {
        let window_ns = now.header.time_ns.saturating_sub(self.last.header.time_ns);
        if window_ns < MIN_WINDOW_NS {
            return;
        }
        let then = std::mem::replace(&mut self.last, *now);
        let window_ms = window_ns / 1_000_000;
        out.extend(overflow(&then, now, window_ms, limits));
        out.extend(full(&then, now, window_ms));
        for (at, reason) in Reason::ALL.iter().enumerate() {
            let Some(dropped) = grown(then.drops[at], now.drops[at]) else { continue };
            let per_minute = u128::from(dropped) * u128::from(MINUTE_NS) / u128::from(window_ns);
            let per_minute = u64::try_from(per_minute).unwrap_or(u64::MAX);
            let judged = self.drops[at].judge(per_minute, now.header.time_ns, &limits.drops);
            let Some(before) = judged.flatten() else { continue };
            out.push(Anomaly {
                data: Data::from([
                    ("reason", reason.name().into()),
                    ("rate_packets", per_minute.into()),
                    ("window_ms", window_ms.into()),
                ]),
                detail: at as u32,
                baseline: Some(gauge::normal(&before, per_minute, "packets")),
                magnitude: per_minute,
                ..Anomaly::new(&PACKET_DROPS, &now.header)
            });
        }
    }
}

/// A server accepts connections more slowly than they come.
fn overflow(then: &Namespace, now: &Namespace, window_ms: u64, limits: &Limits) -> Option<Anomaly> {
    let dropped = grown(then.listen_overflows, now.listen_overflows).filter(|dropped| *dropped > 0)?;
    let mut data = Data::from([("dropped_connections", dropped.into()), ("window_ms", window_ms.into())]);
    if now.longest > 0 {
        data.push("port", u64::from(now.port));
        data.push("waiting_connections", u64::from(now.longest));
    }
    Some(Anomaly {
        data,
        detail: now.port,
        magnitude: dropped,
        only: Only { expected_window_ns: Some(limits.expected_window_ns), ..Only::ALL },
        ..Anomaly::new(&LISTEN_OVERFLOW, &now.header)
    })
}

/// A new connection found no place in the table in which all are tracked: its packets were dropped, or one that had no answer
/// yet made room.
fn full(then: &Namespace, now: &Namespace, window_ms: u64) -> Option<Anomaly> {
    let [dropped, evicted] = [(then.untracked, now.untracked), (then.evicted, now.evicted)]
        .map(|(then, now)| grown(then, now).unwrap_or(0));
    let is_full = |at: &Namespace| {
        at.tracked != UNKNOWN
            && at.tracked_limit != UNKNOWN
            && u128::from(at.tracked) * 100 >= u128::from(at.tracked_limit) * NEARLY_FULL
    };
    if dropped.max(evicted) == 0 || !(is_full(then) || is_full(now)) {
        return None;
    }
    Some(Anomaly {
        severity: if dropped > 0 { CONNTRACK_FULL.severity } else { Severity::Warning },
        data: Data::from([
            ("dropped_packets", dropped.into()),
            ("evicted_connections", evicted.into()),
            ("tracked_connections", now.tracked.into()),
            ("limit_connections", now.tracked_limit.into()),
            ("window_ms", window_ms.into()),
        ]),
        magnitude: dropped.saturating_add(evicted),
        ..Anomaly::new(&CONNTRACK_FULL, &now.header)
    })
}

/// By how much a counter has grown; `None` if that is not known.
const fn grown(then: u64, now: u64) -> Option<u64> {
    if then == UNKNOWN || now == UNKNOWN { None } else { now.checked_sub(then) }
}

#[cfg(test)]
mod tests;
