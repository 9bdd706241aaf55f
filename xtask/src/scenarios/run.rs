//! One scenario: everything new, one thing broken, and the answers.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::answer::Incident;
use super::cluster::{Cluster, LOOK};
use super::file::Scenario;
use super::installation;
use super::truth::{Judgement, Truth};
use crate::machine;

/// A right answer has to be still right after this time.
const SETTLED: Duration = Duration::from_secs(30);

/// What came of a scenario.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It cannot run here.
    Skipped(String),
    /// It could not be carried out.
    Failed(String),
    Judged(Box<Judged>),
}

#[derive(Debug)]
pub(super) struct Judged {
    /// The root that the answer had in the end.
    pub(super) root: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) certainty: Option<String>,
    pub(super) judgement: Judgement,
    /// Seconds from the first step to the right answer that stayed.
    pub(super) seconds: Option<u64>,
    /// Incidents with other roots.
    pub(super) others: Vec<String>,
    /// Incidents that accuse an innocent.
    pub(super) accused: Vec<String>,
    /// Further faults that no incident has as its root.
    pub(super) not_found: Vec<String>,
}

impl Outcome {
    pub(super) fn is_wrong(&self) -> bool {
        match self {
            Self::Skipped(_) => false,
            Self::Failed(_) => true,
            Self::Judged(judged) => {
                let Judged { judgement, accused, not_found, .. } = &**judged;
                !judgement.is_right() || !accused.is_empty() || !not_found.is_empty()
            }
        }
    }

    /// One line, as soon as it is known.
    pub(super) fn summary(&self) -> String {
        match self {
            Self::Skipped(reason) => format!("skipped: {reason}"),
            Self::Failed(error) => format!("FAILED: {error}"),
            Self::Judged(judged) => {
                let word = if self.is_wrong() { "WRONG" } else { "right" };
                let root = judged.root.as_deref().unwrap_or("none");
                let kind = judged.kind.as_deref().unwrap_or("-");
                format!("{word}: root {root}, kind {kind}, {} other incidents", judged.others.len())
            }
        }
    }
}

/// Carries out a scenario, and undoes what would stay.
pub(super) fn run(cluster: &Cluster, scenario: &Scenario, record: bool) -> Result<Outcome> {
    if let Some(reason) = &scenario.skip {
        return Ok(Outcome::Skipped(reason.clone()));
    }
    installation::heal(cluster)?;
    let judged = broken(cluster, scenario).map(|judged| Outcome::Judged(Box::new(judged)));
    if judged.as_ref().is_ok_and(Outcome::is_wrong) {
        eprint!("{}", cluster.why_text(&scenario.ask)?);
    }
    let recorded = match record {
        true => self::record(cluster, scenario),
        false => Ok(()),
    };
    for step in &scenario.undo {
        // It was not done if a step before it failed.
        if let Err(error) = cluster.perform(step) {
            eprintln!("{}: undo: {error:#}", scenario.name);
        }
    }
    recorded?;
    judged
}

fn broken(cluster: &Cluster, scenario: &Scenario) -> Result<Judged> {
    let start = Instant::now();
    for step in &scenario.inject {
        cluster.perform(step)?;
    }
    let truth = &scenario.truth;
    let end = start + Duration::from_secs(scenario.within_s);
    match truth.is_healthy() {
        true => quiet(cluster, end),
        false => asked(cluster, scenario, start, end),
    }
}

/// Waits for the end, or for an incident that should not be.
fn quiet(cluster: &Cluster, end: Instant) -> Result<Judged> {
    let mut incidents = cluster.incidents()?;
    while incidents.is_empty() && Instant::now() < end {
        thread::sleep(LOOK);
        incidents = cluster.incidents()?;
    }
    let is_quiet = incidents.is_empty();
    let judgement = Judgement {
        root: is_quiet,
        kind: is_quiet,
        first: is_quiet,
        missing: is_quiet,
        ..Judgement::default()
    };
    Ok(Judged {
        root: incidents.iter().find_map(Incident::root),
        kind: None,
        certainty: None,
        judgement,
        seconds: None,
        others: incidents.iter().map(shown).collect(),
        accused: Vec::new(),
        not_found: Vec::new(),
    })
}

/// Asks until the answer has been right for a while, or the time is over. The last answer counts.
fn asked(cluster: &Cluster, scenario: &Scenario, start: Instant, end: Instant) -> Result<Judged> {
    let truth = &scenario.truth;
    let mut right_since: Option<Instant> = None;
    loop {
        let now = Instant::now();
        let incident = cluster.why(&scenario.ask)?;
        let judgement = incident.as_ref().map(|incident| truth.judge(incident)).unwrap_or_default();
        let is_whole = truth.also.is_empty() || truth.not_found(&cluster.incidents()?).is_empty();
        match judgement.is_right() && is_whole {
            true => _ = right_since.get_or_insert(now),
            false => right_since = None,
        }
        let is_settled = right_since.is_some_and(|since| now >= since + SETTLED);
        if is_settled || (right_since.is_none() && now > end) {
            let all = cluster.incidents()?;
            let seconds = right_since.map(|since| (since - start).as_secs());
            return Ok(judged(truth, incident.as_ref(), judgement, seconds, &all));
        }
        thread::sleep(LOOK);
    }
}

fn judged(
    truth: &Truth,
    incident: Option<&Incident>,
    judgement: Judgement,
    seconds: Option<u64>,
    all: &[Incident],
) -> Judged {
    let is_asked = |other: &&Incident| incident.is_some_and(|incident| incident.id == other.id);
    let others =
        all.iter().filter(|other| !is_asked(other) && !truth.is_root(other) && !truth.is_also(other));
    Judged {
        root: incident.and_then(Incident::root),
        kind: incident.and_then(|incident| incident.root_kind.clone()),
        certainty: incident.map(|incident| incident.certainty.clone()),
        judgement,
        seconds,
        others: others.map(shown).collect(),
        accused: all.iter().filter(|incident| truth.accuses(incident)).map(shown).collect(),
        not_found: truth.not_found(all),
    }
}

fn shown(incident: &Incident) -> String {
    format!("{} {}", incident.id, incident.title)
}

/// Writes the facts as a test case of the engine.
fn record(cluster: &Cluster, scenario: &Scenario) -> Result<()> {
    let directory = machine::workspace()?.join("tapio-ahti/tests/recorded");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let file = directory.join(format!("{}.jsonl", scenario.name));
    fs::write(&file, cluster.facts()?).with_context(|| format!("cannot write {}", file.display()))
}
