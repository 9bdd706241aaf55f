//! Serves the API, the pages, gRPC and MCP on one port.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use anyhow::Context as _;
use axum::{
    Extension,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, sync::watch};

use super::{Known, Refused, always, answers, connection::Secured, document, routed};
use crate::{
    ahti::{
        Ahti,
        auth::{self, Auth},
        grpc,
        inner::Inner,
        mcp, pages,
    },
    tls::Tls,
};

pub(in crate::ahti) fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    bind().with_context(|| format!("ahti.api: cannot serve on {address}: give another address, or off"))
}

pub(in crate::ahti) async fn serve(
    listener: std::net::TcpListener,
    tls: Option<Tls>,
    ahti: Arc<Ahti>,
    auth: Auth,
    cluster: String,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).context("the API cannot be served")?;
    let description = document::description(&answers().into_iter().chain(always()).collect::<Vec<_>>());
    let api = routed(answers())
        .layer(middleware::from_fn_with_state(Arc::clone(&ahti), once_restored))
        .merge(routed(always()))
        .layer(Extension(document::Document::new(&description)))
        .with_state(Arc::clone(&ahti));
    let inner = Inner::new(api.clone());
    let mcp = mcp::routes(inner.clone(), &description, &cluster)?;
    let routes = api
        .merge(pages::routes().with_state(ahti))
        .merge(mcp)
        .merge(grpc::routes(inner)?)
        // The outermost: nothing is said to who is not known, not even what there is.
        .layer(middleware::from_fn_with_state(auth, auth::authenticated));
    let stop = async move {
        // An error means that the server is gone, which also means stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let served = match tls {
        None => axum::serve(listener, routes).with_graceful_shutdown(stop).await,
        Some(tls) => axum::serve(Secured::new(listener, tls), routes).with_graceful_shutdown(stop).await,
    };
    served.context("the API cannot be served")
}

/// An answer from half of the facts may be wrong: there is none until all have been taken.
async fn once_restored(State(ahti): Known, request: Request, next: Next) -> Response {
    if ahti.is_restored.load(Ordering::Relaxed) {
        return next.run(request).await;
    }
    let text = "the server has just started, and still reads its journal: try again in some seconds";
    Refused(StatusCode::SERVICE_UNAVAILABLE, text.to_owned()).into_response()
}
