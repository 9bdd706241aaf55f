//! Names from Kubernetes: the pods of this node, from a watch, and peers, queried one by one as anomalies
//! name them.
//!
//! None of this blocks occurrences. If the API server is down, slow or refuses, they are sent with the names
//! known so far.

mod check;
mod health;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tapio_kube::Access;
use tapio_occurrence::Workload;
use tapio_service::clock;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout_at},
};

pub use check::{Check, RIGHTS, check};
pub use health::Health;

use super::{
    peer_identity::PeerIdentity,
    peers::{self, Peers},
    pods::{self, Index, Pods},
    remember,
};
use crate::{config::Config, metrics::Metrics};

/// How long an occurrence waits for names that may still come.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The known pods and peers, and the tasks that find them. Clones share them; dropping the last one ends the tasks.
#[derive(Clone, Debug)]
pub struct Kubernetes {
    index: watch::Receiver<Arc<Index>>,
    peers: Arc<Peers>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    _tasks: Arc<JoinSet<()>>,
}

/// The names that an occurrence waits for.
#[derive(Debug)]
pub struct Missing {
    index: watch::Receiver<Arc<Index>>,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
    container: Option<Arc<Workload>>,
    peer: Option<(IpAddr, u64)>,
    until: Instant,
}

impl Kubernetes {
    /// Starts the watch on the pods of this node. Call it within a runtime.
    #[must_use]
    pub fn start(access: Access, config: &Config, metrics: &Arc<Metrics>) -> Self {
        let health = Arc::new(Health::new(access.place()));
        let (publish, index) = watch::channel(Arc::default());
        let (client, clients) = watch::channel(None);
        let peers = Arc::new(Peers::default());
        let mut tasks = JoinSet::new();
        let node = config.node();
        let known = Pods::default().remembering(remember(config));
        tasks.spawn(pods::watch(
            access,
            node,
            known,
            publish,
            client,
            Arc::clone(&health),
            Arc::clone(metrics),
        ));
        tasks.spawn(peers::answer(Arc::clone(&peers), clients, Arc::clone(&health), Arc::clone(metrics)));
        Self { index, peers, health, metrics: Arc::clone(metrics), _tasks: Arc::new(tasks) }
    }

    /// Uses these pods of the node and sends no queries. For benchmarks.
    #[must_use]
    pub fn of_pods(pods: &Pods, metrics: &Arc<Metrics>) -> Self {
        Self {
            index: watch::channel(Arc::new(pods.index())).1,
            peers: Arc::default(),
            health: Arc::new(Health::new("a fixed list".to_owned())),
            metrics: Arc::clone(metrics),
            _tasks: Arc::default(),
        }
    }

    /// The state of the connection to the API server.
    #[must_use]
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// The current pods of this node. Holding the reference blocks updates.
    pub fn pods(&self) -> watch::Ref<'_, Arc<Index>> {
        self.index.borrow()
    }

    /// Whether everything in a pod has ended. False while the watch is down, because the pod's status may be
    /// out of date.
    #[must_use]
    pub fn is_over(&self, uid: &str) -> bool {
        !self.health.is_lost() && self.index.borrow().is_over(uid)
    }

    /// Whether a pod of this node with this address may fail probes. False while the watch is down, because
    /// the pod's status may be out of date.
    #[must_use]
    pub fn may_fail_probes(&self, address: IpAddr, unix_ns: u64) -> bool {
        !self.health.is_lost() && self.index.borrow().may_fail_probes(address, unix_ns)
    }

    /// Whether the pods changed since the last call.
    pub fn pods_changed(&mut self) -> bool {
        // An error means that the watch task has ended, so nothing will change any more.
        let changed = self.index.has_changed().unwrap_or(false);
        if changed {
            self.index.mark_unchanged();
        }
        changed
    }

    /// The peer that had an address at a time (1970 UTC), as far as is known without a query.
    #[must_use]
    pub fn identity(&self, address: IpAddr, unix_ns: u64) -> Option<Arc<PeerIdentity>> {
        let here = self.here(&self.index.borrow(), address, unix_ns);
        here.or_else(|| self.peers.known(address, unix_ns).identity())
    }

    /// The pod of this node that had an address. `None` while the watch is down, because another pod may have
    /// the address by now.
    fn here(&self, index: &Index, address: IpAddr, unix_ns: u64) -> Option<Arc<PeerIdentity>> {
        index.at(address, unix_ns).filter(|_| !self.health.is_lost())
    }

    /// The names worth waiting for, of an anomaly in `workload` with `peer` at `time_ns` (boot clock). Queues
    /// a query for the peer if there is none yet. `None` if nothing more will become known.
    #[must_use]
    pub fn missing(
        &self,
        workload: Option<Arc<Workload>>,
        peer: Option<IpAddr>,
        time_ns: u64,
    ) -> Option<Missing> {
        let unix_ns = clock::unix_ns(time_ns);
        let until = Instant::now() + PATIENCE;
        let index = self.index.borrow();
        // While the watch is down, no pods will come.
        let container = workload.filter(|workload| may_come(&index, workload) && !self.health.is_lost());
        let peer = peer
            .filter(|address| peers::may_have_name(*address))
            .filter(|address| self.here(&index, *address, unix_ns).is_none())
            .filter(|address| self.peers.ask(*address, unix_ns, until, &self.metrics))
            .map(|address| (address, unix_ns));
        drop(index);
        (container.is_some() || peer.is_some()).then(|| Missing {
            index: self.index.clone(),
            peers: Arc::clone(&self.peers),
            metrics: Arc::clone(&self.metrics),
            container,
            peer,
            until,
        })
    }
}

impl Missing {
    /// Records that there is no room to wait, so the occurrence goes out without the names.
    pub(super) fn forgo(self) {
        if self.container.is_some() {
            self.metrics.unresolved("workload", "full");
        }
        if self.peer.is_some() {
            self.metrics.unresolved("peer", "full");
        }
    }

    /// Returns when the names are known, or when the wait has timed out.
    pub async fn wait(mut self) {
        let index = &mut self.index;
        if let Some(workload) = self.container {
            let known = index.wait_for(|index| !may_come(index, &workload));
            if timeout_at(self.until, known).await.is_err() {
                self.metrics.unresolved("workload", "late");
            }
        }
        if let Some((address, unix_ns)) = self.peer
            && timeout_at(self.until, self.peers.settled(address, unix_ns)).await.is_err()
        {
            self.metrics.unresolved("peer", "late");
        }
    }
}

/// Whether the container, or the pod of a workload without one, is unknown and may become known: the watch reports a new
/// pod a moment after it starts.
fn may_come(index: &Index, workload: &Workload) -> bool {
    // A container outside pods never becomes known.
    workload.pod_uid.as_ref().is_some_and(|uid| match &workload.container_id {
        Some(id) => index.container(id).is_none(),
        None => index.pod(uid).is_none(),
    })
}
