//! What is usual: how often a workload has a finding that nothing explains.
//!
//! What comes often for no reason says little when it comes after a change. Only hours that are over count, so that the order in
//! which facts arrive does not matter.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use tapio_occurrence::kubernetes::{Change, Fact as _};

use crate::{explain::Kin, finding::FindingId, graph::Name};

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

/// How often each type of finding came, by workload and hour; of changes, how many there were.
#[derive(Debug, Default)]
pub(crate) struct Usual {
    /// The first hour of which anything is known.
    since: Option<u64>,
    series: BTreeMap<Kin, BTreeMap<u64, u32>>,
    /// The hours that count, and the sums over them.
    settled: Range<u64>,
    sums: BTreeMap<Kin, u64>,
    /// Findings of which it is not known yet whether something explains them, by when they began.
    fresh: BTreeSet<(u64, FindingId)>,
    /// Findings that were not counted since there are too many types of them.
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
    pub(crate) fn count(&mut self, kin: Kin, onset_ns: u64) {
        if self.series.len() >= MAX_SERIES && !self.series.contains_key(&kin) {
            self.refused += 1;
            return;
        }
        *self.series.entry(kin).or_default().entry(onset_ns / HOUR_NS).or_default() += 1;
    }

    /// Counts a change of a workload.
    pub(crate) fn changed(&mut self, workload: &Arc<Name>, onset_ns: u64) {
        self.count(changes_of(workload), onset_ns);
    }

    /// Time has passed: another hour may count, and one that is older than a fortnight no longer does.
    pub(crate) fn settle(&mut self, now_ns: u64) {
        let end = now_ns.saturating_sub(SETTLED_NS) / HOUR_NS;
        let start = self.since.unwrap_or(end).max(end.saturating_sub(HOURS));
        if std::mem::replace(&mut self.settled, start..end.max(start)) == self.settled {
            return;
        }
        let start = self.settled.start;
        self.series.retain(|_, hours| {
            *hours = hours.split_off(&start);
            !hours.is_empty()
        });
        let sum =
            |hours: &BTreeMap<u64, u32>| hours.range(self.settled.clone()).map(|(_, n)| u64::from(*n)).sum();
        self.sums = self.series.iter().map(|(kin, hours)| (kin.clone(), sum(hours))).collect();
    }

    /// How often it came for no reason in the last fortnight, and how likely it therefore is within half an hour, from 0 to 1.
    pub(crate) fn of(&self, kin: &Kin) -> (u64, f64) {
        let times = |kin: &Kin| self.sums.get(kin).copied().unwrap_or_default();
        let count = times(kin);
        if count == 0 {
            return (0, 0.0);
        }
        let all_hours = self.settled.end.saturating_sub(self.settled.start) as f64;
        let changes = kin.1.as_ref().map_or(0, |workload| times(&changes_of(workload)));
        let hours = (all_hours - changes as f64 * AFTER_CHANGE_HOURS).max(all_hours * LEAST);
        let rate = (1.0 + count as f64) / (PRIOR_HOURS + hours);
        (count, 1.0 - (-rate * LEAK_HOURS).exp())
    }
}

fn changes_of(workload: &Arc<Name>) -> Kin {
    (Change::TYPE.into(), Some(Arc::clone(workload)))
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
        (0..335).for_each(|nth| usual.count(refused(), START_NS + nth * HOUR_NS / 2));
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
        (0..14).for_each(|day| usual.count(refused(), START_NS + day * DAY_NS));
        usual.settle(START_NS + 14 * DAY_NS + HOUR_NS);
        let (count, likely) = usual.of(&refused());
        // 200 times a quarter of an hour is more than a day: a tenth of the fortnight is left.
        let expected: f64 = 1.0 - (-0.5 * 15.0 / (168.0 + 33.6_f64)).exp();
        assert_eq!(count, 14);
        assert!((likely - expected).abs() < 0.001, "{likely} {expected}");
    }

    #[test]
    fn what_is_too_much_is_counted() {
        let mut usual = Usual::default();
        for nth in 0..MAX_SERIES + 5 {
            usual.count((format!("a.{nth}").into(), None), START_NS);
        }
        assert_eq!((usual.series.len(), usual.refused), (MAX_SERIES, 5));
    }
}
