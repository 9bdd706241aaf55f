//! Judges a value window by window against its own past, and finds episodes.

use tapio_common::baseline::{Baseline, Limits, Verdict};
use tapio_occurrence::signal::Phase;

/// An episode is said again so often while it goes on.
const AGAIN_NS: u64 = 60_000_000_000;
/// An episode is over after so many windows in a row that are normal.
const NORMAL_WINDOWS: u32 = 2;
/// An episode without enough calls to judge is over after so many windows: five minutes.
const SILENT_WINDOWS: u32 = 20;
/// What lasts longer is normal from then on.
const LONGEST_NS: u64 = 24 * 3_600_000_000_000;

/// When a value is abnormal, and for how many windows in a row it has to be.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) limits: Limits,
    pub(super) sustain: u32,
}

/// The share of failed calls, in failures of 10,000: twice the normal share, and 5 percentage points more than it.
pub(super) const ERRORS: Rule = Rule { limits: Limits { floor: 500, ..Limits::DEFAULT }, sustain: 2 };
/// The 90th percentile of the duration of calls, in microseconds: three times the normal one, and 20 ms more than it. What
/// grows less is learned.
pub(super) const LATENCY: Rule = Rule {
    limits: Limits { ratio_percent: 300, deviations: 6, floor: 20_000, ..Limits::DEFAULT },
    sustain: 4,
};
/// Log records of severity ERROR and above in a window: three times the normal number, and 10 more than it.
pub(super) const LOGS: Rule =
    Rule { limits: Limits { ratio_percent: 300, floor: 10, ..Limits::DEFAULT }, sustain: 2 };

/// A baseline and the episode that is going on.
#[derive(Debug, Default)]
pub(super) struct Judge {
    baseline: Baseline,
    /// What was normal before the current run of abnormal windows.
    normal: Baseline,
    /// Abnormal windows in a row, before an episode begins.
    run: u32,
    episode: Option<Episode>,
}

#[derive(Clone, Copy, Debug)]
struct Episode {
    since_ns: u64,
    said_ns: u64,
    normal: u32,
    silent: u32,
}

impl Judge {
    /// Judges the value of a window. `is_certain` says whether so few samples can be trusted, given what is normal. `Some`
    /// if there is something to say.
    pub(super) fn step(
        &mut self,
        rule: &Rule,
        value: u64,
        now_ns: u64,
        is_certain: impl FnOnce(&Baseline) -> bool,
    ) -> Option<Phase> {
        let is_free = self.run == 0 && self.episode.is_none();
        let before = if is_free { self.baseline.without_run() } else { self.normal };
        // A copy has no run that could end in a new level.
        let is_over =
            before.clone().observe(value, now_ns, &rule.limits) == Verdict::Spike && is_certain(&before);
        let Some(mut episode) = self.episode.take() else {
            self.baseline.observe(value, now_ns, &rule.limits);
            if !is_over {
                self.run = 0;
                return None;
            }
            self.normal = before;
            self.run += 1;
            if self.run < rule.sustain {
                return None;
            }
            self.run = 0;
            self.episode = Some(Episode { since_ns: now_ns, said_ns: now_ns, normal: 0, silent: 0 });
            return Some(Phase::Began);
        };
        episode.silent = 0;
        episode.normal = if is_over { 0 } else { episode.normal + 1 };
        if now_ns.saturating_sub(episode.since_ns) > LONGEST_NS {
            *self = Self::default();
            return Some(Phase::Ended);
        }
        if episode.normal >= NORMAL_WINDOWS {
            self.baseline = self.normal;
            return Some(Phase::Ended);
        }
        let is_due = is_over && now_ns.saturating_sub(episode.said_ns) >= AGAIN_NS;
        if is_due {
            episode.said_ns = now_ns;
        }
        self.episode = Some(episode);
        is_due.then_some(Phase::Continues)
    }

    /// A window without enough calls.
    pub(super) fn silence(&mut self) -> Option<Phase> {
        let episode = self.episode.as_mut()?;
        episode.silent += 1;
        if episode.silent < SILENT_WINDOWS {
            return None;
        }
        self.episode = None;
        self.baseline = self.normal;
        Some(Phase::Ended)
    }

    /// Whether nothing is abnormal, so that what was counted for an episode is of no use.
    pub(super) const fn is_calm(&self) -> bool {
        self.run == 0 && self.episode.is_none()
    }

    /// What was normal before the episode.
    pub(super) const fn normal(&self) -> &Baseline {
        &self.normal
    }

    /// What is normal now.
    pub(super) const fn baseline(&self) -> &Baseline {
        if self.is_calm() { &self.baseline } else { &self.normal }
    }
}

/// The lower end of the interval of confidence of a share (Wilson, 3 standard deviations), in parts of 10,000: with few
/// calls a few failures say little.
pub(super) fn at_least(part: u64, of: u64) -> u64 {
    const Z2: f64 = 9.0;
    let n = of as f64;
    let share = part as f64 / n;
    let spread = (share * (1.0 - share) / n + Z2 / (4.0 * n * n)).sqrt() * Z2.sqrt();
    let low = (share + Z2 / (2.0 * n) - spread) / (1.0 + Z2 / n);
    (low.max(0.0) * 10_000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_NS: u64 = 15_000_000_000;

    fn phases(judge: &mut Judge, values: impl IntoIterator<Item = u64>, now_ns: &mut u64) -> Vec<Phase> {
        let step = |value| {
            *now_ns += WINDOW_NS;
            judge.step(&ERRORS, value, *now_ns, |_| true)
        };
        values.into_iter().filter_map(step).collect()
    }

    #[test]
    fn an_episode_begins_goes_on_and_ends() {
        let (mut judge, mut now_ns) = (Judge::default(), 0);
        assert_eq!(phases(&mut judge, vec![10; 20], &mut now_ns), []);
        assert_eq!(phases(&mut judge, [9_000], &mut now_ns), [], "one window is none");
        assert_eq!(phases(&mut judge, [10, 9_000], &mut now_ns), []);
        assert_eq!(phases(&mut judge, [9_000], &mut now_ns), [Phase::Began]);
        assert_eq!(judge.normal().mean(), 10);
        assert_eq!(phases(&mut judge, vec![9_000; 8], &mut now_ns), [Phase::Continues; 2]);
        assert_eq!(phases(&mut judge, [10, 9_000, 10, 10], &mut now_ns), [Phase::Ended]);
        assert_eq!(phases(&mut judge, vec![10; 50], &mut now_ns), []);
        assert_eq!(phases(&mut judge, [9_000; 2], &mut now_ns), [Phase::Began], "it is not normal now");
    }

    #[test]
    fn an_episode_that_nobody_calls_any_more_ends() {
        let (mut judge, mut now_ns) = (Judge::default(), 0);
        phases(&mut judge, vec![10; 20], &mut now_ns);
        assert_eq!(phases(&mut judge, [9_000; 2], &mut now_ns), [Phase::Began]);
        let silent: Vec<_> = (0..SILENT_WINDOWS).filter_map(|_| judge.silence()).collect();
        assert_eq!(silent, [Phase::Ended]);
        assert_eq!(judge.silence(), None);
    }

    #[test]
    fn what_lasts_a_day_is_normal() {
        let (mut judge, mut now_ns) = (Judge::default(), 0);
        phases(&mut judge, vec![10; 20], &mut now_ns);
        let day = LONGEST_NS.div_ceil(WINDOW_NS) as usize + 10;
        let said = phases(&mut judge, vec![5_000; day], &mut now_ns);
        assert_eq!(
            (said[0], said.last(), said.iter().filter(|phase| **phase != Phase::Continues).count()),
            (Phase::Began, Some(&Phase::Ended), 2)
        );
        assert_eq!(phases(&mut judge, vec![5_000; 50], &mut now_ns), []);
    }

    #[test]
    fn few_calls_say_little() {
        assert!(at_least(1, 20) < 50 && at_least(2, 20) < 200);
        assert!(at_least(20, 20) > 6_000 && at_least(1_000, 1_000) > 9_900);
        assert!((480..500).contains(&at_least(500_000, 10_000_000)));
        assert_eq!(at_least(0, 20), 0);
    }
}
