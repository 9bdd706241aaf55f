//! Changes, each with what came of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    explain::Known,
    fact::is_change,
    finding::Finding,
    incident::{Incident, Line},
    story,
};

/// A change of what an object should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// What was changed, and when.
    #[serde(flatten)]
    pub line: Line,
    /// `created`, `updated` or `deleted`.
    pub verb: String,
    /// What the fields are about that differ: `image`, `replicas`.
    pub aspects: Vec<String>,
    /// Who changed it: the field manager, such as `kubectl-patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// The tool that owns the object: `Argo CD`, `Flux`, `Helm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The tool's application or release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<String>,
    /// The tool's revision, such as a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_revision: Option<String>,
    /// The incidents whose cause it is.
    pub cause_of: Vec<String>,
}

/// The changes among some findings, the newest first.
pub(crate) fn of<'a>(
    known: Known<'_>,
    findings: impl Iterator<Item = &'a Finding>,
    incidents: &[&Incident],
) -> Vec<Changed> {
    let causes = incidents.iter().filter(|incident| incident.has_cause);
    let causes = causes.filter_map(|incident| Some((incident, incident.lines.first()?)));
    let mut of_fact: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (incident, cause) in causes {
        cause.facts.iter().for_each(|fact| of_fact.entry(fact).or_default().push(&incident.id));
    }
    let mut changes: Vec<&Finding> = findings.filter(|finding| is_change(&finding.key.kind)).collect();
    changes.sort_by_key(|finding| std::cmp::Reverse((finding.last_ns, finding.key.entity)));
    let changed = |finding: &Finding| {
        let line = story::line(known, finding);
        let field = |key| finding.field(key).map(ToOwned::to_owned);
        let mut cause_of: Vec<String> = line
            .facts
            .iter()
            .filter_map(|fact| of_fact.get(&**fact))
            .flatten()
            .map(|id| (*id).into())
            .collect();
        cause_of.dedup();
        Changed {
            verb: field("verb").unwrap_or_default(),
            aspects: finding.fields.get("aspect").cloned().unwrap_or_default(),
            manager: field("manager"),
            tool: field("tool"),
            application: field("application"),
            tool_revision: field("tool_revision"),
            cause_of,
            line,
        }
    };
    changes.into_iter().map(changed).collect()
}
