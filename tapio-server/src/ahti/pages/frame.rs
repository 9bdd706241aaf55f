//! What is around each page: where one is, how fresh the answers are, and what is looked at.

use std::sync::{Arc, atomic::Ordering};

use askama::Template;
use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
    response::{Html, IntoResponse, Response},
};
use tapio_ahti::{answer, incident::Coverage};
use tapio_service::clock;

use super::{
    assets::{ICON, SCRIPT, STYLE},
    preferences::{Preferences, Theme},
    time::{Moment, lasting},
};
use crate::ahti::{
    Ahti,
    api::{Refused, read},
    auth::{Viewer, login::SignedIn},
};

/// After so long without a fact what is shown is old: three heartbeats of an agent.
const OLD_NS: u64 = 90_000_000_000;
/// After so long without news Kubernetes is not watched.
const LOST_S: u64 = 180;

/// A question for a page.
pub(super) struct Asked {
    pub(super) ahti: Arc<Ahti>,
    pub(super) viewer: Viewer,
    preferences: Preferences,
    is_signed_in: bool,
    /// Path and query.
    url: String,
    /// What the streams of events had said, before anything is read for the page.
    number: u64,
}

impl FromRequestParts<Arc<Ahti>> for Asked {
    type Rejection = Response;

    /// An answer from half of the facts may be wrong: there is none until all have been taken.
    async fn from_request_parts(parts: &mut Parts, ahti: &Arc<Ahti>) -> Result<Self, Response> {
        let url = parts.uri.path_and_query().map_or("/", |url| url.as_str()).to_owned();
        let number = ahti.latest.borrow().number;
        let preferences = Preferences::of(&parts.headers);
        let is_signed_in = parts.extensions.get::<SignedIn>().is_some();
        let viewer = Viewer::from_request_parts(parts, ahti).await.map_err(IntoResponse::into_response)?;
        let asked = Self { ahti: Arc::clone(ahti), viewer, preferences, is_signed_in, url, number };
        if ahti.is_restored.load(Ordering::Relaxed) {
            return Ok(asked);
        }
        let left = ahti.behind().facts;
        let text = format!(
            "The server has just started and is still reading its journal: {left} facts are left. There are no answers until it \
             has read all of them."
        );
        let refused = Refused(StatusCode::SERVICE_UNAVAILABLE, text);
        Err(asked.answered(Err(refused)).await)
    }
}

impl Asked {
    /// The frame of a page.
    pub(super) async fn frame(&self, title: &str, here: Here) -> Result<Frame, Refused> {
        let as_of_ns = self.ahti.engine().now_unix_ns();
        let coverage = read::coverage(&self.ahti, &self.viewer).await?;
        let heard_ns = clock::unix_ns(clock::boot_ns()).saturating_sub(as_of_ns);
        Ok(Frame {
            title: title.to_owned(),
            here,
            preferences: self.preferences,
            is_signed_in: self.is_signed_in,
            url: self.url.clone(),
            number: self.number,
            is_whole: is_whole(&coverage),
            covered: answer::covered_text(&coverage),
            is_empty: as_of_ns == 0,
            as_of_ns,
            as_of: Moment::new(as_of_ns, as_of_ns),
            old: (as_of_ns > 0 && heard_ns > OLD_NS).then(|| lasting(heard_ns)),
            is_waiting: false,
        })
    }

    /// The page, or one that says why there is no other.
    pub(super) async fn answered(&self, page: Result<Response, Refused>) -> Response {
        let Err(Refused(status, text)) = page else {
            return page.unwrap_or_else(IntoResponse::into_response);
        };
        let heading = match status {
            StatusCode::BAD_REQUEST => "Invalid filter",
            StatusCode::NOT_FOUND => "Not known",
            StatusCode::FORBIDDEN => "Not allowed",
            _ => "Not now",
        };
        match self.frame(heading, Here::Nowhere).await {
            Ok(frame) => {
                let is_waiting = status == StatusCode::SERVICE_UNAVAILABLE;
                let mut response = shown(&Problem { frame: Frame { is_waiting, ..frame }, heading, text });
                *response.status_mut() = status;
                response
            }
            Err(refused) => refused.into_response(),
        }
    }
}

/// Where one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Here {
    Now,
    Changes,
    Coverage,
    Nowhere,
}

/// Everything around a page's own part.
pub(super) struct Frame {
    pub(super) title: String,
    pub(super) here: Here,
    pub(super) preferences: Preferences,
    /// Whether there is a cookie that signing out takes away.
    pub(super) is_signed_in: bool,
    pub(super) url: String,
    /// Of what the streams of events said last.
    pub(super) number: u64,
    /// Whether agents on all nodes report, and Kubernetes is watched.
    pub(super) is_whole: bool,
    pub(super) covered: String,
    /// Whether nothing has arrived yet.
    pub(super) is_empty: bool,
    pub(super) as_of_ns: u64,
    pub(super) as_of: Moment,
    /// For how long no fact has arrived, if that is too long.
    pub(super) old: Option<String>,
    /// Whether the page will be another one soon.
    pub(super) is_waiting: bool,
}

impl Frame {
    pub(super) fn style(&self) -> String {
        STYLE.path()
    }

    pub(super) fn script(&self) -> String {
        SCRIPT.path()
    }

    pub(super) fn icon(&self) -> String {
        ICON.path()
    }

    pub(super) fn themes(&self) -> [Theme; 3] {
        Theme::ALL
    }

    pub(super) fn is(&self, here: Here) -> bool {
        self.here == here
    }
}

/// Whether nobody is missing.
fn is_whole(coverage: &Coverage) -> bool {
    coverage.nodes > 0
        && coverage.nodes == coverage.of_nodes
        && coverage.kubernetes_age_s.is_some_and(|age| age < LOST_S)
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Problem {
    frame: Frame,
    heading: &'static str,
    text: String,
}

/// A page as an answer.
pub(super) fn shown(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => {
            tracing::error!(%error, "ahti: a page cannot be made");
            let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
            (StatusCode::INTERNAL_SERVER_ERROR, kind, "the page cannot be made\n").into_response()
        }
    }
}
