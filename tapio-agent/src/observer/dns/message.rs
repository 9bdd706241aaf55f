//! The message of each anomaly: one sentence for people.

use std::fmt;

use tapio_occurrence::Occurrence;

use crate::observer::duration::Micros;

pub(super) fn failure(o: &Occurrence) -> String {
    let subject = o.subject();
    let lookup = Lookup(o);
    if let Some(ago_ms) = o.data.number("resolved_ms") {
        let ago = Micros(ago_ms.saturating_mul(1_000));
        return format!("{subject}: {lookup} failed: the name no longer exists (NXDOMAIN); it did {ago} ago");
    }
    let why = match o.data.text("error").unwrap_or_default() {
        "ECONNREFUSED" => "nothing answers at that port",
        "ENETUNREACH" => "network unreachable",
        "EHOSTUNREACH" => "host unreachable",
        code => code,
    };
    format!("{subject}: {lookup} failed: {why}")
}

pub(super) fn timeout(o: &Occurrence) -> String {
    let elapsed = Micros(number(o, "elapsed_us"));
    format!("{}: {} was not answered: {} in {elapsed}", o.subject(), Lookup(o), Queries(o))
}

pub(super) fn slow(o: &Occurrence) -> String {
    let subject = o.subject();
    if let Some(latency) = o.data.number("latency_us") {
        let normal = o.baseline.as_ref().map_or(0, |normal| normal.mean);
        let ago = Micros(number(o, "since_ms").saturating_mul(1_000));
        return format!(
            "{subject}: DNS answers{} rose from {} to {} {ago} ago",
            Resolver(o),
            Micros(normal),
            Micros(latency)
        );
    }
    let elapsed = Micros(number(o, "elapsed_us"));
    let with = if number(o, "queries") > 1 { format!(", with {}", Queries(o)) } else { String::new() };
    format!("{subject}: {} took {elapsed}{with}", Lookup(o))
}

pub(super) fn nxdomain_burst(o: &Occurrence) -> String {
    let (absent, answers) = (number(o, "absent"), number(o, "answers"));
    let within = Micros(number(o, "window_us"));
    format!(
        "{}: {absent} of {answers} DNS answers{} within {within} were that the name does not exist, the last for {}",
        o.subject(),
        Resolver(o),
        question(o)
    )
}

fn number(o: &Occurrence, key: &str) -> u64 {
    o.data.number(key).unwrap_or_default()
}

fn question(o: &Occurrence) -> &str {
    o.data.text("question").unwrap_or_default()
}

/// `DNS look-up of redis.prod (A, AAAA) at 10.96.0.10:53`
struct Lookup<'a>(&'a Occurrence);

impl fmt::Display for Lookup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = self.0.data.text("question_type").unwrap_or_default();
        write!(f, "DNS look-up of {} ({types}){}", question(self.0), Resolver(self.0))
    }
}

/// ` at 10.96.0.10:53`
struct Resolver<'a>(&'a Occurrence);

impl fmt::Display for Resolver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.peer.as_ref().map_or(Ok(()), |peer| write!(f, " at {peer}"))
    }
}

/// `2 queries`
struct Queries<'a>(&'a Occurrence);

impl fmt::Display for Queries<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match number(self.0, "queries") {
            1 => f.write_str("1 query"),
            n => write!(f, "{n} queries"),
        }
    }
}
