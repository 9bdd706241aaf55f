//! gRPC over one connection. Calls retain the other side's actual answer.

use std::{
    error::Error as _,
    pin::Pin,
    task::{Context, Poll},
};

use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT},
    response::Parts,
};
use hyper::{body::Incoming, client::conn::http2};
use tonic::{Status, body::Body};
use tower::Service;

use super::{AGENT, Cause};

/// A gRPC client. Clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    sender: http2::SendRequest<Body>,
    /// Scheme and authority of the requests.
    pub(crate) origin: Uri,
    /// Value of the header `authorization`.
    token: Option<HeaderValue>,
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The other side returned this status.
    Said(Status),
    /// The answer is not gRPC: it is from a proxy, or from another HTTP/2 server.
    Other(Box<Parts>),
    /// There is no answer, or only part of one.
    Broken(Cause),
}

/// Why there is no gRPC answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no answer of gRPC")]
    Other(Box<Parts>),
    #[error(transparent)]
    Broken(#[from] hyper::Error),
}

impl Grpc {
    pub(super) fn new(sender: http2::SendRequest<Body>, origin: Uri, token: Option<HeaderValue>) -> Self {
        Self { sender, origin, token }
    }

    /// Whether the connection certainly takes no more requests.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl Service<Request<Body>> for Grpc {
    type Response = Response<Incoming>;
    type Error = Unanswered;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Unanswered>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unanswered>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.headers_mut().entry(USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        if let Some(token) = &self.token {
            request.headers_mut().insert(AUTHORIZATION, token.clone());
        }
        let answered = self.sender.send_request(request);
        Box::pin(async move {
            let response = answered.await?;
            if is_grpc(&response) {
                Ok(response)
            } else {
                Err(Unanswered::Other(Box::new(response.into_parts().0)))
            }
        })
    }
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        // A status from the other side has no cause on this side.
        match status.source().map(|cause| cause.downcast_ref()) {
            None => Self::Said(status),
            Some(Some(Unanswered::Other(head))) => Self::Other(head.clone()),
            Some(_) => Self::Broken(status.into()),
        }
    }
}

fn is_grpc(response: &Response<Incoming>) -> bool {
    let form = response.headers().get(CONTENT_TYPE);
    response.status() == 200 && form.is_some_and(|form| form.as_bytes().starts_with(b"application/grpc"))
}
