//! An agent with an OTLP sink, and occurrences to send.

use std::sync::Arc;

use tapio_delivery::otlp::{Otlp, Settings};
use tapio_occurrence::{
    Actor, Data, Normal, Occurrence, Outcome, Peer, PeerNames, Process, Severity, Value, Workload, samples,
};
use tapio_service::setting::Node as _;
use ulid::Ulid;

pub(crate) use crate::sinks::{Agent, until};

/// The settings of the section with these keys and values; the last of a repeated key wins.
pub(crate) fn settings(keys: &[(&str, &str)]) -> Settings {
    let mut settings = Settings::default();
    for (key, text) in keys {
        settings.assign(key, text).unwrap_or_else(|wrong| panic!("{key}: {wrong}"));
    }
    settings.check().unwrap();
    settings
}

pub(crate) fn otlp(keys: &[(&str, &str)]) -> Otlp {
    Otlp::new(&settings(keys), true).unwrap().expect("an endpoint")
}

impl Agent {
    pub(crate) fn new(keys: &[(&str, &str)]) -> Self {
        Self::with(otlp(keys))
    }

    pub(crate) fn send(&mut self, count: usize) {
        for _ in 0..count {
            self.give(spike());
        }
    }

    /// Sends until the sink reports why it does not deliver.
    pub(crate) async fn retrying(&mut self) -> String {
        self.send(1);
        let status = until(|| self.status(), |status| status.state.to_string().starts_with("retrying")).await;
        status.state.to_string()
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// An occurrence of a pod, with a named peer.
pub(crate) fn spike() -> Occurrence {
    Occurrence {
        id: Ulid::generate(),
        outcome: Outcome::Unknown,
        message: "checkout: RTT to redis.default:6379 is 41 ms".to_owned(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f-x2x"),
            pod_uid: some("4c2e6c0e"),
            container: some("app"),
            container_id: some("8f14e45fceea"),
            runtime: Some("containerd".into()),
            image: some("registry.example:5000/shop/checkout:1.4"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            unit: None,
            labels: vec![("resource.opentelemetry.io/team".to_owned(), "pay".to_owned())],
        })),
        peer: Some(Peer {
            address: "10.0.3.7".parse().unwrap(),
            port: 6379,
            names: Some(Arc::new(PeerNames {
                namespace: some("default"),
                service: some("redis"),
                owner_kind: some("StatefulSet"),
                owner: some("redis"),
                ..PeerNames::default()
            })),
        }),
        data: Data::from([
            ("rtt_us", Value::Number(41_000)),
            ("certain_us", Value::Number(40_000)),
            ("local_address", "10.0.1.2".into()),
            ("local_port", Value::Number(40_312)),
            ("direction", Value::Text("outbound".into())),
        ]),
        count: 3,
        ..samples::occurrence()
    }
}

/// An occurrence of a unit, with a list and an actor.
pub(crate) fn oom_kill() -> Occurrence {
    let user = |pid, comm: &'static str, rss: Option<u64>| {
        let all = [
            ("pid", Some(Value::Number(pid))),
            ("comm", Some(Value::Text(comm.into()))),
            ("rss_bytes", rss.map(Value::Number)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    };
    Occurrence {
        kind: "container.oom_kill".into(),
        severity: Severity::Error,
        outcome: Outcome::Failure,
        message: "nginx was killed".to_owned(),
        workload: Some(Arc::new(Workload { unit: some("nginx.service"), ..Workload::default() })),
        actor: Some(Actor {
            process: Process { pid: 7, comm: "hog".to_owned() },
            workload: Some(Arc::new(Workload { unit: some("hog.service"), ..Workload::default() })),
        }),
        peer: None,
        data: Data::from([
            ("oom_score_adj", Value::Signed(-5)),
            ("users", Value::List(vec![user(7, "hog", Some(1 << 30)), user(8, "nginx", None)])),
            ("status", Value::Number(137)),
        ]),
        baseline: None,
        count: 1,
        ..spike()
    }
}

/// An occurrence of the node itself, with a floating-point number and another workload.
pub(crate) fn outlier() -> Occurrence {
    Occurrence {
        kind: "node.cpi_outlier".into(),
        message: "node-a needs 1.9 cycles per instruction".to_owned(),
        workload: None,
        process: None,
        peer: None,
        data: Data::from([
            ("cpi", Value::Real(1.94)),
            (
                "noisy_neighbour",
                Value::Workload(Arc::new(Workload { pod: some("batch-0"), ..Workload::default() })),
            ),
        ]),
        baseline: Some(Normal {
            mean: 900,
            deviation: 40,
            unit: "cycles/1024 instructions".into(),
            samples: 40,
            ratio: None,
        }),
        count: 1,
        ..spike()
    }
}

/// An occurrence of a process outside any workload, over IPv6.
pub(crate) fn timeout() -> Occurrence {
    Occurrence {
        kind: "network.connection_timeout".into(),
        severity: Severity::Critical,
        outcome: Outcome::Timeout,
        message: "no answer".to_owned(),
        cluster: None,
        workload: None,
        peer: Some(Peer::unresolved("fd00::7".parse().unwrap(), 443)),
        data: Data::from([
            ("elapsed_us", Value::Number(3_021_500)),
            ("error", Value::Text("ETIMEDOUT".into())),
            ("local_address", "fd00::1".into()),
            ("local_port", Value::Number(8080)),
            ("direction", Value::Text("inbound".into())),
        ]),
        baseline: None,
        count: 1,
        ..spike()
    }
}
