//! What an answer has to say, and what it must not say.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde::Deserialize;

use super::answer::Incident;

/// The root of a scenario in which nothing is wrong.
const NONE: &str = "none";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Truth {
    /// `KIND NAMESPACE/NAME`, where `*` at the end stands for anything, or `none`.
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
}

impl Truth {
    pub(super) fn check(&self) -> Result<()> {
        if self.is_healthy() {
            let says_nothing = self.kind.is_none() && self.chain.is_empty() && self.first.is_none();
            ensure!(says_nothing, "root: none, so there is no kind, chain or first advice");
            return Ok(());
        }
        for root in self.not.iter().chain([&self.root]) {
            ensure!(root.contains(' '), "`{root}` is not KIND NAMESPACE/NAME");
        }
        ensure!(!self.chain.is_empty(), "chain: name the rules that lead from the cause to what is seen");
        Ok(())
    }

    /// Whether nothing is wrong.
    pub(super) fn is_healthy(&self) -> bool {
        self.root == NONE
    }

    /// Whether an incident has this cause.
    pub(super) fn is_root(&self, incident: &Incident) -> bool {
        incident.root().is_some_and(|root| matches(&self.root, &root))
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
        }
    }
}

impl Judgement {
    /// Whether cause and advice are right.
    pub(super) fn is_right(&self) -> bool {
        self.root && self.kind && self.first
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
            not: vec!["Deployment shop/orders".into()],
        };
        truth.check()?;
        let judged = truth.judge(&incident);
        assert_eq!((judged.precision, judged.recall), (Some(2.0 / 3.0), Some(0.5)));
        assert!(judged.is_right() && !truth.accuses(&incident));
        let other =
            Truth { root: "Pod shop/payments-*".into(), not: vec!["Deployment shop/*".into()], ..truth };
        assert!(!other.judge(&incident).is_right() && other.accuses(&incident));
        Ok(())
    }
}
