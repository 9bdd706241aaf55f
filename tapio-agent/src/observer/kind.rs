//! Occurrence types: each observer has its own table.

use tapio_occurrence::{Occurrence, Outcome, Severity};

/// An occurrence type.
#[derive(Debug)]
pub struct Kind {
    /// The observer's name, a dot, and the name of the type: `network.rtt_spike`.
    pub name: &'static str,
    /// Default severity.
    pub severity: Severity,
    /// Default outcome of the attempted operation.
    pub outcome: Outcome,
    /// Default for the function that writes the one-sentence message.
    pub message: fn(&Occurrence) -> String,
    /// Health checks routinely cause it. At a steady pace it is therefore expected, and a probe may cause it while its
    /// pod is not ready.
    pub of_health_checks: bool,
    /// Whether the magnitude measures severity. If not, it only selects which of several repeats is shown.
    pub is_measured: bool,
}

impl Kind {
    /// A type whose magnitude measures severity, and that health checks do not cause.
    pub(super) const fn new(
        name: &'static str,
        severity: Severity,
        outcome: Outcome,
        message: fn(&Occurrence) -> String,
    ) -> Self {
        Self { name, severity, outcome, message, of_health_checks: false, is_measured: true }
    }

    /// See [`Self::of_health_checks`].
    pub(super) const fn of_health_checks(self) -> Self {
        Self { of_health_checks: true, ..self }
    }

    /// See [`Self::is_measured`].
    pub(super) const fn not_measured(self) -> Self {
        Self { is_measured: false, ..self }
    }
}

/// Names are unique, so comparing them is enough.
impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}
