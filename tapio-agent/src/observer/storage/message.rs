//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::{Bytes, Occurrence};

use crate::observer::duration::{Micros, Seconds};

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

pub(super) fn full(o: &Occurrence) -> String {
    let is_full = text(o, "state") == "full";
    if text(o, "resource") == "inodes" {
        let (used, available) = (number(o, "used_inodes"), number(o, "available_inodes"));
        let few = if is_full { "no" } else { "few" };
        return format!(
            "{}: {} has {few} inodes left: {available} of {}",
            Who(o),
            Place(o),
            used + available
        );
    }
    let (used, available) = (number(o, "used_bytes"), number(o, "available_bytes"));
    let nearly = if is_full { "" } else { "nearly " };
    let left = format!("{} of {} left", Bytes(available), Bytes(used + available));
    let growth =
        o.data.number("growth_bytes_per_minute").filter(|_| !is_full).map_or_else(String::new, |per| {
            format!(", grows {} a minute: full in about {}", Bytes(per), Seconds(number(o, "left_seconds")))
        });
    format!("{}: {} is {nearly}full: {left}{growth}", Who(o), Place(o))
}

pub(super) fn read_only(o: &Occurrence) -> String {
    let how = match text(o, "option") {
        "emergency_ro" => "takes no more writes after an error",
        "shutdown" => "was shut down",
        _ => "became read-only",
    };
    format!("{}: {} {how} ({})", Who(o), Place(o), text(o, "filesystem"))
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
        let workload = self.0.workload.as_ref();
        let uid = workload.filter(|workload| workload.name().is_none()).and_then(|w| w.pod_uid.as_deref());
        match (workload, uid) {
            (Some(_), Some(uid)) => write!(f, "pod {uid}"),
            (Some(_), None) => self.0.subject().fmt(f),
            (None, _) => f.write_str("this node"),
        }
    }
}

/// `volume of claim data-db-0 on vdb`, `/var/lib on vda1`
struct Place<'a>(&'a Occurrence);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = &self.0.data;
        match (data.text("claim"), data.text("volume")) {
            (Some(claim), _) => write!(f, "the volume of claim {claim}")?,
            (None, Some(volume)) => write!(f, "volume {volume}")?,
            (None, None) => f.write_str(text(self.0, "mount_point"))?,
        }
        write!(f, " on {}", text(self.0, "device"))
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
