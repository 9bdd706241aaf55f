//! A sink as the agent has it, and something to give to it.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tapio_agent::{
    metrics::Metrics,
    occurrence::{Data, Normal, Occurrence, Outcome, Peer, Process, SOURCE, Severity, Value, Workload},
    sink::{
        Ledger, Sinks, Status,
        polku::{Polku, Timings, parse_endpoint},
    },
};
use ulid::Ulid;

pub(crate) fn occurrence() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::generate(),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE,
        kind: "network.rtt_spike",
        severity: Severity::Warning,
        outcome: Outcome::Failure,
        message: "checkout: RTT to redis.default:6379 is 41 ms".to_owned(),
        cluster: Some("prod".into()),
        node: "node-a".into(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f-x2x"),
            pod_uid: some("4c2e6c0e"),
            container_id: some("8f14e45fceea"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            ..Workload::default()
        })),
        process: Some(Process { pid: 4242, comm: "checkout".to_owned() }),
        actor: None,
        peer: Some(Peer::unnamed("10.0.3.7".parse().unwrap(), 6379)),
        data: Data(vec![
            ("rtt_us", Value::Number(41_000)),
            ("direction", Value::Text("outbound".into())),
            ("local_address", Value::Address([10, 0, 1, 2].into())),
            ("local_port", Value::Number(40_312)),
        ]),
        baseline: Some(Normal { mean: 5000, deviation: 400, unit: "us", samples: 18_211, ratio: Some(8.2) }),
        count: 1,
    }
}

/// A sink to `address` and what it was given.
pub(crate) struct Agent {
    pub(crate) sinks: Sinks,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ids: BTreeSet<String>,
}

impl Agent {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::to(&address.to_string())
    }

    pub(crate) fn to(endpoint: &str) -> Self {
        let timings = Timings {
            connect: Duration::from_secs(2),
            ack: Duration::from_secs(1),
            age: Duration::from_millis(5),
            ..Timings::default()
        };
        let endpoint = parse_endpoint(endpoint).unwrap();
        let metrics = Arc::new(Metrics::default());
        let mut sinks = Sinks::new(Arc::clone(&metrics), 8192);
        sinks.add(Polku::new(endpoint, Some("prod".into()), timings));
        Self { sinks, metrics, ids: BTreeSet::new() }
    }

    pub(crate) fn give(&mut self, occurrence: Occurrence) -> String {
        let id = occurrence.id.to_string();
        self.ids.insert(id.clone());
        self.sinks.send(Arc::new(occurrence));
        id
    }

    pub(crate) fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.give(occurrence());
        }
    }

    pub(crate) fn status(&self) -> Status {
        let status = self.sinks.status().remove(0);
        assert!(status.ledger.balanced(), "{status:?}");
        status
    }

    /// Waits until the fate of everything is known.
    pub(crate) async fn settled(&self) -> Ledger {
        until(|| self.status(), |status| status.ledger.queued == 0).await.ledger
    }
}

/// Waits for a condition, and says what was there instead if it never comes.
pub(crate) async fn until<T: std::fmt::Debug>(mut look: impl FnMut() -> T, enough: impl Fn(&T) -> bool) -> T {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        let now = look();
        if enough(&now) {
            return now;
        }
        assert!(tokio::time::Instant::now() < end, "still {now:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
