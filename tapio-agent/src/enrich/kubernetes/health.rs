//! The state of the connection to the API server: set by the tasks that use it, read by the operator.

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

/// How it is with the API server.
#[derive(Debug)]
pub struct Health {
    place: String,
    synced: AtomicBool,
    lost: AtomicBool,
    parts: Mutex<Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Why the pods are not followed, since when; `None` while they are, or nothing was tried yet.
    watch: Option<(String, Instant)>,
    /// The same of the questions for peers, by what was asked for.
    peers: BTreeMap<&'static str, (String, Instant)>,
    /// Pods and containers known.
    pods: usize,
    containers: usize,
}

impl Health {
    /// One of a server that is reached this way.
    pub(in crate::enrich) fn new(place: String) -> Self {
        Self { place, synced: AtomicBool::new(false), lost: AtomicBool::new(false), parts: Mutex::default() }
    }

    /// Whether the pods of this node were known once.
    ///
    /// # Errors
    /// What keeps them from it.
    pub fn synced_once(&self) -> Result<(), String> {
        if self.synced.load(Ordering::Acquire) {
            return Ok(());
        }
        let why = self.parts().watch.as_ref().map(|(why, _)| format!(": {why}")).unwrap_or_default();
        Err(format!("kubernetes: the pods of this node are not known yet{why}"))
    }

    /// How it can be, in a word.
    pub const LABELS: [&str; 4] = ["starting", "running", "failed", "degraded"];

    /// The one of [`Self::LABELS`] that it is.
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

    /// For `/status`.
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

    /// Whether the pods cannot be followed at the moment.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// The pods are known and followed.
    pub(in crate::enrich) fn synced(&self) {
        let first = !self.synced.swap(true, Ordering::AcqRel);
        self.lost.store(false, Ordering::Release);
        if let Some((_, since)) = self.parts().watch.take() {
            tracing::info!(after = ?whole(since.elapsed()), "kubernetes: the pods of this node are followed again");
        } else if first {
            tracing::info!(by = self.place, "kubernetes: the pods of this node are known");
        }
    }

    /// The pods are not followed.
    pub(in crate::enrich) fn lost(&self, why: &str) {
        self.lost.store(true, Ordering::Release);
        if tell(&mut self.parts().watch, why) {
            tracing::warn!(by = self.place, why, "kubernetes: the pods of this node are not followed");
        }
    }

    /// How many are known.
    pub(in crate::enrich) fn count(&self, pods: usize, containers: usize) {
        let mut parts = self.parts();
        (parts.pods, parts.containers) = (pods, containers);
    }

    /// Peers were asked for among these, with this result.
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

/// Keeps a reason, from when the trouble began; true where it was not the reason before.
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
