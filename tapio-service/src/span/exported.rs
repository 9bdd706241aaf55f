//! OpenTelemetry spans.

use std::fmt::Display;

use opentelemetry::{
    KeyValue,
    global::{self, BoxedSpan},
    trace::{Span as _, SpanKind, Status, Tracer as _},
};

use super::SCOPE;

/// A piece of work. Dropping it ends the span.
pub struct Span(BoxedSpan);

impl Span {
    /// A request to another service.
    pub fn to_other(name: &'static str, key: &'static str, whom: &'static str) -> Self {
        Self::of(name, SpanKind::Client).with(key, whom)
    }

    /// Work inside this program.
    pub fn here(name: &'static str) -> Self {
        Self::of(name, SpanKind::Internal)
    }

    fn of(name: &'static str, kind: SpanKind) -> Self {
        let tracer = global::tracer(SCOPE);
        Self(tracer.build(tracer.span_builder(name).with_kind(kind)))
    }

    fn with(mut self, key: &'static str, text: &'static str) -> Self {
        self.0.set_attribute(KeyValue::new(key, text));
        self
    }

    /// Records a number.
    pub fn count(&mut self, key: &'static str, count: usize) {
        self.0.set_attribute(KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX)));
    }

    /// Ends the span.
    pub fn end(self) {}

    /// Records that the work failed, and why.
    pub fn failed(&mut self, why: &impl Display) {
        self.0.set_status(Status::error(why.to_string()));
    }
}
