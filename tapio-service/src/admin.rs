//! What operators and machines ask the agent: `/livez`, `/readyz`, `/metrics`, `/status`, over HTTP/1.

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

/// What the server tells.
pub trait State: Send + Sync + 'static {
    /// Whether every observer has settled.
    ///
    /// # Errors
    /// What is waited for.
    fn ready(&self) -> Result<(), String>;

    /// Whether the agent does its work.
    ///
    /// # Errors
    /// What is stuck.
    fn alive(&self) -> Result<(), String>;

    /// All that there is to know, for people and scripts.
    fn status(&self) -> serde_json::Value;

    /// The metrics in the text format of OpenMetrics.
    fn metrics(&self) -> String;
}

/// A bound socket that does not yet listen: an address that cannot be had is an error before anything attaches,
/// and the kernel programs, which know the agent's own sockets from when they begin to listen, see it.
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

/// A scraper, some probes and some people. One more ends the oldest: whoever holds connections keeps no probe out.
const MAX_CONNECTIONS: usize = 32;
/// Requests to this server have no body and few headers; hyper's least is 8 KiB.
const MAX_HEAD_BYTES: usize = 8 << 10;
const BACKLOG: u32 = 64;
/// For the head of a request, the first and each that follows on the same connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Of a connection.
const MAX_AGE: Duration = Duration::from_secs(60);
/// For the response under way when a connection is to end.
const GRACE: Duration = Duration::from_secs(2);
/// Before accepting again where the process has no descriptors left.
const PAUSE: Duration = Duration::from_millis(200);

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    /// Where it cannot be had; the text names the setting.
    pub fn bind(address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || -> io::Result<Self> {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of an agent that ran before linger on the port; a listener does not let go of it.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().with_context(|| unavailable(address))
    }

    /// The address, with the port that was given where 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Listens and answers until `shutdown`, then lets responses under way finish.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub async fn serve<S: State>(
        self,
        state: Arc<S>,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let listener = self.socket.listen(BACKLOG).with_context(|| unavailable(self.address))?;
        // The oldest first.
        let mut places = VecDeque::<AbortHandle>::new();
        // Dropped at the end: that is what connections wait for.
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
    // A client that breaks off or talks nonsense is its own affair.
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
        // Prometheus asks for it; who does not may not know it.
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
