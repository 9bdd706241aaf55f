//! Changes, entities, and how far incidents reach.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
    routing::get,
};
use serde::{Deserialize, Serialize};
use tapio_ahti::{
    about::About,
    answer,
    blast::Blast,
    changes::Changed,
    incident::{Coverage, Name},
};

use super::{Known, Refused, Route, read};
use crate::ahti::auth::Viewer;

pub(super) const ROUTES: &[Route] = &[
    ("/api/v1/changes", || get(changes)),
    ("/api/v1/entity", || get(entity)),
    ("/api/v1/blast", || get(blast)),
];

/// A list of changes.
#[derive(Debug, Serialize)]
struct Changes {
    changes: Vec<Changed>,
    coverage: Coverage,
}

/// An entity, with what was looked at.
#[derive(Debug, Serialize)]
struct Entity {
    #[serde(flatten)]
    about: About,
    coverage: Coverage,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    kind: String,
    namespace: Option<String>,
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reaching {
    incident: String,
}

async fn changes(State(ahti): Known, viewer: Viewer) -> Result<Json<Changes>, Refused> {
    let (changes, coverage) = (read::changes(&ahti, &viewer).await?, read::coverage(&ahti, &viewer).await?);
    Ok(Json(Changes { changes, coverage }))
}

async fn entity(
    State(ahti): Known,
    viewer: Viewer,
    named: Result<Query<Named>, QueryRejection>,
) -> Result<Json<Entity>, Refused> {
    let Query(named) = named.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let name = name(&named.kind, named.namespace.as_deref(), &named.name);
    let about = read::about(&ahti, &viewer, &name).await?;
    let about =
        about.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{name}: no such object is known")))?;
    Ok(Json(Entity { about, coverage: read::coverage(&ahti, &viewer).await? }))
}

/// The name of an object, by kubectl's word for its kind or by the kind itself.
pub(in crate::ahti) fn name(kind: &str, namespace: Option<&str>, name: &str) -> Name {
    Name::new(answer::kind(kind).unwrap_or(kind), namespace, name)
}

async fn blast(
    State(ahti): Known,
    viewer: Viewer,
    of: Result<Query<Reaching>, QueryRejection>,
) -> Result<Json<Blast>, Refused> {
    let Query(Reaching { incident }) =
        of.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let blast = read::blast(&ahti, &viewer, &incident).await?;
    blast
        .map(Json)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{incident}: there is no such incident")))
}
