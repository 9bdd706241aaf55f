//! The pipeline between the ring buffer and the sinks, and its output.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc, time::Instant};

use serde_json::Value;
use tapio_agent::{
    config::{Config, Flag},
    enrich::{
        Identity,
        kubernetes::Kubernetes,
        pods::{Pod, Pods},
    },
    metrics::Metrics,
    observer::{Anomaly, Built, Judge, Observer, network::Network},
    pipeline::{self, Stage, fold::Fold},
};
use tapio_common::network::NetworkEvent;
use tempfile::TempDir;
use tokio::sync::mpsc;

const SECOND: u64 = 1_000_000_000;
/// The size of the agent's own queue.
pub(crate) const QUEUE: usize = 4096;
/// The only cgroup below the root.
const GROUP: &str = "kubepods.slice/kubepods-pod4f93bb12_5e82_afe0_0791_1dab3df5704b.slice/cri-containerd-9b2c8089b3b0e4b3b0bafc4177382a788e0a7e446cc1c1be1e7a0872945d4232.scope";

/// The pipeline of one observer, without a kernel.
pub(crate) struct Line {
    pub(crate) judge: Box<dyn Judge>,
    pub(crate) fold: Fold,
    pub(crate) stage: Stage,
    pub(crate) queue: mpsc::Receiver<Anomaly>,
    pub(crate) cgroup_id: u64,
    identity: Identity,
    host: TempDir,
}

impl Line {
    /// With the network observer.
    pub(crate) fn new() -> Self {
        Self::of::<Network>()
    }

    pub(crate) fn of<O: Observer>() -> Self {
        Self::with::<O>(&Default::default())
    }

    pub(crate) fn with<O: Observer>(settings: &O::Settings) -> Self {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("cgroup");
        fs::create_dir_all(root.join(GROUP)).unwrap();
        fs::write(root.join("cgroup.controllers"), "").unwrap();
        let cgroup_id = fs::metadata(root.join(GROUP)).unwrap().ino();
        let proc_root = host.path().join("proc");
        fs::create_dir(&proc_root).unwrap();
        let flag = |path, text: &Path| Flag { name: "a test", path, text: text.display().to_string() };
        let node = Flag { name: "a test", path: "node_name", text: "node-a".into() };
        let flags = [flag("cgroup_root", &root), flag("proc_root", &proc_root), node];
        let config = Config::load(None, [], &flags).unwrap();
        let (anomalies, queue) = mpsc::channel(QUEUE);
        Self {
            judge: Built::new::<O>(settings).judge(),
            fold: Fold::new(30 * SECOND, 600 * SECOND),
            stage: Stage::new(O::NAME, anomalies, &Arc::new(Metrics::default())),
            queue,
            cgroup_id,
            identity: Identity::new(&config),
            host,
        }
    }

    /// Adds the pods of the node.
    pub(crate) fn knowing(self, pods: Vec<Pod>) -> Self {
        let mut known = Pods::default();
        known.replace(pods, Instant::now(), 0);
        let kubernetes = Kubernetes::of_pods(&known, &self.stage.metrics);
        Self { identity: self.identity.with(Some(kubernetes)), ..self }
    }

    /// The root cgroup, which is the whole host.
    pub(crate) fn root_id(&self) -> u64 {
        fs::metadata(self.host.path().join("cgroup")).unwrap().ino()
    }

    /// Passes a record of the ring buffer through to the queue.
    pub(crate) fn record(&mut self, record: &[u8]) {
        let mut out = Vec::new();
        self.stage.observe(record, self.judge.as_mut(), &mut out);
        self.stage.admit(&mut out, &mut self.fold);
    }

    pub(crate) fn event(&mut self, event: &NetworkEvent) {
        self.record(bytemuck::bytes_of(event));
    }

    /// Advances time for the observer, to this value of the boot clock.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        let mut out = Vec::new();
        self.judge.tick(now_ns, &mut out);
        self.stage.admit(&mut out, &mut self.fold);
    }

    /// Ends like the agent does: reports everything pending.
    pub(crate) fn finish(&mut self) {
        self.tick(u64::MAX);
        let mut out = Vec::new();
        self.fold.finish(&mut out);
        self.stage.send(&mut out);
    }

    /// The contents of the queue, with names, serialised.
    pub(crate) async fn occurrences(&mut self) -> Vec<Value> {
        let mut reported = Vec::new();
        while let Ok(anomaly) = self.queue.try_recv() {
            // There is no other cgroup, and searching for one takes a while.
            if [Some(anomaly.cgroup_id), anomaly.noisy_neighbour].contains(&Some(self.cgroup_id)) {
                self.identity.find(self.cgroup_id, anomaly.time_ns).await;
            }
            let named = pipeline::name(anomaly, &self.identity, &self.stage.metrics);
            let Some(occurrence) = named else { continue };
            let mut json = Vec::new();
            occurrence.write_json(&mut json);
            reported.push(serde_json::from_slice(&json).unwrap());
        }
        reported
    }

    /// The sum of a metric's values with all of these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.stage.metrics.render().unwrap();
        let of = |line: &&str| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        };
        text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn malformed(&self) -> u64 {
        self.metric("tapio_dropped_total", &[r#"hop="record""#, r#"reason="malformed""#])
    }

    pub(crate) fn events(&self) -> u64 {
        self.metric("tapio_events_total", &[])
    }

    pub(crate) fn anomalies(&self) -> u64 {
        self.metric("tapio_anomalies_total", &[])
    }

    pub(crate) fn folded(&self) -> u64 {
        self.metric("tapio_folded_total", &[])
    }

    pub(crate) fn queue_full(&self) -> u64 {
        self.metric("tapio_dropped_total", &[r#"hop="enrich""#, r#"reason="queue_full""#])
    }
}

/// The number of anomalies that they stand for.
pub(crate) fn count(occurrences: &[Value]) -> u64 {
    occurrences.iter().map(|occurrence| occurrence["count"].as_u64().unwrap()).sum()
}
