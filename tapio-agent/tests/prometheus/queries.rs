//! Alerts and queries, checked by the real `promtool`, and compared with the metrics that a program exposes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::toolchain;

#[derive(Deserialize)]
pub(crate) struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
pub(crate) struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
pub(crate) struct Rule {
    pub(crate) alert: String,
    pub(crate) expr: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

pub(crate) fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

pub(crate) fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// The alerts of a file.
pub(crate) fn rules(file: &str) -> Vec<Rule> {
    let rules: Rules = serde_saphyr::from_str(&read(file)).unwrap();
    rules.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// `promtool`, or why it is missing.
pub(crate) fn promtool() -> Result<PathBuf, String> {
    tool("promtool")
}

/// A program that `cargo xtask setup --ci` brings, or why it is missing.
pub(crate) fn tool(name: &str) -> Result<PathBuf, String> {
    let kept = toolchain::cache()?.join(name).join(name);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).map(|directory| directory.join(name));
    let found = places.chain([kept]).find(|place| place.is_file());
    found.ok_or_else(|| format!("there is no {name}: cargo xtask setup --ci"))
}

#[track_caller]
pub(crate) fn succeeds(command: &mut Command, input: &str) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&said));
}

/// Checks the alerts of a file, each of which has a test in another one. An error says why that cannot be done here.
pub(crate) fn check_rules(rules_file: &str, tests: &str) -> Result<(), String> {
    let promtool = promtool()?;
    succeeds(Command::new(&promtool).args(["check", "rules"]).arg(file(rules_file)), "");
    succeeds(Command::new(&promtool).args(["test", "rules"]).arg(file(tests)), "");
    let tested = read(tests);
    for Rule { alert, labels, annotations, .. } in rules(rules_file) {
        assert!(["critical", "warning", "info"].contains(&labels["severity"].as_str()), "{alert}");
        assert!(annotations["description"].len() > 80 && annotations.contains_key("summary"), "{alert}");
        assert!(tested.contains(&alert), "{alert} is not in {tests}");
    }
    Ok(())
}

/// Asserts that every metric and label in the queries is exposed.
#[track_caller]
pub(crate) fn is_exposed(what: &str, queries: &[String], exposed: &BTreeMap<&str, BTreeSet<&str>>) {
    for (metric, labels) in queries.iter().flat_map(|query| selectors(query)) {
        let Some(known) = exposed.get(metric) else { panic!("{what}: there is no {metric} in {exposed:#?}") };
        // Prometheus adds the instance label when it scrapes.
        let odd = labels.iter().find(|label| **label != "instance" && !known.contains(*label));
        assert_eq!(odd, None, "{what}: {metric} has {known:?}");
    }
}

/// Each metric that has a sample, with the labels of all its samples.
pub(crate) fn exposed(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        found.entry(name).or_default().extend(names(labels));
    }
    found
}

/// Tapio's metrics in a query, with the labels of their selectors.
pub(crate) fn selectors(query: &str) -> Vec<(&str, Vec<&str>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = query.match_indices("tapio_").map(|(at, _)| at);
    let mut found = Vec::new();
    for start in starts.filter(|&at| !query[..at].ends_with(is_name)) {
        let rest = &query[start..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
        let labels =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(inner, _)| inner);
        found.push((name, names(labels)));
    }
    found
}

/// The label names of `a="x",b=~"y"`: a, b.
pub(crate) fn names(labels: &str) -> Vec<&str> {
    let pairs = labels.trim_end_matches('}').split("\",").filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split(['=', '!']).next().unwrap().trim_matches([' ', ','])).collect()
}

#[test]
pub(crate) fn queries_are_read() {
    let query = r#"sum(rate(tapio_a_total{x=~"$i",y!="b"}[5m])) / (tapio_b > 0)"#;
    assert_eq!(selectors(query), [("tapio_a_total", vec!["x", "y"]), ("tapio_b", vec![])]);
    let text = "# TYPE tapio_a counter\ntapio_a_total{x=\"1\",y=\"2\"} 3\ntapio_b 1\n";
    assert_eq!(exposed(text)["tapio_a_total"], BTreeSet::from(["x", "y"]));
    assert!(exposed(text)["tapio_b"].is_empty());
}
