//! Texts of rules, filled in: what to do, and what was looked for.

use std::collections::BTreeMap;

use super::{lines::places, name};
use crate::{explain::Known, finding::Finding, incident::Advice, rule::Action, visible::Prose};

/// What a text may name, of a finding.
pub(super) fn values(known: Known<'_>, finding: &Finding) -> BTreeMap<&'static str, String> {
    let entity = name(known, finding.key.entity);
    let workload = name(known, known.graph.workload(finding.key.entity, finding.onset_ns));
    let peer = finding.peer.map(|peer| match peer.entity {
        Some(id) => name(known, known.graph.workload(id, finding.onset_ns)).name,
        None => peer.address.map_or_else(|| "?".to_owned(), |address| address.to_string()),
    });
    let field = |key| finding.field(key).unwrap_or("?").to_owned();
    BTreeMap::from([
        ("kind", entity.kind.to_lowercase()),
        ("name", entity.name),
        ("namespace", entity.namespace.unwrap_or_default()),
        ("workload", format!("{}/{}", workload.kind.to_lowercase(), workload.name)),
        ("workload_name", workload.name),
        ("peer", peer.unwrap_or_else(|| "?".to_owned())),
        ("node", finding.node.clone()),
        ("actor", field("actor")),
        ("manager", field("manager")),
        ("tool", field("tool")),
        ("application", field("application")),
        ("unit", field("unit")),
        ("tool_revision", field("tool_revision")),
        (
            "limit",
            finding
                .number("limit_bytes")
                .map_or_else(|| "?".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
        ),
    ])
}

/// The names that texts of rules may have in braces.
pub(crate) const NAMES: &[&str] = &[
    "kind",
    "name",
    "namespace",
    "workload",
    "workload_name",
    "peer",
    "node",
    "actor",
    "manager",
    "tool",
    "application",
    "unit",
    "tool_revision",
    "limit",
];

pub(super) fn filled(text: &str, values: &BTreeMap<&'static str, String>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        match after.split_once('}').and_then(|(key, after)| Some((values.get(key)?, after))) {
            Some((value, after)) => {
                filled.push_str(value);
                rest = after;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

pub(super) fn advice(known: Known<'_>, root: &Finding, actions: &[Action]) -> Vec<Advice> {
    let values = values(known, root);
    let tool = root.field("tool");
    let fits = |action: &&Action| match action.tool.as_deref() {
        None => true,
        Some("none") => tool.is_none_or(|tool| tool == "kubectl"),
        Some(wanted) => tool == Some(wanted),
    };
    let places = places(known, root);
    let prose = |text: &String| Prose::new(filled(text, &values), places.clone());
    let advice = actions.iter().filter(fits).map(|action| Advice {
        text: prose(&action.text),
        command: action.command.as_ref().map(prose),
        undo: action.undo.as_ref().map(prose),
    });
    advice.collect()
}
