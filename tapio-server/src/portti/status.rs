//! How it is with the watches, for `/status` and for coverage.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tapio_service::clock;

use super::read::SECOND_NS;

/// How it is with each kind. Shared between the role and whoever asks.
#[derive(Debug, Default)]
pub struct Status(Mutex<BTreeMap<&'static str, State>>);

/// How it is with a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KindStatus {
    /// Kind.
    pub kind: &'static str,
    /// Whether all of its objects are known and changes are received.
    pub watched: bool,
    /// Number of objects.
    pub objects: u64,
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

#[derive(Clone, Debug, Default)]
struct State {
    watched: bool,
    objects: u64,
    heard_unix_ns: Option<u64>,
    reason: Option<String>,
    lost: &'static str,
}

impl Status {
    /// Every kind, by name.
    #[must_use]
    pub fn kinds(&self) -> Vec<KindStatus> {
        let now = clock::unix_ns(clock::boot_ns());
        let kind = |(kind, state): (&&'static str, &State)| KindStatus {
            kind,
            watched: state.watched,
            objects: state.objects,
            age_seconds: state.heard_unix_ns.map(|heard| now.saturating_sub(heard) / SECOND_NS),
            reason: state.reason.clone(),
            lost: (!state.watched).then_some(state.lost),
        };
        self.states().iter().map(kind).collect()
    }

    /// Whether every kind is watched, or cannot be.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let states = self.states();
        !states.is_empty() && states.values().all(|state| state.watched || state.reason.is_some())
    }

    /// A kind that is going to be watched.
    pub(super) fn starting(&self, kind: &'static str, lost: &'static str) {
        self.states().insert(kind, State { lost, ..State::default() });
    }

    /// Something of a kind was received.
    pub(super) fn heard(&self, kind: &'static str, unix_ns: u64) {
        self.states().entry(kind).or_default().heard_unix_ns = Some(unix_ns);
    }

    /// All objects of a kind are known.
    pub(super) fn watched(&self, kind: &'static str) {
        let mut states = self.states();
        let state = states.entry(kind).or_default();
        (state.watched, state.reason) = (true, None);
    }

    /// A kind is not watched any more.
    pub(super) fn lost(&self, kind: &'static str, reason: String) {
        let mut states = self.states();
        let state = states.entry(kind).or_default();
        (state.watched, state.reason) = (false, Some(reason));
    }

    /// How many objects of a kind there are.
    pub(super) fn count(&self, kind: &'static str, objects: u64) {
        self.states().entry(kind).or_default().objects = objects;
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
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
        status.lost("Pod", "forbidden".to_owned());
        assert!(status.is_settled());
        let kinds = status.kinds();
        assert_eq!((kinds[0].lost, kinds[0].reason.as_deref()), (Some("states of pods"), Some("forbidden")));
        status.heard("Pod", clock::unix_ns(clock::boot_ns()));
        status.watched("Pod");
        status.count("Pod", 3);
        let kinds = status.kinds();
        assert_eq!((kinds[0].objects, kinds[0].lost, &kinds[0].reason), (3, None, &None));
        assert!(kinds[0].age_seconds.unwrap() < 5);
    }
}
