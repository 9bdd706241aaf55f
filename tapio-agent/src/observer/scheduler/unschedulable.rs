//! Pods that no node can take: reported once when they have been unschedulable for a while, and again when they have
//! doubled.

use serde::{Deserialize, Serialize};
use tapio_common::baseline::{Baseline, Verdict};

use super::settings::Limits;
use crate::observer::baseline;

/// The state of an earlier agent is too old after this long without a scrape.
const FORGET_NS: u64 = 5 * 60 * 1_000_000_000;

/// How many are normal, and whether there are more.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Unschedulable {
    #[serde(with = "baseline")]
    baseline: Baseline,
    episode: Option<Episode>,
    seen_ns: u64,
}

/// More pods are unschedulable than is normal.
#[derive(Debug, Serialize, Deserialize)]
struct Episode {
    since_ns: u64,
    /// What was normal before.
    #[serde(with = "baseline")]
    before: Baseline,
    /// As many as were last reported; 0 before the first report.
    reported: u64,
    /// When as few as normal were left. Pods that are tried again are not counted for a moment, so the episode goes on
    /// for a while.
    over_ns: Option<u64>,
}

/// What has to be reported.
#[derive(Debug)]
pub(super) struct Lasting {
    pub(super) since_ns: u64,
    pub(super) before: Baseline,
}

impl Unschedulable {
    /// Judges the number of unschedulable pods.
    pub(super) fn judge(&mut self, pods: u64, now_ns: u64, limits: &Limits) -> Option<Lasting> {
        if now_ns.saturating_sub(self.seen_ns) > FORGET_NS {
            self.episode = None;
        }
        self.seen_ns = now_ns;
        let before = self.baseline;
        let is_learning = before.samples() < limits.unschedulable.min_samples;
        let verdict = self.baseline.observe(pods, now_ns, &limits.unschedulable);
        let is_abnormal = match verdict {
            Verdict::Learning => pods > 0,
            Verdict::Normal => false,
            Verdict::Spike | Verdict::Shift => pods > before.mean(),
        };
        if self.episode.is_none() && is_abnormal {
            // While it learns, no number is known to be normal.
            let before = if is_learning { Baseline::default() } else { before };
            self.episode = Some(Episode { since_ns: now_ns, before, reported: 0, over_ns: None });
        }
        let episode = self.episode.as_mut()?;
        let after_ns = limits.unschedulable_after_ns;
        if pods <= episode.before.mean() {
            let over_ns = *episode.over_ns.get_or_insert(now_ns);
            self.episode.take_if(|_| now_ns.saturating_sub(over_ns) >= after_ns);
            return None;
        }
        episode.over_ns = None;
        // After a fall to half, the next rise counts again.
        if pods <= episode.reported / 2 {
            episode.reported = pods;
        }
        let has_doubled = pods >= episode.reported.saturating_mul(2);
        if now_ns.saturating_sub(episode.since_ns) < after_ns || !has_doubled {
            return None;
        }
        episode.reported = pods;
        Some(Lasting { since_ns: episode.since_ns, before: episode.before })
    }
}
