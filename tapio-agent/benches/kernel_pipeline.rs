//! Measures the events per second that one core decodes, judges, names (cached) and serialises, compared with
//! the rate at which the ring buffer itself can be drained.

mod support;

use anyhow::Context as _;
use std::{hint::black_box, sync::Arc, time::Instant};

use tapio_agent::{
    config::{Config, Flag},
    enrich::{
        Identity,
        kubernetes::Kubernetes,
        pods::{Container, Pod, Pods},
    },
    kernel::{Events, Kernel},
    metrics::Metrics,
    observer::{Attach, Built, Hook, Object, network::Network},
    pipeline::{self, Stage},
};
use tapio_common::network::{NetworkEvent, direction, kind};
use tempfile::TempDir;
use tokio::sync::mpsc;

const ROUNDS: usize = 7;
const EVENTS: usize = 200_000;
/// Fewer records than the ring buffer holds, so that a round finds all of them.
const DRAINED: usize = 3_000;
const FLOOD: &[Hook] =
    &[Hook { program: "flood", attach: Attach::BtfTracepoint("tcp_probe"), needs: &[], gives: "", or: &[] }];

fn main() -> anyhow::Result<()> {
    if support::was_load()? {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pipeline = best(ROUNDS, || pipeline_round(false))?;
    let named = best(ROUNDS, || pipeline_round(true))?;
    let kernel = Kernel::open("/proc".as_ref())?;
    let settings = support::settings();
    let mut flood = kernel.load(&Object { hooks: FLOOD, ..support::bench_object(&settings)? })?;
    support::all_attached([&flood])?;
    let mut events = runtime.block_on(async { flood.events() })?;
    let ring = best(ROUNDS, || drain_round(&mut events))?;
    println!("pipeline_events_per_second {pipeline:.0} events/s");
    println!("pipeline_named_events_per_second {named:.0} events/s");
    println!("ring_drain_events_per_second {ring:.0} events/s");
    println!("pipeline_ring_ratio {:.2} x", pipeline / ring);
    Ok(())
}

fn best(rounds: usize, mut round: impl FnMut() -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    for _ in 0..rounds {
        best = best.max(round()?);
    }
    Ok(best)
}

/// Events per second through the whole pipeline on this thread, with or without Kubernetes names of the
/// container and its peer.
fn pipeline_round(names: bool) -> anyhow::Result<f64> {
    let built = Built::new::<Network>(&Default::default());
    let metrics = Arc::new(Metrics::default());
    let (anomalies, _queue) = mpsc::channel(1);
    let stage = Stage::new(built.name, anomalies, &metrics);
    let (tree, cgroup_id) = container()?;
    let flag = Flag { name: "", path: "cgroup_root", text: tree.path().display().to_string() };
    let kubernetes = names.then(|| Kubernetes::of_pods(&pods(), &metrics));
    let mut identity = Identity::new(&Config::load(None, [], &[flag])?).with(kubernetes);
    let find = identity.find(cgroup_id, tapio_service::clock::boot_ns());
    tokio::runtime::Builder::new_multi_thread().enable_time().build()?.block_on(find);
    let mut judge = built.judge();
    let mut out = Vec::new();
    let mut json = Vec::with_capacity(4096);
    let mut event = refused();
    event.header.cgroup_id = cgroup_id;
    event.header.pid = 4242;
    let start = Instant::now();
    for port in 0..EVENTS {
        event.remote_port = port as u16;
        stage.observe(black_box(bytemuck::bytes_of(&event)), judge.as_mut(), &mut out);
        for anomaly in out.drain(..) {
            let occurrence = pipeline::name(anomaly, &identity, &metrics).context("reported")?;
            json.clear();
            occurrence.write_json(&mut json);
            black_box(&json);
        }
    }
    Ok(EVENTS as f64 / start.elapsed().as_secs_f64())
}

/// The container's pod and its peer's pod.
fn pods() -> Pods {
    let pod = |name: &str, containers, addresses| Pod {
        uid: name.to_owned(),
        namespace: "shop".to_owned(),
        name: format!("{name}-7d9f8c6b5d-x2x4z"),
        owner: Some(("Deployment".to_owned(), name.to_owned())),
        since_unix_ns: Some(0),
        containers,
        addresses,
        ..Pod::default()
    };
    let image = Some("registry.example/checkout:1.2".to_owned());
    let container = Container { id: "f8d74ab0".repeat(8), runtime: None, name: "app".to_owned(), image };
    let mut pods = Pods::default();
    pods.apply(pod("checkout", vec![container], Vec::new()), Instant::now());
    pods.apply(pod("redis", Vec::new(), vec![[10, 0, 3, 7].into()]), Instant::now());
    pods
}

/// A cgroup hierarchy with one container.
fn container() -> anyhow::Result<(TempDir, u64)> {
    let tree = tempfile::tempdir()?;
    std::fs::write(tree.path().join("cgroup.controllers"), "")?;
    let pod = "kubepods/burstable/pod3b1c1f6e-8a40-4ab1-9e37-3a1e5d2f6c11";
    let group = tree.path().join(pod).join("f8d74ab0".repeat(8));
    std::fs::create_dir_all(&group)?;
    Ok((tree, std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(group)?)))
}

/// A refused connect with every field that such an event carries.
fn refused() -> NetworkEvent {
    let mut event: NetworkEvent = bytemuck::Zeroable::zeroed();
    event.header.time_ns = tapio_service::clock::boot_ns();
    event.header.comm = (*b"bench\0\0\0\0\0\0\0\0\0\0\0").into();
    event.kind = kind::CONNECTION_REFUSED;
    event.direction = direction::OUTBOUND;
    event.local = std::net::Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
    event.remote = std::net::Ipv4Addr::new(10, 0, 3, 7).to_ipv6_mapped().octets();
    event.local_port = 40_000;
    event.value_us = 180;
    event.errno = 111;
    event
}

/// Records per second drained from the ring buffer without decoding them.
fn drain_round(events: &mut Events) -> anyhow::Result<f64> {
    while events.next().is_some() {}
    support::requests(std::time::Duration::from_millis(400))?;
    let start = Instant::now();
    let mut bytes = 0;
    for _ in 0..DRAINED {
        let record = events.next();
        bytes += record.as_deref().map_or(0, <[u8]>::len);
    }
    let elapsed = start.elapsed();
    anyhow::ensure!(bytes == DRAINED * size_of::<NetworkEvent>(), "the ring held only {bytes} bytes");
    Ok(DRAINED as f64 / elapsed.as_secs_f64())
}
