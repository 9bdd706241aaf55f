//! The message of each anomaly: one sentence for people.

use std::fmt::{self, Write as _};

use tapio_occurrence::{Normal, Occurrence};

use crate::observer::duration::Micros;

/// A connection that was silent for longer than this before a reset counts as idle. Firewalls, load balancers
/// and NATs forget idle connections after a minute at the earliest.
const LONG_IDLE_MS: u64 = 10_000;

/// Writes the message of an occurrence, after its names are resolved.
pub(super) type Message = fn(&Occurrence) -> String;

pub(super) fn rtt_spike(o: &Occurrence) -> String {
    say(format_args!("{}: RTT {} is {}{}", o.subject(), Endpoints(o), Micros(number(o, "rtt_us")), times(o)))
}

pub(super) fn rtt_shift(o: &Occurrence) -> String {
    let (rtt, ago) = (number(o, "rtt_us"), Micros(number(o, "since_ms").saturating_mul(1000)));
    let normal = o.baseline.as_ref().map_or(rtt, |normal| normal.mean);
    // It is uncertain whether most of the rise comes from the network: docs/decisions/0004-rtt-sample.md.
    let doubt = if rtt > normal && number(o, "certain_us").saturating_sub(normal) < (rtt - normal) / 2 {
        ": the network, or the peer's answers"
    } else {
        ""
    };
    let moved = if rtt < normal { "fell" } else { "rose" };
    let (from, to, ratio) = (Micros(normal), Micros(rtt), Ratio(o));
    say(format_args!(
        "{}: RTT {} {moved} from {from} to {to}{ratio} {ago} ago{doubt}",
        o.subject(),
        Endpoints(o)
    ))
}

pub(super) fn refused(o: &Occurrence) -> String {
    say(format_args!(
        "{}: connection {} was refused: nothing listens there, or it is rejected",
        o.subject(),
        Endpoints(o)
    ))
}

pub(super) fn timeout(o: &Occurrence) -> String {
    let elapsed = Micros(number(o, "elapsed_us"));
    say(format_args!(
        "{}: connection {} timed out after {elapsed}: no answer to {}",
        o.subject(),
        Endpoints(o),
        syns(o)
    ))
}

pub(super) fn gave_up(o: &Occurrence) -> String {
    let elapsed = Micros(number(o, "elapsed_us"));
    let (subject, endpoints, syns) = (o.subject(), Endpoints(o), syns(o));
    match o.data.number("given_up") {
        Some(times) => say(format_args!(
            "{subject}: gave up connecting {endpoints} {times} times in a row, the last after {elapsed}: no answer"
        )),
        None => say(format_args!(
            "{subject}: gave up connecting {endpoints} after {elapsed}: no answer to {syns}"
        )),
    }
}

pub(super) fn unreachable(o: &Occurrence) -> String {
    let why = match o.data.text("error") {
        Some("ENETUNREACH") => "network unreachable",
        Some("EACCES") => "it is forbidden on the way",
        Some("EADDRNOTAVAIL") => {
            "every local port for it is in use (net.ipv4.ip_local_port_range), many perhaps in TIME_WAIT"
        }
        _ => "host unreachable",
    };
    say(format_args!("{}: connection {} failed: {why}", o.subject(), Endpoints(o)))
}

pub(super) fn reset(o: &Occurrence) -> String {
    let (received, acked) = (number(o, "bytes_received"), number(o, "bytes_acked"));
    let idle_ms = number(o, "idle_ms");
    let idle = if idle_ms >= LONG_IDLE_MS {
        format!(", idle for {}", Micros(idle_ms.saturating_mul(1000)))
    } else {
        String::new()
    };
    say(format_args!(
        "{}: the peer reset the connection {} after {acked} B sent, {received} B received{idle}",
        o.subject(),
        Endpoints(o)
    ))
}

pub(super) fn unresponsive(o: &Occurrence) -> String {
    let quiet = Micros(number(o, "idle_ms").saturating_mul(1000));
    let given_up = if o.data.text("error").is_some() { ": the kernel gave it up" } else { "" };
    let again = match number(o, "retransmits") {
        0 => String::new(),
        1 => ", 1 retransmission".to_owned(),
        n => format!(", {n} retransmissions"),
    };
    say(format_args!(
        "{}: no answer on the connection {} for {quiet}{again}{given_up}",
        o.subject(),
        Endpoints(o)
    ))
}

pub(super) fn connect_slow(o: &Occurrence) -> String {
    let handshake = Micros(number(o, "handshake_us"));
    let again = if number(o, "syns") > 1 { format!(", with {}", syns(o)) } else { String::new() };
    say(format_args!("{}: connecting {} took {handshake}{}{again}", o.subject(), Endpoints(o), times(o)))
}

pub(super) fn retransmit_burst(o: &Occurrence) -> String {
    let (again, of) = (number(o, "retransmits"), number(o, "segments"));
    // The counter of sent segments is sampled and may lag behind.
    let of = if of > again { format!(" of {of}") } else { String::new() };
    let within = Micros(number(o, "window_us"));
    say(format_args!(
        "{}: {again}{of} segments {} were retransmitted within {within}",
        o.subject(),
        Endpoints(o)
    ))
}

/// Formats into a buffer that most messages fit into.
fn say(sentence: fmt::Arguments<'_>) -> String {
    let mut said = String::with_capacity(128);
    // Writing to memory does not fail.
    let _ = said.write_fmt(sentence);
    said
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

fn syns(o: &Occurrence) -> String {
    match number(o, "syns") {
        1 => "1 SYN".to_owned(),
        n => format!("{n} SYNs"),
    }
}

/// ` (8.2x)`: the value over its mean.
struct Ratio<'a>(&'a Occurrence);

impl fmt::Display for Ratio<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.baseline {
            Some(Normal { ratio: Some(ratio), .. }) if *ratio > 1.0 => {
                let places = usize::from(*ratio < 10.0);
                write!(f, " ({ratio:.places$}x)")
            }
            _ => Ok(()),
        }
    }
}

/// `, 8.2 times its normal 5 ms`
fn times(o: &Occurrence) -> String {
    match o.baseline {
        Some(Normal { mean, ratio: Some(ratio), .. }) => {
            let places = usize::from(ratio < 10.0);
            format!(", {ratio:.places$} times its normal {}", Micros(mean))
        }
        _ => String::new(),
    }
}

/// `to redis.default:6379`, `from 10.0.0.7 to port 443`; if it is not known which side opened the connection,
/// `between port 443 and 10.0.0.7:40312`.
struct Endpoints<'a>(&'a Occurrence);

impl fmt::Display for Endpoints<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(peer) = &self.0.peer else { return f.write_str("to an unknown peer") };
        let port = number(self.0, "local_port");
        match (self.0.data.text("direction"), &peer.names().pod) {
            (Some("inbound"), Some(pod)) => write!(f, "from {pod} to port {port}"),
            (Some("inbound"), None) => write!(f, "from {} to port {port}", peer.address),
            (None, _) if port != 0 => write!(f, "between port {port} and {peer}"),
            _ => write!(f, "to {peer}"),
        }
    }
}
