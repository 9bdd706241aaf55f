//! What is asked: queries, and what people say of answers.

use axum::{
    extract::{Query, rejection::QueryRejection},
    http::StatusCode,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tapio_ahti::{incident::Name, visible::Place};
use tapio_occurrence::feedback::Verdict;

use super::Refused;
use crate::ahti::auth::Viewer;

/// What is asked for by a query.
pub(super) type Asked<Q> = Result<Query<Q>, QueryRejection>;

/// What is asked for, or what is wrong with it.
pub(super) fn right<Q>(asked: Asked<Q>) -> Result<Q, Refused> {
    let Query(asked) = asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    Ok(asked)
}

/// Which object, or which incident.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// Kind of the object, also as kubectl shortens it: `deploy`.
    pub(super) kind: Option<String>,
    /// Its namespace.
    pub(super) namespace: Option<String>,
    /// Its name.
    pub(super) name: Option<String>,
    /// Or an incident, such as `TAP-142`.
    pub(super) incident: Option<String>,
    /// Of an object: as of this time, such as `2026-11-29T02:10:00Z`.
    pub(super) at: Option<String>,
}

/// Of which namespace a list is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Within {
    /// Only what is about this namespace; without it all that the caller may read.
    pub(super) namespace: Option<String>,
}

impl Within {
    /// Refuses a namespace that they may not read.
    pub(super) async fn checked(asked: Asked<Self>, viewer: &Viewer) -> Result<Self, Refused> {
        let asked = right(asked)?;
        if let Some(namespace) = &asked.namespace {
            viewer.require(&Place::Namespace(namespace.clone())).await?;
        }
        Ok(asked)
    }

    /// Whether one of some names is in it.
    pub(super) fn has<'a>(&self, names: impl IntoIterator<Item = &'a Name>) -> bool {
        let Some(namespace) = &self.namespace else { return true };
        names.into_iter().any(|name| name.namespace.as_ref() == Some(namespace))
    }
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Exported {
    /// The incident whose facts are wanted; without it all of them.
    pub(super) incident: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Traced {
    /// 32 hexadecimal digits.
    pub(super) trace_id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct One {
    /// Its id, such as `TAP-142`.
    pub(super) id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What somebody says of an incident's answer.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Judged {
    /// The incident, such as `TAP-142`.
    pub(super) incident: String,
    /// Whether its answer named the cause.
    pub(super) verdict: Verdict,
    /// Why, in 512 characters at most.
    pub(super) note: Option<String>,
}

/// That feedback is in the journal.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Noted {
    /// Under which id.
    pub(super) id: String,
}
