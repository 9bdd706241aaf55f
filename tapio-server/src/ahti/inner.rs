//! The API, asked from within: by those who speak another protocol.

use std::error::Error;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, StatusCode, header::CONTENT_TYPE, request::Builder},
};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{api::Refused, auth::Viewer};

/// The routes of the API.
#[derive(Clone)]
pub(super) struct Inner(Router);

impl Inner {
    pub(super) const fn new(routes: Router) -> Self {
        Self(routes)
    }

    /// What somebody gets at a path.
    pub(super) async fn get(&self, viewer: Viewer, path: &str) -> Result<String, Refused> {
        text(self.body(viewer, Request::get(path)).await?).await
    }

    /// The same as it comes.
    pub(super) async fn body(&self, viewer: Viewer, request: Builder) -> Result<Body, Refused> {
        self.ask(viewer, request.body(Body::empty())).await
    }

    /// What somebody gets who sends JSON.
    pub(super) async fn post(&self, viewer: Viewer, path: &str, json: &Value) -> Result<String, Refused> {
        let request = Request::post(path).header(CONTENT_TYPE, "application/json");
        text(self.ask(viewer, request.body(json.to_string().into())).await?).await
    }

    async fn ask(&self, viewer: Viewer, request: http::Result<Request<Body>>) -> Result<Body, Refused> {
        let mut request = request.map_err(|error| failed(&error))?;
        request.extensions_mut().insert(viewer);
        let Ok(response) = self.0.clone().oneshot(request).await;
        let (status, body) = (response.status(), response.into_body());
        if status == StatusCode::OK {
            return Ok(body);
        }
        Err(Refused(status, text(body).await?.trim_end().to_owned()))
    }
}

async fn text(body: Body) -> Result<String, Refused> {
    let body = to_bytes(body, usize::MAX).await.map_err(|error| failed(&error))?;
    String::from_utf8(body.into()).map_err(|error| failed(&error))
}

fn failed(error: &dyn Error) -> Refused {
    Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}
