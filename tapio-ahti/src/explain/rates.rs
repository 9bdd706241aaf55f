//! Whether new pods have a symptom more often than old ones: what tells which of several rollouts it was.

use super::Known;
use crate::{
    finding::Finding,
    graph::{EntityId, Step},
};

/// Prior of a rate of symptoms, per minute: a gamma distribution that says little.
const SHAPE: f64 = 0.5;
const RATE: f64 = 0.5;
/// Most that the comparison may say, in natural logarithms of odds: few pods and few minutes prove nothing.
const MOST: f64 = 3.0;
const MINUTE_NS: f64 = 60e9;

/// How many symptoms there were in how many minutes of pods.
#[derive(Clone, Copy, Debug, Default)]
struct Rate {
    count: f64,
    minutes: f64,
}

/// The natural logarithm of the odds that pods that are younger than a change have a symptom at another rate than the older
/// ones: positive where theirs is the higher one, 0 where no new pod has it. `None` where there are no pods of both kinds.
pub(super) fn new_against_old(known: Known<'_>, change: &Finding, effect: &Finding) -> Option<f64> {
    // What is expected goes on beyond now; what has not happened yet counts for neither.
    let at = effect.last_ns.min(known.now_ns);
    let workload = known.graph.workload(change.key.entity, change.onset_ns);
    let pods = known.graph.walk(&[workload], &[Step::Owned], at);
    let before = known.graph.walk(&[workload], &[Step::Owned], change.onset_ns.saturating_sub(1));
    let mut all: Vec<EntityId> = pods.union(&before).copied().collect();
    all.retain(|id| known.graph.is(*id, "Pod"));
    // Of who calls the changed workload, it is what that one's own pods answer that counts.
    let is_own = known.graph.workload(effect.key.entity, at) == workload;
    let of_peer = |finding: &Finding| finding.peer.and_then(|peer| peer.entity);
    let is_same = |other: &Finding| {
        let peer = if is_own { of_peer(effect) } else { None };
        other.key.kind == effect.key.kind && of_peer(other) == peer
    };
    let (mut new, mut old) = (Rate::default(), Rate::default());
    let (mut has_new, mut has_old) = (false, false);
    for id in all {
        let pod = known.graph.get(id)?;
        if !pod.is_from_api() {
            return None;
        }
        // Times of the API server are whole seconds.
        let is_new = pod.created_ns().saturating_add(1_000_000_000) >= change.onset_ns;
        let (rate, has) = if is_new { (&mut new, &mut has_new) } else { (&mut old, &mut has_old) };
        *has = true;
        let from = pod.created_ns().max(change.onset_ns);
        let to = pod.deleted_ns().unwrap_or(at).min(at);
        rate.minutes += to.saturating_sub(from) as f64 / MINUTE_NS;
        let own = known.findings.of(id).filter(|(_, other)| is_same(other));
        rate.count += own.map(|(_, other)| other.times.count_from(change.onset_ns) as f64).sum::<f64>();
        let shared = known.findings.of(workload).filter(|(_, other)| is_same(other));
        let of_pod = shared.filter_map(|(_, other)| other.of_pods.get(&id));
        rate.count += of_pod.map(|times| times.count_from(change.onset_ns) as f64).sum::<f64>();
    }
    // New pods without it may not have been asked yet: that nothing is seen of them counts neither way.
    (has_new && has_old).then(|| if new.count > 0.0 { odds(new, old).clamp(-MOST, MOST) } else { 0.0 })
}

/// Two rates against one.
fn odds(new: Rate, old: Rate) -> f64 {
    let both = Rate { count: new.count + old.count, minutes: new.minutes + old.minutes };
    let odds = marginal(new) + marginal(old) - marginal(both);
    let is_higher = new.count * old.minutes.max(0.1) > old.count * new.minutes.max(0.1);
    match is_higher {
        true => odds,
        // The same rate, or a lower one, speaks against the change.
        false => odds.min(0.0).min(-odds),
    }
}

/// The natural logarithm of how likely a count is, whatever its rate; without the part that depends on nothing but the counts.
fn marginal(of: Rate) -> f64 {
    ln_gamma(SHAPE + of.count) - (SHAPE + of.count) * (RATE + of.minutes).ln() + SHAPE * RATE.ln()
        - ln_gamma(SHAPE)
}

/// Stirling's series, from 7 on; below by the recurrence.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 7.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let tail = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3));
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: f64, minutes: f64) -> Rate {
        Rate { count, minutes }
    }

    #[test]
    fn gamma_is_that_of_the_tables() {
        assert!((ln_gamma(1.0)).abs() < 1e-6);
        assert!((ln_gamma(0.5) - 0.572_364_942_9).abs() < 1e-6);
        assert!((ln_gamma(10.0) - 12.801_827_480).abs() < 1e-6);
    }

    #[test]
    fn only_new_pods_speak_for_a_change_and_old_ones_against_it() {
        assert!(odds(rate(6.0, 3.0), rate(0.0, 9.0)) > 2.0);
        assert!(odds(rate(0.0, 3.0), rate(6.0, 9.0)) < 0.0);
        assert!(odds(rate(2.0, 3.0), rate(6.0, 9.0)) < 0.0);
        assert!(odds(rate(0.0, 0.0), rate(0.0, 0.0)).abs() < 1e-9);
    }
}
