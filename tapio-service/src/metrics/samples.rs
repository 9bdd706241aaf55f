//! What the metrics say, as numbers with labels: read from the text that `/metrics` serves, which is their one form.

use std::collections::HashMap;

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

/// One metric: a family with its samples, of which each has other labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// As the text calls it; the samples of a counter end in `_total` there.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// What its numbers are.
    pub kind: Kind,
}

/// What the numbers of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number that only grows.
    Counter,
    /// One with fractions that only grows.
    FloatCounter,
    /// A whole number.
    Gauge,
}

/// A number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Names and values, in the order of the text.
    pub labels: Vec<(&'a str, &'a str)>,
    /// The number as it is written.
    pub number: &'a str,
}

/// The samples of each family in a text of OpenMetrics, by the names of [`Described`]. Labels have no quotes in them, as
/// all are constants of the code.
#[must_use]
pub fn samples(openmetrics: &str) -> HashMap<&str, Vec<Sample<'_>>> {
    let mut families = HashMap::<_, Vec<_>>::new();
    for line in openmetrics.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, number)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = pairs.map(|(key, value)| (key, value.trim_matches('"'))).collect();
        let name = name.strip_suffix("_total").unwrap_or(name);
        families.entry(name).or_default().push(Sample { labels, number });
    }
    families
}

/// A type of the metrics' library.
pub trait Typed {
    /// What its numbers are.
    const KIND: Kind;
}

impl Typed for Counter {
    const KIND: Kind = Kind::Counter;
}

impl<A> Typed for Counter<f64, A> {
    const KIND: Kind = Kind::FloatCounter;
}

impl Typed for Gauge {
    const KIND: Kind = Kind::Gauge;
}

impl<L, M: Typed> Typed for Family<L, M> {
    const KIND: Kind = M::KIND;
}
