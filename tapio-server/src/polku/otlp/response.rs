//! The answer to a request that was taken, wholly or in part.

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse},
};
use prost::Message;
use serde::Serialize;

use super::decode::Kind;

/// What of a request was refused for good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Partial {
    pub(super) rejected: i64,
    pub(super) message: String,
}

pub(super) fn protobuf(kind: Kind, partial: Partial) -> Vec<u8> {
    with(kind, partial, |response| response.bytes())
}

pub(super) fn json(kind: Kind, partial: Partial) -> Vec<u8> {
    with(kind, partial, |response| response.json())
}

/// A response, in either form.
trait Response {
    fn bytes(&self) -> Vec<u8>;
    fn json(&self) -> Vec<u8>;
}

impl<T: Message + Serialize> Response for T {
    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn json(&self) -> Vec<u8> {
        // Writing numbers and texts to memory does not fail; an empty answer is a success, too.
        serde_json::to_vec(self).unwrap_or_else(|_| b"{}".to_vec())
    }
}

fn with(kind: Kind, partial: Partial, write: impl Fn(&dyn Response) -> Vec<u8>) -> Vec<u8> {
    let Partial { rejected, message: error_message } = partial;
    let is_partial = rejected > 0;
    match kind {
        Kind::Traces => write(&ExportTraceServiceResponse {
            partial_success: is_partial
                .then_some(ExportTracePartialSuccess { rejected_spans: rejected, error_message }),
        }),
        Kind::Metrics => write(&ExportMetricsServiceResponse {
            partial_success: is_partial
                .then_some(ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message }),
        }),
        Kind::Logs => write(&ExportLogsServiceResponse {
            partial_success: is_partial
                .then_some(ExportLogsPartialSuccess { rejected_log_records: rejected, error_message }),
        }),
    }
}
