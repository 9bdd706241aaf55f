//! An agent with this sink, and something to give to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tapio_delivery::polku::{Polku, Settings, Timings};
use tapio_occurrence::{Data, Normal, Occurrence, Outcome, Peer, Process, SOURCE, Severity, Value, Workload};
use tapio_service::setting::Node as _;
use ulid::Ulid;

pub(crate) use crate::sinks::{Agent, until};

pub(crate) fn occurrence() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::generate(),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE.into(),
        kind: "network.rtt_spike".into(),
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
        peer: Some(Peer::unresolved("10.0.3.7".parse().unwrap(), 6379)),
        data: Data::from([
            ("rtt_us", Value::Number(41_000)),
            ("direction", Value::Text("outbound".into())),
            ("local_address", "10.0.1.2".into()),
            ("local_port", Value::Number(40_312)),
        ]),
        baseline: Some(Normal {
            mean: 5000,
            deviation: 400,
            unit: "us".into(),
            samples: 18_211,
            ratio: Some(8.2),
        }),
        count: 1,
    }
}

pub(crate) fn settings(keys: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    for (key, text) in keys {
        settings.assign(key, text).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
    }
    settings.check().unwrap();
    settings
}

impl Agent {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::to(&address.to_string())
    }

    pub(crate) fn to(endpoint: &str) -> Self {
        Self::set(&[("endpoint", endpoint)])
    }

    /// One with these keys of the section.
    pub(crate) fn set(keys: &[(&str, &str)]) -> Self {
        let timings = Timings {
            connect: Duration::from_secs(10),
            refusal: Duration::from_secs(10),
            ack: Duration::from_secs(3),
            age: Duration::from_millis(5),
            look: Duration::from_millis(100),
            ..Timings::default()
        };
        Self::with(Polku::new(&settings(keys), Some("prod".into()), timings).unwrap().unwrap())
    }

    pub(crate) fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.give(occurrence());
        }
    }
}
