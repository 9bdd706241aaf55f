//! Changes, entities, and how far incidents reach.

use axum::{Json, extract::State, http::StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_ahti::{
    about::About,
    answer,
    blast::Blast,
    changes::Changed,
    incident::{Coverage, Name},
};

use super::{
    Known, Refused, Route,
    question::{Asked, Within, right},
    read, reads,
};
use crate::ahti::{
    auth::Viewer,
    past::{Knows, Past},
};

pub(super) fn routes() -> [Route; 3] {
    [
        reads("/api/v1/changes", "changes", "Changes of the last 24 h, the newest first", changes),
        reads("/api/v1/entity", "entity", "What is known of an object", entity),
        reads("/api/v1/blast", "blast", "How far an incident reaches", blast),
    ]
}

/// A list of changes.
#[derive(Debug, Serialize, JsonSchema)]
struct Changes {
    /// The newest first.
    changes: Vec<Changed>,
    /// What was looked at.
    coverage: Coverage,
}

/// An entity, with what was looked at.
#[derive(Debug, Serialize, JsonSchema)]
struct Entity {
    #[serde(flatten)]
    about: About,
    /// What was looked at.
    coverage: Coverage,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Named {
    /// Kind of the object, also as kubectl shortens it: `deploy`.
    kind: String,
    /// Its namespace.
    namespace: Option<String>,
    /// Its name.
    name: String,
    /// As of this time, such as `2026-11-29T02:10:00Z`.
    at: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Reaching {
    /// The incident, such as `TAP-142`.
    incident: String,
}

async fn changes(
    State(ahti): Known,
    viewer: Viewer,
    within: Asked<Within>,
) -> Result<Json<Changes>, Refused> {
    let within = Within::checked(within, &viewer).await?;
    let (mut changes, coverage) =
        (read::changes(&ahti, &viewer).await?, read::coverage(&ahti, &viewer).await?);
    changes.retain(|change| within.has([&change.line.entity]));
    Ok(Json(Changes { changes, coverage }))
}

async fn entity(State(ahti): Known, viewer: Viewer, named: Asked<Named>) -> Result<Json<Entity>, Refused> {
    let named = right(named)?;
    let name = name(&named.kind, named.namespace.as_deref(), &named.name);
    match &named.at {
        None => known(&ahti, &viewer, &name).await,
        Some(at) => known(&Past::of(&ahti, at).await?, &viewer, &name).await,
    }
}

async fn known(from: &impl Knows, viewer: &Viewer, name: &Name) -> Result<Json<Entity>, Refused> {
    let about = read::about(from, viewer, name).await?;
    let about =
        about.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{name}: no such object is known")))?;
    Ok(Json(Entity { about, coverage: read::coverage(from, viewer).await? }))
}

/// The name of an object, by kubectl's word for its kind or by the kind itself.
pub(in crate::ahti) fn name(kind: &str, namespace: Option<&str>, name: &str) -> Name {
    Name::new(answer::kind(kind).unwrap_or(kind), namespace, name)
}

async fn blast(State(ahti): Known, viewer: Viewer, of: Asked<Reaching>) -> Result<Json<Blast>, Refused> {
    let Reaching { incident } = right(of)?;
    let blast = read::blast(&ahti, &viewer, &incident).await?;
    blast
        .map(Json)
        .ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{incident}: there is no such incident")))
}
