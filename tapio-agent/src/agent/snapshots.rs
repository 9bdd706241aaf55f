//! State snapshots: restores the one of the previous agent, and writes one for the next.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tapio_service::{clock, private, span::Span};
use tokio::time::MissedTickBehavior;

use super::{edges, status::Shared};
use crate::{
    config::Config,
    pipeline::{Expected, Steady},
    snapshot::{Contributions, Snapshot, Store, Unusable},
};

/// The snapshot file and its state.
pub(super) struct Snapshots {
    store: io::Result<Store>,
    interval: Duration,
    /// [`tapio_common::SEED`], which the programs run with.
    pub(super) seed: u64,
    /// State that is learned outside of kernel programs.
    pub(super) contributions: Arc<Contributions>,
    /// For `/status`: whether a snapshot was restored at the start, and if not, why.
    found: String,
    saved: Mutex<Saved>,
    /// Held while writing: a write continues even if nobody waits for it any more.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Saved {
    /// Time and size in bytes of the last write.
    last: Option<(Instant, u64)>,
    /// The error if writing has failed since then.
    problem: Option<String>,
}

impl Snapshots {
    /// Reads the snapshot. The agent runs even if the snapshot is unusable.
    ///
    /// # Errors
    /// There is no usable snapshot, and the kernel provides no random seed for a new start.
    pub(super) fn open(config: &Config) -> anyhow::Result<(Self, Snapshot)> {
        let state_dir = config.state_dir.as_path();
        if let Some(why) = private::others_may_write(state_dir) {
            tracing::warn!(
                "{}: {why}. Others can remove or withhold what the agent keeps there; what they put there is not \
                 used. Make it root's alone: chown root, chmod 700 (key `state_dir`)",
                state_dir.display()
            );
        }
        let store = Store::of(state_dir, config.proc_root.as_path());
        let anew = || Snapshot::new().context("the kernel gives no random seed");
        let loaded = store.as_ref().map(|store| (store.load(clock::boot_ns()), store.path().display()));
        let (snapshot, found) = match loaded {
            Ok((Ok((snapshot, age)), _)) => {
                let age = Duration::from_secs(age.as_secs());
                tracing::info!(?age, bytes = snapshot.bytes(), "state snapshot restored");
                (snapshot, format!("restored: {age:?} old"))
            }
            Ok((Err(why @ Unusable::Damaged(_)), path)) => {
                tracing::warn!(%path, %why, "state snapshot cannot be used; baselines start over");
                (anew()?, format!("started over: {why}"))
            }
            Ok((Err(why), path)) => {
                tracing::debug!(%path, %why, "no state snapshot; baselines start over");
                (anew()?, format!("started over: {why}"))
            }
            Err(error) => {
                tracing::warn!(%error, "the boot id cannot be read: no state snapshots, so baselines end with the agent");
                (anew()?, format!("not written: {error}"))
            }
        };
        let (interval, seed) = (Duration::from_nanos(config.snapshot.as_ns()), snapshot.seed);
        // Contributions by other names are dropped: nothing updates them, so they would become stale.
        let names: Vec<_> = config
            .observers
            .names()
            .iter()
            .copied()
            .chain([Expected::NAME, Steady::NAME, edges::NAME])
            .collect();
        let contributions = Arc::new(Contributions::of(&snapshot, &names, interval));
        Ok((
            Self {
                store,
                interval,
                seed,
                contributions,
                found,
                saved: Mutex::default(),
                writing: Mutex::default(),
            },
            snapshot,
        ))
    }

    /// Writes a snapshot each interval, until it is dropped.
    pub(super) async fn run(shared: Arc<Shared>) {
        let mut tick = tokio::time::interval(shared.snapshots.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick completes at once, when nothing is learned yet.
        tick.tick().await;
        loop {
            tick.tick().await;
            Self::save(&shared).await;
        }
    }

    /// Writes a snapshot on a blocking thread, since it takes a while with very many destinations.
    pub(super) async fn save(shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        // An error means that it panicked, which is already logged.
        let _ = tokio::task::spawn_blocking(move || shared.snapshots.write(&shared)).await;
    }

    fn write(&self, shared: &Shared) {
        let Ok(store) = &self.store else { return };
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut span = Span::here("write snapshot");
        let written = store.save(self.seed, clock::boot_ns(), |to| {
            self.contributions.write(to)?;
            shared.snapshot(to)
        });
        match &written {
            Ok(bytes) => span.count("tapio.bytes", *bytes as usize),
            Err(error) => span.failed(error),
        }
        drop(span);
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        match written {
            Ok(bytes) => {
                saved.last = Some((Instant::now(), bytes));
                if saved.problem.take().is_some() {
                    tracing::info!("state snapshots are written again");
                }
            }
            Err(error) => {
                let problem = format!("{} cannot be written: {error:#}", store.path().display());
                if saved.problem.is_none() {
                    tracing::warn!(
                        "{problem}; what is learned from now on ends with the agent (key `state_dir`)"
                    );
                }
                saved.problem = Some(problem);
            }
        }
    }

    /// The `snapshot` section of `/status`.
    pub(super) fn status(&self) -> Value {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status = json!({ "found": self.found });
        if let Some((at, bytes)) = saved.last {
            status["saved_seconds_ago"] = at.elapsed().as_secs().into();
            status["bytes"] = bytes.into();
        }
        if let Some(problem) = &saved.problem {
            status["problem"] = problem.as_str().into();
        }
        status
    }
}
