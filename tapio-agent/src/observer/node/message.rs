//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::{ANCESTOR, Bytes, OWNERS, Occurrence, Value};

use crate::observer::duration::Seconds;

pub(super) fn near(o: &Occurrence) -> String {
    format!("{}: memory {}{}", Who(o), Filled(o), Of(o))
}

pub(super) fn predicted(o: &Occurrence) -> String {
    format!(
        "{}: memory {}{}, grows {} a minute: out of memory in about {}",
        Who(o),
        Filled(o),
        Of(o),
        Bytes(number(o, "growth_bytes_per_minute")),
        Seconds(number(o, "left_seconds")),
    )
}

pub(super) fn memory_waiting(o: &Occurrence) -> String {
    let filled = match (o.data.number("held_bytes"), o.data.number("limit_bytes")) {
        (Some(_), Some(_)) => format!(": {}", Filled(o)),
        _ => String::new(),
    };
    format!("{}: waits for memory {}{filled}", Who(o), Waits(o))
}

pub(super) fn io_waiting(o: &Occurrence) -> String {
    format!("{}: waits for I/O {}", Who(o), Waits(o))
}

pub(super) fn throttled(o: &Occurrence) -> String {
    let limit = Cpus(number(o, "limit_millicores"));
    let past = match &o.baseline {
        Some(_) => format!("normally {} %", normally(o)),
        None => "since it started".to_owned(),
    };
    if o.data.number("levels_up").is_some() {
        let wanted = o.data.number("wanted_millicores");
        let wanted =
            wanted.map_or(String::new(), |wanted| format!(" together, and want about {}", Cpus(wanted)));
        return format!(
            "{}: throttled by the CPU quota{} in {} % of its periods, {past}: those in it may use {limit} CPU{wanted}",
            Who(o),
            Of(o),
            number(o, "throttled_percent"),
        );
    }
    let wanted = o.data.number("wanted_millicores");
    let wanted = wanted.map_or(String::new(), |wanted| format!(", and wants about {}", Cpus(wanted)));
    format!(
        "{}: throttled in {} % of its periods, {past}: it may use {limit} CPU{wanted}",
        Who(o),
        number(o, "throttled_percent"),
    )
}

pub(super) fn stopped(o: &Occurrence) -> String {
    let unit = o.data.text("unit").unwrap_or_default();
    format!("{}: {unit} ended {} ago and has not come back", Who(o), Since(o))
}

pub(super) fn cpi_outlier(o: &Occurrence) -> String {
    let (cpi, normal) =
        (real(o, "cpi"), o.baseline.as_ref().map_or(0.0, |normal| normal.mean as f64 / 1024.0));
    let noisy_neighbour = o.data.workload("noisy_neighbour").and_then(|workload| workload.name());
    let noisy_neighbour = noisy_neighbour.map_or(String::new(), |name| {
        let (now, rise) =
            (number(o, "noisy_neighbour_millicores"), number(o, "noisy_neighbour_rise_millicores"));
        format!(", since {name} uses {} more CPU ({})", Cpus(rise), Cpus(now))
    });
    format!(
        "{}: {cpi:.2} cycles per instruction for {}, normally {normal:.2}{noisy_neighbour}",
        Who(o),
        Since(o)
    )
}

pub(super) fn ipc_degraded(o: &Occurrence) -> String {
    let normal = o.baseline.as_ref().map_or(0.0, |normal| 1024.0 / normal.mean.max(1) as f64);
    let ipc = real(o, "ipc");
    format!("{}: {ipc:.2} instructions per cycle for {}, normally {normal:.2}", Who(o), Since(o))
}

fn real(o: &Occurrence, key: &str) -> f64 {
    match o.data.get(key) {
        Some(Value::Real(number)) => *number,
        _ => 0.0,
    }
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

fn normally(o: &Occurrence) -> u64 {
    o.baseline.as_ref().map_or(0, |normal| super::percent(normal.mean))
}

/// The name of the workload, or the node.
struct Who<'a>(&'a Occurrence);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.data.text("of"), &self.0.workload) {
            (Some("node"), _) => write!(f, "node {}", self.0.node),
            (_, Some(_)) => self.0.subject().fmt(f),
            _ if self.0.data.number(OWNERS).is_some() => self.0.subject().fmt(f),
            (_, None) => f.write_str("a container or unit that is gone"),
        }
    }
}

/// ` of kubepods-burstable.slice, 2 levels up`, for a limit of a cgroup above.
struct Of<'a>(&'a Occurrence);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(levels) = self.0.data.number("levels_up") else { return Ok(()) };
        match self.0.data.text(ANCESTOR) {
            Some(name) => write!(f, " of {name}")?,
            None => f.write_str(" of a cgroup")?,
        }
        match levels {
            0 => Ok(()),
            1 => f.write_str(" (1 level up)"),
            levels => write!(f, " ({levels} levels up)"),
        }
    }
}

/// `412 MiB of 512 MiB (80 %)`
struct Filled<'a>(&'a Occurrence);

impl fmt::Display for Filled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, limit) = (number(self.0, "held_bytes"), number(self.0, "limit_bytes"));
        let percent = (u128::from(held) * 100).checked_div(u128::from(limit)).unwrap_or_default();
        write!(f, "{} of {} ({percent} %)", Bytes(held), Bytes(limit))
    }
}

/// `64 % of the time (all of it at once 12 %), normally 2 %`
struct Waits<'a>(&'a Occurrence);

impl fmt::Display for Waits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self.0;
        write!(f, "{} % of the time", number(o, "some_percent"))?;
        if let Some(full) = o.data.number("full_percent").filter(|full| *full > 0) {
            write!(f, " ({full} % with nothing else to do)")?;
        }
        write!(f, ", normally {} %", normally(o))
    }
}

/// `31 seconds`
struct Since<'a>(&'a Occurrence);

impl fmt::Display for Since<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Seconds(number(self.0, "since_ms") / 1000).fmt(f)
    }
}

/// Thousandths of a CPU as CPUs: `0.25`, `2`.
struct Cpus(u64);

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:.2}", self.0 as f64 / 1000.0);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}
