//! Rule files.

use serde::Deserialize;

use super::{Kind, Rule};
use crate::story::NAMES;

/// A file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) kinds: Vec<Kind>,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
}

/// A rule file that is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Error {
    place: String,
    what: String,
}

/// The files that come with the engine: first what is known of each type, then one file a subject.
pub(super) const EMBEDDED: &[(&str, &str)] = &[
    ("rules/kinds.yaml", include_str!("../../rules/kinds.yaml")),
    ("rules/rollout.yaml", include_str!("../../rules/rollout.yaml")),
    ("rules/memory.yaml", include_str!("../../rules/memory.yaml")),
    ("rules/callers.yaml", include_str!("../../rules/callers.yaml")),
    ("rules/configuration.yaml", include_str!("../../rules/configuration.yaml")),
    ("rules/service.yaml", include_str!("../../rules/service.yaml")),
    ("rules/scheduling.yaml", include_str!("../../rules/scheduling.yaml")),
    ("rules/node.yaml", include_str!("../../rules/node.yaml")),
    ("rules/probes.yaml", include_str!("../../rules/probes.yaml")),
    ("rules/dns.yaml", include_str!("../../rules/dns.yaml")),
    ("rules/signals.yaml", include_str!("../../rules/signals.yaml")),
    ("rules/cpu.yaml", include_str!("../../rules/cpu.yaml")),
    ("rules/health.yaml", include_str!("../../rules/health.yaml")),
    ("rules/storage.yaml", include_str!("../../rules/storage.yaml")),
    ("rules/link.yaml", include_str!("../../rules/link.yaml")),
];

pub(super) fn parse(name: &str, text: &str) -> Result<File, Error> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().filter(|at| at.line() > 0);
        let place = at.map_or_else(|| name.to_owned(), |at| format!("{name}:{}:{}", at.line(), at.column()));
        Error { place, what: error.without_snippet().to_string() }
    })?;
    let wrong = |place: String, what: String| Error { place: format!("{name}: {place}"), what };
    for kind in &file.kinds {
        if !(0.000_1..=0.5).contains(&kind.leak) {
            let what = format!("leak: {} is not between 0.0001 and 0.5", kind.leak);
            return Err(wrong(format!("kind {}", kind.finding.kinds.join(", ")), what));
        }
        for action in &kind.actions {
            for text in
                [Some(&action.text), action.command.as_ref(), action.undo.as_ref()].into_iter().flatten()
            {
                names(text).map_err(|what| wrong(format!("kind {}", kind.finding.kinds.join(", ")), what))?;
            }
        }
    }
    for rule in &file.rules {
        names(rule.absent.as_deref().unwrap_or_default())
            .map_err(|what| wrong(format!("rule {}", rule.rule), what))?;
        check(rule).map_err(|what| wrong(format!("rule {}", rule.rule), what))?;
    }
    Ok(file)
}

/// What the types of the fields do not say.
fn check(rule: &Rule) -> Result<(), String> {
    if !(0.0..=1.0).contains(&rule.strength) {
        return Err(format!("strength: {} is not between 0 and 1", rule.strength));
    }
    let lag = &rule.lag;
    if !(lag.median_s > 0.0 && lag.spread > 0.0 && lag.longest_s >= lag.median_s && lag.longest_s <= 86_400.0)
    {
        return Err(
            "lag: give median_s above 0, spread above 0, and longest_s from the median to 86400".to_owned()
        );
    }
    if let Some(weight) = rule.weights.values().find(|weight| !(-10.0..=10.0).contains(*weight)) {
        return Err(format!("weights: {weight} is not between -10 and 10"));
    }
    Ok(())
}

/// Whether all names in braces are known.
fn names(text: &str) -> Result<(), String> {
    for part in text.split('{').skip(1) {
        let name = part.split_once('}').map(|(name, _)| name);
        if !name.is_some_and(|name| NAMES.contains(&name)) {
            return Err(format!(
                "{{{}: there is no such name; there are {}",
                name.unwrap_or(part),
                NAMES.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::EMBEDDED;

    #[test]
    fn every_file_of_rules_comes_with_the_engine() {
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("rules")).unwrap();
        let names: BTreeSet<_> =
            files.map(|file| format!("rules/{}", file.unwrap().file_name().display())).collect();
        assert_eq!(names, EMBEDDED.iter().map(|(name, _)| (*name).to_owned()).collect());
    }
}
