//! The answer to a request that was taken, wholly or in part.

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
};
use prost::Message as _;
use serde_json::json;

use super::decode::Kind;

/// What of a request was refused for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) rejected: i64,
    pub(super) message: String,
}

pub(super) fn protobuf(kind: Kind, partial: Partial) -> Vec<u8> {
    let Partial { rejected, message: error_message } = partial;
    let is_partial = rejected > 0;
    match kind {
        Kind::Traces => {
            let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message };
            ExportTraceServiceResponse { partial_success: is_partial.then_some(partial) }.encode_to_vec()
        }
        Kind::Metrics => {
            let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message };
            ExportMetricsServiceResponse { partial_success: is_partial.then_some(partial) }.encode_to_vec()
        }
        Kind::Logs => {
            let partial = ExportLogsPartialSuccess { rejected_log_records: rejected, error_message };
            ExportLogsServiceResponse { partial_success: is_partial.then_some(partial) }.encode_to_vec()
        }
    }
}

/// By protobuf's mapping to JSON numbers of 64 bits are texts.
pub(super) fn json(kind: Kind, partial: &Partial) -> Vec<u8> {
    let rejected = match kind {
        Kind::Traces => "rejectedSpans",
        Kind::Metrics => "rejectedDataPoints",
        Kind::Logs => "rejectedLogRecords",
    };
    let answer = match partial.rejected {
        0 => json!({}),
        count => {
            json!({ "partialSuccess": { rejected: count.to_string(), "errorMessage": partial.message } })
        }
    };
    answer.to_string().into_bytes()
}
