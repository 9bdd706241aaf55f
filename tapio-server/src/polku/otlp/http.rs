//! OTLP over HTTP, as protobuf or JSON.

use std::{convert::Infallible, io::Read as _, pin::Pin, sync::Arc, task};

use flate2::read::GzDecoder;
use http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{
        ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE,
    },
};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use prost::Message as _;
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body};

use super::{
    BODY_BYTES, Failure, PATIENCE,
    decode::{Form, Kind},
    response,
};
use crate::polku::{Shared, gateway::Busy};

/// The paths.
const PATHS: [(&str, Kind); 3] =
    [("/v1/traces", Kind::Traces), ("/v1/metrics", Kind::Metrics), ("/v1/logs", Kind::Logs)];

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// The requests, for a connection.
#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<Shared>);

/// Why a request is not answered with success.
struct Refused {
    status: StatusCode,
    what: String,
    header: Option<(HeaderName, String)>,
}

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
            let form = form(request.headers());
            let answer = serve(&shared, form, request).await;
            let form = form.unwrap_or(Form::Protobuf);
            Ok(answer
                .map_or_else(|refused| refused.response(form), |body| answer_of(StatusCode::OK, form, body)))
        })
    }
}

async fn serve(shared: &Shared, form: Option<Form>, request: Request<Incoming>) -> Result<Vec<u8>, Refused> {
    let path = request.uri().path();
    let Some((_, kind)) = PATHS.iter().find(|(known, _)| *known == path) else {
        let what = "there are /v1/traces, /v1/metrics and /v1/logs".to_owned();
        return Err(Refused::new(StatusCode::NOT_FOUND, what));
    };
    if request.method() != Method::POST {
        let what = "send it by POST".to_owned();
        let header = Some((ALLOW, "POST".to_owned()));
        return Err(Refused { header, ..Refused::new(StatusCode::METHOD_NOT_ALLOWED, what) });
    }
    let form = form.ok_or_else(|| {
        let what = format!("the content type has to be {PROTOBUF} or {JSON}");
        Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what)
    })?;
    let is_gzip = is_gzip(request.headers())?;
    let read = timeout(PATIENCE, Limited::new(request.into_body(), BODY_BYTES).collect()).await;
    let read = read.map_err(|_| {
        Refused::new(StatusCode::REQUEST_TIMEOUT, format!("the request did not come within {PATIENCE:?}"))
    })?;
    let body = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => too_large(),
        None => Refused::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
    })?;
    let body = body.to_bytes();
    let body = if is_gzip { unpacked(&body)?.into() } else { body };
    let partial = shared.export(*kind, form, &body).await?;
    Ok(match form {
        Form::Protobuf => response::protobuf(*kind, partial),
        Form::Json => response::json(*kind, &partial),
    })
}

/// The form that the content type says.
fn form(headers: &HeaderMap) -> Option<Form> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let kind = kind.split(';').next()?.trim();
    let is = |known: &str| kind.eq_ignore_ascii_case(known);
    if is(PROTOBUF) { Some(Form::Protobuf) } else { is(JSON).then_some(Form::Json) }
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Refused> {
    match headers.get(CONTENT_ENCODING).map(|encoding| encoding.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"" | b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => {
            let what = "the content encoding has to be gzip, or none".to_owned();
            Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what))
        }
    }
}

fn unpacked(body: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(body).take(BODY_BYTES as u64 + 1).read_to_end(&mut unpacked);
    read.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, format!("the body is not gzip: {error}")))?;
    if unpacked.len() > BODY_BYTES { Err(too_large()) } else { Ok(unpacked) }
}

fn too_large() -> Refused {
    let what = format!("the request is larger than {} MiB: send smaller ones", BODY_BYTES >> 20);
    Refused::new(StatusCode::PAYLOAD_TOO_LARGE, what)
}

/// The answer to a call that was not admitted.
pub(super) fn refuse(status: &Status) -> Response<Body> {
    let refused = match status.code() {
        Code::Unauthenticated => {
            let header = Some((WWW_AUTHENTICATE, "Bearer".to_owned()));
            Refused { header, ..Refused::new(StatusCode::UNAUTHORIZED, status.message().to_owned()) }
        }
        _ => Refused::later(status.message().to_owned()),
    };
    refused.response(Form::Protobuf)
}

impl Refused {
    const fn new(status: StatusCode, what: String) -> Self {
        Self { status, what, header: None }
    }

    fn later(what: String) -> Self {
        let header = Some((RETRY_AFTER, super::RETRY_AFTER.to_string()));
        Self { header, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, what) }
    }

    /// The body is a `google.rpc.Status`, in the form of the request.
    fn response(self, form: Form) -> Response<Body> {
        let Self { status, what, header } = self;
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            StatusCode::PAYLOAD_TOO_LARGE => Code::ResourceExhausted,
            StatusCode::NOT_FOUND => Code::Unimplemented,
            StatusCode::REQUEST_TIMEOUT => Code::DeadlineExceeded,
            _ => Code::InvalidArgument,
        };
        let body = match form {
            Form::Protobuf => {
                tonic_types::Status { code: code.into(), message: what, details: Vec::new() }.encode_to_vec()
            }
            Form::Json => json!({ "code": i32::from(code), "message": what }).to_string().into_bytes(),
        };
        let mut answer = answer_of(status, form, body);
        if let Some((name, value)) = header
            && let Ok(value) = value.parse()
        {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Malformed(what) => Self::new(StatusCode::BAD_REQUEST, what),
            Failure::TooLarge(what) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, what),
            Failure::Unwritten(what) => Self::later(what),
        }
    }
}

fn answer_of(status: StatusCode, form: Form, body: Vec<u8>) -> Response<Body> {
    let kind = if form == Form::Json { JSON } else { PROTOBUF };
    let length = body.len();
    let mut answer = Response::new(Body::new(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    answer
}
