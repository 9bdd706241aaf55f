//! An agent with a POLKU sink, and occurrences to send.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tapio_delivery::polku::{Polku, Settings, Timings};
use tapio_occurrence::{Occurrence, Peer, Workload, samples};
use tapio_service::setting::Node as _;
use ulid::Ulid;

pub(crate) use crate::sinks::{Agent, until};

pub(crate) fn occurrence() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::generate(),
        message: "checkout: RTT to redis.default:6379 is 41 ms".to_owned(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f-x2x"),
            pod_uid: some("4c2e6c0e"),
            container_id: some("8f14e45fceea"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            ..Workload::default()
        })),
        peer: Some(Peer::unresolved("10.0.3.7".parse().unwrap(), 6379)),
        ..samples::occurrence()
    }
}

pub(crate) fn settings(keys: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    for (key, text) in keys {
        settings.assign(key, text).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
    }
    settings.check("polku").unwrap();
    settings
}

impl Agent {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self::to(&address.to_string())
    }

    pub(crate) fn to(endpoint: &str) -> Self {
        Self::set(&[("endpoint", endpoint)])
    }

    /// Creates one with these keys of the section.
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
