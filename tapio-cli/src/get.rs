//! `get`: lists.

use serde::Deserialize;
use tapio_ahti::incident::{Coverage, Incident, Line, Mute};

use crate::{
    cli::{Format, Get, Reach, What},
    connection::Server,
    failure::Failure,
    output,
};

#[derive(Debug, Deserialize, serde::Serialize)]
struct Incidents {
    incidents: Vec<Incident>,
    coverage: Coverage,
}

#[derive(Debug, Deserialize, serde::Serialize)]
struct Findings {
    findings: Vec<Line>,
}

#[derive(Debug, Deserialize, serde::Serialize)]
struct Mutes {
    mutes: Vec<Mute>,
}

pub(crate) async fn get(reach: &Reach, get: &Get) -> Result<String, Failure> {
    let mut server = Server::connect(reach).await?;
    match get.what {
        What::Incidents => {
            let all: Incidents = server.json("/api/v1/incidents").await?;
            match get.output {
                Format::Json => output::json(&all.incidents),
                Format::Text | Format::Wide => Ok(output::incidents(&all.incidents, &all.coverage)),
            }
        }
        What::Changes | What::Findings => {
            let wants_changes = matches!(get.what, What::Changes);
            let mut all: Findings = server.json("/api/v1/findings").await?;
            all.findings.retain(|line| (line.kind == "kubernetes.change") == wants_changes);
            let nothing =
                if wants_changes { "no changes in the last 24 h" } else { "no findings in the last 24 h" };
            match get.output {
                Format::Json => output::json(&all.findings),
                Format::Text | Format::Wide => Ok(output::lines(&all.findings, nothing)),
            }
        }
        What::Mutes => {
            let all: Mutes = server.json("/api/v1/mutes").await?;
            match get.output {
                Format::Json => output::json(&all.mutes),
                Format::Text | Format::Wide => Ok(output::mutes(&all.mutes)),
            }
        }
        What::Coverage => {
            let coverage: Coverage = server.json("/api/v1/coverage").await?;
            match get.output {
                Format::Json => output::json(&coverage),
                Format::Text | Format::Wide => {
                    let mut lines = vec![tapio_ahti::answer::covered_text(&coverage)];
                    lines.extend(
                        coverage.silent.into_iter().chain(coverage.degraded).chain(coverage.missing_kinds),
                    );
                    Ok(lines.join("\n") + "\n")
                }
            }
        }
    }
}
