//! Decodes requests, after their size in memory is known to be bounded.

use std::mem::size_of;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::KeyValue,
    metrics::v1::HistogramDataPoint,
    trace::v1::Span,
};
use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint, skip_field},
};
use serde::de::DeserializeOwned;

/// Most bytes of a request once it is decoded. Few bytes of a request can become many: an empty span is two bytes, and
/// 300 in memory.
pub(super) const DECODED_BYTES: usize = 64 << 20;
/// How deep messages are counted; values that are nested deeper are not decoded either.
const MAX_DEPTH: usize = 64;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Traces,
    Metrics,
    Logs,
}

/// A decoded request.
#[derive(Debug)]
pub(super) enum Request {
    Traces(ExportTraceServiceRequest),
    Metrics(ExportMetricsServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// How it is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Protobuf,
    Json,
}

/// Why a request cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Malformed(String),
    TooLarge(String),
}

pub(super) fn decode(kind: Kind, form: Form, body: &[u8]) -> Result<Request, Unreadable> {
    let bytes = match form {
        Form::Protobuf => count(body, Shape::of(kind), 0),
        // Whatever is large in memory is an object.
        Form::Json => {
            Some(body.iter().filter(|byte| **byte == b'{').count() * size_of::<Span>() + body.len())
        }
    };
    let malformed = |what: &str| Unreadable::Malformed(format!("the body is not {what}"));
    let bytes = bytes.ok_or_else(|| malformed("protobuf of OTLP"))?;
    if bytes > DECODED_BYTES {
        return Err(Unreadable::TooLarge(format!(
            "too many small parts: decoded it would take {} MiB, and at most {} are accepted: send smaller requests",
            bytes >> 20,
            DECODED_BYTES >> 20
        )));
    }
    Ok(match kind {
        Kind::Traces => Request::Traces(read(form, body)?),
        Kind::Metrics => Request::Metrics(read(form, body)?),
        Kind::Logs => Request::Logs(read(form, body)?),
    })
}

fn read<T: Message + Default + DeserializeOwned>(form: Form, body: &[u8]) -> Result<T, Unreadable> {
    match form {
        Form::Protobuf => T::decode(body).map_err(|error| error.to_string()),
        Form::Json => serde_json::from_slice(body).map_err(|error| error.to_string()),
    }
    .map_err(|error| Unreadable::Malformed(format!("the body is not a request of OTLP: {error}")))
}

/// The messages of a request, as far as their fields are messages again.
#[derive(Clone, Copy)]
enum Shape {
    Request(Kind),
    OfResource(Kind),
    OfScope(Kind),
    Scope,
    Resource,
    Span,
    Metric,
    Points,
    Point,
    Record,
    Exemplar,
    Part,
    Attribute,
    Value,
    Values,
    Attributes,
}

impl Shape {
    const fn of(kind: Kind) -> Self {
        Self::Request(kind)
    }

    /// The message in a field; `None` for texts and packed numbers.
    const fn field(self, field: u32) -> Option<Self> {
        Some(match (self, field) {
            (Self::Request(kind), 1) => Self::OfResource(kind),
            (Self::OfResource(_), 1) => Self::Resource,
            (Self::OfResource(kind), 2) => Self::OfScope(kind),
            (Self::OfScope(_), 1) => Self::Scope,
            (Self::OfScope(Kind::Traces), 2) => Self::Span,
            (Self::OfScope(Kind::Metrics), 2) => Self::Metric,
            (Self::OfScope(Kind::Logs), 2) => Self::Record,
            (Self::Resource, 1)
            | (Self::Scope, 3)
            | (Self::Span, 9)
            | (Self::Record, 6)
            | (Self::Metric, 12) => Self::Attribute,
            (Self::Span, 11 | 13) | (Self::Resource, 3) => Self::Part,
            (Self::Record, 5) => Self::Value,
            (Self::Metric, 5 | 7 | 9 | 10 | 11) => Self::Points,
            (Self::Points, 1) => Self::Point,
            // Attributes, exemplars and quantiles of the forms of points.
            (Self::Point, 7 | 9) | (Self::Point, 1) => Self::Attribute,
            (Self::Point, 5 | 6 | 8 | 11) => Self::Exemplar,
            (Self::Exemplar, 7) | (Self::Part, 3 | 4) => Self::Attribute,
            (Self::Attribute, 2) | (Self::Values, 1) => Self::Value,
            (Self::Value, 5) => Self::Values,
            (Self::Value, 6) => Self::Attributes,
            (Self::Attributes, 1) => Self::Attribute,
            _ => return None,
        })
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Span | Self::Record | Self::Metric => size_of::<Span>(),
            Self::Point => size_of::<HistogramDataPoint>(),
            Self::Request(_)
            | Self::OfResource(_)
            | Self::OfScope(_)
            | Self::Points
            | Self::Exemplar
            | Self::Part => 128,
            _ => size_of::<KeyValue>(),
        }
    }
}

/// The bytes that a message takes when it is decoded; `None` if it is not protobuf.
fn count(mut body: &[u8], shape: Shape, depth: usize) -> Option<usize> {
    let mut bytes = shape.bytes() + body.len();
    while !body.is_empty() {
        let (field, wire) = decode_key(&mut body).ok()?;
        if wire != WireType::LengthDelimited {
            skip_field(wire, field, &mut body, prost::encoding::DecodeContext::default()).ok()?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut body).ok()?).ok()?;
        let (part, rest) = body.split_at_checked(length)?;
        body = rest;
        // A field of a point may be an exemplar in one form, and packed numbers in another.
        let inner =
            shape.field(field).filter(|_| depth < MAX_DEPTH).and_then(|shape| count(part, shape, depth + 1));
        bytes = bytes.saturating_add(inner.unwrap_or_default());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
    use proptest::prelude::*;

    use super::*;

    fn spans(count: usize) -> ExportTraceServiceRequest {
        let spans = vec![Span::default(); count];
        let scope = ScopeSpans { spans, ..ScopeSpans::default() };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() }],
        }
    }

    #[test]
    fn many_empty_spans_are_not_decoded() {
        let few = spans(10_000).encode_to_vec();
        assert!(
            matches!(decode(Kind::Traces, Form::Protobuf, &few), Ok(Request::Traces(request)) if request == spans(10_000))
        );
        let many = spans(1_000_000).encode_to_vec();
        assert!(many.len() < 4 << 20);
        assert!(matches!(decode(Kind::Traces, Form::Protobuf, &many), Err(Unreadable::TooLarge(_))));
        let json = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}{{}}]}}]}}]}}"#,
            "{},".repeat(1_000_000)
        );
        assert!(matches!(decode(Kind::Traces, Form::Json, json.as_bytes()), Err(Unreadable::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read(body: Vec<u8>) {
            for kind in [Kind::Traces, Kind::Metrics, Kind::Logs] {
                for form in [Form::Protobuf, Form::Json] {
                    let _ = decode(kind, form, &body);
                }
            }
        }

        #[test]
        fn a_damaged_request_is_refused_or_read(at: prop::sample::Index, byte: u8) {
            let mut body = spans(20).encode_to_vec();
            let at = at.index(body.len());
            body[at] = byte;
            let _ = decode(Kind::Traces, Form::Protobuf, &body);
        }
    }
}
