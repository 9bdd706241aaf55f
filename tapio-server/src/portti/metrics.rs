//! The role's metrics. Kinds and types are those of this program.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tapio_occurrence::kubernetes::{Change, Condition, Deleted, Fact as _, Object, Synced, Warning};
use tapio_service::metrics::{gauge, metrics, set};

use super::{
    read::SECOND_NS,
    status::{Election, Status, Watch},
};

metrics! {
    /// Metrics that only a process with this role has.
    pub(super) struct Metrics {
        portti_watch_state: Family<StateOfKind, Gauge> = "1 for the state that the watch on a kind is in",
        portti_objects: Family<OfKind, Gauge> = "Objects of a kind that is watched",
        portti_lists: Family<OfKind, Counter> = "Times that a kind was listed as a whole: at the start, and where its watch could not go on",
        portti_heard_timestamp_seconds: Family<OfKind, Gauge> = "When something of a kind was last received, seconds since 1970 UTC; 0 for never",
        portti_facts: Family<OfType, Counter> = "Facts of Kubernetes that are durable where they went, by type",
        portti_delivery_failures: Counter = "Times that facts of Kubernetes were not accepted; they are handed over again",
        portti_reports: Gauge = "1 if this process reports what it sees, 0 while it stands by for another replica",
        portti_takeovers: Counter = "Times that this process began to report, in place of another replica or of none",
        portti_held: Gauge = "Facts that this process holds while it stands by",
        portti_held_dropped: Counter = "Facts that it no longer holds though they may not have been delivered, since there are too many",
        portti_synced_timestamp_seconds: Gauge = "When it was last said what is watched, seconds since 1970 UTC; 0 for never",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateOfKind {
    kind: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfType {
    r#type: &'static str,
}

/// The types of facts.
const TYPES: [&str; 6] =
    [Object::TYPE, Deleted::TYPE, Change::TYPE, Condition::TYPE, Warning::TYPE, Synced::TYPE];

impl Metrics {
    /// Copies the role's state.
    pub(super) fn set(&self, status: &Status) {
        for kind in status.kinds() {
            for state in Watch::ALL {
                let labels = StateOfKind { kind: kind.kind, state: state.label() };
                self.portti_watch_state.get_or_create(&labels).set(i64::from(state == kind.state));
            }
            let of = OfKind { kind: kind.kind };
            self.portti_objects.get_or_create(&of).set(gauge(kind.objects));
            set(&self.portti_lists.get_or_create(&of), kind.lists);
            let heard = kind.heard_unix_ns.unwrap_or_default() / SECOND_NS;
            self.portti_heard_timestamp_seconds.get_or_create(&of).set(gauge(heard));
        }
        let facts = status.facts();
        for r#type in TYPES {
            let count = facts.delivered.get(r#type).copied().unwrap_or_default();
            set(&self.portti_facts.get_or_create(&OfType { r#type }), count);
        }
        set(&self.portti_delivery_failures, facts.failures);
        let alone = Election { reports: true, ..Election::default() };
        let Election { reports, takeovers, held, dropped, .. } = status.election().unwrap_or(alone);
        self.portti_reports.set(i64::from(reports));
        set(&self.portti_takeovers, takeovers);
        self.portti_held.set(gauge(held as u64));
        set(&self.portti_held_dropped, dropped);
        let synced = facts.synced_unix_ns.unwrap_or_default() / SECOND_NS;
        self.portti_synced_timestamp_seconds.set(gauge(synced));
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tapio_occurrence::{Occurrence, samples};
    use tapio_service::metrics::render;

    use super::{super::kinds::KINDS, *};

    #[test]
    fn each_series_is_there_from_the_start_and_follows_the_state() {
        let mut registry = Registry::with_prefix("tapio");
        let metrics = Metrics::registered(&mut registry);
        let status = Status::default();
        KINDS.iter().for_each(|kind| status.starting(kind.name, kind.lost));
        metrics.set(&status);
        let before = render(&registry).unwrap();
        assert!(before.contains("tapio_portti_watch_state{kind=\"Pod\",state=\"listing\"} 1\n"), "{before}");
        let fact: Occurrence = samples::occurrence();
        for kind in KINDS {
            status.heard(kind.name, 7 * SECOND_NS);
            status.watched(kind.name);
            status.count(kind.name, 3);
        }
        let of_type = |kind: &'static str| Occurrence { kind: kind.into(), ..fact.clone() };
        status.delivered(&TYPES.map(of_type));
        status.failed();
        status.synced(9 * SECOND_NS);
        metrics.set(&status);
        let after = render(&registry).unwrap();
        assert_eq!(after.lines().count(), before.lines().count(), "{after}");
        for line in [
            "tapio_portti_watch_state{kind=\"Pod\",state=\"listing\"} 0",
            "tapio_portti_watch_state{kind=\"Pod\",state=\"synced\"} 1",
            "tapio_portti_objects{kind=\"Pod\"} 3",
            "tapio_portti_lists_total{kind=\"Pod\"} 1",
            "tapio_portti_heard_timestamp_seconds{kind=\"Pod\"} 7",
            "tapio_portti_facts_total{type=\"kubernetes.change\"} 1",
            "tapio_portti_delivery_failures_total 1",
            "tapio_portti_synced_timestamp_seconds 9",
            "tapio_portti_reports 1",
        ] {
            assert!(after.lines().any(|known| known == line), "{line}: {after}");
        }
    }
}
