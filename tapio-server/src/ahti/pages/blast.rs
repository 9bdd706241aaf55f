//! `/incidents/{id}/blast`: how far an incident reaches, as a picture and as a table that says the same.

use askama::Template;
use axum::{extract::Path, response::Response};
use tapio_ahti::blast::{Blast, Part};

use super::{
    frame::{Asked, Frame, Here, shown},
    incident,
    part::Link,
    picture::Graph,
    time::Moment,
};
use crate::ahti::api::{Refused, read};

/// A member in the table.
struct Row {
    link: Link,
    part: &'static str,
    since: Option<Moment>,
    text: String,
    /// Through whom it is reached, and why.
    through: Vec<(Link, String)>,
}

#[derive(Template)]
#[template(path = "blast.html")]
struct Page {
    frame: Frame,
    id: String,
    title: String,
    rows: Vec<Row>,
    graph: Option<Graph>,
}

pub(super) async fn page(asked: Asked, Path(id): Path<String>) -> Response {
    let page = answer(&asked, Path(id)).await;
    asked.answered(page).await
}

async fn answer(asked: &Asked, Path(id): Path<String>) -> Result<Response, Refused> {
    let known = read::incident(&asked.ahti, &asked.viewer, &id)
        .await?
        .zip(read::blast(&asked.ahti, &asked.viewer, &id).await?);
    let Some((incident, blast)) = known else { return Err(incident::unknown(&id)) };
    let frame = asked.frame(&format!("{}: blast radius", incident.id), Here::Nowhere).await?;
    let now_ns = frame.as_of_ns;
    Ok(shown(&Page {
        rows: rows(&blast, now_ns),
        graph: Graph::of(&blast),
        id: incident.id,
        title: incident.title.to_string(),
        frame,
    }))
}

pub(super) const fn word(part: Part) -> &'static str {
    match part {
        Part::Cause => "cause",
        Part::Hit => "hit",
        Part::Between => "between",
        Part::AtRisk => "at risk",
    }
}

fn rows(blast: &Blast, now_ns: u64) -> Vec<Row> {
    let row = |(at, member): (usize, &tapio_ahti::blast::Member)| {
        let through = blast.reaches.iter().filter(|reach| reach.to == at).filter_map(|reach| {
            let from = blast.members.get(reach.from)?;
            let why = reach.because.clone().unwrap_or_else(|| "it calls this".to_owned());
            Some((Link::to(&from.name), why))
        });
        let nothing = if member.part == Part::AtRisk { "no symptoms yet" } else { "" };
        Row {
            link: Link::to(&member.name),
            part: word(member.part),
            since: member.since_unix_ns.map(|since| Moment::new(since, now_ns)),
            text: member.text.as_deref().unwrap_or(nothing).to_owned(),
            through: through.collect(),
        }
    };
    blast.members.iter().enumerate().map(row).collect()
}
