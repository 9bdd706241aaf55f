//! The pods of this node, from a watch limited to them, and the pods that were here until a moment ago.

pub mod owner;
mod pod;
mod watch;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tapio_occurrence::Workload;

pub(in crate::enrich) use pod::unix_ns;
pub use pod::{Container, Pod, Volumes};
pub use watch::watch;

use super::{REMEMBER, peer_identity::PeerIdentity};

/// A node has some hundred pods; the rest is room for deleted ones.
const MAX_PODS: usize = 4_096;
/// Times from the API are truncated to the second.
const SECOND_NS: u64 = 1_000_000_000;
/// The most containers kept of one pod, including those before a restart.
const MAX_CONTAINERS: usize = 256;

/// The pods as the API server reports them, each with its earlier containers.
#[derive(Debug)]
pub struct Pods {
    known: HashMap<String, Entry>,
    /// How long a deleted pod, or a replaced container of a running one, is remembered.
    remember: Duration,
}

impl Default for Pods {
    fn default() -> Self {
        Self { known: HashMap::new(), remember: REMEMBER }
    }
}

#[derive(Debug)]
struct Entry {
    pod: Pod,
    gone: Option<Instant>,
    /// Containers that the pod's status named once and no longer names.
    replaced: Vec<(Container, Instant)>,
}

/// The index that anomalies are looked up in. Each change builds a new one; none is ever modified.
#[derive(Debug, Default)]
pub struct Index {
    containers: HashMap<String, Arc<Workload>>,
    /// Pods by UID; static pods also by the hash that their cgroups are named after.
    pods: HashMap<String, Arc<Workload>>,
    /// Volumes by UID of the pod; static pods also by that hash.
    volumes: HashMap<String, Volumes>,
    addresses: HashMap<IpAddr, Vec<Holder>>,
    /// UIDs of pods whose containers have all ended or been asked to end.
    over: HashSet<String>,
    /// Number of pods that exist now.
    present: usize,
}

/// Which pod had an address, and when.
#[derive(Clone, Debug)]
struct Holder {
    identity: Arc<PeerIdentity>,
    since_unix_ns: u64,
    until_unix_ns: Option<u64>,
    ready_unix_ns: Option<u64>,
    is_over: bool,
}

impl Pods {
    /// Remembers deleted pods for this long.
    #[must_use]
    pub fn remembering(self, remember: Duration) -> Self {
        Self { remember, ..self }
    }

    /// Records a new or changed pod.
    pub fn apply(&mut self, mut pod: Pod, now: Instant) {
        let mut replaced = Vec::new();
        if let Some(before) = self.known.remove(&pod.uid) {
            replaced = before.replaced;
            let ready = [before.pod.ready_unix_ns, pod.ready_unix_ns];
            pod.ready_unix_ns = ready.into_iter().flatten().min();
            let lost = before.pod.containers.into_iter();
            replaced.extend(lost.map(|container| (container, now)));
        }
        let named: HashSet<&str> = pod.containers.iter().map(|container| container.id.as_str()).collect();
        replaced.retain(|(container, gone)| {
            !named.contains(container.id.as_str()) && now.duration_since(*gone) < self.remember
        });
        let over = replaced.len().saturating_sub(MAX_CONTAINERS);
        replaced.drain(..over);
        self.known.insert(pod.uid.clone(), Entry { pod, gone: None, replaced });
        self.forget(now);
    }

    /// Records a deletion: at `unix_ns`, at the latest, the pod no longer existed.
    pub fn delete(&mut self, pod: Pod, now: Instant, unix_ns: u64) {
        let uid = pod.uid.clone();
        self.apply(pod, now);
        self.end(&uid, now, unix_ns);
    }

    /// Replaces the whole list. Pods missing from it were deleted unnoticed.
    pub fn replace(&mut self, pods: Vec<Pod>, now: Instant, unix_ns: u64) {
        let here: HashSet<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
        let missing: Vec<String> = self.known.keys().filter(|uid| !here.contains(*uid)).cloned().collect();
        missing.iter().for_each(|uid| self.end(uid, now, unix_ns));
        pods.into_iter().for_each(|pod| self.apply(pod, now));
    }

    /// Builds an index of the current state.
    #[must_use]
    pub fn index(&self) -> Index {
        let mut index = Index::default();
        for entry in self.known.values() {
            let pod = &entry.pod;
            let workload = Arc::new(pod.workload(None));
            let names = [Some(&pod.uid), pod.static_hash.as_ref()];
            for name in names.into_iter().flatten() {
                index.pods.insert(name.clone(), Arc::clone(&workload));
                index.volumes.insert(name.clone(), pod.volumes.clone());
            }
            let replaced = entry.replaced.iter().map(|(container, _)| container);
            for container in pod.containers.iter().chain(replaced) {
                index.containers.insert(container.id.clone(), Arc::new(pod.workload(Some(container))));
            }
            let is_over = pod.is_over || entry.gone.is_some();
            if let Some(since_unix_ns) = pod.since_unix_ns.filter(|_| !pod.host_network) {
                let identity = Arc::new(PeerIdentity::of_pod(pod));
                let Pod { until_unix_ns, ready_unix_ns, .. } = *pod;
                let holder = Holder { identity, since_unix_ns, until_unix_ns, ready_unix_ns, is_over };
                for address in &pod.addresses {
                    index.addresses.entry(*address).or_default().push(holder.clone());
                }
            }
            if is_over {
                index.over.insert(pod.uid.clone());
            }
            index.present += usize::from(entry.gone.is_none());
        }
        index
    }

    fn end(&mut self, uid: &str, now: Instant, unix_ns: u64) {
        if let Some(entry) = self.known.get_mut(uid)
            && entry.gone.is_none()
        {
            entry.gone = Some(now);
            entry.pod.until_unix_ns = Some(entry.pod.until_unix_ns.map_or(unix_ns, |ns| ns.min(unix_ns)));
        }
    }

    fn forget(&mut self, now: Instant) {
        self.known.retain(|_, entry| entry.gone.is_none_or(|gone| now.duration_since(gone) < self.remember));
        while self.known.len() > MAX_PODS {
            let oldest = self.known.iter().filter_map(|(uid, entry)| Some((entry.gone?, uid))).min();
            let Some(uid) = oldest.map(|(_, uid)| uid.clone()) else { return };
            self.known.remove(&uid);
        }
    }
}

impl Index {
    /// The workload of a container id.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<Arc<Workload>> {
        self.containers.get(id).cloned()
    }

    /// The pod with the UID that cgroups are named after.
    #[must_use]
    pub fn pod(&self, uid: &str) -> Option<Arc<Workload>> {
        self.pods.get(uid).cloned()
    }

    /// The claim of the volume that a pod has mounted by this name, if it is certain.
    #[must_use]
    pub fn claim(&self, uid: &str, mounted: &str) -> Option<String> {
        self.volumes.get(uid)?.claim(mounted).map(ToOwned::to_owned)
    }

    /// Whether all containers of a pod have ended, or have been asked to because it is being deleted.
    #[must_use]
    pub fn is_over(&self, uid: &str) -> bool {
        self.over.contains(uid)
    }

    /// The pod that had an address at a time. Pods on the host network have no address of their own.
    #[must_use]
    pub fn at(&self, address: IpAddr, unix_ns: u64) -> Option<Arc<PeerIdentity>> {
        let had = |holder: &&Holder| {
            holder.since_unix_ns <= unix_ns && holder.until_unix_ns.is_none_or(|until| unix_ns < until)
        };
        let mut had = self.addresses.get(&address)?.iter().filter(had);
        // Two pods cannot have had it at once, so if two claim it, neither is certain.
        had.next().filter(|_| had.next().is_none()).map(|holder| Arc::clone(&holder.identity))
    }

    /// Whether a pod with this address may fail probes at that time: it had never been ready yet, is being
    /// deleted, or is gone, and a probe that began before has not given up. Times from the API are truncated to the second, so the
    /// pod may have had the address for up to a second longer.
    #[must_use]
    pub fn may_fail_probes(&self, address: IpAddr, unix_ns: u64) -> bool {
        let has_begun = |holder: &&Holder| holder.since_unix_ns <= unix_ns.saturating_add(SECOND_NS);
        let is_gone = |holder: &Holder| holder.until_unix_ns.is_some_and(|until| unix_ns >= until);
        let may_fail =
            |holder: &Holder| holder.is_over || holder.ready_unix_ns.is_none_or(|ready| unix_ns < ready);
        let holders = || self.addresses.get(&address).into_iter().flatten().filter(has_begun);
        match holders().all(is_gone) {
            true => holders().next().is_some(),
            false => holders().filter(|holder| !is_gone(holder)).any(may_fail),
        }
    }

    /// Number of pods that exist now.
    #[must_use]
    pub const fn present(&self) -> usize {
        self.present
    }

    /// Number of known containers, including ended ones.
    #[must_use]
    pub fn containers(&self) -> usize {
        self.containers.len()
    }
}

#[cfg(test)]
mod tests;
