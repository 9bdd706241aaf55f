//! What `kubectl tapio` answers, as far as it is compared.

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) incident: Option<Incident>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Incident {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) certainty: String,
    pub(super) root: Option<Name>,
    pub(super) root_kind: Option<String>,
    #[serde(default)]
    pub(super) chain: Vec<Link>,
    #[serde(default)]
    pub(super) advice: Vec<Advice>,
    #[serde(default)]
    pub(super) missing: Vec<String>,
}

/// One link of the chain.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Link {
    pub(super) rule: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Advice {
    text: String,
    command: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Name {
    kind: String,
    namespace: Option<String>,
    name: String,
}

impl Incident {
    /// The cause as `KIND NAMESPACE/NAME`.
    pub(super) fn root(&self) -> Option<String> {
        let Name { kind, namespace, name } = self.root.as_ref()?;
        Some(match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        })
    }
}

impl Advice {
    /// Whether it has this in its text or command.
    pub(super) fn has(&self, text: &str) -> bool {
        self.text.contains(text) || self.command.as_ref().is_some_and(|command| command.contains(text))
    }
}
