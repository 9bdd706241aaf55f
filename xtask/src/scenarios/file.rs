//! A scenario's file: docs/scenarios.md describes its form.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use super::truth::Truth;

/// What is broken, what to ask, and the truth.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Scenario {
    /// The file's name without `.yaml`.
    pub(super) name: String,
    /// A sentence or two.
    pub(super) description: String,
    /// Why it cannot run on this cluster.
    pub(super) skip: Option<String>,
    /// Whether it takes so long that it runs only by name and with the variants.
    #[serde(default)]
    pub(super) long: bool,
    /// What breaks it, in order.
    pub(super) inject: Vec<Step>,
    /// What would outlive the application's namespace is undone by these, also if a step fails.
    #[serde(default)]
    pub(super) undo: Vec<Step>,
    /// The object asked about, as for `kubectl tapio why`, in the namespace `shop`.
    pub(super) ask: String,
    /// Seconds from the first step within which the answer has to be right. Without a root: how long there may be no
    /// incident.
    pub(super) within_s: u64,
    pub(super) truth: Truth,
    /// The same fault elsewhere, or at another time, by name.
    #[serde(default)]
    variants: BTreeMap<String, Variant>,
    /// Whether it is one of these.
    #[serde(skip)]
    pub(super) is_variant: bool,
}

/// What differs from the scenario.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    /// Words of the file with what stands in their place.
    #[serde(default)]
    instead: BTreeMap<String, String>,
    /// A pause before the first step, in seconds: the load has flowed for longer.
    wait_s: Option<u64>,
}

/// One step: one of the keys but the last.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// Arguments of kubectl.
    pub(super) kubectl: Option<Vec<String>>,
    /// A manifest for `kubectl apply`.
    pub(super) apply: Option<String>,
    /// A command in the node's network and mount namespaces, as root.
    pub(super) node: Option<Vec<String>>,
    /// A pause in seconds.
    pub(super) wait_s: Option<u64>,
    /// A program of the node that is stopped, such as `kube-proxy`.
    pub(super) stop: Option<String>,
    /// One that is started again.
    pub(super) start: Option<String>,
    /// Whether the scenario goes on if it fails.
    #[serde(default)]
    pub(super) may_fail: bool,
}

/// The scenarios of a directory with their variants, by name.
pub(super) fn all(directory: &Path) -> Result<Vec<Scenario>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", directory.display()))?.path();
        if path.extension().is_some_and(|end| end == "yaml") {
            all.extend(read(&path).with_context(|| path.display().to_string())?);
        }
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<Scenario>> {
    let text = fs::read_to_string(path)?;
    let scenario: Scenario = serde_saphyr::from_str(&text)?;
    ensure!(
        path.file_stem().is_some_and(|stem| stem == scenario.name.as_str()),
        "its name is not the file's"
    );
    scenario.check()?;
    let variants = scenario.variants.iter().map(|(name, variant)| {
        let of = || format!("variant {name}");
        let mut other: Scenario =
            serde_saphyr::from_str(&replaced(&text, &variant.instead)).with_context(of)?;
        other.name = format!("{}-{name}", scenario.name);
        other.is_variant = true;
        other
            .inject
            .splice(0..0, variant.wait_s.map(|wait_s| Step { wait_s: Some(wait_s), ..Step::default() }));
        other.check().with_context(of)?;
        Ok(other)
    });
    let variants: Result<Vec<_>> = variants.collect();
    Ok([vec![scenario.clone()], variants?].concat())
}

/// A text with other words, all of them at once, so that two can change places.
fn replaced(text: &str, instead: &BTreeMap<String, String>) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric();
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(is_of_word) {
        let (between, from_word) = rest.split_at(start);
        let end = from_word.find(|c| !is_of_word(c)).unwrap_or(from_word.len());
        let (word, after) = from_word.split_at(end);
        out.push_str(between);
        out.push_str(instead.get(word).map_or(word, String::as_str));
        rest = after;
    }
    out + rest
}

impl Scenario {
    fn check(&self) -> Result<()> {
        for (nth, step) in self.inject.iter().chain(&self.undo).enumerate() {
            step.check().with_context(|| format!("step {}", nth + 1))?;
        }
        ensure!(!self.inject.is_empty(), "inject: nothing is broken");
        ensure!(self.ask.contains('/'), "ask: `{}` is not KIND/NAME", self.ask);
        self.truth.check().context("truth")
    }
}

impl Step {
    fn check(&self) -> Result<()> {
        let given = [
            self.kubectl.is_some(),
            self.apply.is_some(),
            self.node.is_some(),
            self.wait_s.is_some(),
            self.stop.is_some(),
            self.start.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            bail!("give one of kubectl, apply, node, wait_s, stop and start");
        }
        let words = self.kubectl.iter().chain(&self.node);
        ensure!(words.into_iter().all(|words| !words.is_empty()), "the command is empty");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Result<Vec<Scenario>> {
        all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios"))
    }

    #[test]
    fn every_file_is_a_scenario() -> Result<()> {
        let all = shipped()?;
        assert!(all.len() >= 40, "{}", all.len());
        // Four have no cause, and only that of the node's memory cannot run on this cluster.
        let names = |is: fn(&&Scenario) -> bool| -> Vec<_> {
            all.iter().filter(is).map(|s| s.name.as_str()).collect()
        };
        let healthy = names(|scenario| scenario.truth.is_healthy() && !scenario.is_variant);
        assert_eq!(healthy, ["busy", "churn", "cpu-limits", "healthy"]);
        let skipped = names(|scenario| scenario.skip.is_some() && !scenario.is_variant);
        assert_eq!(skipped, ["node-memory"]);
        Ok(())
    }

    /// Rules of the engine, by their names.
    #[test]
    fn truths_name_rules_that_exist() -> Result<()> {
        #[derive(Deserialize)]
        struct Rules {
            #[serde(default)]
            rules: Vec<Rule>,
        }
        #[derive(Deserialize)]
        struct Rule {
            rule: String,
        }
        let mut known = Vec::new();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tapio-ahti/rules");
        for entry in fs::read_dir(directory)? {
            let text = fs::read_to_string(entry?.path())?;
            known.extend(serde_saphyr::from_str::<Rules>(&text)?.rules.into_iter().map(|rule| rule.rule));
        }
        for scenario in shipped()? {
            for rule in scenario.truth.chain.iter().chain(&scenario.truth.may) {
                assert!(known.contains(rule), "{}: there is no rule {rule}", scenario.name);
            }
        }
        Ok(())
    }

    #[test]
    fn variants_are_the_same_elsewhere() -> Result<()> {
        let instead = [("payments", "stock"), ("stock", "payments")];
        let instead = instead.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        assert_eq!(
            replaced("deploy/payments, stock-*, payments2, \"stock\"", &instead),
            "deploy/stock, payments-*, payments2, \"payments\""
        );
        let directory = tempfile::tempdir()?;
        let text = "name: a\ndescription: b\ninject: [{kubectl: [delete, deploy/x]}]\nask: deploy/y\nwithin_s: 9\n\
                    truth: {root: Deployment shop/x, chain: [c]}\nvariants: {later: {instead: {x: z}, wait_s: 5}}\n";
        fs::write(directory.path().join("a.yaml"), text)?;
        let all = all(directory.path())?;
        let names: Vec<_> =
            all.iter().map(|s| (s.name.as_str(), s.truth.root.as_str(), s.inject.len())).collect();
        assert_eq!(names, [("a", "Deployment shop/x", 1), ("a-later", "Deployment shop/z", 2)]);
        Ok(())
    }

    #[test]
    fn mistakes_are_named() -> Result<()> {
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("a.yaml");
        let right = "name: a\ndescription: b\ninject: [{wait_s: 1}]\nask: deploy/a\nwithin_s: 9\ntruth: {root: none}\n";
        fs::write(&file, right)?;
        assert_eq!(all(directory.path())?.len(), 1);
        for (from, to, said) in [
            ("name: a", "name: b", "not the file's"),
            ("wait_s: 1", "wait: 1", "wait"),
            ("{wait_s: 1}", "{wait_s: 1, kubectl: [get]}", "give one of"),
            ("{wait_s: 1}", "{node: []}", "empty"),
            ("deploy/a", "a", "KIND/NAME"),
            ("root: none", "root: none, kind: rollout", "truth"),
            ("root: none", "root: payments", "truth"),
            ("root: none", "root: Node a, chain: [c], not: [Node a]", "is the root"),
        ] {
            fs::write(&file, right.replace(from, to))?;
            let error = format!("{:#}", all(directory.path()).unwrap_err());
            assert!(error.contains(said) && error.contains("a.yaml"), "{to}: {error}");
        }
        Ok(())
    }
}
