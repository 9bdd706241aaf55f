//! `/changes`: what was changed, by whom, and what came of it.

use std::collections::BTreeSet;

use askama::Template;
use axum::{
    extract::{Query, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use tapio_ahti::{answer::NO_FACTS, changes::Changed};

use super::{
    filter::{Filter, Since, Sure, Wanted},
    frame::{Asked, Frame, Here, shown},
    now::Pages,
    part::Change,
};
use crate::ahti::api::{Refused, read};

/// Changes of a page.
const PER_PAGE: usize = 100;

#[derive(Template)]
#[template(path = "changes.html")]
struct Page {
    frame: Frame,
    filter: Filter,
    namespaces: BTreeSet<String>,
    kinds: BTreeSet<String>,
    changes: Vec<Change>,
    matching: usize,
    of: usize,
    pages: Pages,
}

pub(super) async fn page(asked: Asked, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let page = answer(&asked, filter).await;
    asked.answered(page).await
}

async fn answer(asked: &Asked, filter: Result<Query<Filter>, QueryRejection>) -> Result<Response, Refused> {
    let filter = match filter {
        // They are about incidents.
        Ok(Query(filter)) if filter.status != Wanted::default() || filter.certainty != Sure::Any => {
            let text = "changes have no status and no certainty: give namespace, kind or since";
            return Err(Refused(StatusCode::BAD_REQUEST, text.to_owned()));
        }
        Ok(Query(filter)) => filter,
        Err(error) => return Err(Refused(StatusCode::BAD_REQUEST, error.body_text())),
    };
    let all = read::changes(&asked.ahti, &asked.viewer).await?;
    let frame = asked.frame("Changes", Here::Changes).await?;
    let now_ns = frame.as_of_ns;
    let is_wanted =
        |change: &&Changed| filter.has_object(&change.line.entity, change.line.last_unix_ns, now_ns);
    let matching: Vec<&Changed> = all.iter().filter(is_wanted).collect();
    let pages = Pages::of(&filter, "/changes", matching.len(), PER_PAGE);
    Ok(shown(&Page {
        namespaces: all.iter().filter_map(|change| change.line.entity.namespace.clone()).collect(),
        kinds: all.iter().map(|change| change.line.entity.kind.clone()).collect(),
        matching: matching.len(),
        of: all.len(),
        changes: pages.cut(matching, PER_PAGE).into_iter().map(|change| Change::of(change, now_ns)).collect(),
        pages,
        filter,
        frame,
    }))
}
