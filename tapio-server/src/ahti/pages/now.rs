//! `/`: the incidents, the worst first.

use std::collections::BTreeSet;

use askama::Template;
use axum::{
    extract::{Query, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
};
use tapio_ahti::{
    answer::NO_FACTS,
    incident::{Incident, Status},
};

use super::{
    filter::{self, Filter, Since, Sure, Wanted},
    frame::{Asked, Frame, Here, shown},
    part::{Card, Change, counted},
};
use crate::ahti::api::{Refused, read};

/// Incidents of a page.
const PER_PAGE: usize = 50;
/// Changes, and incidents that are over, below those that are open.
const FEW: usize = 3;

/// Why there is no incident in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    /// All is well.
    Well,
    /// No fact has arrived yet.
    Unknown,
    /// The filter lets none through.
    Filtered,
    /// Not everything is watched, so that there may be some.
    Blind,
}

#[derive(Template)]
#[template(path = "now.html")]
struct Now {
    frame: Frame,
    filter: Filter,
    namespaces: BTreeSet<String>,
    kinds: BTreeSet<String>,
    cards: Vec<Card>,
    nothing: Option<Nothing>,
    /// How many are open, whatever the filter is.
    open: String,
    /// How many the filter lets through, of how many there are in this state.
    matching: usize,
    of: usize,
    resolved: Vec<Card>,
    changes: Vec<Change>,
    last: Option<Card>,
    pages: Pages,
}

/// Where in a long list one is.
pub(super) struct Pages {
    pub(super) nth: usize,
    pub(super) count: usize,
    pub(super) before: Option<String>,
    pub(super) next: Option<String>,
}

impl Pages {
    /// For a list of so many, with at most so many on a page.
    pub(super) fn of(filter: &Filter, path: &str, all: usize, per_page: usize) -> Self {
        let count = all.div_ceil(per_page).max(1);
        let nth = filter.nth().min(count);
        Self {
            nth,
            count,
            before: (nth > 1).then(|| filter.url(path, nth - 1)),
            next: (nth < count).then(|| filter.url(path, nth + 1)),
        }
    }

    /// The part of a list that is on the page.
    pub(super) fn cut<T>(&self, all: Vec<T>, per_page: usize) -> Vec<T> {
        all.into_iter().skip((self.nth - 1) * per_page).take(per_page).collect()
    }
}

pub(super) async fn page(asked: Asked, filter: Result<Query<Filter>, QueryRejection>) -> Response {
    let page = answer(&asked, filter).await;
    asked.answered(page).await
}

async fn answer(asked: &Asked, filter: Result<Query<Filter>, QueryRejection>) -> Result<Response, Refused> {
    let filter = match filter {
        Ok(Query(filter)) => filter,
        Err(error) => return Err(Refused(StatusCode::BAD_REQUEST, error.body_text())),
    };
    let all = read::incidents(&asked.ahti, &asked.viewer).await?;
    let frame = asked.frame("Now", Here::Now).await?;
    let now_ns = frame.as_of_ns;
    let open = all.iter().filter(|incident| Wanted::Open.has(incident.status)).count();
    let of: Vec<&Incident> = all.iter().filter(|incident| filter.status.has(incident.status)).collect();
    let mut matching: Vec<&Incident> =
        of.iter().copied().filter(|incident| filter.has_incident(incident, now_ns)).collect();
    matching
        .sort_by_key(|incident| (incident.status == Status::Resolved, std::cmp::Reverse(weight(incident))));
    let nothing = match (matching.is_empty(), of.is_empty()) {
        (false, _) => None,
        (true, false) => Some(Nothing::Filtered),
        _ if frame.is_empty => Some(Nothing::Unknown),
        _ if !frame.is_whole || frame.old.is_some() => Some(Nothing::Blind),
        _ => Some(Nothing::Well),
    };
    let over = || all.iter().filter(|incident| incident.status == Status::Resolved);
    let card = |incident: &Incident| Card::of(incident, now_ns);
    // They are what one looks at next, if there is no other question.
    let is_start = !filter.is_narrow() && filter.status == Wanted::Open && filter.nth() == 1;
    let few = if is_start { FEW } else { 0 };
    let changes = if is_start { read::changes(&asked.ahti, &asked.viewer).await? } else { Vec::new() };
    let pages = Pages::of(&filter, "/", matching.len(), PER_PAGE);
    let count = matching.len();
    Ok(shown(&Now {
        namespaces: all.iter().flat_map(filter::names).filter_map(|name| name.namespace.clone()).collect(),
        kinds: all.iter().map(|incident| filter::kind(incident).to_owned()).collect(),
        cards: pages.cut(matching, PER_PAGE).into_iter().map(card).collect(),
        nothing,
        open: counted(open, "open incident"),
        matching: count,
        of: of.len(),
        resolved: over().take(few).map(card).collect(),
        changes: changes.iter().take(few).map(|change| Change::of(change, now_ns)).collect(),
        last: over().max_by_key(|incident| incident.resolved_unix_ns).map(card),
        pages,
        filter,
        frame,
    }))
}

/// What makes an incident worse: whom it hits, how sure it is, and whom it may hit; of equal ones the newer.
fn weight(incident: &Incident) -> impl Ord {
    (incident.hits.len(), incident.certainty, incident.at_risk.len(), incident.since_unix_ns)
}
