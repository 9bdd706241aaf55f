//! Programs' own metrics: declared with their help, served in the text formats of Prometheus.

pub mod process;
mod samples;

use std::{fmt, sync::atomic::Ordering};

use prometheus_client::{encoding::text::encode, metrics::counter::Counter, registry::Registry};

pub use prometheus_client;
pub use samples::{Described, Kind, Sample, Typed, samples};

pub use crate::metrics;

/// Declares metrics, each with its help text, as a struct that registers them.
#[macro_export]
macro_rules! metrics {
    ($(#[doc = $doc:literal])* $vis:vis struct $struct:ident { $($name:ident: $kind:ty = $help:literal,)* }) => {
        $(#[doc = $doc])*
        #[derive(Debug)]
        $vis struct $struct { $($name: $kind,)* }

        impl $struct {
            /// Every metric that may be exposed. One without samples is missing from the text.
            pub const DESCRIBED: &[$crate::metrics::Described] = &[$($crate::metrics::Described {
                name: concat!("tapio_", stringify!($name)),
                help: $help,
                kind: <$kind as $crate::metrics::Typed>::KIND,
            },)*];

            /// Registers them; the registry's prefix is `tapio`.
            #[must_use]
            $vis fn registered(registry: &mut $crate::metrics::prometheus_client::registry::Registry) -> Self {
                $(let $name = <$kind>::default();
                registry.register(stringify!($name), $help, $name.clone());)*
                Self { $($name,)* }
            }
        }
    };
}

/// Renders all metrics of a registry in the text format of OpenMetrics.
///
/// # Errors
/// Never in practice, because writing to a `String` does not fail.
pub fn render(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Converts the text to the format that Prometheus used before OpenMetrics: there, a counter's name is that
/// of its samples, and there is no end marker.
#[must_use]
pub fn classic(openmetrics: &str) -> String {
    let counters: Vec<&str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                text.extend(["# ", kind, " ", name, "_total ", rest]);
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Converts a count to a gauge's type, with the maximum as limit.
#[must_use]
pub fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Sets a counter to a total that is counted elsewhere.
pub fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}
