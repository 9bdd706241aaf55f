//! Shared by the benchmarks of sinks: occurrences to send, and CPU time.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;

use rustix::time::{ClockId, clock_gettime};
use tapio_delivery::Metrics;
use tapio_delivery::{
    Ledger, QUEUE_CAPACITY, Sinks,
    polku::{self, Polku, Timings},
};
use tapio_occurrence::{Occurrence, Peer, PeerNames, Workload, samples};
use tapio_service::setting::Node as _;
use ulid::Ulid;

/// Occurrences sent at once.
pub(crate) const CHUNK: usize = 512;

/// A spike of a pod, with a named peer: JSON of about 900 bytes.
pub(crate) fn occurrence(time_unix_ns: u64) -> Occurrence {
    let some = |text: &str| Some(text.to_owned());
    Occurrence {
        id: Ulid::generate(),
        time_unix_ns,
        message: "checkout-7d9f8c6b5d-x2x4z: RTT to redis.default:6379 is 41 ms, 8.2 times its normal 5 ms"
            .to_owned(),
        workload: Some(Arc::new(Workload {
            namespace: some("shop"),
            pod: some("checkout-7d9f8c6b5d-x2x4z"),
            pod_uid: some("3b1c1f6e-8a40-4ab1-9e37-3a1e5d2f6c11"),
            container: some("app"),
            container_id: Some("f8d74ab0".repeat(8)),
            runtime: Some("containerd".into()),
            image: some("registry.example/checkout:1.2"),
            owner_kind: some("Deployment"),
            owner: some("checkout"),
            ..Workload::default()
        })),
        peer: Some(Peer {
            address: [10, 0, 3, 7].into(),
            port: 6379,
            names: Some(Arc::new(PeerNames {
                namespace: some("default"),
                service: some("redis"),
                ..PeerNames::default()
            })),
        }),
        ..samples::occurrence()
    }
}

/// Enough occurrences to fill a queue, each with a separate id.
pub(crate) fn queueful() -> Vec<Arc<Occurrence>> {
    (0..QUEUE_CAPACITY).map(|_| Arc::new(occurrence(1_795_141_098_123_456_789))).collect()
}

/// Sinks without any destination yet, with the agent's default queue.
pub(crate) fn sinks() -> Sinks {
    Sinks::new(Arc::new(Metrics::default()), QUEUE_CAPACITY)
}

/// The sink of a gateway.
pub(crate) fn polku(address: SocketAddr) -> anyhow::Result<Polku> {
    let mut settings = polku::Settings::default();
    settings.assign("endpoint", &address.to_string())?;
    let sink = Polku::new(&settings, Some("prod".into()), Timings::default());
    sink.map_err(|trouble| anyhow::anyhow!("{trouble}"))?.context("no endpoint")
}

/// The counters of the first sink.
pub(crate) fn ledger(sinks: &Sinks) -> anyhow::Result<Ledger> {
    let status = sinks.status().into_iter().next();
    let ledger = status.ok_or_else(|| anyhow::anyhow!("there is no sink"))?.ledger;
    anyhow::ensure!(ledger.balanced() && ledger.dropped.is_empty(), "lost: {ledger:?}");
    Ok(ledger)
}

/// Sends this many, round after round of `pool`, and never lets `waits` exceed `most`.
pub(crate) async fn give(
    sinks: &Sinks,
    pool: &[Arc<Occurrence>],
    count: usize,
    most: usize,
    waits: impl Fn(&Ledger) -> u64,
) -> anyhow::Result<()> {
    let mut next = pool.iter().cycle();
    for _ in 0..count.div_ceil(CHUNK) {
        while waits(&ledger(sinks)?) as usize + CHUNK > most {
            pause().await;
        }
        next.by_ref().take(CHUNK).for_each(|occurrence| sinks.send(Arc::clone(occurrence)));
    }
    Ok(())
}

/// Waits for a condition on the counters.
pub(crate) async fn until(sinks: &Sinks, enough: impl Fn(&Ledger) -> bool) -> anyhow::Result<()> {
    while !enough(&ledger(sinks)?) {
        pause().await;
    }
    Ok(())
}

/// CPU time of this process, over all threads.
pub(crate) fn cpu() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec as u32)
}

async fn pause() {
    tokio::time::sleep(Duration::from_micros(500)).await;
}
