//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::Occurrence;

use super::Reason;
use crate::observer::duration::Micros;

pub(super) fn neighbor(o: &Occurrence) -> String {
    let text = |key| o.data.text(key).unwrap_or_default();
    let gateway = text("gateway");
    let protocol = if gateway.contains(':') { "NDP" } else { "ARP" };
    let before = match o.data.text("hardware_address") {
        Some(address) => format!("last answered as {address}"),
        None => "has not answered before".to_owned(),
    };
    let silent = match o.data.number("network_namespaces") {
        Some(several) => format!("does not answer {protocol} of {several} network namespaces"),
        None => format!("does not answer {protocol} on {}", text("device")),
    };
    format!("{}: gateway {gateway} {silent} ({before}): what is behind it cannot be reached", Who(o))
}

pub(super) fn flapping(o: &Occurrence) -> String {
    format!(
        "{}: {} lost its carrier {} times in {}: its cable, its port or the device at the other end fails",
        Who(o),
        o.data.text("device").unwrap_or_default(),
        number(o, "losses"),
        Window(o),
    )
}

pub(super) fn overflow(o: &Occurrence) -> String {
    let queue = match (o.data.number("port"), o.data.number("waiting_connections")) {
        (Some(port), Some(waiting)) => {
            format!("the longest queue has {waiting}, which the server at port {port} has not accepted")
        }
        _ => "a server did not accept them in time".to_owned(),
    };
    let dropped = match number(o, "dropped_connections") {
        1 => "an attempt to connect was dropped".to_owned(),
        dropped => format!("{dropped} attempts to connect were dropped"),
    };
    format!("{}: {dropped} in {}: {queue}", Who(o), Window(o))
}

pub(super) fn full(o: &Occurrence) -> String {
    let (dropped, evicted) = (number(o, "dropped_packets"), number(o, "evicted_connections"));
    let what = match dropped {
        0 => format!("{evicted} connections without an answer made room for others in {}", Window(o)),
        _ => format!("{dropped} packets were dropped in {}", Window(o)),
    };
    format!(
        "{}: the connection tracking table is full, {} of {}: {what}",
        Who(o),
        number(o, "tracked_connections"),
        number(o, "limit_connections"),
    )
}

pub(super) fn drops(o: &Occurrence) -> String {
    let reason = o.data.text("reason").unwrap_or_default();
    let all = [&Reason::OF_NAMESPACE[..], &Reason::OF_DEVICE].concat();
    let reason = all.into_iter().find(|known| known.name() == reason);
    let device = o.data.text("device").map(|device| format!("{device} ")).unwrap_or_default();
    format!(
        "{}: {} packets a minute are dropped, normally {}: {device}{}",
        Who(o),
        number(o, "rate_packets"),
        o.baseline.as_ref().map_or(0, |normal| normal.mean),
        reason.map_or("", why),
    )
}

const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::UdpReceiveBuffer => "a process reads its UDP socket too slowly",
        Reason::TcpBacklog => "a process holds its TCP socket for too long",
        Reason::CpuBacklog => "a CPU processes what its devices receive too slowly",
        Reason::DeviceReceive => "has no room for what it receives, or cannot use it",
        Reason::DeviceTransmit => "cannot send what it is given, or the other end does not take it",
    }
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

/// Whose network it is.
struct Who<'a>(&'a Occurrence);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.workload {
            Some(_) => self.0.subject().fmt(f),
            None => f.write_str("this node"),
        }
    }
}

/// How long it took, as in `10 s`.
struct Window<'a>(&'a Occurrence);

impl fmt::Display for Window<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Micros(number(self.0, "window_ms").saturating_mul(1_000)).fmt(f)
    }
}
