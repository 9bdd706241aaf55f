//! Who may see what: names and texts carry the places of what they name, and an answer is cut down to what a caller may read.
//!
//! A caller's rights are not known here: a [`Sight`] collects what has to be known of them, and is asked again once it is.

mod redact;

use std::{
    borrow::{Borrow, Cow},
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    ops::Deref,
};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use tapio_occurrence::{
    Data, Name as Text, Occurrence, Value, Workload, attention::Attention, feedback::Feedback,
    kubernetes::Fact as _, signal::HOST,
};

pub use self::redact::Redact;
use crate::graph::Name;

/// Where something is: what the right to read it depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Nodes with their units, and all else that is in no namespace.
    Cluster,
    /// A namespace.
    Namespace(String),
    /// It cannot be told, or is too much: for those who may read everything.
    Everywhere,
}

/// Some places.
pub type Places = BTreeSet<Place>;

/// Most places that a text names; beyond it only who may read everything sees it.
const MAX_PLACES: usize = 64;
/// The longest name in Kubernetes, in bytes.
const MAX_NAME: usize = 253;
/// The Service of the API server in the namespace `default`: every cluster has it, and it is a word of many texts.
const KNOWN_TO_ALL: &str = "kubernetes";
/// Labels of a name with dots that are looked up together.
const MAX_LABELS: usize = 8;

impl Place {
    fn namespace(name: &str) -> Self {
        if name.len() > MAX_NAME { Self::Everywhere } else { Self::Namespace(name.to_owned()) }
    }

    /// The place of an object that is written as [`Name`] does it: `Pod shop/checkout-0`, `Node worker-1`.
    pub(crate) fn of_text(name: &str) -> Self {
        let Some((kind, name)) = name.split_once(' ') else { return Self::Everywhere };
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        Name::new(kind, namespace, name).place()
    }
}

impl Name {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place {
        match &self.namespace {
            // The namespace of these is their node.
            Some(namespace) if self.kind != "Unit" && self.kind != "Container" => Place::namespace(namespace),
            _ => Place::Cluster,
        }
    }
}

/// A text for people, with the places of what it names. In JSON it is a string; what is read from there is everywhere, as its places
/// are not known.
#[derive(Clone, Debug, Default)]
pub struct Prose {
    text: String,
    places: Places,
}

impl Prose {
    /// A text that was made from something of these places.
    #[must_use]
    pub fn new(text: impl Into<String>, places: impl IntoIterator<Item = Place>) -> Self {
        let mut of = Places::new();
        join(&mut of, places);
        Self { text: text.into(), places: of }
    }

    /// Whether it names nothing that is elsewhere.
    #[must_use]
    pub fn is_only_of(&self, place: &Place) -> bool {
        self.places.iter().all(|of| of == place)
    }
}

impl Deref for Prose {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl Borrow<str> for Prose {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Prose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl PartialEq for Prose {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Prose {}

impl PartialEq<str> for Prose {
    fn eq(&self, other: &str) -> bool {
        self.text == other
    }
}

impl PartialEq<&str> for Prose {
    fn eq(&self, other: &&str) -> bool {
        self.text == *other
    }
}

impl Serialize for Prose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl JsonSchema for Prose {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Prose".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

impl<'de> Deserialize<'de> for Prose {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self { text, places: Places::from([Place::Everywhere]) })
    }
}

/// What a word is the name of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Whether there is, or was, a namespace of that name.
    pub is_namespace: bool,
    /// The namespaces that have something of that name.
    pub places: Places,
}

/// What a caller may read. What is not known yet counts as hidden, and is in [`Sight::unknown`].
#[derive(Debug, Default)]
pub struct Sight {
    places: HashMap<Place, bool>,
    words: HashMap<String, Named>,
    unknown: Unknown,
}

/// What has to be known.
#[derive(Debug, Default)]
pub struct Unknown {
    /// Whether the caller may read these.
    pub places: Places,
    /// What these are the names of.
    pub words: HashSet<String>,
}

impl Unknown {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty() && self.words.is_empty()
    }
}

impl Sight {
    /// Takes what was not known in the meantime.
    pub fn unknown(&mut self) -> Unknown {
        std::mem::take(&mut self.unknown)
    }

    /// Whether the caller may read a place.
    pub fn learn(&mut self, place: Place, may_read: bool) {
        self.places.insert(place, may_read);
    }

    /// What words are the names of; those that name nothing are among them.
    pub fn learn_words(&mut self, words: HashMap<String, Named>) {
        self.words.extend(words);
    }

    /// Forgets words, of which facts have more and more.
    pub fn forget_words(&mut self) {
        self.words.clear();
    }

    /// Whether the caller may read a place.
    pub fn reads(&mut self, place: &Place) -> bool {
        if *place == Place::Everywhere {
            return false;
        }
        if let Some(may_read) = self.places.get(place) {
            return *may_read;
        }
        self.unknown.places.insert(place.clone());
        false
    }

    /// Whether the caller may know of an object.
    pub fn sees(&mut self, name: &Name) -> bool {
        // Of a host only the name is known that others call it by: NAME.NAMESPACE.
        self.reads(&name.place()) && (name.kind != HOST || self.shows(&name.name))
    }

    /// Whether a text names nothing that is hidden.
    pub fn shows_prose(&mut self, prose: &Prose) -> bool {
        // All of them, so that all are asked for at once.
        let hidden = prose.places.iter().filter(|place| !self.reads(place)).count();
        hidden == 0 && self.shows(&prose.text)
    }

    /// Whether no word of a text is the name of a hidden namespace, nor of something that is in hidden ones only.
    pub fn shows(&mut self, text: &str) -> bool {
        let mut is_clean = true;
        for word in words(text) {
            is_clean &= self.shows_word(&word);
        }
        is_clean
    }

    fn shows_word(&mut self, word: &str) -> bool {
        if word == KNOWN_TO_ALL {
            return true;
        }
        let Some(named) = self.words.get(word) else {
            self.unknown.words.insert(word.to_owned());
            return false;
        };
        if !named.is_namespace && named.places.is_empty() {
            return true;
        }
        let named = named.clone();
        let is_open = !named.is_namespace || self.reads(&Place::namespace(word));
        let readable = named.places.iter().filter(|place| self.reads(place)).count();
        is_open && (named.places.is_empty() || readable > 0)
    }

    /// Whether a fact names nothing that is hidden.
    pub fn shows_fact(&mut self, fact: &Occurrence) -> bool {
        let places = match fact.kind == Feedback::TYPE || fact.kind == Attention::TYPE {
            // It names an incident by its cause, and has people's own words.
            true => Places::from([Place::Everywhere]),
            false => namespaces(fact),
        };
        let hidden = places.iter().filter(|place| !self.reads(place)).count();
        let is_of_cluster = places.is_empty();
        if hidden > 0 || is_of_cluster && !self.reads(&Place::Cluster) {
            return false;
        }
        let actor = fact.actor.as_ref();
        let processes = fact.process.iter().chain(actor.map(|actor| &actor.process));
        let workloads = fact.workload.iter().chain(actor.and_then(|actor| actor.workload.as_ref()));
        let images = workloads.filter_map(|workload| workload.image.as_deref());
        let texts = processes.map(|process| &*process.comm).chain(images).chain([&*fact.message]);
        let hidden = texts.filter(|text| !self.shows(text)).count();
        self.shows_data(&fact.data) && hidden == 0
    }

    fn shows_data(&mut self, data: &Data) -> bool {
        let is_hidden = |(_, value): &&(Text, Value)| match value {
            Value::Text(text) => !self.shows(text),
            Value::List(entries) => entries.iter().filter(|entry| !self.shows_data(entry)).count() > 0,
            Value::Number(_) | Value::Signed(_) | Value::Real(_) | Value::Workload(_) => false,
        };
        // All of it, so that all is asked for at once.
        data.0.iter().filter(is_hidden).count() == 0
    }
}

/// Adds places to others; too many are everywhere.
pub(crate) fn join(places: &mut Places, others: impl IntoIterator<Item = Place>) {
    places.extend(others);
    if places.len() > MAX_PLACES {
        *places = Places::from([Place::Everywhere]);
    }
}

/// The namespaces that a fact names.
pub(crate) fn namespaces(fact: &Occurrence) -> Places {
    let mut places = Places::new();
    let workloads =
        [fact.workload.as_deref(), fact.actor.as_ref().and_then(|actor| actor.workload.as_deref())];
    let of_peer = fact.peer.as_ref().and_then(|peer| peer.names().namespace.as_deref());
    let namespaces = workloads.into_iter().flatten().filter_map(of_workload).chain(of_peer);
    places.extend(namespaces.map(Place::namespace));
    named_in(&fact.data, &mut places);
    places
}

fn of_workload(workload: &Workload) -> Option<&str> {
    workload.namespace.as_deref()
}

fn named_in(data: &Data, places: &mut Places) {
    for (key, value) in &data.0 {
        match value {
            Value::Text(namespace) if key == "namespace" || key.ends_with("_namespace") => {
                join(places, [Place::namespace(namespace)]);
            }
            Value::Workload(workload) => join(places, of_workload(workload).map(Place::namespace)),
            Value::List(entries) => entries.iter().for_each(|entry| named_in(entry, places)),
            Value::Text(_) | Value::Number(_) | Value::Signed(_) | Value::Real(_) => {}
        }
    }
}

/// The words of a text that may be names in Kubernetes, in lower case; of names with dots all parts, too.
fn words(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let tokens = text.split(move |c| !is_of_name(c)).map(|token| token.trim_matches(['.', '-']));
    let runs = tokens.filter(|token| !token.is_empty()).flat_map(|token| {
        let starts = std::iter::once(0).chain(token.match_indices('.').map(|(at, _)| at + 1));
        starts.flat_map(move |start| {
            let rest = &token[start..];
            let ends = rest.match_indices('.').map(|(at, _)| at).chain([rest.len()]);
            ends.take(MAX_LABELS).map(move |end| &rest[..end])
        })
    });
    runs.map(|run| match run.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Cow::Owned(run.to_ascii_lowercase()),
        false => Cow::Borrowed(run),
    })
}

#[cfg(test)]
mod tests;
