//! AHTI: follows the journal, and explains what is in it.
//!
//! The engine is made anew from the journal at each start, so that nothing but the journal has to survive. Facts are taken
//! in the order in which they were accepted.

mod api;
mod export;
mod follow;
mod settings;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tapio_ahti::{Engine, Limits};

pub use self::settings::Settings;
use crate::{
    journal::Journal,
    role::{self, Context, Started},
};

/// The engine, shared by who feeds it and who asks it.
pub(crate) struct Ahti {
    engine: Mutex<Engine>,
    journal: Journal,
    /// The sequence number of the last fact that the engine took.
    taken: AtomicU64,
    /// Facts of the journal that are no occurrences, which the engine does not take.
    opaque: AtomicU64,
    /// Whether everything that was in the journal at the start has been taken.
    is_restored: AtomicBool,
}

impl Ahti {
    /// The engine. Nobody waits for anything while it is locked.
    pub(crate) fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the role.
///
/// # Errors
/// A rule file is wrong, or the address of the API cannot be bound.
pub(crate) fn start(context: &Context) -> anyhow::Result<Started> {
    let settings = &context.config.ahti;
    let rules = settings.rules()?;
    let ahti = Arc::new(Ahti {
        engine: Mutex::new(Engine::new(rules, Limits::default())),
        journal: context.journal.clone(),
        taken: AtomicU64::new(0),
        opaque: AtomicU64::new(0),
        is_restored: AtomicBool::new(false),
    });
    let listener = settings.api.0.map(|listen| api::bind(listen.0)).transpose()?;
    let (followed, stopped) = (Arc::clone(&ahti), context.stopped.clone());
    let served = Arc::clone(&ahti);
    let run = async move {
        let serving = listener.map(|listener| tokio::spawn(api::serve(listener, served, stopped.clone())));
        follow::follow(&followed, stopped).await?;
        match serving {
            Some(serving) => serving.await.context("the API crashed")?,
            None => Ok(()),
        }
    };
    Ok(Started { run: Box::pin(run), state: ahti })
}

impl role::State for Ahti {
    /// While the engine takes what was in the journal at the start, agents can send; only answers have to wait.
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn status(&self) -> Value {
        let newest = self.journal.status().newest;
        let taken = self.taken.load(Ordering::Relaxed);
        let engine = self.engine();
        let ((entities, findings), ledger) = (engine.size(), engine.ledger());
        json!({
            "restored": self.is_restored.load(Ordering::Relaxed),
            "taken": taken,
            "waiting": newest.saturating_sub(taken),
            "opaque": self.opaque.load(Ordering::Relaxed),
            "entities": entities,
            "findings": findings,
            "ledger": ledger,
        })
    }

    fn measure(&self) {}
}
