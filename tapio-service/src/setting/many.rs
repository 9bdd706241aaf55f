//! Several sections of a kind, which only a file can set.

use std::{collections::BTreeMap, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Value as Json, json};

use super::{InPlace, Node, Page, Trail, Wrong};

/// A list of sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Many<S>(pub Vec<S>);

/// Sections by the names that the user gives them: lower-case letters, digits and hyphens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<S>(pub BTreeMap<String, S>);

/// The longest name of a section.
const MAX_NAME: usize = 32;

impl<S> Default for Many<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<S> Default for Named<S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

fn only_in_a_file() -> Wrong {
    Wrong("has several parts: only a configuration file sets it".to_owned())
}

fn described(mut schema: Json, docs: &[&str]) -> Json {
    let docs: Vec<_> = docs.iter().flat_map(|line| line.split_whitespace()).collect();
    schema["description"] = docs.join(" ").into();
    schema
}

impl<S: Node + Default> Node for Many<S> {
    fn read<'de, D: Deserializer<'de>>(&mut self, from: D, at: &Trail) -> Result<(), D::Error> {
        at.expect(Some("a list".to_owned()));
        self.0 = from.deserialize_seq(Items(at, Vec::new()))?;
        at.expect(None);
        Ok(())
    }

    fn assign(&mut self, _path: &str, _text: &str) -> Result<(), Wrong> {
        Err(only_in_a_file())
    }

    fn print(&self, key: &str, docs: &[&str], page: &mut Page) {
        page.gap();
        page.comment(docs);
        page.empty(key, "[]");
    }

    fn paths(&self, _prefix: &str, _out: &mut Vec<String>) {}

    fn schema(&self, docs: &[&str]) -> Json {
        described(json!({ "type": "array", "items": S::default().schema(&[]) }), docs)
    }
}

impl<S: Node + Default> Node for Named<S> {
    fn read<'de, D: Deserializer<'de>>(&mut self, from: D, at: &Trail) -> Result<(), D::Error> {
        at.expect(Some("names with keys below them".to_owned()));
        self.0 = from.deserialize_map(Entries(at, BTreeMap::new()))?;
        at.expect(None);
        Ok(())
    }

    fn assign(&mut self, _path: &str, _text: &str) -> Result<(), Wrong> {
        Err(only_in_a_file())
    }

    fn print(&self, key: &str, docs: &[&str], page: &mut Page) {
        page.gap();
        page.comment(docs);
        page.empty(key, "{}");
    }

    fn paths(&self, _prefix: &str, _out: &mut Vec<String>) {}

    fn schema(&self, docs: &[&str]) -> Json {
        let pattern = format!("^[a-z0-9][-a-z0-9]{{0,{}}}$", MAX_NAME - 1);
        let schema = json!({
            "type": "object", "propertyNames": { "pattern": pattern },
            "additionalProperties": S::default().schema(&[]),
        });
        described(schema, docs)
    }
}

struct Items<'a, S>(&'a Trail, Vec<S>);

impl<'de, S: Node + Default> Visitor<'de> for Items<'_, S> {
    type Value = Vec<S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Vec<S>, A::Error> {
        loop {
            let mut item = S::default();
            if seq.next_element_seed(InPlace(&mut item, self.0))?.is_none() {
                return Ok(self.1);
            }
            self.1.push(item);
        }
    }
}

struct Entries<'a, S>(&'a Trail, BTreeMap<String, S>);

impl<'de, S: Node + Default> Visitor<'de> for Entries<'_, S> {
    type Value = BTreeMap<String, S>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with keys below them")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<BTreeMap<String, S>, M::Error> {
        while let Some(name) = map.next_key_seed(NameOf(self.0))? {
            if self.1.contains_key(&name) {
                return Err(M::Error::custom(format!("`{name}` is there twice")));
            }
            let mut value = S::default();
            map.next_value_seed(InPlace(&mut value, self.0))?;
            self.1.insert(name, value);
        }
        Ok(self.1)
    }
}

/// Reads a name, so that the error for a bad one has the right position.
struct NameOf<'a>(&'a Trail);

impl<'de> DeserializeSeed<'de> for NameOf<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<String, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for NameOf<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<String, E> {
        self.0.expect(None);
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME || name.starts_with('-') || !name.chars().all(is_plain) {
            let name = super::shown(name);
            return Err(E::custom(format!(
                "`{name}` is no name: use at most {MAX_NAME} lower-case letters, digits and hyphens"
            )));
        }
        Ok(name.to_owned())
    }
}
