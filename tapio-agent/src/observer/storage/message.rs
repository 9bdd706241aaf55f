//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::Occurrence;

use crate::observer::duration::Micros;

pub(super) fn failed(o: &Occurrence) -> String {
    let (error, sector) = (text(o, "error"), number(o, "sector"));
    format!(
        "{}: a {} of {} failed at sector {sector}: {error}",
        Who(o),
        text(o, "operation"),
        text(o, "device")
    )
}

pub(super) fn slow(o: &Occurrence) -> String {
    format!("{}: {}{}", Who(o), Latency(o), Busiest(o))
}

pub(super) fn saturated(o: &Occurrence) -> String {
    let queued = Micros(number(o, "queued_us"));
    format!(
        "{}: {}, {queued} of it waiting for the device to take the request{}",
        Who(o),
        Latency(o),
        Busiest(o)
    )
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

fn text<'a>(o: &'a Occurrence, key: &str) -> &'a str {
    o.data.text(key).unwrap_or_default()
}

/// Whose request it was; the node, if that is nobody known.
struct Who<'a>(&'a Occurrence);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.workload {
            Some(_) => self.0.subject().fmt(f),
            None => f.write_str("this node"),
        }
    }
}

/// `reads of vda rose from 400 us to 105 ms 12 s ago`, or `a read of vda took 2.4 s`
struct Latency<'a>(&'a Occurrence);

impl fmt::Display for Latency<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self.0;
        let (device, operation) = (text(o, "device"), text(o, "operation"));
        let latency = Micros(number(o, "latency_us"));
        let Some(normal) = &o.baseline else {
            return write!(f, "a {operation} of {device} took {latency}");
        };
        let operations = if operation == "flush" { "flushes".to_owned() } else { format!("{operation}s") };
        let ago = Micros(number(o, "since_ms").saturating_mul(1_000));
        write!(
            f,
            "the latency of {operations} of {device} rose from {} to {latency} {ago} ago",
            Micros(normal.mean)
        )
    }
}

/// `; 80 % of the bytes are of shop/report`
struct Busiest<'a>(&'a Occurrence);

impl fmt::Display for Busiest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(percent) = self.0.data.number("noisy_neighbour_percent") else { return Ok(()) };
        let busiest = self.0.data.workload("noisy_neighbour").and_then(|workload| workload.name());
        busiest.map_or(Ok(()), |name| write!(f, "; at least {percent} % of the bytes are of {name}"))
    }
}
