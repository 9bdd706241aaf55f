//! No-op spans for a build without telemetry.

use std::fmt::Display;

/// A piece of work that is not traced.
pub struct Span;

impl Span {
    /// A request to another service.
    #[must_use]
    pub fn to_other(_name: &'static str, _key: &'static str, _whom: &'static str) -> Self {
        Self
    }

    /// Work inside this program.
    #[must_use]
    pub fn here(_name: &'static str) -> Self {
        Self
    }

    /// Does nothing; the other build records a number.
    pub fn count(&mut self, _key: &'static str, _count: usize) {}

    /// Ends the span.
    pub fn end(self) {}

    /// Does nothing; the other build records a failure.
    pub fn failed(&mut self, _why: &impl Display) {}
}
