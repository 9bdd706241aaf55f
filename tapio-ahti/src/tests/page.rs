//! docs/rules.md, which is made from the rule files: `BLESS=1` writes it.

use std::{fmt::Write as _, fs, path::Path};

use crate::{
    Rules,
    rule::{Evidence, Kind, Pattern, Rule, SETTLE_S},
};

const PAGE: &str = "../docs/rules.md";

const HEAD: &str = "\
# Rules

How the server explains failures. This page is made from `tapio-ahti/rules/*.yaml`; own files go into the directory of
`ahti.rules`, and a rule with the name of one of these replaces it.

- **Effect** and **cause**: types of facts ([occurrences](observers.md), [Kubernetes](facts.md)), with values of their fields.
- **Path**: from the effect's entity, or the other end of its connection (`peer`), to the cause's entity, as of the time of the
  effect.
- **Strength**: how likely the effect is where the cause is. It falls with the lag, from the median on.
- **Proved by**: evidence that makes the link certain. Only an answer whose links are all proved is CONFIRMED.
- **For and against**: evidence with its weight in natural logarithms of odds.

";

fn pattern(pattern: &Pattern) -> String {
    let mut text = pattern.kinds.iter().map(|kind| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    if !pattern.of.is_empty() {
        let _ = write!(text, " of {}", pattern.of.join(", "));
    }
    for (key, values) in &pattern.with {
        let _ = write!(text, "; {key}: {}", values.join(", "));
    }
    text
}

fn word(evidence: Evidence) -> String {
    let text = format!("{evidence:?}");
    let mut words = String::new();
    for c in text.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

fn seconds(seconds: f64) -> String {
    match seconds as u64 {
        s if s >= 3_600 && s % 3_600 == 0 => format!("{} h", s / 3_600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}

fn of_rule(out: &mut String, rule: &Rule) {
    let _ = writeln!(out, "### {}\n\n{}.\n", rule.rule, rule.because);
    let _ = writeln!(out, "- effect: {}", pattern(&rule.effect));
    let _ = writeln!(out, "- cause: {}", pattern(&rule.cause));
    let path: Vec<_> = rule.path.iter().map(|step| format!("{step:?}").to_lowercase()).collect();
    let from = format!("{:?}", rule.from).to_lowercase();
    let path = if path.is_empty() { "itself".to_owned() } else { path.join(", ") };
    let _ = writeln!(out, "- path: {from}: {path}");
    let (median, longest) = (seconds(rule.lag.median_s), seconds(rule.lag.longest_s));
    let _ = writeln!(out, "- strength {}, lag {median}, up to {longest}", rule.strength);
    if !rule.requires.is_empty() {
        let all: Vec<_> = rule.requires.iter().map(|evidence| word(*evidence)).collect();
        let _ = writeln!(out, "- only with: {}", all.join(" and "));
    }
    if !rule.certain.is_empty() {
        let all =
            rule.certain.iter().map(|all| all.iter().map(|e| word(*e)).collect::<Vec<_>>().join(" and "));
        let _ = writeln!(out, "- proved by: {}", all.collect::<Vec<_>>().join("; or "));
    }
    if !rule.weights.is_empty() {
        let all = rule.weights.iter().map(|(evidence, weight)| format!("{} {weight:+}", word(*evidence)));
        let _ = writeln!(out, "- for and against: {}", all.collect::<Vec<_>>().join(", "));
    }
    out.push('\n');
}

fn of_kind(out: &mut String, kind: &Kind) {
    let class = format!("{:?}", kind.class).to_lowercase();
    let opens = match (kind.opens, kind.at_least, kind.lasts_s) {
        (false, ..) => "no".to_owned(),
        (true, 1, SETTLE_S) => "yes".to_owned(),
        (true, 1, lasts_s) => format!("after {}", seconds(lasts_s as f64)),
        (true, times, _) => format!("{times} a minute"),
    };
    let _ =
        writeln!(out, "| {} | {class} | {} | {opens} | {} |", pattern(&kind.finding), kind.names, kind.prior);
}

#[test]
fn the_page_of_rules_is_made_from_them() {
    let rules = Rules::embedded().unwrap();
    let mut page = HEAD.to_owned();
    page.push_str("## What each finding is\n\n| finding | class | cause | opens an incident | prior |\n|---|---|---|---|---|\n");
    rules.kinds.iter().for_each(|kind| of_kind(&mut page, kind));
    page.push_str("\n## What explains what\n\n");
    rules.rules.iter().for_each(|rule| of_rule(&mut page, rule));
    let page = format!("{}\n", page.trim_end());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), page, "run this test with BLESS=1");
}
