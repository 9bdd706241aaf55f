//! Queries the API server: one query at a time, a few per second.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use http::{Request, header::ACCEPT};
use k8s_openapi::api::core::v1::{Pod as ApiPod, Service};
use kube::{Api, Client, api::ListParams};
use serde::Deserialize;
use tapio_kube::Fault;
use tapio_service::{backoff::Backoff, clock, span::Span};
use tokio::{
    sync::watch,
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};

use super::{
    Peers, Question,
    answers::{Found, Known},
    nodes::NodeAddress,
};
use crate::{
    enrich::{
        kubernetes::{Health, PATIENCE},
        peer_identity::PeerIdentity,
        pods::{Pod, unix_ns},
    },
    metrics::Metrics,
};

/// Time between two queries: five per second.
const PACE: Duration = Duration::from_millis(200);
/// The time limit for the list of nodes, which is the longest answer.
const NODES: Duration = Duration::from_secs(10);
/// Nodes per page of that list.
const PAGE: usize = 500;
/// Asks for a table instead of the Node objects, which carry the names of all their images.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
/// Times from the API are truncated to the second.
const SECOND_NS: u64 = 1_000_000_000;
/// After a failed query, no other is sent for 0.5 s to 30 s.
const RETRY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// A refused query is not repeated for this long, because permissions change seldom.
const REFUSED: Duration = Duration::from_secs(60);

/// Answers queries for ever.
pub async fn answer(
    peers: Arc<Peers>,
    mut clients: watch::Receiver<Option<Client>>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asker = Asker { client: None, pace, health, metrics, refused: HashMap::new() };
    let mut retry = RETRY;
    let mut asked = peers.asked.lock().await;
    while let Some(Question { address, until }) = asked.recv().await {
        asker.client.clone_from(&clients.borrow_and_update());
        // The occurrence that waited has been sent without this answer: skip the query, for those that still wait.
        if Instant::now() < until {
            let result = asker.resolve(&peers, address).await;
            let mut answers = peers.answers();
            match result {
                Ok(found) => {
                    if let Some((asked_unix_ns, found)) = found {
                        answers.put(address, asked_unix_ns, found);
                    }
                    answers.pause(None);
                    retry = RETRY;
                }
                Err(_) => answers.pause(Some(Instant::now() + retry.wait())),
            }
        }
        peers.answers().end(address);
        peers.tell();
    }
}

struct Asker {
    client: Option<Client>,
    pace: Interval,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// The last refusal of each resource, and until when it counts.
    refused: HashMap<&'static str, (Instant, Fault)>,
}

impl Asker {
    /// Finds out who has an address, and when the query was sent. `None` if the list of nodes answers it, or
    /// no query may be sent. A refused resource is skipped; the others are still queried.
    async fn resolve(&mut self, peers: &Peers, address: IpAddr) -> Result<Option<(u64, Vec<Found>)>, Fault> {
        let Some(client) = self.client.clone() else {
            let fault = Fault { why: "the API server was not reached yet".to_owned(), code: None };
            self.health.asked("pods", Some(&fault));
            return Err(fault);
        };
        unless_refused(self.refresh_nodes(peers, &client).await)?;
        if peers.answers().nodes.at(address, now_unix_ns()) != Known::NotYet {
            return Ok(None);
        }
        let mut answer = unless_refused(self.pods(&client, address).await)?;
        // Pods that had it and have ended say nothing about who has it now.
        let is_held = answer.iter().flat_map(|(_, found)| found).any(|found| found.until_unix_ns.is_none());
        if !is_held
            && let Some((asked_unix_ns, services)) = unless_refused(self.services(&client, address).await)?
        {
            answer.get_or_insert((asked_unix_ns, Vec::new())).1.extend(services);
        }
        Ok(answer)
    }

    async fn pods(&mut self, client: &Client, address: IpAddr) -> Result<(u64, Vec<Found>), Fault> {
        let selector = ListParams::default().fields(&format!("status.podIP={address}"));
        let api = Api::<ApiPod>::all(client.clone());
        let (asked, pods) = self.ask("pods", PATIENCE, api.list(&selector)).await?;
        let pods = pods.items.iter().filter_map(Pod::read);
        let pods: Vec<Pod> = pods.filter(|pod| pod.addresses.contains(&address)).collect();
        self.metrics.kubernetes_answer("pods", !pods.is_empty());
        Ok((asked, holders(&pods)))
    }

    async fn services(&mut self, client: &Client, address: IpAddr) -> Result<(u64, Vec<Found>), Fault> {
        let selector = ListParams::default().fields(&format!("spec.clusterIP={address}"));
        let api = Api::<Service>::all(client.clone());
        let (asked, services) = self.ask("services", PATIENCE, api.list(&selector)).await?;
        self.metrics.kubernetes_answer("services", !services.items.is_empty());
        let found = services.items.into_iter().filter_map(|service| {
            let made = service.metadata.creation_timestamp.as_ref().map(unix_ns)?;
            let metadata = service.metadata;
            Some(Found {
                identity: PeerIdentity::of_service(metadata.uid?, metadata.namespace?, metadata.name?),
                from_unix_ns: made.saturating_add(SECOND_NS),
                until_unix_ns: None,
            })
        });
        Ok((asked, found.collect()))
    }

    /// Lists the nodes again if the last list is too old.
    async fn refresh_nodes(&mut self, peers: &Peers, client: &Client) -> Result<(), Fault> {
        let now = now_unix_ns();
        if !peers.answers().nodes.is_due(now) {
            return Ok(());
        }
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let uri = format!("/api/v1/nodes?includeObject=Metadata&limit={PAGE}&continue={next}");
            let request = Request::get(uri).header(ACCEPT, TABLE).body(Vec::new());
            let request = request.map_err(|error| Fault { why: error.to_string(), code: None })?;
            let (_, table) = self.ask("nodes", NODES, client.request::<Table>(request)).await?;
            table.addresses(&mut all);
            next = table.metadata.next;
            if next.is_empty() {
                break;
            }
        }
        self.metrics.kubernetes_answer("nodes", !all.is_empty());
        peers.answers().nodes.replace(all, now);
        Ok(())
    }

    /// Sends one query when its turn comes, and returns the time it was sent. A query refused a moment ago is
    /// not sent.
    async fn ask<T>(
        &mut self,
        resource: &'static str,
        patience: Duration,
        question: impl Future<Output = kube::Result<T>>,
    ) -> Result<(u64, T), Fault> {
        if let Some((until, fault)) = self.refused.get(resource)
            && Instant::now() < *until
        {
            return Err(fault.clone());
        }
        self.pace.tick().await;
        let asked_unix_ns = now_unix_ns();
        let mut span = Span::to_other("ask kubernetes", "tapio.resource", resource);
        let answer = match timeout(patience, question).await {
            Ok(answer) => answer.map_err(|error| Fault::from(&error)),
            Err(_) => Err(Fault::slow(patience)),
        };
        self.health.asked(resource, answer.as_ref().err());
        if let Err(fault) = &answer {
            span.failed(&fault.why);
            self.metrics.kubernetes_failed(resource);
            if fault.is_refusal() {
                self.refused.insert(resource, (Instant::now() + REFUSED, fault.clone()));
            }
        }
        answer.map(|answer| (asked_unix_ns, answer))
    }
}

/// The peers that have an address, from the pods listed with it. A pod on the host network identifies the
/// node and nothing more. If such pods are on two nodes, the node is not certain.
fn holders(pods: &[Pod]) -> Vec<Found> {
    let of_nodes: Vec<&Pod> =
        pods.iter().filter(|pod| pod.host_network && pod.until_unix_ns.is_none()).collect();
    if let Some(name) = of_nodes.first().and_then(|pod| pod.node.as_deref()) {
        let agree = of_nodes.iter().all(|pod| pod.node.as_deref() == Some(name));
        let from_unix_ns = of_nodes.iter().filter_map(|pod| pod.since_unix_ns).min().unwrap_or(u64::MAX);
        let node = Found { identity: PeerIdentity::of_node(name), from_unix_ns, until_unix_ns: None };
        return agree.then_some(node).into_iter().collect();
    }
    let own = pods.iter().filter(|pod| !pod.host_network);
    let found = own.map(|pod| Found {
        identity: PeerIdentity::of_pod(pod),
        from_unix_ns: pod.since_unix_ns.unwrap_or(u64::MAX),
        until_unix_ns: pod.until_unix_ns,
    });
    found.collect()
}

/// Maps a refusal to `None`.
fn unless_refused<T>(answer: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(fault) if fault.is_refusal() => Ok(None),
        Err(fault) => Err(fault),
    }
}

fn now_unix_ns() -> u64 {
    clock::unix_ns(clock::boot_ns())
}

/// Nodes as in the table of `kubectl get nodes --output=wide`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    metadata: TableMetadata,
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct TableMetadata {
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Row {
    cells: Vec<serde_json::Value>,
    object: RowObject,
}

#[derive(Debug, Deserialize)]
struct RowObject {
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
}

impl Table {
    /// Collects the addresses of the nodes.
    fn addresses(&self, out: &mut Vec<NodeAddress>) {
        let columns: HashMap<&str, usize> = self
            .column_definitions
            .iter()
            .enumerate()
            .map(|(at, column)| (column.name.as_str(), at))
            .collect();
        let shown = ["Internal-IP", "External-IP"].map(|name| columns.get(name).copied());
        for Row { cells, object } in &self.rows {
            let metadata = &object.metadata;
            let (Some(name), Some(made)) = (&metadata.name, &metadata.creation_timestamp) else { continue };
            let made_unix_ns = unix_ns(made).saturating_add(SECOND_NS);
            // A node without such an address has `<none>` in that cell.
            let addresses = shown.iter().flatten().filter_map(|at| cells.get(*at)?.as_str()?.parse().ok());
            out.extend(addresses.map(|address| NodeAddress { address, name: name.clone(), made_unix_ns }));
        }
    }
}

#[cfg(test)]
mod tests;
