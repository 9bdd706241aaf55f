//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::Occurrence;

use super::Reason;
use crate::observer::duration::Micros;

pub(super) fn overflow(o: &Occurrence) -> String {
    let queue = match (o.data.number("port"), o.data.number("waiting_connections")) {
        (Some(port), Some(waiting)) => {
            format!("the longest queue has {waiting}, which the server at port {port} has not accepted")
        }
        _ => "a server did not accept them in time".to_owned(),
    };
    format!(
        "{}: {} attempts to connect were dropped in {}: {queue}",
        Who(o),
        number(o, "dropped_connections"),
        Window(o)
    )
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
    let reason = Reason::ALL.iter().find(|known| known.name() == reason);
    format!(
        "{}: {} packets a minute are dropped, normally {}: {}",
        Who(o),
        number(o, "rate_packets"),
        o.baseline.as_ref().map_or(0, |normal| normal.mean),
        reason.map_or("", |reason| why(*reason)),
    )
}

const fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::UdpReceiveBuffer => "a process reads its UDP socket too slowly",
        Reason::TcpBacklog => "a process holds its TCP socket for too long",
        Reason::CpuBacklog => "a CPU processes what its devices receive too slowly",
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
