//! How answers are printed.

use std::{
    fmt::Write as _,
    io::{IsTerminal as _, stdout},
};

use serde::Serialize;
use tapio_ahti::{
    answer::{self, Answer},
    calibration::Lead,
    incident::{Coverage, Incident, Line, Mute, Status},
};
use tapio_occurrence::{
    printable::{self, printable},
    timestamp,
};

use crate::{cli::Format, failure::Failure};

/// JSON: programs get the bytes of the API, people one value a line.
pub(crate) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = if stdout().is_terminal() {
        serde_json::to_string_pretty(value)
    } else {
        serde_json::to_string(value)
    };
    let text = text.map_err(|error| Failure::Other(error.into()))?;
    Ok(format!("{}\n", printable::json(&text)))
}

pub(crate) fn answer(answer: &Answer, format: Format) -> Result<String, Failure> {
    match format {
        Format::Json => json(answer),
        Format::Text => Ok(answer.text()),
        Format::Wide => {
            let considered = answer.incident.as_ref().map(considered).unwrap_or_default();
            Ok(answer.text() + &considered)
        }
    }
}

/// How likely the cause is the right one, and every cause that was considered, with what its score is made of.
fn considered(incident: &Incident) -> String {
    let mut out = String::new();
    if let Some(Lead { margin, chance }) = &incident.lead {
        let ahead = match margin {
            Some(margin) => format!("ahead of the next cause by {margin:.2}"),
            None => "no other cause comes into question".to_owned(),
        };
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "CHANCE    {} %: {ahead}; fitted to {} known failures, {} of this cluster judged",
            chance.percent, chance.failures, chance.judged
        );
    }
    for candidate in &incident.considered {
        let entity = candidate.entity.to_string();
        let whose = if candidate.text.starts_with(&entity) { String::new() } else { format!("{entity}: ") };
        let text = whose + &candidate.text;
        let _ = writeln!(out, "{:>6.2}    {}", candidate.score, printable(&text));
        for (term, value) in &candidate.terms {
            let _ = writeln!(out, "{value:>+12.2} {}", printable(term));
        }
    }
    out
}

pub(crate) fn incidents(incidents: &[Incident], coverage: &Coverage) -> String {
    let mut out = String::new();
    if incidents.is_empty() {
        let _ = writeln!(out, "no incidents");
    }
    for incident in incidents {
        let state = match incident.status {
            Status::Open => "open",
            Status::Resolved => "resolved",
            Status::Regressed => "regressed",
        };
        let since = time(incident.since_unix_ns);
        let attention = answer::attention(incident).map(|word| format!(" [{word}]")).unwrap_or_default();
        let title = printable(&incident.title);
        let _ = writeln!(out, "{:<8} {state:<9} {since}  {title}{attention}", incident.id);
    }
    let _ = writeln!(out, "COVERAGE  {}", answer::covered_text(coverage));
    out
}

pub(crate) fn mutes(mutes: &[Mute]) -> String {
    let mut out = String::new();
    if mutes.is_empty() {
        let _ = writeln!(out, "nothing is muted but single incidents: get incidents");
    }
    for mute in mutes {
        let of = mute.of.as_ref().map(ToString::to_string).unwrap_or_default();
        let rest = answer::muted(&Mute { of: None, ..mute.clone() });
        let _ = writeln!(out, "{}  {}", printable(&of), printable(&rest));
    }
    out
}

pub(crate) fn lines(lines: &[Line], nothing: &str) -> String {
    let mut out = String::new();
    if lines.is_empty() {
        let _ = writeln!(out, "{nothing}");
    }
    for line in lines {
        let times = if line.count > 1 { format!("{}x", line.count) } else { String::new() };
        let _ = writeln!(out, "{}  {times:<6} {}", time(line.last_unix_ns), printable(&line.text));
    }
    out
}

fn time(unix_ns: u64) -> String {
    let text = timestamp(unix_ns).to_string();
    format!("{}Z", text.get(..19).unwrap_or(&text))
}
