//! A receiver that answers on a test's orders.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Read as _,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use opentelemetry_proto::tonic::{
    collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    common::v1::any_value::Value as Text,
};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::serve::{Version, serve};

type Body = BoxBody<Bytes, Infallible>;

/// The response to one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Partial(i64, &'static str),
    /// Status, headers, body.
    Http(u16, Vec<(&'static str, &'static str)>, &'static str),
    Grpc(Code, Option<Duration>),
    /// A gRPC status with this message.
    Says(Code, &'static str),
}

/// The response to a request that is not accepted.
pub(crate) type Rule = Box<dyn Fn(&Came) -> Option<Reply> + Send>;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) request: ExportLogsServiceRequest,
    /// Size of the message before compression.
    pub(crate) bytes: usize,
}

impl Came {
    pub(crate) fn records(&self) -> usize {
        let scopes = self.request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
        scopes.map(|scope| scope.log_records.len()).sum()
    }

    /// Ids of the occurrences in it.
    pub(crate) fn ids(&self) -> Vec<String> {
        let scopes = self.request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
        let attributes = scopes.flat_map(|scope| &scope.log_records).flat_map(|record| &record.attributes);
        let ids = attributes.filter(|attribute| attribute.key == "log.record.uid");
        ids.filter_map(|id| match id.value.as_ref()?.value.as_ref()? {
            Text::StringValue(id) => Some(id.clone()),
            _ => None,
        })
        .collect()
    }
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    replies: Mutex<VecDeque<Reply>>,
    rule: Mutex<Option<Rule>>,
    /// Ids of accepted occurrences, in order.
    taken: Mutex<Vec<String>>,
    came: Mutex<Vec<Came>>,
}

impl Receiver {
    /// Starts one for gRPC or for HTTP/1, with TLS if configured. It accepts every request that has no other
    /// reply.
    pub(crate) async fn start(is_grpc: bool, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let version = if is_grpc { Version::Http2 } else { Version::Http1 };
        let all = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let all = Arc::clone(&all);
            async move { Ok::<_, Infallible>(all.answer(request, is_grpc).await) }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, version, tls, service));
        Self { address, shared, _tasks: tasks }
    }

    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().extend(replies);
    }

    /// Decides about each request that has no queued reply.
    pub(crate) fn rule(&self, rule: Option<Rule>) {
        *self.shared.rule.lock().unwrap() = rule;
    }

    /// Ids of accepted occurrences, in order.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.shared.taken.lock().unwrap().clone()
    }

    pub(crate) fn came(&self) -> MutexGuard<'_, Vec<Came>> {
        self.shared.came.lock().unwrap()
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, is_grpc: bool) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else { return Response::new(body_of([])) };
        let body = body.to_bytes();
        let encoding = if is_grpc { "grpc-encoding" } else { "content-encoding" };
        let (is_gzip, message) = if is_grpc {
            let (prefix, message) = body.split_at(5);
            assert_eq!(u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize, message.len());
            (prefix[0] == 1, message)
        } else {
            (head.headers.contains_key(encoding), &body[..])
        };
        let mut plain = message.to_vec();
        if is_gzip {
            assert_eq!(head.headers[encoding], "gzip");
            plain.clear();
            flate2::read::GzDecoder::new(message).read_to_end(&mut plain).unwrap();
        }
        let request = ExportLogsServiceRequest::decode(&plain[..]).unwrap();
        let bytes = plain.len();
        let came = Came { path: head.uri.path().to_owned(), headers: head.headers, request, bytes };
        let ruled = || self.rule.lock().unwrap().as_ref().and_then(|rule| rule(&came));
        let reply = self.replies.lock().unwrap().pop_front().or_else(ruled);
        if reply.is_none() {
            self.taken.lock().unwrap().extend(came.ids());
        }
        self.came.lock().unwrap().push(came);
        reply.unwrap_or(Reply::Partial(0, "")).response(is_grpc)
    }
}

impl Reply {
    fn response(self, is_grpc: bool) -> Response<Body> {
        match self {
            Self::Partial(rejected_log_records, message) => {
                let partial =
                    ExportLogsPartialSuccess { rejected_log_records, error_message: message.to_owned() };
                let partial = Some(partial).filter(|_| rejected_log_records > 0 || !message.is_empty());
                let bytes = ExportLogsServiceResponse { partial_success: partial }.encode_to_vec();
                if !is_grpc {
                    let response = Response::builder().header("content-type", "application/x-protobuf");
                    return response.body(body_of([Frame::data(bytes.into())])).unwrap();
                }
                let mut framed = vec![0];
                framed.extend((bytes.len() as u32).to_be_bytes());
                framed.extend(bytes);
                let trailers =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
                let response = Response::builder().header("content-type", "application/grpc");
                response.body(body_of([Frame::data(framed.into()), Frame::trailers(trailers)])).unwrap()
            }
            Self::Http(status, headers, body) => {
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                response.body(body_of([Frame::data(body.into())])).unwrap()
            }
            Self::Grpc(code, None) => Self::Says(code, "so it is").response(is_grpc),
            Self::Says(code, said) => Status::new(code, said).into_http::<()>().map(|()| body_of([])),
            Self::Grpc(code, after) => {
                let details = ErrorDetails::with_retry_info(after);
                Status::with_error_details(code, "so it is", details).into_http::<()>().map(|()| body_of([]))
            }
        }
    }
}

fn body_of(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + Sync + 'static>) -> Body {
    BoxBody::new(StreamBody::new(stream::iter(frames.into_iter().map(Ok))))
}
