//! One request and its answer, by either protocol.

use std::{io::Write as _, time::SystemTime};

use flate2::write::GzEncoder;
use http::{HeaderMap, Request, Response, header, uri::PathAndQuery};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::bytes::BufMut as _;
use tonic::{
    client,
    codec::{Codec, CompressionEncoding, EncodeBuf, Encoder},
    metadata::MetadataMap,
};
use tonic_prost::ProstCodec;

use super::{
    super::connection::{AGENT, Cause, Failed, Grpc, Link, Target},
    Compression, Protocol, Settings, Trouble,
    answer::Answer,
};

/// The most bytes read of an answer.
pub(super) const ANSWER_BYTES: usize = 64 << 10;
const PROTOBUF: &str = "application/x-protobuf";

/// One connection to the receiver. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: Sender,
    pub(super) link: Link,
}

/// The signal that a request carries. The answers to all signals have the same form.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "occurrences are logs"))]
pub(super) enum Kind {
    Logs,
    Metrics,
    Traces,
}

impl Kind {
    /// The gRPC method for the signal.
    const fn method(self) -> &'static str {
        match self {
            Self::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
            Self::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            Self::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        }
    }
}

/// The connection broke before an answer came.
#[derive(Debug)]
pub(super) struct Broken(pub(super) Cause);

/// The client for the protocol in use.
#[derive(Debug)]
enum Sender {
    Grpc(Grpc),
    Http(http1::SendRequest<Full<Bytes>>),
}

impl Connection {
    /// Connects by the configured protocol.
    pub(super) async fn open(target: &Target, settings: &Settings) -> Result<Self, Trouble> {
        Ok(match settings.protocol {
            Protocol::Grpc => {
                let (sender, link) = target.grpc().await?;
                Self { sender: Sender::Grpc(sender), link }
            }
            Protocol::HttpProtobuf => {
                let (sender, link) = target.http1().await?;
                Self { sender: Sender::Http(sender), link }
            }
        })
    }

    /// Whether the connection certainly takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Grpc(sender) => sender.is_closed(),
            Sender::Http(sender) => sender.is_closed(),
        }
    }

    /// Sends an encoded request and reads the answer. If cancelled, the connection is unusable.
    pub(super) async fn exchange(
        &mut self,
        kind: Kind,
        target: &Target,
        settings: &Settings,
        headers: &HeaderMap,
        request: Bytes,
    ) -> Result<Answer, Broken> {
        match &mut self.sender {
            Sender::Grpc(sender) => grpc(sender.clone(), kind, target, settings, headers, request).await,
            Sender::Http(sender) => http(sender, target, settings, headers, request).await,
        }
    }
}

async fn grpc(
    sender: Grpc,
    kind: Kind,
    target: &Target,
    settings: &Settings,
    headers: &HeaderMap,
    request: Bytes,
) -> Result<Answer, Broken> {
    let origin = sender.origin.clone();
    let mut client = client::Grpc::with_origin(sender, origin);
    if settings.compression == Compression::Gzip {
        // Go's servers compress their answers like the request.
        client =
            client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    }
    let mut request = tonic::Request::new(request);
    *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
    request.set_timeout(settings.timeout.get());
    let answered = client.unary(request, PathAndQuery::from_static(kind.method()), Encoded).await;
    match answered.map_err(Failed::from) {
        Ok(response) => Ok(Answer::of_response(response.into_inner())),
        Err(Failed::Said(status)) => Ok(Answer::of_grpc(&status, target)),
        Err(Failed::Other(head)) => Ok(Answer::of_no_grpc(&head, target, SystemTime::now())),
        Err(Failed::Broken(cause)) => Err(Broken(cause)),
    }
}

async fn http(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    target: &Target,
    settings: &Settings,
    headers: &HeaderMap,
    request: Bytes,
) -> Result<Answer, Broken> {
    let mut all = Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::CONTENT_TYPE, PROTOBUF)
        .header(header::USER_AGENT, AGENT);
    let mut body = request;
    if settings.compression == Compression::Gzip {
        body = gzip(&body).map_err(|error| Broken(error.into()))?.into();
        all = all.header(header::CONTENT_ENCODING, "gzip");
    }
    let mut post = all.body(Full::new(body)).map_err(|error| Broken(error.into()))?;
    post.headers_mut().extend(headers.clone());
    let (answer, body) = read(sender, post).await?;
    // TLS servers that recognise plain HTTP answer with this status, but not with OTLP's content type.
    let is_otlp = answer.headers.get(header::CONTENT_TYPE).is_some_and(|form| form == PROTOBUF);
    if answer.status == 400 && !is_otlp && target.tls.is_none() && target.speaks_tls().await {
        return Ok(Answer::Later { why: Trouble::plain_to_tls(target), after: None });
    }
    Ok(Answer::of_http(answer.status.as_u16(), &answer.headers, body.as_deref(), target, SystemTime::now()))
}

/// Reads an answer; without its body if that is longer than the limit.
async fn read(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    post: Request<Full<Bytes>>,
) -> Result<(http::response::Parts, Option<Bytes>), Broken> {
    let sent = async {
        sender.ready().await?;
        sender.send_request(post).await
    };
    let response: Response<Incoming> = sent.await.map_err(|error| Broken(error.into()))?;
    let (head, body) = response.into_parts();
    match Limited::new(body, ANSWER_BYTES).collect().await {
        Ok(body) => Ok((head, Some(body.to_bytes()))),
        Err(error) if error.is::<LengthLimitError>() => Ok((head, None)),
        Err(error) => Err(Broken(error)),
    }
}

/// Sends a request that is encoded already, because it may have to be sent twice.
#[derive(Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ExportLogsServiceResponse;
    type Encoder = Self;
    type Decoder = <ProstCodec<Self::Decode, Self::Decode> as Codec>::Decoder;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Self::Decode, Self::Decode>::default().decoder()
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        to.put(item);
        Ok(())
    }
}

fn gzip(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}
