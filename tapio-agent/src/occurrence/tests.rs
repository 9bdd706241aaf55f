use super::*;
use crate::printable;

/// One with everything, for tests.
pub(crate) fn sample() -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::from_parts(1_795_141_098_123, 7),
        time_unix_ns: 1_795_141_098_123_456_789,
        source: SOURCE,
        kind: "network.rtt_spike",
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
            runtime: Some("containerd"),
            image: some("registry.example/checkout:1.2"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            unit: None,
            labels: vec![("app.kubernetes.io/name".to_owned(), "checkout".to_owned())],
            written: Written::new(),
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
                written: Written::new(),
            })),
        }),
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

#[test]
fn json_has_stable_names_in_order() {
    let expected = r#"{"id":"01M7VBYPMB0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","cluster":"prod","node":"node-a","workload":{"namespace":"shop","pod":"checkout-7d9f-x2x","pod_uid":"4c2e6c0e-5b0e-4f1c-9f55-0c6f1d7e8a90","container":"app","container_id":"8f14e45fceea167a5a36dedd4bea2543b1d5781111d84f7b3fe45a0852e59758","runtime":"containerd","image":"registry.example/checkout:1.2","owner_kind":"Deployment","owner":"checkout"},"process":{"pid":4242,"comm":"checkout"},"peer":{"address":"10.0.3.7","port":6379,"namespace":"default","service":"redis","pod":"redis-0","node":"node-b","owner_kind":"StatefulSet","owner":"redis"},"data":{"rtt_us":41000,"direction":"outbound","local_address":"10.0.1.2","local_port":40312},"baseline":{"mean":5000,"deviation":400,"unit":"us","samples":18211,"ratio":8.2},"count":1}"#;
    assert_eq!(serde_json::to_string(&sample()).unwrap(), expected);
}

#[test]
fn what_is_not_known_is_absent_from_json() {
    let bare = Occurrence {
        cluster: None,
        workload: None,
        process: None,
        peer: None,
        data: Data::default(),
        baseline: None,
        ..sample()
    };
    let expected = r#"{"id":"01M7VBYPMB0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","node":"node-a","count":1}"#;
    assert_eq!(serde_json::to_string(&bare).unwrap(), expected);
}

/// Every field there or not, every text harmless or not.
fn random(rng: &mut fastrand::Rng) -> Occurrence {
    const TEXTS: [&str; 12] = [
        "",
        "a",
        "checkout",
        "checkout-7d9f-x2x",
        "\"",
        "a\\b",
        "tab\t and 8+ bytes",
        "\u{1}",
        "ends with \n",
        "h\u{e9}llo w\u{f6}rld",
        "\u{7f}\u{80}\u{2028}",
        "0123456789abcdef0123456789abcdef\r",
    ];
    let mut text = || rng.bool().then(|| TEXTS[rng.usize(..TEXTS.len())].to_owned());
    let workload = Workload {
        namespace: text(),
        pod: text(),
        pod_uid: text(),
        container: text(),
        container_id: text(),
        runtime: text().map(|_| "docker"),
        image: text(),
        owner_kind: text(),
        owner: text(),
        unit: text(),
        labels: Vec::new(),
        written: Written::new(),
    };
    let (message, node) = (text().unwrap_or_default(), text().unwrap_or_default().into());
    let cluster = text().map(Into::into);
    let process = text().map(|comm| Process { pid: 7, comm });
    let unit = text().map(|unit| Arc::new(Workload { unit: Some(unit), ..Workload::default() }));
    let actor = text().map(|comm| Actor { process: Process { pid: 8, comm }, workload: unit });
    let names = PeerNames {
        namespace: text(),
        service: text(),
        pod: text(),
        node: text(),
        owner_kind: text(),
        owner: text(),
        written: Written::new(),
    };
    let other = Workload { namespace: text(), pod: text(), unit: text(), ..Workload::default() };
    let values = [
        Value::Text(text().unwrap_or_default().into()),
        Value::Number(rng.u64(..)),
        Value::Signed(rng.i64(..)),
        Value::Real(rng.f64()),
        Value::List(vec![Data(vec![("one", 1.into()), ("two", "2".into())]); rng.usize(..3)]),
        Value::Workload(Arc::new(other)),
    ];
    let address = match rng.bool() {
        true => IpAddr::from(rng.u32(..).to_be_bytes()),
        false => IpAddr::from((rng.u128(..) >> rng.u32(..128)).to_be_bytes()),
    };
    let ratio = rng.bool().then(|| rng.f64() * 100.0);
    let baseline = Normal { mean: rng.u64(..), deviation: 0, unit: "us", samples: rng.u32(..), ratio };
    Occurrence {
        id: Ulid::from_parts(rng.u64(..1 << 48), rng.u128(..)),
        time_unix_ns: rng.u64(..),
        severity: [Severity::Debug, Severity::Info, Severity::Error, Severity::Critical][rng.usize(..4)],
        outcome: [Outcome::Success, Outcome::Failure, Outcome::Timeout, Outcome::Unknown][rng.usize(..4)],
        message,
        cluster,
        node,
        workload: rng.bool().then(|| Arc::new(if rng.bool() { workload } else { Workload::default() })),
        process,
        actor,
        peer: rng.bool().then(|| Peer {
            address,
            port: rng.u16(..),
            names: rng.bool().then(|| names.into()),
        }),
        data: Data(values.into_iter().map(|value| ("key", value)).take(rng.usize(..5)).collect()),
        baseline: rng.bool().then_some(baseline),
        count: rng.u64(..),
        ..sample()
    }
}

#[test]
fn json_by_hand_is_json_as_derived() {
    let mut rng = fastrand::Rng::with_seed(7);
    for occurrence in std::iter::repeat_with(|| random(&mut rng)).take(3000) {
        let mut by_hand = Vec::new();
        occurrence.write_json(&mut by_hand);
        let derived = serde_json::to_string(&occurrence).unwrap();
        assert_eq!(String::from_utf8(by_hand).unwrap(), printable::json(&derived));
    }
    // Each byte at each place of sixteen, beside them and beyond them.
    for (byte, at) in (0..128u8).flat_map(|byte| (0..36).map(move |at| (byte, at))) {
        let mut text = [b'a'; 36];
        text[at] = byte;
        for length in at + 1..=36 {
            let message = String::from_utf8(text[..length].to_vec()).unwrap();
            let escaped = serde_json::to_string(&message).unwrap();
            let escaped = printable::json(&escaped);
            let mut by_hand = Vec::new();
            Occurrence { message, ..sample() }.write_json(&mut by_hand);
            let by_hand = String::from_utf8(by_hand).unwrap();
            assert!(by_hand.contains(&format!(r#""message":{escaped},"#)), "{by_hand}");
        }
    }
}
