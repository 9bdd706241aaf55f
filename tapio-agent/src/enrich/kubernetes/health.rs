//! The state of the connection to the API server. The tasks that use it set it; `/status` and metrics show
//! it.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tapio_kube::Fault;

/// The state of the connection to the API server.
#[derive(Debug)]
pub struct Health {
    place: String,
    synced: AtomicBool,
    lost: AtomicBool,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Why the watch on the pods is down, and since when; `None` while it works or before the first attempt.
    watch: Option<(String, Instant)>,
    /// The same for peer queries, by resource.
    peers: BTreeMap<&'static str, (String, Instant)>,
    /// Numbers of known pods and containers.
    pods: usize,
    containers: usize,
}

impl Health {
    /// The state for a server reached by `place`, before any attempt.
    pub(in crate::enrich) fn new(place: String) -> Self {
        Self { place, synced: AtomicBool::new(false), lost: AtomicBool::new(false), parts: Mutex::default() }
    }

    /// Whether the pods of this node have been listed at least once.
    ///
    /// # Errors
    /// The reason why they have not.
    pub fn synced_once(&self) -> Result<(), String> {
        if self.synced.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.parts().watch.as_ref().map(|(why, _)| format!(": {why}")).unwrap_or_default();
        Err(format!("kubernetes: the pods of this node are not known yet{why}"))
    }

    /// All values of [`Self::label`].
    pub const LABELS: [&str; 4] = ["starting", "running", "failed", "degraded"];

    /// The current one of [`Self::LABELS`].
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.label_of(&self.parts())
    }

    fn label_of(&self, parts: &Parts) -> &'static str {
        match (parts.watch.is_some(), self.synced.load(Ordering::Acquire)) {
            (false, false) => "starting",
            (false, true) => "running",
            (true, false) => "failed",
            (true, true) => "degraded",
        }
    }

    /// The state for `/status`.
    #[must_use]
    pub fn status(&self) -> Value {
        let parts = self.parts();
        let label = self.label_of(&parts);
        let state = match &parts.watch {
            None => label.to_owned(),
            Some((why, since)) => {
                let lost = if label == "degraded" { "pods are not followed: " } else { "" };
                format!("{label}({lost}{why}; for {} s)", since.elapsed().as_secs())
            }
        };
        let troubles: Vec<_> = parts
            .peers
            .iter()
            .map(|(resource, (why, since))| format!("{resource}: {why}; for {} s", since.elapsed().as_secs()))
            .collect();
        let peers = match troubles.as_slice() {
            [] => "running".to_owned(),
            _ => format!("degraded({})", troubles.join("; ")),
        };
        json!({
            "by": self.place,
            "state": state,
            "peers": peers,
            "pods": parts.pods,
            "containers": parts.containers,
        })
    }

    /// Whether the watch on the pods is down.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Records that the watch works.
    pub(in crate::enrich) fn synced(&self) {
        let first = !self.synced.swap(true, Ordering::AcqRel);
        self.lost.store(false, Ordering::Release);
        if let Some((_, since)) = self.parts().watch.take() {
            tracing::info!(after = ?whole(since.elapsed()), "kubernetes: the pods of this node are followed again");
        } else if first {
            tracing::info!(by = self.place, "kubernetes: the pods of this node are known");
        }
    }

    /// Records that the watch failed.
    pub(in crate::enrich) fn lost(&self, why: &str) {
        self.lost.store(true, Ordering::Release);
        if tell(&mut self.parts().watch, why) {
            tracing::warn!(by = self.place, why, "kubernetes: the pods of this node are not followed");
        }
    }

    /// Records the numbers of known pods and containers.
    pub(in crate::enrich) fn count(&self, pods: usize, containers: usize) {
        let mut parts = self.parts();
        (parts.pods, parts.containers) = (pods, containers);
    }

    /// Records the result of a peer query for this resource.
    pub(in crate::enrich) fn asked(&self, resource: &'static str, fault: Option<&Fault>) {
        let mut parts = self.parts();
        let mut trouble = parts.peers.remove(resource);
        match fault {
            Some(Fault { why, .. }) => {
                if tell(&mut trouble, why) {
                    tracing::warn!(by = self.place, resource, why, "kubernetes: peers are not named");
                }
                parts.peers.extend(trouble.map(|trouble| (resource, trouble)));
            }
            None if trouble.is_some() => {
                tracing::info!(resource, "kubernetes: peers are named again");
            }
            None => {}
        }
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records a reason, keeping the time of the first failure. True if the reason is new.
fn tell(trouble: &mut Option<(String, Instant)>, why: &str) -> bool {
    match trouble {
        Some((before, _)) if before == why => false,
        Some((before, _)) => {
            why.clone_into(before);
            true
        }
        none => {
            *none = Some((why.to_owned(), Instant::now()));
            true
        }
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}
