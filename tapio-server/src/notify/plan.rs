//! What has to be told: how incidents are now, against what was told of them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use tapio_ahti::incident::{Incident, Status};

use super::digest::Digest;

/// From so many incidents within [`STORM_NS`] on, the others are told together.
const STORM: usize = 5;
const STORM_NS: u64 = 600_000_000_000;
/// Changes of one incident are told no more often.
const CALM_NS: u64 = 30_000_000_000;
/// What is over is remembered for so long: what comes back within it is the same incident.
const KEPT_NS: u64 = 24 * 3_600_000_000_000;
/// The same incident may begin earlier as more becomes known.
const SAME_NS: u64 = 3_600_000_000_000;
/// Most incidents that are remembered.
const MAX: usize = 2_000;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Event {
    /// It is new.
    Opened,
    /// Its answer is another one.
    Changed,
    /// It is over.
    Resolved,
    /// It came back.
    Regressed,
}

/// What was told of an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Told {
    /// As it was told last; of one that is over, what identifies it.
    pub(super) incident: Incident,
    /// When it was told first, and last.
    pub(super) first_unix_ns: u64,
    pub(super) last_unix_ns: u64,
    /// Names it for those who are told, for its whole life.
    pub(super) key: String,
    /// Whether it was only counted, with others.
    pub(super) in_storm: bool,
    /// Whether it was muted since: once that is over, it is told how it stands.
    #[serde(default)]
    pub(super) was_muted: bool,
    /// What the channel needs to change what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
}

/// All that was told to a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) told: Vec<Told>,
    /// The end of the last period of which a digest was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) digested_unix_ns: Option<u64>,
}

/// What a channel can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Able {
    /// Whether it wants to know of changes.
    pub(super) changes: bool,
    /// After how long it has to be told again of what goes on.
    pub(super) repeats: Option<Duration>,
    /// Whether many at once are told together.
    pub(super) storms: bool,
}

/// What is told next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Something of one incident.
    One(Event, Box<Incident>),
    /// That there are many.
    Storm(Vec<Incident>),
    /// What happened in a period.
    Digest(Box<Digest>),
}

impl Memory {
    /// What was told of an incident. Its number may be another one after a restart.
    pub(super) fn of(&self, incident: &Incident) -> Option<&Told> {
        self.place(incident).and_then(|at| self.told.get(at))
    }

    fn place(&self, incident: &Incident) -> Option<usize> {
        let apart_ns = |told: &Told| told.incident.since_unix_ns.abs_diff(incident.since_unix_ns);
        let is_alike = |told: &Told| told.incident.fingerprint == incident.fingerprint;
        let by_number = self.told.iter().rposition(|told| {
            told.incident.id == incident.id && (is_alike(told) || apart_ns(told) < SAME_NS)
        });
        by_number.or_else(|| self.told.iter().rposition(|told| is_alike(told) && apart_ns(told) < KEPT_NS))
    }

    /// Notes what is muted, of what was told. Returns whether that is news.
    pub(super) fn note_muted(&mut self, incidents: &[Incident], now_ns: u64) -> bool {
        let mut is_news = false;
        for incident in incidents.iter().filter(|incident| is_muted(incident, now_ns)) {
            if let Some(told) = self.place(incident).and_then(|at| self.told.get_mut(at)) {
                is_news |= !std::mem::replace(&mut told.was_muted, true);
            }
        }
        is_news
    }

    /// What to tell next, in order of time; nothing if everything was told.
    pub(super) fn next(
        &self,
        incidents: &[Incident],
        is_wanted: impl Fn(&Incident) -> bool,
        able: Able,
        now_ns: u64,
    ) -> Option<Step> {
        let mut fresh = Vec::new();
        // The oldest first.
        for incident in incidents.iter().rev() {
            match self.of(incident) {
                None => {
                    // Who takes care of it knows of it.
                    let is_quiet = is_muted(incident, now_ns) || incident.ack.is_some();
                    if incident.status != Status::Resolved && !is_quiet && is_wanted(incident) {
                        fresh.push(incident);
                    }
                }
                Some(told) if is_muted(incident, now_ns) => {
                    if incident.status != Status::Resolved && told.is_due(able, now_ns) {
                        return Some(Step::One(Event::Changed, Box::new(told.incident.clone())));
                    }
                }
                Some(told) => {
                    if let Some(event) = told.event(incident, able, now_ns) {
                        return Some(Step::One(event, Box::new(incident.clone())));
                    }
                }
            }
        }
        if let Some(gone) = self.gone(incidents, now_ns).next() {
            return Some(Step::One(Event::Resolved, Box::new(gone)));
        }
        let lately = self.told.iter().filter(|told| now_ns.saturating_sub(told.first_unix_ns) < STORM_NS);
        let is_storm = able.storms && fresh.len() > 1 && lately.count() + fresh.len() > STORM;
        match fresh.first() {
            Some(_) if is_storm => Some(Step::Storm(fresh.into_iter().cloned().collect())),
            Some(first) => Some(Step::One(Event::Opened, Box::new((*first).clone()))),
            None => None,
        }
    }

    /// What was told, and nobody knows any more: it is over.
    pub(super) fn gone(&self, incidents: &[Incident], now_ns: u64) -> impl Iterator<Item = Incident> {
        let known: BTreeSet<usize> = incidents.iter().filter_map(|incident| self.place(incident)).collect();
        let gone = self.told.iter().enumerate().filter(move |(at, _)| !known.contains(at));
        let gone = gone.filter(|(_, told)| told.incident.status != Status::Resolved && !told.in_storm);
        gone.map(move |(_, told)| Incident {
            status: Status::Resolved,
            resolved_unix_ns: Some(now_ns),
            ..told.incident.clone()
        })
    }

    /// Remembers that an incident was told.
    pub(super) fn note(
        &mut self,
        incident: &Incident,
        reference: Option<String>,
        in_storm: bool,
        now_ns: u64,
    ) {
        let place = self.place(incident);
        let key = self.key(incident);
        let before = place.and_then(|at| self.told.get(at));
        let first_unix_ns = before.map_or(now_ns, |told| told.first_unix_ns);
        let mut incident = incident.clone();
        if incident.status == Status::Resolved {
            (incident.lines, incident.chain, incident.considered) = Default::default();
        }
        let was_muted = false;
        let told =
            Told { incident, first_unix_ns, last_unix_ns: now_ns, key, in_storm, was_muted, reference };
        match place.and_then(|at| self.told.get_mut(at)) {
            Some(known) => *known = told,
            None => self.told.push(told),
        }
        self.told.retain(|told| {
            told.incident.status != Status::Resolved && !told.in_storm
                || now_ns.saturating_sub(told.last_unix_ns) < KEPT_NS
        });
        let too_many = self.told.len().saturating_sub(MAX);
        self.told.drain(..too_many);
    }

    /// Names an incident for those who are told.
    pub(super) fn key(&self, incident: &Incident) -> String {
        self.of(incident)
            .map_or_else(|| format!("{}-{}", incident.id, incident.since_unix_ns), |told| told.key.clone())
    }
}

impl Told {
    /// What there is to tell of it now.
    fn event(&self, incident: &Incident, able: Able, now_ns: u64) -> Option<Event> {
        let since_ns = now_ns.saturating_sub(self.last_unix_ns);
        let event = match (self.incident.status, incident.status) {
            (Status::Resolved, Status::Resolved) => return None,
            (Status::Resolved, _) => return Some(Event::Regressed),
            (_, Status::Resolved) => Event::Resolved,
            _ if self.is_due(able, now_ns) => Event::Changed,
            _ if incident.ack.is_some() => return None,
            _ if self.was_muted => Event::Changed,
            _ if able.changes && since_ns >= CALM_NS && self.is_another(incident) => Event::Changed,
            _ => return None,
        };
        // Nobody heard of it alone.
        (!self.in_storm).then_some(event)
    }

    /// Whether who forgets has to be told again.
    fn is_due(&self, able: Able, now_ns: u64) -> bool {
        let since_ns = now_ns.saturating_sub(self.last_unix_ns);
        let is_open = self.incident.status != Status::Resolved && !self.in_storm;
        is_open && able.repeats.is_some_and(|every| u128::from(since_ns) >= every.as_nanos())
    }

    /// Whether somebody would want to know what the answer is now.
    fn is_another(&self, incident: &Incident) -> bool {
        let (before, now) = (self.incident.hits.len(), incident.hits.len());
        self.incident.certainty != incident.certainty
            || self.incident.title != incident.title
            || now > before && 2 * now >= 3 * before
    }
}

/// Whether nobody is to be told of an incident now.
pub(super) fn is_muted(incident: &Incident, now_ns: u64) -> bool {
    incident.mute.as_ref().is_some_and(|mute| mute.is_on(now_ns))
}

#[cfg(test)]
mod tests;
