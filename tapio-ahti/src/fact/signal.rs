//! Signals: calls that fail or are slow, and who calls whom.

use std::net::IpAddr;

use tapio_occurrence::{
    Occurrence,
    kubernetes::Reference,
    signal::{APPLICATION, Calls, HOST, LATENCY, Phase, Signal},
};

use super::{Said, cut, finding, named_well};
use crate::{
    finding::{Key, Other, Times},
    graph::{EntityId, Graph, Name},
};

/// A latency that is `large`: so many times the normal one, and so much more, in microseconds.
const LARGE_TIMES: u64 = 5;
const LARGE_US: u64 = 250_000;
/// Most entries of a list of a signal: more than POLKU sends.
const MAX_ENTRIES: usize = 256;

/// Kinds that a service of an application may be, by its name.
const WORKLOADS: &[&str] = &["Deployment", "StatefulSet", "DaemonSet"];

/// Reads a signal.
///
/// # Errors
/// What is impossible in it.
pub(super) fn of_signal(fact: &Occurrence, signal: &Signal, graph: &mut Graph) -> Result<Said, String> {
    let lists = [signal.pods.len(), signal.traces.len(), signal.passed.len()];
    if lists.into_iter().any(|len| len > MAX_ENTRIES) {
        return Err(format!("a list of more than {MAX_ENTRIES} entries"));
    }
    let called = signal.called();
    named_well(&signal.object)?;
    called.iter().try_for_each(named_well)?;
    let Some(entity) = entity(&signal.object, graph, fact.time_unix_ns) else { return Ok(Said::Nothing) };
    let called = called.and_then(|called| self::entity(&called, graph, fact.time_unix_ns));
    let name = called.and_then(|id| graph.get(id)).map(|entity| entity.name.to_string());
    let operation = signal.operation.as_deref().unwrap_or_default();
    let side = fact.data.text("side").unwrap_or_default();
    let detail = cut(&format!("{side} {operation} {}", name.unwrap_or_default()));
    let key = Key { kind: fact.kind.clone(), entity, detail };
    if signal.phase == Phase::Ended {
        return Ok(Said::Ended { key, at_ns: fact.time_unix_ns });
    }
    let mut finding = finding(fact, key.kind, entity, key.detail);
    if signal.object.kind == APPLICATION {
        finding.exact = false;
    }
    for pod in &signal.pods {
        let Some(name) = &pod.pod else { continue };
        let of = Reference {
            kind: "Pod".to_owned(),
            namespace: signal.object.namespace.clone(),
            name: cut(name),
            uid: pod.pod_uid.as_deref().map(cut),
        };
        if let Some(pod) = graph.intern(&of, fact.time_unix_ns)
            && !finding.pods.contains(&pod)
        {
            finding.pods.push(pod);
            // How many of its calls failed is not known: that some did counts once.
            finding.of_pods.insert(pod, Times::at(fact.time_unix_ns, 1));
        }
    }
    finding.pods.sort_unstable();
    if let Some(called) = called {
        finding.peer = Some(Other { entity: Some(called), address: None, port: 0 });
        graph.calls.add(entity, called, finding.onset_ns, finding.last_ns);
    }
    let traces = signal.traces.iter().map(|trace| trace.trace_id.to_ascii_lowercase());
    finding.fields.insert("trace_id".into(), traces.collect());
    let passed = signal.passed.iter().filter_map(|passed| {
        named_well(&passed.object).ok()?;
        let place = Name::from(&passed.object);
        Some(format!("{} {place}", passed.trace_id.to_ascii_lowercase()))
    });
    finding.fields.insert("passed".into(), passed.collect());
    if fact.kind == LATENCY {
        let normal_us = fact.baseline.as_ref().map(|normal| normal.mean).unwrap_or_default();
        let p90_us = signal.p90_us.unwrap_or_default();
        let is_large =
            p90_us >= normal_us.saturating_mul(LARGE_TIMES) && p90_us >= normal_us.saturating_add(LARGE_US);
        finding.fields.insert("size".into(), vec![if is_large { "large" } else { "small" }.to_owned()]);
    }
    Ok(Said::Finding(Box::new(finding)))
}

/// Reads whom an entity calls.
///
/// # Errors
/// What is impossible in it.
pub(super) fn of_calls(fact: &Occurrence, calls: &Calls, graph: &mut Graph) -> Result<Said, String> {
    if calls.calls.len() > MAX_ENTRIES {
        return Err(format!("a list of more than {MAX_ENTRIES} entries"));
    }
    [&calls.object]
        .into_iter()
        .chain(calls.calls.iter().map(|call| &call.object))
        .try_for_each(named_well)?;
    let at = fact.time_unix_ns;
    let Some(caller) = entity(&calls.object, graph, at) else { return Ok(Said::Nothing) };
    let ago = |ms: u64| at.saturating_sub(ms.saturating_mul(1_000_000));
    for call in &calls.calls {
        if let Some(called) = entity(&call.object, graph, at) {
            graph.calls.add(caller, called, ago(call.since_ms), ago(call.last_ms));
        }
    }
    Ok(Said::Graph(Some(caller)))
}

/// The entity that POLKU means. Of a name or an address it is what Kubernetes has under it, if there is something.
fn entity(of: &Reference, graph: &mut Graph, at_ns: u64) -> Option<EntityId> {
    let namespace = of.namespace.as_deref();
    let known = |kind: &str, namespace: Option<&str>, name: &str| {
        graph.named(&Name::new(kind, namespace, name), at_ns)
    };
    let found = match &*of.kind {
        APPLICATION => WORKLOADS.iter().find_map(|kind| known(kind, namespace, &of.name)),
        HOST => match (of.name.parse::<IpAddr>(), of.name.split_once('.')) {
            (Ok(address), _) => graph.at_address(address, at_ns),
            (Err(_), None) => known("Service", namespace, &of.name),
            // NAME.NAMESPACE; more labels are those of a domain.
            (Err(_), Some((name, namespace))) => known("Service", Some(namespace), name),
        },
        _ => None,
    };
    found.or_else(|| graph.intern(of, at_ns))
}
