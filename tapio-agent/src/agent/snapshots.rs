//! State snapshots: restores the one that an agent before this one has left, and writes it for the next.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tapio_service::{clock, private, span::Span};
use tokio::time::MissedTickBehavior;

use super::status::Shared;
use crate::{
    config::Config,
    pipeline::{Expected, Steady},
    snapshot::{Contributions, Snapshot, Store, Unusable},
};

/// The file, and how it goes with it.
pub(super) struct Snapshots {
    store: io::Result<Store>,
    interval: Duration,
    seed: u64,
    /// What is learned outside of the kernel.
    pub(super) contributions: Arc<Contributions>,
    /// What was found at the start.
    found: String,
    saved: Mutex<Saved>,
    /// Held by who writes: one that nobody waits for any more goes on.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Saved {
    /// When it was written last, and how much.
    last: Option<(Instant, u64)>,
    /// Why it could not be, since then.
    problem: Option<String>,
}

impl Snapshots {
    /// Reads what there is. Whatever is wrong with it, the agent runs.
    ///
    /// # Errors
    /// All is to be learned anew, and the kernel gives no random seed.
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
        // What others have noted grows old: nobody renews it.
        let names: Vec<_> =
            config.observers.names().iter().copied().chain([Expected::NAME, Steady::NAME]).collect();
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

    /// Writes it again and again, until it is dropped.
    pub(super) async fn run(shared: Arc<Shared>) {
        let mut tick = tokio::time::interval(shared.snapshots.interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is over at once, and nothing is learned yet.
        tick.tick().await;
        loop {
            tick.tick().await;
            Self::save(&shared).await;
        }
    }

    /// Writes it, beside the tasks: with very many destinations it takes some time.
    pub(super) async fn save(shared: &Arc<Shared>) {
        let shared = Arc::clone(shared);
        // An error means that it panicked, which has been reported.
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

    /// For `/status`.
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
