//! `POST /api/v1/alerts`: takes what Alertmanager's webhook sends.

use std::sync::Arc;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    routing::post,
};
use serde_json::{Map, Value};

use super::{Known, Refused, Route, document::Operation};
use crate::{
    ahti::auth::Viewer,
    notify::{Outcomes, Payload},
};

/// The version of what it sends.
const VERSION: &str = "4";

type Object = Map<String, Value>;

pub(super) fn route() -> Route {
    let operation = Operation::posts::<Object, Object>("alerts", "Takes what Alertmanager's webhook sends");
    Route { path: "/api/v1/alerts", serves: post(take), operations: vec![operation] }
}

async fn take(
    State(ahti): Known,
    viewer: Viewer,
    payload: Result<Json<Payload>, JsonRejection>,
) -> Result<Json<Outcomes>, Refused> {
    viewer.require_alerts().await?;
    let Json(payload) = payload.map_err(|error| {
        let what = format!("this is not what Alertmanager's webhook sends: {}", error.body_text());
        Refused(error.status(), what)
    })?;
    if payload.version != VERSION {
        let what =
            format!("version: Alertmanager's webhook has {VERSION}, and this is `{}`", payload.version);
        return Err(Refused(StatusCode::BAD_REQUEST, what));
    }
    if ahti.alerts.go_nowhere() {
        let what =
            "there is no Alertmanager that the answers could be sent to: add `notify.NAME.alertmanager.url`";
        return Err(Refused(StatusCode::CONFLICT, what.to_owned()));
    }
    let ask = ahti.ask();
    let alerts = Arc::clone(&ahti.alerts);
    let taken = tokio::task::block_in_place(|| alerts.take(&payload, &ask));
    let failed = |error: anyhow::Error| {
        Refused(StatusCode::SERVICE_UNAVAILABLE, format!("not noted, try again: {error:#}"))
    };
    taken.map(Json).map_err(failed)
}
