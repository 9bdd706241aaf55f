//! What has to be told: how incidents are now, against what was told of them.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use tapio_ahti::incident::{Incident, Status};

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
    /// What the channel needs to change what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<String>,
}

/// All that was told to a target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Memory {
    pub(super) told: Vec<Told>,
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

    /// What to tell next, in order of time; nothing if everything was told.
    pub(super) fn next(
        &self,
        incidents: &[Incident],
        is_wanted: impl Fn(&Incident) -> bool,
        able: Able,
        now_ns: u64,
    ) -> Option<Step> {
        let mut fresh = Vec::new();
        let mut known = BTreeSet::new();
        // The oldest first.
        for incident in incidents.iter().rev() {
            let place = self.place(incident);
            known.extend(place);
            match place.and_then(|at| self.told.get(at)) {
                None if incident.status != Status::Resolved && is_wanted(incident) => fresh.push(incident),
                None => {}
                Some(told) => {
                    if let Some(event) = told.event(incident, able, now_ns) {
                        return Some(Step::One(event, Box::new(incident.clone())));
                    }
                }
            }
        }
        // What nobody knows any more is over.
        let mut gone = self.told.iter().enumerate().filter(|(at, _)| !known.contains(at));
        let gone = gone.find(|(_, told)| told.incident.status != Status::Resolved && !told.in_storm);
        if let Some((_, gone)) = gone {
            let over = Incident {
                status: Status::Resolved,
                resolved_unix_ns: Some(now_ns),
                ..gone.incident.clone()
            };
            return Some(Step::One(Event::Resolved, Box::new(over)));
        }
        let lately = self.told.iter().filter(|told| now_ns.saturating_sub(told.first_unix_ns) < STORM_NS);
        let is_storm = able.storms && fresh.len() > 1 && lately.count() + fresh.len() > STORM;
        match fresh.first() {
            Some(_) if is_storm => Some(Step::Storm(fresh.into_iter().cloned().collect())),
            Some(first) => Some(Step::One(Event::Opened, Box::new((*first).clone()))),
            None => None,
        }
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
        let told = Told { incident, first_unix_ns, last_unix_ns: now_ns, key, in_storm, reference };
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
            _ if able.repeats.is_some_and(|every| u128::from(since_ns) >= every.as_nanos()) => Event::Changed,
            _ if able.changes && since_ns >= CALM_NS && self.is_another(incident) => Event::Changed,
            _ => return None,
        };
        // Nobody heard of it alone.
        (!self.in_storm).then_some(event)
    }

    /// Whether somebody would want to know what the answer is now.
    fn is_another(&self, incident: &Incident) -> bool {
        let (before, now) = (self.incident.hits.len(), incident.hits.len());
        self.incident.certainty != incident.certainty
            || self.incident.title != incident.title
            || now > before && 2 * now >= 3 * before
    }
}

#[cfg(test)]
mod tests {
    use tapio_ahti::{incident::Certainty, visible::Prose};

    use super::*;

    const SEC: u64 = 1_000_000_000;
    const ABLE: Able = Able { changes: true, repeats: None, storms: true };

    fn incident(nth: usize, since_s: u64) -> Incident {
        serde_json::from_value(serde_json::json!({
            "id": format!("TAP-{nth}"), "fingerprint": format!("v1:rollout:{nth}"), "revision": 1,
            "status": "open", "title": "a", "certainty": "likely", "since_unix_ns": since_s * SEC,
            "has_cause": false, "lines": [], "chain": [], "hits": [], "at_risk": [], "ruled_out": [],
            "missing": [], "advice": [], "considered": [], "seen_before": 0,
        }))
        .unwrap()
    }

    /// What is told from now on, until there is nothing more to tell.
    fn tell(
        memory: &mut Memory,
        incidents: &[Incident],
        able: Able,
        now_s: u64,
    ) -> Vec<(Option<Event>, String)> {
        let mut said = Vec::new();
        while let Some(step) = memory.next(incidents, |_| true, able, now_s * SEC) {
            assert!(said.len() < 100, "for ever: {step:?}");
            match step {
                Step::One(event, incident) => {
                    said.push((Some(event), incident.id.clone()));
                    memory.note(&incident, None, false, now_s * SEC);
                }
                Step::Storm(many) => {
                    said.push((None, many.len().to_string()));
                    many.iter().for_each(|incident| memory.note(incident, None, true, now_s * SEC));
                }
            }
        }
        said
    }

    fn one(event: Event, nth: usize) -> Vec<(Option<Event>, String)> {
        vec![(Some(event), format!("TAP-{nth}"))]
    }

    #[test]
    fn each_thing_is_told_once() {
        let mut memory = Memory::default();
        let mut all = [incident(1, 10)];
        assert_eq!(tell(&mut memory, &all, ABLE, 40), one(Event::Opened, 1));
        all[0].revision += 1;
        assert_eq!(tell(&mut memory, &all, ABLE, 100), [], "nothing that people read is another");
        all[0].certainty = Certainty::Confirmed;
        assert_eq!(tell(&mut memory, &all, ABLE, 110), one(Event::Changed, 1));
        all[0].title = Prose::new("b", []);
        assert_eq!(tell(&mut memory, &all, ABLE, 120), [], "not so often");
        assert_eq!(tell(&mut memory, &all, ABLE, 140), one(Event::Changed, 1));
        all[0].status = Status::Resolved;
        assert_eq!(tell(&mut memory, &all, ABLE, 150), one(Event::Resolved, 1));
        assert_eq!(tell(&mut memory, &all, ABLE, 90_000), []);
        let mut memory = Memory::default();
        assert_eq!(tell(&mut memory, &all, ABLE, 150), [], "over before anybody listened");
    }

    #[test]
    fn what_comes_back_is_the_same() {
        let mut memory = Memory::default();
        let mut all = [incident(1, 10)];
        tell(&mut memory, &all, ABLE, 40);
        let key = memory.key(&all[0]);
        all[0].status = Status::Resolved;
        tell(&mut memory, &all, ABLE, 500);
        all[0].status = Status::Regressed;
        assert_eq!(tell(&mut memory, &all, ABLE, 900), one(Event::Regressed, 1));
        assert_eq!(memory.key(&all[0]), key);
    }

    #[test]
    fn a_number_that_is_another_one_after_a_restart() {
        let mut memory = Memory::default();
        tell(&mut memory, &[incident(7, 10)], ABLE, 40);
        let again = Incident { id: "TAP-1".to_owned(), ..incident(7, 10) };
        assert_eq!(tell(&mut memory, std::slice::from_ref(&again), ABLE, 41), []);
        // Another failure may get the number that one had.
        let other = Incident { id: "TAP-7".to_owned(), ..incident(3, 50_000) };
        assert_eq!(tell(&mut memory, &[other, again], ABLE, 50_040), one(Event::Opened, 7));
    }

    #[test]
    fn what_nobody_knows_any_more_is_over() {
        let mut memory = Memory::default();
        tell(&mut memory, &[incident(1, 10), incident(2, 10)], ABLE, 40);
        assert_eq!(tell(&mut memory, &[incident(2, 10)], ABLE, 50), one(Event::Resolved, 1));
    }

    #[test]
    fn many_at_once_are_one_message() {
        let mut memory = Memory::default();
        let mut all: Vec<Incident> = (1..=9).rev().map(|nth| incident(nth, 10)).collect();
        assert_eq!(tell(&mut memory, &all, ABLE, 40), [(None, "9".to_owned())]);
        assert_eq!(tell(&mut memory, &all, ABLE, 41), []);
        all.iter_mut().for_each(|incident| incident.status = Status::Resolved);
        assert_eq!(tell(&mut memory, &all, ABLE, 500), [], "nobody heard of each");
        let able = Able { storms: false, ..ABLE };
        all.iter_mut().for_each(|incident| incident.status = Status::Open);
        assert_eq!(tell(&mut Memory::default(), &all, able, 40).len(), 9);
    }

    #[test]
    fn who_forgets_is_told_again() {
        let able = Able { changes: true, repeats: Some(Duration::from_secs(60)), storms: false };
        let mut memory = Memory::default();
        let all = [incident(1, 10)];
        assert_eq!(tell(&mut memory, &all, able, 40), one(Event::Opened, 1));
        assert_eq!(tell(&mut memory, &all, able, 99), []);
        assert_eq!(tell(&mut memory, &all, able, 100), one(Event::Changed, 1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = Memory::default();
        let many: Vec<Incident> = (0..MAX + 10).map(|nth| incident(nth, nth as u64)).collect();
        many.iter().for_each(|incident| memory.note(incident, None, true, SEC));
        assert_eq!(memory.told.len(), MAX);
        memory.note(&incident(MAX + 20, 1), None, false, SEC + KEPT_NS);
        assert_eq!(memory.told.len(), 1, "those of a storm end with the day");
    }
}
