//! Who an address belongs to.

use std::{net::IpAddr, sync::Arc};

use super::pods::Pod;
use crate::occurrence::Peer;

/// What has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// Tells it from another of the same name.
    pub uid: String,
    /// Namespace of the service or pod.
    pub namespace: Option<Arc<str>>,
    /// Service.
    pub service: Option<Arc<str>>,
    /// Pod.
    pub pod: Option<Arc<str>>,
    /// Node: also for the pods on its own network, which have no address of their own.
    pub node: Option<Arc<str>>,
    /// Kind of the pod's owner.
    pub owner_kind: Option<Arc<str>>,
    /// Name of the pod's owner.
    pub owner: Option<Arc<str>>,
}

impl Party {
    /// A pod with an address of its own.
    #[must_use]
    pub fn of_pod(pod: &Pod) -> Self {
        let (owner_kind, owner) = pod.owner.as_ref().map(|(kind, name)| (kind, name)).unzip();
        Self {
            uid: pod.uid.clone(),
            namespace: Some(pod.namespace.as_str().into()),
            pod: Some(pod.name.as_str().into()),
            owner_kind: owner_kind.map(|kind| kind.as_str().into()),
            owner: owner.map(|name| name.as_str().into()),
            ..Self::default()
        }
    }

    /// A service.
    #[must_use]
    pub fn of_service(uid: String, namespace: &str, name: &str) -> Self {
        Self { uid, namespace: Some(namespace.into()), service: Some(name.into()), ..Self::default() }
    }

    /// A node.
    #[must_use]
    pub fn of_node(name: &str) -> Self {
        Self { uid: name.to_owned(), node: Some(name.into()), ..Self::default() }
    }

    /// The other side of an occurrence, with these names.
    #[must_use]
    pub fn peer(&self, address: IpAddr, port: u16) -> Peer {
        Peer {
            address,
            port,
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            pod: self.pod.clone(),
            node: self.node.clone(),
            owner_kind: self.owner_kind.clone(),
            owner: self.owner.clone(),
        }
    }

    /// How long after it was seen it is still believed to have its address, nanoseconds. Addresses of pods are used
    /// again soonest.
    #[must_use]
    pub const fn fresh_ns(&self) -> u64 {
        const SECOND_NS: u64 = 1_000_000_000;
        if self.pod.is_some() { 10 * SECOND_NS } else { 60 * SECOND_NS }
    }
}
