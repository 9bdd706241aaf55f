//! A receiver that answers as the test wants.

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
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use prost::Message as _;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

type Body = BoxBody<Bytes, Infallible>;

/// What it does with one request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Partial(i64, &'static str),
    /// Status, headers, body.
    Http(u16, Vec<(&'static str, &'static str)>, &'static str),
    Grpc(Code, Option<Duration>),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) request: ExportLogsServiceRequest,
}

impl Came {
    pub(crate) fn records(&self) -> usize {
        let scopes = self.request.resource_logs.iter().flat_map(|logs| &logs.scope_logs);
        scopes.map(|scope| scope.log_records.len()).sum()
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
    came: Mutex<Vec<Came>>,
}

impl Receiver {
    /// One that speaks gRPC, or HTTP/1; with TLS if so configured. Takes all that it has no other reply for.
    pub(crate) async fn start(is_grpc: bool, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let mut tasks = JoinSet::new();
        let all = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (all, acceptor) = (Arc::clone(&all), acceptor.clone());
                connections.spawn(async move {
                    match acceptor {
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(tcp).await {
                                serve(stream, is_grpc, all).await;
                            }
                        }
                        None => serve(tcp, is_grpc, all).await,
                    }
                });
            }
        });
        Self { address, shared, _tasks: tasks }
    }

    pub(crate) fn replies(&self, replies: impl IntoIterator<Item = Reply>) {
        self.shared.replies.lock().unwrap().extend(replies);
    }

    pub(crate) fn came(&self) -> MutexGuard<'_, Vec<Came>> {
        self.shared.came.lock().unwrap()
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, is_grpc: bool, shared: Arc<Shared>) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(shared.answer(request, is_grpc).await) }
    });
    let io = TokioIo::new(io);
    // A connection that breaks is what some tests are about.
    if is_grpc {
        let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(io, service).await;
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
        self.came.lock().unwrap().push(Came {
            path: head.uri.path().to_owned(),
            headers: head.headers,
            request,
        });
        let reply = self.replies.lock().unwrap().pop_front().unwrap_or(Reply::Partial(0, ""));
        reply.response(is_grpc)
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
            Self::Grpc(code, None) => Status::new(code, "so it is").into_http::<()>().map(|()| body_of([])),
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
