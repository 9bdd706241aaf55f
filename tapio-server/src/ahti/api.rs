//! The API of answers: JSON over HTTP. All of it only reads, but what people say, and alerts that come in.

mod alerts;
mod attention;
mod connection;
mod document;
pub(super) mod events;
pub(super) mod objects;
mod question;
pub(super) mod read;
pub(super) mod serve;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State, rejection::JsonRejection},
    http::{StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use tapio_ahti::{
    answer::{self, Answer, is_of_cluster},
    correlate::{Correlation, is_trace_id},
    incident::{Coverage, Incident, Line},
    visible::Place,
};
use tapio_occurrence::{
    Data, Occurrence, Outcome, Severity, event,
    feedback::{self, Feedback, MAX_NOTE},
    kubernetes::Fact,
    printable::printable,
};
use tapio_service::clock;
use ulid::Ulid;

use self::{
    document::Operation,
    question::{Asked, Exported, Judged, Noted, Nothing, One, Question, Traced, Within, right},
};
use super::{
    Ahti,
    auth::Viewer,
    export::Export,
    grpc, mcp,
    past::{Knows, Past},
};
use crate::journal;

/// A list of incidents.
#[derive(Debug, Serialize, JsonSchema)]
struct Incidents {
    /// The newest first.
    incidents: Vec<Incident>,
    /// What was looked at.
    coverage: Coverage,
}

/// A list of findings.
#[derive(Debug, Serialize, JsonSchema)]
struct Findings {
    /// The newest first.
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

/// A path with what answers there, and what that is.
struct Route {
    path: &'static str,
    serves: MethodRouter<Arc<Ahti>>,
    operations: Vec<Operation>,
}

/// A path that answers a query. Its description is that of the handler's types.
fn reads<Q, A, F>(
    path: &'static str,
    id: &'static str,
    what: &'static str,
    handler: fn(Known, Viewer, Asked<Q>) -> F,
) -> Route
where
    Q: JsonSchema + DeserializeOwned + Send + 'static,
    A: JsonSchema + Serialize + 'static,
    F: Future<Output = Result<Json<A>, Refused>> + Send + 'static,
{
    Route { path, serves: get(handler), operations: vec![Operation::reads::<Q, A>(id, what)] }
}

/// What has an answer once all facts have been taken.
fn answers() -> Vec<Route> {
    let mut routes = vec![
        reads("/api/v1/why", "why", "Why an object fails, or an incident, with what was looked at", why),
        reads("/api/v1/correlate", "correlate", "Of which signals a trace is an exemplar", correlate),
        reads("/api/v1/incidents", "incidents", "All incidents, the newest first", incidents),
        Route {
            path: "/api/v1/incidents/{id}",
            serves: get(incident),
            operations: vec![Operation::reads::<One, Incident>("incident", "One incident")],
        },
        reads("/api/v1/findings", "findings", "Findings of the last 24 h, the newest first", findings),
        reads("/api/v1/coverage", "coverage", "Which nodes report, and what cannot be watched", coverage),
        Route {
            path: "/api/v1/export",
            serves: get(export),
            operations: vec![Operation::streams::<Exported>(
                "export",
                "Facts, one JSON object a line",
                "application/jsonl",
            )],
        },
        Route {
            path: "/api/v1/feedback",
            serves: post(feedback),
            operations: vec![Operation::posts::<Judged, Noted>(
                "feedback",
                "Says whether an answer was right",
            )],
        },
    ];
    routes.extend(objects::routes());
    routes.extend(attention::routes());
    routes.push(alerts::route());
    routes
}

/// What answers at any time.
fn always() -> Vec<Route> {
    vec![events::route(), document::route()]
}

/// All paths that are served, each with a token only.
pub fn paths() -> impl Iterator<Item = &'static str> {
    let pages = super::pages::ROUTES.iter().map(|(path, _)| *path);
    answers()
        .into_iter()
        .chain(always())
        .map(|route| route.path)
        .chain(pages)
        .chain(grpc::PATHS)
        .chain([mcp::PATH])
}

/// A router of these.
fn routed(routes: Vec<Route>) -> Router<Arc<Ahti>> {
    routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.serves))
}

type Known = State<Arc<Ahti>>;

async fn why(State(ahti): Known, viewer: Viewer, asked: Asked<Question>) -> Result<Json<Answer>, Refused> {
    let asked = right(asked)?;
    match (&asked.incident, &asked.name) {
        (Some(_), None) if asked.at.is_some() => Err(Refused(
            StatusCode::BAD_REQUEST,
            "at: an incident is known as it is now only: give the object, by kind, namespace and name"
                .to_owned(),
        )),
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
            match &asked.at {
                None => explained(&ahti, &viewer, kind, namespace, name).await,
                Some(at) => explained(&Past::of(&ahti, at).await?, &viewer, kind, namespace, name).await,
            }
        }
        _ => Err(Refused(
            StatusCode::BAD_REQUEST,
            "give name, with kind and namespace where they are known, or incident".to_owned(),
        )),
    }
}

/// Why an object fails.
async fn explained(
    from: &impl Knows,
    viewer: &Viewer,
    kind: Option<&str>,
    namespace: Option<&str>,
    name: &str,
) -> Result<Json<Answer>, Refused> {
    let answer = tokio::task::block_in_place(|| from.engine().why(kind, namespace, name));
    Ok(Json(viewer.see(from, answer).await?))
}

/// What is left of an incident for who asks; of one of which nothing is left the same is said as of one that does not exist.
async fn seen(ahti: &Ahti, viewer: &Viewer, id: &str) -> Result<Incident, Refused> {
    let left = read::incident(ahti, viewer, id).await?;
    left.ok_or_else(|| Refused(StatusCode::NOT_FOUND, format!("{id}: there is no such incident")))
}

async fn correlate(
    State(ahti): Known,
    viewer: Viewer,
    asked: Asked<Traced>,
) -> Result<Json<Correlation>, Refused> {
    let Traced { trace_id } = right(asked)?;
    if !is_trace_id(&trace_id) {
        let what = "trace_id: give 32 hexadecimal digits, not all of them 0".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, what));
    }
    let found = tokio::task::block_in_place(|| ahti.engine().correlate(&trace_id));
    Ok(Json(viewer.see(&ahti, found).await?))
}

async fn incidents(
    State(ahti): Known,
    viewer: Viewer,
    within: Asked<Within>,
) -> Result<Json<Incidents>, Refused> {
    let within = Within::checked(within, &viewer).await?;
    let (incidents, coverage) = tokio::task::block_in_place(|| {
        let mut engine = ahti.engine();
        let incidents: Vec<Incident> = engine.incidents().into_iter().cloned().collect();
        (incidents, engine.coverage())
    });
    let (mut incidents, coverage) = (viewer.see(&ahti, incidents).await?, viewer.see(&ahti, coverage).await?);
    // Of what is left for them: what is hidden may not be found out so.
    incidents.retain(|incident| {
        let lines = incident.lines.iter().map(|line| &line.entity);
        within.has(incident.root.iter().chain(&incident.hits).chain(lines))
    });
    Ok(Json(Incidents { incidents, coverage }))
}

async fn incident(
    State(ahti): Known,
    viewer: Viewer,
    Path(One { id }): Path<One>,
    nothing: Asked<Nothing>,
) -> Result<Json<Incident>, Refused> {
    right(nothing)?;
    Ok(Json(seen(&ahti, &viewer, &id).await?))
}

async fn findings(
    State(ahti): Known,
    viewer: Viewer,
    within: Asked<Within>,
) -> Result<Json<Findings>, Refused> {
    let within = Within::checked(within, &viewer).await?;
    let findings = tokio::task::block_in_place(|| ahti.engine().findings());
    let mut findings = viewer.see(&ahti, findings).await?;
    findings.retain(|line| within.has([&line.entity]));
    Ok(Json(Findings { findings }))
}

async fn coverage(
    State(ahti): Known,
    viewer: Viewer,
    nothing: Asked<Nothing>,
) -> Result<Json<Coverage>, Refused> {
    right(nothing)?;
    let coverage = ahti.engine().coverage();
    Ok(Json(viewer.see(&ahti, coverage).await?))
}

/// It is on disk before this answers, and counts in the next answer.
async fn feedback(
    State(ahti): Known,
    viewer: Viewer,
    judged: Result<Json<Judged>, JsonRejection>,
) -> Result<Json<Noted>, Refused> {
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
) -> Result<Json<Noted>, Refused> {
    let failed =
        |error: String| Refused(StatusCode::SERVICE_UNAVAILABLE, format!("not noted, try again: {error}"));
    let data = fact.to_data().map_err(|error| failed(error.to_string()))?;
    let occurrence = said(source, F::TYPE, message, data);
    let outcomes = ahti.feedback.append(&[event::event(&occurrence)]).await;
    match outcomes.map_err(|trouble| failed(trouble.to_string()))?.first() {
        Some(journal::Outcome::Accepted(_)) => Ok(Json(Noted { id: occurrence.id.to_string() })),
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

async fn export(State(ahti): Known, viewer: Viewer, asked: Asked<Exported>) -> Result<Response, Refused> {
    let asked = right(asked)?;
    let incident = match asked.incident.as_deref() {
        Some(id) => Some(seen(&ahti, &viewer, id).await?),
        None => None,
    };
    // That nobody says what they may read is said before the first fact.
    viewer.reads_all().await?;
    Ok(Export::new(ahti, incident.as_ref(), viewer).into_response())
}
