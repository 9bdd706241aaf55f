//! `/coverage`: what is looked at, so that silence means something.

use std::sync::atomic::Ordering;

use askama::Template;
use axum::response::Response;
use tapio_ahti::{answer::NO_FACTS, incident::Coverage};

use super::{
    frame::{Asked, Frame, Here, shown},
    time::lasting,
};
use crate::ahti::api::{Refused, read};

#[derive(Template)]
#[template(path = "coverage.html")]
struct Page {
    frame: Frame,
    coverage: Coverage,
    /// Facts in the journal, the space that they take, and how far the engine is behind.
    facts: u64,
    mebibytes: u64,
    behind: u64,
    behind_for: String,
    opaque: u64,
    refused: u64,
    entities: usize,
    rules: usize,
    /// What was let go before its time, since there was too much of it.
    evicted: Vec<(&'static str, u64)>,
}

pub(super) async fn page(asked: Asked) -> Response {
    let page = answer(&asked).await;
    asked.answered(page).await
}

async fn answer(asked: &Asked) -> Result<Response, Refused> {
    let coverage = read::coverage(&asked.ahti, &asked.viewer).await?;
    let journal = asked.ahti.journal.status();
    let behind = asked.ahti.behind();
    let (stock, ledger) = {
        let engine = asked.ahti.engine();
        (engine.stock(), engine.ledger())
    };
    let evicted = [
        ("entities", ledger.refused_entities),
        ("versions of entities", ledger.evicted_versions),
        ("connections", ledger.refused_connections),
        ("findings", ledger.evicted_findings),
        ("incidents", ledger.evicted_incidents),
    ];
    Ok(shown(&Page {
        coverage,
        facts: journal.facts,
        mebibytes: journal.bytes >> 20,
        behind: behind.facts,
        behind_for: lasting(u64::try_from(behind.time.as_nanos()).unwrap_or(u64::MAX)),
        opaque: asked.ahti.opaque.load(Ordering::Relaxed),
        refused: ledger.refused,
        entities: stock.entities,
        rules: stock.rules,
        evicted: evicted.into_iter().filter(|(_, count)| *count > 0).collect(),
        frame: asked.frame("Coverage", Here::Coverage).await?,
    }))
}
