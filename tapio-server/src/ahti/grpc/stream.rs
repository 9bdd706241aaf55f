//! Streams.

use std::pin::Pin;

use axum::body::Body;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use tapio_ahti::incident;
use tonic::Status;

use super::{proto, status, unreadable};
use crate::ahti::export::HIDDEN;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(super) type Facts = Messages<proto::Facts>;
pub(super) type Events = Messages<proto::Event>;

/// The frames of a body.
fn frames(body: Body) -> impl Stream<Item = Result<hyper::body::Frame<axum::body::Bytes>, Status>> + Send {
    stream::unfold(body, |mut body| async move {
        let frame = body.frame().await?;
        Some((frame.map_err(|error| Status::unavailable(error.to_string())), body))
    })
}

/// Facts. A frame has whole lines, and the trailers count what is hidden.
pub(super) fn facts(body: Body) -> Facts {
    let message = |frame: Result<hyper::body::Frame<axum::body::Bytes>, Status>| {
        let frame = frame?;
        let hidden =
            frame.trailers_ref().and_then(|trailers| trailers.get(HIDDEN)?.to_str().ok()?.parse().ok());
        let jsonl = frame.into_data().unwrap_or_default().into();
        Ok(proto::Facts { jsonl, hidden: hidden.unwrap_or_default() })
    };
    frames(body).map(message).boxed()
}

/// Events. A frame has one, as server-sent events are written.
pub(super) fn events(body: Body) -> Events {
    #[derive(Deserialize)]
    struct Read {
        #[serde(default)]
        id: String,
        #[serde(default)]
        revision: u64,
        status: Option<incident::Status>,
    }
    let message = |frame: Result<hyper::body::Frame<axum::body::Bytes>, Status>| {
        let data = frame?.into_data().unwrap_or_default();
        let text = String::from_utf8_lossy(&data).into_owned();
        let json = text.lines().find_map(|line| line.strip_prefix("data:")).unwrap_or("{}");
        let Read { id, revision, status: of } = serde_json::from_str(json.trim()).map_err(unreadable)?;
        Ok(proto::Event {
            incident: id,
            revision,
            status: of.map_or(proto::Status::Unspecified, status).into(),
        })
    };
    frames(body).map(message).boxed()
}
