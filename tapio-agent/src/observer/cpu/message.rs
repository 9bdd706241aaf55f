//! The message of each anomaly: one sentence for people.

use tapio_occurrence::{OWNERS, Occurrence};

use crate::observer::duration::Micros;

pub(super) fn delayed(o: &Occurrence) -> String {
    let number = |key: &str| o.data.number(key).unwrap_or_default();
    let who = match &o.workload {
        None if o.data.number(OWNERS).is_none() => "a container or unit that is gone".to_owned(),
        _ => o.subject().to_string(),
    };
    let normal = o.baseline.as_ref().map_or(0, |normal| normal.mean);
    let instead = o.data.workload("noisy_neighbour").and_then(|workload| workload.name());
    let instead = instead.map_or(String::new(), |name| {
        format!("; {name} ran instead for at least {} % of that", number("noisy_neighbour_percent"))
    });
    format!(
        "{who}: tasks waited for a CPU {} per second for {}, normally {}; longest wait {}{instead}",
        Micros(number("waited_per_second_us")),
        Micros(number("since_ms").saturating_mul(1_000)),
        Micros(normal),
        Micros(number("longest_us")),
    )
}
