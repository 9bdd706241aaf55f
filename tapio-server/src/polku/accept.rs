//! Connections to the gateway: accepts, limits and ends them.

use std::{convert::Infallible, future::ready, mem, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Status, body::Body};
use tower::Service;

use super::{Shared, gateway::Busy};
use crate::tls::Tls;

const BACKLOG: u32 = 1_024;
/// The timeout of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection without a call for this long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// How long the last answers of a connection may take when it has to end.
const GRACE: Duration = Duration::from_secs(2);
/// The interval of keep-alive pings, and the timeout of each. They end connections whose other end is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Bytes of a stream that are received before they are asked for, and of all streams of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// Calls at once on a connection. An agent makes one.
const CALLS: u32 = 16;
/// How long the head of a request of HTTP/1 may take.
const HEAD: Duration = Duration::from_secs(10);
/// Bytes of the headers of a call.
const HEADER_BYTES: u32 = 16 << 10;
/// Connections for each stream that is allowed: agents that reconnect, and health checks.
const CONNECTIONS_PER_STREAM: usize = 2;
/// The pause before accepting again if the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

/// What is served on the connections of a socket.
#[derive(Clone)]
pub(super) struct Serve<S> {
    pub(super) service: S,
    /// Places for calls that are no streams, and for connections.
    pub(super) calls: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    /// Whether HTTP/1 is served, too.
    pub(super) http1: bool,
    /// The answer to a call that is not admitted.
    pub(super) refuse: fn(Status) -> Response<Body>,
}

/// A socket that listens.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds the address. Call it within a runtime.
    ///
    /// # Errors
    /// The address is unavailable; the text names the setting.
    pub(super) fn bind(address: SocketAddr, key: &str) -> anyhow::Result<Self> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of an earlier server may linger in TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let unavailable = || {
            let flag = key.replace(['.', '_'], "-");
            format!("POLKU cannot listen on {address}: give another address with --{flag}=ADDR (key `{key}`)")
        };
        let listener = bind().with_context(unavailable)?;
        let address = listener.local_addr().with_context(unavailable)?;
        Ok(Self { listener, address })
    }

    /// The bound address, with the actual port if 0 was requested.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until the server stops, then waits until the connections have ended.
    pub(super) async fn serve<S>(self, shared: Arc<Shared>, tls: Option<Tls>, serve: Serve<S>)
    where
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let places = Arc::clone(&serve.connections);
        let mut stopped = shared.stopped.clone();
        let mut stop = pin!(async move {
            // An error means that the sender is gone, which also means stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let mut connections = JoinSet::new();
        let mut has_failed = false;
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, peer)) => {
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                            shared.metrics.turned_away("connections");
                            tracing::debug!(%peer, "no place for another connection");
                            continue;
                        };
                        let tls = tls.as_ref().map(Tls::acceptor);
                        let connection = Connection { serve: serve.clone(), shared: Arc::clone(&shared), peer };
                        connections.spawn(connection.run(tcp, tls, place));
                    }
                    Err(error) => {
                        shared.metrics.turned_away("accept");
                        if !mem::replace(&mut has_failed, true) {
                            tracing::warn!(%error, "a connection cannot be accepted; more are logged at debug level");
                        } else {
                            tracing::debug!(%error, "a connection cannot be accepted");
                        }
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Places for connections, or for calls.
pub(super) fn places(most: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(most))
}

/// The most connections at once.
pub(super) const fn most_connections(streams: usize) -> usize {
    streams * CONNECTIONS_PER_STREAM + 16
}

struct Connection<S> {
    serve: Serve<S>,
    shared: Arc<Shared>,
    peer: SocketAddr,
}

impl<S> Connection<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    async fn run(self, tcp: TcpStream, tls: Option<tokio_rustls::TlsAcceptor>, _place: OwnedSemaphorePermit) {
        // Without it small messages are delayed.
        let _ = tcp.set_nodelay(true);
        let Some(tls) = tls else { return self.serve(tcp).await };
        match timeout(HANDSHAKE, tls.accept(tcp)).await {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => {
                self.shared.metrics.turned_away("handshake");
                tracing::debug!(peer = %self.peer, %error, "no TLS connection");
            }
            Err(_) => {
                self.shared.metrics.turned_away("handshake");
                tracing::debug!(peer = %self.peer, "the TLS handshake took more than {HANDSHAKE:?}");
            }
        }
    }

    async fn serve(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let Self { serve: Serve { service, calls: places, http1, refuse, .. }, shared, peer } = self;
        let (calls, mut running) = watch::channel(0_usize);
        let calls = Arc::new(calls);
        let admitting = Arc::clone(&shared);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let admitted = admitting.admit(request.headers());
            match admitted.and_then(|()| Busy::new(&admitting, &places, &calls, request.uri().path())) {
                Ok(busy) => {
                    // The call counts as running until its handler has dropped this.
                    request.extensions_mut().insert(busy);
                    Either::Left(service.clone().call(request))
                }
                Err(status) => Either::Right(ready(Ok::<Response<Body>, Infallible>(refuse(status)))),
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(CALLS)
            .max_header_list_size(HEADER_BYTES);
        let builder = if http1 { builder } else { builder.http2_only() };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let mut stopped = shared.stopped.clone();
        let stop = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        // A client that disconnects or sends garbage is not an error of the server.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "a connection broke");
                }
                return;
            }
            () = stop => {}
            () = idle(&mut running) => tracing::debug!(%peer, "a connection without calls is closed"),
        }
        connection.as_mut().graceful_shutdown();
        // Calls end by themselves when the server stops; the time is limited by whoever waits for this task. What may never
        // end is a connection without one, as its client may never have said a word.
        tokio::select! {
            _ = connection.as_mut() => {}
            () = done(&mut running) => {}
        }
    }
}

/// Completes when no call is running, and a moment has passed for the last answer.
async fn done(running: &mut watch::Receiver<usize>) {
    let _ = running.wait_for(|calls| *calls == 0).await;
    sleep(GRACE).await;
}

/// Completes when there has been no call for a while.
async fn idle(running: &mut watch::Receiver<usize>) {
    loop {
        if running.wait_for(|calls| *calls == 0).await.is_err() {
            return;
        }
        if timeout(IDLE, running.wait_for(|calls| *calls > 0)).await.is_err() {
            return;
        }
    }
}
