//! Facts as lines of JSON: written by `export`, explained by `replay`.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, stdin},
    path::Path,
};

use anyhow::Context as _;
use tapio_ahti::{Engine, Limits, Rules};
use tapio_occurrence::Occurrence;

use crate::{
    cli::{Export, Format, Reach, Replay, object},
    connection::Server,
    failure::Failure,
    output,
};

/// The longest line: a fact is at most as large as a message of a gateway.
const MAX_LINE: usize = 4 << 20;

/// Writes the facts of an incident.
pub(crate) async fn export(reach: &Reach, of: &Export) -> Result<String, Failure> {
    let mut server = Server::connect(reach).await?;
    let path = match &of.incident {
        Some(incident) => format!("/api/v1/export?incident={}", crate::connection::quoted(incident)),
        None => "/api/v1/export".to_owned(),
    };
    let facts = server.text(&path).await?;
    if server.hidden > 0 {
        eprintln!("{} facts are left out: they name what you may not read", server.hidden);
    }
    Ok(facts)
}

/// Explains recorded facts.
pub(crate) fn replay(replay: &Replay) -> Result<String, Failure> {
    let rules = rules(replay.rules.as_deref())?;
    let mut engine = Engine::new(rules, Limits::default());
    let name = replay.facts.display().to_string();
    if name == "-" {
        read(&name, stdin().lock(), &mut engine)?;
    } else {
        let file = File::open(&replay.facts).with_context(|| format!("{name} cannot be read"))?;
        read(&name, BufReader::new(file), &mut engine)?;
    }
    if let Some(asked) = &replay.why {
        let (kind, asked) = object(asked).map_err(Failure::Usage)?;
        let answer = engine.why(kind, replay.namespace.as_deref(), asked);
        return output::answer(&answer, replay.output);
    }
    let coverage = engine.coverage();
    let incidents: Vec<_> = engine.incidents().into_iter().cloned().collect();
    match replay.output {
        Format::Json => output::json(&incidents),
        Format::Text | Format::Wide => Ok(output::incidents(&incidents, &coverage)),
    }
}

/// Takes facts, in order of their time: they may have been recorded in another one.
fn read(name: &str, mut from: impl BufRead, engine: &mut Engine) -> Result<(), Failure> {
    let wrong = |nth: usize, what: String| Failure::Usage(format!("{name}:{nth}: {what}"));
    let mut facts = Vec::new();
    let mut line = Vec::new();
    for nth in 1.. {
        line.clear();
        let mut limited = std::io::Read::take(&mut from, MAX_LINE as u64 + 1);
        let length =
            limited.read_until(b'\n', &mut line).with_context(|| format!("{name} cannot be read"))?;
        if length == 0 {
            break;
        }
        if length > MAX_LINE {
            return Err(wrong(
                nth,
                format!("the line is longer than {MAX_LINE} bytes: one fact a line is expected"),
            ));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let fact =
            Occurrence::read_json(&line).map_err(|error| wrong(nth, format!("is no fact: {error}")))?;
        facts.push((nth, fact));
    }
    facts.sort_by_key(|(_, fact)| fact.time_unix_ns);
    for (nth, fact) in facts {
        engine.take(&fact).map_err(|error| wrong(nth, error.to_string()))?;
    }
    Ok(())
}

fn rules(own: Option<&Path>) -> Result<Rules, Failure> {
    let mut files = Vec::new();
    if let Some(path) = own {
        let mut paths = vec![path.to_owned()];
        if path.is_dir() {
            let entries = fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))?;
            let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
            paths = entries.with_context(|| format!("{} cannot be read", path.display()))?;
            paths.retain(|path| path.extension().is_some_and(|end| end == "yaml" || end == "yml"));
            paths.sort_unstable();
        }
        for path in paths {
            let text =
                fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
            files.push((path.display().to_string(), text));
        }
    }
    let files = files.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    Rules::with(files).map_err(|error| Failure::Usage(error.to_string()))
}
