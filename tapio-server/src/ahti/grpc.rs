//! `ahti.v1.Ahti`: the questions of the API over gRPC, on the same port. Each call asks the same router in the caller's name, and has its
//! bytes; main fields of incidents are typed, too.

mod stream;

use std::fmt::Write as _;

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tapio_ahti::incident::{self, Incident};
use tonic::{Code, Request, Response, Status};

use self::{
    proto::ahti_server::{Ahti, AhtiServer},
    stream::{Events, Facts},
};
use super::{api::Refused, auth::Viewer, inner::Inner};

/// What the build makes of proto/ahti/v1.
#[allow(
    missing_docs,
    clippy::all,
    clippy::unwrap_used,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
pub mod proto {
    tonic::include_proto!("ahti.v1");
}

pub(super) const PATH: &str = "/ahti.v1.Ahti/{call}";

/// The calls, for tonic.
struct Calls(Inner);

/// Answers at [`PATH`].
pub(super) fn routes(inner: Inner) -> Router {
    Router::new().route_service(PATH, AhtiServer::new(Calls(inner)))
}

/// Whether a request is a call.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let content = headers.get(CONTENT_TYPE).and_then(|content| content.to_str().ok());
    content.is_some_and(|content| content.starts_with("application/grpc"))
}

/// The same refusal as a status.
impl From<Refused> for Status {
    fn from(Refused(status, text): Refused) -> Self {
        let code = match status {
            StatusCode::BAD_REQUEST => Code::InvalidArgument,
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::Internal,
        };
        Self::new(code, text)
    }
}

/// Who calls.
fn viewer<T>(request: &Request<T>) -> Result<Viewer, Status> {
    request
        .extensions()
        .get::<Viewer>()
        .cloned()
        .ok_or_else(|| Status::unauthenticated("nobody said who asks"))
}

/// A path with those of some parameters that are not empty.
fn path(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut path = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing to a String does not fail.
        let _ = write!(path, "{mark}{name}={}", quoted(value));
        mark = '&';
    }
    path
}

fn quoted(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

fn unreadable(error: serde_json::Error) -> Status {
    Status::internal(format!("the answer cannot be read: {error}"))
}

/// An incident with its bytes.
fn incident(json: &str) -> Result<proto::Incident, Status> {
    let incident: Incident = serde_json::from_str(json).map_err(unreadable)?;
    Ok(proto::Incident {
        id: incident.id,
        revision: incident.revision,
        status: status(incident.status).into(),
        certainty: match incident.certainty {
            incident::Certainty::Inconclusive => proto::Certainty::Inconclusive,
            incident::Certainty::Likely => proto::Certainty::Likely,
            incident::Certainty::Confirmed => proto::Certainty::Confirmed,
        }
        .into(),
        title: incident.title.to_string(),
        since_unix_ns: incident.since_unix_ns,
        resolved_unix_ns: incident.resolved_unix_ns.unwrap_or_default(),
        root: incident.root.map(name),
        root_kind: incident.root_kind.unwrap_or_default(),
        hits: incident.hits.into_iter().map(name).collect(),
        json: json.into(),
    })
}

const fn status(status: incident::Status) -> proto::Status {
    match status {
        incident::Status::Open => proto::Status::Open,
        incident::Status::Resolved => proto::Status::Resolved,
        incident::Status::Regressed => proto::Status::Regressed,
    }
}

fn name(name: incident::Name) -> proto::Name {
    proto::Name { kind: name.kind, namespace: name.namespace.unwrap_or_default(), name: name.name }
}

impl Calls {
    async fn ask(&self, viewer: Viewer, path: &str) -> Result<String, Status> {
        Ok(self.0.get(viewer, path).await?)
    }

    async fn answer(&self, viewer: Viewer, path: &str) -> Result<Response<proto::Answer>, Status> {
        let json = self.ask(viewer, path).await?.into_bytes();
        Ok(Response::new(proto::Answer { json, incident: None }))
    }
}

type Answered = Result<Response<proto::Answer>, Status>;

#[tonic::async_trait]
impl Ahti for Calls {
    type ExportStream = Facts;
    type EventsStream = Events;

    async fn why(&self, request: Request<proto::WhyRequest>) -> Answered {
        #[derive(Deserialize)]
        struct Read<'a> {
            #[serde(borrow)]
            incident: Option<&'a RawValue>,
        }
        let viewer = viewer(&request)?;
        let proto::WhyRequest { kind, namespace, name, incident: of, at } = request.into_inner();
        let asked =
            [("kind", &*kind), ("namespace", &namespace), ("name", &name), ("incident", &of), ("at", &at)];
        let json = self.ask(viewer, &path("/api/v1/why", &asked)).await?;
        let read: Read<'_> = serde_json::from_str(&json).map_err(unreadable)?;
        let incident = read.incident.map(|json| incident(json.get())).transpose()?;
        Ok(Response::new(proto::Answer { json: json.clone().into_bytes(), incident }))
    }

    async fn list_incidents(
        &self,
        request: Request<proto::ListRequest>,
    ) -> Result<Response<proto::Incidents>, Status> {
        #[derive(Deserialize)]
        struct Read<'a> {
            #[serde(borrow)]
            incidents: Vec<&'a RawValue>,
            coverage: &'a RawValue,
        }
        let path = path("/api/v1/incidents", &[("namespace", &request.get_ref().namespace)]);
        let json = self.ask(viewer(&request)?, &path).await?;
        let read: Read<'_> = serde_json::from_str(&json).map_err(unreadable)?;
        let incidents = read.incidents.into_iter().map(|json| incident(json.get()));
        let coverage_json = read.coverage.get().into();
        Ok(Response::new(proto::Incidents { incidents: incidents.collect::<Result<_, _>>()?, coverage_json }))
    }

    async fn get_incident(
        &self,
        request: Request<proto::IncidentRequest>,
    ) -> Result<Response<proto::Incident>, Status> {
        let path = format!("/api/v1/incidents/{}", quoted(&request.get_ref().id));
        Ok(Response::new(incident(&self.ask(viewer(&request)?, &path).await?)?))
    }

    async fn get_blast(&self, request: Request<proto::IncidentRequest>) -> Answered {
        let path = format!("/api/v1/blast?incident={}", quoted(&request.get_ref().id));
        self.answer(viewer(&request)?, &path).await
    }

    async fn list_changes(&self, request: Request<proto::ListRequest>) -> Answered {
        let path = path("/api/v1/changes", &[("namespace", &request.get_ref().namespace)]);
        self.answer(viewer(&request)?, &path).await
    }

    async fn list_findings(&self, request: Request<proto::ListRequest>) -> Answered {
        let path = path("/api/v1/findings", &[("namespace", &request.get_ref().namespace)]);
        self.answer(viewer(&request)?, &path).await
    }

    async fn get_entity(&self, request: Request<proto::EntityRequest>) -> Answered {
        let viewer = viewer(&request)?;
        let proto::EntityRequest { kind, namespace, name, at } = request.into_inner();
        let asked = [("kind", &*kind), ("namespace", &namespace), ("name", &name), ("at", &at)];
        self.answer(viewer, &path("/api/v1/entity", &asked)).await
    }

    async fn get_coverage(&self, request: Request<proto::CoverageRequest>) -> Answered {
        self.answer(viewer(&request)?, "/api/v1/coverage").await
    }

    async fn export(&self, request: Request<proto::ExportRequest>) -> Result<Response<Facts>, Status> {
        let path = path("/api/v1/export", &[("incident", &request.get_ref().incident)]);
        let body = self.0.body(viewer(&request)?, http::Request::get(path)).await?;
        Ok(Response::new(stream::facts(body)))
    }

    async fn events(&self, request: Request<proto::EventsRequest>) -> Result<Response<Events>, Status> {
        // As somebody who comes again and has missed something: all that there are come first.
        let asked = http::Request::get("/api/v1/events").header("last-event-id", "none");
        let body = self.0.body(viewer(&request)?, asked).await?;
        Ok(Response::new(stream::events(body)))
    }

    async fn feedback(
        &self,
        request: Request<proto::FeedbackRequest>,
    ) -> Result<Response<proto::Noted>, Status> {
        #[derive(Deserialize)]
        struct Read {
            id: String,
        }
        let viewer = viewer(&request)?;
        let feedback = request.into_inner();
        let verdict = match feedback.verdict() {
            proto::Verdict::Right => "right",
            proto::Verdict::NotQuite => "not-quite",
            proto::Verdict::Wrong => "wrong",
            proto::Verdict::Unspecified => {
                return Err(Status::invalid_argument("verdict: give RIGHT, NOT_QUITE or WRONG"));
            }
        };
        let note = (!feedback.note.is_empty()).then_some(&feedback.note);
        let body = json!({ "incident": feedback.incident, "verdict": verdict, "note": note });
        let json = self.0.post(viewer, "/api/v1/feedback", &body).await?;
        let read: Read = serde_json::from_str(&json).map_err(unreadable)?;
        Ok(Response::new(proto::Noted { id: read.id }))
    }
}
