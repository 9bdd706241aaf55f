//! Evidence: facts about a pair of cause and effect that decide whether one explains the other.

use std::{cell::LazyCell, collections::BTreeSet, net::IpAddr};

use serde::Deserialize;
use tapio_occurrence::kubernetes::Pair as Label;

use crate::{
    finding::Finding,
    findings::Findings,
    graph::{EntityId, Graph, Name, Step},
};

/// How long a container that ended may keep its pod from answering.
const RECENT_NS: u64 = 600_000_000_000;
/// How exactly limits are compared: page sizes and rounding.
const CLOSE: f64 = 0.02;

/// What can be known of a pair of cause and effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Evidence {
    /// The limit that was reached is the one that the change set.
    LimitOfChange,
    /// The change lowered an amount.
    Lowered,
    /// All pods with the effect are younger than the change.
    OnlyNewPods,
    /// A pod that is older than the change has the effect, too.
    OldPodsToo,
    /// The effect names the image that the change set.
    ImageOfChange,
    /// The other end of the connection is a pod of the cause, or a service whose pods all have the cause.
    AtCause,
    /// The service of the other end has no ready pod at the time of the effect.
    NoEndpoints,
    /// The change deleted the object.
    Deletion,
    /// The change set the number of pods to 0.
    ScaledToZero,
    /// The cause began within ten seconds before the effect.
    Immediate,
    /// The text of the effect has the name of the cause's object.
    Named,
    /// The cause and the effect are in the same pod.
    SamePod,
    /// Both are about the same gateway.
    SameGateway,
    /// The connection of the effect may pass the gateway or the device of the cause: addresses are of the same family, and if it is
    /// the node's own, the two ends are not on the same node.
    OnTheWay,
    /// A pod of the effect, or behind the service, has no node.
    Unassigned,
    /// The cause is at the other end of the calls or the connection that the effect is about. Of what a workload answers, its
    /// own calls with the same trouble decide, where there are any.
    Toward,
    /// A node has all labels that the change asks for.
    FitsNode,
    /// The name that is asked for is of a service that does not exist any more.
    AskedGone,
    /// The service or pod at the other end does not exist at the time of the effect.
    PeerGone,
    /// The claim that the change is about has a volume.
    HoldsVolume,
}

/// A pair of cause and effect with the graph.
pub(crate) struct Pair<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) findings: &'a Findings,
    pub(crate) cause: &'a Finding,
    pub(crate) effect: &'a Finding,
    /// Other findings of the effect's type on the effect's workload, before the cause.
    pub(crate) before: LazyCell<bool, &'a dyn Fn() -> bool>,
}

impl Pair<'_> {
    /// Whether the evidence holds; `None` where it cannot be known.
    pub(crate) fn holds(&self, evidence: Evidence) -> Option<bool> {
        let (cause, effect) = (self.cause, self.effect);
        match evidence {
            Evidence::LimitOfChange => {
                let limit = effect.number("limit_bytes")? as f64;
                let values = cause.fields.get("memory_limit_bytes").map(Vec::as_slice).unwrap_or_default();
                let mut set = values.iter().filter_map(|value| value.parse::<f64>().ok());
                Some(set.any(|set| (set - limit).abs() <= limit * CLOSE))
            }
            Evidence::Lowered => Some(cause.fields.get("lowered").is_some_and(|paths| !paths.is_empty())),
            Evidence::OnlyNewPods => self.ages().map(|(young, old)| young > 0 && old == 0 && !*self.before),
            Evidence::OldPodsToo => self.ages().map(|(_, old)| old > 0 || *self.before),
            Evidence::ImageOfChange => {
                let images = cause.fields.get("image").filter(|images| !images.is_empty())?;
                let texts = ["text", "reason"].iter().filter_map(|key| effect.fields.get(*key)).flatten();
                Some(texts.into_iter().any(|text| images.iter().any(|image| text.contains(&**image))))
            }
            Evidence::AtCause => {
                let peer = effect.peer?.entity?;
                let at = effect.onset_ns;
                let pods = self.graph.walk(&[peer], &[Step::Members], at);
                let exists = |pod: &EntityId| self.graph.get(*pod).is_some_and(|pod| pod.exists(at));
                let has = |pod: EntityId| {
                    let same = |other: &Finding| {
                        other.key.kind == cause.key.kind
                            && other.onset_ns <= effect.last_ns
                            && other.last_ns.saturating_add(RECENT_NS) >= effect.onset_ns
                    };
                    self.findings.of(pod).any(|(_, other)| same(other))
                };
                let mut existing =
                    pods.into_iter().filter(|pod| self.graph.is(*pod, "Pod") && exists(pod)).peekable();
                existing.peek()?;
                Some(existing.all(has))
            }
            Evidence::NoEndpoints => {
                let peer = effect.peer?.entity?;
                self.graph.ready_endpoints(peer, effect.onset_ns).map(|ready| ready == 0)
            }
            Evidence::Deletion => Some(cause.field("verb") == Some("deleted")),
            Evidence::ScaledToZero => Some(
                cause.fields.get("replicas").is_some_and(|values| values.iter().any(|value| value == "0")),
            ),
            Evidence::Immediate => Some(effect.onset_ns.saturating_sub(cause.onset_ns) <= 10_000_000_000),
            Evidence::Named => {
                let name = &self.graph.get(cause.key.entity)?.name.name;
                let texts = ["text", "reason"].iter().filter_map(|key| effect.fields.get(*key)).flatten();
                Some(texts.into_iter().any(|text| text.contains(&**name)) || effect.message.contains(&**name))
            }
            Evidence::SameGateway => Some(cause.field("gateway")? == effect.field("gateway")?),
            Evidence::OnTheWay => {
                let Some(peer) = effect.peer else { return Some(true) };
                let gateway = cause.field("gateway").and_then(|gateway| gateway.parse::<IpAddr>().ok());
                let mut families = gateway.zip(peer.address).into_iter();
                let is_family = families.all(|(one, other)| one.is_ipv4() == other.to_canonical().is_ipv4());
                let is_nodes =
                    self.graph.is(cause.key.entity, "Node") && cause.field("network_namespaces").is_none();
                let stays = is_nodes && peer.entity.is_some_and(|peer| self.is_on_one_node(peer));
                Some(is_family && !stays)
            }
            Evidence::Unassigned => {
                let at = effect.onset_ns;
                let pods = self.graph.walk(&[effect.key.entity], &[Step::Members, Step::Owned], at);
                let mut pods = pods.into_iter().filter(|pod| self.graph.is(*pod, "Pod")).peekable();
                pods.peek()?;
                Some(pods.any(|pod| self.graph.node(pod, at).is_none()))
            }
            Evidence::Toward => {
                let at = effect.onset_ns;
                let cause = self.graph.workload(cause.key.entity, at);
                let is_there = |peer: EntityId| {
                    peer == cause
                        || self.graph.walk(&[peer], &[Step::Members, Step::Owner], at).contains(&cause)
                };
                if let Some(peer) = effect.peer {
                    return Some(is_there(peer.entity?));
                }
                let calls = self.findings.of(effect.key.entity).filter(|(_, other)| {
                    other.key.kind == effect.key.kind
                        && other.onset_ns <= effect.last_ns
                        && other.last_ns >= effect.onset_ns
                });
                let mut called = calls.filter_map(|(_, other)| other.peer?.entity).peekable();
                Some(called.peek().is_none() || called.any(is_there))
            }
            Evidence::FitsNode => {
                let wanted = cause.fields.get("node_label").filter(|labels| !labels.is_empty())?;
                let nodes = self.graph.of_kind("Node", None).filter_map(|node| self.graph.get(node));
                let mut labels = nodes
                    .filter_map(|node| node.object(effect.onset_ns))
                    .map(|node| node.labels.as_slice())
                    .filter(|labels| !labels.is_empty())
                    .peekable();
                labels.peek()?;
                let has = |labels: &[Label], wanted: &String| {
                    labels.iter().any(|label| {
                        wanted.strip_prefix(&*label.key).and_then(|rest| rest.strip_prefix('='))
                            == Some(&*label.value)
                    })
                };
                Some(labels.any(|labels| wanted.iter().all(|wanted| has(labels, wanted))))
            }
            Evidence::AskedGone => {
                let name = effect.field("question")?.split('.').next()?;
                let namespace = self.graph.get(effect.key.entity)?.name.namespace.as_deref();
                let service = self.graph.named(&Name::new("Service", namespace, name), effect.onset_ns)?;
                Some(!self.graph.get(service)?.exists(effect.onset_ns))
            }
            Evidence::PeerGone => {
                let peer = self.graph.get(effect.peer?.entity?)?;
                Some(!peer.exists(effect.onset_ns))
            }
            Evidence::HoldsVolume => {
                let claim = self.graph.get(cause.key.entity)?.object(effect.last_ns)?;
                Some(claim.uses.iter().any(|used| used.kind == "PersistentVolume"))
            }
            Evidence::SamePod => {
                let pods = |finding: &Finding| -> Vec<EntityId> {
                    let own = self.graph.is(finding.key.entity, "Pod").then_some(finding.key.entity);
                    finding.pods.iter().copied().chain(own).collect()
                };
                let of_cause = pods(cause);
                Some(pods(effect).iter().any(|pod| of_cause.contains(pod)))
            }
        }
    }

    /// Whether all pods of the effect, or the node that it is about, and all pods of the other end of its connection are on one node.
    fn is_on_one_node(&self, peer: EntityId) -> bool {
        let at = self.effect.onset_ns;
        let is_there = |pod: &EntityId| {
            self.graph.is(*pod, "Pod") && self.graph.get(*pod).is_some_and(|pod| pod.exists(at))
        };
        let nodes = |pods: BTreeSet<EntityId>| -> Option<BTreeSet<EntityId>> {
            pods.into_iter().filter(is_there).map(|pod| self.graph.node(pod, at)).collect()
        };
        let servers = nodes(self.graph.walk(&[peer], &[Step::Members], at));
        // Probes are the node's.
        let clients = match self.graph.is(self.effect.key.entity, "Node") {
            true => Some(BTreeSet::from([self.effect.key.entity])),
            false => nodes(self.effect.pods.iter().copied().collect()),
        };
        servers.zip(clients).is_some_and(|(servers, clients)| servers.len() == 1 && servers == clients)
    }

    /// How many pods with the effect are younger and older than the cause.
    fn ages(&self) -> Option<(usize, usize)> {
        let pods: Vec<_> = self.effect.pods.iter().filter_map(|pod| self.graph.get(*pod)).collect();
        if pods.is_empty() || !pods.iter().all(|pod| pod.is_from_api()) {
            return None;
        }
        // Times of the API server are whole seconds.
        let is_old = |created_ns: u64| created_ns.saturating_add(1_000_000_000) < self.cause.onset_ns;
        let old = pods.iter().filter(|pod| is_old(pod.created_ns())).count();
        Some((pods.len() - old, old))
    }
}
