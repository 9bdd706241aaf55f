//! Watches the pods of this node, and no others.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event},
};
use tapio_kube::{Access, Fault, LIST, RETRY};
use tapio_service::{backoff::Backoff, clock};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Index, Pod, Pods};
use crate::{enrich::kubernetes::Health, metrics::Metrics};

/// Watches the pods for ever. Each failure is followed by a new client, because its credentials may have been
/// rotated.
pub async fn watch(
    access: Access,
    node: Arc<str>,
    pods: Pods,
    publish: watch::Sender<Arc<Index>>,
    clients: watch::Sender<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) {
    let listed = Listed::default();
    let mut follower = Follower { node, pods, listed, good_unix_ns: 0, publish, clients, health, metrics };
    let mut retry = RETRY;
    loop {
        let fault = match access.client().await {
            Ok(client) => follower.follow(client, &mut retry).await,
            Err(error) => Fault::of_access(&error),
        };
        follower.health.lost(&fault.why);
        sleep(retry.wait()).await;
    }
}

struct Follower {
    node: Arc<str>,
    pods: Pods,
    listed: Listed,
    /// The time of the last event from the server, 1970 UTC. Nothing was missed until then.
    good_unix_ns: u64,
    publish: watch::Sender<Arc<Index>>,
    /// The current client, for peer queries.
    clients: watch::Sender<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// The pods received so far of a list, and when it was requested.
#[derive(Default)]
struct Listed {
    pods: Vec<Pod>,
    asked_unix_ns: u64,
}

impl Follower {
    /// Watches until that fails, and returns the reason.
    async fn follow(&mut self, client: Client, retry: &mut Backoff) -> Fault {
        if let Err(fault) = self.is_there(&client).await {
            return fault;
        }
        self.clients.send_replace(Some(client.clone()));
        let here = format!("spec.nodeName={}", self.node);
        let config = watcher::Config::default().any_semantic().fields(&here);
        let take = |event| self.take(event, clock::unix_ns(clock::boot_ns()));
        tapio_kube::follow(Api::<ApiPod>::all(client), config, retry, take).await
    }

    /// Checks that the cluster has this node. With the wrong name the watch would find no pods, and peers
    /// would be those of a cluster that this node does not belong to.
    async fn is_there(&self, client: &Client) -> Result<(), Fault> {
        let nodes = Api::<Node>::all(client.clone());
        match timeout(LIST, nodes.get_metadata_opt(&self.node)).await {
            Ok(Ok(Some(_))) => Ok(()),
            Ok(Ok(None)) => Err(Fault {
                why: format!(
                    "the cluster has no node {}: set NODE_NAME from spec.nodeName, or give --node-name",
                    self.node
                ),
                code: Some(404),
            }),
            Ok(Err(error)) => Err(Fault::from(&error)),
            Err(_) => Err(Fault::slow(LIST)),
        }
    }

    /// Applies an event that the server sent at `unix_ns`.
    fn take(&mut self, event: Event<ApiPod>, unix_ns: u64) {
        let now = std::time::Instant::now();
        if matches!(event, Event::InitApply(_) | Event::Apply(_) | Event::Delete(_)) {
            self.metrics.kubernetes_object();
        }
        match event {
            Event::Init => {
                self.listed = Listed { pods: Vec::new(), asked_unix_ns: unix_ns };
                return;
            }
            Event::InitApply(pod) => return self.listed.pods.extend(Pod::read(&pod)),
            Event::InitDone => {
                let Listed { pods, asked_unix_ns } = std::mem::take(&mut self.listed);
                // Pods missing from the list were deleted unnoticed, at some time after that.
                self.pods.replace(pods, now, self.good_unix_ns);
                self.good_unix_ns = asked_unix_ns;
            }
            Event::Apply(pod) => {
                self.good_unix_ns = unix_ns;
                if let Some(pod) = Pod::read(&pod) {
                    self.pods.apply(pod, now);
                }
            }
            Event::Delete(pod) => {
                self.good_unix_ns = unix_ns;
                if let Some(pod) = Pod::read(&pod) {
                    self.pods.delete(pod, now, unix_ns);
                }
            }
        }
        let index = Arc::new(self.pods.index());
        self.health.count(index.present(), index.containers());
        self.publish.send_replace(index);
        self.health.synced();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn pod(name: &str, address: &str) -> ApiPod {
        serde_json::from_value(json!({
            "metadata": { "uid": name, "namespace": "shop", "name": name },
            "status": { "phase": "Running", "podIP": address, "conditions": [{
                "type": "PodReadyToStartContainers", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z",
            }] },
        }))
        .unwrap()
    }

    fn follower() -> Follower {
        Follower {
            node: "node-a".into(),
            pods: Pods::default(),
            listed: Listed::default(),
            good_unix_ns: 0,
            publish: watch::channel(Arc::default()).0,
            clients: watch::channel(None).0,
            health: Arc::new(Health::new("a test".to_owned())),
            metrics: Arc::default(),
        }
    }

    #[test]
    fn what_went_away_unseen_had_its_address_until_the_last_that_was_reported() {
        let mut follower = follower();
        let at = |follower: &Follower, second: u64| {
            let identity = follower.pods.index().at([10, 0, 0, 1].into(), second * SECOND_NS);
            identity.map(|identity| identity.uid.clone())
        };
        let list = |follower: &mut Follower, pods: &[ApiPod], second: u64| {
            follower.take(Event::Init, second * SECOND_NS);
            pods.iter()
                .for_each(|pod| follower.take(Event::InitApply(pod.clone()), (second + 1) * SECOND_NS));
            follower.take(Event::InitDone, (second + 2) * SECOND_NS);
        };
        let (here, other) = (pod("here", "10.0.0.1"), pod("other", "10.0.0.2"));
        list(&mut follower, std::slice::from_ref(&here), 10);
        assert_eq!(at(&follower, 900).as_deref(), Some("here"));
        list(&mut follower, &[], 1_000);
        assert_eq!((at(&follower, 9).as_deref(), at(&follower, 10)), (Some("here"), None), "since the list");
        list(&mut follower, &[here], 2_000);
        follower.take(Event::Apply(other), 2_100 * SECOND_NS);
        list(&mut follower, &[], 3_000);
        assert_eq!((at(&follower, 2_099).as_deref(), at(&follower, 2_100)), (Some("here"), None));
    }
}
