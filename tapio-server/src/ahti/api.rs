//! The API of answers: JSON over HTTP. All of it only reads, but what people say, and alerts that come in.

mod alerts;
mod attention;
pub(super) mod events;
pub(super) mod objects;
pub(super) mod read;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{
        Query, Request, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header::WWW_AUTHENTICATE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tapio_ahti::{
    answer::{self, Answer, is_of_cluster},
    correlate::{Correlation, is_trace_id},
    incident::{Coverage, Incident, Line},
    visible::Place,
};
use tapio_occurrence::{
    Data, Occurrence, Outcome, Severity, event,
    feedback::{self, Feedback, MAX_NOTE, Verdict},
    kubernetes::Fact,
    printable::printable,
};
use tapio_service::clock;
use tokio::{net::TcpListener, sync::watch};
use ulid::Ulid;

use super::{
    Ahti,
    auth::{self, Auth, Viewer},
    export::Export,
};
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
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let challenge = (self.0 == StatusCode::UNAUTHORIZED).then_some([(WWW_AUTHENTICATE, "Bearer")]);
        (self.0, challenge, format!("{}\n", printable(&self.1))).into_response()
    }
}

/// A path with what answers there.
pub(super) type Route = (&'static str, fn() -> MethodRouter<Arc<Ahti>>);

const ROUTES: &[Route] = &[
    ("/api/v1/why", || get(why)),
    ("/api/v1/correlate", || get(correlate)),
    ("/api/v1/incidents", || get(incidents)),
    ("/api/v1/findings", || get(findings)),
    ("/api/v1/coverage", || get(coverage)),
    ("/api/v1/export", || get(export)),
    ("/api/v1/feedback", || post(feedback)),
];

/// All paths that are served, each with a token only.
pub fn paths() -> impl Iterator<Item = &'static str> {
    let all =
        [ROUTES, objects::ROUTES, attention::ROUTES, alerts::ROUTES, events::ROUTES, super::pages::ROUTES];
    all.into_iter().flatten().map(|(path, _)| *path)
}

/// A router of these.
pub(super) fn routed(routes: &[Route]) -> Router<Arc<Ahti>> {
    routes.iter().fold(Router::new(), |router, (path, method)| router.route(path, method()))
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
    auth: Auth,
    mut stopped: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener).context("the API cannot be served")?;
    let routes = routed(ROUTES)
        .merge(routed(objects::ROUTES))
        .merge(routed(attention::ROUTES))
        .merge(routed(alerts::ROUTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&ahti), once_restored))
        .merge(routed(events::ROUTES))
        .merge(super::pages::routes())
        // The outermost: nothing is said to who is not known, not even what there is.
        .layer(middleware::from_fn_with_state(auth, auth::authenticated))
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
    viewer: Viewer,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<Answer>, Refused> {
    let Query(asked) = asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    match (&asked.incident, &asked.name) {
        (Some(incident), None) => {
            let incident = seen(&ahti, &viewer, incident).await?;
            let (coverage, as_of_unix_ns) = {
                let engine = ahti.engine();
                (engine.coverage(), engine.now_unix_ns())
            };
            Ok(Json(Answer {
                state: answer::State::Incident,
                incident: Some(incident),
                coverage: viewer.see(&ahti, coverage).await?,
                as_of_unix_ns,
                ..Answer::default()
            }))
        }
        (None, Some(name)) => {
            let kind = asked.kind.as_deref();
            if let Some(unknown) = kind.filter(|kind| answer::kind(kind).is_none()) {
                return Err(Refused(StatusCode::BAD_REQUEST, format!("kind: there is no {unknown}")));
            }
            let namespace = asked.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            match namespace {
                _ if kind.is_some_and(is_of_cluster) => viewer.require(&Place::Cluster).await?,
                Some(namespace) => viewer.require(&Place::Namespace(namespace.to_owned())).await?,
                None => {}
            }
            let answer = tokio::task::block_in_place(|| ahti.engine().why(kind, namespace, name));
            Ok(Json(viewer.see(&ahti, answer).await?))
        }
        _ => Err(Refused(
            StatusCode::BAD_REQUEST,
            "give name, with kind and namespace where they are known, or incident".to_owned(),
        )),
    }
}

/// What is left of an incident for who asks; of one of which nothing is left the same is said as of one that does not exist.
async fn seen(ahti: &Ahti, viewer: &Viewer, id: &str) -> Result<Incident, Refused> {
    let left = read::incident(ahti, viewer, id).await?;
    left.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{id}: there is no such incident")))
}

async fn correlate(
    State(ahti): Known,
    viewer: Viewer,
    asked: Result<Query<Traced>, QueryRejection>,
) -> Result<Json<Correlation>, Refused> {
    let Query(Traced { trace_id }) =
        asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    if !is_trace_id(&trace_id) {
        let what = "trace_id: give 32 hexadecimal digits, not all of them 0".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, what));
    }
    let found = tokio::task::block_in_place(|| ahti.engine().correlate(&trace_id));
    Ok(Json(viewer.see(&ahti, found).await?))
}

async fn incidents(State(ahti): Known, viewer: Viewer) -> Result<Json<Incidents>, Refused> {
    let (incidents, coverage) = tokio::task::block_in_place(|| {
        let mut engine = ahti.engine();
        let incidents: Vec<Incident> = engine.incidents().into_iter().cloned().collect();
        (incidents, engine.coverage())
    });
    let (incidents, coverage) = (viewer.see(&ahti, incidents).await?, viewer.see(&ahti, coverage).await?);
    Ok(Json(Incidents { incidents, coverage }))
}

async fn findings(State(ahti): Known, viewer: Viewer) -> Result<Json<Findings>, Refused> {
    let findings = tokio::task::block_in_place(|| ahti.engine().findings());
    Ok(Json(Findings { findings: viewer.see(&ahti, findings).await? }))
}

async fn coverage(State(ahti): Known, viewer: Viewer) -> Result<Json<Coverage>, Refused> {
    let coverage = ahti.engine().coverage();
    Ok(Json(viewer.see(&ahti, coverage).await?))
}

/// It is on disk before this answers, and counts in the next answer.
async fn feedback(
    State(ahti): Known,
    viewer: Viewer,
    judged: Result<Json<Judged>, JsonRejection>,
) -> Result<Json<Value>, Refused> {
    let Json(judged) = judged.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    if judged.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE) {
        return Err(Refused(StatusCode::BAD_REQUEST, format!("note: longer than {MAX_NOTE} characters")));
    }
    seen(&ahti, &viewer, &judged.incident).await?;
    let Some(incident) = read::found(&ahti, &judged.incident) else {
        return Err(Refused(
            StatusCode::NOT_FOUND,
            format!("{}: there is no such incident", judged.incident),
        ));
    };
    viewer.require_update(&incident.place(), "judge this answer").await?;
    let fact = Feedback {
        incident: incident.id,
        fingerprint: incident.fingerprint,
        cause: incident.root_kind,
        verdict: judged.verdict,
        chance: incident.lead.map(|lead| lead.chance.elsewhere),
        note: judged.note,
    };
    let message = format!("{}: {}", fact.incident, fact.verdict.word());
    keep(&ahti, feedback::SOURCE, message, &fact).await
}

/// Writes what somebody says into the journal. Returns its id.
async fn keep<F: Fact>(
    ahti: &Ahti,
    source: &'static str,
    message: String,
    fact: &F,
) -> Result<Json<Value>, Refused> {
    let failed =
        |error: String| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("not noted, try again: {error}"));
    let data = fact.to_data().map_err(|error| failed(error.to_string()))?;
    let occurrence = said(source, F::TYPE, message, data);
    let outcomes = ahti.feedback.append(&[event::event(&occurrence)]).await;
    match outcomes.map_err(|trouble| failed(trouble.to_string()))?.first() {
        Some(journal::Outcome::Accepted(_)) => Ok(Json(json!({ "id": occurrence.id.to_string() }))),
        other => Err(failed(format!("the journal does not take it: {other:?}"))),
    }
}

fn said(source: &'static str, kind: &'static str, message: String, data: Data) -> Occurrence {
    let now_ns = clock::unix_ns(clock::boot_ns());
    Occurrence {
        id: Ulid::from_parts(now_ns / 1_000_000, fastrand::u128(..)),
        time_unix_ns: now_ns,
        source: source.into(),
        kind: kind.into(),
        severity: Severity::Info,
        outcome: Outcome::Unknown,
        message,
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
    viewer: Viewer,
    asked: Result<Query<Exported>, QueryRejection>,
) -> Result<Response, Refused> {
    let Query(asked) = asked.map_err(|error| Refused(StatusCode::BAD_REQUEST, error.body_text()))?;
    let incident = match asked.incident.as_deref() {
        Some(id) => Some(seen(&ahti, &viewer, id).await?),
        None => None,
    };
    // That nobody says what they may read is said before the first fact.
    viewer.reads_all().await?;
    Ok(Export::new(ahti, incident.as_ref(), viewer).into_response())
}
