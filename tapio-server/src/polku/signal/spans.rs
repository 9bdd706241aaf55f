//! Spans: what sort of calls they are.

use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use tapio_occurrence::signal::Side;

use super::{
    entity::{Called, text_of},
    traces::{SpanId, TraceId},
};

/// Spans and points whose time differs more from the server's clock are refused.
const LATE_NS: u64 = 120_000_000_000;
const EARLY_NS: u64 = 60_000_000_000;

/// A class of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Operation {
    Http,
    Rpc,
    Database,
    Messaging,
    Other,
}

impl Operation {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Rpc => "rpc",
            Self::Database => "database",
            Self::Messaging => "messaging",
            Self::Other => "other",
        }
    }
}

/// What the attributes of a span or of a point say, in one pass.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) operation: Operation,
    pub(super) called: Option<Called<'a>>,
    /// Whether a status code, or `error.type`, says that it failed.
    pub(super) failed: bool,
}

/// Codes of gRPC that are a server's failure: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
const FAILED_GRPC: [i64; 6] = [2, 4, 12, 13, 14, 15];

pub(super) fn read(attributes: &[KeyValue]) -> Said<'_> {
    let mut said = Said { operation: Operation::Other, called: None, failed: false };
    // The best name so far: `peer.service`, then `server.address`, then older names.
    let mut rank = 0;
    for pair in attributes {
        let (operation, called) = match &*pair.key {
            "http.request.method" | "http.method" => (Some(Operation::Http), 0),
            "rpc.system" | "rpc.system.name" => (Some(Operation::Rpc), 0),
            "db.system" | "db.system.name" => (Some(Operation::Database), 0),
            "messaging.system" => (Some(Operation::Messaging), 0),
            "peer.service" | "service.peer.name" => (None, 4),
            "server.address" => (None, 3),
            "net.peer.name" => (None, 2),
            "network.peer.address" | "net.peer.ip" => (None, 1),
            "http.response.status_code" | "http.status_code" => {
                said.failed |= number(pair).is_some_and(|code| code >= 500);
                continue;
            }
            "rpc.grpc.status_code" => {
                said.failed |= number(pair).is_some_and(|code| FAILED_GRPC.contains(&code));
                continue;
            }
            _ => continue,
        };
        if let Some(operation) = operation {
            said.operation = operation;
        } else if called > rank
            && let Some(name) = text_of(pair)
        {
            said.called = Some(if called == 4 { Called::Service(name) } else { Called::Host(name) });
            rank = called;
        }
    }
    said
}

fn number(pair: &KeyValue) -> Option<i64> {
    match pair.value.as_ref()?.value.as_ref()? {
        Value::IntValue(number) => Some(*number),
        Value::StringValue(text) => text.parse().ok(),
        _ => None,
    }
}

/// A span that is a call.
#[derive(Debug)]
pub(super) struct SpanCall<'a> {
    pub(super) side: Side,
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) parent: SpanId,
    pub(super) end_ns: u64,
    pub(super) duration_us: u64,
    pub(super) failed: bool,
    pub(super) said: Said<'a>,
}

/// Why a span is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// It is no call: nothing is wrong with it.
    Used,
    /// Its ids are not valid.
    Id,
    /// Its time is not valid, or not now.
    Time,
}

pub(super) fn call(span: &Span, now_ns: u64) -> Result<SpanCall<'_>, Not> {
    let side = match SpanKind::try_from(span.kind) {
        Ok(SpanKind::Server | SpanKind::Consumer) => Side::Server,
        Ok(SpanKind::Client | SpanKind::Producer) => Side::Client,
        _ => return Err(Not::Used),
    };
    let trace =
        TraceId::try_from(&*span.trace_id).ok().filter(|id| *id != TraceId::default()).ok_or(Not::Id)?;
    let id = SpanId::try_from(&*span.span_id).ok().filter(|id| *id != SpanId::default()).ok_or(Not::Id)?;
    // Without a parent it is empty.
    let parent = SpanId::try_from(&*span.parent_span_id).unwrap_or_default();
    let (start_ns, end_ns) = (span.start_time_unix_nano, span.end_time_unix_nano);
    if start_ns > end_ns || !is_now(end_ns, now_ns) {
        return Err(Not::Time);
    }
    let said = read(&span.attributes);
    let failed = match span.status.as_ref().map_or(StatusCode::Unset, |status| status.code()) {
        StatusCode::Error => true,
        StatusCode::Ok => false,
        StatusCode::Unset => said.failed,
    };
    Ok(SpanCall {
        side,
        trace,
        span: id,
        parent,
        end_ns,
        duration_us: (end_ns - start_ns) / 1_000,
        failed,
        said,
    })
}

/// Whether a time is close to the server's clock.
pub(super) const fn is_now(at_ns: u64, now_ns: u64) -> bool {
    at_ns.saturating_add(LATE_NS) >= now_ns && at_ns <= now_ns.saturating_add(EARLY_NS)
}
