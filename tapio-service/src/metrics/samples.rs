//! Metrics as numbers with labels, parsed from the text that `/metrics` serves, which is their only
//! representation.

use std::collections::HashMap;

use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge};

/// One metric: a family of samples with different labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name in the text, where the samples of a counter end in `_total`.
    pub name: &'static str,
    /// Its help text.
    pub help: &'static str,
    /// The type of its numbers.
    pub kind: Kind,
}

/// The type of a metric's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number that only grows.
    Counter,
    /// A number with fractions that only grows.
    FloatCounter,
    /// A whole number.
    Gauge,
}

/// A number with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Names and values, in the order of the text.
    pub labels: Vec<(&'a str, &'a str)>,
    /// The number as written in the text.
    pub number: &'a str,
}

/// The samples of each family in an OpenMetrics text, by the names of [`Described`]. Label values contain no
/// quotes, because all are constants of the code.
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

/// A metric type of the metrics library.
pub trait Typed {
    /// The type of its numbers.
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
