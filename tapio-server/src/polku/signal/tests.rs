//! Properties: what is healthy says nothing, and what fails says it once.

use fastrand::Rng;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::LogRecord,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, ResourceMetrics, ScopeMetrics,
        metric::Data,
    },
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind},
};
use proptest::prelude::*;
use tapio_occurrence::{
    kubernetes::Fact as _,
    signal::{self, Phase, Signal},
};

use super::*;

const WINDOW_NS: u64 = 15_000_000_000;
const START_NS: u64 = 1_795_000_000_000_000_000;

fn pair(key: &str, text: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// A healthy call of a workload, in numbers.
#[derive(Clone, Copy, Debug)]
struct Healthy {
    /// Calls in a window.
    calls: u64,
    errors: f64,
    median_us: f64,
    /// Standard deviation of the logarithm of durations.
    spread: f64,
}

struct World {
    signals: Signals,
    rng: Rng,
    now_ns: u64,
    facts: Vec<Occurrence>,
    taken: Taken,
    pod: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            signals: Signals::new(Some("prod".into()), WINDOW_NS, START_NS),
            rng: Rng::with_seed(seed),
            now_ns: START_NS,
            facts: Vec::new(),
            taken: Taken::default(),
            pod: 1,
        }
    }

    fn normal(&mut self) -> f64 {
        // The sum of twelve is nearly normal.
        (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0
    }

    fn resource(&self, name: &str) -> Resource {
        let attributes = vec![
            pair("k8s.namespace.name", "shop"),
            pair("k8s.deployment.name", name),
            pair("k8s.pod.name", &format!("{name}-{}", self.pod)),
            pair("service.name", name),
        ];
        Resource { attributes, ..Resource::default() }
    }

    fn id<const N: usize>(&mut self) -> Vec<u8> {
        (0..N).map(|_| self.rng.u8(1..)).collect()
    }

    fn span(&mut self, kind: SpanKind, of: Healthy) -> Span {
        let duration_us = (of.median_us.ln() + of.spread * self.normal()).exp();
        let failed = self.rng.f64() < of.errors;
        let end_ns = self.now_ns - self.rng.u64(..WINDOW_NS);
        Span {
            trace_id: self.id::<16>(),
            span_id: self.id::<8>(),
            kind: kind.into(),
            start_time_unix_nano: end_ns - (duration_us * 1e3) as u64,
            end_time_unix_nano: end_ns,
            attributes: vec![pair("http.request.method", "GET")],
            status: Some(Status { code: if failed { 2 } else { 0 }, ..Status::default() }),
            ..Span::default()
        }
    }

    fn send(&mut self, name: &str, spans: Vec<Span>) {
        let part = ResourceSpans {
            resource: Some(self.resource(name)),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        self.signals.spans(&[part], self.now_ns, &mut self.taken);
    }

    fn close(&mut self) {
        let said = self.signals.close(self.now_ns).unwrap();
        self.facts.extend(said);
    }

    /// A window of calls to one workload.
    fn window(&mut self, of: Healthy) {
        self.now_ns += WINDOW_NS;
        let mean = of.calls as f64;
        let calls = (mean + mean.sqrt() * self.normal()).max(0.0) as u64;
        let spans = (0..calls).map(|_| self.span(SpanKind::Server, of)).collect();
        self.send("payments", spans);
        self.close();
    }

    fn windows(&mut self, count: u64, of: Healthy) {
        (0..count).for_each(|_| self.window(of));
    }

    /// All signals of a type, in order.
    fn said(&self, kind: &str) -> Vec<Signal> {
        let all = self.facts.iter().filter(|fact| fact.kind == kind);
        all.map(|fact| Signal::of(fact).unwrap().unwrap()).collect()
    }

    fn episodes(&self) -> Vec<(&'static str, u64)> {
        let kinds = [signal::ERRORS, signal::LATENCY, signal::LOGS];
        let began =
            |kind: &str| self.said(kind).iter().filter(|signal| signal.phase == Phase::Began).count() as u64;
        kinds.map(|kind| (kind, began(kind))).into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

fn healthy() -> impl Strategy<Value = Healthy> {
    let errors = prop_oneof![Just(0.0), 0.0..0.05, 0.05..0.4];
    (15_u64..150, errors, 500.0..200_000.0, 0.1..1.0).prop_map(|(calls, errors, median_us, spread)| Healthy {
        calls,
        errors,
        median_us,
        spread,
    })
}

/// A case takes a second without optimisation; `PROPTEST_CASES` is the long form.
fn some() -> ProptestConfig {
    let of_environment = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { of_environment.cases } else { 12 };
    ProptestConfig { cases, ..of_environment }
}

proptest! {
    #![proptest_config(some())]

    #[test]
    fn steady_noise_is_quiet(of in healthy(), seed: u64) {
        let mut world = World::new(seed);
        world.windows(400, of);
        prop_assert_eq!(world.episodes(), []);
        prop_assert_eq!(world.taken.refused, BTreeMap::new());
    }

    /// Six times as many calls as at night, and they take a little longer.
    #[test]
    fn a_daily_rise_is_quiet(of in healthy(), seed: u64) {
        let mut world = World::new(seed);
        for window in 0..600 {
            let day = (1.0 - (f64::from(window) / 600.0 * std::f64::consts::TAU).cos()) / 2.0;
            let calls = (of.calls as f64 * (1.0 + 2.0 * day) / 2.0) as u64;
            world.window(Healthy { calls, median_us: of.median_us * (1.0 + day), ..of });
        }
        prop_assert_eq!(world.episodes(), []);
    }

    /// New pods, some failed calls while the old ones end, and half a minute of cold caches.
    #[test]
    fn deploys_are_quiet(of in healthy(), seed: u64) {
        let mut world = World::new(seed);
        for _ in 0..6 {
            world.windows(40, of);
            world.pod += 1;
            world.window(Healthy { errors: of.errors + 0.1, median_us: of.median_us * 2.0, ..of });
            world.window(Healthy { median_us: of.median_us * 2.0, ..of });
        }
        prop_assert_eq!(world.episodes(), []);
    }

    #[test]
    fn a_burst_of_errors_is_one_signal(of in healthy(), seed: u64, length in 6_u64..60) {
        let mut world = World::new(seed);
        let of = Healthy { calls: of.calls + 20, errors: of.errors / 4.0, ..of };
        world.windows(60, of);
        let onset_ns = world.now_ns;
        world.windows(length, Healthy { errors: 0.9, ..of });
        world.windows(40, of);
        prop_assert_eq!(world.episodes(), [(signal::ERRORS, 1)]);
        let said = world.said(signal::ERRORS);
        let facts: Vec<_> = world.facts.iter().filter(|fact| fact.kind == signal::ERRORS).collect();
        let began_ns = facts[0].time_unix_ns - said[0].since_ms * 1_000_000;
        // The first failure of the first abnormal window.
        prop_assert!(began_ns + 1_000_000 >= onset_ns && began_ns <= onset_ns + 2 * WINDOW_NS, "{began_ns} {onset_ns}");
        prop_assert_eq!(said.last().unwrap().phase, Phase::Ended);
        prop_assert_eq!((said[0].traces.len(), said[0].pods.len()), (5, 1));
        let failed: u64 = said.iter().map(|signal| signal.errors).sum();
        prop_assert!(failed as f64 > 0.6 * (length * of.calls) as f64, "{failed}");
        // What goes on is said once a minute.
        prop_assert!(said.len() as u64 <= 3 + length / 4);
    }

    #[test]
    fn a_step_of_latency_is_one_signal(of in healthy(), seed: u64) {
        let mut world = World::new(seed);
        let of = Healthy { calls: of.calls + 30, errors: 0.0, median_us: of.median_us + 5_000.0, spread: of.spread / 2.0 };
        world.windows(60, of);
        world.windows(40, Healthy { median_us: of.median_us * 10.0, ..of });
        world.windows(40, of);
        prop_assert_eq!(world.episodes(), [(signal::LATENCY, 1)]);
        let said = world.said(signal::LATENCY);
        prop_assert_eq!(said.last().unwrap().phase, Phase::Ended);
        prop_assert!(said[0].p90_us.unwrap() as f64 > 5.0 * of.median_us);
    }
}

const OF: Healthy = Healthy { calls: 60, errors: 0.0, median_us: 4_000.0, spread: 0.4 };

/// A window of calls from checkout to payments; both send spans, in any order.
fn call(world: &mut World, errors: f64, with_peer: bool) {
    world.now_ns += WINDOW_NS;
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..40 {
        let mut client = world.span(SpanKind::Client, Healthy { errors, ..OF });
        if with_peer {
            client.attributes.push(pair("server.address", "payments"));
        }
        let mut server = world.span(SpanKind::Server, Healthy { errors: 0.0, ..OF });
        (server.trace_id, server.parent_span_id) = (client.trace_id.clone(), client.span_id.clone());
        server.status.clone_from(&client.status);
        clients.push(client);
        servers.push(server);
    }
    if world.rng.bool() {
        world.send("checkout", clients);
        world.send("payments", servers);
    } else {
        world.send("payments", servers);
        world.send("checkout", clients);
    }
    world.close();
}

#[test]
fn both_ends_of_a_call_and_who_calls_whom() {
    for with_peer in [true, false] {
        let mut world = World::new(7);
        (0..30).for_each(|_| call(&mut world, 0.0, with_peer));
        assert_eq!(world.episodes(), []);
        (0..8).for_each(|_| call(&mut world, 0.7, with_peer));
        let began: Vec<_> =
            world.said(signal::ERRORS).into_iter().filter(|signal| signal.phase == Phase::Began).collect();
        let names: Vec<_> = began
            .iter()
            .map(|signal| {
                (
                    signal.object.name.as_str(),
                    signal.side,
                    signal.peer.name.as_deref(),
                    signal.peer.kind.as_deref(),
                )
            })
            .collect();
        let expected = [
            ("payments", Some(Side::Server), None, None),
            ("checkout", Some(Side::Client), Some("payments"), Some("Deployment")),
        ];
        let mut sorted = names.clone();
        sorted.sort_by_key(|(_, side, ..)| *side);
        assert_eq!(sorted, expected, "{with_peer}");
        // The trace passed through both.
        let of_one: Vec<_> =
            began[0].passed.iter().filter(|passed| passed.trace_id == began[0].traces[0].trace_id).collect();
        assert_eq!(of_one.len(), 2);
        let edges: Vec<_> =
            world.facts.iter().filter_map(signal::Calls::of).collect::<Result<_, _>>().unwrap();
        assert!(
            edges.iter().all(|calls| calls.object.name == "checkout" && calls.calls.len() == 1),
            "{edges:?}"
        );
        assert_eq!(edges[0].calls[0].object.name, "payments");
    }
}

#[test]
fn who_sends_no_spans_is_known_by_its_address() {
    let mut world = World::new(3);
    let window = |world: &mut World, errors| {
        world.now_ns += WINDOW_NS;
        let mut spans: Vec<_> =
            (0..40).map(|_| world.span(SpanKind::Client, Healthy { errors, ..OF })).collect();
        spans.iter_mut().for_each(|span| span.attributes.push(pair("server.address", "db.data.svc")));
        world.send("payments", spans);
        world.close();
    };
    (0..30).for_each(|_| window(&mut world, 0.0));
    (0..6).for_each(|_| window(&mut world, 1.0));
    assert_eq!(world.episodes(), [(signal::ERRORS, 1)]);
    let said = world.said(signal::ERRORS).remove(0);
    assert_eq!(
        (said.peer.kind.as_deref(), said.peer.namespace.as_deref(), said.peer.name.as_deref()),
        (Some("Service"), Some("data"), Some("db"))
    );
    assert!(world.facts[0].message.contains("payments (shop) calls db"), "{}", world.facts[0].message);
}

#[test]
fn metrics_are_judged_and_spans_beside_them_only_give_exemplars() {
    let mut world = World::new(5);
    let mut counts = [[0_u64; 2]; 2];
    let mut minute = |world: &mut World, failed: u64| {
        for window in 0..4 {
            world.now_ns += WINDOW_NS;
            // Sampled: errors only.
            let spans =
                (0..30).map(|_| world.span(SpanKind::Server, Healthy { errors: 1.0, ..OF })).collect();
            world.send("payments", spans);
            if window == 3 {
                counts[0][0] += 100;
                counts[1][0] += failed;
                let points = counts.iter().enumerate().map(|(nth, buckets)| HistogramDataPoint {
                    start_time_unix_nano: START_NS,
                    time_unix_nano: world.now_ns,
                    bucket_counts: buckets.to_vec(),
                    explicit_bounds: vec![0.1],
                    attributes: (nth == 1).then(|| pair("error.type", "500")).into_iter().collect(),
                    ..HistogramDataPoint::default()
                });
                let histogram = Histogram {
                    data_points: points.collect(),
                    aggregation_temporality: AggregationTemporality::Cumulative.into(),
                };
                let name = "http.server.request.duration".to_owned();
                let metric = Metric { name, data: Some(Data::Histogram(histogram)), ..Metric::default() };
                let other = Metric {
                    name: "jvm.memory".to_owned(),
                    data: Some(Data::Gauge(Gauge { data_points: vec![Default::default(); 3] })),
                    ..Metric::default()
                };
                let part = ResourceMetrics {
                    resource: Some(world.resource("payments")),
                    scope_metrics: vec![ScopeMetrics {
                        metrics: vec![metric, other],
                        ..ScopeMetrics::default()
                    }],
                    ..ResourceMetrics::default()
                };
                world.signals.metrics(&[part], world.now_ns, &mut world.taken);
            }
            world.close();
        }
    };
    (0..30).for_each(|_| minute(&mut world, 0));
    (0..6).for_each(|_| minute(&mut world, 80));
    assert_eq!(world.episodes(), [(signal::ERRORS, 1)]);
    let said = world.said(signal::ERRORS).remove(0);
    assert_eq!((&*said.from, said.traces.len(), said.pods.len()), ("metrics", 5, 1));
    assert_eq!((world.taken.unused["metric"], world.taken.unused["first"]), (3 * 36, 2));
}

#[test]
fn logged_errors() {
    let mut world = World::new(9);
    let window = |world: &mut World, all: u64, errors: u64| {
        world.now_ns += WINDOW_NS;
        let record = |nth: u64| LogRecord {
            time_unix_nano: world.now_ns - nth,
            severity_number: if nth < errors { 17 } else { 9 },
            trace_id: vec![(nth % 200) as u8 + 1; 16],
            ..LogRecord::default()
        };
        let records: Vec<_> = (0..all).map(record).collect();
        let resource = world.resource("payments");
        world.signals.logs(Some(&resource), records.iter(), world.now_ns, &mut world.taken);
        world.close();
    };
    for nth in 0..60 {
        window(&mut world, 100, nth % 4);
    }
    // More of everything.
    (0..20).for_each(|_| window(&mut world, 2_000, 40));
    assert_eq!(world.episodes(), []);
    (0..8).for_each(|_| window(&mut world, 2_000, 700));
    (0..8).for_each(|_| window(&mut world, 2_000, 40));
    assert_eq!(world.episodes(), [(signal::LOGS, 1)]);
    assert_eq!(world.said(signal::LOGS).last().unwrap().phase, Phase::Ended);
}

#[test]
fn hostile_input_is_bounded_and_counted() {
    let mut world = World::new(11);
    world.now_ns += WINDOW_NS;
    let send = |world: &mut World, name: String, change: &dyn Fn(&mut Span)| {
        let mut span = world.span(SpanKind::Client, OF);
        change(&mut span);
        let part = ResourceSpans {
            resource: Some(Resource { attributes: vec![pair("service.name", &name)], ..Resource::default() }),
            scope_spans: vec![ScopeSpans { spans: vec![span], ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        world.signals.spans(&[part], world.now_ns, &mut world.taken);
    };
    for nth in 0..40_000 {
        send(&mut world, format!("s{nth}"), &|span| {
            span.attributes.push(pair("server.address", &format!("h{nth}")))
        });
    }
    let sizes = world.signals.sizes();
    assert!(
        sizes.entities <= entity::MAX_ENTITIES && sizes.series <= MAX_SERIES && sizes.edges <= MAX_EDGES,
        "{sizes:?}"
    );
    assert!(world.taken.refused["entities"] > 30_000);
    let now_ns = world.now_ns;
    let hour = 3_600_000_000_000;
    send(&mut world, "s0".to_owned(), &|span| span.end_time_unix_nano = now_ns + hour);
    send(&mut world, "s0".to_owned(), &|span| span.end_time_unix_nano = now_ns - hour);
    send(&mut world, "s0".to_owned(), &|span| span.start_time_unix_nano = u64::MAX);
    send(&mut world, "s0".to_owned(), &|span| span.trace_id.clear());
    send(&mut world, "s0".to_owned(), &|span| {
        span.attributes.push(pair("server.address", &"x".repeat(4 << 20)))
    });
    send(&mut world, "x".repeat(1 << 20), &|_| {});
    send(&mut world, String::new(), &|_| {});
    send(&mut world, "s0".to_owned(), &|span| span.kind = 77);
    let refused = |reason| world.taken.refused[reason];
    assert_eq!((refused("time"), refused("id"), refused("name"), refused("resource")), (3, 1, 2, 1));
    assert_eq!(world.taken.unused["internal"], 1);
    // All of it goes.
    world.close();
    for _ in 0..3 {
        world.now_ns += 2 * IDLE_NS;
        world.close();
    }
    assert_eq!(world.signals.sizes(), Sizes { evicted: world.signals.sizes().evicted, ..Sizes::default() });
}

#[test]
fn a_flood_of_traces_lets_the_oldest_go() {
    let mut world = World::new(13);
    world.now_ns += WINDOW_NS;
    for _ in 0..220 {
        let spans = (0..1_000).map(|_| world.span(SpanKind::Client, OF)).collect();
        world.send("checkout", spans);
    }
    let sizes = world.signals.sizes();
    assert!(sizes.traces <= 65_536 && sizes.evicted > 100_000, "{sizes:?}");
}
