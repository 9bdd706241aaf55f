//! The kinds of objects that are watched. Another kind is another entry of [`KINDS`].

use kube::api::ApiResource;

use super::{
    flat::Compared,
    relations::{self, Relate},
    states::{self, Look},
};

/// A kind of objects.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its name.
    pub(super) name: &'static str,
    /// API group; empty for the core one.
    pub(super) group: &'static str,
    /// API version.
    pub(super) version: &'static str,
    /// Name of the resource in the API.
    pub(super) plural: &'static str,
    /// The only namespace that is watched, if there is one.
    pub(super) namespace: Option<&'static str>,
    /// Which of its objects are watched; empty for all.
    pub(super) fields: &'static str,
    /// What its objects are for.
    pub(super) role: Role,
    /// Which of its fields are changes.
    pub(super) compared: Compared,
    /// Reads its relations.
    pub(super) relate: Relate,
    /// Reads its states.
    pub(super) look: Look,
    /// What is not known without it.
    pub(super) lost: &'static str,
}

/// What the objects of a kind are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// They are reported.
    Object,
    /// Their renewals are signs of life of nodes.
    Sign,
    /// They are reports themselves.
    Event,
}

impl Kind {
    const fn new(
        group: &'static str,
        version: &'static str,
        name: &'static str,
        plural: &'static str,
    ) -> Self {
        Self {
            name,
            group,
            version,
            plural,
            namespace: None,
            fields: "",
            role: Role::Object,
            compared: Compared::All,
            relate: relations::nothing,
            look: states::nothing,
            lost: "",
        }
    }

    const fn compared(mut self, compared: Compared) -> Self {
        self.compared = compared;
        self
    }

    const fn relate(mut self, relate: Relate) -> Self {
        self.relate = relate;
        self
    }

    const fn look(mut self, look: Look) -> Self {
        self.look = look;
        self
    }

    const fn only(mut self, namespace: Option<&'static str>, fields: &'static str, role: Role) -> Self {
        self.namespace = namespace;
        self.fields = fields;
        self.role = role;
        self
    }

    const fn lost(mut self, lost: &'static str) -> Self {
        self.lost = lost;
        self
    }

    /// The name of its resource as in a ClusterRole, such as `deployments.apps`.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The resource in the API.
    pub(super) fn api(&self) -> ApiResource {
        let (group, version) = (self.group.to_owned(), self.version.to_owned());
        let api_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
        ApiResource {
            group,
            version,
            api_version,
            kind: self.name.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// The name of the kind of Secrets, which are watched only when asked for.
pub(super) const SECRET: &str = "Secret";

/// Kinds whose pods, or whose ReplicaSets and Jobs, follow from what is said of themselves.
pub(super) const CONTROLLERS: &[&str] = &[
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
    "Node",
    "Service",
    "HorizontalPodAutoscaler",
];

/// All kinds. Those that own others come first.
pub(super) static KINDS: &[Kind] = &[
    Kind::new("", "v1", "Node", "nodes")
        .compared(Compared::Node)
        .relate(relations::node)
        .look(states::node)
        .lost("node conditions, cordons and taints"),
    Kind::new("apps", "v1", "Deployment", "deployments")
        .relate(relations::workload)
        .look(states::workload)
        .lost("rollouts and changes of Deployments"),
    Kind::new("apps", "v1", "ReplicaSet", "replicasets")
        .relate(relations::workload)
        .look(states::workload)
        .lost("revisions of Deployments, and why their pods are not created"),
    Kind::new("apps", "v1", "StatefulSet", "statefulsets")
        .relate(relations::workload)
        .lost("rollouts and changes of StatefulSets"),
    Kind::new("apps", "v1", "DaemonSet", "daemonsets")
        .relate(relations::daemon_set)
        .lost("rollouts and changes of DaemonSets"),
    Kind::new("batch", "v1", "CronJob", "cronjobs").relate(relations::cron_job).lost("changes of CronJobs"),
    Kind::new("batch", "v1", "Job", "jobs")
        .relate(relations::workload)
        .look(states::job)
        .lost("failed Jobs, and which CronJob a pod is of"),
    Kind::new("", "v1", "Service", "services")
        .relate(relations::service)
        .lost("which pods a service selects, and its changes"),
    Kind::new("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
        .compared(Compared::Nothing)
        .relate(relations::endpoint_slice)
        .lost("services without ready endpoints"),
    Kind::new("", "v1", "Pod", "pods")
        .compared(Compared::Pod)
        .relate(relations::pod)
        .look(states::pod)
        .lost("the states of pods and containers, and where they run"),
    Kind::new("", "v1", "ConfigMap", "configmaps").lost("changes of ConfigMaps"),
    Kind::new("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers")
        .relate(relations::autoscaler)
        .look(states::autoscaler)
        .lost("autoscalers at their maximum or unable to scale"),
    Kind::new("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
        .relate(relations::claim)
        .look(states::claim)
        .lost("claims that are not bound"),
    Kind::new("", "v1", "PersistentVolume", "persistentvolumes").lost("changes of volumes"),
    Kind::new("networking.k8s.io", "v1", "Ingress", "ingresses")
        .relate(relations::ingress)
        .lost("where Ingresses route to, and their changes"),
    Kind::new("", "v1", "ResourceQuota", "resourcequotas")
        .look(states::quota)
        .lost("changes of quotas, and which are used up"),
    Kind::new("", "v1", "LimitRange", "limitranges").lost("changes of limit ranges"),
    Kind::new("", "v1", "ServiceAccount", "serviceaccounts")
        .lost("changes and deletions of service accounts"),
    Kind::new("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
        .lost("changes of permissions in namespaces"),
    Kind::new("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies")
        .relate(relations::network_policy)
        .lost("changes of network policies"),
    Kind::new("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")
        .relate(relations::disruption_budget)
        .lost("changes of disruption budgets"),
    Kind::new(
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
    )
    .relate(relations::webhooks)
    .lost("changes of validating webhooks"),
    Kind::new(
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
    )
    .relate(relations::webhooks)
    .lost("changes of mutating webhooks"),
    Kind::new("coordination.k8s.io", "v1", "Lease", "leases")
        .compared(Compared::Nothing)
        .only(Some("kube-node-lease"), "", Role::Sign)
        .lost("when a node that went silent was last alive"),
    Kind::new("", "v1", "Event", "events")
        .compared(Compared::Nothing)
        // Not those that tell of incidents.
        .only(None, "type=Warning,reportingComponent!=tapio.dev/ahti", Role::Event)
        .lost("Warning Events"),
    Kind::new("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes")
        .relate(relations::http_route)
        .lost("where HTTPRoutes route to, and their changes"),
    Kind::new("", "v1", SECRET, "secrets").lost("which keys of a Secret changed"),
];

/// The kind of this name.
pub(super) fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/facts.md");

    #[test]
    fn every_kind_says_what_is_lost_without_it() {
        for (nth, of) in KINDS.iter().enumerate() {
            assert!(!of.lost.is_empty(), "{}", of.name);
            let row = format!("| `{}` | {} |", of.resource(), of.lost);
            assert!(PAGE.contains(&row), "docs/facts.md has no {row}");
            assert!(std::ptr::eq(kind(of.name).unwrap(), &KINDS[nth]), "{} is there twice", of.name);
        }
        assert_eq!(kind("Deployment").unwrap().resource(), "deployments.apps");
        assert_eq!(kind("Pod").unwrap().api().api_version, "v1");
    }
}
