//! `/incidents/{id}`: the answer, in the order in which one reads it at night.

use askama::Template;
use axum::{extract::Path, http::StatusCode, response::Response};
use tapio_ahti::{
    answer::{self, Story},
    calibration::Chance,
    incident::{Advice, Hidden, Incident, Line, Status},
    visible::Prose,
};

use super::{
    frame::{Asked, Frame, Here, shown},
    part::{Link, Row, State},
    time::{Moment, lasting, offset},
};
use crate::ahti::api::{Refused, read};

/// One step of the story.
struct Item {
    head: &'static str,
    row: Row,
    /// How long after the cause, or after the first failure where there is none.
    offset: String,
    entity: Link,
    because: Vec<Because>,
}

/// Why a step follows from another.
struct Because {
    text: String,
    lag: String,
    is_proved: bool,
}

/// A possible cause.
struct Candidate {
    entity: Link,
    text: String,
    score: String,
    terms: Vec<(String, String)>,
}

/// A line of the evidence.
struct Proof {
    row: Row,
    kind: String,
    facts: Vec<String>,
}

#[derive(Template)]
#[template(path = "incident.html")]
struct Page {
    frame: Frame,
    id: String,
    title: String,
    state: State,
    /// How sure the cause is, where the state does not say it.
    sure: Option<String>,
    chance: Option<Chance>,
    since: Moment,
    over: Option<Moment>,
    lasted: String,
    seen: Option<String>,
    judged: Option<&'static str>,
    acked: Option<String>,
    muted: Option<String>,
    no_cause: Option<String>,
    items: Vec<Item>,
    more: usize,
    hidden: Hidden,
    advice: Vec<Advice>,
    hits: Vec<Link>,
    at_risk: Vec<Link>,
    ruled_out: Vec<Prose>,
    missing: Vec<Prose>,
    evidence: Vec<Proof>,
    considered: Vec<Candidate>,
    revision: u64,
    fingerprint: String,
}

pub(super) async fn page(asked: Asked, Path(id): Path<String>) -> Response {
    let page = answer(&asked, Path(id)).await;
    asked.answered(page).await
}

async fn answer(asked: &Asked, Path(id): Path<String>) -> Result<Response, Refused> {
    let Some(incident) = read::incident(&asked.ahti, &asked.viewer, &id).await? else {
        return Err(unknown(&id));
    };
    let frame = asked.frame(&format!("{}: {}", incident.id, incident.title), Here::Nowhere).await?;
    Ok(shown(&Page::of(frame, incident)))
}

/// No incident has this id, or none has it any more.
pub(super) fn unknown(id: &str) -> Refused {
    let text = format!(
        "{id}: there is no such incident. The server keeps the newest 1,000 incidents, and only those whose facts are \
         still in its journal."
    );
    Refused(StatusCode::NOT_FOUND, text)
}

impl Page {
    fn of(frame: Frame, incident: Incident) -> Self {
        let now_ns = frame.as_of_ns;
        let story = Story::of(&incident);
        let from_ns = story.cause.map_or(incident.since_unix_ns, |cause| cause.since_unix_ns);
        let item = |head, line: &Line| Item {
            head,
            row: Row::of(line, line.since_unix_ns, now_ns),
            offset: offset(line.since_unix_ns, from_ns),
            entity: Link::to(&line.entity),
            because: because(&incident, line),
        };
        let cause = story.cause.map(|line| item("Cause", line));
        let then = story.then.iter().enumerate();
        let then = then.map(|(nth, line)| item(if nth == 0 { "First" } else { "Then" }, line));
        let until_ns = incident.resolved_unix_ns.unwrap_or(now_ns);
        Self {
            id: incident.id.clone(),
            title: incident.title.to_string(),
            state: State::of(&incident),
            sure: (incident.status != Status::Open).then(|| answer::sure(&incident)),
            chance: incident.lead.map(|lead| lead.chance).filter(|_| incident.has_cause),
            since: Moment::new(incident.since_unix_ns, now_ns),
            over: incident.resolved_unix_ns.map(|over| Moment::new(over, now_ns)),
            lasted: lasting(until_ns.saturating_sub(incident.since_unix_ns)),
            seen: answer::seen(&incident),
            acked: answer::acked(&incident),
            muted: incident.mute.as_ref().map(answer::muted),
            judged: incident.feedback.map(|verdict| verdict.word()),
            no_cause: story.cause.is_none().then(|| answer::no_cause(&incident)),
            items: cause.into_iter().chain(then).collect(),
            more: story.more,
            hidden: incident.hidden,
            hits: Link::to_all(&incident.hits),
            at_risk: Link::to_all(&incident.at_risk),
            evidence: incident.lines.iter().map(|line| proof(line, now_ns)).collect(),
            considered: incident.considered.iter().map(candidate).collect(),
            revision: incident.revision,
            advice: incident.advice,
            ruled_out: incident.ruled_out,
            missing: incident.missing,
            fingerprint: incident.fingerprint,
            frame,
        }
    }
}

/// What leads to a line.
fn because(incident: &Incident, line: &Line) -> Vec<Because> {
    let place = incident.lines.iter().position(|known| std::ptr::eq(known, line));
    let steps = incident.chain.iter().filter(|step| Some(step.effect) == place);
    let because = |step: &tapio_ahti::incident::Step| Because {
        text: step.because.clone(),
        lag: offset((step.lag_s.max(0.0) * 1e9) as u64, 0),
        is_proved: step.certain,
    };
    // The same reason for several causes is one.
    let mut all: Vec<Because> = steps.map(because).collect();
    all.dedup_by(|a, b| a.text == b.text);
    all
}

fn proof(line: &Line, now_ns: u64) -> Proof {
    Proof {
        row: Row::of(line, line.since_unix_ns, now_ns),
        kind: line.kind.clone(),
        facts: line.facts.clone(),
    }
}

fn candidate(of: &tapio_ahti::incident::Considered) -> Candidate {
    Candidate {
        entity: Link::to(&of.entity),
        text: of.text.to_string(),
        score: format!("{:.2}", of.score),
        terms: of.terms.iter().map(|(term, value)| (term.to_string(), format!("{value:+.2}"))).collect(),
    }
}
