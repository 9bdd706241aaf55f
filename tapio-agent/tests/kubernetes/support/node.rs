//! The agent's handling of anomalies on one node, between its queue and its sinks.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytemuck::Zeroable as _;
use jsonschema::Validator;
use serde_json::Value;
use tapio_agent::{
    config::{Config, Flag},
    enrich::{
        Identity,
        kubernetes::{Health, Kubernetes},
    },
    metrics::Metrics,
    observer::{self, Anomaly},
    pipeline,
    snapshot::{Contributions, Snapshot},
};
use tapio_common::Header;
use tapio_kube::Access;
use tapio_occurrence::{Data, Occurrence};
use tapio_service::clock;
use tempfile::TempDir;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Cluster, until};

static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../../../../docs/occurrence.schema.json")).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
});

pub(crate) struct Agent {
    pub(crate) health: Arc<Health>,
    pub(crate) metrics: Arc<Metrics>,
    anomalies: mpsc::Sender<Anomaly>,
    occurrences: mpsc::Receiver<Occurrence>,
    task: JoinHandle<()>,
    host: TempDir,
}

impl Agent {
    /// Starts it on the node of this name.
    pub(crate) fn start(cluster: &Cluster, node: &str) -> Self {
        Self::by(Access::Kubeconfig(vec![cluster.kubeconfig()]), node)
    }

    /// The same, with other access to the API server.
    pub(crate) fn by(access: Access, node: &str) -> Self {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("cgroup");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("cgroup.controllers"), "").unwrap();
        let flag = |path, text: &str| Flag { name: "a test", path, text: text.to_owned() };
        let flags = [
            flag("cgroup_root", root.to_str().unwrap()),
            flag("proc_root", host.path().to_str().unwrap()),
            flag("node_name", node),
        ];
        let config = Config::load(None, [], &flags).unwrap();
        let metrics = Arc::new(Metrics::default());
        let kubernetes = Kubernetes::start(access, &config, &metrics);
        let health = kubernetes.health();
        let identity = Identity::new(&config).with(Some(kubernetes));
        let (anomalies, queue) = mpsc::channel(4096);
        let (send, occurrences) = mpsc::channel(8192);
        let counted = Arc::clone(&metrics);
        let task = tokio::spawn(async move {
            let contributions = Contributions::of(&Snapshot::new().unwrap(), &[], Duration::MAX);
            let send = |occurrence| send.try_send(occurrence).unwrap();
            pipeline::deliver(queue, identity, &counted, &contributions, send).await;
        });
        Self { health, metrics, anomalies, occurrences, task, host }
    }

    /// The same, once it knows the pods of its node.
    pub(crate) async fn synced(cluster: &Cluster, node: &str) -> Self {
        let agent = Self::start(cluster, node);
        agent.wait_until_synced().await;
        agent
    }

    pub(crate) async fn wait_until_synced(&self) {
        until(async || self.health.synced_once(), Result::is_ok).await.unwrap();
    }

    /// Creates the cgroup of a container and returns its id.
    pub(crate) fn cgroup(&self, uid: &str, container_id: &str) -> u64 {
        let group = self.host.path().join(format!("cgroup/kubepods/burstable/pod{uid}/{container_id}"));
        fs::create_dir_all(&group).unwrap();
        inode(&group)
    }

    /// An anomaly in a cgroup (0 for none), at the current time.
    pub(crate) fn anomaly(cgroup_id: u64, peer: &str) -> Anomaly {
        Self::anomaly_at(cgroup_id, peer, clock::boot_ns())
    }

    pub(crate) fn anomaly_at(cgroup_id: u64, peer: &str, time_ns: u64) -> Anomaly {
        let (_, kind) = observer::kind("network.connection_refused").unwrap();
        let header = Header { time_ns, cgroup_id, ..Header::zeroed() };
        Anomaly {
            peer: Some((peer.parse::<IpAddr>().unwrap(), 6379)),
            data: Data::from([("elapsed_us", 180_u64.into()), ("error", "ECONNREFUSED".into())]),
            message: |occurrence| {
                let peer = occurrence.peer.as_ref().unwrap();
                format!("{}: connection to {peer} was refused", occurrence.subject())
            },
            ..Anomaly::new(kind, &header)
        }
    }

    pub(crate) fn give(&self, anomaly: Anomaly) {
        self.anomalies.try_send(anomaly).unwrap();
    }

    /// The next occurrence, as JSON.
    pub(crate) async fn reported(&mut self) -> Value {
        let next = tokio::time::timeout(Duration::from_secs(10), self.occurrences.recv());
        let occurrence = next.await.expect("an occurrence goes out whatever is not known").unwrap();
        let mut json = Vec::new();
        occurrence.write_json(&mut json);
        let reported = serde_json::from_slice(&json).unwrap();
        let errors: Vec<_> =
            SCHEMA.iter_errors(&reported).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{errors:#?}\n{reported:#}");
        reported
    }

    /// The occurrence of one anomaly.
    pub(crate) async fn tell(&mut self, anomaly: Anomaly) -> Value {
        self.give(anomaly);
        self.reported().await
    }

    /// The sum of a metric's values with all of these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = self.metrics.render().unwrap();
        let of = |line: &&str| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        };
        text.lines().filter(of).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.metric("tapio_kubernetes_requests_total", &[])
    }

    pub(crate) fn state(&self) -> String {
        self.health.status()["state"].as_str().unwrap().to_owned()
    }

    /// Stops it like the agent stops, and returns the occurrences reported until the end.
    pub(crate) async fn stop(mut self) -> Vec<Occurrence> {
        drop(self.anomalies);
        self.task.await.unwrap();
        let mut rest = Vec::new();
        while let Some(occurrence) = self.occurrences.recv().await {
            rest.push(occurrence);
        }
        rest
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}
