//! Types of occurrences: each observer has a table of its own.

use tapio_occurrence::{Occurrence, Outcome, Severity};

/// A type of occurrences.
#[derive(Debug)]
pub struct Kind {
    /// The observer's name, a dot, and its own: `network.rtt_spike`.
    pub name: &'static str,
    /// How bad it is, as a rule.
    pub severity: Severity,
    /// How what was tried ended, as a rule.
    pub outcome: Outcome,
    /// Says it in one sentence, as a rule.
    pub message: fn(&Occurrence) -> String,
    /// Health checks cause it as a matter of course: where it comes at a steady pace it is expected, and a probe may cause it
    /// while its pod is not ready.
    pub of_health_checks: bool,
    /// Whether the magnitude says how bad it is, and not only which of several repeats is shown.
    pub is_measured: bool,
}

impl Kind {
    /// One that is measured.
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

/// Of one name there is one.
impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Kind {}
