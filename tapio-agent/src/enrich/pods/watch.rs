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
/// The list that it began with is too old to go on from: it makes a new one by itself.
const GONE: u16 = 410;

/// Follows them for ever, with a new client after each trouble: what it is let in with may have been rotated.
pub async fn watch(
    access: Access,
    node: Arc<str>,
    publish: watch::Sender<Arc<Index>>,
    clients: watch::Sender<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) {
    let (pods, listed) = (Pods::default(), Vec::new());
    let mut follower = Follower { node, pods, listed, publish, clients, health, metrics };
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
    /// What a list has brought so far.
    listed: Vec<Pod>,
    publish: watch::Sender<Arc<Index>>,
    /// For those who ask for peers.
    clients: watch::Sender<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
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
                    self.take(event);
                    if !listing {
                        *retry = RETRY;
                    }
                }
                Ok(None) => return Fault { why: "the watch has ended".to_owned(), code: None },
                Err(error) => {
                    let fault = Fault::from(&error);
                    if fault.code != Some(GONE) {
                        return fault;
                    }
                    tracing::debug!(%error, "kubernetes: the pods are listed anew");
                }
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

    fn take(&mut self, event: Event<ApiPod>) {
        let (now, unix_ns) = (std::time::Instant::now(), clock::unix_ns(clock::boot_ns()));
        if matches!(event, Event::InitApply(_) | Event::Apply(_) | Event::Delete(_)) {
            self.metrics.kubernetes_object();
        }
        match event {
            Event::Init => return self.listed.clear(),
            Event::InitApply(pod) => return self.listed.extend(Pod::read(&pod)),
            Event::InitDone => self.pods.replace(std::mem::take(&mut self.listed), now, unix_ns),
            Event::Apply(pod) => {
                if let Some(pod) = Pod::read(&pod) {
                    self.pods.apply(pod, now);
                }
            }
            Event::Delete(pod) => {
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
