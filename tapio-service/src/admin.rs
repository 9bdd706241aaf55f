//! The admin server: `/livez`, `/readyz`, `/metrics`, `/status`, over HTTP/1.

use std::{
    collections::VecDeque, convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tapio_occurrence::printable::{self, printable};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time,
};

use crate::metrics;

/// The state that the server exposes.
pub trait State: Send + Sync + 'static {
    /// Whether every observer has settled.
    ///
    /// # Errors
    /// Names what is still missing.
    fn ready(&self) -> Result<(), String>;

    /// Whether the agent does its work.
    ///
    /// # Errors
    /// Names what is stuck.
    fn alive(&self) -> Result<(), String>;

    /// The full status, for people and scripts.
    fn status(&self) -> serde_json::Value;

    /// The metrics in the text format of OpenMetrics.
    fn metrics(&self) -> String;
}

/// A bound socket that does not listen yet. If the address is unavailable, that is an error before anything
/// is attached. The kernel programs recognise the agent's own sockets from when they begin to listen, so they
/// must be attached before that.
#[derive(Debug)]
pub struct Admin {
    socket: TcpSocket,
    address: SocketAddr,
}

const PATHS: &[&str] = &["/livez", "/readyz", "/metrics", "/status"];
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLASSIC: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Enough for a scraper, some probes and some people. One more closes the oldest, so that idle connections
/// cannot block a probe.
const MAX_CONNECTIONS: usize = 32;
/// Requests to this server have no body and few headers. hyper's minimum is 8 KiB.
const MAX_HEAD_BYTES: usize = 8 << 10;
const BACKLOG: u32 = 64;
/// The timeout for the head of a request, both the first and later ones on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest life of a connection.
const MAX_AGE: Duration = Duration::from_secs(60);
/// How long a running response may take when a connection has to end.
const GRACE: Duration = Duration::from_secs(2);
/// The pause before accepting again if the process has no file descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

impl Admin {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is unavailable; the text names the setting.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || -> io::Result<Self> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of an earlier agent may linger in TIME_WAIT. SO_REUSEADDR still does not allow two
            // listeners.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().with_context(|| unavailable(address))
    }

    /// The bound address, with the actual port if 0 was requested.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Listens and answers until `shutdown`, then lets running responses finish.
    ///
    /// # Errors
    /// The socket cannot listen.
    pub async fn serve<S: State>(
        self,
        state: Arc<S>,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let listener = self.socket.listen(BACKLOG).with_context(|| unavailable(self.address))?;
        // The oldest first.
        let mut places = VecDeque::<AbortHandle>::new();
        // Dropping `serving` tells connections to end; the server then waits for them.
        let (serving, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        places.retain(|place| !place.is_finished());
                        if places.len() == MAX_CONNECTIONS {
                            places.pop_front().inspect(AbortHandle::abort);
                        }
                        let connection = answer(stream, Arc::clone(&state), stopped.clone());
                        places.push_back(connections.spawn(connection));
                    }
                    Err(error) => {
                        tracing::debug!(%error, "admin: no connection accepted");
                        time::sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        drop(serving);
        while connections.join_next().await.is_some() {}
        Ok(())
    }
}

/// Answers the requests of one connection.
async fn answer<S: State + ?Sized>(stream: TcpStream, state: Arc<S>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(|request: Request<Incoming>| {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let response = respond(&*state, request.method(), request.uri().path(), accept);
        async { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    // A client that disconnects or sends garbage is not an error of the agent.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.changed() => {}
        () = time::sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = time::timeout(GRACE, connection).await;
}

fn respond(
    state: &(impl State + ?Sized),
    method: &Method,
    path: &str,
    accept: &str,
) -> Response<Full<Bytes>> {
    if !PATHS.contains(&path) {
        return response(StatusCode::NOT_FOUND, TEXT, format!("not found; there are {}\n", PATHS.join(" ")));
    }
    if *method != Method::GET && *method != Method::HEAD {
        let mut refusal = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".to_owned());
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/livez" => probe(state.alive()),
        "/readyz" => probe(state.ready()),
        // Prometheus requests this format; other clients may not know it.
        "/metrics" if accept.contains("application/openmetrics-text") => {
            response(StatusCode::OK, OPENMETRICS, state.metrics())
        }
        "/metrics" => response(StatusCode::OK, CLASSIC, metrics::classic(&state.metrics())),
        _ => response(StatusCode::OK, JSON, printable::json(&format!("{:#}\n", state.status())).into_owned()),
    }
}

fn probe(result: Result<(), String>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{}\n", printable(&why))),
    }
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn unavailable(address: SocketAddr) -> String {
    format!(
        "cannot serve on {address}: give another address with --listen=ADDR (key `listen`), or --listen=off"
    )
}

#[cfg(test)]
mod tests;
