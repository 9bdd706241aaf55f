//! Steps along relations, as of a time.

use std::collections::BTreeSet;

use serde::Deserialize;
use tapio_occurrence::kubernetes::{Object, Pair};

use super::{EntityId, Graph};

/// Maximum number of entities that one walk visits.
const MAX_VISITED: usize = 256;
/// How deep owners are followed: a pod, its ReplicaSet, its Deployment, and an operator's object or two above.
const MAX_OWNERS: usize = 6;
/// How far back members of a service count, in nanoseconds: whoever it selected before it was edited.
const MEMBERS_NS: u64 = 3_600_000_000_000;

/// One step along a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The entity and everything that owns it.
    Owner,
    /// The entity and everything that it owns.
    Owned,
    /// The node of a pod; a node itself.
    Node,
    /// The pods of a node.
    OnNode,
    /// What the entity or an owner of it uses: ConfigMaps, Secrets, claims, service accounts, volumes.
    Uses,
    /// Services that select a pod, or selected it up to an hour ago.
    Services,
    /// The pods behind a service, now or up to an hour ago; a pod itself.
    Members,
    /// NetworkPolicies that select a pod, or a pod of the entity.
    Policies,
    /// ResourceQuotas and LimitRanges of the namespace.
    Quotas,
    /// Autoscalers of the entity or of an owner.
    Autoscalers,
    /// The cluster's DNS: the service and what is behind it, with its ConfigMap.
    Dns,
    /// Webhooks that the API server asks.
    Webhooks,
    /// Services of the namespace.
    NamespaceServices,
    /// Whom the entity's workload calls or connects to: services, and the workloads behind them.
    Calls,
    /// The workloads that call the entity's workload, or connect to its addresses or its services.
    Callers,
    /// All nodes.
    Nodes,
    /// All volumes.
    Volumes,
    /// Claims of the namespace.
    Claims,
}

impl Graph {
    /// The entities that a path leads to, in order.
    pub(crate) fn walk(&self, from: &[EntityId], path: &[Step], at_ns: u64) -> BTreeSet<EntityId> {
        let mut here: BTreeSet<EntityId> = from.iter().copied().collect();
        for step in path {
            here = self.take(&here, *step, at_ns);
        }
        here
    }

    /// The entities that one step leads to.
    pub(crate) fn take(&self, from: &BTreeSet<EntityId>, step: Step, at_ns: u64) -> BTreeSet<EntityId> {
        let mut next = BTreeSet::new();
        for id in from {
            if next.len() >= MAX_VISITED {
                break;
            }
            self.step(*id, step, at_ns, &mut next);
        }
        next
    }

    fn step(&self, id: EntityId, step: Step, at_ns: u64, to: &mut BTreeSet<EntityId>) {
        match step {
            Step::Owner => to.extend(self.owners(id, at_ns)),
            Step::Owned => self.owned(id, at_ns, to),
            Step::Node => to.extend(self.node(id, at_ns)),
            Step::OnNode => {
                let on = |other: &EntityId| self.node(*other, at_ns) == Some(id);
                to.extend(self.existing(self.referring(id), at_ns).filter(on));
            }
            Step::Uses => {
                for owner in self.owners(id, at_ns) {
                    to.extend(self.uses(owner, at_ns));
                }
            }
            Step::Services => to.extend(self.services(id, at_ns)),
            Step::Members => to.extend(self.members(id, at_ns)),
            Step::Policies => {
                let mut pods = BTreeSet::new();
                self.owned(id, at_ns, &mut pods);
                for pod in pods {
                    to.extend(self.selecting("NetworkPolicy", pod, at_ns));
                }
            }
            Step::Quotas => {
                let namespace = self.get(id).and_then(|entity| entity.name.namespace.as_deref());
                to.extend(self.of_kind("ResourceQuota", namespace));
                to.extend(self.of_kind("LimitRange", namespace));
            }
            Step::Autoscalers => {
                for owner in self.owners(id, at_ns) {
                    to.extend(
                        self.referring(owner).filter(|other| self.is(*other, "HorizontalPodAutoscaler")),
                    );
                }
            }
            Step::Dns => to.extend(self.dns(at_ns)),
            Step::Webhooks => {
                to.extend(self.of_kind("ValidatingWebhookConfiguration", None));
                to.extend(self.of_kind("MutatingWebhookConfiguration", None));
            }
            Step::NamespaceServices => {
                let namespace = self.get(id).and_then(|entity| entity.name.namespace.as_deref());
                to.extend(self.of_kind("Service", namespace));
            }
            Step::Calls => self.called(id, at_ns, to),
            Step::Callers => self.callers(id, at_ns, to),
            Step::Nodes => to.extend(self.of_kind("Node", None).take(MAX_VISITED)),
            Step::Volumes => to.extend(self.of_kind("PersistentVolume", None).take(MAX_VISITED)),
            Step::Claims => {
                let namespace = self.get(id).and_then(|entity| entity.name.namespace.as_deref());
                to.extend(self.of_kind("PersistentVolumeClaim", namespace).take(MAX_VISITED));
            }
        }
    }

    /// Whom a workload calls, as applications report it, and what it connects to, with the workloads behind.
    fn called(&self, id: EntityId, at_ns: u64, to: &mut BTreeSet<EntityId>) {
        let client = self.workload(id, at_ns);
        let connected = self.connections.of(client, at_ns);
        let connected = connected.filter_map(|(address, _)| self.at_address(address, at_ns));
        for peer in self.calls.of(client, at_ns).chain(connected) {
            if to.len() >= MAX_VISITED {
                return;
            }
            to.insert(peer);
            for member in self.members(peer, at_ns) {
                to.extend(self.owners(member, at_ns));
            }
        }
    }

    /// The workloads that call a workload, or connect to it.
    fn callers(&self, id: EntityId, at_ns: u64, to: &mut BTreeSet<EntityId>) {
        let mut pods = BTreeSet::new();
        self.owned(self.workload(id, at_ns), at_ns, &mut pods);
        let services: Vec<_> = pods.iter().flat_map(|pod| self.services(*pod, at_ns)).collect();
        for there in pods.into_iter().chain(services) {
            to.extend(self.calls.callers(there, at_ns).take(MAX_VISITED));
            for address in self.addresses_of(there, at_ns) {
                if to.len() >= MAX_VISITED {
                    return;
                }
                to.extend(self.connections.clients_of(address, at_ns).take(MAX_VISITED));
            }
        }
    }

    pub(crate) fn is(&self, id: EntityId, kind: &str) -> bool {
        self.get(id).is_some_and(|entity| entity.name.kind == kind)
    }

    fn object(&self, id: EntityId, at_ns: u64) -> Option<&Object> {
        self.get(id)?.object(at_ns)
    }

    fn existing(&self, ids: impl Iterator<Item = EntityId>, at_ns: u64) -> impl Iterator<Item = EntityId> {
        ids.filter(move |id| self.get(*id).is_some_and(|entity| entity.exists(at_ns)))
    }

    /// The entity, and everything that owns it, the nearest first.
    pub(crate) fn owners(&self, id: EntityId, at_ns: u64) -> Vec<EntityId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(id) = found.get(next).copied().filter(|_| next < MAX_OWNERS) {
            let owners = self.object(id, at_ns).map(|object| object.owners.as_slice()).unwrap_or_default();
            for owner in owners.iter().filter_map(|owner| self.find(owner, at_ns)) {
                if !found.contains(&owner) {
                    found.push(owner);
                }
            }
            next += 1;
        }
        found
    }

    /// An entity with those whose answers depend on it: owners, what it uses or lists, what refers to it, and the services of
    /// a pod.
    pub(crate) fn around(&self, id: EntityId, at_ns: u64) -> BTreeSet<EntityId> {
        let mut found: BTreeSet<EntityId> = self.owners(id, at_ns).into_iter().collect();
        found.extend(self.uses(id, at_ns));
        found.extend(self.referring(id));
        if self.is(id, "Pod") {
            found.extend(self.services(id, at_ns));
        }
        found
    }

    /// The workload of a pod: its outermost owner.
    pub(crate) fn workload(&self, id: EntityId, at_ns: u64) -> EntityId {
        let owners = self.owners(id, at_ns);
        // A static pod's owner is its node.
        owners.iter().rev().copied().find(|owner| !self.is(*owner, "Node")).unwrap_or(id)
    }

    fn owned(&self, id: EntityId, at_ns: u64, to: &mut BTreeSet<EntityId>) {
        if to.len() >= MAX_VISITED || !to.insert(id) {
            return;
        }
        let owns = |other: &EntityId| {
            let owners =
                self.object(*other, at_ns).map(|object| object.owners.as_slice()).unwrap_or_default();
            owners.iter().any(|owner| self.find(owner, at_ns) == Some(id))
        };
        let owned: Vec<_> = self.existing(self.referring(id), at_ns).filter(owns).collect();
        for other in owned {
            self.owned(other, at_ns, to);
        }
    }

    /// The entity, and everything that it owns or owned, also what is gone.
    pub(crate) fn ever_owned(&self, id: EntityId) -> BTreeSet<EntityId> {
        let mut found = BTreeSet::from([id]);
        let mut open = vec![id];
        while let Some(owner) = open.pop().filter(|_| found.len() < MAX_VISITED) {
            let versions =
                |other| self.get(other).map(|entity| entity.versions.as_slice()).unwrap_or_default();
            let owned = |other: &EntityId| {
                let owners = versions(*other).iter().flat_map(|version| {
                    version.object.owners.iter().map(|owner| self.find(owner, version.from_ns))
                });
                owners.into_iter().any(|known| known == Some(owner))
            };
            open.extend(self.referring(owner).filter(owned).filter(|other| found.insert(*other)));
        }
        found
    }

    /// The node of a pod; a node itself.
    pub(crate) fn node(&self, id: EntityId, at_ns: u64) -> Option<EntityId> {
        if self.is(id, "Node") {
            return Some(id);
        }
        let node = self.object(id, at_ns)?.node.as_deref()?;
        self.named(&super::Name::new("Node", None, node), at_ns)
    }

    fn uses(&self, id: EntityId, at_ns: u64) -> impl Iterator<Item = EntityId> {
        let uses = self.object(id, at_ns).map(|object| object.uses.as_slice()).unwrap_or_default();
        uses.iter().filter_map(move |used| self.find(used, at_ns))
    }

    /// Services with a pod among their endpoints, or whose selector fits it, at the time or up to an hour before.
    fn services(&self, pod: EntityId, at_ns: u64) -> BTreeSet<EntityId> {
        let slices = self.referring(pod).filter(|slice| self.is(*slice, "EndpointSlice"));
        let listed = slices.flat_map(|slice| self.uses(slice, at_ns).collect::<Vec<_>>());
        let mut found: BTreeSet<EntityId> = listed.filter(|used| self.is(*used, "Service")).collect();
        found.extend(self.selecting("Service", pod, at_ns));
        found
    }

    /// Objects of a kind in the namespace of a pod whose selector fits it, at the time or up to an hour before.
    pub(crate) fn selecting(&self, kind: &str, pod: EntityId, at_ns: u64) -> Vec<EntityId> {
        let Some(entity) = self.get(pod) else { return Vec::new() };
        let labels = entity.object(at_ns).map(|object| object.labels.as_slice()).unwrap_or_default();
        let namespace = &entity.name.namespace;
        let keys = labels.iter().map(|pair| Some((namespace.clone(), pair.clone()))).chain([None]);
        let found: BTreeSet<EntityId> =
            keys.filter_map(|key| self.selectors.get(&key)).flatten().copied().collect();
        let fits = |id: &EntityId| {
            let is_meant = self
                .get(*id)
                .is_some_and(|entity| entity.name.kind == kind && entity.name.namespace == *namespace);
            is_meant
                && self
                    .recent(*id, at_ns)
                    .any(|object| selects(&object.selector, labels, kind == "NetworkPolicy"))
        };
        found.into_iter().filter(fits).collect()
    }

    /// Pods and workloads with the labels that a selector asks for.
    fn selected(&self, selector: &[Pair], namespace: Option<&str>) -> impl Iterator<Item = EntityId> {
        let sets =
            selector.iter().map(|pair| self.labelled.get(&(namespace.map(ToOwned::to_owned), pair.clone())));
        // The smallest of them, or none if nothing has one of the labels.
        let fewest = sets.min_by_key(|set| set.map_or(0, BTreeSet::len)).flatten();
        fewest.into_iter().flatten().copied()
    }

    /// The versions of an entity that were valid at a time or up to an hour before.
    fn recent(&self, id: EntityId, at_ns: u64) -> impl Iterator<Item = &Object> {
        let from_ns = at_ns.saturating_sub(MEMBERS_NS);
        let versions = self.get(id).map(|entity| entity.versions.as_slice()).unwrap_or_default();
        let first = versions.partition_point(|version| version.from_ns <= from_ns).saturating_sub(1);
        let end =
            versions.partition_point(|version| version.from_ns <= at_ns).max(first + 1).min(versions.len());
        versions.get(first..end).unwrap_or_default().iter().map(|version| &version.object)
    }

    /// The pods behind a service; anything else itself.
    fn members(&self, id: EntityId, at_ns: u64) -> BTreeSet<EntityId> {
        if !self.is(id, "Service") {
            return BTreeSet::from([id]);
        }
        let Some(namespace) = self.get(id).map(|entity| entity.name.namespace.clone()) else {
            return BTreeSet::new();
        };
        let mut found = BTreeSet::new();
        for slice in self.referring(id).filter(|slice| self.is(*slice, "EndpointSlice")) {
            for object in self.recent(slice, at_ns) {
                let pods = object.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_deref());
                let pods = pods
                    .filter_map(|pod| self.named(&super::Name::new("Pod", namespace.as_deref(), pod), at_ns));
                found.extend(pods);
            }
        }
        for service in self.recent(id, at_ns) {
            for other in self.selected(&service.selector, namespace.as_deref()) {
                if found.len() >= MAX_VISITED {
                    return found;
                }
                let Some(entity) = self.get(other) else { continue };
                let labels = entity.object(at_ns).map(|object| object.labels.as_slice()).unwrap_or_default();
                let was_there = entity.created_ns() <= at_ns
                    && entity.deleted_ns().is_none_or(|deleted| deleted.saturating_add(MEMBERS_NS) > at_ns);
                // Where there are no pods (yet, or any more), the workloads whose pods it selects.
                let is_meant =
                    matches!(&*entity.name.kind, "Pod" | "Deployment" | "StatefulSet" | "DaemonSet")
                        && was_there;
                if is_meant && selects(&service.selector, labels, false) {
                    found.insert(other);
                }
            }
        }
        found
    }

    /// Number of ready endpoints of a service at a time; `None` where no EndpointSlice is known.
    pub(crate) fn ready_endpoints(&self, service: EntityId, at_ns: u64) -> Option<usize> {
        let slices = self.referring(service).filter(|slice| self.is(*slice, "EndpointSlice"));
        let mut known = self.existing(slices, at_ns).filter_map(|slice| self.object(slice, at_ns)).peekable();
        known.peek()?;
        Some(known.flat_map(|slice| &slice.endpoints).filter(|endpoint| endpoint.ready == "true").count())
    }

    /// The cluster's DNS service by the name that every distribution gives it, its pods, their owners and ConfigMaps.
    fn dns(&self, at_ns: u64) -> BTreeSet<EntityId> {
        let mut found = BTreeSet::new();
        for name in ["kube-dns", "coredns", "rke2-coredns-rke2-coredns"] {
            let Some(service) = self.named(&super::Name::new("Service", Some("kube-system"), name), at_ns)
            else {
                continue;
            };
            found.insert(service);
            for pod in self.members(service, at_ns) {
                found.extend(self.owners(pod, at_ns));
                for owner in self.owners(pod, at_ns) {
                    found.extend(self.uses(owner, at_ns));
                }
            }
        }
        found
    }
}

/// Whether a selector fits labels. One without entries selects everything for a NetworkPolicy, and nothing for a service.
fn selects(selector: &[Pair], labels: &[Pair], empty: bool) -> bool {
    match selector {
        [] => empty,
        selector => selector.iter().all(|pair| labels.contains(pair)),
    }
}
