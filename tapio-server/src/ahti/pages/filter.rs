//! What of a list is shown. All of it is in the URL.

use serde::Deserialize;
use tapio_ahti::incident::{Certainty, Incident, Name, Status};

use super::part::quoted;

/// Filters of lists; empty ones let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Filter {
    pub(super) status: Wanted,
    pub(super) namespace: String,
    /// Of incidents what the cause is about, of changes the kind of the object.
    pub(super) kind: String,
    pub(super) certainty: Sure,
    pub(super) since: Since,
    pub(super) page: usize,
}

/// Incidents in this state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wanted {
    #[default]
    Open,
    Resolved,
    All,
}

/// Incidents whose cause is so sure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Sure {
    #[default]
    #[serde(rename = "")]
    Any,
    Confirmed,
    Likely,
    Inconclusive,
}

/// Began not longer ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) enum Since {
    #[default]
    #[serde(rename = "")]
    Ever,
    #[serde(rename = "1h")]
    Hour,
    #[serde(rename = "6h")]
    Hours,
    #[serde(rename = "24h")]
    Day,
}

impl Wanted {
    pub(super) const ALL: [Self; 3] = [Self::Open, Self::Resolved, Self::All];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
            Self::All => "all",
        }
    }

    pub(super) fn has(self, status: Status) -> bool {
        match self {
            Self::Open => status != Status::Resolved,
            Self::Resolved => status == Status::Resolved,
            Self::All => true,
        }
    }
}

impl Sure {
    pub(super) const ALL: [Self; 4] = [Self::Any, Self::Confirmed, Self::Likely, Self::Inconclusive];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Confirmed => "confirmed",
            Self::Likely => "likely",
            Self::Inconclusive => "inconclusive",
        }
    }

    fn has(self, certainty: Certainty) -> bool {
        match self {
            Self::Any => true,
            Self::Confirmed => certainty == Certainty::Confirmed,
            Self::Likely => certainty == Certainty::Likely,
            Self::Inconclusive => certainty == Certainty::Inconclusive,
        }
    }
}

impl Since {
    pub(super) const ALL: [Self; 4] = [Self::Ever, Self::Hour, Self::Hours, Self::Day];

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ever => "",
            Self::Hour => "1h",
            Self::Hours => "6h",
            Self::Day => "24h",
        }
    }

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Ever => "any time",
            Self::Hour => "the last hour",
            Self::Hours => "the last 6 h",
            Self::Day => "the last 24 h",
        }
    }

    fn has(self, unix_ns: u64, now_ns: u64) -> bool {
        const HOUR_NS: u64 = 3_600_000_000_000;
        let hours = match self {
            Self::Ever => return true,
            Self::Hour => 1,
            Self::Hours => 6,
            Self::Day => 24,
        };
        now_ns.saturating_sub(unix_ns) <= hours * HOUR_NS
    }
}

impl Filter {
    /// Whether anything but the state and the page is chosen.
    pub(super) fn is_narrow(&self) -> bool {
        *self != Self { status: self.status, page: self.page, ..Self::default() }
    }

    pub(super) fn has_incident(&self, incident: &Incident, now_ns: u64) -> bool {
        self.status.has(incident.status)
            && self.certainty.has(incident.certainty)
            && (self.kind.is_empty() || self.kind == kind(incident))
            && (self.namespace.is_empty() || names(incident).any(|name| self.is_in(name)))
            && self.since.has(incident.since_unix_ns, now_ns)
    }

    pub(super) fn has_object(&self, name: &Name, unix_ns: u64, now_ns: u64) -> bool {
        (self.kind.is_empty() || self.kind == name.kind)
            && (self.namespace.is_empty() || self.is_in(name))
            && self.since.has(unix_ns, now_ns)
    }

    fn is_in(&self, name: &Name) -> bool {
        name.namespace.as_deref() == Some(&*self.namespace)
    }

    /// The page, which begins with 1.
    pub(super) fn nth(&self) -> usize {
        self.page.max(1)
    }

    /// The URL of a page of the same list.
    pub(super) fn url(&self, path: &str, page: usize) -> String {
        let status = if self.status == Wanted::default() { "" } else { self.status.word() };
        let page = if page > 1 { page.to_string() } else { String::new() };
        let all = [
            ("status", status),
            ("namespace", &*self.namespace),
            ("kind", &*self.kind),
            ("certainty", self.certainty.word()),
            ("since", self.since.word()),
            ("page", &*page),
        ];
        let chosen = all.into_iter().filter(|(_, value)| !value.is_empty());
        let query: Vec<_> = chosen.map(|(key, value)| format!("{key}={}", quoted(value))).collect();
        if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
    }
}

/// What the cause of an incident is about, if that is not known.
pub(super) const UNKNOWN: &str = "unknown";

/// The kind by which an incident is filtered.
pub(super) fn kind(incident: &Incident) -> &str {
    incident.root_kind.as_deref().unwrap_or(UNKNOWN)
}

/// Everything that an incident names.
pub(super) fn names(incident: &Incident) -> impl Iterator<Item = &Name> {
    let lines = incident.lines.iter().map(|line| &line.entity);
    lines.chain(&incident.hits).chain(&incident.root)
}

#[cfg(test)]
mod tests {
    use axum::{extract::Query, http::Uri};

    use super::*;

    fn read(url: &str) -> Result<Filter, String> {
        let uri: Uri = url.parse().unwrap();
        Query::try_from_uri(&uri).map(|Query(filter)| filter).map_err(|error| error.body_text())
    }

    #[test]
    fn a_url_says_everything_and_nothing_else() {
        let filter = Filter {
            status: Wanted::All,
            namespace: "a b&c".to_owned(),
            kind: "rollout".to_owned(),
            certainty: Sure::Likely,
            since: Since::Hours,
            page: 3,
        };
        let url = filter.url("/", 3);
        assert_eq!(url, "/?status=all&namespace=a%20b%26c&kind=rollout&certainty=likely&since=6h&page=3");
        assert_eq!(read(&url).unwrap(), filter);
        assert_eq!(Filter::default().url("/changes", 1), "/changes");
        // As a form sends what is not chosen.
        assert_eq!(read("/?status=open&namespace=&kind=&certainty=&since=").unwrap(), Filter::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (url, says) in [
            ("/?certainty=maybe", "unknown variant `maybe`"),
            ("/?status=new", "expected one of `open`, `resolved`, `all`"),
            ("/?names=a", "unknown field `names`"),
            ("/?page=x", "page"),
        ] {
            let error = read(url).unwrap_err();
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
