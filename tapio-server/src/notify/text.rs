//! An incident in a few lines, for people who read it on a phone.

use tapio_ahti::{
    answer::{Story, attention, state, sure},
    incident::{Incident, Line},
};
use tapio_occurrence::{printable::printable, timestamp};

use super::{digest::Digest, plan::Event};

/// Names in a list.
const MAX_NAMES: usize = 4;
/// Incidents of a storm that are named.
const MAX_TITLES: usize = 8;

/// The first line: what it is about.
pub(super) fn head(event: Event, incident: &Incident, cluster: Option<&str>) -> String {
    let word = match event {
        Event::Opened | Event::Changed => sure(incident),
        Event::Resolved => "RESOLVED".to_owned(),
        Event::Regressed => format!("REGRESSED, {}", sure(incident)),
    };
    let place = cluster.map(|cluster| format!(" in {cluster}")).unwrap_or_default();
    shown(&format!("{}{place}  {}  {word}", incident.title, incident.id))
}

/// The others.
pub(super) fn body(event: Event, incident: &Incident) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = |head: &str, text: String| lines.push(shown(&format!("{head}: {text}")));
    if event == Event::Resolved {
        let over = incident.resolved_unix_ns.unwrap_or(incident.since_unix_ns);
        let lasted_s = over.saturating_sub(incident.since_unix_ns) / 1_000_000_000;
        line("Lasted", format!("{} min, from {} UTC", lasted_s.div_ceil(60), time(incident.since_unix_ns)));
        return lines;
    }
    let story = Story::of(incident);
    let said = |line: &Line| format!("{} {}", time(line.since_unix_ns), line.text);
    line("Why", story.cause.map_or_else(|| "not known".to_owned(), said));
    if let Some(first) = story.then.first() {
        line("First", said(first));
    }
    if !incident.hits.is_empty() {
        let names: Vec<String> = incident.hits.iter().take(MAX_NAMES).map(ToString::to_string).collect();
        let more = incident.hits.len().saturating_sub(MAX_NAMES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        line("Hits", format!("{}{more}", names.join(", ")));
    }
    if !incident.ruled_out.is_empty() {
        line("Ruled out", incident.ruled_out.join(" · "));
    }
    if !incident.missing.is_empty() {
        line("Missing", incident.missing.join(" · "));
    }
    if let Some(advice) = incident.advice.first() {
        let command = advice.command.as_ref().map(|command| format!(": {command}")).unwrap_or_default();
        line("Do first", format!("{}{command}", advice.text));
    }
    line("More", format!("kubectl tapio why {}", incident.id));
    lines
}

/// Many incidents as one message: its first line, and the others.
pub(super) fn storm(incidents: &[Incident], cluster: Option<&str>) -> (String, Vec<String>) {
    let place = cluster.map(|cluster| format!(" in {cluster}")).unwrap_or_default();
    let head = format!("{} more incidents{place} within ten minutes", incidents.len());
    let title = |incident: &Incident| shown(&format!("{}  {}", incident.id, incident.title));
    let mut lines: Vec<String> = incidents.iter().take(MAX_TITLES).map(title).collect();
    if incidents.len() > MAX_TITLES {
        lines.push(format!("and {} more", incidents.len() - MAX_TITLES));
    }
    lines.push("More: kubectl tapio get incidents".to_owned());
    (shown(&head), lines)
}

/// What happened in a period as one message: its first line, and the others.
pub(super) fn digest(digest: &Digest, cluster: Option<&str>) -> (String, Vec<String>) {
    let place = cluster.map(|cluster| format!(" in {cluster}")).unwrap_or_default();
    let Digest { from_unix_ns, to_unix_ns, opened, resolved, open, repeated } = digest;
    let from_to = format!("{} to {} UTC", minute(*from_unix_ns), minute(*to_unix_ns));
    let head = match opened.len() + resolved.len() + open.len() {
        0 => format!("No incidents{place}, {from_to}"),
        _ => format!(
            "{} opened, {} resolved, {} still open from before{place}, {from_to}",
            opened.len(),
            resolved.len(),
            open.len()
        ),
    };
    let mut lines = Vec::new();
    for (word, incidents) in [("Opened", opened), ("Still open", open), ("Resolved", resolved)] {
        let line = |incident: &Incident| {
            let marked = attention(incident).map(|word| format!(" [{word}]")).unwrap_or_default();
            format!("{word}: {}  {}  {}{marked}", incident.id, incident.title, state(incident))
        };
        lines.extend(incidents.iter().take(MAX_TITLES).map(|incident| shown(&line(incident))));
        if incidents.len() > MAX_TITLES {
            lines.push(format!("{word}: and {} more", incidents.len() - MAX_TITLES));
        }
    }
    lines.extend(repeated.iter().map(|repeated| {
        let cause = repeated.cause.as_ref().map(|cause| format!(" ({cause})")).unwrap_or_default();
        shown(&format!("Repeated: {}{cause}, {} times", repeated.of, repeated.times))
    }));
    lines.push("More: kubectl tapio get incidents".to_owned());
    (shown(&head), lines)
}

fn minute(unix_ns: u64) -> String {
    let time = timestamp(unix_ns).to_string();
    time.get(..16).unwrap_or(&time).replace('T', " ")
}

fn time(unix_ns: u64) -> String {
    let time = timestamp(unix_ns).to_string();
    time.get(11..19).unwrap_or(&time).to_owned()
}

fn shown(text: &str) -> String {
    printable(text).into_owned()
}
