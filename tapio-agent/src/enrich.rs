//! Identity: who an anomaly is about. Right, or empty.

pub mod cgroups;
pub mod memory;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use lru::LruCache;
use tapio_common::WHOLE_NODE;
use tokio::time::Instant;

use self::{
    cgroups::{Cgroups, Lookup},
    memory::Past,
};
use crate::{clock, config::Config, observer::Anomaly};

/// Walks over the tree of control groups are at least this far apart: a storm of unknown ones costs one walk.
const WALK_INTERVAL: Duration = Duration::from_millis(200);

/// Groups remembered as gone.
const MAX_GONE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// What names anomalies.
#[derive(Debug)]
pub struct Identity {
    node: Arc<str>,
    cluster: Option<Arc<str>>,
    cgroups: Cgroups,
    /// When the tree may be walked again.
    walk_from: Instant,
    /// When the last walk began, boot clock; 0 before the first.
    walked_ns: u64,
    /// Groups that were gone when they were asked for. Ids are not used twice, so they stay gone.
    gone: LruCache<u64, ()>,
    proc_root: PathBuf,
    /// What groups held, where an observer looks at it.
    past: Arc<Past>,
}

impl Identity {
    /// Knows the node and, as it is asked, the control groups on it.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            node: config.node(),
            cluster: config.cluster.get().map(Into::into),
            cgroups: Cgroups::new(config.cgroup_root.as_path(), config.proc_root.as_path()),
            walk_from: Instant::now(),
            walked_ns: 0,
            gone: LruCache::new(MAX_GONE),
            proc_root: config.proc_root.as_path().to_owned(),
            past: Arc::default(),
        }
    }

    /// Knows what groups have held, too.
    #[must_use]
    pub fn with_past(self, past: Arc<Past>) -> Self {
        Self { past, ..self }
    }

    /// Makes sure that what can be known of a control group is known, in which something happened at `time_ns` (boot
    /// clock). Walks over the tree where it is not, and waits before that where the last walk was a moment ago.
    ///
    /// A walk that began later and did not meet the group is enough: it has vanished. So of a storm of vanished
    /// groups only the first waits, and those that came meanwhile do not.
    pub async fn find(&mut self, cgroup_id: u64, time_ns: u64) {
        if cgroup_id == 0
            || cgroup_id == WHOLE_NODE
            || self.cgroups.cached(cgroup_id) != Lookup::Unknown
            || self.gone.contains(&cgroup_id)
        {
            return;
        }
        if time_ns >= self.walked_ns {
            tokio::time::sleep_until(self.walk_from).await;
            self.walked_ns = clock::boot_ns();
            tokio::task::block_in_place(|| self.cgroups.lookup(cgroup_id, std::time::Instant::now()));
            self.walk_from = Instant::now() + WALK_INTERVAL;
        }
        if self.cgroups.cached(cgroup_id) == Lookup::Unknown {
            self.gone.put(cgroup_id, ());
        }
    }

    /// As [`Self::find`], for all that an anomaly names; and adds what is to be said of the group whose memory is full.
    pub async fn find_all(&mut self, anomaly: &mut Anomaly) {
        if let Some(full) = anomaly.full {
            self.find(full, anomaly.time_ns).await;
            let directory = self.cgroups.directory(full);
            let more = tokio::task::block_in_place(|| {
                memory::of(full, anomaly.time_ns, directory.as_deref(), &self.proc_root, &self.past)
            });
            anomaly.data.0.extend(more.0);
        }
        self.find(anomaly.cgroup_id, anomaly.time_ns).await;
        if let Some(antagonist) = anomaly.antagonist {
            self.find(antagonist, anomaly.time_ns).await;
        }
        if let Some(actor) = &anomaly.actor {
            self.find(actor.cgroup_id, anomaly.time_ns).await;
        }
    }

    /// The owner of what happened at `time_ns` (boot clock) in a group and a process, where each may be 0 for not
    /// known.
    pub fn owner(&self, cgroup_id: u64, pid: u32, time_ns: u64) -> Lookup {
        self.cgroups.owner(cgroup_id, pid, time_ns)
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

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::MetadataExt, path::Path};

    use super::*;
    use crate::config::Flag;

    /// Makes a group of a unit, and gives its id.
    fn group(tree: &Path, name: &str) -> u64 {
        fs::create_dir(tree.join(name)).unwrap();
        fs::metadata(tree.join(name)).unwrap().ino()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_storm_of_vanished_groups_waits_once() {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("cgroup.controllers"), "").unwrap();
        let flag = Flag { name: "", path: "cgroup_root", text: tree.path().display().to_string() };
        let mut identity = Identity::new(&Config::load(None, [], &[flag]).unwrap());
        let start = Instant::now();
        for storm in 0..3 {
            let happened_ns = clock::boot_ns();
            for vanished in 1..=2 * MAX_GONE.get() as u64 {
                identity.find(u64::MAX - storm * 100_000 - vanished, happened_ns).await;
            }
            // One that came after the walk is there.
            let name = format!("later-{storm}.service");
            let later = group(tree.path(), &name);
            identity.find(later, clock::boot_ns()).await;
            let workload = identity.owner(later, 0, 0).workload();
            assert_eq!(workload.and_then(|workload| workload.unit.clone()), Some(name));
        }
        assert!(start.elapsed() >= 5 * WALK_INTERVAL, "walks are apart");
        assert!(start.elapsed() < 20 * WALK_INTERVAL, "{:?} for six walks", start.elapsed());
        assert!(identity.gone.len() <= MAX_GONE.get());
    }
}
