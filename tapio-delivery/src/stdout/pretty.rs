//! The readable form: one line with the message, one with the facts, and a status line below.

use std::{fmt::Write as _, io::Write as _};

use tapio_occurrence::{
    Actor, Bytes, Data, Normal, Occurrence, Severity, Value, printable::printable, timestamp,
};

use super::StatusLine;

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";
const BOLD: &str = "\x1b[1m";

/// The indentation of the facts: the width before the message, without the type.
const INDENT: &str = "                   ";

/// Formats occurrences for people. Writing to memory does not fail, so results are ignored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pretty {
    pub(super) colour: bool,
}

impl Pretty {
    /// One line with the message, one with the facts.
    pub(super) fn occurrence(self, occurrence: &Occurrence, out: &mut Vec<u8>) {
        let time = timestamp(occurrence.time_unix_ns).strftime("%H:%M:%S.%3f").to_string();
        let (colour, severity) = match occurrence.severity {
            Severity::Debug => (DIM, "DEBUG"),
            Severity::Info => ("\x1b[32m", "INFO "),
            Severity::Warning => ("\x1b[33m", "WARN "),
            Severity::Error => ("\x1b[31m", "ERROR"),
            Severity::Critical => ("\x1b[1;31m", "CRIT "),
        };
        self.paint(DIM, &time, out);
        out.push(b' ');
        self.paint(colour, severity, out);
        out.push(b' ');
        self.paint(BOLD, &occurrence.kind, out);
        let _ = writeln!(out, " {}", printable(&occurrence.message));
        let facts = facts(occurrence);
        if !facts.is_empty() {
            out.extend_from_slice(INDENT.as_bytes());
            self.paint(DIM, &printable(&facts), out);
            out.push(b'\n');
        }
    }

    /// Draws the status line and returns the cursor to its start, so that the next output overwrites it.
    pub(super) fn status(self, line: &str, out: &mut Vec<u8>) {
        self.paint(DIM, line, out);
        out.push(b'\r');
    }

    fn paint(self, colour: &str, text: &str, out: &mut Vec<u8>) {
        let _ = if self.colour { write!(out, "{colour}{text}{RESET}") } else { write!(out, "{text}") };
    }
}

/// Clears the status line.
pub(super) fn clear(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\x1b[2K");
}

/// `1.2 k readings/s · 214 destinations · 3 kept · 3 sent`, short enough for any terminal.
pub(super) fn status_line(readings_per_second: f64, status_line: &StatusLine) -> String {
    let rate = short(readings_per_second);
    let [keys, kept, sent] =
        [status_line.keys, status_line.kept, status_line.sent].map(|count| short(count as f64));
    format!("{rate} readings/s · {keys} destinations · {kept} kept · {sent} sent")
}

/// The owner, the peer, and the numbers that the message may not contain.
fn facts(occurrence: &Occurrence) -> String {
    let mut parts = Vec::new();
    if let Some(workload) = &occurrence.workload {
        let place = [&workload.namespace, &workload.pod, &workload.container].map(Option::as_deref);
        let place: Vec<&str> = place.into_iter().flatten().collect();
        if !place.is_empty() {
            parts.push(place.join("/"));
        } else if let Some(unit) = &workload.unit {
            parts.push(unit.clone());
        } else if let Some(id) = &workload.container_id {
            parts.push(format!("container {}", id.get(..12).unwrap_or(id)));
        }
    }
    if let Some(process) = &occurrence.process {
        parts.push(format!("{}[{}]", process.comm, process.pid));
    }
    if let Some(Actor { process, .. }) = &occurrence.actor {
        parts.push(format!("by {}[{}]", process.comm, process.pid));
    }
    if let Some(peer) = &occurrence.peer {
        let name = peer.to_string();
        let address = peer.address.to_string();
        parts.push(if name.contains(&address) { name } else { format!("{name} ({address})") });
    }
    parts.extend(occurrence.data.0.iter().map(|(key, value)| fact(key, value)));
    if let Some(normal) = &occurrence.baseline {
        parts.push(usual(normal));
    }
    if occurrence.count > 1 {
        parts.push(format!("{} times", occurrence.count));
    }
    parts.join(" · ")
}

/// `rtt 41 ms` for `rtt_us: 41000`.
fn fact(key: &str, value: &Value) -> String {
    let unit = ["us", "bytes"].into_iter().find(|unit| key.ends_with(&format!("_{unit}")));
    let name = key.strip_suffix(unit.unwrap_or_default()).unwrap_or(key).replace('_', " ");
    let name = name.trim_end();
    match (value, unit) {
        (Value::Number(us), Some("us")) => format!("{name} {}", duration(*us)),
        (Value::Number(bytes), Some(_)) => format!("{name} {}", Bytes(*bytes)),
        (Value::Number(number), None) => format!("{name} {number}"),
        (Value::Signed(number), _) => format!("{name} {number}"),
        (Value::Real(real), _) => format!("{name} {real:.2}"),
        (Value::Text(text), _) => format!("{name} {text}"),
        (Value::Workload(other), _) => format!("{name} {}", other.name().unwrap_or("of no name")),
        (Value::List(several), _) => {
            let facts = |data: &Data| {
                data.0.iter().map(|(key, value)| fact(key, value)).collect::<Vec<_>>().join(" ")
            };
            format!("{name}: {}", several.iter().map(facts).collect::<Vec<_>>().join(", "))
        }
    }
}

fn usual(normal: &Normal) -> String {
    let mut text = if normal.unit == "us" {
        format!("normal {} ± {}", duration(normal.mean), duration(normal.deviation))
    } else {
        format!("normal {} ± {} {}", normal.mean, normal.deviation, normal.unit)
    };
    if let Some(ratio) = normal.ratio {
        let _ = write!(text, ", now {ratio:.1} times");
    }
    text
}

fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", three_digits(us as f64 / 1e3)),
        _ => format!("{} s", three_digits(us as f64 / 1e6)),
    }
}

/// `999`, `12.3 k`, `4.57 M`.
fn short(number: f64) -> String {
    match number {
        n if n < 999.5 => format!("{n:.0}"),
        n if n < 999_500.0 => format!("{} k", three_digits(n / 1e3)),
        n if n < 999_500_000.0 => format!("{} M", three_digits(n / 1e6)),
        n => format!("{} G", three_digits(n / 1e9)),
    }
}

/// Three significant digits: `41`, `4.57`, `12.3`.
fn three_digits(number: f64) -> String {
    let places = match number {
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{number:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
