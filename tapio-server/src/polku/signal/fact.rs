//! Signals as occurrences.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use tapio_common::baseline::Baseline;
use tapio_occurrence::{
    Data, Normal, Occurrence, Outcome, Severity, Workload,
    kubernetes::{Fact as _, Reference},
    signal::{
        APPLICATION, Call as Said, Calls, ERRORS, HOST, LATENCY, LOGS, Member, Passed, Peer, Phase, SOURCE,
        Side, Signal, Trace,
    },
};
use ulid::Ulid;

use super::{
    Operation, Origin,
    entity::{Entity, Id},
    series::{About, Draft},
    traces::TraceId,
};

/// Whose signal it is.
pub(super) struct Of<'a> {
    pub(super) entity: &'a Entity,
    pub(super) peer: Option<&'a Entity>,
    pub(super) side: Option<Side>,
    pub(super) operation: Option<Operation>,
    pub(super) origin: Origin,
    pub(super) cluster: Option<&'a Arc<str>>,
}

/// The occurrence of a signal. `passed` gives the entities of a trace.
pub(super) fn signal<'a>(
    of: &Of<'_>,
    draft: Draft,
    now_ns: u64,
    passed: impl Fn(&TraceId) -> &'a [Id],
    get: impl Fn(Id) -> Option<&'a Entity>,
) -> serde_json::Result<Occurrence> {
    let Draft { about, phase, since_ns, tally, normal } = draft;
    let ms = |from_ns: u64| now_ns.saturating_sub(if from_ns == 0 { now_ns } else { from_ns }) / 1_000_000;
    let peer = of.peer.map(|peer| Peer {
        kind: Some(peer.of.kind.clone()),
        namespace: peer.of.namespace.clone(),
        name: Some(peer.of.name.clone()),
    });
    let through = tally.traces.iter().flat_map(|(trace, _)| {
        let entities = passed(trace).iter().filter_map(|id| get(*id));
        entities.map(|entity| Passed { trace_id: hex(trace), object: entity.of.clone() })
    });
    let signal = Signal {
        object: of.entity.of.clone(),
        service: of.entity.service.clone().filter(|service| *service != of.entity.of.name),
        side: of.side,
        peer: peer.unwrap_or_default(),
        operation: of.operation.map(|operation| operation.name().to_owned()),
        from: of.origin.name().to_owned(),
        phase,
        since_ms: ms(since_ns),
        window_ms: ms(tally.from_ns),
        calls: tally.calls,
        errors: tally.errors,
        p90_us: tally.durations.p90_us().filter(|_| about != About::Logs),
        passed: through.collect(),
        traces: tally
            .traces
            .iter()
            .map(|(trace, span)| Trace {
                trace_id: hex(trace),
                span_id: Some(hex(span)).filter(|_| *span != [0; 8]),
            })
            .collect(),
        pods: tally.pods.iter().map(|pod| Member::clone(pod)).collect(),
    };
    let (kind, severity, value, unit) = match about {
        About::Errors => (
            ERRORS,
            Severity::Error,
            (signal.errors * 10_000).checked_div(signal.calls),
            "errors of 10000 calls",
        ),
        About::Latency => (LATENCY, Severity::Warning, signal.p90_us, "us"),
        About::Logs => (LOGS, Severity::Warning, Some(signal.errors), "records"),
    };
    let is_over = phase == Phase::Ended;
    let message = message(of, about, &signal, &normal);
    let count = match about {
        _ if is_over => 1,
        About::Errors | About::Logs => signal.errors.max(1),
        About::Latency => signal.calls.max(1),
    };
    Ok(occurrence(
        Head {
            kind,
            severity: if is_over { Severity::Info } else { severity },
            outcome: if is_over { Outcome::Success } else { Outcome::Failure },
            message,
            count,
        },
        of,
        now_ns,
        signal.to_data()?,
        value.filter(|_| !is_over).map(|value| self::normal(&normal, value, unit, about)),
    ))
}

/// The occurrence with whom an entity calls.
pub(super) fn calls(of: &Of<'_>, calls: Vec<Said>, now_ns: u64) -> serde_json::Result<Occurrence> {
    let names: Vec<_> = calls.iter().map(|call| call.object.name.as_str()).take(3).collect();
    let more = if calls.len() > names.len() { " and others" } else { "" };
    let message = format!("{} calls {}{more}", shown(&of.entity.of), names.join(", "));
    let count = calls.iter().map(|call| call.count).sum::<u64>().max(1);
    let data = Calls { object: of.entity.of.clone(), service: of.entity.service.clone(), calls }.to_data()?;
    let head =
        Head { kind: Calls::TYPE, severity: Severity::Debug, outcome: Outcome::Success, message, count };
    Ok(occurrence(head, of, now_ns, data, None))
}

struct Head {
    kind: &'static str,
    severity: Severity,
    outcome: Outcome,
    message: String,
    count: u64,
}

fn occurrence(head: Head, of: &Of<'_>, now_ns: u64, data: Data, baseline: Option<Normal>) -> Occurrence {
    let Head { kind, severity, outcome, message, count } = head;
    let mut bits = 0_u128;
    for salt in 0_u8..2 {
        let mut hasher = DefaultHasher::new();
        let peer = of.peer.map(|peer| &peer.of);
        (salt, kind, &message, &of.entity.of, peer, of.side, of.operation, of.origin).hash(&mut hasher);
        bits = bits << 64 | u128::from(hasher.finish());
    }
    Occurrence {
        id: Ulid::from_parts(now_ns / 1_000_000, bits),
        time_unix_ns: now_ns,
        source: SOURCE.into(),
        kind: kind.into(),
        severity,
        outcome,
        message,
        cluster: of.cluster.cloned(),
        node: "".into(),
        workload: workload(&of.entity.of).map(Arc::new),
        process: None,
        actor: None,
        peer: None,
        data,
        baseline,
        count,
    }
}

/// The entity as agents write a workload; `None` of an `Application`.
fn workload(of: &Reference) -> Option<Workload> {
    let namespace = of.namespace.clone();
    match &*of.kind {
        APPLICATION | HOST | "Service" => None,
        "Pod" => Some(Workload {
            namespace,
            pod: Some(of.name.clone()),
            pod_uid: of.uid.clone(),
            ..Workload::default()
        }),
        kind => Some(Workload {
            namespace,
            owner_kind: Some(kind.to_owned()),
            owner: Some(of.name.clone()),
            ..Workload::default()
        }),
    }
}

fn message(of: &Of<'_>, about: About, signal: &Signal, normal: &Baseline) -> String {
    let who = shown(&of.entity.of);
    let operation = of.operation.map_or("", Operation::name);
    let calls = match (of.side, of.peer) {
        (Some(Side::Client), Some(peer)) => format!("{operation} calls of {who} to {}", peer.of.name),
        (Some(Side::Client), None) => format!("{operation} calls of {who}"),
        _ => format!("{operation} calls to {who}"),
    };
    let during = |ms: u64| format!("{} s", ms.div_ceil(1_000));
    let (errors, all) = (signal.errors, signal.calls);
    match (about, signal.phase) {
        (About::Errors, Phase::Ended) => {
            format!("{calls} fail as seldom as normal again, after {}", during(signal.since_ms))
        }
        (About::Latency, Phase::Ended) => {
            format!("{calls} take as long as normal again, after {}", during(signal.since_ms))
        }
        (About::Logs, Phase::Ended) => {
            format!("{who} logs as few errors as normal again, after {}", during(signal.since_ms))
        }
        (About::Errors, _) => format!(
            "{errors} of {all} {calls} failed in {}, {} (normal: {})",
            during(signal.window_ms),
            percent((errors * 10_000).checked_div(all).unwrap_or_default()),
            percent(normal.mean()),
        ),
        (About::Latency, _) => format!(
            "{calls} take {} (90th percentile) since {}; normal are {}",
            duration(signal.p90_us.unwrap_or_default()),
            during(signal.since_ms),
            duration(normal.mean()),
        ),
        (About::Logs, _) => format!(
            "{who} logged {errors} errors in {}; normal are {} in a window",
            during(signal.window_ms),
            normal.mean(),
        ),
    }
}

fn percent(of_10_000: u64) -> String {
    match of_10_000 {
        0 => "0 %".to_owned(),
        few @ 1..1_000 => format!("{}.{} %", few / 100, few % 100 / 10),
        many => format!("{} %", many / 100),
    }
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} us"),
        1_000..10_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

fn shown(of: &Reference) -> String {
    match &of.namespace {
        Some(namespace) => format!("{} ({namespace})", of.name),
        None => of.name.clone(),
    }
}

fn normal(baseline: &Baseline, value: u64, unit: &'static str, about: About) -> Normal {
    let mean = baseline.mean();
    // Of a share the ratio to next to nothing says nothing.
    let has_ratio = mean > 0 && about != About::Errors;
    Normal {
        mean,
        deviation: baseline.deviation(),
        unit: unit.into(),
        samples: baseline.samples(),
        ratio: has_ratio.then(|| (value as f64 / mean as f64 * 10.0).round() / 10.0),
    }
}

/// An id in hexadecimal digits.
fn hex(id: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 * id.len());
    for byte in id {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
