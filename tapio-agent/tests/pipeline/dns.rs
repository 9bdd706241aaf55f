//! The DNS observer: from the bytes of the ring buffer to the lines that leave the node.

use proptest::prelude::*;
use serde_json::{Value, json};
use tapio_agent::observer::dns::Dns;
use tapio_common::{
    Header,
    baseline::{Baseline, Limits},
    dns::{DnsEvent, code, kind},
};

use super::{SECOND, conforms, line::Line};

const TIME_NS: u64 = 1_000 * SECOND;

/// An event about `redis.prod.svc.cluster.local`, asked at 10.96.0.10.
fn event(line: &Line, kind: u32) -> DnsEvent {
    let mut event: DnsEvent = bytemuck::Zeroable::zeroed();
    let name = b"\x05redis\x04prod\x03svc\x07cluster\x05local\0";
    bytemuck::bytes_of_mut(&mut event.name)[..name.len()].copy_from_slice(name);
    let mut comm = [0; 16];
    comm[..8].copy_from_slice(b"checkout");
    let address = |last: [u8; 4]| [0, 0, 0xffff_u32.to_be(), u32::from_ne_bytes(last)];
    DnsEvent {
        header: Header {
            time_ns: TIME_NS,
            cgroup_id: line.cgroup_id,
            pid: 4242,
            suppressed: 0,
            comm: comm.into(),
        },
        kind,
        resolver: address([10, 96, 0, 10]),
        local: address([10, 0, 0, 1]),
        resolver_port: 53_u16.to_be(),
        local_port: 40_000_u16.to_be(),
        question: 1,
        transport: 17,
        value_us: 1_500,
        queries: 1,
        name_hash: 7,
        name_len: name.len() as u64,
        ..event
    }
}

async fn reported(line: &mut Line, events: &[DnsEvent], after_ns: u64) -> Vec<Value> {
    for event in events {
        line.record(bytemuck::bytes_of(event));
    }
    line.tick(TIME_NS + after_ns);
    let reported = line.occurrences().await;
    reported.iter().for_each(conforms);
    reported
}

async fn message(event: impl FnOnce(&Line) -> DnsEvent) -> String {
    let mut line = Line::of::<Dns>();
    let event = event(&line);
    let [reported] = reported(&mut line, &[event], 6 * SECOND).await.try_into().unwrap();
    let message = reported["message"].as_str().unwrap();
    message.split_once(": ").unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages() {
    let at = "redis.prod.svc.cluster.local (A) at 10.96.0.10:53";
    let failure = |code| move |line: &Line| DnsEvent { code, ..event(line, kind::FAILURE) };
    assert_eq!(message(failure(code::SERVFAIL)).await, format!("DNS look-up of {at} failed: SERVFAIL"));
    let rejected = message(failure(code::UNREACHABLE + 3)).await;
    assert_eq!(rejected, format!("DNS look-up of {at} failed: nothing answers at that port"));
    let gone = message(|line| DnsEvent {
        code: code::NXDOMAIN,
        since_ns: TIME_NS - 12 * SECOND,
        ..event(line, kind::NAME_GONE)
    });
    assert_eq!(
        gone.await,
        format!("DNS look-up of {at} failed: the name no longer exists (NXDOMAIN); it did 12.0 s ago")
    );
    let timeout =
        message(|line| DnsEvent { queries: 2, value_us: 5_000_000, ..event(line, kind::ASKED_AGAIN) });
    assert_eq!(timeout.await, format!("DNS look-up of {at} was not answered: 2 queries in 10.0 s"));
    let slow = message(|line| DnsEvent { queries: 2, value_us: 5_020_000, ..event(line, kind::SLOW) });
    assert_eq!(slow.await, format!("DNS look-up of {at} took 5.0 s, with 2 queries"));
    let mut baseline = Baseline::default();
    for now in 0..20 {
        let _ = baseline.observe(500, now, &Limits::DEFAULT);
    }
    let slower = message(|line| DnsEvent {
        value_us: 60_000,
        since_ns: TIME_NS - 2 * SECOND,
        baseline,
        ..event(line, kind::LATENCY_SHIFT)
    });
    assert_eq!(slower.await, "DNS answers at 10.96.0.10:53 rose from 500 us to 60 ms 2.0 s ago");
    let burst = message(|line| DnsEvent {
        value_us: 10_000_000,
        queries: 90,
        answers: 95,
        code: code::NXDOMAIN,
        ..event(line, kind::NXDOMAIN_BURST)
    });
    assert_eq!(
        burst.await,
        "90 of 95 DNS answers at 10.96.0.10:53 within 10.0 s were that the name does not exist, the last for \
         redis.prod.svc.cluster.local"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_questions_of_a_look_up_are_one() {
    let mut line = Line::of::<Dns>();
    let one = DnsEvent { code: code::SERVFAIL, ..event(&line, kind::FAILURE) };
    let other = DnsEvent { question: 28, value_us: 9_000, ..one };
    let [both] = reported(&mut line, &[one, other], SECOND).await.try_into().unwrap();
    assert_eq!(both["data"]["question_type"], "A, AAAA");
    assert_eq!((&both["count"], &both["data"]["elapsed_us"]), (&json!(2), &json!(9_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_was_asked_again_waits_for_its_answer() {
    for (answered, types) in
        [([false, false], Some("A, AAAA")), ([true, false], Some("AAAA")), ([true; 2], None)]
    {
        let mut line = Line::of::<Dns>();
        let mut events = vec![];
        for question in [1, 28] {
            events.push(DnsEvent { question, ..event(&line, kind::ASKED_AGAIN) });
        }
        for (question, _) in [1, 28].into_iter().zip(answered).filter(|(_, answered)| *answered) {
            events.push(DnsEvent { question, ..event(&line, kind::SLOW) });
        }
        let all = reported(&mut line, &events, 5 * SECOND).await;
        let of = |kind: &str| all.iter().find(|reported| reported["type"] == kind);
        let timeout =
            of("network.dns_timeout").map(|timeout| timeout["data"]["question_type"].as_str().unwrap());
        assert_eq!(timeout, types);
        assert_eq!(of("network.dns_slow").is_some(), answered[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_is_reported_by_its_clients() {
    let mut line = Line::of::<Dns>();
    let failure = DnsEvent { code: code::SERVFAIL, ..event(&line, kind::FAILURE) };
    // It answers its client only after its own look-up has failed.
    let serves = event(&line, kind::SERVES);
    assert!(reported(&mut line, &[failure, serves], SECOND).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_cut_or_hashed_where_that_is_asked_for() {
    for (names, shown) in [("cut", "*.svc.cluster.local"), ("hash", "0000000000000007")] {
        let settings =
            tapio_agent::observer::dns::Settings { names: names.parse().unwrap(), ..Default::default() };
        let mut line = Line::with::<Dns>(&settings);
        let failure = DnsEvent { code: code::REFUSED, ..event(&line, kind::FAILURE) };
        let [reported] = reported(&mut line, &[failure], SECOND).await.try_into().unwrap();
        assert_eq!(reported["data"]["question"], shown);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Any bytes of the right size are an occurrence that conforms, or malformed.
    #[test]
    fn any_event(bytes in prop::collection::vec(any::<u8>(), size_of::<DnsEvent>()), kind in 0_u32..9) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut line = Line::of::<Dns>();
            let mut event: DnsEvent = bytemuck::pod_read_unaligned(&bytes);
            let (resolver, local) = (event.resolver, event.local);
            event.header = self::event(&line, kind).header;
            event.kind = kind;
            event.resolver = resolver;
            event.local = local;
            event.question %= 300;
            line.record(bytemuck::bytes_of(&event));
            line.tick(u64::MAX);
            drop(line.occurrences().await);
        });
    }
}
