//! An incident as text, for a terminal.

use std::fmt::Write as _;

use tapio_occurrence::{printable::printable, timestamp};

use crate::{
    incident::{Coverage, Evidence, Incident, Line, Name, Status},
    story,
};

/// Lines after the first failure that are shown.
const MAX_THEN: usize = 6;

/// Writes an incident, with what was looked at.
#[must_use]
pub fn text(incident: &Incident, coverage: &Coverage) -> String {
    let mut out = String::new();
    let state = match incident.status {
        Status::Open => story::shown(incident.certainty),
        Status::Resolved => "RESOLVED",
        Status::Regressed => "REGRESSED",
    };
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}.  {}  {state}", printable(&incident.title), incident.id);
    let (cause, rest) = match (incident.has_cause, incident.lines.split_first()) {
        (true, Some((cause, rest))) => (Some(cause), rest),
        _ => (None, incident.lines.as_slice()),
    };
    match cause {
        Some(cause) => row(&mut out, "CAUSE", &shown(cause)),
        None => row(&mut out, "CAUSE", "not known"),
    }
    for (nth, line) in rest.iter().take(MAX_THEN).enumerate() {
        row(&mut out, if nth == 0 { "FIRST" } else { "THEN" }, &shown(line));
    }
    if rest.len() > MAX_THEN {
        row(&mut out, "", &format!("and {} more", rest.len() - MAX_THEN));
    }
    if !incident.hits.is_empty() {
        row(&mut out, "HITS", &names(&incident.hits));
    }
    if !incident.at_risk.is_empty() {
        row(&mut out, "AT RISK", &names(&incident.at_risk));
    }
    if !incident.ruled_out.is_empty() {
        row(&mut out, "RULED OUT", &incident.ruled_out.join(" · "));
    }
    if !incident.missing.is_empty() {
        row(&mut out, "MISSING", &incident.missing.join(" · "));
    }
    for (nth, advice) in incident.advice.iter().enumerate() {
        let command = advice.command.as_ref().map(|command| format!(": {command}")).unwrap_or_default();
        row(&mut out, if nth == 0 { "DO FIRST" } else { "THEN" }, &format!("{}{command}", advice.text));
    }
    if incident.seen_before > 0 {
        row(&mut out, "SEEN", &format!("{} times before", incident.seen_before));
    }
    row(&mut out, "COVERAGE", &covered(coverage));
    out
}

/// What is looked at, in one line.
#[must_use]
pub fn covered(coverage: &Coverage) -> String {
    let kubernetes = match coverage.kubernetes_age_s {
        Some(age) => format!("Kubernetes {age} s old"),
        None => "Kubernetes is not watched".to_owned(),
    };
    let mut all = vec![format!("{} of {} nodes", coverage.nodes, coverage.of_nodes), kubernetes];
    all.extend(coverage.silent.iter().take(3).cloned());
    if coverage.dropped > 0 {
        all.push(format!("{} anomalies dropped by agents", coverage.dropped));
    }
    all.join(" · ")
}

fn row(out: &mut String, head: &str, text: &str) {
    let _ = writeln!(out, "{head:<9} {}", printable(text));
}

fn shown(line: &Line) -> String {
    let time = timestamp(line.since_unix_ns).to_string();
    let time = time.get(11..19).unwrap_or_default().to_owned();
    let times = match (line.count, line.pods) {
        (0 | 1, _) => String::new(),
        (count, 0 | 1) => format!(", {count} times"),
        (count, pods) => format!(", {count} times in {pods} pods"),
    };
    let owner = match line.owner {
        Evidence::Exact => "exact",
        Evidence::Inferred => "inferred",
    };
    format!("{time} {}{times} [{}, {owner}]", line.text, line.source)
}

fn names(names: &[Name]) -> String {
    let shown: Vec<_> = names.iter().take(5).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" + {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}
