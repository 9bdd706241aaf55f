//! What an answer has to say, and what it must not say.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::answer::Incident;

/// The root of a scenario in which nothing is wrong.
const NONE: &str = "none";
/// The root of a scenario whose cause cannot be known: the answer has to say that.
const UNKNOWN: &str = "unknown";
/// The certainty of an answer that does not decide.
const INCONCLUSIVE: &str = "inconclusive";
/// The certainty of an answer that has to be right.
pub(super) const CONFIRMED: &str = "confirmed";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Truth {
    /// `KIND NAMESPACE/NAME`, where `*` at the end stands for anything, or `none`, or `unknown`.
    pub(super) root: String,
    /// The cause in a word, as in `root_kind`; absent if there is more than one right word.
    pub(super) kind: Option<String>,
    /// Rules whose links the chain needs.
    #[serde(default)]
    pub(super) chain: Vec<String>,
    /// Rules whose links are right, too: whether they are seen is a matter of time.
    #[serde(default)]
    pub(super) may: Vec<String>,
    /// Text of the first advice.
    pub(super) first: Option<String>,
    /// Text of what the answer says is missing.
    pub(super) missing: Option<String>,
    /// Roots of further faults, each of which has to be the root of an incident of its own.
    #[serde(default)]
    pub(super) also: Vec<String>,
    /// Roots that would be wrong accusations, in any incident.
    #[serde(default)]
    pub(super) not: Vec<String>,
}

/// How an incident compares with the truth.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Judgement {
    pub(super) root: bool,
    pub(super) kind: bool,
    /// The share of the chain's links that are right; absent without links.
    pub(super) precision: Option<f64>,
    /// The share of the needed links that are there.
    pub(super) recall: Option<f64>,
    /// Whether the first advice is as expected.
    pub(super) first: bool,
    /// Whether it says what is missing.
    pub(super) missing: bool,
}

impl Truth {
    pub(super) fn check(&self) -> Result<()> {
        if self.is_healthy() {
            let says_nothing = self.kind.is_none() && self.chain.is_empty() && self.first.is_none();
            ensure!(says_nothing, "root: none, so there is no kind, chain or first advice");
            return Ok(());
        }
        let roots = self.not.iter().chain(&self.also).chain([&self.root]);
        for root in roots.filter(|root| !self.is_unknown() || *root != UNKNOWN) {
            ensure!(root.contains(' '), "`{root}` is not KIND NAMESPACE/NAME");
        }
        ensure!(!self.not.contains(&self.root), "not: {} is the root", self.root);
        ensure!(
            self.is_unknown() || !self.chain.is_empty(),
            "chain: name the rules that lead from the cause to what is seen"
        );
        Ok(())
    }

    /// Whether nothing is wrong.
    pub(super) fn is_healthy(&self) -> bool {
        self.root == NONE
    }

    /// Whether the cause cannot be known.
    fn is_unknown(&self) -> bool {
        self.root == UNKNOWN
    }

    /// Whether an incident has this cause.
    pub(super) fn is_root(&self, incident: &Incident) -> bool {
        match self.is_unknown() {
            true => incident.certainty == INCONCLUSIVE,
            false => incident.root().is_some_and(|root| matches(&self.root, &root)),
        }
    }

    /// Whether an incident is of a further fault.
    pub(super) fn is_also(&self, incident: &Incident) -> bool {
        incident.root().is_some_and(|root| self.also.iter().any(|also| matches(also, &root)))
    }

    /// Further faults that no incident has as its root.
    pub(super) fn not_found(&self, all: &[Incident]) -> Vec<String> {
        let has = |also: &&String| all.iter().filter_map(Incident::root).any(|root| matches(also, &root));
        self.also.iter().filter(|also| !has(also)).cloned().collect()
    }

    /// Whether an incident accuses an innocent.
    pub(super) fn accuses(&self, incident: &Incident) -> bool {
        incident.root().is_some_and(|root| self.not.iter().any(|not| matches(not, &root)))
    }

    pub(super) fn judge(&self, incident: &Incident) -> Judgement {
        let found: BTreeSet<&str> = incident.chain.iter().map(|step| step.rule.as_str()).collect();
        let is_right = |rule: &&&str| self.chain.iter().chain(&self.may).any(|known| known == **rule);
        let needed = self.chain.iter().filter(|rule| found.contains(rule.as_str())).count();
        let first = incident.advice.first();
        Judgement {
            root: self.is_root(incident),
            kind: self.kind.as_ref().is_none_or(|kind| incident.root_kind.as_ref() == Some(kind)),
            precision: share(found.iter().filter(is_right).count(), found.len()),
            recall: share(needed, self.chain.len()),
            first: self.first.as_ref().is_none_or(|text| first.is_some_and(|first| first.has(text))),
            missing: self
                .missing
                .as_ref()
                .is_none_or(|text| incident.missing.iter().any(|one| one.contains(text))),
        }
    }
}

impl Judgement {
    /// Whether cause and advice are right.
    pub(super) fn is_right(&self) -> bool {
        self.root && self.kind && self.first && self.missing
    }
}

fn share(part: usize, of: usize) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chains_are_compared_by_their_rules() -> Result<()> {
        let incident: Incident = serde_json::from_value(json!({
            "id": "TAP-1", "title": "a is failing", "certainty": "likely", "status": "open",
            "root": { "kind": "Deployment", "namespace": "shop", "name": "payments" }, "root_kind": "rollout",
            "chain": [{ "rule": "a" }, { "rule": "b" }, { "rule": "b" }, { "rule": "x" }],
            "advice": [{ "text": "roll back", "command": "kubectl rollout undo deployment/payments" }],
        }))?;
        let truth = Truth {
            root: "Deployment shop/pay*".into(),
            kind: Some("rollout".into()),
            chain: vec!["a".into(), "c".into()],
            may: vec!["b".into()],
            first: Some("rollout undo".into()),
            missing: None,
            also: vec!["Deployment shop/stock".into()],
            not: vec!["Deployment shop/orders".into()],
        };
        truth.check()?;
        let judged = truth.judge(&incident);
        assert_eq!((judged.precision, judged.recall), (Some(2.0 / 3.0), Some(0.5)));
        assert!(judged.is_right() && !truth.accuses(&incident));
        let other =
            Truth { root: "Pod shop/payments-*".into(), not: vec!["Deployment shop/*".into()], ..truth };
        assert!(!other.judge(&incident).is_right() && other.accuses(&incident));
        assert_eq!(other.not_found(std::slice::from_ref(&incident)), ["Deployment shop/stock"]);
        let also = Truth { also: vec!["Deployment shop/pay*".into()], ..other };
        assert!(also.is_also(&incident) && also.not_found(&[incident]).is_empty());
        Ok(())
    }

    #[test]
    fn what_cannot_be_known_has_to_be_inconclusive_and_say_what_is_missing() -> Result<()> {
        let incident = |certainty: &str| {
            serde_json::from_value(json!({
                "id": "TAP-1", "title": "a is failing", "certainty": certainty, "status": "open",
                "missing": ["no agent on node-1"],
            }))
        };
        let truth = Truth { root: UNKNOWN.into(), missing: Some("no agent".into()), ..Truth::default() };
        truth.check()?;
        assert!(truth.judge(&incident(INCONCLUSIVE)?).is_right());
        assert!(!truth.judge(&incident("likely")?).is_right());
        let other = Truth { missing: Some("Secrets are not watched".into()), ..truth };
        assert!(!other.judge(&incident(INCONCLUSIVE)?).is_right());
        Ok(())
    }
}
