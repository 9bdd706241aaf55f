//! Answers as of a time: another engine takes the facts up to then, and is asked. So an answer is what is known now of that time, with
//! facts that arrived later.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use jiff::Timestamp;
use tapio_ahti::{Engine, Limits};
use tapio_occurrence::{event, timestamp};
use tapio_service::clock;
use tokio::{sync::OwnedSemaphorePermit, task::block_in_place};

use super::{Ahti, api::Refused};

/// Facts that are read at once.
const TOGETHER: usize = 1_024;

/// Something with an engine to ask.
pub(super) trait Knows: Sync {
    /// The engine. Nobody waits for anything while it is locked.
    fn engine(&self) -> MutexGuard<'_, Engine>;
}

impl Knows for Ahti {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        Self::engine(self)
    }
}

impl<K: Knows + Send> Knows for Arc<K> {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        K::engine(self)
    }
}

/// What was known at a time.
pub(super) struct Past {
    engine: Mutex<Engine>,
    /// Each is as large as the engine that answers now: there is one.
    _permit: OwnedSemaphorePermit,
}

impl Knows for Past {
    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Past {
    /// As of a time, as RFC 3339 writes it.
    ///
    /// # Errors
    /// It is no time, in the future, or before all facts that are kept; another one is being made; the journal cannot be read.
    pub(super) async fn of(ahti: &Ahti, at: &str) -> Result<Self, Refused> {
        let wrong = |what: &str| Refused(StatusCode::BAD_REQUEST, format!("at: {at} {what}"));
        let away = |what: String| Refused(StatusCode::SERVICE_UNAVAILABLE, what);
        let time: Timestamp =
            at.parse().map_err(|_| wrong("is no time: give one such as 2026-11-29T02:10:00Z"))?;
        if time > timestamp(clock::unix_ns(clock::boot_ns())) {
            return Err(wrong("is in the future"));
        }
        // What is before 1970 is before all facts, as 1970 is.
        let at_ns = u64::try_from(time.as_nanosecond()).unwrap_or_default();
        let permit = Arc::clone(&ahti.past).try_acquire_owned();
        let permit = permit.map_err(|_| {
            away("an answer as of another time is being made: try again in some seconds".to_owned())
        })?;
        let mut engine = Engine::new(ahti.rules.clone(), Limits::default());
        let (mut next, mut earliest_ns) = (0, u64::MAX);
        loop {
            let facts = ahti.journal.read(next, TOGETHER).await.map_err(|error| away(error.to_string()))?;
            let Some((last, _)) = facts.last() else { break };
            next = last + 1;
            block_in_place(|| {
                for fact in facts.iter().filter_map(|(_, fact)| event::occurrence(fact).ok()) {
                    earliest_ns = earliest_ns.min(fact.time_unix_ns);
                    if fact.time_unix_ns <= at_ns {
                        // What the engine that answers now refuses, too.
                        let _ = engine.take(&fact);
                    }
                }
            });
        }
        if earliest_ns > at_ns {
            let first = match earliest_ns {
                u64::MAX => "there are no facts".to_owned(),
                first_ns => format!("the first fact that is kept is of {}", timestamp(first_ns)),
            };
            return Err(Refused(StatusCode::NOT_FOUND, format!("at: {at} is before what is known: {first}")));
        }
        Ok(Self { engine: Mutex::new(engine), _permit: permit })
    }
}
