//! Identity: which workload an anomaly belongs to. The answer is certain, or it is empty.

pub mod cgroups;
pub mod kubernetes;
pub mod memory;
pub mod peer_identity;
pub mod peers;
pub mod pods;
mod waiting;

use std::{
    collections::HashMap, hash::RandomState, net::IpAddr, num::NonZeroUsize, path::PathBuf, sync::Arc,
    time::Duration,
};

use lru::LruCache;
use tapio_common::WHOLE_NODE;
use tapio_occurrence::{Peer, Workload};
use tapio_service::clock;
use tokio::time::Instant;

pub use self::waiting::Waiting;
use self::{
    cgroups::{Cgroups, Lookup},
    kubernetes::{Kubernetes, Missing},
    memory::Past,
};
use crate::{
    config::Config,
    observer::{Anomaly, Volume},
};

/// Walks over the cgroup tree take at most 1/20 of one CPU, so that a storm of unknown cgroups costs little,
/// while a newly asked-for cgroup usually still exists when its walk comes.
const WALKS_SHARE: u32 = 20;
/// The least time between two walks.
const WALKS_APART: Duration = Duration::from_millis(10);
/// The most time between two walks, however long one takes.
const WALKS_WITHIN: Duration = Duration::from_secs(1);

/// The shortest time for which vanished cgroups and pods are remembered, because anomalies about them may
/// still arrive.
const REMEMBER: Duration = Duration::from_secs(300);
/// Added to the longest fold window, because a follow-up reports what happened during that window.
const AFTER_WINDOW: Duration = Duration::from_secs(60);

/// The most owners cached with their Kubernetes names; more than a node has containers.
const MAX_NAMED: usize = 4_096;

/// The most cgroups remembered as gone.
const MAX_GONE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// For this long after a walk that did not find a cgroup, further events in it trigger no other walk: a dying
/// cgroup can still produce a storm. After that the walk may simply have missed it, and another one is worth
/// its cost.
const GONE_NS: u64 = 60_000_000_000;

/// Resolves the names of anomalies.
#[derive(Debug)]
pub struct Identity {
    node: Arc<str>,
    cluster: Option<Arc<str>>,
    cgroups: Cgroups,
    /// The earliest time of the next walk.
    walk_from: Instant,
    /// When the last walk began (boot clock); 0 before the first.
    walked_ns: u64,
    /// Cgroups that were already gone when asked for, with the time (boot clock) at which the walk that did
    /// not find them began.
    gone: LruCache<u64, u64, RandomState>,
    proc_root: PathBuf,
    /// Past memory use of cgroups, where an observer samples it.
    past: Arc<Past>,
    kubernetes: Option<Kubernetes>,
    /// Owners by cgroup, with their Kubernetes names. Rebuilt when the pods change.
    named: HashMap<u64, Arc<Workload>>,
}

impl Identity {
    /// Knows the node's name, and finds cgroups on demand.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            node: config.node(),
            cluster: config.cluster.get().map(Into::into),
            cgroups: Cgroups::new(config.cgroup_root.as_path(), config.proc_root.as_path())
                .remembering(remember(config)),
            walk_from: Instant::now(),
            walked_ns: 0,
            gone: LruCache::with_hasher(MAX_GONE, RandomState::new()),
            proc_root: config.proc_root.as_path().to_owned(),
            past: Arc::default(),
            kubernetes: None,
            named: HashMap::new(),
        }
    }

    /// Adds the past memory use of cgroups.
    #[must_use]
    pub fn with_past(self, past: Arc<Past>) -> Self {
        Self { past, ..self }
    }

    /// Adds names from Kubernetes.
    #[must_use]
    pub fn with(mut self, kubernetes: Option<Kubernetes>) -> Self {
        self.kubernetes = kubernetes;
        self
    }

    /// Looks up a cgroup in which something happened at `time_ns` (boot clock). If the cgroup is unknown,
    /// this walks the tree, after a delay if the last walk was only a moment ago.
    ///
    /// A cgroup that a walk begun after `time_ns` did not find has vanished. So in a storm of vanished
    /// cgroups only the first lookup waits; those that arrived in the meantime do not.
    pub async fn find(&mut self, cgroup_id: u64, time_ns: u64) {
        self.walk(cgroup_id, time_ns).await;
        let Some(kubernetes) = &mut self.kubernetes else { return };
        if kubernetes.pods_changed() || self.named.len() >= MAX_NAMED {
            self.named.clear();
        }
        // With version 1 hierarchies the process decides, each time.
        if !self.named.contains_key(&cgroup_id)
            && let Lookup::Known(workload) = self.cgroups.cached(cgroup_id)
            && workload.container_id.is_some()
            && let (owner, claims) = self.cgroups.owner(cgroup_id, 0, time_ns)
            && let Lookup::Known(named) = self.in_pod(owner, &claims)
        {
            self.named.insert(cgroup_id, named);
        }
    }

    async fn walk(&mut self, cgroup_id: u64, time_ns: u64) {
        if cgroup_id == 0
            || cgroup_id == WHOLE_NODE
            || self.cgroups.cached(cgroup_id) != Lookup::Unknown
            || self.gone.get(&cgroup_id).is_some_and(|gone_ns| time_ns < gone_ns.saturating_add(GONE_NS))
        {
            return;
        }
        if time_ns >= self.walked_ns {
            tokio::time::sleep_until(self.walk_from).await;
            self.walked_ns = clock::boot_ns();
            let start = Instant::now();
            tokio::task::block_in_place(|| self.cgroups.lookup(cgroup_id, start.into_std()));
            let end = Instant::now();
            self.walk_from = end + ((end - start) * WALKS_SHARE).clamp(WALKS_APART, WALKS_WITHIN);
        }
        if self.cgroups.cached(cgroup_id) == Lookup::Unknown {
            self.gone.put(cgroup_id, self.walked_ns);
        }
    }

    /// Calls [`Self::find`] for every cgroup that an anomaly names, and adds details of the memory of an OOM
    /// cgroup.
    pub async fn find_all(&mut self, anomaly: &mut Anomaly) {
        if let Some(full) = anomaly.full {
            self.find(full, anomaly.time_ns).await;
            let directory = self.cgroups.directory(full);
            let held = |key| anomaly.data.number(key);
            let of_others = held("usage_bytes").zip(held("anon_bytes"));
            let full = memory::Full {
                id: full,
                time_ns: anomaly.time_ns,
                // Memory that the victim was charged for before it moved into the cgroup belongs to another
                // one, and the counters are approximate.
                of_others: of_others
                    .map(|(usage, held)| usage.saturating_sub(held).saturating_add(usage / 16)),
            };
            let now_ns = clock::boot_ns();
            let more = tokio::task::block_in_place(|| {
                memory::of(full, now_ns, directory.as_deref(), &self.proc_root, &self.past)
            });
            anomaly.data.0.extend(more.0);
        }
        self.find(anomaly.cgroup_id, anomaly.time_ns).await;
        if let Some(noisy_neighbour) = anomaly.noisy_neighbour {
            self.find(noisy_neighbour, anomaly.time_ns).await;
        }
        if let Some(actor) = &anomaly.actor {
            self.find(actor.cgroup_id, anomaly.time_ns).await;
        }
    }

    /// The owner of what happened at `time_ns` (boot clock) in a cgroup and a process. Either id may be 0 for
    /// unknown.
    pub fn owner(&self, cgroup_id: u64, pid: u32, time_ns: u64) -> Lookup {
        if let Some(workload) = self.named.get(&cgroup_id) {
            return Lookup::Known(Arc::clone(workload));
        }
        let (owner, claims) = self.cgroups.owner(cgroup_id, pid, time_ns);
        self.in_pod(owner, &claims)
    }

    /// Whether Kubernetes reports that everything in a workload's pod has ended. False while nothing watches
    /// the pods.
    #[must_use]
    pub fn is_over(&self, workload: &Workload) -> bool {
        let (Some(kubernetes), Some(uid)) = (&self.kubernetes, &workload.pod_uid) else { return false };
        kubernetes.is_over(uid)
    }

    /// Whether the pod with this address may fail the kubelet's probes at this time (1970 UTC), because it
    /// was not ready yet or is being deleted.
    #[must_use]
    pub fn may_fail_probes(&self, address: IpAddr, unix_ns: u64) -> bool {
        self.kubernetes.as_ref().is_some_and(|kubernetes| kubernetes.may_fail_probes(address, unix_ns))
    }

    /// The peer of what happened at `unix_ns` (1970 UTC), with its names as far as they are known.
    #[must_use]
    pub fn peer(&self, address: IpAddr, port: u16, unix_ns: u64) -> Peer {
        let identity = self.kubernetes.as_ref().and_then(|kubernetes| kubernetes.identity(address, unix_ns));
        Peer { address, port, names: identity.map(|identity| Arc::clone(&identity.names)) }
    }

    /// The pod that an anomaly without an owner of its own belongs to, by its volume. Its names may not be known.
    #[must_use]
    pub fn of_volume(&self, anomaly: &Anomaly) -> Option<Arc<Workload>> {
        let uid = anomaly.volume.as_ref()?.pod_uid.as_ref().filter(|_| anomaly.cgroup_id == WHOLE_NODE)?;
        let known = self.kubernetes.as_ref().and_then(|kubernetes| kubernetes.pods().pod(uid));
        let unnamed = || Arc::new(Workload { pod_uid: Some(uid.clone()), ..Workload::default() });
        Some(known.unwrap_or_else(unnamed))
    }

    /// The claim of a pod's volume, if it is certain.
    #[must_use]
    pub fn claim(&self, volume: &Volume) -> Option<String> {
        self.kubernetes.as_ref()?.pods().claim(volume.pod_uid.as_ref()?, &volume.name)
    }

    /// The lookups that may still complete for an anomaly. `None` if nothing more will become known.
    #[must_use]
    pub fn missing(&self, anomaly: &Anomaly) -> Option<Missing> {
        let kubernetes = self.kubernetes.as_ref()?;
        let Anomaly { cgroup_id, pid, time_ns, .. } = *anomaly;
        let peer = anomaly.peer.map(|(address, _)| address);
        if let Some(pod) = self.of_volume(anomaly) {
            return kubernetes.missing(Some(pod), peer, time_ns);
        }
        let is_named = |workload: &Workload| workload.container.is_some();
        let may_be_named =
            |workload: &&Arc<Workload>| workload.container_id.is_some() && workload.pod_uid.is_some();
        let workload = if self.named.get(&cgroup_id).is_some_and(|workload| is_named(workload)) {
            None
        } else {
            let (owner, claims) = self.cgroups.owner(cgroup_id, pid, time_ns);
            let known = self.in_pod(owner.clone(), &claims).workload();
            let all: Vec<_> = owner.workload().into_iter().chain(claims.into_iter().map(Arc::new)).collect();
            // If the node itself runs in a container, the pod's name belongs to a workload further in.
            let awaited = || all.iter().find(may_be_named).cloned();
            known.filter(|known| is_named(known)).or_else(awaited)
        };
        kubernetes.missing(workload, peer, time_ns)
    }

    /// Adds what Kubernetes knows of a workload to what its cgroup path says. Among nested workloads, the
    /// outermost one that is a container or pod of this node counts, because pods of one node are never
    /// nested. A claim from inside a container is rejected if the host itself has that container or pod
    /// elsewhere.
    fn in_pod(&self, owner: Lookup, claims: &[Workload]) -> Lookup {
        let Some(kubernetes) = &self.kubernetes else { return self.innermost(claims).unwrap_or(owner) };
        let index = kubernetes.pods();
        let known = |workload: &Workload| {
            let container = workload.container_id.as_deref().and_then(|id| index.container(id));
            // The container's own names may come late; the pod's names are better than none.
            let known = container.or_else(|| workload.pod_uid.as_deref().and_then(|uid| index.pod(uid)))?;
            Some(Lookup::Known(Arc::new(Workload {
                container_id: workload.container_id.clone(),
                runtime: workload.runtime.clone().or_else(|| known.runtime.clone()),
                ..(*known).clone()
            })))
        };
        // Users choose the names of the containers that they run.
        let by_host = match &owner {
            Lookup::Known(workload) if workload.unit.is_none() => known(workload),
            _ => None,
        };
        let by_claim = || {
            let mut claims = claims.iter().filter_map(|claim| Some((known(claim)?, claim)));
            claims.find(|(_, claim)| !self.cgroups.contradict(claim)).map(|(known, _)| known)
        };
        by_host.or_else(by_claim).unwrap_or(owner)
    }

    /// The innermost container, used if no pods are known that could confirm a claim: a container id that the
    /// host itself gives to no other cgroup. The pod that it claims to belong to is not believed.
    fn innermost(&self, claims: &[Workload]) -> Option<Lookup> {
        let claim = claims
            .iter()
            .rev()
            .find(|claim| claim.container_id.is_some() && !self.cgroups.contradict(claim))?;
        let Workload { container_id, runtime, .. } = claim.clone();
        Some(Lookup::Known(Arc::new(Workload { container_id, runtime, ..Workload::default() })))
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> Arc<str> {
        Arc::clone(&self.node)
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> Option<Arc<str>> {
        self.cluster.clone()
    }
}

/// How long vanished cgroups and pods are remembered: until every folded anomaly has been sent.
fn remember(config: &Config) -> Duration {
    REMEMBER.max(Duration::from_nanos(config.fold.max_window.as_ns()).saturating_add(AFTER_WINDOW))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, path::Path};

    use super::*;
    use crate::config::Flag;

    /// Creates the cgroup of a unit, and returns its id.
    fn group(tree: &Path, name: &str) -> u64 {
        fs::create_dir(tree.join(name)).unwrap();
        fs::metadata(tree.join(name)).unwrap().ino()
    }

    fn identity(tree: &Path) -> Identity {
        fs::write(tree.join("cgroup.controllers"), "").unwrap();
        let flag = Flag { name: "", path: "cgroup_root", text: tree.display().to_string() };
        Identity::new(&Config::load(None, [], &[flag]).unwrap())
    }

    #[test]
    fn what_is_gone_is_remembered_until_what_was_folded_has_left() {
        let with = |window: &str| {
            let flag = |path, text: &str| Flag { name: "", path, text: text.to_owned() };
            let flags = [flag("fold.window", "1s"), flag("fold.max_window", window)];
            remember(&Config::load(None, [], &flags).unwrap())
        };
        assert_eq!(with("1s"), REMEMBER);
        assert_eq!(with("10m"), Duration::from_secs(660));
    }

    const UID: &str = "9df0e5bd-2f9a-4a8e-9c1c-5b3f7f0a1d2e";
    const VICTIM: &str = "3f4e1a0b9c8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f";
    const OTHER_UID: &str = "00000000-2f9a-4a8e-9c1c-5b3f7f0a1d2e";
    const OTHER: &str = "0000000000000000000000000000000000000000000000000000000000000001";
    const NODE: &str = "0000000000000000000000000000000000000000000000000000000000000002";

    fn pod(uid: &str, name: &str, container_id: &str) -> pods::Pod {
        let container = pods::Container {
            id: container_id.to_owned(),
            runtime: None,
            name: "app".to_owned(),
            image: None,
        };
        pods::Pod {
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            name: name.to_owned(),
            containers: vec![container],
            ..pods::Pod::default()
        }
    }

    /// The name that a node with these pods resolves for each of these cgroup paths.
    async fn who(pods: &[pods::Pod], paths: &[String]) -> Vec<Option<String>> {
        let tree = tempfile::tempdir().unwrap();
        let mut known = pods::Pods::default();
        known.replace(pods.to_vec(), std::time::Instant::now(), 0);
        let kubernetes = Kubernetes::of_pods(&known, &Arc::default());
        let mut identity = identity(tree.path()).with(Some(kubernetes));
        let mut found = Vec::new();
        let ids: Vec<u64> = paths
            .iter()
            .map(|path| {
                fs::create_dir_all(tree.path().join(path)).unwrap();
                fs::metadata(tree.path().join(path)).unwrap().ino()
            })
            .collect();
        for id in ids {
            identity.find(id, clock::boot_ns()).await;
            let workload = identity.owner(id, 0, clock::boot_ns()).workload();
            let is_victims =
                |w: &Workload| w.container_id.as_deref() == Some(VICTIM) || w.pod_uid.as_deref() == Some(UID);
            let is_honest = |w: &&Arc<Workload>| !is_victims(w) || w.pod.is_some();
            found.push(workload.as_ref().filter(is_honest).and_then(|w| w.name().map(ToOwned::to_owned)));
        }
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_inside_a_container_does_not_take_the_name_of_another_pod() {
        let pods = [pod(UID, "victim", VICTIM), pod(OTHER_UID, "other", OTHER)];
        let victim = format!("kubepods/pod{UID}/{VICTIM}");
        for place in [
            format!("kubepods/pod{OTHER_UID}/{OTHER}"),
            // Its pod is not known yet, or does not exist.
            format!("kubepods/pod{OTHER_UID}/{NODE}"),
            format!("docker/{NODE}"),
            "user.slice/user-1000.slice/user@1000.service".to_owned(),
            "machine.slice/machine-web.scope".to_owned(),
        ] {
            let inside = [
                victim.clone(),
                format!("pod{UID}"),
                format!("docker/{VICTIM}"),
                format!("user.slice/libpod-{VICTIM}.scope"),
                "system.slice/kubelet.service".to_owned(),
            ];
            let paths: Vec<_> = inside.iter().map(|inside| format!("{place}/{inside}")).collect();
            let own = who(&pods, std::slice::from_ref(&place)).await.remove(0);
            assert!(own.is_some());
            let all = [std::slice::from_ref(&victim), paths.as_slice()].concat();
            let mut found = who(&pods, &all).await.into_iter();
            assert_eq!(found.next().flatten().as_deref(), Some("victim"), "{place}");
            for (path, found) in paths.iter().zip(found) {
                assert_eq!(found, own, "{path}");
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_container_inside_another_is_a_pod_where_it_is_one_of_this_node() {
        let inner = format!("kubelet/kubepods/pod{UID}/{VICTIM}");
        for place in [format!("docker/{NODE}"), "lxc.payload.node".to_owned()] {
            let paths = [format!("{place}/{inner}"), format!("{place}/kubelet/kubepods/pod{UID}")];
            let of_node = who(&[pod(UID, "web", VICTIM)], &paths).await;
            assert_eq!(of_node, [Some("web".to_owned()), Some("web".to_owned())], "{place}");
            let of_another = who(&[pod(OTHER_UID, "other", OTHER)], &paths).await;
            let outer = place.starts_with("docker").then(|| NODE[..12].to_owned());
            assert_eq!(of_another, [outer.clone(), outer], "{place}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_kubernetes_a_container_inside_another_goes_by_its_id_alone() {
        let tree = tempfile::tempdir().unwrap();
        let mut identity = identity(tree.path());
        let inside = tree.path().join(format!("docker/{NODE}/kubelet/kubepods/pod{UID}/{VICTIM}"));
        fs::create_dir_all(&inside).unwrap();
        let id = fs::metadata(inside).unwrap().ino();
        identity.find(id, clock::boot_ns()).await;
        let own = |id: &str| Workload { container_id: Some(id.to_owned()), ..Workload::default() };
        let found = |identity: &Identity| (*identity.owner(id, 0, 0).workload().unwrap()).clone();
        assert_eq!(found(&identity), own(VICTIM));
        // Unless the host itself has that container.
        let victim = group(tree.path(), VICTIM);
        identity.find(victim, clock::boot_ns()).await;
        assert_eq!(found(&identity), Workload { runtime: Some("docker".into()), ..own(NODE) });
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_group_that_was_missed_is_looked_for_again_after_a_minute() {
        let (tree, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut identity = identity(tree.path());
        let id = group(elsewhere.path(), "x.service");
        identity.find(id, clock::boot_ns()).await;
        let gone_ns = identity.walked_ns;
        // The cgroup keeps its id, like one that a walk missed.
        fs::rename(elsewhere.path().join("x.service"), tree.path().join("x.service")).unwrap();
        for (time_ns, is_known) in [(gone_ns + GONE_NS - 1, false), (gone_ns + GONE_NS, true)] {
            identity.find(id, time_ns).await;
            assert_eq!(identity.owner(id, 0, time_ns).workload().is_some(), is_known);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_storm_of_vanished_groups_waits_once() {
        let tree = tempfile::tempdir().unwrap();
        let mut identity = identity(tree.path());
        let start = Instant::now();
        for storm in 0..3 {
            let happened_ns = clock::boot_ns();
            for vanished in 1..=2 * MAX_GONE.get() as u64 {
                identity.find(u64::MAX - storm * 100_000 - vanished, happened_ns).await;
            }
            // A cgroup created after the walk exists.
            let name = format!("later-{storm}.service");
            let later = group(tree.path(), &name);
            identity.find(later, clock::boot_ns()).await;
            let workload = identity.owner(later, 0, 0).workload();
            assert_eq!(workload.and_then(|workload| workload.unit.clone()), Some(name));
        }
        assert!(start.elapsed() >= 5 * WALKS_APART, "walks are apart");
        assert!(start.elapsed() < Duration::from_secs(4), "{:?} for six walks", start.elapsed());
        assert!(identity.gone.len() <= MAX_GONE.get());
    }
}
