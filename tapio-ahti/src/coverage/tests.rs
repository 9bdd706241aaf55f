use tapio_occurrence::kubernetes::Watched;

use super::*;

const SEC: u64 = 1_000_000_000;
const MIN: u64 = 60 * SEC;

fn synced(kind: &str) -> Synced {
    Synced { kinds: vec![Watched { kind: kind.to_owned(), objects: 1 }], missing: Vec::new() }
}

fn beat(node: String) -> Heartbeat {
    Heartbeat { node, dropped: 0, missing: BTreeMap::new(), stops: false }
}

fn gaps(seen: &Seen, from_min: u64, to_min: u64) -> Vec<(u64, u64)> {
    seen.kubernetes_gaps(from_min * MIN, to_min * MIN).map(|(from, to)| (from / MIN, to / MIN)).collect()
}

#[test]
fn gaps_are_remembered_after_kubernetes_is_watched_again() {
    let mut seen = Seen::default();
    // Away from 10 to 20; from 30 to 40 it is alive, and sees no pods; a minute late at 50.
    let signs = (1..=10).chain(20..=30).chain(40..=48).chain(50..=60);
    signs.for_each(|minute| seen.synced(synced("Pod"), minute * MIN));
    (31..40).for_each(|minute| seen.synced(synced("Deployment"), minute * MIN));
    assert_eq!(gaps(&seen, 0, 60), [(10, 20), (30, 40)]);
    assert_eq!(gaps(&seen, 20, 30), [], "touching is not overlapping");
    assert_eq!(gaps(&seen, 19, 31), [(10, 20), (30, 40)]);
    assert_eq!(gaps(&seen, 12, 13), [(10, 20)]);
    // A sign that comes late fills the gap, whenever it comes.
    (11..20).for_each(|minute| seen.synced(synced("Pod"), minute * MIN));
    assert_eq!(gaps(&seen, 0, 60), [(30, 40)]);
}

#[test]
fn what_is_forgotten_was_not_watched() {
    let mut seen = Seen::default();
    (1..=2 * MAX_SPANS as u64).for_each(|hour| seen.synced(synced("Pod"), hour * 60 * MIN));
    assert_eq!(seen.watched.len(), MAX_SPANS);
    assert_eq!(seen.synced_ns(), Some((MAX_SPANS as u64 + 1) * 60 * MIN));
    assert_eq!(seen.kubernetes_gaps(0, u64::MAX).count(), MAX_SPANS - 1);
}

#[test]
fn nodes_beyond_the_bound_are_counted_and_old_ones_make_room() {
    let mut seen = Seen::default();
    (0..MAX_NODES).for_each(|node| seen.heartbeat(beat(format!("node-{node}")), MIN));
    seen.expire(2 * MIN);
    seen.heartbeat(beat("another".to_owned()), 2 * MIN);
    seen.heartbeat(beat("node-1".to_owned()), 2 * MIN);
    assert_eq!(seen.refused, 1);
    let degraded = seen.now(BTreeSet::new(), 2 * MIN).degraded;
    assert_eq!(degraded, ["agents of more than 20000 nodes report; 1 heartbeats of others were not taken"]);
    seen.expire(MIN + KEPT_NS + 1);
    seen.heartbeat(beat("another".to_owned()), MIN + KEPT_NS + 1);
    assert_eq!((seen.refused, seen.nodes.len()), (1, 2), "node-1 was heard a minute later");
}
