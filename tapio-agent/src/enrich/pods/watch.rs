//! Follows the pods of this node, and nothing wider.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::TryStreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod as ApiPod};
use kube::{
    Api, Client,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Index, Pod, Pods};
use crate::{
    backoff::Backoff,
    clock,
    enrich::kubernetes::{Access, Fault, Health},
    metrics::Metrics,
};

/// Waits between attempts: from 0.5 s up to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// For one step of the first list.
const LIST: Duration = Duration::from_secs(30);
/// Seconds after which the server ends a watch and another one goes on: where nothing happens it says nothing in between,
/// and one that is longer silent is dead.
const WATCH: u32 = 60;
/// Told in a watch: what it goes on from is too old. The watcher makes a new list by itself, at once.
const GONE: u16 = 410;

/// Follows them for ever, on top of what is known, with a new client after each trouble: what it is let in with may have
/// been rotated.
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
            Err(error) => Fault { why: format!("{error:#}"), code: None },
        };
        follower.health.lost(&fault.why);
        sleep(retry.next()).await;
    }
}

struct Follower {
    node: Arc<str>,
    pods: Pods,
    listed: Listed,
    /// Until when nothing was missed: the last that was told, 1970 UTC.
    good_unix_ns: u64,
    publish: watch::Sender<Arc<Index>>,
    /// For those who ask for peers.
    clients: watch::Sender<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

/// What a list has brought so far, which was asked for at a time.
#[derive(Default)]
struct Listed {
    pods: Vec<Pod>,
    asked_unix_ns: u64,
}

impl Follower {
    /// Follows them until that fails, and says why.
    async fn follow(&mut self, client: Client, retry: &mut Backoff) -> Fault {
        if let Err(fault) = self.is_there(&client).await {
            return fault;
        }
        self.clients.send_replace(Some(client.clone()));
        let here = format!("spec.nodeName={}", self.node);
        let config = watcher::Config::default().any_semantic().fields(&here).timeout(WATCH);
        let mut events = pin!(watcher(Api::<ApiPod>::all(client), config));
        let mut listing = true;
        loop {
            let next = if listing {
                match timeout(LIST, events.try_next()).await {
                    Ok(next) => next,
                    Err(_) => return Fault::slow(LIST),
                }
            } else {
                events.try_next().await
            };
            match next {
                Ok(Some(event)) => {
                    listing = match &event {
                        Event::Init | Event::InitApply(_) => true,
                        Event::InitDone | Event::Apply(_) | Event::Delete(_) => false,
                    };
                    self.take(event, clock::unix_ns(clock::boot_ns()));
                    if !listing {
                        *retry = RETRY;
                    }
                }
                Ok(None) => return Fault { why: "the watch has ended".to_owned(), code: None },
                Err(watcher::Error::WatchError(status)) if status.code == GONE => {
                    tracing::debug!(%status, "kubernetes: the pods are listed anew");
                    sleep(retry.next()).await;
                }
                Err(error) => return Fault::from(&error),
            }
        }
    }

    /// Whether the cluster has this node: with another's name there would be no pods, and peers would be those of a
    /// cluster that this node is not in.
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

    /// Takes in what was told at `unix_ns`.
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
                // Whoever is missing went away unseen, at some time after that.
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;
    use tower::service_fn;

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

    /// A server whose watches are all too old, until it fails to list.
    fn too_old(lists: u32) -> Client {
        let left = AtomicU32::new(lists);
        let service = service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            let (status, answer) = if uri.contains("/nodes/") {
                let api = "meta.k8s.io/v1";
                (
                    200,
                    json!({ "kind": "PartialObjectMetadata", "apiVersion": api, "metadata": { "name": "node-a" } }),
                )
            } else if uri.contains("watch=true") {
                let status =
                    json!({ "kind": "Status", "status": "Failure", "message": "too old", "code": 410 });
                (200, json!({ "type": "ERROR", "object": status }))
            } else if left.fetch_sub(1, Ordering::Relaxed) > 0 {
                let metadata = json!({ "resourceVersion": "1" });
                (200, json!({ "kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": [] }))
            } else {
                (500, json!({ "kind": "Status", "status": "Failure", "message": "enough", "code": 500 }))
            };
            let body = Body::from(format!("{answer}\n").into_bytes());
            std::future::ready(Response::builder().status(status).body(body))
        });
        Client::new(service, "shop")
    }

    /// The time is the runtime's own, which goes on only where something waits for it.
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_always_too_old_waits_between_its_lists() {
        let start = tokio::time::Instant::now();
        let mut retry = RETRY;
        let fault = follower().follow(too_old(5), &mut retry).await;
        assert!(fault.why.contains("enough"), "{fault}");
        assert!(start.elapsed() >= Duration::from_millis(5 * 500), "{:?}", start.elapsed());
    }

    #[test]
    fn what_went_away_unseen_had_its_address_until_the_last_that_was_told() {
        let mut follower = follower();
        let at = |follower: &Follower, second: u64| {
            let party = follower.pods.index().at([10, 0, 0, 1].into(), second * SECOND_NS);
            party.map(|party| party.uid.clone())
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
