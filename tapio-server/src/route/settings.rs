//! Which facts go where.

use std::{fmt, str::FromStr};

use serde::de::Deserializer;
use tapio_delivery::{otlp, polku};
use tapio_occurrence::{Occurrence, Severity, Value as Datum};
use tapio_service::setting::{
    Form, List, Many, Name, Named, Switch, Trail, Value, Wrong, list, settings, unknown,
};

/// Most sinks. Each has a task, and labels in metrics.
const MAX_SINKS: usize = 16;
/// Most routes. Each fact is compared with all of them.
const MAX_ROUTES: usize = 64;

settings! {
    /// Facts that are sent to a sink.
    pub struct Route {
        /// Which facts: those that fit all of its keys.
        pub r#match: Match = Match::default(),
        /// The sink that they go to, one of `sinks`.
        pub to: Name = Name::default(),
    }
}

settings! {
    /// Which facts.
    pub struct Match {
        /// Types, such as container.oom_kill; container.* are all that begin so.
        pub r#type: Words = Words::default(),
        /// Severities.
        pub severity: Severities = Severities::default(),
        /// Namespaces of what they are about; shop-* are all that begin so.
        pub namespace: Words = Words::default(),
    }
}

settings! {
    /// A destination: one of its keys.
    pub struct Sink {
        /// Another gateway.
        pub polku: polku::Settings = polku::Settings::default(),
        /// A receiver of logs by OTLP.
        pub otlp: otlp::Settings = otlp::Settings::default(),
        /// Standard output, as JSON lines.
        pub stdout: Switch = Switch::False,
    }
}

/// Texts, of which one that ends with * stands for all that begin so; `all`: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(Vec<String>);

/// Severities; `all`: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Severities(Vec<Severity>);

/// The names of severities.
const SEVERITIES: [(&str, Severity); 5] = [
    ("debug", Severity::Debug),
    ("info", Severity::Info),
    ("warning", Severity::Warning),
    ("error", Severity::Error),
    ("critical", Severity::Critical),
];

impl Match {
    /// Whether a fact fits.
    #[must_use]
    pub fn fits(&self, fact: &Occurrence) -> bool {
        let namespace = || {
            let of_workload = fact.workload.as_ref().and_then(|workload| workload.namespace.as_deref());
            of_workload.or_else(|| match fact.data.get("namespace") {
                Some(Datum::Text(namespace)) => Some(namespace.as_ref()),
                _ => None,
            })
        };
        self.r#type.fits(Some(&fact.kind))
            && (self.severity.0.is_empty() || self.severity.0.contains(&fact.severity))
            && (self.namespace.0.is_empty() || self.namespace.fits(namespace()))
    }
}

impl Words {
    /// Whether a text is among them. What has none fits only where any would.
    pub(crate) fn fits(&self, text: Option<&str>) -> bool {
        let is_one = |word: &String| match word.strip_suffix('*') {
            Some(start) => text.is_some_and(|text| text.starts_with(start)),
            None => text == Some(word),
        };
        self.0.is_empty() || self.0.iter().any(is_one)
    }
}

impl Sink {
    /// The keys that are set.
    fn destinations(&self) -> Vec<&'static str> {
        let set = [
            ("polku", !self.polku.endpoint.all().is_empty()),
            ("otlp", self.otlp.endpoint.0.is_some()),
            ("stdout", self.stdout == Switch::True),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key).collect()
    }
}

/// Checks that routes and sinks fit each other. Returns the invalid key, and the reason.
pub(crate) fn check(routes: &Many<Route>, sinks: &Named<Sink>) -> Result<(), (String, Wrong)> {
    let wrong = |key: String, what: String| Err((key, Wrong(what)));
    if routes.0.len() > MAX_ROUTES {
        return wrong("routes".to_owned(), format!("there are {}: at most {MAX_ROUTES}", routes.0.len()));
    }
    if sinks.0.len() > MAX_SINKS {
        return wrong("sinks".to_owned(), format!("there are {}: at most {MAX_SINKS}", sinks.0.len()));
    }
    for (nth, route) in routes.0.iter().enumerate() {
        let key = format!("routes[{nth}].to");
        match route.to.get() {
            None => return wrong(key, "is not given: name one of `sinks`".to_owned()),
            Some("ahti") => {
                return wrong(key, "ahti takes all facts, without a route: name one of `sinks`".to_owned());
            }
            Some(name) if !sinks.0.contains_key(name) => {
                let known: Vec<&str> = sinks.0.keys().map(String::as_str).collect();
                return Err((key, unknown("sink", name, &known)));
            }
            Some(_) => {}
        }
    }
    for (name, sink) in &sinks.0 {
        let key = format!("sinks.{name}");
        match sink.destinations()[..] {
            [_] => {}
            [] => {
                return wrong(
                    key,
                    "goes nowhere: give polku.endpoint, otlp.endpoint or stdout: true".to_owned(),
                );
            }
            _ => return wrong(key, format!("has {}: give one", sink.destinations().join(" and "))),
        }
        let section = format!("{key}.polku");
        sink.polku.check(&section).map_err(|(inner, wrong)| (format!("{section}.{inner}"), wrong))?;
        sink.otlp.check().map_err(|(inner, wrong)| (format!("{key}.otlp.{inner}"), wrong))?;
        if !routes.0.iter().any(|route| route.to.get() == Some(name)) {
            return wrong(key, "no route leads to it: add one to `routes`, or leave it out".to_owned());
        }
    }
    let outputs = sinks.0.iter().filter(|(_, sink)| sink.stdout == Switch::True);
    match outputs.map(|(name, _)| name).nth(1) {
        Some(name) => {
            wrong(format!("sinks.{name}.stdout"), "there is one standard output: leave it out".to_owned())
        }
        None => Ok(()),
    }
}

impl List for Words {
    const WORD: &'static str = "all";
    const ITEM: &'static str = "text";

    fn add(&mut self, item: &str) -> Result<(), Wrong> {
        let start = item.strip_suffix('*').unwrap_or(item);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if item.is_empty() || item.len() > 256 || !start.chars().all(is_plain) {
            return Err(Wrong(format!(
                "`{}` is not {}",
                tapio_service::setting::shown(item),
                Self::expected()
            )));
        }
        if self.0.iter().any(|known| known == item) {
            return Err(list::twice("text", item));
        }
        self.0.push(item.to_owned());
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Value for Words {
    fn expected() -> String {
        "all, or a list of texts, each of letters, digits and ._-/, with * at its end for all that begin so"
            .to_owned()
    }

    fn form() -> Form {
        Form::List { item: r"[A-Za-z0-9._/-]*\*?".to_owned(), word: Self::WORD }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        list::read(from, at)
    }
}

impl FromStr for Words {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        list::parse(text)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&if self.0.is_empty() { Self::WORD.to_owned() } else { self.0.join(",") })
    }
}

impl List for Severities {
    const WORD: &'static str = "all";
    const ITEM: &'static str = "severity";

    fn add(&mut self, item: &str) -> Result<(), Wrong> {
        let names = SEVERITIES.map(|(name, _)| name);
        let Some((_, severity)) = SEVERITIES.iter().find(|(name, _)| *name == item) else {
            return Err(unknown("severity", item, &names));
        };
        if self.0.contains(severity) {
            return Err(list::twice("severity", item));
        }
        self.0.push(*severity);
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Value for Severities {
    fn expected() -> String {
        format!("all, or a list of some of {}", SEVERITIES.map(|(name, _)| name).join(", "))
    }

    fn form() -> Form {
        Form::List { item: SEVERITIES.map(|(name, _)| name).join("|"), word: Self::WORD }
    }

    fn read<'de, D: Deserializer<'de>>(from: D, at: &Trail) -> Result<Self, D::Error> {
        list::read(from, at)
    }
}

impl FromStr for Severities {
    type Err = Wrong;

    fn from_str(text: &str) -> Result<Self, Wrong> {
        list::parse(text)
    }
}

impl fmt::Display for Severities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |severity: &Severity| {
            SEVERITIES.iter().find(|(_, known)| known == severity).map(|(name, _)| *name)
        };
        let names: Vec<&str> = self.0.iter().filter_map(name).collect();
        f.write_str(&if names.is_empty() { Self::WORD.to_owned() } else { names.join(",") })
    }
}
