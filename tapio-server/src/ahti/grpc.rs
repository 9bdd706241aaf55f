//! `ahti.v1.Ahti`: the questions of the API over gRPC, on the same port. Each call asks the same router in the caller's name, and has its
//! bytes; main fields of incidents are typed, too.

mod reflection;
mod stream;

use std::fmt::Write as _;

use axum::{
    Router,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
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

const PATH: &str = "/ahti.v1.Ahti/{call}";
pub(super) const PATHS: [&str; 3] = [PATH, reflection::V1ALPHA, reflection::V1];

/// The calls, for tonic.
struct Calls(Inner);

/// Answers at [`PATHS`].
///
/// # Errors
/// The calls are not described.
pub(super) fn routes(inner: Inner) -> anyhow::Result<Router> {
    Ok(Router::new().route_service(PATH, AhtiServer::new(Calls(inner))).merge(reflection::routes()?))
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

/// A text, unless it is empty: so absent fields come.
fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
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

    /// Notes what somebody says.
    async fn note(&self, viewer: Viewer, path: &str, said: &Value) -> Result<Response<proto::Noted>, Status> {
        #[derive(Deserialize)]
        struct Read {
            id: String,
        }
        let json = self.0.post(viewer, path, said).await?;
        let read: Read = serde_json::from_str(&json).map_err(unreadable)?;
        Ok(Response::new(proto::Noted { id: read.id }))
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
        let proto::FeedbackRequest { incident, note, .. } = feedback;
        let said = json!({ "incident": incident, "verdict": verdict, "note": given(note) });
        self.note(viewer, "/api/v1/feedback", &said).await
    }

    async fn ack(&self, request: Request<proto::AckRequest>) -> Result<Response<proto::Noted>, Status> {
        let viewer = viewer(&request)?;
        let proto::AckRequest { incident, reason, undo } = request.into_inner();
        if incident.is_empty() {
            return Err(Status::invalid_argument("incident: give its id, such as TAP-142"));
        }
        let path = format!("/api/v1/incidents/{}/ack", quoted(&incident));
        self.note(viewer, &path, &json!({ "reason": given(reason), "undo": undo })).await
    }

    async fn mute(&self, request: Request<proto::MuteRequest>) -> Result<Response<proto::Noted>, Status> {
        let viewer = viewer(&request)?;
        let asked = request.into_inner();
        let proto::MuteRequest { incident, kind, namespace, name, until, r#for: lasts, reason, undo } = asked;
        let mut said =
            json!({ "until": given(until), "for": given(lasts), "reason": given(reason), "undo": undo });
        let object = [("kind", kind), ("namespace", namespace), ("name", name)];
        if incident.is_empty() {
            for (key, text) in object {
                said[key] = given(text).into();
            }
            return self.note(viewer, "/api/v1/mutes", &said).await;
        }
        if object.iter().any(|(_, text)| !text.is_empty()) {
            return Err(Status::invalid_argument("give incident, or kind, namespace and name, and not both"));
        }
        self.note(viewer, &format!("/api/v1/incidents/{}/mute", quoted(&incident)), &said).await
    }

    async fn list_mutes(&self, request: Request<proto::ListMutesRequest>) -> Answered {
        self.answer(viewer(&request)?, "/api/v1/mutes").await
    }
}
