//! Which findings a rule is about.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::finding::Finding;

/// Types of findings, and values of their fields.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pattern {
    /// Types: `container.oom_kill`, `kubernetes.condition/Waiting`.
    #[serde(rename = "type", deserialize_with = "one_or_more")]
    pub(crate) kinds: Vec<String>,
    /// Fields with the values of which a finding has one at least. `!` before a value: not this one; `*` at its end: any
    /// that begins so; `~` before it: any that contains it.
    #[serde(default, deserialize_with = "each_one_or_more")]
    pub(crate) with: BTreeMap<String, Vec<String>>,
    /// Kinds of the entity, such as `Pod`.
    #[serde(default, deserialize_with = "one_or_more")]
    pub(crate) of: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::More(more) => more,
        }
    }
}

fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    OneOrMore::deserialize(from).map(OneOrMore::list)
}

fn each_one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Vec<String>>, D::Error> {
    let each = BTreeMap::<String, OneOrMore>::deserialize(from)?;
    Ok(each.into_iter().map(|(key, values)| (key, values.list())).collect())
}

impl Pattern {
    /// Whether a finding is meant. Kinds of the entity are left to [`Self::is_of`].
    pub(crate) fn fits(&self, finding: &Finding) -> bool {
        self.kinds.iter().any(|kind| *kind == finding.key.kind) && self.has(finding)
    }

    /// Whether a finding of one of the types has the fields.
    pub(crate) fn has(&self, finding: &Finding) -> bool {
        self.with.iter().all(|(key, wanted)| {
            let values = finding.fields.get(&**key).map(Vec::as_slice).unwrap_or_default();
            let has = |value: &str| values.iter().any(|known| is(known, value));
            let not = wanted.iter().filter_map(|value| value.strip_prefix('!'));
            let mut any = wanted.iter().filter(|value| !value.starts_with('!')).peekable();
            not.into_iter().all(|value| !has(value)) && (any.peek().is_none() || any.any(|value| has(value)))
        })
    }

    /// Whether a finding's entity is of a kind that is meant.
    pub(crate) fn is_of(&self, kind: &str) -> bool {
        self.of.is_empty() || self.of.iter().any(|of| of == kind)
    }
}

fn is(known: &str, wanted: &str) -> bool {
    if let Some(part) = wanted.strip_prefix('~') {
        return known.contains(part);
    }
    match wanted.strip_suffix('*') {
        Some(start) => known.starts_with(start),
        None => known == wanted,
    }
}
