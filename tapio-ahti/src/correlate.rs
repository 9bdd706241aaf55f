//! What is known of a trace: signals that have it as an exemplar, and incidents that these are part of.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_occurrence::{printable::printable, signal::EXEMPLARS};

use crate::{
    answer::shown,
    finding::Finding,
    incident::{Incident, Line},
};

/// What is known of a trace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Correlation {
    /// Its id.
    pub trace_id: String,
    /// Signals with the trace as an exemplar, the newest first.
    pub signals: Vec<Line>,
    /// Incidents that these are part of, the newest first.
    pub incidents: Vec<Incident>,
    /// Entities that the trace passed through, as far as they are known.
    pub passed: Vec<String>,
    /// Where there are no signals: why that may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing: Option<String>,
}

/// Whether a text is a trace id: 32 hexadecimal digits, not all of them 0.
#[must_use]
pub fn is_trace_id(text: &str) -> bool {
    text.len() == 32
        && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        && text.bytes().any(|byte| byte != b'0')
}

/// Whether a finding has a trace as an exemplar.
pub(crate) fn is_of(finding: &Finding, trace_id: &str) -> bool {
    finding.fields.get("trace_id").is_some_and(|traces| traces.iter().any(|known| known == trace_id))
}

/// The entities that a trace passed through, by the findings that have it.
pub(crate) fn passed<'a>(findings: impl Iterator<Item = &'a Finding>, trace_id: &str) -> Vec<String> {
    let all = findings.flat_map(|finding| finding.fields.get("passed").into_iter().flatten());
    let mut names: Vec<_> = all
        .filter_map(|passed| passed.strip_prefix(trace_id)?.strip_prefix(' '))
        .map(ToOwned::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Why there may be nothing.
pub(crate) fn nothing() -> String {
    format!(
        "no signal kept this trace id: Tapio keeps at most {EXEMPLARS} exemplars of each signal, once a minute while it lasts, for 24 h, \
         and none of traces whose calls were as they normally are"
    )
}

impl Correlation {
    /// The answer as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        if let Some(nothing) = &self.nothing {
            let _ = writeln!(out, "{nothing}");
        }
        for signal in &self.signals {
            let _ = writeln!(out, "SIGNAL    {}", printable(&shown(signal)));
        }
        for incident in &self.incidents {
            let _ = writeln!(out, "INCIDENT  {}  {}", incident.id, printable(&incident.title));
        }
        if !self.passed.is_empty() {
            let _ = writeln!(out, "PASSED    {}", printable(&self.passed.join(", ")));
        }
        out
    }
}
