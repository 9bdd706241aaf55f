//! What is usual: how often a workload has a finding that nothing explains, and after how long effects come.
//!
//! What comes often for no reason says little when it comes after a change. Only hours that are over count, so that the order in
//! which facts arrive does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use crate::{
    explain::Kin,
    finding::FindingId,
    graph::Name,
    lags::{self, Lags},
};

const HOUR_NS: u64 = 3_600_000_000_000;
/// Hours that are remembered: a fortnight.
const HOURS: u64 = 14 * 24;
/// Before anything is known, once in seven days.
const PRIOR_HOURS: f64 = 7.0 * 24.0;
/// `leak` of a rule's kind is about so long.
const LEAK_HOURS: f64 = 0.5;
/// For so long after a change what comes may be its effect, and such times do not count.
const AFTER_CHANGE_HOURS: f64 = 0.25;
/// The least part of all time that counts, however many changes there are.
const LEAST: f64 = 0.1;
/// So long after it began it is known whether something explains a finding. It is still there then, with its links.
const LOOK_NS: u64 = 540_000_000_000;
/// An hour counts so long after its end.
const SETTLED_NS: u64 = 1_800_000_000_000;
/// From this strength of a link on, it explains a finding.
pub(crate) const EXPLAINED: f64 = 0.3;
/// Most types of findings of workloads that are counted.
const MAX_SERIES: usize = 20_000;

/// What is counted, by hour.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Counted {
    /// Findings that nothing explains.
    Findings(Kin),
    /// Changes of a workload.
    Changes(Arc<Name>),
    /// Effects of a rule with a lag in this step.
    Effects(String, usize),
}

/// How often things came.
#[derive(Debug, Default)]
pub(crate) struct Usual {
    /// The first hour of which anything is known.
    since: Option<u64>,
    series: BTreeMap<Counted, BTreeMap<u64, u32>>,
    /// The hours that count, and what they say.
    settled: Range<u64>,
    findings: BTreeMap<Kin, u64>,
    changes: BTreeMap<Arc<Name>, u64>,
    lags: BTreeMap<String, Lags>,
    /// Findings of which it is not known yet whether something explains them, by when they began.
    fresh: BTreeSet<(u64, FindingId)>,
    /// What was not counted since there is too much of it.
    pub(crate) refused: u64,
}

impl Usual {
    /// A fact of this time was taken.
    pub(crate) fn heard(&mut self, at_ns: u64) {
        let hour = at_ns / HOUR_NS;
        self.since = Some(self.since.map_or(hour, |since| since.min(hour)));
    }

    /// A finding is new.
    pub(crate) fn began(&mut self, id: FindingId, onset_ns: u64) {
        self.fresh.insert((onset_ns, id));
    }

    /// Takes the findings of which it is known by now whether something explains them.
    pub(crate) fn due(&mut self, now_ns: u64) -> BTreeSet<(u64, FindingId)> {
        let later = self.fresh.split_off(&(now_ns.saturating_sub(LOOK_NS), FindingId(0)));
        std::mem::replace(&mut self.fresh, later)
    }

    /// Counts a finding that nothing explains.
    pub(crate) fn unexplained(&mut self, kin: Kin, onset_ns: u64) {
        self.count(Counted::Findings(kin), onset_ns);
    }

    /// Counts a change of a workload.
    pub(crate) fn changed(&mut self, workload: &Arc<Name>, onset_ns: u64) {
        self.count(Counted::Changes(Arc::clone(workload)), onset_ns);
    }

    /// Counts an effect whose cause is proved.
    pub(crate) fn proved(&mut self, rule: &str, lag_s: f64, onset_ns: u64) {
        self.count(Counted::Effects(rule.to_owned(), lags::step(lag_s)), onset_ns);
    }

    fn count(&mut self, what: Counted, onset_ns: u64) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&what) {
            self.refused += 1;
            return;
        }
        *self.series.entry(what).or_default().entry(onset_ns / HOUR_NS).or_default() += 1;
    }

    /// Time has passed: another hour may count, and one that is older than a fortnight no longer does. Returns whether lags fit
    /// differently now.
    pub(crate) fn settle(&mut self, now_ns: u64) -> bool {
        let end = now_ns.saturating_sub(SETTLED_NS) / HOUR_NS;
        let start = self.since.unwrap_or(end).max(end.saturating_sub(HOURS));
        if std::mem::replace(&mut self.settled, start..end.max(start)) == self.settled {
            return false;
        }
        let start = self.settled.start;
        self.series.retain(|_, hours| {
            *hours = hours.split_off(&start);
            !hours.is_empty()
        });
        (self.findings, self.changes) = Default::default();
        let mut effects: BTreeMap<&String, [u64; lags::STEPS]> = BTreeMap::new();
        for (what, hours) in &self.series {
            let sum = hours.range(self.settled.clone()).map(|(_, count)| u64::from(*count)).sum();
            match what {
                Counted::Findings(kin) => _ = self.findings.insert(kin.clone(), sum),
                Counted::Changes(workload) => _ = self.changes.insert(Arc::clone(workload), sum),
                Counted::Effects(rule, step) => {
                    effects
                        .entry(rule)
                        .or_default()
                        .get_mut(*step)
                        .into_iter()
                        .for_each(|count| *count = sum);
                }
            }
        }
        let lags = effects.into_iter().map(|(rule, counts)| (rule.clone(), Lags::of(counts))).collect();
        std::mem::replace(&mut self.lags, lags) != self.lags
    }

    /// How well a lag of a rule fits, from 0 to 1, if its file says `before`.
    pub(crate) fn fit(&self, rule: &str, lag_s: f64, before: f64) -> f64 {
        self.lags.get(rule).map_or(before, |lags| lags.fit(lag_s, before))
    }

    /// How often it came for no reason in the last fortnight, and how likely it therefore is within half an hour, from 0 to 1.
    pub(crate) fn of(&self, kin: &Kin) -> (u64, f64) {
        let count = self.findings.get(kin).copied().unwrap_or_default();
        if count == 0 {
            return (0, 0.0);
        }
        let all_hours = self.settled.end.saturating_sub(self.settled.start) as f64;
        let changes =
            kin.1.as_ref().and_then(|workload| self.changes.get(workload)).copied().unwrap_or_default();
        let hours = (all_hours - changes as f64 * AFTER_CHANGE_HOURS).max(all_hours * LEAST);
        let rate = (1.0 + count as f64) / (PRIOR_HOURS + hours);
        (count, 1.0 - (-rate * LEAK_HOURS).exp())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_NS: u64 = 24 * HOUR_NS;
    const START_NS: u64 = 20_000 * DAY_NS;

    fn refused() -> Kin {
        (
            "network.connection_refused".into(),
            Some(Arc::new(Name::new("Deployment", Some("shop"), "checkout"))),
        )
    }

    #[test]
    fn what_came_often_is_likely_to_come_again() {
        let mut usual = Usual::default();
        usual.heard(START_NS);
        let now_ns = START_NS + 7 * DAY_NS;
        usual.settle(now_ns);
        assert_eq!(usual.of(&refused()), (0, 0.0));
        (0..335).for_each(|nth| usual.unexplained(refused(), START_NS + nth * HOUR_NS / 2));
        // 336 in twice seven days: one in an hour.
        usual.settle(now_ns + HOUR_NS);
        let (count, likely) = usual.of(&refused());
        assert_eq!(count, 335);
        assert!((likely - 0.393).abs() < 0.003, "{likely}");
        usual.settle(now_ns + 30 * DAY_NS);
        assert_eq!((usual.of(&refused()), usual.series.len()), ((0, 0.0), 0));
    }

    #[test]
    fn times_after_changes_do_not_count() {
        let mut usual = Usual::default();
        usual.heard(START_NS);
        let workload = refused().1.unwrap();
        for nth in 0..14 * 200 {
            usual.changed(&workload, START_NS + nth * DAY_NS / 200);
        }
        (0..14).for_each(|day| usual.unexplained(refused(), START_NS + day * DAY_NS));
        usual.settle(START_NS + 14 * DAY_NS + HOUR_NS);
        let (count, likely) = usual.of(&refused());
        // 200 times a quarter of an hour is more than a day: a tenth of the fortnight is left.
        let expected: f64 = 1.0 - (-0.5 * 15.0 / (168.0 + 33.6_f64)).exp();
        assert_eq!(count, 14);
        assert!((likely - expected).abs() < 0.001, "{likely} {expected}");
    }

    #[test]
    fn lags_are_those_of_hours_that_are_over() {
        let mut usual = Usual::default();
        usual.heard(START_NS);
        assert!(usual.settle(START_NS + HOUR_NS) || usual.lags.is_empty());
        (0..10).for_each(|_| usual.proved("rollout-oom", 3.0, START_NS));
        assert!((usual.fit("rollout-oom", 7_200.0, 0.5) - 0.5).abs() < 1e-9);
        assert!(usual.settle(START_NS + 2 * HOUR_NS));
        assert!((usual.fit("rollout-oom", 7_200.0, 0.5) - 0.3).abs() < 1e-9);
        assert!((usual.fit("rollout-exit", 7_200.0, 0.5) - 0.5).abs() < 1e-9, "of another rule");
        assert!(!usual.settle(START_NS + 3 * HOUR_NS), "nothing new");
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut usual = Usual::default();
        for nth in 0..MAX_SERIES + 5 {
            usual.unexplained((format!("a.{nth}").into(), None), START_NS);
        }
        assert_eq!((usual.series.len(), usual.refused), (MAX_SERIES, 5));
    }
}
