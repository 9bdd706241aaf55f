//! Somebody who is told: notes what comes, and answers as was asked.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::wait_until;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Came {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name}: {self:?}")).to_str().unwrap()
    }
}

/// An answer.
type Said = (u16, &'static str);

#[derive(Clone, Default)]
pub(crate) struct Receiver {
    came: Arc<Mutex<Vec<Came>>>,
    /// What is answered first; then `usual`.
    first: Arc<Mutex<VecDeque<Said>>>,
    usual: &'static str,
}

impl Receiver {
    /// One that gives these answers, one after another, and then the usual one, with its address.
    pub(crate) async fn start(first: &[Said], usual: &'static str) -> (Self, SocketAddr) {
        let first = Arc::new(Mutex::new(first.iter().copied().collect()));
        let receiver = Self { first, usual, ..Self::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().fallback(take).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        (receiver, address)
    }

    pub(crate) fn all(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// Waits until so many have come.
    pub(crate) fn wait(&self, count: usize) -> Vec<Came> {
        wait_until(|| self.all(), |all| all.len() >= count)
    }
}

async fn take(State(receiver): State<Receiver>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    receiver.came.lock().unwrap().push(Came {
        path: head.uri.path().to_owned(),
        headers: head.headers,
        body,
    });
    let (status, text) = receiver.first.lock().unwrap().pop_front().unwrap_or((200, receiver.usual));
    (StatusCode::from_u16(status).unwrap(), text).into_response()
}
