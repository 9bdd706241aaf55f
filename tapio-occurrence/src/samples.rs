//! Sample occurrences and texts for tests (feature `samples`).

use std::{net::IpAddr, sync::Arc};

use ulid::Ulid;

use crate::{
    Data, Normal, Occurrence, Outcome, Peer, PeerNames, Process, SOURCE, Severity, Value, Workload,
    printable::is_active,
};

/// An occurrence with every field set.
#[must_use]
pub fn occurrence() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::from_parts(1_795_141_098_123, 7),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE.into(),
        kind: "network.rtt_spike".into(),
        severity: Severity::Warning,
        outcome: Outcome::Failure,
        message: "checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms".to_owned(),
        cluster: Some("prod".into()),
        node: "node-a".into(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f-x2x"),
            pod_uid: some("4c2e6c0e-5b0e-4f1c-9f55-0c6f1d7e8a90"),
            container: some("app"),
            container_id: some("8f14e45fceea167a5a36dedd4bea2543b1d5781111d84f7b3fe45a0852e59758"),
            runtime: Some("containerd".into()),
            image: some("registry.example/checkout:1.2"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            unit: None,
            labels: vec![("app.kubernetes.io/name".to_owned(), "checkout".to_owned())],
        })),
        process: Some(Process { pid: 4242, comm: "checkout".to_owned() }),
        actor: None,
        peer: Some(Peer {
            address: IpAddr::from([10, 0, 3, 7]),
            port: 6379,
            names: Some(Arc::new(PeerNames {
                namespace: some("default"),
                service: some("redis"),
                pod: some("redis-0"),
                node: some("node-b"),
                owner_kind: some("StatefulSet"),
                owner: some("redis"),
            })),
        }),
        data: Data::from([
            ("rtt_us", Value::Number(41_000)),
            ("direction", Value::Text("outbound".into())),
            ("local_address", IpAddr::from([10, 0, 1, 2]).into()),
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

/// One sequence of each harmful kind, for tests of all outputs.
pub const HOSTILE: &str = "evil\x1b[2J\u{1b}]0;x\x07\r\nERROR all\0ok\t\x08\x7f\u{85}\u{9b}31m\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\
                                  \u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}end";

/// Whether an output shows [`HOSTILE`] in escaped form only. Its own line breaks do not count.
pub fn is_harmless(output: &str) -> bool {
    output.contains("evil")
        && output.contains("end")
        && !output.contains(|c: char| c != '\n' && is_active(c))
        && !output.lines().any(|line| line.trim_start().starts_with("ERROR all"))
}
