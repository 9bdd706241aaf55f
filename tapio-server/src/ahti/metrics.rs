//! The role's metrics.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tapio_ahti::{
    Ledger, Stock,
    incident::{Certainty, Status},
};
use tapio_service::metrics::{gauge, metrics, set};

/// The metrics of the role.
#[derive(Debug)]
pub(super) struct Metrics {
    own: Own,
    delay: Histogram,
}

metrics! {
    /// Metrics that only a process with this role has.
    struct Own {
        ahti_facts: Family<OfOutcome, Counter> = "Facts that the engine was given, by what became of them",
        ahti_behind_facts: Gauge = "Facts in the journal that the engine has not taken yet",
        ahti_behind_seconds: Gauge = "How long ago the engine had taken all facts that there were; 0 if it has now",
        ahti_restored: Gauge = "1 once everything that was in the journal at the start has been taken, so that there are answers",
        ahti_entities: Gauge = "Objects in the graph",
        ahti_versions: Gauge = "Versions of these objects",
        ahti_connections: Gauge = "Connections in the graph: a client with an address and a port",
        ahti_findings: Gauge = "Findings",
        ahti_findings_left_out: Gauge = "Findings that the latest explanations leave out, since more belong together than are weighed",
        ahti_incidents: Family<OfIncident, Gauge> = "Incidents that are known, by status and certainty; resolved ones stay among them",
        ahti_let_go: Family<LetGo, Counter> = "What the engine has let go, by reason: over for a day, or too many",
        ahti_rules: Gauge = "Rules that are loaded",
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfIncident {
    status: &'static str,
    certainty: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LetGo {
    what: &'static str,
    reason: &'static str,
}

/// Upper bounds in seconds. An incident opens when a symptom has lasted for 30 s.
const DELAYS: [f64; 10] = [1.0, 10.0, 30.0, 35.0, 40.0, 60.0, 120.0, 300.0, 900.0, 3_600.0];
const STATUSES: [(Status, &str); 3] =
    [(Status::Open, "open"), (Status::Resolved, "resolved"), (Status::Regressed, "regressed")];
const CERTAINTIES: [(Certainty, &str); 3] = [
    (Certainty::Inconclusive, "inconclusive"),
    (Certainty::Likely, "likely"),
    (Certainty::Confirmed, "confirmed"),
];

/// How far the engine is behind the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Behind {
    /// Facts that it has not taken yet.
    pub(super) facts: u64,
    /// How long ago it had taken all that there were.
    pub(super) time: Duration,
}

impl Metrics {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let delay = Histogram::new(DELAYS);
        let help = "Seconds from the first symptom of an incident until there was the incident, the 30 s included that a symptom has to last";
        registry.register("ahti_incident_delay_seconds", help, delay.clone());
        Self { own: Own::registered(registry), delay }
    }

    /// An incident was opened so long after its first symptom.
    pub(super) fn opened(&self, delay: Duration) {
        self.delay.observe(delay.as_secs_f64());
    }

    /// Copies the role's state.
    pub(super) fn set(&self, stock: &Stock, ledger: &Ledger, opaque: u64, behind: Behind, is_restored: bool) {
        let own = &self.own;
        let outcomes = [
            ("taken", ledger.taken),
            ("repeated", ledger.repeated),
            ("refused", ledger.refused),
            ("opaque", opaque),
        ];
        for (outcome, count) in outcomes {
            set(&own.ahti_facts.get_or_create(&OfOutcome { outcome }), count);
        }
        own.ahti_behind_facts.set(gauge(behind.facts));
        own.ahti_behind_seconds.set(gauge(behind.time.as_secs()));
        own.ahti_restored.set(i64::from(is_restored));
        for (metric, number) in [
            (&own.ahti_entities, stock.entities),
            (&own.ahti_versions, stock.versions),
            (&own.ahti_connections, stock.connections),
            (&own.ahti_findings, stock.findings),
            (&own.ahti_findings_left_out, stock.left_out),
            (&own.ahti_rules, stock.rules),
        ] {
            metric.set(gauge(number as u64));
        }
        for (of_status, status) in STATUSES {
            for (of_certainty, certainty) in CERTAINTIES {
                let count = stock.incidents.get(&(of_status, of_certainty)).copied().unwrap_or_default();
                let labels = OfIncident { status, certainty };
                own.ahti_incidents.get_or_create(&labels).set(gauge(count as u64));
            }
        }
        for (what, reason, count) in [
            ("entity", "age", ledger.expired_entities),
            ("entity", "full", ledger.refused_entities),
            ("version", "full", ledger.evicted_versions),
            ("connection", "age", ledger.expired_connections),
            ("connection", "full", ledger.refused_connections),
            ("finding", "age", ledger.expired_findings),
            ("finding", "full", ledger.evicted_findings),
            ("incident", "full", ledger.evicted_incidents),
            ("heartbeat", "full", ledger.refused_heartbeats),
            ("usual", "full", ledger.refused_usual),
            ("verdict", "full", ledger.refused_verdicts),
            ("mute", "full", ledger.refused_mutes),
        ] {
            set(&own.ahti_let_go.get_or_create(&LetGo { what, reason }), count);
        }
    }
}

#[cfg(test)]
mod tests {
    use tapio_service::metrics::{classic, render};

    use super::*;

    #[test]
    fn each_series_is_there_from_the_start_and_follows_the_state() {
        let mut registry = Registry::with_prefix("tapio");
        let metrics = Metrics::registered(&mut registry);
        metrics.set(&Stock::default(), &Ledger::default(), 0, Behind::default(), false);
        let before = render(&registry).unwrap();
        let stock = Stock {
            versions: 5,
            incidents: [((Status::Regressed, Certainty::Likely), 2)].into(),
            ..Stock::default()
        };
        let ledger = Ledger { taken: 7, expired_entities: 3, ..Ledger::default() };
        let behind = Behind { facts: 4, time: Duration::from_secs(2) };
        metrics.set(&stock, &ledger, 1, behind, true);
        metrics.opened(Duration::from_secs(33));
        let after = classic(&render(&registry).unwrap());
        assert_eq!(after.lines().count() + 1, before.lines().count(), "{after}");
        for line in [
            "tapio_ahti_facts_total{outcome=\"taken\"} 7",
            "tapio_ahti_facts_total{outcome=\"opaque\"} 1",
            "tapio_ahti_versions 5",
            "tapio_ahti_behind_facts 4",
            "tapio_ahti_behind_seconds 2",
            "tapio_ahti_restored 1",
            "tapio_ahti_incidents{status=\"regressed\",certainty=\"likely\"} 2",
            "tapio_ahti_let_go_total{what=\"entity\",reason=\"age\"} 3",
            "tapio_ahti_incident_delay_seconds_bucket{le=\"30.0\"} 0",
            "tapio_ahti_incident_delay_seconds_bucket{le=\"35.0\"} 1",
        ] {
            assert!(after.lines().any(|known| known == line), "{line}: {after}");
        }
    }
}
