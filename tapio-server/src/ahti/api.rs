//! The API of answers: JSON over HTTP. All of it only reads, but what people say of answers.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::Body,
    extract::{
        Query, Request, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures_util::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tapio_ahti::{
    answer::{self, Answer},
    correlate::{Correlation, is_trace_id},
    incident::{Coverage, Incident, Line},
};
use tapio_occurrence::{
    Data, Occurrence, Outcome, Severity, event,
    feedback::{self, Feedback, MAX_NOTE, Verdict},
    kubernetes::Fact as _,
    printable::printable,
};
use tapio_service::clock;
use tokio::{net::TcpListener, sync::watch};
use ulid::Ulid;

use super::{Ahti, export::Export};
use crate::journal;

/// Which object, or which incident.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    kind: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    incident: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    incident: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Traced {
    trace_id: String,
}

/// What somebody says of an incident's answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Judged {
    incident: String,
    verdict: Verdict,
    note: Option<String>,
}

/// A list of incidents.
#[derive(Debug, Serialize)]
struct Incidents {
    incidents: Vec<Incident>,
    coverage: Coverage,
}

/// A list of findings.
#[derive(Debug, Serialize)]
struct Findings {
    findings: Vec<Line>,
}

/// Why there is no answer.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, format!("{}\n", printable(&self.1))).into_response()
    }
}

pub(super) fn bind(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok::<_, std::io::Error>(listener)
    };
    bind().with_context(|| format!("ahti.api: cannot serve on {address}: give another address, or off"))
}

pub(super) async fn serve(
    listener: std::net::TcpListener,
    ahti: Arc<Ahti>,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).context("the API cannot be served")?;
    let routes = Router::new()
        .route("/api/v1/why", get(why))
        .route("/api/v1/correlate", get(correlate))
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/findings", get(findings))
        .route("/api/v1/coverage", get(coverage))
        .route("/api/v1/export", get(export))
        .route("/api/v1/feedback", post(feedback))
        .layer(middleware::from_fn_with_state(Arc::clone(&ahti), once_restored))
        .with_state(ahti);
    let shutdown = async move {
        // An error means that the server is gone, which also means stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    axum::serve(listener, routes).with_graceful_shutdown(shutdown).await.context("the API cannot be served")
}

type Known = State<Arc<Ahti>>;

/// An answer from half of the facts may be wrong: there is none until all have been taken.
async fn once_restored(State(ahti): Known, request: Request, next: Next) -> Response {
    if ahti.is_restored.load(Ordering::Relaxed) {
        return next.run(request).await;
    }
    let text = "the server has just started, and still reads its journal: try again in some seconds";
    Refused(StatusCode::SERVICE_UNAVAILABLE, text.to_owned()).into_response()
}

async fn why(
    State(ahti): Known,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Answer>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    match (&asked.incident, &asked.name) {
        (Some(incident), None) => {
            let incident = find(&ahti, incident)?;
            let engine = ahti.engine();
            Ok(Json(Answer {
                state: answer::State::Incident,
                incident: Some(incident),
                coverage: engine.coverage(),
                as_of_unix_ns: engine.now_unix_ns(),
                ..Answer::default()
            }))
        }
        (None, Some(name)) => {
            let kind = asked.kind.as_deref();
            if let Some(unknown) = kind.filter(|kind| answer::kind(kind).is_none()) {
                return Err(Refused(StatusCode::BAD_REQUEST, format!("kind: there is no {unknown}")));
            }
            Ok(Json(tokio::task::block_in_place(|| {
                ahti.engine().why(kind, asked.namespace.as_deref(), name)
            })))
        }
        _ => Err(Refused(
            StatusCode::BAD_REQUEST,
            "give name, with kind and namespace where they are known, or incident".to_owned(),
        )),
    }
}

fn find(ahti: &Ahti, id: &str) -> Result<Incident, Refused> {
    let found = tokio::task::block_in_place(|| {
        ahti.engine().incidents().into_iter().find(|incident| incident.id.eq_ignore_ascii_case(id)).cloned()
    });
    found.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{id}: there is no such incident")))
}

async fn correlate(
    State(ahti): Known,
    asked: Result<Query<Traced>, QueryRejection>,
) -> Result<Json<Correlation>, Refused> {
    let Query(Traced { trace_id }) =
        asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !is_trace_id(&trace_id) {
        let what = "trace_id: give 32 hexadecimal digits, not all of them 0".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, what));
    }
    Ok(Json(tokio::task::block_in_place(|| ahti.engine().correlate(&trace_id))))
}

async fn incidents(State(ahti): Known) -> Json<Incidents> {
    tokio::task::block_in_place(|| {
        let mut engine = ahti.engine();
        let coverage = engine.coverage();
        Json(Incidents { incidents: engine.incidents().into_iter().cloned().collect(), coverage })
    })
}

async fn findings(State(ahti): Known) -> Json<Findings> {
    Json(Findings { findings: tokio::task::block_in_place(|| ahti.engine().findings()) })
}

async fn coverage(State(ahti): Known) -> Json<Coverage> {
    Json(ahti.engine().coverage())
}

/// It is on disk before this answers, and counts in the next answer.
async fn feedback(
    State(ahti): Known,
    judged: Result<Json<Judged>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(judged) = judged.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    if judged.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE) {
        return Err(Refused(StatusCode::BAD_REQUEST, format!("note: longer than {MAX_NOTE} characters")));
    }
    let incident = find(&ahti, &judged.incident)?;
    let fact = Feedback {
        incident: incident.id,
        fingerprint: incident.fingerprint,
        cause: incident.root_kind,
        verdict: judged.verdict,
        chance: incident.lead.map(|lead| lead.chance.elsewhere),
        note: judged.note,
    };
    let failed =
        |error: String| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("not noted, try again: {error}"));
    let data = fact.to_data().map_err(|error| failed(error.to_string()))?;
    let occurrence = said(&fact, data, clock::unix_ns(clock::boot_ns()));
    let outcomes = ahti.feedback.append(&[event::event(&occurrence)]).await;
    match outcomes.map_err(|trouble| failed(trouble.to_string()))?.first() {
        Some(journal::Outcome::Accepted(_)) => Ok(Json(json!({ "id": occurrence.id.to_string() }))),
        other => Err(failed(format!("the journal does not take it: {other:?}"))),
    }
}

fn said(feedback: &Feedback, data: Data, now_ns: u64) -> Occurrence {
    Occurrence {
        id: Ulid::from_parts(now_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns: now_ns,
        source: feedback::SOURCE.into(),
        kind: Feedback::TYPE.into(),
        severity: Severity::Info,
        outcome: Outcome::Unknown,
        message: format!("{}: {}", feedback.incident, feedback.verdict.word()),
        cluster: None,
        node: "".into(),
        workload: None,
        process: None,
        actor: None,
        peer: None,
        data,
        baseline: None,
        count: 1,
    }
}

async fn export(
    State(ahti): Known,
    asked: Result<Query<Exported>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(asked) = asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let incident = asked.incident.as_deref().map(|id| find(&ahti, id)).transpose()?;
    let export = Export::new(ahti, incident.as_ref());
    let lines = stream::try_unfold(export, |mut export| async move {
        Ok::<_, anyhow::Error>(export.next().await?.map(|lines| (lines, export)))
    });
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((kind, Body::from_stream(lines)).into_response())
}
