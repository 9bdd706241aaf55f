//! Parts that several pages have: links to objects, changes, incidents in a list.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tapio_ahti::{
    answer,
    changes::Changed,
    incident::{Advice, Certainty, Incident, Line, Name, Status},
};

use super::time::Moment;

/// All but what RFC 3986 calls unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// In place of the namespace of an object that has none.
pub(super) const NO_NAMESPACE: &str = "-";

/// A text as a part of a URL.
pub(super) fn quoted(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// An object, with the page about it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) href: String,
    pub(super) kind: String,
    /// Its namespace, a slash and its name, or its name.
    pub(super) text: String,
}

impl Link {
    pub(super) fn to(name: &Name) -> Self {
        let namespace = name.namespace.as_deref().unwrap_or(NO_NAMESPACE);
        let parts = [namespace, &name.kind, &name.name].map(quoted);
        let text = match &name.namespace {
            Some(namespace) => format!("{namespace}/{}", name.name),
            None => name.name.clone(),
        };
        Self { href: format!("/workloads/{}", parts.join("/")), kind: name.kind.clone(), text }
    }

    pub(super) fn to_all(names: &[Name]) -> Vec<Self> {
        names.iter().map(Self::to).collect()
    }
}

/// How sure the cause of an incident is, or that the incident is over.
pub(super) struct State {
    pub(super) text: String,
    /// The same as a word.
    pub(super) word: &'static str,
}

impl State {
    pub(super) fn of(incident: &Incident) -> Self {
        let word = match incident.status {
            Status::Open => sure(incident.certainty),
            Status::Resolved => "resolved",
            Status::Regressed => "regressed",
        };
        Self { text: answer::state(incident), word }
    }
}

/// An incident in a list.
pub(super) struct Card {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) state: State,
    pub(super) since: Moment,
    /// When it was over.
    pub(super) over: Option<Moment>,
    pub(super) hits: String,
    pub(super) advice: Option<Advice>,
    pub(super) missing: usize,
    /// That somebody takes care of it, or that nobody is notified of it.
    pub(super) attention: Option<&'static str>,
}

impl Card {
    pub(super) fn of(incident: &Incident, now_ns: u64) -> Self {
        Self {
            id: incident.id.clone(),
            title: incident.title.to_string(),
            state: State::of(incident),
            since: Moment::new(incident.since_unix_ns, now_ns),
            over: incident.resolved_unix_ns.map(|over| Moment::new(over, now_ns)),
            hits: hits(incident),
            advice: incident.advice.first().cloned(),
            missing: incident.missing.len(),
            attention: answer::attention(incident),
        }
    }
}

/// How many it hits.
pub(super) fn hits(incident: &Incident) -> String {
    let mut namespaces: Vec<_> = incident.hits.iter().filter_map(|name| name.namespace.as_ref()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    let at_risk = match incident.at_risk.len() {
        0 => String::new(),
        more => format!(", {more} at risk"),
    };
    let within = match namespaces.as_slice() {
        [] => String::new(),
        [one] => format!(" in {one}"),
        many => format!(" in {} namespaces", many.len()),
    };
    format!("{}{within}{at_risk}", counted(incident.hits.len(), "workload"))
}

/// A number of things.
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// How sure, as a word.
pub(super) const fn sure(certainty: Certainty) -> &'static str {
    match certainty {
        Certainty::Confirmed => "confirmed",
        Certainty::Likely => "likely",
        Certainty::Inconclusive => "inconclusive",
    }
}

/// A finding in a list.
pub(super) struct Row {
    pub(super) at: Moment,
    pub(super) text: String,
    pub(super) times: String,
    pub(super) source: String,
    pub(super) owner: &'static str,
}

impl Row {
    pub(super) fn of(line: &Line, at_ns: u64, now_ns: u64) -> Self {
        Self {
            at: Moment::new(at_ns, now_ns),
            text: line.text.to_string(),
            times: answer::times(line),
            source: line.source.to_string(),
            owner: answer::owner(line),
        }
    }
}

/// A change in a list.
pub(super) struct Change {
    pub(super) row: Row,
    pub(super) object: Link,
    /// The tool that owns the object, with its application and revision; empty if there is none.
    pub(super) by: String,
    pub(super) cause_of: Vec<String>,
}

impl Change {
    pub(super) fn of(change: &Changed, now_ns: u64) -> Self {
        let tool = [&change.tool, &change.application, &change.tool_revision].map(|part| part.as_deref());
        // The text says by whom; kubectl owns nothing.
        let by: Vec<_> = tool.into_iter().flatten().filter(|part| *part != "kubectl").collect();
        let mut row = Row::of(&change.line, change.line.last_unix_ns, now_ns);
        // Its text begins with the object, which is there already.
        if let Some(text) = row.text.strip_prefix(&format!("{}: ", change.line.entity)) {
            row.text = text.to_owned();
        }
        Self {
            row,
            object: Link::to(&change.line.entity),
            by: by.join(" "),
            cause_of: change.cause_of.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_the_object_whatever_its_name_is() {
        let link = Link::to(&Name::new("Deployment", Some("shop"), "a/b?<c>"));
        assert_eq!(link.href, "/workloads/shop/Deployment/a%2Fb%3F%3Cc%3E");
        assert_eq!(link.text, "shop/a/b?<c>");
        let link = Link::to(&Name::new("Node", None, "worker-1"));
        assert_eq!((&*link.href, &*link.text), ("/workloads/-/Node/worker-1", "worker-1"));
    }
}
