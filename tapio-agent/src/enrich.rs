//! Identity: who an anomaly is about. Right, or empty.

pub mod cgroups;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;
use tokio::time::Instant;

use self::cgroups::{Cgroups, Lookup};
use crate::{config::Config, occurrence::Workload};

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
    /// Groups that were gone when they were asked for. Ids are not used twice, so they stay gone.
    gone: LruCache<u64, ()>,
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
            gone: LruCache::new(MAX_GONE),
        }
    }

    /// Makes sure that what can be known of a control group is known. Walks over the tree where it is not, and
    /// waits before that where the last walk was a moment ago.
    pub async fn find(&mut self, cgroup_id: u64) {
        if cgroup_id == 0
            || self.cgroups.cached(cgroup_id) != Lookup::Unknown
            || self.gone.contains(&cgroup_id)
        {
            return;
        }
        tokio::time::sleep_until(self.walk_from).await;
        let found = tokio::task::block_in_place(|| self.cgroups.lookup(cgroup_id, std::time::Instant::now()));
        self.walk_from = Instant::now() + WALK_INTERVAL;
        if found == Lookup::Unknown {
            self.gone.put(cgroup_id, ());
        }
    }

    /// The owner of what happened at `time_ns` (boot clock) in a group and a process, where each may be 0 for not
    /// known. `None` where it is not certain.
    pub fn workload(&self, cgroup_id: u64, pid: u32, time_ns: u64) -> Option<Arc<Workload>> {
        match self.cgroups.owner(cgroup_id, pid, time_ns) {
            Lookup::Known(workload) => Some(workload),
            Lookup::Unowned | Lookup::Unknown => None,
        }
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
