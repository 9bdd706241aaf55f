//! A digest: what happened in a period, as one message.

use jiff::civil::Time;
use tapio_ahti::incident::{Incident, Name, Status};
use tapio_service::setting::Switch;

use super::{plan::Memory, settings};

/// An incident opens some time after its first symptom; what began earlier went on before.
const LATE_NS: u64 = 3_600_000_000_000;
/// Causes that came again, in a digest.
const MAX_REPEATED: usize = 3;

/// What happened in a period.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Digest {
    pub(super) from_unix_ns: u64,
    pub(super) to_unix_ns: u64,
    /// What is new or came back, also if it is over by now.
    pub(super) opened: Vec<Incident>,
    pub(super) resolved: Vec<Incident>,
    /// What goes on from before.
    pub(super) open: Vec<Incident>,
    /// Causes that came more than once, the most frequent first.
    pub(super) repeated: Vec<Repeated>,
}

/// A cause that came more than once.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Repeated {
    /// The cause in a word; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cause: Option<String>,
    /// Whose it is.
    pub(super) of: Name,
    /// How often, as far as the journal knows.
    pub(super) times: u64,
}

/// When digests are due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Period {
    every_ns: u64,
    /// After midnight, UTC.
    at_ns: u64,
    /// Whether there is a digest of nothing.
    is_empty_too: bool,
}

impl Period {
    /// The one that a target has; `None` if it hears of each thing by itself.
    pub(super) fn of(settings: &settings::Digest) -> Option<Self> {
        let every_ns = u64::try_from(settings.every.0?.get().as_nanos()).ok()?;
        let after_midnight = settings.at.0.duration_since(Time::midnight());
        let at_ns = u64::try_from(after_midnight.as_nanos()).ok()?;
        Some(Self { every_ns, at_ns, is_empty_too: settings.empty == Switch::True })
    }

    /// The end of the last period that is over.
    const fn last_end_ns(self, now_ns: u64) -> u64 {
        let since_ns = now_ns.saturating_sub(self.at_ns) % self.every_ns;
        now_ns.saturating_sub(since_ns)
    }
}

impl Memory {
    /// The digest that is due, if there is one. A target that is new hears of what happens from now on.
    pub(super) fn digest(
        &mut self,
        period: Period,
        incidents: &[Incident],
        is_wanted: impl Fn(&Incident) -> bool,
        now_ns: u64,
    ) -> Option<Digest> {
        let to_unix_ns = period.last_end_ns(now_ns);
        let from_unix_ns = *self.digested_unix_ns.get_or_insert(to_unix_ns);
        if to_unix_ns <= from_unix_ns {
            return None;
        }
        let (mut opened, mut resolved, mut open) = (Vec::new(), Vec::new(), Vec::new());
        for incident in incidents.iter().rev() {
            let is_over = incident.status == Status::Resolved;
            let before = self.of(incident).map(|told| told.incident.status);
            let is_late = incident.since_unix_ns.saturating_add(LATE_NS) < from_unix_ns;
            let is_new = match (before, is_over) {
                (None, _) if !is_wanted(incident) => continue,
                // It was over before.
                (None, _) if incident.resolved_unix_ns.is_some_and(|over| over <= from_unix_ns) => continue,
                (Some(Status::Resolved), true) => continue,
                (None, _) => !is_late,
                (Some(before), _) => before == Status::Resolved,
            };
            if is_new {
                opened.push(incident.clone());
            }
            if is_over {
                resolved.push(incident.clone());
            } else if !is_new {
                open.push(incident.clone());
            }
        }
        resolved.extend(self.gone(incidents, now_ns));
        if opened.is_empty() && resolved.is_empty() && open.is_empty() && !period.is_empty_too {
            self.digested_unix_ns = Some(to_unix_ns);
            return None;
        }
        let repeated = repeated(opened.iter().chain(&open));
        Some(Digest { from_unix_ns, to_unix_ns, opened, resolved, open, repeated })
    }

    /// Remembers that a digest was sent.
    pub(super) fn note_digest(&mut self, digest: &Digest, now_ns: u64) {
        for incident in digest.opened.iter().chain(&digest.open).chain(&digest.resolved) {
            self.note(incident, None, false, now_ns);
        }
        self.digested_unix_ns = Some(digest.to_unix_ns);
    }
}

fn repeated<'a>(incidents: impl Iterator<Item = &'a Incident>) -> Vec<Repeated> {
    let of = |incident: &Incident| {
        let of = incident.root.as_ref().or(incident.hits.first())?.clone();
        Some(Repeated { cause: incident.root_kind.clone(), of, times: incident.seen_before + 1 })
    };
    let mut all: Vec<Repeated> =
        incidents.filter(|incident| incident.seen_before > 0).filter_map(of).collect();
    all.sort_by_key(|repeated| (std::cmp::Reverse(repeated.times), repeated.of.clone()));
    all.dedup_by(|a, b| a.of == b.of && a.cause == b.cause);
    all.truncate(MAX_REPEATED);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::text;

    const SEC: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * SEC;
    const DAILY: Period = Period { every_ns: 24 * HOUR, at_ns: 8 * HOUR, is_empty_too: false };

    fn incident(nth: u64, since_ns: u64, seen_before: u64) -> Incident {
        serde_json::from_value(serde_json::json!({
            "id": format!("TAP-{nth}"), "fingerprint": format!("v1:rollout:{nth}"), "revision": 1,
            "status": "open", "title": "a", "certainty": "likely", "since_unix_ns": since_ns,
            "has_cause": false, "lines": [], "chain": [], "at_risk": [], "ruled_out": [], "missing": [], "advice": [],
            "considered": [], "seen_before": seen_before,
            "hits": [{ "kind": "Deployment", "namespace": "shop", "name": format!("x{nth}") }],
        }))
        .unwrap()
    }

    fn ids(incidents: &[Incident]) -> Vec<&str> {
        incidents.iter().map(|incident| &*incident.id).collect()
    }

    #[test]
    fn a_period_ends_at_its_time_of_day() {
        let day = 20_000 * 24 * HOUR;
        assert_eq!(DAILY.last_end_ns(day + 8 * HOUR - 1), day - 16 * HOUR);
        assert_eq!(DAILY.last_end_ns(day + 8 * HOUR), day + 8 * HOUR);
        let four = Period { every_ns: 4 * HOUR, at_ns: HOUR, ..DAILY };
        assert_eq!(four.last_end_ns(day + 6 * HOUR), day + 5 * HOUR);
    }

    #[test]
    fn each_day_says_what_opened_what_is_over_and_what_goes_on() {
        let first = 20_000 * 24 * HOUR + 8 * HOUR;
        let days = |count: u64| first + count * 24 * HOUR;
        let mut memory = Memory::default();
        let over = |mut incident: Incident, at_ns| {
            (incident.status, incident.resolved_unix_ns) = (Status::Resolved, Some(at_ns));
            incident
        };
        let old = over(incident(1, first - 9 * HOUR, 0), first - 8 * HOUR);
        let long = incident(2, first - 5 * HOUR, 4);
        let mut all = vec![long, old];
        assert_eq!(memory.digest(DAILY, &all, |_| true, first + HOUR), None, "the first begins now");
        // The newest first: one that is over again, one that is new.
        all.insert(0, over(incident(3, first + 2 * HOUR, 0), first + 3 * HOUR));
        all.insert(0, incident(4, days(1) - 10 * SEC, 1));
        assert_eq!(memory.digest(DAILY, &all, |_| true, days(1) - 1), None);
        let digest = memory.digest(DAILY, &all, |_| true, days(1)).unwrap();
        assert_eq!((digest.from_unix_ns, digest.to_unix_ns), (first, days(1)));
        assert_eq!(ids(&digest.opened), ["TAP-3", "TAP-4"]);
        assert_eq!((ids(&digest.resolved), ids(&digest.open)), (vec!["TAP-3"], vec!["TAP-2"]));
        let times: Vec<_> = digest.repeated.iter().map(|of| (&*of.of.name, of.times)).collect();
        assert_eq!(times, [("x2", 5), ("x4", 2)]);
        let (head, lines) = text::digest(&digest, Some("prod"));
        assert_eq!(
            head,
            "2 opened, 1 resolved, 1 still open from before in prod, 2024-10-04 08:00 to 2024-10-05 08:00 UTC"
        );
        assert_eq!(
            lines,
            [
                "Opened: TAP-3  a  RESOLVED",
                "Opened: TAP-4  a  LIKELY",
                "Still open: TAP-2  a  LIKELY",
                "Resolved: TAP-3  a  RESOLVED",
                "Repeated: Deployment shop/x2, 5 times",
                "Repeated: Deployment shop/x4, 2 times",
                "More: kubectl tapio get incidents",
            ]
        );
        assert_eq!(
            memory.digest(DAILY, &all, |_| true, days(1) + 5).as_ref(),
            Some(&digest),
            "it was not sent"
        );
        memory.note_digest(&digest, days(1) + 5);
        assert_eq!(memory.digest(DAILY, &all, |_| true, days(1) + 6), None);
        // One is over, one is known no more; nothing else happens.
        all[0] = over(all[0].clone(), days(1) + HOUR);
        all.remove(2);
        let digest = memory.digest(DAILY, &all, |_| true, days(3)).unwrap();
        assert_eq!((digest.from_unix_ns, digest.to_unix_ns), (days(1), days(3)), "it was away for a day");
        assert_eq!((ids(&digest.opened), ids(&digest.resolved)), (vec![], vec!["TAP-4", "TAP-2"]));
        memory.note_digest(&digest, days(3));
        assert_eq!(memory.digest(DAILY, &all, |_| true, days(4)), None, "nothing happened");
        let always = Period { is_empty_too: true, ..DAILY };
        let digest = memory.digest(always, &all, |_| true, days(5)).unwrap();
        assert_eq!((digest.from_unix_ns, digest.opened.len() + digest.open.len()), (days(4), 0));
        memory.note_digest(&digest, days(5));
        all.insert(0, incident(9, days(5) + HOUR, 0));
        assert_eq!(memory.digest(DAILY, &all, |_| false, days(6)), None, "they want others");
        // What came back opened.
        (all[1].status, all[1].resolved_unix_ns) = (Status::Regressed, None);
        let digest = memory.digest(DAILY, &all[1..], |_| true, days(7));
        assert_eq!(digest.map(|digest| ids(&digest.opened).len()), Some(1));
    }
}
