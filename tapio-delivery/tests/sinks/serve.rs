//! HTTP servers of either version, with TLS if configured.

use std::{convert::Infallible, error::Error, sync::Arc};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The HTTP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// The certificate that a client presented, among the extensions of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shown(pub(crate) Option<CertificateDer<'static>>);

/// Serves all connections until it is dropped.
pub(crate) async fn serve<S, B>(
    listener: TcpListener,
    version: Version,
    tls: Option<ServerConfig>,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let mut connections = JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, service) = (acceptor.clone(), service.clone());
        connections.spawn(async move {
            let Some(acceptor) = acceptor else { return connection(tcp, version, None, service).await };
            // Some tests cause failed handshakes.
            if let Ok(stream) = acceptor.accept(tcp).await {
                let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
                let shown = shown.map(|certificate| certificate.clone().into_owned());
                connection(stream, version, shown, service).await;
            }
        });
    }
}

async fn connection<S, B>(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    version: Version,
    shown: Option<CertificateDer<'static>>,
    service: S,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let io = TokioIo::new(io);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Shown(shown.clone()));
        service.call(request)
    });
    // Some tests cause broken connections.
    let _ = match version {
        Version::Http2 => http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await,
        Version::Http1 => http1::Builder::new().serve_connection(io, service).await,
    };
}
