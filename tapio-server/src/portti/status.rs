//! How it is with the watches and with the facts that come of them, for `/status`, `/metrics` and coverage.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tapio_occurrence::Occurrence;
use tapio_service::clock;

use super::{lease::Turn, read::SECOND_NS};

/// How it is with each kind. Shared between the role and whoever asks.
#[derive(Debug, Default)]
pub struct Status(Mutex<All>);

/// The state of a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Its objects are not all known yet.
    #[default]
    Listing,
    /// All of its objects are known and changes are received.
    Synced,
    /// A permission is missing.
    Forbidden,
    /// The API server does not serve the kind: there are no such objects.
    NotServed,
    /// Nobody asked for it.
    Off,
    /// It failed, and is tried again.
    Failed,
}

/// How it is with a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindStatus {
    /// Kind.
    pub kind: &'static str,
    /// The state of its watch.
    pub state: Watch,
    /// Whether all of its objects are known and changes are received.
    pub watched: bool,
    /// Number of objects.
    pub objects: u64,
    /// How often it was listed as a whole: once at the start, and again where the watch could not go on.
    pub lists: u64,
    /// When anything was received last, nanoseconds since 1970 UTC.
    #[serde(skip)]
    pub heard_unix_ns: Option<u64>,
    /// Seconds since anything was received; absent if nothing ever was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Why it is not watched, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What is not known without it; absent while it is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<&'static str>,
}

/// The facts that were made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// Facts that are durable where they went, by type.
    pub delivered: BTreeMap<String, u64>,
    /// Times that facts were not accepted, and were tried again.
    pub failures: u64,
    /// When it was last said what is watched, nanoseconds since 1970 UTC; absent before the first list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_unix_ns: Option<u64>,
}

/// Which replica reports, as this one sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Election {
    /// Whether this one does.
    pub reports: bool,
    /// Which other one does; absent if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// How often this one has taken over.
    pub takeovers: u64,
    /// Facts that this one holds while it stands by.
    pub held: usize,
    /// Facts that it no longer holds though they may not have been delivered, since there are too many.
    pub dropped: u64,
    /// Why it cannot be found out whose turn it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct All {
    kinds: BTreeMap<&'static str, State>,
    facts: Facts,
    /// Up to when everything that came was delivered.
    delivered_unix_ns: u64,
    /// Absent where there is one replica.
    election: Option<Election>,
}

#[derive(Clone, Debug, Default)]
struct State {
    watch: Watch,
    objects: u64,
    lists: u64,
    heard_unix_ns: Option<u64>,
    reason: Option<String>,
    lost: &'static str,
}

impl Watch {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Listing, Self::Synced, Self::Forbidden, Self::NotServed, Self::Off, Self::Failed];

    /// Its label in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Synced => "synced",
            Self::Forbidden => "forbidden",
            Self::NotServed => "not_served",
            Self::Off => "off",
            Self::Failed => "failed",
        }
    }

    /// The state after a failure that the API server answered with this HTTP status, if it answered.
    pub(super) const fn of_fault(code: Option<u16>) -> Self {
        match code {
            Some(403) => Self::Forbidden,
            Some(404) => Self::NotServed,
            _ => Self::Failed,
        }
    }
}

impl Status {
    /// Every kind, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindStatus> {
        let now = clock::unix_ns(clock::boot_ns());
        let kind = |(kind, state): (&&'static str, &State)| KindStatus {
            kind,
            state: state.watch,
            watched: state.watch == Watch::Synced,
            objects: state.objects,
            lists: state.lists,
            heard_unix_ns: state.heard_unix_ns,
            age_seconds: state.heard_unix_ns.map(|heard| now.saturating_sub(heard) / SECOND_NS),
            reason: state.reason.clone(),
            lost: (state.watch != Watch::Synced).then_some(state.lost),
        };
        self.all().kinds.iter().map(kind).collect()
    }

    /// The facts that were made.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.all().facts.clone()
    }

    /// Whether every kind is watched, or cannot be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let kinds = &self.all().kinds;
        !kinds.is_empty() && kinds.values().all(|state| state.watch != Watch::Listing)
    }

    /// A kind that is going to be watched.
    pub(super) fn starting(&self, kind: &'static str, lost: &'static str) {
        self.all().kinds.insert(kind, State { lost, ..State::default() });
    }

    /// Something of a kind was received.
    pub(super) fn heard(&self, kind: &'static str, unix_ns: u64) {
        self.all().kinds.entry(kind).or_default().heard_unix_ns = Some(unix_ns);
    }

    /// A kind was listed: all of its objects are known.
    pub(super) fn watched(&self, kind: &'static str) {
        let mut all = self.all();
        let state = all.kinds.entry(kind).or_default();
        (state.watch, state.reason) = (Watch::Synced, None);
        state.lists += 1;
    }

    /// A kind is not watched any more.
    pub(super) fn lost(&self, kind: &'static str, watch: Watch, reason: String) {
        let mut all = self.all();
        let state = all.kinds.entry(kind).or_default();
        (state.watch, state.reason) = (watch, Some(reason));
    }

    /// How many objects of a kind there are.
    pub(super) fn count(&self, kind: &'static str, objects: u64) {
        self.all().kinds.entry(kind).or_default().objects = objects;
    }

    /// Facts are durable where they went.
    pub(super) fn delivered(&self, facts: &[Occurrence]) {
        let mut all = self.all();
        for fact in facts {
            *all.facts.delivered.entry(fact.kind.to_string()).or_default() += 1;
        }
    }

    /// Facts were not accepted.
    pub(super) fn failed(&self) {
        self.all().facts.failures += 1;
    }

    /// Everything that has come until now is durable where it went.
    pub(super) fn caught_up(&self, unix_ns: u64) {
        self.all().delivered_unix_ns = unix_ns;
    }

    /// Up to when everything that came was delivered, 1970 UTC.
    pub(super) fn delivered_unix_ns(&self) -> u64 {
        self.all().delivered_unix_ns
    }

    /// Which replica reports; `None` where there is only one.
    #[must_use]
    pub fn election(&self) -> Option<Election> {
        self.all().election.clone()
    }

    /// Whose turn it is, with what this replica holds and what it has just let go since there is too much.
    pub(super) fn turn(&self, turn: Turn, held: usize, dropped: u64) {
        let mut all = self.all();
        let election = all.election.get_or_insert_default();
        let (reports, other) = match turn {
            Turn::Own => (true, None),
            Turn::Other(other, _) => (false, Some(other).filter(|other| !other.is_empty())),
        };
        (election.held, election.trouble) = (held, None);
        election.dropped += dropped;
        election.takeovers += u64::from(reports && !election.reports);
        (election.reports, election.other) = (reports, other);
    }

    /// It cannot be found out whose turn it is; `reports` is whether this replica still does.
    pub(super) fn no_turn(&self, reports: bool, trouble: String, held: usize, dropped: u64) {
        let mut all = self.all();
        let election = all.election.get_or_insert_default();
        (election.reports, election.other, election.trouble) = (reports, None, Some(trouble));
        election.held = held;
        election.dropped += dropped;
    }

    /// It was said what is watched.
    pub(super) fn synced(&self, unix_ns: u64) {
        self.all().facts.synced_unix_ns = Some(unix_ns);
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_cannot_be_watched_says_what_is_lost() {
        let status = Status::default();
        assert!(!status.is_settled());
        status.starting("Pod", "states of pods");
        assert!(!status.is_settled());
        status.lost("Pod", Watch::of_fault(Some(403)), "forbidden".to_owned());
        assert!(status.is_settled());
        let kinds = status.kinds();
        assert_eq!((kinds[0].lost, kinds[0].reason.as_deref()), (Some("states of pods"), Some("forbidden")));
        assert_eq!((kinds[0].state, kinds[0].lists), (Watch::Forbidden, 0));
        status.heard("Pod", clock::unix_ns(clock::boot_ns()));
        status.watched("Pod");
        status.count("Pod", 3);
        let kinds = status.kinds();
        assert_eq!((kinds[0].objects, kinds[0].lost, &kinds[0].reason), (3, None, &None));
        assert_eq!((kinds[0].state, kinds[0].lists), (Watch::Synced, 1));
        assert!(kinds[0].age_seconds.unwrap() < 5);
    }

    #[test]
    fn a_label_is_what_status_says() {
        for watch in Watch::ALL {
            assert_eq!(serde_json::json!(watch), watch.label());
        }
    }
}
