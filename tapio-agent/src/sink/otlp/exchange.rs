//! One request and its answer, by either protocol.

use std::{error::Error, io::Write as _, time::SystemTime};

use flate2::write::GzEncoder;
use http::{HeaderMap, Request, Response, Uri, header, uri::Scheme};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, logs_service_client::LogsServiceClient,
};
use prost::Message as _;
use tonic::{codec::CompressionEncoding, metadata::MetadataMap};
use tower::service_fn;

use super::{
    Compression, Settings, Trouble,
    answer::Answer,
    connection::{Cause, Connection, Sender, Target},
};

/// The most that is read of an answer.
const ANSWER_BYTES: usize = 64 << 10;
const PROTOBUF: &str = "application/x-protobuf";
const AGENT: &str = concat!("tapio/", env!("CARGO_PKG_VERSION"));

/// The connection broke before there was an answer.
#[derive(Debug)]
pub(super) struct Broken(pub(super) Cause);

/// Why gRPC has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// There is one, of a proxy or of something else that speaks HTTP/2.
    #[error("no answer of gRPC")]
    Other(Box<http::response::Parts>),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl Connection {
    /// Sends a request and reads the answer. Cancelled, it leaves the connection unusable.
    pub(super) async fn exchange(
        &mut self,
        target: &Target,
        settings: &Settings,
        headers: &HeaderMap,
        request: &ExportLogsServiceRequest,
    ) -> Result<Answer, Broken> {
        match &mut self.sender {
            Sender::Grpc(sender) => grpc(sender.clone(), target, settings, headers, request.clone()).await,
            Sender::Http(sender) => http(sender, target, settings, headers, request).await,
        }
    }
}

async fn grpc(
    sender: http2::SendRequest<tonic::body::Body>,
    target: &Target,
    settings: &Settings,
    headers: &HeaderMap,
    request: ExportLogsServiceRequest,
) -> Result<Answer, Broken> {
    let service = service_fn(move |request: Request<tonic::body::Body>| {
        let mut sender = sender.clone();
        async move {
            let response = sender.send_request(request).await?;
            let form = response.headers().get(header::CONTENT_TYPE);
            let is_grpc = form.is_some_and(|form| form.as_bytes().starts_with(b"application/grpc"));
            if response.status() == 200 && is_grpc {
                Ok(response)
            } else {
                Err(Unanswered::Other(Box::new(response.into_parts().0)))
            }
        }
    });
    let scheme = if target.tls { Scheme::HTTPS } else { Scheme::HTTP };
    let origin =
        Uri::builder().scheme(scheme).authority(target.endpoint.authority()).path_and_query("/").build();
    let origin = origin.map_err(|error| Broken(error.into()))?;
    let mut client = LogsServiceClient::with_origin(service, origin);
    if settings.compression == Compression::Gzip {
        // Go's servers answer as they were asked.
        client =
            client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    }
    let mut request = tonic::Request::new(request);
    let mut all = HeaderMap::from_iter([(header::USER_AGENT, header::HeaderValue::from_static(AGENT))]);
    all.extend(headers.clone());
    *request.metadata_mut() = MetadataMap::from_headers(all);
    request.set_timeout(settings.timeout.get());
    match client.export(request).await {
        Ok(response) => Ok(Answer::of_response(response.into_inner())),
        // What the receiver says has no cause on this side.
        Err(status) if status.source().is_none() => Ok(Answer::of_grpc(&status)),
        Err(status) => match status.source().and_then(|cause| cause.downcast_ref()) {
            Some(Unanswered::Other(head)) => {
                Ok(Answer::of_no_grpc(head, &target.endpoint, SystemTime::now()))
            }
            _ => Err(Broken(status.into())),
        },
    }
}

async fn http(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    target: &Target,
    settings: &Settings,
    headers: &HeaderMap,
    request: &ExportLogsServiceRequest,
) -> Result<Answer, Broken> {
    let mut all = Request::post(target.endpoint.path())
        .header(header::HOST, target.endpoint.authority())
        .header(header::CONTENT_TYPE, PROTOBUF)
        .header(header::USER_AGENT, AGENT);
    let mut body = request.encode_to_vec();
    if settings.compression == Compression::Gzip {
        body = gzip(&body).map_err(|error| Broken(error.into()))?;
        all = all.header(header::CONTENT_ENCODING, "gzip");
    }
    let mut post = all.body(Full::new(Bytes::from(body))).map_err(|error| Broken(error.into()))?;
    post.headers_mut().extend(headers.clone());
    let (answer, body) = read(sender, post).await?;
    let endpoint = &target.endpoint;
    // Servers with TLS that recognise HTTP say so with this, and not as OTLP does.
    let is_otlp = answer.headers.get(header::CONTENT_TYPE).is_some_and(|form| form == PROTOBUF);
    if answer.status == 400 && !is_otlp && !target.tls && target.speaks_tls().await {
        return Ok(Answer::Later { why: Trouble::plain_to_tls(endpoint), after: None });
    }
    Ok(Answer::of_http(answer.status.as_u16(), &answer.headers, &body, endpoint, SystemTime::now()))
}

async fn read(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    post: Request<Full<Bytes>>,
) -> Result<(http::response::Parts, Bytes), Broken> {
    let sent = async {
        sender.ready().await?;
        sender.send_request(post).await
    };
    let response: Response<Incoming> = sent.await.map_err(|error| Broken(error.into()))?;
    let (head, body) = response.into_parts();
    match Limited::new(body, ANSWER_BYTES).collect().await {
        Ok(body) => Ok((head, body.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => Ok((head, Bytes::from_static(b"a long answer"))),
        Err(error) => Err(Broken(error)),
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
