use std::net::Ipv6Addr;

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::{
    event::{NotOne, event},
    kubernetes::{Aspect, Change, Condition, Fact as _, Field, Reference},
    printable,
    samples::{HOSTILE, is_harmless, occurrence},
};

#[test]
fn json_has_stable_names_in_order() {
    let expected = r#"{"id":"01M7VBYPMB0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","cluster":"prod","node":"node-a","workload":{"namespace":"shop","pod":"checkout-7d9f-x2x","pod_uid":"4c2e6c0e-5b0e-4f1c-9f55-0c6f1d7e8a90","container":"app","container_id":"8f14e45fceea167a5a36dedd4bea2543b1d5781111d84f7b3fe45a0852e59758","runtime":"containerd","image":"registry.example/checkout:1.2","owner_kind":"Deployment","owner":"checkout"},"process":{"pid":4242,"comm":"checkout"},"peer":{"address":"10.0.3.7","port":6379,"namespace":"default","service":"redis","pod":"redis-0","node":"node-b","owner_kind":"StatefulSet","owner":"redis"},"data":{"rtt_us":41000,"direction":"outbound","local_address":"10.0.1.2","local_port":40312},"baseline":{"mean":5000,"deviation":400,"unit":"us","samples":18211,"ratio":8.2},"count":1}"#;
    assert_eq!(serde_json::to_string(&occurrence()).unwrap(), expected);
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
        ..occurrence()
    };
    let expected = r#"{"id":"01M7VBYPMB0000000000000007","timestamp":"2026-11-20T02:18:18.123456789Z","source":"tapio","type":"network.rtt_spike","severity":"warning","outcome":"failure","message":"checkout-7d9f: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms","node":"node-a","count":1}"#;
    assert_eq!(serde_json::to_string(&bare).unwrap(), expected);
}

/// Arbitrary text, harmless or not.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        select(vec!["", "checkout-7d9f-x2x", "\"", "a\\b", "ends with \n", "\u{7f}\u{80}\u{2028}", HOSTILE])
            .prop_map(str::to_owned),
        any::<String>(),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    text().prop_map(Name::Owned)
}

prop_compose! {
    fn workload()(
        names in vec(option::of(text()), 9),
        runtime in option::of(name()),
    ) -> Workload {
        let mut names = names.into_iter().flatten();
        Workload {
            namespace: names.next(),
            pod: names.next(),
            pod_uid: names.next(),
            container: names.next(),
            container_id: names.next(),
            runtime,
            image: names.next(),
            owner_kind: names.next(),
            owner: names.next(),
            unit: names.next(),
            labels: Vec::new(),
        }
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u64>().prop_map(Value::Number),
        (i64::MIN..0).prop_map(Value::Signed),
        any::<f64>().prop_filter("JSON has no other", |number| number.is_finite()).prop_map(Value::Real),
        name().prop_map(Value::Text),
        any::<Ipv6Addr>().prop_map(|address| IpAddr::from(address).into()),
        workload().prop_map(|workload| Value::Workload(workload.into())),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        vec(vec((name(), inner), 0..3).prop_map(Data), 0..3).prop_map(Value::List)
    })
}

fn process() -> impl Strategy<Value = Process> {
    (any::<u32>(), text()).prop_map(|(pid, comm)| Process { pid, comm })
}

prop_compose! {
    fn peer()(address in any::<IpAddr>(), port in any::<u16>(), names in vec(option::of(text()), 6)) -> Peer {
        let mut names = names.into_iter().flatten();
        let names = PeerNames {
            namespace: names.next(),
            service: names.next(),
            pod: names.next(),
            node: names.next(),
            owner_kind: names.next(),
            owner: names.next(),
        };
        Peer { address, port, names: (names != PeerNames::default()).then(|| names.into()) }
    }
}

prop_compose! {
    fn any_occurrence()(
        (id, time_unix_ns, count) in any::<(u128, u64, u64)>(),
        severity in select(vec![Severity::Debug, Severity::Info, Severity::Warning, Severity::Error, Severity::Critical]),
        outcome in select(vec![Outcome::Success, Outcome::Failure, Outcome::Timeout, Outcome::Unknown]),
        (message, node, cluster, kind) in (text(), text(), option::of(text()), name()),
        workload in option::of(workload().prop_map(Arc::new)),
        (process, actor) in (option::of(process()), option::of((process(), option::of(workload().prop_map(Arc::new))))),
        peer in option::of(peer()),
        data in vec((name(), value()), 0..5).prop_map(Data),
        baseline in option::of((any::<(u64, u64, u32)>(), name(), option::of(0.0..1e9))),
    ) -> Occurrence {
        Occurrence {
            id: Ulid(id),
            time_unix_ns,
            source: SOURCE.into(),
            kind,
            severity,
            outcome,
            message,
            cluster: cluster.map(Into::into),
            node: node.into(),
            workload,
            process,
            actor: actor.map(|(process, workload)| Actor { process, workload }),
            peer,
            data,
            baseline: baseline
                .map(|((mean, deviation, samples), unit, ratio)| Normal { mean, deviation, unit, samples, ratio }),
            count,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_fit_for_a_terminal(given in any_occurrence()) {
        let mut json = b"before ".to_vec();
        given.write_json(&mut json);
        let json = str::from_utf8(&json).unwrap().strip_prefix("before ").unwrap();
        prop_assert!(!json.contains(printable::is_active), "{}", json);
        prop_assert_eq!(&Occurrence::read_json(json.as_bytes()).unwrap(), &given);
        prop_assert_eq!(&event::occurrence(&event(&given)).unwrap(), &given);
    }

    #[test]
    fn what_is_not_an_occurrence_is_refused_and_nothing_panics(bytes: Vec<u8>, cut in 0..1000usize) {
        prop_assert!(Occurrence::read_json(&bytes).is_err());
        let mut json = Vec::new();
        occurrence().write_json(&mut json);
        json.truncate(cut);
        prop_assert!(Occurrence::read_json(&json).is_err() || cut >= json.len());
    }
}

#[test]
fn hostile_texts_are_harmless_as_json() {
    let mut json = Vec::new();
    Occurrence { message: HOSTILE.to_owned(), ..occurrence() }.write_json(&mut json);
    assert!(is_harmless(str::from_utf8(&json).unwrap()));
}

#[test]
fn what_a_newer_version_has_besides_is_left_out() {
    let json = serde_json::to_string(&occurrence()).unwrap();
    let newer =
        json.replacen('{', r#"{"trace":{"id":[1]},"#, 1).replacen(r#""pod":"#, r#""zone":"a","pod":"#, 1);
    let read = Occurrence::read_json(newer.as_bytes()).unwrap();
    let Some(workload) = &occurrence().workload else { unreachable!() };
    // Labels are only for sinks on the node.
    let workload = Workload { labels: Vec::new(), ..(**workload).clone() };
    assert_eq!(read, Occurrence { workload: Some(workload.into()), ..occurrence() });
}

#[test]
fn an_error_says_what_is_wrong_and_where() {
    let json = serde_json::to_string(&occurrence()).unwrap();
    for (from, to, what) in [
        ("2026-11-20T02", "2026-11-32T02", "day"),
        ("2026-11-20T02", "1926-11-20T02", "1926-11-20T02:18:18.123456789Z is before 1970"),
        (r#""warning""#, r#""fatal""#, "unknown variant `fatal`, expected one of `debug`"),
        (r#""count":1"#, r#""count":-1"#, "invalid value: integer `-1`, expected u64"),
        (r#""id":"01M7"#, r#""id":"01"#, "invalid length"),
    ] {
        let error = Occurrence::read_json(json.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains(" at line 1 column "), "{error}");
    }
}

#[test]
fn an_event_that_was_changed_on_the_way_is_no_occurrence() {
    let mut changed = event(&occurrence());
    changed.id = "gateway-1".to_owned();
    let error = event::occurrence(&changed).unwrap_err();
    let payload = occurrence().id;
    assert_eq!(error.to_string(), format!("its id is gateway-1, and its payload's is {payload}"));
    changed.payload = b"LOG line".to_vec();
    assert!(matches!(event::occurrence(&changed), Err(NotOne::Payload(_))));
}

#[test]
fn times_have_nine_digits() {
    for (unix_ns, text) in [
        (0, "1970-01-01T00:00:00.000000000Z"),
        (951_782_399_999_999_999, "2000-02-28T23:59:59.999999999Z"),
        (u64::MAX, "2554-07-21T23:34:33.709551615Z"),
    ] {
        assert_eq!(format!("{:.9}", timestamp(unix_ns)), text);
    }
}

#[test]
fn a_look_up_is_an_event_with_its_name_and_answer() {
    let data = [("question", "redis.prod".into()), ("transport", "udp".into()), ("error", "SERVFAIL".into())];
    let sent = event(&Occurrence { data: Data::from(data), ..occurrence() });
    let Some(event::v1::event::Data::Network(network)) = sent.data else { panic!("{:?}", sent.data) };
    assert_eq!((&*network.dns_query, &*network.dns_response), ("redis.prod", "SERVFAIL"));
    assert_eq!(network.protocol, "udp");
}

#[test]
fn what_portti_says_is_data_of_an_occurrence_and_back() {
    let object = Reference {
        kind: "Deployment".to_owned(),
        namespace: Some("shop".to_owned()),
        name: "pay".to_owned(),
        uid: None,
    };
    let change = Change {
        object: object.clone(),
        fields: vec![Field {
            path: "spec.template.spec.containers.app.image".to_owned(),
            aspect: Aspect::Image,
            from: Some("pay:1".to_owned()),
            to: Some("pay:2".to_owned()),
        }],
        generation: Some(3),
        ..Change::default()
    };
    let mut occurrence = Occurrence { peer: None, ..occurrence() };
    occurrence.workload = None;
    (occurrence.kind, occurrence.node) = (Change::TYPE.into(), "".into());
    occurrence.data = change.to_data().unwrap();
    let mut json = Vec::new();
    occurrence.write_json(&mut json);
    let text = str::from_utf8(&json).unwrap();
    assert!(text.contains(r#""aspect":"image""#) && !text.contains(r#""node":"#), "{text}");
    let read = Occurrence::read_json(&json).unwrap();
    assert_eq!(read, occurrence);
    assert_eq!(Change::of(&read).unwrap().unwrap(), change);
    assert!(Condition::of(&read).is_none());
    let condition =
        Condition { object, condition: "Waiting".to_owned(), exit_code: Some(-1), ..Condition::default() };
    assert_eq!(condition.to_data().unwrap().get("exit_code"), Some(&Value::Signed(-1)));
}
