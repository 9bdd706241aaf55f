//! The pod, service or node that an address belongs to.

use std::sync::Arc;

use tapio_occurrence::PeerNames;

use super::pods::Pod;

/// A pod, service or node with an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The UID, which tells it from another object of the same name.
    pub uid: String,
    /// The names that occurrences carry.
    pub names: Arc<PeerNames>,
}

impl PeerIdentity {
    /// The identity of a pod that has an address of its own.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        let (owner_kind, owner) = pod.owner.clone().unzip();
        let names = PeerNames {
            namespace: Some(pod.namespace.clone()),
            pod: Some(pod.name.clone()),
            owner_kind,
            owner,
            ..PeerNames::default()
        };
        Self { uid: pod.uid.clone(), names: Arc::new(names) }
    }

    /// The identity of a service.
    #[must_use]
    pub fn of_service(uid: String, namespace: String, name: String) -> Self {
        let names = PeerNames { namespace: Some(namespace), service: Some(name), ..PeerNames::default() };
        Self { uid, names: Arc::new(names) }
    }

    /// The identity of a node.
    #[must_use]
    pub fn of_node(name: &str) -> Self {
        let names = PeerNames { node: Some(name.to_owned()), ..PeerNames::default() };
        Self { uid: name.to_owned(), names: Arc::new(names) }
    }

    /// How long after it was last seen it is still assumed to have its address, nanoseconds. Pod addresses
    /// are reused soonest.
    #[must_use]
    pub fn fresh_ns(&self) -> u64 {
        const SECOND_NS: u64 = 1_000_000_000;
        if self.names.pod.is_some() { 10 * SECOND_NS } else { 60 * SECOND_NS }
    }
}
