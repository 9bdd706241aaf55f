//! OTLP over gRPC.

use std::{convert::Infallible, pin::Pin, sync::Arc, task, time::Duration};

use http::{Request, Response};
use hyper::body::{Bytes, Incoming};
use prost::bytes::{Buf as _, BufMut as _};
use tokio::time::timeout;
use tonic::{
    Code, Status,
    body::Body,
    codec::{
        Codec, CompressionEncoding, DecodeBuf, Decoder, EnabledCompressionEncodings, EncodeBuf, Encoder,
    },
    server::Grpc,
};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    BODY_BYTES, Failure, PATIENCE, RETRY_AFTER,
    decode::{Form, Kind},
    response,
};
use crate::polku::{Shared, gateway::Busy};

/// The paths.
const PATHS: [(&str, Kind); 3] = [
    ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", Kind::Traces),
    ("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", Kind::Metrics),
    ("/opentelemetry.proto.collector.logs.v1.LogsService/Export", Kind::Logs),
];

/// The calls, for a connection.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Shared>);

impl tower::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let _busy = request.extensions_mut().remove::<Busy>();
            let path = request.uri().path();
            let Some((_, kind)) = PATHS.iter().find(|(known, _)| *known == path) else {
                let what = format!("there is no {path}: only traces, metrics and logs of OTLP are received");
                return Ok(Status::unimplemented(what).into_http());
            };
            let mut gzip = EnabledCompressionEncodings::default();
            gzip.enable(CompressionEncoding::Gzip);
            let mut grpc = Grpc::new(Raw)
                .apply_compression_config(gzip, EnabledCompressionEncodings::default())
                .apply_max_message_size_config(Some(BODY_BYTES), None);
            let answered = timeout(PATIENCE, grpc.unary(Export { shared, kind: *kind }, request)).await;
            Ok(match answered {
                Ok(answer) if code(&answer) == Some(Code::OutOfRange) => too_large().into_http(),
                Ok(answer) => answer,
                Err(_) => Status::deadline_exceeded(format!("the request did not come within {PATIENCE:?}"))
                    .into_http(),
            })
        })
    }
}

/// The status of an answer without a message.
fn code(answer: &Response<Body>) -> Option<Code> {
    Some(Code::from_bytes(answer.headers().get(Status::GRPC_STATUS)?.as_bytes()))
}

/// Of a client's point of view OUT_OF_RANGE would pass by itself.
fn too_large() -> Status {
    Status::resource_exhausted(format!(
        "the request is larger than {} MiB: send smaller ones",
        BODY_BYTES >> 20
    ))
}

struct Export {
    shared: Arc<Shared>,
    kind: Kind,
}

impl tower::Service<tonic::Request<Bytes>> for Export {
    type Response = tonic::Response<Vec<u8>>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Vec<u8>>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Status>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (shared, kind) = (Arc::clone(&self.shared), self.kind);
        Box::pin(async move {
            let partial = shared.export(kind, Form::Protobuf, &request.into_inner()).await.map_err(status)?;
            Ok(tonic::Response::new(response::protobuf(kind, partial)))
        })
    }
}

pub(super) fn status(failure: Failure) -> Status {
    match failure {
        Failure::Malformed(what) => Status::invalid_argument(what),
        Failure::TooLarge(what) => Status::resource_exhausted(what),
        Failure::Unwritten(what) => again(Status::unavailable(what)),
    }
}

/// Says when the client may try again.
pub(super) fn again(status: Status) -> Status {
    match status.code() {
        Code::Unavailable => {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(RETRY_AFTER)));
            Status::with_error_details(Code::Unavailable, status.message(), details)
        }
        _ => status,
    }
}

/// Messages as they are: they are decoded after their size is known.
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
