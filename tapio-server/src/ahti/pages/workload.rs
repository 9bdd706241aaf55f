//! `/workloads/{namespace}/{kind}/{name}`: what happened to an object, also to one that is gone.

use askama::Template;
use axum::{extract::Path, http::StatusCode, response::Response};
use tapio_ahti::{
    about::About,
    answer::{self, Answer, State},
};

use super::{
    frame::{Asked, Frame, Here, shown},
    part::{Card, Change, Link, NO_NAMESPACE, Row},
    picture::Lanes,
    time::Moment,
};
use crate::ahti::api::{Refused, objects, read};

/// A pod in the list.
struct Pod {
    link: Link,
    node: Option<String>,
    created: Moment,
    deleted: Option<Moment>,
}

#[derive(Template)]
#[template(path = "workload.html")]
struct Page {
    frame: Frame,
    name: Link,
    /// What there is to say, as `kubectl tapio why` says it.
    answer: String,
    /// Why the first incident is somebody else's.
    needs: Option<String>,
    incident: Option<Card>,
    others: Vec<Card>,
    created: Option<Moment>,
    deleted: Option<Moment>,
    owners: Vec<Link>,
    pods: Vec<Pod>,
    calls: Vec<Link>,
    callers: Vec<Link>,
    changes: Vec<Change>,
    findings: Vec<Row>,
    lanes: Lanes,
}

pub(super) async fn page(
    asked: Asked,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Response {
    let page = answer(&asked, Path((namespace, kind, name))).await;
    asked.answered(page).await
}

async fn answer(
    asked: &Asked,
    Path((namespace, kind, name)): Path<(String, String, String)>,
) -> Result<Response, Refused> {
    let namespace = Some(namespace.as_str()).filter(|namespace| *namespace != NO_NAMESPACE);
    let name = objects::name(&kind, namespace, &name);
    let Some(about) = read::about(&asked.ahti, &asked.viewer, &name).await? else {
        let text = match read::why(&asked.ahti, &asked.viewer, &name).await? {
            Answer { state: State::Empty, .. } => answer::NO_FACTS.to_owned(),
            _ => format!("{name}: no such object is known. A deleted object is kept for a day."),
        };
        return Err(Refused(StatusCode::NOT_FOUND, text));
    };
    let why = read::why(&asked.ahti, &asked.viewer, &name).await?;
    let frame = asked.frame(&name.to_string(), Here::Nowhere).await?;
    Ok(shown(&Page::of(frame, about, why)))
}

impl Page {
    fn of(frame: Frame, about: About, why: Answer) -> Self {
        let now_ns = frame.as_of_ns;
        let moment = |ns| Moment::new(ns, now_ns);
        let first = why.incident.as_ref().map(|incident| incident.id.clone());
        let others = about.incidents.iter().filter(|incident| Some(&incident.id) != first.as_ref());
        let answer = match &why.incident {
            Some(incident) => format!("{}.", incident.title),
            None => why.quiet_text().to_owned(),
        };
        let pods = about.pods.iter().filter(|pod| pod.name != about.name).map(|pod| Pod {
            link: Link::to(&pod.name),
            node: pod.node.clone(),
            created: moment(pod.created_unix_ns),
            deleted: pod.deleted_unix_ns.map(moment),
        });
        Self {
            answer,
            needs: why.needed_text(&about.name),
            incident: why.incident.as_ref().map(|incident| Card::of(incident, now_ns)),
            others: others.map(|incident| Card::of(incident, now_ns)).collect(),
            created: about.created_unix_ns.map(moment),
            deleted: about.deleted_unix_ns.map(moment),
            owners: Link::to_all(&about.owners),
            pods: pods.collect(),
            calls: Link::to_all(&about.calls),
            callers: Link::to_all(&about.callers),
            changes: about.changes.iter().map(|change| Change::of(change, now_ns)).collect(),
            findings: about.findings.iter().map(|line| Row::of(line, line.last_unix_ns, now_ns)).collect(),
            lanes: Lanes::of(&about, now_ns),
            name: Link::to(&about.name),
            frame,
        }
    }
}
